//! What an engine says of itself to whoever looks whether it can be used.

use segue_schemas::time::Timestamp;

use super::{Docker, DockerError, End, call::call};

/// An engine that answered.
#[derive(Debug, Clone)]
pub struct EngineSeen {
    /// Its version.
    pub version: String,
    /// The newest version of the API that it speaks.
    pub api: String,
    /// What its machine's clock says, if that can be read.
    pub clock: Option<Timestamp>,
    /// Whether it tells of NVIDIA's runtime, or of devices of NVIDIA's (CDI).
    pub knows_nvidia: bool,
    /// When the certificates end that are shown at either end of the way there.
    pub ends: Vec<End>,
}

impl Docker {
    /// Asks the engine for its version and its clock.
    ///
    /// # Errors
    /// [`DockerError`]: it can't be reached.
    pub async fn look(&self) -> Result<EngineSeen, DockerError> {
        let (client, limit) = (self.client().await?, self.patience());
        let version = call("say its version", limit, client.version()).await?;
        let info = call("say what time it has", limit, client.info()).await?;
        let ends = self.way.ends().await.map_err(|error| DockerError::away("show its certificate", &error))?;
        let is_gpu = |id: &String| id.starts_with("nvidia.com/gpu");
        let devices = info.discovered_devices.unwrap_or_default();
        let knows_nvidia = info.runtimes.is_some_and(|runtimes| runtimes.contains_key("nvidia"))
            || devices.iter().filter_map(|device| device.id.as_ref()).any(is_gpu);
        Ok(EngineSeen {
            knows_nvidia,
            version: version.version.unwrap_or_default(),
            api: version.api_version.unwrap_or_default(),
            clock: info.system_time.and_then(|at| at.to_string().parse().ok()),
            ends,
        })
    }
}
