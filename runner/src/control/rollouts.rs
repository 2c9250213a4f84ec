//! Rollouts: asked for by a step, driven by one worker at a time, one per environment and service.

use std::{collections::BTreeMap, net::SocketAddr, sync::PoisonError, time::Duration};

use indexmap::IndexMap;
use segue_pipelines::{container::pinned, progress::SkipCause};
use segue_schemas::{
    config::{HostConfig, LOCAL_HOST, NotificationEvent},
    deploy::{DataSpec, JournalEntry, JournalKind, Release, RolloutSpec, Strategy},
    host_api::ArtifactSource,
    id::{Digest, Epoch, JobId, ReleaseId, RolloutId},
    status::RolloutStatus,
    worker_api::{
        ClaimRequest, CreateRollout, CreatedRollout, Reported, RolloutClaim, RolloutHandBack, RolloutRenewed,
        RolloutReport,
    },
};
use serde_json::json;

use super::{
    advance::advance_run,
    in_step, joined, previews,
    resume::resume_after,
    rollback::{close_unstarted, make_way},
    workers,
};
use crate::store::{
    Bell, Result, Store, StoreError, Told, Tx, Word,
    outboxes::notify,
    tables::{
        blobs, jobs,
        releases::{self, Serving},
        rollouts::{self, StoredRollout},
        runs,
    },
};

/// Rollouts that a claim looks at before it gives up.
const LOOKED_AT: usize = 32;
/// How long a rollout is put off whose host is not configured.
const UNPLACED_PAUSE: Duration = Duration::from_secs(60);

impl Store {
    /// Stores the rollout that a step asks for, and the release if it is new. The same step of the same job gets the same
    /// rollout.
    ///
    /// # Errors
    /// [`StoreError::Refused`] where the environment requires another one first, [`StoreError::Conflict`] where the service
    /// is another repository's.
    pub async fn create_rollout(&self, job: JobId, create: CreateRollout) -> Result<CreatedRollout> {
        let store = self.clone();
        let bytes = match &create.image {
            Some(_) => None,
            None => self.artifact_wanted(&create.digest).await?,
        };
        let epoch = create.epoch;
        let created =
            self.write(move |tx| Box::pin(async move { self::create(&store, tx, job, create, bytes).await })).await;
        if let Err(StoreError::Outdated(why)) = &created {
            self.outdate(job, epoch, why.clone()).await?;
        }
        created
    }

