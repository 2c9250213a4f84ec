//! Drives rollouts: performs at the hosts what [`segue_pipelines::rollout`] decides, and writes it into the rollout's journal.
//!
//! Comes in: rollouts leased from the server with their journals, what the hosts report, observations, persons' commands.
//! Goes out: mutations of hosts under the lease's epoch, each journaled before it is made and after it was seen. Never
//! here: a decision about a rollout, and a second way to recover; a new owner goes through the same loop as the first.
//!
//! | file | what |
//! | --- | --- |
//! | `mod.rs` | claims rollouts and gives each a driver |
//! | `drive/` | the driver: events -> machine -> actions, in order |
//! | `perform.rs` | one act: announced in the journal, made at the host |
//! | `journal.rs` | entries until the server has them, each with a line for people |
//! | `ladder.rs` | the readiness ladder |
//! | `observe.rs` | observations; the dead-man's deadline |
//! | `lease.rs` | until when this worker certainly owns the rollout |
//! | `hosts.rs`, `group.rs` | a host with patience; all hosts of a rollout, spoken to as one |
//! | `server.rs`, `place.rs` | the server's five calls; what a rollout means at a host |
//! | `tell.rs` | tells the server what hosts have done without it |
//! | `inputs.rs`, `step.rs` | the steps `segue/deploy` and `segue/canary` |
//!
//! # What may be relied on
//! * A change is announced in the journal, durably, before it is made. The one exception is the traffic's way back while the
//!   server can't be reached: it is made at once, under the same epoch, and journaled when the server answers again.
//! * A driver changes nothing after its lease may have ended; a host refuses what an earlier epoch asks for.
//! * The dead-man's deadline is put off only under a valid lease: a worker that lost its server lets the host fall back.
//! * A host that shows a higher epoch although the lease is valid was changed by an emergency rollback: the server is told,
//!   which ends the rollout there, or it is claimed under a higher epoch, and ends as the host's report says.
//! * Of several hosts each goes the same way, at once or, where the strategy is `rolling`, one after the other. One that does not answer is left out and the others go on: they end wholly old or wholly
//!   new, and it is brought up to date when it is back, by a rollout of its own.
//! * The server hears of every host that a worker reaches: when the worker starts, when the host comes back, and when the host
//!   has changed weights without a rollout's word.

mod drive;
pub mod group;
pub mod hosts;
pub mod inputs;
mod journal;
pub mod ladder;
mod lease;
mod observe;
mod perform;
mod place;
pub mod server;
pub mod step;
pub mod tell;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, pending};
use segue_schemas::{id::RolloutId, worker_api::RolloutClaim};
use tokio::{
    task::{AbortHandle, JoinError, JoinSet},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use drive::{Leftover, Outcome};
use server::{RolloutServer, ServerError};

/// How long the server holds a claim back while there is nothing to drive.
const CLAIM_WAIT_MS: u64 = 25_000;

/// How long drivers may take to hand their rollouts back when the worker stops.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);

/// Rollouts whose last entries are kept for their next driver here.
const MAX_LEFTOVERS: usize = 256;

/// Pauses after a claim that failed.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Time limits of driving.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// How long a lease lives without renewal.
    pub lease: Duration,
    /// How often it is renewed.
    pub renew: Duration,
    /// How long a call to a host is repeated before the rollout is handed back.
    pub host_patience: Duration,
    /// How long it is tried to begin a rollout that has changed nothing yet, before it ends as failed.
    pub begin_limit: Duration,
    /// How long a rollout that has changed something waits for its host to answer again, before it ends as failed.
    pub absent_limit: Duration,
    /// How often the evidence of a watched canary is stored although nothing is decided.
    pub snapshot: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(30),
            renew: Duration::from_secs(5),
            host_patience: Duration::from_secs(30),
            begin_limit: Duration::from_secs(600),
            absent_limit: Duration::from_secs(86_400),
            snapshot: Duration::from_secs(5),
        }
    }
}

/// How rollouts are driven.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Time limits.
    pub timing: Timing,
    /// Rollouts at a time.
    pub capacity: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { timing: Timing::default(), capacity: 64 }
    }
}

