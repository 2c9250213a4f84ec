//! HTTP/1.1 with JSON bodies over a unix socket, both ends: how the host is spoken to, and how the host speaks to its proxy. Serving
//! a connection is the same over TLS ([`super::tls`]).

use std::{convert::Infallible, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::timeout,
};

/// Connections that are served at once; more wait in the socket's backlog.
const MAX_CONNECTIONS: usize = 256;

/// The largest request body that is read, in bytes.
const MAX_REQUEST_BYTES: usize = 8 * 1024 * 1024;

/// How long a client may take to send a request's header.
const HEADER_LIMIT: Duration = Duration::from_secs(10);

/// How long a client may take to send a request's body.
const BODY_LIMIT: Duration = Duration::from_secs(30);

/// After this pause another connection is accepted when the system refused one (no descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The largest answer that is read, in bytes.
pub(super) const MAX_ANSWER_BYTES: usize = 32 * 1024 * 1024;

/// How long making the connection may take: the other end is on this machine, and either accepts or is not there.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody listens there, or whoever does is not who was meant; nothing was sent.
    #[error("nobody answers on {socket}: {source}")]
    Unreachable {
        /// The socket's path, or the address.
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
    let exchanged = async {
        let stream = connect(socket).await?;
        let broken = |reason| CallError::Broken { call: name(), socket: socket.display().to_string(), reason };
        exchange(stream, method.clone(), "segue", path_and_query, body).await.map_err(broken)
    };
    match timeout(limit, exchanged).await {
        Ok(answer) => answer,
        Err(_) => Err(CallError::Timeout { call: name(), socket: socket.display().to_string(), limit }),
    }
}

/// Sends one request on a fresh connection and reads the whole answer; says what went wrong.
pub async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    method: Method,
    host: &str,
    path_and_query: &str,
    body: Option<Vec<u8>>,
) -> Result<(StatusCode, Bytes), String> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let mut request = Request::builder().method(method).uri(path_and_query).header(header::HOST, host);
    if body.is_some() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    let request = request.body(Full::new(Bytes::from(body.unwrap_or_default()))).map_err(|e| e.to_string())?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        Ok((status, body.map_err(|e| e.to_string())?.to_bytes()))
    };
    // The connection is driven here rather than in a task of its own, so that dropping this future drops it too.
    tokio::pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        driven = connection => match driven {
            Ok(()) => answer.await,
            Err(error) => Err(error.to_string()),
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

/// A request that was read whole.
#[derive(Debug)]
pub struct Call {
    /// The method.
    pub method: Method,
    /// The path's parts, without empty ones.
    pub path: Vec<String>,
    /// The query's pairs, as they stand.
    pub query: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

impl Call {
    /// A number of the query.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        self.query.iter().find(|(key, _)| key == name)?.1.parse().ok()
    }
}

/// Serves `listener` for ever; `answer` gets each request and says status and JSON body.
///
/// A request whose client goes away is dropped where it stands: what must be finished regardless belongs in a task.
pub async fn serve<A, F>(listener: UnixListener, answer: A)
where
    A: Fn(Call) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = (StatusCode, Bytes)> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // The semaphore is never closed.
    while let Ok(permit) = permits.clone().acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let answer = answer.clone();
        tokio::spawn(async move {
            serve_connection(stream, answer, HEADER_LIMIT).await;
            drop(permit);
        });
    }
}

/// Serves one connection until its client has gone, or sends no header of a next request for `header_limit`.
pub(super) async fn serve_connection<A, F>(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: A,
    header_limit: Duration,
) where
    A: Fn(Call) -> F + Clone,
    F: Future<Output = (StatusCode, Bytes)>,
{
    let service = service_fn(move |request| respond(request, answer.clone()));
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(header_limit).max_buf_size(64 * 1024);
    // A connection that breaks is the client's loss; there is nobody to tell.
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

async fn respond<A, F>(request: Request<Incoming>, answer: A) -> Result<Response<Full<Bytes>>, Infallible>
where
    A: Fn(Call) -> F,
    F: Future<Output = (StatusCode, Bytes)>,
{
    let (parts, body) = request.into_parts();
    let body = match timeout(BODY_LIMIT, Limited::new(body, MAX_REQUEST_BYTES).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => return Ok(plain(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large or broke off")),
        Err(_) => return Ok(plain(StatusCode::REQUEST_TIMEOUT, "the body did not come in time")),
    };
    let pairs = parts.uri.query().unwrap_or("").split('&').filter_map(|pair| pair.split_once('='));
    let call = Call {
        method: parts.method,
        path: parts.uri.path().split('/').filter(|p| !p.is_empty()).map(str::to_owned).collect(),
        query: pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        body,
    };
    let (status, body) = answer(call).await;
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    Ok(response)
}

fn plain(status: StatusCode, words: &'static str) -> Response<Full<Bytes>> {
    let body = serde_json::json!({ "code": "bad_request", "message": words }).to_string();
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
}
