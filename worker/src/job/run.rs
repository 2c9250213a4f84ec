//! One claim from beginning to end: places, lease and log around the steps.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use indexmap::IndexMap;
use segue_pipelines::expr::Contexts;
use segue_schemas::{
    id::{JobId, RolloutId},
    status::{Conclusion, FailureClass},
    worker_api::{JobClaim, JobFinish, JobHandBack, JobLost, JobWait, Registered, StepReport},
};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    context::{self, Standing},
    error::StepError,
    lease::{self, Lease, Leased},
    present::Present,
    report::{Reporter, Telling},
    spares::Spares,
    state::JobState,
    steps::Steps,
    users::Users,
    workspace::Workspace,
};
use crate::{
    checkout::mirror::Mirrors,
    control_plane::{ControlPlane, ControlPlaneError, retry},
    engine::{
        Engine, EngineJob, UserIds,
        docker::{Docker, Place},
        user::JobUser,
    },
    log::{JobLog, LogStart, ServerLog, mask::Masker, outbox::OutboxLimits},
    options::WorkerOptions,
    queue::Queue,
    supervisor::{boot_time, leftovers},
    worker::room::Room,
};

/// How long what a job leaves in the background has between TERM and KILL.
const LEFTOVER_GRACE: Duration = Duration::from_secs(2);
/// How long what was printed may lie before it is sent.
const LOG_LINGER: Duration = Duration::from_millis(40);
const PATIENCE_BEFORE_SPOOL: Duration = Duration::from_secs(1);
const PATIENCE_BEFORE_GAP: Duration = Duration::from_secs(60);
/// How long a worker that stops waits for a server that is away.
const STOPPING_PATIENCE: Duration = Duration::from_secs(5);

/// Ends processes of jobs of an earlier start, whose keepers died with it or have not come to it yet. Only before the worker registers:
/// with that its earlier leases are over, and others may begin the same jobs.
pub fn end_leftovers(options: &WorkerOptions, users: &Users) {
    let uids: Vec<_> = users.uids().chain([nix::unistd::geteuid().as_raw()]).collect();
    for (pid, job) in leftovers::kill(&workspaces_of(options), &uids) {
        tracing::warn!(pid, job, "a process that a job of an earlier start had left running was killed");
    }
}

fn workspaces_of(options: &WorkerOptions) -> PathBuf {
    options.data_dir.join("workspaces")
}

/// What the jobs of a worker share.
#[derive(Debug)]
pub struct JobRunner {
    /// The server.
    pub control_plane: ControlPlane,
    /// What runs tasks.
    pub engine: Arc<dyn Engine>,
    /// What runs those of jobs that ask for a container, where there is such an engine.
    pub docker: Option<Arc<Docker>>,
    /// Limits and places.
    pub options: Arc<WorkerOptions>,
    /// What the server said when this worker registered.
    pub registered: Registered,
    /// Whom tasks run as.
    pub users: Users,
    /// Own mirrors.
    pub mirrors: Mirrors,
    /// Workspaces of jobs that have ended.
    pub spares: Spares,
    /// The jobs that are at work here.
    pub present: Present,
    /// Of its disk.
    pub room: Room,
    /// The worker stops: no step is begun any more.
    pub stopping: CancellationToken,
    /// The worker stops now: running steps are ended.
    pub stop_now: CancellationToken,
    /// Rung when a job has left something here to go on with.
    pub put_aside: Notify,
    /// The bells of the message queue, where there is one.
    pub queue: Option<Arc<Queue>>,
}

/// A job that was leased here.
#[derive(Debug)]
pub struct LeasedJob {
    /// The job.
    pub claim: JobClaim,
    /// When, at the earliest, by [`boot_time`].
    pub at: Duration,
}

/// How the steps of a job ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// Nothing is left to do.
    Done,
    /// A step waits for its rollout.
    Waits { step: usize, rollout: RolloutId, may_fail: bool },
    /// The worker stops. `None`: the job is to begin anew.
    HandBack { next_step: Option<usize> },
    /// The lease could not be renewed: what ran is stopped, and the server says what becomes of the job.
    Stopped,
    /// The job is another's.
    Lost,
}

