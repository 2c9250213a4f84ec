//! A host that joined, and its server: joining, the certificate's renewal, and the host's word, which the server holds until a
//! certificate was revoked. Comes in: the host's identity and what it carries. Goes out: a newer identity, for [`super::tls`]; artifacts.
//! The server may speak plain HTTP; what is sent is signed, what comes is checked against the authority ([`super::identity`]).

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use rand::Rng as _;
use reqwest::{Client, Method, RequestBuilder, Response, Url};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use segue_schemas::{
    host_api::HostState,
    host_join::{
        Certified, HOST_HEADER, HostHeard, HostWord, JoinHost, JoinToken, RenewHost, SIGNATURE_HEADER, TIME_HEADER,
        WORD_LIMIT_MS, hex, is_host_name, join_text,
    },
    id::Digest,
    time::Timestamp,
    worker_api::ErrorBody,
};
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::{Mutex, watch},
    time::sleep,
};

use super::{
    Host,
    identity::{self, Identity, IdentityError, now},
};

/// How long making a connection may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long an answer may take that the server does not hold back.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// Pauses between tries grow from the first to the second of these.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How long changes of what the host carries are gathered before they are told.
const GATHERED: Duration = Duration::from_millis(500);
/// How long the server goes at most without the whole of what the host carries: it may know less than it did.
const AGAIN: Duration = Duration::from_secs(600);
/// Bytes of an answer that are read.
const LARGEST_ANSWER: usize = 16 << 20;

/// Why a machine can't join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// What was typed can't be used.
    #[error("{0}")]
    Usage(String),
    /// The server said no.
    #[error("the server refused: {0}")]
    Refused(String),
    /// The server did not answer, or not as one does.
    #[error("the server at {server} can't be used: {reason}")]
    Server {
        /// Its address.
        server: String,
        /// What happened.
        reason: String,
    },
    /// What answered is not the server that the token is from.
    #[error(
        "what answers at {0} is not the server that this token is from: its authority is another. Look at the address; if it is right, \
         somebody stands between"
    )]
    Impostor(String),
    /// The identity can't be kept.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// How a machine joins.
#[derive(Debug)]
pub struct Join {
    /// The server's address.
    pub server: String,
    /// The token.
    pub token: JoinToken,
    /// The name that it was made for.
    pub name: String,
    /// Where the host's API is to listen for workers.
    pub listen: SocketAddr,
    /// Where workers reach that; `None`: there, or where it listens everywhere, at the address that the server is reached from.
    pub address: Option<String>,
}

/// Joins a server: makes a key, has its certificate signed, and keeps both in the host's data folder. A running host takes it up at
/// its next start.
///
/// # Errors
/// [`JoinError`]; the token can be used again after [`JoinError::Usage`] and [`JoinError::Server`].
pub async fn join(data: &Path, join: Join) -> Result<Identity, JoinError> {
    let server = server_url(&join.server).map_err(JoinError::Usage)?;
    if !is_host_name(&join.name) {
        return Err(JoinError::Usage(format!(
            "`{}` can't name a host that joins: take 1 to 63 small letters, digits and `-`",
            join.name.escape_debug()
        )));
    }
    if let Some(known) = Identity::open(data)? {
        return Err(JoinError::Usage(format!(
            "the host in {} has joined {} as `{}` already: name another folder with --data, or remove {}/joined.json",
            data.display(),
            known.server(),
            known.name(),
            data.display()
        )));
    }
    super::make_private_folder(data)
        .map_err(|source| JoinError::Identity(IdentityError::File { path: data.to_owned(), source }))?;
    let address = match join.address {
        Some(address) => address,
        None => reached_at(&server, join.listen).await.map_err(|reason| unusable(&server, reason))?,
    };
    let key = identity::new_key()?;
    let request = identity::request(&key)?;
    let token = Ed25519KeyPair::from_seed_unchecked(&join.token.seed)
        .map_err(|e| JoinError::Usage(format!("the token can't be used: {e}")))?;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let signature = token.sign(&join_text(&join.name, &address, &version, &request));
    let body = JoinHost {
        name: join.name.clone(),
        address,
        version,
        request,
        token: hex(token.public_key().as_ref()),
        signature: hex(signature.as_ref()),
    };
    let asked = client(&server).map_err(|reason| unusable(&server, reason))?.post(path(&server, "/join"));
    let certified: Certified = match ask(asked.timeout(ANSWER_LIMIT).json(&body)).await {
        Ok(certified) => certified,
        Err(Trouble::Revoked(why) | Trouble::Refused(why)) => return Err(JoinError::Refused(why)),
        Err(Trouble::Away(reason)) => return Err(unusable(&server, reason)),
    };
    let shown = base64_digest(&certified.authority).map_err(|reason| unusable(&server, reason))?;
    if shown != join.token.authority {
        return Err(JoinError::Impostor(server.to_string()));
    }
    Ok(Identity::create(data, (join.server, join.name, join.listen), &key, certified)?)
}

