//! How a release comes to its traffic otherwise than at once or by stages: host after host, or after it has stood ready for a while.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;

use crate::{
    deploy::{JudgeSpec, RolloutSpec, Strategy},
    duration::Span,
    gpu::WhenFull,
};

/// What of a rollout not every version of a worker can drive: kinds of it, and what its service asks for. One says with a claim which of them
/// it can.
/// A name that is not asked for any more is said all the same: an older server asks for it.
pub const NEWER: [&str; 7] = [ROLLING, BLUE_GREEN, SYNC, IN_TURN, STICKY, IN_TURN_ONCE, STICKY_PACKED];

const ROLLING: &str = "rolling";
const BLUE_GREEN: &str = "blue-green";
const SYNC: &str = "sync";
const IN_TURN: &str = "recreate-in-turn";
/// With what the rollout is to do stored once for all of its hosts.
const IN_TURN_ONCE: &str = "recreate-in-turn-2";
/// With the clients that were counted stored as text.
const STICKY_PACKED: &str = "sticky-2";

/// Clients of the service keep their release; not every version of a host can that either.
pub const STICKY: &str = "sticky";

/// What not every version of a host, and of the proxy that answers for it, can.
pub const CARRIED: [&str; 1] = [STICKY];

impl Strategy {
    /// What a worker must have said that it can drive, to be given such a rollout; `None`: every one can. Of a whole rollout: [`RolloutSpec::newer`].
    #[must_use]
    const fn newer(&self) -> Option<&'static str> {
        match self {
            Self::Rolling(_) => Some(ROLLING),
            Self::BlueGreen(_) => Some(BLUE_GREEN),
            Self::Sync(_) => Some(SYNC),
            Self::HotSwap | Self::Canary(_) | Self::Remove | Self::Restore { .. } => None,
        }
    }
}

impl RolloutSpec {
    /// What a worker must have said that it can drive, to be given this.
    pub fn newer(&self) -> impl Iterator<Item = &'static str> {
        let gpus = self.service.gpus.as_ref();
        let recreates = gpus.is_some_and(|gpus| gpus.when_full == WhenFull::Recreate);
        let in_turn = (recreates && self.takes_turns()).then_some(IN_TURN_ONCE);
        let sticky = self.service.sticky.is_some().then_some(STICKY_PACKED);
        self.strategy.newer().into_iter().chain(in_turn).chain(sticky)
    }

    /// Whether its hosts change one after the other where what serves has to be stopped first.
    #[must_use]
    pub fn takes_turns(&self) -> bool {
        match self.strategy {
            Strategy::HotSwap => self.hosts.len() > 1,
            Strategy::Rolling(_) => true,
            _ => false,
        }
    }
}

/// Host after host. On each all traffic goes over at once, and what serves on the others is what it is compared with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RollingSpec {
    /// How many hosts go over in one step.
    #[schema(value_type = String)]
    pub batch: Batch,
    /// How long each step is watched before the next hosts go over, and the last one before the rollout ends.
    pub pause: Span,
    /// How long a step may be held for want of evidence before all go back.
    pub hold_limit: Span,
    /// The judge's rules.
    pub judge: JudgeSpec,
}

impl Default for RollingSpec {
    fn default() -> Self {
        Self {
            batch: Batch::Hosts(1),
            pause: Span::seconds(60),
            hold_limit: Span::seconds(24 * 3600),
            judge: lenient(),
        }
    }
}

/// Ready beside what serves, then all traffic at once, everywhere.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct BlueGreenSpec {
    /// Whether it waits, ready and without traffic, until a person promotes it.
    pub hold: bool,
    /// How long it may wait for that, and how long it may be held for want of evidence once it serves, before it goes back.
    pub hold_limit: Span,
    /// How long it is watched once it serves, with the release before ready to take the traffic back.
    pub soak: Span,
    /// The judge's rules.
    pub judge: JudgeSpec,
}

impl Default for BlueGreenSpec {
    fn default() -> Self {
        Self { hold: false, hold_limit: Span::seconds(24 * 3600), soak: Span::seconds(10 * 60), judge: lenient() }
    }
}

/// Without requests such a rollout goes on, where a canary is held.
fn lenient() -> JudgeSpec {
    JudgeSpec { min_requests: 0, ..JudgeSpec::default() }
}

/// How many hosts go over in one step: `2`, or `25%` of those that take part, rounded up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Batch {
    /// So many.
    Hosts(u32),
    /// So many of a hundred.
    Percent(u8),
}

