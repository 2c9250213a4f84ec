//! Previews: the copies of services that open pull requests have. Each is a service of its own in the environment `preview`, and comes
//! and goes by rollouts as every other: this keeps which there are to be. Comes in: what GitHub tells of pull requests, steps that
//! ask for a preview, the ends of rollouts, times that are over. What decides is the newest word about the pull request.

use indexmap::IndexMap;
use segue_pipelines::preview::{ACTION, ENVIRONMENT, Occupant, Pull, makes_room, name};
use segue_schemas::{
    config::PreviewConfig,
    deploy::{JournalEntry, JournalKind, RolloutSpec, RouteRule, ServiceResources, Strategy},
    duration::Span,
    id::{RolloutId, RunId},
    plan::StepAction,
    preview::{Preview, PreviewState},
    status::RolloutStatus,
    trigger::{Event, Trigger},
    worker_api::CreateRollout,
};
use serde_json::json;

use super::{
    people::cancel_jobs,
    rollback::close_unstarted,
    rollouts::{end, next_id, ring},
};
use crate::store::{
    Bell, Result, Store, StoreError, Tx,
    sql::args,
    tables::{
        jobs::{self, Job},
        previews, releases,
        rollouts::{self, StoredRollout},
        runs::{self, Run},
    },
    told_previews::save,
};

/// The variable that holds a preview's own address.
const URL: &str = "SEGUE_PREVIEW_URL";
/// The variable that holds the pull request's number.
const NUMBER: &str = "SEGUE_PULL_REQUEST";
/// Runs of a pull request that are looked at.
const MOST_RUNS: u32 = 200;

impl Store {
    /// The previews of which something is left.
    pub async fn previews(&self) -> Result<Vec<Preview>> {
        previews::list(&mut self.read().await?, false).await
    }
}

/// Takes away those whose time is over; how many.
pub(super) async fn expire(store: &Store, tx: &mut Tx) -> Result<usize> {
    let expired = previews::expired(&mut tx.conn, tx.now).await?;
    let lives = settings(store).time_to_live;
    for preview in &expired {
        remove(store, tx, preview, &format!("there was no push for {lives}")).await?;
    }
    Ok(expired.len())
}

fn settings(store: &Store) -> PreviewConfig {
    store.environment(ENVIRONMENT).previews()
}

/// Takes note of what an event tells of a pull request. One that is closed by it has no previews from then on, and no run that makes
/// one; whatever the pipelines listen to.
pub(super) async fn hear(store: &Store, tx: &mut Tx, trigger: &Trigger) -> Result<()> {
    let Some(told) = Pull::of(trigger) else { return Ok(()) };
    note(store, tx, &trigger.repository, &told).await.map(drop)
}

/// The same of a pull request that was told of in whatever way; whether that was news.
pub(super) async fn note(store: &Store, tx: &mut Tx, repository: &str, told: &Pull) -> Result<bool> {
    let known = previews::pull(&mut tx.conn, repository, told.number).await?;
    if known.as_ref().is_some_and(|known| !told.replaces(known)) {
        return Ok(false);
    }
    previews::save_pull(&mut tx.conn, repository, told, tx.now).await?;
    if told.is_open {
        return Ok(true);
    }
    let reason = format!("#{} was closed", told.number);
    if known.is_none_or(|known| known.is_open) {
        end_runs(store, tx, repository, told.number, &reason).await?;
    }
    for preview in previews::of_pull(&mut tx.conn, repository, told.number).await? {
        if preview.state.is_there() {
            remove(store, tx, &preview, &reason).await?;
        }
    }
    Ok(true)
}

/// Cancels what still makes previews of a pull request.
async fn end_runs(store: &Store, tx: &mut Tx, repository: &str, number: u64, reason: &str) -> Result<()> {
    let sql = "SELECT id FROM runs WHERE repository = $1 AND git_ref = $2 AND ended_at IS NULL ORDER BY id LIMIT $3";
    let of_pull = format!("refs/pull/{number}/merge");
    for row in tx.conn.all(sql, args![repository, of_pull, MOST_RUNS]).await? {
        let id = RunId(row.int("id")?);
        let run = runs::load(&mut tx.conn, id).await?;
        let jobs = jobs::of_attempt(&mut tx.conn, id, run.record.attempt).await?;
        if jobs.iter().any(makes_one) {
            cancel_jobs(store, tx, id, format!("segue: {reason}")).await?;
        }
    }
    Ok(())
}

