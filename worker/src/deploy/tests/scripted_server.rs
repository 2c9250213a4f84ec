//! The server's side of one rollout in memory: leases with epochs, a journal that refuses what the real one refuses, and
//! two ways to hold an answer back for ever, at which a test lets the driver die.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::pending;
use segue_schemas::{
    deploy::{JournalEntry, JournalKind, Release, Rollout, RolloutCommand},
    host_api::{ArtifactSource, HostState},
    id::{Digest, Epoch, RolloutId},
    time::Timestamp,
    worker_api::{RolloutClaim, RolloutHandBack, RolloutRenewed, RolloutReport},
};
use tokio::sync::Notify;

use crate::deploy::server::{RolloutServer, ServerError};

/// Where a driver dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Death {
    /// The entry is stored; the driver never learns of it, and does nothing of what it announces.
    After(usize),
    /// The entry never arrives; what came before it was done.
    Before(usize),
}

pub(super) struct ScriptedServer {
    state: Mutex<State>,
    /// No call is answered but with "away".
    pub(super) is_away: AtomicBool,
    /// Goes away by itself when such an entry arrives, which is not stored.
    leaves_at: Mutex<Option<JournalKind>>,
    changed: Notify,
    dead_man_ms: u64,
    host_socket: String,
    /// Hosts beside `local`, with their sockets.
    pub(super) others: Vec<(String, String)>,
    artifacts: BTreeMap<Digest, ArtifactSource>,
}

struct State {
    rollout: Rollout,
    journal: Vec<JournalEntry>,
    epoch: Epoch,
    is_leased: bool,
    death: Option<Death>,
    is_dying: bool,
    /// A person's word, and how often it is told at most while the journal does not have it.
    command: Option<(RolloutCommand, u8)>,
    hand_backs: Vec<String>,
    /// The highest epoch that a host was told to have seen.
    heard: Epoch,
    /// What was last told of a host.
    told: Option<HostState>,
    faults: Vec<String>,
}

impl ScriptedServer {
    pub(super) fn new(rollout: Rollout, epoch: Epoch, host_socket: String, dead_man_ms: u64) -> Self {
        let spec = &rollout.spec;
        let source =
            |release: &Release| (release.digest.clone(), ArtifactSource::File(format!("/nowhere/{}", release.digest)));
        let artifacts = std::iter::once(&spec.release).chain(&spec.previous).map(source).collect();
        Self::with_artifacts(rollout, epoch, host_socket, dead_man_ms, artifacts)
    }

    pub(super) fn with_artifacts(
        rollout: Rollout,
        epoch: Epoch,
        host_socket: String,
        dead_man_ms: u64,
        artifacts: BTreeMap<Digest, ArtifactSource>,
    ) -> Self {
        Self {
            state: Mutex::new(State {
                rollout,
                journal: Vec::new(),
                epoch,
                is_leased: false,
                death: None,
                is_dying: false,
                command: None,
                hand_backs: Vec::new(),
                heard: Epoch::default(),
                told: None,
                faults: Vec::new(),
            }),
            is_away: AtomicBool::new(false),
            leaves_at: Mutex::new(None),
            changed: Notify::new(),
            dead_man_ms,
            host_socket,
            others: Vec::new(),
            artifacts,
        }
    }

    pub(super) fn let_die(&self, death: Death) {
        self.state.lock().unwrap().death = Some(death);
    }

    pub(super) fn leave_at(&self, kind: JournalKind) {
        *self.leaves_at.lock().unwrap() = Some(kind);
    }

