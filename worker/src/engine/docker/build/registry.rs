//! What of a registry's API an engine does not speak for us: looking at a manifest, and putting an index there.
//! <https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md>, tokens by
//! <https://distribution.github.io/distribution/spec/auth/token/>.
//!
//! Comes in: one repository of one registry, and who asks. Goes out: requests, each with a time limit, tried four times where the registry
//! is away or busy. A password goes to the registry alone, or to where that has tokens given out, never without TLS but to a registry that is
//! spoken to so, and its own host. One that is insecure is spoken to as the engine does: with TLS by any certificate, and without where it
//! has none.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::{
    Client, Method, RequestBuilder, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE},
};
use segue_pipelines::image::{Challenge, Login, MANIFESTS, challenge};
use segue_schemas::id::Digest;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::time::sleep;

use super::{
    super::{DockerError, place::Say},
    push::PAUSES,
};

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(30);
/// The largest manifest, as registries have it, and the largest answer of any other kind.
const MOST_BYTES: usize = 4 << 20;
const PUSH: &str = "push the index of the image";

/// A repository of a registry.
pub(super) struct Registry<'a> {
    client: Client,
    base: Url,
    path: String,
    login: Option<&'a Login>,
    authorization: Option<HeaderValue>,
    /// Whether it may be spoken to without TLS.
    is_insecure: bool,
}

/// What is asked.
struct Question<'q> {
    method: Method,
    reference: &'q str,
    media_type: Option<&'q str>,
    body: Vec<u8>,
}

/// An answer that is well.
struct Answer {
    media_type: String,
    digest: Option<String>,
    body: Vec<u8>,
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl<'a> Registry<'a> {
    /// Nothing is asked yet.
    pub(super) fn of(host: &str, path: &str, is_insecure: bool, login: Option<&'a Login>) -> Result<Self, DockerError> {
        let base = Url::parse(&format!("https://{host}/"));
        let base = base.map_err(|error| DockerError::Asked(format!("the registry `{host}`: {error}")))?;
        let client = Client::builder().timeout(LIMIT).redirect(reqwest::redirect::Policy::none());
        let client = if is_insecure { client.no_proxy().tls_danger_accept_invalid_certs(true) } else { client };
        let client = client.build().map_err(|error| DockerError::Own(format!("no HTTP client: {error}")))?;
        Ok(Self { client, base, path: path.to_owned(), login, authorization: None, is_insecure })
    }

    /// What a manifest is, and its bytes.
    pub(super) async fn manifest(&mut self, digest: &Digest, say: &dyn Say) -> Result<(String, u64), DockerError> {
        let reference = digest.to_string();
        let question = Question { method: Method::GET, reference: &reference, media_type: None, body: Vec::new() };
        let answer = self.ask(&question, say).await?;
        let seen = format!("sha256:{}", hex::encode(Sha256::digest(&answer.body)));
        if seen != reference || !MANIFESTS.contains(&answer.media_type.as_str()) {
            let what = format!("what the registry has as {reference} is {seen}, a `{}`", answer.media_type);
            return Err(DockerError::Away { doing: PUSH, message: what });
        }
        Ok((answer.media_type, answer.body.len() as u64))
    }

    /// Puts a manifest under a tag.
    pub(super) async fn put(
        &mut self,
        tag: &str,
        media_type: &str,
        body: Vec<u8>,
        digest: &str,
        say: &dyn Say,
    ) -> Result<(), DockerError> {
        let question = Question { method: Method::PUT, reference: tag, media_type: Some(media_type), body };
        let answer = self.ask(&question, say).await?;
        match answer.digest.filter(|told| told != digest) {
            Some(told) => {
                let message = format!("the registry has it as {told}, and it is {digest}");
                Err(DockerError::Away { doing: PUSH, message })
            }
            None => Ok(()),
        }
    }

    /// Asks until there is an answer, within the number of tries.
    async fn ask(&mut self, question: &Question<'_>, say: &dyn Say) -> Result<Answer, DockerError> {
        let mut pauses = PAUSES.iter();
        loop {
            match self.ask_once(question).await {
                Err(error @ DockerError::Away { .. }) => {
                    let Some(pause) = pauses.next() else { return Err(error) };
                    say.say(format!("##[warning]{error}; it is tried again in {} s", pause.as_secs())).await;
                    sleep(*pause).await;
                }
                other => return other,
            }
        }
    }

    async fn ask_once(&mut self, question: &Question<'_>) -> Result<Answer, DockerError> {
        let mut answer = self.send(question).await?;
        if answer.status() == StatusCode::UNAUTHORIZED {
            // a token may have become too old as well
            self.authorize(&answer).await?;
            answer = self.send(question).await?;
        }
        let status = answer.status();
        if status.is_success() {
            let text = |name: &str| Some(answer.headers().get(name)?.to_str().ok()?.to_owned());
            let media_type = text("content-type").unwrap_or_default();
            let media_type = media_type.split(';').next().unwrap_or_default().trim().to_owned();
            let digest = text("docker-content-digest");
            return Ok(Answer { media_type, digest, body: bounded(answer).await? });
        }
        let said = String::from_utf8_lossy(&bounded(answer).await.unwrap_or_default()).trim().to_owned();
        let said: String = said.chars().take(300).collect();
        let message = format!("{}: {status} {said}", self.name());
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(DockerError::Asked(format!(
                "the registry does not take the index of {message}; inputs `username` and `password` of `segue/build-image` say who pushes"
            ))),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => Err(away(message)),
            status if status.is_server_error() => Err(away(message)),
            _ => Err(DockerError::Asked(format!("the registry does not take the index of {message}"))),
        }
    }

