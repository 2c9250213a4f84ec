//! The authority that vouches for hosts on other machines and for the workers that reach them: a certificate that is made at its first
//! use, and a key that is kept sealed like a secret. Comes in: requests for certificates that the store has found to be right. Goes
//! out: certificates of a short life, and the list of those that hold no more. Never here: who may have one.
//!
//! A host's certificate serves (`serverAuth`) under `NAME.host.segue`; a worker's asks (`clientAuth`), and names each host that it opens.
//! So neither can be used in the other's place, and none opens a host that it was not made for. All keys are Ed25519.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertificateSigningRequestParams,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    PKCS_ED25519, PublicKeyData as _, RevokedCertParams, SanType, SerialNumber,
};
use ring::{
    digest::{SHA256, digest},
    rand::{SecureRandom as _, SystemRandom},
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer};
use segue_schemas::{
    host_join::{scope_name, tls_name},
    id::WorkerId,
    time::Timestamp,
};
use time::OffsetDateTime;
use zeroize::Zeroizing;

/// How long an authority lives. Hosts know it by its fingerprint, and join again where it is another.
const LIFE: Duration = Duration::from_secs(20 * 365 * 86_400);
/// How far back a certificate begins: clocks differ.
const BACKDATED: Duration = Duration::from_secs(300);
/// The largest request for a certificate, in bytes.
const LARGEST_REQUEST: usize = 4096;

/// Why there is no certificate.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AuthorityError {
    /// What asks for a certificate is no request for one, or is not signed by its own key.
    #[error("this is no request for a certificate with an Ed25519 key: {0}")]
    Request(String),
    /// What is stored of the authority can't be used.
    #[error(
        "the authority for hosts can't be used: {0}; restore the database from a backup, or have every host join anew"
    )]
    Stored(String),
    /// It can't be signed.
    #[error("a certificate can't be made: {0}")]
    Signing(String),
}

type Result<T> = std::result::Result<T, AuthorityError>;

/// A certificate that was made.
#[derive(Debug)]
pub struct Issued {
    /// The certificate, in base64.
    pub certificate: String,
    /// Its number, in hexadecimal digits.
    pub serial: String,
    /// When it ends.
    pub ends: Timestamp,
}

