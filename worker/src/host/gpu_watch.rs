//! How the GPUs that a host offers are, over time. Comes in: `nvidia-smi` and dcgm-exporter, looked at often while somebody rolls out and seldom
//! otherwise, and the kernel's log, as it is written. Goes out: a report, to whoever waits for another one. What it means is
//! `segue_pipelines::gpu`'s to say; here is noted who had a GPU when the driver reported something of it, since nobody knows later.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, OwnedFd},
        unix::fs::OpenOptionsExt as _,
    },
    path::Path,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use nix::{
    errno::Errno,
    time::{ClockId, clock_gettime},
};
use segue_pipelines::gpu::{
    Exported, Facts, Recovery, SmiFault, Xid, exported, faults, kernel_record, of_log_line, offered, pci_address, xid,
};
use segue_schemas::{
    gpu_health::{Blame, GpuReport, GpuXid, MOST_XIDS, XidSource},
    host_api::{HostError, HostErrorCode},
    id::InstanceId,
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout},
};

use super::{
    Host, clock,
    process::{self, Families},
    refusal,
    state::Recorded,
};
use crate::gpu;

/// Between two looks while somebody who rolls out waits for news.
const WATCHED_EVERY: Duration = Duration::from_secs(2);

/// The same of an engine on another machine, where each look takes a container or a question to one.
const WATCHED_EVERY_ELSEWHERE: Duration = Duration::from_secs(5);

/// Between two looks otherwise.
const EVERY: Duration = Duration::from_secs(60);

/// For how long after somebody has waited it is looked as often: until the next call there may be a pause.
const STAYS_WATCHED: Duration = Duration::from_secs(15);

/// How long the exporter may take, and how much of what it says is read.
const EXPORTER_LIMIT: Duration = Duration::from_secs(2);
const MOST_EXPORTED: usize = 4 << 20;

/// The exporter tells later of what the kernel's log has at once: within this time it is the same. It collects each 30 s.
const SAME_WITHIN: Duration = Duration::from_secs(60);

/// A driver that reports the same again and again is heard once in this time.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Who has a GPU now is not who had it when something older was reported.
const JUST_NOW: Duration = Duration::from_secs(10);

/// A record of the kernel's log is not longer.
const LONGEST_RECORD: usize = 8192;

/// Records that are read in one go.
const AT_ONCE: usize = 256;

/// What is kept of Xids.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct XidRecord {
    /// The number of the last one.
    last: u64,
    kept: Vec<GpuXid>,
    /// The last one of each GPU by the exporter, 0 for none: only another one is news.
    exported: BTreeMap<String, u32>,
    /// How far the kernel's log of this boot of the machine has been read.
    kernel: Option<(String, u64)>,
}

/// What is known of the health of GPUs.
#[derive(Debug)]
pub(super) struct GpuWatch {
    report: watch::Sender<GpuReport>,
    /// Held while it is looked.
    looking: tokio::sync::Mutex<()>,
    /// Somebody waits for news who did not before.
    wanted: Notify,
    watched_until: Mutex<Option<Instant>>,
    known: Mutex<Known>,
    /// The Xids up to here were reported before this host was started; since then the GPU may have been repaired.
    before: OnceLock<u64>,
    client: OnceLock<Option<reqwest::Client>>,
}

/// What former looks have shown.
#[derive(Debug, Default)]
struct Known {
    /// The engine that has the GPUs of another machine.
    engine: Option<String>,
    uuids: BTreeSet<String>,
    places: BTreeMap<(u32, u32, u32), String>,
    kernel_fault: Option<String>,
}

impl Known {
    /// What was seen at an engine before this one is of another machine, and not gone. `asked`: which it was when the look began.
    fn forget_others(&mut self, asked: Option<String>, now: Option<String>) {
        let is_amid_a_change = asked.is_some() && asked != now;
        if is_amid_a_change || self.engine != now {
            self.uuids.clear();
        }
        // whose GPUs such a look tells of is not known, so the next one begins anew as well
        self.engine = now.filter(|_| !is_amid_a_change);
    }
}

impl Default for GpuWatch {
    fn default() -> Self {
        // one that goes on where another host ended is another report
        let revision = u64::try_from(clock::now().0).unwrap_or_default();
        Self {
            report: watch::Sender::new(GpuReport { revision, ..GpuReport::default() }),
            looking: tokio::sync::Mutex::default(),
            wanted: Notify::new(),
            watched_until: Mutex::default(),
            known: Mutex::default(),
            before: OnceLock::new(),
            client: OnceLock::new(),
        }
    }
}

