//! A step's end: what of it is kept, and what follows from it for the job.

use std::time::Duration;

use indexmap::IndexMap;
use segue_schemas::{
    annotation::Annotation,
    status::{Conclusion, FailureClass, StepStatus},
    worker_api::StepReport,
};

use super::{
    context::{self, Standing},
    error::StepError,
    run::{Ended, Running},
    steps::{StepEnd, Steps, now, short},
};
use crate::{control_plane::retry, log::mask::Masker};

/// Bytes of the outputs of a job's steps together, and of its own, as they are sent.
const MAX_OUTPUT_BYTES: usize = 1024 * 1024;
/// Bytes of all reports of a job, from where on reasons are short and annotations are left out: its end must fit into one
/// request.
const MAX_REPORT_BYTES: usize = 2 * 1024 * 1024 + 512 * 1024;
/// Annotations of one kind that are kept of a step, and all that are kept of a job.
const MAX_OF_A_KIND: usize = 10;
const MAX_ANNOTATIONS: usize = 50;
/// Summaries that are kept of a job.
const MAX_SUMMARIES: usize = 20;
/// How long a summary is tried to be sent.
const SUMMARY_PATIENCE: Duration = Duration::from_secs(10);

/// How much the steps that ended have reported: a job's end tells it all in one request.
#[derive(Debug, Default)]
pub(super) struct ReportedSoFar {
    bytes: usize,
    output_bytes: usize,
    annotations: usize,
}

impl ReportedSoFar {
    pub(super) fn add(&mut self, report: &StepReport) {
        self.bytes += sent_length(report);
        self.output_bytes += sent_bytes(&report.outputs);
        self.annotations += report.annotations.len();
    }
}

