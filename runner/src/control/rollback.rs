//! Words of people to rollouts, and the ways back.

use segue_pipelines::preview::ENVIRONMENT;
use segue_schemas::{
    config::NotificationEvent,
    deploy::{JournalEntry, JournalKind, Release, RolloutCommand, RolloutSpec, Strategy},
    host_api::EmergencyResult,
    id::{JobId, RolloutId, RunId},
    status::RolloutStatus,
};
use serde_json::json;

use super::{
    in_step,
    rollouts::{end, next_id, ring, serve, tell},
};
use crate::store::{
    Bell, Result, RollbackTarget, Store, StoreError, Tx, Word,
    tables::{
        previews,
        releases::{self, Serving},
        rollouts::{self, StoredRollout},
    },
};

impl Store {
    /// A person's word to a rollout. One that nobody has started yet is ended by `Abort` at once; `Promote` and `Skip` are
    /// refused there.
    pub async fn command_rollout(&self, rollout: RolloutId, command: RolloutCommand, by: String) -> Result<()> {
        self.command_rollout_once(rollout, command, by, None).await
    }

    /// The same of a word that may be asked for again, because the answer was lost: what it is asked for by tells it. A rollout knows the
    /// last 32 of them.
    pub async fn command_rollout_once(
        &self,
        rollout: RolloutId,
        command: RolloutCommand,
        by: String,
        ask: Option<String>,
    ) -> Result<()> {
        let store = self.clone();
        self.write(move |tx| {
            Box::pin(async move {
                let mut found = rollouts::load(&mut tx.conn, rollout).await?;
                if ask.as_ref().is_some_and(|ask| found.asks.contains(ask)) {
                    return Ok(());
                }
                if found.record.rollout.status.is_final() {
                    let status = found.record.rollout.status;
                    return Err(StoreError::Conflict(format!("rollout {rollout} has ended: it is {status}")));
                }
                if !found.active && command != RolloutCommand::Abort {
                    return Err(StoreError::Conflict(format!(
                        "rollout {rollout} waits for the one before it: there is nothing to promote or skip yet"
                    )));
                }
                if found.record.rollout.status == RolloutStatus::RollingBack && command != RolloutCommand::Abort {
                    return Err(StoreError::Conflict(format!(
                        "rollout {rollout} is rolling back: it can't be promoted or skipped any more"
                    )));
                }
                ask.into_iter().for_each(|ask| found.remember(ask));
                order(&store, tx, found, command, by).await
            })
        })
        .await
    }

    /// Goes back to an earlier release of a service. A rollout that runs is aborted first, those that wait for the pair are
    /// ended; where the abort alone brings the target back, the rollout that is aborted is the answer.
    ///
    /// # Errors
    /// [`StoreError::Refused`] where there is nothing to go back to, [`StoreError::NotFound`] for an unknown tag or release.
    pub async fn create_rollback(
        &self,
        environment: &str,
        service: &str,
        target: RollbackTarget,
        by: String,
    ) -> Result<RolloutId> {
        let (store, environment, service) = (self.clone(), environment.to_owned(), service.to_owned());
        let by = Asker { name: by, of_step: None };
        self.write(move |tx| Box::pin(async move { create(&store, tx, &environment, &service, target, by).await }))
            .await
    }

    /// Records an emergency rollback that was done at a host without the server: the epoch rises past the host's, what
    /// drove the pair is ended, the release that serves is current. Once recorded, the same epoch changes nothing but that the host is
    /// put on record where whoever told of it first could not name it. With the rollout comes
    /// whether it is new.
    pub async fn record_emergency(
        &self,
        environment: &str,
        service: &str,
        result: EmergencyResult,
        reason: String,
        host: Option<&str>,
    ) -> Result<(RolloutId, bool)> {
        let (store, environment, service) = (self.clone(), environment.to_owned(), service.to_owned());
        let host = host.map(str::to_owned);
        self.write(move |tx| {
            Box::pin(async move { emergency(&store, tx, (&environment, &service), result, &reason, host).await })
        })
        .await
    }

