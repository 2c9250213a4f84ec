//! Claims on their way to a worker. A claim is committed before its answer is sent, and whoever asked for it may have gone away
//! meanwhile: then nobody would have the lease until it ends. So whatever is not taken by the connection is given back at once.
//! (What the connection took and lost is found by the lease's end, or when the worker registers again.)

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use futures_util::stream;
use http::header;
use segue_schemas::worker_api::{JobClaim, JobHandBack, RolloutClaim, RolloutHandBack};
use serde::Serialize;

use super::error::{ApiError, Result};
use crate::store::Store;

/// Said of a claim whose caller went away.
const GONE: &str = "its worker went away before it had the claim";

/// A claim until it is handed over. Dropped before, its lease is given back.
pub struct HandOver<T> {
    claim: Option<T>,
    back: Option<GiveBack>,
}

/// Gives a lease back when it is dropped.
struct GiveBack {
    store: Store,
    lease: Option<Lease>,
}

enum Lease {
    Job(segue_schemas::id::JobId, JobHandBack),
    Rollout(segue_schemas::id::RolloutId, RolloutHandBack),
}

impl HandOver<JobClaim> {
    /// A job that was leased. Given back, it stands as it stood before the claim.
    pub fn of_job(store: Store, claim: JobClaim) -> Self {
        let (next_step, steps) = match &claim.resume {
            Some(resume) => (Some(resume.next_step), resume.steps.clone()),
            None => (None, Vec::new()),
        };
        let (epoch, log_bytes) = (claim.epoch, claim.log_offset);
        let back = JobHandBack { epoch, next_step, steps, log_bytes, reason: GONE.into() };
        let lease = Some(Lease::Job(claim.job, back));
        Self { claim: Some(claim), back: Some(GiveBack { store, lease }) }
    }
}

impl HandOver<RolloutClaim> {
    /// A rollout that was leased.
    pub fn of_rollout(store: Store, claim: RolloutClaim) -> Self {
        let back = RolloutHandBack { epoch: claim.epoch, reason: GONE.into(), not_before_ms: 0 };
        let lease = Some(Lease::Rollout(claim.rollout.id, back));
        Self { claim: Some(claim), back: Some(GiveBack { store, lease }) }
    }
}

impl<T: Serialize> HandOver<T> {
    /// The answer. The lease is the worker's once the connection has taken the body.
    ///
    /// # Errors
    /// The claim can't be written as JSON; then it is given back.
    pub fn into_response(self) -> Result<Response> {
        self.within(|claim| claim)
    }

    /// An answer that holds the claim.
    ///
    /// # Errors
    /// As [`Self::into_response`].
    pub fn within<A: Serialize>(mut self, answer: impl FnOnce(Option<T>) -> A) -> Result<Response> {
        let answer = answer(self.claim.take());
        let body = serde_json::to_vec(&answer).map_err(|error| ApiError::internal(error.to_string()))?;
        let head =
            [(header::CONTENT_TYPE, "application/json".to_owned()), (header::CONTENT_LENGTH, body.len().to_string())];
        let mut back = self.back.take();
        let body = stream::once(async move {
            if let Some(back) = &mut back {
                back.lease = None;
            }
            Ok::<_, std::convert::Infallible>(body)
        });
        Ok((head, Body::from_stream(body)).into_response())
    }
}

impl Drop for GiveBack {
    fn drop(&mut self) {
        let Some(lease) = self.lease.take() else { return };
        let store = self.store.clone();
        // without a runtime the process ends, and the leases with it
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            let given_back = match lease {
                Lease::Job(job, back) => {
                    tracing::info!(%job, "a claim's caller went away; the job is queued again");
                    store.hand_back_job(job, back).await
                }
                Lease::Rollout(rollout, back) => store.hand_back_rollout(rollout, back).await,
            };
            if let Err(error) = given_back {
                tracing::debug!(%error, "a claim could not be given back; its lease runs out by itself");
            }
        });
    }
}

/// Does work in a task of its own, which goes on where the caller has gone away, and then drops what it claimed.
///
/// # Errors
/// It broke off.
pub async fn apart<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Result<T> {
    tokio::spawn(work).await.map_err(|error| ApiError::internal(error.to_string()))
}
