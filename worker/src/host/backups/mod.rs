//! Backups of services: taken where the data are by a command of the service's own, kept in this host's folder by a rule, and brought
//! back by another command.
//!
//! Comes in: the word of a rollout that a backup is to be taken or brought back, with the command. Goes out: files that are whole or not
//! there, and what became of each. Never here: whether one is wanted, which is the rollout's to know, and which stay, which is
//! [`segue_pipelines::backup`]'s.
//!
//! What is begun is recorded first. It is written aside, and gets its place once it is whole and on the disk. What a host that was
//! killed has left of one is ended and removed when it starts again.

mod apart;
mod command;
mod copies;
mod files;
mod imports;

use std::{sync::Arc, time::Duration};

use segue_pipelines::backup::outlived;
use segue_schemas::{
    host_api::{
        Backup, BackupState, Fence, HostError, HostErrorCode, Restore, RestoreBackup, RestoreState, StopBackup,
        TakeBackup,
    },
    id::{BackupId, Epoch, InstanceId, RolloutId},
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

pub(super) use self::copies::CopyRecord;
use self::{
    command::{Command, Over},
    files::Files,
    imports::Coming,
};
use super::{
    Host,
    clock::now,
    process::Process,
    refusal,
    state::{InstanceRecord, Recorded},
};

/// Backups that could not be taken that are remembered of each service.
const REMEMBERED_FAILURES: usize = 5;

/// Restores that are remembered, so that a repeated call finds what it asked for done.
const REMEMBERED_RESTORES: usize = 32;

/// The longest that a wait may ask for.
const MAX_WAIT: Duration = Duration::from_secs(600);

/// What a host that was ended says of what it did.
const CUT_SHORT: &str = "its host was ended meanwhile";

/// A backup, as it is recorded.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct BackupRecord {
    /// What is shown of it.
    backup: Backup,
    /// The right under which it is taken.
    epoch: Epoch,
    /// Whether it is to be ended.
    #[serde(default)]
    stopped: bool,
    /// What comes, where it is not taken here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    coming: Option<Coming>,
}

/// A restore, as it is recorded.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct RestoreRecord {
    restore: Restore,
    environment: String,
    service: String,
}

/// Why a command brought nothing.
#[derive(Debug)]
struct Trouble {
    reason: String,
    said: Vec<String>,
}

impl From<String> for Trouble {
    fn from(reason: String) -> Self {
        Self { reason, said: Vec::new() }
    }
}

impl Host {
    /// `POST /v1/backups`.
    pub(super) async fn take_backup(self: Arc<Self>, take: TakeBackup) -> Result<Backup, HostError> {
        let id = take.id.clone();
        let of = take.clone();
        if self.store.change(move |recorded| recorded.begin_backup(of)).await? {
            tokio::spawn(self.clone().back_up(take));
        }
        self.backup(&id, Duration::ZERO).await
    }

    /// `GET /v1/backups/{id}`.
    pub(super) async fn backup(&self, id: &BackupId, wait: Duration) -> Result<Backup, HostError> {
        let mut watch = self.store.watch();
        let over = |recorded: &Arc<Recorded>| !recorded.is_taking(id);
        // too late, or the record is gone with the host: what there is, is shown either way
        let _ = tokio::time::timeout(wait.min(MAX_WAIT), watch.wait_for(over)).await;
        self.store.current().backup(id).map(|record| record.backup.clone())
    }

    /// `POST /v1/backups/{id}/stop`.
    pub(super) async fn stop_backup(&self, id: BackupId, stop: StopBackup) -> Result<Backup, HostError> {
        let of = id.clone();
        let change = self.store.change(move |recorded| {
            recorded.admit(&stop.fence)?;
            let record = recorded.backups.iter_mut().find(|record| record.is(&stop.fence, &of));
            record.ok_or_else(|| unknown(&of))?.stopped = true;
            Ok(())
        });
        change.await?;
        self.backup(&id, MAX_WAIT).await
    }

    /// `POST /v1/restores`.
    pub(super) async fn restore_backup(self: Arc<Self>, wanted: RestoreBackup) -> Result<Restore, HostError> {
        let (id, of) = (wanted.id, wanted.clone());
        if self.store.change(move |recorded| recorded.begin_restore(&of)).await? {
            tokio::spawn(self.clone().bring_back(wanted));
        }
        self.seen_restore(id, Duration::ZERO).await
    }

