//! Runs the steps of jobs that ask for a container: one container a job, each script an `exec` in it; builds images (`build/`); and runs
//! services for `segue host` (`instances.rs`).
//!
//! Comes in: what a job asks of its container, evaluated, and its tasks. Goes out: calls of the engine, each with a time limit; the
//! output of tasks, into a descriptor; nothing that outlives its job. Never here: the log's contents, the server, which options a
//! pipeline may write (`pipelines/src/container.rs`). What the worker does for a job on the machine (checkout, packing) stays with
//! the engine `shell`, while the container stands still.
//!
//! Nothing is connected before a job asks. Everything made carries labels (`LABEL_*`), by which what a worker left is found again.

mod ask;
mod build;
mod call;
mod create;
mod exec;
mod gpus;
mod hand_over;
mod images;
mod instances;
mod job;
mod lifeline;
mod lines;
mod login;
mod look;
mod piped;
mod place;
mod services;
mod sweep;
mod way;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bollard::{Docker as Client, errors::Error, models::SystemInfo};
use futures_util::future::BoxFuture;
use segue_schemas::{config::DockerConfig, engine::EngineConfig};
use tokio::sync::OnceCell;

pub use ask::Answer;
pub use build::{BuildSpec, Built, ContextStream};
pub use call::DockerError;
pub use gpus::LookerSpec;
pub use instances::{InstanceFound, InstanceSeen, InstanceSpec};
pub use job::ContainerJob;
pub use look::EngineSeen;
pub use piped::{Piped, Streams};
pub use place::{ContainerSpec, Credentials, Opened, Place, Say};
pub use services::ServiceSpec;
pub use way::End;

use call::call;
use images::Images;
use sweep::Leftovers;
use way::Way;

/// Whose it is: the directory of the worker that made it.
const LABEL_PLACE: &str = "segue.worker";
/// Which run it was made for.
const LABEL_RUN: &str = "segue.run";
/// Which job.
const LABEL_JOB: &str = "segue.job";
/// Which claim of it.
const LABEL_EPOCH: &str = "segue.epoch";

/// Whom an engine is told to by its number, when it first answers and whenever it may be another one: whether it may be used, else why not.
pub struct Met(Box<dyn Fn(String) -> BoxFuture<'static, Result<(), String>> + Send + Sync>);

impl Met {
    /// Somebody who is asked so.
    pub fn by(may_be_used: impl Fn(String) -> BoxFuture<'static, Result<(), String>> + Send + Sync + 'static) -> Self {
        Self(Box::new(may_be_used))
    }
}

impl std::fmt::Debug for Met {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Met")
    }
}

/// A worker's engine for containers.
#[derive(Debug)]
pub struct Docker {
    config: DockerConfig,
    way: Way,
    met: Option<Met>,
    client: OnceCell<Client>,
    images: Images,
    fixed: build::Fixed,
    /// The worker's directory, by which it knows what it made.
    owner: String,
    /// A file for each place that something was made for, by which the next start of the worker knows that there may be leftovers.
    marks: PathBuf,
    leftovers: Leftovers,
}

impl Docker {
    /// The engine that the configuration names, if it names one. Nothing is connected. `data` is the worker's own directory.
    #[must_use]
    pub fn of(config: &DockerConfig, data: &Path) -> Option<Arc<Self>> {
        let socket = config.socket.clone()?;
        Some(Arc::new(Self::by(Way::unix(socket), config.clone(), data)))
    }

    /// The engine of a host's services, which may be on another machine. Nothing is connected.
    ///
    /// # Errors
    /// In words, where it is named wrongly.
    pub fn at(engine: &EngineConfig, data: &Path) -> Result<Self, String> {
        Ok(Self::by(Way::to(engine)?, DockerConfig::default(), data))
    }

    /// The same with somebody who is asked, when it first answers and before anything is made there or taken for gone, whether it is the right one:
    /// if not, nothing of that is done.
    #[must_use]
    pub fn introduced_to(self, met: Met) -> Self {
        Self { met: Some(met), ..self }
    }

    fn by(way: Way, config: DockerConfig, data: &Path) -> Self {
        let owner = data.canonicalize().unwrap_or_else(|_| data.to_owned()).display().to_string();
        let marks = data.join("containers");
        Self {
            config,
            way,
            met: None,
            client: OnceCell::new(),
            images: Images::default(),
            fixed: build::Fixed::default(),
            owner,
            leftovers: Leftovers::noted_in(&marks),
            marks,
        }
    }

    /// Where it is, as people write that.
    #[must_use]
    pub fn address(&self) -> &str {
        self.way.shown()
    }

    /// Whether it is on another machine, or reached as if it were.
    #[must_use]
    pub fn is_elsewhere(&self) -> bool {
        self.way.socket().is_none()
    }

    /// A connection to it, made with the first use.
    async fn client(&self) -> Result<&Client, DockerError> {
        let connect = async {
            let patience = self.config.patience.0;
            let client = self.way.client(patience).map_err(|error| DockerError::away("be connected", &error))?;
            let client = call("say its version", patience, client.negotiate_version()).await?;
            self.meet(&client).await?;
            Ok(client)
        };
        self.client.get_or_try_init(|| connect).await
    }

    /// Sees to it that whoever answers now may be used as well: at its address there may be another engine than before, which knows nothing of
    /// what runs, and is not to be given any of it. That of this machine is another one as well once it was started without its data.
    async fn see_that_it_is_the_same(&self) -> Result<(), DockerError> {
        if self.met.is_none() {
            return Ok(());
        }
        self.meet(self.client().await?).await
    }

    async fn meet(&self, client: &Client) -> Result<(), DockerError> {
        let Some(met) = &self.met else { return Ok(()) };
        let info = async {
            match client.info().await {
                // of what tells of itself otherwise, no number is known
                Err(Error::JsonDataError { .. } | Error::JsonSerdeError { .. }) => Ok(SystemInfo::default()),
                other => other,
            }
        };
        let info = call("say who it is", self.config.patience.0, info).await?;
        match info.id.filter(|id| !id.is_empty()) {
            Some(id) => met.0(id).await.map_err(DockerError::Own),
            // one that has no number is as good as any
            None => Ok(()),
        }
    }

    /// Notes that this place may have something at the engine.
    fn mark(&self, place: &str) -> Result<(), DockerError> {
        let marked = std::fs::create_dir_all(&self.marks).and_then(|()| std::fs::write(self.marks.join(place), b""));
        marked.map_err(|error| DockerError::Own(format!("{}: {error}", self.marks.display())))
    }

    fn unmark(&self, place: &str) {
        let _ = std::fs::remove_file(self.marks.join(place));
    }
}
