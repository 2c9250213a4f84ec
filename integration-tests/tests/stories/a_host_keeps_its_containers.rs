use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use reqwest::Method;
use segue_integration_tests::{
    boxed::{HostAlone, all_to, fence, web},
    docker::{Docker, IMAGE},
    processes,
};
use segue_schemas::host_api::{Instance, InstanceState};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);

/// Says how often it was begun, which it counts in a volume, and ends when it is asked to, or not even then.
const SERVICE: &str = "STUBBORN mkdir /tmp/www && echo begun >> /kept/count && cp /kept/count /tmp/www/healthz && echo up $PORT && \
                       httpd -f -p $PORT -h /tmp/www & wait";

fn start(image: &str, name: &str, stubborn: bool) -> Value {
    let script = SERVICE.replace("STUBBORN", if stubborn { "trap '' TERM;" } else { "" });
    let container = json!({
        "container": {"port": 8080, "volumes": ["kept:/kept"], "options": "--tmpfs /tmp"},
        "resources": {"memory": "64MiB"},
    });
    web(image, name, &script, &json!({"container": container, "env": {"GREETING": "hello"}}))
}

/// A host at an engine, with one container that serves; the host, and the image by which its engine knows it.
async fn serving(docker: &Docker, stubborn: bool) -> Result<(HostAlone, String)> {
    let image = docker.look(&format!("/images/{IMAGE}/json")).await?["Id"].as_str().context("an id")?.to_owned();
    let host = HostAlone::start(docker).await?;
    host.call(Method::POST, "/v1/instances", &start(&image, "web-1", stubborn)).await?;
    host.call(Method::PUT, "/v1/routes/production/web", &all_to("web-1")).await?;
    ensure!(host.until_answered("/healthz", LIMIT).await? == "begun\n", "it was begun once");
    Ok((host, image))
}

async fn the_container(docker: &Docker, host: &HostAlone) -> Result<String> {
    let all = docker.instances_of(host.data()).await?;
    ensure!(all.len() == 1, "one container: {all:#?}");
    Ok(all[0]["Id"].as_str().context("an id")?.to_owned())
}

