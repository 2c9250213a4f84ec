//! Copies of a service's data for another environment: written by a command of the service's own, or kept as a backup, then made harmless
//! by [`segue_pipelines::sanitise`], here, where the data are at home. Only what has gone through that can be fetched.
//!
//! A copy lies aside, where backups are while they are taken, and goes with the end of its host, when it was fetched, or after some hours.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use segue_pipelines::sanitise::Sanitiser;
use segue_schemas::{
    host_api::{BackupState, Fence, HostError, HostErrorCode},
    id::{BackupId, Digest, Epoch, ReleaseId, RolloutId},
    sync::{CopyPiece, CopyState, DataCopy, DropCopy, MakeCopy, PIECE_BYTES, ServiceSync, SyncCount, SyncFrom},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    super::{Host, refusal, state::Recorded},
    CUT_SHORT, MAX_WAIT, Trouble,
    command::{Command, Over},
    files::{self, Files},
    serving,
};

/// Copies that are made or wait to be fetched at one time.
const MOST: usize = 2;

/// Copies that could not be made that are remembered.
const REMEMBERED: usize = 16;

/// How long a copy may wait to be fetched.
const KEPT_FOR: Duration = Duration::from_secs(6 * 3600);

/// Bytes that are read at once.
const BLOCK: usize = 256 * 1024;

/// Bytes after which the disk is looked at again.
const LOOK_AFTER: u64 = 64 * 1024 * 1024;

/// A copy, as it is recorded.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::host) struct CopyRecord {
    pub(super) copy: DataCopy,
    epoch: Epoch,
    environment: String,
    service: String,
    /// Whether it is to be ended.
    #[serde(default)]
    stopped: bool,
}

impl Host {
    /// `POST /v1/copies`.
    pub(in crate::host) async fn begin_copy(self: Arc<Self>, wanted: MakeCopy) -> Result<DataCopy, HostError> {
        let (id, of) = (wanted.id, wanted.clone());
        if self.store.change(move |recorded| recorded.begin_copy(&of)).await? {
            tokio::spawn(self.clone().make_copy(wanted));
        }
        self.copy(id, Duration::ZERO).await
    }

    /// `GET /v1/copies/{id}`.
    pub(in crate::host) async fn copy(&self, id: RolloutId, wait: Duration) -> Result<DataCopy, HostError> {
        let mut watch = self.store.watch();
        let over = |recorded: &Arc<Recorded>| !recorded.is_copying(id);
        let _ = tokio::time::timeout(wait.min(MAX_WAIT), watch.wait_for(over)).await;
        self.store.current().copy(id).map(|record| record.copy.clone())
    }

