//! `segue proxy` as a router.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use segue_schemas::host_api::HostError;

use super::{Router, RouterState};
use crate::{
    host::{HostOptions, HostRunError, process::Process, proxy_child::ProxyChild, state::Store},
    proxy::hold::HeldRoutes,
};

/// Takes the listening sockets; nothing is started yet.
pub(super) async fn open(options: &HostOptions, store: Arc<Store>) -> Result<ProxyChild, HostRunError> {
    let opened =
        ProxyChild::open(&options.data, options.program.clone(), options.proxy_drain, &options.listen, store).await;
    opened.map_err(|(address, source)| HostRunError::Listen { address, source })
}

/// Ends the proxy of a host that has another router now: it would keep the addresses.
pub(super) async fn end(store: &Arc<Store>, drain: Duration) {
    if let Some(mut proxy) = store.current().proxy_process.and_then(|record| Process::adopt(record, "")) {
        tracing::info!(pid = proxy.record.pid, "the host has another router now: its proxy is ended");
        proxy.terminate(drain).await;
    }
}

#[async_trait]
impl Router for ProxyChild {
    fn addresses(&self) -> Vec<SocketAddr> {
        self.addresses()
    }

    fn pid(&self) -> Option<u32> {
        self.living().map(|living| living.pid)
    }

    fn can_hold(&self) -> bool {
        true
    }

    async fn run(self: Arc<Self>, ready: BoxFuture<'static, ()>) {
        self.run(ready).await;
    }

    async fn carry(&self) -> Result<(), HostError> {
        self.push().await
    }

    async fn state(&self) -> Option<RouterState> {
        let state = self.state().await?;
        Some(RouterState { in_flight: state.in_flight, newest: state.newest, idle_ms: state.idle_ms })
    }

    async fn observations(&self, environment: &str, service: &str, after: u64, limit: u64, wait: Duration) -> Bytes {
        self.observations(environment, service, after, limit, wait).await.1
    }

    async fn drain(&self, instance: &str, limit: Duration) -> u64 {
        self.drain(instance, limit).await
    }

    async fn held(&self, after: u64, wait: Duration) -> Option<HeldRoutes> {
        self.held(after, wait).await
    }

    async fn stop(&self) {
        self.stop().await;
    }
}
