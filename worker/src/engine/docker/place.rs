//! The place that a job's scripts run in: its network and its volumes, then its container; removed in the other order.

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use async_trait::async_trait;
use bollard::{
    Docker as Client,
    models::{NetworkCreateRequest, VolumeCreateRequest},
    query_parameters::{CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder},
};
use futures_util::future::try_join_all;
use segue_pipelines::container::{Pull, Settings, with_tag};
use segue_schemas::id::{Epoch, JobId, RunId};
use tokio::sync::Mutex;
use tokio_util::task::TaskTracker;

use super::{
    Docker, DockerError, LABEL_EPOCH, LABEL_JOB, LABEL_PLACE, LABEL_RUN,
    call::call,
    create,
    images::Wanted,
    lifeline::Lifeline,
    services::{ServiceSpec, Started},
};
use crate::engine::{EngineJob, UserIds};

/// What a job's container is made with, evaluated.
#[derive(Debug, Clone)]
pub struct ContainerSpec {
    /// The image, as the pipeline names it.
    pub image: String,
    /// Its variables, `NAME=VALUE`.
    pub env: Vec<String>,
    /// Limits, user, names and the like.
    pub settings: Settings,
    /// `NAME:/PATH[:ro]`, or `/PATH` for one without a name. Each lives as long as the job.
    pub volumes: Vec<String>,
    /// Who pulls the image.
    pub credentials: Option<Credentials>,
    /// Directories of the job, each at its own path in the container.
    pub mounts: Vec<PathBuf>,
    /// Where it begins.
    pub workdir: String,
    /// The worker's directory of the workspace, one of the mounts.
    pub commands: PathBuf,
    /// Whom the worker's own tasks for the job run as.
    pub host_user: Option<UserIds>,
    /// Whom everything in the container runs as, whatever image and settings say.
    pub forced_user: Option<String>,
    /// The GPUs that it has, by UUID.
    pub gpus: Vec<String>,
    /// The containers beside it.
    pub services: Vec<ServiceSpec>,
}

impl ContainerSpec {
    fn wanted(&self) -> Wanted<'_> {
        Wanted { image: &self.image, settings: &self.settings, credentials: self.credentials.as_ref() }
    }
}

/// Who pulls.
#[derive(Clone)]
pub struct Credentials {
    /// The user.
    pub username: String,
    /// Its password or token.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({})", self.username)
    }
}

/// Where what happens is told: the job's log.
#[async_trait]
pub trait Say: Send + Sync {
    /// Writes a line.
    async fn say(&self, line: String);
}

/// A container that runs.
#[derive(Debug, Clone)]
pub struct Opened {
    /// Its number at the engine.
    pub id: String,
    /// Where it looks for programs.
    pub path: Option<String>,
    /// Whom scripts run as, where it is not whom the image names.
    pub user: Option<String>,
    /// The workspace, and whose it is to be when the worker is at it.
    pub workspace: (PathBuf, Option<UserIds>),
}

/// The place of one claim of a job.
pub struct Place {
    pub(super) docker: Arc<Docker>,
    run: RunId,
    job: JobId,
    epoch: Epoch,
    pub(super) lifeline: Mutex<Lifeline>,
    /// What the engine is making for it.
    pub(super) making: TaskTracker,
    opened: OnceLock<Opened>,
    pub(super) services: OnceLock<Vec<Started>>,
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Place").field("job", &self.job).field("opened", &self.opened).finish_non_exhaustive()
    }
}

impl Place {
    /// A place in which nothing is made. `holder` keeps its lifeline.
    #[must_use]
    pub fn new(docker: Arc<Docker>, run: RunId, job: JobId, epoch: Epoch, holder: Box<dyn EngineJob>) -> Self {
        Self {
            docker,
            run,
            job,
            epoch,
            lifeline: Mutex::new(Lifeline::new(holder)),
            making: TaskTracker::new(),
            opened: OnceLock::new(),
            services: OnceLock::new(),
        }
    }

    /// The container, where it was opened.
    #[must_use]
    pub fn opened(&self) -> Option<&Opened> {
        self.opened.get()
    }

    /// The job.
    #[must_use]
    pub const fn job(&self) -> JobId {
        self.job
    }

    /// Pulls the images, makes network, volumes and containers, and starts those, the job's last. A dropped future leaves what it made;
    /// [`Place::remove`] takes it away.
    ///
    /// # Errors
    /// [`DockerError`].
    pub async fn open(&self, spec: &ContainerSpec, say: &dyn Say) -> Result<(), DockerError> {
        let docker = &self.docker;
        docker.sweep_leftovers().await?;
        docker.mark(&self.name())?;
        let client = docker.client().await?;
        let limit = docker.config.patience.0;
        let labels: HashMap<String, String> = self.labels().into();
        let ceiling = create::Ceiling {
            memory_bytes: docker.config.memory_mib.map(|mib| mib.saturating_mul(1 << 20)),
            cpu_millis: docker.config.cpus.map(|cpus| u64::from(cpus) * 1000),
        };
        let services = try_join_all(spec.services.iter().map(|one| docker.images.have(docker, one.wanted(), say)));
        // none of these needs another: a container is in its network once it is started
        let (opened, services, (), ()) = tokio::try_join!(
            self.make_container(spec, &labels, ceiling, say),
            services,
            self.make_network(&labels),
            self.hold(spec)
        )?;
        let services: Vec<(&ServiceSpec, String)> =
            spec.services.iter().zip(services.into_iter().map(|had| had.name)).collect();
        self.start_services(&services, &labels, ceiling, say).await?;
        call("start the container", limit, client.start_container(&opened.id, None)).await?;
        let _ = self.opened.set(opened);
        Ok(())
    }

