//! The backup before a rollout. Nothing has changed before it is kept, and nothing does where it can't be taken; a person's word to end
//! the rollout ends it too.

use std::time::Duration;

use segue_pipelines::{
    backup::{self, Before, TRIES},
    rollout::{HostFacts, fleet::OutOfStep},
};
use segue_schemas::{
    deploy::{BackupHosts, JournalKind, RolloutCommand, ServiceBackup, Strategy},
    host_api::{Backup, BackupState, HostState, StopBackup, TakeBackup},
    id::BackupId,
    status::RolloutStatus,
    worker_api::{RolloutClaim, RolloutReport},
};
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        Timing,
        hosts::{Host, HostTrouble},
        journal::{self, Journal},
        lease::{Lease, LeaseNews, Told},
        place,
        server::RolloutServer,
    },
    hosts_of,
    leave::{GivenUp, Leave, hand_back_later, left_by, lost_by},
    now,
};

/// How long a host holds its answer back while a command runs.
pub(super) const HOLD: Duration = Duration::from_secs(20);

/// How long after a command's time a host may take to say what became of it.
const UNTOLD: Duration = Duration::from_secs(120);

/// Why a rollout does not begin.
pub(super) enum Stop {
    /// It has ended.
    End(GivenUp),
    /// It is left to others.
    Leave(Leave),
}

impl Stop {
    /// It ends, and nothing was changed.
    pub(super) fn unchanged(why: &str) -> Self {
        Self::End(GivenUp { serves: "former", reason: format!("nothing was changed, because {why}") })
    }

    /// What a host's trouble comes to: what it refuses, it refuses for good.
    pub(super) fn of(trouble: HostTrouble, what: &str) -> Self {
        match trouble {
            HostTrouble::Refused(why) => Self::unchanged(&format!("{what}: {why}")),
            other => Self::Leave(left_by(other)),
        }
    }
}

/// What may come while a host's command runs.
pub(super) enum News {
    /// What the renewals brought.
    Lease(Option<LeaseNews>),
    /// This worker stops.
    Shutdown,
}

/// What that means for the command.
pub(super) enum Heard {
    /// A person wants the rollout to end.
    Abort(String),
    /// Nothing of concern.
    Nothing,
}

/// A rollout that has not begun to change anything.
pub(super) struct Saving<'a> {
    server: &'a dyn RolloutServer,
    /// The claim, with all that was written in the journal since.
    pub(super) claim: RolloutClaim,
    lease: &'a Lease,
    pub(super) timing: Timing,
    news: &'a mut mpsc::Receiver<LeaseNews>,
    shutdown: &'a CancellationToken,
}

impl<'a> Saving<'a> {
    pub(super) fn new(
        server: &'a dyn RolloutServer,
        claim: RolloutClaim,
        lease: &'a Lease,
        timing: Timing,
        news: &'a mut mpsc::Receiver<LeaseNews>,
        shutdown: &'a CancellationToken,
    ) -> Self {
        Self { server, claim, lease, timing, news, shutdown }
    }

    /// Does what is to be done before the rollout changes anything.
    pub(super) async fn before(&mut self) -> Result<(), Stop> {
        let hosts = match self.wanted() {
            Before::Nothing => return Ok(()),
            Before::FirstRelease => Vec::new(),
            Before::BackUp(_) => {
                let (hosts, away) = self.carriers().await?;
                match away {
                    Some(trouble) if hosts.is_empty() || self.takes_each() => {
                        return Err(Stop::Leave(left_by(trouble)));
                    }
                    _ => hosts,
                }
            }
        };
        self.back_up(&hosts).await
    }

    fn wanted(&self) -> Before {
        let rollout = &self.claim.rollout;
        backup::before(&rollout.spec, rollout.state.is_some() || rollout.weight > 0, &self.claim.journal)
    }

    /// Whether the service's data are at each host.
    pub(super) fn takes_each(&self) -> bool {
        let settings = self.claim.rollout.spec.service.backup.as_ref();
        settings.is_some_and(|settings| settings.hosts == BackupHosts::Each)
    }

    /// The hosts where something of the service serves, each with what it carries; and why one does not answer, if there is one.
    pub(super) async fn carriers(&mut self) -> Result<(Vec<(Host, HostState)>, Option<HostTrouble>), Stop> {
        let (hosts, left_out) = hosts_of(&self.claim, self.timing).map_err(|why| Stop::Leave(hand_back_later(why)))?;
        let (mut found, mut away) = (Vec::new(), None);
        for OutOfStep { host, reason } in left_out {
            tracing::warn!(host, reason, "it is not asked for a backup");
            away = Some(HostTrouble::Away(format!("host `{host}` can't be asked: {reason}")));
        }
        let spec = &self.claim.rollout.spec;
        for host in hosts {
            match host.state().await {
                Ok(state) => {
                    let facts = HostFacts::of(&state, &spec.environment, &spec.service.name);
                    let serves = facts.route.is_some_and(|route| route.targets.iter().any(|target| target.weight > 0));
                    found.extend(serves.then_some((host, state)));
                }
                Err(trouble) => away = Some(trouble),
            }
        }
        Ok((found, away))
    }

