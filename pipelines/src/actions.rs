//! The built-in actions and what their `with` takes.
//!
//! Comes in: names and texts from a pipeline. Goes out: what is wrong with them, as far as it can be told before a run.
//! Never here: performing them; the worker checks the evaluated values again.

use segue_schemas::{duration::Span, id::is_name, plan::BUILD_IMAGE, price::Price, strategy::Batch};

use crate::{image, machines, strategies};

/// An action that ships with Segue.
#[derive(Debug)]
pub struct Action {
    /// Its name, as `uses` says it.
    pub name: &'static str,
    /// What `with` takes.
    pub inputs: &'static [Input],
    /// Inputs of which exactly one must be given.
    pub one_of: &'static [&'static str],
    /// Whether it changes an environment, which the job must name.
    pub deploys: bool,
}

/// One input of an action.
#[derive(Debug)]
pub struct Input {
    /// Its key under `with`.
    pub name: &'static str,
    /// Whether it must be given.
    pub required: bool,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Text,
    Name,
    Path,
    Stages,
    /// A number of hosts, or a share of them.
    Batch,
    Duration,
    Count,
    Rate,
    Ratio,
    /// One path or pattern a line.
    Paths,
    Flag,
    Url,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A whole number from the first to the second.
    Between(u64, u64),
    /// Names of images, one a line or parted by commas.
    Images,
    /// `NAME=VALUE`, one a line.
    Pairs,
    /// Where a build keeps its layers.
    Cache,
    /// `OS/ARCHITECTURE`, one or several parted by commas.
    Platforms,
    /// Names, one a line or parted by commas.
    Names,
    /// US dollars.
    Price,
}

const fn required(name: &'static str, kind: Kind) -> Input {
    Input { name, required: true, kind }
}

const fn optional(name: &'static str, kind: Kind) -> Input {
    Input { name, required: false, kind }
}

/// The longest that an artifact or a cache entry can be asked to be kept, in days.
pub const MAX_RETENTION_DAYS: u64 = 400;

/// What actions take about how a release is watched, behind what is their own.
macro_rules! watched_inputs {
    ($($own:expr),*) => {
        &[
            $($own,)*
            optional("hold-limit", Kind::Duration),
            optional("min-requests", Kind::Count),
            optional("false-alarm", Kind::Rate),
            optional("error-margin", Kind::Rate),
            optional("latency-ratio", Kind::Ratio),
            optional("latency-floor", Kind::Duration),
            optional("max-error-rate", Kind::Rate),
            optional("max-p95", Kind::Duration),
        ]
    };
}

/// What says how a release comes to its traffic.
const STRATEGY: Input = optional(strategies::INPUT, Kind::Word(&strategies::NAMES));
const BATCH: Input = optional("batch", Kind::Batch);
const PAUSE: Input = optional("pause", Kind::Duration);
const HOLD: Input = optional("hold", Kind::Flag);
const SOAK: Input = optional("soak", Kind::Duration);
const STAGES: Input = optional("stages", Kind::Stages);
const STAGE_DURATION: Input = optional("stage-duration", Kind::Duration);

