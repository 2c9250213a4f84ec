//! An image for several platforms: an index that names one image for each, as a registry keeps it, and what is said to a registry to put
//! it there. <https://github.com/opencontainers/image-spec/blob/v1.1.0/image-index.md>,
//! <https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md>

use segue_schemas::id::Digest;
use serde::Serialize;

use super::repository;
use crate::container::{registry, with_tag};

/// What an index is.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What an image of one platform may be.
pub const MANIFESTS: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];

/// The most platforms of one image.
pub const MAX_PLATFORMS: usize = 8;

/// Where Docker Hub's images are, which their names do not say.
const HUB: &str = "registry-1.docker.io";

/// The longest challenge that is read.
const MAX_CHALLENGE: usize = 4096;

/// The image of one platform, at its registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfPlatform {
    /// `OS/ARCHITECTURE[/VARIANT]`.
    pub platform: String,
    /// What its manifest is.
    pub media_type: String,
    /// The digest of its manifest.
    pub digest: Digest,
    /// The bytes of its manifest.
    pub size: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index<'a> {
    schema_version: u8,
    media_type: &'a str,
    manifests: Vec<Descriptor<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor<'a> {
    media_type: &'a str,
    digest: &'a Digest,
    size: u64,
    platform: Platform<'a>,
}

#[derive(Serialize)]
struct Platform<'a> {
    architecture: &'a str,
    os: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<&'a str>,
}

/// The index of these images, in their order. The same images give the same bytes.
#[must_use]
pub fn index(images: &[OfPlatform]) -> Vec<u8> {
    let manifests = images.iter().map(|image| {
        let mut parts = image.platform.split('/');
        let (os, architecture) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        Descriptor {
            media_type: &image.media_type,
            digest: &image.digest,
            size: image.size,
            platform: Platform { architecture, os, variant: parts.next() },
        }
    });
    let index = Index { schema_version: 2, media_type: INDEX, manifests: manifests.collect() };
    // numbers and texts: there is nothing in it that JSON can't say
    serde_json::to_vec(&index).unwrap_or_default()
}

/// What the image of one platform is called beside the index: an engine pushes nothing without a name.
#[must_use]
pub fn platform_tag(tag: &str, platform: &str) -> String {
    format!("{}-{}", with_tag(tag), platform.replace('/', "-"))
}

/// The host of an image's registry, its path there, and its tag.
#[must_use]
pub fn at_registry(tag: &str) -> (String, String, String) {
    let full = with_tag(tag);
    let name = repository(&full);
    let version = full[name.len()..].trim_start_matches(':').to_owned();
    match registry(name) {
        Some("docker.io" | "index.docker.io") => {
            (HUB.into(), of_hub(&name[name.find('/').map_or(0, |at| at + 1)..]), version)
        }
        Some(host) => (host.to_owned(), name[host.len() + 1..].to_owned(), version),
        None => (HUB.into(), of_hub(name), version),
    }
}

fn of_hub(path: &str) -> String {
    if path.contains('/') { path.to_owned() } else { format!("library/{path}") }
}

/// Whether a platform's image, as its engine has it, is of the platform that was asked for. Variants are not told alike everywhere.
#[must_use]
pub fn is_of(asked: &str, os: &str, architecture: &str) -> bool {
    let mut parts = asked.split('/');
    parts.next() == Some(os) && parts.next() == Some(architecture)
}

/// How a registry wants to know who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// By name and password.
    Basic,
    /// By a token that is had elsewhere. <https://distribution.github.io/distribution/spec/auth/token/>
    Bearer {
        /// Where.
        realm: String,
        /// For whom.
        service: Option<String>,
    },
}

/// A `WWW-Authenticate` header; `None`: it is of another kind, or none.
#[must_use]
pub fn challenge(header: &str) -> Option<Challenge> {
    let header = header.trim();
    let (scheme, rest) = header.split_once(' ').unwrap_or((header, ""));
    if header.len() > MAX_CHALLENGE {
        return None;
    }
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service, mut rest) = (None, None, rest);
    while let Some((name, after)) = rest.split_once('=') {
        let (value, left) = value(after.trim_start());
        match name.trim_matches([' ', ',']).to_ascii_lowercase().as_str() {
            "realm" => realm = Some(value),
            "service" => service = Some(value),
            _ => {}
        }
        rest = left;
    }
    Some(Challenge::Bearer { realm: realm?, service })
}

/// A token, or a text in quotation marks, and what comes after it.
fn value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(',').unwrap_or(text.len());
        return (text[..end].trim().to_owned(), &text[end..]);
    };
    let (mut read, mut is_escaped) = (String::new(), false);
    for (at, c) in quoted.char_indices() {
        match c {
            _ if is_escaped => {
                read.push(c);
                is_escaped = false;
            }
            '\\' => is_escaped = true,
            '"' => return (read, &quoted[at + 1..]),
            _ => read.push(c),
        }
    }
    (read, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_names_each_platforms_image() {
        let image = |platform: &str, digit: &str, media_type: &str| OfPlatform {
            platform: platform.into(),
            media_type: media_type.into(),
            digest: format!("sha256:{}", digit.repeat(64)).parse().unwrap(),
            size: 525,
        };
        let images = [image("linux/amd64", "a", MANIFESTS[1]), image("linux/arm/v7", "b", MANIFESTS[0])];
        let text = String::from_utf8(index(&images)).unwrap();
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        assert_eq!(
            text,
            format!(
                r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{{"mediaType":"application/vnd.docker.distribution.manifest.v2+json","digest":"sha256:{a}","size":525,"platform":{{"architecture":"amd64","os":"linux"}}}},{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:{b}","size":525,"platform":{{"architecture":"arm","os":"linux","variant":"v7"}}}}]}}"#
            )
        );
    }

    #[test]
    fn an_image_is_found_at_its_registry() {
        for (tag, host, path, version) in [
            ("localhost:5000/shop/app:1", "localhost:5000", "shop/app", "1"),
            ("registry.example.org/app", "registry.example.org", "app", "latest"),
            ("shop/app:1", HUB, "shop/app", "1"),
            ("debian", HUB, "library/debian", "latest"),
            ("docker.io/debian:13", HUB, "library/debian", "13"),
        ] {
            assert_eq!(at_registry(tag), (host.into(), path.into(), version.into()), "{tag}");
        }
        assert_eq!(platform_tag("a.io/app", "linux/arm/v7"), "a.io/app:latest-linux-arm-v7");
        assert!(is_of("linux/arm64/v8", "linux", "arm64") && !is_of("linux/arm64", "linux", "amd64"));
    }

    #[test]
    fn a_challenge_is_read_whatever_order_it_is_in() {
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer { realm: realm.into(), service: service.map(str::to_owned) })
        };
        for (header, read) in [
            (r#"Basic realm="tests""#, Some(Challenge::Basic)),
            ("basic", Some(Challenge::Basic)),
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:samalba/my-app:pull,push""#,
                bearer("https://auth.docker.io/token", Some("registry.docker.io")),
            ),
            (
                r#"bearer scope="a,b=c", realm = "https://x/\"t\"?a=b" , error=invalid"#,
                bearer(r#"https://x/"t"?a=b"#, None),
            ),
            (r#"Bearer service="x""#, None),
            (r#"Bearer realm="https://never-ends"#, bearer("https://never-ends", None)),
            ("Digest realm=x", None),
            ("", None),
        ] {
            assert_eq!(challenge(header), read, "{header}");
        }
    }
}
