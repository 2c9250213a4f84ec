//! A store of objects that speaks enough of Amazon S3's protocol for what Segue asks of one, in memory, on the loopback. It
//! checks every signature, keeps the rules on parts and ranges, and fails when it is told to.
//!
//! Comes in: requests as <https://docs.aws.amazon.com/AmazonS3/latest/API/API_Operations.html> has them, and from the test what
//! is to go wrong. Goes out: answers, and what lies in it. Never here: anything that Segue relies on and Amazon does not promise.

mod objects;
mod signature;

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Result;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{StreamExt as _, stream};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::JoinSet};

use objects::{Answer, Buckets};

/// The largest body.
const MAX_BODY_BYTES: usize = 64 << 20;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// PutObject
    Put,
    /// GetObject
    Get,
    /// HeadObject
    Head,
    /// DeleteObject
    Delete,
    /// DeleteObjects
    DeleteMany,
    /// ListObjectsV2
    List,
    /// CreateMultipartUpload
    Create,
    /// UploadPart
    Part,
    /// CompleteMultipartUpload
    Complete,
    /// AbortMultipartUpload
    Abort,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// 503 SlowDown.
    SlowDown,
    /// 403 AccessDenied.
    Denied,
    /// The connection breaks in the middle of the answer; it was done all the same.
    Reset,
    /// No answer.
    Stall,
}

/// The store. Dropped, it ends.
pub struct S3 {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    server: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct State {
    keys: HashMap<String, String>,
    buckets: Buckets,
    clock: TimeDelta,
    faults: Vec<(Operation, Fault, usize)>,
    is_down: bool,
    asked: Vec<Operation>,
}

impl State {
    fn now(&self) -> DateTime<Utc> {
        Utc::now() + self.clock
    }
}

impl S3 {
    /// Starts one with an empty bucket and the access key that opens it.
    ///
    /// # Errors
    /// There is no free port.
    pub async fn start(bucket: &str, id: &str, secret: &str) -> Result<Self> {
        let mut state = State::default();
        state.keys.insert(id.into(), secret.into());
        state.buckets.make(bucket);
        let state = Arc::new(Mutex::new(state));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let server = tokio::spawn(serve(listener, state.clone()));
        Ok(Self { address, state, server })
    }

    /// Its address, as a configuration names it.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next so many requests of a kind go wrong.
    pub fn fail(&self, operation: Operation, fault: Fault, times: usize) {
        self.state().faults.push((operation, fault, times));
    }

    /// Nothing is told to go wrong any more.
    pub fn mend(&self) {
        self.state().faults.clear();
    }

    /// From now on every connection is closed without an answer, or not.
    pub fn set_down(&self, is_down: bool) {
        self.state().is_down = is_down;
    }

    /// Puts its clock forward, or back.
    pub fn set_clock(&self, ahead: TimeDelta) {
        self.state().clock = ahead;
    }

    /// How many objects a page of a list has.
    pub fn set_page(&self, objects: usize) {
        self.state().buckets.page = objects;
    }

    /// The names of the objects, in order.
    #[must_use]
    pub fn objects(&self, bucket: &str) -> Vec<String> {
        self.state().buckets.names(bucket)
    }

    /// Puts an object there, or another in its place.
    pub fn put(&self, bucket: &str, name: &str, bytes: impl Into<Bytes>) {
        let mut state = self.state();
        let now = state.now();
        state.buckets.put(bucket, name, bytes.into(), now);
    }

    /// Takes an object away.
    pub fn remove(&self, bucket: &str, name: &str) {
        self.state().buckets.remove(bucket, name);
    }

    /// Makes every object older.
    pub fn age(&self, by: TimeDelta) {
        self.state().buckets.age(by);
    }

    /// Uploads in parts that are neither complete nor taken back.
    #[must_use]
    pub fn open_uploads(&self) -> usize {
        self.state().buckets.open_uploads()
    }

