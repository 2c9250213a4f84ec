//! The steps of a job, one after another.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use indexmap::IndexMap;
use segue_pipelines::{
    expr::{Contexts, evaluate_condition},
    progress::first_failure,
};
use segue_schemas::{
    annotation::Annotation,
    id::RolloutId,
    plan::{StepAction, StepPlan},
    status::{Conclusion, FailureClass, StepStatus},
    time::Timestamp,
    worker_api::{JobClaim, StepReport},
};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    context::{self, Standing},
    end::ReportedSoFar,
    error::StepError,
    lease::LeaseSigns,
    run::{Ended, Running},
    snapshots::Snapshots,
};
use crate::{engine::Exit, log::LogMark, supervisor::client::SupervisorError};

/// Characters of a reason that are kept.
const MAX_REASON: usize = 4000;
/// Characters of a step's name.
const MAX_NAME: usize = 200;

/// The steps of a running job.
pub(super) struct Steps<'a> {
    pub running: Running<'a>,
    /// Set by a cancel or a time-out: when the steps that run nevertheless must be done.
    cleanup_until: Option<Instant>,
    /// What the running step said so far.
    pub annotations: Vec<Annotation>,
    pub dropped_annotations: usize,
    pub summary: String,
    pub reported: ReportedSoFar,
    pub snapshots: Snapshots,
}

/// What a step came to, before it is reported.
#[derive(Debug, Default)]
pub(super) struct StepEnd {
    pub outcome: Option<Conclusion>,
    pub exit_code: Option<i32>,
    pub reason: Option<String>,
    pub class: Option<FailureClass>,
    pub outputs: IndexMap<String, String>,
    pub waits: Option<RolloutId>,
}

/// A step that is to run, evaluated.
pub(super) struct Prepared {
    pub name: String,
    pub contexts: Contexts,
    pub env: IndexMap<String, String>,
    /// What of the environment the step itself, and those around it, set.
    pub own_env: IndexMap<String, String>,
    /// How long one try may take.
    pub limit: Option<Duration>,
    /// Whether its failure leaves the success of what is around alone.
    pub forgiving: bool,
}

/// Where a step stands: in the job, or in a composite action of it.
pub(super) struct Level {
    /// The contexts but for `steps`, `job` and `env`.
    pub contexts: Contexts,
    /// `env` of the steps around, evaluated.
    pub env: IndexMap<String, String>,
    /// The context `steps`.
    pub steps: serde_json::Map<String, serde_json::Value>,
    pub standing: Standing,
}

/// Why a step is ended from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interruption {
    Cancelled,
    JobTime,
    CleanupTime,
    LeaseEnding,
    LeaseLost,
    WorkerStops,
}

impl<'a> Steps<'a> {
    /// The steps of a job whose earlier ones ended so.
    pub(super) fn new(mut running: Running<'a>, before: &[StepReport]) -> Self {
        let mut reported = ReportedSoFar::default();
        before.iter().for_each(|step| reported.add(step));
        if let Some(failure) = first_failure(&running.claim.plan, before) {
            running.standing = Standing::Failure;
            running.failure.get_or_insert(failure);
        }
        Self {
            running,
            cleanup_until: None,
            annotations: Vec::new(),
            dropped_annotations: 0,
            summary: String::new(),
            reported,
            snapshots: Snapshots::default(),
        }
    }

    /// Runs from this step on.
    pub(super) async fn run(&mut self, from: usize) -> Ended {
        if let Some(ended) = self.restore_snapshot().await {
            return ended;
        }
        if let Some(ended) = self.enter_container().await {
            return ended;
        }
        for index in from..self.running.claim.plan.steps.len() {
            let signs = self.running.lease.signs.clone();
            if signs.lost.is_cancelled() || self.running.log.lease_lost() {
                return Ended::Lost;
            }
            if signs.cancel.is_cancelled() && self.running.standing != Standing::Cancelled {
                self.cancel();
            } else if signs.ending.is_cancelled() {
                // a job that has failed, or was cancelled, ends as such
                return if self.running.standing == Standing::Success { Ended::Stopped } else { Ended::Done };
            } else if self.running.runner.stopping.is_cancelled() && self.running.standing != Standing::Cancelled {
                // What has not begun can begin anew elsewhere.
                return Ended::HandBack { next_step: (index > 0).then_some(index) };
            }
            if let Some(ended) = self.step(index).await {
                return ended;
            }
        }
        self.save_caches().await;
        self.keep_snapshots().await;
        if self.running.lease.signs.lost.is_cancelled() { Ended::Lost } else { Ended::Done }
    }

