//! Images: pulled once, however many jobs wait for one, and side by side.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bollard::{
    auth::DockerCredentials, errors::Error, models::CreateImageInfo, query_parameters::CreateImageOptionsBuilder,
};
use futures_util::StreamExt as _;
use segue_pipelines::container::{Pull, Settings, registry, with_tag};
use segue_schemas::config::PullPolicy;

use super::{
    Docker, DockerError,
    call::{call, understood},
    place::{Credentials, Say},
};

/// How long a pull may say nothing.
const SILENCE: Duration = Duration::from_secs(300);
/// Lines that the log has of one pull.
const MAX_LINES: usize = 200;
const PULL: &str = "pull the image";

/// An image that is to be had.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// As the pipeline names it.
    pub image: &'a str,
    pub settings: &'a Settings,
    pub credentials: Option<&'a Credentials>,
}

/// An image that the engine has.
#[derive(Debug)]
pub(super) struct Had {
    /// The name to make a container with.
    pub name: String,
    /// Its own variables, `NAME=VALUE`.
    pub env: Vec<String>,
    /// Whether it was not there before.
    pub is_new: bool,
}

/// The images that are being pulled.
#[derive(Debug, Default)]
pub(super) struct Images {
    pulling: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Images {
    /// Sees to it that the engine has the image.
    pub(super) async fn have(&self, docker: &Docker, wanted: Wanted<'_>, say: &dyn Say) -> Result<Had, DockerError> {
        let pull = docker.pull(wanted.settings);
        let image = with_tag(wanted.image.trim());
        match (pull, look(docker, &image).await?) {
            (Pull::Missing | Pull::Never, Some(had)) => return Ok(had),
            (Pull::Never, None) => {
                let message = format!(
                    "the image `{image}` is not at the container engine, and it is never pulled here; bring it there (docker load), or \
                     have it pulled: `--pull missing` in the container's `options`, `worker.docker.pull` in segue.yaml"
                );
                return Err(DockerError::Asked(message));
            }
            _ => {}
        }
        let turn = self.turn(&image);
        let waited = turn.try_lock().is_err();
        let held = turn.lock().await;
        // another job has just pulled it; what a tag is now, that one has
        let by_another = if waited { look(docker, &image).await? } else { None };
        let had = match by_another {
            Some(had) => Ok(Had { is_new: true, ..had }),
            None => pulled(docker, &image, wanted, say).await,
        };
        drop(held);
        self.forget(&image);
        had
    }

    pub(super) fn turn(&self, image: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut pulling = self.pulling.lock().unwrap_or_else(PoisonError::into_inner);
        pulling.entry(image.to_owned()).or_default().clone()
    }

    /// Forgets an image that nobody waits for.
    pub(super) fn forget(&self, image: &str) {
        let mut pulling = self.pulling.lock().unwrap_or_else(PoisonError::into_inner);
        // this map's, and the caller's
        if pulling.get(image).is_some_and(|turn| Arc::strong_count(turn) <= 2) {
            pulling.remove(image);
        }
    }
}

impl Docker {
    /// When an image is pulled.
    pub(super) fn pull(&self, settings: &Settings) -> Pull {
        settings.pull.unwrap_or(match self.config.pull {
            PullPolicy::IfNotPresent => Pull::Missing,
            PullPolicy::Always => Pull::Always,
            PullPolicy::Never => Pull::Never,
        })
    }
}

/// The image, where the engine has it.
async fn look(docker: &Docker, image: &str) -> Result<Option<Had>, DockerError> {
    let client = docker.client().await?;
    match call("look for the image", docker.config.patience.0, client.inspect_image(image)).await {
        Ok(seen) => {
            let env = seen.config.and_then(|config| config.env).unwrap_or_default();
            Ok(Some(Had { name: image.to_owned(), env, is_new: false }))
        }
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The image, brought to the engine as the registry has it now.
async fn pulled(docker: &Docker, image: &str, wanted: Wanted<'_>, say: &dyn Say) -> Result<Had, DockerError> {
    pull_image(docker, image, wanted, say).await?;
    let gone =
        || DockerError::Own(format!("the image `{image}` is gone from the container engine right after its pull"));
    look(docker, image).await?.map(|had| Had { is_new: true, ..had }).ok_or_else(gone)
}

async fn pull_image(docker: &Docker, image: &str, wanted: Wanted<'_>, say: &dyn Say) -> Result<(), DockerError> {
    let mut options = CreateImageOptionsBuilder::default().from_image(image);
    if let Some(platform) = &wanted.settings.platform {
        options = options.platform(platform);
    }
    let credentials = wanted.credentials.map(|credentials| DockerCredentials {
        username: Some(credentials.username.clone()),
        password: Some(credentials.password.clone()),
        serveraddress: Some(registry(image).unwrap_or("https://index.docker.io/v1/").to_owned()),
        ..DockerCredentials::default()
    });
    say.say(format!("Pulling {image}")).await;
    let client = docker.client().await?;
    let mut events = client.create_image(Some(options.build()), None, credentials);
    let mut lines = 0;
    loop {
        let event = match tokio::time::timeout(SILENCE, events.next()).await {
            Ok(Some(event)) => event.map_err(|error| of_image(image, &error))?,
            Ok(None) => return Ok(()),
            Err(_) => return Err(DockerError::Slow { doing: PULL, limit: SILENCE }),
        };
        if let Some(line) = line_of(event).filter(|_| lines < MAX_LINES) {
            lines += 1;
            say.say(line).await;
        }
    }
}

/// What of a pull is worth a line: that something is done, not how far it has come.
fn line_of(event: CreateImageInfo) -> Option<String> {
    let status = event.status?;
    match event.id {
        None => Some(status),
        Some(id) if status == "Pull complete" || status == "Already exists" => Some(format!("{id}: {status}")),
        Some(_) => None,
    }
}

fn of_image(image: &str, error: &Error) -> DockerError {
    match understood(PULL, SILENCE, error) {
        DockerError::Refused { doing, status, message } => {
            DockerError::Refused { doing, status, message: format!("`{image}`: {message}") }
        }
        other => other,
    }
}
