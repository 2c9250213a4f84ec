//! Instances that run as containers of the host's engine: their images, how they are made, and what of them goes.
//!
//! Everything made carries labels: the host (by its data folder, so that several share one engine), environment, service and, of a
//! container, instance, life, release and epoch. What carries this host's and is recorded no more is swept away; of containers, which have
//! the labels of their images as well, what has the name that this host gives.

use std::{
    collections::HashMap,
    io::{self, Write as _},
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use segue_pipelines::container;
use segue_schemas::{
    host_api::{HostError, HostErrorCode},
    id::InstanceId,
    status::FailureClass,
};
use sha2::{Digest as _, Sha256};
use tokio::time::{sleep, timeout};

use super::{
    Host,
    container::{Container, ContainerRecord, ToOutput, write_rest},
    gpus,
    instances::{Life, Started},
    output, refusal,
    running::Running,
    state::{InstanceRecord, Recorded, RunSpec, Store},
    volumes::Unseen,
};
use crate::engine::docker::{Docker, DockerError, InstanceFound, InstanceSeen, InstanceSpec};

pub(super) const LABEL_HOST: &str = "segue.host";
const LABEL_ENVIRONMENT: &str = "segue.environment";
const LABEL_SERVICE: &str = "segue.service";
const LABEL_INSTANCE: &str = "segue.instance";
const LABEL_LIFE: &str = "segue.life";
const LABEL_RELEASE: &str = "segue.release";
const LABEL_EPOCH: &str = "segue.epoch";
pub(super) const LABEL_ROLE: &str = "segue.role";
const LABEL_COMMAND: &str = "segue.command";

/// Pauses before what could not be swept away is tried again, from the first to the longest.
const SWEEP_PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

/// How often is looked for what nobody asked to have swept away.
const SWEEP_EVERY: Duration = Duration::from_secs(300);

/// How many ports are tried at once, where the engine's machine has each of them taken; then there is a pause.
const PORT_TRIES: u32 = 5;

/// What a container that fills a service's data folder is for.
const ROLE_SEED: &str = "seed";

/// What a container that backs up, or brings a backup back, is for.
const ROLE_COMMAND: &str = "backup";

/// What a container in which GPUs are looked at is for.
pub(super) const ROLE_LOOKER: &str = "gpus";

/// What asks a container to end, where nobody says otherwise.
const STOP_SIGNAL: &str = "TERM";

/// The data folder of a service whose instances are containers: a volume.
const DATA_VOLUME: &str = "segue-data:/segue/data";
/// Where it is in them.
pub(super) const DATA_PATH: &str = "/segue/data";

impl Host {
    /// Has the image of a release at the engine.
    pub(super) async fn have_image(&self, id: &InstanceId, image: Option<&str>) -> Result<(), HostError> {
        let Some(image) = image else {
            let message = format!("instance `{id}` is to be a container, and its release has no image");
            return Err(refusal(HostErrorCode::BadRequest, message));
        };
        if container::pinned(image).is_none() {
            let message =
                format!("the image `{image}` is not named by its digest: what runs here can't be another one later");
            return Err(refusal(HostErrorCode::BadRequest, message));
        }
        let said = ToOutput(output::path(&self.output, id));
        self.docker.have_image(image, &said).await.map_err(|error| self.told(&error))
    }

    /// An error of the engine's as the API tells it: what it refuses is not asked again, and what it could not do is.
    pub(super) fn told(&self, error: &DockerError) -> HostError {
        let code = match error.class() {
            FailureClass::Infrastructure => HostErrorCode::Unavailable,
            _ => HostErrorCode::Artifact,
        };
        refusal(code, format!("{error} (engine at {})", self.docker.address()))
    }

    /// Starts the container of an instance. An engine that is away, or hangs, is tried again.
    pub(super) async fn start_container(&self, one: &Life) -> Result<Started, HostError> {
        let mut tried = 1;
        loop {
            let recorded = self.store.current();
            let Some(instance) = self.startable(one, &recorded) else { return Ok(Started::Over) };
            let launched = match self.container_spec(&one.id, instance) {
                Ok(spec) => {
                    let volumes = spec.volumes.clone();
                    let launch = async {
                        match self.see_to_volumes(one, instance, &spec).await {
                            Ok(()) => {
                                let launched = self.launch_container(&one.id, spec).await;
                                if launched.is_ok() {
                                    self.keep_volumes(instance, &volumes).await?;
                                }
                                Ok(launched)
                            }
                            Err(Unseen::Engine(error)) => Ok(Err(error)),
                            Err(Unseen::Record(error)) => Err(error),
                        }
                    };
                    tokio::select! {
                        launched = launch => launched?,
                        _ = self.must_end(one) => return Ok(Started::Over),
                    }
                }
                Err(reason) => return self.note_failed(one, reason).await,
            };
            // another engine answered amid this: there are none of these, or others have them by now
            if one.among(&self.store.current()).is_some_and(|now| now.gpus != instance.gpus) {
                if let Ok(mut container) = launched {
                    container.remove().await;
                }
                return Ok(Started::Later("its GPUs are to be chosen anew: another container engine answers".into()));
            }
            return match launched {
                Ok(container) => self.note_running(one, Running::Container(Box::new(container)), true).await,
                Err(error) if error.is_port_taken() && tried < PORT_TRIES => {
                    tracing::warn!(instance = %one.id, port = instance.port, %error, "it gets another port");
                    self.take_another_port(one).await?;
                    tried += 1;
                    continue;
                }
                Err(error) if error.class() == FailureClass::Infrastructure => Ok(Started::Later(error.to_string())),
                Err(error) => self.note_failed(one, error.to_string()).await,
            };
        }
    }

    /// Has an instance's container running: the one that a host before this one started and could not record, else a new one.
    pub(super) async fn launch_container(&self, id: &InstanceId, spec: InstanceSpec) -> Result<Container, DockerError> {
        let docker = &self.docker;
        let said = output::path(&self.output, id);
        docker.have_image(&spec.image, &ToOutput(said.clone())).await?;
        let mark = format!("{LABEL_INSTANCE}={}", self.engine_mark(id));
        let mut left = None;
        for found in docker.instances_with(&mark).await? {
            if !self.is_own(&found) {
                continue;
            }
            if found.name == spec.name && found.is_running {
                let seen = docker.look_at(&found.id).await?;
                let is_reached =
                    |seen: &InstanceSeen| spec.published.is_none() || docker.reached(seen, spec.port).is_some();
                left = seen.filter(|seen| seen.is_running && is_reached(seen) && seen.image == spec.image);
                if left.is_some() {
                    continue;
                }
            } else if found.name == spec.name {
                write_rest(docker, &found.id, &said).await;
            }
            docker.remove_instance(&found.id).await?;
        }
        let is_left = left.is_some();
        let seen = match left {
            Some(seen) => seen,
            None => docker.start_instance(&spec).await?,
        };
        let address = match docker.reached(&seen, spec.port) {
            // nobody asks it anything, and it may have done its work already: its end is seen by whoever waits for it
            _ if spec.published.is_none() => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), spec.port),
            Some(address) if seen.is_running => address,
            None if seen.is_running && docker.is_elsewhere() => {
                let why =
                    format!("its container {} runs, and the engine's machine takes no connections for it", spec.name);
                return Err(DockerError::Own(why));
            }
            None if seen.is_running => {
                let why = format!("its container {} runs, and has no address in its network {}", spec.name, spec.place);
                return Err(DockerError::Own(why));
            }
            _ => return Err(DockerError::Own(format!("its container ended as it was started: {}", seen.exit))),
        };
        let record = ContainerRecord {
            container: seen.id,
            address,
            // of another machine, it says nothing here
            pid: seen.pid.filter(|_| !docker.is_elsewhere()),
            stop_signal: spec.settings.stop_signal.unwrap_or_else(|| STOP_SIGNAL.into()),
            facts: seen.facts,
        };
        // one that is there still, as at an engine that outlives a reboot of this machine, has its words written down up to some line
        let as_it_is = if is_left { Container::adopted } else { Container::started };
        Ok(as_it_is(docker.clone(), record, said))
    }

    /// What an instance's container is made with.
    pub(super) fn container_spec(&self, id: &InstanceId, instance: &InstanceRecord) -> Result<InstanceSpec, String> {
        let run = instance.run.container.as_ref().ok_or("it is not to be a container")?;
        let image = instance.release.image.clone().ok_or("its release has no image")?;
        let settings = container::of_service(&run.container, &run.resources)?;
        let (environment, service) = (&instance.environment, &instance.release.service);
        let port = run.container.port.to_string();
        let filled = |text: &String| text.replace("${PORT}", "$PORT").replace("$PORT", &port);
        let mut env = self.variables(instance);
        env.push(("PORT".to_owned(), port.clone()));
        self.shut_gpus_out(instance, &mut env);
        let epoch = self.store.current().route(environment, service).map(|route| route.epoch.to_string());
        let shared = self.shared_labels(environment, service);
        let own = [
            (LABEL_INSTANCE, self.engine_mark(id)),
            (LABEL_LIFE, instance.life.to_string()),
            (LABEL_RELEASE, instance.release.id.to_string()),
            (LABEL_EPOCH, epoch.unwrap_or_default()),
            (LABEL_ROLE, "service".to_owned()),
        ];
        let labels = shared.clone().into_iter().chain(own.map(|(name, value)| (name.to_owned(), value))).collect();
        let volumes = run.container.volumes.iter().cloned();
        Ok(InstanceSpec {
            name: container_name(&self.engine_name(), id.as_str(), &instance.life.to_string(), false),
            image,
            command: instance.run.command.iter().map(filled).collect(),
            entrypoint: None,
            env: env.into_iter().map(|(name, value)| format!("{name}={value}")).collect(),
            settings,
            gpus: instance.gpus.clone(),
            port: run.container.port,
            // its own over restarts: after one of the engine's, no other's requests come to it
            published: Some(instance.port),
            volumes: volumes.chain(instance.run.data.as_ref().map(|_| DATA_VOLUME.to_owned())).collect(),
            place: self.engine_place(environment, service),
            labels,
            shared,
        })
    }

    /// The same container with a line for the shell in the place of what its image and its service say.
    pub(super) fn seed_spec(
        &self,
        id: &InstanceId,
        instance: &InstanceRecord,
        line: &str,
    ) -> Result<InstanceSpec, String> {
        let mut spec = self.container_spec(id, instance)?;
        spec.name = container_name(&self.engine_name(), id.as_str(), &instance.life.to_string(), true);
        spec.labels.insert(LABEL_ROLE.into(), ROLE_SEED.into());
        spec.published = None;
        spec.entrypoint = Some(["sh", "-ec"].map(str::to_owned).into());
        spec.command = vec![line.to_owned()];
        Ok(spec)
    }

    /// A container beside an instance's for a command of its service's: with its volumes, network, variables and limits, and without
    /// its port, its other names and its GPUs. In another image the user is who has a number.
    pub(super) fn command_spec(
        &self,
        id: &InstanceId,
        instance: &InstanceRecord,
        name: &str,
        image: Option<&str>,
    ) -> Result<InstanceSpec, String> {
        let mut spec = self.container_spec(id, instance)?;
        spec.name = command_name(&self.engine_name(), name);
        spec.labels.retain(|label, _| label != LABEL_INSTANCE && label != LABEL_LIFE);
        spec.labels.insert(LABEL_ROLE.into(), ROLE_COMMAND.into());
        spec.labels.insert(LABEL_COMMAND.into(), name.to_owned());
        spec.settings.aliases.clear();
        spec.settings.hostname = None;
        if !std::mem::take(&mut spec.gpus).is_empty() {
            gpus::shut_all_out(&mut spec.env);
        }
        if let Some(image) = image {
            spec.image = image.to_owned();
            spec.settings.workdir = None;
            let is_number = |user: &String| user.chars().all(|c| c.is_ascii_digit() || c == ':');
            spec.settings.user = spec.settings.user.filter(is_number);
        }
        Ok(spec)
    }

    /// Removes what commands of a service, of this host's or of one before it, have left running.
    pub(super) async fn clear_commands(&self, environment: &str, service: &str) -> Result<(), DockerError> {
        let recorded = self.store.current();
        for left in self.docker.instances_with(&format!("{LABEL_ROLE}={ROLE_COMMAND}")).await? {
            let is = |name: &str, value: &str| left.labels.get(name).is_some_and(|known| known == value);
            let is_at_work = left.labels.get(LABEL_COMMAND).is_some_and(|name| recorded.is_at_work(name));
            if self.is_own(&left) && is(LABEL_ENVIRONMENT, environment) && is(LABEL_SERVICE, service) && !is_at_work {
                self.docker.remove_instance(&left.id).await?;
            }
        }
        Ok(())
    }

    /// Empties the volume that is a service's data folder.
    pub(super) async fn clear_volume(&self, environment: &str, service: &str) -> Result<(), DockerError> {
        self.docker.remove_volume(&self.engine_place(environment, service), DATA_VOLUME).await
    }

    /// Removes what an earlier start has left of an instance.
    pub(super) async fn remove_left(&self, id: &InstanceId) -> Result<(), DockerError> {
        for left in self.docker.instances_with(&format!("{LABEL_INSTANCE}={}", self.engine_mark(id))).await? {
            if self.is_own(&left) {
                self.docker.remove_instance(&left.id).await?;
            }
        }
        Ok(())
    }

    /// Whether the volume that is a service's data folder is at the engine.
    pub(super) async fn has_volume(&self, environment: &str, service: &str) -> Result<bool, DockerError> {
        self.docker.has_volume(&self.engine_place(environment, service), DATA_VOLUME).await
    }

    /// The name of a service's network, which stands before the names of its volumes as well.
    fn engine_place(&self, environment: &str, service: &str) -> String {
        place_name(&self.engine_name(), environment, service)
    }

    /// Whether this host made a container. Its labels alone don't tell: an image has some, and so has whatever is made of it.
    fn is_own(&self, found: &InstanceFound) -> bool {
        is_named(found, &self.engine_name(), &self.engine_owner())
    }

    /// What marks an instance's containers at the engine.
    fn engine_mark(&self, id: &InstanceId) -> String {
        format!("{}/{id}", self.engine_owner())
    }

    /// By what this host is known at the engine that has what it runs: the same in whichever way that is reached.
    fn engine_owner(&self) -> String {
        engine_owner(&self.store, &self.engine_owner)
    }

    fn shared_labels(&self, environment: &str, service: &str) -> HashMap<String, String> {
        let labels = [
            (LABEL_HOST, self.engine_owner()),
            (LABEL_ENVIRONMENT, environment.to_owned()),
            (LABEL_SERVICE, service.to_owned()),
        ];
        labels.map(|(name, value)| (name.to_owned(), value)).into()
    }

    /// What the names of all that this host makes at an engine begin with.
    fn engine_name(&self) -> String {
        engine_name(&self.engine_owner())
    }

    /// Sweeps away what is left at the engine whenever that is asked for, and now and then, for ever. While nothing was ever run there, nothing is asked.
    pub(super) async fn keep_swept(self: Arc<Self>) {
        loop {
            // asked for, or time for it
            let _ = timeout(SWEEP_EVERY, self.sweep_wanted.notified()).await;
            if !self.store.current().uses_engine {
                continue;
            }
            let mut pause = SWEEP_PAUSES.0;
            while let Err(error) = self.sweep().await {
                tracing::debug!(%error, "what is left at the container engine can't be removed yet");
                sleep(pause).await;
                pause = (pause * 2).min(SWEEP_PAUSES.1);
            }
        }
    }

    async fn sweep(&self) -> Result<(), DockerError> {
        let own = format!("{LABEL_HOST}={}", self.engine_owner());
        let found = self.docker.instances_with(&own).await?;
        let mut failed = None;
        // looked at afterwards: what was found and is recorded since then is not taken for left over
        let recorded = self.store.current();
        for one in found.into_iter().filter(|one| self.is_own(one)) {
            let is_at_work = one.labels.get(LABEL_COMMAND).is_some_and(|name| recorded.is_at_work(name));
            let is_wanted = is_at_work
                || self.looker.as_ref().is_some_and(|looker| looker.has(&one.name))
                || recorded.instances.iter().any(|(id, instance)| {
                    !instance.is_stopped()
                        && one.labels.get(LABEL_INSTANCE) == Some(&self.engine_mark(id))
                        && one.labels.get(LABEL_LIFE) == Some(&instance.life.to_string())
                });
            if !is_wanted {
                tracing::info!(container = one.id, "nobody needs it any more");
                match self.docker.remove_instance(&one.id).await {
                    Ok(_) => {}
                    Err(error @ DockerError::Away { .. }) => return Err(error),
                    // one that can't be removed is no reason to leave the others
                    Err(error) => failed = Some(error),
                }
            }
        }
        let pair = |labels: &HashMap<String, String>| {
            Some((labels.get(LABEL_ENVIRONMENT)?.clone(), labels.get(LABEL_SERVICE)?.clone()))
        };
        // as it is recorded by then, for the same reason
        let now = || self.store.current();
        let is_empty = |labels: &HashMap<String, String>| pair(labels).is_some_and(|(e, s)| !now().runs(&e, &s));
        let is_gone = |labels: &HashMap<String, String>| pair(labels).is_some_and(|(e, s)| now().is_gone(&e, &s));
        let removed = self.docker.remove_shared(&own, is_empty, is_gone).await;
        failed.map_or(removed, Err)
    }
}

