//! What happens to one request: an instance is chosen, every attempt is counted and observed, a failure is answered in words.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use pingora_core::{
    Error, ErrorSource, ErrorType, Result, modules::http::HttpModules, protocols::http::server::Session as Downstream,
    upstreams::peer::HttpPeer,
};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use segue_schemas::{deploy::Outcome, id::InstanceId, time::Timestamp};
use tokio::sync::watch;

use super::{
    assign::Client,
    hold::{HOLD_LIMIT, RETRY_AFTER_SECONDS, Waiting},
    observations::Observed,
    table::{Choice, NoChoice, Routing},
};

/// Attempts at one request, over all instances.
pub const MAX_ATTEMPTS: usize = 4;

/// How long making a connection to an instance may take; it is on this machine.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// How long an instance may be silent before its answer is given up. Long, because a token stream or a web socket may pause.
const SILENCE_LIMIT: Duration = Duration::from_secs(3600);

/// How long a connection to an instance is kept without a request. Below the keep-alive limits of common servers, so that a
/// request is not sent into a connection that is just being closed.
const IDLE_LIMIT: Duration = Duration::from_secs(4);

/// Declares a request synthetic: sent by Segue, or by a load generator that says so.
static SYNTHETIC: HeaderName = HeaderName::from_static("segue-synthetic");
static FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The routes as the traffic and the control side share them.
///
/// A request is given to an instance, and counted there, under the lock. Once a new table is in place, no request can any
/// more be given to an instance by the old one, and all that were are counted: so a drain that begins then misses none.
#[derive(Debug, Default)]
pub struct SharedRouting {
    table: RwLock<Arc<Routing>>,
    /// Set with each new table.
    replaced: watch::Sender<()>,
    /// Requests that wait for what sleeps.
    pub waiting: Arc<Waiting>,
}

impl SharedRouting {
    /// The table in force.
    pub fn current(&self) -> Arc<Routing> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts the table in force that `make` builds from the one before.
    pub fn replace(&self, make: impl FnOnce(&Routing) -> Routing) {
        {
            let mut guard = self.table.write().unwrap_or_else(PoisonError::into_inner);
            *guard = Arc::new(make(&guard));
        }
        self.replaced.send_replace(());
    }

    fn choose(
        &self,
        client: Option<Client>,
        request: &RequestHeader,
        tried: &[InstanceId],
    ) -> Result<Choice, NoChoice> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.choose(client, host_of(request), request.uri.path(), &request.headers, tried)
    }

    /// The same, once what sleeps is awake; as it is at the latest when [`HOLD_LIMIT`] is over, or at once where too many wait.
    async fn choose_awake(
        &self,
        client: Option<Client>,
        request: &RequestHeader,
        tried: &[InstanceId],
    ) -> Result<Choice, NoChoice> {
        let choice = self.choose(client, request, tried);
        let Err(NoChoice::Asleep { environment, service }) = &choice else { return choice };
        let mut replaced = self.replaced.subscribe();
        let Some(_place) = self.waiting.enter(environment, service) else { return choice };
        let deadline = tokio::time::Instant::now() + HOLD_LIMIT;
        loop {
            let choice = self.choose(client, request, tried);
            if !matches!(choice, Err(NoChoice::Asleep { .. })) {
                return choice;
            }
            // the sender is in `self`
            if tokio::time::timeout_at(deadline, replaced.changed()).await.is_err() {
                return choice;
            }
        }
    }
}

/// The proxy's side of every request.
#[derive(Debug)]
pub struct Traffic {
    /// The routes.
    pub routing: Arc<SharedRouting>,
}

/// One request on its way.
#[derive(Debug, Default)]
pub struct Passage {
    attempt: Option<Attempt>,
    attempts: u8,
    /// Who asks, where each client keeps its release: a new one is drawn once, however often it is tried.
    client: Option<Client>,
    /// Instances that could not be connected to.
    unreachable: Vec<InstanceId>,
    /// What the client is told when the request fails.
    words: Option<String>,
    /// Whether it is told to come again.
    comes_again: bool,
}

/// One try at one instance.
#[derive(Debug)]
struct Attempt {
    choice: Choice,
    number: u8,
    synthetic: bool,
    started: Instant,
    first_byte: Option<Duration>,
    status: u16,
}