impl GpuWatch {
    fn is_watched(&self) -> bool {
        let until = *self.watched_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| until > Instant::now())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody waits so long for news.
    fn watch_for(&self, wait: Duration) {
        let was_watched = self.is_watched();
        let until = Instant::now() + wait + STAYS_WATCHED;
        *self.watched_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
        if !was_watched {
            self.wanted.notify_one();
        }
    }
}

/// What the driver reported.
struct Told {
    gpu: String,
    xid: Xid,
    source: XidSource,
    pid: Option<u32>,
    at: Timestamp,
}

impl Host {
    /// Looks at the GPUs for as long as the host lives.
    pub(super) async fn watch_gpus(self: Arc<Self>) {
        if self.options.gpus.is_empty() {
            return;
        }
        let _ = self.gpu_watch.before.set(self.store.current().xids.last);
        // what was known before the start is no news to whoever asks first
        let xids = self.store.current().xids.kept.clone();
        self.gpu_watch.report.send_modify(|report| report.xids = xids);
        let is_elsewhere = self.docker.is_elsewhere();
        if is_elsewhere {
            let why = "the kernel's log of the engine's machine can't be read from here; an Xid is known once the exporter tells it";
            self.gpu_watch.known().kernel_fault = Some(why.into());
        }
        // the report has it
        let _ = self.look_at_gpus().await;
        for fault in &self.gpu_watch.report.borrow().faults {
            let gpu = fault.gpu.as_deref().unwrap_or("all");
            tracing::error!(gpu, fault = fault.what, remedy = fault.remedy, "a GPU is not offered to services");
        }
        let watched_every = if is_elsewhere { WATCHED_EVERY_ELSEWHERE } else { WATCHED_EVERY };
        if !is_elsewhere {
            tokio::spawn(self.clone().read_kernel_log());
        }
        loop {
            let pause = if self.gpu_watch.is_watched() { watched_every } else { EVERY };
            // who waits anew is not kept waiting
            let _ = timeout(pause, self.gpu_watch.wanted.notified()).await;
            let _ = self.look_at_gpus().await;
        }
    }

    /// `GET /v1/gpus`: the report, once it is another one than `after`, or `wait` is over; with `is_fresh`, after another look. Where that one could not
    /// ask after them, what was known before is no answer.
    pub(super) async fn gpu_report(
        &self,
        after: Option<u64>,
        wait: Duration,
        is_fresh: bool,
    ) -> Result<GpuReport, HostError> {
        if self.options.gpus.is_empty() {
            return Err(refusal(HostErrorCode::BadRequest, "this host offers no GPUs".into()));
        }
        if is_fresh && let Err(why) = self.look_at_gpus().await {
            return Err(refusal(HostErrorCode::Unavailable, why));
        }
        if let Some(after) = after {
            self.gpu_watch.watch_for(wait);
            let mut report = self.gpu_watch.report.subscribe();
            let _ = timeout(wait, report.wait_for(|report| report.revision != after)).await;
        }
        Ok(self.shown_gpus())
    }

    /// The report as it is.
    pub(super) fn shown_gpus(&self) -> GpuReport {
        let recorded = self.store.current();
        let with = recorded.instances.iter().filter(|(_, i)| !i.is_stopped() && !i.gpus.is_empty());
        let given = with.map(|(id, instance)| (id.clone(), instance.gpus.clone())).collect();
        GpuReport { given, ..self.gpu_watch.report.borrow().clone() }
    }

    /// Adds the host's own faults that the driver reported of its GPUs, and does not tell of any more when it is asked. Where it says what it wants
    /// done, that is its word: nothing is wanted after a reset.
    pub(super) fn add_xids(&self, facts: &mut Facts) {
        for (uuid, error) in self.broken_by_xids() {
            let Some(gpu) = facts.gpus.iter_mut().find(|gpu| gpu.uuid == uuid) else { continue };
            if gpu.recovery != Some(Recovery::None) && !gpu.errors.contains(&error) {
                gpu.errors.push(error);
            }
        }
    }

    /// The GPUs of which a fault of the host's own was reported since the host was started, with what.
    fn broken_by_xids(&self) -> Vec<(String, String)> {
        let before = self.gpu_watch.before.get().copied().unwrap_or_default();
        let report = self.gpu_watch.report.borrow();
        let of_host = report.xids.iter().filter(|one| one.number > before && one.blame == Blame::Host);
        of_host.map(|one| (one.gpu.clone(), format!("Xid {}, {}", one.code, one.meaning))).collect()
    }

