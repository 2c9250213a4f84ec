//! What an environment asks for before a job may change it: branches and tags, approvals and whose they are, a wait, freezes.
//! After GitHub's protection rules (<https://docs.github.com/en/actions/reference/workflows-and-actions/deployments-and-environments>).
//!
//! Comes in: an environment's configuration, what is known of the change and of those who said yes, the time. Goes out: a gate that is
//! open, or why and until when it is not. Never here: who may write to a repository, who is in a team.

mod freeze;

use std::time::Duration;

use segue_schemas::{config::EnvironmentConfig, duration::Span, time::Timestamp};
use serde::{Deserialize, Serialize};

pub use freeze::{Freeze, FreezeFault, Frozen, frozen, next_freeze};

use crate::{filter::Patterns, progress::Gate};

/// The longest wait before a job, as at GitHub.
pub const LONGEST_WAIT: Duration = Duration::from_secs(30 * 24 * 3600);
/// The most reviewers that can be named, and approvals that can be asked for.
pub const MOST_REVIEWERS: usize = 100;
/// The most freezes of one environment.
pub const MOST_FREEZES: usize = 100;

/// Somebody's yes to a job, for one commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Yes {
    /// Who.
    pub by: String,
    /// Those teams among the reviewers that GitHub says they are in.
    #[serde(default)]
    pub teams: Vec<String>,
    /// Why an administrator passes the rules by; `None`: it is a yes within the rules.
    #[serde(default)]
    pub bypass: Option<String>,
}

impl From<&str> for Yes {
    /// A yes within the rules.
    fn from(by: &str) -> Self {
        Self { by: by.to_owned(), teams: Vec::new(), bypass: None }
    }
}

impl Yes {
    /// The same account, without regard to case, as GitHub has it.
    fn is_by(&self, name: &str) -> bool {
        self.by.eq_ignore_ascii_case(name)
    }
}

/// The rules of an environment, read.
#[derive(Debug, Clone)]
pub struct Rules {
    environment: String,
    branches: Patterns,
    tags: Patterns,
    required: usize,
    reviewers: Vec<String>,
    prevents_self_review: bool,
    wait: Duration,
    freezes: Vec<Freeze>,
    admin_bypass: bool,
}

/// What is known of a job that wants to change the environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// The run's ref, `refs/heads/main`.
    pub git_ref: String,
    /// Whose change it is: who pushed, wrote or started it.
    pub own: Vec<String>,
    /// Who said yes to it at this commit, the first one first.
    pub said_yes: Vec<Yes>,
    /// When its needs had ended.
    pub ready_at: Timestamp,
}

/// How many approvals a job for the environment needs.
#[must_use]
pub fn required_approvals(config: &EnvironmentConfig) -> u32 {
    config.required_approvals.max(u32::from(!config.reviewers.is_empty()))
}

impl Rules {
    /// Reads an environment's rules.
    ///
    /// # Errors
    /// What can't be read; a configuration that was checked has nothing of that kind.
    pub fn of(environment: &str, config: &EnvironmentConfig) -> Result<Self, String> {
        let patterns = |key: &str, texts: &[String]| {
            Patterns::parse(texts).map_err(|(_, error)| format!("`{key}` of the environment `{environment}`: {error}"))
        };
        let freezes = config.freeze.iter().map(|freeze| {
            Freeze::parse(freeze)
                .map_err(|fault| format!("`freeze` of the environment `{environment}`: {}", fault.message))
        });
        Ok(Self {
            environment: environment.to_owned(),
            branches: patterns("branches", &config.branches)?,
            tags: patterns("tags", &config.tags)?,
            required: required_approvals(config) as usize,
            reviewers: config.reviewers.clone(),
            prevents_self_review: config.prevent_self_review,
            wait: config.wait_timer.unwrap_or_default().0.min(LONGEST_WAIT),
            freezes: freezes.collect::<Result<_, _>>()?,
            admin_bypass: config.admin_bypass,
        })
    }