/// Everything that a running job holds.
pub(super) struct Running<'a> {
    pub runner: &'a JobRunner,
    pub claim: &'a JobClaim,
    pub user: JobUser,
    pub workspace: Workspace,
    pub engine: Box<dyn EngineJob>,
    /// Where its container is made, if it asks for one.
    pub place: Option<Arc<Place>>,
    /// Where scripts look for programs, after what steps put before it.
    pub path: String,
    pub log: JobLog,
    pub lease: Lease,
    pub reporter: Reporter,
    /// That the step begins is on its way to the server, and must be there before its process starts.
    pub telling: Option<Telling>,
    pub contexts: Contexts,
    pub state: JobState,
    pub standing: Standing,
    /// The first failure: its kind, and why.
    pub failure: Option<(FailureClass, String)>,
    /// When the job's own time is up.
    pub deadline: Instant,
    pub begun: Instant,
    /// Everything that is masked, for texts that go elsewhere than into the log.
    pub masker: Masker,
}

impl JobRunner {
    /// Runs a claim until its end is with the server, or it is handed back, waits or is lost. What comes back is the slot's next job,
    /// where the server gave one for the end.
    pub async fn run(&self, leased: LeasedJob) -> Option<LeasedJob> {
        let LeasedJob { claim, at: claimed_at } = leased;
        let claim = &claim;
        // one that was lost by another slot may come before that has cleaned up
        let _present = self.present.enter(claim.job).await;
        if lease::is_over(&self.registered, claimed_at) {
            tracing::warn!(job = %claim.job, "its lease was over before this worker heard of it; nothing is begun");
            self.control_plane.forget(claim.job, claim.epoch);
            return None;
        }
        let result = match self.refusal(claim) {
            Some(reason) => Err(StepError::Configuration(reason)),
            None => self.run_here(claim, claimed_at).await,
        };
        let next = match result {
            Ok(next) => next,
            Err(error) => {
                tracing::warn!(job = %claim.job, %error, "a job could not be run");
                let mut finish = self.finish_of(claim, claim.log_offset, earlier_steps(claim));
                finish.conclusion = Conclusion::Failure;
                finish.failure_class = Some(error.class());
                finish.reason = Some(error.to_string());
                let next = self.finish(claim, finish).await;
                self.forget(claim, true).await;
                next
            }
        };
        self.control_plane.forget(claim.job, claim.epoch);
        next
    }

    /// Gives a job back that nothing was done for, as there is no room for it here.
    pub async fn decline(&self, claim: &JobClaim) {
        let hand_back = JobHandBack {
            epoch: claim.epoch,
            next_step: None,
            steps: Vec::new(),
            log_bytes: claim.log_offset,
            reason: format!("worker `{}` has too little room on its disk to begin it", self.control_plane.worker()),
        };
        self.tell(claim, "handed back", self.patience(), || self.control_plane.hand_back(claim.job, &hand_back)).await;
        self.control_plane.forget(claim.job, claim.epoch);
    }

    /// Removes what jobs of an earlier start left, but for those that are to go on and were put aside within `keep`. Only
    /// before the first job.
    pub fn sweep(&self, keep: Duration) {
        self.sweep_states(keep);
        for directory in [self.workspaces(), self.spools()] {
            for path in entries(&directory) {
                let goes_on =
                    path.file_name().is_some_and(|job| self.states().join(job).with_extension("json").exists());
                if !goes_on {
                    remove(&path);
                }
            }
        }
    }

    /// Removes what jobs put aside longer ago than `keep`: they will not go on.
    pub fn sweep_states(&self, keep: Duration) {
        for state in entries(&self.states()) {
            let age =
                state.metadata().and_then(|metadata| metadata.modified()).map(|at| at.elapsed().unwrap_or_default());
            if age.is_ok_and(|age| age >= keep) {
                remove(&state);
                if let Some(job) = state.file_stem() {
                    remove(&self.workspaces().join(job));
                    if let Some(job) = job.to_str().and_then(|job| job.parse().ok()) {
                        self.users.give_back(job);
                    }
                }
            }
        }
    }