fn unusable(server: &Url, reason: String) -> JoinError {
    JoinError::Server { server: server.to_string(), reason }
}

fn base64_digest(text: &str) -> Result<[u8; 32], String> {
    use base64::Engine as _;
    let der = base64::engine::general_purpose::STANDARD.decode(text).map_err(|e| e.to_string())?;
    Ok(Sha256::digest(der).into())
}

/// The address under which workers reach what listens on `listen`: of what listens everywhere, that of the network towards the server.
async fn reached_at(server: &Url, listen: SocketAddr) -> Result<String, String> {
    if !listen.ip().is_unspecified() {
        return Ok(listen.to_string());
    }
    let (host, port) = (server.host_str().unwrap_or_default(), server.port_or_known_default().unwrap_or(80));
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let towards = tokio::net::lookup_host((host, port)).await.map_err(|e| format!("{host}: {e}"))?.next();
    let towards = towards.ok_or_else(|| format!("{host} has no address"))?;
    let any: SocketAddr = if towards.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    // nothing is sent: the system only says by which address it would go
    let found = std::net::UdpSocket::bind(any).and_then(|socket| {
        socket.connect(towards)?;
        socket.local_addr()
    });
    Ok(SocketAddr::new(found.map_err(|e| e.to_string())?.ip(), listen.port()).to_string())
}

/// Why a request to the server brought nothing.
enum Trouble {
    /// This host has no say there any more.
    Revoked(String),
    /// It said no to this.
    Refused(String),
    /// No answer, or "not now".
    Away(String),
}

impl Trouble {
    fn words(self) -> String {
        match self {
            Self::Revoked(why) | Self::Refused(why) | Self::Away(why) => why,
        }
    }
}

fn server_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|e| format!("`{text}`: {e}; write http://HOST:PORT"))?;
    let is_well = matches!(url.scheme(), "http" | "https") && url.has_host();
    if is_well { Ok(url) } else { Err(format!("`{text}` is no http or https address")) }
}

fn path(server: &Url, path: &str) -> Url {
    let mut url = server.clone();
    url.set_path(&format!("{}/api/v1/host{path}", server.path().trim_end_matches('/')));
    url
}

fn client(server: &Url) -> Result<Client, String> {
    let client = Client::builder().connect_timeout(CONNECT_LIMIT).redirect(reqwest::redirect::Policy::none());
    let is_local = server.host_str().is_some_and(|host| host == "localhost" || host.starts_with("127."));
    let client = if is_local { client.no_proxy() } else { client };
    client.build().map_err(|e| format!("no HTTP client: {e}"))
}

async fn ask<A: DeserializeOwned>(request: RequestBuilder) -> Result<A, Trouble> {
    let answer = send(request).await?;
    let body = bounded(answer).await.map_err(Trouble::Away)?;
    serde_json::from_slice(&body).map_err(|e| Trouble::Away(format!("the answer can't be read: {e}")))
}

async fn send(request: RequestBuilder) -> Result<Response, Trouble> {
    let answer = request.send().await.map_err(|e| Trouble::Away(words(&e.without_url())))?;
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let body = bounded(answer).await.unwrap_or_default();
    let (code, message) = match serde_json::from_slice::<ErrorBody>(&body) {
        Ok(told) => (told.error.code, told.error.message),
        Err(_) => (String::new(), format!("{status}, without a reason")),
    };
    Err(match code.as_str() {
        "revoked" => Trouble::Revoked(message),
        _ if status.is_client_error() && !code.is_empty() => Trouble::Refused(message),
        _ => Trouble::Away(message),
    })
}

