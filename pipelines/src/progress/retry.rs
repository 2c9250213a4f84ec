use segue_schemas::{plan::JobPlan, status::FailureClass};

/// How long to wait before a job that failed is begun again, in seconds; `None`: it stays failed. `again_before`: how often it
/// was begun again in this attempt of the run. What may have changed an environment is never begun again, unless it says
/// that this does no harm.
#[must_use]
pub fn begin_again(plan: &JobPlan, class: FailureClass, again_before: u32, cancelled: bool) -> Option<u64> {
    let retry = plan.retry.as_ref()?;
    let is_harmless = plan.environment.is_none() || plan.idempotent;
    let may = is_harmless && !cancelled && again_before < retry.max && retry.on.contains(&class);
    may.then(|| retry.pause_seconds(again_before + 1))
}