    /// The jobs that left something here to go on with, the oldest first.
    #[must_use]
    pub fn kept(&self) -> Vec<JobId> {
        let job = |path: PathBuf| {
            let at = path.metadata().and_then(|metadata| metadata.modified()).ok()?;
            Some((at, path.file_stem()?.to_str()?.parse().ok()?))
        };
        let mut kept: Vec<(std::time::SystemTime, JobId)> = entries(&self.states()).filter_map(job).collect();
        kept.sort_unstable();
        kept.into_iter().map(|(_, job)| job).collect()
    }

    /// Removes what a job left here that will not go on.
    pub fn forget_kept(&self, job: JobId) {
        remove(&self.states().join(format!("{job}.json")));
        remove(&self.workspaces().join(job.to_string()));
        self.users.give_back(job);
    }

    /// Notes the users of jobs that an earlier start put aside. Only before the first job.
    pub fn keep_users(&self) {
        use std::os::unix::fs::MetadataExt as _;
        for job in self.kept() {
            let work = Workspace::at(self.workspaces().join(job.to_string()), None).work();
            if let Ok(metadata) = work.symlink_metadata() {
                self.users.keep(job, metadata.uid());
            }
        }
    }

    /// The directories that jobs are run in.
    ///
    /// # Errors
    /// Naming the one that can't be made.
    pub fn make_directories(&self) -> Result<(), StepError> {
        use std::os::unix::fs::DirBuilderExt;
        // Those that lead to workspaces may be walked through by the job's user, but not listed.
        for (directory, mode) in [
            (self.options.data_dir.clone(), 0o711),
            (self.workspaces(), 0o711),
            (self.states(), 0o700),
            (self.spools(), 0o700),
            (self.mirrors_directory(), 0o700),
        ] {
            let made = std::fs::DirBuilder::new().recursive(true).mode(mode).create(&directory);
            made.map_err(|error| StepError::Infrastructure(format!("{}: {error}", directory.display())))?;
        }
        Ok(())
    }

    /// Where own mirrors lie.
    #[must_use]
    pub fn mirrors_directory(&self) -> PathBuf {
        self.options.data_dir.join("mirrors")
    }

    /// Why a job is not run here at all.
    fn refusal(&self, claim: &JobClaim) -> Option<String> {
        // the server gives out no such job, unless the label was given to this worker by hand
        if claim.plan.asks_for_container() && self.docker.is_none() {
            let worker = self.control_plane.worker();
            return Some(format!(
                "the job asks for a container, and worker `{worker}` has no engine for one; name its socket: `worker.docker.socket` \
                 in segue.yaml"
            ));
        }
        if claim.plan.builds_image() && self.docker.is_none() {
            let worker = self.control_plane.worker();
            return Some(format!(
                "the job builds an image, and worker `{worker}` has no engine for it; name its socket: `worker.docker.socket` in segue.yaml"
            ));
        }
        if claim.plan.container.is_none() && !claim.plan.services.is_empty() {
            return Some("`services` stand beside a container, and the job has none; add `container: IMAGE`".into());
        }
        let what = match (self.users.shared().ids, claim.secrets.is_empty(), claim.trusted) {
            (Some(_), ..) | (None, true, true) => return None,
            _ if self.options.as_own_user => return None,
            (None, false, _) => "it uses secrets",
            (None, true, false) => "it runs foreign code, of a pull request from a fork",
        };
        let user = &self.users.shared().name;
        Some(format!(
            "this job is refused by worker `{}`: {what}, and the worker has no other user to run it as than its own, `{user}`, so \
             that its steps could read whatever the worker can; run the worker as root, with a user `segue-job` for jobs \
             (useradd --system segue-job)",
            self.control_plane.worker()
        ))
    }

