//! How an engine is reached: by a socket of this machine, by TCP with a certificate at both ends, or by a program of SSH's that speaks
//! with it there.
//!
//! Comes in: an address, and files. Goes out: connections, or in words why there is none. Never here: what is asked of the engine, and
//! a second try: who asks comes again. A connection over a network is kept for a while and used again, and one whose other end has
//! vanished is noticed by what TCP, or SSH, sends meanwhile.

mod ssh;
mod tls;

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bollard::{API_DEFAULT_VERSION, BollardRequest, Docker as Client, errors::Error};
use futures_util::future::BoxFuture;
use http::Uri;
use hyper_util::{
    client::legacy::{
        self,
        connect::{Connected, Connection},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use nix::sys::socket::{setsockopt, sockopt};
use segue_pipelines::config::{EngineAddress, engine_faults, one_address};
use segue_schemas::engine::EngineConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};

pub use tls::End;

/// How long a connection may take, and how long its handshake.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Connections that are kept while nobody uses them, and how long.
const KEPT: usize = 4;
const KEPT_FOR: Duration = Duration::from_secs(20);
/// When the other end is first asked whether it is there, how often then, and how many silences are its end.
const KEEP_ALIVE: (u32, u32, u32) = (10, 5, 3);
/// How long what was sent may lie unacknowledged.
const UNACKNOWLEDGED_MS: u32 = 20_000;

/// How an engine is reached.
#[derive(Debug, Clone)]
pub(super) struct Way {
    kind: Kind,
    /// As people write its address.
    shown: String,
    publish: Option<IpAddr>,
}

#[derive(Debug, Clone)]
enum Kind {
    Unix(PathBuf),
    Tcp { host: String, port: u16, tls: Option<Arc<tls::Files>> },
    Ssh(Arc<ssh::Ssh>),
}

impl Way {
    /// The way by a socket of this machine.
    pub(super) fn unix(socket: PathBuf) -> Self {
        Self { shown: socket.display().to_string(), kind: Kind::Unix(socket), publish: None }
    }

    /// The way to an engine.
    ///
    /// # Errors
    /// In words, where it is named wrongly.
    pub(super) fn to(engine: &EngineConfig) -> Result<Self, String> {
        if let Some(fault) = engine_faults(engine).into_iter().next() {
            return Err(format!("{}: {}", fault.message, fault.help));
        }
        let address = EngineAddress::parse(&engine.address).map_err(|(message, help)| format!("{message}: {help}"))?;
        let kind = match address {
            EngineAddress::Unix(socket) => return Ok(Self::unix(socket.into())),
            EngineAddress::Tcp { host, port } => {
                let files = (engine.ca.clone(), engine.cert.clone(), engine.key.clone());
                let tls = match files {
                    (Some(ca), Some(cert), Some(key)) => Some(Arc::new(tls::Files { ca, cert, key })),
                    _ => None,
                };
                Kind::Tcp { host, port, tls }
            }
            EngineAddress::Ssh { user, host, port } => Kind::Ssh(Arc::new(ssh::Ssh::new(
                user,
                host,
                port,
                engine.identity.clone(),
                engine.known_hosts.clone(),
            ))),
        };
        let publish =
            engine.publish.as_deref().and_then(|address| address.parse().ok()).map(one_address).transpose()?;
        Ok(Self { kind, shown: engine.address.clone(), publish })
    }

    /// As people write its address.
    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    /// The socket of an engine of this machine.
    pub(super) fn socket(&self) -> Option<&Path> {
        match &self.kind {
            Kind::Unix(socket) => Some(socket),
            _ => None,
        }
    }

    /// A client that goes this way. Nothing is connected, apart from a look at whether a socket is there.
    pub(super) fn client(&self, patience: Duration) -> Result<Client, Error> {
        let seconds = patience.as_secs().max(1);
        if let Some(socket) = self.socket() {
            return Client::connect_with_unix(&socket.display().to_string(), seconds, API_DEFAULT_VERSION);
        }
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(KEPT_FOR)
            .pool_max_idle_per_host(KEPT)
            .build(Connector(self.clone()));
        let way = self.clone();
        let transport = move |request: BollardRequest| {
            let (answer, way) = (http.request(request), way.clone());
            async move { answer.await.map_err(|error| Error::IOError { err: way.explained(&error) }) }
        };
        // its name is in the head of requests alone
        Client::connect_with_custom_transport(transport, Some("http://docker"), seconds, API_DEFAULT_VERSION)
    }

    /// The address of the engine's machine at which services listen there.
    ///
    /// # Errors
    /// In words: it is not known.
    pub(super) async fn published_at(&self) -> Result<Option<IpAddr>, String> {
        let host = match &self.kind {
            Kind::Unix(_) => return Ok(None),
            _ if self.publish.is_some() => return Ok(self.publish),
            Kind::Tcp { host, .. } => host,
            Kind::Ssh(ssh) => ssh.host(),
        };
        match timeout(CONNECT_LIMIT, tokio::net::lookup_host((host.as_str(), 0))).await {
            Ok(Ok(found)) => only_one(found.map(|address| address.ip())).map(Some),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer".to_owned()),
        }
        .map_err(|found| format!("nobody knows the address of `{host}` ({found}), at which services of {} would listen: say it in `publish`", self.shown))
    }

    /// When the certificates end that are shown at either end; nothing where there are none.
    ///
    /// # Errors
    /// There is no connection.
    pub(super) async fn ends(&self) -> io::Result<Vec<End>> {
        match &self.kind {
            Kind::Tcp { host, port, tls: Some(files) } => {
                let stream = dial(host, *port, false).await.map_err(|error| self.told(error))?;
                files.ends(host, stream).await.map_err(|error| self.told(error))
            }
            _ => Ok(Vec::new()),
        }
    }

    async fn connect(&self) -> io::Result<Stream> {
        match &self.kind {
            Kind::Unix(socket) => Ok(Stream(Box::new(tokio::net::UnixStream::connect(socket).await?))),
            Kind::Tcp { host, port, tls: None } => Ok(Stream(Box::new(dial(host, *port, true).await?))),
            Kind::Tcp { host, port, tls: Some(files) } => {
                let stream = dial(host, *port, false).await?;
                Ok(Stream(Box::new(files.shake_hands(host, stream).await?)))
            }
            Kind::Ssh(ssh) => Ok(Stream(Box::new(ssh.open().await?))),
        }
    }

    /// What went wrong, with whom, and what to do about it.
    fn explained(&self, error: &legacy::Error) -> io::Error {
        let mut said = error.to_string();
        let mut cause: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(error);
        while let Some(one) = cause {
            if let Some(io) = one.downcast_ref::<io::Error>() {
                let words = match (&self.kind, tls::of(io)) {
                    (Kind::Tcp { host, tls: Some(files), .. }, Some(error)) => files.words(host, error),
                    // its word on that may be lost where it hangs up at once
                    (Kind::Tcp { tls: Some(files), .. }, None) if hangs_up(io) => {
                        format!("{io}; it may be that it does not take the certificate {}", files.cert.display())
                    }
                    _ => io.to_string(),
                };
                return self.told(io::Error::new(io.kind(), words));
            }
            said = one.to_string();
            cause = one.source();
        }
        if let Kind::Tcp { tls: Some(files), .. } = &self.kind {
            said = format!("{said}; it may be that it does not take the certificate {}", files.cert.display());
        }
        self.told(io::Error::other(said))
    }

    fn told(&self, error: io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("{}: {error}", self.shown))
    }
}

