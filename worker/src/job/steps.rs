//! The steps of a job, one after another.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use indexmap::IndexMap;
use segue_pipelines::expr::{Contexts, evaluate_condition};
use segue_schemas::{
    id::RolloutId,
    plan::{StepAction, StepPlan},
    status::{Conclusion, FailureClass, StepStatus},
    time::Timestamp,
    worker_api::{JobClaim, StepReport},
};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    built_in::{BuiltIn, BuiltInEnd},
    command_files::{self, parse},
    context::{self, RESERVED, Standing},
    error::StepError,
    lease::LeaseSigns,
    run::{Ended, Running},
    script,
};
use crate::{
    engine::{Exit, Task, Work},
    log::mask::Masker,
    options::{FailedScript, OnFailedScript},
};

/// Bytes of a reason that are kept.
const MAX_REASON: usize = 4000;

/// The steps of a running job.
pub(super) struct Steps<'a> {
    pub running: Running<'a>,
    /// Set by a cancel or a time-out: when the steps that run nevertheless must be done.
    cleanup_until: Option<Instant>,
}

/// What a step came to, before it is reported.
#[derive(Debug, Default)]
struct StepEnd {
    outcome: Option<Conclusion>,
    exit_code: Option<i32>,
    reason: Option<String>,
    class: Option<FailureClass>,
    outputs: IndexMap<String, String>,
    waits: Option<RolloutId>,
}

/// Why a step is ended from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Interruption {
    Cancelled,
    StepTime,
    JobTime,
    CleanupTime,
    LeaseEnding,
    LeaseLost,
    WorkerStops,
}

impl<'a> Steps<'a> {
    /// The steps of a job whose earlier ones ended so.
    pub(super) fn new(mut running: Running<'a>, before: &[StepReport]) -> Self {
        for step in before {
            let plan = running.claim.plan.steps.get(step.index);
            let fails = matches!(step.outcome, Some(Conclusion::Failure | Conclusion::Cancelled));
            if fails && !plan.is_some_and(|plan| plan.continue_on_error) && running.failure.is_none() {
                running.standing = Standing::Failure;
                let class = match plan.map(|plan| &plan.action) {
                    Some(StepAction::Uses { uses, .. })
                        if uses.starts_with("segue/deploy") || uses.starts_with("segue/canary") =>
                    {
                        FailureClass::Rollout
                    }
                    _ => FailureClass::Script,
                };
                let reason = step.reason.clone().unwrap_or_else(|| "it failed".into());
                running.failure = Some((class, format!("step `{}`: {reason}", step.name)));
            }
        }
        Self { running, cleanup_until: None }
    }

    /// Runs from this step on.
    pub(super) async fn run(&mut self, from: usize) -> Ended {
        for index in from..self.running.claim.plan.steps.len() {
            let signs = self.running.lease.signs.clone();
            if signs.lost.is_cancelled() || self.running.log.lease_lost() {
                return Ended::Lost;
            }
            if signs.cancel.is_cancelled() && self.running.standing != Standing::Cancelled {
                self.cancel();
            } else if signs.ending.is_cancelled() {
                self.lease_ends();
                return Ended::Done;
            } else if self.running.runner.stopping.is_cancelled() && self.running.standing != Standing::Cancelled {
                // What has not begun can begin anew elsewhere.
                return Ended::HandBack { next_step: (index > 0).then_some(index) };
            }
            if let Some(ended) = self.step(index).await {
                return ended;
            }
        }
        if self.running.lease.signs.lost.is_cancelled() { Ended::Lost } else { Ended::Done }
    }

