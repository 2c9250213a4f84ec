//! TLS to an engine: a certificate at both ends, read anew for each connection, so that renewed ones need no restart.

use std::{
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    AlertDescription, CertificateError, ClientConfig, Error, RootCertStore,
    client::Resumption,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use segue_schemas::time::Timestamp;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::CONNECT_LIMIT;

/// The bits of a file's mode by which others than its owner come to it.
const OTHERS: u32 = 0o077;

/// The files of an engine that is reached by TLS.
#[derive(Debug)]
pub(super) struct Files {
    /// Who signed the engine's certificate.
    pub(super) ca: PathBuf,
    /// What the engine is shown.
    pub(super) cert: PathBuf,
    /// Its key.
    pub(super) key: PathBuf,
}

/// When a certificate ends.
#[derive(Debug, Clone)]
pub struct End {
    /// Whose it is.
    pub whose: &'static str,
    /// When.
    pub at: Timestamp,
}

impl Files {
    /// Shows the certificate and is shown the engine's, which is for the host's name and signed by whom it has to be.
    pub(super) async fn shake_hands(&self, host: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let config = self.config().map_err(io::Error::other)?;
        match timeout(CONNECT_LIMIT, TlsConnector::from(Arc::new(config)).connect(name, stream)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(match of(&error) {
                Some(fault) => io::Error::other(self.words(host, fault)),
                None => error,
            }),
            Err(_) => {
                let said =
                    format!("it takes connections, and shows no certificate within {} s", CONNECT_LIMIT.as_secs());
                Err(io::Error::new(io::ErrorKind::TimedOut, said))
            }
        }
    }

    /// When the certificates of both ends end.
    pub(super) async fn ends(&self, host: &str, stream: TcpStream) -> io::Result<Vec<End>> {
        let stream = self.shake_hands(host, stream).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let theirs = shown.and_then(end_of).map(|at| End { whose: "the engine's certificate", at });
        let ours = self.own_end().map(|at| End { whose: "the certificate that it is shown", at });
        Ok(theirs.into_iter().chain(ours).collect())
    }

    fn config(&self) -> Result<ClientConfig, String> {
        let mut roots = RootCertStore::empty();
        for ca in certificates(&self.ca)? {
            roots.add(ca).map_err(|error| format!("{}: {error}", self.ca.display()))?;
        }
        let chain = certificates(&self.cert)?;
        let key = key(&self.key)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(|error| format!("{} and {}: {error}", self.cert.display(), self.key.display()))?;
        // whoever is let in is looked at each time
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    /// A failure of TLS in words, with what to do.
    pub(super) fn words(&self, host: &str, error: &Error) -> String {
        let (ca, cert) = (self.ca.display(), self.cert.display());
        match error {
            Error::InvalidCertificate(wrong) => match wrong {
                CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
                    "its certificate is not signed by who is in {ca}: another engine answers there, or `ca` is another engine's"
                ),
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    "its certificate has ended: have the engine's renewed, and look at both clocks".into()
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    "its certificate is not valid yet: look at both clocks".into()
                }
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => format!(
                    "its certificate is not for `{host}`: use a name that it has, or have one made whose subjectAltName has `{host}`"
                ),
                other => format!("its certificate can't be accepted: {other:?}"),
            },
            Error::AlertReceived(alert) => {
                let ended = self.own_end().filter(|at| *at < now());
                let why = match (alert, ended) {
                    (_, Some(at)) => format!("it ended {at}; have it renewed"),
                    (AlertDescription::UnknownCA | AlertDescription::BadCertificate, None) => {
                        "it is not signed by who is in dockerd's `--tlscacert`, or not for clients".into()
                    }
                    (other, None) => format!("it says {other:?}"),
                };
                format!("it does not take the certificate {cert}: {why}")
            }
            Error::InvalidMessage(_) => {
                "what answers there speaks no TLS: is dockerd started with `--tlsverify`?".into()
            }
            other => other.to_string(),
        }
    }

    fn own_end(&self) -> Option<Timestamp> {
        certificates(&self.cert).ok()?.first().and_then(end_of)
    }
}

/// What TLS says in an error of the stream's.
pub(super) fn of(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

fn end_of(certificate: &CertificateDer<'_>) -> Option<Timestamp> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(Timestamp(certificate.validity().not_after.timestamp().saturating_mul(1000)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(found) if found.is_empty() => Err(format!("{} holds no certificate in PEM form", path.display())),
        Ok(found) => Ok(found),
        Err(error) => Err(format!("{} can't be read: {error}", path.display())),
    }
}

/// A key that its owner alone can read: whoever has it has the engine, and with it that machine.
fn key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let found = std::fs::metadata(path).map_err(|error| format!("{} can't be read: {error}", path.display()))?;
    if found.mode() & OTHERS != 0 {
        let (mode, path) = (found.mode() & 0o777, path.display());
        return Err(format!("{path} has the mode {mode:04o}, and others than its owner come to it: chmod 600 {path}"));
    }
    let me = nix::unistd::geteuid().as_raw();
    if found.uid() != me && found.uid() != 0 {
        let (owner, path) = (found.uid(), path.display());
        return Err(format!("{path} belongs to the user {owner}, who could put another there: chown {me} {path}"));
    }
    PrivateKeyDer::from_pem_file(path).map_err(|error| format!("{} holds no key in PEM form: {error}", path.display()))
}

#[cfg(test)]
mod tests;