    /// Runs or skips one step; `Some`: the job does not go on here.
    async fn step(&mut self, index: usize) -> Option<Ended> {
        self.take_snapshot(index).await;
        let plan = &self.running.claim.plan.steps[index];
        let mark = self.running.log.mark().await;
        let mut report = StepReport {
            status: StepStatus::Running,
            started_at: Some(now()),
            log_start: mark.offset,
            ..StepReport::pending(index, short(&plan.name, MAX_NAME))
        };
        self.absorb(mark);
        let mut forgiving = plan.continue_on_error;
        let prepared = self.prepare(plan, &self.level());
        if self.running.claim.debug {
            self.tell_debug(plan, prepared.as_ref().ok()).await;
        }
        let end = match prepared {
            Ok(Some(prepared)) => {
                forgiving = prepared.forgiving;
                report.name = short(&on_one_line(&self.running.masker.mask(&prepared.name)), MAX_NAME);
                self.running.reporter.set(report.clone());
                self.running.telling =
                    may_change_the_world(self.running.claim, plan).then(|| self.running.reporter.tell_now(index));
                match self.perform_or_interrupt(index, plan, &prepared).await {
                    Ok(end) => end,
                    Err(ended) => return Some(ended),
                }
            }
            Ok(None) => {
                report.started_at = None;
                StepEnd {
                    outcome: Some(Conclusion::Skipped),
                    reason: Some(why_skipped(plan, self.running.standing)),
                    ..StepEnd::default()
                }
            }
            Err(error) => self.failed(&error).await,
        };
        self.ended(report, end, forgiving).await
    }

    /// What a step is about to do, for who asked for debug logging; values of its environment are masked like all of the log.
    async fn tell_debug(&self, plan: &StepPlan, prepared: Option<&Option<Prepared>>) {
        let log = &self.running.log;
        let condition = plan.condition.as_deref().unwrap_or("success()");
        let verdict = match prepared {
            Some(Some(_)) => "true",
            Some(None) => "false",
            None => "an error",
        };
        log.line(format!("##[debug]`if` of step `{}`: {condition} is {verdict}", on_one_line(&plan.name))).await;
        let Some(Some(prepared)) = prepared else { return };
        for (name, value) in &prepared.env {
            log.line(format!("##[debug]env {name}={}", short(&on_one_line(value), MAX_NAME))).await;
        }
        if let Some(limit) = prepared.limit {
            log.line(format!("##[debug]it may take {} s", limit.as_secs())).await;
        }
    }

    /// The job itself, as it stands.
    fn level(&self) -> Level {
        let running = &self.running;
        Level {
            contexts: running.contexts.clone(),
            env: IndexMap::new(),
            steps: context::ended_steps(running.claim, &running.reporter.all()),
            standing: running.standing,
        }
    }

    /// Contexts, environment and limits of a step that is to run; `None` for one that is not.
    pub(super) fn prepare(&self, plan: &StepPlan, level: &Level) -> Result<Option<Prepared>, StepError> {
        let mut env = self.prepare_env(level)?;
        let contexts = context::step_contexts(&level.contexts, &level.steps, level.standing, &env);
        let runs = evaluate_condition(plan.condition.as_deref(), &contexts, level.standing.functions())
            .map_err(|error| StepError::Configuration(format!("`if`: {error}")))?;
        if !runs {
            return Ok(None);
        }
        context::overlay_env(&mut env, &plan.env, &contexts)?;
        let contexts = context::step_contexts(&level.contexts, &level.steps, level.standing, &env);
        let mut own_env = level.env.clone();
        own_env.extend(plan.env.keys().filter_map(|name| Some((name.clone(), env.get(name)?.clone()))));
        Ok(Some(Prepared {
            name: context::render("`name`", &plan.name, &contexts)?,
            limit: limit(plan, &contexts)?,
            forgiving: forgiving(plan, &contexts)?,
            contexts,
            env,
            own_env,
        }))
    }