impl Attempt {
    /// Records how it ended. The instance's count goes down only after that, so that whoever sees that nothing is in flight
    /// also sees what was.
    fn end(self, outcome: Outcome) {
        let duration = self.started.elapsed();
        let Choice { route, upstream, probability, rule, client, guard, .. } = self.choice;
        route.log.push(Observed {
            at: now(),
            instance: upstream.instance.clone(),
            probability,
            rule,
            unit: client.map(|client| client.unit()),
            status: self.status,
            outcome,
            latency_us: micros(self.first_byte.unwrap_or(duration)),
            duration_us: micros(duration),
            attempt: self.number,
            synthetic: self.synthetic,
        });
        drop(guard);
    }

    /// What an error says about the instance.
    fn outcome_of(&self, error: &Error) -> Outcome {
        match error.esource() {
            ErrorSource::Downstream => Outcome::ClientGone,
            _ if self.first_byte.is_some() => Outcome::Cut,
            _ => Outcome::Unreachable,
        }
    }
}

#[async_trait]
impl ProxyHttp for Traffic {
    type CTX = Passage;

    fn new_ctx(&self) -> Passage {
        Passage::default()
    }

    /// None: what an instance sends reaches the client as it is.
    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    async fn upstream_peer(&self, session: &mut Session, passage: &mut Passage) -> Result<Box<HttpPeer>> {
        let request = session.req_header();
        let choice = match self.routing.choose_awake(passage.client, request, &passage.unreachable).await {
            Ok(choice) => choice,
            Err(none) => {
                passage.comes_again = matches!(none, NoChoice::Asleep { .. });
                let (status, words) = words_for(&none, host_of(request), request.uri.path());
                passage.words = Some(words);
                return Err(Error::new_in(ErrorType::HTTPStatus(status)));
            }
        };
        let mut peer = Box::new(HttpPeer::new(choice.upstream.address, false, String::new()));
        // Two instances that had the same port one after the other never share a connection.
        peer.group_key = fingerprint(choice.upstream.instance.as_str());
        peer.options.connection_timeout = Some(CONNECT_LIMIT);
        peer.options.read_timeout = Some(SILENCE_LIMIT);
        peer.options.write_timeout = Some(SILENCE_LIMIT);
        peer.options.idle_timeout = Some(IDLE_LIMIT);
        passage.attempts = passage.attempts.saturating_add(1);
        passage.client = choice.client;
        passage.attempt = Some(Attempt {
            choice,
            number: passage.attempts,
            synthetic: request.headers.contains_key(&SYNTHETIC),
            started: Instant::now(),
            first_byte: None,
            status: 0,
        });
        Ok(peer)
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        _: &mut Passage,
    ) -> Result<()> {
        if let Some(client) = session.client_addr().and_then(|a| a.as_inet()) {
            let chain = match request.headers.get(&FORWARDED_FOR).and_then(|v| v.to_str().ok()) {
                Some(before) => format!("{before}, {}", client.ip()),
                None => client.ip().to_string(),
            };
            request.insert_header(FORWARDED_FOR.clone(), chain)?;
        }
        if !request.headers.contains_key(&FORWARDED_PROTO) {
            request.insert_header(FORWARDED_PROTO.clone(), HeaderValue::from_static("http"))?;
        }
        if !request.headers.contains_key(&FORWARDED_HOST)
            && let Some(host) = request.headers.get(header::HOST).cloned()
        {
            request.insert_header(FORWARDED_HOST.clone(), host)?;
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        passage: &mut Passage,
    ) -> Result<()> {
        if let Some(attempt) = &mut passage.attempt
            && attempt.first_byte.is_none()
            && (!response.status.is_informational() || response.status == http::StatusCode::SWITCHING_PROTOCOLS)
        {
            attempt.first_byte = Some(attempt.started.elapsed());
            attempt.status = response.status.as_u16();
            let proto = session.req_header().headers.get(&FORWARDED_PROTO);
            // of a list the first is what the client came with
            let first = |proto: &HeaderValue| -> Option<bool> {
                let first = proto.as_bytes().split(|byte| *byte == b',').next()?;
                Some(first.trim_ascii().eq_ignore_ascii_case(b"https"))
            };
            let is_secure = proto.and_then(first).unwrap_or(false);
            if let Some(cookie) = attempt.choice.cookie(is_secure) {
                response.append_header(header::SET_COOKIE, cookie)?;
            }
        }
        Ok(())
    }

    /// Nothing was sent: the request goes to another instance where there is one, whatever its method.
    fn fail_to_connect(
        &self,
        _: &mut Session,
        peer: &HttpPeer,
        passage: &mut Passage,
        mut error: Box<Error>,
    ) -> Box<Error> {
        if let Some(attempt) = passage.attempt.take() {
            passage.unreachable.push(attempt.choice.upstream.instance.clone());
            error.set_retry(attempt.choice.has_other_than(&passage.unreachable));
            passage.words = Some(format!(
                "{}: instance {} at {} can't be connected to ({})",
                attempt.choice.route.service,
                attempt.choice.upstream.instance,
                peer._address,
                error.etype().as_str(),
            ));
            attempt.end(Outcome::Unreachable);
        }
        error
    }

    /// Something was sent: again only where the method allows it and the connection was an old one that had been closed.
    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        passage: &mut Passage,
        client_reused: bool,
    ) -> Box<Error> {
        let repeatable = session.req_header().method.is_idempotent() && !session.as_ref().retry_buffer_truncated();
        if repeatable {
            error.retry.decide_reuse(client_reused);
        } else {
            error.set_retry(false);
        }
        if let Some(attempt) = passage.attempt.take() {
            let outcome = attempt.outcome_of(&error);
            passage.words = Some(format!(
                "{}: instance {} ended the connection without an answer ({})",
                attempt.choice.route.service,
                attempt.choice.upstream.instance,
                error.etype().as_str(),
            ));
            attempt.end(outcome);
        }
        error
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, passage: &mut Passage) -> FailToProxy {
        let status = status_for(error);
        if status > 0 {
            let words = passage.words.take().unwrap_or_else(|| error.etype().as_str().to_owned());
            // The client may be gone; there is nobody else to tell.
            let _ = respond(session, status, words, passage.comes_again).await;
        }
        FailToProxy { error_code: status, can_reuse_downstream: false }
    }

