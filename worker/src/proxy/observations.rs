//! The newest observations of one route, bounded, with readers that wait for more.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use segue_schemas::{
    deploy::{Observation, Outcome},
    host_api::ObservationBatch,
    id::InstanceId,
    time::Timestamp,
};
use tokio::{sync::Notify, time::Instant};

/// Observations that are kept for one route. At 500 requests a second that is 16 s; a reader asks every few milliseconds.
pub const KEPT: usize = 8192;

/// How long a reader waits for more after the first has come: those that end together are read together.
const COALESCE: Duration = Duration::from_millis(1);

/// Sequence numbers of the n-th proxy process of a host begin at n times this.
const GENERATION: u64 = 1 << 40;

/// One attempt of one request at one instance, before it has a sequence number.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// When the answer was complete.
    pub at: Timestamp,
    /// Who answered.
    pub instance: InstanceId,
    /// With which probability.
    pub probability: f64,
    /// By which rule of the service's, if by one.
    pub rule: Option<u8>,
    /// The client, where each keeps its release.
    pub unit: Option<u64>,
    /// The HTTP status; 0 without an answer.
    pub status: u16,
    /// How it ended.
    pub outcome: Outcome,
    /// Time to the first byte of the answer, in microseconds.
    pub latency_us: u64,
    /// Time to its end, in microseconds.
    pub duration_us: u64,
    /// Which try, from 1.
    pub attempt: u8,
    /// Declared synthetic.
    pub synthetic: bool,
}

/// The newest observations of a route.
#[derive(Debug)]
pub struct ObservationLog {
    generation: u64,
    ring: Mutex<Ring>,
    arrived: Notify,
}

#[derive(Debug)]
struct Ring {
    /// The sequence number of the newest entry.
    newest: u64,
    /// When it came.
    newest_at: Option<Instant>,
    entries: VecDeque<Entry>,
}

/// What has a sequence number of its own.
#[derive(Debug)]
enum Entry {
    Seen(Observed),
    /// So many were made here and never came.
    Lost(u64),
}

impl ObservationLog {
    /// An empty log of the `generation`-th proxy process of this host.
    #[must_use]
    pub fn new(generation: u64) -> Self {
        let ring = Ring { newest: generation * GENERATION, newest_at: None, entries: VecDeque::new() };
        Self { generation, ring: Mutex::new(ring), arrived: Notify::new() }
    }

    /// Adds one; the oldest goes when there are [`KEPT`].
    pub fn push(&self, observed: Observed) {
        self.add(Entry::Seen(observed));
    }

    /// Takes down that so many observations were made here that nobody will see.
    pub fn push_lost(&self, count: u64) {
        self.add(Entry::Lost(count));
    }

    fn add(&self, entry: Entry) {
        {
            let mut ring = self.ring();
            if ring.entries.len() == KEPT {
                ring.entries.pop_front();
            }
            ring.entries.push_back(entry);
            ring.newest += 1;
            ring.newest_at = Some(Instant::now());
        }
        self.arrived.notify_waiters();
    }

    /// Returns when the next one has come.
    pub async fn arrives(&self) {
        self.arrived.notified().await;
    }

    /// The sequence number of the newest.
    pub fn newest(&self) -> u64 {
        self.ring().newest
    }

    /// When the newest came; `None`: none did.
    pub fn newest_at(&self) -> Option<Instant> {
        self.ring().newest_at
    }

    /// What came after `after`, oldest first, at most `limit`; waits up to `wait` for the first.
    pub async fn read(&self, after: u64, limit: usize, wait: Duration) -> ObservationBatch {
        let deadline = Instant::now() + wait;
        loop {
            let arrived = self.arrived.notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            let batch = self.take(after, limit);
            if !batch.observations.is_empty() || tokio::time::timeout_at(deadline, arrived).await.is_err() {
                return batch;
            }
            tokio::time::sleep(COALESCE).await;
        }
    }

