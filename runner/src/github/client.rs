//! Requests to GitHub's API, by octocrab's raw calls. One that is told that its token is worth nothing gets another, once.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use chrono::DateTime;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt as _;
use octocrab::Octocrab;
use secrecy::{ExposeSecret as _, SecretString};
use segue_pipelines::config::github_faults;
use segue_schemas::{config::GitHubConfig, time::Timestamp};
use serde_json::{Value, json};

use super::{
    Answer, GitHubError, Purpose,
    answer::{Meaning, etag_of, meaning, message, next_page},
    app::App,
    error::{GRANT_APP, GRANT_TOKEN},
    tokens::Tokens,
    transport::{AnswerBody, cause, octocrab},
};
use crate::auth;

/// The largest answer.
const MAX_ANSWER_BYTES: usize = 8 << 20;
const NOT_FOUND: StatusCode = StatusCode::NOT_FOUND;
const UNPROCESSABLE: StatusCode = StatusCode::UNPROCESSABLE_ENTITY;
/// How long a token is believed to live whose end can't be read.
const SHORT_LIFE: Duration = Duration::from_secs(60);

/// The way to GitHub. Cheap to clone.
#[derive(Clone)]
pub struct GitHub {
    inner: Arc<Inner>,
}

struct Inner {
    /// Without a slash at its end.
    base: String,
    /// The host, for people.
    place: String,
    client: Octocrab,
    identity: Identity,
    tokens: Mutex<Tokens>,
    /// By how many seconds GitHub's clock is ahead of ours.
    ahead: AtomicI64,
}

pub(super) enum Identity {
    App(Box<App>),
    Token(SecretString),
}

/// As whom a request is made.
#[derive(Debug, Clone, Copy)]
pub enum Speaker<'r> {
    /// As the App itself.
    App,
    /// For a repository (`owner/name`).
    Repository(&'r str, Purpose),
}

/// One request.
struct Asked<'r> {
    method: Method,
    path: &'r str,
    body: Option<&'r Value>,
    /// What is known of the answer.
    etag: Option<&'r str>,
}

impl GitHub {
    /// The way that the configuration names; `None`: it names no App and no token.
    ///
    /// # Errors
    /// [`GitHubError::Configuration`] or [`GitHubError::File`]. GitHub itself is not asked.
    ///
    /// # Panics
    /// Outside of a runtime of tokio: octocrab starts a task.
    pub fn open(config: &GitHubConfig) -> Result<Option<Self>, GitHubError> {
        if let Some(fault) = github_faults(config).into_iter().next() {
            return Err(GitHubError::Configuration { key: fault.key, problem: fault.message, remedy: fault.help });
        }
        let identity = match (&config.app.id, &config.app.private_key_file, &config.token_file) {
            (Some(id), Some(file), _) => Identity::App(Box::new(App::new(id.to_string(), &auth::read(file)?)?)),
            (_, _, Some(file)) => Identity::Token(auth::read(file)?),
            _ => return Ok(None),
        };
        let client = octocrab()
            .map_err(|error| GitHubError::Away { place: config.api_url.clone(), problem: error.to_string() })?;
        let base = config.api_url.trim_end_matches('/').to_owned();
        let place = base.split_once("://").map_or(base.as_str(), |(_, rest)| rest).to_owned();
        let (tokens, ahead) = (Mutex::default(), AtomicI64::new(0));
        Ok(Some(Self { inner: Arc::new(Inner { base, place, client, identity, tokens, ahead }) }))
    }

    /// Whether it is spoken to as an App, which alone can write check runs.
    #[must_use]
    pub fn is_app(&self) -> bool {
        matches!(self.inner.identity, Identity::App(_))
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.inner.identity
    }

