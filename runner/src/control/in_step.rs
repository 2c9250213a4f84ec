//! Of several hosts that carry an environment, one that was left out of a rollout, is new, or was put back in an emergency is brought to what
//! the others serve: by a rollout of its own, to it alone. One that fails is tried again, after a minute at first and each time twice as long.

use std::time::Duration;

use segue_schemas::{
    deploy::{JournalEntry, JournalKind, Release, Repair, RolloutSpec, Strategy},
    host_api::{HostState, Restored},
    id::{ReleaseId, RolloutId},
    status::RolloutStatus,
    time::Timestamp,
};

use super::{
    joined,
    rollouts::next_id,
    told::{serving, whole},
    tries::{BY_ITSELF, Past, Wanted},
};
use crate::store::{
    Bell, Result, RolloutFilter, Store, StoreError, ToldState, Tx,
    sql::Conn,
    tables::{
        hosts, releases,
        rollouts::{self, StoredRollout},
    },
};

/// Rollouts of a service among which those to a host alone are looked for.
const LOOKED_AT: u32 = 200;

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
    /// The last one that was to bring the host there, and why it did not.
    pub failed: Option<(RolloutId, String)>,
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
        let mut conn = self.read().await?;
        let mut due = Vec::new();
        for lack in lacks(&mut conn, host, state, &environments).await? {
            if is_due(&mut conn, &lack, state.start, self.now()).await? {
                due.push(lack);
            }
        }
        drop(conn);
        for lack in due {
            let (store, start) = (self.clone(), state.start);
            self.write(move |tx| {
                Box::pin(async move {
                    if is_due(&mut tx.conn, &lack, start, tx.now).await? {
                        let pair = (lack.environment.as_str(), lack.release.service.as_str());
                        insert(&store, tx, pair, &lack.host, (BY_ITSELF, lack.in_words())).await?;
                    }
                    Ok(())
                })
            })
            .await?;
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
                // while another rollout goes on, hosts may serve two releases, or another one
                if open.first().is_some_and(|open| open.record.rollout.spec.repair.is_none()) {
                    continue;
                }
                let newest = newest(&mut conn, &lack.environment, &lack.release.service, 1).await?;
                let changed_at = newest.first().and_then(|newest| newest.record.rollout.ended_at);
                if changed_at.is_some_and(|at| told.heard_at < at) && open.is_empty() {
                    continue;
                }
                lack.rollout = open.first().map(StoredRollout::id);
                lack.failed = last_failure(&mut conn, &lack).await?;
                lack.again_at = again_at(&mut conn, &lack, told.state.start, now).await?.filter(|at| *at > now);
                found.push(lack);
            }
        }
        Ok(found)
    }

    /// Whether what a host of several did by itself is older than what serves the environment by now: then that stands. What is on record is
    /// not, and what the host did over the rollout that is on record neither, whatever its clock says.
    pub async fn is_overtaken(&self, host: &str, environment: &str, service: &str, did: &Restored) -> Result<bool> {
        if !self.is_shared(environment, host) {
            return Ok(false);
        }
        let mut conn = self.read().await?;
        if rollouts::of_epoch(&mut conn, environment, service, did.epoch).await?.is_some() {
            return Ok(false);
        }
        let Some((rollout, since)) = releases::served_by(&mut conn, environment, service).await? else {
            return Ok(false);
        };
        if since <= did.at {
            return Ok(false);
        }
        let brought = rollouts::load(&mut conn, rollout).await?;
        let journal = rollouts::journal(&mut conn, rollout, 0).await?;
        let is_left_out =
            |entry: &JournalEntry| entry.kind == JournalKind::Quarantined && entry.host.as_deref() == Some(host);
        let took_part =
            brought.record.rollout.spec.hosts.iter().any(|name| name == host) && !journal.iter().any(is_left_out);
        Ok(!took_part || did.epoch <= brought.record.epoch)
    }

    /// The other hosts of an environment follow one at which an emergency rollback was made, which `rollout` is the record of. Once it is
    /// not the newest of its service any more, nothing is done.
    pub async fn others_follow(&self, host: &str, environment: &str, service: &str, rollout: RolloutId) -> Result<()> {
        if !self.is_shared(environment, host) {
            return Ok(());
        }
        let others: Vec<String> =
            self.environment(environment).hosts.into_iter().filter(|other| other != host).collect();
        let (store, host) = (self.clone(), host.to_owned());
        let (environment, service) = (environment.to_owned(), service.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                let newest = newest(&mut tx.conn, &environment, &service, 1).await?;
                if newest.first().is_some_and(|newest| newest.id() == rollout) {
                    let why = format!("an emergency rollback was made at `{host}`");
                    for other in others {
                        insert(&store, tx, (&environment, &service), &other, (BY_ITSELF, why.clone())).await?;
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
/// before. The rollouts that do it, also those that were to do it already; and the hosts of which nobody knows, as they do not answer.
pub(super) async fn bring_all(
    store: &Store,
    tx: &mut Tx,
    environment: &str,
    service: &str,
    by: &str,
) -> Result<(Vec<RolloutId>, Vec<String>)> {
    let open = rollouts::open_of_pair(&mut tx.conn, environment, service).await?;
    let (mut brought, mut silent) = (Vec::new(), Vec::new());
    for host in store.environment(environment).hosts.into_iter().filter(|host| store.is_shared(environment, host)) {
        if let Some(known) = open.iter().find(|one| brings(one, &host)) {
            brought.push(known.id());
            continue;
        }
        let told = hosts::state(&mut tx.conn, &host).await?;
        let answers =
            |told: &ToldState| tx.now.since(told.heard_at) < ANSWERS_FOR && !store.is_host_silent(&host, told.heard_at);
        let Some(told) = told.filter(answers) else {
            silent.push(host);
            continue;
        };
        let lacks = lacks(&mut tx.conn, &host, &told.state, &[environment.to_owned()]).await?;
        if let Some(lack) = lacks.iter().find(|lack| lack.release.service == service) {
            let why = format!("{by} asked for it: {}", lack.in_words());
            brought.extend(insert(store, tx, (environment, service), &host, (by, why)).await?);
        }
    }
    Ok((brought, silent))
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
            found.push(Lack { host, environment, release, serves, again_at: None, rollout: None, failed: None });
        }
    }
    Ok(found)
}

/// Whether a host is to be brought there now.
async fn is_due(conn: &mut Conn, lack: &Lack, start: Option<u64>, now: Timestamp) -> Result<bool> {
    let open = rollouts::open_of_pair(conn, &lack.environment, &lack.release.service).await?;
    Ok(open.is_empty() && again_at(conn, lack, start, now).await?.is_none_or(|at| at <= now))
}

/// When a host is brought to a release again, after that failed; `None`: at once.
async fn again_at(conn: &mut Conn, lack: &Lack, start: Option<u64>, now: Timestamp) -> Result<Option<Timestamp>> {
    let tried = newest(conn, &lack.environment, &lack.release.service, LOOKED_AT).await?;
    let past: Vec<Past> = tried.iter().map(Past::from).collect();
    let wanted = wanted(conn, &lack.host, &lack.release, start).await?;
    let is_stopped = was_stopped(conn, &tried, &lack.host).await?;
    Ok(wanted.again_at(&past, is_stopped, now))
}

async fn wanted<'h>(conn: &mut Conn, host: &'h str, release: &Release, start: Option<u64>) -> Result<Wanted<'h>> {
    let joined_at = hosts::find(conn, host).await?.map(|host| host.joined_at);
    Ok(Wanted { host, release: release.id, start, joined_at })
}

