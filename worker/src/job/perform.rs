//! What one step does: a script, an action of the runner, or a composite action with steps of its own; tried again where that
//! is asked for.

use std::{pin::Pin, time::Duration};

use indexmap::IndexMap;
use segue_pipelines::expr::Contexts;
use segue_schemas::{
    plan::{CompositePlan, StepAction, StepPlan, StepRetry},
    status::{Conclusion, FailureClass},
};
use tokio::time::{Instant, sleep};

use super::{
    built_in::BuiltInEnd,
    command_files::CommandFiles,
    context::{self, Standing},
    end::without_secrets,
    error::StepError,
    script,
    steps::{Level, Prepared, StepEnd, Steps, at, short},
};
use crate::{
    engine::{Exit, Task, Work},
    options::{FailedScript, OnFailedScript},
};

/// The longest pause before another try.
const MAX_PAUSE: Duration = Duration::from_secs(300);

impl Steps<'_> {
    /// Does what the step says, as often as it may be tried.
    pub(super) async fn perform(
        &mut self,
        index: usize,
        plan: &StepPlan,
        prepared: &Prepared,
    ) -> Result<StepEnd, StepError> {
        let retry = plan.retry.unwrap_or(StepRetry { max: 0, backoff_ms: 0 });
        let mut tried = 0;
        loop {
            let end = self.try_once(index, plan, prepared).await?;
            let again = matches!(end.class, Some(FailureClass::Script | FailureClass::Timeout));
            if end.outcome != Some(Conclusion::Failure) || !again || tried >= retry.max {
                return Ok(end);
            }
            tried += 1;
            let pause = pause(retry, tried);
            let reason = end.reason.unwrap_or_else(|| "it failed".into());
            let text = format!(
                "##[warning]Try {tried} of {} failed: {reason}; the next one follows in {} s.",
                retry.max + 1,
                pause.as_secs_f64()
            );
            self.running.log.line(text).await;
            sleep(pause).await;
        }
    }

    async fn try_once(&mut self, index: usize, plan: &StepPlan, prepared: &Prepared) -> Result<StepEnd, StepError> {
        let until = prepared.limit.map(|limit| Instant::now() + limit);
        let performed = tokio::select! {
            biased;
            performed = self.act(index, plan, prepared) => Some(performed),
            () = at(until) => None,
        };
        if let Some(performed) = performed {
            return performed;
        }
        let exit = self.running.engine.kill(self.running.runner.options.kill_grace).await.ok().flatten();
        let reason = format!("it took longer than its {} s", prepared.limit.unwrap_or_default().as_secs_f64());
        self.running.log.line(format!("##[error]The step was ended: {reason}.")).await;
        Ok(StepEnd {
            outcome: Some(Conclusion::Failure),
            exit_code: exit.map(Exit::code),
            reason: Some(reason),
            class: Some(FailureClass::Timeout),
            ..StepEnd::default()
        })
    }

    async fn act(&mut self, index: usize, plan: &StepPlan, prepared: &Prepared) -> Result<StepEnd, StepError> {
        match &plan.action {
            StepAction::Run { script, shell } => self.script(index, plan, script, shell, prepared).await,
            StepAction::Uses { uses, with } => self.built_in(index, uses, with, &prepared.contexts).await,
            StepAction::Composite(composite) => self.composite(index, composite, prepared).await,
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
        let with = rendered("with", with, contexts)?;
        running.log.line(format!("##[group]Run {uses}{}\n##[endgroup]", shown_inputs(&with))).await;
        let mut step = running.built_in(index);
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
            BuiltInEnd::Refused(reason) => {
                running.log.line(format!("##[error]{reason}")).await;
                StepEnd {
                    outcome: Some(Conclusion::Failure),
                    reason: Some(reason),
                    class: Some(FailureClass::Script),
                    ..StepEnd::default()
                }
            }
        })
    }

    async fn script(
        &mut self,
        index: usize,
        plan: &StepPlan,
        script: &str,
        shell: &str,
        prepared: &Prepared,
    ) -> Result<StepEnd, StepError> {
        let running = &mut self.running;
        let script = context::render("`run`", script, &prepared.contexts)?;
        let directory = match &plan.working_directory {
            Some(directory) => {
                let directory = context::render("`working-directory`", directory, &prepared.contexts)?;
                running.workspace.work().join(directory)
            }
            None => running.workspace.work(),
        };
        let file = running.workspace.command_file(&format!("step-{index}"), format!("{script}\n").as_bytes())?;
        let files = CommandFiles::make(&running.workspace, index)?;
        let user = running.place.is_none().then_some(running.user.name.as_str());
        let offers_gpus = !running.runner.options.gpus.is_empty();
        let within = context::Within { user, path: &running.path, offers_gpus };
        let env = context::process_env(
            running.claim,
            &running.workspace,
            running.runner.control_plane.worker().as_str(),
            within,
            &running.state,
            &prepared.env,
            &files.variables(),
        );
        let argv = script::command_line(shell, &file.to_string_lossy())?;
        let first_line = script.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
        running.log.line(format!("##[group]Run {first_line}\n{}\n##[endgroup]", script.trim_end())).await;
        let directory = directory.to_string_lossy().into_owned();
        let task = Task { user: running.user.ids, directory, work: Work::Program { argv, env: env.clone() } };
        if let Some(telling) = running.telling.take() {
            telling.told().await?;
        }
        running.engine.script(&task, running.log.writer()).await?;
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
            let look = &self.running.runner.options.on_failed_script;
            // a shell on the machine would show another world than the container's
            if let Some(OnFailedScript(look)) = look.as_ref().filter(|_| self.running.place.is_none()) {
                let mark = self.running.log.mark().await;
                let (job, exit_code, log_offset) = (self.running.claim.job, exit.code(), mark.offset);
                self.absorb(mark);
                look(FailedScript { job, exit_code, directory: task.directory.into(), env, script: file, log_offset })
                    .await;
            }
        }
        let running = &mut self.running;
        let written = files.read(&running.workspace)?;
        for name in written.apply(&mut running.state) {
            let text = format!("##[warning]`{name}` belongs to the runner and can't be set by $SEGUE_ENV");
            running.log.line(text).await;
        }
        if let Some(problem) = written.summary_problem {
            running.log.line(format!("##[warning]The summary is left out: {problem}")).await;
        }
        self.summary.push_str(&written.summary);
        end.outputs = written.outputs;
        Ok(end)
    }

    /// The steps of a composite action, one after another. Boxed, because one may stand in another.
    fn composite<'f>(
        &'f mut self,
        index: usize,
        composite: &'f CompositePlan,
        prepared: &'f Prepared,
    ) -> Pin<Box<dyn Future<Output = Result<StepEnd, StepError>> + Send + 'f>> {
        Box::pin(async move {
            let inputs = rendered("with", &composite.inputs, &prepared.contexts)?;
            let text = format!("##[group]Run {}{}\n##[endgroup]", composite.uses, shown_inputs(&inputs));
            self.running.log.line(text).await;
            let mut level = Level {
                contexts: context::action_contexts(&self.running.contexts, &inputs),
                env: prepared.own_env.clone(),
                steps: serde_json::Map::new(),
                standing: Standing::Success,
            };
            let mut failure = None;
            for plan in &composite.steps {
                self.inner_step(index, plan, &mut level, &mut failure).await?;
            }
            let env = self.prepare_env(&level)?;
            let contexts = context::step_contexts(&level.contexts, &level.steps, level.standing, &env);
            let outputs = rendered("outputs", &composite.outputs, &contexts)?;
            Ok(match failure {
                None => StepEnd { outcome: Some(Conclusion::Success), outputs, ..StepEnd::default() },
                Some(end) => StepEnd { outputs, ..end },
            })
        })
    }

    async fn inner_step(
        &mut self,
        index: usize,
        plan: &StepPlan,
        level: &mut Level,
        failure: &mut Option<StepEnd>,
    ) -> Result<(), StepError> {
        let mut forgiving = plan.continue_on_error;
        let mut name = plan.name.clone();
        let end = match self.prepare(plan, level) {
            Ok(None) => StepEnd { outcome: Some(Conclusion::Skipped), ..StepEnd::default() },
            Ok(Some(prepared)) => {
                forgiving = prepared.forgiving;
                name.clone_from(&prepared.name);
                match self.perform(index, plan, &prepared).await {
                    Ok(end) if end.waits.is_some() => {
                        let reason = "an action can't wait for a rollout; use the step in the job itself";
                        return Err(StepError::Configuration(reason.into()));
                    }
                    Ok(end) => end,
                    Err(StepError::ControlPlane(error)) if error.is_stale_epoch() => return Err(error.into()),
                    Err(error) => self.failed(&error).await,
                }
            }
            Err(error) => self.failed(&error).await,
        };
        let mark = self.running.log.mark().await;
        self.absorb(mark);
        let outcome = end.outcome.unwrap_or(Conclusion::Failure);
        let outputs = without_secrets(end.outputs, &self.running.masker, &self.running.log).await;
        if let Some(id) = &plan.id {
            let forgiven = forgiving && outcome == Conclusion::Failure;
            level.steps.insert(id.clone(), context::ended_step(&outputs, outcome, forgiven));
        }
        if outcome == Conclusion::Failure && !forgiving && failure.is_none() {
            level.standing = Standing::Failure;
            let reason = end.reason.unwrap_or_else(|| "it failed".into());
            *failure = Some(StepEnd {
                outcome: Some(Conclusion::Failure),
                exit_code: end.exit_code,
                reason: Some(format!("its step `{}`: {reason}", short(&name, 80))),
                class: end.class,
                ..StepEnd::default()
            });
        }
        Ok(())
    }
}

fn rendered(
    what: &str,
    templates: &IndexMap<String, String>,
    contexts: &Contexts,
) -> Result<IndexMap<String, String>, StepError> {
    templates
        .iter()
        .map(|(name, value)| Ok((name.clone(), context::render(&format!("`{what}: {name}`"), value, contexts)?)))
        .collect()
}

fn shown_inputs(with: &IndexMap<String, String>) -> String {
    with.iter().map(|(name, value)| format!("\n  {name}: {}", value.trim_end().replace('\n', "\n    "))).collect()
}

/// The pause before the next try: twice as long each time, within bounds.
fn pause(retry: StepRetry, tried: u32) -> Duration {
    let doubled = 1_u64.checked_shl(tried - 1).unwrap_or(u64::MAX);
    Duration::from_millis(retry.backoff_ms.saturating_mul(doubled)).min(MAX_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_within_bounds() {
        let retry = StepRetry { max: 10, backoff_ms: 10_000 };
        let pauses: Vec<u64> = (1..=7).map(|tried| pause(retry, tried).as_secs()).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(pause(StepRetry { max: 1, backoff_ms: 0 }, 1), Duration::ZERO);
    }
}
