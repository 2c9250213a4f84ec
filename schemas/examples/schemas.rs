//! Writes `schemas/json/`: `cargo run -p segue-schemas --example schemas`.

use std::{fs, path::Path, process::ExitCode};

fn main() -> ExitCode {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("json");
    let written = segue_schemas::json_schema::files().map_err(|error| error.to_string()).and_then(|files| {
        fs::create_dir_all(&folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
        files.iter().try_for_each(|(name, text)| {
            let file = folder.join(name);
            fs::write(&file, text).map_err(|error| format!("cannot write {}: {error}", file.display()))
        })
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