    /// The environment that a step begins with.
    pub(super) fn prepare_env(&self, level: &Level) -> Result<IndexMap<String, String>, StepError> {
        let running = &self.running;
        let job = self.level();
        let base = context::step_contexts(&job.contexts, &job.steps, job.standing, &IndexMap::new());
        let mut env = IndexMap::new();
        context::overlay_env(&mut env, &running.claim.pipeline_env, &base)?;
        context::overlay_env(&mut env, &running.claim.plan.env, &base)?;
        let over = running.state.env.iter().chain(&level.env);
        env.extend(over.map(|(name, value)| (name.clone(), value.clone())));
        Ok(env)
    }

    /// Takes over what was found in the log.
    pub(super) fn absorb(&mut self, mark: LogMark) {
        self.running.state.masks.extend(mark.found.masks);
        self.running.masker = mark.masker;
        self.annotations.extend(mark.found.annotations);
        self.dropped_annotations += mark.found.dropped;
    }

    async fn perform_or_interrupt(
        &mut self,
        index: usize,
        plan: &StepPlan,
        prepared: &Prepared,
    ) -> Result<StepEnd, Ended> {
        let interrupted = self.interruption();
        let performed = tokio::select! {
            biased;
            performed = self.perform(index, plan, prepared) => Ok(performed),
            interruption = interrupted => Err(interruption),
        };
        match performed {
            Ok(Ok(end)) => Ok(end),
            Ok(Err(StepError::ControlPlane(error))) if error.is_stale_epoch() => Err(Ended::Lost),
            // the step supervisor was faster than the clock of this process, which may have stood still
            Ok(Err(StepError::Supervisor(SupervisorError::DeadlinePassed))) => {
                self.interrupt(Interruption::LeaseEnding).await
            }
            Ok(Err(error)) => Ok(self.failed(&error).await),
            Err(interruption) => self.interrupt(interruption).await,
        }
    }

    /// Waits for whatever ends a step from outside.
    pub(super) fn interruption(&self) -> impl Future<Output = Interruption> + use<> {
        let LeaseSigns { cancel, ending, lost, .. } = self.running.lease.signs.clone();
        let stop_now = self.running.runner.stop_now.clone();
        let (job_until, cleanup_until) = (self.running.deadline, self.cleanup_until);
        // A cancel is heard once, and the job's time is up once; after either, the time for cleaning up counts.
        let cancel = if self.running.standing == Standing::Cancelled { CancellationToken::new() } else { cancel };
        let job_until = cleanup_until.is_none().then_some(job_until);
        async move {
            tokio::select! {
                biased;
                () = lost.cancelled() => Interruption::LeaseLost,
                () = cancel.cancelled() => Interruption::Cancelled,
                () = ending.cancelled() => Interruption::LeaseEnding,
                () = stop_now.cancelled() => Interruption::WorkerStops,
                () = at(cleanup_until) => Interruption::CleanupTime,
                () = at(job_until) => Interruption::JobTime,
            }
        }
    }

    /// Ends what a step runs, and with it what earlier steps left in the background; says what that makes of it.
    pub(super) async fn interrupt(&mut self, interruption: Interruption) -> Result<StepEnd, Ended> {
        let claim = self.running.claim;
        let grace = match interruption {
            Interruption::LeaseLost => Duration::ZERO,
            _ => self.running.runner.options.kill_grace,
        };
        let exit = self.running.engine.kill(grace).await.ok().flatten();
        let failed = |class: FailureClass, reason: String| StepEnd {
            outcome: Some(Conclusion::Failure),
            exit_code: exit.map(Exit::code),
            reason: Some(reason),
            class: Some(class),
            ..StepEnd::default()
        };
        let end = match interruption {
            Interruption::LeaseLost => return Err(Ended::Lost),
            Interruption::Cancelled => {
                self.cancel();
                StepEnd {
                    outcome: Some(Conclusion::Cancelled),
                    exit_code: exit.map(Exit::code),
                    reason: Some("the job was cancelled".into()),
                    ..StepEnd::default()
                }
            }
            Interruption::WorkerStops if claim.plan.environment.is_none() || claim.plan.idempotent => {
                self.running.log.line("The worker stops; this job begins anew on another, or after the start.").await;
                return Err(Ended::HandBack { next_step: None });
            }
            Interruption::WorkerStops => failed(
                FailureClass::WorkerLost,
                format!(
                    "worker `{}` was stopped while it ran; it may have changed environment `{}` in part, and is not run again by itself",
                    self.running.runner.control_plane.worker(),
                    claim.plan.environment.as_deref().unwrap_or_default()
                ),
            ),
            Interruption::LeaseEnding if self.running.standing == Standing::Success => {
                let word = "The server could not be reached until the lease ended, and the step was stopped.";
                self.running.log.line(format!("##[error]{word}")).await;
                return Err(Ended::Stopped);
            }
            Interruption::LeaseEnding => {
                failed(FailureClass::Infrastructure, "the server could not be reached until the lease ended".into())
            }
            Interruption::JobTime => {
                self.cleanup_until = Some(Instant::now() + self.running.runner.options.cleanup_limit);
                failed(FailureClass::Timeout, format!("the job took longer than its {} s", claim.plan.timeout_seconds))
            }
            Interruption::CleanupTime => failed(
                FailureClass::Timeout,
                format!(
                    "steps that run after a cancel or a time-out have {} s together",
                    self.running.runner.options.cleanup_limit.as_secs()
                ),
            ),
        };
        if let Some(reason) = &end.reason {
            self.running.log.line(format!("##[error]The step was ended: {reason}.")).await;
        }
        Ok(end)
    }