/// Every action that the worker performs itself.
pub const ACTIONS: [Action; 15] = [
    Action {
        name: "segue/checkout",
        inputs: &[optional("ref", Kind::Text), optional("path", Kind::Path)],
        one_of: &[],
        deploys: false,
    },
    Action {
        name: "segue/cache",
        inputs: &[
            required("path", Kind::Text),
            required("key", Kind::Text),
            optional("restore-keys", Kind::Text),
            optional("lookup-only", Kind::Flag),
            optional("fail-on-cache-miss", Kind::Flag),
        ],
        one_of: &[],
        deploys: false,
    },
    Action {
        name: "segue/upload-artifact",
        inputs: &[
            optional("name", Kind::Name),
            required("path", Kind::Paths),
            optional("if-no-files-found", Kind::Word(&["warn", "error", "ignore"])),
            optional("retention-days", Kind::Between(1, MAX_RETENTION_DAYS)),
        ],
        one_of: &[],
        deploys: false,
    },
    Action {
        name: "segue/download-artifact",
        inputs: &[optional("name", Kind::Name), optional("path", Kind::Path)],
        one_of: &[],
        deploys: false,
    },
    Action {
        name: "segue/deploy",
        inputs: watched_inputs!(
            required("service", Kind::Name),
            optional("artifact", Kind::Name),
            optional("path", Kind::Path),
            optional("image", Kind::Text),
            STRATEGY,
            BATCH,
            PAUSE,
            HOLD,
            SOAK
        ),
        one_of: &["artifact", "path", "image"],
        deploys: true,
    },
    Action {
        name: crate::preview::ACTION,
        inputs: &[
            required("service", Kind::Name),
            optional("artifact", Kind::Name),
            optional("path", Kind::Path),
            optional("image", Kind::Text),
            optional("seed", Kind::Text),
        ],
        one_of: &["artifact", "path", "image"],
        deploys: true,
    },
    Action {
        name: "segue/canary",
        inputs: watched_inputs!(
            required("service", Kind::Name),
            optional("artifact", Kind::Name),
            optional("path", Kind::Path),
            optional("image", Kind::Text),
            STAGES,
            STAGE_DURATION
        ),
        one_of: &["artifact", "path", "image"],
        deploys: true,
    },
    Action {
        name: "segue/promote",
        inputs: watched_inputs!(
            required("service", Kind::Name),
            required("from", Kind::Name),
            optional("release", Kind::Count),
            STRATEGY,
            BATCH,
            PAUSE,
            HOLD,
            SOAK,
            STAGES,
            STAGE_DURATION
        ),
        one_of: &[],
        deploys: true,
    },
    Action {
        name: "segue/rollback",
        inputs: &[required("service", Kind::Name), optional("to", Kind::Text)],
        one_of: &[],
        deploys: true,
    },
    Action {
        name: "segue/sync-data",
        inputs: &[
            required("service", Kind::Name),
            required("from", Kind::Name),
            optional("to", Kind::Name),
            optional("backup", Kind::Text),
        ],
        one_of: &[],
        deploys: true,
    },
    Action {
        name: "segue/health-check",
        inputs: &[
            optional("url", Kind::Url),
            optional("service", Kind::Name),
            optional("path", Kind::Text),
            optional("tries", Kind::Between(1, 1_000)),
            optional("interval", Kind::Duration),
            optional("timeout", Kind::Duration),
            optional("status", Kind::Between(100, 599)),
        ],
        one_of: &["url", "service"],
        deploys: false,
    },
    Action {
        name: BUILD_IMAGE,
        inputs: &[
            optional("context", Kind::Path),
            optional("file", Kind::Path),
            optional("target", Kind::Text),
            optional("build-args", Kind::Pairs),
            optional("secrets", Kind::Pairs),
            optional("labels", Kind::Pairs),
            optional("tags", Kind::Images),
            optional("push", Kind::Flag),
            optional("username", Kind::Text),
            optional("password", Kind::Text),
            optional("cache-from", Kind::Text),
            optional("cache-to", Kind::Cache),
            optional("platforms", Kind::Platforms),
            optional("network", Kind::Word(&["default", "none"])),
            optional("reproducible", Kind::Flag),
            optional("provenance", Kind::Flag),
            optional("sbom", Kind::Word(&["true", "false", "cyclonedx", "spdx"])),
        ],
        one_of: &[],
        deploys: false,
    },
    Action {
        name: machines::ACTION,
        inputs: &[
            required("type", Kind::Names),
            optional("region", Kind::Names),
            optional("max-price", Kind::Price),
            optional("wait-for-capacity", Kind::Duration),
            optional("idle-shutdown", Kind::Duration),
            optional("lifetime", Kind::Duration),
            optional("ssh-key", Kind::Text),
        ],
        one_of: &[],
        deploys: false,
    },
    Action { name: machines::RELEASE, inputs: &[required("id", Kind::Text)], one_of: &[], deploys: false },
    Action { name: "segue/notify", inputs: &[required("text", Kind::Text)], one_of: &[], deploys: false },
];

/// Composite actions that ship with Segue: names, and their files.
pub const LIBRARY: [(&str, &str); 2] = [
    ("segue/backup", include_str!("../library/backup/action.yml")),
    ("segue/setup-rust-cache", include_str!("../library/setup-rust-cache/action.yml")),
];

/// The file of a composite action that ships with Segue.
#[must_use]
pub fn library(name: &str) -> Option<&'static str> {
    LIBRARY.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// The names of all actions that ship with Segue.
pub fn names() -> impl Iterator<Item = &'static str> + Clone {
    ACTIONS.iter().map(|action| action.name).chain(LIBRARY.iter().map(|(name, _)| *name))
}

/// The action of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Action> {
    ACTIONS.iter().find(|action| action.name == name)
}

