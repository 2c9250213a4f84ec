//! Signed statements of where an image is from: what a worker asks for, and what is kept.

use serde::{Deserialize, Serialize};

use crate::id::{Digest, Epoch};

/// A signed statement (<https://github.com/secure-systems-lab/dsse/blob/master/envelope.md>).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Envelope {
    /// The statement, in base64.
    pub payload: String,
    /// What kind it is of.
    pub payload_type: String,
    /// Who vouches for it.
    pub signatures: Vec<Signature>,
}

/// A signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// A hint at the key: the SHA-256 of the public key (`SubjectPublicKeyInfo`), in hexadecimal digits.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub keyid: String,
    /// The signature, in base64.
    pub sig: String,
}

/// Ask for a statement about images that a step has built and pushed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AskProvenance {
    /// The lease's epoch.
    pub epoch: Epoch,
    /// The step, from 0.
    pub step: usize,
    /// The images, by the names that they were pushed under.
    pub images: Vec<NamedImage>,
    /// What they were built from, as far as the engine told.
    #[serde(default)]
    pub bases: Vec<NamedImage>,
    /// The list of their packages, where the step made one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sbom: Option<StatedFile>,
    /// Those of the other platforms of an image for several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_sboms: Vec<StatedFile>,
}

/// A file that a step made beside its images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatedFile {
    /// The artifact, `/`, and the file in it.
    pub name: String,
    /// The digest of the file.
    pub digest: Digest,
}

/// An image by its name and its digest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NamedImage {
    /// `registry.example.org/team/app:1`.
    pub name: String,
    /// The digest of its manifest.
    pub digest: Digest,
}