    fn take(&self, after: u64, limit: usize) -> ObservationBatch {
        let ring = self.ring();
        let first = ring.newest - ring.entries.len() as u64 + 1;
        let base = self.generation * GENERATION;
        // A position from an earlier proxy process: what that one had beyond it is gone, and nobody knows how much.
        let from_earlier = after > 0 && after < base;
        let from = after.clamp(base, ring.newest);
        let mut lost = first.saturating_sub(from + 1) + u64::from(from_earlier);
        let skip = usize::try_from((from + 1).saturating_sub(first)).unwrap_or(usize::MAX);
        let start = first + skip as u64;
        let (mut observations, mut next) = (Vec::new(), from);
        for (entry, sequence) in ring.entries.iter().skip(skip).take(limit).zip(start..) {
            match entry {
                Entry::Seen(observed) => observations.push(observed.numbered(sequence)),
                Entry::Lost(count) => lost += count,
            }
            next = sequence;
        }
        ObservationBatch { observations, next, lost }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // Nothing that runs under the lock can panic half-way through a change.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observed {
    fn numbered(&self, sequence: u64) -> Observation {
        Observation {
            sequence,
            at: self.at,
            instance: self.instance.clone(),
            probability: self.probability,
            rule: self.rule,
            status: self.status,
            outcome: self.outcome,
            latency_us: self.latency_us,
            duration_us: self.duration_us,
            attempt: self.attempt,
            unit: self.unit,
            synthetic: self.synthetic,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn observed(status: u16) -> Observed {
        Observed {
            at: Timestamp(1),
            instance: "a".parse().unwrap(),
            probability: 1.0,
            rule: None,
            unit: None,
            status,
            outcome: Outcome::Ok,
            latency_us: 1,
            duration_us: 2,
            attempt: 1,
            synthetic: false,
        }
    }

    #[tokio::test]
    async fn a_reader_gets_each_once_in_order() {
        let log = ObservationLog::new(3);
        for status in 200..205 {
            log.push(observed(status));
        }
        let first = log.read(0, 2, Duration::ZERO).await;
        let second = log.read(first.next, 100, Duration::ZERO).await;
        let statuses: Vec<_> = first.observations.iter().chain(&second.observations).map(|o| o.status).collect();
        assert_eq!(statuses, [200, 201, 202, 203, 204]);
        assert_eq!((first.lost, second.lost), (0, 0));
        assert_eq!(second.next, log.newest());
        assert!(log.read(second.next, 100, Duration::ZERO).await.observations.is_empty());
    }

    #[tokio::test]
    async fn what_the_bound_pushed_out_is_counted_as_lost() {
        let log = ObservationLog::new(0);
        for _ in 0..KEPT + 7 {
            log.push(observed(200));
        }
        let batch = log.read(3, 10, Duration::ZERO).await;
        assert_eq!((batch.lost, batch.observations[0].sequence, batch.next), (4, 8, 17));
    }

    #[tokio::test]
    async fn what_never_came_is_counted_as_lost_once() {
        let log = ObservationLog::new(0);
        log.push(observed(200));
        log.push_lost(5);
        log.push(observed(201));
        let first = log.read(0, 1, Duration::ZERO).await;
        let second = log.read(first.next, 10, Duration::ZERO).await;
        assert_eq!((first.lost, second.lost, second.observations[0].status), (0, 5, 201));
        assert_eq!(log.read(second.next, 10, Duration::ZERO).await.lost, 0);
    }

    #[tokio::test]
    async fn a_position_from_an_earlier_process_reads_on_and_says_that_there_is_a_gap() {
        let earlier = ObservationLog::new(1);
        earlier.push(observed(200));
        let later = ObservationLog::new(2);
        later.push(observed(201));
        let batch = later.read(earlier.newest(), 10, Duration::ZERO).await;
        assert_eq!((batch.lost, batch.observations[0].status), (1, 201));
        assert_eq!(later.read(batch.next, 10, Duration::ZERO).await.lost, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_waits_for_the_first_and_no_longer_than_asked() {
        let log = Arc::new(ObservationLog::new(1));
        let start = Instant::now();
        assert!(log.read(0, 10, Duration::from_millis(50)).await.observations.is_empty());
        assert_eq!(start.elapsed(), Duration::from_millis(50));
        let reader = tokio::spawn({
            let log = log.clone();
            async move { log.read(0, 10, Duration::from_secs(60)).await }
        });
        tokio::time::sleep(Duration::from_millis(5)).await;
        log.push(observed(200));
        log.push(observed(201));
        assert_eq!(reader.await.unwrap().observations.len(), 2);
        assert!(start.elapsed() < Duration::from_millis(100));
    }
}