    /// Notes that a newer commit has come in the place of a job's: what the job can't do now is no failure of it.
    async fn outdate(&self, job: JobId, epoch: Epoch, why: String) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                let mut job = jobs::load_held(&mut tx.conn, job, epoch).await?;
                job.skip_cause = Some(SkipCause::Superseded);
                job.stop_reason = Some(why);
                jobs::save(&mut tx.conn, &job).await
            })
        })
        .await
    }

    /// Leases a rollout: one that lost its driver, else the first of a free pair, rollbacks before others. `None`: listen
    /// to [`Bell::Rollouts`] and ask again.
    pub async fn claim_rollout(&self, request: &ClaimRequest) -> Result<Option<RolloutClaim>> {
        self.heard(&request.worker);
        let (store, request) = (self.clone(), request.clone());
        self.write(move |tx| Box::pin(async move { claim(&store, tx, &request).await })).await
    }

    /// Extends a rollout's lease and gives a person's word. To hold the answer back, listen to [`Bell::Rollout`] and ask
    /// [`Store::rollout_command`].
    pub async fn renew_rollout(&self, rollout: RolloutId, epoch: Epoch) -> Result<RolloutRenewed> {
        let (store, length) = (self.clone(), self.config().timing.lease.0);
        let access = self.write(move |tx| {
            Box::pin(async move {
                let held = rollouts::load_held(&mut tx.conn, rollout, epoch).await?;
                rollouts::extend(&mut tx.conn, rollout, tx.now, tx.now + length).await?;
                joined::next_access(&store, tx, &held).await
            })
        });
        let access = access.await?;
        Ok(RolloutRenewed { access, ..self.rollout_command(rollout, epoch).await? })
    }

    /// A person's word to a held rollout: given once to each owner, and again if the journal does not have it two renewals
    /// later (the answer was lost). [`StoreError::StaleEpoch`] when the lease has gone.
    pub async fn rollout_command(&self, rollout: RolloutId, epoch: Epoch) -> Result<RolloutRenewed> {
        let held = rollouts::load_held(&mut self.read().await?, rollout, epoch).await?;
        let Some(Word { command, by, number }) = held.record.command else {
            return Ok(RolloutRenewed::default());
        };
        let (now, again_after) = (self.now(), self.config().timing.renew.0 * 2);
        let mut told = self.inner.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, told| now.since(told.at) < Duration::from_secs(3600));
        let is_it = |told: &Told| told.to == epoch && told.number == number;
        if told.get(&rollout).is_some_and(|told| is_it(told) && now.since(told.at) < again_after) {
            return Ok(RolloutRenewed::default());
        }
        told.insert(rollout, Told { to: epoch, number, at: now });
        Ok(RolloutRenewed { command: Some(command), by: Some(by), word: number, ..RolloutRenewed::default() })
    }

    /// Appends to a rollout's journal and stores where it stands; durable when this returns. At its end the waiting job goes
    /// on, the release becomes current and a rollback point, and whoever is to be told is told.
    pub async fn report_rollout(&self, rollout: RolloutId, report: RolloutReport) -> Result<Reported> {
        let store = self.clone();
        self.write(move |tx| Box::pin(async move { self::report(&store, tx, rollout, report).await })).await
    }

    /// A rollout is claimable again at once (or after `not_before_ms`), as it stands.
    pub async fn hand_back_rollout(&self, rollout: RolloutId, hand_back: RolloutHandBack) -> Result<Reported> {
        self.write(move |tx| {
            Box::pin(async move {
                let mut held = rollouts::load_held(&mut tx.conn, rollout, hand_back.epoch).await?;
                tracing::info!(%rollout, reason = hand_back.reason, "a rollout was handed back");
                held.not_before = tx.now + Duration::from_millis(hand_back.not_before_ms);
                held.let_go();
                rollouts::save(&mut tx.conn, &held).await?;
                tx.ring(Bell::Rollouts);
                Ok(Reported { cancel: false })
            })
        })
        .await
    }
}