    async fn send(&mut self, question: &Question<'_>) -> Result<Response, DockerError> {
        let answer = match self.request(question).send().await {
            // it speaks no TLS: nothing was told yet, and nothing is known of who asks
            Err(error) if error.is_connect() && self.is_insecure && self.base.scheme() == "https" => {
                let mut plain = self.base.clone();
                if plain.set_scheme("http").is_err() {
                    return Err(self.unreached(&error));
                }
                self.base = plain;
                self.request(question).send().await
            }
            answer => answer,
        };
        answer.map_err(|error| self.unreached(&error))
    }

    fn request(&self, question: &Question<'_>) -> RequestBuilder {
        let mut url = self.base.clone();
        url.set_path(&format!("/v2/{}/manifests/{}", self.path, question.reference));
        let mut request = self.client.request(question.method.clone(), url).header(ACCEPT, MANIFESTS.join(", "));
        if let Some(media_type) = question.media_type {
            request = request.header(CONTENT_TYPE, media_type).body(question.body.clone());
        }
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        request
    }

    /// Finds out how the registry wants to know who asks, and says so from now on.
    async fn authorize(&mut self, answer: &Response) -> Result<(), DockerError> {
        let mut asked = answer.headers().get_all(WWW_AUTHENTICATE).iter();
        let value = match asked.find_map(|header| challenge(header.to_str().ok()?)) {
            Some(Challenge::Basic) => match self.login {
                Some(login) => basic(login),
                None => return Err(self.nobody()),
            },
            Some(Challenge::Bearer { realm, service }) => format!("Bearer {}", self.token(&realm, service).await?),
            None => return Err(self.nobody()),
        };
        let mut value = HeaderValue::from_str(&value)
            .map_err(|_| DockerError::Asked("the registry's credentials can't stand in a header".into()))?;
        value.set_sensitive(true);
        self.authorization = Some(value);
        Ok(())
    }

    async fn token(&self, realm: &str, service: Option<String>) -> Result<String, DockerError> {
        let strange =
            |why: &str| DockerError::Asked(format!("{} has tokens given out at `{realm}`, {why}", self.name()));
        let mut url = Url::parse(realm).map_err(|_| strange("which is no address"))?;
        if url.scheme() != "https" && !is_told_plainly(&self.base, &url) {
            return Err(strange("where a password would go without TLS"));
        }
        // whose certificate nobody has looked at is trusted with a password no further than its own host
        if self.is_insecure && url.host() != self.base.host() && self.login.is_some() {
            return Err(strange("which is another host than the insecure registry's own"));
        }
        url.query_pairs_mut().append_pair("scope", &format!("repository:{}:pull,push", self.path));
        if let Some(service) = &service {
            url.query_pairs_mut().append_pair("service", service);
        }
        let mut request = self.client.get(url);
        if let Some(login) = self.login {
            request = request.basic_auth(&login.username, Some(&login.password));
        }
        let answer = request.send().await.map_err(|error| self.unreached(&error))?;
        let status = answer.status();
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return Err(away(format!("{}: no token: {status}", self.name())));
        }
        if !status.is_success() {
            return Err(self.nobody());
        }
        let token: Token = serde_json::from_slice(&bounded(answer).await?)
            .map_err(|error| strange(&format!("and what it answers is none: {error}")))?;
        token.token.or(token.access_token).ok_or_else(|| strange("and what it answers is none"))
    }

    fn name(&self) -> String {
        format!("{}/{}", self.base.authority(), self.path)
    }

    fn nobody(&self) -> DockerError {
        let name = self.name();
        DockerError::Asked(format!(
            "the registry does not take the index of {name}: it does not know who asks; inputs `username` and `password` of `segue/build-image` say who pushes"
        ))
    }

    fn unreached(&self, error: &reqwest::Error) -> DockerError {
        let why = if error.is_timeout() {
            format!("no answer within {} s", LIMIT.as_secs())
        } else if error.is_connect() {
            "it can't be reached; one that speaks no TLS is to be named in the engine's `insecure-registries`".into()
        } else {
            "the connection breaks off".into()
        };
        away(format!("{}: {why}", self.name()))
    }
}

/// Whether a token is asked for without TLS: of the host that is spoken to so anyway.
fn is_told_plainly(registry: &Url, realm: &Url) -> bool {
    realm.scheme() == "http" && registry.scheme() == "http" && realm.host() == registry.host()
}

fn basic(login: &Login) -> String {
    format!("Basic {}", STANDARD.encode(format!("{}:{}", login.username, login.password)))
}

fn away(message: String) -> DockerError {
    DockerError::Away { doing: PUSH, message }
}

async fn bounded(mut answer: Response) -> Result<Vec<u8>, DockerError> {
    let mut body = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(|_| away("its answer breaks off".into()))? {
        if body.len() + part.len() > MOST_BYTES {
            return Err(DockerError::Asked(format!("the registry answers with more than {} MiB", MOST_BYTES >> 20)));
        }
        body.extend_from_slice(&part);
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_asked_for_without_tls_of_the_registrys_own_host_alone() {
        for (registry, realm, is_told) in [
            ("http://localhost:5000/", "http://localhost:5001/token", true),
            ("http://localhost:5000/", "http://tokens.example.com/token", false),
            ("https://localhost:5000/", "http://localhost:5000/token", false),
            ("http://localhost:5000/", "ftp://localhost/token", false),
        ] {
            let url = |text: &str| Url::parse(text).unwrap();
            assert_eq!(is_told_plainly(&url(registry), &url(realm)), is_told, "{registry} {realm}");
        }
    }
}
