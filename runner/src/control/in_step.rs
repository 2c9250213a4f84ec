//! Of several hosts that carry an environment, one that was left out of a rollout, is new, or was put back in an emergency is brought to what
//! the others serve: by a rollout of its own, to it alone. One that fails is tried again, after a minute at first and each time twice as long.

use std::time::Duration;

use segue_schemas::{
    deploy::{Release, Repair, RolloutSpec, Strategy},
    host_api::HostState,
    id::{ReleaseId, RolloutId},
    status::RolloutStatus,
    time::Timestamp,
};

use super::{
    rollouts::next_id,
    told::{serving, whole},
};
use crate::store::{
    Bell, Result, RolloutFilter, Store, Tx,
    sql::Conn,
    tables::{
        hosts, releases,
        rollouts::{self, StoredRollout},
    },
};

/// For how long a host is left as it is after it could not be brought up to date: once, and at most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));

/// Rollouts of a service among which those to a host alone are looked for: more failed ones than it takes to the longest pause, also of three
/// hosts at once.
const LOOKED_AT: u32 = 50;

/// For how long a host counts as one that answers after it was heard.
const ANSWERS_FOR: Duration = Duration::from_secs(150);

/// One of several hosts does not serve what is on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    /// The host.
    pub host: String,
    /// The environment.
    pub environment: String,
    /// What is on record.
    pub release: Release,
    /// What has the most traffic there; `None`: nothing has.
    pub serves: Option<ReleaseId>,
    /// When it is brought there again, after that failed; `None`: as soon as no rollout of the service goes on.
    pub again_at: Option<Timestamp>,
    /// The rollout of the service that goes on.
    pub rollout: Option<RolloutId>,
}

impl Lack {
    fn in_words(&self) -> String {
        match self.serves {
            Some(serves) => {
                format!("`{}` serves release {serves}, the record says {}", self.host, self.release.id)
            }
            None => format!("`{}` serves nothing, the record says release {}", self.host, self.release.id),
        }
    }
}

impl Store {
    /// A host shows what it serves. What is on record for environments that it carries with others, and that it does not serve, is brought
    /// there. While a rollout of the service is open nothing is done: it may be about this.
    pub async fn keep_in_step(&self, host: &str, state: &HostState) -> Result<()> {
        let environments = self.shared_environments(host);
        if environments.is_empty() {
            return Ok(());
        }
        let lacks = lacks(&mut self.read().await?, host, state, &environments).await?;
        for lack in lacks {
            let (store, start) = (self.clone(), state.start);
            self.write(move |tx| Box::pin(async move { bring(&store, tx, &lack, start).await })).await?;
        }
        Ok(())
    }

    /// The same for a host that was heard and carries what it told last: by now the pause after a failure may be over.
    pub async fn keep_in_step_as_told(&self, host: &str) -> Result<()> {
        if self.shared_environments(host).is_empty() {
            return Ok(());
        }
        let told = hosts::state(&mut self.read().await?, host).await?;
        match told {
            Some(told) => self.keep_in_step(host, &told.state).await,
            None => Ok(()),
        }
    }