/// Claims rollouts and drives each in a task of its own, without a job's slot, until `shutdown`; then every rollout that is
/// driven here is handed back, so that another worker goes on at once.
/// `ended` is told of each end.
pub async fn run_rollouts(
    server: Arc<dyn RolloutServer>,
    options: Options,
    ended: tell::Ended,
    shutdown: CancellationToken,
) {
    let mut drivers = Drivers::new(options, ended);
    let stopping = CancellationToken::new();
    let mut claiming: Option<BoxFuture<'_, Result<Option<RolloutClaim>, ServerError>>> = None;
    let mut pause = FIRST_PAUSE;
    loop {
        // one claim at a time, and never dropped for something else: what it leased would lie until its lease runs out
        if claiming.is_none() && drivers.running.len() < options.capacity {
            claiming = Some(server.claim(CLAIM_WAIT_MS));
        }
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(joined) = drivers.tasks.join_next() => drivers.on_joined(joined),
            claimed = async { match &mut claiming { Some(claim) => claim.await, None => pending().await } } => {
                claiming = None;
                match claimed {
                    Ok(None) => pause = FIRST_PAUSE,
                    Ok(Some(claim)) => {
                        pause = FIRST_PAUSE;
                        drivers.start(server.clone(), claim, &stopping);
                    }
                    Err(error) => {
                        tracing::debug!(%error, "no rollout could be claimed");
                        let again = server.clone();
                        claiming = Some(Box::pin(async move {
                            sleep(pause).await;
                            again.claim(CLAIM_WAIT_MS).await
                        }));
                        pause = (pause * 2).min(LONGEST_PAUSE);
                    }
                }
            }
        }
    }
    // no more claims before the first hand-back, which would come straight back to this worker
    drop(claiming);
    stopping.cancel();
    let all = async { while drivers.tasks.join_next().await.is_some() {} };
    if timeout(SHUTDOWN_LIMIT, all).await.is_err() {
        tracing::warn!("some rollouts could not be handed back; their leases run out by themselves");
    }
}

/// The drivers of this process.
struct Drivers {
    options: Options,
    ended: tell::Ended,
    tasks: JoinSet<(RolloutId, Outcome)>,
    running: HashMap<RolloutId, AbortHandle>,
    /// What the server could not be told. At most one for each rollout that was driven here and has not been claimed again.
    leftovers: HashMap<RolloutId, Leftover>,
}

impl Drivers {
    fn new(options: Options, ended: tell::Ended) -> Self {
        Self { options, ended, tasks: JoinSet::new(), running: HashMap::new(), leftovers: HashMap::new() }
    }

    fn start(&mut self, server: Arc<dyn RolloutServer>, claim: RolloutClaim, stopping: &CancellationToken) {
        let id = claim.rollout.id;
        // the server gave it out again: an earlier driver here has lost its lease, whether it knows or not
        if let Some(earlier) = self.running.remove(&id) {
            earlier.abort();
        }
        let leftover = self.leftovers.remove(&id);
        let driven = drive::drive(server, claim, self.options.timing, leftover, stopping.clone());
        let handle = self.tasks.spawn(async move { (id, driven.await) });
        self.running.insert(id, handle);
    }

    fn on_joined(&mut self, joined: Result<(RolloutId, Outcome), JoinError>) {
        self.running.retain(|_, handle| !handle.is_finished());
        match joined {
            Ok((rollout, Outcome::Ended)) => {
                tracing::info!(%rollout, "the rollout has ended");
                self.ended.tell();
            }
            Ok((rollout, Outcome::Left { why, leftover })) => {
                tracing::info!(%rollout, why, "the rollout is left to others");
                if let Some(leftover) = leftover
                    && self.leftovers.len() < MAX_LEFTOVERS
                {
                    self.leftovers.insert(rollout, leftover);
                }
            }
            Err(error) if error.is_cancelled() => {}
            Err(error) => tracing::error!(%error, "a driver failed; its lease runs out and another goes on"),
        }
    }
}
