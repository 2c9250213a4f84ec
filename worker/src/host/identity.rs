//! Who a host is that joined a server from another machine: the key that it made itself, the certificate that the server's authority
//! signed for it, and what it goes by. All of it lies in one file that only its owner reads; the key leaves it in no other way.

use std::{
    fs,
    io::{self, Write as _},
    net::SocketAddr,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ED25519, SigningKey as _};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivatePkcs8KeyDer};
use segue_schemas::{
    host_join::{Certified, hex, request_text},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{CertificateRevocationList, FromDer as _, X509Certificate};

/// The file, in the host's data folder.
const FILE: &str = "joined.json";

/// Why a host's identity can't be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file can't be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others can read the key.
    #[error("{path} has mode {mode:04o}: only its owner may read it (chmod 600 {path})")]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Somebody holds the newer list back, or the server knows less than it did.
    #[error(
        "the list of revoked certificates that came is number {shown}, and number {known} is known here and stays: either somebody sends an \
         older one again, or the server was restored from a backup, and what it revokes is heard once its list is newer"
    )]
    Older {
        /// The number of the list that came.
        shown: u64,
        /// The number of the list that is here.
        known: u64,
    },
    /// What stands in it, or what the server sent, can't be used.
    #[error("{0}")]
    Unusable(String),
}

/// What is kept.
#[derive(Clone, Serialize, Deserialize)]
struct Kept {
    /// The server's address.
    server: String,
    /// The host's name.
    name: String,
    /// Where its API listens for workers.
    listen: SocketAddr,
    /// Its key (PKCS #8), in base64.
    key: String,
    /// Its certificate, in base64.
    certificate: String,
    /// The authority's certificate, in base64.
    authority: String,
    /// The certificates that hold no more, in base64.
    revocations: String,
    /// Which list that is.
    revision: u64,
    /// When the certificate is renewed.
    renew_at: Timestamp,
}

/// A host's identity.
#[derive(Clone)]
pub struct Identity {
    file: PathBuf,
    kept: Kept,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("name", &self.kept.name)
            .field("server", &self.kept.server)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// The identity that lies in a host's data folder, if the host has joined.
    ///
    /// # Errors
    /// The file can't be read, others can read it, or what stands in it is no identity.
    pub fn open(data: &Path) -> Result<Option<Self>, IdentityError> {
        let file = data.join(FILE);
        let failed = |source| IdentityError::File { path: file.clone(), source };
        let text = match fs::read(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mode = fs::metadata(&file).map_err(failed)?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(IdentityError::Mode { path: file, mode });
        }
        let unusable = |e: String| {
            IdentityError::Unusable(format!("{}: {e}; join again with a new token (`segue host join`)", file.display()))
        };
        let kept: Kept = serde_json::from_slice(&text).map_err(|e| unusable(e.to_string()))?;
        let identity = Self { file: file.clone(), kept };
        identity.parts().map_err(|e| unusable(e.to_string()))?;
        Ok(Some(identity))
    }

    /// The identity of a host that has just joined, written to its data folder.
    pub(super) fn create(
        data: &Path,
        (server, name, listen): (String, String, SocketAddr),
        key: &KeyPair,
        certified: Certified,
    ) -> Result<Self, IdentityError> {
        let mut identity = Self {
            file: data.join(FILE),
            kept: Kept {
                server,
                name,
                listen,
                key: STANDARD.encode(key.serialized_der()),
                certificate: String::new(),
                authority: certified.authority.clone(),
                revocations: String::new(),
                revision: 0,
                renew_at: Timestamp(0),
            },
        };
        identity.renewed(certified)?;
        Ok(identity)
    }