impl Recorded {
    /// Whether anything of a service is there or about to be.
    fn runs(&self, environment: &str, service: &str) -> bool {
        self.instances.values().any(|i| i.environment == environment && i.release.service == service && !i.is_stopped())
    }

    /// Whether a service was taken away: known by its epoch alone. One that nothing is known of is none that was.
    fn is_gone(&self, environment: &str, service: &str) -> bool {
        let is_kept = self.kept.iter().any(|k| k.environment == environment && k.release.service == service);
        let is_known = self.route(environment, service).is_some_and(|r| r.rules.is_empty() && r.targets.is_empty());
        is_known && !is_kept && !self.runs(environment, service)
    }
}

impl RunSpec {
    /// Whether it is run as a container.
    #[must_use]
    pub fn is_container(&self) -> bool {
        self.container.is_some()
    }
}

/// By what a host is known at an engine: its data folder, where nobody else of that machine has the same. Hosts of several machines may have
/// it at an engine that they share, so there a word stands before it that is nobody else's.
pub(super) fn owner(docker: &Docker, data: &Path) -> io::Result<String> {
    let folder = data.display().to_string();
    if !docker.is_elsewhere() {
        return Ok(folder);
    }
    let path = data.join("engine-name");
    let word = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let word = hex::encode(rand::random::<[u8; 16]>());
            let mut file = tempfile::NamedTempFile::new_in(data)?;
            file.write_all(word.as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|error| error.error)?;
            std::fs::File::open(data)?.sync_all()?;
            word
        }
        read => read?,
    };
    let word = word.trim();
    if word.is_empty() {
        // with another one, what it has at the engine would be nobody's
        return Err(io::Error::other(format!(
            "{} is empty; restore it from a backup, or remove it once nothing is left there",
            path.display()
        )));
    }
    Ok(format!("{word}:{folder}"))
}

