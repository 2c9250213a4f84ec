//! Naming what was built, and bringing it to registries.

use std::time::Duration;

use bollard::{
    auth::DockerCredentials,
    query_parameters::{PushImageOptionsBuilder, TagImageOptionsBuilder},
};
use futures_util::StreamExt as _;
use segue_pipelines::image::{Login, repository};
use tokio::time::{sleep, timeout};

use super::{
    super::{
        Docker, DockerError,
        call::{call, understood},
        place::Say,
    },
    Built,
};

/// How long a push may say nothing.
const SILENCE: Duration = Duration::from_secs(300);
/// Before each further try.
pub(super) const PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(4), Duration::from_secs(10)];
/// What a registry says to whom it will say nothing else.
const NOT_ALLOWED: [&str; 5] =
    ["denied", "unauthorized", "authentication required", "no basic auth credentials", "insufficient_scope"];
const PUSH: &str = "push the image";

impl Docker {
    /// Gives an image a name here.
    ///
    /// # Errors
    /// [`DockerError`].
    pub async fn name_image(&self, built: &Built, tag: &str) -> Result<(), DockerError> {
        let (name, version) = parts(tag);
        let options = TagImageOptionsBuilder::default().repo(name).tag(version).build();
        let named = self.client().await?.tag_image(&built.id, Some(options));
        call("name the image", self.config.patience.0, named).await
    }

    /// Names it, and brings it to the registry of that name; the digest that it has there. What may be tried again is.
    ///
    /// # Errors
    /// [`DockerError`]: the registry refused it, or could not be reached in four tries.
    pub async fn push_image(
        &self,
        built: &Built,
        tag: &str,
        login: Option<&Login>,
        say: &dyn Say,
    ) -> Result<String, DockerError> {
        let mut pauses = PAUSES.iter();
        loop {
            let turn = self.images.turn(tag);
            // a name is one image's at a time: two builds of one tag would push one of the two twice
            let held = turn.lock().await;
            let pushed = self.push_once(built, tag, login).await;
            drop(held);
            self.images.forget(tag);
            match pushed {
                Ok(digest) => {
                    say.say(format!("Pushed {tag}: {digest}")).await;
                    return Ok(digest);
                }
                Err(error) if error.class() != segue_schemas::status::FailureClass::Infrastructure => {
                    return Err(error);
                }
                Err(error) => {
                    let Some(pause) = pauses.next() else { return Err(error) };
                    say.say(format!("##[warning]{error}; the push is tried again in {} s", pause.as_secs())).await;
                    sleep(*pause).await;
                }
            }
        }
    }

    async fn push_once(&self, built: &Built, tag: &str, login: Option<&Login>) -> Result<String, DockerError> {
        self.name_image(built, tag).await?;
        let (name, version) = parts(tag);
        let options = PushImageOptionsBuilder::default().tag(version).build();
        let credentials = login.map(|login| DockerCredentials {
            username: Some(login.username.clone()),
            password: Some(login.password.clone()),
            serveraddress: Some(login.registry.clone().unwrap_or_else(|| super::HUB.into())),
            ..DockerCredentials::default()
        });
        let client = self.client().await?;
        // the engine asks for the header in any case
        let mut events = client.push_image(name, Some(options), Some(credentials.unwrap_or_default()));
        loop {
            match timeout(SILENCE, events.next()).await {
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(error))) => return Err(meant(tag, understood(PUSH, SILENCE, &error))),
                Ok(None) => break,
                Err(_) => return Err(DockerError::Slow { doing: PUSH, limit: SILENCE }),
            }
        }
        let seen = call("look at the image", self.config.patience.0, client.inspect_image(&built.id)).await?;
        let digests = seen.repo_digests.unwrap_or_default();
        let of_name = digests.iter().find_map(|digest| digest.strip_prefix(name)?.strip_prefix('@'));
        of_name.map(str::to_owned).ok_or_else(|| DockerError::Away {
            doing: PUSH,
            message: format!("`{tag}` was pushed, and is another image: somebody else names one so at the same time"),
        })
    }
}

/// A name and its version, as the engine wants them.
fn parts(tag: &str) -> (&str, &str) {
    let name = repository(tag);
    (name, tag[name.len()..].trim_start_matches(':'))
}

fn meant(tag: &str, error: DockerError) -> DockerError {
    match error {
        DockerError::Refused { message, .. }
            if NOT_ALLOWED.iter().any(|word| message.to_lowercase().contains(word)) =>
        {
            DockerError::Asked(format!(
                "the registry does not take `{tag}`: {message}; inputs `username` and `password` of `segue/build-image` say who pushes"
            ))
        }
        DockerError::Refused { doing, status, message } => {
            DockerError::Away { doing, message: format!("`{tag}`: {message} ({status})") }
        }
        other => other,
    }
}