fn hangs_up(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof)
}

/// The address that a name has. One that has several says not at which of them services are to listen.
fn only_one(found: impl Iterator<Item = IpAddr>) -> Result<IpAddr, String> {
    let found: BTreeSet<IpAddr> = found.map(one_address).collect::<Result<_, _>>()?;
    // those of this machine's loopback are all its own
    let is_here = found.iter().all(|address| address.is_loopback());
    match found.first() {
        None => Err("nothing".to_owned()),
        Some(_) if found.len() > 1 && !is_here => {
            let all: Vec<String> = found.iter().map(IpAddr::to_string).collect();
            Err(format!("it has several, {}", all.join(" and ")))
        }
        Some(address) => Ok(*address),
    }
}

/// Connects by TCP. `only_here`: to this machine's loopback alone, whatever a name means.
async fn dial(host: &str, port: u16, only_here: bool) -> io::Result<TcpStream> {
    let late = |_| {
        io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no answer within {} s: is the way there open?", CONNECT_LIMIT.as_secs()),
        )
    };
    let found: Vec<SocketAddr> =
        timeout(CONNECT_LIMIT, tokio::net::lookup_host((host, port))).await.map_err(late)??.collect();
    if let Some(elsewhere) = found.iter().find(|address| only_here && !address.ip().to_canonical().is_loopback()) {
        let what = format!("`{host}` is {} and not this machine, and nothing is sent without TLS", elsewhere.ip());
        return Err(io::Error::other(what));
    }
    let stream = timeout(CONNECT_LIMIT, TcpStream::connect(&found[..])).await.map_err(late)?;
    let stream = stream.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            io::Error::new(error.kind(), "nobody listens there: is dockerd started with `--host tcp://ADDRESS:PORT`?")
        }
        _ => error,
    })?;
    // each call is a question that somebody waits for the answer of
    stream.set_nodelay(true)?;
    let (idle, every, times) = KEEP_ALIVE;
    setsockopt(&stream, sockopt::KeepAlive, &true)?;
    setsockopt(&stream, sockopt::TcpKeepIdle, &idle)?;
    setsockopt(&stream, sockopt::TcpKeepInterval, &every)?;
    setsockopt(&stream, sockopt::TcpKeepCount, &times)?;
    setsockopt(&stream, sockopt::TcpUserTimeout, &UNACKNOWLEDGED_MS)?;
    Ok(stream)
}

#[derive(Clone)]
struct Connector(Way);

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<TokioIo<Stream>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let way = self.0.clone();
        Box::pin(async move { way.connect().await.map(TokioIo::new) })
    }
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection.
struct Stream(Box<dyn Duplex>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_listen_where_a_name_leaves_no_choice() {
        for (found, address) in [
            (&["10.0.0.5"][..], Ok("10.0.0.5")),
            (&["10.0.0.5", "::ffff:10.0.0.5", "10.0.0.5"], Ok("10.0.0.5")),
            (&["::1", "127.0.0.1"], Ok("127.0.0.1")),
            (&["10.0.0.5", "10.0.0.6"], Err("it has several, 10.0.0.5 and 10.0.0.6")),
            (&["10.0.0.5", "127.0.0.1"], Err("it has several, 10.0.0.5 and 127.0.0.1")),
            (&["0.0.0.0"], Err("`0.0.0.0` would open services to every network of that machine")),
            (&["::ffff:224.0.0.1"], Err("`224.0.0.1` is the address of many machines")),
            (&[], Err("nothing")),
        ] {
            let chosen = only_one(found.iter().map(|address| address.parse().unwrap()));
            assert_eq!(chosen, address.map(|it| it.parse().unwrap()).map_err(str::to_owned), "{found:?}");
        }
    }
}