    /// `GET /v1/restores/{id}`.
    pub(super) async fn seen_restore(&self, id: RolloutId, wait: Duration) -> Result<Restore, HostError> {
        let mut watch = self.store.watch();
        let over = |recorded: &Arc<Recorded>| {
            recorded.known_restore(id).is_none_or(|record| record.restore.state != RestoreState::Running)
        };
        let _ = tokio::time::timeout(wait.min(MAX_WAIT), watch.wait_for(over)).await;
        let known = self.store.current().known_restore(id).map(|record| record.restore.clone());
        known.ok_or_else(|| refusal(HostErrorCode::NotFound, format!("rollout {id} brings nothing back here")))
    }

    /// Ends what a host before this one has left under way, and removes it. A container of such is swept away as soon as the engine answers.
    pub(super) async fn clear_left_backups(&self) -> Result<(), HostError> {
        let recorded = self.store.current();
        let taking = || recorded.backups.iter().filter(|record| record.backup.state == BackupState::Taking);
        let running = recorded.restores.iter().filter(|record| record.restore.state == RestoreState::Running);
        let marks = taking().map(|record| self.backup_mark(record.backup.id.as_str()));
        let copies = recorded.copies_under_way().map(|name| self.backup_mark(&name));
        let restores = running.map(|record| self.backup_mark(&restore_name(record.restore.id)));
        for mark in marks.chain(restores).chain(copies) {
            if let Some(mut left) = Process::find(&mark) {
                left.terminate(Duration::ZERO).await;
            }
        }
        let files = self.backup_files();
        files.sweep(taking().map(|record| &record.backup));
        let change = self.store.change(move |recorded| {
            for BackupRecord { backup, .. } in &mut recorded.backups {
                let gone = match backup.state {
                    BackupState::Taking => Some((CUT_SHORT, true)),
                    BackupState::Kept { .. } if files.is_gone(backup) => Some(("its file is gone", false)),
                    _ => None,
                };
                if let Some((reason, cut_short)) = gone {
                    backup.state = BackupState::Failed { reason: reason.into(), said: Vec::new(), cut_short };
                }
            }
            recorded.lose_copies();
            for RestoreRecord { restore, .. } in &mut recorded.restores {
                if restore.state == RestoreState::Running {
                    let said = Vec::new();
                    restore.state = RestoreState::Failed { reason: CUT_SHORT.into(), said, was_begun: true };
                }
            }
            Ok(())
        });
        change.await
    }

    async fn back_up(self: Arc<Self>, take: TakeBackup) {
        let began = Instant::now();
        let taken = self.attempt_backup(&take).await;
        let (files, id) = (self.backup_files(), take.id.clone());
        let state = match taken {
            Ok((bytes, sha256)) => {
                let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                tracing::info!(backup = %id, bytes, "kept");
                BackupState::Kept { bytes, sha256, took_ms }
            }
            Err(Trouble { reason, said }) => {
                tracing::warn!(backup = %id, reason, "it could not be taken");
                BackupState::Failed { reason, said, cut_short: false }
            }
        };
        let is_kept = matches!(state, BackupState::Kept { .. });
        // a disk that is full must not leave whoever waits for it without an answer
        let noted = self.store.change_regardless(move |recorded| Ok(recorded.end_backup(&take, state)));
        match noted.await {
            Ok(gone) => gone.iter().for_each(|backup| files.remove(backup)),
            // it counts for nothing, and is removed with the next start
            Err(error) => tracing::error!(backup = %id, %error, "what became of it can't be recorded"),
        }
        if !is_kept {
            // its container may be left
            self.sweep_wanted.notify_one();
        }
    }

    /// The size and the digest of what is kept from now on.
    async fn attempt_backup(&self, take: &TakeBackup) -> Result<(u64, segue_schemas::id::Digest), Trouble> {
        let recorded = self.store.current();
        let record = recorded.backup(&take.id).map_err(|error| error.message)?;
        let beside = serving(&recorded, &take.fence).map_err(|error| error.message)?;
        let files = self.backup_files();
        let aside = files.aside(take.id.as_str()).map_err(|error| files.trouble(&error))?;
        let command = Command {
            beside,
            line: &take.run,
            file: aside.file.clone(),
            name: take.id.as_str(),
            image: take.container.as_deref(),
            limit: Duration::from_millis(take.timeout_ms),
            input: None,
            aside: &aside,
        };
        let taken = match self.run_command(&command, self.is_called_off(&take.id)).await {
            Ok(()) => files.take_in(&aside, &record.backup, None).await.map_err(Trouble::from),
            Err(Over { reason, said }) => Err(Trouble { reason, said }),
        };
        aside.clear();
        taken
    }

