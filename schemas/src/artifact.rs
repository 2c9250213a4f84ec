//! Artifacts: directories packed as a zstd-compressed tar and named by the SHA-256 of those bytes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{id::Digest, time::Timestamp};

/// An artifact of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct Artifact {
    /// Its name within the attempt of the run.
    pub name: String,
    /// Its content's name.
    pub digest: Digest,
    /// Bytes as stored.
    pub bytes: u64,
    /// When it was stored.
    pub created_at: Timestamp,
}