async fn create(
    store: &Store,
    tx: &mut Tx,
    id: JobId,
    mut create: CreateRollout,
    bytes: Option<u64>,
) -> Result<CreatedRollout> {
    let job = jobs::load_held(&mut tx.conn, id, create.epoch).await?;
    if let Some(known) = rollouts::of_step(&mut tx.conn, id, create.step).await? {
        let url = previews::url_of(&known.record.rollout.spec).cloned();
        return Ok(CreatedRollout { rollout: known.id(), release: known.record.rollout.spec.release, url });
    }
    let environment = create.environment.clone();
    if job.record.plan.environment.as_deref() != Some(environment.as_str()) {
        return Err(StoreError::Refused(format!(
            "the job is not one for the environment `{environment}`: write `environment: {environment}` at the job"
        )));
    }
    check_content(&create, bytes)?;
    let run = runs::load(&mut tx.conn, job.record.run).await?;
    if !run.record.trusted && !create.preview {
        let problem = format!("code from outside the repository does not come into the environment `{environment}`");
        return Err(StoreError::Refused(problem));
    }
    let wanted = if create.preview { Some(previews::prepare(store, tx, &run, &mut create).await?) } else { None };
    let service = create.service.name.clone();
    require_passed(store, tx, &environment, &service, &create.digest).await?;
    let serving = releases::serving(&mut tx.conn, &environment, &service).await?;
    own_service(&run.record.repository, &environment, &service, serving.as_ref())?;
    let release = Release {
        id: ReleaseId(0),
        repository: run.record.repository.clone(),
        service,
        digest: create.digest,
        image: create.image,
        commit: run.record.commit.clone(),
        run: run.record.id,
        created_at: tx.now,
    };
    let release = releases::get_or_insert(&mut tx.conn, release).await?;
    if let Some(bytes) = bytes {
        blobs::touch(&mut tx.conn, &release.digest, bytes, tx.now).await?;
    }
    let settings = store.environment(&environment);
    joined::reachable(store, &mut tx.conn, &settings.hosts).await?;
    let spec = RolloutSpec {
        release: release.clone(),
        service: create.service,
        environment,
        hosts: settings.hosts,
        strategy: create.strategy,
        previous: serving.map(|s| s.current),
        is_rollback: false,
        sleep_after: wanted.as_ref().and_then(|wanted| wanted.sleep_after),
        data: wanted.is_some().then(|| DataSpec { seed: create.seed.take() }),
        repair: None,
        variables: wanted.as_ref().map_or(settings.variables, |wanted| wanted.variables.clone()),
    };
    let url = previews::url_of(&spec).cloned();
    let mut rollout = StoredRollout::new(next_id(tx).await?, spec, run.record.actor, tx.now);
    rollout.record.rollout.run = Some(run.record.id);
    rollout.record.job = Some(id);
    rollout.record.step = Some(create.step);
    let pair = (rollout.environment().to_owned(), rollout.service().to_owned());
    for repair in rollouts::open_of_pair(&mut tx.conn, &pair.0, &pair.1).await? {
        if repair.record.rollout.spec.repair.is_some() {
            make_way(store, tx, repair, "a new release comes to all hosts").await?;
        }
    }
    rollouts::insert(&mut tx.conn, &rollout).await?;
    if let Some(wanted) = wanted {
        previews::begun(store, tx, wanted, rollout.id()).await?;
    }
    tx.ring(Bell::Rollouts);
    tx.ring(Bell::Run(run.record.id));
    Ok(CreatedRollout { rollout: rollout.id(), release, url })
}

/// What is rolled out is here, or an image that can't come to mean another one.
fn check_content(create: &CreateRollout, bytes: Option<u64>) -> Result<()> {
    let (service, digest) = (&create.service.name, &create.digest);
    let problem = match &create.image {
        None if bytes.is_none() => format!("the artifact {digest} is not here: upload it first"),
        Some(image) if pinned(image).as_ref() != Some(digest) => {
            format!("the image `{image}` is not named by the digest {digest}")
        }
        image if image.is_some() != create.service.container.is_some() => {
            format!("`{service}` is run from an image exactly where its file has `container`")
        }
        _ => return Ok(()),
    };
    Err(StoreError::Refused(problem))
}

pub(super) async fn next_id(tx: &mut Tx) -> Result<RolloutId> {
    Ok(RolloutId(tx.conn.next_number("rollout").await?))
}

async fn require_passed(store: &Store, tx: &mut Tx, environment: &str, service: &str, digest: &Digest) -> Result<()> {
    for required in store.required_environments(environment) {
        if !rollouts::has_passed(&mut tx.conn, &required, service, digest).await? {
            return Err(StoreError::Refused(format!(
                "`{environment}` takes only what has passed `{required}`, and this artifact of `{service}` ({digest}) has not: \
                 deploy the same artifact there first, or change `environments.{environment}.requires`"
            )));
        }
    }
    Ok(())
}

fn own_service(repository: &str, environment: &str, service: &str, serving: Option<&Serving>) -> Result<()> {
    match serving {
        Some(serving) if serving.current.repository != repository => Err(StoreError::Conflict(format!(
            "the service `{service}` in `{environment}` is that of {}: give one of the two another name",
            serving.current.repository
        ))),
        _ => Ok(()),
    }
}

