//! What wakes whoever waits. Every operation that changes a state rings, after its commit, the bells of those that the
//! change may concern; a bell says "look again", never what happened, so one too many costs a look and nothing else.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
};

use segue_schemas::id::{JobId, RolloutId, RunId};
use tokio::sync::{broadcast, watch};

/// A bell: which waiting parties look again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bell {
    /// A job may have become claimable.
    Jobs,
    /// A rollout may have become claimable.
    Rollouts,
    /// A delivery waits for the planner.
    Deliveries,
    /// Somebody is to be told something.
    Notifications,
    /// A rollback point waits for its git tag.
    Tags,
    /// The next time of a schedule has moved.
    Schedules,
    /// GitHub is to be told of a run.
    Shows,
    /// A lease was given, renewed or ended: the next expiry has moved.
    Leases,
    /// A job was put off, and its time may come before the next expiry.
    PutOff,
    /// A certificate of a host or of a worker holds no more, or a host carries something else.
    Hosts,
    /// A machine that is rented has changed, or who has it.
    Machines,
    /// Something of this run changed: its status, a job, a step.
    Run(RunId),
    /// This job is to be cancelled, or is no longer its worker's.
    Job(JobId),
    /// This rollout changed, or has a command.
    Rollout(RolloutId),
    /// The log of this job has grown, where logs lie in the database.
    Log(JobId),
}

/// Rings of single jobs that a listener to all of them may be behind. Who is further behind misses some, and is told so.
const TOLD: usize = 256;

/// All bells of one process.
#[derive(Debug)]
pub struct Doorbell {
    jobs: watch::Sender<u64>,
    rollouts: watch::Sender<u64>,
    deliveries: watch::Sender<u64>,
    notifications: watch::Sender<u64>,
    tags: watch::Sender<u64>,
    schedules: watch::Sender<u64>,
    shows: watch::Sender<u64>,
    leases: watch::Sender<u64>,
    put_off: watch::Sender<u64>,
    hosts: watch::Sender<u64>,
    machines: watch::Sender<u64>,
    run: Keyed<RunId>,
    job: Keyed<JobId>,
    rollout: Keyed<RolloutId>,
    told: broadcast::Sender<JobId>,
    log: Keyed<JobId>,
}

/// One listener. What rings after it was made is never missed, even between two calls of [`Listener::rung`].
#[derive(Debug)]
pub struct Listener(watch::Receiver<u64>);

impl Listener {
    /// Takes what was rung so far as heard: who calls this looks afterwards.
    pub fn heard(&mut self) {
        self.0.mark_unchanged();
    }

