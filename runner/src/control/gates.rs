//! Gathers what the gate of a job depends on; `segue_pipelines::progress::gate` and `segue_pipelines::protection` judge it.

use std::time::Duration;

use segue_pipelines::{
    progress::{Gate, GateFacts, gate},
    protection::{Rules, Wish, required_approvals},
};
use segue_schemas::{config::EnvironmentConfig, time::Timestamp};

use super::concurrency;
use crate::store::{
    Result, Store,
    sql::Conn,
    tables::{
        jobs::{self, Job},
        runs::{self, Run},
    },
};

/// How long a job may wait at its gates from when it could have started, whatever keeps them closed.
pub const GATE_LIMIT: Duration = Duration::from_secs(90 * 24 * 3600);

/// Whether a job may start now.
pub(crate) async fn judge(store: &Store, conn: &mut Conn, run: &Run, job: &Job, now: Timestamp) -> Result<Gate> {
    let environment = job.record.plan.environment.as_deref();
    // what goes on after a rollout, or at another worker, has been let in
    let asked = environment.filter(|_| job.record.next_step.is_none());
    let protection = match asked.and_then(|name| store.config().environments.get_key_value(name)) {
        Some((name, settings)) if is_protected(settings) => protection(conn, run, job, name, settings, now).await?,
        _ => Gate::Open,
    };
    let foreign_code_approved = run.record.trusted || !runs::approvals(conn, &run.record, "").await?.is_empty();
    let judged = gate(&GateFacts {
        environment: environment.map(Into::into),
        protection,
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

/// What the rules of the job's environment say.
async fn protection(
    conn: &mut Conn,
    run: &Run,
    job: &Job,
    environment: &str,
    settings: &EnvironmentConfig,
    now: Timestamp,
) -> Result<Gate> {
    let rules = match Rules::of(environment, settings) {
        Ok(rules) => rules,
        // a configuration that was checked has nothing of that kind
        Err(problem) => return Ok(Gate::Closed { reason: problem }),
    };
    let asks_people = required_approvals(settings) > 0 || settings.admin_bypass;
    let wish = Wish {
        git_ref: run.record.git_ref.clone(),
        own: if settings.prevent_self_review { own(conn, run).await? } else { Vec::new() },
        said_yes: if asks_people { runs::approvals(conn, &run.record, environment).await? } else { Vec::new() },
        ready_at: if settings.wait_timer.is_some() { ready_at(conn, job).await? } else { now },
    };
    Ok(rules.judge(&wish, now))
}

/// Whether an environment has rules of its own: most have none, and nothing is read for them.
fn is_protected(settings: &EnvironmentConfig) -> bool {
    required_approvals(settings) > 0
        || settings.wait_timer.is_some()
        || !(settings.branches.is_empty() && settings.tags.is_empty() && settings.freeze.is_empty())
}

/// Whose change it is: who pushed, wrote or started it, in whichever run the commit came, and who asked for this attempt.
pub(super) async fn own(conn: &mut Conn, run: &Run) -> Result<Vec<String>> {
    let record = &run.record;
    let asked = runs::attempts(conn, record).await?.into_iter().find(|attempt| attempt.attempt == record.attempt);
    let asked = asked.map(|attempt| person(&attempt.requested_by).to_owned());
    // what starts by the clock, or by somebody's word, does not say who wrote it: the push that brought it does
    let elsewhere = runs::people_of_commit(conn, &record.repository, &record.commit).await?;
    let mut own: Vec<String> = Vec::new();
    for name in run.trigger.authors.iter().chain([&record.actor]).cloned().chain(asked).chain(elsewhere) {
        if !name.is_empty() && !own.iter().any(|known| known.eq_ignore_ascii_case(&name)) {
            own.push(name);
        }
    }
    Ok(own)
}

/// The account in what is noted of who asked for something: `ada (in #7)`, `ada: because`.
fn person(by: &str) -> &str {
    by.split([' ', ':']).next().unwrap_or(by)
}

/// When a job's needs had ended.
pub(super) async fn ready_at(conn: &mut Conn, job: &Job) -> Result<Timestamp> {
    let begun = jobs::created_at(conn, job.record.id).await?;
    let needs = &job.record.plan.needs;
    if needs.is_empty() {
        return Ok(begun);
    }
    let all = jobs::of_attempt(conn, job.record.run, job.record.attempt).await?;
    let needed = all.iter().filter(|other| needs.iter().any(|need| need == other.record.plan.file_key()));
    Ok(needed.filter_map(|other| other.record.ended_at).fold(begun, Timestamp::max))
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

#[cfg(test)]
mod tests {
    use super::person;

    #[test]
    fn who_asked_is_an_account_whatever_is_noted_beside_it() {
        for (noted, account) in [("ada", "ada"), ("ada (in #7)", "ada"), ("ada: it was slow", "ada"), ("", "")] {
            assert_eq!(person(noted), account);
        }
    }
}
