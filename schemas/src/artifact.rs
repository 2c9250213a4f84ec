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

/// Characters of a name, at most.
const MAX_NAME: usize = 255;

/// Whether an artifact may have this name, by GitHub's rules: it becomes a directory's where all artifacts are downloaded.
///
/// # Errors
/// What is wrong with it, to stand behind the name, and what to write instead.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name == "." || name == ".." {
        return Err("is no name of an artifact; write letters, digits, `-`, `_` and `.`");
    }
    if name.chars().count() > MAX_NAME {
        return Err("is longer than 255 characters; give the artifact a shorter name");
    }
    if name.chars().any(|c| c.is_control() || "\":<>|*?\\/".contains(c)) {
        return Err(
            "holds a character that no name of an artifact has (`\" : < > | * ? \\ /` or a control character); leave it out",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check_name;

    #[test]
    fn a_name_is_one_part_of_a_path() {
        for good in ["artifact", "a", "...", "dist-1.0_x", "ergebnis ä", &"x".repeat(255)] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "..", "../x", "a/b", "a\\b", "/", "a\nb", "a\0b", "what?", &"x".repeat(256)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
