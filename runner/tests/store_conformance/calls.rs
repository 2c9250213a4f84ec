//! Jobs that call another pipeline.

use indexmap::IndexMap;
use segue_pipelines::progress::Deploys;
use segue_runner::store::{Again, AttemptKind};
use segue_schemas::{
    plan::{CallInput, CallInputKind, CallPlan, JobPlan},
    status::{Conclusion, RunStatus},
};
use serde_json::json;

use crate::world::{World, finish, job};

/// `a`, then `c` that calls `first` and `second`, then `after`.
fn jobs() -> Vec<JobPlan> {
    let second = JobPlan { environment: Some("staging".into()), ..job("second", &["first"]) };
    let call = CallPlan {
        file: ".segue/pipelines/x.yml".into(),
        inputs: IndexMap::from([(
            "target".to_owned(),
            CallInput { kind: CallInputKind::String, value: json!("${{ needs.a.outputs.target }}!") },
        )]),
        env: IndexMap::from([("OF".to_owned(), "the file".to_owned())]),
        outputs: IndexMap::from([(
            "made".to_owned(),
            "${{ jobs.first.outputs.made }} of ${{ inputs.target }}".to_owned(),
        )]),
        jobs: vec![JobPlan { name: "make ${{ inputs.target }}".into(), ..job("first", &[]) }, second],
    };
    let caller = JobPlan {
        name: "Call ${{ needs.a.outputs.target }}".into(),
        call: Some(Box::new(call)),
        steps: Vec::new(),
        ..job("c", &["a"])
    };
    vec![job("a", &[]), caller, job("after", &["c"])]
}

/// The next job, ended with these outputs.
async fn end(world: &World, outputs: &[(&str, &str)]) -> segue_schemas::worker_api::JobClaim {
    let worker = world.worker("w", "1").await;
    let claim = world.claim(&worker).await;
    let mut end = finish(&claim, Conclusion::Success);
    end.outputs = outputs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    world.store.finish_job(claim.job, end).await.unwrap();
    claim
}

pub async fn the_jobs_of_a_call_begin_behind_it_and_it_ends_with_them(world: World) {
    let _offers_the_labels = world.worker("w", "1").await;
    let run = world.run(jobs()).await;
    assert_eq!(world.jobs(run).await, ["a queued", "c pending", "after pending"]);
    end(&world, &[("target", "all")]).await;
    let waits = "c waiting: waits for the jobs of .segue/pipelines/x.yml";
    assert_eq!(world.jobs(run).await, ["a succeeded", waits, "c/first queued", "c/second pending", "after pending"]);
    let queued: Vec<String> = world.store.queue(10).await.unwrap().into_iter().map(|job| job.key).collect();
    assert_eq!(queued, ["c/first"], "the caller waits for no worker and for nobody's approval");
    assert!(world.store.approve(run, None, "ada".into()).await.is_err());
    // what is stored is enough to go on with
    let world = world.reopened().await;
    let first = end(&world, &[("made", "it")]).await;
    assert_eq!(first.plan.name, "Call all / make all!");
    assert_eq!(first.contexts["inputs"], json!({"target": "all!"}));
    assert_eq!(first.contexts["github"]["job"], "first");
    assert_eq!(first.pipeline_env, IndexMap::from([("OF".to_owned(), "the file".to_owned())]));
    let second = end(&world, &[]).await;
    assert_eq!(second.contexts["needs"]["first"]["outputs"]["made"], "it");
    let after = end(&world, &[]).await;
    assert_eq!(after.contexts["needs"]["c"], json!({"result": "success", "outputs": {"made": "it of all!"}}));
    assert_eq!(world.status(run).await, RunStatus::Succeeded);
}

pub async fn a_rerun_of_what_failed_keeps_what_a_call_has_done(world: World) {
    let worker = world.worker("w", "1").await;
    let run = world.run(jobs()).await;
    end(&world, &[("target", "all")]).await;
    end(&world, &[("made", "it")]).await;
    let second = world.claim(&worker).await;
    world.finish(&second, Conclusion::Failure).await;
    assert_eq!(
        world.jobs(run).await[1..],
        [
            "c failed: `c/second` failed",
            "c/first succeeded",
            "c/second failed: exit code 1",
            "after skipped: its need `c` failed",
        ]
    );
    assert_eq!(world.status(run).await, RunStatus::Failed);
    world.store.rerun(run, Again::of(AttemptKind::Failed, "ada").deploying(Deploys::Repeat)).await.unwrap();
    let jobs = world.jobs(run).await;
    assert!(jobs[1].starts_with("c waiting"), "{jobs:?}");
    assert_eq!(jobs[2..], ["c/first succeeded", "c/second queued", "after pending"]);
    assert_eq!(end(&world, &[]).await.plan.key, "c/second");
    let after = end(&world, &[]).await;
    assert_eq!(after.contexts["needs"]["c"]["outputs"]["made"], "it of all!");
    assert_eq!(world.status(run).await, RunStatus::Succeeded);
    // as a whole it calls once more
    world.store.rerun(run, Again::of(AttemptKind::Whole, "ada").deploying(Deploys::Repeat)).await.unwrap();
    assert_eq!(world.jobs(run).await, ["a queued", "c pending", "after pending"]);
}

pub async fn a_cancelled_run_ends_what_it_called(world: World) {
    let worker = world.worker("w", "1").await;
    let run = world.run(jobs()).await;
    end(&world, &[("target", "all")]).await;
    let first = world.claim(&worker).await;
    world.store.cancel_run(run, "ada".into()).await.unwrap();
    assert!(world.jobs(run).await[1].starts_with("c waiting"), "its job goes on until its worker has heard");
    world.finish(&first, Conclusion::Cancelled).await;
    let jobs = world.jobs(run).await;
    assert!(jobs.iter().skip(1).all(|job| job.contains(" cancelled")), "{jobs:?}");
    assert_eq!(world.status(run).await, RunStatus::Cancelled);
}
