//! What the hosts see: observations of requests.

use std::time::Duration;

use segue_schemas::host_api::ObservationBatch;
use tokio::time::{Instant, sleep, sleep_until};

use super::{group::Hosts, hosts::HostTrouble};

/// How long the host holds an answer back while there is nothing to see.
const WAIT: Duration = Duration::from_secs(5);

/// Observations of one batch at most.
const LIMIT: u32 = 4096;

/// Two batches are at least this far apart, so that a busy service's requests come in batches and not in a call each. It is
/// what a verdict may come later for it.
const PACE: Duration = Duration::from_millis(10);

/// The pause after a batch that did not come.
const RETRY: Duration = Duration::from_millis(500);

/// The next batch after a position: as soon as there is one, but not before the last one's pace is over; empty when there is none
/// for a while.
pub(super) async fn next(
    hosts: &Hosts,
    environment: &str,
    service: &str,
    after: u64,
) -> Result<ObservationBatch, HostTrouble> {
    let not_before = Instant::now() + PACE;
    let batch = hosts.observations(environment, service, after, WAIT, LIMIT).await;
    match &batch {
        // a full batch means that more are waiting
        Ok(batch) if batch.observations.len() >= LIMIT as usize => {}
        Ok(_) => sleep_until(not_before).await,
        Err(_) => sleep(RETRY).await,
    }
    batch
}
