//! Containers of services: made, looked at, asked to end, removed, found again by their labels. Which there are to be is decided by
//! `segue host` (`host/`), which holds none of the engine's types.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bollard::{
    auth::DockerCredentials,
    container::LogOutput,
    models::{ContainerCreateBody, ContainerInspectResponse, NetworkCreateRequest, VolumeCreateRequest},
    query_parameters::{
        CreateContainerOptionsBuilder, EventsOptionsBuilder, InspectContainerOptions, InspectNetworkOptions,
        KillContainerOptionsBuilder, ListContainersOptionsBuilder, ListNetworksOptionsBuilder,
        ListVolumesOptionsBuilder, LogsOptionsBuilder, RemoveContainerOptionsBuilder, RemoveVolumeOptionsBuilder,
        WaitContainerOptions,
    },
};
use futures_util::{Stream, StreamExt as _};
use indexmap::IndexMap;
use segue_pipelines::container::{Settings, is_local, pinned, registry, with_tag};
use tokio::sync::mpsc;

use super::{
    Docker, DockerError,
    call::call,
    create,
    images::Wanted,
    login,
    place::{Say, gone},
};

/// What a service's container is made with.
#[derive(Debug, Clone)]
pub struct InstanceSpec {
    /// Its name at the engine.
    pub name: String,
    /// The image, by its digest.
    pub image: String,
    /// In the place of the image's command; empty: the image's.
    pub command: Vec<String>,
    /// In the place of the image's entrypoint, where there is one.
    pub entrypoint: Option<Vec<String>>,
    /// Its variables, `NAME=VALUE`.
    pub env: Vec<String>,
    /// Limits, user and the like.
    pub settings: Settings,
    /// The GPUs that it gets, by UUID.
    pub gpus: Vec<String>,
    /// Where its service listens in it.
    pub port: u16,
    /// At which port of an engine's machine others come to that one, where they are not in its network; `None`: nobody comes.
    pub published: Option<u16>,
    /// `NAME:/path[:ro]`, or `/path` for one that goes with the container.
    pub volumes: Vec<String>,
    /// What stands before the names of its volumes, and is its network's name.
    pub place: String,
    /// By which all of it is found again; network and volumes have those of `shared` alone.
    pub labels: HashMap<String, String>,
    /// The labels of what outlives the container.
    pub shared: HashMap<String, String>,
}

/// A container as the engine has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceSeen {
    /// Its number at the engine.
    pub id: String,
    /// Its image, as whoever made it named it.
    pub image: String,
    /// Whether its processes run.
    pub is_running: bool,
    /// Its first process on the machine, while it runs.
    pub pid: Option<u32>,
    /// Where it is in its network, if others reach it there.
    pub address: Option<IpAddr>,
    /// Where the engine's machine takes connections for it, if it does.
    pub published: Option<SocketAddr>,
    /// How it ended, if it has.
    pub exit: String,
    /// What it runs with, by which is seen what somebody else has changed.
    pub facts: IndexMap<String, String>,
}

/// A container that was found by its labels.
#[derive(Debug, Clone)]
pub struct InstanceFound {
    /// Its number at the engine.
    pub id: String,
    /// Its name at the engine.
    pub name: String,
    /// Whether it runs.
    pub is_running: bool,
    /// All its labels.
    pub labels: HashMap<String, String>,
}

