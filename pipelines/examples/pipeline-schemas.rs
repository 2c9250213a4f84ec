//! Writes the schema of pipelines into `schemas/json/`: `cargo run -p segue-pipelines --example pipeline-schemas`.

#![expect(clippy::disallowed_methods, reason = "this program writes files")]

use std::{fs, path::Path, process::ExitCode};

fn main() -> ExitCode {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas/json");
    let written = segue_pipelines::json_schema::files().map_err(|error| error.to_string()).and_then(|files| {
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
