//! What can be wrong with the section `storage`, apart from what only the store itself can tell.

use std::net::IpAddr;

use segue_schemas::config::{StorageConfig, StorageKind};

/// The longest prefix, in bytes: an object's name has 1,024 at most, and ours add 74 to it.
const MAX_PREFIX_BYTES: usize = 512;

/// A key of `storage` with a value that can't be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageFault {
    /// The key.
    pub key: &'static str,
    /// What is wrong with it.
    pub message: String,
    /// What to write.
    pub help: String,
}

/// Everything that is wrong with the section; in no other order than that of its keys.
#[must_use]
pub fn storage_faults(storage: &StorageConfig) -> Vec<StorageFault> {
    match storage.kind {
        StorageKind::Directory => only_of_buckets(storage).map(not_of_a_directory).collect(),
        StorageKind::S3 => of_a_bucket(storage),
    }
}

/// Whether an endpoint is on this machine, so that nobody listens in on what is not encrypted.
#[must_use]
pub fn is_loopback_endpoint(endpoint: &str) -> bool {
    let Some((_, host)) = parts(endpoint) else { return false };
    host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn only_of_buckets(storage: &StorageConfig) -> impl Iterator<Item = &'static str> {
    let given = [
        ("bucket", storage.bucket.is_some()),
        ("region", storage.region.is_some()),
        ("endpoint", storage.endpoint.is_some()),
        ("prefix", storage.prefix.is_some()),
        ("access-key-file", storage.access_key_file.is_some()),
        ("secret-key-file", storage.secret_key_file.is_some()),
        ("path-style", storage.path_style.is_some()),
        ("allow-http", storage.allow_http),
    ];
    given.into_iter().filter(|(_, given)| *given).map(|(key, _)| key)
}

fn not_of_a_directory(key: &'static str) -> StorageFault {
    fault(
        key,
        format!("`{key}` says something of a bucket, and `kind` is `directory`"),
        "write `kind: s3`, or remove it",
    )
}

fn of_a_bucket(storage: &StorageConfig) -> Vec<StorageFault> {
    let mut faults = Vec::new();
    match storage.bucket.as_deref() {
        None => faults.push(fault("kind", "a store of the kind `s3` needs a bucket".into(), "name it in `bucket`")),
        Some(bucket) if !is_bucket(bucket) => faults.push(fault(
            "bucket",
            format!("`{bucket}` cannot name a bucket"),
            "use 3 to 63 letters, digits, `-`, `_` and `.`, beginning and ending with a letter or digit",
        )),
        Some(_) => {}
    }
    match storage.region.as_deref() {
        None if storage.endpoint.is_none() => faults.push(fault(
            "kind",
            "neither `region` nor `endpoint` says where the bucket is".into(),
            "name the region (`eu-central-1`) of a bucket at Amazon, or the `endpoint` of another store",
        )),
        Some(region) if !is_region(region) => {
            faults.push(fault("region", format!("`{region}` is no region"), "write one such as `eu-central-1`"));
        }
        _ => {}
    }
    faults.extend(storage.endpoint.as_deref().and_then(|endpoint| of_an_endpoint(endpoint, storage.allow_http)));
    if let Some(prefix) = storage.prefix.as_deref().filter(|prefix| !is_prefix(prefix)) {
        faults.push(fault(
            "prefix",
            format!("`{prefix}` can't begin the names of objects"),
            "use letters, digits, `-`, `_` and `.`, with single slashes between: `segue/production`",
        ));
    }
    for (key, file, other, other_file) in [
        ("access-key-file", &storage.access_key_file, "secret-key-file", &storage.secret_key_file),
        ("secret-key-file", &storage.secret_key_file, "access-key-file", &storage.access_key_file),
    ] {
        if file.is_some() && other_file.is_none() {
            faults.push(fault(key, format!("`{key}` is one half of an access key"), &format!("name `{other}` too")));
        }
    }
    faults
}

fn of_an_endpoint(endpoint: &str, allow_http: bool) -> Option<StorageFault> {
    match parts(endpoint) {
        None => Some(fault(
            "endpoint",
            format!("`{endpoint}` is no address of a store"),
            "write `https://HOST` or `https://HOST:PORT`, and nothing behind it",
        )),
        Some(("http", _)) if !allow_http && !is_loopback_endpoint(endpoint) => Some(fault(
            "endpoint",
            format!("`{endpoint}` is not encrypted, and not on this machine"),
            "write `https://`, or `allow-http: true` where the network can be trusted",
        )),
        Some(_) => None,
    }
}

/// Scheme and host of `SCHEME://HOST[:PORT]`.
fn parts(endpoint: &str) -> Option<(&'static str, &str)> {
    let (scheme, rest) = match endpoint.split_once("://")? {
        ("https", rest) => ("https", rest),
        ("http", rest) => ("http", rest),
        _ => return None,
    };
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (rest, None),
    };
    let is_host = match host.strip_prefix('[') {
        Some(address) => address.strip_suffix(']').is_some_and(|address| address.parse::<IpAddr>().is_ok()),
        None => !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte)),
    };
    let is_port = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    (is_host && is_port).then_some((scheme, host))
}

fn is_bucket(name: &str) -> bool {
    let edges = [name.bytes().next(), name.bytes().last()];
    (3..=63).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && edges.iter().flatten().all(u8::is_ascii_alphanumeric)
        && !name.contains("..")
}

fn is_region(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

fn is_prefix(prefix: &str) -> bool {
    let is_part = |part: &str| {
        !matches!(part, "" | "." | "..")
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    prefix.len() <= MAX_PREFIX_BYTES && prefix.split('/').all(is_part)
}

fn fault(key: &'static str, message: String, help: &str) -> StorageFault {
    StorageFault { key, message, help: help.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_addresses_and_encrypted_unless_they_are_here() {
        for (endpoint, allow_http, wanted) in [
            ("https://s3.example:9000", false, true),
            ("https://[2001:db8::1]:9000", false, true),
            ("http://127.0.0.1:9000", false, true),
            ("http://localhost", false, true),
            ("http://[::1]:9000", false, true),
            ("http://s3.example", true, true),
            ("http://s3.example", false, false),
            ("http://127.0.0.1.example", false, false),
            ("https://", false, false),
            ("https://s3.example/bucket", false, false),
            ("https://me:secret@s3.example", false, false),
            ("https://s3.example:0", false, false),
            ("ftp://s3.example", true, false),
            ("s3.example", true, false),
        ] {
            assert_eq!(of_an_endpoint(endpoint, allow_http).is_none(), wanted, "{endpoint}");
        }
    }

    #[test]
    fn names_are_plain() {
        assert!(is_bucket("my-bucket.2") && is_prefix("segue/production"));
        for bad in ["ab", "-abc", "a..b", "a/b", "ü--ü"] {
            assert!(!is_bucket(bad), "{bad}");
        }
        for bad in ["", "/a", "a/", "a//b", "a/../b", "a b"] {
            assert!(!is_prefix(bad), "{bad}");
        }
    }
}
