//! Backups that come from elsewhere, piece by piece. One counts as being taken until all of it is there: it is written aside, and gets its
//! place once its bytes are those that were promised, and on the disk.

use std::{
    fs::File,
    io::{self, Write as _},
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use segue_schemas::{
    host_api::{Backup, BackupState, HostError, HostErrorCode},
    id::{BackupId, Digest},
    sync::{Arrived, BackupPiece, ImportBackup, PIECE_BYTES},
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    super::{Host, clock::now, refusal, state::Recorded},
    BackupRecord, TakeBackup,
    files::{self, Aside},
    serving, unknown,
};

/// What comes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Coming {
    bytes: u64,
    sha256: Digest,
}

impl Host {
    /// `POST /v1/backups/imports`.
    pub(in crate::host) async fn import_backup(self: Arc<Self>, wanted: ImportBackup) -> Result<Backup, HostError> {
        let (id, of) = (wanted.id.clone(), wanted.clone());
        let _writing = self.importing.lock().await;
        if self.store.change(move |recorded| recorded.begin_import(&of)).await? {
            let prepared = self.prepare(&id);
            if let Err(reason) = prepared {
                self.end_import(&wanted, failed(reason)).await;
            } else {
                tokio::spawn(self.clone().watch_import(wanted));
            }
        }
        self.backup(&id, Duration::ZERO).await
    }

    /// `PUT /v1/backups/{id}/bytes`.
    pub(in crate::host) async fn receive(
        self: Arc<Self>,
        id: BackupId,
        piece: BackupPiece,
    ) -> Result<Arrived, HostError> {
        let _writing = self.importing.lock().await;
        let recorded = self.store.current();
        let record = recorded.backup(&id)?;
        let coming = record.coming.clone().filter(|_| record.is(&piece.fence, &id));
        let Some(coming) = coming else { return Err(unknown(&id)) };
        let seen = recorded.route(&piece.fence.environment, &piece.fence.service).map(|route| route.epoch);
        if let Some(seen) = seen.filter(|seen| *seen > piece.fence.epoch) {
            let message = format!("epoch {} is over: epoch {seen} was seen here", piece.fence.epoch);
            return Err(HostError { code: HostErrorCode::StaleEpoch, message, epoch: Some(seen) });
        }
        match record.backup.state {
            BackupState::Taking => {}
            // what it was told already
            BackupState::Kept { bytes, .. } => return Ok(Arrived { bytes }),
            BackupState::Failed { ref reason, .. } => {
                return Err(refusal(HostErrorCode::BadRequest, format!("nothing more of {id} is taken: {reason}")));
            }
        }
        let unreadable = |e| refusal(HostErrorCode::BadRequest, format!("a piece of {id} can't be read: {e}"));
        let bytes = STANDARD.decode(&piece.bytes).map_err(unreadable)?;
        let files = self.backup_files();
        if bytes.len() as u64 > PIECE_BYTES {
            return Err(refusal(HostErrorCode::BadRequest, format!("a piece has at most {PIECE_BYTES} bytes")));
        }
        if let Some(short) = files.is_short() {
            return Err(refusal(HostErrorCode::BadRequest, short));
        }
        let output = files.named(id.as_str()).output;
        let written = tokio::task::spawn_blocking(move || append(&output, piece.at, &bytes, coming.bytes));
        let written = written.await.map_err(|error| refusal(HostErrorCode::Unavailable, error.to_string()))?;
        let there = written.map_err(|error| {
            refusal(HostErrorCode::BadRequest, format!("a piece of {id} can't be kept: {}", files.trouble(&error)))
        })?;
        if there == coming.bytes {
            // the watch keeps it
            self.arrived.notify_waiters();
        }
        Ok(Arrived { bytes: there })
    }

    fn prepare(&self, id: &BackupId) -> Result<(), String> {
        let files = self.backup_files();
        let aside = files.aside(id.as_str()).map_err(|error| files.trouble(&error))?;
        files::create(&aside.output).map(drop).map_err(|error| files.trouble(&error))
    }

