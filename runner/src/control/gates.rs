//! Gathers what the gate of a job depends on; `segue_pipelines::progress::gate` judges it.

use segue_pipelines::progress::{Gate, GateFacts, gate};
use segue_schemas::config::EnvironmentConfig;

use super::concurrency;
use crate::store::{
    Result, Store,
    sql::Conn,
    tables::{
        jobs::Job,
        runs::{self, Run},
    },
};

/// Whether a job may start now.
pub(crate) async fn judge(store: &Store, conn: &mut Conn, run: &Run, job: &Job) -> Result<Gate> {
    let environment = job.record.plan.environment.as_deref();
    let settings = environment.map(|name| store.environment(name));
    let (mut approvals, mut foreign_code_approved) = (0, true);
    if let (Some(name), Some(settings)) = (environment, &settings)
        && settings.required_approvals > 0
    {
        approvals = runs::approvals(conn, &run.record, name).await?;
    }
    if !run.record.trusted {
        foreign_code_approved = runs::approvals(conn, &run.record, "").await? > 0;
    }
    let judged = gate(&GateFacts {
        environment: environment.map(Into::into),
        git_ref: run.record.git_ref.clone(),
        ref_allowed: settings.as_ref().is_none_or(|s| lets_in(&s.branches, &run.record.git_ref)),
        required_approvals: settings.as_ref().map_or(0, |s| s.required_approvals),
        approvals,
        refused_by: None,
        trusted: run.record.trusted,
        foreign_code_approved,
        keeps_foreign_out: job.record.plan.container.is_none() && !store.config().github.forks_on_host,
        // two jobs may be in one environment; what changes a service in it queues up for the slot of the pair
        environment_held_by: None,
        free_disk_mib: store.free_disk_mib(),
        low_disk_mib: store.inner.config.retention.low_disk_mib,
    });
    match judged {
        Gate::Open => concurrency::gate(conn, run, job).await,
        other => Ok(other),
    }
}

impl Store {
    /// An environment as it is configured, or as one that is not named is.
    #[must_use]
    pub fn environment(&self, name: &str) -> EnvironmentConfig {
        self.inner.config.environments.get(name).cloned().unwrap_or_default()
    }

    /// The environments that an artifact must have passed before it may come to this one.
    #[must_use]
    pub fn required_environments(&self, name: &str) -> Vec<String> {
        match self.environment(name).requires {
            Some(required) => required,
            None if name == "production" => vec!["staging".into()],
            None => Vec::new(),
        }
    }

    /// Free space of the data directory's disk in MiB; what can't be found out counts as enough.
    #[must_use]
    pub fn free_disk_mib(&self) -> u64 {
        nix::sys::statvfs::statvfs(&self.inner.data)
            .map_or(u64::MAX, |disk| disk.blocks_available().saturating_mul(disk.fragment_size()) >> 20)
    }
}

/// Whether a ref is among an environment's `branches`; none: all are.
fn lets_in(patterns: &[String], git_ref: &str) -> bool {
    let name = git_ref.strip_prefix("refs/heads/").or_else(|| git_ref.strip_prefix("refs/tags/")).unwrap_or(git_ref);
    patterns.is_empty() || patterns.iter().any(|pattern| matches(pattern.as_bytes(), name.as_bytes()))
}

/// `*` stands for any characters but `/`, `**` for any at all.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match pattern {
        [] => name.is_empty(),
        [b'*', b'*', rest @ ..] => (0..=name.len()).any(|n| matches(rest, &name[n..])),
        [b'*', rest @ ..] => {
            let end = name.iter().position(|c| *c == b'/').unwrap_or(name.len());
            (0..=end).any(|n| matches(rest, &name[n..]))
        }
        [c, rest @ ..] => name.first() == Some(c) && matches(rest, &name[1..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environments_branches_are_patterns_over_the_short_name_of_the_ref() {
        let cases: &[(&[&str], &str, bool)] = &[
            (&[], "refs/heads/anything", true),
            (&["main"], "refs/heads/main", true),
            (&["main"], "refs/heads/maintenance", false),
            (&["release/*"], "refs/heads/release/1", true),
            (&["release/*"], "refs/heads/release/1/fix", false),
            (&["release/**"], "refs/heads/release/1/fix", true),
            (&["main", "v*"], "refs/tags/v1.2", true),
            (&["main"], "refs/pull/1/merge", false),
        ];
        for (patterns, git_ref, expected) in cases {
            let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
            assert_eq!(lets_in(&patterns, git_ref), *expected, "{patterns:?} {git_ref}");
        }
    }
}
