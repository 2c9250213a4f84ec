//! Jobs that are multiplied, held back, allowed to fail.

use indexmap::IndexMap;
use segue_pipelines::progress::Deploys;
use segue_runner::store::{Again, AttemptKind};
use segue_schemas::{
    id::RunId,
    plan::{JobPlan, Late, MatrixPlan, Setting, StrategyPlan},
    status::{Conclusion, RunStatus},
    worker_api::{ClaimRequest, JobClaim},
};
use serde_json::json;

use crate::world::{World, finish, job};

fn matrix(values: serde_json::Value) -> StrategyPlan {
    let vectors = IndexMap::from([("n".to_owned(), values)]);
    StrategyPlan {
        matrix: MatrixPlan::Vectors { vectors, include: None, exclude: None },
        fail_fast: Setting::Fixed(true),
        max_parallel: None,
    }
}

pub fn matrix_job(key: &str, values: serde_json::Value) -> JobPlan {
    JobPlan { strategy: Some(matrix(values)), ..job(key, &[]) }
}

async fn claim_all(world: &World, worker: &ClaimRequest) -> Vec<JobClaim> {
    let mut claims = Vec::new();
    while let Some(claim) = world.store.claim_job(worker).await.unwrap() {
        claims.push(claim);
    }
    claims
}

fn keys(claims: &[JobClaim]) -> Vec<&str> {
    claims.iter().map(|claim| claim.plan.key.as_str()).collect()
}

/// A run of `list`, whose output is these values, and a matrix of them.
async fn listed(world: &World, worker: &ClaimRequest, values: &str) -> RunId {
    let mut each = matrix_job("each", json!("${{ fromJSON(needs.list.outputs.values) }}"));
    each.needs = vec!["list".into()];
    each.name = "Each ${{ matrix.n }} of ${{ strategy.job-total }}".into();
    each.runs_on = vec!["default".into(), "${{ matrix.n == 'b' && 'fast' || 'default' }}".into()];
    each.late = Late { timeout_minutes: Some("${{ matrix.n == 'b' && 5 || 10 }}".into()), continue_on_error: None };
    let run = world.run(vec![job("list", &[]), each, job("after", &["each"])]).await;
    let list = world.claim(worker).await;
    let mut end = finish(&list, Conclusion::Success);
    end.outputs = IndexMap::from([("values".to_owned(), values.to_owned())]);
    world.store.finish_job(list.job, end).await.unwrap();
    run
}

