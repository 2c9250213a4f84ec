//! Who vouches for images: an Ed25519 key in a file outside the data directory, as PKCS #8 in PEM, so that other tools read it too. Comes
//! in: a statement. Goes out: its envelope, or whether one was signed with a key. Never here: what may be stated
//! (`control/provenance.rs`), and the key itself in a log, an answer or the database.
//!
//! <https://github.com/secure-systems-lab/dsse/blob/master/protocol.md>, RFC 8032, RFC 8410.

use std::path::{Path, PathBuf};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::{
    digest::{SHA256, digest},
    rand::{SecureRandom as _, SystemRandom},
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};
use segue_pipelines::provenance::{PAYLOAD_TYPE, signed_bytes};
use segue_schemas::provenance::{Envelope, Signature};
use zeroize::Zeroizing;

use crate::secrets::{SecretError, apart_from, configuration_file, read_private, write_private};

/// What comes before the 32 bytes of a private key, and of a public one (RFC 8410, sections 7 and 4).
const PRIVATE: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
const PUBLIC: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];
const KEY_BYTES: usize = 32;
/// The most signatures of an envelope that are looked at.
const MAX_SIGNATURES: usize = 100;

/// Why nothing is signed, or an envelope is not to be believed.
#[derive(Debug, thiserror::Error)]
pub enum ProvenanceError {
    /// The file of the key.
    #[error(transparent)]
    File(#[from] SecretError),
    /// It is none.
    #[error("{path} holds no Ed25519 key ({what}, in PEM); `segue provenance key create` makes one")]
    NoKey {
        /// The file.
        path: PathBuf,
        /// What would be.
        what: &'static str,
    },
    /// There is one already.
    #[error(
        "{0} is there already: who verifies with its public key would find nothing right any more; name another file"
    )]
    Exists(PathBuf),
    /// It was changed, or somebody else signed it.
    #[error("no signature of it is by this key: it was changed, or somebody else vouches for it")]
    Signature,
    /// It can't be read.
    #[error("it is no envelope: {0}")]
    Envelope(String),
}

/// The file of the key, where none is named; `None` where there is no place for one.
#[must_use]
pub fn default_key_file() -> Option<PathBuf> {
    configuration_file("provenance.key")
}

/// A key that signs.
#[derive(Debug)]
pub struct Signer(Ed25519KeyPair);

impl Signer {
    /// Makes a key in a file of mode 0600.
    ///
    /// # Errors
    /// There is such a file, or it can't be written.
    pub fn create(path: &Path) -> Result<Self, ProvenanceError> {
        if path.exists() {
            return Err(ProvenanceError::Exists(path.into()));
        }
        let mut key = Zeroizing::new(PRIVATE.to_vec());
        key.resize(PRIVATE.len() + KEY_BYTES, 0);
        SystemRandom::new().fill(&mut key[PRIVATE.len()..]).map_err(|_| SecretError::Random)?;
        let text = Zeroizing::new(pem("PRIVATE KEY", &key));
        if !write_private(path, &text)? {
            return Err(ProvenanceError::Exists(path.into()));
        }
        Self::read(path)
    }

    /// Reads one; `data` is the directory of the server's data, in which it must not lie. `None`: there is no such file.
    ///
    /// # Errors
    /// Others can read it, or it is none.
    pub fn find(path: &Path, data: &Path) -> Result<Option<Self>, ProvenanceError> {
        apart_from(path, data)?;
        if path.exists() { Self::read(path).map(Some) } else { Ok(None) }
    }

    /// Reads one.
    ///
    /// # Errors
    /// There is none, others can read it, or it is none.
    pub fn read(path: &Path) -> Result<Self, ProvenanceError> {
        let text = read_private(path)?;
        let no_key = || ProvenanceError::NoKey { path: path.into(), what: "PRIVATE KEY" };
        let key = Zeroizing::new(of_pem("PRIVATE KEY", &text).ok_or_else(no_key)?);
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(&key).map(Self).map_err(|_| no_key())
    }

    /// The public key, in PEM.
    #[must_use]
    pub fn public(&self) -> String {
        pem("PUBLIC KEY", &self.public_der())
    }

    fn public_der(&self) -> Vec<u8> {
        [&PUBLIC[..], self.0.public_key().as_ref()].concat()
    }