    pub(super) fn come_back(&self) {
        *self.leaves_at.lock().unwrap() = None;
        self.is_away.store(false, Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    pub(super) fn command(&self, command: RolloutCommand) {
        self.state.lock().unwrap().command = Some((command, 2));
        self.changed.notify_waiters();
    }

    /// The lease has run out, or the worker has come back under another incarnation.
    pub(super) fn end_lease(&self) {
        let mut state = self.state.lock().unwrap();
        state.is_leased = false;
        state.is_dying = false;
        state.death = None;
        drop(state);
        self.changed.notify_waiters();
    }

    /// What was last told of a host.
    pub(super) fn told(&self) -> Option<HostState> {
        self.state.lock().unwrap().told.clone()
    }

    pub(super) fn rollout(&self) -> Rollout {
        self.state.lock().unwrap().rollout.clone()
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.state.lock().unwrap().epoch
    }

    pub(super) fn journal(&self) -> Vec<JournalEntry> {
        self.state.lock().unwrap().journal.clone()
    }

    pub(super) fn hand_backs(&self) -> Vec<String> {
        self.state.lock().unwrap().hand_backs.clone()
    }

    pub(super) fn faults(&self) -> Vec<String> {
        self.state.lock().unwrap().faults.clone()
    }

    /// Waits until the condition holds of the journal; half a minute at most.
    pub(super) async fn until(&self, what: &str, holds: impl Fn(&Rollout, &[JournalEntry]) -> bool) {
        self.wait(what, |state| holds(&state.rollout, &state.journal)).await;
    }

    /// Waits until the driver has come to the place where it is to die, or the rollout has ended; whether it is the first.
    pub(super) async fn until_dying(&self) -> bool {
        self.wait("a death or the end", |state| state.is_dying || state.rollout.status.is_final()).await;
        self.state.lock().unwrap().is_dying
    }

    async fn wait(&self, what: &str, holds: impl Fn(&State) -> bool) {
        let waiting = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if holds(&self.state.lock().unwrap()) {
                    return;
                }
                changed.await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(30), waiting).await.is_err() {
            let state = self.state.lock().unwrap();
            panic!("{what} did not come; {:?}, journal:\n{}", state.rollout.status, lines(&state.journal));
        }
    }

    fn answers(&self) -> Result<(), ServerError> {
        match self.is_away.load(Ordering::SeqCst) {
            true => Err(ServerError::Away("nobody answers".into())),
            false => Ok(()),
        }
    }
}

/// The journal as a person reads it.
pub(super) fn lines(journal: &[JournalEntry]) -> String {
    let began = journal.first().map(|e| e.at).unwrap_or_default();
    let line = |e: &JournalEntry| {
        let (ms, message) = (e.at.since(began).as_millis(), e.detail["message"].as_str().unwrap_or("?"));
        format!("{:>3} {ms:>6} ms epoch {} {:?}: {message}\n", e.sequence, e.epoch, e.kind)
    };
    journal.iter().map(line).collect()
}

#[async_trait]
impl RolloutServer for ScriptedServer {
    async fn claim(&self, wait_ms: u64) -> Result<Option<RolloutClaim>, ServerError> {
        self.answers()?;
        let claimable = self.wait("something claimable", |state| !state.is_leased && !state.rollout.status.is_final());
        if tokio::time::timeout(Duration::from_millis(wait_ms), claimable).await.is_err() {
            return Ok(None);
        }
        self.answers()?;
        let mut state = self.state.lock().unwrap();
        state.is_leased = true;
        state.epoch = state.epoch.max(state.heard).next();
        Ok(Some(RolloutClaim {
            rollout: state.rollout.clone(),
            epoch: state.epoch,
            journal: state.journal.clone(),
            hosts: [("local".to_owned(), self.host_socket.clone())].into_iter().chain(self.others.clone()).collect(),
            artifacts: self.artifacts.clone(),
            access: None,
            dead_man_ms: self.dead_man_ms,
        }))
    }

    async fn renew(&self, claim: &RolloutClaim, wait_ms: u64) -> Result<RolloutRenewed, ServerError> {
        self.answers()?;
        let word = async {
            loop {
                let changed = self.changed.notified();
                {
                    let mut state = self.state.lock().unwrap();
                    if state.epoch != claim.epoch || !state.is_leased {
                        return Err(ServerError::Stale(format!("the epoch is {}", state.epoch)));
                    }
                    if let Some((command, times)) = state.command.take() {
                        state.command = (times > 1).then(|| (command, times - 1));
                        return Ok(RolloutRenewed {
                            command: Some(command),
                            by: Some("ada: enough".into()),
                            word: Some(1),
                            access: None,
                        });
                    }
                }
                changed.await;
            }
        };
        let renewed = tokio::time::timeout(Duration::from_millis(wait_ms), word).await;
        self.answers()?;
        renewed.unwrap_or(Ok(RolloutRenewed::default()))
    }

