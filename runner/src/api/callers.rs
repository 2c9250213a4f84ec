//! Who calls the workers' API, and what each may ask for. The server's own worker token opens all of it; a token that was made for
//! workers, what concerns the workers that registered with it; the token of a lease, what concerns its job, under its epoch.

use std::sync::Arc;

use axum::{
    extract::{FromRequest, FromRequestParts, Request},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use http::{Extensions, Method};
use segue_schemas::{
    id::{Epoch, JobId, RolloutId, WorkerId},
    machine::{AskMachine, ReleaseMachine},
    provenance::AskProvenance,
    sync::StepSync,
    worker_api::{
        AttachArtifact, ClaimRequest, CreateRollout, FindCache, JobFinish, JobHandBack, JobLost, JobReport, JobWait,
        KeepSnapshot, Renew, SaveCache, StepNotice, StepRollback,
    },
};
use serde::de::DeserializeOwned;

use super::{
    App,
    error::{ApiError, Result},
    extract::{Body, Query},
};
use crate::{
    auth::{self, bearer},
    store::{StoreError, WorkerToken},
};

/// Who calls.
#[derive(Debug, Clone)]
pub enum Caller {
    /// Somebody with the server's own worker token.
    Own,
    /// A worker with a token that was made for it.
    Pool(WorkerToken),
    /// Whoever holds, or held, a lease of a job.
    Lease(JobId, Epoch),
}

impl Caller {
    /// Whom a request's token belongs to.
    async fn of(app: &App, token: Option<&str>) -> Result<Self> {
        let hint =
            "it was made by `segue worker token create`, or lies in `worker-token` of the server's data directory";
        let Some(token) = token else {
            return Err(ApiError::unauthorized(format!("send the worker token as `Authorization: Bearer`: {hint}")));
        };
        if app.tokens.worker.is(token) {
            return Ok(Self::Own);
        }
        if let Some(job) = auth::job_of_token(token) {
            let lease = app.store.lease_of_token(token).await?;
            return lease.map(|(job, epoch)| Self::Lease(job, epoch)).ok_or_else(|| ApiError::stale_lease(job));
        }
        match app.store.worker_token(&auth::hash_of(token)).await? {
            Some(pool) => Ok(Self::Pool(pool)),
            None => Err(ApiError::unauthorized(format!("this is no worker token, or was revoked: {hint}"))),
        }
    }

    /// Whether the caller has a say at this path at all.
    async fn may(&self, app: &App, method: &Method, path: &str) -> Result<()> {
        let mut segments = path.trim_start_matches("/api/v1/worker").trim_start_matches('/').split('/');
        let (area, thing, of_thing) = (segments.next().unwrap_or_default(), segments.next(), segments.next().is_some());
        match self {
            Self::Own => Ok(()),
            Self::Lease(job, epoch) => {
                let is_own = area == "jobs" && of_thing && thing == Some(job.to_string().as_str());
                if !is_own && area != "artifacts" {
                    return Err(ApiError::forbidden(format!("this token opens what concerns job {job} alone")));
                }
                // what brings no epoch is not fenced behind this
                if method != Method::POST {
                    app.store.job_cancel_requested(*job, *epoch).await?;
                }
                Ok(())
            }
            Self::Pool(pool) => {
                let is_own = match (area, thing.map(str::parse::<JobId>), thing.map(str::parse::<RolloutId>)) {
                    ("jobs", Some(Ok(job)), _) if of_thing => app.store.job_is_of(job, &pool.name).await?,
                    ("rollouts", _, Some(Ok(id))) if of_thing => app.store.rollout_is_of(id, &pool.name).await?,
                    _ => true,
                };
                let whose = || format!("no worker with the token `{}` has it", pool.name);
                if is_own { Ok(()) } else { Err(ApiError::forbidden(whose())) }
            }
        }
    }

    /// The token that a worker registers with; `None`: the server's own.
    pub fn token(self) -> Option<WorkerToken> {
        match self {
            Self::Pool(pool) => Some(pool),
            Self::Own | Self::Lease(..) => None,
        }
    }

    /// Whether the caller may ask for work in this worker's name.
    pub async fn may_claim(&self, app: &App, request: &ClaimRequest) -> Result<()> {
        let pool = match self {
            Self::Own => return Ok(()),
            Self::Pool(pool) => pool,
            Self::Lease(job, _) => {
                return Err(ApiError::forbidden(format!("this token opens what concerns job {job} alone")));
            }
        };
        let ClaimRequest { worker, labels, .. } = request;
        if !app.store.registered_with(worker, &pool.name).await? {
            return Err(stranger(worker));
        }
        match pool.forbids(labels) {
            Some(label) => {
                Err(ApiError::refused(format!("workers with the token `{}` may not offer `{label}`", pool.name)))
            }
            None => Ok(()),
        }
    }
}

fn stranger(worker: &WorkerId) -> ApiError {
    StoreError::StaleWorker { worker: worker.to_string() }.into()
}

/// Finds out who calls; answers those who have no say.
pub async fn admit(app: &Arc<App>, mut request: Request, next: Next) -> Response {
    let token = bearer(request.headers()).map(str::to_owned);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let admitted = async {
        let caller = Caller::of(app, token.as_deref()).await?;
        caller.may(app, &method, &path).await?;
        Ok::<_, ApiError>(caller)
    };
    match admitted.await {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(refusal) => refusal.into_response(),
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut http::request::Parts, _: &S) -> Result<Self> {
        let known = parts.extensions.get::<Self>().cloned();
        known.ok_or_else(|| ApiError::internal("nobody found out who calls"))
    }
}

/// Says under which lease it is sent.
pub trait UnderEpoch {
    /// The lease's epoch.
    fn epoch(&self) -> Epoch;
}

macro_rules! under_epoch {
    ($($type:ty),* $(,)?) => {$(
        impl UnderEpoch for $type {
            fn epoch(&self) -> Epoch {
                self.epoch
            }
        }
    )*};
}
pub(super) use under_epoch;

under_epoch!(
    AskMachine,
    AskProvenance,
    AttachArtifact,
    CreateRollout,
    FindCache,
    JobFinish,
    JobHandBack,
    JobLost,
    JobReport,
    JobWait,
    Renew,
    KeepSnapshot,
    ReleaseMachine,
    SaveCache,
    StepNotice,
    StepRollback,
    StepSync,
);

/// A JSON body that is sent under a lease: a lease's token speaks for its own epoch alone.
pub struct HeldBody<T>(pub T);

impl<T: DeserializeOwned + UnderEpoch, S: Send + Sync> FromRequest<S> for HeldBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self> {
        let allowed = epoch_of(request.extensions());
        let Body(body) = Body::<T>::from_request(request, state).await?;
        fits(allowed, body.epoch()).map(|()| Self(body))
    }
}

/// The same for a query.
pub struct HeldQuery<T>(pub T);

impl<T: DeserializeOwned + UnderEpoch, S: Send + Sync> FromRequestParts<S> for HeldQuery<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut http::request::Parts, state: &S) -> Result<Self> {
        let Query(query) = Query::<T>::from_request_parts(parts, state).await?;
        fits(epoch_of(&parts.extensions), query.epoch()).map(|()| Self(query))
    }
}

fn epoch_of(extensions: &Extensions) -> Option<(JobId, Epoch)> {
    match extensions.get::<Caller>() {
        Some(Caller::Lease(job, epoch)) => Some((*job, *epoch)),
        _ => None,
    }
}

fn fits(allowed: Option<(JobId, Epoch)>, given: Epoch) -> Result<()> {
    match allowed {
        Some((job, epoch)) if epoch != given => Err(ApiError::stale_lease(job)),
        _ => Ok(()),
    }
}