    /// Runs or skips one step; `Some`: the job does not go on here.
    async fn step(&mut self, index: usize) -> Option<Ended> {
        let plan = &self.running.claim.plan.steps[index];
        let mut report = StepReport {
            index,
            name: plan.name.clone(),
            status: StepStatus::Running,
            outcome: None,
            exit_code: None,
            reason: None,
            outputs: IndexMap::new(),
            started_at: Some(now()),
            ended_at: None,
            log_start: self.running.log.mark().await.offset,
            log_end: 0,
        };
        let end = match self.prepare(plan, &mut report) {
            Ok(Some((contexts, env))) => {
                self.running.reporter.set(report.clone());
                self.running.telling =
                    may_change_the_world(self.running.claim, plan).then(|| self.running.reporter.tell_now(index));
                match self.perform_or_interrupt(index, &contexts, &env).await {
                    Ok(end) => end,
                    Err(ended) => return Some(ended),
                }
            }
            Ok(None) => StepEnd {
                outcome: Some(Conclusion::Skipped),
                reason: Some(self.why_skipped(plan)),
                ..StepEnd::default()
            },
            Err(error) => self.failed(&error).await,
        };
        self.ended(plan, report, end).await
    }

    /// Contexts and environment of a step that is to run; `None` for one that is not.
    #[expect(clippy::type_complexity, reason = "two values that belong together here alone")]
    fn prepare(
        &self,
        plan: &StepPlan,
        report: &mut StepReport,
    ) -> Result<Option<(Contexts, IndexMap<String, String>)>, StepError> {
        let running = &self.running;
        let before = running.reporter.all();
        let base =
            context::step_contexts(&running.contexts, running.claim, &before, running.standing, &IndexMap::new());
        let mut env = IndexMap::new();
        context::overlay_env(&mut env, &running.claim.pipeline_env, &base)?;
        context::overlay_env(&mut env, &running.claim.plan.env, &base)?;
        env.extend(running.state.env.iter().map(|(name, value)| (name.clone(), value.clone())));
        let contexts = context::step_contexts(&base, running.claim, &before, running.standing, &env);
        let runs = evaluate_condition(plan.condition.as_deref(), &contexts, running.standing.functions())
            .map_err(|error| StepError::Configuration(format!("`if`: {error}")))?;
        if !runs {
            report.started_at = None;
            return Ok(None);
        }
        context::overlay_env(&mut env, &plan.env, &base)?;
        let contexts = context::step_contexts(&base, running.claim, &before, running.standing, &env);
        let name = context::render("`name`", &plan.name, &contexts)?;
        report.name = running.masker.mask(&name);
        Ok(Some((contexts, env)))
    }

    fn why_skipped(&self, plan: &StepPlan) -> String {
        match (&plan.condition, self.running.standing) {
            (_, Standing::Cancelled) => "the job was cancelled".into(),
            (_, Standing::Failure) => "an earlier step failed".into(),
            (Some(condition), Standing::Success) => format!("its `if` is false: {condition}"),
            (None, Standing::Success) => "it is not to run".into(),
        }
    }

    async fn perform_or_interrupt(
        &mut self,
        index: usize,
        contexts: &Contexts,
        env: &IndexMap<String, String>,
    ) -> Result<StepEnd, Ended> {
        let plan = &self.running.claim.plan.steps[index];
        let interrupted = self.interruption(plan);
        let performed = tokio::select! {
            biased;
            performed = self.perform(index, contexts, env) => Ok(performed),
            interruption = interrupted => Err(interruption),
        };
        match performed {
            Ok(Ok(end)) => Ok(end),
            Ok(Err(StepError::ControlPlane(error))) if error.is_stale_epoch() => Err(Ended::Lost),
            Ok(Err(error)) => Ok(self.failed(&error).await),
            Err(interruption) => self.interrupt(index, interruption).await,
        }
    }