    /// Every host of several that does not serve what is on record, as far as hosts have told since that is on record.
    pub async fn out_of_step(&self) -> Result<Vec<Lack>> {
        let (now, since) = (self.now(), self.serving_since().await?);
        let mut conn = self.read().await?;
        let mut found = Vec::new();
        for told in hosts::states(&mut conn).await? {
            let environments = self.shared_environments(&told.name);
            if environments.is_empty() {
                continue;
            }
            for mut lack in lacks(&mut conn, &told.name, &told.state, &environments).await? {
                let pair = (lack.environment.clone(), lack.release.service.clone());
                if since.get(&pair).is_some_and(|since| told.heard_at < *since) {
                    continue;
                }
                let open = rollouts::open_of_pair(&mut conn, &lack.environment, &lack.release.service).await?;
                lack.rollout = open.first().map(StoredRollout::id);
                lack.again_at = again_at(&mut conn, &lack, told.state.start).await?.filter(|at| *at > now);
                found.push(lack);
            }
        }
        Ok(found)
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
        let (store, host) = (self.clone(), host.to_owned());
        let (environment, service) = (environment.to_owned(), service.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                let newest = rollouts::list(&mut tx.conn, &filter).await?;
                if newest.first().is_some_and(|newest| newest.id() == rollout) {
                    let why = format!("an emergency rollback was made at `{host}`");
                    for other in others {
                        insert(&store, tx, (&environment, &service), &other, why.clone()).await?;
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

    /// The environments that a host carries with others.
    fn shared_environments(&self, host: &str) -> Vec<String> {
        self.config().environments.keys().filter(|name| self.is_shared(name, host)).cloned().collect()
    }
}

/// A person asks for the release that is on record: it is brought to every host that answers and does not serve it, whatever failed there
/// before. The rollouts that do it, also those that were to do it already.
pub(super) async fn bring_all(
    store: &Store,
    tx: &mut Tx,
    environment: &str,
    service: &str,
    by: &str,
) -> Result<Vec<RolloutId>> {
    let open = rollouts::open_of_pair(&mut tx.conn, environment, service).await?;
    let mut brought = Vec::new();
    for host in store.environment(environment).hosts.into_iter().filter(|host| store.is_shared(environment, host)) {
        let is_it = |one: &&StoredRollout| {
            one.record.rollout.spec.repair.is_some() && one.record.rollout.spec.hosts == [host.clone()]
        };
        if let Some(known) = open.iter().find(is_it) {
            brought.push(known.id());
            continue;
        }
        let Some(told) = hosts::state(&mut tx.conn, &host).await? else { continue };
        if tx.now.since(told.heard_at) >= ANSWERS_FOR {
            continue;
        }
        let lacks = lacks(&mut tx.conn, &host, &told.state, &[environment.to_owned()]).await?;
        if let Some(lack) = lacks.iter().find(|lack| lack.release.service == service) {
            let why = format!("{by} asked for it: {}", lack.in_words());
            brought.extend(insert(store, tx, (environment, service), &host, why).await?);
        }
    }
    Ok(brought)
}

/// What the host of such a rollout serves: that is what it replaces, not what is on record. `None`: nothing does that is known here, or it
/// is another rollout.
pub(super) async fn former(tx: &mut Tx, spec: &RolloutSpec) -> Result<Option<Release>> {
    let ([host], true) = (spec.hosts.as_slice(), spec.repair.is_some()) else { return Ok(None) };
    let Some(told) = hosts::state(&mut tx.conn, host).await? else { return Ok(None) };
    let is_it = |route: &&_| is_of(route, &spec.environment, &spec.release.service);
    match told.state.routes.iter().find(is_it).and_then(|route| serving(route, &told.state)) {
        Some(serves) => releases::find(&mut tx.conn, serves.id).await,
        None => Ok(None),
    }
}

fn is_of(route: &segue_schemas::host_api::RouteState, environment: &str, service: &str) -> bool {
    route.environment == environment && route.service == service
}

/// What is on record for these environments and a host does not serve.
async fn lacks(conn: &mut Conn, host: &str, state: &HostState, environments: &[String]) -> Result<Vec<Lack>> {
    let mut found = Vec::new();
    for (environment, release) in releases::all_serving(conn).await? {
        if !environments.contains(&environment) {
            continue;
        }
        let route = state.routes.iter().find(|route| is_of(route, &environment, &release.service));
        if route.and_then(|route| whole(route, state)).is_none_or(|whole| whole.id != release.id) {
            let serves = route.and_then(|route| serving(route, state)).map(|serves| serves.id);
            let host = host.to_owned();
            found.push(Lack { host, environment, release, serves, again_at: None, rollout: None });
        }
    }
    Ok(found)
}

async fn bring(store: &Store, tx: &mut Tx, lack: &Lack, start: Option<u64>) -> Result<()> {
    let (environment, service) = (lack.environment.as_str(), lack.release.service.as_str());
    if !rollouts::open_of_pair(&mut tx.conn, environment, service).await?.is_empty() {
        return Ok(());
    }
    if again_at(&mut tx.conn, lack, start).await?.is_some_and(|at| at > tx.now) {
        return Ok(());
    }
    insert(store, tx, (environment, service), &lack.host, lack.in_words()).await?;
    Ok(())
}

/// When a host is brought to a release again, after that failed. What failed before the host started or joined anew counts no more, nor
/// what failed before a rollout of the service succeeded there, or made another release the one on record.
async fn again_at(conn: &mut Conn, lack: &Lack, start: Option<u64>) -> Result<Option<Timestamp>> {
    let tried = RolloutFilter {
        environment: Some(lack.environment.clone()),
        service: Some(lack.release.service.clone()),
        limit: LOOKED_AT,
        ..RolloutFilter::default()
    };
    let tried = rollouts::list(conn, &tried).await?;
    let joined_at = hosts::find(conn, &lack.host).await?.map(|host| host.joined_at);
    let is_of_host = |one: &StoredRollout| one.record.rollout.spec.hosts == [lack.host.clone()];
    let settles = |one: &StoredRollout| {
        let rollout = &one.record.rollout;
        rollout.status == RolloutStatus::Succeeded && (rollout.spec.repair.is_none() || is_of_host(one))
    };
    let mut failed = Vec::new();
    for one in tried.iter().take_while(|one| !settles(one)) {
        let rollout = &one.record.rollout;
        let Some(repair) = rollout.spec.repair.as_ref().filter(|_| is_of_host(one)) else { continue };
        let counts = rollout.spec.release.id == lack.release.id && repair.host_start == start;
        failed.extend(rollout.ended_at.filter(|at| counts && joined_at.is_none_or(|joined| *at >= joined)));
    }
    Ok(failed.first().map(|newest| *newest + pause(failed.len())))
}

/// How long a host is left alone after so many failures.
fn pause(failures: usize) -> Duration {
    let doubled = u32::try_from(failures.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    (AGAIN.0 * 2_u32.pow(doubled)).min(AGAIN.1)
}

async fn insert(
    store: &Store,
    tx: &mut Tx,
    (environment, service): (&str, &str),
    host: &str,
    why: String,
) -> Result<Option<RolloutId>> {
    let Some(serving) = releases::serving(&mut tx.conn, environment, service).await? else { return Ok(None) };
    let release: Release = serving.current;
    let Some(known) = rollouts::last_spec(&mut tx.conn, environment, &release).await? else { return Ok(None) };
    let host_start = hosts::state(&mut tx.conn, host).await?.and_then(|told| told.state.start);
    tracing::warn!(host, environment, service, release = %release.id, why, "a host is brought up to date");
    let mut spec = RolloutSpec {
        hosts: vec![host.to_owned()],
        strategy: Strategy::HotSwap,
        previous: Some(release.clone()),
        is_rollback: true,
        variables: store.environment(environment).variables,
        repair: Some(Repair { why, host_start }),
        release,
        ..known
    };
    if let Some(former) = former(tx, &spec).await? {
        spec.previous = Some(former);
    }
    let rollout = StoredRollout::new(next_id(tx).await?, spec, "segue".into(), tx.now);
    rollouts::insert(&mut tx.conn, &rollout).await?;
    tx.ring(Bell::Rollouts);
    Ok(Some(rollout.id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_from_a_minute_to_an_hour() {
        let minutes: Vec<u64> = (1..=8).map(|failures| pause(failures).as_secs() / 60).collect();
        assert_eq!(minutes, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pause(usize::MAX), AGAIN.1);
    }
}
