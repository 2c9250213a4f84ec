//! A rollout that brings no release, but data of another environment, without what is personal in them: claimed, fenced and journaled as
//! every other. The host that has the data makes a copy that is harmless; only that goes through this worker, which keeps nothing of it.

use std::{collections::BTreeMap, time::Duration};

use segue_pipelines::{backup::TRIES, rollout::HostFacts, sync as rules};
use segue_schemas::{
    deploy::{JournalKind, ServiceBackup},
    host_api::{BackupState, HostState, StopBackup},
    id::{BackupId, Digest},
    sync::{BackupPiece, CopyState, DropCopy, ImportBackup, MakeCopy, SyncCount, SyncSpec},
};
use serde_json::{Value, json};

use super::{
    super::{
        hosts::{Host, HostTrouble},
        lease::LeaseNews,
        place,
    },
    leave::{hand_back_later, left_by},
    save::{HOLD, Heard, News, Saving, Stop, in_words, minutes_ms, with_last_words},
};

/// How a host answers a call that it does not know.
const NOT_KNOWN: &str = "is not known here";

/// How long a host may take to put a copy away that is not wanted any more.
const PARTING: Duration = Duration::from_secs(10);

/// A copy that can be fetched.
struct Copy {
    source: Host,
    bytes: u64,
    sha256: Digest,
}

