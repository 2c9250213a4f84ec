//! Hosts on other machines: tokens, certificates, and who loses them.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use segue_runner::store::StoreError;
use segue_schemas::{
    config::{EnvironmentConfig, HostConfig},
    host_api::ArtifactSource,
    host_join::{JoinHost, JoinToken, RenewHost, hex, join_text},
    worker_api::RolloutHandBack,
};

use crate::world::World;

const ADDRESS: &str = "192.0.2.7:8323";

/// A machine with a key of its own.
struct Machine(KeyPair);

impl Machine {
    fn new() -> Self {
        Self(KeyPair::generate_for(&PKCS_ED25519).unwrap())
    }

    fn request(&self) -> String {
        STANDARD.encode(CertificateParams::default().serialize_request(&self.0).unwrap().der())
    }

    fn asks(&self, token: &JoinToken, name: &str) -> JoinHost {
        let token = Ed25519KeyPair::from_seed_unchecked(&token.seed).unwrap();
        let request = self.request();
        let signature = hex(token.sign(&join_text(name, ADDRESS, "1", &request)).as_ref());
        let token = hex(token.public_key().as_ref());
        JoinHost { name: name.into(), address: ADDRESS.into(), version: "1".into(), request, token, signature }
    }
}

/// A world with a host that is to join, which carries staging.
async fn with_host(world: World) -> World {
    world
        .configured(|config| {
            config.hosts.insert("far".into(), HostConfig { join: true, ..HostConfig::default() });
            let staging = EnvironmentConfig { hosts: vec!["far".into()], ..EnvironmentConfig::default() };
            config.environments.insert("staging".into(), staging);
        })
        .await
}

async fn join(world: &World) -> Machine {
    let machine = Machine::new();
    let token = world.store.invite_host("far").await.unwrap().token;
    world.store.join_host(machine.asks(&token, "far")).await.unwrap();
    machine
}

fn refusal<T: std::fmt::Debug>(result: Result<T, StoreError>) -> String {
    result.expect_err("refused").to_string()
}

pub async fn a_token_lets_one_machine_join_once_for_a_while(world: World) {
    let world = with_host(world).await;
    let store = &world.store;
    for name in ["local", "Far", "a.b", ""] {
        assert!(store.invite_host(name).await.is_err(), "{name}");
    }
    let (one, other) = (Machine::new(), Machine::new());
    let first = store.invite_host("far").await.unwrap().token;
    let token = store.invite_host("far").await.unwrap().token;
    assert!(refusal(store.join_host(one.asks(&first, "far")).await).contains("a later one has taken its place"));
    assert!(refusal(store.join_host(one.asks(&token, "near")).await).contains("was made for the host `far`"));
    let changed = JoinHost { address: "198.51.100.1:1".into(), ..one.asks(&token, "far") };
    assert!(refusal(store.join_host(changed).await).contains("changed on its way"));
    let bare = JoinHost { token: hex(&[0; 32]), ..one.asks(&token, "far") };
    assert!(store.join_host(bare).await.is_err());

    let joined = store.join_host(one.asks(&token, "far")).await.unwrap();
    assert!(refusal(store.join_host(other.asks(&token, "far")).await).contains("used already"));
    // its answer was lost
    let again = store.join_host(one.asks(&token, "far")).await.unwrap();
    assert_eq!(again.authority, joined.authority);
    assert!(refusal(store.invite_host("far").await).contains("revoke it first"));
    let host = store.joined_host("far").await.unwrap();
    assert_eq!((host.address.as_str(), host.key), (ADDRESS, hex(one.0.public_key_raw())));

    let world = world.reopened().await;
    world.store.revoke_host("far").await.unwrap();
    let late = world.store.invite_host("far").await.unwrap().token;
    world.pass(Duration::from_secs(901));
    assert!(refusal(world.store.join_host(other.asks(&late, "far")).await).contains("time is over"));
}

pub async fn a_certificate_is_renewed_for_its_key_until_it_ends_or_is_revoked(world: World) {
    let world = with_host(world).await;
    let store = &world.store;
    let machine = join(&world).await;
    let ends_at = store.joined_host("far").await.unwrap().ends_at;
    world.pass(Duration::from_secs(20 * 86_400));
    let renew = |machine: &Machine| RenewHost { request: machine.request() };
    let strange = store.renew_host("far", renew(&Machine::new())).await;
    assert!(refusal(strange).contains("another key"));
    store.renew_host("far", renew(&machine)).await.unwrap();
    assert!(store.joined_host("far").await.unwrap().ends_at > ends_at);

    let before = store.host_news(0).await.unwrap();
    store.revoke_host("far").await.unwrap();
    assert!(matches!(store.renew_host("far", renew(&machine)).await, Err(StoreError::Revoked(_))));
    assert!(matches!(store.joined_host("far").await, Err(StoreError::Revoked(_))));
    assert!(matches!(store.revoke_host("far").await, Err(StoreError::NotFound { .. })));
    let after = store.host_news(before.revision).await.unwrap();
    assert!(after.revision > before.revision && after.revocations.is_some());
    // a host that knows a newer list is sent one that is newer still; who tells of one that can't be is not believed
    let ahead = store.host_news(after.revision + 4).await.unwrap();
    assert!(ahead.revision == after.revision + 5 && ahead.revocations.is_some());
    assert_eq!(store.host_news(u64::MAX).await.unwrap().revision, ahead.revision);

    let token = store.invite_host("far").await.unwrap().token;
    store.join_host(machine.asks(&token, "far")).await.unwrap();
    world.pass(Duration::from_secs(31 * 86_400));
    assert!(refusal(store.joined_host("far").await).contains("has ended"));
}

