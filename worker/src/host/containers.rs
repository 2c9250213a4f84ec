//! Instances that run as containers of this machine's engine: their images, how they are made, and what of them goes.
//!
//! Everything made carries labels: the host (by its data folder, so that several share one engine), environment, service and, of a
//! container, instance, life, release and epoch. What carries this host's and is recorded no more is swept away.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
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
use tokio::time::sleep;

use super::{
    Host,
    container::{Container, ContainerRecord, ToOutput},
    instances::{Life, Started},
    output, refusal,
    running::Running,
    state::{InstanceRecord, Recorded, RunSpec},
};
use crate::engine::docker::{Docker, DockerError, InstanceSpec};

const LABEL_HOST: &str = "segue.host";
const LABEL_ENVIRONMENT: &str = "segue.environment";
const LABEL_SERVICE: &str = "segue.service";
const LABEL_INSTANCE: &str = "segue.instance";
const LABEL_LIFE: &str = "segue.life";
const LABEL_RELEASE: &str = "segue.release";
const LABEL_EPOCH: &str = "segue.epoch";
const LABEL_ROLE: &str = "segue.role";

/// Pauses before what could not be swept away is tried again, from the first to the longest.
const SWEEP_PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

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
    fn told(&self, error: &DockerError) -> HostError {
        let code = match error.class() {
            FailureClass::Infrastructure => HostErrorCode::Unavailable,
            _ => HostErrorCode::Artifact,
        };
        refusal(code, format!("{error} (engine at {})", self.docker.socket().display()))
    }

    /// Starts the container of an instance. An engine that is away, or hangs, is tried again.
    pub(super) async fn start_container(&self, one: &Life) -> Result<Started, HostError> {
        let recorded = self.store.current();
        let Some(instance) = self.startable(one, &recorded) else { return Ok(Started::Over) };
        let launched = match self.container_spec(&one.id, instance) {
            Ok(spec) => tokio::select! {
                launched = self.launch_container(&one.id, spec) => launched,
                _ = self.must_end(one) => {
                    // it may have come to a part of it
                    self.sweep_wanted.notify_one();
                    return Ok(Started::Over);
                }
            },
            Err(reason) => return self.note_failed(one, reason).await,
        };
        match launched {
            Ok(container) => self.note_running(one, Running::Container(Box::new(container)), true).await,
            Err(error) if error.class() == FailureClass::Infrastructure => Ok(Started::Later(error.to_string())),
            Err(error) => {
                self.sweep_wanted.notify_one();
                self.note_failed(one, error.to_string()).await
            }
        }
    }

    /// Has an instance's container running: the one that a host before this one started and could not record, else a new one.
    pub(super) async fn launch_container(&self, id: &InstanceId, spec: InstanceSpec) -> Result<Container, DockerError> {
        let docker = &self.docker;
        let said = output::path(&self.output, id);
        docker.have_image(&spec.image, &ToOutput(said.clone())).await?;
        let mark = format!("{LABEL_INSTANCE}={}", self.mark(id));
        let mut left = None;
        for found in docker.instances_with(&mark).await? {
            let is_same =
                [LABEL_LIFE, LABEL_ROLE].iter().all(|label| found.labels.get(*label) == spec.labels.get(*label));
            if is_same && found.is_running && left.is_none() {
                left = docker.look_at(&found.id).await?.filter(|seen| seen.is_running);
            } else {
                docker.remove_instance(&found.id).await?;
            }
        }
        let seen = match left {
            Some(seen) => seen,
            None => docker.start_instance(&spec).await?,
        };
        // one that has ended already has none; its end is seen by whoever waits for it
        let address = seen.address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let record = ContainerRecord {
            container: seen.id,
            address: SocketAddr::new(address, spec.port),
            pid: seen.pid,
            stop_signal: spec.settings.stop_signal.unwrap_or_else(|| STOP_SIGNAL.into()),
            facts: seen.facts,
        };
        Ok(Container::started(docker.clone(), record, said))
    }

    /// What an instance's container is made with.
    pub(super) fn container_spec(&self, id: &InstanceId, instance: &InstanceRecord) -> Result<InstanceSpec, String> {
        let run = instance.run.container.as_ref().ok_or("it is not to be a container")?;
        let image = instance.release.image.clone().ok_or("its release has no image")?;
        let settings = container::of_service(&run.container, &run.resources)?;
        let (environment, service) = (&instance.environment, &instance.release.service);
        let port = run.container.port.to_string();
        let filled = |text: &String| text.replace("${PORT}", "$PORT").replace("$PORT", &port);
        let env = self.variables(instance).into_iter().chain([("PORT".to_owned(), port.clone())]);
        let epoch = self.store.current().route(environment, service).map(|route| route.epoch.to_string());
        let shared = self.shared_labels(environment, service);
        let own = [
            (LABEL_INSTANCE, self.mark(id)),
            (LABEL_LIFE, instance.life.to_string()),
            (LABEL_RELEASE, instance.release.id.to_string()),
            (LABEL_EPOCH, epoch.unwrap_or_default()),
            (LABEL_ROLE, "service".to_owned()),
        ];
        let labels = shared.clone().into_iter().chain(own.map(|(name, value)| (name.to_owned(), value))).collect();
        let volumes = run.container.volumes.iter().cloned();
        Ok(InstanceSpec {
            name: format!("{}-{id}-{}", self.engine_name(), instance.life),
            image,
            command: instance.run.command.iter().map(filled).collect(),
            entrypoint: None,
            env: env.map(|(name, value)| format!("{name}={value}")).collect(),
            settings,
            port: run.container.port,
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
        spec.name += "-seed";
        spec.labels.insert(LABEL_ROLE.into(), "seed".into());
        spec.entrypoint = Some(["sh", "-ec"].map(str::to_owned).into());
        spec.command = vec![line.to_owned()];
        Ok(spec)
    }

    /// Empties the volume that is a service's data folder.
    pub(super) async fn clear_volume(
        &self,
        id: &InstanceId,
        environment: &str,
        service: &str,
    ) -> Result<(), DockerError> {
        for left in self.docker.instances_with(&format!("{LABEL_INSTANCE}={}", self.mark(id))).await? {
            self.docker.remove_instance(&left.id).await?;
        }
        self.docker.remove_volume(&self.engine_place(environment, service), DATA_VOLUME).await
    }

    /// The name of a service's network, which stands before the names of its volumes as well.
    fn engine_place(&self, environment: &str, service: &str) -> String {
        format!("{}-{environment}-{service}", self.engine_name())
    }

    fn shared_labels(&self, environment: &str, service: &str) -> HashMap<String, String> {
        let labels = [
            (LABEL_HOST, self.options.data.display().to_string()),
            (LABEL_ENVIRONMENT, environment.to_owned()),
            (LABEL_SERVICE, service.to_owned()),
        ];
        labels.map(|(name, value)| (name.to_owned(), value)).into()
    }

    /// What the names of all that this host makes at an engine begin with.
    fn engine_name(&self) -> String {
        let digest = hex::encode(Sha256::digest(self.options.data.display().to_string().as_bytes()));
        format!("segue-{}", &digest[..8])
    }

    /// Sweeps away what is left at the engine whenever that is asked for, for ever. While nothing was ever run there, nothing is asked.
    pub(super) async fn keep_swept(self: Arc<Self>) {
        loop {
            self.sweep_wanted.notified().await;
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
        let own = format!("{LABEL_HOST}={}", self.options.data.display());
        let found = self.docker.instances_with(&own).await?;
        // looked at afterwards: what was found and is recorded since then is not taken for left over
        let recorded = self.store.current();
        for one in found {
            let is_wanted = recorded.instances.iter().any(|(id, instance)| {
                !instance.is_stopped()
                    && one.labels.get(LABEL_INSTANCE) == Some(&self.mark(id))
                    && one.labels.get(LABEL_LIFE) == Some(&instance.life.to_string())
            });
            if !is_wanted {
                tracing::info!(container = one.id, "nobody needs it any more");
                self.docker.remove_instance(&one.id).await?;
            }
        }
        let pair = |labels: &HashMap<String, String>| {
            Some((labels.get(LABEL_ENVIRONMENT)?.clone(), labels.get(LABEL_SERVICE)?.clone()))
        };
        let is_empty = |labels: &HashMap<String, String>| pair(labels).is_some_and(|(e, s)| !recorded.runs(&e, &s));
        let is_gone = |labels: &HashMap<String, String>| pair(labels).is_some_and(|(e, s)| recorded.is_gone(&e, &s));
        self.docker.remove_shared(&own, is_empty, is_gone).await
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

/// The engine that a host's containers run at. Nothing is connected before one is to be run.
pub(super) fn engine(socket: &std::path::Path, data: &std::path::Path) -> Option<Arc<Docker>> {
    let config = segue_schemas::config::DockerConfig { socket: Some(socket.to_owned()), ..Default::default() };
    Docker::of(&config, data)
}
