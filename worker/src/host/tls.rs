//! The host's API for workers on other machines: HTTP over TLS 1.3 in which both ends show certificates of the server's authority. A
//! worker's certificate names the hosts that it opens. One that is revoked, or ends, is cut off where it stands; nothing is ever
//! resumed, so that every connection is checked whole. Plain TCP is refused, as anything that is no TLS is.

use std::{collections::HashSet, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::StatusCode;
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::CertificateDer,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    version::TLS13,
};
use segue_schemas::host_join::scope_name;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::{
    identity::{Identity, now, serial},
    link::Membership,
    unix_http::{self, Call},
};

/// Connections that are served at once; more wait in the listener's backlog.
const MAX_CONNECTIONS: usize = 256;
/// How long a client may take to show who it is.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// How long a connection may lie idle between requests.
const IDLE_LIMIT: Duration = Duration::from_secs(90);
/// After this pause another connection is accepted when the system refused one (no descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a connection is judged by.
struct Judge {
    acceptor: TlsAcceptor,
    revoked: HashSet<Vec<u8>>,
    scope: String,
}

/// A worker that was let in.
struct Peer {
    serial: Vec<u8>,
    left: Duration,
}

/// Binds the address.
///
/// # Errors
/// It is taken, or none of this machine's.
pub(super) async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves workers while the host is one of its server's; at other times it closes each connection, and those that are being served.
pub(super) async fn serve<A, F>(listener: TcpListener, mut membership: watch::Receiver<Membership>, answer: A)
where
    A: Fn(Call) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = (StatusCode, Bytes)> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let (judges, _) = watch::channel(None);
    loop {
        let judge = match &*membership.borrow_and_update() {
            Membership::Holds(identity) => judge(identity).map(Arc::new),
            Membership::Ended(_) => Err("the host was revoked".into()),
        };
        if let Err(error) = &judge {
            tracing::error!(error, "workers can't be let in");
        }
        judges.send_replace(judge.ok());
        loop {
            let accepted = tokio::select! {
                accepted = async {
                    // the semaphore is never closed
                    let permit = permits.clone().acquire_owned().await.ok()?;
                    Some((permit, listener.accept().await))
                } => accepted,
                changed = membership.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
            };
            let Some((permit, accepted)) = accepted else { return };
            let Ok((stream, from)) = accepted else {
                sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let (judged_by, answer) = (judges.subscribe(), answer.clone());
            tokio::spawn(async move {
                serve_one(stream, from, judged_by, answer).await;
                drop(permit);
            });
        }
    }
}

async fn serve_one<A, F>(
    stream: TcpStream,
    from: SocketAddr,
    mut judges: watch::Receiver<Option<Arc<Judge>>>,
    answer: A,
) where
    A: Fn(Call) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = (StatusCode, Bytes)> + Send + 'static,
{
    let Some(judge) = judges.borrow().clone() else { return };
    // an answer is small, and somebody waits for it
    let _ = stream.set_nodelay(true);
    let stream = match timeout(HANDSHAKE_LIMIT, judge.acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::warn!(%from, %error, "somebody was not let in");
            return;
        }
        Err(_) => {
            tracing::warn!(%from, "somebody did not show in time who it is");
            return;
        }
    };
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).map(|shown| judge.admit(shown));
    let peer = match shown {
        Some(Ok(peer)) => peer,
        Some(Err(why)) => {
            tracing::warn!(%from, why, "a worker was not let in");
            return;
        }
        None => return,
    };
    let is_revoked =
        |judge: &Option<Arc<Judge>>| judge.as_ref().is_none_or(|judge| judge.revoked.contains(&peer.serial));
    tokio::select! {
        () = unix_http::serve_connection(stream, answer, IDLE_LIMIT) => {}
        () = sleep(peer.left) => tracing::debug!(%from, "a worker's certificate has ended"),
        _ = judges.wait_for(is_revoked) => tracing::warn!(%from, "a worker was cut off: its certificate, or this host's, was revoked"),
    }
}

fn judge(identity: &Identity) -> Result<Judge, String> {
    let parts = identity.parts().map_err(|e| e.to_string())?;
    let revoked = parts.revoked().into_iter().collect();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(parts.authority).map_err(|e| e.to_string())?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .with_crls([parts.revocations])
        .build()
        .map_err(|e| e.to_string())?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(|e| e.to_string())?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![parts.certificate], parts.key.into())
        .map_err(|e| e.to_string())?;
    // what is resumed is not checked again
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Judge { acceptor: TlsAcceptor::from(Arc::new(config)), revoked, scope: scope_name(identity.name()) })
}

impl Judge {
    /// Whether a certificate, which the authority signed and has not revoked, opens this host.
    fn admit(&self, shown: &CertificateDer<'_>) -> Result<Peer, String> {
        let (_, certificate) = X509Certificate::from_der(shown).map_err(|e| e.to_string())?;
        let names = certificate.subject_alternative_name().map_err(|e| e.to_string())?;
        let is_named = names.is_some_and(|names| {
            names.value.general_names.iter().any(|name| matches!(name, GeneralName::URI(uri) if *uri == self.scope))
        });
        if !is_named {
            return Err(format!("the certificate of {} is for other hosts", certificate.subject()));
        }
        let ends_ms = certificate.validity().not_after.timestamp().saturating_mul(1000);
        let left = Duration::from_millis(u64::try_from(ends_ms - now().0).unwrap_or(0));
        Ok(Peer { serial: serial(certificate.raw_serial()), left })
    }
}

#[cfg(test)]
mod tests;
