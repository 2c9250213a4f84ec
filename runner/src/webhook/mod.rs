//! Where GitHub's webhooks come in: `POST /webhooks/github`.
//!
//! Comes in: headers and a body from anybody. Goes out: 202 once the delivery is on disk, and a [`Trigger`] or a reason in
//! the store. A body is streamed through the signature check before anything looks at it; one that fails leaves nothing
//! behind. Never here: a raw payload going further, git, pipelines.
//!
//! [`Trigger`]: segue_schemas::trigger::Trigger

mod body;
mod field;
mod payload;
mod signature;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use axum::{Json, Router, body::Body, extract::State, response::IntoResponse, routing::post};
use http::{HeaderMap, StatusCode, header};
use secrecy::SecretString;
use segue_pipelines::comment;
use segue_schemas::{
    api::Accepted,
    config::Config,
    id::DeliveryId,
    trigger::{Event, Trigger},
};
use tokio::{sync::Semaphore, time::timeout};
use uuid::Uuid;

use self::{
    body::{BodyError, LIMIT, Received},
    payload::{Written, read, read_slice},
    signature::{Claimed, Verifier},
};
pub use self::{
    payload::{
        Meaning as PayloadMeaning, PayloadError, Upkeep, check_client_payload, is_rollback_tag,
        read_slice as read_payload,
    },
    signature::SignatureError,
};
use crate::{
    api::error::{ApiError, Result},
    store::{self, Comment, Meaning, NewDelivery, Payload, Store, StoreError},
    telemetry::Metrics,
};

/// Bodies that are received at the same time; more wait. Bounds the memory of all of them together.
const BODIES: usize = 64;
/// How long a body may take to come in. GitHub itself gives up after 10 s.
const BODY_LIMIT: Duration = Duration::from_secs(60);
/// How long a refused body is read on.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// What the intake stands on.
pub struct Intake {
    store: Store,
    secret: SecretString,
    folder: PathBuf,
    config: Arc<Config>,
    bodies: Semaphore,
    metrics: Arc<Metrics>,
}

impl Intake {
    /// An intake that keeps large payloads in `folder`, which is made, and rid of what a killed process left in it.
    ///
    /// # Errors
    /// The folder can't be made or read.
    pub fn open(
        store: Store,
        secret: SecretString,
        folder: PathBuf,
        config: Arc<Config>,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(body::UNFINISHED) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(Self { store, secret, folder, config, bodies: Semaphore::new(BODIES), metrics })
    }
}

/// The route of the webhook.
pub fn router(intake: Arc<Intake>) -> Router {
    Router::new().route("/webhooks/github", post(github)).with_state(intake)
}

async fn github(State(intake): State<Arc<Intake>>, headers: HeaderMap, body: Body) -> impl IntoResponse {
    let event = headers.get("x-github-event").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let answer = intake.receive(&headers, body).await;
    let status = answer.as_ref().map_or_else(ApiError::status, |_| StatusCode::ACCEPTED);
    intake.metrics.webhook(event.as_deref(), status);
    answer.map(|delivery| (StatusCode::ACCEPTED, Json(Accepted { delivery })))
}

impl Intake {
    async fn receive(&self, headers: &HeaderMap, body: Body) -> Result<DeliveryId> {
        let claimed = match check_head(headers) {
            Ok(claimed) => claimed,
            Err(error) => {
                let _whatever_is_left = timeout(DRAIN_LIMIT, body::drain(body)).await;
                return Err(error);
            }
        };
        let Ok(_slot) = self.bodies.acquire().await else { return Err(ApiError::unavailable("the server stops")) };
        let mut verifier = Verifier::new(&self.secret);
        let received = timeout(BODY_LIMIT, body::receive(body, &mut verifier, &self.folder)).await;
        let received = received.map_err(|_| ApiError::timeout("the payload did not come in time"))??;
        verifier.verify(claimed)?;
        self.accept(headers, received).await
    }

    /// Takes in what is known to be from whoever knows the secret.
    async fn accept(&self, headers: &HeaderMap, received: Received) -> Result<DeliveryId> {
        let id: DeliveryId = header_text(headers, "x-github-delivery")?
            .parse()
            .map_err(|error| ApiError::bad_request(format!("`X-GitHub-Delivery`: {error}")))?;
        let event: String = header_text(headers, "x-github-event")?.chars().take(64).collect();
        let (meaning, received) = interpret(&event, received).await?;
        let (repository, meaning) = self.admit(meaning);
        let (payload, file) = self.keep(&id, received).await?;
        let delivery = NewDelivery { id: id.clone(), event: event.clone(), repository, payload, meaning };
        let accepted = self.store.accept_delivery(delivery).await;
        if !matches!(accepted, Ok(store::Accepted::New)) {
            self.forget(file).await;
        }
        let is_new = accepted? == store::Accepted::New;
        tracing::info!(delivery = %id, event, is_new, "took a delivery in");
        Ok(id)
    }

