//! Data folders: where a service may keep what outlives its process and its releases, filled once by a command of its own, and taken away
//! with the service.

use std::{io, os::unix::fs::DirBuilderExt as _, path::Path, path::PathBuf, time::Duration};

use segue_schemas::host_api::HostError;

use super::{Host, instances::Life, process::Process};

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
    /// Why it can't be started.
    Failed(String),
}

impl Host {
    /// Has an instance's data folder there. The first time the instance's own command fills it; one that was cut short begins anew, with
    /// an empty folder.
    pub(super) async fn furnish(&self, one: &Life) -> Result<Furnished, HostError> {
        let recorded = self.store.current();
        let Some(instance) = one.among(&recorded) else { return Ok(Furnished::Ended) };
        let Some(data) = &instance.run.data else { return Ok(Furnished::Ready) };
        let pair = (instance.environment.clone(), instance.release.service.clone());
        let folder = self.data_folder(&pair.0, &pair.1);
        let unusable = |error: io::Error| Ok(Furnished::Failed(format!("{} can't be made: {error}", folder.display())));
        if recorded.furnished.contains(&pair) {
            return make(&folder).map_or_else(unusable, |()| Ok(Furnished::Ready));
        }
        let mark = format!("{}/seed/{}/{}", self.options.data.display(), pair.0, pair.1);
        if let Some(mut left) = Process::find(&mark) {
            left.terminate(Duration::ZERO).await;
        }
        if let Err(error) = remove(folder.clone()).await.and_then(|()| make(&folder)) {
            return unusable(error);
        }
        if let Some(seed) = &data.seed {
            tracing::info!(instance = %one.id, "its data folder is filled");
            let command = ["sh", "-ec", seed].map(str::to_owned);
            let mut process = match self.launch(&one.id, instance, &command, &mark) {
                Ok(process) => process,
                Err(reason) => return Ok(Furnished::Failed(reason)),
            };
            let ended = tokio::select! {
                ended = tokio::time::timeout(SEED_LIMIT, process.succeeded()) => ended,
                patience = self.must_end(one) => {
                    process.terminate(patience).await;
                    return Ok(Furnished::Ended);
                }
            };
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(exit)) => return Ok(Furnished::Failed(format!("its `seed` ended with {exit}"))),
                Err(_) => {
                    process.terminate(SEED_PATIENCE).await;
                    return Ok(Furnished::Failed(format!("its `seed` did not end within {SEED_LIMIT:?}")));
                }
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

    /// Where a service's data are, or would be.
    pub(super) fn data_folder(&self, environment: &str, service: &str) -> PathBuf {
        self.data_folders().join(environment).join(service)
    }

    fn data_folders(&self) -> PathBuf {
        self.options.data.join("data")
    }

    /// Takes a service's data away that is recorded no more. Whatever still writes there ends meanwhile.
    pub(super) async fn clear_data(&self, environment: &str, service: &str) {
        let folder = self.data_folder(environment, service);
        if let Err(error) = remove(folder.clone()).await {
            tracing::error!(folder = %folder.display(), %error, "data of a service that was taken away can't be removed");
        }
    }

    /// Removes what lies in the place of data folders and is recorded no more: of a removal that was cut short.
    pub(super) async fn clear_left_data(&self) {
        let recorded = self.store.current();
        let entries = |folder: PathBuf| {
            let all = std::fs::read_dir(folder).into_iter().flatten().flatten();
            all.filter_map(|entry| entry.file_name().into_string().ok())
        };
        for environment in entries(self.data_folders()) {
            for service in entries(self.data_folders().join(&environment)) {
                if !recorded.furnished.contains(&(environment.clone(), service.clone())) {
                    self.clear_data(&environment, &service).await;
                }
            }
        }
    }
}

fn make(folder: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Removes a folder, if it is there.
async fn remove(folder: PathBuf) -> io::Result<()> {
    let removed = tokio::task::spawn_blocking(move || match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    });
    removed.await.map_err(io::Error::other)?
}