    async fn run_here(&self, claim: &JobClaim, claimed_at: Duration) -> Result<Option<LeasedJob>, StepError> {
        let in_container = claim.plan.asks_for_container();
        let user = if in_container { self.users.take_apart(claim.job) } else { self.users.take(claim.job) };
        let workspace = Workspace::at(self.workspaces().join(claim.job.to_string()), user.ids);
        let workspace = if in_container { workspace.of_container() } else { workspace };
        let from = claim.resume.as_ref().map_or(0, |resume| resume.next_step);
        let state = if let Some(restore) = &claim.restore {
            workspace.create(&self.spares)?;
            let state: JobState = serde_json::from_value(restore.state.clone()).map_err(|error| {
                StepError::Infrastructure(format!(
                    "what earlier steps had left can't be read: {error}; run it as a whole"
                ))
            })?;
            state.moved_to(workspace.root())
        } else if claim.resume.is_some() {
            match JobState::load(&self.state_file(claim)).filter(|_| workspace.is_its_users()) {
                Some(state) => state,
                None => return self.begin_anew(claim).await.map(|()| None),
            }
        } else {
            workspace.create(&self.spares)?;
            JobState::default()
        };
        workspace.command_file(context::EVENT_FILE, context::event(claim).as_bytes())?;
        let (engine, place) = self.open(claim).await?;
        let leased = Leased {
            control_plane: self.control_plane.clone(),
            job: claim.job,
            epoch: claim.epoch,
            registered: self.registered.clone(),
            kill_grace: self.options.kill_grace,
            told: self.queue.as_deref().map(Queue::told),
        };
        let lease = Lease::hold(leased, claimed_at, engine.deadline());
        let masker = Masker::new(claim.secrets.values().chain(&state.masks).map(String::as_str));
        let before = earlier_steps(claim);
        let signs = lease.signs.clone();
        let begun = Instant::now();
        let left =
            Duration::from_secs(claim.plan.timeout_seconds).saturating_sub(Duration::from_millis(state.elapsed_ms));
        let running = Running {
            runner: self,
            claim,
            engine,
            place,
            path: context::PATH.to_owned(),
            log: self.log(claim, user.ids, masker.without_held())?,
            user,
            reporter: Reporter::start(self.control_plane.clone(), claim.job, claim.epoch, &before, signs),
            telling: None,
            lease,
            contexts: context::job_contexts(claim, &workspace, self.control_plane.worker().as_str()),
            workspace,
            state,
            standing: Standing::Success,
            failure: None,
            deadline: begun + left,
            begun,
            masker,
        };
        let mut steps = Steps::new(running, &before);
        let ended = steps.run(from).await;
        Ok(self.end(steps.running, ended).await)
    }

    /// What the job would go on with is not here: it begins anew where that is harmless, and says so where it is not.
    async fn begin_anew(&self, claim: &JobClaim) -> Result<(), StepError> {
        let worker = self.control_plane.worker();
        if claim.plan.environment.is_some() && !claim.plan.idempotent {
            return Err(StepError::Infrastructure(format!(
                "the job was to go on, but worker `{worker}` has its workspace no more; it changes an environment and is not begun \
                 anew by itself: rerun it"
            )));
        }
        let hand_back = JobHandBack {
            epoch: claim.epoch,
            next_step: None,
            steps: Vec::new(),
            log_bytes: claim.log_offset,
            reason: format!("worker `{worker}` has its workspace no more; it begins anew"),
        };
        self.tell(claim, "handed back", self.patience(), || self.control_plane.hand_back(claim.job, &hand_back)).await;
        self.forget(claim, true).await;
        Ok(())
    }