impl Store {
    /// The port at which a host's proxy is reached: the one that is configured, or that the host told.
    #[must_use]
    pub fn proxy_port(&self, host: &str) -> Option<u16> {
        let configured = self.config().hosts.get(host).and_then(|host| host.listen.first());
        let configured =
            configured.and_then(|address| address.parse::<SocketAddr>().ok()).map(|address| address.port());
        let told = || self.inner.proxy_ports.lock().unwrap_or_else(PoisonError::into_inner).get(host).copied();
        configured.filter(|port| *port != 0).or_else(told)
    }

    /// The hosts of the machines of servers and workers, with their sockets.
    #[must_use]
    pub fn local_hosts(&self) -> IndexMap<String, String> {
        sockets(self)
    }

    /// A host that there is told where its proxy listens.
    pub fn proxy_listens(&self, host: &str, listen: &[String]) {
        let port = listen.first().and_then(|address| address.parse::<SocketAddr>().ok()).map(|address| address.port());
        if let Some(port) = port {
            self.inner.proxy_ports.lock().unwrap_or_else(PoisonError::into_inner).insert(host.to_owned(), port);
        }
    }
}

/// Every host that there is on the machines of servers and workers, with its socket.
pub(super) fn sockets(store: &Store) -> IndexMap<String, String> {
    let (config, data) = (&store.config().hosts, &store.inner.data);
    let own = || HostConfig::default().socket_in(LOCAL_HOST, data);
    let local = (!config.contains_key(LOCAL_HOST)).then(|| (LOCAL_HOST.to_owned(), own()));
    let here = config.iter().filter(|(name, host)| *name == LOCAL_HOST || host.is_here());
    let named = here.map(|(name, host)| (name.clone(), host.socket_in(name, data)));
    named.chain(local).map(|(name, path)| (name, path.to_string_lossy().into_owned())).collect()
}

/// The next rollout whose hosts there are. One of a host that is not there any more is put off, so that it keeps no other back; one that
/// has begun goes on without an address, so that its worker ends it when the patience with an absent host does. One that the worker can't drive,
/// as it is older, is left to a newer one with all that wait behind it in its pair. `known`: what it said that it can.
async fn next_with_hosts(
    store: &Store,
    tx: &mut Tx,
    known: &[String],
) -> Result<Option<(StoredRollout, IndexMap<String, String>)>> {
    let mut left: Vec<(String, String)> = Vec::new();
    let mut left_out = 0;
    for _ in 0..LOOKED_AT {
        let Some(mut rollout) = rollouts::next_claimable(&mut tx.conn, tx.now, left_out).await? else {
            return Ok(None);
        };
        let pair = (rollout.environment().to_owned(), rollout.service().to_owned());
        if left.contains(&pair) {
            left_out += 1;
            continue;
        }
        let newer = rollout.record.rollout.spec.newer().find(|newer| !known.iter().any(|known| known == newer));
        if let Some(what) = newer {
            tracing::warn!(rollout = %rollout.id(), what, "it waits for a worker of a version that can drive it");
            left.push(pair);
            left_out += 1;
            continue;
        }
        if !rollout.active
            && let Some(why) = in_step::is_not_needed(store, tx, &rollout.record.rollout.spec).await?
        {
            close_unstarted(store, tx, rollout, why).await?;
            continue;
        }
        match joined::reachable(store, &mut tx.conn, &rollout.record.rollout.spec.hosts).await {
            Ok(hosts) => return Ok(Some((rollout, hosts))),
            Err(StoreError::Refused(_)) if rollout.active => return Ok(Some((rollout, IndexMap::new()))),
            Err(error) => {
                tracing::error!(rollout = %rollout.id(), %error, "a rollout can't begin");
                rollout.not_before = tx.now + UNPLACED_PAUSE;
                rollouts::save(&mut tx.conn, &rollout).await?;
            }
        }
    }
    Ok(None)
}