    /// How often it was asked for something, refusals included.
    #[must_use]
    pub fn asked(&self, operation: Operation) -> usize {
        self.state().asked.iter().filter(|asked| **asked == operation).count()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, state: Arc<Mutex<State>>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { return };
                if state.lock().unwrap_or_else(PoisonError::into_inner).is_down {
                    continue;
                }
                let state = state.clone();
                connections.spawn(async move {
                    let service = service_fn(|request| answer(request, state.clone()));
                    // a connection that breaks off is the other side's business
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        }
    }
}

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

async fn answer(request: Request<Incoming>, state: Arc<Mutex<State>>) -> std::io::Result<Response<Body>> {
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, MAX_BODY_BYTES).collect().await else {
        return Err(std::io::ErrorKind::ConnectionReset.into());
    };
    let body = body.to_bytes();
    let query = signature::pairs(head.uri.query());
    let path = signature::decode(head.uri.path());
    let (bucket, key) = path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_start_matches('/'), ""));
    let (answer, fault) = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.is_down {
            return Err(std::io::ErrorKind::ConnectionReset.into());
        }
        let operation = objects::operation(&head.method, key, &query);
        let fault = operation.and_then(|operation| next_fault(&mut state, operation));
        state.asked.extend(operation);
        let now = state.now();
        let answer = match (signature::check(&head, &body, &state.keys, now), operation, fault) {
            (Err((code, message)), ..) => Answer::refusal(code, message),
            (_, _, Some(Fault::SlowDown)) => Answer::refusal("SlowDown", "Please reduce your request rate."),
            (_, _, Some(Fault::Denied)) => Answer::refusal("AccessDenied", "Access Denied"),
            (_, None, _) => {
                Answer::refusal("NotImplemented", "A header or query you provided implies something unknown.")
            }
            (Ok(()), Some(operation), _) => {
                state.buckets.perform(operation, &objects::Asked { bucket, key, query: &query, head: &head, body, now })
            }
        };
        (answer, fault)
    };
    match fault {
        Some(Fault::Stall) => std::future::pending().await,
        Some(Fault::Reset) => Ok(broken(answer)),
        _ => Ok(whole(answer, head.method == http::Method::HEAD)),
    }
}

fn next_fault(state: &mut State, operation: Operation) -> Option<Fault> {
    let at = state.faults.iter().position(|(of, ..)| *of == operation)?;
    let (_, fault, left) = &mut state.faults[at];
    let fault = *fault;
    *left -= 1;
    if *left == 0 {
        state.faults.remove(at);
    }
    Some(fault)
}

fn head(answer: &Answer) -> http::response::Builder {
    let mut response = Response::builder().status(answer.status).header("content-length", answer.body.len());
    for (name, value) in &answer.headers {
        response = response.header(*name, value);
    }
    response
}

fn whole(answer: Answer, is_head: bool) -> Response<Body> {
    let response = head(&answer);
    let body = if is_head { Bytes::new() } else { answer.body };
    response
        .body(Full::new(body).map_err(|never: Infallible| match never {}).boxed_unsync())
        .unwrap_or_else(|_| failed())
}

/// Half of the body, then the end of the connection.
fn broken(answer: Answer) -> Response<Body> {
    let half = answer.body.slice(..answer.body.len() / 2);
    let frames = stream::iter([Ok(Frame::data(half))]).chain(stream::once(async {
        // what was sent is to arrive before the end does
        tokio::time::sleep(Duration::from_millis(50)).await;
        Err(std::io::ErrorKind::ConnectionReset.into())
    }));
    // where there is no body, it is announced, and does not come
    let length = answer.body.len().max(1);
    let mut response = Response::builder().status(answer.status).header("content-length", length);
    for (name, value) in &answer.headers {
        response = response.header(*name, value);
    }
    response.body(StreamBody::new(frames).boxed_unsync()).unwrap_or_else(|_| failed())
}

fn failed() -> Response<Body> {
    let mut response =
        Response::new(Full::new(Bytes::new()).map_err(|never: Infallible| match never {}).boxed_unsync());
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response
}