    fn cancel(&mut self) {
        self.running.standing = Standing::Cancelled;
        self.cleanup_until = Some(Instant::now() + self.running.runner.options.cleanup_limit);
    }

    pub(super) async fn failed(&self, error: &StepError) -> StepEnd {
        let reason: String = error.to_string().chars().take(MAX_REASON).collect();
        self.running.log.line(format!("##[error]{reason}")).await;
        StepEnd {
            outcome: Some(Conclusion::Failure),
            reason: Some(reason),
            class: Some(error.class()),
            ..StepEnd::default()
        }
    }
}

fn why_skipped(plan: &StepPlan, standing: Standing) -> String {
    match (&plan.condition, standing) {
        (_, Standing::Cancelled) => "the job was cancelled".into(),
        (_, Standing::Failure) => "an earlier step failed".into(),
        (Some(condition), Standing::Success) => format!("its `if` is false: {}", short(condition, 200)),
        (None, Standing::Success) => "it is not to run".into(),
    }
}

/// How long one try may take.
fn limit(plan: &StepPlan, contexts: &Contexts) -> Result<Option<Duration>, StepError> {
    const LONGEST_MINUTES: f64 = 30.0 * 24.0 * 60.0;
    let Some(template) = &plan.timeout_minutes else { return Ok(plan.timeout_seconds.map(Duration::from_secs)) };
    let text = context::render("`timeout-minutes`", template, contexts)?;
    match text.trim().parse::<f64>() {
        Ok(minutes) if minutes > 0.0 && minutes <= LONGEST_MINUTES => Ok(Some(Duration::from_secs_f64(minutes * 60.0))),
        _ => Err(StepError::Configuration(format!(
            "`timeout-minutes` came to `{}`, and more than 0 up to {LONGEST_MINUTES} (30 days) is allowed",
            short(&text, 80)
        ))),
    }
}

fn forgiving(plan: &StepPlan, contexts: &Contexts) -> Result<bool, StepError> {
    let Some(template) = &plan.continue_on_error_when else { return Ok(plan.continue_on_error) };
    match context::render("`continue-on-error`", template, contexts)?.trim() {
        "true" => Ok(true),
        "false" | "" => Ok(false),
        other => Err(StepError::Configuration(format!(
            "`continue-on-error` came to `{}`, where `true` or `false` is expected",
            short(other, 80)
        ))),
    }
}

/// A name may be made of values of several lines.
fn on_one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// The first characters, with a sign where something was cut.
pub(super) fn short(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// Whether the server must know that a step begins before its process starts: what it changes is not undone when the job is
/// run again. Built-in steps need no such care: they change the workspace, or ask the server for a rollout.
fn may_change_the_world(claim: &JobClaim, plan: &StepPlan) -> bool {
    let runs = matches!(plan.action, StepAction::Run { .. } | StepAction::Composite(_));
    runs && claim.plan.environment.is_some() && !claim.plan.idempotent
}

pub(super) async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

pub(super) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