async fn claim(store: &Store, tx: &mut Tx, request: &ClaimRequest) -> Result<Option<RolloutClaim>> {
    // a rollout takes no job's place; what matters is that the worker is the one that is registered
    if workers::room(tx, &request.worker, &request.incarnation).await?.draining {
        return Ok(None);
    }
    let Some((mut rollout, hosts)) = next_with_hosts(store, tx, &request.strategies).await? else { return Ok(None) };
    let (environment, service) = (rollout.environment().to_owned(), rollout.service().to_owned());
    if !rollout.active {
        // what serves now is what it replaces, not what served when it queued up
        let serving = releases::serving(&mut tx.conn, &environment, &service).await?;
        let at_host = in_step::former(tx, &rollout.record.rollout.spec).await?;
        rollout.record.rollout.spec.previous = at_host.or(serving.map(|s| s.current));
        rollouts::save_spec(&mut tx.conn, &rollout).await?;
        rollout.active = true;
        rollout.started_at = Some(tx.now);
        rollout.becomes(RolloutStatus::Running, tx.now)?;
    }
    rollout.record.epoch = rollouts::next_epoch(&mut tx.conn, &environment, &service).await?;
    rollout.record.worker = Some(request.worker.clone());
    rollout.record.lease_until = Some(tx.now + store.config().timing.lease.0);
    rollout.incarnation = Some(request.incarnation.clone());
    rollout.heard_at = Some(tx.now);
    rollout.not_before = segue_schemas::time::Timestamp(0);
    rollouts::save(&mut tx.conn, &rollout).await?;
    tx.ring(Bell::Leases);
    ring(tx, &rollout);
    let spec = &rollout.record.rollout.spec;
    let sources = [Some(&spec.release), spec.previous.as_ref()].into_iter().flatten();
    let id = (rollout.id(), rollout.record.epoch);
    let hosts = with_givers(store, tx, &rollout, hosts).await?;
    let access = joined::access(store, tx, &request.worker, id, &hosts).await?;
    // what lies elsewhere, hosts fetch by way of the API; those that joined ask their server, whatever stands here
    let file = |release: &Release| {
        if release.image.is_some() {
            return None;
        }
        let path = store.artifacts().path(&release.digest)?;
        Some((release.digest.clone(), ArtifactSource::File(path.to_string_lossy().into_owned())))
    };
    Ok(Some(RolloutClaim {
        hosts,
        artifacts: sources.filter_map(file).collect::<BTreeMap<_, _>>(),
        access,
        epoch: rollout.record.epoch,
        journal: rollouts::journal(&mut tx.conn, rollout.id(), 0).await?,
        rollout: rollout.record.rollout,
        dead_man_ms: store.config().timing.dead_man.as_millis(),
    }))
}

