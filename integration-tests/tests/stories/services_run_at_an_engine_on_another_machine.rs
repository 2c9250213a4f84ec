//! Services at an engine that is reached over a network, with what carries their traffic beside `segue host` here.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use reqwest::Method;
use segue_integration_tests::{
    api::has,
    boxed::{HostAlone, all_to, commit, commit_version, fence, web},
    docker::{Docker, IMAGE},
    engines::{Certificates, MACHINE, Sshd},
    load::Load,
    routers::Kind,
    sample,
    stand::{Stand, settings_of},
};
use segue_schemas::{
    deploy::JournalKind,
    host_api::InstanceState,
    status::{RolloutStatus, RunStatus},
};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(120);

/// Says how often it was begun, which it counts in a volume, and prints numbered lines as long as it lives.
const SERVICE: &str = "(n=0; while sleep 0.1; do n=$((n+1)); echo line $n; done) & mkdir /tmp/www && echo begun >> /kept/count && \
                       cp /kept/count /tmp/www/healthz && httpd -f -p $PORT -h /tmp/www & wait";

fn start(image: &str) -> Value {
    let container = json!({
        "container": {"port": 8080, "volumes": ["kept:/kept"], "options": "--tmpfs /tmp"},
        "resources": {"memory": "64MiB"},
    });
    web(image, "web-1", SERVICE, &json!({"container": container}))
}

async fn image_of(docker: &Docker) -> Result<String> {
    Ok(docker.look(&format!("/images/{IMAGE}/json")).await?["Id"].as_str().context("an id")?.to_owned())
}

/// Brings the service to a host, and has its proxy send requests there.
async fn serve(host: &HostAlone, image: &str) -> Result<()> {
    host.call(Method::POST, "/v1/instances", &start(image)).await?;
    host.call(Method::PUT, "/v1/routes/production/web", &all_to("web-1")).await?;
    ensure!(host.until_answered("/healthz", LIMIT).await? == "begun\n", "it was begun once");
    Ok(())
}

