//! The client and the keeper against a Lambda that refuses what the real one refuses, and fails when it is told to.

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use segue_integration_tests::lambda::{Fault, KEY, LambdaCloud, SSH_KEY};
use segue_schemas::{config::LambdaConfig, duration::Span, price::Price};

use super::*;

struct Place {
    cloud: LambdaCloud,
    config: LambdaConfig,
    folder: tempfile::TempDir,
}

impl Place {
    async fn new() -> Self {
        let _already_installed = rustls::crypto::ring::default_provider().install_default();
        let (cloud, folder) = (LambdaCloud::start().await.unwrap(), tempfile::tempdir().unwrap());
        let config = LambdaConfig {
            url: cloud.url(),
            key_file: Some(folder.path().join("key")),
            repositories: vec!["acme/shop".into()],
            ssh_keys: vec![SSH_KEY.into()],
            max_price: Some(Price(150)),
            request_every: Span::millis(1),
            ..LambdaConfig::default()
        };
        let place = Self { cloud, config, folder };
        place.key(KEY, 0o600);
        place
    }

    fn key(&self, text: &str, mode: u32) {
        let file = self.folder.path().join("key");
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn lambda(&self) -> Lambda {
        Lambda::new(&self.config).unwrap()
    }
}

const A10: Launch<'static> =
    Launch { name: "segue-a-1", instance_type: "gpu_1x_a10", region: "us-west-1", ssh_key: SSH_KEY };

#[tokio::test]
async fn an_instance_is_offered_launched_seen_and_terminated() {
    let place = Place::new().await;
    let lambda = place.lambda();
    let offers = lambda.types().await.unwrap();
    let a10 = offers.iter().find(|offer| offer.name == "gpu_1x_a10").unwrap();
    assert_eq!((a10.price, a10.regions.as_slice()), (Price(75), &["us-east-1".to_owned(), "us-west-1".to_owned()][..]));
    assert_eq!(lambda.ssh_keys().await.unwrap(), [SSH_KEY]);
    let id = lambda.launch(&A10).await.unwrap();
    let [seen] = &lambda.instances().await.unwrap()[..] else { panic!("one instance") };
    assert_eq!(
        (seen.id.as_str(), seen.name.as_str(), seen.ip.as_deref()),
        (id.as_str(), "segue-a-1", Some("198.51.100.2"))
    );
    assert_eq!(lambda.instance(&id).await.unwrap().as_ref(), Some(seen));
    for none in ["00000000000000000000000000000099", "../ssh-keys", ""] {
        assert_eq!(lambda.instance(none).await.unwrap(), None, "{none}");
    }
    lambda.terminate(&id).await.unwrap();
    assert_eq!(place.cloud.left(), [""; 0]);
    let gone = lambda.terminate("00000000000000000000000000000099").await.unwrap_err();
    assert!(gone.is_not_there(), "{gone}");
}

#[tokio::test]
async fn what_goes_wrong_says_whether_anything_was_done() {
    let place = Place::new().await;
    let lambda = place.lambda();
    place.cloud.fails(&[
        Fault::NoCapacityAfterAll,
        Fault::Quota,
        Fault::InvalidAddress,
        Fault::BadGateway,
        Fault::MadeAndBadGateway,
    ]);
    let mut errors = Vec::new();
    for _ in 0..5 {
        errors.push(lambda.launch(&A10).await.unwrap_err());
    }
    assert!(errors[0].is_lack_of_capacity(), "{}", errors[0]);
    assert_eq!(errors[1].to_string(), "Lambda refused: Quota exceeded. (global/quota-exceeded)");
    assert!(errors[2].to_string().contains("global/invalid-address"), "{}", errors[2]);
    assert!(matches!(&errors[3], LambdaError::Unanswered { .. }), "{}", errors[3]);
    assert!(matches!(&errors[4], LambdaError::Unanswered { .. }), "{}", errors[4]);
    assert_eq!(place.cloud.launched().len(), 1, "one of the two was made, and nobody can tell which");

    let no_region = lambda.launch(&Launch { region: "mars-1", ..A10 }).await.unwrap_err();
    assert!(no_region.is_not_there(), "{no_region}");
    place.key("wrong", 0o600);
    assert!(matches!(lambda.types().await.unwrap_err(), LambdaError::Key { .. }), "read anew with each request");
    place.key(KEY, 0o644);
    let open = lambda.types().await.unwrap_err();
    assert!(matches!(&open, LambdaError::NoKey(_)), "{open}");
    assert!(!open.to_string().contains(KEY));
    place.key(KEY, 0o600);
    place.cloud.is_down(true);
    assert!(matches!(lambda.instances().await.unwrap_err(), LambdaError::Unanswered { .. }));
    drop(place.cloud);
    let away = lambda.instances().await.unwrap_err();
    assert!(matches!(&away, LambdaError::Away { .. } | LambdaError::Unanswered { .. }), "{away}");
}

#[tokio::test]
async fn requests_come_no_faster_than_they_are_taken() {
    let mut place = Place::new().await;
    place.cloud.limits(Duration::from_millis(500), Duration::ZERO);
    place.config.request_every = Span::millis(550);
    let lambda = place.lambda();
    let (a, b, c) = tokio::join!(lambda.types(), lambda.instances(), lambda.ssh_keys());
    assert!(a.is_ok() && b.is_ok() && c.is_ok(), "{a:?} {b:?} {c:?}");
    // another one with the same key knows nothing of these
    let busy = place.lambda().types().await.unwrap_err();
    assert!(matches!(busy, LambdaError::Busy { pause } if pause == Duration::from_secs(5)), "{busy}");
}
