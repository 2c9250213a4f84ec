//! The promises, one function each.

use std::collections::{BTreeMap, BTreeSet};

use segue_schemas::status::JobStatus;

use super::{Broken, Effect, History, Mark, Write, Written};

/// Every promise that the history breaks; none: it is as it should be.
#[must_use]
pub fn check(history: &History) -> Vec<Broken> {
    let mut broken = Vec::new();
    let mut say = |invariant, found: Vec<String>| broken.extend(found.into_iter().map(|how| Broken { invariant, how }));
    say('A', lost_deliveries(history));
    say('B', doubled_work(history));
    say('C', stale_effects(history));
    say('C', stale_log_lines(history));
    say('C', leases_that_were_none(history));
    say('C', writes_without_a_lease(history));
    say('D', two_at_work(history));
    say('E', what_did_not_end(history));
    say('F', ends_that_did_not_happen(history));
    say('G', too_much_memory(history));
    broken
}

/// What was answered 202 is known, and came to something.
fn lost_deliveries(history: &History) -> Vec<String> {
    let lost = history.sent.iter().filter(|sent| sent.accepted).filter_map(|sent| {
        let of_same: Vec<&String> =
            history.sent.iter().filter(|other| other.identity == sent.identity).map(|other| &other.guid).collect();
        let runs = |guid: &String| history.runs_of.get(guid).cloned().flatten().unwrap_or_default();
        match history.runs_of.get(&sent.guid) {
            None | Some(None) => Some(format!("delivery {} was accepted and is not known", sent.guid)),
            // a second one of the same work makes no runs
            Some(Some(_)) if of_same.iter().all(|guid| runs(guid).is_empty()) => {
                Some(format!("delivery {} was accepted and no run came of it", sent.guid))
            }
            Some(Some(_)) => None,
        }
    });
    lost.collect()
}

/// Work that is the same ran once.
fn doubled_work(history: &History) -> Vec<String> {
    let mut runs: BTreeMap<&str, BTreeSet<i64>> = BTreeMap::new();
    for sent in &history.sent {
        let made = history.runs_of.get(&sent.guid).cloned().flatten().unwrap_or_default();
        runs.entry(&sent.identity).or_default().extend(made);
    }
    let doubled = runs.iter().filter(|(_, runs)| runs.len() > 1);
    doubled.map(|(identity, runs)| format!("{identity} ran more than once: runs {runs:?}")).collect()
}

/// Nothing is done under an epoch once a later one has done something, and no step is begun twice under one.
fn stale_effects(history: &History) -> Vec<String> {
    let mut found = Vec::new();
    let mut highest: BTreeMap<(i64, &str), i64> = BTreeMap::new();
    let mut seen: BTreeSet<(i64, &str, i64, u32, bool)> = BTreeSet::new();
    for Effect { run, job, epoch, step, what } in &history.effects {
        let at = highest.entry((*run, job)).or_insert(*epoch);
        if epoch < at {
            found
                .push(format!("run {run} job {job}: step {step} acted under epoch {epoch} after epoch {at} had begun"));
        }
        *at = (*at).max(*epoch);
        if !seen.insert((*run, job, *epoch, *step, *what == Mark::Begins)) {
            found.push(format!("run {run} job {job}: step {step} acted twice under epoch {epoch} ({what:?})"));
        }
    }
    found
}

/// Each lease has an epoch one higher than the one before it, nothing else changes an epoch, what has ended stays so; and what a step
/// did it did under a lease that was given.
fn leases_that_were_none(history: &History) -> Vec<String> {
    let mut found = Vec::new();
    let mut newest: BTreeMap<(i64, &str), (i64, JobStatus)> = BTreeMap::new();
    let mut given: BTreeSet<(i64, &str, i64)> = BTreeSet::new();
    for Written { run, job, epoch, status, .. } in history.written.iter().filter(|w| w.what == Write::Job) {
        let (before, stood) = newest.insert((*run, job), (*epoch, *status)).unwrap_or((0, JobStatus::Pending));
        let is_leased = *status == JobStatus::Leased;
        if *epoch != before + i64::from(is_leased) {
            found.push(format!("run {run} job {job}: it became {status} under epoch {epoch} after epoch {before}"));
        }
        if stood.is_final() {
            found.push(format!("run {run} job {job}: it had {stood}, and became {status}"));
        }
        if is_leased {
            given.insert((*run, job, *epoch));
        }
    }
    for Effect { run, job, epoch, step, .. } in &history.effects {
        if !given.contains(&(*run, job.as_str(), *epoch)) {
            found.push(format!("run {run} job {job}: step {step} acted under epoch {epoch}, which was never given"));
        }
    }
    found
}

/// A step is written while its job is held, or waits for the rollout of that step.
fn writes_without_a_lease(history: &History) -> Vec<String> {
    let is_open = |status: JobStatus| status.is_held() || status == JobStatus::Waiting;
    let late = history.written.iter().filter(|w| w.what == Write::Step && !is_open(w.status));
    late.map(|w| format!("run {} job {}: a step was written while the job was {}", w.run, w.job, w.status)).collect()
}