    async fn logging(&self, _: &mut Session, error: Option<&Error>, passage: &mut Passage) {
        if let Some(attempt) = passage.attempt.take() {
            let outcome = match error {
                Some(error) => attempt.outcome_of(error),
                None if attempt.status >= 500 => Outcome::ServerError,
                None => Outcome::Ok,
            };
            attempt.end(outcome);
        }
    }

    /// Observations say it, with numbers; a line for each failed request would fill the disk.
    fn suppress_error_log(&self, _: &Session, _: &Passage, _: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(&self, _: &Session, _: &Passage, _: &Error, _: ProxyWarnLogContext) -> bool {
        true
    }
}

async fn respond(session: &mut Session, status: u16, words: String, comes_again: bool) -> Result<()> {
    let body = Bytes::from(format!("{words}\n"));
    let mut response = Downstream::generate_error(status);
    response.set_content_length(body.len())?;
    response.insert_header(header::CONTENT_TYPE, "text/plain; charset=utf-8")?;
    if comes_again {
        response.insert_header(header::RETRY_AFTER, RETRY_AFTER_SECONDS.to_string())?;
    }
    session.as_downstream_mut().write_error_response(response, body).await
}

fn words_for(none: &NoChoice, host: &str, path: &str) -> (u16, String) {
    match none {
        NoChoice::NoRoute => (404, format!("no service is routed at host `{host}`, path `{path}`")),
        NoChoice::Asleep { service, .. } => {
            (503, format!("{service} sleeps and is being woken: come again in {RETRY_AFTER_SECONDS} seconds"))
        }
        NoChoice::NoTarget { environment, service } => {
            (503, format!("{service}: no instance has traffic in environment `{environment}`"))
        }
    }
}

/// The status that the client is answered with; 0 where it is gone.
fn status_for(error: &Error) -> u16 {
    match (error.etype(), error.esource()) {
        (ErrorType::HTTPStatus(status), _) => *status,
        (ErrorType::ConnectTimedout | ErrorType::ReadTimedout, ErrorSource::Upstream) => 504,
        (_, ErrorSource::Upstream) => 502,
        (ErrorType::WriteError | ErrorType::ReadError | ErrorType::ConnectionClosed, ErrorSource::Downstream) => 0,
        (_, ErrorSource::Downstream) => 400,
        (_, ErrorSource::Internal | ErrorSource::Unset) => 500,
    }
}

fn host_of(request: &RequestHeader) -> &str {
    let named = request.headers.get(header::HOST).and_then(|v| v.to_str().ok());
    named.or_else(|| request.uri.host()).unwrap_or("")
}

/// FNV-1a, 64 bits (<http://www.isthe.com/chongo/tech/comp/fnv/>): the same for the same name within and over processes.
fn fingerprint(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, b| (hash ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3))
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