/// The newest rollout that was to bring a host to a release, where it failed.
async fn last_failure(conn: &mut Conn, lack: &Lack) -> Result<Option<(RolloutId, String)>> {
    let tried = newest(conn, &lack.environment, &lack.release.service, LOOKED_AT).await?;
    let is_of = |one: &&StoredRollout| {
        let rollout = &one.record.rollout;
        brings(one, &lack.host) && rollout.spec.release.id == lack.release.id && rollout.ended_at.is_some()
    };
    let last = tried.iter().find(is_of).map(|one| &one.record.rollout);
    let failed = last.filter(|rollout| rollout.status != RolloutStatus::Succeeded);
    Ok(failed.map(|rollout| (rollout.id, rollout.reason.clone().unwrap_or_default())))
}

/// Whether a person has ended the newest rollout that was to bring a host there.
async fn was_stopped(conn: &mut Conn, tried: &[StoredRollout], host: &str) -> Result<bool> {
    let is_of_host = |one: &&StoredRollout| brings(one, host) && one.started_at.is_some();
    let failed = |one: &&StoredRollout| one.record.rollout.status != RolloutStatus::Succeeded;
    let Some(newest) = tried.iter().find(is_of_host).filter(failed) else { return Ok(false) };
    let journal = rollouts::journal(conn, newest.id(), 0).await?;
    // who rolls back ends it on the way
    let is_of_rollback =
        |entry: &JournalEntry| entry.detail["by"].as_str().is_some_and(|by| by.ends_with("(rollback)"));
    let is_abort = |entry: &JournalEntry| {
        let is_it = entry.kind == JournalKind::Command && entry.detail["command"] == "abort";
        is_it && entry.detail["taken"] != false && !is_of_rollback(entry)
    };
    Ok(journal.iter().any(is_abort))
}

