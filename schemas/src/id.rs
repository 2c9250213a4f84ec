//! Identifiers. Numbers are given out by the store; digests, commits and delivery GUIDs come from outside and are
//! checked when they are parsed, so that a value of these types can be used in a path or a command line.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// Why a text is not an identifier of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` is not a {kind}: {expected}")]
pub struct InvalidId {
    /// What was wanted, in words.
    pub kind: &'static str,
    /// What was given.
    pub value: String,
    /// What such an identifier looks like.
    pub expected: &'static str,
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema, ToSchema)]
        #[serde(transparent)]
        pub struct $name(pub i64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(s: &str) -> Result<Self, InvalidId> {
                match s.parse::<i64>() {
                    Ok(n) if n > 0 => Ok(Self(n)),
                    _ => Err(InvalidId { kind: $kind, value: s.into(), expected: "a positive whole number" }),
                }
            }
        }
    };
}

number_id!(
    /// One run of one pipeline for one event; attempts of it share the number.
    RunId, "run number"
);
number_id!(
    /// One release: a service's artifact made from one commit.
    ReleaseId, "release number"
);
number_id!(
    /// One rollout of a release to an environment.
    RolloutId, "rollout number"
);

/// One job of one attempt of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(transparent)]
pub struct JobId(pub Uuid);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for JobId {
    type Err = InvalidId;
    fn from_str(s: &str) -> Result<Self, InvalidId> {
        Uuid::parse_str(s).map(Self).map_err(|_| InvalidId { kind: "job id", value: s.into(), expected: "a UUID" })
    }
}

/// The fencing token of a lease: it grows by one with each claim, and a write with an older one changes nothing.
///
/// # Two sources of rollouts' epochs
/// The server numbers the claims of an environment's service; an emergency rollback at the host must be numbered as well,
/// without asking the server, and must shut out every claim that the server has made or makes until it hears of it. Counting
/// on by one can't do that: the server counts on by one as well, and a claim that the host has not met yet may have the very
/// number. So an epoch is a pair in one integer, the number of emergencies in the upper half, claims since then in the lower:
///
/// * a claim ([`Epoch::next`]) adds one to the lower half, and never reaches the upper one (2^32 claims of one service);
/// * an emergency ([`Epoch::after_emergency`]) adds one to the upper half and clears the lower one.
///
/// A claim made before the server has heard of the emergency has a smaller upper half than the host, whatever its lower one
/// is, and is refused there. No claim has a lower half of 0, and every emergency has, so the two never meet. Once the server has
/// heard, its claims go on above the emergency's epoch. What the server hears of it, and when, decides only how soon it goes
/// on, never who may change the host.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema, ToSchema,
)]
#[serde(transparent)]
pub struct Epoch(pub i64);

/// The lower half of an epoch counts claims.
const EMERGENCY_BITS: u32 = 32;

impl Epoch {
    /// The epoch that comes after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The epoch of an emergency at a host that has seen this one: above every claim that the server can have made without
    /// knowing of it.
    #[must_use]
    pub fn after_emergency(self) -> Self {
        Self((self.0 >> EMERGENCY_BITS).saturating_add(1).saturating_mul(1 << EMERGENCY_BITS))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $expected:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema, ToSchema)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The identifier as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(s: &str) -> Result<Self, InvalidId> {
                let check: fn(&str) -> bool = $check;
                if check(s) {
                    Ok(Self(s.to_owned()))
                } else {
                    let value = s.chars().take(120).collect();
                    Err(InvalidId { kind: $kind, value, expected: $expected })
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

text_id!(
    /// GitHub's GUID of a webhook delivery (`X-GitHub-Delivery`).
    DeliveryId, "delivery GUID", "1 to 64 characters out of letters, digits and `-`",
    |s| (1..=64).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
);
text_id!(
    /// A git commit, as its full object name.
    CommitSha, "commit", "40 (or 64) lower-case hexadecimal digits",
    |s| matches!(s.len(), 40 | 64) && s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
);
text_id!(
    /// The digest that names an artifact: `sha256:` and 64 lower-case hexadecimal digits.
    Digest, "digest", "`sha256:` followed by 64 lower-case hexadecimal digits",
    |s| s.strip_prefix("sha256:").is_some_and(|h| {
        h.len() == 64 && h.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
);
text_id!(
    /// A worker, by the name that it keeps over restarts.
    WorkerId, "worker name", "1 to 64 characters out of letters, digits, `-`, `_` and `.`", is_name
);
text_id!(
    /// One running copy of a release on a host: `<service>-<release>-<replica>` with a suffix that makes it unique.
    InstanceId, "instance name", "1 to 64 characters out of letters, digits, `-`, `_` and `.`", is_name
);

text_id!(
    /// A backup of a service's data: `<environment>-<service>-<time>-r<release>-<rollout>`. Several hosts may have taken a part of it each.
    BackupId, "backup", "1 to 200 characters out of letters, digits, `-`, `_` and `.`, such as `segue backup list` shows",
    |s| (1..=200).contains(&s.len()) && !s.starts_with(['.', '-'])
        && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
);

/// Whether a text may name a service, an environment, an instance or a worker: 1 to 64 characters out of letters,
/// digits, `-`, `_` and `.`, not beginning with a dot or a dash.
#[must_use]
pub fn is_name(s: &str) -> bool {
    (1..=64).contains(&s.len())
        && !s.starts_with(['.', '-'])
        && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

impl CommitSha {
    /// All zeros: no commit, or one that is not known yet.
    #[must_use]
    pub fn zero() -> Self {
        Self("0".repeat(40))
    }

    /// The first ten digits, for people.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[..10]
    }

    /// GitHub's "no commit": all zeros, before a branch was made or after it was deleted.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.0.bytes().all(|b| b == b'0')
    }
}

impl Digest {
    /// The hexadecimal digits alone, fit for a file name.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }
}