    /// A host has seen an epoch of a pair: none at or below it is given out any more. The server is behind its host after an
    /// emergency there, and after it was put back to an earlier state.
    pub async fn epoch_seen(&self, environment: &str, service: &str, epoch: segue_schemas::id::Epoch) -> Result<()> {
        if self.highest_epoch(environment, service).await? >= epoch {
            return Ok(());
        }
        let (environment, service) = (environment.to_owned(), service.to_owned());
        self.write(move |tx| {
            Box::pin(async move { rollouts::raise_epoch(&mut tx.conn, &environment, &service, epoch).await })
        })
        .await
    }

    /// The highest epoch of a pair that was given out or seen: what a host reports above it, was done without the server.
    pub async fn highest_epoch(&self, environment: &str, service: &str) -> Result<segue_schemas::id::Epoch> {
        rollouts::highest_epoch(&mut self.read().await?, environment, service).await
    }
}

/// Gives a word to a rollout's driver; one without a driver is ended by an abort. The same word, said again before the driver has heard it, is the
/// one that waits: whoever says it sees the rollout as it stood when that one was said.
pub(super) async fn order(
    store: &Store,
    tx: &mut Tx,
    mut rollout: StoredRollout,
    command: RolloutCommand,
    by: String,
) -> Result<()> {
    if rollout.active {
        let waits = |word: &Word| word.command == command && word.number.is_some();
        if rollout.record.command.as_ref().is_some_and(waits) {
            return rollouts::save(&mut tx.conn, &rollout).await;
        }
        let number = Some(tx.conn.next_number("word").await?);
        rollout.record.command = Some(Word { command, by, number });
        rollouts::save(&mut tx.conn, &rollout).await?;
        ring(tx, &rollout);
        return Ok(());
    }
    close_unstarted(store, tx, rollout, format!("aborted by {by} before it began")).await
}

/// Ends a rollout that never had a driver: nothing was changed.
pub(super) async fn close_unstarted(
    store: &Store,
    tx: &mut Tx,
    mut rollout: StoredRollout,
    reason: String,
) -> Result<()> {
    rollout.record.rollout.reason = Some(reason);
    rollout.becomes(RolloutStatus::Failed, tx.now)?;
    rollouts::save(&mut tx.conn, &rollout).await?;
    ring(tx, &rollout);
    end(store, tx, &rollout).await
}

/// Who asks for a way back.
pub(super) struct Asker {
    pub(super) name: String,
    /// The step that waits for it.
    pub(super) of_step: Option<(RunId, JobId, usize)>,
}