    /// Waits for whatever ends a step from outside.
    fn interruption(&self, plan: &StepPlan) -> impl Future<Output = Interruption> + use<> {
        let LeaseSigns { cancel, ending, lost } = self.running.lease.signs.clone();
        let stop_now = self.running.runner.stop_now.clone();
        let step_until = plan.timeout_seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
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
                () = at(step_until) => Interruption::StepTime,
            }
        }
    }

    /// Ends what a step runs, and with it what earlier steps left in the background; says what that makes of it.
    async fn interrupt(&mut self, index: usize, interruption: Interruption) -> Result<StepEnd, Ended> {
        let claim = self.running.claim;
        let plan = &claim.plan.steps[index];
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
            Interruption::LeaseEnding => {
                failed(FailureClass::Infrastructure, "the server could not be reached until the lease ended".into())
            }
            Interruption::StepTime => failed(
                FailureClass::Timeout,
                format!("it took longer than its {} s", plan.timeout_seconds.unwrap_or_default()),
            ),
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

    fn lease_ends(&mut self) {
        if self.running.standing == Standing::Success {
            self.running.standing = Standing::Failure;
            let reason = "the server could not be reached until the lease ended".to_owned();
            self.running.failure = Some((FailureClass::Infrastructure, reason));
        }
    }

    async fn failed(&self, error: &StepError) -> StepEnd {
        let reason: String = error.to_string().chars().take(MAX_REASON).collect();
        self.running.log.line(format!("##[error]{reason}")).await;
        StepEnd {
            outcome: Some(Conclusion::Failure),
            reason: Some(reason),
            class: Some(error.class()),
            ..StepEnd::default()
        }
    }

    /// Does what the step says.
    async fn perform(
        &mut self,
        index: usize,
        contexts: &Contexts,
        env: &IndexMap<String, String>,
    ) -> Result<StepEnd, StepError> {
        let plan = &self.running.claim.plan.steps[index];
        match &plan.action {
            StepAction::Run { script, shell } => self.script(index, plan, script, shell, contexts, env).await,
            StepAction::Uses { uses, with } => self.built_in(index, uses, with, contexts).await,
        }
    }

    async fn built_in(
        &mut self,
        index: usize,
        uses: &str,
        with: &IndexMap<String, String>,
        contexts: &Contexts,
    ) -> Result<StepEnd, StepError> {
        let running = &mut self.running;
        let with = with
            .iter()
            .map(|(name, value)| Ok((name.clone(), context::render(&format!("`with: {name}`"), value, contexts)?)))
            .collect::<Result<IndexMap<_, _>, StepError>>()?;
        running.log.line(format!("##[group]Run {uses}{}\n##[endgroup]", shown_inputs(&with))).await;
        let mut step = BuiltIn {
            claim: running.claim,
            step: index,
            control_plane: &running.runner.control_plane,
            engine: running.engine.as_mut(),
            log: &running.log,
            workspace: &running.workspace,
            user: running.runner.user.ids,
            mirrors: &running.runner.mirrors,
        };
        Ok(match step.run(uses, &with).await? {
            BuiltInEnd::Done(outputs) => StepEnd { outcome: Some(Conclusion::Success), outputs, ..StepEnd::default() },
            BuiltInEnd::Waits(rollout) => StepEnd { waits: Some(rollout), ..StepEnd::default() },
            BuiltInEnd::Failed(exit) => StepEnd {
                outcome: Some(Conclusion::Failure),
                exit_code: Some(exit.code()),
                reason: Some("it failed; its log says why".into()),
                class: Some(FailureClass::Infrastructure),
                ..StepEnd::default()
            },
        })
    }

    async fn script(
        &mut self,
        index: usize,
        plan: &StepPlan,
        script: &str,
        shell: &str,
        contexts: &Contexts,
        env: &IndexMap<String, String>,
    ) -> Result<StepEnd, StepError> {
        let running = &mut self.running;
        let script = context::render("`run`", script, contexts)?;
        let directory = match &plan.working_directory {
            Some(directory) => {
                running.workspace.work().join(context::render("`working-directory`", directory, contexts)?)
            }
            None => running.workspace.work(),
        };
        let file = running.workspace.command_file(&format!("step-{index}"), format!("{script}\n").as_bytes())?;
        let files = CommandFiles::make(running, index)?;
        let env = context::process_env(
            running.claim,
            &running.workspace,
            running.runner.control_plane.worker().as_str(),
            &running.runner.user.name,
            &running.state,
            env,
            &files.variables(),
        );
        let argv = script::command_line(shell, &file.to_string_lossy())?;
        let first_line = script.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
        running.log.line(format!("##[group]Run {first_line}\n{}\n##[endgroup]", script.trim_end())).await;
        let directory = directory.to_string_lossy().into_owned();
        let task = Task { user: running.runner.user.ids, directory, work: Work::Program { argv, env: env.clone() } };
        if let Some(telling) = running.telling.take() {
            telling.told().await?;
        }
        running.engine.start(&task, running.log.writer(), None).await?;
        let exit = running.engine.exited().await?;
        let mut end = StepEnd { exit_code: Some(exit.code()), ..StepEnd::default() };
        if exit == Exit::Code(0) {
            end.outcome = Some(Conclusion::Success);
        } else {
            end.outcome = Some(Conclusion::Failure);
            end.class = Some(FailureClass::Script);
            end.reason = Some(match exit {
                Exit::Code(code) => format!("exit code {code}"),
                Exit::Signal(signal) => format!("killed by signal {signal}"),
            });
            running.log.line(format!("##[error]Process completed with exit code {}.", exit.code())).await;
            if let Some(OnFailedScript(look)) = &running.runner.options.on_failed_script {
                let mark = running.log.mark().await;
                running.state.masks.extend(mark.masks);
                let (job, exit_code, log_offset) = (running.claim.job, exit.code(), mark.offset);
                look(FailedScript { job, exit_code, directory: task.directory.into(), env, script: file, log_offset })
                    .await;
            }
        }
        files.take(&mut self.running, &mut end).await?;
        Ok(end)
    }

    /// Reports a step's end, and draws what follows from it.
    async fn ended(&mut self, plan: &StepPlan, mut report: StepReport, end: StepEnd) -> Option<Ended> {
        let running = &mut self.running;
        let mark = running.log.mark().await;
        running.state.masks.extend(mark.masks);
        running.masker = mark.masker;
        report.log_end = mark.offset;
        report.exit_code = end.exit_code;
        report.reason = end.reason.map(|reason| running.masker.mask(&reason));
        report.outputs = without_secrets(end.outputs, &running.masker, &running.log).await;
        if let Some(rollout) = end.waits {
            report.status = StepStatus::Waiting;
            running.reporter.set(report.clone());
            return Some(Ended::Waits { step: report.index, rollout });
        }
        report.ended_at = report.started_at.map(|_| now());
        report.outcome = end.outcome;
        let forgiven = plan.continue_on_error && end.outcome == Some(Conclusion::Failure);
        report.status = match end.outcome {
            Some(Conclusion::Success) => StepStatus::Succeeded,
            Some(Conclusion::Skipped) => StepStatus::Skipped,
            Some(Conclusion::Cancelled) => StepStatus::Cancelled,
            Some(Conclusion::Failure) if forgiven => StepStatus::Succeeded,
            Some(Conclusion::Failure) | None => StepStatus::Failed,
        };
        if report.status == StepStatus::Failed {
            if running.standing == Standing::Success {
                running.standing = Standing::Failure;
            }
            let reason = report.reason.clone().unwrap_or_else(|| "it failed".into());
            let class = end.class.unwrap_or(FailureClass::Script);
            running.failure.get_or_insert_with(|| (class, format!("step `{}`: {reason}", report.name)));
        }
        running.reporter.set(report);
        None
    }
}

