//! The order of jobs: each after those that it needs.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
    ops::Range,
};

use super::Job;
use crate::diagnostic::{Code, Findings};

/// A job and where its `needs` stand.
pub(super) struct Placed {
    pub job: Job,
    pub needs_span: Range<usize>,
}

/// The jobs, each after those that it needs, ties in the file's order. `None` where some wait for each other; every such
/// cycle is among the findings with its path.
pub(super) fn in_order(jobs: Vec<Placed>, findings: &mut Findings<'_>) -> Option<Vec<Job>> {
    let index: HashMap<&str, usize> = jobs.iter().enumerate().map(|(i, placed)| (placed.job.key.as_str(), i)).collect();
    let needs: Vec<Vec<usize>> = jobs
        .iter()
        .map(|placed| placed.job.needs.iter().filter_map(|need| index.get(need.as_str()).copied()).collect())
        .collect();
    let order = sorted(&needs);
    if order.len() < jobs.len() {
        let done: HashSet<usize> = order.into_iter().collect();
        for cycle in cycles(&needs, done) {
            let first = &jobs[cycle[0]];
            let keys: Vec<&str> = cycle.iter().chain(cycle.first()).map(|i| jobs[*i].job.key.as_str()).collect();
            let message = match keys.as_slice() {
                [own, _] => format!("the job `{own}` needs itself"),
                _ => format!("these jobs wait for each other, so none could start: {}", keys.join(" needs ")),
            };
            findings.error(Code::NeedsCycle, &first.needs_span, message, Some("remove one of these needs".into()));
        }
        return None;
    }
    let mut jobs: Vec<Option<Job>> = jobs.into_iter().map(|placed| Some(placed.job)).collect();
    Some(order.into_iter().filter_map(|i| jobs[i].take()).collect())
}

/// Kahn's algorithm; what is in or behind a cycle is left out.
fn sorted(needs: &[Vec<usize>]) -> Vec<usize> {
    let mut waiting: Vec<usize> = needs.iter().map(Vec::len).collect();
    let mut dependants: Vec<Vec<usize>> = vec![Vec::new(); needs.len()];
    for (job, needs) in needs.iter().enumerate() {
        for need in needs {
            dependants[*need].push(job);
        }
    }
    let mut ready: BinaryHeap<Reverse<usize>> =
        (0..needs.len()).filter(|job| waiting[*job] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(needs.len());
    while let Some(Reverse(job)) = ready.pop() {
        order.push(job);
        for dependant in &dependants[job] {
            waiting[*dependant] -= 1;
            if waiting[*dependant] == 0 {
                ready.push(Reverse(*dependant));
            }
        }
    }
    order
}

/// One cycle for each group of jobs that wait for each other, each beginning with the first of its jobs in the file.
fn cycles(needs: &[Vec<usize>], mut done: HashSet<usize>) -> Vec<Vec<usize>> {
    let mut cycles = Vec::new();
    for start in 0..needs.len() {
        let mut path: Vec<usize> = Vec::new();
        let mut position: HashMap<usize, usize> = HashMap::new();
        let mut job = start;
        // what is not done needs something that is not done, so following it ends in a cycle, or in what was told already
        while !done.contains(&job) {
            if let Some(begin) = position.get(&job) {
                let mut cycle = path.split_off(*begin);
                let first = cycle.iter().enumerate().min_by_key(|(_, job)| **job).map_or(0, |(i, _)| i);
                cycle.rotate_left(first);
                cycles.push(cycle.clone());
                done.extend(cycle);
                break;
            }
            position.insert(job, path.len());
            path.push(job);
            match needs[job].iter().find(|need| !done.contains(need)) {
                Some(need) => job = *need,
                None => break,
            }
        }
        done.extend(path);
    }
    cycles
}