/// Whether a job makes a preview.
pub(super) fn makes_one(job: &Job) -> bool {
    let is_it =
        |action: &StepAction| matches!(action, StepAction::Uses { uses, .. } if uses.split('@').next() == Some(ACTION));
    job.record.plan.steps.iter().any(|step| is_it(&step.action))
}

/// What a step that asks for a preview gets.
pub(super) struct Wanted {
    preview: Preview,
    /// The variables of its service.
    pub(super) variables: IndexMap<String, String>,
    /// After how long without a request it is put to sleep.
    pub(super) sleep_after: Option<Span>,
}

/// Makes of a rollout that a step asks for one of the pull request's own copy, and makes room for it.
///
/// # Errors
/// [`StoreError::Refused`] where the run is for no pull request, for one that is closed, or for a fork that gets no preview;
/// [`StoreError::Outdated`] where the pull request has a newer commit.
pub(super) async fn prepare(store: &Store, tx: &mut Tx, run: &Run, create: &mut CreateRollout) -> Result<Wanted> {
    let refused = |why: String| Err(StoreError::Refused(why));
    let settings = settings(store);
    let (repository, commit) = (&run.record.repository, &run.record.commit);
    if create.environment != ENVIRONMENT {
        return refused(format!("`{ACTION}` belongs in a job with `environment: {ENVIRONMENT}`"));
    }
    let Event::PullRequest { number, .. } = run.trigger.event else {
        return refused(format!(
            "a preview is a pull request's, and this run is for a `{}`: let the job run for `pull_request` alone \
             (`if: github.event_name == 'pull_request'`)",
            run.record.event
        ));
    };
    // a run whose delivery came before pull requests were kept
    let told = Pull::of(&run.trigger);
    let pull = match (previews::pull(&mut tx.conn, repository, number).await?, told) {
        (Some(pull), _) | (None, Some(pull)) => pull,
        (None, None) => return refused(format!("nothing is known of #{number}")),
    };
    if !pull.is_open {
        return refused(format!("#{number} is closed: it has no preview any more"));
    }
    if pull.head != *commit {
        let (newer, older) = (pull.head.short(), commit.short());
        let why = format!("#{number} has the newer commit {newer}: {older} is not shown any more");
        return Err(StoreError::Outdated(why));
    }
    let is_fork = !run.record.trusted;
    let domain = if is_fork { fork_domain(store, &settings, create.image.is_some())? } else { settings.domain.clone() };
    let service = create.service.name.clone();
    let known = previews::of_service(&mut tx.conn, repository, number, &service).await?;
    if !known.as_ref().is_some_and(|known| known.state.is_there()) {
        make_room(store, tx, settings.at_most).await?;
    }
    let own_name = match &known {
        Some(known) => known.name.clone(),
        None => free_name(tx, repository, number, &service).await?,
    };
    let url = address(store, &settings, &format!("{own_name}.{domain}"));
    let stays = known.filter(|known| known.state.is_there());
    let preview = Preview {
        name: own_name.clone(),
        repository: repository.clone(),
        number,
        service,
        state: stays.as_ref().map_or(PreviewState::Starting, |known| known.state),
        url: url.clone(),
        is_fork,
        commit: stays.as_ref().and_then(|known| known.commit.clone()),
        run: Some(run.record.id),
        rollout: None,
        reason: None,
        created_at: stays.map_or(tx.now, |known| known.created_at),
        touched_at: tx.now,
        expires_at: tx.now + settings.time_to_live.0,
    };
    let spec = &mut create.service;
    spec.name.clone_from(&own_name);
    spec.routes = vec![RouteRule { environment: None, host: Some(format!("{own_name}.{domain}")), path: "/".into() }];
    spec.replicas = 1;
    if spec.container.is_some() {
        cap(&mut spec.resources, &settings);
    }
    // what served before is of no use to anybody
    spec.keep_warm = Span::seconds(0);
    // what the operator gave previews is not for code that anybody may have written
    let mut variables = if is_fork { IndexMap::new() } else { store.environment(ENVIRONMENT).variables };
    variables.insert(URL.into(), url);
    variables.insert(NUMBER.into(), number.to_string());
    Ok(Wanted { preview, variables, sleep_after: settings.sleep_after })
}

