//! Runs whose jobs end as chance has it, advanced as the store does it: every change of status is checked against the table.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use proptest::prelude::*;
use segue_pipelines::progress::{
    Action, CancelAction, JobView, RunView, advance, begin_again, called_jobs, cancel, run_status,
};
use segue_schemas::{
    plan::{CallPlan, JobPlan, MatrixPlan, RetryPlan, Setting, StrategyPlan},
    status::{FailureClass, JobStatus, RunStatus},
};

#[derive(Debug, Clone)]
enum Happening {
    /// The n-th job that can do this step does it.
    Claim(usize),
    Start(usize),
    Wait(usize),
    Lose(usize),
    /// It fails, and begins again where its `retry` lets it.
    Fail(usize),
    GoOn(usize),
    End(usize, JobStatus),
    Cancel,
}

fn happening() -> impl Strategy<Value = Happening> {
    let end = prop_oneof![
        4 => Just(JobStatus::Succeeded),
        2 => Just(JobStatus::Failed),
        1 => Just(JobStatus::Cancelled),
    ];
    prop_oneof![
        4 => any::<usize>().prop_map(Happening::Claim),
        3 => any::<usize>().prop_map(Happening::Start),
        1 => any::<usize>().prop_map(Happening::Wait),
        1 => any::<usize>().prop_map(Happening::Lose),
        2 => any::<usize>().prop_map(Happening::Fail),
        1 => any::<usize>().prop_map(Happening::GoOn),
        4 => (any::<usize>(), end).prop_map(|(n, end)| Happening::End(n, end)),
        1 => Just(Happening::Cancel),
    ]
}

/// A pipeline of so many jobs, each but the first needing the one before; the last one of four calls one of two.
fn call_of(count: usize) -> Option<Box<CallPlan>> {
    let job = |at: usize| JobPlan {
        key: format!("c{at}"),
        needs: at.checked_sub(1).map(|before| format!("c{before}")).into_iter().collect(),
        condition: (at == 1).then(|| "always()".into()),
        call: (at == 3).then(|| call_of(2)).flatten(),
        ..JobPlan::default()
    };
    (count > 0).then(|| Box::new(CallPlan { jobs: (0..count).map(job).collect(), ..CallPlan::default() }))
}

/// Up to eight jobs, each needing some of those before it.
fn some_jobs() -> impl Strategy<Value = Vec<JobView>> {
    let condition = prop_oneof![
        5 => Just(None),
        1 => Just(Some("always()")),
        1 => Just(Some("failure()")),
        1 => Just(Some("cancelled()")),
        1 => Just(Some("!cancelled()")),
        1 => Just(Some("false")),
        1 => Just(Some("needs.j0.result == 'success'")),
        1 => Just(Some("success(")),
    ];
    let matrix = prop_oneof![4 => Just(None), 2 => (0_usize..4).prop_map(Some)];
    let flags = (proptest::bool::weighted(0.3), proptest::bool::weighted(0.2), any::<bool>());
    let called = prop_oneof![4 => Just(0), 2 => 1_usize..=4];
    proptest::collection::vec((any::<u8>(), condition, flags, matrix, called), 1..8).prop_map(|jobs| {
        type One<'a> = (usize, (u8, Option<&'a str>, (bool, bool, bool), Option<usize>, usize));
        let job =
            |(at, (needs, condition, (has_environment, may_fail, fail_fast), combinations, called)): One| JobView {
                key: format!("j{at}"),
                needs: (0..at).filter(|before| needs >> before & 1 == 1).map(|before| format!("j{before}")).collect(),
                condition: condition.map(Into::into),
                has_environment,
                may_fail,
                strategy: combinations.map(|count| matrix_of(count, fail_fast)),
                call: call_of(called),
                ..JobView::planned(&JobPlan::default())
            };
        jobs.into_iter().enumerate().map(job).collect()
    })
}

/// A matrix of so many combinations; none at all is possible.
fn matrix_of(count: usize, fail_fast: bool) -> StrategyPlan {
    let values = serde_json::json!((0..count).collect::<Vec<_>>());
    let vectors = IndexMap::from([("n".to_owned(), values)]);
    let matrix = MatrixPlan::Vectors { vectors, include: None, exclude: None };
    StrategyPlan { matrix, fail_fast: Setting::Fixed(fail_fast), max_parallel: None }
}

const RETRIES: u32 = 2;

fn retried() -> JobPlan {
    let retry = RetryPlan { max: RETRIES, on: vec![FailureClass::Script], backoff_seconds: 1 };
    JobPlan { retry: Some(retry), ..JobPlan::default() }
}