    async fn end(&self, mut running: Running<'_>, ended: Ended) -> Option<LeasedJob> {
        let claim = running.claim;
        let grace = LEFTOVER_GRACE.min(self.options.kill_grace);
        let grace = if matches!(ended, Ended::Lost | Ended::Stopped) { Duration::ZERO } else { grace };
        let killed = running.engine.kill(grace).await;
        if let Err(error) = &killed {
            tracing::debug!(job = %claim.job, %error, "nothing was left to be killed");
        }
        if let Some(place) = running.place.as_ref().filter(|_| !matches!(ended, Ended::Lost)) {
            place.keep_words(&running.log).await;
        }
        let closed = running.engine.close().await;
        if let Err(error) = &closed {
            tracing::warn!(job = %claim.job, %error, "the job's container could not be removed yet");
        }
        let killed = killed.is_ok() && closed.is_ok();
        match ended {
            Ended::Lost => {
                tracing::warn!(job = %claim.job, epoch = %claim.epoch, "the job is another's now; nothing is reported");
                drop(running);
                self.forget(claim, killed).await;
            }
            Ended::Done => return self.end_done(running, killed).await,
            Ended::Waits { step, rollout, may_fail } => {
                let goes_on = step + 1 < claim.plan.steps.len();
                if goes_on {
                    self.save_state(&mut running);
                }
                let steps = running.reporter.all();
                let Running { log, lease, .. } = running;
                lease.signs.over.cancel();
                let (log_bytes, _) = self.close_log(log, 0).await;
                let may_fail = Some(may_fail);
                let wait = JobWait { epoch: claim.epoch, rollout, step, may_fail, steps, log_bytes };
                let told =
                    self.tell(claim, "waiting", self.patience(), || self.control_plane.wait(claim.job, &wait)).await;
                drop(lease);
                if !(told && goes_on) {
                    self.forget(claim, killed).await;
                }
            }
            Ended::Stopped => {
                let steps = running.reporter.all();
                let Running { log, lease, .. } = running;
                lease.signs.over.cancel();
                let (log_bytes, _) = self.close_log(log, 0).await;
                let lost = JobLost { epoch: claim.epoch, steps, log_bytes };
                self.tell(claim, "stopped", self.patience(), || self.control_plane.lost(claim.job, &lost)).await;
                drop(lease);
                self.forget(claim, killed).await;
            }
            Ended::HandBack { next_step } => {
                if next_step.is_some() {
                    self.save_state(&mut running);
                }
                let steps = running.reporter.all();
                let Running { log, lease, .. } = running;
                lease.signs.over.cancel();
                let (log_bytes, _) = self.close_log(log, 0).await;
                let reason = format!("worker `{}` stopped and handed it back", self.control_plane.worker());
                let hand_back = JobHandBack { epoch: claim.epoch, next_step, steps, log_bytes, reason };
                let told = self
                    .tell(claim, "handed back", self.patience(), || self.control_plane.hand_back(claim.job, &hand_back))
                    .await;
                drop(lease);
                if !(told && next_step.is_some()) {
                    self.forget(claim, killed).await;
                }
            }
        }
        None
    }

    async fn end_done(&self, running: Running<'_>, killed: bool) -> Option<LeasedJob> {
        let claim = running.claim;
        let outputs = running.outputs().await;
        let steps = running.reporter.all();
        let Running { engine, log, lease, standing, failure, masker, .. } = running;
        lease.signs.over.cancel();
        let max_tail = usize::try_from(self.registered.max_log_tail).unwrap_or(0);
        let (sent, tail) = self.close_log(log, max_tail).await;
        let mut finish = self.finish_of(claim, sent + tail.len() as u64, steps);
        finish.log_tail = tail;
        finish.conclusion = standing.conclusion();
        finish.outputs = outputs;
        match standing {
            Standing::Success => {}
            Standing::Cancelled => finish.reason = Some("it was cancelled".into()),
            Standing::Failure => {
                let (class, reason) =
                    failure.unwrap_or_else(|| (FailureClass::Script, "a step before did not succeed".into()));
                finish.failure_class = Some(class);
                finish.reason = Some(masker.mask(&reason));
            }
        }
        let next = self.finish(claim, finish).await;
        drop(lease);
        engine.done();
        self.forget(claim, killed).await;
        next
    }

    /// Tells the end, and asks for the slot's next job with it, unless nothing new is to be begun here.
    async fn finish(&self, claim: &JobClaim, mut finish: JobFinish) -> Option<LeasedJob> {
        let takes_more = self.registered.end_brings_next
            && !self.stopping.is_cancelled()
            && !self.control_plane.is_draining()
            && self.room.is_there(&self.options.data_dir);
        finish.next = takes_more.then(|| self.control_plane.next_request(&self.options.offered()));
        let call = async || {
            let at = boot_time();
            let finished = self.control_plane.finish(claim.job, &finish).await?;
            Ok(finished.next.map(|claim| LeasedJob { claim, at }))
        };
        self.told(claim, "ended", self.patience(), call).await.flatten()
    }

    async fn tell<T, F, Fut>(&self, claim: &JobClaim, what: &str, patience: Duration, call: F) -> bool
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, ControlPlaneError>>,
    {
        self.told(claim, what, patience, call).await.is_some()
    }