impl Batch {
    /// How many these are of so many hosts; one at least.
    #[must_use]
    pub fn of(self, hosts: usize) -> usize {
        match self {
            Self::Hosts(count) => usize::try_from(count).unwrap_or(usize::MAX),
            Self::Percent(percent) => hosts.saturating_mul(usize::from(percent)).div_ceil(100),
        }
        .max(1)
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hosts(count) => write!(f, "{count}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl FromStr for Batch {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let parsed = match s.trim().strip_suffix('%') {
            Some(percent) => percent.trim_end().parse().ok().filter(|p| (1..=100).contains(p)).map(Self::Percent),
            None => s.trim().parse().ok().filter(|count| *count > 0).map(Self::Hosts),
        };
        parsed
            .ok_or_else(|| format!("`{s}` is no number of hosts; write one from 1 on, or a share of them: `1`, `25%`"))
    }
}

impl Serialize for Batch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Batch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<'_, str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Batch {
    fn schema_name() -> Cow<'static, str> {
        "Batch".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "description": "a number of hosts, or a share of them", "examples": ["1", "25%"]})
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_newer_is_called_as_it_is_stored() {
        let sync = json!({
            "kind": "sync", "from": "production", "hosts": [], "data": "fresh", "release": 1, "commit": format!("{:040x}", 1),
            "rules": { "format": "csv" }, "run": "dump", "timeout_minutes": 1,
        });
        let newer: [Strategy; 3] = [
            Strategy::Rolling(RollingSpec::default()),
            Strategy::BlueGreen(BlueGreenSpec::default()),
            serde_json::from_value(sync).unwrap(),
        ];
        for (strategy, name) in newer.into_iter().zip(NEWER) {
            let stored = serde_json::to_value(&strategy).unwrap();
            assert_eq!((strategy.newer(), stored["kind"].as_str()), (Some(name), Some(name)));
        }
        assert_eq!(Strategy::HotSwap.newer(), None);
    }

    #[test]
    fn hosts_that_change_in_turn_are_newer_too() {
        let spec = |strategy: &Strategy, hosts: &[&str], when_full: &str| -> RolloutSpec {
            let release = json!({ "id": 1, "repository": "acme/shop", "service": "web", "digest": format!("sha256:{:064x}", 1),
                "commit": format!("{:040x}", 1), "run": 1, "created_at": "2026-01-01T00:00:00Z" });
            let service =
                json!({ "name": "web", "command": ["./web"], "gpus": { "count": 1, "when-full": when_full } });
            let spec = json!({ "release": release, "service": service, "environment": "production", "hosts": hosts, "strategy": strategy,
                "previous": null, "is_rollback": false, "variables": {} });
            serde_json::from_value(spec).unwrap()
        };
        let rolling = Strategy::Rolling(RollingSpec::default());
        for (strategy, hosts, when_full, newer) in [
            (&Strategy::HotSwap, &["a", "b"][..], "recreate", vec![IN_TURN_ONCE]),
            (&Strategy::HotSwap, &["a"], "recreate", vec![]),
            (&Strategy::HotSwap, &["a", "b"], "refuse", vec![]),
            (&rolling, &["a"], "recreate", vec![ROLLING, IN_TURN_ONCE]),
            (&rolling, &["a", "b"], "refuse", vec![ROLLING]),
        ] {
            assert_eq!(spec(strategy, hosts, when_full).newer().collect::<Vec<_>>(), newer, "{hosts:?} {when_full}");
            assert!(newer.iter().all(|name| NEWER.contains(name)));
        }
    }

    #[test]
    fn a_batch_is_a_number_or_a_share_of_the_hosts_and_never_none() {
        let cases =
            [("1", 4, 1), ("3", 2, 3), ("25%", 4, 1), ("25 %", 5, 2), ("1%", 3, 1), ("100%", 7, 7), ("50%", 0, 1)];
        for (text, hosts, wanted) in cases {
            let batch: Batch = text.parse().unwrap();
            assert_eq!(batch.of(hosts), wanted, "{text} of {hosts}");
            let again: Batch = serde_json::from_value(serde_json::to_value(batch).unwrap()).unwrap();
            assert_eq!(again, batch);
        }
        for text in ["", "0", "0%", "101%", "-1", "a", "1.5", "%"] {
            assert!(text.parse::<Batch>().unwrap_err().contains("`25%`"), "{text}");
        }
    }
}
