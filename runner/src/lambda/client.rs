//! Requests to Lambda's API, one after the other, no faster than it takes them.

use std::{path::PathBuf, time::Duration};

use http::{Method, StatusCode, header};
use secrecy::{ExposeSecret as _, SecretString};
use segue_pipelines::machines::{Offer, Seen};
use segue_schemas::config::LambdaConfig;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::{sync::Mutex, time::Instant};

use super::{
    LambdaError,
    answer::{Data, Failed, Instance, Launched, SshKey, Types},
};
use crate::{auth, outgoing};

/// How long an answer may take. A launch's takes longest.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(30);
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// The largest answer.
const MAX_ANSWER_BYTES: usize = 4 << 20;
/// How long nothing is asked where Lambda says that it is too much, and not for how long.
const BUSY: Duration = Duration::from_secs(5);
const LONGEST_BUSY: Duration = Duration::from_secs(300);
const KEY_VARIABLE: &str = "LAMBDA_API_KEY";

/// The way to Lambda.
pub struct Lambda {
    base: String,
    key_file: Option<PathBuf>,
    client: reqwest::Client,
    request_every: Duration,
    /// When the next request may be sent.
    next: Mutex<Instant>,
}

/// What is launched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch<'l> {
    /// What it is called there.
    pub name: &'l str,
    /// Its type.
    pub instance_type: &'l str,
    /// Where.
    pub region: &'l str,
    /// The key that may log in.
    pub ssh_key: &'l str,
}