/// The same with those that data are to come from: what a rollout's worker can reach.
pub(super) async fn with_givers(
    store: &Store,
    tx: &mut Tx,
    rollout: &StoredRollout,
    mut hosts: IndexMap<String, String>,
) -> Result<IndexMap<String, String>> {
    if let Strategy::Sync(sync) = &rollout.record.rollout.spec.strategy {
        match joined::reachable(store, &mut tx.conn, &sync.hosts).await {
            Ok(givers) => givers.into_iter().for_each(|(name, address)| {
                hosts.entry(name).or_insert(address);
            }),
            // its worker says which is missing
            Err(StoreError::Refused(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(hosts)
}

async fn report(store: &Store, tx: &mut Tx, id: RolloutId, report: RolloutReport) -> Result<Reported> {
    let newest = rollouts::journal_end(&mut tx.conn, id).await?;
    let known = rollouts::load(&mut tx.conn, id).await?;
    let ended = known.record.rollout.status.is_final() && known.record.epoch == report.epoch;
    if ended && known.record.rollout.status == report.status && report.entries.iter().all(|e| e.sequence <= newest) {
        return Ok(Reported { cancel: false });
    }
    let mut rollout = rollouts::load_held(&mut tx.conn, id, report.epoch).await?;
    store.note_silent(&rollout.record.rollout.spec.hosts, report.entries.iter().filter(|e| e.sequence > newest));
    append(tx, id, newest, report.epoch, report.entries).await?;
    let before = rollout.record.rollout.status;
    let stands = &mut rollout.record.rollout;
    stands.weight = report.weight;
    stands.stage = report.stage;
    stands.reason = match report.status {
        RolloutStatus::Succeeded | RolloutStatus::RolledBack if stands.spec.hosts.len() > 1 => {
            without(tx, id, report.reason).await?
        }
        _ => report.reason,
    };
    stands.verdict = report.verdict.or(stands.verdict.take());
    stands.state = report.state;
    rollout.record.lease_until = Some(tx.now + store.config().timing.lease.0);
    rollout.heard_at = Some(tx.now);
    if let Some(word) = &rollout.record.command
        && has_heard(tx, id, newest, word).await?
    {
        rollout.record.command = None;
    }
    rollout.becomes(report.status, tx.now)?;
    rollouts::save(&mut tx.conn, &rollout).await?;
    if report.status.is_final() {
        end(store, tx, &rollout).await?;
    } else if report.status == RolloutStatus::Held && before != RolloutStatus::Held {
        tell(tx, NotificationEvent::Held, &rollout, newest).await?;
    }
    ring(tx, &rollout);
    Ok(Reported { cancel: false })
}

/// The reason of a rollout that ended, with the hosts that were left out of it and why.
async fn without(tx: &mut Tx, id: RolloutId, reason: Option<String>) -> Result<Option<String>> {
    let mut left_out: BTreeMap<String, String> = BTreeMap::new();
    for entry in rollouts::journal(&mut tx.conn, id, 0).await? {
        let why = entry.detail["reason"].as_str().or(entry.detail["message"].as_str());
        if let (JournalKind::Quarantined, Some(host)) = (entry.kind, entry.host) {
            left_out.entry(host).or_insert_with(|| why.unwrap_or("the journal says why").to_owned());
        }
    }
    let left_out = left_out.into_iter().map(|(host, why)| format!("without {host}: {why}"));
    let all: Vec<String> = reason.into_iter().chain(left_out).collect();
    Ok((!all.is_empty()).then(|| all.join("; ")))
}

/// Adds what is new to the journal; what is there already is the same report once more.
async fn append(tx: &mut Tx, id: RolloutId, newest: i64, epoch: Epoch, entries: Vec<JournalEntry>) -> Result<()> {
    for (wanted, mut entry) in (newest + 1..).zip(entries.into_iter().filter(|e| e.sequence > newest)) {
        if entry.sequence != wanted {
            return Err(StoreError::Conflict(format!(
                "the journal of rollout {id} goes on with entry {wanted}, not with {}",
                entry.sequence
            )));
        }
        entry.at = tx.now;
        entry.epoch = epoch;
        rollouts::append_journal(&mut tx.conn, id, &entry).await?;
    }
    Ok(())
}

/// Whether the journal has a person's word since an entry: this one, and not one before it. An older worker does not say which.
async fn has_heard(tx: &mut Tx, id: RolloutId, after: i64, word: &Word) -> Result<bool> {
    let new = rollouts::journal(&mut tx.conn, id, after).await?;
    let heard =
        new.iter().filter(|entry| entry.kind == JournalKind::Command).map(|entry| entry.detail["word"].as_i64());
    Ok(heard.into_iter().any(|heard| heard.zip(word.number).is_none_or(|(heard, word)| heard >= word)))
}

/// What follows from a rollout's end, whoever ended it: what serves, who is told, and that the job goes on.
pub(super) async fn end(store: &Store, tx: &mut Tx, rollout: &StoredRollout) -> Result<()> {
    let ended = &rollout.record.rollout;
    tx.ring(Bell::Rollouts);
    match ended.status {
        // what it takes away serves no more
        _ if ended.spec.strategy == Strategy::Remove => {}
        // the release that serves is the same as before
        RolloutStatus::Succeeded if ended.spec.strategy.brings_data() => {}
        // nor is another one on record where a host was brought to it
        RolloutStatus::Succeeded if ended.spec.repair.is_some() => {}
        RolloutStatus::Succeeded => serve(store, tx, rollout).await?,
        RolloutStatus::RolledBack | RolloutStatus::Failed if !in_step::is_worth_telling(tx, rollout).await? => {}
        RolloutStatus::RolledBack => tell(tx, NotificationEvent::RolledBack, rollout, 0).await?,
        // without a run nobody else would tell of it
        RolloutStatus::Failed if ended.run.is_none() => tell(tx, NotificationEvent::RolledBack, rollout, 0).await?,
        _ => {}
    }
    previews::ended(store, tx, rollout).await?;
    let Some(id) = rollout.record.job else { return Ok(()) };
    let Some(mut job) = jobs::waiting_for(&mut tx.conn, id, ended.id).await? else { return Ok(()) };
    resume_after(store, tx, &mut job, rollout).await?;
    jobs::save(&mut tx.conn, &job).await?;
    advance_run(store, tx, job.record.run).await
}

/// The release serves: it is current, and a point to come back to.
pub(super) async fn serve(store: &Store, tx: &mut Tx, rollout: &StoredRollout) -> Result<()> {
    let (ended, environment) = (&rollout.record.rollout, rollout.environment());
    let release = &ended.spec.release;
    // what it shows of its deployment is another thing from now on
    if let Some(before) = releases::run_that_serves(&mut tx.conn, environment, &release.service).await? {
        tx.ring(Bell::Run(before));
    }
    releases::set_serving(&mut tx.conn, environment, release, ended.id, tx.now).await?;
    if !previews::has_points(&ended.spec) {
        return Ok(());
    }
    let repository = store.config().repositories.get(&release.repository);
    let wanted = repository.and_then(|r| r.rollback_tags) != Some(false);
    if releases::insert_point(&mut tx.conn, environment, release, ended.id, wanted, tx.now).await? && wanted {
        tx.ring(Bell::Tags);
    }
    Ok(())
}

/// Rings for those who watch a rollout or its run.
pub(super) fn ring(tx: &mut Tx, rollout: &StoredRollout) {
    tx.ring(Bell::Rollout(rollout.id()));
    if let Some(run) = rollout.record.rollout.run {
        tx.ring(Bell::Run(run));
    }
}

pub(super) async fn tell(tx: &mut Tx, event: NotificationEvent, rollout: &StoredRollout, at: i64) -> Result<()> {
    let r = &rollout.record.rollout;
    let (service, environment, release) = (rollout.service(), rollout.environment(), &r.spec.release);
    let what = if event == NotificationEvent::Held { "is held" } else { "was rolled back" };
    let at_host = match (&r.spec.repair, &r.spec.hosts[..]) {
        (Some(_), [host]) => format!(" at host `{host}`, which is tried on"),
        _ => String::new(),
    };
    let left = r.spec.previous.as_ref().filter(|_| r.spec.is_rollback && r.status == RolloutStatus::Succeeded);
    let serves_again = left.map(|left| format!("serves again, in the place of release {},", left.id));
    let what = match (&r.spec.strategy, r.status) {
        _ if serves_again.is_some() => serves_again.as_deref().unwrap_or_default(),
        _ if r.spec.repair.is_some() => "could not be brought to where it belongs",
        (Strategy::Restore { .. }, _) => "was not given its data back",
        (Strategy::Sync(_), _) => "was not given data of another environment",
        (_, RolloutStatus::Failed) => "did not become ready",
        _ => what,
    };
    let reason = r.reason.as_deref().unwrap_or("no reason was given");
    let detail = json!({
        "summary": format!(
            "release {} of {service} (commit {}) {what} in {environment}{at_host}: {reason}",
            release.id, release.commit.short()
        ),
        "environment": environment,
        "service": service,
        "repository": release.repository,
        "release": release.id,
        "commit": release.commit,
        "previous": r.spec.previous.as_ref().map(|p| p.id),
        "status": r.status,
        "weight": r.weight,
        "stage": r.stage,
        "reason": r.reason,
        "verdict": r.verdict,
    });
    let key = format!("rollout {} {what} {at}", r.id);
    notify(tx, event, key, r.run, Some(r.id), &detail).await
}