impl Running<'_> {
    /// The job's outputs, evaluated; those that can't be or that hold a secret are left out, and the log says so.
    pub(super) async fn outputs(&self) -> IndexMap<String, String> {
        let mut outputs = IndexMap::new();
        if self.claim.plan.outputs.is_empty() {
            return outputs;
        }
        let steps = self.reporter.all();
        let mut env = IndexMap::new();
        let base = context::step_contexts(&self.contexts, self.claim, &steps, self.standing, &env);
        for layer in [&self.claim.pipeline_env, &self.claim.plan.env] {
            let _ = context::overlay_env(&mut env, layer, &base);
        }
        env.extend(self.state.env.iter().map(|(name, value)| (name.clone(), value.clone())));
        let contexts = context::step_contexts(&base, self.claim, &steps, self.standing, &env);
        for (name, template) in &self.claim.plan.outputs {
            match context::render(&format!("`outputs: {name}`"), template, &contexts) {
                Ok(value) => {
                    outputs.insert(name.clone(), value);
                }
                Err(error) => self.log.line(format!("##[warning]{error}")).await,
            }
        }
        without_secrets(outputs, &self.masker, &self.log).await
    }
}

/// The files that a step speaks to the runner by.
struct CommandFiles {
    output: PathBuf,
    env: PathBuf,
    path: PathBuf,
    summary: PathBuf,
}

