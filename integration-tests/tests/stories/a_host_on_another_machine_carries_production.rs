use std::time::Duration;

use anyhow::{Context as _, Result};
use segue_integration_tests::{joined::JoinedHost, stand::Stand};
use segue_schemas::{
    api::{CarriedService, HostStatus, RunningServices},
    status::{RolloutStatus, RunStatus},
};

use crate::{QUICK, good_release, release, version_in};

#[tokio::test]
async fn releases_come_and_a_bad_one_goes_back_on_a_host_that_joined_also_after_all_were_started_again() -> Result<()> {
    let (mut stand, mut host) = Stand::start_joined("far", QUICK).await?;
    good_release(&stand, "1").await?;
    assert_eq!(version_in(&stand, "production").await?, "1");
    let serves = |one: &CarriedService| one.environment == "production" && one.weight == 100;
    let shown = stand.host_with("far", |host| host.carries.iter().any(serves)).await?;
    assert!(shown.joined && shown.address == host.address && shown.version.is_some(), "{shown:#?}");
    assert!(shown.certificate_ends_at.is_some());
    let running: RunningServices = stand.api()?.get("/services").await?;
    let served = running.items.iter().find(|one| one.carried.environment == "production").context("nothing runs")?;
    assert_eq!((served.host.as_str(), served.carried.weight, served.recorded), ("far", 100, None), "{served:#?}");
    assert!(served.since.is_some(), "{served:#?}");

    // what lies on either machine is enough to go on with
    host.kill()?;
    stand.kill_server()?;
    stand.start_server().await?;
    host.start()?;
    host.until_said("the host is ready").await?;
    let bad = release(&stand, "2", 1.0, "1s").await?;
    assert_eq!(bad.run.status, RunStatus::Failed, "{bad:#?}");
    let newest = stand.api()?.rollouts("production").await?.first().context("no rollout")?.clone();
    assert_eq!(newest.status, RolloutStatus::RolledBack, "{newest:#?}");
    assert_eq!(version_in(&stand, "production").await?, "1");

    // nothing that opens anything is said
    let said = stand.server_output() + &host.said();
    let kept: serde_json::Value = serde_json::from_slice(&std::fs::read(host.data.join("joined.json"))?)?;
    let key = kept["key"].as_str().context("no key")?;
    assert!(!said.contains("segue-join_") && !said.contains(key) && !said.contains("PRIVATE"));
    Ok(())
}

#[tokio::test]
async fn a_token_lets_one_machine_join_once_under_its_name() -> Result<()> {
    let stand = Stand::start_server_alone("timing: {host-invitation: 20s, host-certificate: 12s}\n").await?;
    let mut host = JoinedHost::new(&stand, "far")?;
    let refused = |host: &JoinedHost, token: &str| -> Result<String> {
        let output = host.join_with(&stand, token)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && !host.data.join("joined.json").exists(), "{said}");
        Ok(said)
    };
    let token = stand.invite("far")?;
    let said = refused(&JoinedHost::new(&stand, "other")?, &token)?;
    assert!(said.contains("was made for the host `far`"), "{said}");
    // the last digit is of the authority's fingerprint: this server is not the one that it names
    let last = if token.ends_with('0') { "1" } else { "0" };
    let said = refused(&host, &format!("{}{last}", &token[..token.len() - 1]))?;
    assert!(said.contains("is not the server that this token is from"), "{said}");
    assert!(stand.segue(&["host", "revoke", "far"])?.status.success());
    let token = stand.invite("far")?;
    assert!(host.join_with(&stand, &token)?.status.success());
    let mut other = JoinedHost::new(&stand, "far")?;
    other.data = stand.folder().join("another-machine");
    let said = refused(&other, &token)?;
    assert!(said.contains("was used already, by another machine"), "{said}");
    let output = stand.segue(&["host", "invite", "far"])?;
    assert!(String::from_utf8_lossy(&output.stderr).contains("has joined: revoke it first"));

    // its certificate is renewed before it ends
    host.start()?;
    let first = stand.host_becomes("far", HostStatus::Reachable).await?.certificate_ends_at;
    let renewed = stand.host_with("far", |host| host.certificate_ends_at > first).await?;
    assert_eq!(renewed.status, HostStatus::Reachable);

    // nobody gets in without a certificate
    let client = reqwest::Client::builder().timeout(Duration::from_secs(10)).build()?;
    assert!(client.get(format!("http://{}/v1/state", host.address)).send().await.is_err());
    host.until_said("was not let in").await?;
    Ok(())
}
