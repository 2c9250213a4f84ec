//! A container that does nothing: in it `nvidia-smi` is run to look at the GPUs of an engine's machine. It sees all of them, has no network, no
//! right and no name of a user, and goes by itself after a while, whoever has made it.

use std::{collections::HashMap, time::Duration};

use bollard::query_parameters::CreateContainerOptionsBuilder;
use segue_pipelines::container::{Pull, Settings, with_tag};

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
    /// Whether the engine has the image of such containers.
    ///
    /// # Errors
    /// [`DockerError`]: it does not say.
    pub async fn has_looker_image(&self, image: &str) -> Result<bool, DockerError> {
        self.has_image(&with_tag(image.trim())).await
    }

    /// Brings the engine that image, which may take minutes.
    ///
    /// # Errors
    /// [`DockerError`]: it has none then.
    pub async fn bring_looker_image(&self, image: &str, say: &dyn Say) -> Result<(), DockerError> {
        // the credentials are for no other engine
        self.see_that_it_is_the_same().await?;
        let settings = Settings { pull: Some(Pull::Missing), ..Settings::default() };
        let credentials = login::for_image(image);
        let wanted = Wanted { image, settings: &settings, credentials: credentials.as_ref() };
        self.images.have(self, wanted, say).await.map(drop)
    }

    /// Makes one, and starts it. The image must be there. Its number at the engine.
    ///
    /// # Errors
    /// [`DockerError`]; what was made then has its name and its labels.
    pub async fn start_looker(&self, spec: &LookerSpec) -> Result<String, DockerError> {
        self.see_that_it_is_the_same().await?;
        let (client, limit) = (self.client().await?, self.patience());
        let options = CreateContainerOptionsBuilder::default().name(&spec.name).build();
        let body = create::looker_container(spec, with_tag(spec.image.trim()));
        let id = call("make the container", limit, client.create_container(Some(options), body)).await?.id;
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