/// Makes the rollout that goes back. One that runs is aborted for a person; a step is told to wait for it.
pub(super) async fn create(
    store: &Store,
    tx: &mut Tx,
    environment: &str,
    service: &str,
    target: RollbackTarget,
    asker: Asker,
) -> Result<RolloutId> {
    let by = asker.name;
    if environment == ENVIRONMENT && previews::find(&mut tx.conn, service).await?.is_some() {
        return Err(StoreError::Refused(format!(
            "`{service}` is a preview, which shows its pull request's newest commit: push another, or have it made again by \
             `/segue preview`"
        )));
    }
    let serving = releases::serving(&mut tx.conn, environment, service).await?.ok_or_else(|| {
        StoreError::Refused(format!(
            "nothing has been deployed as `{service}` to `{environment}` yet: there is no way back"
        ))
    })?;
    let open = rollouts::open_of_pair(&mut tx.conn, environment, service).await?;
    let (active, queued): (Vec<_>, Vec<_>) = open.into_iter().partition(|r| r.active);
    let active = active.into_iter().next();
    let repairs = |r: &StoredRollout| r.record.rollout.spec.repair.is_some();
    if let (Some(active), Some(_)) = (active.as_ref().filter(|active| !repairs(active)), asker.of_step) {
        return Err(StoreError::Conflict(format!(
            "rollout {} of `{service}` to `{environment}` is on its way: a step can't interrupt it; a person can, by `segue rollback`",
            active.id()
        )));
    }
    // one that brings data back has no release of its own to be undone, nor one that brings a host to what is on record
    let brings_release = active.as_ref().is_some_and(|r| !r.record.rollout.spec.strategy.brings_data() && !repairs(r));
    let to = resolve(tx, environment, service, &serving, brings_release, target).await?;
    if to.id == serving.current.id && active.as_ref().is_none_or(repairs) {
        return serves_already(store, tx, (environment, service), &to, &by, asker.of_step.is_some()).await;
    }
    for waiting in queued {
        close_unstarted(store, tx, waiting, format!("{by} asked for a rollback of `{service}`")).await?;
    }
    let active = match active {
        // its host may not answer for long, and the others are not to wait for it
        Some(repair) if repairs(&repair) => {
            let why = format!("{by} rolls `{service}` back: that host is brought to where it goes afterwards");
            make_way(store, tx, repair, &why).await?;
            None
        }
        other => other,
    };
    if let Some(active) = active {
        let id = active.id();
        order(store, tx, active, RolloutCommand::Abort, format!("{by} (rollback)")).await?;
        if to.id == serving.current.id {
            return Ok(id);
        }
    }
    let known = rollouts::last_spec(&mut tx.conn, environment, &to).await?;
    let known = known.ok_or_else(|| {
        StoreError::Refused(format!("release {} of `{service}` has never served `{environment}`", to.id))
    })?;
    let settings = store.environment(environment);
    let spec = RolloutSpec {
        release: to,
        service: known.service,
        environment: environment.into(),
        hosts: settings.hosts,
        strategy: Strategy::HotSwap,
        previous: Some(serving.current),
        is_rollback: true,
        variables: settings.variables,
        sleep_after: None,
        data: None,
        repair: None,
    };
    let mut rollout = StoredRollout::new(next_id(tx).await?, spec, by, tx.now);
    if let Some((run, job, step)) = asker.of_step {
        rollout.record.rollout.run = Some(run);
        rollout.record.job = Some(job);
        rollout.record.step = Some(step);
    }
    rollouts::insert(&mut tx.conn, &rollout).await?;
    tx.ring(Bell::Rollouts);
    Ok(rollout.id())
}

/// What is asked for is on record. For a person it is brought to those of several hosts that do not serve it.
async fn serves_already(
    store: &Store,
    tx: &mut Tx,
    (environment, service): (&str, &str),
    to: &Release,
    by: &str,
    is_step: bool,
) -> Result<RolloutId> {
    let serves = format!("release {} of `{service}` serves `{environment}` already", to.id);
    if is_step || store.environment(environment).hosts.len() < 2 {
        return Err(StoreError::Refused(serves));
    }
    let (brought, silent) = in_step::bring_all(store, tx, environment, service, by).await?;
    brought.first().copied().ok_or_else(|| {
        let of_others = match &silent[..] {
            [] => String::new(),
            silent => format!("; it is brought to {} when heard again", silent.join(", ")),
        };
        StoreError::Refused(format!("{serves}, at every host that answers{of_others}"))
    })
}