/// What a copy may have: what its service asks for, within what previews have.
fn cap(resources: &mut ServiceResources, settings: &PreviewConfig) {
    resources.memory = resources.memory.into_iter().chain(settings.memory).min();
    resources.cpus = resources.cpus.into_iter().chain(settings.cpus).reduce(f64::min);
}

/// Where previews of forks are.
fn fork_domain(store: &Store, settings: &PreviewConfig, is_container: bool) -> Result<String> {
    let Some(domain) = settings.fork_domain.clone() else {
        return Err(StoreError::Refused(format!(
            "previews of forks need a domain of their own, so that they share no cookies with others: name one as \
             `environments.{ENVIRONMENT}.fork-domain` in segue.yaml"
        )));
    };
    if !is_container && !store.config().github.forks_on_host {
        return Err(StoreError::Refused(
            "a fork's service would run on the host, as the host's user: where that may be, set `github.forks-on-host: true` \
             in segue.yaml; or have it run from an image (`container` in its file)"
                .into(),
        ));
    }
    Ok(domain)
}

/// Takes away those that were idle for longest, until there is room for one more.
async fn make_room(store: &Store, tx: &mut Tx, at_most: u32) -> Result<()> {
    let there: Vec<Preview> =
        previews::list(&mut tx.conn, false).await?.into_iter().filter(|one| one.state.is_there()).collect();
    let occupants = there.iter().map(|one| Occupant {
        name: one.name.clone(),
        is_idle: matches!(one.state, PreviewState::Failed | PreviewState::Asleep),
        touched_at: one.touched_at,
    });
    let gone = makes_room(occupants.collect(), at_most);
    for preview in there.iter().filter(|one| gone.contains(&one.name)) {
        remove(store, tx, preview, &format!("it made room for another: {at_most} are the limit")).await?;
    }
    Ok(())
}

async fn free_name(tx: &mut Tx, repository: &str, number: u64, service: &str) -> Result<String> {
    let plain = name(repository, number, service, false);
    if previews::find(&mut tx.conn, &plain).await?.is_none() {
        return Ok(plain);
    }
    let other = name(repository, number, service, true);
    match previews::find(&mut tx.conn, &other).await? {
        None => Ok(other),
        Some(_) => Err(StoreError::Conflict(format!(
            "the names `{plain}` and `{other}` both belong to other previews: give the service `{service}` another name"
        ))),
    }
}

/// Where a host name is reached: at the proxy of the environment's host, or at what speaks HTTPS in front of it.
fn address(store: &Store, settings: &PreviewConfig, host: &str) -> String {
    if settings.https {
        return format!("https://{host}");
    }
    let port = store.environment(ENVIRONMENT).hosts.first().and_then(|host| store.proxy_port(host));
    match port {
        None | Some(80) => format!("http://{host}"),
        Some(port) => format!("http://{host}:{port}"),
    }
}

/// The preview's rollout is there.
pub(super) async fn begun(store: &Store, tx: &mut Tx, mut wanted: Wanted, rollout: RolloutId) -> Result<()> {
    wanted.preview.rollout = Some(rollout);
    save(store, tx, &wanted.preview).await
}

/// Where a rollout's preview is, if it is one of a preview.
pub(super) fn url_of(spec: &RolloutSpec) -> Option<&String> {
    spec.variables.get(URL).filter(|_| spec.environment == ENVIRONMENT)
}