    /// `GET /v1/copies/{id}/bytes`.
    pub(in crate::host) async fn copy_piece(&self, id: RolloutId, from: u64) -> Result<CopyPiece, HostError> {
        let recorded = self.store.current();
        if !matches!(recorded.copy(id)?.copy.state, CopyState::Ready { .. }) {
            return Err(refusal(HostErrorCode::BadRequest, format!("the copy for rollout {id} is not ready")));
        }
        let path = self.backup_files().copy(&copy_name(id));
        let read = tokio::task::spawn_blocking(move || {
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(from))?;
            let mut bytes = Vec::new();
            file.take(PIECE_BYTES).read_to_end(&mut bytes)?;
            Ok::<_, io::Error>(STANDARD.encode(bytes))
        });
        let read = read.await.map_err(|error| refusal(HostErrorCode::Unavailable, error.to_string()))?;
        let bytes = read.map_err(|error| {
            refusal(HostErrorCode::Unavailable, format!("the copy for rollout {id} can't be read: {error}"))
        })?;
        Ok(CopyPiece { bytes })
    }

    /// `DELETE /v1/copies/{id}`.
    pub(in crate::host) async fn drop_copy(&self, id: RolloutId, drop: DropCopy) -> Result<DataCopy, HostError> {
        let change = self.store.change(move |recorded| {
            let record = recorded.copies.iter_mut().find(|record| record.copy.id == id);
            let record = record.ok_or_else(|| unknown_copy(id))?;
            if drop.epoch < record.epoch {
                let message = format!("the copy for rollout {id} is another owner's by now");
                return Err(HostError { code: HostErrorCode::StaleEpoch, message, epoch: Some(record.epoch) });
            }
            record.stopped = true;
            Ok(())
        });
        change.await?;
        let copy = self.copy(id, MAX_WAIT).await?;
        self.forget_copy(id).await;
        Ok(copy)
    }

    async fn make_copy(self: Arc<Self>, wanted: MakeCopy) {
        let id = wanted.id;
        let state = match self.attempt_copy(&wanted).await {
            Ok((bytes, sha256, counts)) => {
                tracing::info!(rollout = %id, bytes, "a copy of data can be fetched");
                CopyState::Ready { bytes, sha256, counts }
            }
            Err(Trouble { reason, said }) => {
                tracing::warn!(rollout = %id, reason, "no copy of data could be made");
                self.backup_files().remove_copy(&copy_name(id));
                CopyState::Failed { cut_short: reason == CUT_SHORT, reason, said }
            }
        };
        let is_ready = matches!(state, CopyState::Ready { .. });
        let noted = self.store.change_regardless(move |recorded| {
            if let Some(record) = recorded.copies.iter_mut().find(|record| record.copy.id == id) {
                record.copy.state = state;
            }
            Ok(())
        });
        if let Err(error) = noted.await {
            tracing::error!(rollout = %id, %error, "what became of a copy can't be recorded");
        }
        self.sweep_wanted.notify_one();
        if is_ready {
            let mut watch = self.store.watch();
            let gone = watch.wait_for(|recorded| recorded.copy(id).is_err());
            if tokio::time::timeout(KEPT_FOR, gone).await.is_err() {
                tracing::warn!(rollout = %id, "nobody has fetched a copy of data: it goes");
                self.forget_copy(id).await;
            }
        }
    }

    async fn forget_copy(&self, id: RolloutId) {
        let forgotten = self.store.change_regardless(move |recorded| {
            recorded.copies.retain(|record| record.copy.id != id);
            Ok(())
        });
        match forgotten.await {
            Ok(()) => self.backup_files().remove_copy(&copy_name(id)),
            Err(error) => tracing::error!(rollout = %id, %error, "a copy can't be taken away"),
        }
    }

    /// The size and the digest of what can be fetched, and what was replaced in it.
    async fn attempt_copy(&self, wanted: &MakeCopy) -> Result<(u64, Digest, Vec<SyncCount>), Trouble> {
        let name = copy_name(wanted.id);
        let files = self.backup_files();
        let aside = files.aside(&name).map_err(|error| files.trouble(&error))?;
        let dump = self.dump(wanted, &name, &aside).await;
        let made = match dump {
            Ok(dump) => self.made_harmless(wanted, &name, dump).await.map_err(Trouble::from),
            Err(trouble) => Err(trouble),
        };
        aside.clear();
        made
    }

    /// The data as they are.
    async fn dump(&self, wanted: &MakeCopy, name: &str, aside: &files::Aside) -> Result<File, Trouble> {
        let (recorded, files) = (self.store.current(), self.backup_files());
        let kept = match &wanted.data {
            SyncFrom::Fresh => None,
            SyncFrom::Latest => Some(recorded.newest_backup(wanted).map_err(|error| error.message)?),
            SyncFrom::Backup(id) => Some(id.clone()),
        };
        if let Some(id) = kept {
            let record = recorded.backup(&id).map_err(|error| error.message)?;
            if !record.is(&fence(wanted), &id) || record.backup.copied_from.is_some() {
                return Err(format!("the backup `{id}` is none of {} in {}", wanted.service, wanted.environment).into());
            }
            return Ok(files.checked(&record.backup).await?);
        }
        recorded.is_ruled(wanted)?;
        let command = Command {
            beside: serving(&recorded, &fence(wanted)).map_err(|error| error.message)?,
            line: &wanted.run,
            file: aside.file.clone(),
            name,
            image: wanted.container.as_deref(),
            limit: Duration::from_millis(wanted.timeout_ms),
            input: None,
            aside,
        };
        let ran = self.run_command(&command, self.is_copy_off(wanted.id)).await;
        ran.map_err(|Over { reason, said }| Trouble { reason, said })?;
        self.store.current().is_ruled(wanted)?;
        let opened = File::open(aside.written());
        Ok(opened.map_err(|error| files.trouble(&error))?)
    }

    async fn made_harmless(
        &self,
        wanted: &MakeCopy,
        name: &str,
        dump: File,
    ) -> Result<(u64, Digest, Vec<SyncCount>), String> {
        let is_off = Arc::new(AtomicBool::new(false));
        let (files, path, rules, off) =
            (self.backup_files(), self.backup_files().copy(name), wanted.rules.clone(), is_off.clone());
        let work = tokio::task::spawn_blocking(move || sanitise(dump, &path, &rules, &files, &off));
        tokio::pin!(work);
        let why = tokio::select! {
            made = &mut work => return made.map_err(|error| error.to_string())?,
            why = self.is_copy_off(wanted.id) => why.to_owned(),
            () = tokio::time::sleep(Duration::from_millis(wanted.timeout_ms)) => {
                format!("looking through the data took longer than {} minutes", wanted.timeout_ms / 60_000)
            }
        };
        is_off.store(true, Ordering::Relaxed);
        let _ = work.await;
        Err(why)
    }

    /// Waits until a copy is not wanted any more, or all ends.
    async fn is_copy_off(&self, id: RolloutId) -> &'static str {
        let (mut watch, mut closing) = (self.store.watch(), self.closing.subscribe());
        let off = |recorded: &Arc<Recorded>| recorded.copy(id).map_or(true, |record| record.stopped);
        tokio::select! {
            _ = watch.wait_for(off) => "it was called off",
            _ = closing.wait_for(|closing| *closing) => CUT_SHORT,
        }
    }
}

