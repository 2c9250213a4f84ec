//! The host's API: one request in, one JSON answer out. What each call means stands in [`segue_schemas::host_api`].

use std::{str::FromStr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, StatusCode};
use segue_schemas::{
    host_api::{
        ApplyRoute, DrainInstance, EmergencyRollback, Fence, HostError, HostErrorCode, HostState, Instance, Probe,
        RemoveRoute, RenewDeadMan, RestoreBackup, RetireInstance, Shutdown, StartInstance, StopBackup, StopInstance,
        TakeBackup,
    },
    id::{InstanceId, InvalidId},
    strategy::CARRIED,
    sync::{BackupPiece, DropCopy, ImportBackup, MakeCopy},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{Host, refusal, routes::known_route, unix_http::Call};

/// How long one request may wait for something.
const MAX_WAIT: Duration = Duration::from_secs(3600);

/// Observations in one answer when the request does not say.
const DEFAULT_BATCH: u64 = 1000;

impl Host {
    /// Answers one call.
    pub(super) async fn answer(self: Arc<Self>, call: Call) -> (StatusCode, Bytes) {
        match self.dispatch(&call).await {
            Ok(answer) => answer,
            Err(error) => {
                let status = StatusCode::from_u16(error.code.http_status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
                (status, serde_json::to_vec(&error).unwrap_or_default().into())
            }
        }
    }

    /// Answers one call of a worker on another machine, which may do all but end the host.
    pub(super) async fn answer_worker(self: Arc<Self>, call: Call) -> (StatusCode, Bytes) {
        if call.path.iter().map(String::as_str).eq(["v1", "shutdown"]) {
            let body =
                refusal(HostErrorCode::NotFound, "a host is ended on its own machine: `segue host --stop`".into());
            return (StatusCode::NOT_FOUND, serde_json::to_vec(&body).unwrap_or_default().into());
        }
        self.answer(call).await
    }

    async fn dispatch(self: &Arc<Self>, call: &Call) -> Result<(StatusCode, Bytes), HostError> {
        let path: Vec<&str> = call.path.iter().map(String::as_str).collect();
        let wait = Duration::from_millis(call.number("wait_ms").unwrap_or(0)).min(MAX_WAIT);
        match (&call.method, path.as_slice()) {
            (&Method::GET, ["v1", "state"]) => {
                if let Some(after) = call.number("after") {
                    self.news_since(after, wait).await;
                }
                let state = self.state().await;
                let looks = call.number("look").is_some_and(|look| look > 0);
                let router_trouble = self.router_trouble(looks).await;
                json(&HostState { router_trouble, ..state })
            }
            (&Method::GET, ["v1", "gpus"]) => {
                let is_fresh = call.number("fresh").is_some_and(|fresh| fresh > 0);
                json(&self.gpu_report(call.number("after"), wait, is_fresh).await?)
            }
            (&Method::POST, ["v1", "instances"]) => json(&self.start_instance(body::<StartInstance>(call)?).await?),
            (&Method::GET, ["v1", "instances", id]) => json(&self.instance(&named(id)?, wait).await?),
            (&Method::POST, ["v1", "instances", id, "probe"]) => {
                json(&self.probe(&named(id)?, &body::<Probe>(call)?).await?)
            }
            (&Method::POST, ["v1", "instances", id, "retire"]) => {
                json(&self.retire(named(id)?, body::<RetireInstance>(call)?).await?)
            }
            (&Method::POST, ["v1", "instances", id, "drain"]) => {
                json(&self.drain(&named(id)?, &body::<DrainInstance>(call)?).await?)
            }
            (&Method::POST, ["v1", "instances", id, "stop"]) => {
                json(&self.stop(named(id)?, body::<StopInstance>(call)?).await?)
            }
            (&Method::PUT, ["v1", "routes", environment, service]) => {
                let apply = body::<ApplyRoute>(call)?;
                same_pair(&apply.fence, environment, service)?;
                self.finish(move |host| async move { host.apply_route(apply).await }).await
            }
            (&Method::DELETE, ["v1", "routes", environment, service]) => {
                let remove = body::<RemoveRoute>(call)?;
                same_pair(&remove.fence, environment, service)?;
                self.finish(move |host| async move { host.remove(remove).await }).await
            }
            (&Method::POST, ["v1", "routes", environment, service, "renew"]) => {
                let renew = body::<RenewDeadMan>(call)?;
                same_pair(&renew.fence, environment, service)?;
                json(&self.renew(renew).await?)
            }
            (&Method::GET, ["v1", "routes", environment, service, "observations"]) => {
                known_route(&self.store.current(), environment, service)?;
                let (after, limit) = (call.number("after").unwrap_or(0), call.number("limit").unwrap_or(DEFAULT_BATCH));
                let batch = self.router.observations(environment, service, after, limit, wait).await;
                Ok((StatusCode::OK, batch))
            }
            (&Method::POST, ["v1", "routes", environment, service, "emergency-rollback"]) => {
                let rollback = body::<EmergencyRollback>(call)?;
                let (environment, service) = ((*environment).to_owned(), (*service).to_owned());
                self.finish(move |host| async move { host.emergency_rollback(environment, service, rollback).await })
                    .await
            }
            (&Method::POST, ["v1", "backups"]) => {
                let take = body::<TakeBackup>(call)?;
                self.finish(move |host| host.take_backup(take)).await
            }
            (&Method::POST, ["v1", "backups", "imports"]) => {
                let import = body::<ImportBackup>(call)?;
                self.finish(move |host| host.import_backup(import)).await
            }
            (&Method::PUT, ["v1", "backups", id, "bytes"]) => {
                let (id, piece) = (parsed(id)?, body::<BackupPiece>(call)?);
                self.finish(move |host| host.receive(id, piece)).await
            }
            (&Method::POST, ["v1", "copies"]) => {
                let copy = body::<MakeCopy>(call)?;
                self.finish(move |host| host.begin_copy(copy)).await
            }
            (&Method::GET, ["v1", "copies", id]) => json(&self.copy(parsed(id)?, wait).await?),
            (&Method::GET, ["v1", "copies", id, "bytes"]) => {
                json(&self.copy_piece(parsed(id)?, call.number("from").unwrap_or(0)).await?)
            }
            (&Method::DELETE, ["v1", "copies", id]) => {
                json(&self.drop_copy(parsed(id)?, body::<DropCopy>(call)?).await?)
            }
            (&Method::GET, ["v1", "backups", id]) => json(&self.backup(&parsed(id)?, wait).await?),
            (&Method::POST, ["v1", "backups", id, "stop"]) => {
                json(&self.stop_backup(parsed(id)?, body::<StopBackup>(call)?).await?)
            }
            (&Method::POST, ["v1", "restores"]) => {
                let restore = body::<RestoreBackup>(call)?;
                self.finish(move |host| host.restore_backup(restore)).await
            }
            (&Method::GET, ["v1", "restores", id]) => json(&self.seen_restore(parsed(id)?, wait).await?),
            (&Method::POST, ["v1", "shutdown"]) => {
                let shutdown = body::<Shutdown>(call)?;
                self.finish(move |host| async move {
                    if shutdown.services {
                        host.stop_everything().await;
                    }
                    Ok(shutdown)
                })
                .await
                .inspect(|_| {
                    self.ending.send_replace(true);
                })
            }
            _ => {
                let message = format!("{} /{} is not known here", call.method, path.join("/"));
                Err(refusal(HostErrorCode::NotFound, message))
            }
        }
    }

    /// Runs a change in a task of its own: what was begun is finished when its caller goes away.
    async fn finish<T, F>(self: &Arc<Self>, work: impl FnOnce(Arc<Self>) -> F) -> Result<(StatusCode, Bytes), HostError>
    where
        T: Serialize + Send + 'static,
        F: Future<Output = Result<T, HostError>> + Send + 'static,
    {
        let done = tokio::spawn(work(self.clone())).await;
        json(&done.map_err(|e| refusal(HostErrorCode::Unavailable, e.to_string()))??)
    }

    pub(super) async fn state(&self) -> HostState {
        let proxy = self.router.state().await;
        let recorded = self.store.current();
        let instances: Vec<Instance> = recorded
            .instances
            .iter()
            .filter(|(_, record)| !record.is_stopped())
            .filter_map(|(id, _)| self.shown(&recorded, id).ok())
            .collect();
        let routes = recorded.routes.iter().filter_map(|record| self.shown_route(record)).map(|mut route| {
            if let Some(proxy) = &proxy {
                self.add_counts(&recorded, &mut route, proxy);
            }
            route
        });
        HostState {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            listen: self.router.addresses().iter().map(ToString::to_string).collect(),
            proxy_pid: self.router.pid(),
            routes: routes.collect(),
            instances,
            releases: recorded.kept.iter().rev().map(|k| k.release.clone()).collect(),
            gpus: self.gpus.seen(),
            gpu_report: (!self.options.gpus.is_empty()).then(|| self.shown_gpus()),
            restorations: self.newest(),
            backups: recorded.shown_backups(),
            router_trouble: self.router_trouble(false).await,
            carries: CARRIED.map(Into::into).into(),
            start: Some(self.news.start()),
        }
    }
}

fn json<T: Serialize>(value: &T) -> Result<(StatusCode, Bytes), HostError> {
    match serde_json::to_vec(value) {
        Ok(body) => Ok((StatusCode::OK, body.into())),
        Err(error) => Err(refusal(HostErrorCode::Unavailable, error.to_string())),
    }
}

fn body<T: DeserializeOwned>(call: &Call) -> Result<T, HostError> {
    let unreadable = |e| {
        let message = format!("the body of {} /{} can't be read: {e}", call.method, call.path.join("/"));
        refusal(HostErrorCode::BadRequest, message)
    };
    serde_json::from_slice(&call.body).map_err(unreadable)
}

fn named(id: &str) -> Result<InstanceId, HostError> {
    parsed(id)
}

fn parsed<T: FromStr<Err = InvalidId>>(id: &str) -> Result<T, HostError> {
    id.parse().map_err(|e: InvalidId| refusal(HostErrorCode::BadRequest, e.to_string()))
}

fn same_pair(fence: &Fence, environment: &str, service: &str) -> Result<(), HostError> {
    if fence.environment == environment && fence.service == service {
        return Ok(());
    }
    let message =
        format!("the address names {service} in {environment}, the body {} in {}", fence.service, fence.environment);
    Err(refusal(HostErrorCode::BadRequest, message))
}
