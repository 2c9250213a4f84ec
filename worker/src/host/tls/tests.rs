use std::sync::atomic::{AtomicUsize, Ordering};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::Method;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ED25519, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use segue_schemas::host_join::{Certified, HostAccess, TLS, tls_name};

use super::*;
use crate::host::{channel::Channel, identity::IdentityError, unix_http::CallError};

const LIMIT: Duration = Duration::from_secs(20);

/// An authority as the server has one.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

fn new_key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ED25519).unwrap()
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = new_key();
        let certificate = STANDARD.encode(params.self_signed(&key).unwrap().der());
        Self { issuer: Issuer::new(params, key), certificate }
    }

    fn revocations(&self, serials: &[u64]) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2124, 1, 1),
            crl_number: SerialNumber::from(serials.len() as u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        STANDARD.encode(list.signed_by(&self.issuer).unwrap().der())
    }

    fn host(&self, key: &KeyPair, name: &str, serial: u64) -> Certified {
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from(serial));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names = vec![SanType::DnsName(tls_name(name).try_into().unwrap())];
        let certificate = params.signed_by(key, &self.issuer).unwrap();
        Certified {
            certificate: STANDARD.encode(certificate.der()),
            authority: self.certificate.clone(),
            revocations: self.revocations(&[]),
            renew_after_ms: 1 << 40,
        }
    }

    fn worker(&self, serial: u64, opens: &str, change: impl FnOnce(&mut CertificateParams)) -> HostAccess {
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from(serial));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![SanType::URI(scope_name(opens).try_into().unwrap())];
        change(&mut params);
        let key = new_key();
        HostAccess {
            authority: self.certificate.clone(),
            certificate: STANDARD.encode(params.signed_by(&key, &self.issuer).unwrap().der()),
            key: STANDARD.encode(key.serialized_der()),
            revocations: self.revocations(&[]),
        }
    }
}

/// A host named `far` with the certificate 1, that counts what it answers.
struct Far {
    authority: Authority,
    membership: watch::Sender<Membership>,
    identity: Identity,
    address: String,
    answered: Arc<AtomicUsize>,
    _data: tempfile::TempDir,
}