    /// Signs a statement.
    #[must_use]
    pub fn sign(&self, statement: &serde_json::Value) -> Envelope {
        let payload = statement.to_string().into_bytes();
        let sig = self.0.sign(&signed_bytes(PAYLOAD_TYPE, &payload));
        Envelope {
            payload: STANDARD.encode(payload),
            payload_type: PAYLOAD_TYPE.into(),
            signatures: vec![Signature {
                keyid: hex::encode(digest(&SHA256, &self.public_der())),
                sig: STANDARD.encode(sig),
            }],
        }
    }
}

/// What was signed, if it was signed with this public key (in PEM, of the file that `path` names).
///
/// # Errors
/// [`ProvenanceError`].
pub fn verified(envelope: &Envelope, key: &str, path: &Path) -> Result<Vec<u8>, ProvenanceError> {
    let no_key = || ProvenanceError::NoKey { path: path.into(), what: "PUBLIC KEY" };
    let der = of_pem("PUBLIC KEY", key).ok_or_else(no_key)?;
    let key = der.strip_prefix(&PUBLIC[..]).filter(|key| key.len() == KEY_BYTES).ok_or_else(no_key)?;
    let payload = STANDARD
        .decode(&envelope.payload)
        .map_err(|error| ProvenanceError::Envelope(format!("its payload: {error}")))?;
    let bytes = signed_bytes(&envelope.payload_type, &payload);
    let key = UnparsedPublicKey::new(&ED25519, key);
    let is_by_key =
        |signature: &Signature| STANDARD.decode(&signature.sig).is_ok_and(|sig| key.verify(&bytes, &sig).is_ok());
    // what a signature says of its key proves nothing
    if envelope.signatures.iter().take(MAX_SIGNATURES).any(is_by_key) {
        Ok(payload)
    } else {
        Err(ProvenanceError::Signature)
    }
}

/// RFC 7468. A key is one line.
fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

fn of_pem(label: &str, text: &str) -> Option<Vec<u8>> {
    let (_, rest) = text.split_once(&format!("-----BEGIN {label}-----"))?;
    let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
    let body: Zeroizing<String> = Zeroizing::new(body.split_whitespace().collect());
    STANDARD.decode(body.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_signed_is_known_by_its_key_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys/one");
        let signer = Signer::create(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        let statement = json!({"a": 1});
        let envelope = signer.sign(&statement);
        let public = Signer::read(&path).unwrap().public();
        assert_eq!(verified(&envelope, &public, &path).unwrap(), statement.to_string().as_bytes());
        let other = Signer::create(&folder.path().join("keys/two")).unwrap();
        assert!(matches!(verified(&envelope, &other.public(), &path), Err(ProvenanceError::Signature)));
        for change in [
            |envelope: &mut Envelope| envelope.payload = STANDARD.encode("{\"a\":2}"),
            |envelope: &mut Envelope| envelope.payload_type = "text/plain".into(),
            |envelope: &mut Envelope| envelope.signatures.clear(),
            |envelope: &mut Envelope| envelope.signatures[0].sig.replace_range(..4, "AAAA"),
        ] {
            let mut changed = envelope.clone();
            change(&mut changed);
            assert!(matches!(verified(&changed, &public, &path), Err(ProvenanceError::Signature)), "{changed:?}");
        }
        let mut both = envelope.clone();
        both.signatures = [other.sign(&statement).signatures, envelope.signatures].concat();
        assert!(verified(&both, &public, &path).is_ok(), "one of several is enough");
        assert!(matches!(verified(&both, "no key", &path), Err(ProvenanceError::NoKey { .. })));
    }

    #[test]
    fn a_key_is_replaced_by_none_and_read_by_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        Signer::create(&path).unwrap();
        assert!(matches!(Signer::create(&path), Err(ProvenanceError::Exists(_))));
        let within = Signer::find(&path, folder.path()).unwrap_err().to_string();
        assert!(within.contains("lies in the data directory"), "{within}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let open = Signer::read(&path).unwrap_err().to_string();
        assert!(open.contains("mode 0644"), "{open}");
        let data = tempfile::tempdir().unwrap();
        assert!(Signer::find(&folder.path().join("none"), data.path()).unwrap().is_none());
    }
}