impl Recorded {
    /// Records that a copy is being made; `false`: it was before.
    fn begin_copy(&mut self, wanted: &MakeCopy) -> Result<bool, HostError> {
        if let Some(known) = self.copies.iter_mut().find(|record| record.copy.id == wanted.id) {
            if wanted.epoch < known.epoch {
                let message = format!("the copy for rollout {} is another owner's by now", wanted.id);
                return Err(HostError { code: HostErrorCode::StaleEpoch, message, epoch: Some(known.epoch) });
            }
            let is_failed = matches!(known.copy.state, CopyState::Failed { cut_short: true, .. });
            if !is_failed {
                known.epoch = wanted.epoch;
                return Ok(false);
            }
            // the host was ended meanwhile: once more
            self.copies.retain(|record| record.copy.id != wanted.id);
        }
        let fence = fence(wanted);
        serving(self, &fence)?;
        self.brings_nothing_back(&fence, None)?;
        let is_failed = |record: &CopyRecord| matches!(record.copy.state, CopyState::Failed { .. });
        let busy = self.copies.iter().filter(|record| !is_failed(record)).count();
        if busy >= MOST {
            let message =
                format!("{busy} copies of data are made here, or wait to be fetched: this waits for their end");
            return Err(refusal(HostErrorCode::Unavailable, message));
        }
        let failed: Vec<RolloutId> = self.copies.iter().filter(|one| is_failed(one)).map(|one| one.copy.id).collect();
        let excess = &failed[..failed.len().saturating_sub(REMEMBERED - 1)];
        self.copies.retain(|record| !excess.contains(&record.copy.id));
        self.copies.push(CopyRecord {
            copy: DataCopy { id: wanted.id, state: CopyState::Making },
            epoch: wanted.epoch,
            environment: fence.environment,
            service: fence.service,
            stopped: false,
        });
        Ok(true)
    }

    fn copy(&self, id: RolloutId) -> Result<&CopyRecord, HostError> {
        self.copies.iter().find(|record| record.copy.id == id).ok_or_else(|| unknown_copy(id))
    }

    pub(super) fn is_copying(&self, id: RolloutId) -> bool {
        self.copy(id).is_ok_and(|record| record.copy.state == CopyState::Making)
    }

    /// Whether a copy is being made under this name.
    pub(super) fn makes_copy(&self, name: &str) -> bool {
        let makes = |record: &CopyRecord| record.copy.state == CopyState::Making && copy_name(record.copy.id) == name;
        self.copies.iter().any(makes)
    }

    /// Those that a host before this one was about to make.
    pub(super) fn copies_under_way(&self) -> impl Iterator<Item = String> {
        let making = self.copies.iter().filter(|record| record.copy.state == CopyState::Making);
        making.map(|record| copy_name(record.copy.id))
    }

    /// Nothing is left of any copy.
    pub(super) fn lose_copies(&mut self) {
        for CopyRecord { copy, .. } in &mut self.copies {
            if !matches!(copy.state, CopyState::Failed { .. }) {
                copy.state = CopyState::Failed { reason: CUT_SHORT.into(), said: Vec::new(), cut_short: true };
            }
        }
    }