impl Far {
    async fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let (authority, key) = (Authority::new(), new_key());
        let listener = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let named = ("http://127.0.0.1:1".to_owned(), "far".to_owned(), address);
        let identity = Identity::create(data.path(), named, &key, authority.host(&key, "far", 1)).unwrap();
        let membership = watch::Sender::new(Membership::Holds(Arc::new(identity.clone())));
        let answered = Arc::new(AtomicUsize::new(0));
        let count = answered.clone();
        let answer = move |call: Call| {
            let count = count.clone();
            async move {
                count.fetch_add(1, Ordering::SeqCst);
                if call.path == ["wait"] {
                    std::future::pending::<()>().await;
                }
                (StatusCode::OK, Bytes::from_static(b"{}"))
            }
        };
        tokio::spawn(serve(listener, membership.subscribe(), answer));
        Self { authority, membership, identity, address: format!("{TLS}{address}"), answered, _data: data }
    }

    fn way(&self, access: &HostAccess) -> Channel {
        Channel::to("far", &self.address, Some(access)).unwrap()
    }

    async fn call(&self, access: &HostAccess) -> Result<StatusCode, CallError> {
        self.way(access).call(Method::GET, "/v1/state", None, LIMIT).await.map(|(status, _)| status)
    }

    fn answered(&self) -> usize {
        self.answered.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn who_is_not_named_by_the_authority_for_this_host_and_now_is_not_answered() {
    let far = Far::start().await;
    let good = far.authority.worker(7, "far", |_| {});
    assert_eq!(far.call(&good).await.unwrap(), StatusCode::OK);
    assert_eq!(far.answered(), 1);

    let other = Authority::new();
    let strange = HostAccess { authority: far.authority.certificate.clone(), ..other.worker(7, "far", |_| {}) };
    let ended = far.authority.worker(7, "far", |params| params.not_after = date_time_ymd(2025, 1, 1));
    let early = far.authority.worker(7, "far", |params| params.not_before = date_time_ymd(2100, 1, 1));
    let elsewhere = far.authority.worker(7, "near", |_| {});
    let a_host = far.authority.worker(7, "far", |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    for (what, access) in [
        ("another authority's", strange),
        ("ended", ended),
        ("not begun", early),
        ("for another host", elsewhere),
        ("a host's", a_host),
    ] {
        let error = far.call(&access).await.expect_err(what);
        assert!(!matches!(error, CallError::Timeout { .. }), "{what}: {error}");
    }
    assert_eq!(far.answered(), 1);
}

#[tokio::test]
async fn a_host_that_is_another_or_was_revoked_is_not_spoken_to() {
    let far = Far::start().await;
    let good = far.authority.worker(7, "far", |_| {});
    // the authority vouches for it, under another name
    let misled = Channel::to("near", &far.address, Some(&good)).unwrap();
    let error = misled.call(Method::GET, "/v1/state", None, LIMIT).await.unwrap_err();
    assert!(matches!(error, CallError::Unreachable { .. }), "{error}");
    let knows = HostAccess { revocations: far.authority.revocations(&[1]), ..good.clone() };
    let error = far.call(&knows).await.unwrap_err();
    assert!(error.to_string().to_lowercase().contains("revoked"), "{error}");
    let other = HostAccess { authority: Authority::new().certificate, ..good };
    assert!(matches!(far.call(&other).await, Err(CallError::Unreachable { .. })));
    assert_eq!(far.answered(), 0);
}

#[tokio::test]
async fn a_worker_that_is_revoked_is_cut_off_where_it_stands_and_others_are_not() {
    let far = Far::start().await;
    let (one, other) = (far.authority.worker(7, "far", |_| {}), far.authority.worker(8, "far", |_| {}));
    let waits = |access: &HostAccess| {
        let way = far.way(access);
        tokio::spawn(async move { way.call(Method::GET, "/wait", None, LIMIT).await })
    };
    let (cut, stays) = (waits(&one), waits(&other));
    while far.answered() < 2 {
        tokio::task::yield_now().await;
    }
    let mut revised = far.identity.clone();
    revised.revised(far.authority.revocations(&[7])).unwrap();
    far.membership.send_replace(Membership::Holds(Arc::new(revised)));
    let error = cut.await.unwrap().unwrap_err();
    assert!(matches!(error, CallError::Broken { .. } | CallError::Unreachable { .. }), "{error}");
    assert!(far.call(&one).await.is_err());
    assert_eq!(far.call(&other).await.unwrap(), StatusCode::OK);
    assert!(!stays.is_finished());

    far.membership.send_replace(Membership::Ended(Arc::new(far.identity.clone())));
    assert!(stays.await.unwrap().is_err());
    assert!(far.call(&other).await.is_err());
    // the server takes its word again
    far.membership.send_replace(Membership::Holds(Arc::new(far.identity.clone())));
    assert_eq!(far.call(&other).await.unwrap(), StatusCode::OK);
}

#[tokio::test]
async fn a_connection_is_used_again_and_made_anew_for_another_certificate() {
    let far = Far::start().await;
    let way = far.way(&far.authority.worker(7, "far", |_| {}));
    for _ in 0..20 {
        way.call(Method::GET, "/v1/state", None, LIMIT).await.unwrap();
    }
    // the certificate is revoked: only what was made before could still be used, and is not
    let mut revised = far.identity.clone();
    revised.revised(far.authority.revocations(&[7])).unwrap();
    far.membership.send_replace(Membership::Holds(Arc::new(revised)));
    way.renew(&far.authority.worker(8, "far", |_| {})).unwrap();
    assert_eq!(way.call(Method::GET, "/v1/state", None, LIMIT).await.unwrap().0, StatusCode::OK);
    assert_eq!(far.answered(), 21);
}

#[tokio::test]
async fn what_speaks_no_tls_or_shows_nothing_is_not_answered() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let far = Far::start().await;
    let mut plain = TcpStream::connect(far.address.trim_start_matches(TLS)).await.unwrap();
    plain.write_all(b"GET /v1/state HTTP/1.1\r\nhost: far\r\n\r\n").await.unwrap();
    let mut said = Vec::new();
    // closed, or reset while something was unread
    let _ = timeout(LIMIT, plain.read_to_end(&mut said)).await.unwrap();
    assert!(!said.starts_with(b"HTTP"), "{said:?}");
    assert_eq!(far.answered(), 0);
}

#[test]
fn what_a_server_sends_is_taken_only_as_its_authority_signed_it_for_this_key() {
    let data = tempfile::tempdir().unwrap();
    let (authority, key) = (Authority::new(), new_key());
    let named = || ("http://127.0.0.1:1".to_owned(), "far".to_owned(), ([127, 0, 0, 1], 1).into());
    let mut identity = Identity::create(data.path(), named(), &key, authority.host(&key, "far", 1)).unwrap();
    let kept = std::fs::read(data.path().join("joined.json")).unwrap();

    let another = Authority::new();
    let mixed = Certified { authority: authority.certificate.clone(), ..another.host(&key, "far", 2) };
    for wrong in [another.host(&key, "far", 2), mixed, authority.host(&new_key(), "far", 2)] {
        assert!(identity.renewed(wrong).is_err());
    }
    assert!(identity.revised(another.revocations(&[7])).is_err());
    assert_eq!(std::fs::read(data.path().join("joined.json")).unwrap(), kept, "nothing of it was kept");
    identity.renewed(authority.host(&key, "far", 2)).unwrap();
    identity.revised(authority.revocations(&[7])).unwrap();
    assert_eq!(Identity::open(data.path()).unwrap().unwrap().revision(), 1);

    // an older list is no news, and takes nothing back; a certificate that comes with one is taken all the same
    let known = identity.parts().unwrap().revocations;
    let again = identity.revised(authority.revocations(&[]));
    assert!(matches!(again, Err(IdentityError::Older { shown: 0, known: 1 })), "{again:?}");
    let before = identity.parts().unwrap().certificate;
    identity.renewed(authority.host(&key, "far", 3)).unwrap();
    let read = Identity::open(data.path()).unwrap().unwrap();
    assert_ne!(read.parts().unwrap().certificate, before);
    assert_eq!((read.parts().unwrap().revocations, read.revision()), (known, 1));

    use std::os::unix::fs::PermissionsExt as _;
    let file = data.path().join("joined.json");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert!(Identity::open(data.path()).is_err(), "others can read the key");
}