/// The log takes nothing from an epoch once a later one has written.
fn stale_log_lines(history: &History) -> Vec<String> {
    let jobs = history.runs.iter().flat_map(|run| run.jobs.iter().map(move |(key, job)| (run.run, key, job)));
    jobs.filter(|(_, _, job)| !job.log_epochs.is_sorted())
        .map(|(run, key, job)| format!("run {run} job {key}: its log has epochs {:?} in this order", job.log_epochs))
        .collect()
}

/// Of jobs that exclude each other one is at work at a time.
fn two_at_work(history: &History) -> Vec<String> {
    let mut found = Vec::new();
    let mut at_work: Option<(i64, &str)> = None;
    for Effect { run, job, step, what, .. } in history.effects.iter().filter(|e| history.exclusive.contains(&e.job)) {
        let own = (*run, job.as_str());
        if *what == Mark::Begins {
            if let Some((other, key)) = at_work.filter(|other| *other != own) {
                // one that was lost for good, or cancelled, has let go, whatever it had begun
                let over = history.runs.iter().find(|r| r.run == other).and_then(|r| r.jobs.get(key));
                if over.is_none_or(|job| job.status == JobStatus::Succeeded) {
                    found.push(format!("run {run} job {job} began while run {other} job {key} was at work"));
                }
            }
            at_work = Some(own);
        } else if at_work == Some(own) && *step == history.steps.get(job).copied().unwrap_or(1) {
            // the last step, under whichever epoch: a job that was handed back goes on where it stood
            at_work = None;
        }
    }
    found
}

/// Every run ends, and every job of it.
fn what_did_not_end(history: &History) -> Vec<String> {
    let mut found = Vec::new();
    for run in &history.runs {
        if !run.status.is_final() {
            found.push(format!("run {} is still {}", run.run, run.status));
        }
        for (key, job) in run.jobs.iter().filter(|(_, job)| !job.status.is_final()) {
            found.push(format!("run {} job {key} is still {}", run.run, job.status));
        }
    }
    let made = history.runs_of.values().flatten().flatten();
    found.extend(
        made.filter(|made| !history.runs.iter().any(|run| run.run == **made)).map(|run| format!("run {run} is gone")),
    );
    found
}

/// What is said to have succeeded was done: each step to its end, once, under the last epoch; with its output in the log.
fn ends_that_did_not_happen(history: &History) -> Vec<String> {
    let mut found = Vec::new();
    for run in &history.runs {
        for (key, job) in run.jobs.iter().filter(|(_, job)| job.status == JobStatus::Succeeded) {
            let own = || history.effects.iter().filter(|effect| effect.run == run.run && effect.job == *key);
            for step in 1..=history.steps.get(key).copied().unwrap_or(0) {
                let ended = own().filter(|effect| effect.step == step && effect.what == Mark::Ends).count();
                if ended == 0 {
                    found.push(format!("run {} job {key} succeeded, and step {step} was never done", run.run));
                }
            }
            if !job.log_is_whole {
                found.push(format!("run {} job {key} succeeded, and its log is not whole", run.run));
            }
        }
    }
    found
}

fn too_much_memory(history: &History) -> Vec<String> {
    let above = history.memory.iter().filter(|memory| memory.peak_mib > memory.bound_mib);
    above.map(|m| format!("{} had {} MiB, and {} are its bound", m.who, m.peak_mib, m.bound_mib)).collect()
}

#[cfg(test)]
mod tests {
    use segue_schemas::status::RunStatus;

    use super::{
        super::{EndedJob, EndedRun, Memory, Sent},
        *,
    };

    fn effect(run: i64, job: &str, epoch: i64, step: u32, what: Mark) -> Effect {
        Effect { run, job: job.into(), epoch, step, what }
    }

    fn done(run: i64, job: &str, epoch: i64) -> Vec<Effect> {
        (1..=2).flat_map(|step| [Mark::Begins, Mark::Ends].map(|what| effect(run, job, epoch, step, what))).collect()
    }

    fn succeeded(log_epochs: &[i64]) -> EndedJob {
        let log_epochs = log_epochs.to_vec();
        EndedJob { status: JobStatus::Succeeded, log_epochs, log_is_whole: true, reason: None }
    }

    fn written(run: i64, epoch: i64, status: JobStatus) -> Written {
        Written { run, job: "deploy".into(), epoch, status, what: Write::Job }
    }

    /// A job that was lost so often, and then done.
    fn held(run: i64, losses: i64) -> Vec<Written> {
        let mut all = vec![written(run, 0, JobStatus::Queued)];
        for epoch in 1..=losses {
            all.extend([written(run, epoch, JobStatus::Leased), written(run, epoch, JobStatus::Queued)]);
        }
        let last = losses + 1;
        let step = Written { what: Write::Step, ..written(run, last, JobStatus::Leased) };
        all.extend([written(run, last, JobStatus::Leased), step, written(run, last, JobStatus::Succeeded)]);
        all
    }