    /// # Errors
    /// Why nobody could be asked after them.
    async fn look_at_gpus(&self) -> Result<(), String> {
        let _looking = self.gpu_watch.looking.lock().await;
        let engine =
            || self.store.current().engine.as_ref().filter(|_| self.docker.is_elsewhere()).map(|it| it.id.clone());
        let asked = engine();
        let (mut looked, exported) = tokio::join!(gpu::look_at_health(&*self.gpu_tool), self.exported());
        self.rest_unless_watched().await;
        let (exported, unheard) = match exported {
            Ok(exported) => (exported, None),
            Err(why) => (BTreeMap::new(), Some(why)),
        };
        let before = {
            let mut known = self.gpu_watch.known();
            known.forget_others(asked, engine());
            if let Ok(facts) = &mut looked {
                for (uuid, told) in &exported {
                    told.add_to(facts, uuid);
                }
                let place = |bus: &String| pci_address(bus);
                known.places = facts
                    .gpus
                    .iter()
                    .filter_map(|gpu| Some((gpu.bus.as_ref().and_then(place)?, gpu.uuid.clone())))
                    .collect();
                known.uuids.extend(facts.gpus.iter().map(|gpu| gpu.uuid.clone()));
            }
            known.uuids.clone()
        };
        // what nobody could be asked after is as it was
        let unasked = match &looked {
            Err(fault @ SmiFault::Unasked { .. }) => Some(fault.to_string()),
            _ => None,
        };
        let found = match &unasked {
            Some(_) => self.gpu_watch.report.borrow().faults.clone(),
            None => faults(looked.as_ref(), &self.options.gpus, &before),
        };
        self.note_exported(&exported).await;
        if let Ok(facts) = &mut looked {
            self.add_xids(facts);
            self.gpus.note(offered(facts, &self.options.gpus).0);
        }
        let is_asked = unasked.is_none();
        let kernel_fault = self.gpu_watch.known().kernel_fault.clone();
        let blind = unasked.clone().into_iter().chain(unheard).chain(kernel_fault).collect();
        let is_news = self.gpu_watch.report.send_if_modified(|report| {
            let is_first = is_asked && report.looked_at.is_none();
            let is_news = report.faults != found || report.blind != blind || is_first;
            (report.faults, report.blind) = (found, blind);
            if is_asked {
                report.looked_at = Some(clock::now());
            }
            report.revision += u64::from(is_news);
            is_news
        });
        if is_news {
            self.tell_of_gpus().await;
        }
        unasked.map_or(Ok(()), Err)
    }

    /// What is kept to look again soon goes, unless somebody waits for news.
    pub(super) async fn rest_unless_watched(&self) {
        if !self.gpu_watch.is_watched() {
            self.gpu_tool.rest().await;
        }
    }

    /// Whoever waits for what happens here without a rollout hears of it.
    async fn tell_of_gpus(&self) {
        let noted = self.store.change_regardless(|recorded| {
            recorded.restorations += 1;
            Ok(())
        });
        if let Err(error) = noted.await {
            tracing::error!(%error, "what is new of GPUs can't be recorded");
        }
    }

    /// What the exporter says, where there is one.
    async fn exported(&self) -> Result<BTreeMap<String, Exported>, String> {
        let Some(url) = &self.options.dcgm else { return Ok(BTreeMap::new()) };
        let client = self.gpu_watch.client.get_or_init(|| {
            let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
            client.timeout(EXPORTER_LIMIT).pool_max_idle_per_host(1).build().ok()
        });
        let failed = |why: String| format!("the dcgm-exporter at {url} tells nothing: {why}");
        let client = client.as_ref().ok_or_else(|| failed("no HTTP client".into()))?;
        let answer = client.get(url).send().await.map_err(|error| failed(in_words(&error)))?;
        if !answer.status().is_success() {
            return Err(failed(answer.status().to_string()));
        }
        let mut answer = answer;
        let mut said = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(|error| failed(in_words(&error)))? {
            if said.len() + part.len() > MOST_EXPORTED {
                return Err(failed(format!("its answer is longer than {} MiB", MOST_EXPORTED >> 20)));
            }
            said.extend_from_slice(&part);
        }
        Ok(exported(&String::from_utf8_lossy(&said)))
    }

