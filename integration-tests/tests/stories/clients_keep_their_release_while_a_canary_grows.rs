//! Sticky clients: hundreds of them with cookies see a canary grow, end and go back, and none of them sees a release twice over.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use segue_integration_tests::{load::Load, routers::Kind, sample, stand::Stand};
use segue_schemas::{
    id::RolloutId,
    status::{RolloutStatus, RunStatus},
};

use crate::{RUN_LIMIT, good_release, nothing_was_dropped};

const STICKY: &str = "sticky: {cookie: sample-client, max-age: 1d}\n";

const CLIENTS: usize = 400;

/// Requests under way at a time.
const AT_ONCE: usize = 16;

#[tokio::test]
async fn embedded() -> Result<()> {
    nobody_goes_back_and_forth(Stand::start("").await?).await
}

#[tokio::test]
async fn haproxy() -> Result<()> {
    nobody_goes_back_and_forth(Stand::start_behind(Kind::Haproxy, "").await?).await
}

#[tokio::test]
async fn nginx() -> Result<()> {
    nobody_goes_back_and_forth(Stand::start_behind(Kind::Nginx, "").await?).await
}

/// A client as it goes on: its cookie, and the version that it saw last.
#[derive(Debug, Clone)]
struct Client {
    cookie: String,
    version: String,
}

async fn nobody_goes_back_and_forth(stand: Stand) -> Result<()> {
    good_release(&stand, "1").await?;
    // a person says when it goes on, however slow a fresh process is under hundreds of clients at once
    let pipeline = sample::pipeline("10m") + "          latency-ratio: \"50\"\n";
    stand.repository.commit(
        "version 2, whose clients stay",
        &[
            (".segue/pipelines/release.yml", &pipeline),
            (".segue/services/api.yml", &format!("{}{STICKY}", sample::SERVICE)),
            ("service.yml", &sample::service_yml("2", 0.0)),
        ],
    )?;
    // a router that is replaced answers once more what comes on a kept connection
    let http = reqwest::Client::builder().pool_max_idle_per_host(0).build()?;
    assert_eq!(ask(&http, &stand, "a=b").await?.1, None, "with one release there is nothing to keep");
    let load = Load::to(&stand.proxy, "production").start();
    let guid = stand.push("main").await?;
    let rollout = until_weight(&stand, 10).await?;

    let clients = stream::iter(0..CLIENTS).map(|n| {
        let (http, stand) = (&http, &stand);
        async move {
            let (version, cookie) = ask(http, stand, &format!("other={n}")).await?;
            let cookie = cookie.with_context(|| format!("client {n} was given no cookie"))?;
            let (pair, attributes) = cookie.split_once("; ").context("no attributes")?;
            assert_eq!(attributes, "Path=/; Max-Age=86400; HttpOnly; SameSite=Lax");
            anyhow::Ok(Client { cookie: format!("other={n}; {pair}"), version })
        }
    });
    let mut clients: Vec<Client> = clients.buffer_unordered(AT_ONCE).try_collect().await?;
    assert_eq!(moved(&http, &stand, &mut clients).await?, 0, "nothing has changed");
    // 40 are to be, the standard deviation is 6
    let canary = of_canary(&clients);
    assert!((10..=75).contains(&canary), "{canary} of {CLIENTS} clients at 10 %");
    for forged in ["2", "canary", "ffffffffffffffffffffffffffffffffff", "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF", "\"; x="] {
        let (version, cookie) = ask(&http, &stand, &format!("sample-client={forged}")).await?;
        assert!(["1", "2"].contains(&&*version) && cookie.is_some(), "{forged}: {version}, {cookie:?}");
    }

    skip(&stand, rollout, 50).await?;
    let came = moved(&http, &stand, &mut clients).await?;
    let half = of_canary(&clients);
    // 200 are to be, the standard deviation is 10
    assert!(
        half == canary + came && (150..=250).contains(&half),
        "{canary}, {came} came, {half} of {CLIENTS} clients at 50 %"
    );

    skip(&stand, rollout, 100).await?;
    assert_eq!(moved(&http, &stand, &mut clients).await?, CLIENTS - half, "the others have come");
    assert_eq!(of_canary(&clients), CLIENTS);
    assert_eq!(ask(&http, &stand, "a=b").await?, ("2".to_owned(), None));

    let said = stand.segue(&["rollout", "abort", &rollout.to_string(), "--reason", "seen enough"])?;
    ensure!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let ended = stand.api()?.rollout_ended(rollout, RUN_LIMIT).await?;
    assert_eq!((ended.rollout.status, ended.rollout.weight), (RolloutStatus::RolledBack, 0));
    for client in &clients {
        assert_eq!(ask(&http, &stand, &client.cookie).await?, ("1".to_owned(), None), "everybody is back: {client:?}");
    }
    let view = stand.api()?.run_of(&guid, RUN_LIMIT).await?;
    nothing_was_dropped(&load.stop().await);
    assert_eq!(view.run.status, RunStatus::Failed);
    Ok(())
}

/// Every client comes once more: none goes back to the former release, or is given another cookie; how many go over to the new one.
async fn moved(http: &reqwest::Client, stand: &Stand, clients: &mut [Client]) -> Result<usize> {
    let again = stream::iter(clients.iter_mut()).map(async |client| {
        let (version, cookie) = ask(http, stand, &client.cookie).await?;
        ensure!(cookie.is_none(), "{client:?} was told to keep {cookie:?}");
        ensure!(client.version == "1" || version == "2", "{client:?} went back to {version}");
        let is_moved = client.version != version;
        client.version = version;
        Ok(usize::from(is_moved))
    });
    again.buffer_unordered(AT_ONCE).try_fold(0, async |all, one| Ok(all + one)).await
}

fn of_canary(clients: &[Client]) -> usize {
    clients.iter().filter(|client| client.version == "2").count()
}

/// Which version answers, and the cookie that is to be kept.
async fn ask(http: &reqwest::Client, stand: &Stand, cookies: &str) -> Result<(String, Option<String>)> {
    let request = http
        .get(format!("http://{}/", stand.proxy))
        .header("host", sample::host_name("production"))
        .header("cookie", cookies)
        .timeout(Duration::from_secs(5));
    let answer = request.send().await?;
    let cookie = answer.headers().get("set-cookie").map(|value| value.to_str().map(str::to_owned)).transpose()?;
    let body: serde_json::Value = answer.json().await?;
    Ok((body["version"].as_str().unwrap_or_default().to_owned(), cookie))
}

async fn skip(stand: &Stand, rollout: RolloutId, weight: u8) -> Result<()> {
    let said = stand.segue(&["rollout", "skip", &rollout.to_string()])?;
    ensure!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    until_weight(stand, weight).await?;
    Ok(())
}

/// Waits until the newest rollout has this share, as its routers confirmed.
async fn until_weight(stand: &Stand, weight: u8) -> Result<RolloutId> {
    let begun = Instant::now();
    loop {
        let newest = stand.api()?.rollouts("production").await?.into_iter().next().context("no rollout")?;
        if newest.weight == weight {
            return Ok(newest.id);
        }
        ensure!(begun.elapsed() < RUN_LIMIT, "never at {weight} %: {newest:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
