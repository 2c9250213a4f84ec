//! Names of images, by the grammar of <https://pkg.go.dev/github.com/distribution/reference>.

use crate::container::{registry, with_tag};

/// Characters of a name without its tag.
const MAX_NAME: usize = 255;
/// Characters of a tag.
const MAX_TAG: usize = 128;

/// The entries of a list: one a line, or parted by commas.
pub fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(['\n', ',']).map(str::trim).filter(|entry| !entry.is_empty())
}

/// Refuses what can't name an image that is to be made: `[REGISTRY/]NAME[:TAG]`.
///
/// # Errors
/// What is wrong, and what to write.
pub fn check_tag(image: &str) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("`{image}` {what}; write it like `registry.example.org/team/app:1.2`"));
    if image.contains('@') {
        return wrong("has a digest, which only the build can tell");
    }
    let full = with_tag(image);
    let Some((name, tag)) = full.rsplit_once(':') else { return wrong("is no name of an image") };
    if !is_tag(tag) {
        return wrong("has a tag that can't be one");
    }
    let path = registry(name).map_or(name, |host| &name[host.len() + 1..]);
    if name.len() > MAX_NAME || !path.split('/').all(is_component) {
        return wrong("is no name of an image: small letters and digits, parted by `/`, `.`, `_` and `-`");
    }
    Ok(())
}

/// A name without its tag.
#[must_use]
pub fn repository(image: &str) -> &str {
    let last = image.rfind('/').map_or(0, |at| at + 1);
    image[last..].find([':', '@']).map_or(image, |at| &image[..last + at])
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let mut bytes = tag.bytes();
    tag.len() <= MAX_TAG
        && bytes.next().is_some_and(word)
        && bytes.all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

/// Small letters and digits, parted by one `.`, one or two `_`, or any number of `-`.
fn is_component(component: &str) -> bool {
    let is_alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends_well = |byte: Option<u8>| byte.is_some_and(is_alphanumeric);
    ends_well(component.bytes().next())
        && ends_well(component.bytes().next_back())
        && component
            .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            .all(|parting| matches!(parting, "" | "." | "_" | "__") || parting.bytes().all(|byte| byte == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_a_registry_takes() {
        for good in [
            "app",
            "app:1.2",
            "team/app",
            "localhost:5000/team/app:latest",
            "ghcr.io/a__b/c-d--e/f.g:V1_2-rc.3",
            "127.0.0.1:5000/app",
        ] {
            assert_eq!(check_tag(good), Ok(()), "{good}");
        }
        for bad in ["", "App", "app:", "app:-x", "a//b", "app@sha256:00", "a..b", "-a", "a-", "a___b", "a b", "a:b:c"] {
            assert!(check_tag(bad).is_err(), "{bad}");
        }
        assert!(check_tag(&format!("app:{}", "t".repeat(129))).is_err());
    }

    #[test]
    fn a_port_is_no_tag() {
        for (image, name) in [
            ("app:1", "app"),
            ("localhost:5000/app", "localhost:5000/app"),
            ("localhost:5000/app:1", "localhost:5000/app"),
            ("app@sha256:0", "app"),
        ] {
            assert_eq!(repository(image), name);
        }
    }
}