    /// Host, port and path of the API.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.inner.place
    }

    /// Where people look at it, without a slash at its end.
    #[must_use]
    pub fn web(&self) -> &str {
        match self.inner.base.as_str() {
            "https://api.github.com" => "https://github.com",
            base => base.strip_suffix("/api/v3").unwrap_or(base),
        }
    }

    /// A time that it told, by our clock, as far as the difference is known.
    #[must_use]
    pub fn by_our_clock(&self, theirs: Timestamp) -> Timestamp {
        Timestamp(theirs.0.saturating_sub(self.inner.ahead.load(Ordering::Relaxed).saturating_mul(1_000)))
    }

    /// Looks through at most so many pages of a list, until a page has what is looked for.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub async fn look_through<T>(
        &self,
        speaker: Speaker<'_>,
        mut path: String,
        pages: usize,
        mut look: impl FnMut(&Value) -> Option<T> + Send,
    ) -> Result<Option<T>, GitHubError> {
        for _ in 0..pages {
            let answer = self.ask(speaker, Method::GET, &path, None).await?;
            if let Some(found) = look(&answer.body) {
                return Ok(Some(found));
            }
            match answer.next {
                Some(next) => path = next,
                None => break,
            }
        }
        Ok(None)
    }

    /// Asks. `path` begins with a slash, or is the address of a next page.
    ///
    /// # Errors
    /// [`GitHubError`]; nothing is tried twice but what was refused for its token.
    pub async fn ask(
        &self,
        speaker: Speaker<'_>,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, GitHubError> {
        self.ask_as(speaker, &Asked { method, path, body, etag: None }).await
    }

    /// Asks for what may be as it was when it was answered with this `etag`; `None`: it is.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub async fn ask_unless_same(
        &self,
        speaker: Speaker<'_>,
        path: &str,
        etag: Option<&str>,
    ) -> Result<Option<Answer>, GitHubError> {
        let answer = self.ask_as(speaker, &Asked { method: Method::GET, path, body: None, etag }).await?;
        Ok((answer.status != StatusCode::NOT_MODIFIED).then_some(answer))
    }

    async fn ask_as(&self, speaker: Speaker<'_>, asked: &Asked<'_>) -> Result<Answer, GitHubError> {
        let token = self.token(speaker).await?;
        match self.send(&token, speaker, asked).await {
            Err(GitHubError::Unauthorized { .. }) if self.is_app() => {
                if let Speaker::Repository(repository, purpose) = speaker {
                    self.tokens().forget(repository, purpose);
                }
                let token = self.token(speaker).await?;
                self.send(&token, speaker, asked).await
            }
            answer => answer,
        }
    }

    /// The token that may do it; made where none is known.
    async fn token(&self, speaker: Speaker<'_>) -> Result<SecretString, GitHubError> {
        let app = match &self.inner.identity {
            Identity::Token(token) => return Ok(token.clone()),
            Identity::App(app) => app,
        };
        match speaker {
            Speaker::App => app.token(self.now()),
            Speaker::Repository(repository, purpose) => {
                if let Some(token) = self.tokens().get(repository, purpose) {
                    return Ok(token);
                }
                self.mint(repository, purpose).await
            }
        }
    }

    /// A new token of the installation that has the repository.
    async fn mint(&self, repository: &str, purpose: Purpose) -> Result<SecretString, GitHubError> {
        let is_known = self.tokens().installation(repository).is_some();
        let installation = self.installation(repository).await?;
        let name = repository.split_once('/').map_or(repository, |(_, name)| name);
        let answer = match self.make_token(installation, Some(name), &purpose.permissions()).await {
            // it was installed anew, or the repository has moved to another owner
            Err(error) if is_known && matches!(error.status(), Some(NOT_FOUND | UNPROCESSABLE)) => {
                self.tokens().put_installation(repository, None);
                return Box::pin(self.mint(repository, purpose)).await;
            }
            Err(GitHubError::Refused { request, status: UNPROCESSABLE, message }) => {
                match self.name_now(installation, repository).await {
                    Some(now) => self.make_token(installation, Some(&now), &purpose.permissions()).await?,
                    None => {
                        let needed = purpose.in_words().into();
                        return Err(GitHubError::Forbidden { request, message, needed, remedy: GRANT_APP });
                    }
                }
            }
            answer => answer?,
        };
        let token = SecretString::from(answer.body["token"].as_str().unwrap_or_default());
        let ends = answer.body["expires_at"].as_str().and_then(|text| DateTime::parse_from_rfc3339(text).ok());
        let life = ends
            .map_or(SHORT_LIFE, |ends| Duration::from_secs(u64::try_from(ends.timestamp() - self.now()).unwrap_or(0)));
        self.tokens().put(repository, purpose, token.clone(), life);
        Ok(token)
    }

    /// <https://docs.github.com/en/rest/apps/apps#create-an-installation-access-token-for-an-app>; `name`: the one repository that it opens.
    async fn make_token(
        &self,
        installation: u64,
        name: Option<&str>,
        permissions: &Value,
    ) -> Result<Answer, GitHubError> {
        let path = format!("/app/installations/{installation}/access_tokens");
        let mut body = json!({"permissions": permissions});
        if let Some(name) = name {
            body["repositories"] = json!([name]);
        }
        Box::pin(self.ask(Speaker::App, Method::POST, &path, Some(&body))).await
    }

    /// What a repository is called that is no longer called so: GitHub leads from its old paths to the new ones, but makes tokens by the
    /// new name alone. `None`: it is called so, or GitHub does not say.
    async fn name_now(&self, installation: u64, repository: &str) -> Option<String> {
        let answer = self.make_token(installation, None, &Purpose::Metadata.permissions()).await.ok()?;
        let token = SecretString::from(answer.body["token"].as_str()?);
        let speaker = Speaker::Repository(repository, Purpose::Metadata);
        let path = format!("/repos/{repository}");
        let asked = Asked { method: Method::GET, path: &path, body: None, etag: None };
        let answer = self.send(&token, speaker, &asked).await.ok()?;
        let full = answer.body["full_name"].as_str()?;
        if full.eq_ignore_ascii_case(repository) {
            return None;
        }
        tracing::warn!(
            repository,
            now = full,
            "the repository is called otherwise at GitHub now: rename it under `repositories` in segue.yaml"
        );
        full.split_once('/').map(|(_, name)| name.to_owned())
    }

    async fn installation(&self, repository: &str) -> Result<u64, GitHubError> {
        let known = self.tokens().installation(repository);
        if let Some(id) = known {
            return Ok(id);
        }
        let path = format!("/repos/{repository}/installation");
        let answer = match Box::pin(self.ask(Speaker::App, Method::GET, &path, None)).await {
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => {
                return Err(GitHubError::NotInstalled { repository: repository.into() });
            }
            answer => answer?,
        };
        let id = answer.body["id"].as_u64().ok_or_else(|| self.away("its answer names no installation"))?;
        self.tokens().put_installation(repository, Some(id));
        Ok(id)
    }

    async fn send(&self, token: &SecretString, speaker: Speaker<'_>, asked: &Asked<'_>) -> Result<Answer, GitHubError> {
        let Asked { method, path, body, etag } = asked;
        // a page's address is GitHub's own word, and is to stay on the host that knows the token
        let rest = path.strip_prefix(self.inner.base.as_str()).unwrap_or(path);
        if !rest.starts_with('/') {
            return Err(self.away("it named a next page that is elsewhere"));
        }
        let mut request = http::Request::builder()
            .method(method.clone())
            .uri(format!("{}{rest}", self.inner.base))
            .header("authorization", format!("Bearer {}", token.expose_secret()))
            .header("accept", "application/vnd.github+json");
        if let Some(etag) = etag {
            request = request.header("if-none-match", *etag);
        }
        let client = &self.inner.client;
        // it adds the version of the API
        let request = client.build_request(request, *body).map_err(|error| self.away(&cause(&error)))?;
        let response = client.execute(request).await.map_err(|error| self.away(&cause(&error)))?;
        let (head, body) = response.into_parts();
        let (status, headers) = (head.status, head.headers);
        self.learn_clock(&headers);
        let body = self.read(body).await?;
        let said = message(&body, status);
        let request = || format!("{method} {}", path.split('?').next().unwrap_or_default());
        match meaning(status, &headers, &said, self.now()) {
            Meaning::Good => Ok(Answer { status, body, next: next_page(&headers), etag: etag_of(&headers) }),
            Meaning::Limited { wait, is_told } => Err(GitHubError::Limited { wait, is_told, message: said }),
            Meaning::Away => Err(self.away(&said)),
            Meaning::Unauthorized => Err(self.unauthorized(speaker, said)),
            Meaning::Refused => Err(GitHubError::Refused { request: request(), status, message: said }),
            Meaning::Forbidden => {
                let told = headers.get("x-accepted-github-permissions").and_then(|needed| needed.to_str().ok());
                let needed = match (told, speaker) {
                    (Some(needed), _) => needed.replace('=', ": "),
                    (None, Speaker::Repository(_, purpose)) => purpose.in_words().into(),
                    (None, Speaker::App) => "that its message names".into(),
                };
                let remedy = if self.is_app() { GRANT_APP } else { GRANT_TOKEN };
                Err(GitHubError::Forbidden { request: request(), message: said, needed, remedy })
            }
        }
    }

    /// The body as JSON; `Null` for what is none, as a load balancer's page.
    async fn read(&self, mut body: AnswerBody) -> Result<Value, GitHubError> {
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(chunk) = frame.map_err(|error| self.away(&cause(&error)))?.into_data() else { continue };
            if bytes.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(self.away("its answer is too large"));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// An App's word says when it was made, and GitHub takes it by its own clock.
    fn learn_clock(&self, headers: &HeaderMap) {
        let theirs = headers.get("date").and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
        if let Some(theirs) = theirs {
            self.inner.ahead.store(seconds(theirs) - seconds(SystemTime::now()), Ordering::Relaxed);
        }
    }

    /// Seconds since 1970 by GitHub's clock, as far as it is known.
    fn now(&self) -> i64 {
        seconds(SystemTime::now()) + self.inner.ahead.load(Ordering::Relaxed)
    }

    fn tokens(&self) -> MutexGuard<'_, Tokens> {
        self.inner.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn away(&self, problem: &str) -> GitHubError {
        GitHubError::Away { place: self.inner.place.clone(), problem: problem.into() }
    }

    fn unauthorized(&self, speaker: Speaker<'_>, message: String) -> GitHubError {
        let (what, remedy) = match (&self.inner.identity, speaker) {
            (Identity::Token(_), _) => {
                ("token", "it is over or was taken back: put a new one into `github.token-file`")
            }
            (Identity::App(_), Speaker::App) => (
                "App's key",
                "look at `github.app.id`, and have GitHub make another key for `github.app.private-key-file` if that one was deleted",
            ),
            (Identity::App(_), Speaker::Repository(..)) => {
                ("token that it gave out", "look whether the App's installation was suspended")
            }
        };
        GitHubError::Unauthorized { what, message, remedy }
    }
}

fn seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests;
