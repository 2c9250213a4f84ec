//! The JSON Schemas of the files that people write, for editors. They are committed under `schemas/json/`, and a test holds
//! them to what the types say.

use schemars::{JsonSchema, generate::SchemaSettings};

use crate::{config::Config, deploy::ServiceSpec};

/// Every schema: the name of its file under `schemas/json/`, and its text.
///
/// # Errors
/// A schema that JSON cannot hold; that would be a mistake in a type.
pub fn files() -> Result<[(&'static str, String); 2], serde_json::Error> {
    Ok([
        ("config.json", schema::<Config>("Segue: segue.yaml")?),
        ("service.json", schema::<ServiceSpec>("Segue: .segue/services/*.yml")?),
    ])
}

fn schema<T: JsonSchema>(title: &str) -> Result<String, serde_json::Error> {
    let mut schema = SchemaSettings::draft07().into_generator().into_root_schema_for::<T>();
    schema.insert("title".into(), title.into());
    Ok(serde_json::to_string_pretty(&schema)? + "\n")
}