pub async fn a_rollout_on_a_joined_host_comes_with_what_opens_it(world: World) {
    let world = with_host(world).await;
    let store = &world.store;
    let worker = world.worker("w", "1").await;
    join(&world).await;
    let (_, _, created) = world.deploy(&worker, "staging", b"v1").await;
    let claim = world.claim_rollout(&worker).await;
    assert_eq!(claim.hosts["far"], format!("tls://{ADDRESS}"));
    let access = claim.access.clone().unwrap();
    // for hosts of this machine; the worker tells those that joined to ask their server
    assert!(claim.artifacts.values().all(|source| matches!(source, ArtifactSource::File(_))));
    assert!(!format!("{claim:?}").contains(&access.key), "what opens a host stands in no log");

    // another when a third of the hour is over
    assert!(store.renew_rollout(created.rollout, claim.epoch).await.unwrap().access.is_none());
    for _ in 0..121 {
        world.pass(Duration::from_secs(20));
        let renewed = store.renew_rollout(created.rollout, claim.epoch).await.unwrap();
        if let Some(next) = renewed.access {
            assert_ne!(next.certificate, access.certificate);
            let news = store.host_news(0).await.unwrap();
            assert_eq!(store.host_news(news.revision).await.unwrap().revocations, None);

            // whoever drives it stops; and whoever takes it up has no way there
            assert_eq!(store.revoke_host("far").await.unwrap(), [created.rollout]);
            let late = store.renew_rollout(created.rollout, claim.epoch).await;
            assert!(matches!(late, Err(StoreError::StaleEpoch { .. })), "{late:?}");
            let claim = world.claim_rollout(&worker).await;
            assert!(claim.hosts.is_empty() && claim.access.is_none());
            let back = RolloutHandBack { epoch: claim.epoch, reason: "no way".into(), not_before_ms: 0 };
            store.hand_back_rollout(created.rollout, back).await.unwrap();

            join(&world).await;
            let claim = world.claim_rollout(&worker).await;
            assert!(claim.hosts.contains_key("far") && claim.access.is_some());
            return;
        }
    }
    panic!("no certificate came to take the first one's place");
}

pub async fn a_worker_that_is_revoked_stands_on_the_list_of_its_hosts(world: World) {
    let world = with_host(world).await;
    let store = &world.store;
    join(&world).await;
    let own = world.worker("own", "1").await;
    store.create_worker_token("pool", None).await.unwrap();
    let token = store.worker_tokens().await.unwrap().into_iter().find(|token| token.name == "pool");
    let register = segue_schemas::worker_api::Register {
        worker: "pooled".parse().unwrap(),
        incarnation: "1".into(),
        labels: own.labels.clone(),
        capacity: 1,
        version: "1".into(),
        gpus: Vec::new(),
    };
    let registered = store.register_worker_with(token, register).await.unwrap();
    assert!(!registered.hosts.contains_key("far"), "it tells of itself");
    let pooled = segue_schemas::worker_api::ClaimRequest { worker: "pooled".parse().unwrap(), ..own.clone() };
    world.deploy(&own, "staging", b"v1").await;
    let claim = world.claim_rollout(&pooled).await;
    let serial = serial_of(&claim.access.unwrap().certificate);
    let before = store.host_news(0).await.unwrap();

    let mut news = store.doorbell().listen(segue_runner::store::Bell::Hosts);
    store.revoke_worker_token("pool").await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), news.rung()).await.unwrap();
    let after = store.host_news(before.revision).await.unwrap();
    let list = STANDARD.decode(after.revocations.unwrap()).unwrap();
    assert!(list.windows(serial.len()).any(|window| window == serial), "the certificate is on the list");
}

/// A certificate's number: the first integer after its version (RFC 5280, section 4.1), of 16 bytes here.
fn serial_of(certificate: &str) -> Vec<u8> {
    let der = STANDARD.decode(certificate).unwrap();
    let at = der.windows(7).position(|window| window == [0xa0, 3, 2, 1, 2, 2, 16]).unwrap() + 7;
    der[at..at + 16].to_vec()
}