    /// Has a backup taken at these hosts, by the service's rule of whose data they are.
    pub(super) async fn back_up(&mut self, hosts: &[(Host, HostState)]) -> Result<(), Stop> {
        if self.wanted() == Before::Nothing {
            return Ok(());
        }
        self.begin().await?;
        let spec = &self.claim.rollout.spec;
        let service = spec.service.name.clone();
        let Some(settings) = spec.service.backup.clone() else { return Ok(()) };
        let several = if settings.hosts == BackupHosts::Each { hosts.len() } else { 1 };
        let hosts: Vec<&Host> = hosts.iter().map(|(host, _)| host).take(several).collect();
        if spec.previous.is_none() || hosts.is_empty() {
            let why = if spec.previous.is_none() { "this is its first release here" } else { "no host has it serving" };
            let message = format!("there is nothing of {service} to back up: {why}");
            return self.write(JournalKind::BackedUp, json!({ "message": message })).await;
        }
        let names = hosts.iter().map(|host| format!("`{}`", host.name)).collect::<Vec<_>>().join(", ");
        loop {
            let id = self.announced(&names).await?;
            let (mut bytes, mut failed) = (0, None);
            for host in &hosts {
                match self.take_at(host, &id, &settings).await? {
                    BackupState::Kept { bytes: of_one, .. } => bytes += of_one,
                    BackupState::Failed { reason, said, cut_short } => failed = Some((host, reason, said, cut_short)),
                    BackupState::Taking => {}
                }
            }
            let Some((host, reason, said, cut_short)) = failed else {
                let message = format!("backed up as {id}: {}, kept on host {names}", in_words(bytes));
                let detail = json!({ "message": message, "backup": id, "bytes": bytes });
                return self.write(JournalKind::BackedUp, detail).await;
            };
            let tries = self.claim.journal.iter().filter(|entry| entry.kind == JournalKind::BackUpIntent).count();
            if !cut_short || tries >= TRIES {
                let what = format!("the backup before it failed on host `{}`: {reason}", host.name);
                return Err(Stop::unchanged(&with_last_words(what, &said)));
            }
            tracing::warn!(backup = %id, reason, "it is taken once more");
            self.announce(&names, tries).await?;
        }
    }

    /// The name of the backup that was announced, or is now.
    async fn announced(&mut self, hosts: &str) -> Result<BackupId, Stop> {
        if backup::begun(&self.claim.journal).is_none() {
            self.announce(hosts, 0).await?;
        }
        backup::begun(&self.claim.journal).ok_or_else(|| Stop::unchanged("its journal can't be read"))
    }

    async fn announce(&mut self, hosts: &str, tries: usize) -> Result<(), Stop> {
        let spec = &self.claim.rollout.spec;
        let Some(previous) = &spec.previous else { return Ok(()) };
        let id = backup::named(&spec.environment, &spec.service.name, previous.id, self.claim.rollout.id, now(), tries);
        let id = id.map_err(|error| Stop::unchanged(&error.to_string()))?;
        let message =
            format!("backing up {} as release {} has it, on host {hosts}: {id}", spec.service.name, previous.id);
        self.write(JournalKind::BackUpIntent, json!({ "message": message, "backup": id })).await
    }

    /// Has one host take it, and waits for that.
    async fn take_at(&mut self, host: &Host, id: &BackupId, settings: &ServiceBackup) -> Result<BackupState, Stop> {
        let (rollout, spec) = (self.claim.rollout.id, &self.claim.rollout.spec);
        let (spare, why) = match &spec.strategy {
            Strategy::Restore { backup } => {
                (Some(backup.clone()), format!("before rollout {rollout} brings {backup} back"))
            }
            Strategy::Sync(sync) => (None, format!("before rollout {rollout} brings data of {}", sync.from)),
            _ => (None, format!("before rollout {rollout} of release {}", spec.release.id)),
        };
        let fence = place::fence(&self.claim);
        let take = TakeBackup {
            fence: fence.clone(),
            id: id.clone(),
            run: settings.run.clone(),
            container: settings.container.clone(),
            timeout_ms: minutes_ms(settings.timeout_minutes),
            keep: settings.keep,
            spare,
            why,
        };
        let what = "its backup can't be taken";
        self.is_held()?;
        let until = Instant::now() + Duration::from_millis(take.timeout_ms) + UNTOLD;
        let mut backup: Backup = host.take_backup(&take).await.map_err(|trouble| Stop::of(trouble, what))?;
        while backup.state == BackupState::Taking {
            if Instant::now() >= until {
                let why = format!("{what}: its time is over, and host `{}` does not say what became of it", host.name);
                return Err(Stop::unchanged(&why));
            }
            let (id, seen) = (id.clone(), host.clone());
            let seen = async move { seen.backup(&id, HOLD).await };
            let news = tokio::select! {
                seen = seen => {
                    backup = seen.map_err(|trouble| Stop::of(trouble, what))?;
                    continue;
                }
                news = self.news() => news,
            };
            if let Heard::Abort(by) = self.heed(news, host, true).await? {
                let stop = StopBackup { fence: fence.clone() };
                if let Err(trouble) = host.stop_backup(&take.id, &stop).await {
                    tracing::warn!(backup = %take.id, %trouble, "it ends by itself, or with the next claim");
                }
                return Err(Stop::unchanged(&format!("{by} aborted it while its backup was taken")));
            }
        }
        Ok(backup.state)
    }