/// Waits until more is printed than there was; every line is there, and there once.
async fn prints_on(host: &HostAlone, before: usize) -> Result<usize> {
    let begun = Instant::now();
    loop {
        let instance = host.state().await?.instances.remove(0);
        // it is there with the first line
        let said = std::fs::read_to_string(&instance.output).unwrap_or_default();
        let numbers: Vec<usize> = said.lines().filter_map(|line| line.strip_prefix("line ")?.parse().ok()).collect();
        ensure!(numbers.iter().copied().eq(1..=numbers.len()), "a line is missing, or there twice: {said}");
        if numbers.len() > before + 10 {
            ensure!(instance.state == InstanceState::Running && instance.restarts == 0, "{instance:#?}");
            return Ok(numbers.len());
        }
        ensure!(begun.elapsed() < LIMIT, "nothing more is printed: {said}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Kills the host: its successor goes on with the same container, and with what it prints.
async fn goes_on_after_a_kill(docker: &Docker, host: &mut HostAlone) -> Result<usize> {
    let before = docker.instances().await?;
    let ports = &before[0]["Ports"];
    ensure!(before.len() == 1 && ports[0]["IP"] == MACHINE && ports[0]["PrivatePort"] == 8080, "{before:#?}");
    let printed = prints_on(host, 0).await?;
    host.kill_and_start().await?;
    ensure!(host.until_answered("/healthz", LIMIT).await? == "begun\n", "it was not begun again");
    ensure!(docker.instances().await?[0]["Id"] == before[0]["Id"], "it is the same");
    prints_on(host, printed).await
}

/// Takes the service away: nothing of it is left at the engine.
async fn leaves_nothing(docker: &Docker, host: HostAlone) -> Result<()> {
    host.call(Method::DELETE, "/v1/routes/production/web", &json!({"fence": fence(1)})).await?;
    let begun = Instant::now();
    while !docker.instances().await?.is_empty() {
        ensure!(begun.elapsed() < LIMIT, "this is left: {:#?}", docker.instances().await?);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    host.end().await
}

async fn version_at(proxy: &str) -> Result<String> {
    let request = reqwest::Client::new().get(format!("http://{proxy}/")).header("host", sample::host_name("staging"));
    let body: Value = request.timeout(Duration::from_secs(5)).send().await?.json().await?;
    Ok(body["version"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_canary_behind_tls_outlives_a_restart_of_its_engine() -> Result<()> {
    let certificates = Certificates::make()?;
    let (mut docker, address) = Docker::start_with_tls(&certificates).await?;
    let mut stand = Stand::prepare("")?;
    let router = stand.router_of("nginx", Kind::Nginx)?;
    let (engine, listen) = (certificates.settings(&address), router.address.to_string());
    let carried = settings_of(&router.settings());
    stand.add_settings(&format!("  far:\n    listen: [\"{listen}\"]\n    docker: {engine}\n{carried}"));
    stand.add_settings(&docker.settings(""));
    stand.add_settings("environments: {staging: {hosts: [far]}}\n");
    stand.start_server().await?;
    docker.sample_image(&stand.folder().join("sample-service")).await?;
    let config = stand.folder().join("segue.yaml").display().to_string();
    let doctor = stand.segue(&["doctor", "--json", "--config", &config])?;
    let checks: Vec<Value> = serde_json::from_slice(&doctor.stdout)?;
    let of_engine: Vec<&Value> = checks.iter().filter(|check| check["name"] == "engine of far").collect();
    ensure!(of_engine.len() >= 3, "its version, and the ends of both certificates: {checks:#?}");
    ensure!(of_engine[0]["state"] == "good" && of_engine[0]["found"].to_string().contains(&address), "{of_engine:#?}");

    let api = stand.api()?;
    commit_version(&stand, "1")?;
    let view = api.run_of(&stand.push("main").await?, LIMIT).await?;
    ensure!(view.run.status == RunStatus::Succeeded, "{view:#?}");
    ensure!(version_at(&listen).await? == "1", "it serves");
    let serving = docker.instances().await?;
    ensure!(serving[0]["Ports"][0]["IP"] == MACHINE, "it listens at the engine's address alone: {serving:#?}");

    let stages = r#", stages: "50,100", stage-duration: 2s, min-requests: "20""#;
    commit(&stand, &sample::service_yml("2", 0.0), "segue/canary", stages)?;
    let load = Load::to(&listen, "staging").start();
    let before = api.rollouts("staging").await?[0].id.0;
    stand.push("main").await?;
    let begun = api.journaled("staging", before, LIMIT, |view| has(view, JournalKind::Shifted)).await?;
    docker.kill()?;
    docker.restart().await?;
    let ended = api.rollout_ended(begun.rollout.id, LIMIT).await?;
    load.stop().await;
    // both releases' containers end with their engine: by chance more of one's requests failed meanwhile
    let status = ended.rollout.status;
    let (serves, other) = match status {
        RolloutStatus::Succeeded => ("2", "1"),
        RolloutStatus::RolledBack => ("1", "2"),
        status => bail!("it ended {status:?}: {ended:#?}"),
    };
    let begun = Instant::now();
    while version_at(&listen).await.ok().as_deref() != Some(serves) {
        ensure!(begun.elapsed() < LIMIT, "{serves} does not serve");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let load = Load::to(&listen, "staging").start();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let tally = load.stop().await;
    ensure!(tally.of(serves) > 50 && tally.of(other) == 0 && tally.dropped == 0, "{serves} serves alone: {tally:#?}");

    // one container of each, whether it serves or is kept warm, as what was there before; nothing was started anew beside it
    let after = docker.instances().await?;
    let releases: HashSet<&str> = after.iter().filter_map(|one| one["Labels"]["segue.release"].as_str()).collect();
    ensure!((1..=2).contains(&after.len()) && releases.len() == after.len(), "{after:#?}");
    let serving = if status == RolloutStatus::Succeeded { Some(&ended.rollout.spec.release) } else { None };
    ensure!(serving.is_none_or(|release| releases.contains(release.id.to_string().as_str())), "{after:#?}");
    ensure!(after.iter().all(|one| one["Ports"][0]["IP"] == MACHINE), "{after:#?}");
    Ok(())
}

#[tokio::test]
async fn another_engine_at_its_address_is_given_nothing() -> Result<()> {
    let certificates = Certificates::make()?;
    let (mut docker, address) = Docker::start_with_tls(&certificates).await?;
    let image = image_of(&docker).await?;
    let mut host = HostAlone::start_at(certificates.arguments(&address, &certificates.file("ca.pem"))).await?;
    serve(&host, &image).await?;
    let serving = docker.instances().await?[0]["Id"].clone();
    docker.kill()?;

    let other = Docker::start_in_place(&certificates, &address, None).await?;
    let begun = Instant::now();
    while !host.said().contains("is another engine (ID ") {
        ensure!(begun.elapsed() < LIMIT, "nothing is told of it: {}", host.said());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    ensure!(host.said().contains("which has the containers and volumes of web in production"), "{}", host.said());
    // what takes it for gone would have it started there within this time
    tokio::time::sleep(Duration::from_secs(3)).await;
    ensure!(
        other.instances().await?.is_empty(),
        "what has data elsewhere is not begun anew: {:?}",
        other.instances().await?
    );
    let state = host.state().await?;
    ensure!(state.instances[0].restarts == 0, "it is not taken for ended: {state:#?}");
    let id = other.look("/info").await?["ID"].as_str().context("its number")?.to_owned();
    drop(other);

    docker.restart().await?;
    // the engine's own end took it along; it is started again there, with its data
    ensure!(host.until_answered("/healthz", LIMIT).await? == "begun\nbegun\n", "it was begun twice in all");
    ensure!(docker.instances().await?[0]["Id"] != serving, "one that ended is made again");

    // its operator says of an engine that what was kept before is lost: of that one alone
    ensure!(host.said().contains(&format!("anew: \"{id}\" }}` in segue.yaml")), "{}", host.said());
    let saved = docker.saved(IMAGE).await?;
    docker.kill()?;
    host.start_again_with(&["--docker-anew", &id]).await?;
    let lost = Docker::start_in_place(&certificates, &address, None).await?;
    let number = lost.look("/info").await?["ID"].as_str().context("its number")?.to_owned();
    let begun = Instant::now();
    while !host.said().contains(&format!("is another engine (ID {number})")) {
        ensure!(begun.elapsed() < LIMIT, "nothing is told of it: {}", host.said());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    ensure!(lost.instances().await?.is_empty(), "it is not the one that was named");
    lost.load(saved).await?;
    host.start_again_with(&["--docker-anew", &number]).await?;
    ensure!(host.until_answered("/healthz", LIMIT).await? == "begun\n", "it has begun with nothing");
    leaves_nothing(&lost, host).await
}

#[tokio::test]
async fn one_behind_tls_is_believed_by_its_certificate_alone() -> Result<()> {
    let (certificates, others) = (Certificates::make()?, Certificates::make()?);
    let (docker, address) = Docker::start_with_tls(&certificates).await?;
    let image = image_of(&docker).await?;

    let wrong = HostAlone::start_at(certificates.arguments(&address, &others.file("ca.pem"))).await?;
    let refused = wrong.call(Method::POST, "/v1/instances", &start(&image)).await.err().context("it is refused")?;
    let error = refused.to_string();
    ensure!(error.contains("is not signed by who is in") && error.contains(&address), "{error}");
    wrong.end().await?;

    let mut host = HostAlone::start_at(certificates.arguments(&address, &certificates.file("ca.pem"))).await?;
    let mut process = start(&image);
    process["container"] = Value::Null;
    process["instance"] = "web-2".into();
    let refused = host.call(Method::POST, "/v1/instances", &process).await.err().context("it is refused")?;
    ensure!(refused.to_string().contains("`web` is a process"), "{refused}");
    serve(&host, &image).await?;
    goes_on_after_a_kill(&docker, &mut host).await?;
    leaves_nothing(&docker, host).await
}

#[tokio::test]
async fn one_behind_ssh_is_believed_by_its_key_and_outlives_a_broken_way() -> Result<()> {
    let docker = Docker::start().await?;
    let sshd = Sshd::start(docker.socket()).await?;
    let image = image_of(&docker).await?;
    for (known, identity, words) in [
        (sshd.file("other_known"), sshd.file("client"), "is another than the one in"),
        (sshd.file("nothing_known"), sshd.file("client"), "no key of `127.0.0.2` is in"),
        (sshd.file("known"), sshd.file("other"), "takes no key"),
    ] {
        let wrong = HostAlone::start_at(sshd.arguments(&known, &identity)).await?;
        let refused = wrong.call(Method::POST, "/v1/instances", &start(&image)).await.err().context("it is refused")?;
        ensure!(refused.to_string().contains(words), "{words}: {refused}");
        wrong.end().await?;
    }
    let mut host = HostAlone::start_at(sshd.arguments(&sshd.file("known"), &sshd.file("client"))).await?;
    serve(&host, &image).await?;
    let printed = goes_on_after_a_kill(&docker, &mut host).await?;

    // every connection breaks at once: what is printed meanwhile is read later, and nothing was started anew
    let connections = sshd.break_off(Duration::ZERO).await?;
    ensure!(connections > 1, "it is followed over connections of its own: {connections}");
    prints_on(&host, printed).await?;
    ensure!(host.ask("/healthz").await? == "begun\n", "it serves on");
    leaves_nothing(&docker, host).await
}
