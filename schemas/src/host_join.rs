//! What a host on another machine and its server say to each other: HTTP with JSON bodies under `/api/v1/host`.
//!
//! | request | body -> answer |
//! | --- | --- |
//! | `POST /join` | [`JoinHost`] -> [`Certified`]; a token is used up by the first key that comes with it |
//! | `POST /renew` | [`RenewHost`] -> [`Certified`] |
//! | `POST /word` | [`HostWord`] -> [`HostHeard`]; held open until the list of revoked certificates is another |
//! | `GET /artifacts/{digest}` | -> bytes |
//!
//! The server may speak plain HTTP, so nothing here is secret and everything is signed. A join is signed by the token, which is a key
//! of its own and never sent; every other request by the host's key ([`request_text`]). What comes back is signed by the authority whose
//! fingerprint is part of the token: certificates, and the list of those that are revoked. Keys and signatures are Ed25519 (RFC 8032),
//! certificates X.509 (RFC 5280); what is binary travels in base64, what is compared in hexadecimal digits.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{host_api::HostState, time::Timestamp};

/// The header that names the host.
pub const HOST_HEADER: &str = "segue-host";
/// The header with the time of a signature, in milliseconds since 1970.
pub const TIME_HEADER: &str = "segue-time";
/// The header with the signature, in hexadecimal digits.
pub const SIGNATURE_HEADER: &str = "segue-signature";
/// How far a signature's time may be from the server's.
pub const CLOCK_SKEW_MS: i64 = 300_000;
/// How long the server holds a host's word at most.
pub const WORD_LIMIT_MS: u64 = 25_000;
/// How the address of a joined host begins, where workers are told of it.
pub const TLS: &str = "tls://";

/// How a join's token begins.
const TOKEN: &str = "segue-join_";

/// What a person carries from the server to the machine that is to join. Whoever has it may join once under the name it was made for.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// The seed of the key that signs the join.
    pub seed: [u8; 32],
    /// SHA-256 of the authority's certificate.
    pub authority: [u8; 32],
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken").finish_non_exhaustive()
    }
}

impl JoinToken {
    /// The token as it is handed over.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{TOKEN}{}{}", hex(&self.seed), hex(&self.authority))
    }

    /// Reads it; `None`: it is none, or a part is missing.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.trim().strip_prefix(TOKEN)?.as_bytes();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        if digits.len() != 128 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let bytes: Vec<u8> = digits.chunks(2).map(byte).collect::<Option<_>>()?;
        let (seed, authority) = bytes.split_at(32);
        Some(Self { seed: seed.try_into().ok()?, authority: authority.try_into().ok()? })
    }
}

/// Bytes in hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a host of this name can join: it stands in certificates as a DNS label, which has no upper and lower case.
#[must_use]
pub fn is_host_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// The name under which a host's certificate holds.
#[must_use]
pub fn tls_name(host: &str) -> String {
    format!("{host}.host.segue")
}

/// How a worker's certificate names a host that it opens.
#[must_use]
pub fn scope_name(host: &str) -> String {
    format!("segue:host/{host}")
}

/// A machine asks to be a host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JoinHost {
    /// The name that the token was made for.
    pub name: String,
    /// Where workers reach it: `HOST:PORT`.
    pub address: String,
    /// Its version.
    pub version: String,
    /// A request for a certificate (PKCS #10), signed by the host's key.
    pub request: String,
    /// The token's public key, in hexadecimal digits.
    pub token: String,
    /// The token's signature of [`join_text`], in hexadecimal digits.
    pub signature: String,
}

/// What a token signs. Whoever stands between can change none of it, and has no use for it.
#[must_use]
pub fn join_text(name: &str, address: &str, version: &str, request: &str) -> Vec<u8> {
    format!("segue host join 1\n{name}\n{address}\n{version}\n{request}").into_bytes()
}

/// What a host signs of a request; `digest` is the SHA-256 of its body in hexadecimal digits.
#[must_use]
pub fn request_text(host: &str, method: &str, path: &str, at: Timestamp, digest: &str) -> Vec<u8> {
    format!("segue host request 1\n{host}\n{method}\n{path}\n{}\n{digest}", at.0).into_bytes()
}

/// A host asks for another certificate before its own ends.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RenewHost {
    /// As in [`JoinHost`], by the key that it joined with.
    pub request: String,
}

/// A certificate, and what it holds with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Certified {
    /// The host's certificate.
    pub certificate: String,
    /// The authority's.
    pub authority: String,
    /// The certificates of the authority that hold no more: a list that it signed (RFC 5280, section 5).
    pub revocations: String,
    /// When to ask for the next, from now.
    pub renew_after_ms: u64,
}

/// What a host carries, told to its server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HostWord {
    /// What it carries; left out where the server has heard the same already.
    pub state: Option<HostState>,
    /// The list of revoked certificates that it goes by.
    pub revision: u64,
    /// How long the answer may be held back while that list is the newest; at most [`WORD_LIMIT_MS`].
    pub wait_ms: u64,
}

/// The server has heard.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HostHeard {
    /// Which list of revoked certificates is the newest.
    pub revision: u64,
    /// That list, where the host has another.
    pub revocations: Option<String>,
}

/// What a worker reaches joined hosts with. It comes with a claim, opens the hosts of that claim, and ends soon.
#[derive(Clone, Serialize, Deserialize)]
pub struct HostAccess {
    /// The authority's certificate.
    pub authority: String,
    /// The worker's certificate.
    pub certificate: String,
    /// Its key (PKCS #8).
    pub key: String,
    /// As in [`Certified`].
    pub revocations: String,
}

impl fmt::Debug for HostAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostAccess").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_was_made_and_nothing_else_is() {
        let token = JoinToken { seed: [7; 32], authority: [0xab; 32] };
        let text = token.text();
        assert_eq!(JoinToken::parse(&format!(" {text}\n")), Some(token.clone()));
        for wrong in
            ["", "segue-join_", &text[..text.len() - 1], &text[1..], &text.replace('0', "+"), &text.replace('a', "ä")]
        {
            assert_eq!(JoinToken::parse(wrong), None, "{wrong}");
        }
        assert!(!format!("{token:?}").contains("07"));
    }

    #[test]
    fn a_joined_host_has_the_name_of_one_label() {
        for name in ["a", "gpu-1", "0"] {
            assert!(is_host_name(name), "{name}");
        }
        for name in ["", "Gpu", "a.b", "-a", "a-", "a_b", "ä", &"a".repeat(64)] {
            assert!(!is_host_name(name), "{name}");
        }
    }
}