    /// Whether a job may change the environment now.
    #[must_use]
    pub fn judge(&self, wish: &Wish, now: Timestamp) -> Gate {
        if let Some(reason) = self.keeps_out(&wish.git_ref) {
            return Gate::Refused { reason };
        }
        if self.admin_bypass && wish.said_yes.iter().any(|yes| yes.bypass.is_some()) {
            return Gate::Open;
        }
        let environment = &self.environment;
        let frozen = frozen(&self.freezes, now);
        let people = self.counted(wish);
        if people.len() < self.required {
            let by = if people.is_empty() { String::new() } else { format!(" (by {})", listed(&people)) };
            let mut reason = format!("`{environment}` has {} of {} approvals{by}", people.len(), self.required);
            reason.push_str(&self.who_counts(wish));
            if let Some(frozen) = frozen {
                reason.push_str(&format!("; it is frozen {}", frozen.in_words));
            }
            return Gate::AwaitPerson { reason };
        }
        let waits_until = wish.ready_at + self.wait;
        let mut closed = Vec::new();
        let mut until = now;
        if waits_until > now {
            until = waits_until;
            let at = waits_until.as_chrono().format("%Y-%m-%d %H:%M:%S UTC");
            closed.push(format!("`{environment}` waits {} before each deployment: until {at}", Span(self.wait)));
        }
        if let Some(frozen) = frozen {
            until = until.max(frozen.until);
            closed.push(format!("`{environment}` is frozen {}", frozen.in_words));
        }
        if closed.is_empty() { Gate::Open } else { Gate::ClosedUntil { reason: closed.join("; "), until } }
    }

    /// Why somebody's yes does not count; `None`: it does.
    #[must_use]
    pub fn discounts(&self, own: &[String], yes: &Yes) -> Option<String> {
        let Yes { by, teams, bypass } = yes;
        let environment = &self.environment;
        if bypass.is_some() {
            return (!self.admin_bypass).then(|| {
                format!("nobody passes by the rules of `{environment}` (`admin-bypass: false` in segue.yaml)")
            });
        }
        if self.prevents_self_review && own.iter().any(|name| yes.is_by(name)) {
            return Some(format!(
                "{by} has pushed, written or started this, and `{environment}` takes another's word for it"
            ));
        }
        let is_named = self
            .reviewers
            .iter()
            .any(|name| yes.is_by(name) || teams.iter().any(|team| team.eq_ignore_ascii_case(name)));
        (!self.reviewers.is_empty() && !is_named)
            .then(|| format!("{by} is none of the reviewers of `{environment}`: {}", listed(&self.reviewers)))
    }

    /// The teams whose members may approve.
    pub fn teams(&self) -> impl Iterator<Item = &str> {
        self.reviewers.iter().map(String::as_str).filter(|name| name.contains('/'))
    }

    /// When nothing may be deployed next, or until when now; `None`: nothing is announced.
    #[must_use]
    pub fn freeze_in_words(&self, now: Timestamp) -> Option<String> {
        frozen(&self.freezes, now).map(|frozen| frozen.in_words).or_else(|| next_freeze(&self.freezes, now))
    }

    /// Whose approvals count, each person once.
    fn counted<'w>(&self, wish: &'w Wish) -> Vec<&'w str> {
        let mut people: Vec<&str> = Vec::new();
        for yes in &wish.said_yes {
            if !people.iter().any(|known| yes.is_by(known)) && self.discounts(&wish.own, yes).is_none() {
                people.push(&yes.by);
            }
        }
        people
    }

    fn who_counts(&self, wish: &Wish) -> String {
        let from = (!self.reviewers.is_empty()).then(|| format!("of {}", listed(&self.reviewers)));
        let own = (self.prevents_self_review && !wish.own.is_empty()).then(|| format!("not of {}", listed(&wish.own)));
        match (from, own) {
            (None, None) => String::new(),
            (Some(one), None) | (None, Some(one)) => format!("; those {one} count"),
            (Some(from), Some(own)) => format!("; those {from} count, and {own}"),
        }
    }

    /// Why a ref may not deploy to it.
    fn keeps_out(&self, git_ref: &str) -> Option<String> {
        if self.branches.is_empty() && self.tags.is_empty() {
            return None;
        }
        let (key, patterns, name) = match git_ref.strip_prefix("refs/tags/") {
            Some(tag) => ("tags", &self.tags, tag),
            None => ("branches", &self.branches, git_ref.strip_prefix("refs/heads/").unwrap_or(git_ref)),
        };
        (!patterns.matches(name)).then(|| {
            let environment = &self.environment;
            format!("`{git_ref}` may not be deployed to `{environment}`: it is not among the environment's `{key}`")
        })
    }
}

/// A few names, for a sentence.
fn listed(names: &[impl AsRef<str>]) -> String {
    const SHOWN: usize = 10;
    let shown: Vec<&str> = names.iter().take(SHOWN).map(AsRef::as_ref).collect();
    let more = names.len().saturating_sub(SHOWN);
    if more > 0 { format!("{} and {more} more", shown.join(", ")) } else { shown.join(", ") }
}

#[cfg(test)]
mod tests;