    /// Returns when the bell was rung since the last return. Dropping the future loses nothing.
    pub async fn rung(&mut self) {
        // the sender lives as long as somebody listens, or as long as the store; after that nothing will ring again
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Default for Doorbell {
    fn default() -> Self {
        let bell = || watch::channel(0).0;
        Self {
            jobs: bell(),
            rollouts: bell(),
            deliveries: bell(),
            notifications: bell(),
            tags: bell(),
            schedules: bell(),
            shows: bell(),
            leases: bell(),
            put_off: bell(),
            hosts: bell(),
            machines: bell(),
            run: Keyed::default(),
            job: Keyed::default(),
            rollout: Keyed::default(),
            told: broadcast::channel(TOLD).0,
            log: Keyed::default(),
        }
    }
}

impl Doorbell {
    /// Listens to a bell, from now on. Subscribe first, look second, wait third: then nothing is missed.
    #[must_use]
    pub fn listen(&self, bell: Bell) -> Listener {
        Listener(match bell {
            Bell::Jobs => self.jobs.subscribe(),
            Bell::Rollouts => self.rollouts.subscribe(),
            Bell::Deliveries => self.deliveries.subscribe(),
            Bell::Notifications => self.notifications.subscribe(),
            Bell::Tags => self.tags.subscribe(),
            Bell::Schedules => self.schedules.subscribe(),
            Bell::Shows => self.shows.subscribe(),
            Bell::Leases => self.leases.subscribe(),
            Bell::PutOff => self.put_off.subscribe(),
            Bell::Hosts => self.hosts.subscribe(),
            Bell::Machines => self.machines.subscribe(),
            Bell::Run(id) => self.run.listen(id),
            Bell::Job(id) => self.job.listen(id),
            Bell::Rollout(id) => self.rollout.listen(id),
            Bell::Log(id) => self.log.listen(id),
        })
    }

    /// Rings every bell that somebody listens to: something may have been missed.
    pub(super) fn ring_all(&self) {
        let all = [
            Bell::Jobs,
            Bell::Rollouts,
            Bell::Deliveries,
            Bell::Notifications,
            Bell::Tags,
            Bell::Schedules,
            Bell::Shows,
            Bell::Leases,
            Bell::PutOff,
            Bell::Hosts,
            Bell::Machines,
        ];
        all.into_iter().for_each(|bell| self.ring(bell));
        self.run.ring_all();
        self.job.ring_all();
        self.rollout.ring_all();
        self.log.ring_all();
    }

    /// Listens to the bells of all single jobs, from now on.
    #[must_use]
    pub fn listen_to_jobs(&self) -> broadcast::Receiver<JobId> {
        self.told.subscribe()
    }

    /// Rings.
    pub fn ring(&self, bell: Bell) {
        let one = |sender: &watch::Sender<u64>| sender.send_modify(|n| *n = n.wrapping_add(1));
        match bell {
            Bell::Jobs => one(&self.jobs),
            Bell::Rollouts => one(&self.rollouts),
            Bell::Deliveries => one(&self.deliveries),
            Bell::Notifications => one(&self.notifications),
            Bell::Tags => one(&self.tags),
            Bell::Schedules => one(&self.schedules),
            Bell::Shows => one(&self.shows),
            Bell::Leases => one(&self.leases),
            Bell::PutOff => one(&self.put_off),
            Bell::Hosts => one(&self.hosts),
            Bell::Machines => one(&self.machines),
            Bell::Run(id) => self.run.ring(&id),
            Bell::Job(id) => {
                self.job.ring(&id);
                // an error here: nobody listens to all of them
                let _ = self.told.send(id);
            }
            Bell::Rollout(id) => self.rollout.ring(&id),
            Bell::Log(id) => self.log.ring(&id),
        }
    }
}

/// Bells by key; one exists only while somebody listens to it.
#[derive(Debug)]
struct Keyed<K>(Mutex<HashMap<K, watch::Sender<u64>>>);

impl<K> Default for Keyed<K> {
    fn default() -> Self {
        Self(Mutex::new(HashMap::new()))
    }
}

impl<K: Hash + Eq> Keyed<K> {
    fn listen(&self, key: K) -> watch::Receiver<u64> {
        let mut bells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if bells.len() == bells.capacity() {
            bells.retain(|_, bell| bell.receiver_count() > 0);
        }
        bells.entry(key).or_insert_with(|| watch::channel(0).0).subscribe()
    }

    fn ring_all(&self) {
        let mut bells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        bells.retain(|_, bell| bell.receiver_count() > 0);
        bells.values().for_each(|bell| bell.send_modify(|n| *n = n.wrapping_add(1)));
    }

    fn ring(&self, key: &K) {
        let mut bells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bell) = bells.get(key) {
            if bell.receiver_count() == 0 {
                bells.remove(key);
            } else {
                bell.send_modify(|n| *n = n.wrapping_add(1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_bell_rung_before_the_wait_is_not_missed_and_another_key_is_not_heard() {
        let doorbell = Doorbell::default();
        let mut listener = doorbell.listen(Bell::Run(RunId(1)));
        doorbell.ring(Bell::Run(RunId(2)));
        doorbell.ring(Bell::Run(RunId(1)));
        listener.rung().await;
        let again = tokio::time::timeout(std::time::Duration::from_millis(20), listener.rung()).await;
        assert!(again.is_err(), "one ring wakes once");
    }

    #[test]
    fn bells_without_listeners_are_forgotten() {
        let doorbell = Doorbell::default();
        for n in 1..=10_000 {
            drop(doorbell.listen(Bell::Run(RunId(n))));
        }
        assert!(doorbell.run.0.lock().unwrap().len() < 100);
    }
}