    /// Waits until a backup is not wanted any more: it is told to end, somebody else has the right to change its service, or all ends.
    async fn is_called_off(&self, id: &BackupId) -> &'static str {
        let (mut watch, mut closing) = (self.store.watch(), self.closing.subscribe());
        let off = |recorded: &Arc<Recorded>| recorded.is_called_off(id);
        tokio::select! {
            _ = watch.wait_for(off) => "it was called off",
            _ = closing.wait_for(|closing| *closing) => CUT_SHORT,
        }
    }

    async fn bring_back(self: Arc<Self>, wanted: RestoreBackup) {
        let began = Instant::now();
        let mut was_begun = false;
        let state = match self.attempt_restore(&wanted, &mut was_begun).await {
            Ok(()) => RestoreState::Done { took_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX) },
            Err(Trouble { reason, said }) => RestoreState::Failed { reason, said, was_begun },
        };
        tracing::info!(backup = %wanted.backup, ?state, "brought back");
        let noted = self.store.change_regardless(move |recorded| {
            if let Some(record) = recorded.restores.iter_mut().find(|record| record.restore.id == wanted.id) {
                record.restore.state = state;
            }
            Ok(())
        });
        if let Err(error) = noted.await {
            tracing::error!(%error, "what became of a restore can't be recorded");
        }
        self.sweep_wanted.notify_one();
    }

    async fn attempt_restore(&self, wanted: &RestoreBackup, was_begun: &mut bool) -> Result<(), Trouble> {
        let recorded = self.store.current();
        let backup = &recorded.backup(&wanted.backup).map_err(|error| error.message)?.backup;
        let beside = serving(&recorded, &wanted.fence).map_err(|error| error.message)?;
        let files = self.backup_files();
        let input = files.checked(backup).await?;
        let name = restore_name(wanted.id);
        let aside = files.aside(&name).map_err(|error| files.trouble(&error))?;
        let command = Command {
            beside,
            line: &wanted.run,
            file: files.path(backup),
            name: &name,
            image: wanted.container.as_deref(),
            limit: Duration::from_millis(wanted.timeout_ms),
            input: Some(input),
            aside: &aside,
        };
        *was_begun = true;
        let closing = async {
            let _ = self.closing.subscribe().wait_for(|closing| *closing).await;
            CUT_SHORT
        };
        let ended = self.run_command(&command, closing).await;
        aside.clear();
        ended.map_err(|Over { reason, said }| Trouble { reason, said })
    }

    fn backup_files(&self) -> Files {
        Files::new(self.options.data.join("backups"))
    }

    /// What marks the processes of a backup's command on this machine.
    fn backup_mark(&self, name: &str) -> String {
        format!("{}/backups/{name}", self.options.data.display())
    }
}

impl Recorded {
    /// Records that a backup is being taken; `false`: it was before.
    fn begin_backup(&mut self, take: TakeBackup) -> Result<bool, HostError> {
        self.admit(&take.fence)?;
        if let Some(known) = self.backups.iter_mut().find(|record| record.backup.id == take.id) {
            if !known.is(&take.fence, &take.id) {
                return Err(refusal(HostErrorCode::BadRequest, format!("backup `{}` is another service's", take.id)));
            }
            known.epoch = take.fence.epoch;
            return Ok(false);
        }
        self.brings_nothing_back(&take.fence, None)?;
        let release = &serving(self, &take.fence)?.1.release;
        let (release, commit) = (release.id, release.commit.clone());
        let Fence { environment, service, epoch } = take.fence;
        let (begun_at, state) = (now(), BackupState::Taking);
        let (id, why, copied_from) = (take.id, take.why, None);
        let backup = Backup { id, environment, service, release, commit, begun_at, why, copied_from, state };
        self.backups.push(BackupRecord { backup, epoch, stopped: false, coming: None });
        Ok(true)
    }

    /// Records what became of a backup; those that go for it, or whose failure is long ago.
    fn end_backup(&mut self, take: &TakeBackup, state: BackupState) -> Vec<Backup> {
        let Some(record) = self.backups.iter_mut().find(|record| record.backup.id == take.id) else {
            return Vec::new();
        };
        record.backup.state = state;
        // whoever shows what is here hears of it
        self.restorations += 1;
        let of_pair =
            |backup: &Backup| backup.environment == take.fence.environment && backup.service == take.fence.service;
        let those = |wanted: fn(&BackupState) -> bool| {
            let all = self.backups.iter().map(|record| &record.backup);
            let those = all.filter(|backup| of_pair(backup) && wanted(&backup.state));
            those.map(|backup| (backup.id.clone(), backup.begun_at)).collect::<Vec<_>>()
        };
        let kept = those(|state| matches!(state, BackupState::Kept { .. }));
        let failed = those(|state| matches!(state, BackupState::Failed { .. }));
        let mut go = outlived(&kept, take.keep, now());
        go.retain(|id| Some(id) != take.spare.as_ref());
        go.extend(failed[..failed.len().saturating_sub(REMEMBERED_FAILURES)].iter().map(|(id, _)| id.clone()));
        self.backups.extract_if(.., |record| go.contains(&record.backup.id)).map(|record| record.backup).collect()
    }