/// The same, of what this host has recorded; `own`: by what it is known at an engine that it has not met yet.
pub(super) fn engine_owner(store: &Store, own: &str) -> String {
    store.current().engine.as_ref().map_or_else(|| own.to_owned(), |engine| engine.owner.clone())
}

/// What the names of all that a host makes at an engine begin with.
pub(super) fn engine_name(owner: &str) -> String {
    let digest = hex::encode(Sha256::digest(owner.as_bytes()));
    format!("segue-{}", &digest[..8])
}

/// The name of a container in which GPUs are looked at.
pub(super) fn looker_name(engine_name: &str, word: &str) -> String {
    format!("{engine_name}-gpus-{word}")
}

/// The name of an instance's container.
fn container_name(engine_name: &str, id: &str, life: &str, is_seed: bool) -> String {
    format!("{engine_name}-{id}-{life}{}", if is_seed { "-seed" } else { "" })
}

/// The name of the container of a service's command.
fn command_name(engine_name: &str, name: &str) -> String {
    format!("{engine_name}-backup-{name}")
}

/// Whether a container has the name that a host gives to one with its labels.
fn is_named(found: &InstanceFound, engine_name: &str, data: &str) -> bool {
    let label = |name| found.labels.get(name).map(String::as_str);
    if label(LABEL_ROLE) == Some(ROLE_COMMAND) {
        let is_data = label(LABEL_HOST) == Some(data);
        return is_data && label(LABEL_COMMAND).is_some_and(|name| found.name == command_name(engine_name, name));
    }
    if label(LABEL_ROLE) == Some(ROLE_LOOKER) {
        return label(LABEL_HOST) == Some(data) && found.name.starts_with(&looker_name(engine_name, ""));
    }
    let id = label(LABEL_INSTANCE).and_then(|mark| mark.strip_prefix(data)?.strip_prefix('/'));
    let (Some(id), Some(life)) = (id, label(LABEL_LIFE)) else { return false };
    found.name == container_name(engine_name, id, life, label(LABEL_ROLE) == Some(ROLE_SEED))
}

