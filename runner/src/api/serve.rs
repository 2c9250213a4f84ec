//! Connections: accepted up to a limit, each with a time limit for its request heads, ended gracefully when the server stops.

use std::{io, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use nix::sys::resource::{Resource, getrlimit};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// Connections at a time; more wait to be accepted. Fewer where the process may not have so many descriptors open: half of
/// them are left to everything else.
const CONNECTIONS: u64 = 4096;
/// How long a connection may take for the head of a request, or be idle. Longer than HTTP clients keep idle connections,
/// so that it is they who close them, and no request is lost between the two.
const HEAD_LIMIT: Duration = Duration::from_secs(120);
/// What a connection buffers at most of what comes in.
const BUFFER_BYTES: usize = 256 * 1024;
/// How long open requests may go on after the stop.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Pause after a failed accept: out of descriptors, mostly, which nothing tells the end of.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop`; then takes no new connection, and returns when the open requests have been answered (or
/// [`STOP_LIMIT`] has passed).
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(connections_limit()));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = accept(&listener, &slots) => {
                if let Some((stream, slot)) = accepted {
                    connections.spawn(connection(stream, slot, router.clone(), stop.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
            () = stop.cancelled() => break,
        }
    }
    drop(listener);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_LIMIT, all_ended).await.is_err() {
        tracing::warn!(connections = connections.len(), "connections were still busy when the server stopped");
    }
}

fn connections_limit() -> usize {
    let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    usize::try_from((descriptors / 2).clamp(16, CONNECTIONS)).unwrap_or(16)
}

async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let slot = slots.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, slot)),
        Err(error) => {
            if !is_of_one_connection(&error) {
                tracing::warn!(%error, "no connection can be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            None
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

async fn connection(stream: TcpStream, _slot: OwnedSemaphorePermit, router: Router, stop: CancellationToken) {
    // answers are small and awaited
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY can't be set");
    }
    let service =
        router.map_request(|request: http::Request<hyper::body::Incoming>| request.map(axum::body::Body::new));
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}