    /// Records that a backup is being brought back; `false`: it was before.
    fn begin_restore(&mut self, wanted: &RestoreBackup) -> Result<bool, HostError> {
        self.admit(&wanted.fence)?;
        if self.known_restore(wanted.id).is_some() {
            return Ok(false);
        }
        self.brings_nothing_back(&wanted.fence, Some(wanted.id))?;
        serving(self, &wanted.fence)?;
        let kept = self.backups.iter().find(|record| record.is(&wanted.fence, &wanted.backup));
        if !kept.is_some_and(|record| matches!(record.backup.state, BackupState::Kept { .. })) {
            return Err(unknown(&wanted.backup));
        }
        let Fence { environment, service, .. } = wanted.fence.clone();
        let restore = Restore { id: wanted.id, backup: wanted.backup.clone(), state: RestoreState::Running };
        self.restores.push(RestoreRecord { restore, environment, service });
        let excess = self.restores.len().saturating_sub(REMEMBERED_RESTORES);
        self.restores.drain(..excess);
        Ok(true)
    }

    /// While data are being brought back, they are neither backed up nor brought back by another rollout.
    fn brings_nothing_back(&self, fence: &Fence, but: Option<RolloutId>) -> Result<(), HostError> {
        let under_way = self.restores.iter().find(|record| {
            record.restore.state == RestoreState::Running
                && record.environment == fence.environment
                && record.service == fence.service
                && Some(record.restore.id) != but
        });
        under_way.map_or(Ok(()), |record| {
            let Restore { id, backup, .. } = &record.restore;
            let message = format!("rollout {id} is bringing {backup} back here: this waits for its end");
            Err(refusal(HostErrorCode::Unavailable, message))
        })
    }

    fn backup(&self, id: &BackupId) -> Result<&BackupRecord, HostError> {
        self.backups.iter().find(|record| record.backup.id == *id).ok_or_else(|| unknown(id))
    }

    fn known_restore(&self, id: RolloutId) -> Option<&RestoreRecord> {
        self.restores.iter().find(|record| record.restore.id == id)
    }

    fn is_taking(&self, id: &BackupId) -> bool {
        self.backup(id).is_ok_and(|record| record.backup.state == BackupState::Taking)
    }

    fn is_called_off(&self, id: &BackupId) -> bool {
        self.backup(id).map_or(true, |record| {
            let Backup { environment, service, .. } = &record.backup;
            record.stopped || self.route(environment, service).is_some_and(|route| route.epoch > record.epoch)
        })
    }

    /// Whether a backup is being taken, or data are being brought back, under this name.
    pub(super) fn is_at_work(&self, name: &str) -> bool {
        let brings_back = |record: &RestoreRecord| {
            record.restore.state == RestoreState::Running && restore_name(record.restore.id) == name
        };
        self.makes_copy(name)
            || name.parse().is_ok_and(|id| self.is_taking(&id))
            || self.restores.iter().any(brings_back)
    }

    /// Every backup as the API shows it.
    pub(super) fn shown_backups(&self) -> Vec<Backup> {
        self.backups.iter().map(|record| record.backup.clone()).collect()
    }
}

impl BackupRecord {
    fn is(&self, fence: &Fence, id: &BackupId) -> bool {
        let Backup { environment, service, .. } = &self.backup;
        self.backup.id == *id && *environment == fence.environment && *service == fence.service
    }
}

/// The instance that serves: where the data are, and what the commands run beside.
fn serving<'a>(recorded: &'a Recorded, fence: &Fence) -> Result<(&'a InstanceId, &'a InstanceRecord), HostError> {
    let route = recorded.route(&fence.environment, &fence.service);
    let target = route.and_then(|route| route.targets.iter().find(|target| target.weight > 0));
    target.and_then(|target| recorded.instances.get_key_value(&target.instance)).ok_or_else(|| {
        let message = format!("nothing of {} serves in {} here", fence.service, fence.environment);
        refusal(HostErrorCode::NotFound, message)
    })
}

fn unknown(id: &BackupId) -> HostError {
    refusal(HostErrorCode::NotFound, format!("there is no backup `{id}` here"))
}

fn restore_name(id: RolloutId) -> String {
    format!("restore-{id}")
}