    /// Waits for all of it, keeps it, and records what became of it.
    async fn watch_import(self: Arc<Self>, wanted: ImportBackup) {
        let began = Instant::now();
        let (files, limit) = (self.backup_files(), Duration::from_millis(wanted.timeout_ms));
        let aside = files.named(wanted.id.as_str());
        let is_there = async {
            loop {
                let arrived = self.arrived.notified();
                if length(&aside) >= wanted.bytes {
                    return;
                }
                arrived.await;
            }
        };
        let reason = tokio::select! {
            () = is_there => None,
            why = self.is_called_off(&wanted.id) => Some(why.to_owned()),
            () = tokio::time::sleep(limit) => Some(format!("not all of it came within {} minutes", limit.as_secs() / 60)),
        };
        // nothing is written to it from here on
        let _writing = self.importing.lock().await;
        let kept = match (reason, self.store.current().backup(&wanted.id).map(|record| record.backup.clone())) {
            (Some(reason), _) => Err(reason),
            (None, Err(error)) => Err(error.message),
            (None, Ok(backup)) => files.take_in(&aside, &backup, Some(&wanted.sha256)).await,
        };
        aside.clear();
        let state = match kept {
            Ok((bytes, sha256)) => {
                let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                BackupState::Kept { bytes, sha256, took_ms }
            }
            Err(reason) => failed(reason),
        };
        self.end_import(&wanted, state).await;
    }

    async fn end_import(&self, wanted: &ImportBackup, state: BackupState) {
        let (id, files) = (wanted.id.clone(), self.backup_files());
        tracing::info!(backup = %id, kept = matches!(state, BackupState::Kept { .. }), "a backup has come");
        let take = TakeBackup {
            fence: wanted.fence.clone(),
            id: id.clone(),
            run: String::new(),
            container: None,
            timeout_ms: wanted.timeout_ms,
            keep: wanted.keep,
            spare: wanted.spare.clone(),
            why: String::new(),
        };
        match self.store.change_regardless(move |recorded| Ok(recorded.end_backup(&take, state))).await {
            Ok(gone) => gone.iter().for_each(|backup| files.remove(backup)),
            Err(error) => tracing::error!(backup = %id, %error, "what became of it can't be recorded"),
        }
    }
}

impl Recorded {
    /// Records that a backup comes; `false`: it does already.
    fn begin_import(&mut self, wanted: &ImportBackup) -> Result<bool, HostError> {
        self.admit(&wanted.fence)?;
        if let Some(known) = self.backups.iter_mut().find(|record| record.backup.id == wanted.id) {
            let is_same = known.coming.as_ref().is_some_and(|coming| coming.sha256 == wanted.sha256);
            if !is_same || !known.is(&wanted.fence, &wanted.id) {
                return Err(refusal(HostErrorCode::BadRequest, format!("backup `{}` is another one", wanted.id)));
            }
            known.epoch = wanted.fence.epoch;
            return Ok(false);
        }
        self.brings_nothing_back(&wanted.fence, None)?;
        serving(self, &wanted.fence)?;
        let backup = Backup {
            id: wanted.id.clone(),
            environment: wanted.fence.environment.clone(),
            service: wanted.fence.service.clone(),
            release: wanted.release,
            commit: wanted.commit.clone(),
            begun_at: now(),
            why: wanted.why.clone(),
            copied_from: Some(wanted.from.clone()),
            state: BackupState::Taking,
        };
        let coming = Some(Coming { bytes: wanted.bytes, sha256: wanted.sha256.clone() });
        self.backups.push(BackupRecord { backup, epoch: wanted.fence.epoch, stopped: false, coming });
        Ok(true)
    }
}

fn failed(reason: String) -> BackupState {
    let cut_short = reason == super::CUT_SHORT;
    BackupState::Failed { reason, said: Vec::new(), cut_short }
}

fn length(aside: &Aside) -> u64 {
    std::fs::metadata(&aside.output).map_or(0, |found| found.len())
}

/// Adds a piece; how many bytes are there then. One that is there already changes nothing, and one behind a gap neither.
fn append(path: &std::path::Path, at: u64, bytes: &[u8], all: u64) -> io::Result<u64> {
    let mut file = File::options().append(true).open(path)?;
    let there = file.metadata()?.len();
    let Some(known) = there.checked_sub(at) else { return Ok(there) };
    let new = usize::try_from(known).ok().and_then(|known| bytes.get(known..)).unwrap_or_default();
    if there + new.len() as u64 > all {
        return Err(io::Error::other("more bytes come than were promised"));
    }
    if let Err(error) = file.write_all(new) {
        // half a piece is as good as none
        file.set_len(there)?;
        return Err(error);
    }
    Ok(there + new.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_in_their_order_and_as_often_as_they_like() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let add = |at, bytes: &[u8]| append(file.path(), at, bytes, 6).unwrap();
        assert_eq!(add(0, b"abc"), 3);
        assert_eq!(add(0, b"abc"), 3, "an answer was lost");
        assert_eq!(add(4, b"ef"), 3, "nothing is written behind a gap");
        assert_eq!(add(2, b"cde"), 5);
        assert!(append(file.path(), 5, b"fgh", 6).is_err());
        assert_eq!(add(5, b"f"), 6);
        assert_eq!(std::fs::read(file.path()).unwrap(), b"abcdef");
    }
}
