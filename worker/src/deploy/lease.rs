//! The right to drive a rollout, as the driver knows it: until when the server certainly holds it for nobody else.
//!
//! Counted from the moment in which a renewal was *sent*, on a clock that goes on while the machine sleeps, so that this
//! worker always stops before the server gives the rollout to another.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use nix::time::{ClockId, clock_gettime};
use segue_schemas::{
    deploy::RolloutCommand,
    host_join::HostAccess,
    worker_api::{RolloutClaim, RolloutRenewed},
};
use tokio::{sync::mpsc, time::sleep};

use super::server::{RolloutServer, ServerError};

/// The pause after a renewal that did not reach the server.
const RETRY: Duration = Duration::from_millis(250);

/// What the renewals bring.
#[derive(Debug, Clone)]
pub(super) enum LeaseNews {
    /// A person's word.
    Command(Told),
    /// The server answers after it had not.
    Back,
    /// What opens hosts on other machines from now on.
    Access(Box<HostAccess>),
    /// The lease could not be renewed in time, or is another's: no change may be made any more.
    Lost(String),
}

/// A person's word.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub(super) command: RolloutCommand,
    pub(super) by: String,
    /// Its number; none of an older server's.
    pub(super) word: Option<i64>,
}

/// Until when this worker owns the rollout. Cheap to clone; all clones see the same.
#[derive(Debug, Clone)]
pub(super) struct Lease {
    valid_until_ms: Arc<AtomicU64>,
    length: Duration,
}

impl Lease {
    /// A lease of `length` that began at `sent_at_ms`.
    pub(super) fn begun(sent_at_ms: u64, length: Duration) -> Self {
        let lease = Self { valid_until_ms: Arc::new(AtomicU64::new(0)), length };
        lease.extend(sent_at_ms);
        lease
    }

    /// Whether the server still holds the rollout for this worker, for certain.
    pub(super) fn is_valid(&self) -> bool {
        boot_ms() < self.valid_until_ms.load(Ordering::Acquire)
    }

    /// What is left of it.
    pub(super) fn left(&self) -> Duration {
        Duration::from_millis(self.valid_until_ms.load(Ordering::Acquire).saturating_sub(boot_ms()))
    }

    /// Ends it here: another owner was heard of.
    pub(super) fn end(&self) {
        self.valid_until_ms.store(0, Ordering::Release);
    }

    fn extend(&self, sent_at_ms: u64) {
        let until = sent_at_ms.saturating_add(u64::try_from(self.length.as_millis()).unwrap_or(u64::MAX));
        self.valid_until_ms.store(until, Ordering::Release);
    }
}

/// Renews until the lease is lost or nobody listens to the news any more.
///
/// Each renewal is held open by the server for `renew`, so that a person's word arrives at once.
pub(super) async fn keep(
    server: Arc<dyn RolloutServer>,
    claim: Arc<RolloutClaim>,
    lease: Lease,
    renew: Duration,
    news: mpsc::Sender<LeaseNews>,
) {
    let mut wait_ms = 0;
    let mut away = false;
    loop {
        let sent_at_ms = boot_ms();
        // a server that neither answers nor closes the connection is one that is away
        let answer = tokio::select! {
            answer = server.renew(&claim, wait_ms) => answer,
            () = sleep(Duration::from_millis(wait_ms) + renew) => Err(ServerError::Away("a renewal was not answered".into())),
            () = news.closed() => return,
        };
        let word = match answer {
            Ok(mut renewed) => {
                lease.extend(sent_at_ms);
                if let Some(access) = renewed.access.take()
                    && news.send(LeaseNews::Access(Box::new(access))).await.is_err()
                {
                    return;
                }
                wait_ms = u64::try_from(renew.as_millis()).unwrap_or(u64::MAX);
                match command(renewed) {
                    Some(word) => Some(word),
                    None => std::mem::take(&mut away).then_some(LeaseNews::Back),
                }
            }
            Err(ServerError::Away(why)) if lease.is_valid() => {
                // once for as long as it lasts
                if away {
                    tracing::debug!(rollout = %claim.rollout.id, why, "the rollout's lease can't be renewed yet");
                } else {
                    let left = lease.left();
                    tracing::warn!(rollout = %claim.rollout.id, why, ?left, "the rollout's lease can't be renewed just now; it is tried on");
                }
                (wait_ms, away) = (0, true);
                sleep(RETRY.min(lease.left())).await;
                None
            }
            Err(why) => {
                lease.end();
                let _ = news.send(LeaseNews::Lost(why.to_string())).await;
                return;
            }
        };
        if let Some(word) = word
            && news.send(word).await.is_err()
        {
            return;
        }
    }
}

fn command(renewed: RolloutRenewed) -> Option<LeaseNews> {
    let by = renewed.by.unwrap_or_else(|| "somebody".into());
    renewed.command.map(|command| LeaseNews::Command(Told { command, by, word: renewed.word }))
}

/// Milliseconds since the machine's boot, the time in which it slept included.
pub(super) fn boot_ms() -> u64 {
    // the clock exists on every kernel that this runs on; without it every lease counts as over
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(u64::MAX, |now| {
        u64::try_from(now.tv_sec()).unwrap_or(0) * 1000 + u64::try_from(now.tv_nsec()).unwrap_or(0) / 1_000_000
    })
}