    /// Waits for what the lease brings, or the end of this worker. May be dropped and asked again.
    pub(super) async fn news(&mut self) -> News {
        tokio::select! {
            news = self.news.recv() => News::Lease(news),
            () = self.shutdown.cancelled() => News::Shutdown,
        }
    }

    /// Follows a person's word to end it that has come and was not looked at yet.
    pub(super) async fn heed_all(&mut self, host: &Host) -> Result<(), Stop> {
        while let Ok(news) = self.news.try_recv() {
            if let Heard::Abort(by) = self.heed(News::Lease(Some(news)), host, true).await? {
                return Err(Stop::unchanged(&format!("{by} aborted it before anything was brought back")));
            }
        }
        Ok(())
    }

    /// Does what the news ask for. A person's word to end it is followed where it can be.
    pub(super) async fn heed(&mut self, news: News, host: &Host, can_end: bool) -> Result<Heard, Stop> {
        match news {
            News::Shutdown => {
                Err(Stop::Leave(Leave::HandBack { why: "its worker stops".into(), not_before: Duration::ZERO }))
            }
            News::Lease(None) => Err(Stop::Leave(Leave::Lost("nobody renews the lease any more".into()))),
            News::Lease(Some(LeaseNews::Lost(why))) => Err(Stop::Leave(Leave::Lost(why))),
            News::Lease(Some(LeaseNews::Back)) => Ok(Heard::Nothing),
            News::Lease(Some(LeaseNews::Access(access))) => {
                host.renew_access(&access);
                self.claim.access = Some(*access);
                Ok(Heard::Nothing)
            }
            News::Lease(Some(LeaseNews::Command(Told { command, by, word }))) => {
                let taken = can_end && command == RolloutCommand::Abort;
                let detail = json!({ "command": command, "by": by, "word": word, "taken": taken });
                self.write(JournalKind::Command, detail).await?;
                Ok(if taken { Heard::Abort(by) } else { Heard::Nothing })
            }
        }
    }

    /// Notes that the rollout was taken over, where nobody has yet: from then on its patience counts.
    pub(super) async fn begin(&mut self) -> Result<(), Stop> {
        if self.claim.journal.iter().any(|entry| entry.kind == JournalKind::Claimed) {
            return Ok(());
        }
        let message = format!("a worker took the rollout over, epoch {}", self.claim.epoch);
        self.write(JournalKind::Claimed, json!({ "message": message })).await
    }

    /// Writes in the journal; durable when it returns.
    pub(super) async fn write(&mut self, kind: JournalKind, detail: Value) -> Result<(), Stop> {
        self.report(kind, detail, RolloutStatus::Running).await
    }

    /// The rollout has ended well.
    pub(super) async fn end(&mut self, message: String) -> Result<(), Stop> {
        let detail = json!({ "message": message, "status": RolloutStatus::Succeeded, "serves": "former" });
        self.report(JournalKind::Ended, detail, RolloutStatus::Succeeded).await
    }

    async fn report(&mut self, kind: JournalKind, detail: Value, status: RolloutStatus) -> Result<(), Stop> {
        let spec = &self.claim.rollout.spec;
        let only = spec.hosts.first().filter(|_| spec.hosts.len() == 1);
        let mut journal = Journal::after(&self.claim, only.map(String::as_str));
        journal.note(kind, detail);
        let report = RolloutReport {
            epoch: self.claim.epoch,
            entries: journal.unsent().to_vec(),
            status,
            weight: 0,
            stage: 0,
            reason: self.claim.rollout.reason.clone(),
            verdict: None,
            state: None,
        };
        let sent = journal::send(self.server, &self.claim, self.lease, &report).await;
        sent.map_err(|error| Stop::Leave(lost_by(error)))?;
        self.claim.rollout.status = status;
        self.claim.journal.extend(journal.into_unsent().into_iter().map(|mut entry| {
            entry.at = now();
            entry
        }));
        Ok(())
    }

    /// Whether the rollout is this worker's still: nothing is begun at a host without.
    pub(super) fn is_held(&self) -> Result<(), Stop> {
        if self.lease.is_valid() {
            return Ok(());
        }
        Err(Stop::Leave(Leave::Lost("the lease has run out".into())))
    }
}

pub(super) fn minutes_ms(minutes: u32) -> u64 {
    u64::from(minutes) * 60_000
}

pub(super) fn with_last_words(what: String, said: &[String]) -> String {
    if said.is_empty() { what } else { format!("{what}; it said:\n{}", said.join("\n")) }
}

pub(super) fn in_words(bytes: u64) -> String {
    match bytes {
        0..10_240 => format!("{bytes} bytes"),
        10_240..10_485_760 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}