struct Store {
    run: RunView,
    signalled: Vec<String>,
    /// How often each job was begun again because it failed.
    retries: BTreeMap<String, u32>,
}

impl Store {
    fn new(jobs: Vec<JobView>) -> Self {
        let run = RunView { status: RunStatus::Queued, cancelled: false, jobs, contexts: BTreeMap::new() };
        let mut store = Self { run, signalled: Vec::new(), retries: BTreeMap::new() };
        store.advance();
        store
    }

    fn set(&mut self, key: &str, to: JobStatus) {
        let job = self.run.jobs.iter_mut().find(|j| j.key == key).unwrap();
        job.status = job.status.transition(to).unwrap();
        job.has_started |= matches!(to, JobStatus::Leased);
        job.begins_again = false;
    }

    /// A worker says that a job failed.
    fn fail(&mut self, key: &str) {
        let again = self.retries.entry(key.to_owned()).or_default();
        let stopped = self.run.cancelled || self.run.jobs.iter().any(|j| j.key == key && j.stopped);
        match begin_again(&retried(), FailureClass::Script, *again, stopped) {
            Some(_) => {
                *again += 1;
                assert!(*again <= RETRIES, "{key} begins again for the {again}th time");
                self.queue_again(key);
            }
            None => self.set(key, JobStatus::Failed),
        }
    }

    fn queue_again(&mut self, key: &str) {
        self.set(key, JobStatus::Queued);
        self.run.jobs.iter_mut().find(|j| j.key == key).unwrap().begins_again = true;
    }

    fn advance(&mut self) {
        let actions = advance(&self.run);
        for (at, action) in actions.iter().enumerate() {
            match action {
                Action::Queue { job } => {
                    let found = self.run.jobs.iter().find(|j| j.key == *job).unwrap();
                    assert!(found.strategy.is_none(), "{job} is queued before its matrix is evaluated");
                    assert!(found.call.is_none(), "{job} is queued, and has nothing to do but to call");
                    let ended =
                        |key: &String| self.run.jobs.iter().all(|j| j.file_key() != *key || j.status.is_final());
                    assert!(found.needs.iter().all(ended), "{job} is queued before its needs have ended");
                    self.set(job, JobStatus::Queued);
                }
                Action::Skip { job, cause, reason } => {
                    assert!(!reason.is_empty());
                    self.set(job, JobStatus::Skipped);
                    self.run.jobs.iter_mut().find(|j| j.key == *job).unwrap().skip_cause = Some(*cause);
                }
                Action::Cancel { job, .. } => {
                    assert!(self.run.cancelled || self.has_failed_beside(job));
                    self.set(job, JobStatus::Cancelled);
                }
                Action::Fail { job, .. } => self.set(job, JobStatus::Failed),
                Action::Stop { job, .. } => {
                    assert!(self.has_failed_beside(job));
                    self.signalled.push(job.clone());
                    self.run.jobs.iter_mut().find(|j| j.key == *job).unwrap().stopped = true;
                }
                Action::Expand { job, into } => {
                    let at = self.run.jobs.iter().position(|j| j.key == *job).unwrap();
                    let whole = self.run.jobs[at].clone();
                    assert!(!into.is_empty() && whole.status == JobStatus::Pending);
                    let parts = into.iter().map(|part| JobView {
                        key: part.key.clone(),
                        combination: Some(part.combination.clone()),
                        matrix: part.matrix.clone(),
                        strategy: None,
                        ..whole.clone()
                    });
                    let parts: Vec<JobView> = parts.collect();
                    self.run.jobs.splice(at..=at, parts);
                }
                Action::Call { job, inputs } => {
                    let at = self.run.jobs.iter().position(|j| j.key == *job).unwrap();
                    let caller = &self.run.jobs[at];
                    assert!(caller.strategy.is_none() && caller.status == JobStatus::Pending);
                    let called = called_jobs(caller.call.as_ref().unwrap(), job, job, inputs);
                    self.set(job, JobStatus::Waiting);
                    self.run.jobs.splice(at + 1..=at, called.iter().map(JobView::planned));
                }
                Action::Return { job, status, cause, .. } => {
                    let of_call = |j: &&JobView| j.called.as_ref().is_some_and(|called| called.by == *job);
                    assert!(self.run.jobs.iter().filter(of_call).all(|j| j.status.is_final()), "{job} leaves its jobs");
                    self.set(job, *status);
                    self.run.jobs.iter_mut().find(|j| j.key == *job).unwrap().skip_cause = *cause;
                }
                Action::Run { status } => {
                    assert_eq!(at + 1, actions.len(), "the run's status comes last");
                    self.run.status = self.run.status.transition(*status).unwrap();
                }
            }
        }
        assert_eq!(run_status(&self.run.jobs), self.run.status);
        assert_eq!(advance(&self.run), [], "a second call changes nothing");
    }

