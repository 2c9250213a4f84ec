//! Of several hosts that carry an environment, one that was left out of a rollout, is new, or was put back in an emergency is brought to what
//! the others serve: by a rollout of its own, to it alone.

use std::time::Duration;

use segue_schemas::{
    deploy::{Release, RolloutSpec, Strategy},
    id::{ReleaseId, RolloutId},
    status::RolloutStatus,
    time::Timestamp,
};

use super::rollouts::next_id;
use crate::store::{
    Bell, Result, RolloutFilter, Store, Tx,
    tables::{
        releases,
        rollouts::{self, StoredRollout},
    },
};

/// How long a host is left as it is after it could not be brought up to date.
const AGAIN: Duration = Duration::from_secs(3600);

/// Rollouts of a service among which the last one to a host alone is looked for.
const LOOKED_AT: u32 = 50;

/// What a host serves of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The environment.
    pub environment: String,
    /// The service.
    pub service: String,
    /// The release that has all the traffic; `None`: several share it, or none is known.
    pub release: Option<ReleaseId>,
}

impl Store {
    /// A host shows what it serves. What is on record for environments that it carries with others, and that it does not serve, is brought
    /// there. While a rollout of the service is open nothing is done: it may be about this.
    pub async fn keep_in_step(&self, host: &str, shown: &[Shown]) -> Result<()> {
        let with_others = |environment: &String| self.is_shared(environment, host);
        let environments: Vec<String> =
            self.config().environments.keys().filter(|name| with_others(name)).cloned().collect();
        if environments.is_empty() {
            return Ok(());
        }
        let serving = releases::all_serving(&mut self.read().await?).await?;
        for (environment, release) in serving.into_iter().filter(|(environment, _)| environments.contains(environment))
        {
            let is_there = |one: &Shown| {
                one.environment == environment && one.service == release.service && one.release == Some(release.id)
            };
            if !shown.iter().any(is_there) {
                self.bring(host, &environment, &release.service).await?;
            }
        }
        Ok(())
    }

    /// Whether what a host of several did by itself is older than what serves the environment by now: then that stands.
    pub async fn is_overtaken(&self, host: &str, environment: &str, service: &str, at: Timestamp) -> Result<bool> {
        if !self.is_shared(environment, host) {
            return Ok(false);
        }
        let since = releases::serving_since(&mut self.read().await?, environment, service).await?;
        Ok(since.is_some_and(|since| since > at))
    }

    /// The other hosts of an environment follow one at which an emergency rollback was made, which `rollout` is the record of. Once it is
    /// not the newest of its service any more, nothing is done.
    pub async fn others_follow(&self, host: &str, environment: &str, service: &str, rollout: RolloutId) -> Result<()> {
        if !self.is_shared(environment, host) {
            return Ok(());
        }
        let filter = RolloutFilter {
            environment: Some(environment.into()),
            service: Some(service.into()),
            limit: 1,
            ..RolloutFilter::default()
        };
        let others: Vec<String> =
            self.environment(environment).hosts.into_iter().filter(|other| other != host).collect();
        let (store, environment, service) = (self.clone(), environment.to_owned(), service.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                let newest = rollouts::list(&mut tx.conn, &filter).await?;
                if newest.first().is_some_and(|newest| newest.id() == rollout) {
                    for other in others {
                        insert(&store, tx, &other, &environment, &service).await?;
                    }
                }
                Ok(())
            })
        })
        .await
    }

    fn is_shared(&self, environment: &str, host: &str) -> bool {
        let hosts = self.environment(environment).hosts;
        hosts.len() > 1 && hosts.iter().any(|name| name == host)
    }

    async fn bring(&self, host: &str, environment: &str, service: &str) -> Result<()> {
        let (store, host) = (self.clone(), host.to_owned());
        let (environment, service) = (environment.to_owned(), service.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                if !rollouts::open_of_pair(&mut tx.conn, &environment, &service).await?.is_empty() {
                    return Ok(());
                }
                let tried = RolloutFilter {
                    environment: Some(environment.clone()),
                    service: Some(service.clone()),
                    limit: LOOKED_AT,
                    ..RolloutFilter::default()
                };
                let tried = rollouts::list(&mut tx.conn, &tried).await?;
                let of_host = tried.iter().find(|one| one.record.rollout.spec.hosts == [host.clone()]);
                let has_failed = |one: &StoredRollout| {
                    let rollout = &one.record.rollout;
                    rollout.status != RolloutStatus::Succeeded
                        && rollout.ended_at.is_some_and(|at| tx.now.since(at) < AGAIN)
                };
                if of_host.is_some_and(has_failed) {
                    return Ok(());
                }
                insert(&store, tx, &host, &environment, &service).await
            })
        })
        .await
    }
}

async fn insert(store: &Store, tx: &mut Tx, host: &str, environment: &str, service: &str) -> Result<()> {
    let Some(serving) = releases::serving(&mut tx.conn, environment, service).await? else { return Ok(()) };
    let release: Release = serving.current;
    let Some(known) = rollouts::last_spec(&mut tx.conn, environment, &release).await? else { return Ok(()) };
    let spec = RolloutSpec {
        hosts: vec![host.to_owned()],
        strategy: Strategy::HotSwap,
        previous: Some(release.clone()),
        is_rollback: true,
        variables: store.environment(environment).variables,
        release,
        ..known
    };
    let number = spec.release.id;
    let rollout = StoredRollout::new(next_id(tx).await?, spec, "segue".into(), tx.now);
    rollouts::insert(&mut tx.conn, &rollout).await?;
    tracing::warn!(host, environment, service, release = %number, rollout = %rollout.id(), "a host is brought up to date");
    tx.ring(Bell::Rollouts);
    Ok(())
}
