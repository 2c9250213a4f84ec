//! Any order of any operations keeps the invariants. Seeded, so that what fails can be run again.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use segue_pipelines::progress::Deploys;
use segue_runner::store::{Again, AttemptKind, RollbackTarget, RolloutFilter, RunFilter, StoreError};
use segue_schemas::{
    deploy::RolloutCommand,
    id::{Epoch, JobId, RunId},
    plan::{RetryPlan, Setting},
    status::{Conclusion, FailureClass, JobStatus, RolloutStatus},
    worker_api::{ClaimRequest, JobClaim, JobHandBack, RolloutClaim},
};

use crate::concurrency::{group, grouped_run};
use crate::strategy::matrix_job;
use crate::world::{World, deploy_job, finish, job, report, running};

struct Chaos {
    world: World,
    random: StdRng,
    workers: Vec<ClaimRequest>,
    incarnations: u32,
    jobs: Vec<JobClaim>,
    rollouts: Vec<RolloutClaim>,
    /// The highest epoch seen of each job and pair.
    epochs: HashMap<String, Epoch>,
    /// The runs whose pipeline names the group `runs`.
    grouped: HashSet<RunId>,
    log: Vec<String>,
}

/// How many combinations of a matrix may be at work at a time.
const SHARDS_AT_ONCE: u32 = 2;