    async fn report(&self, rollout: RolloutId, report: &RolloutReport) -> Result<(), ServerError> {
        let leaves_at = *self.leaves_at.lock().unwrap();
        if report.entries.iter().any(|entry| Some(entry.kind) == leaves_at) {
            self.is_away.store(true, Ordering::SeqCst);
        }
        self.answers()?;
        let (is_dying, result) = {
            let mut state = self.state.lock().unwrap();
            if report.entries.iter().any(|entry| entry.kind == JournalKind::Command) {
                state.command = None;
            }
            state.report(rollout, report)
        };
        self.changed.notify_waiters();
        if is_dying {
            pending::<()>().await;
        }
        result
    }

    async fn tell_host(&self, _: &str, told: &HostState) -> Result<(), ServerError> {
        self.answers()?;
        let mut state = self.state.lock().unwrap();
        // the rule of the store: no claim at or below what a host has seen
        let seen = told.routes.iter().map(|route| route.epoch).max().unwrap_or_default();
        state.heard = state.heard.max(seen);
        state.told = Some(told.clone());
        Ok(())
    }

    async fn hand_back(&self, _: RolloutId, hand_back: &RolloutHandBack) -> Result<(), ServerError> {
        self.answers()?;
        {
            let mut state = self.state.lock().unwrap();
            if hand_back.epoch != state.epoch {
                return Err(ServerError::Stale(format!("the epoch is {}", state.epoch)));
            }
            state.hand_backs.push(hand_back.reason.clone());
            state.is_leased = false;
        }
        self.changed.notify_waiters();
        Ok(())
    }
}

impl State {
    fn report(&mut self, rollout: RolloutId, report: &RolloutReport) -> (bool, Result<(), ServerError>) {
        if report.epoch != self.epoch || rollout != self.rollout.id {
            return (false, Err(ServerError::Stale(format!("the epoch is {}", self.epoch))));
        }
        if self.is_dying {
            return (true, Ok(()));
        }
        let have = self.journal.len() as i64;
        let news = || report.entries.iter().filter(|entry| entry.sequence > have);
        if self.rollout.status.is_final() && news().next().is_some() {
            self.faults
                .push(format!("entries after the end: {:?}", news().map(|entry| entry.kind).collect::<Vec<_>>()));
            return (false, Err(ServerError::Stale("the rollout has ended".into())));
        }
        if let Some(Death::Before(sequence)) = self.death
            && news().any(|entry| entry.sequence >= sequence as i64)
        {
            self.is_dying = true;
            return (true, Ok(()));
        }
        for entry in news() {
            if entry.sequence != self.journal.len() as i64 + 1 || entry.epoch != self.epoch {
                self.faults.push(format!("entry {} of epoch {} does not follow", entry.sequence, entry.epoch));
            }
            if entry.detail["message"].as_str().is_none_or(str::is_empty) {
                self.faults.push(format!("entry {} ({:?}) has no message", entry.sequence, entry.kind));
            }
            let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_millis();
            self.journal.push(JournalEntry { at: Timestamp(since as i64), ..entry.clone() });
        }
        let from = self.rollout.status;
        if from != report.status
            && let Err(illegal) = from.transition(report.status)
        {
            self.faults.push(illegal.to_string());
        }
        let rollout = &mut self.rollout;
        rollout.status = report.status;
        rollout.weight = report.weight;
        rollout.stage = report.stage;
        rollout.reason.clone_from(&report.reason);
        rollout.verdict.clone_from(&report.verdict);
        rollout.state.clone_from(&report.state);
        if let Some(Death::After(sequence)) = self.death
            && self.journal.len() >= sequence
        {
            self.is_dying = true;
            return (true, Ok(()));
        }
        (false, Ok(()))
    }
}