impl CommandFiles {
    fn make(running: &Running<'_>, index: usize) -> Result<Self, StepError> {
        let file = |name: &str| running.workspace.command_file(&format!("step-{index}.{name}"), b"");
        Ok(Self { output: file("output")?, env: file("env")?, path: file("path")?, summary: file("summary")? })
    }

    fn variables(&self) -> [(&'static str, &Path); 4] {
        [("OUTPUT", &self.output), ("ENV", &self.env), ("PATH", &self.path), ("STEP_SUMMARY", &self.summary)]
    }

    /// Reads what the step wrote, also after it failed.
    async fn take(&self, running: &mut Running<'_>, end: &mut StepEnd) -> Result<(), StepError> {
        let read = |path: &Path| running.workspace.read_command_file(path, command_files::MAX_BYTES);
        let wrong = |error: command_files::CommandFileError| StepError::Configuration(error.to_string());
        let (output, env, path, summary) =
            (read(&self.output)?, read(&self.env)?, read(&self.path)?, read(&self.summary)?);
        end.outputs = parse("SEGUE_OUTPUT", &output).map_err(wrong)?;
        for (name, value) in parse("SEGUE_ENV", &env).map_err(wrong)? {
            if RESERVED.iter().any(|reserved| name.starts_with(reserved)) {
                running
                    .log
                    .line(format!("##[warning]`{name}` belongs to the runner and can't be set by $SEGUE_ENV"))
                    .await;
            } else {
                running.state.env.insert(name, value);
            }
        }
        for line in path.lines().map(str::trim).filter(|line| !line.is_empty()) {
            running.state.path.retain(|known| known != line);
            running.state.path.push(line.to_owned());
        }
        if !summary.trim().is_empty() {
            running.log.line(format!("##[group]Summary\n{}\n##[endgroup]", summary.trim_end())).await;
        }
        Ok(())
    }
}

/// Whether the server must know that a step begins before its process starts: what it changes is not undone when the job is
/// run again. Built-in steps need no such care: they change the workspace, or ask the server for a rollout.
fn may_change_the_world(claim: &JobClaim, plan: &StepPlan) -> bool {
    let is_run = matches!(plan.action, StepAction::Run { .. });
    is_run && claim.plan.environment.is_some() && !claim.plan.idempotent
}

/// Values that hold no secret: what is reported is stored and shown.
async fn without_secrets(
    values: IndexMap<String, String>,
    masker: &Masker,
    log: &crate::log::JobLog,
) -> IndexMap<String, String> {
    let mut kept = IndexMap::new();
    for (name, value) in values {
        if masker.finds(&value) {
            log.line(format!("##[warning]Output `{name}` is left out: it holds a secret")).await;
        } else {
            kept.insert(name, value);
        }
    }
    kept
}

fn shown_inputs(with: &IndexMap<String, String>) -> String {
    with.iter().map(|(name, value)| format!("\n  {name}: {value}")).collect()
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