/// The release that is meant.
async fn resolve(
    tx: &mut Tx,
    environment: &str,
    service: &str,
    serving: &Serving,
    is_rolling: bool,
    target: RollbackTarget,
) -> Result<Release> {
    match target {
        // what a running rollout replaces is what serves until it has succeeded
        RollbackTarget::Previous if is_rolling => Ok(serving.current.clone()),
        RollbackTarget::Previous => match serving.previous {
            Some(previous) => releases::load(&mut tx.conn, previous).await,
            None => Err(StoreError::Refused(format!(
                "release {} is the first of `{service}` in `{environment}`: there is none before it",
                serving.current.id
            ))),
        },
        RollbackTarget::Tag(tag) => {
            let points = releases::points(&mut tx.conn, Some(environment), Some(service), None).await?;
            let found = points.into_iter().find(|point| point.tag == tag);
            found.map(|point| point.release).ok_or_else(|| {
                StoreError::not_found("rollback point", format!("{tag} of `{service}` in `{environment}`"))
            })
        }
        RollbackTarget::Release(id) => {
            let release = releases::load(&mut tx.conn, id).await?;
            if release.service != service || !rollouts::has_served(&mut tx.conn, environment, service, id).await? {
                return Err(StoreError::Refused(format!(
                    "release {id} has never served `{service}` in `{environment}`"
                )));
            }
            Ok(release)
        }
    }
}

async fn emergency(
    store: &Store,
    tx: &mut Tx,
    (environment, service): (&str, &str),
    result: EmergencyResult,
    reason: &str,
    host: Option<String>,
) -> Result<(RolloutId, bool)> {
    let reason = reason.strip_prefix("emergency: ").unwrap_or(reason);
    // of one there is no question
    let host = host.or_else(|| <[String; 1]>::try_from(store.environment(environment).hosts).ok().map(|[host]| host));
    if let Some(known) = rollouts::of_epoch(&mut tx.conn, environment, service, result.epoch).await? {
        let known = rollouts::load(&mut tx.conn, known).await?;
        if known.record.rollout.run.is_none() && known.record.rollout.status == RolloutStatus::Succeeded {
            let id = known.id();
            if let Some(host) = host {
                name_host(tx, known, host).await?;
            }
            return Ok((id, false));
        }
    }
    releases::insert_known(&mut tx.conn, &result.to).await?;
    let open = rollouts::open_of_pair(&mut tx.conn, environment, service).await?;
    let newest = open.first().map(|r| r.record.rollout.spec.clone());
    let known = rollouts::last_spec(&mut tx.conn, environment, &result.to).await?.or(newest).ok_or_else(|| {
        StoreError::Refused(format!("nothing is known of the service `{service}` in `{environment}`"))
    })?;
    rollouts::raise_epoch(&mut tx.conn, environment, service, result.epoch).await?;
    let why = in_words(reason);
    for other in open {
        match other.record.rollout.spec.repair {
            Some(_) => make_way(store, tx, other, &why).await?,
            None => supersede(store, tx, other, &why).await?,
        }
    }
    let serving = releases::serving(&mut tx.conn, environment, service).await?;
    let previous = result.from.clone().or(serving.map(|s| s.current));
    let spec = RolloutSpec {
        release: result.to.clone(),
        strategy: Strategy::HotSwap,
        environment: environment.into(),
        is_rollback: true,
        previous,
        hosts: host.as_ref().map_or_else(|| store.environment(environment).hosts, |host| vec![host.clone()]),
        repair: None,
        ..known
    };
    let mut rollout = StoredRollout::new(next_id(tx).await?, spec, reason.to_owned(), tx.now);
    rollouts::insert(&mut tx.conn, &rollout).await?;
    rollout.record.epoch = result.epoch;
    rollout.record.rollout.weight = 100;
    rollout.record.rollout.reason = Some(why);
    rollout.started_at = Some(tx.now);
    rollout.becomes(RolloutStatus::Succeeded, tx.now)?;
    rollouts::save(&mut tx.conn, &rollout).await?;
    journal(tx, &rollout, host, &result).await?;
    serve(store, tx, &rollout).await?;
    tell(tx, NotificationEvent::RolledBack, &rollout, 0).await?;
    ring(tx, &rollout);
    Ok((rollout.id(), true))
}