    /// The host's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.kept.name
    }

    /// The server's address.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.kept.server
    }

    /// Where the API listens for workers.
    #[must_use]
    pub const fn listen(&self) -> SocketAddr {
        self.kept.listen
    }

    /// When the certificate is to be renewed.
    #[must_use]
    pub const fn renew_at(&self) -> Timestamp {
        self.kept.renew_at
    }

    /// Which list of revoked certificates is here; 0: the server is to send its own.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.kept.revision
    }

    /// Takes a new certificate, if it is one for this host and its key by the authority that it knows.
    pub(super) fn renewed(&mut self, certified: Certified) -> Result<(), IdentityError> {
        let mut kept = self.kept.clone();
        if certified.authority != kept.authority {
            return Err(IdentityError::Unusable(
                "the server shows another authority than the one that was joined".into(),
            ));
        }
        kept.certificate = certified.certificate;
        kept.renew_at = now() + Duration::from_millis(certified.renew_after_ms);
        // a certificate is good, whatever list comes with it: of the two lists, the newer one stays
        let newer = Kept { revocations: certified.revocations, ..kept.clone() };
        match self.take(newer) {
            Err(IdentityError::Older { .. }) => self.take(kept),
            taken => taken,
        }
    }

    /// Takes a newer list of revoked certificates, if the authority signed it.
    pub(super) fn revised(&mut self, revocations: String) -> Result<(), IdentityError> {
        self.take(Kept { revocations, ..self.kept.clone() })
    }

    /// Which list of revoked certificates it is stands in the list, signed.
    fn take(&mut self, kept: Kept) -> Result<(), IdentityError> {
        let known = self.kept.revision;
        let mut checked = Self { file: self.file.clone(), kept };
        let shown = checked.check()?;
        if shown < known {
            return Err(IdentityError::Older { shown, known });
        }
        checked.kept.revision = shown;
        checked.write()?;
        *self = checked;
        Ok(())
    }

    /// A request for a certificate, in base64.
    pub(super) fn request(&self) -> Result<String, IdentityError> {
        request(&self.key()?)
    }

    /// The signature of a request to the server, in hexadecimal digits.
    pub(super) fn sign(&self, method: &str, path: &str, at: Timestamp, body: &[u8]) -> Result<String, IdentityError> {
        let text = request_text(&self.kept.name, method, path, at, &hex(&Sha256::digest(body)));
        Ok(hex(&self.key()?.sign(&text).map_err(unusable)?))
    }

    fn key(&self) -> Result<KeyPair, IdentityError> {
        let der = zeroize::Zeroizing::new(STANDARD.decode(&self.kept.key).map_err(unusable)?);
        KeyPair::try_from(&PrivatePkcs8KeyDer::from(der.as_slice())).map_err(unusable)
    }

    /// What a TLS server is made of.
    pub(super) fn parts(&self) -> Result<Parts, IdentityError> {
        Parts::read(&self.kept.authority, &self.kept.certificate, &self.kept.key, &self.kept.revocations)
            .map_err(IdentityError::Unusable)
    }

    /// Whether what the server sent belongs together; the number of its list of revoked certificates.
    fn check(&self) -> Result<u64, IdentityError> {
        let parts = self.parts()?;
        let key = self.key()?;
        let wrong = |what: &str| Err(IdentityError::Unusable(format!("the server sent {what}")));
        let (_, authority) = X509Certificate::from_der(&parts.authority).map_err(unusable)?;
        let (_, own) = X509Certificate::from_der(&parts.certificate).map_err(unusable)?;
        if own.verify_signature(Some(authority.public_key())).is_err() {
            return wrong("a certificate that its authority has not signed");
        }
        if own.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return wrong("a certificate for another key");
        }
        let (_, list) = CertificateRevocationList::from_der(&parts.revocations).map_err(unusable)?;
        if list.verify_signature(authority.public_key()).is_err() {
            return wrong("a list of revoked certificates that its authority has not signed");
        }
        let number = list.crl_number().and_then(|number| u64::try_from(number.clone()).ok());
        number.map_or_else(|| wrong("a list of revoked certificates without a number"), Ok)
    }

    /// Written beside and renamed: a crash leaves the old one or the new one.
    fn write(&self) -> Result<(), IdentityError> {
        let failed = |source| IdentityError::File { path: self.file.clone(), source };
        let text = serde_json::to_vec_pretty(&self.kept).map_err(unusable)?;
        let beside = self.file.with_extension("new");
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside).map_err(failed)?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(failed)?;
        fs::rename(&beside, &self.file).map_err(failed)?;
        let folder = self.file.parent().unwrap_or(Path::new("."));
        fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
    }
}

/// A new key.
pub(super) fn new_key() -> Result<KeyPair, IdentityError> {
    KeyPair::generate_for(&PKCS_ED25519).map_err(unusable)
}

/// A request for a certificate for a key (PKCS #10), in base64. What stands in it beside the key is the authority's to say.
pub(super) fn request(key: &KeyPair) -> Result<String, IdentityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    Ok(STANDARD.encode(params.serialize_request(key).map_err(unusable)?.der()))
}

pub(super) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

fn unusable(error: impl std::fmt::Display) -> IdentityError {
    IdentityError::Unusable(error.to_string())
}

/// What either end of a connection between a worker and a host shows and goes by.
pub(super) struct Parts {
    /// The authority.
    pub authority: CertificateDer<'static>,
    /// The own certificate.
    pub certificate: CertificateDer<'static>,
    /// Its key.
    pub key: PrivatePkcs8KeyDer<'static>,
    /// The certificates that hold no more.
    pub revocations: CertificateRevocationListDer<'static>,
}

impl Parts {
    /// Reads them from base64.
    ///
    /// # Errors
    /// In words.
    pub(super) fn read(authority: &str, certificate: &str, key: &str, revocations: &str) -> Result<Self, String> {
        let read = |what: &str, text: &str| STANDARD.decode(text).map_err(|e| format!("{what} can't be read: {e}"));
        Ok(Self {
            authority: read("the authority's certificate", authority)?.into(),
            certificate: read("the certificate", certificate)?.into(),
            key: read("the key", key)?.into(),
            revocations: read("the list of revoked certificates", revocations)?.into(),
        })
    }

    /// The numbers of the certificates that hold no more.
    pub(super) fn revoked(&self) -> Vec<Vec<u8>> {
        match CertificateRevocationList::from_der(&self.revocations) {
            Ok((_, list)) => list.iter_revoked_certificates().map(|one| serial(one.raw_serial())).collect(),
            Err(_) => Vec::new(),
        }
    }
}

/// A certificate's number without leading zeros.
pub(super) fn serial(raw: &[u8]) -> Vec<u8> {
    raw.iter().copied().skip_while(|byte| *byte == 0).collect()
}