pub async fn invariants_hold_under_random_operations(world: World) {
    let seed: u64 = std::env::var("SEGUE_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("SEGUE_SEED={seed}");
    let workers = vec![world.worker("a", "0").await, world.worker("b", "0").await];
    let mut chaos = Chaos {
        world,
        random: StdRng::seed_from_u64(seed),
        workers,
        incarnations: 0,
        jobs: Vec::new(),
        rollouts: Vec::new(),
        epochs: HashMap::new(),
        grouped: HashSet::new(),
        log: Vec::new(),
    };
    for round in 0..400 {
        chaos.step().await;
        // each look reads every job of every run
        if round % 4 == 0 {
            chaos.check().await;
        }
    }
    chaos.end().await;
}

impl Chaos {
    async fn step(&mut self) {
        let what = self.random.random_range(0..100);
        match what {
            0..12 => self.push().await,
            12..35 => self.claim_job().await,
            35..60 => self.report_job().await,
            60..70 => self.claim_rollout().await,
            70..85 => self.report_rollout().await,
            85..89 => self.world.pass(Duration::from_secs(self.random.random_range(1..20))),
            89..92 => {
                self.world.store.reap_expired().await.unwrap();
            }
            92..94 => self.restart_worker().await,
            _ => self.person().await,
        }
        self.log.push(format!("{what}"));
    }

    async fn push(&mut self) {
        let mut after = job("after", &["deploy"]);
        after.condition = ["success()", "always()", "failure()"].choose(&mut self.random).map(|c| (*c).to_owned());
        let mut deploy = deploy_job("deploy", "staging");
        deploy.needs = vec!["test".into(), "shards".into()];
        let mut test = job("test", &[]);
        let retry = RetryPlan { max: 2, on: vec![FailureClass::Script], backoff_seconds: 15 };
        test.retry = self.random.random_bool(0.3).then_some(retry);
        let mut lint = job("lint", &[]);
        lint.continue_on_error = self.random.random_bool(0.5);
        let mut shards = matrix_job("shards", serde_json::json!([1, 2, 3]));
        if let Some(strategy) = &mut shards.strategy {
            strategy.fail_fast = Setting::Fixed(self.random.random_bool(0.5));
            strategy.max_parallel = Some(Setting::Fixed(SHARDS_AT_ONCE));
        }
        let mut cancels = |often| self.random.random_bool(often).then(|| self.random.random_bool(0.3));
        deploy.concurrency = cancels(0.4).and_then(|cancel| group("deploys", cancel));
        let of_run = cancels(0.4).and_then(|cancel| group("runs", cancel));
        let is_grouped = of_run.is_some();
        let run = grouped_run(&self.world, of_run, vec![test, lint, shards, deploy, after]).await;
        if is_grouped {
            self.grouped.insert(run);
        }
    }

    async fn claim_job(&mut self) {
        let worker = self.workers.choose(&mut self.random).unwrap().clone();
        if let Some(claim) = settled(self.world.store.claim_job(&worker).await).flatten() {
            rises(&mut self.epochs, format!("job {}", claim.job), claim.epoch);
            self.jobs.push(claim);
        }
    }

    async fn report_job(&mut self) {
        let Some(claim) = self.jobs.choose(&mut self.random).cloned() else { return };
        let store = &self.world.store;
        match self.random.random_range(0..10) {
            0 => {
                settled(store.renew_job(claim.job, claim.epoch).await);
            }
            1 => {
                settled(store.report_steps(claim.job, running(claim.epoch, 0)).await);
            }
            2 => {
                let back = JobHandBack {
                    epoch: claim.epoch,
                    next_step: self.random.random_bool(0.5).then_some(1),
                    steps: vec![],
                    log_bytes: 0,
                    reason: "stops".into(),
                };
                settled(store.hand_back_job(claim.job, back).await);
            }
            _ if claim.plan.environment.is_some() && claim.resume.is_none() => {
                let bytes = [self.random.random_range(0..5_u8)];
                if let Some(created) = settled(self.world.ask(&claim, &bytes).await) {
                    let wait = segue_schemas::worker_api::JobWait {
                        epoch: claim.epoch,
                        rollout: created.rollout,
                        step: 0,
                        may_fail: None,
                        steps: vec![],
                        log_bytes: 0,
                    };
                    settled(self.world.store.wait_job(claim.job, wait).await);
                }
            }
            _ => {
                let ends = [Conclusion::Success, Conclusion::Success, Conclusion::Failure, Conclusion::Cancelled];
                let conclusion = *ends.choose(&mut self.random).unwrap();
                settled(store.finish_job(claim.job, finish(&claim, conclusion)).await);
            }
        }
    }

    async fn claim_rollout(&mut self) {
        let worker = self.workers.choose(&mut self.random).unwrap().clone();
        if let Some(claim) = settled(self.world.store.claim_rollout(&worker).await).flatten() {
            rises(&mut self.epochs, "pair".into(), claim.epoch);
            self.rollouts.push(claim);
        }
    }

    async fn report_rollout(&mut self) {
        let Some(claim) = self.rollouts.choose(&mut self.random).cloned() else { return };
        let ends = [
            RolloutStatus::Running,
            RolloutStatus::Held,
            RolloutStatus::RollingBack,
            RolloutStatus::Succeeded,
            RolloutStatus::RolledBack,
            RolloutStatus::Failed,
        ];
        let status = *ends.choose(&mut self.random).unwrap();
        settled(self.world.store.report_rollout(claim.rollout.id, report(&claim, status, vec![])).await);
    }

    async fn restart_worker(&mut self) {
        self.incarnations += 1;
        let name = ["a", "b"].choose(&mut self.random).unwrap();
        let worker = self.world.worker(name, &self.incarnations.to_string()).await;
        let known = self.workers.iter_mut().find(|w| w.worker == worker.worker).unwrap();
        *known = worker;
    }

    async fn person(&mut self) {
        let runs = self.world.store.runs(RunFilter { limit: 200, ..Default::default() }).await.unwrap();
        let Some(run) = runs.choose(&mut self.random) else { return };
        let store = &self.world.store;
        match self.random.random_range(0..5) {
            0 => {
                store.cancel_run(run.id, "p".into()).await.unwrap();
            }
            1 => {
                settled(store.rerun(run.id, Again::of(AttemptKind::Whole, "p").deploying(Deploys::Repeat)).await);
            }
            2 => {
                settled(store.rerun(run.id, Again::of(AttemptKind::Failed, "p").deploying(Deploys::Repeat)).await);
            }
            3 => {
                settled(store.create_rollback("staging", "web", RollbackTarget::Previous, "p".into()).await);
            }
            _ => {
                let open = RolloutFilter { open: Some(true), limit: 10, ..Default::default() };
                if let Some(rollout) = store.rollouts(open).await.unwrap().choose(&mut self.random) {
                    {
                        let _ =
                            settled(store.command_rollout(rollout.rollout.id, RolloutCommand::Abort, "p".into()).await);
                    };
                }
            }
        }
    }

    /// What must be true after every operation.
    async fn check(&mut self) {
        let store = &self.world.store;
        let filter = RolloutFilter { open: Some(true), limit: 200, ..Default::default() };
        let open = store.rollouts(filter).await.unwrap();
        let driven = open.iter().filter(|r| r.lease_until.is_some()).count();
        assert!(driven <= 1, "two drive one pair: {:?}", self.log);
        let (mut deploys, mut runs) = (0, 0);
        for run in store.runs(RunFilter { limit: 200, ..Default::default() }).await.unwrap() {
            let detail = store.run_detail(run.id, None).await.unwrap();
            let at_work = || detail.jobs.iter().map(|(j, _)| j).filter(|j| j.epoch > Epoch(0) && !j.status.is_final());
            let shards = at_work().filter(|j| j.plan.combination.is_some()).count();
            assert!(shards <= SHARDS_AT_ONCE as usize, "{shards} shards of run {}: {:?}", run.id, self.log);
            deploys += at_work().filter(|j| j.plan.concurrency.is_some()).count();
            let has_begun = detail.jobs.iter().any(|(j, _)| j.epoch > Epoch(0));
            runs += usize::from(self.grouped.contains(&run.id) && has_begun && !run.status.is_final());
            let all_ended = detail.jobs.iter().all(|(job, _)| job.status.is_final());
            assert_eq!(run.status.is_final(), all_ended, "run {} {:?}: {:?}", run.id, run.status, self.log);
            assert_eq!(run.ended_at.is_some(), all_ended, "run {}", run.id);
            for (job, _) in &detail.jobs {
                assert_eq!(job.status.is_held(), job.lease_until.is_some(), "{} {:?}", job.plan.key, job.status);
                let ended = |id: JobId| detail.jobs.iter().any(|(j, _)| j.id == id && j.status.is_final());
                if job.status != JobStatus::Pending {
                    let needs =
                        detail.jobs.iter().filter(|(j, _)| job.plan.needs.iter().any(|n| n == j.plan.file_key()));
                    assert!(
                        needs.into_iter().all(|(j, _)| ended(j.id)),
                        "{} {} before its needs have ended: {:?}",
                        job.plan.key,
                        job.status,
                        self.log
                    );
                }
            }
        }
        assert!(deploys <= 1 && runs <= 1, "{deploys} deploys, {runs} runs of one group are at work: {:?}", self.log);
    }

    /// With workers that end what they get, everything ends.
    async fn end(mut self) {
        for round in 0..2000 {
            let worker = self.workers[0].clone();
            self.world.pass(Duration::from_secs(1));
            if let Some(rollout) = self.world.store.claim_rollout(&worker).await.unwrap() {
                let status = report(&rollout, RolloutStatus::RolledBack, vec![]);
                self.world.store.report_rollout(rollout.rollout.id, status).await.unwrap();
            } else if let Some(claim) = self.world.store.claim_job(&worker).await.unwrap() {
                self.world.finish(&claim, Conclusion::Success).await;
            } else if self.world.store.next_expiry().await.unwrap().is_none() {
                break;
            } else {
                self.world.pass(Duration::from_secs(60));
                self.world.store.reap_expired().await.unwrap();
            }
            if round % 16 == 0 {
                self.check().await;
            }
        }
        self.check().await;
        let runs = self.world.store.runs(RunFilter { limit: 200, ..Default::default() }).await.unwrap();
        for run in runs {
            assert!(run.status.is_final(), "run {} never ends: {:?}", run.id, self.world.jobs(run.id).await);
        }
    }
}

/// What an operation gave, if it was let in. Only refusals that a caller could have met are let pass.
fn settled<T>(result: Result<T, StoreError>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(
            StoreError::StaleEpoch { .. }
            | StoreError::StaleWorker { .. }
            | StoreError::Refused(_)
            | StoreError::Conflict(_)
            | StoreError::Illegal(_),
        ) => None,
        Err(error) => panic!("{error}"),
    }
}

fn rises(epochs: &mut HashMap<String, Epoch>, what: String, epoch: Epoch) {
    let before = epochs.insert(what.clone(), epoch);
    assert!(before.is_none_or(|before| before < epoch), "the epoch of {what} fell from {before:?} to {epoch}");
}