/// Ends a rollout that brings a host to what is on record, for one that changes that or comes to all hosts: whoever drives it is shut out by
/// the next one's epoch. Its host is brought to what is on record then, and nobody is told that this one did not do it.
pub(super) async fn make_way(store: &Store, tx: &mut Tx, mut repair: StoredRollout, why: &str) -> Result<()> {
    if !repair.active {
        return close_unstarted(store, tx, repair, why.to_owned()).await;
    }
    let entry = JournalEntry {
        sequence: rollouts::journal_end(&mut tx.conn, repair.id()).await? + 1,
        epoch: repair.record.epoch,
        at: tx.now,
        kind: JournalKind::Ended,
        host: repair.record.rollout.spec.hosts.first().cloned(),
        detail: json!({ "message": format!("ended: {why}"), "reason": why, "status": RolloutStatus::Failed }),
    };
    rollouts::append_journal(&mut tx.conn, repair.id(), &entry).await?;
    repair.record.rollout.reason = Some(why.to_owned());
    repair.becomes(RolloutStatus::Failed, tx.now)?;
    rollouts::save(&mut tx.conn, &repair).await?;
    tx.ring(Bell::Rollouts);
    ring(tx, &repair);
    Ok(())
}

/// A rollout that the host refuses from now on: it has ended there.
async fn supersede(store: &Store, tx: &mut Tx, mut rollout: StoredRollout, why: &str) -> Result<()> {
    if !rollout.active {
        return close_unstarted(store, tx, rollout, why.to_owned()).await;
    }
    let sequence = rollouts::journal_end(&mut tx.conn, rollout.id()).await? + 1;
    let entry = JournalEntry {
        sequence,
        epoch: rollout.record.epoch,
        at: tx.now,
        kind: JournalKind::Emergency,
        host: None,
        detail: json!({ "message": why }),
    };
    rollouts::append_journal(&mut tx.conn, rollout.id(), &entry).await?;
    rollout.record.rollout.reason = Some(why.to_owned());
    rollout.record.rollout.weight = 0;
    rollout.becomes(RolloutStatus::RolledBack, tx.now)?;
    rollouts::save(&mut tx.conn, &rollout).await?;
    ring(tx, &rollout);
    end(store, tx, &rollout).await
}

/// What a person said, once: who gave no reason is told by name alone.
fn in_words(reason: &str) -> String {
    match reason.split_once(": emergency rollback") {
        Some((by, more)) => format!("emergency rollback at the host by {by}{more}"),
        None => format!("emergency rollback at the host: {reason}"),
    }
}

/// The host of an emergency that was told of by a person, who does not say which host it was: the host itself has told of it now.
async fn name_host(tx: &mut Tx, mut known: StoredRollout, host: String) -> Result<()> {
    let hosts = &mut known.record.rollout.spec.hosts;
    // emergencies at two hosts may have one epoch: the first stays
    if hosts.len() == 1 {
        return Ok(());
    }
    *hosts = vec![host.clone()];
    rollouts::save_spec(&mut tx.conn, &known).await?;
    let entry = JournalEntry {
        sequence: rollouts::journal_end(&mut tx.conn, known.id()).await? + 1,
        epoch: known.record.epoch,
        at: tx.now,
        kind: JournalKind::Emergency,
        detail: json!({ "message": format!("it was at host `{host}`") }),
        host: Some(host),
    };
    rollouts::append_journal(&mut tx.conn, known.id(), &entry).await?;
    ring(tx, &known);
    Ok(())
}

async fn journal(tx: &mut Tx, rollout: &StoredRollout, host: Option<String>, result: &EmergencyResult) -> Result<()> {
    let message = rollout.record.rollout.reason.clone();
    let entry = JournalEntry {
        sequence: 1,
        epoch: result.epoch,
        at: tx.now,
        kind: JournalKind::Emergency,
        host,
        detail: json!({ "message": message, "from": result.from, "to": result.to, "took_us": result.took_us }),
    };
    rollouts::append_journal(&mut tx.conn, rollout.id(), &entry).await
}
