//! Data folders: where a service may keep what outlives its process and its releases, filled once by a command of its own, and taken away
//! with the service.

use std::{
    fs::Permissions,
    io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use segue_schemas::{host_api::HostError, id::InstanceId, status::FailureClass};

use super::{Host, containers::DATA_PATH, instances::Life, process::Process, running::Running, state::InstanceRecord};
use crate::engine::docker::DockerError;

/// The variable that holds the folder's path.
pub(super) const VARIABLE: &str = "SEGUE_DATA";

/// How long the command may take that fills the folder: less than whoever starts an instance waits for it.
const SEED_LIMIT: Duration = Duration::from_secs(600);

/// How long it may take to end then.
const SEED_PATIENCE: Duration = Duration::from_secs(10);

/// What came of having an instance's folder there.
pub(super) enum Furnished {
    /// It is there, and filled; or the instance has none.
    Ready,
    /// The instance was told to end meanwhile.
    Ended,
    /// Why it can't be started now, and is to be tried again.
    Later(String),
    /// Why it can't be started.
    Failed(String),
}

impl Furnished {
    /// What an error of the engine's comes to: what it refuses is not tried again.
    fn of(error: &DockerError) -> Self {
        let why = format!("its data folder: {error}");
        if error.class() == FailureClass::Infrastructure { Self::Later(why) } else { Self::Failed(why) }
    }
}

impl Host {
    /// Has an instance's data folder there. The first time the instance's own command fills it; one that was cut short begins anew, with
    /// an empty folder.
    pub(super) async fn furnish(&self, one: &Life) -> Result<Furnished, HostError> {
        let recorded = self.store.current();
        let Some(instance) = one.among(&recorded) else { return Ok(Furnished::Ended) };
        let Some(data) = &instance.run.data else { return Ok(Furnished::Ready) };
        let pair = (instance.environment.clone(), instance.release.service.clone());
        let is_volume = instance.run.is_container();
        let folder = self.data_folder(&pair.0, &pair.1);
        let unusable = |error: io::Error| Ok(Furnished::Failed(format!("{} can't be made: {error}", folder.display())));
        if recorded.furnished.contains(&pair) {
            if is_volume {
                return Ok(Furnished::Ready);
            }
            return make(&folder).map_or_else(unusable, |()| Ok(Furnished::Ready));
        }
        let mark = format!("{}/seed/{}/{}", self.options.data.display(), pair.0, pair.1);
        if is_volume && let Err(error) = self.remove_left(&one.id).await {
            return Ok(Furnished::of(&error));
        }
        if is_volume && recorded.missed.contains(&pair) {
            // restored at an engine that was set up anew, or of one that is gone back to: it is the service's own
            let is_there = match self.has_volume(&pair.0, &pair.1).await {
                Ok(is_there) => is_there,
                Err(error) => return Ok(Furnished::of(&error)),
            };
            let of = pair.clone();
            let noted = self.store.change(move |recorded| {
                recorded.missed.retain(|known| *known != of);
                if is_there && !recorded.furnished.contains(&of) {
                    recorded.furnished.push(of);
                }
                Ok(())
            });
            noted.await?;
            if is_there {
                tracing::info!(instance = %one.id, "its data folder is at this engine already, and is used as it is");
                return Ok(Furnished::Ready);
            }
        }
        if is_volume {
            if let Err(error) = self.clear_volume(&pair.0, &pair.1).await {
                return Ok(Furnished::of(&error));
            }
        } else {
            if let Some(mut left) = Process::find(&mark) {
                left.terminate(Duration::ZERO).await;
            }
            if let Err(error) = remove(folder.clone()).await.and_then(|()| make(&folder)) {
                return unusable(error);
            }
        }
        if let Some(seed) = &data.seed {
            tracing::info!(instance = %one.id, "its data folder is filled");
            let mut process = match self.begin_seed(one, instance, seed, &mark).await {
                Ok(process) => process,
                Err(why) => return Ok(why),
            };
            let ended = tokio::select! {
                ended = tokio::time::timeout(SEED_LIMIT, process.succeeded()) => ended,
                patience = self.must_end(one) => {
                    process.terminate(patience).await;
                    process.clear().await;
                    return Ok(Furnished::Ended);
                }
            };
            if ended.is_err() {
                process.terminate(SEED_PATIENCE).await;
            }
            process.clear().await;
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(exit)) => return Ok(Furnished::Failed(format!("its `seed` ended with {exit}"))),
                Err(_) => return Ok(Furnished::Failed(format!("its `seed` did not end within {SEED_LIMIT:?}"))),
            }
        }
        let of = one.clone();
        let noted = self.store.change(move |recorded| {
            // where it was taken away meanwhile, so was the folder
            let is_there = of.among(recorded).is_some_and(|instance| !instance.stopping);
            if is_there && !recorded.furnished.contains(&pair) {
                recorded.furnished.push(pair);
            }
            Ok(if is_there { Furnished::Ready } else { Furnished::Ended })
        });
        noted.await
    }

    /// Starts what fills a data folder, where the service itself is going to run.
    async fn begin_seed(
        &self,
        one: &Life,
        instance: &InstanceRecord,
        seed: &str,
        mark: &str,
    ) -> Result<Running, Furnished> {
        if !instance.run.is_container() {
            let command = ["sh", "-ec", seed].map(str::to_owned);
            return self.launch(&one.id, instance, &command, mark).map(Running::Process).map_err(Furnished::Failed);
        }
        let spec = self.seed_spec(&one.id, instance, seed).map_err(Furnished::Failed)?;
        let launched = self.launch_container(&one.id, spec).await;
        let container = launched.map_err(|error| Furnished::of(&error))?;
        Ok(Running::Container(Box::new(container)))
    }

    /// Where an instance finds its data.
    pub(super) fn data_path(&self, instance: &InstanceRecord) -> String {
        if instance.run.is_container() {
            return DATA_PATH.to_owned();
        }
        self.data_folder(&instance.environment, &instance.release.service).display().to_string()
    }

    /// Where a service's data are, or would be.
    pub(super) fn data_folder(&self, environment: &str, service: &str) -> PathBuf {
        self.data_folders().join(environment).join(service)
    }

    fn data_folders(&self) -> PathBuf {
        self.options.data.join("data")
    }

    /// Takes a service's data away that is recorded no more: out of its place at once, so that the next one begins anew there, and off the disk
    /// once the instances that may write there have ended.
    pub(super) async fn clear_data(self: &Arc<Self>, environment: &str, service: &str, writers: Vec<InstanceId>) {
        let folder = self.data_folder(environment, service);
        let gone = match self.put_aside(&folder) {
            Ok(Some(gone)) => gone,
            Ok(None) => return,
            Err(error) => {
                tracing::error!(folder = %folder.display(), %error, "data of a service that was taken away can't be removed");
                return;
            }
        };
        let host = self.clone();
        tokio::spawn(async move {
            for writer in writers {
                // what can't be told is no reason to keep it
                let _ = host.has_stopped(&writer).await;
            }
            clear(gone).await;
        });
    }

    /// Gives a folder another place, from which it goes; `None`: it is not there.
    fn put_aside(&self, folder: &Path) -> io::Result<Option<PathBuf>> {
        let aside = self.folders_aside();
        make(&aside)?;
        let gone = aside.join(rand::random::<u64>().to_string());
        match std::fs::rename(folder, &gone) {
            Ok(()) => Ok(Some(gone)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// On the same file system as the data, where no environment can be called so.
    fn folders_aside(&self) -> PathBuf {
        self.data_folders().join(".removed")
    }

    /// Removes what lies in the place of data folders and is recorded no more: of a removal that was cut short.
    pub(super) async fn clear_left_data(&self) {
        let recorded = self.store.current();
        let entries = |folder: PathBuf| {
            let all = std::fs::read_dir(folder).into_iter().flatten().flatten();
            all.filter_map(|entry| entry.file_name().into_string().ok())
        };
        let aside = self.folders_aside();
        for environment in entries(self.data_folders()) {
            let of_environment = self.data_folders().join(&environment);
            for service in entries(of_environment.clone()) {
                let folder = of_environment.join(&service);
                if of_environment == aside || !recorded.furnished.contains(&(environment.clone(), service)) {
                    clear(folder).await;
                }
            }
        }
    }
}

async fn clear(folder: PathBuf) {
    if let Err(error) = remove(folder.clone()).await {
        tracing::error!(folder = %folder.display(), %error, "data of a service that was taken away can't be removed");
    }
}

fn make(folder: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Removes a folder, if it is there; also one in which its owner has forbidden itself to write.
async fn remove(folder: PathBuf) -> io::Result<()> {
    let removed = tokio::task::spawn_blocking(move || {
        let removed = match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                open_up(&folder)?;
                std::fs::remove_dir_all(&folder)
            }
            removed => removed,
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    });
    removed.await.map_err(io::Error::other)?
}

/// Lets the owner of these folders write in all of them.
fn open_up(top: &Path) -> io::Result<()> {
    let mut folders = vec![top.to_owned()];
    while let Some(folder) = folders.pop() {
        std::fs::set_permissions(&folder, Permissions::from_mode(0o700))?;
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Ok(())
}