async fn bounded(mut answer: Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|e| words(&e.without_url()))? {
        body.extend_from_slice(&chunk);
        if body.len() > LARGEST_ANSWER {
            return Err(format!("the answer has more than {LARGEST_ANSWER} bytes"));
        }
    }
    Ok(body)
}

/// An error with what it came from.
fn words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}

/// Whether a host that joined is one still.
#[derive(Debug, Clone)]
pub(super) enum Membership {
    /// It is, under this identity.
    Holds(Arc<Identity>),
    /// Its server takes nothing from it any more: it listens to no worker. It goes on asking, since whoever stands between the two can
    /// say so as well.
    Ended(Arc<Identity>),
}

/// A host's link to its server.
#[derive(Debug)]
pub(super) struct Link {
    server: Url,
    client: Client,
    membership: watch::Sender<Membership>,
    /// Held while the identity is changed.
    changing: Mutex<()>,
}

impl Link {
    /// The link of a host with this identity.
    ///
    /// # Errors
    /// In words, where the server's address can't be used.
    pub(super) fn new(identity: Identity) -> Result<Self, String> {
        let server = server_url(identity.server())?;
        let membership = watch::Sender::new(Membership::Holds(Arc::new(identity)));
        Ok(Self { client: client(&server)?, server, membership, changing: Mutex::default() })
    }

    /// Word of each change.
    pub(super) fn membership(&self) -> watch::Receiver<Membership> {
        self.membership.subscribe()
    }

    fn identity(&self) -> Arc<Identity> {
        match &*self.membership.borrow() {
            Membership::Holds(identity) | Membership::Ended(identity) => identity.clone(),
        }
    }

    /// An artifact, as the server sends it.
    ///
    /// # Errors
    /// In words.
    pub(super) async fn artifact(&self, digest: &Digest) -> Result<Response, String> {
        let identity = self.identity();
        let at = format!("/artifacts/{digest}");
        let request = self.signed(&identity, Method::GET, &at, Vec::new()).map_err(|e| e.to_string())?;
        send(request.timeout(Duration::from_secs(3600))).await.map_err(Trouble::words)
    }

    fn signed(
        &self,
        identity: &Identity,
        method: Method,
        to: &str,
        body: Vec<u8>,
    ) -> Result<RequestBuilder, IdentityError> {
        let at = now();
        let signature = identity.sign(method.as_str(), to, at, &body)?;
        let request = self.client.request(method, path(&self.server, to));
        Ok(request
            .header(HOST_HEADER, identity.name())
            .header(TIME_HEADER, at.0.to_string())
            .header(SIGNATURE_HEADER, signature)
            .header(reqwest::header::CONTENT_TYPE, "application/json")
            .body(body))
    }

    async fn post<A: DeserializeOwned>(
        &self,
        identity: &Identity,
        to: &str,
        body: &impl Serialize,
        limit: Duration,
    ) -> Result<A, Trouble> {
        let body = serde_json::to_vec(body).map_err(|e| Trouble::Refused(e.to_string()))?;
        let request = self.signed(identity, Method::POST, to, body).map_err(|e| Trouble::Refused(e.to_string()))?;
        ask(request.timeout(limit)).await
    }

    /// Renews the certificate whenever it is time to, for ever.
    pub(super) async fn renew(&self) {
        let mut pause = PAUSES.0;
        loop {
            let identity = self.identity();
            let left = u64::try_from(identity.renew_at().0 - now().0).unwrap_or(0);
            if left > 0 {
                // looked at again at least each hour: the clock may be set, the machine may sleep
                let mut changed = self.membership();
                tokio::select! {
                    () = sleep(Duration::from_millis(left).min(Duration::from_secs(3600))) => {}
                    _ = changed.changed() => {}
                }
                continue;
            }
            match self.renew_once(&identity).await {
                Ok(()) => {
                    pause = PAUSES.0;
                    tracing::info!(host = identity.name(), "the certificate was renewed");
                }
                Err(Trouble::Revoked(why)) => {
                    self.end(&why);
                    sleep(jittered(PAUSES.1)).await;
                }
                Err(trouble) => {
                    tracing::warn!(error = trouble.words(), "the certificate can't be renewed now; tried again");
                    sleep(jittered(pause)).await;
                    pause = (pause * 2).min(PAUSES.1);
                }
            }
        }
    }