/// The name of a service's network. The digest tells pairs apart that read the same (`a-b`, `c` and `a`, `b-c`). It stands before them, where its
/// place is fixed, so that the name of no volume, which follows, reads as one of another pair either.
fn place_name(engine_name: &str, environment: &str, service: &str) -> String {
    let digest = Sha256::digest(format!("{}:{environment}{}:{service}", environment.len(), service.len()));
    format!("{engine_name}-{}-{environment}-{service}", &hex::encode(digest)[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_whose_names_run_together_share_nothing() {
        let place = |environment, service| place_name("segue-1", environment, service);
        assert_ne!(place("a-b", "c"), place("a", "b-c"));
        assert_eq!(place("a", "b"), place("a", "b"));
        let (short, longer) = (place("a", "b"), place("a", "b-x"));
        assert!(!longer.starts_with(&short), "{longer} would be the name of a volume `x` of {short} as well");
    }

    #[test]
    fn a_container_is_known_by_its_name_and_not_by_its_labels_alone() {
        let found = |name: &str, life: &str, role: &str| InstanceFound {
            id: "1".into(),
            name: name.into(),
            is_running: true,
            labels: [(LABEL_INSTANCE, "/data/web-1"), (LABEL_LIFE, life), (LABEL_ROLE, role)]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        };
        let is_own = |found: &InstanceFound| is_named(found, "segue-1", "/data");
        assert!(is_own(&found("segue-1-web-1-7", "7", "service")));
        assert!(is_own(&found("segue-1-web-1-7-seed", "7", "seed")));
        for (name, life, role) in [
            ("segue-1-web-1-7", "8", "service"),
            ("segue-1-web-1-7", "7", "seed"),
            ("segue-2-web-1-7", "7", "service"),
            ("a-job", "7", "service"),
            ("", "7", "service"),
        ] {
            assert!(!is_own(&found(name, life, role)), "{name} {life} {role}");
        }
        assert!(!is_named(&found("segue-1-web-1-7", "7", "service"), "segue-1", "/another"));
        let mut looks = found("segue-1-gpus-0a", "7", ROLE_LOOKER);
        assert!(!is_own(&looks), "an image may say that of its own");
        looks.labels.insert(LABEL_HOST.into(), "/data".into());
        assert!(is_own(&looks) && !is_named(&looks, "segue-2", "/data") && !is_named(&looks, "segue-1", "/another"));
    }
}