    /// Refuses rules of another release than what serves: it may have columns that they do not know.
    fn is_ruled(&self, wanted: &MakeCopy) -> Result<(), String> {
        let Some(release) = wanted.release else { return Ok(()) };
        let route = self.route(&wanted.environment, &wanted.service);
        let serving = route.into_iter().flat_map(|route| &route.targets).filter(|target| target.weight > 0);
        let releases = serving.filter_map(|target| self.instances.get(&target.instance)).map(|one| one.release.id);
        same_rules(release, releases)
    }

    fn newest_backup(&self, wanted: &MakeCopy) -> Result<BackupId, HostError> {
        let of_pair = |backup: &segue_schemas::host_api::Backup| {
            backup.environment == wanted.environment
                && backup.service == wanted.service
                && backup.copied_from.is_none()
                && matches!(backup.state, BackupState::Kept { .. })
        };
        let all = self.backups.iter().map(|record| &record.backup).filter(|backup| of_pair(backup));
        all.max_by_key(|backup| backup.begun_at).map(|backup| backup.id.clone()).ok_or_else(|| {
            let message = format!(
                "no backup of {} in {} is kept here: take the data as they are now, by `backup: fresh`",
                wanted.service, wanted.environment
            );
            refusal(HostErrorCode::NotFound, message)
        })
    }
}

/// Nothing is changed in the environment that the data are from: it has no epoch there.
fn fence(wanted: &MakeCopy) -> Fence {
    Fence { environment: wanted.environment.clone(), service: wanted.service.clone(), epoch: Epoch(0) }
}

fn same_rules(of: ReleaseId, mut serving: impl Iterator<Item = ReleaseId>) -> Result<(), String> {
    serving.find(|other| *other != of).map_or(Ok(()), |other| {
        Err(format!(
            "the rules are those of release {of}, and release {other} serves by now, whose data they may not know: begin again once its \
             rollout has ended"
        ))
    })
}

fn copy_name(id: RolloutId) -> String {
    format!("copy-{id}")
}

fn unknown_copy(id: RolloutId) -> HostError {
    refusal(HostErrorCode::NotFound, format!("there is no copy for rollout {id} here"))
}

/// Reads data, and writes them without what is personal in them. Nothing of them is in what it says.
fn sanitise(
    mut dump: File,
    path: &Path,
    rules: &ServiceSync,
    files: &Files,
    is_off: &AtomicBool,
) -> Result<(u64, Digest, Vec<SyncCount>), String> {
    let unusable = |error: io::Error| format!("the copy can't be written: {error}");
    let mut sanitiser = Sanitiser::new(rules, rand::random()).map_err(|problem| problem.to_string())?;
    files::remove(path);
    let mut copy = files::create(path).map_err(unusable)?;
    let (mut block, mut out, mut hash) = (vec![0; BLOCK], Vec::new(), Sha256::new());
    let (mut bytes, mut looked_at) = (0_u64, 0_u64);
    loop {
        if is_off.load(Ordering::Relaxed) {
            return Err("it was called off".into());
        }
        let read = dump.read(&mut block).map_err(|error| format!("the data can't be read: {error}"))?;
        if read > 0 {
            sanitiser.push(&block[..read], &mut out).map_err(|problem| problem.to_string())?;
        }
        hash.update(&out);
        copy.write_all(&out).map_err(unusable)?;
        bytes += out.len() as u64;
        out.clear();
        if bytes - looked_at >= LOOK_AFTER {
            looked_at = bytes;
            if let Some(short) = files.is_short() {
                return Err(short);
            }
        }
        if read == 0 {
            break;
        }
    }
    let counts = sanitiser.finish(&mut out).map_err(|problem| problem.to_string())?;
    hash.update(&out);
    copy.write_all(&out).map_err(unusable)?;
    bytes += out.len() as u64;
    if bytes == 0 {
        return Err("there are no data: the command ended well, and wrote nothing".into());
    }
    let digest = format!("sha256:{}", hex::encode(hash.finalize())).parse().map_err(|error| format!("{error}"))?;
    Ok((bytes, digest, counts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_of_another_release_have_other_rules() {
        let check = |serving: &[i64]| same_rules(ReleaseId(7), serving.iter().copied().map(ReleaseId));
        assert_eq!((check(&[7]), check(&[7, 7])), (Ok(()), Ok(())));
        for serving in [&[8][..], &[7, 8], &[6]] {
            assert!(check(serving).unwrap_err().contains("begin again"), "{serving:?}");
        }
    }
}
