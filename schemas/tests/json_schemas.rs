//! The committed JSON Schemas are what the types say.

use std::{fs, path::Path};

#[test]
fn the_committed_schemas_are_current() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("json");
    for (name, text) in segue_schemas::json_schema::files().unwrap() {
        let committed = fs::read_to_string(folder.join(name)).unwrap_or_default();
        assert!(
            committed == text,
            "schemas/json/{name} is not what the types say; run `cargo run -p segue-schemas --example schemas`"
        );
    }
}