impl Docker {
    /// How long the engine may take to answer.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.config.patience.0
    }

    /// Where what listens at a port of a container is reached, if it is: in the container's network, or at the machine of an engine that
    /// is elsewhere.
    #[must_use]
    pub fn reached(&self, seen: &InstanceSeen, port: u16) -> Option<SocketAddr> {
        if self.is_elsewhere() { seen.published } else { seen.address.map(|address| SocketAddr::new(address, port)) }
    }

    /// Sees to it that the engine has an image that is named by its digest.
    ///
    /// # Errors
    /// [`DockerError::Asked`] where it is one that no registry has.
    pub async fn have_image(&self, image: &str, say: &dyn Say) -> Result<(), DockerError> {
        // another one has no business with it, nor with the credentials
        self.see_that_it_is_the_same().await?;
        if is_local(image) && !self.has_image(image).await? {
            return Err(DockerError::Asked(format!(
                "the image {image} was built and not pushed, and the engine at {} does not have it: push it (`tags` and `push: true` of \
                 `segue/build-image`), or run the build at the engine that this host uses",
                self.address()
            )));
        }
        let settings = Settings { pull: Some(segue_pipelines::container::Pull::Missing), ..Settings::default() };
        let credentials = login::for_image(image);
        let wanted = Wanted { image, settings: &settings, credentials: credentials.as_ref() };
        self.images.have(self, wanted, say).await.map(drop)
    }

    /// The variables that an image brings along, `NAME=VALUE`.
    ///
    /// # Errors
    /// [`DockerError`]: the engine does not have it, or does not say.
    pub async fn image_env(&self, image: &str) -> Result<Vec<String>, DockerError> {
        let seen = call("look at the image", self.patience(), self.client().await?.inspect_image(image)).await?;
        Ok(seen.config.and_then(|config| config.env).unwrap_or_default())
    }

    /// Whether the engine has it.
    ///
    /// # Errors
    /// [`DockerError`]: it does not say.
    pub async fn has_image(&self, image: &str) -> Result<bool, DockerError> {
        match call("look for the image", self.patience(), self.client().await?.inspect_image(image)).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The image that a name means now, by its digest: as its registry says, else, where that has none or can't be reached, as the
    /// engine has it. The second tells where it is from, if that is the engine.
    ///
    /// # Errors
    /// Neither has it.
    pub async fn resolve_image(&self, image: &str) -> Result<(String, Option<String>), DockerError> {
        if pinned(image).is_some() {
            return Ok((image.to_owned(), None));
        }
        self.see_that_it_is_the_same().await?;
        let (tagged, limit) = (with_tag(image), self.patience());
        let client = self.client().await?;
        let credentials = login::for_image(image).map(|credentials| DockerCredentials {
            username: Some(credentials.username),
            password: Some(credentials.password),
            serveraddress: registry(image).map(str::to_owned),
            ..DockerCredentials::default()
        });
        let asked = call("ask the registry", limit, client.inspect_registry_image(&tagged, credentials)).await;
        let why = match asked.map(|said| said.descriptor.digest) {
            Ok(Some(digest)) => {
                let name = segue_pipelines::image::repository(&tagged);
                return Ok((format!("{name}@{digest}"), None));
            }
            Ok(None) => "its registry does not say its digest".to_owned(),
            Err(error) => error.to_string(),
        };
        match call("look for the image", limit, client.inspect_image(&tagged)).await {
            Ok(seen) => {
                let id = seen.id.ok_or_else(|| DockerError::Asked(format!("the image `{image}` has no number")))?;
                Ok((id, Some(why)))
            }
            Err(error) if error.is_not_found() => Err(DockerError::Asked(format!(
                "nobody has the image `{image}`: not its registry ({why}), and not the engine at {}",
                self.address()
            ))),
            Err(error) => Err(error),
        }
    }

    /// Makes a container with its network and volumes, and starts it. The image must be there.
    ///
    /// # Errors
    /// [`DockerError`]; what was made then has its labels. [`DockerError::is_port_taken`]: with another port it can be tried again.
    pub async fn start_instance(&self, spec: &InstanceSpec) -> Result<InstanceSeen, DockerError> {
        let mut body = create::instance_container(spec);
        if let Some(port) = spec.published
            && let Some(address) = self.way.published_at().await.map_err(DockerError::Own)?
        {
            create::publish(&mut body, spec.port, SocketAddr::new(address, port));
        }
        let id = self.make_instance(spec, body).await?;
        let client = self.client().await?;
        call("start the container", self.patience(), client.start_container(&id, None)).await?;
        self.look_at(&id).await?.ok_or_else(|| DockerError::Ended("it was removed as it was started".into()))
    }

    /// Makes a container with its network and volumes. Its number at the engine.
    pub(super) async fn make_instance(
        &self,
        spec: &InstanceSpec,
        body: ContainerCreateBody,
    ) -> Result<String, DockerError> {
        self.see_that_it_is_the_same().await?;
        let (client, limit) = (self.client().await?, self.patience());
        self.have_network(&spec.place, &spec.shared).await?;
        for name in spec.volumes.iter().filter_map(|volume| create::volume_of(volume)) {
            let volume = VolumeCreateRequest {
                name: Some(create::volume_name(&spec.place, name)),
                labels: Some(spec.shared.clone()),
                ..VolumeCreateRequest::default()
            };
            call("make a volume", limit, client.create_volume(volume)).await?;
        }
        let options = CreateContainerOptionsBuilder::default().name(&spec.name).build();
        let made = call("make the container", limit, client.create_container(Some(options), body)).await?;
        Ok(made.id)
    }

    async fn have_network(&self, name: &str, labels: &HashMap<String, String>) -> Result<(), DockerError> {
        // two networks may have one name: made at once, each container would be in another
        let turn = self.images.turn(name);
        let held = turn.lock().await;
        let made = self.look_for_network(name, labels).await;
        drop(held);
        self.images.forget(name);
        made
    }

    async fn look_for_network(&self, name: &str, labels: &HashMap<String, String>) -> Result<(), DockerError> {
        let (client, limit) = (self.client().await?, self.patience());
        match call("look for the network", limit, client.inspect_network(name, None::<InspectNetworkOptions>)).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        let network = NetworkCreateRequest {
            name: name.to_owned(),
            driver: Some("bridge".into()),
            labels: Some(labels.clone()),
            ..NetworkCreateRequest::default()
        };
        call("make the network", limit, client.create_network(network)).await.map(drop)
    }

    /// A container as it is now; `None`: there is none.
    ///
    /// # Errors
    /// [`DockerError`]: the engine does not say.
    pub async fn look_at(&self, id: &str) -> Result<Option<InstanceSeen>, DockerError> {
        let client = self.client().await?;
        let asked = client.inspect_container(id, None::<InspectContainerOptions>);
        match call("look at the container", self.patience(), asked).await {
            Ok(seen) => Ok(Some(seen_of(id, seen))),
            // unless it is asked of another one, that has never had it
            Err(error) if error.is_not_found() => self.see_that_it_is_the_same().await.map(|()| None),
            Err(error) => Err(error),
        }
    }

    /// Returns when a container has ended, and when the engine breaks off: look at it then. Of an engine elsewhere also now and then: on the way
    /// there somebody may hold a connection that leads nowhere any more.
    pub async fn until_change(&self, id: &str) {
        let limit = if self.is_elsewhere() { LOOK_AGAIN } else { FOR_EVER };
        let Ok(client) = self.client().await.map(|client| client.clone().with_timeout(HEAD_LIMIT)) else { return };
        let mut ends = std::pin::pin!(client.wait_container(id, None::<WaitContainerOptions>));
        // what it says of the end is in what is seen then
        let _ = tokio::time::timeout(limit, ends.next()).await;
    }

    /// Sends a signal to a container's first process; one that has ended needs none.
    ///
    /// # Errors
    /// [`DockerError`].
    pub async fn signal(&self, id: &str, signal: &str) -> Result<(), DockerError> {
        let options = KillContainerOptionsBuilder::default().signal(signal).build();
        let client = self.client().await?;
        match call("send a signal", self.patience(), client.kill_container(id, Some(options))).await {
            // 409: it does not run
            Err(DockerError::Refused { status: 404 | 409, .. }) => Ok(()),
            other => other,
        }
    }

    /// Removes a container and what goes with it, whatever it does; `false`: somebody else has, or is about to.
    ///
    /// # Errors
    /// [`DockerError`].
    pub async fn remove_instance(&self, id: &str) -> Result<bool, DockerError> {
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        let client = self.client().await?;
        match call("remove the container", self.patience(), client.remove_container(id, Some(options))).await {
            // 409: it is being removed
            Err(DockerError::Refused { status: 404 | 409, .. }) => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// What a container prints from a second on, with the time before each line; ends where the engine breaks off. `follow`: as it prints it,
    /// until it ends; else what is there.
    ///
    /// # Errors
    /// The engine can't be connected.
    pub async fn output(
        &self,
        id: &str,
        since: i32,
        follow: bool,
    ) -> Result<impl Stream<Item = bytes::Bytes> + use<>, DockerError> {
        let options = LogsOptionsBuilder::default()
            .follow(follow)
            .stdout(true)
            .stderr(true)
            .timestamps(true)
            .since(since)
            .build();
        let client = self.client().await?.clone().with_timeout(HEAD_LIMIT);
        let (said, heard) = mpsc::channel(OUTPUT_LINES);
        let id = id.to_owned();
        tokio::spawn(async move {
            let mut lines = std::pin::pin!(client.logs(&id, Some(options)));
            loop {
                let line = tokio::select! {
                    line = lines.next() => line,
                    () = said.closed() => return,
                };
                let Some(Ok(line)) = line else { return };
                let (LogOutput::StdOut { message } | LogOutput::StdErr { message } | LogOutput::Console { message }) =
                    line
                else {
                    continue;
                };
                if said.send(message).await.is_err() {
                    return;
                }
            }
        });
        Ok(heard_from(heard))
    }

    /// The numbers of containers that somebody changes otherwise than by ending them, as it happens; ends where the engine breaks off. Of one
    /// elsewhere also after a while: whoever listens anew hears from a connection that leads somewhere.
    ///
    /// # Errors
    /// The engine can't be connected, or is another one than before.
    pub async fn changes(&self) -> Result<impl Stream<Item = String> + use<>, DockerError> {
        let actions = ["update", "pause", "unpause", "rename", "connect", "disconnect"].map(str::to_owned).to_vec();
        let kinds = ["container", "network"].map(str::to_owned).to_vec();
        let filters = HashMap::from([("event", actions), ("type", kinds)]);
        let options = EventsOptionsBuilder::default().filters(&filters).build();
        self.see_that_it_is_the_same().await?;
        let limit = if self.is_elsewhere() { LISTENED_FOR } else { FOR_EVER };
        let client = self.client().await?.clone().with_timeout(HEAD_LIMIT);
        let (said, heard) = mpsc::channel(OUTPUT_LINES);
        tokio::spawn(async move {
            let mut events = std::pin::pin!(client.events(Some(options)));
            let mut over = std::pin::pin!(tokio::time::sleep(limit));
            loop {
                let event = tokio::select! {
                    event = events.next() => event,
                    () = said.closed() => return,
                    () = &mut over => return,
                };
                let Some(Ok(event)) = event else { return };
                let Some(actor) = event.actor else { continue };
                // a network's own number is of no concern, whom it is about stands beside it
                let about = actor.attributes.and_then(|mut attributes| attributes.remove("container")).or(actor.id);
                if let Some(about) = about
                    && said.send(about).await.is_err()
                {
                    return;
                }
            }
        });
        Ok(heard_from(heard))
    }

    /// The containers with a label.
    ///
    /// # Errors
    /// [`DockerError`].
    pub async fn instances_with(&self, label: &str) -> Result<Vec<InstanceFound>, DockerError> {
        let filters = HashMap::from([("label", vec![label.to_owned()])]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        // what another one has none of would be taken for gone
        self.see_that_it_is_the_same().await?;
        let client = self.client().await?;
        let found = call("list containers", self.patience(), client.list_containers(Some(options))).await?;
        let one = |container: bollard::models::ContainerSummary| {
            let is_running = container.state.is_some_and(|state| state.to_string() == "running");
            // linked to by others, it has names of two parts as well
            let mut names = container.names.unwrap_or_default().into_iter();
            let name =
                names.find_map(|name| name.strip_prefix('/').filter(|own| !own.contains('/')).map(str::to_owned));
            Some(InstanceFound {
                id: container.id?,
                name: name.unwrap_or_default(),
                is_running,
                labels: container.labels?,
            })
        };
        Ok(found.into_iter().filter_map(one).collect())
    }

    /// Removes one of the volumes of a place, if it is there. `volume` is as a container names it.
    ///
    /// # Errors
    /// [`DockerError`]: it is in use, or the engine does not answer.
    pub async fn remove_volume(&self, place: &str, volume: &str) -> Result<(), DockerError> {
        let Some(name) = create::volume_of(volume) else { return Ok(()) };
        let name = create::volume_name(place, name);
        let options = RemoveVolumeOptionsBuilder::default().build();
        let client = self.client().await?;
        gone(call("remove a volume", self.patience(), client.remove_volume(&name, Some(options))).await)
    }

    /// Whether one of the volumes of a place is there. `volume` is as a container names it.
    ///
    /// # Errors
    /// [`DockerError`]: the engine does not answer.
    pub async fn has_volume(&self, place: &str, volume: &str) -> Result<bool, DockerError> {
        let Some(name) = create::volume_of(volume) else { return Ok(false) };
        let name = create::volume_name(place, name);
        match call("look at a volume", self.patience(), self.client().await?.inspect_volume(&name)).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes networks and volumes with a label, those of them whose labels are chosen. One that is in use stays, and is told of once
    /// the others are gone.
    ///
    /// # Errors
    /// [`DockerError`]: try again.
    pub async fn remove_shared(
        &self,
        label: &str,
        is_network: impl Fn(&HashMap<String, String>) -> bool,
        is_volume: impl Fn(&HashMap<String, String>) -> bool,
    ) -> Result<(), DockerError> {
        let (client, limit) = (self.client().await?, self.patience());
        let mut busy = None;
        let filters = HashMap::from([("label", vec![label.to_owned()])]);
        let options = ListNetworksOptionsBuilder::default().filters(&filters).build();
        for network in call("list networks", limit, client.list_networks(Some(options))).await? {
            let (Some(id), Some(labels)) = (network.id, network.labels) else { continue };
            if is_network(&labels) {
                unless_busy(call("remove a network", limit, client.remove_network(&id)).await, &mut busy)?;
            }
        }
        let options = ListVolumesOptionsBuilder::default().filters(&filters).build();
        let found = call("list volumes", limit, client.list_volumes(Some(options))).await?;
        for volume in found.volumes.unwrap_or_default() {
            if is_volume(&volume.labels) {
                let options = RemoveVolumeOptionsBuilder::default().build();
                let removed = call("remove a volume", limit, client.remove_volume(&volume.name, Some(options))).await;
                unless_busy(removed, &mut busy)?;
            }
        }
        busy.map_or(Ok(()), Err)
    }
}

/// One that is in use is put down, and is no reason to leave the others.
fn unless_busy(removed: Result<(), DockerError>, busy: &mut Option<DockerError>) -> Result<(), DockerError> {
    match gone(removed) {
        Err(error @ DockerError::Refused { status: 403 | 409, .. }) => {
            *busy = Some(error);
            Ok(())
        }
        other => other,
    }
}

fn heard_from<T>(heard: mpsc::Receiver<T>) -> impl Stream<Item = T> {
    futures_util::stream::unfold(heard, |mut heard| async { heard.recv().await.map(|one| (one, heard)) })
}

/// How long the engine may take to say that it tells of what happens as it happens: it says so at once, and then perhaps nothing for long.
const HEAD_LIMIT: Duration = Duration::from_secs(60);

/// How long an engine of this machine may be silent: its socket ends with it.
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// After how long a container at an engine elsewhere is looked at again, whatever is heard of it.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// For how long an engine elsewhere is listened to over one connection.
const LISTENED_FOR: Duration = Duration::from_secs(300);

/// Lines of a container that wait to be written.
const OUTPUT_LINES: usize = 64;

fn seen_of(id: &str, seen: ContainerInspectResponse) -> InstanceSeen {
    let facts = facts(&seen);
    let image = seen.config.and_then(|config| config.image).unwrap_or_default();
    let state = seen.state.unwrap_or_default();
    let settings = seen.network_settings.unwrap_or_default();
    let published = settings.ports.unwrap_or_default().into_values().flatten().flatten().find_map(|bound| {
        Some(SocketAddr::new(bound.host_ip?.parse().ok()?, bound.host_port?.parse().ok().filter(|port| *port != 0)?))
    });
    let networks = settings.networks.unwrap_or_default();
    let own = seen.host_config.and_then(|config| config.network_mode).unwrap_or_default();
    let address = networks.get(&own).and_then(|network| network.ip_address.as_ref()?.parse::<IpAddr>().ok());
    let exit = match (state.oom_killed, state.exit_code, state.error) {
        (Some(true), ..) => "it was killed: its memory was not enough".to_owned(),
        (_, _, Some(error)) if !error.is_empty() => error,
        (_, code, _) => format!("exit code {}", code.unwrap_or_default()),
    };
    InstanceSeen {
        id: seen.id.unwrap_or_else(|| id.to_owned()),
        image,
        is_running: state.running == Some(true),
        published,
        pid: state.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0),
        address: address.filter(|address| !address.is_unspecified() && !address.is_loopback()),
        exit,
        facts,
    }
}

/// What somebody can change of a container that runs, and what it was made with.
fn facts(seen: &ContainerInspectResponse) -> IndexMap<String, String> {
    let host = seen.host_config.clone().unwrap_or_default();
    let config = seen.config.clone().unwrap_or_default();
    let networks = seen.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
    let mut networks: Vec<&str> = networks.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    networks.sort_unstable();
    let is_paused = seen.state.as_ref().and_then(|state| state.paused).unwrap_or_default();
    let number = |value: Option<i64>| value.unwrap_or_default().to_string();
    let facts = [
        ("name", seen.name.clone().unwrap_or_default().trim_start_matches('/').to_owned()),
        ("image", seen.image.clone().unwrap_or_default()),
        ("command", config.cmd.unwrap_or_default().join(" ")),
        ("user", config.user.unwrap_or_default()),
        ("memory", number(host.memory)),
        ("cpus", format!("{}m", host.nano_cpus.unwrap_or_default() / 1_000_000)),
        ("pids", number(host.pids_limit)),
        ("networks", networks.join(" ")),
        (
            "restart",
            host.restart_policy.and_then(|policy| policy.name).map(|name| name.to_string()).unwrap_or_default(),
        ),
        ("paused", is_paused.to_string()),
    ];
    facts.map(|(name, value)| (name.to_owned(), value)).into()
}