    /// Two pushes, one of them sent twice, one job of which was lost once.
    fn good() -> History {
        let sent = |guid: &str, identity: &str| Sent { guid: guid.into(), identity: identity.into(), accepted: true };
        let run = |run, log: &[i64]| EndedRun {
            run,
            status: RunStatus::Succeeded,
            jobs: [("deploy".to_owned(), succeeded(log))].into(),
        };
        let mut effects = done(1, "deploy", 1);
        effects.push(effect(2, "deploy", 1, 1, Mark::Begins));
        effects.extend(done(2, "deploy", 2));
        History {
            sent: vec![sent("a", "one"), sent("b", "two"), sent("c", "one")],
            runs_of: [("a", vec![1]), ("b", vec![2]), ("c", vec![])].map(|(g, r)| (g.to_owned(), Some(r))).into(),
            effects,
            written: held(1, 0).into_iter().chain(held(2, 1)).collect(),
            runs: vec![run(1, &[1, 1]), run(2, &[1, 2, 2])],
            steps: [("deploy".to_owned(), 2)].into(),
            exclusive: vec!["deploy".into()],
            memory: vec![Memory { who: "server 0".into(), peak_mib: 40, bound_mib: 100 }],
        }
    }

    fn broken_by(change: impl FnOnce(&mut History)) -> String {
        let mut history = good();
        change(&mut history);
        check(&history).iter().map(|broken| format!("{broken}\n")).collect()
    }

    #[test]
    fn a_history_as_it_should_be_breaks_nothing() {
        assert_eq!(check(&good()), []);
    }

    #[test]
    fn a_bad_history_is_told_from_a_good_one() {
        type Change = fn(&mut History);
        let cases: &[(&str, Change)] = &[
            ("A: delivery b was accepted and is not known", |h| drop(h.runs_of.insert("b".into(), None))),
            ("A: delivery b was accepted and no run came of it", |h| {
                drop(h.runs_of.insert("b".into(), Some(Vec::new())));
            }),
            ("B: one ran more than once", |h| drop(h.runs_of.insert("c".into(), Some(vec![2])))),
            ("C: run 2 job deploy: step 2 acted under epoch 1 after epoch 2", |h| {
                h.effects.push(effect(2, "deploy", 1, 2, Mark::Ends));
            }),
            ("C: run 1 job deploy: step 1 acted twice under epoch 1", |h| {
                h.effects.push(effect(1, "deploy", 1, 1, Mark::Begins));
            }),
            ("C: run 2 job deploy: its log has epochs [2, 1]", |h| {
                h.runs[1].jobs.insert("deploy".into(), succeeded(&[2, 1]));
            }),
            ("C: run 2 job deploy: it became leased under epoch 1 after epoch 1", |h| {
                h.written.iter_mut().filter(|w| w.run == 2 && w.epoch == 2).for_each(|w| w.epoch = 1);
            }),
            ("C: run 1 job deploy: it became succeeded under epoch 2 after epoch 1", |h| h.written[3].epoch = 2),
            ("C: run 1 job deploy: it had succeeded, and became queued", |h| {
                h.written.push(written(1, 1, JobStatus::Queued));
            }),
            ("C: run 1 job deploy: step 1 acted under epoch 1, which was never given", |h| drop(h.written.drain(..4))),
            ("C: run 1 job deploy: a step was written while the job was succeeded", |h| {
                h.written.push(Written { what: Write::Step, ..written(1, 1, JobStatus::Succeeded) });
            }),
            ("D: run 2 job deploy began while run 1 job deploy was at work", |h| h.effects.swap(3, 4)),
            ("E: run 2 is still running", |h| h.runs[1].status = RunStatus::Running),
            ("E: run 2 is gone", |h| drop(h.runs.pop())),
            ("F: run 1 job deploy succeeded, and step 2 was never done", |h| drop(h.effects.drain(2..4))),
            ("F: run 1 job deploy succeeded, and its log is not whole", |h| {
                let job = EndedJob { log_is_whole: false, ..succeeded(&[1]) };
                h.runs[0].jobs.insert("deploy".into(), job);
            }),
            ("G: server 0 had 400 MiB", |h| h.memory[0].peak_mib = 400),
        ];
        for (expected, change) in cases {
            let told = broken_by(change);
            assert!(told.contains(expected), "expected `{expected}`, told:\n{told}");
        }
    }

    #[test]
    fn what_was_never_answered_may_have_been_taken_or_not() {
        let told = broken_by(|h| {
            h.sent[1].accepted = false;
            h.runs_of.insert("b".into(), None);
        });
        assert_eq!(told, "");
    }
}
