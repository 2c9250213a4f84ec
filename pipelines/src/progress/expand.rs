//! A job with a matrix becomes its combinations.

use indexmap::IndexMap;
use segue_schemas::{
    plan::{Combination, JobPlan, Setting, StrategyPlan},
    status::FailureClass,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Action, JobView, SkipCause,
    settle::{evaluated, shortened},
};
use crate::{
    expr::Contexts,
    matrix::{combinations, parts},
};

/// The most jobs of a run, combinations counted.
pub const MAX_RUN_JOBS: usize = 4_000;

/// One combination, as a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// The job's key: `test (linux, 1)`.
    pub key: String,
    /// Which it is.
    pub combination: Combination,
    /// Its values.
    pub matrix: IndexMap<String, Value>,
}

/// What becomes of a job whose matrix can be evaluated now. `others`: the jobs that the run has beside it.
pub(super) fn expand(job: &JobView, strategy: &StrategyPlan, contexts: &Contexts, others: usize) -> Action {
    match made(job, strategy, contexts) {
        Err(reason) => fail(job, reason),
        Ok(into) if into.is_empty() => Action::Skip {
            job: job.key.clone(),
            cause: SkipCause::Condition,
            reason: "its matrix has no combination".into(),
        },
        Ok(into) if others + into.len() > MAX_RUN_JOBS => {
            let count = into.len();
            fail(job, format!("with its {count} combinations the run would have more than {MAX_RUN_JOBS} jobs"))
        }
        Ok(into) => Action::Expand { job: job.key.clone(), into },
    }
}

fn made(job: &JobView, strategy: &StrategyPlan, contexts: &Contexts) -> Result<Vec<Part>, String> {
    let found =
        combinations(&strategy.matrix, contexts).map_err(|error| format!("its matrix cannot be run: {error}"))?;
    let fail_fast = evaluated(&strategy.fail_fast, "strategy.fail-fast", contexts)?;
    let max_parallel = match &strategy.max_parallel {
        None => None,
        Some(Setting::Fixed(most)) => Some(*most),
        Some(setting) => Some(evaluated(setting, "strategy.max-parallel", contexts)?),
    };
    let part = |(combination, matrix): (Combination, IndexMap<String, Value>)| Part {
        key: format!("{} ({})", combination.job, combination.label),
        combination,
        matrix,
    };
    Ok(parts(&job.key, &found, fail_fast, max_parallel).into_iter().map(part).collect())
}

fn fail(job: &JobView, reason: String) -> Action {
    Action::Fail { job: job.key.clone(), class: FailureClass::Configuration, reason }
}

impl Part {
    /// The plan of this combination, from that of its job. A name without expressions gets the combination's label.
    #[must_use]
    pub fn plan(&self, job: &JobPlan) -> JobPlan {
        let is_template = job.name.contains("${{");
        let name = format!("{} ({})", job.name, self.combination.label);
        JobPlan {
            key: self.key.clone(),
            name: if is_template { job.name.clone() } else { shortened(&name) },
            combination: Some(self.combination.clone()),
            matrix: self.matrix.clone(),
            ..job.clone()
        }
    }
}

impl JobView {
    /// This job as one of its combinations.
    pub(crate) fn part(&self, part: &Part) -> Self {
        Self {
            key: part.key.clone(),
            strategy: None,
            combination: Some(part.combination.clone()),
            matrix: part.matrix.clone(),
            ..self.clone()
        }
    }
}
