//! What a person's promotion runs: a pipeline of one job, which belongs to the target environment. So it goes through that one's gates as
//! every other job does: reviewers, branches, waits, freezes, and what the target requires.
//!
//! Comes in: what is to be promoted, and how. Goes out: a pipeline's text. Never here: what serves where.

use std::fmt::Write as _;

use segue_schemas::{
    deploy::{CanarySpec, JudgeSpec, Strategy},
    duration::Span,
    id::ReleaseId,
    strategy::{BlueGreenSpec, RollingSpec},
};
use serde_json::json;

use crate::strategies;

/// The file that such runs are shown with. Nobody has one of that name: a pipeline's file ends in `.yml`.
pub const FILE: &str = ".segue/pipelines/(promotion)";

/// What is promoted.
#[derive(Debug, Clone, Copy)]
pub struct Promotion<'a> {
    /// The service.
    pub service: &'a str,
    /// Where it serves.
    pub from: &'a str,
    /// Where it is to serve.
    pub to: &'a str,
    /// The release; where another serves by then, nothing is promoted.
    pub release: ReleaseId,
    /// How it comes to its traffic.
    pub strategy: &'a Strategy,
}

/// The name of the pipeline.
#[must_use]
pub fn name(promotion: &Promotion<'_>) -> String {
    format!("promote {} to {}", promotion.service, promotion.to)
}

/// The pipeline. Every value stands in it as JSON, which is YAML as well.
#[must_use]
pub fn pipeline(promotion: &Promotion<'_>) -> String {
    let mut with = format!(
        "service: {}, from: {}, release: {}",
        json!(promotion.service),
        json!(promotion.from),
        promotion.release
    );
    for (key, value) in inputs(promotion.strategy) {
        let _ = write!(with, ", {key}: {}", json!(value));
    }
    format!(
        "name: {}\non: workflow_dispatch\njobs:\n  promote:\n    environment: {}\n    steps:\n      - uses: segue/promote\n        with: {{ {with} }}\n",
        json!(name(promotion)),
        json!(promotion.to),
    )
}

/// A strategy as `segue/promote` takes it.
fn inputs(strategy: &Strategy) -> Vec<(&'static str, String)> {
    let named = |name: &str| (strategies::INPUT, name.to_owned());
    match strategy {
        Strategy::HotSwap | Strategy::Remove | Strategy::Restore { .. } | Strategy::Sync(_) => Vec::new(),
        Strategy::Canary(CanarySpec { stages, stage_duration, hold_limit, judge }) => {
            let stages: Vec<String> = stages.iter().map(ToString::to_string).collect();
            let own = [("stages", stages.join(",")), ("stage-duration", stage_duration.to_string())];
            own.into_iter().chain(watched(*hold_limit, judge)).collect()
        }
        Strategy::Rolling(RollingSpec { batch, pause, hold_limit, judge }) => {
            let own = [named(strategies::ROLLING), ("batch", batch.to_string()), ("pause", pause.to_string())];
            own.into_iter().chain(watched(*hold_limit, judge)).collect()
        }
        Strategy::BlueGreen(BlueGreenSpec { hold, hold_limit, soak, judge }) => {
            let own = [named(strategies::BLUE_GREEN), ("hold", hold.to_string()), ("soak", soak.to_string())];
            own.into_iter().chain(watched(*hold_limit, judge)).collect()
        }
    }
}

/// How a release is watched.
fn watched(hold_limit: Span, judge: &JudgeSpec) -> impl Iterator<Item = (&'static str, String)> {
    let always = [
        ("hold-limit", hold_limit.to_string()),
        ("min-requests", judge.min_requests.to_string()),
        ("false-alarm", judge.false_alarm.to_string()),
        ("error-margin", judge.error_margin.to_string()),
        ("latency-ratio", judge.latency_ratio.to_string()),
        ("latency-floor", judge.latency_floor.to_string()),
    ];
    let given = [
        judge.max_error_rate.map(|rate| ("max-error-rate", rate.to_string())),
        judge.max_p95.map(|limit| ("max-p95", limit.to_string())),
    ];
    always.into_iter().chain(given.into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use segue_schemas::trigger::{Event, Trigger};

    use super::*;
    use crate::plan::plan;

    #[track_caller]
    fn check(strategy: &Strategy, with: &[(&str, &str)]) {
        let promotion =
            Promotion { service: "web", from: "staging", to: "production", release: ReleaseId(7), strategy };
        let text = pipeline(&promotion);
        let trigger = Trigger {
            repository: "acme/shop".into(),
            clone_url: None,
            actor: "ada".into(),
            authors: Vec::new(),
            event: Event::WorkflowDispatch {
                r#ref: "refs/heads/main".into(),
                commit: "0123456789".repeat(4).parse().unwrap(),
                pipeline: Some(name(&promotion)),
                inputs: [].into(),
            },
        };
        let planned = plan(&[(FILE, &text)], &trigger, None);
        assert!(planned.broken.is_empty() && planned.runs.len() == 1, "{text}\n{planned:#?}");
        let run = serde_json::to_value(&planned.runs[0]).unwrap();
        assert_eq!(run["file"], FILE);
        assert_eq!(run["jobs"][0]["environment"], "production", "{run:#}");
        let step = &run["jobs"][0]["steps"][0];
        for (key, value) in with {
            assert!(step.to_string().contains(&format!("\"{key}\":\"{value}\"")), "{key}: {value} in {step:#}");
        }
    }

    #[test]
    fn a_promotion_is_a_job_of_its_target() {
        let at_once = [("service", "web"), ("from", "staging"), ("release", "7")];
        check(&Strategy::HotSwap, &at_once);
        let judge = JudgeSpec { max_error_rate: Some(0.02), ..JudgeSpec::default() };
        let canary = CanarySpec { stages: vec![5, 100], judge, ..CanarySpec::default() };
        let by_stages = [("stages", "5,100"), ("stage-duration", "15m"), ("max-error-rate", "0.02")];
        check(&Strategy::Canary(canary), &by_stages);
        let rolling = Strategy::Rolling(RollingSpec::default());
        check(&rolling, &[("strategy", "rolling"), ("batch", "1"), ("pause", "1m"), ("min-requests", "0")]);
        let held = Strategy::BlueGreen(BlueGreenSpec { hold: true, ..BlueGreenSpec::default() });
        check(&held, &[("strategy", "blue-green"), ("hold", "true"), ("soak", "10m")]);
    }
}