    /// Only repositories of the operator's file start anything; where it names none, all do.
    fn admit(&self, meaning: payload::Meaning) -> (Option<String>, Meaning) {
        match meaning {
            payload::Meaning::Ignored { repository, reason } => (repository, Meaning::Ignored(reason)),
            payload::Meaning::Upkeep(upkeep) => {
                let is_ours = self.config.repositories.keys().any(|name| upkeep.concerns(name));
                let reason = match upkeep.remedy.filter(|_| is_ours) {
                    Some(remedy) => format!("{}: {remedy}", upkeep.reason),
                    None => upkeep.reason,
                };
                if is_ours {
                    tracing::warn!(reason, "GitHub tells of a repository of segue.yaml");
                }
                (upkeep.repository, Meaning::Ignored(reason))
            }
            payload::Meaning::Asks(asked) => {
                let (known, repository) = (&self.config.repositories, asked.repository.clone());
                let is_known = known.is_empty() || known.contains_key(&repository);
                let meaning = if is_known { Meaning::Asks(asked) } else { Meaning::Ignored(unknown(&repository)) };
                (Some(repository), meaning)
            }
            payload::Meaning::Comment(trigger, written) => {
                let (known, repository) = (&self.config.repositories, trigger.repository.clone());
                let is_known = known.is_empty() || known.contains_key(&repository);
                let meaning = if is_known { self.commented(*trigger, written) } else { Err(unknown(&repository)) };
                (Some(repository), meaning.map_or_else(Meaning::Ignored, Meaning::Commented))
            }
            payload::Meaning::Trigger(trigger) => {
                let known = &self.config.repositories;
                let repository = trigger.repository.clone();
                let meaning = if known.is_empty() || known.contains_key(&repository) {
                    Meaning::Starts(*trigger)
                } else {
                    Meaning::Ignored(unknown(&repository))
                };
                (Some(repository), meaning)
            }
        }
    }

    /// The command of a comment, or why there is none to be done. Anybody may write one: whether they may give commands is asked later,
    /// and who writes none costs nothing but the delivery's row.
    fn commented(&self, trigger: Trigger, written: Written) -> std::result::Result<Comment, String> {
        let Event::IssueComment { action, number, is_pull_request, body, .. } = trigger.event else {
            return Err("it is no comment".into());
        };
        let Some(asks) = comment::command(&body) else { return Err(comment::answer(&body)) };
        if action != "created" {
            return Err(format!("the comment was `{action}`: a command is done when it is written"));
        }
        if !is_pull_request {
            return Err("the comment stands below an issue, and commands are for pull requests".into());
        }
        if written.is_bot {
            return Err("an App wrote the comment, and commands are for people".into());
        }
        if !self.config.github.is_told() {
            return Err(
                "whether its author may give commands can't be asked: `github` in segue.yaml names no App and no token"
                    .into(),
            );
        }
        let missing = |field| format!("the payload's comment has no `{field}` that can be used");
        Ok(Comment {
            repository: trigger.repository,
            id: written.id.ok_or_else(|| missing("id"))?,
            number,
            author: written.author.ok_or_else(|| missing("user.login"))?,
            asks,
            written_at: written.at.ok_or_else(|| missing("created_at"))?,
        })
    }

    /// Where the payload lies from now on, and the name of its file if it has one. The name is new each time: a GUID that
    /// is sent again must not change what was stored under it.
    async fn keep(&self, id: &DeliveryId, received: Received) -> Result<(Payload, Option<String>)> {
        match received {
            Received::Memory(bytes) => match String::from_utf8(bytes) {
                Ok(text) => Ok((Payload::Inline(text), None)),
                Err(_) => Err(ApiError::bad_request("the payload is not UTF-8")),
            },
            Received::File { file, bytes } => {
                let name = format!("{id}-{}.json", Uuid::now_v7().simple());
                body::keep(file, &self.folder, &name).await.map_err(BodyError::Disk)?;
                Ok((Payload::File { name: name.clone(), bytes }, Some(name)))
            }
        }
    }

    async fn forget(&self, file: Option<String>) {
        if let Some(name) = file
            && let Err(error) = tokio::fs::remove_file(self.folder.join(&name)).await
        {
            tracing::warn!(name, %error, "a payload that is not needed can't be removed");
        }
    }
}

fn unknown(repository: &str) -> String {
    format!("{repository} is not in segue.yaml: add it under `repositories`")
}

/// What the head alone can be refused for.
fn check_head(headers: &HeaderMap) -> Result<Claimed> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > LIMIT) {
        return Err(ApiError::too_large(LIMIT));
    }
    let bytes = |name: &str| headers.get(name).map(|value| value.as_bytes());
    let claimed = Claimed::parse(bytes("x-hub-signature-256"), bytes("x-hub-signature"))?;
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("none");
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case("application/json") {
        return Err(ApiError::unsupported_media_type(format!(
            "the content type is {media_type}: set `Content type` to `application/json` in the webhook's settings on GitHub"
        )));
    }
    Ok(claimed)
}

/// Parses, away from the runtime where that may take long. Gives the payload back.
async fn interpret(event: &str, received: Received) -> Result<(payload::Meaning, Received)> {
    match received {
        Received::Memory(bytes) => Ok((read_slice(event, &bytes)?, Received::Memory(bytes))),
        Received::File { file, bytes } => {
            let event = event.to_owned();
            let parsed = body::blocking(move || {
                let reader = io::BufReader::with_capacity(64 * 1024, file.reopen()?);
                Ok((read(&event, reader), Received::File { file, bytes }))
            });
            let (meaning, received) = parsed.await.map_err(BodyError::Disk)?;
            Ok((meaning?, received))
        }
    }
}

fn header_text<'h>(headers: &'h HeaderMap, name: &str) -> Result<&'h str> {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.ok_or_else(|| ApiError::bad_request(format!("the header `{name}` is missing: is this from GitHub?")))
}

impl From<BodyError> for ApiError {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge => Self::too_large(LIMIT),
            BodyError::BrokenOff(_) => Self::bad_request(error.to_string()),
            BodyError::Disk(problem) => StoreError::files("a delivery can't be kept", &problem).into(),
        }
    }
}

#[cfg(test)]
mod tests;