/// Waits until the one instance is as it is wanted.
async fn until(host: &HostAlone, wanted: impl Fn(&Instance) -> bool) -> Result<Instance> {
    let begun = Instant::now();
    loop {
        let state = host.state().await?;
        let found = state.instances.into_iter().find(|instance| instance.id.as_str() == "web-1");
        if let Some(instance) = found.clone().filter(|instance| wanted(instance)) {
            return Ok(instance);
        }
        ensure!(begun.elapsed() < LIMIT, "the instance is {found:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn they_outlive_it_and_what_a_hand_changes_is_told() -> Result<()> {
    let docker = Docker::shared().await?;
    let (mut host, image) = serving(&docker, true).await?;
    let container = the_container(&docker, &host).await?;

    // killed, its successor goes on with the same container
    host.kill_and_start().await?;
    ensure!(host.until_answered("/healthz", LIMIT).await? == "begun\n", "it was not begun again");
    ensure!(the_container(&docker, &host).await? == container, "it is the same");
    let running = until(&host, |instance| instance.state == InstanceState::Running).await?;
    ensure!(running.restarts == 0 && running.drift.is_empty(), "{running:#?}");
    let said = std::fs::read_to_string(&running.output)?;
    ensure!(said.matches("up 8080").count() == 1, "what it said is written once: {said}");

    // changed by hand, that is told; put right again, it is not
    docker.by_hand(&container, r#"{"Memory": 100663296, "MemorySwap": 100663296}"#).await?;
    let told = until(&host, |instance| !instance.drift.is_empty()).await?;
    ensure!(told.drift == ["memory is `100663296`, and was `67108864` when it was deployed"], "{told:#?}");
    docker.by_hand(&container, r#"{"Memory": 67108864, "MemorySwap": 67108864}"#).await?;
    until(&host, |instance| instance.drift.is_empty()).await?;

    // one with the labels of its own, as an image may bring them, is another's
    let own = docker.instances_of(host.data()).await?[0]["Labels"].clone();
    let foreign = docker.labelled(&own).await?;

    // removed by hand, it is told and made again, with its volume
    docker.by_hand(&container, "remove").await?;
    let again = until(&host, |instance| instance.restarts == 1 && instance.state == InstanceState::Running).await?;
    ensure!(again.drift == ["its container was removed by hand, and made again"], "{again:#?}");
    let begun = Instant::now();
    while host.ask("/healthz").await.ok().as_deref() != Some("begun\nbegun\n") {
        ensure!(begun.elapsed() < LIMIT, "it does not serve again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    // with the volume as well: it begins with an empty one, and that is said for as long as it lives
    processes::signal(host.pid(), Signal::SIGSTOP)?;
    let all = docker.instances_of(host.data()).await?;
    let own = all.iter().filter_map(|one| one["Id"].as_str()).find(|id| *id != foreign).context("its container")?;
    docker.by_hand(own, "remove").await?;
    ensure!(docker.lose_volumes(host.data()).await? == 1, "one volume");
    processes::signal(host.pid(), Signal::SIGCONT)?;
    let anew = until(&host, |instance| instance.restarts == 2 && instance.state == InstanceState::Running).await?;
    ensure!(
        anew.drift.iter().any(|said| said.contains("volume `kept` was gone") && said.contains("segue backup")),
        "{anew:#?}"
    );

    // an image that the engine does not have is named, with what to do
    let missing = format!("sha256:{}", "7".repeat(64));
    let refused = host.call(Method::POST, "/v1/instances", &start(&missing, "web-2", false)).await;
    let error = refused.err().context("it is refused")?.to_string();
    ensure!(error.contains("was built and not pushed") && error.contains("push: true"), "{error}");
    let mut by_tag = start(&image, "web-3", false);
    by_tag["release"]["image"] = "debian:13".into();
    let by_tag = host.call(Method::POST, "/v1/instances", &by_tag).await;
    let error = by_tag.err().context("it is refused")?.to_string();
    ensure!(error.contains("not named by its digest"), "{error}");

    // it ignores TERM, and is killed; taken away, nothing of it is left at the engine
    host.call(Method::DELETE, "/v1/routes/production/web", &json!({"fence": fence(1)})).await?;
    let begun = Instant::now();
    loop {
        let (containers, shared) = (docker.instances_of(host.data()).await?, docker.shared_of(host.data()).await?);
        if containers.iter().all(|one| one["Id"] == foreign.as_str()) && shared.is_empty() {
            ensure!(containers.len() == 1, "what was another's is gone");
            docker.by_hand(&foreign, "remove").await?;
            break;
        }
        ensure!(begun.elapsed() < LIMIT, "this is left: {containers:#?} {shared:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    host.end().await
}

#[tokio::test]
async fn an_engine_that_hangs_or_dies_hangs_no_host_and_they_are_begun_again() -> Result<()> {
    let mut docker = Docker::start().await?;
    let (mut host, _) = serving(&docker, false).await?;

    // it hangs: the host answers, also one that is started meanwhile, and requests reach the service
    docker.signal(Signal::SIGSTOP)?;
    host.kill_and_start().await?;
    ensure!(host.until_answered("/healthz", LIMIT).await? == "begun\n", "it serves");
    ensure!(until(&host, |instance| instance.state == InstanceState::Running).await?.restarts == 0, "it runs");
    docker.signal(Signal::SIGCONT)?;

    // it dies, and ends its containers when it comes back: they are begun again
    docker.kill()?;
    host.state().await?;
    docker.restart().await?;
    let begun = Instant::now();
    while !host.ask("/healthz").await.is_ok_and(|count| count == "begun\nbegun\n") {
        ensure!(begun.elapsed() < LIMIT, "it does not serve again: {:#?}", host.state().await?);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    the_container(&docker, &host).await?;
    host.end().await
}
