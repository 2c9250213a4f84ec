//! A container that does nothing: in it `nvidia-smi` is run to look at the GPUs of an engine's machine. It sees all of them, has no network, no
//! right and no name of a user, and goes by itself after a while, whoever has made it.

use std::{collections::HashMap, time::Duration};

use bollard::query_parameters::CreateContainerOptionsBuilder;
use segue_pipelines::container::{Pull, Settings};

use super::{Docker, DockerError, call::call, create, images::Wanted, login, place::Say};

/// How long its start may take: a machine whose driver sleeps takes seconds for each GPU.
const START_LIMIT: Duration = Duration::from_secs(60);

/// What such a container is made with.
#[derive(Debug, Clone)]
pub struct LookerSpec {
    /// Its name at the engine.
    pub name: String,
    /// The image, as its operator names it.
    pub image: String,
    /// By which it is found again.
    pub labels: HashMap<String, String>,
    /// After which it has gone by itself.
    pub lives: Duration,
}

impl Docker {
    /// Makes one, and starts it. Its number at the engine.
    ///
    /// # Errors
    /// [`DockerError`]; what was made then has its labels.
    pub async fn start_looker(&self, spec: &LookerSpec, say: &dyn Say) -> Result<String, DockerError> {
        self.see_that_it_is_the_same().await?;
        let settings = Settings { pull: Some(Pull::Missing), ..Settings::default() };
        let credentials = login::for_image(&spec.image);
        let wanted = Wanted { image: &spec.image, settings: &settings, credentials: credentials.as_ref() };
        let image = self.images.have(self, wanted, say).await?.name;
        let (client, limit) = (self.client().await?, self.patience());
        let options = CreateContainerOptionsBuilder::default().name(&spec.name).build();
        let made = client.create_container(Some(options), create::looker_container(spec, image));
        let id = call("make the container", limit, made).await?.id;
        let client = client.clone().with_timeout(START_LIMIT);
        call("start the container", START_LIMIT, client.start_container(&id, None)).await?;
        Ok(id)
    }

    /// The processes of a container, by their numbers on the engine's machine. One that has ended has none.
    ///
    /// # Errors
    /// [`DockerError`]: the engine does not say, as where its machine has no `ps`.
    pub async fn processes_of(&self, container: &str) -> Result<Vec<u32>, DockerError> {
        let asked = self.client().await?.top_processes(container, None);
        let table = match call("list the processes of the container", self.patience(), asked).await {
            // 409: it does not run
            Err(DockerError::Refused { status: 404 | 409, .. }) => return Ok(Vec::new()),
            other => other?,
        };
        let place = table.titles.unwrap_or_default().iter().position(|title| title == "PID");
        let place = place.ok_or_else(|| DockerError::Own("the engine lists processes without their numbers".into()))?;
        let rows = table.processes.unwrap_or_default();
        Ok(rows.iter().filter_map(|row| row.get(place)?.parse().ok()).collect())
    }
}