impl Action {
    /// Its input of that name.
    #[must_use]
    pub fn input(&self, name: &str) -> Option<&'static Input> {
        self.inputs.iter().find(|input| input.name == name)
    }
}

impl Input {
    /// Refuses a value that cannot be used. An empty one counts as left out.
    ///
    /// # Errors
    /// What is wrong, and what to write.
    pub fn check(&self, value: &str) -> Result<(), String> {
        let value = value.trim();
        if value.is_empty() {
            return if self.required { Err(format!("`{}` is empty", self.name)) } else { Ok(()) };
        }
        let name = self.name;
        let rate = || value.strip_suffix('%').map_or_else(|| number(value), |share| number(share).map(|n| n / 100.0));
        match self.kind {
            Kind::Text => Ok(()),
            Kind::Name if is_name(value) => Ok(()),
            Kind::Name => Err(format!("`{value}` cannot be a name; use letters, digits, `-`, `_` and `.`")),
            Kind::Path => path(value),
            Kind::Stages => stages(value),
            Kind::Batch => value.parse::<Batch>().map(drop),
            Kind::Duration => match value.parse::<Span>() {
                Ok(span) if span.0.is_zero() => Err(format!("`{name}` cannot be 0; write a duration such as `15m`")),
                Ok(_) => Ok(()),
                Err(message) => Err(message),
            },
            Kind::Count => match value.parse::<u64>() {
                Ok(_) => Ok(()),
                Err(_) => Err(format!("`{value}` is no whole number of requests, such as `50`")),
            },
            Kind::Rate if rate().is_some_and(|rate| (0.0..1.0).contains(&rate)) => Ok(()),
            Kind::Rate => Err(format!("`{value}` is no share from 0 to below 1, such as `0.01` or `1%`")),
            Kind::Ratio if number(value).is_some_and(|ratio| ratio >= 1.0) => Ok(()),
            Kind::Ratio => Err(format!("`{value}` is no factor of at least 1, such as `1.25`")),
            Kind::Paths => value.lines().try_for_each(|line| path(line.trim().trim_start_matches('!'))),
            Kind::Flag if matches!(value, "true" | "false") => Ok(()),
            Kind::Flag => Err(format!("`{value}` is neither `true` nor `false`")),
            Kind::Url if value.starts_with("http://") || value.starts_with("https://") => Ok(()),
            Kind::Url => Err(format!("`{value}` is no address; write `http://...` or `https://...`")),
            Kind::Word(words) if words.contains(&value) => Ok(()),
            Kind::Word(words) => Err(format!("`{value}` is none of {}", words.join(", "))),
            Kind::Between(least, most) if value.parse().is_ok_and(|n: u64| (least..=most).contains(&n)) => Ok(()),
            Kind::Between(least, most) => Err(format!("`{value}` is no whole number from {least} to {most}")),
            Kind::Images => image::list(value).try_for_each(image::check_tag),
            Kind::Pairs => image::pairs(value).map(drop),
            Kind::Cache => image::cache_to(value).map(drop),
            Kind::Platforms => image::platforms(value).map(drop),
            Kind::Names => match machines::list(value).find(|item| !is_name(item)) {
                Some(item) => Err(format!("`{item}` is no name; write one, or several parted by commas")),
                None => Ok(()),
            },
            Kind::Price => value.parse::<Price>().map(drop),
        }
    }
}

fn number(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|number: &f64| number.is_finite())
}

fn path(value: &str) -> Result<(), String> {
    if value.starts_with('/') || value.split('/').any(|segment| segment == "..") {
        return Err(format!("`{value}` leads out of the workspace; write a path from its root"));
    }
    Ok(())
}

fn stages(value: &str) -> Result<(), String> {
    const REMEDY: &str = "write rising percentages that end with 100, such as `10,50,100`";
    let mut last = 0;
    for stage in value.split(',') {
        let stage = stage.trim().trim_end_matches('%').trim_end();
        let percent = stage.parse::<u8>().ok().filter(|percent| (1..=100).contains(percent));
        let percent = percent.ok_or_else(|| format!("`{stage}` is no percentage from 1 to 100; {REMEDY}"))?;
        if percent <= last {
            return Err(format!("{last} does not rise to {percent}; {REMEDY}"));
        }
        last = percent;
    }
    if last == 100 { Ok(()) } else { Err(format!("the last stage is {last}; {REMEDY}")) }
}
