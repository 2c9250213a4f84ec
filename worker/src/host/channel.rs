//! How a host is reached: over its unix socket, or over TLS 1.3 where it joined from another machine. Connections over TLS are kept
//! and used again, since making one costs two ways through the network and three signatures. What is kept may have been closed by
//! the host meanwhile: then the call is made once more on a new one, which every call of the host's API allows.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    client::{Resumption, WebPkiServerVerifier},
    pki_types::ServerName,
    version::TLS13,
};
use segue_schemas::host_join::{HostAccess, TLS, tls_name};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use super::{
    identity::Parts,
    unix_http::{self, CallError, MAX_ANSWER_BYTES},
};

/// Connections that are kept while nobody uses them.
const KEPT: usize = 4;
/// How long reaching the host may take, and how long the handshake.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// How a host is reached. Cheap to clone; clones share connections.
#[derive(Debug, Clone)]
pub enum Channel {
    /// A unix socket of this machine; each call has a connection of its own.
    Unix(PathBuf),
    /// TLS to another machine.
    Tls(Arc<TlsChannel>),
}

/// The way to a host on another machine.
pub struct TlsChannel {
    /// `HOST:PORT`.
    address: String,
    name: ServerName<'static>,
    way: Mutex<Way>,
}

/// What new connections are made with, and those that are kept.
struct Way {
    config: Arc<ClientConfig>,
    idle: Vec<SendRequest<Full<Bytes>>>,
    /// One higher with each certificate: connections of an earlier one are not kept.
    generation: u64,
}

impl std::fmt::Debug for TlsChannel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsChannel").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Channel {
    /// The way to the host `name` at `address`: the path of a socket, or `tls://HOST:PORT`, for which `access` is needed.
    ///
    /// # Errors
    /// In words, where what opens it is missing or can't be read.
    pub fn to(name: &str, address: &str, access: Option<&HostAccess>) -> Result<Self, String> {
        let Some(address) = address.strip_prefix(TLS) else { return Ok(Self::Unix(address.into())) };
        let access = access.ok_or_else(|| format!("nothing came that opens the host `{name}`"))?;
        let name = ServerName::try_from(tls_name(name)).map_err(|e| e.to_string())?;
        let way = Way { config: config(access)?, idle: Vec::new(), generation: 0 };
        Ok(Self::Tls(Arc::new(TlsChannel { address: address.to_owned(), name, way: Mutex::new(way) })))
    }

    /// The socket of a host of this machine.
    #[must_use]
    pub fn socket(&self) -> Option<&Path> {
        match self {
            Self::Unix(socket) => Some(socket),
            Self::Tls(_) => None,
        }
    }

    /// Whether the host is on another machine.
    #[must_use]
    pub const fn is_joined(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Goes by another certificate from now on.
    ///
    /// # Errors
    /// In words, where it can't be read; the one before stays.
    pub fn renew(&self, access: &HostAccess) -> Result<(), String> {
        let Self::Tls(channel) = self else { return Ok(()) };
        let config = config(access)?;
        let mut way = channel.way();
        *way = Way { config, idle: Vec::new(), generation: way.generation + 1 };
        Ok(())
    }

    /// Sends one request and reads the whole answer, `limit` for everything together. A cancelled future closes its connection.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn call(
        &self,
        method: Method,
        path_and_query: &str,
        body: Option<Vec<u8>>,
        limit: Duration,
    ) -> Result<(StatusCode, Bytes), CallError> {
        let channel = match self {
            Self::Unix(socket) => return unix_http::call(socket, method, path_and_query, body, limit).await,
            Self::Tls(channel) => channel,
        };
        let call = format!("{method} {path_and_query}");
        match timeout(limit, channel.exchange(&method, path_and_query, body.unwrap_or_default().into())).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(Failed::Connect(source))) => Err(CallError::Unreachable { socket: channel.address.clone(), source }),
            Ok(Err(Failed::Exchange(reason))) => {
                Err(CallError::Broken { call, socket: channel.address.clone(), reason })
            }
            Err(_) => Err(CallError::Timeout { call, socket: channel.address.clone(), limit }),
        }
    }
}

enum Failed {
    /// No connection; nothing was sent.
    Connect(std::io::Error),
    /// It broke; the request may have been carried out.
    Exchange(String),
}

impl TlsChannel {
    fn way(&self) -> std::sync::MutexGuard<'_, Way> {
        self.way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn exchange(&self, method: &Method, path: &str, body: Bytes) -> Result<(StatusCode, Bytes), Failed> {
        let (kept, generation) = {
            let mut way = self.way();
            way.idle.retain(SendRequest::is_ready);
            (way.idle.pop(), way.generation)
        };
        if let Some(mut sender) = kept
            && let Ok(answer) = self.ask(&mut sender, method, path, body.clone()).await
        {
            self.keep(sender, generation);
            return Ok(answer);
        }
        let mut sender = self.connect().await.map_err(Failed::Connect)?;
        let answer = self.ask(&mut sender, method, path, body).await.map_err(Failed::Exchange)?;
        self.keep(sender, generation);
        Ok(answer)
    }

    fn keep(&self, sender: SendRequest<Full<Bytes>>, generation: u64) {
        let mut way = self.way();
        if way.generation == generation && way.idle.len() < KEPT && !sender.is_closed() {
            way.idle.push(sender);
        }
    }

    async fn ask(
        &self,
        sender: &mut SendRequest<Full<Bytes>>,
        method: &Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), String> {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, &self.address);
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(body)).map_err(|e| e.to_string())?;
        sender.ready().await.map_err(|e| chain(&e))?;
        let response = sender.send_request(request).await.map_err(|e| chain(&e))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        Ok((status, body.map_err(|e| e.to_string())?.to_bytes()))
    }

    async fn connect(&self) -> std::io::Result<SendRequest<Full<Bytes>>> {
        let config = self.way().config.clone();
        let late = |_| std::io::Error::from(std::io::ErrorKind::TimedOut);
        let stream = timeout(CONNECT_LIMIT, TcpStream::connect(&self.address)).await.map_err(late)??;
        stream.set_nodelay(true)?;
        let connecting = TlsConnector::from(config).connect(self.name.clone(), stream);
        let stream = timeout(CONNECT_LIMIT, connecting).await.map_err(late)??;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(std::io::Error::other)?;
        // it ends with its sender: kept, dropped by a call that was given up, or with the channel
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to a host ended");
            }
        });
        Ok(sender)
    }
}

fn config(access: &HostAccess) -> Result<Arc<ClientConfig>, String> {
    let parts = Parts::read(&access.authority, &access.certificate, &access.key, &access.revocations)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(parts.authority).map_err(|e| e.to_string())?;
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .with_crls([parts.revocations])
        .build()
        .map_err(|e| e.to_string())?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(|e| e.to_string())?
        .with_webpki_verifier(verifier)
        .with_client_auth_cert(vec![parts.certificate], parts.key.into())
        .map_err(|e| e.to_string())?;
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// An error with what it came from: hyper's own words say little.
fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}
