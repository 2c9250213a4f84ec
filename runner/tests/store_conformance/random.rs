//! Any order of any operations keeps the invariants. Seeded, so that what fails can be run again.

use std::{collections::HashMap, time::Duration};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use segue_runner::store::{AttemptKind, RollbackTarget, RolloutFilter, RunFilter, StoreError};
use segue_schemas::{
    deploy::RolloutCommand,
    id::{Epoch, JobId},
    status::{Conclusion, JobStatus, RolloutStatus},
    worker_api::{ClaimRequest, JobClaim, JobHandBack, RolloutClaim},
};

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
    log: Vec<String>,
}

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
        log: Vec::new(),
    };
    for _ in 0..400 {
        chaos.step().await;
        chaos.check().await;
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
        deploy.needs = vec!["test".into()];
        self.world.run(vec![job("test", &[]), job("lint", &[]), deploy, after]).await;
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
                settled(store.rerun(run.id, AttemptKind::Whole, "p".into()).await);
            }
            2 => {
                settled(store.rerun(run.id, AttemptKind::Failed, "p".into()).await);
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
        for run in store.runs(RunFilter { limit: 200, ..Default::default() }).await.unwrap() {
            let detail = store.run_detail(run.id, None).await.unwrap();
            let all_ended = detail.jobs.iter().all(|(job, _)| job.status.is_final());
            assert_eq!(run.status.is_final(), all_ended, "run {} {:?}: {:?}", run.id, run.status, self.log);
            assert_eq!(run.ended_at.is_some(), all_ended, "run {}", run.id);
            for (job, _) in &detail.jobs {
                assert_eq!(job.status.is_held(), job.lease_until.is_some(), "{} {:?}", job.plan.key, job.status);
                let ended = |id: JobId| detail.jobs.iter().any(|(j, _)| j.id == id && j.status.is_final());
                if job.status != JobStatus::Pending {
                    let needs = detail.jobs.iter().filter(|(j, _)| job.plan.needs.contains(&j.plan.key));
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
    }

    /// With workers that end what they get, everything ends.
    async fn end(mut self) {
        for _ in 0..2000 {
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
            self.check().await;
        }
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