async fn newest(conn: &mut Conn, environment: &str, service: &str, limit: u32) -> Result<Vec<StoredRollout>> {
    let filter = RolloutFilter {
        environment: Some(environment.into()),
        service: Some(service.into()),
        limit,
        ..RolloutFilter::default()
    };
    rollouts::list(conn, &filter).await
}

/// Whether a rollout brings a host to what is on record.
fn brings(one: &StoredRollout, host: &str) -> bool {
    let spec = &one.record.rollout.spec;
    spec.repair.is_some() && matches!(&spec.hosts[..], [only] if only == host)
}

/// Whether people are to hear that a host could not be brought there: of the first time, until all is well again.
pub(super) async fn is_worth_telling(tx: &mut Tx, rollout: &StoredRollout) -> Result<bool> {
    let spec = &rollout.record.rollout.spec;
    let (Some(repair), [host], Some(_)) = (&spec.repair, &spec.hosts[..], rollout.started_at) else {
        return Ok(spec.repair.is_none());
    };
    let past = newest(&mut tx.conn, &spec.environment, &spec.release.service, LOOKED_AT).await?;
    let past: Vec<Past> = past.iter().map(Past::from).collect();
    Ok(wanted(&mut tx.conn, host, &spec.release, repair.host_start).await?.is_first(&past, tx.now))
}

/// Why a rollout that was to bring a host there is needed no more; `None`: it is, or it does something else.
pub(super) async fn is_not_needed(store: &Store, tx: &mut Tx, spec: &RolloutSpec) -> Result<Option<String>> {
    let (Some(_), [host]) = (&spec.repair, &spec.hosts[..]) else { return Ok(None) };
    let serving = releases::serving(&mut tx.conn, &spec.environment, &spec.release.service).await?;
    if serving.is_none_or(|serving| serving.current.id != spec.release.id) {
        return Ok(Some(format!("release {} is not what is on record any more", spec.release.id)));
    }
    let is_gone = !store.environment(&spec.environment).hosts.contains(host);
    Ok(is_gone.then(|| format!("host `{host}` carries `{}` no more", spec.environment)))
}

async fn insert(
    store: &Store,
    tx: &mut Tx,
    (environment, service): (&str, &str),
    host: &str,
    (by, why): (&str, String),
) -> Result<Option<RolloutId>> {
    match joined::reachable(store, &mut tx.conn, &[host.to_owned()]).await {
        Ok(_) => {}
        // it would wait, and keep others waiting
        Err(StoreError::Refused(why)) => {
            tracing::debug!(host, environment, service, why, "a host is not brought up to date");
            return Ok(None);
        }
        Err(error) => return Err(error),
    }
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
    let rollout = StoredRollout::new(next_id(tx).await?, spec, by.to_owned(), tx.now);
    rollouts::insert(&mut tx.conn, &rollout).await?;
    tx.ring(Bell::Rollouts);
    Ok(Some(rollout.id()))
}
