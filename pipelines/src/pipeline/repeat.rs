//! `concurrency` and `retry`: what holds back, and what is begun again.

use segue_schemas::{
    duration::Span,
    plan::{ConcurrencyPlan, RetryPlan, Setting},
    status::FailureClass,
};

use super::{
    expressions::{Place, Scope},
    reader::{Keys, Reader},
};
use crate::{
    diagnostic::Code,
    document::{Content, Node, Scalar, ScalarKind},
    nearest::did_you_mean,
};

const CONCURRENCY: Keys = Keys { known: &["group", "cancel-in-progress"], later: &[] };
const RETRY: Keys = Keys { known: &["max", "on", "backoff"], later: &[] };

/// The kinds of failure by the words of the language.
const CLASSES: [(&str, FailureClass); 5] = [
    ("failure", FailureClass::Script),
    ("timeout", FailureClass::Timeout),
    ("worker-lost", FailureClass::WorkerLost),
    ("infrastructure", FailureClass::Infrastructure),
    ("rollout", FailureClass::Rollout),
];
/// After what a job is begun again where it does not say: everything but a rollout, which was judged.
const DEFAULT_CLASSES: [FailureClass; 4] =
    [FailureClass::Script, FailureClass::Timeout, FailureClass::WorkerLost, FailureClass::Infrastructure];
const MOST_RETRIES: u32 = 10;
const DEFAULT_BACKOFF_SECONDS: u64 = 10;

impl Reader<'_, '_> {
    /// `concurrency:`, a group, or `{group, cancel-in-progress}`.
    pub(super) fn concurrency(&mut self, node: &Node, place: &Place, scope: &mut Scope) -> Option<ConcurrencyPlan> {
        const WHAT: &str = "concurrency";
        let mut cancel_in_progress = Setting::Fixed(false);
        let group = match &node.content {
            Content::Mapping(_) => {
                self.keys(node, "`concurrency`", &CONCURRENCY);
                if let Some(cancel) = node.get("cancel-in-progress") {
                    cancel_in_progress = self.setting(cancel, "cancel-in-progress", place, scope)?;
                }
                match node.get("group") {
                    Some(group) => group,
                    None => {
                        let help = "name the group: `concurrency: { group: deploy }`";
                        self.missing("group", "`concurrency`", &node.span, help);
                        return None;
                    }
                }
            }
            _ => node,
        };
        let group = self.filled_template(group, WHAT, place, scope)?;
        Some(ConcurrencyPlan { group, cancel_in_progress })
    }

    /// `retry:` of a job, a count, or `{max, on, backoff}`.
    pub(super) fn job_retry(&mut self, job: &Node) -> Option<RetryPlan> {
        let entry = job.entry("retry")?;
        let node = &entry.value;
        let mut retry = RetryPlan { max: 1, on: DEFAULT_CLASSES.to_vec(), backoff_seconds: DEFAULT_BACKOFF_SECONDS };
        match &node.content {
            Content::Mapping(_) => {
                self.keys(node, "`retry`", &RETRY);
                match node.get("max") {
                    Some(max) => retry.max = self.retries(max)?,
                    None => self.missing("max", "`retry`", &entry.key_span, "say how often: `retry: { max: 2 }`"),
                }
                if let Some(on) = node.get("on") {
                    retry.on = self.failure_classes(on);
                }
                if let Some(backoff) = node.get("backoff") {
                    retry.backoff_seconds = self.backoff(backoff)?;
                }
            }
            _ => retry.max = self.retries(node)?,
        }
        let is_idempotent =
            job.get("idempotent").and_then(Node::scalar).is_some_and(|s| s.kind == ScalarKind::Bool(true));
        if job.get("environment").is_some() && !is_idempotent {
            let message = "a job with an environment is not run again by itself: it may have changed something";
            let help = "where running it twice does no harm, write `idempotent: true`; otherwise take `retry` out";
            self.findings.error(Code::Conflict, &entry.key_span, message, Some(help.into()));
        }
        Some(retry)
    }

    fn retries(&mut self, node: &Node) -> Option<u32> {
        let Some(Scalar { kind: ScalarKind::Integer(count), .. }) = node.scalar() else {
            self.wrong_type(node, "`retry`", "a whole number, or a mapping");
            return None;
        };
        match u32::try_from(*count) {
            Ok(count) if (1..=MOST_RETRIES).contains(&count) => Some(count),
            _ => {
                let message = format!("`retry` is {count}, and 1 to {MOST_RETRIES} are allowed");
                self.findings.error(Code::InvalidValue, &node.span, message, None);
                None
            }
        }
    }

    fn failure_classes(&mut self, node: &Node) -> Vec<FailureClass> {
        let mut classes = Vec::new();
        for (word, span) in self.plain_list(node, "retry.on") {
            match CLASSES.iter().find(|(known, _)| *known == word) {
                Some((_, class)) if classes.contains(class) => {}
                Some((_, class)) => classes.push(*class),
                None => {
                    let known = || CLASSES.iter().map(|(known, _)| *known);
                    let help = did_you_mean(&word, known())
                        .unwrap_or_else(|| format!("known: {}", known().collect::<Vec<_>>().join(", ")));
                    let message = format!("`{word}` is no kind of failure");
                    self.findings.error(Code::InvalidValue, &span, message, Some(help));
                }
            }
        }
        classes
    }

    /// A number of seconds, or a duration with its unit.
    fn backoff(&mut self, node: &Node) -> Option<u64> {
        let seconds = match node.scalar().map(|scalar| (scalar.kind, scalar.text.parse::<Span>())) {
            Some((ScalarKind::Integer(seconds), _)) => u64::try_from(seconds).ok(),
            Some((ScalarKind::String, Ok(span))) => Some(span.0.as_secs().max(u64::from(span.0.subsec_nanos() > 0))),
            _ => None,
        };
        let fits = seconds.filter(|seconds| *seconds <= RetryPlan::MAX_BACKOFF_SECONDS);
        if fits.is_none() {
            let message = "`backoff` is no length of time up to an hour";
            let help = Some("write `30s`, or `5m`; it is doubled each time".into());
            self.findings.error(Code::InvalidValue, &node.span, message, help);
        }
        fits
    }
}