    /// Whether another combination of its matrix has failed, or of the matrix of one that called it.
    fn has_failed_beside(&self, key: &str) -> bool {
        let job = self.run.jobs.iter().find(|j| j.key == key).unwrap();
        let of_matrix = job.combination.as_ref().is_some_and(|c| c.fail_fast)
            && self.run.jobs.iter().any(|j| j.file_key() == job.file_key() && j.is_failure());
        of_matrix || job.called.as_ref().is_some_and(|called| self.has_failed_beside(&called.by))
    }

    fn nth(&self, n: usize, may: impl Fn(&JobView) -> bool) -> Option<String> {
        let able: Vec<&JobView> = self.run.jobs.iter().filter(|j| may(j) && j.call.is_none()).collect();
        (!able.is_empty()).then(|| able[n % able.len()].key.clone())
    }

    fn happen(&mut self, what: &Happening) {
        let step = |store: &mut Self, n: usize, from: &[JobStatus], to: JobStatus| {
            if let Some(key) = store.nth(n, |j| from.contains(&j.status)) {
                store.set(&key, to);
            }
        };
        match what {
            Happening::Claim(n) => step(self, *n, &[JobStatus::Queued], JobStatus::Leased),
            Happening::Start(n) => step(self, *n, &[JobStatus::Leased], JobStatus::Running),
            Happening::Wait(n) => step(self, *n, &[JobStatus::Running], JobStatus::Waiting),
            Happening::Lose(n) => {
                if let Some(key) = self.nth(*n, |j| matches!(j.status, JobStatus::Leased | JobStatus::Running)) {
                    self.queue_again(&key);
                }
            }
            Happening::Fail(n) => {
                if let Some(key) = self.nth(*n, |j| matches!(j.status, JobStatus::Leased | JobStatus::Running)) {
                    self.fail(&key);
                }
            }
            Happening::GoOn(n) => step(self, *n, &[JobStatus::Waiting], JobStatus::Queued),
            Happening::End(n, end) => {
                step(self, *n, &[JobStatus::Leased, JobStatus::Running, JobStatus::Waiting], *end);
            }
            Happening::Cancel => {
                self.run.cancelled = true;
                self.signalled.extend(cancel(&self.run.jobs).into_iter().map(|action| match action {
                    CancelAction::Signal { job } | CancelAction::AbortRollout { job } => job,
                }));
            }
        }
        self.advance();
    }
}

proptest! {
    #[test]
    fn every_run_ends_and_what_has_ended_stays(
        jobs in some_jobs(),
        happenings in proptest::collection::vec(happening(), 0..60),
    ) {
        let mut store = Store::new(jobs);
        for what in happenings {
            let before = store.run.jobs.clone();
            store.happen(&what);
            for before in before.iter().filter(|before| before.status.is_final()) {
                let after = store.run.jobs.iter().find(|after| after.key == before.key);
                prop_assert_eq!(after.map(|after| after.status), Some(before.status), "{} left its end", before.key);
            }
        }
        // whatever is left is claimed and ends
        for round in 0..200 {
            store.happen(&Happening::GoOn(0));
            store.happen(&Happening::Claim(0));
            store.happen(&if round % 3 == 0 { Happening::Fail(0) } else { Happening::End(0, JobStatus::Succeeded) });
        }
        prop_assert!(store.run.status.is_final(), "{:?}", store.run);
        prop_assert!(store.run.jobs.iter().all(|j| j.status.is_final()));
    }

    #[test]
    fn a_cancelled_run_starts_nothing_but_what_asks_for_it(
        jobs in some_jobs(),
        happenings in proptest::collection::vec(happening(), 0..30),
    ) {
        let mut store = Store::new(jobs);
        happenings.iter().for_each(|what| store.happen(what));
        let had_started: Vec<String> =
            store.run.jobs.iter().filter(|j| j.has_started).map(|j| j.key.clone()).collect();
        store.happen(&Happening::Cancel);
        for job in &store.run.jobs {
            let had_started = had_started.contains(&job.key) && !job.begins_again;
            let is_held = matches!(job.status, JobStatus::Leased | JobStatus::Running | JobStatus::Waiting);
            let is_held = is_held && job.call.is_none();
            prop_assert!(!is_held || store.signalled.contains(&job.key), "{} is not told", job.key);
            if job.status == JobStatus::Queued && !had_started {
                let condition = job.condition.as_deref().unwrap_or_default();
                prop_assert!(["always()", "cancelled()", "failure()"].contains(&condition), "{} runs for {condition:?}", job.key);
            }
        }
    }
}