/// Has a preview taken away: what comes to it ends, and a rollout of its own takes away what is there.
pub(super) async fn remove(store: &Store, tx: &mut Tx, preview: &Preview, reason: &str) -> Result<()> {
    let mut preview = preview.clone();
    preview.state = PreviewState::Removing;
    preview.reason = Some(reason.to_owned());
    let known = match preview.rollout {
        Some(rollout) => match rollouts::load(&mut tx.conn, rollout).await {
            Ok(known) => Some(known),
            // what serves keeps its rollout: of this one nothing is there
            Err(StoreError::NotFound { .. }) => None,
            Err(error) => return Err(error),
        },
        None => None,
    };
    // first, so that the ends of its rollouts find it as it is now
    save(store, tx, &preview).await?;
    for open in rollouts::open_of_pair(&mut tx.conn, ENVIRONMENT, &preview.name).await? {
        stop(store, tx, open, reason).await?;
    }
    let Some(known) = known else {
        preview.state = PreviewState::Gone;
        return save(store, tx, &preview).await;
    };
    let spec =
        RolloutSpec { strategy: Strategy::Remove, previous: None, is_rollback: false, ..known.record.rollout.spec };
    let removal = StoredRollout::new(next_id(tx).await?, spec, "segue".into(), tx.now);
    rollouts::insert(&mut tx.conn, &removal).await?;
    preview.rollout = Some(removal.id());
    save(store, tx, &preview).await?;
    tracing::info!(preview = preview.name, reason, rollout = %removal.id(), "a preview is taken away");
    tx.ring(Bell::Rollouts);
    Ok(())
}

/// Ends a rollout of a preview that is taken away. One that is driven is not its driver's any more: the host refuses it as soon as the
/// removal's epoch came there.
async fn stop(store: &Store, tx: &mut Tx, mut rollout: StoredRollout, reason: &str) -> Result<()> {
    if !rollout.active {
        return close_unstarted(store, tx, rollout, reason.to_owned()).await;
    }
    let entry = JournalEntry {
        sequence: rollouts::journal_end(&mut tx.conn, rollout.id()).await? + 1,
        epoch: rollout.record.epoch,
        at: tx.now,
        kind: JournalKind::Ended,
        host: None,
        detail: json!({ "message": format!("ended: {reason}"), "status": "failed", "serves": "none" }),
    };
    rollouts::append_journal(&mut tx.conn, rollout.id(), &entry).await?;
    rollout.record.rollout.reason = Some(reason.to_owned());
    rollout.becomes(RolloutStatus::Failed, tx.now)?;
    rollouts::save(&mut tx.conn, &rollout).await?;
    ring(tx, &rollout);
    end(store, tx, &rollout).await
}

/// Has those taken away once more of which the removal has ended, and came to nothing; how many.
pub(super) async fn remove_again(store: &Store, tx: &mut Tx) -> Result<usize> {
    let mut again = 0;
    for preview in previews::list(&mut tx.conn, false).await? {
        if preview.state != PreviewState::Removing {
            continue;
        }
        if rollouts::open_of_pair(&mut tx.conn, ENVIRONMENT, &preview.name).await?.is_empty() {
            let reason = preview.reason.clone().unwrap_or_else(|| "its pull request was closed".into());
            remove(store, tx, &preview, &reason).await?;
            again += 1;
        }
    }
    Ok(again)
}

/// What the end of a rollout in the environment means for its preview.
pub(super) async fn ended(store: &Store, tx: &mut Tx, rollout: &StoredRollout) -> Result<()> {
    if rollout.environment() != ENVIRONMENT {
        return Ok(());
    }
    let Some(mut preview) = previews::find(&mut tx.conn, rollout.service()).await? else { return Ok(()) };
    let ended = &rollout.record.rollout;
    let has_succeeded = ended.status == RolloutStatus::Succeeded;
    if ended.spec.strategy == Strategy::Remove {
        if has_succeeded {
            releases::forget_serving(&mut tx.conn, ENVIRONMENT, &preview.name).await?;
        }
        if preview.state != PreviewState::Removing || preview.rollout != Some(ended.id) {
            return Ok(());
        }
        if has_succeeded {
            preview.state = PreviewState::Gone;
            preview.commit = None;
        } else {
            preview.reason.clone_from(&ended.reason);
        }
        return save(store, tx, &preview).await;
    }
    if !preview.state.is_there() {
        return Ok(());
    }
    if has_succeeded {
        preview.state = PreviewState::Serving;
        preview.commit = Some(ended.spec.release.commit.clone());
        preview.reason = None;
    } else {
        let serves = releases::serving(&mut tx.conn, ENVIRONMENT, &preview.name).await?;
        preview.state = if serves.is_some() { PreviewState::Serving } else { PreviewState::Failed };
        preview.reason.clone_from(&ended.reason);
    }
    save(store, tx, &preview).await
}

/// Whether a rollback point is made of a release that serves: of what is gone with its pull request there is no way back.
pub(super) fn has_points(spec: &RolloutSpec) -> bool {
    url_of(spec).is_none()
}