impl Lambda {
    /// The way that the configuration names. Nothing is asked, and the key is read with each request: one that is changed holds at once.
    ///
    /// # Errors
    /// [`LambdaError::Away`]: no client can be made.
    pub fn new(config: &LambdaConfig) -> Result<Self, LambdaError> {
        let base = config.url.trim_end_matches('/').to_owned();
        let client = reqwest::Client::builder()
            .user_agent(concat!("segue/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_LIMIT)
            .timeout(ANSWER_LIMIT)
            // another place is not to have the key
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| LambdaError::Away { place: base.clone(), problem: outgoing::cause(&error) })?;
        let (key_file, request_every) = (config.key_file.clone(), config.request_every.0);
        Ok(Self { base, key_file, client, request_every, next: Mutex::new(Instant::now()) })
    }

    /// What is offered now.
    ///
    /// # Errors
    /// [`LambdaError`].
    pub async fn types(&self) -> Result<Vec<Offer>, LambdaError> {
        self.ask::<Types>(Method::GET, "/instance-types", None).await.map(Types::offers)
    }

    /// Every instance of the account that it shows.
    ///
    /// # Errors
    /// [`LambdaError`].
    pub async fn instances(&self) -> Result<Vec<Seen>, LambdaError> {
        let all: Vec<Instance> = self.ask(Method::GET, "/instances", None).await?;
        Ok(all.into_iter().map(Instance::seen).collect())
    }

    /// One instance; `None`: there is no such.
    ///
    /// # Errors
    /// [`LambdaError`].
    pub async fn instance(&self, id: &str) -> Result<Option<Seen>, LambdaError> {
        if !is_id(id) {
            return Ok(None);
        }
        match self.ask::<Instance>(Method::GET, &format!("/instances/{id}"), None).await {
            Ok(instance) => Ok(Some(instance.seen())),
            Err(error) if error.is_not_there() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Launches one; its id.
    ///
    /// # Errors
    /// [`LambdaError`]; after [`LambdaError::Unanswered`] it may be there.
    pub async fn launch(&self, launch: &Launch<'_>) -> Result<String, LambdaError> {
        let body = json!({
            "region_name": launch.region,
            "instance_type_name": launch.instance_type,
            "ssh_key_names": [launch.ssh_key],
            "name": launch.name,
        });
        let launched: Launched = self.ask(Method::POST, "/instance-operations/launch", Some(&body)).await?;
        let unusable = || LambdaError::Unanswered { problem: "a launch that names no instance".into() };
        launched.instance_ids.into_iter().next().filter(|id| is_id(id)).ok_or_else(unusable)
    }

    /// Has one terminated; it is gone when Lambda shows it so.
    ///
    /// # Errors
    /// [`LambdaError`].
    pub async fn terminate(&self, id: &str) -> Result<(), LambdaError> {
        let body = json!({ "instance_ids": [id] });
        self.ask::<Value>(Method::POST, "/instance-operations/terminate", Some(&body)).await.map(drop)
    }

    /// The names of the keys that can log in to instances.
    ///
    /// # Errors
    /// [`LambdaError`].
    pub async fn ssh_keys(&self) -> Result<Vec<String>, LambdaError> {
        let keys: Vec<SshKey> = self.ask(Method::GET, "/ssh-keys", None).await?;
        Ok(keys.into_iter().map(|key| key.name).collect())
    }

    fn key(&self) -> Result<SecretString, LambdaError> {
        match &self.key_file {
            Some(file) => auth::read(file).map_err(|error| LambdaError::NoKey(error.to_string())),
            None => match std::env::var(KEY_VARIABLE) {
                Ok(key) if !key.trim().is_empty() => Ok(key.trim().to_owned().into()),
                _ => Err(LambdaError::NoKey(format!(
                    "name a file in `lambda.key-file` of segue.yaml, or set {KEY_VARIABLE}"
                ))),
            },
        }
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T, LambdaError> {
        let key = self.key()?;
        // one request at a time, and the next no sooner than it is taken
        let mut next = self.next.lock().await;
        tokio::time::sleep_until(*next).await;
        let mut request = self.client.request(method, format!("{}{path}", self.base)).bearer_auth(key.expose_secret());
        if let Some(body) = body {
            request = request.json(body);
        }
        let sent = request.send().await;
        *next = Instant::now() + self.request_every;
        let answer = match sent {
            Ok(answer) => answer,
            Err(error) if error.is_connect() => {
                let problem = outgoing::cause(&error.without_url());
                return Err(LambdaError::Away { place: self.base.clone(), problem });
            }
            Err(error) => return Err(LambdaError::Unanswered { problem: outgoing::cause(&error.without_url()) }),
        };
        let (status, pause) = (answer.status(), pause(answer.headers()));
        if status == StatusCode::TOO_MANY_REQUESTS {
            *next = Instant::now() + pause;
            return Err(LambdaError::Busy { pause });
        }
        drop(next);
        read(status, &bounded(answer).await?)
    }
}

fn read<T: DeserializeOwned>(status: StatusCode, body: &[u8]) -> Result<T, LambdaError> {
    if status.is_success() {
        let unusable = |error: serde_json::Error| LambdaError::Unanswered { problem: format!("{status}: {error}") };
        return serde_json::from_slice::<Data<T>>(body).map(|answer| answer.data).map_err(unusable);
    }
    let said = serde_json::from_slice::<Failed>(body).ok().map(|failed| failed.error);
    match (status, said) {
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, said) => {
            Err(LambdaError::Key { said: said.map_or_else(|| status.to_string(), |error| plain(&error.message)) })
        }
        (status, Some(error)) if status.is_client_error() && status != StatusCode::REQUEST_TIMEOUT => {
            Err(LambdaError::Refused {
                code: plain(&error.code),
                message: plain(&error.message),
                suggestion: plain(&error.suggestion.unwrap_or_default()),
            })
        }
        (status, said) => {
            let said = said.map(|error| format!(": {}", plain(&error.message))).unwrap_or_default();
            Err(LambdaError::Unanswered { problem: format!("{status}{said}") })
        }
    }
}

async fn bounded(mut answer: reqwest::Response) -> Result<Vec<u8>, LambdaError> {
    let mut body = Vec::new();
    loop {
        match answer.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() <= MAX_ANSWER_BYTES => body.extend_from_slice(&chunk),
            Ok(Some(_)) => return Err(LambdaError::Unanswered { problem: "an answer that is too large".into() }),
            Ok(None) => return Ok(body),
            Err(error) => return Err(LambdaError::Unanswered { problem: outgoing::cause(&error.without_url()) }),
        }
    }
}

/// How long it says to wait.
fn pause(headers: &header::HeaderMap) -> Duration {
    let said = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    said.map_or(BUSY, Duration::from_secs).min(LONGEST_BUSY)
}

/// An id that can stand in a path; Lambda's are hexadecimal digits.
fn is_id(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

/// What a stranger says, in one line of bounded length.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect()
}