impl Steps<'_> {
    /// Reports a step's end, and draws what follows from it.
    pub(super) async fn ended(&mut self, mut report: StepReport, mut end: StepEnd, forgiving: bool) -> Option<Ended> {
        let mark = self.running.log.mark().await;
        self.absorb(mark);
        end.outputs = without_secrets(end.outputs, &self.running.masker, &self.running.log).await;
        if let Some(reason) = self.too_large(&end.outputs) {
            end = self.failed(&StepError::Configuration(reason)).await;
        }
        report.summary_bytes = self.keep_summary(report.index).await;
        report.annotations = self.kept_annotations();
        let running = &mut self.running;
        report.log_end = running.log.mark().await.offset;
        report.exit_code = end.exit_code;
        report.reason = end.reason.map(|reason| running.masker.mask(&reason));
        report.outputs = end.outputs;
        self.keep_short(&mut report);
        let running = &mut self.running;
        if let Some(rollout) = end.waits {
            report.status = StepStatus::Waiting;
            running.reporter.set(report.clone());
            return Some(Ended::Waits { step: report.index, rollout, may_fail: forgiving });
        }
        report.ended_at = report.started_at.map(|_| now());
        report.outcome = end.outcome;
        report.status = match end.outcome {
            Some(Conclusion::Success) => StepStatus::Succeeded,
            Some(Conclusion::Skipped) => StepStatus::Skipped,
            Some(Conclusion::Cancelled) => StepStatus::Cancelled,
            Some(Conclusion::Failure) if forgiving => StepStatus::Succeeded,
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

    /// Why a step's outputs can't be taken, with those of the steps before it.
    fn too_large(&self, outputs: &IndexMap<String, String>) -> Option<String> {
        let before = self.reported.output_bytes;
        let own = sent_bytes(outputs);
        (!outputs.is_empty() && before + own > MAX_OUTPUT_BYTES).then(|| {
            format!(
                "its outputs have {own} bytes, with those of the steps before it {}, and {MAX_OUTPUT_BYTES} are the limit of a \
                 job; hand what is large on in a file, or as an artifact",
                before + own
            )
        })
    }

    /// Sends what the step wrote as its summary; how long it is.
    async fn keep_summary(&mut self, step: usize) -> u64 {
        let summary = std::mem::take(&mut self.summary);
        if summary.trim().is_empty() {
            return 0;
        }
        let running = &mut self.running;
        if running.state.summaries >= MAX_SUMMARIES {
            let text = format!("##[warning]The summary is left out: {MAX_SUMMARIES} are kept of a job");
            running.log.line(text).await;
            return 0;
        }
        let text = running.masker.mask(&summary);
        let (control_plane, claim) = (&running.runner.control_plane, running.claim);
        let sent = retry(SUMMARY_PATIENCE, || control_plane.put_summary(claim.job, claim.epoch, step, &text)).await;
        match sent {
            Ok(_) => {
                running.state.summaries += 1;
                text.len() as u64
            }
            Err(error) => {
                running.log.line(format!("##[warning]The summary could not be kept: {error}")).await;
                0
            }
        }
    }

    /// What is kept of the step's annotations, masked.
    fn kept_annotations(&mut self) -> Vec<Annotation> {
        let said = std::mem::take(&mut self.annotations);
        self.dropped_annotations = 0;
        let before = self.reported.annotations;
        let mut kept: Vec<Annotation> = Vec::new();
        for mut annotation in said {
            let same = kept.iter().filter(|known| known.level == annotation.level).count();
            if same >= MAX_OF_A_KIND || before + kept.len() >= MAX_ANNOTATIONS {
                continue;
            }
            let masker = &self.running.masker;
            annotation.message = masker.mask(&annotation.message);
            annotation.title = annotation.title.map(|title| masker.mask(&title));
            annotation.file = annotation.file.map(|file| masker.mask(&file));
            kept.push(annotation);
        }
        kept
    }

    /// Keeps all reports together within what one request can hold.
    fn keep_short(&mut self, report: &mut StepReport) {
        if self.reported.bytes + sent_length(report) > MAX_REPORT_BYTES {
            report.annotations.clear();
            report.reason = report.reason.as_deref().map(|reason| short(reason, 100));
        }
        self.reported.add(report);
    }
}

impl Running<'_> {
    /// The job's outputs, evaluated; those that can't be or that hold a secret are left out, and the log says so.
    pub(super) async fn outputs(&self) -> IndexMap<String, String> {
        let mut outputs = IndexMap::new();
        if self.claim.plan.outputs.is_empty() {
            return outputs;
        }
        let steps = context::ended_steps(self.claim, &self.reporter.all());
        let mut env = IndexMap::new();
        let base = context::step_contexts(&self.contexts, &steps, self.standing, &env);
        for layer in [&self.claim.pipeline_env, &self.claim.plan.env] {
            let _ = context::overlay_env(&mut env, layer, &base);
        }
        env.extend(self.state.env.iter().map(|(name, value)| (name.clone(), value.clone())));
        let contexts = context::step_contexts(&base, &steps, self.standing, &env);
        for (name, template) in &self.claim.plan.outputs {
            match context::render(&format!("`outputs: {name}`"), template, &contexts) {
                Ok(value) => {
                    outputs.insert(name.clone(), value);
                }
                Err(error) => self.log.line(format!("##[warning]{error}")).await,
            }
        }
        let mut outputs = without_secrets(outputs, &self.masker, &self.log).await;
        while sent_bytes(&outputs) > MAX_OUTPUT_BYTES {
            let Some((name, _)) = outputs.pop() else { break };
            let text = format!(
                "##[warning]Output `{name}` is left out: the job's outputs are larger than {MAX_OUTPUT_BYTES} bytes"
            );
            self.log.line(text).await;
        }
        outputs
    }
}

/// Values that hold no secret: what is reported is stored and shown.
pub(super) async fn without_secrets(
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

/// Bytes of a report as it is sent.
fn sent_length(report: &StepReport) -> usize {
    serde_json::to_string(report).map_or(0, |text| text.len())
}

/// Bytes of outputs as they are sent.
fn sent_bytes(outputs: &IndexMap<String, String>) -> usize {
    if outputs.is_empty() { 0 } else { serde_json::to_string(outputs).map_or(0, |text| text.len()) }
}