    /// Tells the server until it has heard, was away for too long, or says that the job is another's; its answer.
    async fn told<T, F, Fut>(&self, claim: &JobClaim, what: &str, patience: Duration, call: F) -> Option<T>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, ControlPlaneError>>,
    {
        retry(patience, call)
            .await
            .inspect_err(
                |error| tracing::warn!(job = %claim.job, %error, "the server could not be told that the job is {what}"),
            )
            .ok()
    }

    /// A worker that stops has little time.
    fn patience(&self) -> Duration {
        if self.stopping.is_cancelled() { STOPPING_PATIENCE } else { self.options.report_patience }
    }

    /// How much of the log the server has, and its end, of at most `max_tail` bytes, which the server does not have.
    async fn close_log(&self, log: JobLog, max_tail: usize) -> (u64, String) {
        let patience = self.patience();
        let acknowledged = log.acknowledged();
        log.finish(patience, max_tail).await.unwrap_or((acknowledged, String::new()))
    }

    fn finish_of(&self, claim: &JobClaim, log_bytes: u64, steps: Vec<StepReport>) -> JobFinish {
        JobFinish {
            epoch: claim.epoch,
            conclusion: Conclusion::Success,
            reason: None,
            failure_class: None,
            outputs: IndexMap::new(),
            steps,
            log_bytes,
            log_tail: String::new(),
            next: None,
        }
    }

    fn log(&self, claim: &JobClaim, user: Option<UserIds>, masker: Masker) -> Result<JobLog, StepError> {
        let sink = ServerLog { control_plane: self.control_plane.clone(), job: claim.job, epoch: claim.epoch };
        let limits = OutboxLimits {
            spool: self.spools().join(format!("{}.log", claim.job)),
            max_spool_bytes: self.options.max_spool_bytes,
            max_chunk_bytes: usize::try_from(self.registered.max_log_chunk).unwrap_or(64 * 1024).max(1024),
            patience_before_spool: PATIENCE_BEFORE_SPOOL,
            patience_before_gap: PATIENCE_BEFORE_GAP,
        };
        let start = LogStart { offset: claim.log_offset, masker, user, limits, linger: LOG_LINGER };
        JobLog::start(sink, start).map_err(|error| StepError::Infrastructure(format!("the job's log: {error}")))
    }

    fn save_state(&self, running: &mut Running<'_>) {
        let elapsed = u64::try_from(running.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        running.state.elapsed_ms = running.state.elapsed_ms.saturating_add(elapsed);
        let path = self.state_file(running.claim);
        self.put_aside.notify_one();
        if let Err(error) = running.state.save(&path) {
            // The job then begins anew, or says why it can't.
            tracing::error!(path = %path.display(), %error, "a job's state can't be kept");
        }
    }

    /// Removes what the job left here. `killed`: it is certain that none of its processes lives, so that nobody who comes after it in
    /// its workspace or with its user meets one.
    async fn forget(&self, claim: &JobClaim, killed: bool) {
        if claim.resume.is_some() || self.state_file(claim).exists() {
            let _ = std::fs::remove_file(self.state_file(claim));
        }
        // what was in a container's hands is not used again
        let unused = killed && !claim.plan.asks_for_container();
        self.spares.retire(&self.workspaces().join(claim.job.to_string()), unused).await;
        if killed {
            self.users.give_back(claim.job);
        }
    }

    fn workspaces(&self) -> PathBuf {
        workspaces_of(&self.options)
    }

    fn states(&self) -> PathBuf {
        self.options.data_dir.join("state")
    }

    fn spools(&self) -> PathBuf {
        self.options.data_dir.join("spool")
    }

    fn state_file(&self, claim: &JobClaim) -> PathBuf {
        self.states().join(format!("{}.json", claim.job))
    }
}

fn earlier_steps(claim: &JobClaim) -> Vec<StepReport> {
    claim.resume.as_ref().map(|resume| resume.steps.clone()).unwrap_or_default()
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn remove(path: &Path) {
    let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    if let Err(error) = removed
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "what a job left can't be removed");
    }
}
