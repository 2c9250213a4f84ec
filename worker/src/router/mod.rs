//! What carries a host's traffic, behind one contract: `segue proxy`, HAProxy or nginx.
//!
//! Comes in: the host's record, which says what is to be carried. Goes out: traffic by its weights, and observations of it. Never here:
//! what the weights are to be, epochs, deadlines; whoever calls has recorded what it wants first.

mod command;
mod embedded;
mod haproxy;
mod keep;
mod ledger;
mod listener;
mod nginx;
mod outside;
mod sockets;

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use indexmap::IndexMap;
use segue_schemas::{deploy::RouteRule, host_api::HostError, router::RouterSettings};
use tokio::sync::watch;

use self::outside::Outside;
use crate::{
    host::{HostOptions, HostRunError, state::Store},
    proxy::hold::HeldRoutes,
};

/// What a router says about itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct RouterState {
    /// Requests in flight by instance.
    pub in_flight: IndexMap<String, u64>,
    /// The newest observation of each route, as (environment, service, sequence).
    pub newest: Vec<(String, String, u64)>,
    /// How long ago that was, in milliseconds, of each route that has one.
    pub idle_ms: Vec<(String, String, u64)>,
}

/// What a host needs of its router.
///
/// Order: changes are carried one after the other, each with the newest record; the last one carried is the last one recorded. Idempotent:
/// what is carried already costs a look. A crash of the host changes nothing that is carried, a restart of the router nothing either: it
/// comes back with what was carried last, and whatever was recorded since is carried as soon as there is somebody to carry it.
#[async_trait]
pub(crate) trait Router: Send + Sync + std::fmt::Debug {
    /// The addresses that are listened on.
    fn addresses(&self) -> Vec<SocketAddr>;

    /// The router's process, while one is known.
    fn pid(&self) -> Option<u32>;

    /// Whether it can hold requests while a service sleeps.
    fn can_hold(&self) -> bool {
        false
    }

    /// Whether it can carry such rules; asked before they are recorded.
    fn check(&self, _rules: &[RouteRule]) -> Result<(), HostError> {
        Ok(())
    }

    /// Looks after the router until [`Self::stop`]: has it carry what is recorded, first once `ready` has come where services of this start
    /// are to be waited for, and again whenever it was started anew or does not carry what it should.
    async fn run(self: Arc<Self>, ready: BoxFuture<'static, ()>);

    /// Has it carry what is recorded now. Once this returns, every request that is accepted goes by it, and what went elsewhere before is in
    /// the counts of [`Self::drain`].
    ///
    /// # Errors
    /// With [`Router`](segue_schemas::host_api::HostErrorCode::Router) it refused and carries what it carried before; with another it could not be told in time. In either
    /// case what is recorded is carried as soon as it can be.
    async fn carry(&self) -> Result<(), HostError>;

    /// Why it does not carry what is recorded, while it does not; `None`: it can be told anything at any time.
    fn trouble(&self) -> Option<watch::Receiver<Option<String>>> {
        None
    }

    /// What is recorded was not carried, and is not taken back: it is tried again, and looked why.
    fn suspect(&self) {}

    /// Why it could carry no change now, by a look at its configuration; `None`: it could, as far as that shows.
    async fn look(&self) -> Option<String> {
        None
    }

    /// What it says about itself; `None` while it can't be asked.
    async fn state(&self) -> Option<RouterState>;

    /// The JSON of a [`segue_schemas::host_api::ObservationBatch`]: what was observed of a route after a position, at most `limit`; waits up to `wait` for the
    /// first. What was observed and is not there any more is counted as lost.
    async fn observations(&self, environment: &str, service: &str, after: u64, limit: u64, wait: Duration) -> Bytes;

    /// Waits until nothing is in flight at an instance that gets nothing more, at most `limit`; what is in flight then.
    async fn drain(&self, instance: &str, limit: Duration) -> u64;

    /// Which services requests wait for because they sleep, once another than the `after`-th has begun to; `None`: nobody says so.
    async fn held(&self, _after: u64, _wait: Duration) -> Option<HeldRoutes> {
        None
    }

    /// Takes the traffic from every service for good, answers in flight may go on for as long as they may.
    async fn stop(&self);
}

/// The router that a host is to have. Nothing is carried yet.
///
/// # Errors
/// An address can't be had, or the settings can't be used.
pub(crate) async fn open(options: &HostOptions, store: Arc<Store>) -> Result<Arc<dyn Router>, HostRunError> {
    match &options.router {
        RouterSettings::Embedded => Ok(Arc::new(embedded::open(options, store).await?)),
        RouterSettings::Haproxy(settings) => {
            embedded::end(&store, options.proxy_drain).await;
            let program = haproxy::Haproxy::new(settings.clone());
            Ok(Arc::new(Outside::open(options, program, settings.log.as_deref(), store).await?))
        }
        RouterSettings::Nginx(settings) => {
            embedded::end(&store, options.proxy_drain).await;
            let program = nginx::Nginx::new(settings.clone());
            Ok(Arc::new(Outside::open(options, program, settings.log.as_deref(), store).await?))
        }
    }
}

/// The addresses to listen on, of a router that is not started by the host.
fn fixed_addresses(options: &HostOptions, router: &str) -> Result<Vec<SocketAddr>, HostRunError> {
    if options.listen.is_empty() || options.listen.iter().any(|address| address.port() == 0) {
        let message = format!("{router} has to be told where to listen: name addresses with their ports in `listen`");
        return Err(HostRunError::Router(message));
    }
    Ok(options.listen.clone())
}

/// A route's rules stand in another program's configuration: what could mean something there is refused.
fn check_words(rules: &[RouteRule], router: &str) -> Result<(), HostError> {
    let is_plain = |text: &str, others: &[u8]| text.bytes().all(|b| b.is_ascii_alphanumeric() || others.contains(&b));
    for rule in rules {
        let host_is_plain = rule.host.as_deref().is_none_or(|host| is_plain(host, b".-_"));
        if !host_is_plain || !is_plain(&rule.path, b"/.-_~+=:@") {
            let message = format!(
                "host `{}`, path `{}`: {router} routes by letters, digits and `.-_` in hosts, and `/.-_~+=:@` besides in paths; choose \
                 another, or `router: embedded`",
                rule.host.as_deref().unwrap_or("any"),
                rule.path
            );
            return Err(crate::host::refusal(segue_schemas::host_api::HostErrorCode::BadRequest, message));
        }
    }
    Ok(())
}

/// FNV-1a, 64 bits (<http://www.isthe.com/chongo/tech/comp/fnv/>): tells one configuration from another, within and over processes.
fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, b| (hash ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// Writes a file of a router's configuration, if it says something else now; what it said before then.
fn write_changed(file: &Path, text: &str) -> std::io::Result<Option<Vec<u8>>> {
    let before = std::fs::read(file).unwrap_or_default();
    if before == text.as_bytes() {
        return Ok(None);
    }
    crate::host::state::write_atomically(file, text.as_bytes())?;
    Ok(Some(before))
}