    /// Has the image, makes the volumes that have a name, and the container of all that.
    async fn make_container(
        &self,
        spec: &ContainerSpec,
        labels: &HashMap<String, String>,
        ceiling: create::Ceiling,
        say: &dyn Say,
    ) -> Result<Opened, DockerError> {
        let (docker, name) = (&self.docker, self.name());
        // the engine would make those that are not there itself, and nobody would find them again
        let volumes = spec.services.iter().flat_map(|service| &service.volumes).chain(&spec.volumes);
        let named: BTreeSet<&str> = volumes.filter_map(|volume| create::volume_of(volume)).collect();
        for volume in named {
            let volume = VolumeCreateRequest {
                name: Some(create::volume_name(&name, volume)),
                labels: Some(labels.clone()),
                ..VolumeCreateRequest::default()
            };
            self.make("make a volume", move |client| async move { client.create_volume(volume).await }).await?;
        }
        let body = create::job_container(spec, &with_tag(spec.image.trim()), &name, labels.clone(), ceiling);
        let create = || {
            let (body, options) = (body.clone(), CreateContainerOptionsBuilder::default().name(&name).build());
            let make = move |client: Client| async move { client.create_container(Some(options), body).await };
            self.make("make the container", make)
        };
        let image = docker.images.have(docker, spec.wanted(), say);
        let (image, made) = if docker.pull(&spec.settings) == Pull::Always {
            (image.await?, create().await)
        } else {
            // mostly it is there, which the engine finds out as it makes the container
            let (image, made) = tokio::join!(image, create());
            let image = image?;
            // what an engine said that had no image yet says nothing of one that has
            let was_early = |error: &DockerError| image.is_new || error.is_not_found();
            let made = if made.as_ref().is_err_and(was_early) { create().await } else { made };
            (image, made)
        };
        let own_path = body.env.as_deref().and_then(|env| create::value_of(env, "PATH"));
        let path = own_path.or_else(|| create::value_of(&image.env, "PATH"));
        Ok(Opened {
            id: made?.id,
            path,
            user: body.user.clone(),
            workspace: (spec.workdir.clone().into(), spec.host_user),
        })
    }

    async fn make_network(&self, labels: &HashMap<String, String>) -> Result<(), DockerError> {
        let network = NetworkCreateRequest {
            name: self.name(),
            driver: Some("bridge".into()),
            labels: Some(labels.clone()),
            ..NetworkCreateRequest::default()
        };
        self.make("make the network", move |client| async move { client.create_network(network).await }).await.map(drop)
    }

    /// Has the engine make something. It may do so though nobody waits for its answer any more, and whoever removes all that was made
    /// is to find that as well: the request goes on when the future is dropped, and [`Self::remove`] waits for its end.
    pub(super) async fn make<T, F>(
        &self,
        doing: &'static str,
        request: impl FnOnce(Client) -> F,
    ) -> Result<T, DockerError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, bollard::errors::Error>> + Send + 'static,
    {
        let limit = self.docker.config.patience.0;
        let request = request(self.docker.client().await?.clone());
        let made = self.making.spawn(async move { call(doing, limit, request).await });
        made.await.map_err(|error| DockerError::away(doing, &error))?
    }

    async fn hold(&self, spec: &ContainerSpec) -> Result<(), DockerError> {
        self.lifeline.lock().await.begin(&spec.commands, spec.host_user).await
    }

    /// Takes away what was made, however far it came. Again changes nothing.
    ///
    /// # Errors
    /// What could not be removed; the mark stays, so that the next start of the worker tries again.
    pub async fn remove(&self) -> Result<(), DockerError> {
        self.lifeline.lock().await.let_go().await;
        self.making.close();
        self.making.wait().await;
        let has_services = self.services.get().is_some_and(|services| !services.is_empty());
        let Some(opened) = self.opened.get().filter(|_| !has_services) else {
            // it may have come to a part of it, which the labels tell
            return self.sweep().await;
        };
        let docker = &self.docker;
        let (client, limit) = (docker.client().await?, docker.config.patience.0);
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        gone(call("remove the container", limit, client.remove_container(&opened.id, Some(options))).await)?;
        gone(call("remove the network", limit, client.remove_network(&self.name())).await)?;
        self.sweep_volumes().await?;
        docker.unmark(&self.name());
        Ok(())
    }

    /// The name of everything that it makes.
    pub(super) fn name(&self) -> String {
        name_of(&self.job.to_string(), &self.epoch.to_string())
    }

    fn labels(&self) -> [(String, String); 4] {
        [
            (LABEL_PLACE.into(), self.docker.owner.clone()),
            (LABEL_RUN.into(), self.run.to_string()),
            (LABEL_JOB.into(), self.job.to_string()),
            (LABEL_EPOCH.into(), self.epoch.to_string()),
        ]
    }

    /// The labels by which what it made is found.
    pub(super) fn found_by(&self) -> Vec<String> {
        self.labels().iter().map(|(name, value)| format!("{name}={value}")).collect()
    }
}

/// The name of a place.
pub(super) fn name_of(job: &str, epoch: &str) -> String {
    format!("segue-{job}-{epoch}")
}

/// What is not there need not be removed.
pub(super) fn gone(removed: Result<(), DockerError>) -> Result<(), DockerError> {
    match removed {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}
