//! What was left at the engine, found by its labels: of an earlier start of the worker, of a place that could not be removed when its
//! job ended, or of one that came only to a part.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bollard::query_parameters::{
    ListContainersOptionsBuilder, ListNetworksOptionsBuilder, ListVolumesOptionsBuilder, RemoveContainerOptionsBuilder,
    RemoveVolumeOptionsBuilder,
};
use tokio::time::sleep;

use super::{
    Docker, DockerError, LABEL_EPOCH, LABEL_JOB, LABEL_PLACE,
    call::call,
    place::{Place, gone, name_of},
};

/// Pauses between tries to remove what is left grow from the first to the second of these.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The names of places that may have left something, and whose turn it is to remove it.
#[derive(Debug, Default)]
pub(super) struct Leftovers {
    names: Mutex<Vec<String>>,
    turn: tokio::sync::Mutex<()>,
}

impl Leftovers {
    /// Those that an earlier start noted.
    pub(super) fn noted_in(marks: &Path) -> Self {
        let entries = std::fs::read_dir(marks).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        Self { names: Mutex::new(names), turn: tokio::sync::Mutex::default() }
    }

    fn names(&self) -> Vec<String> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn add(&self, name: String) {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).push(name);
    }

    fn remove(&self, names: &[String]) {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).retain(|name| !names.contains(name));
    }
}

impl Place {
    /// Removes whatever has the labels of this place.
    pub(super) async fn sweep(&self) -> Result<(), DockerError> {
        self.docker.sweep(&self.found_by(), &|_| true).await?;
        self.docker.unmark(&self.name());
        Ok(())
    }

    /// Removes its volumes.
    pub(super) async fn sweep_volumes(&self) -> Result<(), DockerError> {
        self.docker.sweep_volumes(&self.found_by(), &|_| true).await
    }

    /// Has it removed later, as often as it must be tried.
    pub(super) fn leave(&self) {
        let (docker, name, making) = (self.docker.clone(), self.name(), self.making.clone());
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return docker.leftovers.add(name) };
        runtime.spawn(async move {
            making.close();
            making.wait().await;
            docker.leftovers.add(name);
            docker.keep_sweeping().await;
        });
    }
}

impl Docker {
    /// Removes what is left, as often as it must be tried. Connects to nothing where nothing is.
    pub async fn keep_sweeping(self: Arc<Self>) {
        let mut pause = PAUSES.0;
        while let Err(error) = self.sweep_leftovers().await {
            tracing::warn!(%error, "what jobs left at the container engine can't be removed yet");
            sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Removes what is left, once; before it is, nothing new is made.
    pub(super) async fn sweep_leftovers(&self) -> Result<(), DockerError> {
        if self.leftovers.names().is_empty() {
            return Ok(());
        }
        let _turn = self.leftovers.turn.lock().await;
        let names = self.leftovers.names();
        if names.is_empty() {
            return Ok(());
        }
        let ours = [format!("{LABEL_PLACE}={}", self.owner)];
        let is_left = |labels: &HashMap<String, String>| {
            let label = |name| labels.get(name).map_or("", String::as_str);
            names.contains(&name_of(label(LABEL_JOB), label(LABEL_EPOCH)))
        };
        self.sweep(&ours, &is_left).await?;
        names.iter().for_each(|name| self.unmark(name));
        self.leftovers.remove(&names);
        tracing::info!(places = names.len(), "what jobs left at the container engine is removed");
        Ok(())
    }

    async fn sweep(
        &self,
        labels: &[String],
        which: &(impl Fn(&HashMap<String, String>) -> bool + Sync),
    ) -> Result<(), DockerError> {
        let (client, limit) = (self.client().await?, self.config.patience.0);
        let filters = HashMap::from([("label", labels.to_vec())]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        for container in call("list containers", limit, client.list_containers(Some(options))).await? {
            let (Some(id), Some(labels)) = (container.id, container.labels) else { continue };
            if which(&labels) {
                let force = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
                gone(call("remove a container", limit, client.remove_container(&id, Some(force))).await)?;
            }
        }
        let options = ListNetworksOptionsBuilder::default().filters(&filters).build();
        for network in call("list networks", limit, client.list_networks(Some(options))).await? {
            let (Some(id), Some(labels)) = (network.id, network.labels) else { continue };
            if which(&labels) {
                gone(call("remove a network", limit, client.remove_network(&id)).await)?;
            }
        }
        self.sweep_volumes(labels, which).await
    }

    async fn sweep_volumes(
        &self,
        labels: &[String],
        which: &(impl Fn(&HashMap<String, String>) -> bool + Sync),
    ) -> Result<(), DockerError> {
        let (client, limit) = (self.client().await?, self.config.patience.0);
        let filters = HashMap::from([("label", labels.to_vec())]);
        let options = ListVolumesOptionsBuilder::default().filters(&filters).build();
        let found = call("list volumes", limit, client.list_volumes(Some(options))).await?;
        for volume in found.volumes.unwrap_or_default() {
            if which(&volume.labels) {
                let force = RemoveVolumeOptionsBuilder::default().force(true).build();
                gone(call("remove a volume", limit, client.remove_volume(&volume.name, Some(force))).await)?;
            }
        }
        Ok(())
    }
}