impl Saving<'_> {
    /// Has the copies put away; of a rollout that has ended, however it did. One that is left to others is gone on with by them.
    pub(super) async fn drop_copies(&self, sync: &SyncSpec) {
        for source in self.sources(sync) {
            let drop = DropCopy { epoch: self.claim.epoch };
            let dropped = tokio::time::timeout(PARTING, source.drop_copy(self.claim.rollout.id, &drop)).await;
            if !matches!(dropped, Ok(Ok(_))) {
                tracing::debug!(host = %source.name, "the copy goes by itself");
            }
        }
    }

    /// Brings the data of another environment.
    pub(super) async fn sync(&mut self, sync: &SyncSpec) -> Result<(), Stop> {
        let sources = self.sources(sync);
        let service = self.claim.rollout.spec.service.clone();
        let (Some(settings), Some(command)) = (service.backup.clone(), rules::restore_command(&service)) else {
            let why = format!("the file of `{}` says nothing of how data are taken in", service.name);
            return Err(Stop::unchanged(&why));
        };
        let (targets, away) = self.carriers().await?;
        match away {
            Some(trouble) if targets.is_empty() || self.takes_each() => return Err(Stop::Leave(left_by(trouble))),
            _ if targets.is_empty() => {
                let environment = &self.claim.rollout.spec.environment;
                let why = format!("nothing of `{}` serves in `{environment}`", service.name);
                let is_begun = rules::begun(&self.claim.journal).is_some();
                return Err(if is_begun { self.half_back(&why) } else { Stop::unchanged(&why) });
            }
            _ => {}
        }
        let (imports, mut is_untouched) = match rules::begun(&self.claim.journal) {
            Some(imports) => (imports, false),
            None => (self.bring(sync, &sources, &targets, &settings).await?, true),
        };
        for (name, backup) in &imports {
            let Some((host, _)) = targets.iter().find(|(host, _)| host.name == *name) else {
                return Err(Stop::Leave(hand_back_later(format!(
                    "host `{name}`, which takes the data, does not serve now"
                ))));
            };
            match self.restore_at(host, backup, &settings, &command).await {
                Ok(()) => is_untouched = false,
                Err(Stop::End(end)) if !is_untouched => return Err(self.half_back(&end.reason)),
                Err(stop) => return Err(stop),
            }
        }
        let message =
            format!("the data of {} are those of `{}`, without what is personal in them", service.name, sync.from);
        self.write(JournalKind::Restored, json!({ "message": message, "from": sync.from })).await?;
        self.end(message).await
    }

    /// Has copies made and brings them; what is to be taken in by which host.
    async fn bring(
        &mut self,
        sync: &SyncSpec,
        sources: &[Host],
        targets: &[(Host, HostState)],
        settings: &ServiceBackup,
    ) -> Result<BTreeMap<String, BackupId>, Stop> {
        let each = self.takes_each();
        let sources = self.givers(sync, sources, each).await?;
        let pairs = rules::pairs(sources.len(), targets.len(), each).map_err(|why| Stop::unchanged(&why))?;
        let mut copies = Vec::new();
        for (source, target) in pairs {
            copies.push((self.copy_at(sync, &sources[source]).await?, &targets[target].0));
        }
        self.back_up(targets).await?;
        let mut imports = BTreeMap::new();
        for (copy, target) in &copies {
            let id = self.import(sync, copy, target, settings).await?;
            imports.insert(target.name.clone(), id);
        }
        self.heed_all(&targets[0].0).await?;
        let service = &self.claim.rollout.spec.service.name;
        let message = format!("putting data of `{}` in the place of those of {service}", sync.from);
        let detail = json!({ "message": message, "from": sync.from, "imports": imports });
        self.write(JournalKind::RestoreIntent, detail).await?;
        Ok(imports)
    }

    /// The hosts of the environment that the data are from, as far as they can be reached.
    fn sources(&self, sync: &SyncSpec) -> Vec<Host> {
        let open = |name: &String| {
            let address = self.claim.hosts.get(name)?;
            let host = Host::new(name, address, self.claim.access.as_ref(), self.timing.host_patience);
            host.inspect_err(|error| tracing::warn!(host = name, error, "it can't be asked for data")).ok()
        };
        sync.hosts.iter().filter_map(open).collect()
    }

    /// Those among them where something of the service serves.
    async fn givers(&self, sync: &SyncSpec, hosts: &[Host], each: bool) -> Result<Vec<Host>, Stop> {
        let (mut found, mut away) = (Vec::new(), None);
        if hosts.len() < sync.hosts.len() {
            away = Some(HostTrouble::Away(format!("not every host of `{}` can be reached", sync.from)));
        }
        for host in hosts {
            match host.state().await {
                Ok(state) => {
                    let facts = HostFacts::of(&state, &sync.from, &self.claim.rollout.spec.service.name);
                    let serves = facts.route.is_some_and(|route| route.targets.iter().any(|target| target.weight > 0));
                    found.extend(serves.then(|| host.clone()));
                }
                Err(trouble) => away = Some(trouble),
            }
        }
        match away {
            Some(trouble) if found.is_empty() || each => Err(Stop::Leave(left_by(trouble))),
            _ if found.is_empty() => {
                let service = &self.claim.rollout.spec.service.name;
                Err(Stop::unchanged(&format!(
                    "nothing of `{service}` serves in `{}`, where its data were to come from",
                    sync.from
                )))
            }
            _ => Ok(found),
        }
    }

    /// Has a host make a copy, and waits for it.
    async fn copy_at(&mut self, sync: &SyncSpec, source: &Host) -> Result<Copy, Stop> {
        let (id, service) = (self.claim.rollout.id, self.claim.rollout.spec.service.name.clone());
        let what = format!("no harmless copy of the data in `{}` could be made on host `{}`", sync.from, source.name);
        let known = |saving: &Self, kind: JournalKind, key: &str, value: &Value| {
            saving.claim.journal.iter().any(|entry| entry.kind == kind && entry.detail[key] == *value)
        };
        if !known(self, JournalKind::CopyIntent, "source", &json!(source.name)) {
            let message = format!(
                "having host `{}` copy the data of {service} in `{}` ({}), without what is personal in them by the rules of release {}",
                source.name, sync.from, sync.data, sync.release
            );
            self.begin().await?;
            self.write(JournalKind::CopyIntent, json!({ "message": message, "source": source.name })).await?;
        }
        let wanted = MakeCopy {
            id,
            epoch: self.claim.epoch,
            environment: sync.from.clone(),
            service,
            data: sync.data.clone(),
            run: sync.run.clone(),
            container: sync.container.clone(),
            timeout_ms: minutes_ms(sync.timeout_minutes),
            rules: sync.rules.clone(),
            release: Some(sync.release),
        };
        for _ in 0..TRIES {
            self.is_held()?;
            let mut copy = source.make_copy(&wanted).await.map_err(|trouble| refused(trouble, source, &what))?;
            while copy.state == CopyState::Making {
                let asked = source.clone();
                let seen = async move { asked.copy(id, HOLD).await };
                let news = tokio::select! {
                    seen = seen => {
                        copy = seen.map_err(|trouble| Stop::of(trouble, &what))?;
                        continue;
                    }
                    news = self.news() => news,
                };
                self.heed_at(news, source, source).await?;
            }
            match copy.state {
                CopyState::Making | CopyState::Failed { cut_short: true, .. } => {}
                CopyState::Failed { reason, said, .. } => {
                    return Err(Stop::unchanged(&with_last_words(format!("{what}: {reason}"), &said)));
                }
                CopyState::Ready { bytes, sha256, counts } => {
                    if !known(self, JournalKind::Copied, "sha256", &json!(sha256)) {
                        let message = format!("the copy is made, {}; {}", in_words(bytes), told(&counts));
                        let detail = json!({
                            "message": message, "source": source.name, "bytes": bytes, "sha256": sha256, "counts": counts,
                        });
                        self.write(JournalKind::Copied, detail).await?;
                    }
                    return Ok(Copy { source: source.clone(), bytes, sha256 });
                }
            }
        }
        Err(Stop::unchanged(&format!("{what}: the host was ended meanwhile, {TRIES} times")))
    }

    /// Brings a copy to a host, where it is a backup then.
    async fn import(
        &mut self,
        sync: &SyncSpec,
        copy: &Copy,
        target: &Host,
        settings: &ServiceBackup,
    ) -> Result<BackupId, Stop> {
        let spec = self.claim.rollout.spec.clone();
        let (rollout, fence) = (self.claim.rollout.id, place::fence(&self.claim));
        let what = format!("the data can't be brought to host `{}`", target.name);
        for tries in 0..TRIES {
            let id = rules::named(&spec.environment, &spec.service.name, &sync.from, rollout, &copy.sha256, tries);
            let id = id.map_err(|error| Stop::unchanged(&error.to_string()))?;
            let is_known = self.claim.journal.iter().any(|entry| {
                entry.kind == JournalKind::ImportIntent
                    && entry.detail["backup"] == json!(id)
                    && entry.detail["target"] == json!(target.name)
            });
            if !is_known {
                let message = format!("bringing the copy to host `{}` as {id}, {}", target.name, in_words(copy.bytes));
                self.write(
                    JournalKind::ImportIntent,
                    json!({ "message": message, "backup": id, "target": target.name }),
                )
                .await?;
            }
            let wanted = ImportBackup {
                fence: fence.clone(),
                id: id.clone(),
                from: sync.from.clone(),
                release: sync.release,
                commit: sync.commit.clone(),
                bytes: copy.bytes,
                sha256: copy.sha256.clone(),
                timeout_ms: minutes_ms(settings.timeout_minutes),
                keep: settings.keep,
                spare: segue_pipelines::backup::begun(&self.claim.journal),
                why: format!("data of {}, without what is personal in them, for rollout {rollout}", sync.from),
            };
            self.is_held()?;
            let begun = target.import_backup(&wanted).await.map_err(|trouble| refused(trouble, target, &what))?;
            let mut state = begun.state;
            if state == BackupState::Taking {
                let carried = self.carry(copy, target, &id).await;
                if matches!(carried, Err(Stop::End(_))) {
                    let stop = StopBackup { fence: fence.clone() };
                    if let Err(trouble) = target.stop_backup(&id, &stop).await {
                        tracing::warn!(backup = %id, %trouble, "it ends by itself");
                    }
                }
                state = carried?;
            }
            match state {
                BackupState::Kept { .. } => return Ok(id),
                BackupState::Taking | BackupState::Failed { cut_short: true, .. } => {}
                BackupState::Failed { reason, .. } => return Err(Stop::unchanged(&format!("{what}: {reason}"))),
            }
        }
        Err(Stop::unchanged(&format!("{what}: it was ended meanwhile, {TRIES} times")))
    }

    /// Carries a copy over, piece by piece, from where it stands; what became of it.
    async fn carry(&mut self, copy: &Copy, target: &Host, id: &BackupId) -> Result<BackupState, Stop> {
        let (rollout, fence) = (self.claim.rollout.id, place::fence(&self.claim));
        let mut at = 0;
        loop {
            self.is_held()?;
            let (source, to, of, fence) = (copy.source.clone(), target.clone(), id.clone(), fence.clone());
            let is_whole = at >= copy.bytes;
            let step = async move {
                if is_whole {
                    return Ok(Step::Seen(to.backup(&of, HOLD).await?.state));
                }
                // a source that was ended has lost its copy: another is made with the next claim
                let piece = source.copy_piece(rollout, at).await.map_err(|trouble| match trouble {
                    HostTrouble::Refused(why) => HostTrouble::Away(why),
                    other => other,
                })?;
                if piece.bytes.is_empty() {
                    return Ok(Step::Short);
                }
                let arrived = to.bring_piece(&of, &BackupPiece { fence, at, bytes: piece.bytes }).await;
                match arrived {
                    Ok(arrived) => Ok(Step::Brought(arrived.bytes)),
                    // why it takes no more stands there
                    Err(HostTrouble::Refused(why)) => match to.backup(&of, Duration::ZERO).await?.state {
                        BackupState::Taking => Err(HostTrouble::Refused(why)),
                        ended => Ok(Step::Seen(ended)),
                    },
                    Err(other) => Err(other),
                }
            };
            tokio::select! {
                done = step => match done.map_err(|trouble| Stop::of(trouble, "the data can't be brought"))? {
                    Step::Seen(BackupState::Taking) => {}
                    Step::Seen(state) => return Ok(state),
                    Step::Brought(bytes) => at = bytes,
                    Step::Short => return Err(Stop::unchanged("the copy has ended before its end")),
                },
                news = self.news() => self.heed_at(news, &copy.source, target).await?,
            }
        }
    }

    /// Follows a person's word to end it; a newer certificate opens both hosts.
    async fn heed_at(&mut self, news: News, source: &Host, target: &Host) -> Result<(), Stop> {
        let is_access = matches!(news, News::Lease(Some(LeaseNews::Access(_))));
        if let Heard::Abort(by) = self.heed(news, target, true).await? {
            return Err(Stop::unchanged(&format!("{by} aborted it before anything was replaced")));
        }
        if let Some(access) = self.claim.access.as_ref().filter(|_| is_access) {
            source.renew_access(access);
        }
        Ok(())
    }
}

/// What one step of carrying came to.
enum Step {
    /// So many bytes are there.
    Brought(u64),
    /// All are, and this became of it.
    Seen(BackupState),
    /// There is nothing more to fetch, though there should be.
    Short,
}

/// A host that does not know the call is told to be upgraded.
fn refused(trouble: HostTrouble, host: &Host, what: &str) -> Stop {
    match trouble {
        HostTrouble::Refused(why) if why.contains(NOT_KNOWN) => Stop::unchanged(&format!(
            "{what}: `segue host` there is of an earlier version, which brings data nowhere; upgrade it on `{}`",
            host.name
        )),
        other => Stop::of(other, what),
    }
}

fn told(counts: &[SyncCount]) -> String {
    let counted: Vec<String> = counts
        .iter()
        .filter(|one| one.count > 0)
        .map(|one| format!("{} replaced by {}", one.count, one.what))
        .collect();
    if counted.is_empty() { "nothing was replaced".into() } else { counted.join(", ") }
}