    async fn renew_once(&self, identity: &Identity) -> Result<(), Trouble> {
        let request = identity.request().map_err(|e| Trouble::Refused(e.to_string()))?;
        let certified: Certified = self.post(identity, "/renew", &RenewHost { request }, ANSWER_LIMIT).await?;
        self.change(move |identity| identity.renewed(certified)).await
    }

    async fn change(
        &self,
        change: impl FnOnce(&mut Identity) -> Result<(), IdentityError> + Send + 'static,
    ) -> Result<(), Trouble> {
        let _alone = self.changing.lock().await;
        let mut next = (*self.identity()).clone();
        let changed = tokio::task::spawn_blocking(move || change(&mut next).map(|()| next)).await;
        let next =
            changed.map_err(|e| Trouble::Refused(e.to_string()))?.map_err(|e| Trouble::Refused(e.to_string()))?;
        self.membership.send_modify(|membership| match membership {
            Membership::Holds(identity) | Membership::Ended(identity) => *identity = Arc::new(next),
        });
        Ok(())
    }

    fn end(&self, why: &str) {
        self.membership.send_if_modified(|membership| {
            let Membership::Holds(identity) = membership else { return false };
            tracing::error!(why, "this host is none of its server's any more, and listens to no worker");
            *membership = Membership::Ended(identity.clone());
            true
        });
    }

    /// The server has taken this host's word.
    fn holds(&self) {
        self.membership.send_if_modified(|membership| {
            let Membership::Ended(identity) = membership else { return false };
            tracing::warn!("the server takes this host's word again: workers are listened to");
            *membership = Membership::Holds(identity.clone());
            true
        });
    }
}

impl Host {
    /// Tells the server what the host carries: at the start, after each change, and when the server may know less than it did. The
    /// server holds each word, so that it is told at once of certificates that were revoked.
    pub(super) async fn tell_server(self: Arc<Self>, link: Arc<Link>) {
        let (mut changes, mut news) = (self.store.watch(), self.news.watch());
        let mut told: Option<HostState> = None;
        let mut told_at = tokio::time::Instant::now();
        let mut pause = PAUSES.0;
        loop {
            let identity = link.identity();
            changes.mark_unchanged();
            news.mark_unchanged();
            let state = lasting(self.state().await);
            let is_new = told.as_ref() != Some(&state) || told_at.elapsed() >= AGAIN;
            // what was said already is waited with, for what changes here or there
            let wait_ms = if is_new { 0 } else { WORD_LIMIT_MS };
            let word = HostWord { state: is_new.then(|| state.clone()), revision: identity.revision(), wait_ms };
            let limit = ANSWER_LIMIT + Duration::from_millis(wait_ms);
            let heard = tokio::select! {
                heard = link.post::<HostHeard>(&identity, "/word", &word, limit) => heard,
                _ = changes.changed(), if !is_new => {
                    sleep(GATHERED).await;
                    continue;
                }
                // how its instances and its router fare is in no record
                _ = news.changed(), if !is_new => {
                    sleep(GATHERED).await;
                    continue;
                }
            };
            match heard {
                Ok(heard) => {
                    pause = PAUSES.0;
                    link.holds();
                    if is_new {
                        (told, told_at) = (Some(state), tokio::time::Instant::now());
                    }
                    if let Some(revocations) = heard.revocations
                        && let Err(trouble) = link.change(move |it| it.revised(revocations)).await
                    {
                        tracing::error!(
                            error = trouble.words(),
                            "a list of revoked certificates can't be taken; asked for again"
                        );
                        sleep(PAUSES.1).await;
                    }
                }
                Err(Trouble::Revoked(why)) => {
                    link.end(&why);
                    sleep(jittered(PAUSES.1)).await;
                }
                Err(trouble) => {
                    tracing::debug!(error = trouble.words(), "the server has no word of this host now");
                    told = None;
                    sleep(jittered(pause)).await;
                    pause = (pause * 2).min(PAUSES.1);
                }
            }
        }
    }
}

/// So that hosts that lost their server together do not come back together.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.5..1.0))
}

/// What of a host's state is worth a word when it changes: not what each request and each renewal changes.
fn lasting(mut state: HostState) -> HostState {
    for route in &mut state.routes {
        route.in_flight.clear();
        route.newest_observation = 0;
        route.dead_man_at = route.dead_man_at.map(|_| Timestamp(0));
    }
    state
}
