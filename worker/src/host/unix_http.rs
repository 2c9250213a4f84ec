//! One HTTP/1.1 request with a JSON body over a unix socket: how the host is spoken to, and how the host speaks to its proxy.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, time::timeout};

/// The largest answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 32 * 1024 * 1024;

/// How long making the connection may take: the other end is on this machine, and either accepts or is not there.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody listens on the socket; nothing was sent.
    #[error("nobody answers on {socket}: {source}")]
    Unreachable {
        /// The socket's path.
        socket: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// No whole answer within the limit. The request may have been carried out.
    #[error("{call} on {socket} was not answered within {limit:?}")]
    Timeout {
        /// Method and path.
        call: String,
        /// The socket's path.
        socket: String,
        /// The limit.
        limit: Duration,
    },
    /// The connection broke or what came is not HTTP. The request may have been carried out.
    #[error("{call} on {socket} failed: {reason}")]
    Broken {
        /// Method and path.
        call: String,
        /// The socket's path.
        socket: String,
        /// What went wrong.
        reason: String,
    },
}

/// Sends one request on a connection of its own and reads the whole answer.
///
/// `limit` is for everything together. A cancelled future closes the connection.
pub async fn call(
    socket: &Path,
    method: Method,
    path_and_query: &str,
    body: Option<Vec<u8>>,
    limit: Duration,
) -> Result<(StatusCode, Bytes), CallError> {
    let name = || format!("{method} {path_and_query}");
    let exchange = exchange(socket, method.clone(), path_and_query, body);
    match timeout(limit, exchange).await {
        Ok(answer) => answer,
        Err(_) => Err(CallError::Timeout { call: name(), socket: socket.display().to_string(), limit }),
    }
}

async fn exchange(
    socket: &Path,
    method: Method,
    path_and_query: &str,
    body: Option<Vec<u8>>,
) -> Result<(StatusCode, Bytes), CallError> {
    let call = format!("{method} {path_and_query}");
    let broken =
        |reason: String| CallError::Broken { call: call.clone(), socket: socket.display().to_string(), reason };
    let stream = connect(socket).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(e.to_string()))?;
    let request = Request::builder()
        .method(method)
        .uri(path_and_query)
        .header(header::HOST, "segue")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body.unwrap_or_default())))
        .map_err(|e| broken(e.to_string()))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|e| broken(e.to_string()))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        Ok((status, body.map_err(|e| broken(e.to_string()))?.to_bytes()))
    };
    // The connection is driven here rather than in a task of its own, so that dropping this future drops it too.
    tokio::pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        driven = connection => match driven {
            Ok(()) => answer.await,
            Err(error) => Err(broken(error.to_string())),
        },
    }
}

async fn connect(socket: &Path) -> Result<UnixStream, CallError> {
    let unreachable = |source| CallError::Unreachable { socket: socket.display().to_string(), source };
    match timeout(CONNECT_LIMIT, UnixStream::connect(socket)).await {
        Ok(connected) => connected.map_err(unreachable),
        Err(_) => Err(unreachable(std::io::ErrorKind::TimedOut.into())),
    }
}