pub async fn a_matrix_of_an_output_becomes_its_combinations_with_everything_evaluated(world: World) {
    let worker = world.worker_with("w", "1", 8, &["default", "fast"]).await;
    let run = listed(&world, &worker, r#"["a", "b"]"#).await;
    assert_eq!(world.jobs(run).await, ["list succeeded", "each (a) queued", "each (b) queued", "after pending"]);
    let claims = claim_all(&world, &worker).await;
    let b = claims.iter().find(|claim| claim.plan.key == "each (b)").unwrap();
    assert_eq!(b.plan.name, "Each b of 2");
    assert_eq!(b.plan.runs_on, ["default", "fast"]);
    assert_eq!(b.plan.timeout_seconds, 300);
    assert_eq!(b.contexts["matrix"], json!({"n": "b"}));
    assert_eq!(b.contexts["strategy"]["job-index"], 1);
    assert_eq!(b.contexts["github"]["job"], "each");
    for claim in &claims {
        let mut end = finish(claim, Conclusion::Success);
        end.outputs = IndexMap::from([("name".to_owned(), format!("made by {}", claim.plan.key))]);
        world.store.finish_job(claim.job, end).await.unwrap();
    }
    let after = world.claim(&worker).await;
    assert_eq!(
        after.contexts["needs"]["each"],
        json!({"result": "success", "matrix": {
            "a": {"result": "success", "matrix": {"n": "a"}, "outputs": {"name": "made by each (a)"}},
            "b": {"result": "success", "matrix": {"n": "b"}, "outputs": {"name": "made by each (b)"}},
        }})
    );
    world.finish(&after, Conclusion::Success).await;
    assert_eq!(world.status(run).await, RunStatus::Succeeded);
    // as a whole it is evaluated again, and may come out otherwise
    world.store.rerun(run, Again::of(AttemptKind::Whole, "ada").deploying(Deploys::Repeat)).await.unwrap();
    assert_eq!(world.jobs(run).await, ["list queued", "each pending", "after pending"]);
    let list = world.claim(&worker).await;
    let mut end = finish(&list, Conclusion::Success);
    end.outputs = IndexMap::from([("values".to_owned(), "[1]".to_owned())]);
    world.store.finish_job(list.job, end).await.unwrap();
    assert_eq!(world.jobs(run).await, ["list succeeded", "each (1) queued", "after pending"]);
}

pub async fn a_matrix_that_cannot_be_evaluated_fails_its_job_in_words(world: World) {
    let worker = world.worker("w", "1").await;
    let run = listed(&world, &worker, "no list").await;
    let jobs = world.jobs(run).await;
    assert!(jobs[1].starts_with("each failed: its matrix cannot be run: `matrix.n`: `fromJSON` got"), "{jobs:?}");
    assert_eq!(jobs[2], "after skipped: its need `each` failed");
    let empty = listed(&world, &worker, "[]").await;
    assert_eq!(world.jobs(empty).await[1..], ["each skipped: its matrix has no combination", "after queued"]);
}

pub async fn the_first_failure_of_a_matrix_ends_the_others_and_says_so(world: World) {
    let worker = world.worker_with("w", "1", 2, &["default"]).await;
    let run = world.run(vec![matrix_job("m", json!([1, 2, 3])), job("after", &["m"])]).await;
    let (one, two) = (world.claim(&worker).await, world.claim(&worker).await);
    world.finish(&one, Conclusion::Failure).await;
    let why = "`m (1)` failed, and its matrix is `fail-fast`";
    assert_eq!(
        world.jobs(run).await,
        ["m (1) failed: exit code 1", "m (2) leased", &format!("m (3) cancelled: {why}"), "after pending"]
    );
    assert!(world.store.job_cancel_requested(two.job, two.epoch).await.unwrap(), "its worker is told");
    world.finish(&two, Conclusion::Cancelled).await;
    let jobs = world.jobs(run).await;
    assert_eq!(
        jobs[1..],
        [
            format!("m (2) cancelled: {why}"),
            format!("m (3) cancelled: {why}"),
            "after skipped: its need `m (1)` failed".into()
        ]
    );
    assert_eq!(world.status(run).await, RunStatus::Failed);
    // what failed runs again, with the combinations that there were
    world.store.rerun(run, Again::of(AttemptKind::Failed, "ada").deploying(Deploys::Repeat)).await.unwrap();
    assert_eq!(world.jobs(run).await, ["m (1) queued", "m (2) queued", "m (3) queued", "after pending"]);
}

pub async fn no_more_of_a_matrix_are_at_work_than_may_be_and_others_go_past_it(world: World) {
    let worker = world.worker_with("w", "1", 8, &["default"]).await;
    let mut many = matrix_job("m", (1..=40).collect());
    many.strategy.as_mut().unwrap().max_parallel = Some(Setting::Fixed(2));
    let run = world.run(vec![many]).await;
    world.pass(std::time::Duration::from_secs(1));
    world.run(vec![job("other", &[])]).await;
    let claims = claim_all(&world, &worker).await;
    assert_eq!(keys(&claims), ["m (1)", "m (2)", "other"]);
    let reason =
        |queue: Vec<segue_runner::store::QueuedJob>| queue.iter().find(|q| q.key == "m (3)").unwrap().reason.clone();
    assert_eq!(
        reason(world.store.queue(100).await.unwrap()),
        "2 of its matrix are at work, and no more may be (`max-parallel`)"
    );
    world.finish(&claims[0], Conclusion::Success).await;
    assert_eq!(keys(&claim_all(&world, &worker).await), ["m (3)"]);
    assert_eq!(world.status(run).await, RunStatus::Running);
}

pub async fn a_failure_that_is_allowed_is_none_of_the_run(world: World) {
    let worker = world.worker("w", "1").await;
    let mut lint = job("lint", &[]);
    lint.late.continue_on_error = Some("${{ github.actor == 'ada' }}".into());
    let mut after = job("after", &["lint"]);
    after.condition = Some("success() && needs.lint.result == 'success'".into());
    let run = world.run(vec![lint, after]).await;
    let claim = world.claim(&worker).await;
    world.finish(&claim, Conclusion::Failure).await;
    assert_eq!(world.jobs(run).await, ["lint failed: exit code 1", "after queued"]);
    let after = world.claim(&worker).await;
    world.finish(&after, Conclusion::Success).await;
    let record = world.store.run(run).await.unwrap();
    assert_eq!(record.status, RunStatus::Succeeded);
    assert_eq!(record.reason.as_deref(), Some("`lint` failed, which its `continue-on-error` allows"));
}
