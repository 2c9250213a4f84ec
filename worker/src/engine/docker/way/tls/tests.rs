use std::os::unix::fs::PermissionsExt as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
    date_time_ymd,
};
use rustls::{ServerConfig, server::WebPkiClientVerifier};
use segue_schemas::engine::EngineConfig;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::{super::Way, *};

fn pem(what: &str, content: &[u8]) -> String {
    format!("-----BEGIN {what}-----\n{}\n-----END {what}-----\n", STANDARD.encode(content))
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let pem = pem("CERTIFICATE", params.self_signed(&key).unwrap().der());
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate and its key, in PEM form.
    fn sign(&self, names: &[&str], purpose: ExtendedKeyUsagePurpose, end_year: i32) -> (String, String) {
        let mut params = CertificateParams::default();
        let name = |text: &&str| match text.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName((*text).try_into().unwrap()),
        };
        params.subject_alt_names = names.iter().map(name).collect();
        params.extended_key_usages = vec![purpose];
        params.not_after = date_time_ymd(end_year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (pem("CERTIFICATE", certificate.der()), pem("PRIVATE KEY", &key.serialize_der()))
    }
}

/// An engine that says its version to whoever comes with a certificate of `clients`.
async fn engine(shown: &(String, String), clients: &Authority) -> u16 {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(clients.pem.as_bytes()).unwrap()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
    let certificate = CertificateDer::from_pem_slice(shown.0.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(shown.1.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut request = [0; 2048];
                while stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                    let body = r#"{"ApiVersion":"1.41","Version":"20.10.24"}"#;
                    let head = format!(
                        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                        body.len()
                    );
                    stream.write_all((head + body).as_bytes()).await.unwrap();
                }
            });
        }
    });
    port
}

/// What comes of asking for the version.
async fn ask(address: &str, ca: &str, own: &(String, String), mode: u32) -> Result<String, String> {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str, mode| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        Some(path)
    };
    let engine = EngineConfig {
        ca: write("ca.pem", ca, 0o644),
        cert: write("cert.pem", &own.0, 0o644),
        key: write("key.pem", &own.1, mode),
        ..EngineConfig::at(address)
    };
    let client = Way::to(&engine)?.client(std::time::Duration::from_secs(10)).unwrap();
    let said = client.version().await.map_err(|error| error.to_string())?;
    Ok(said.version.unwrap_or_default())
}

#[tokio::test]
async fn an_engine_is_reached_with_the_right_certificates_alone() {
    let (ours, others) = (Authority::new(), Authority::new());
    let server = ours.sign(&["127.0.0.1"], ExtendedKeyUsagePurpose::ServerAuth, 2100);
    let client = ours.sign(&["segue"], ExtendedKeyUsagePurpose::ClientAuth, 2100);
    let good = format!("tcp://127.0.0.1:{}", engine(&server, &ours).await);
    assert_eq!(ask(&good, &ours.pem, &client, 0o600).await.unwrap(), "20.10.24");

    let named = ours.sign(&["engine.internal"], ExtendedKeyUsagePurpose::ServerAuth, 2100);
    let misnamed = format!("tcp://127.0.0.1:{}", engine(&named, &ours).await);
    let old = ours.sign(&["127.0.0.1"], ExtendedKeyUsagePurpose::ServerAuth, 2020);
    let ended = format!("tcp://127.0.0.1:{}", engine(&old, &ours).await);
    let foreign = others.sign(&["segue"], ExtendedKeyUsagePurpose::ClientAuth, 2100);
    let stale = ours.sign(&["segue"], ExtendedKeyUsagePurpose::ClientAuth, 2020);
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = format!("tcp://127.0.0.1:{}", closed.local_addr().unwrap().port());
    drop(closed);
    for (what, address, ca, own, mode, words) in [
        ("another's CA", &good, &others.pem, &client, 0o600, "is not signed by who is in"),
        ("another's name", &misnamed, &ours.pem, &client, 0o600, "is not for `127.0.0.1`"),
        ("the engine's has ended", &ended, &ours.pem, &client, 0o600, "has ended: have the engine's renewed"),
        ("nobody there", &nobody, &ours.pem, &client, 0o600, "nobody listens there"),
        ("a key that others read", &good, &ours.pem, &client, 0o640, "chmod 600"),
        ("no key", &good, &ours.pem, &(client.0.clone(), "x".into()), 0o600, "holds no key"),
        ("no certificate", &good, &"x".to_owned(), &client, 0o600, "holds no certificate"),
    ] {
        let error = ask(address, ca, own, mode).await.expect_err(what);
        assert!(error.contains(words) && error.contains(address.as_str()), "{what}: {error}");
    }
    // in TLS 1.3 who is not let in learns of it with the answer, or of no more than the end
    for own in [&foreign, &stale] {
        let error = ask(&good, &ours.pem, own, 0o600).await.expect_err("not let in");
        assert!(error.contains("take the certificate"), "{error}");
    }
}

#[tokio::test]
async fn what_speaks_no_tls_is_told_and_a_name_that_leads_away_is_not_spoken_to_in_plain() {
    let ours = Authority::new();
    let client = ours.sign(&["segue"], ExtendedKeyUsagePurpose::ClientAuth, 2100);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("tcp://127.0.0.1:{}", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut begun = [0; 64];
            let _ = stream.read(&mut begun).await;
            let _ = stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n").await;
        }
    });
    let error = ask(&address, &ours.pem, &client, 0o600).await.expect_err("no TLS");
    assert!(error.contains("speaks no TLS"), "{error}");
    let plain = Way::to(&EngineConfig::at("tcp://192.0.2.1:2375")).expect_err("plain");
    assert!(plain.contains("without TLS"), "{plain}");
    let led_away = super::super::dial("192.0.2.1", 2375, true).await.expect_err("elsewhere");
    assert!(led_away.to_string().contains("not this machine"), "{led_away}");
}
