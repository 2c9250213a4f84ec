//! In which order a claim looks at what is queued: priority, then the repository that has least at work, then the one that has waited
//! longest, in it age. Each look is a seek, and how many there are is bounded, so a claim costs the same whether ten jobs are queued
//! or a hundred thousand.

use std::{borrow::Cow, cmp::Reverse, collections::VecDeque, sync::PoisonError};

use segue_schemas::{gpu, id::JobId, time::Timestamp, worker_api::ClaimRequest};

use crate::store::{
    Result, Store, Tx,
    tables::{
        gpus,
        jobs::{self, Job, Shelf},
    },
};

/// Queued jobs that are looked at per repository, priority and set of labels before a claim goes on to others.
const LOOKED_AT: u32 = 16;

/// Repositories that are compared per priority and set of labels. Where more have something queued, claims take them in turn, so
/// many at a time.
const COMPARED: usize = 32;

/// The queued jobs that a worker's labels fit, the best first.
pub(super) struct Order {
    /// What fits, by priority and set of labels; the highest last.
    shelves: Vec<Shelf>,
    /// What is queued at the priority that is looked at, by repository; the best last.
    queues: Vec<Queue>,
    /// The queue of which only the first was looked at, and that one: mostly it is to be had, and no other is looked at.
    behind_first: Option<(JobId, Queue)>,
    /// What is left of it.
    left: VecDeque<JobId>,
}

/// What a repository has queued of one priority for one set of labels.
struct Queue {
    labels: String,
    priority: i64,
    repository: String,
    /// Since when the oldest here waits.
    since: Timestamp,
}

impl Order {
    /// Looks for which labels something is queued.
    pub(super) async fn new(tx: &mut Tx, request: &ClaimRequest) -> Result<Self> {
        let mut shelves = jobs::shelves(&mut tx.conn).await?;
        let mut offered = Cow::Borrowed(&request.labels);
        if shelves.iter().any(|shelf| shelf.labels.split(',').any(gpu::is_shape)) {
            // those that no job has: what they don't do for is not looked at
            let free = gpus::free(&mut tx.conn, &request.worker).await?;
            let others = request.labels.iter().filter(|label| !gpu::is_shape(label)).cloned();
            offered = Cow::Owned(others.chain(gpu::offered_labels(&free)).collect());
        }
        let fits = |labels: &str| labels.split(',').filter(|l| !l.is_empty()).all(|l| gpu::offers(&offered, l));
        shelves.retain(|shelf| fits(&shelf.labels));
        shelves.sort_unstable_by(|a, b| (a.priority, &a.labels).cmp(&(b.priority, &b.labels)));
        Ok(Self { shelves, queues: Vec::new(), behind_first: None, left: VecDeque::new() })
    }

    /// The next best. Those before it were not to be had.
    pub(super) async fn next(&mut self, store: &Store, tx: &mut Tx) -> Result<Option<Job>> {
        loop {
            if let Some((first, queue)) = self.behind_first.take() {
                let Queue { labels, priority, repository, .. } = queue;
                let all = jobs::queued(&mut tx.conn, &labels, priority, &repository, LOOKED_AT, tx.now).await?;
                self.left = all.into_iter().filter(|id| *id != first).collect();
            }
            while let Some(id) = self.left.pop_front() {
                if let Some(job) = jobs::load_queued(&mut tx.conn, id).await? {
                    return Ok(Some(job));
                }
            }
            if let Some(queue) = self.queues.pop() {
                let Queue { labels, priority, repository, .. } = &queue;
                let first = jobs::first_queued(&mut tx.conn, labels, *priority, repository, tx.now).await?;
                if let Some(job) = first {
                    self.behind_first = Some((job.record.id, queue));
                    return Ok(Some(job));
                }
                continue;
            }
            let Some(highest) = self.shelves.pop() else { return Ok(None) };
            let priority = highest.priority;
            let is_alone = self.shelves.last().is_none_or(|shelf| shelf.priority != priority);
            if is_alone && let Some(repository) = highest.only {
                self.queues.push(Queue { labels: highest.labels, priority, repository, since: tx.now });
                continue;
            }
            let others = std::iter::from_fn(|| self.shelves.pop_if(|shelf| shelf.priority == priority));
            let shelves: Vec<Shelf> = std::iter::once(highest).chain(others).collect();
            for Shelf { labels, .. } in shelves {
                for (repository, since) in repositories(store, tx, &labels, priority).await? {
                    self.queues.push(Queue { labels: labels.clone(), priority, repository, since });
                }
            }
            // one by itself has nothing to share
            if self.queues.len() > 1 {
                let held = jobs::held_by_repository(&mut tx.conn).await?;
                let share = |queue: &Queue| held.get(&queue.repository).copied().unwrap_or(0);
                self.queues.sort_by_key(|queue| Reverse((share(queue), queue.since)));
            }
        }
    }
}

/// The repositories to compare: all, or where those are too many the next ones in turn.
async fn repositories(store: &Store, tx: &mut Tx, labels: &str, priority: i64) -> Result<Vec<(String, Timestamp)>> {
    let turn = store.inner.turn.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut found = jobs::queued_repositories(&mut tx.conn, labels, priority, &turn, COMPARED).await?;
    if found.len() < COMPARED && !turn.is_empty() {
        let more = jobs::queued_repositories(&mut tx.conn, labels, priority, "", COMPARED - found.len()).await?;
        found.extend(more.into_iter().filter(|(repository, _)| *repository <= turn));
    }
    if found.len() == COMPARED {
        let last = found.last().map(|(repository, _)| repository.clone()).unwrap_or_default();
        *store.inner.turn.lock().unwrap_or_else(PoisonError::into_inner) = last;
    }
    Ok(found)
}