/// The authority, with its key.
pub struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes one; gives it with its certificate and its key, both in base64.
    ///
    /// # Errors
    /// [`AuthorityError::Signing`]
    pub fn make(now: Timestamp) -> Result<(Self, String, Zeroizing<String>)> {
        let key = new_key()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named("Segue hosts");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = date(now.0 - millis(BACKDATED))?;
        params.not_after = date(now.0 + millis(LIFE))?;
        params.serial_number = Some(SerialNumber::from_slice(&new_serial()?));
        let certificate = params.self_signed(&key).map_err(signing)?;
        let stored = Zeroizing::new(STANDARD.encode(key.serialized_der()));
        let text = STANDARD.encode(certificate.der());
        Ok((Self::open(&text, &stored)?, text, stored))
    }

    /// Opens one that is stored.
    ///
    /// # Errors
    /// [`AuthorityError::Stored`]
    pub fn open(certificate: &str, key: &str) -> Result<Self> {
        let stored = |e: &dyn std::fmt::Display| AuthorityError::Stored(e.to_string());
        let certificate = CertificateDer::from(STANDARD.decode(certificate).map_err(|e| stored(&e))?);
        let der = Zeroizing::new(STANDARD.decode(key).map_err(|e| stored(&e))?);
        let key = KeyPair::try_from(&PrivatePkcs8KeyDer::from(der.as_slice())).map_err(|e| stored(&e))?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|e| stored(&e))?;
        Ok(Self { certificate, issuer })
    }

    /// The certificate, in base64.
    #[must_use]
    pub fn certificate(&self) -> String {
        STANDARD.encode(&self.certificate)
    }

    /// What hosts know it by.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(digest(&SHA256, &self.certificate).as_ref());
        fingerprint
    }

    /// A host's certificate. Of what its request says, its key alone is taken; gives that as well, in hexadecimal digits.
    ///
    /// # Errors
    /// [`AuthorityError::Request`]
    pub fn host(&self, name: &str, request: &str, now: Timestamp, life: Duration) -> Result<(Issued, String)> {
        let asked = read_request(request)?;
        let mut params = params(name, now, life)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let dns = tls_name(name).try_into().map_err(signing)?;
        params.subject_alt_names = vec![SanType::DnsName(dns)];
        let issued = self.issue(params, &asked.public_key, now, life)?;
        Ok((issued, hex::encode(asked.public_key.der_bytes())))
    }

    /// A worker's certificate for some hosts, and its key, in base64.
    ///
    /// # Errors
    /// [`AuthorityError::Signing`]
    pub fn worker(
        &self,
        worker: &WorkerId,
        hosts: &[String],
        now: Timestamp,
        life: Duration,
    ) -> Result<(Issued, String)> {
        let key = new_key()?;
        let mut params = params(worker.as_str(), now, life)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let scope = |host: &String| Ok(SanType::URI(scope_name(host).try_into().map_err(signing)?));
        params.subject_alt_names = hosts.iter().map(scope).collect::<Result<_>>()?;
        let issued = self.issue(params, &key, now, life)?;
        Ok((issued, STANDARD.encode(key.serialized_der())))
    }

    /// The list of certificates that hold no more, by their numbers and since when; in base64.
    ///
    /// # Errors
    /// [`AuthorityError::Signing`]
    pub fn revocations(&self, revision: u64, revoked: &[(String, Timestamp)], now: Timestamp) -> Result<String> {
        let one = |(serial, at): &(String, Timestamp)| {
            Ok(RevokedCertParams {
                serial_number: SerialNumber::from_slice(&hex::decode(serial).map_err(signing)?),
                revocation_time: date(at.0)?,
                reason_code: None,
                invalidity_date: None,
            })
        };
        let list = CertificateRevocationListParams {
            this_update: date(now.0 - millis(BACKDATED))?,
            // a newer one is told of; none grows old by itself
            next_update: date(now.0 + millis(LIFE))?,
            crl_number: SerialNumber::from_slice(&revision.to_be_bytes()),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(one).collect::<Result<_>>()?,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(STANDARD.encode(list.signed_by(&self.issuer).map_err(signing)?.der()))
    }

    fn issue(
        &self,
        mut params: CertificateParams,
        key: &impl rcgen::PublicKeyData,
        now: Timestamp,
        life: Duration,
    ) -> Result<Issued> {
        let serial = new_serial()?;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let certificate = params.signed_by(key, &self.issuer).map_err(signing)?;
        let ends = Timestamp(now.0 + millis(life));
        Ok(Issued { certificate: STANDARD.encode(certificate.der()), serial: hex::encode(serial), ends })
    }
}

fn params(name: &str, now: Timestamp, life: Duration) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(name);
    params.not_before = date(now.0 - millis(BACKDATED))?;
    params.not_after = date(now.0 + millis(life))?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn read_request(request: &str) -> Result<CertificateSigningRequestParams> {
    let unreadable = |e: &dyn std::fmt::Display| AuthorityError::Request(e.to_string());
    if request.len() > LARGEST_REQUEST {
        return Err(AuthorityError::Request(format!("it has more than {LARGEST_REQUEST} bytes")));
    }
    let der = STANDARD.decode(request).map_err(|e| unreadable(&e))?;
    let asked = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der))
        .map_err(|e| unreadable(&e))?;
    if *asked.public_key.algorithm() != PKCS_ED25519 {
        return Err(AuthorityError::Request("its key is of another kind".into()));
    }
    Ok(asked)
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn new_key() -> Result<KeyPair> {
    KeyPair::generate_for(&PKCS_ED25519).map_err(signing)
}

/// A positive number of 16 random bytes, without leading zeros (RFC 5280, section 4.1.2.2).
fn new_serial() -> Result<[u8; 16]> {
    let mut serial = [0; 16];
    SystemRandom::new().fill(&mut serial).map_err(signing)?;
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(serial)
}

fn date(ms: i64) -> Result<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(ms.div_euclid(1000)).map_err(signing)
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX / 4)
}

fn signing(error: impl std::fmt::Display) -> AuthorityError {
    AuthorityError::Signing(error.to_string())
}
