//! Containers that a job asks for, and what it may do with the repository's token.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `container:` of a job, or one of its `services`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct ContainerPlan {
    /// The image; a template.
    pub image: String,
    /// `env:`; templates.
    #[serde(default)]
    pub env: IndexMap<String, String>,
    /// Published ports: `8080:80/tcp`, or `80` for a free one.
    #[serde(default)]
    pub ports: Vec<String>,
    /// Named or anonymous volumes, `NAME:/PATH` or `/PATH`; never a path of the host.
    #[serde(default)]
    pub volumes: Vec<String>,
    /// Options for the engine, one argument each; those that would leave the container are refused.
    #[serde(default)]
    pub options: Vec<String>,
    /// For the registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<RegistryCredentials>,
    /// Limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
}

/// Who asks a registry for an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct RegistryCredentials {
    /// A template.
    pub username: String,
    /// A template, in which a secret is named.
    pub password: String,
}

/// What a container may use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct Resources {
    /// Thousandths of a processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u64>,
    /// Memory in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
}

/// What the repository's token may be used for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Permissions {
    /// Everything may be read.
    ReadAll,
    /// Everything may be written.
    WriteAll,
    /// These scopes, and no other.
    Scopes(IndexMap<String, Access>),
}

/// What may be done in a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Nothing.
    None,
    /// Reading.
    Read,
    /// Reading and writing.
    Write,
}
