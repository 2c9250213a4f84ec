//! Volumes that services have at the engine for containers, and what is said where one is gone: its next container begins with an empty one.

use std::collections::BTreeSet;

use segue_schemas::host_api::HostError;

use super::{
    Host,
    instances::Life,
    state::{InstanceRecord, Recorded},
};
use crate::engine::docker::{DockerError, InstanceSpec};

/// A volume of a service: environment, service, and the volume as its container names it.
pub(super) type Volume = (String, String, String);

/// Why the volumes could not be seen to.
pub(super) enum Unseen {
    Engine(DockerError),
    Record(HostError),
}

impl Host {
    /// Sees which of the volumes of a container that is about to be started were there before and are gone: that is said of the instance.
    pub(super) async fn see_to_volumes(
        &self,
        one: &Life,
        instance: &InstanceRecord,
        spec: &InstanceSpec,
    ) -> Result<(), Unseen> {
        let recorded = self.store.current();
        let mut gone = Vec::new();
        for volume in wanted(instance, &spec.volumes).into_iter().filter(|volume| recorded.volumes.contains(volume)) {
            if !self.docker.has_volume(&spec.place, &volume.2).await.map_err(Unseen::Engine)? {
                gone.push(name(&volume.2).to_owned());
            }
        }
        if !gone.is_empty() {
            let volumes = gone.join("`, `");
            tracing::error!(instance = %one.id, volumes, "volumes of its service are gone from the engine: they are made anew, and empty");
            self.note(one, move |i| i.emptied = gone).await.map_err(Unseen::Record)?;
        }
        Ok(())
    }

    /// Notes that a container was started with its volumes: from now on they are missed where they are not there.
    pub(super) async fn keep_volumes(&self, instance: &InstanceRecord, volumes: &[String]) -> Result<(), HostError> {
        let recorded = self.store.current();
        let new: Vec<Volume> =
            wanted(instance, volumes).into_iter().filter(|volume| !recorded.volumes.contains(volume)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let noted = self.store.change(move |recorded| {
            recorded.volumes.extend(new);
            Ok(())
        });
        noted.await
    }
}

fn wanted(instance: &InstanceRecord, volumes: &[String]) -> Vec<Volume> {
    let pair = (&instance.environment, &instance.release.service);
    let named = volumes.iter().filter(|volume| volume.contains(':'));
    named.map(|volume| (pair.0.clone(), pair.1.clone(), volume.clone())).collect()
}

/// The name of `NAME:PATH`.
fn name(volume: &str) -> &str {
    volume.split(':').next().unwrap_or(volume)
}

impl Recorded {
    /// Nothing of a service is there to be missed any more.
    pub(super) fn forget_volumes(&mut self, environment: &str, service: &str) {
        self.volumes.retain(|(e, s, _)| e != environment || s != service);
    }
}

impl InstanceRecord {
    /// What is said of volumes that were gone.
    pub(super) fn emptied_in_words(&self) -> Option<String> {
        let volumes: BTreeSet<&str> = self.emptied.iter().map(String::as_str).collect();
        let volumes = Vec::from_iter(volumes).join("`, `");
        (!volumes.is_empty()).then(|| {
            format!(
                "volume `{volumes}` was gone from the engine and was made anew, empty: `segue backup list` shows what can be brought back"
            )
        })
    }
}