    /// The exporter says which Xid was the last, for ever: another one than at the last look is news.
    async fn note_exported(&self, exported: &BTreeMap<String, Exported>) {
        let before = self.store.current().xids.exported.clone();
        let mut now = before.clone();
        let mut told = Vec::new();
        for (uuid, one) in exported.iter().filter(|(uuid, _)| self.offers(uuid)) {
            // one that says nothing of it now, as while it starts, says nothing new later
            let Some(last) = one.last_xid else { continue };
            if let Some(known) = now.insert(uuid.clone(), last)
                && known != last
                && last > 0
            {
                let (source, at) = (XidSource::Dcgm, clock::now());
                told.push(Told { gpu: uuid.clone(), xid: xid(last), source, pid: None, at });
            }
        }
        if now != before {
            self.note_xids(told, move |record| record.exported = now).await;
        }
    }

    fn offers(&self, uuid: &str) -> bool {
        self.options.gpus.iter().any(|one| one == segue_pipelines::gpu::ALL || one == uuid)
    }

    /// Keeps what the driver reported, with whom it struck.
    async fn note_xids(&self, told: Vec<Told>, more: impl FnOnce(&mut XidRecord) + Send + 'static) {
        let families = Families::now();
        let noted = self.store.change_regardless(move |recorded| {
            let mut is_news = false;
            for told in told {
                let instances = recorded.struck(&told, &families);
                is_news |= recorded.xids.note(told, instances);
            }
            more(&mut recorded.xids);
            Ok(is_news)
        });
        match noted.await {
            Ok(true) => {
                let xids = self.store.current().xids.kept.clone();
                if let Some(one) = xids.last() {
                    tracing::error!(gpu = one.gpu, xid = one.code, meaning = one.meaning, instances = ?one.instances, "the driver reports a fault");
                }
                self.gpu_watch.report.send_modify(|report| {
                    report.xids = xids;
                    report.revision += 1;
                });
                let broken: Vec<String> = self.broken_by_xids().into_iter().map(|(gpu, _)| gpu).collect();
                self.gpus.note(self.gpus.seen().into_iter().filter(|gpu| !broken.contains(&gpu.uuid)).collect());
                self.tell_of_gpus().await;
            }
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "a fault of a GPU can't be recorded"),
        }
    }

    /// Reads the kernel's log as it is written; what was written while no host ran is read as well.
    async fn read_kernel_log(self: Arc<Self>) {
        let path = self.options.kernel_log.clone();
        if let Err(error) = self.follow_kernel_log(&path).await {
            let why = format!(
                "{} can't be read: {error}; without it an Xid is known once the exporter tells it",
                path.display()
            );
            tracing::warn!(why, "the kernel's log");
            self.gpu_watch.known().kernel_fault = Some(why);
        }
    }

    async fn follow_kernel_log(&self, path: &Path) -> io::Result<()> {
        let flags = nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC;
        let log = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let log = process::awaitable(OwnedFd::from(log))?;
        let boot = clock::boot_id(&self.options.boot_id)?;
        let known = self.store.current().xids.kernel.clone();
        let mut read_until = known.filter(|(of, _)| *of == boot).map(|(_, number)| number);
        let mut record = vec![0_u8; LONGEST_RECORD];
        // what was written before is read first. The clock of its times is not kept right, so that of what comes now counts
        let mut is_now = false;
        loop {
            let mut ready = log.readable().await?;
            for _ in 0..AT_ONCE {
                // SAFETY: the descriptor is owned by `log`, which outlives this borrow.
                let fd = unsafe { BorrowedFd::borrow_raw(log.get_ref().as_raw_fd()) };
                match nix::unistd::read(fd, &mut record) {
                    Ok(0) => return Err(io::Error::other("it has ended")),
                    Ok(length) => {
                        let text = String::from_utf8_lossy(record.get(..length).unwrap_or_default()).into_owned();
                        if let Some(number) = self.on_kernel_record(&text, read_until, &boot, is_now).await {
                            read_until = Some(number);
                        }
                    }
                    Err(Errno::EAGAIN) => {
                        is_now = true;
                        ready.clear_ready();
                        break;
                    }
                    // what was to be read next was overwritten, or is longer than a record may be: the next one is read
                    Err(Errno::EPIPE | Errno::EINVAL | Errno::EINTR) => {}
                    Err(other) => return Err(other.into()),
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// The number of a record that told of an Xid.
    async fn on_kernel_record(&self, text: &str, read_until: Option<u64>, boot: &str, is_now: bool) -> Option<u64> {
        let (number, micros, message) = kernel_record(text)?;
        if read_until.is_some_and(|until| number <= until) {
            return None;
        }
        let logged = of_log_line(message)?;
        let place = pci_address(&logged.address);
        let uuid = place.and_then(|place| self.gpu_watch.known().places.get(&place).cloned());
        let gpu = uuid.unwrap_or_else(|| format!("PCI:{}", logged.address));
        let up = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
        let age = if is_now { Duration::ZERO } else { up.saturating_sub(Duration::from_micros(micros)) };
        let at = Timestamp(clock::now().0.saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX)));
        let told = Told { gpu, xid: logged.xid, source: XidSource::Kernel, pid: logged.pid, at };
        let boot = boot.to_owned();
        self.note_xids(vec![told], move |record| record.kernel = Some((boot, number))).await;
        Some(number)
    }
}

impl Recorded {
    /// The instance whose process it was; where the driver does not say, or that has ended already, those that have the GPU. Nobody, where it is somebody
    /// else's, or was a while ago.
    fn struck(&self, told: &Told, families: &Families) -> Vec<InstanceId> {
        if clock::now().since(told.at) > JUST_NOW {
            return Vec::new();
        }
        let alive = || self.instances.iter().filter(|(_, instance)| !instance.is_stopped());
        if let Some(pid) = told.pid {
            let is_of = |first: u32| families.of(first).contains(&pid);
            let of = alive().filter(|(_, i)| i.process.as_ref().and_then(|p| p.pid()).is_some_and(is_of));
            let of: Vec<InstanceId> = of.map(|(id, _)| id.clone()).collect();
            if !of.is_empty() || !families.of(pid).is_empty() {
                return of;
            }
        }
        alive().filter(|(_, i)| i.gpus.contains(&told.gpu)).map(|(id, _)| id.clone()).collect()
    }
}

impl XidRecord {
    /// Whether it is news.
    fn note(&mut self, told: Told, instances: Vec<InstanceId>) -> bool {
        let Told { gpu, xid, source, pid, at } = told;
        let is_known = self.kept.iter().rev().any(|known| {
            let within = if known.source == source { AGAIN_AFTER } else { SAME_WITHIN };
            let apart = at.since(known.at).max(known.at.since(at));
            known.gpu == gpu
                && known.code == xid.code
                && apart < within
                && (known.source != source || known.instances == instances)
        });
        if is_known {
            return false;
        }
        self.last += 1;
        self.kept.push(GpuXid {
            number: self.last,
            at,
            gpu,
            code: xid.code,
            meaning: xid.meaning.to_owned(),
            blame: xid.blame,
            source,
            pid,
            instances,
        });
        let too_many = self.kept.len().saturating_sub(MOST_XIDS);
        self.kept.drain(..too_many);
        true
    }
}

fn in_words(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        format!("no answer within {} s", EXPORTER_LIMIT.as_secs())
    } else if error.is_connect() {
        "it can't be reached".into()
    } else {
        "its answer breaks off".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(code: u32, source: XidSource, at: i64) -> Told {
        Told { gpu: "GPU-a".into(), xid: xid(code), source, pid: None, at: Timestamp(at) }
    }

    #[test]
    fn gpus_of_an_engine_before_are_not_gone() {
        let id = |id: &str| Some(id.to_owned());
        let mut known = Known::default();
        for (asked, now, is_kept) in [
            (None, None, true),
            (None, id("old"), false),
            (id("old"), id("old"), true),
            (id("old"), id("new"), false),
            (id("new"), id("new"), false),
            (id("new"), id("new"), true),
            (id("newer"), id("newer"), false),
        ] {
            known.uuids = ["GPU-a".to_owned()].into();
            known.forget_others(asked, now.clone());
            assert_eq!(!known.uuids.is_empty(), is_kept, "{now:?}");
        }
    }

    #[test]
    fn what_two_sources_tell_of_one_fault_is_one_and_no_more_are_kept_than_said() {
        let mut record = XidRecord::default();
        let ids: Vec<InstanceId> = vec!["web-1".parse().unwrap()];
        assert!(record.note(told(79, XidSource::Kernel, 1_000_000), ids.clone()));
        assert!(!record.note(told(79, XidSource::Dcgm, 1_030_000), ids.clone()), "the exporter is late");
        assert!(!record.note(told(79, XidSource::Kernel, 1_009_000), ids.clone()), "a driver repeats itself");
        assert!(record.note(told(79, XidSource::Kernel, 1_009_000), Vec::new()), "it struck another one");
        assert!(record.note(told(31, XidSource::Dcgm, 1_030_000), ids.clone()));
        assert!(record.note(told(79, XidSource::Dcgm, 1_100_000), ids.clone()), "that is another one");
        for second in 0..200 {
            record.note(told(31, XidSource::Kernel, 2_000_000 + second * 60_000), ids.clone());
        }
        assert_eq!((record.kept.len(), record.last), (MOST_XIDS, 204));
    }
}
