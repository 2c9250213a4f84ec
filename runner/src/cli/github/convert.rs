//! Gives GitHub's code back for the App's key: <https://docs.github.com/en/rest/apps/apps#create-a-github-app-from-a-manifest>. The code
//! is good once, for an hour.

use std::time::Duration;

use secrecy::SecretString;
use serde::Deserialize;

use super::manifest::Place;
use crate::cli::ending::{Explain as _, Failure};

const ANSWER_LIMIT: Duration = Duration::from_secs(30);
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// The App as it was made, with what is told of it once.
#[derive(Debug, Deserialize)]
pub struct Made {
    /// The App ID.
    pub id: u64,
    /// As it is called in addresses.
    pub slug: Option<String>,
    /// As people see it.
    pub name: String,
    /// As it names itself to GitHub.
    pub client_id: Option<String>,
    /// Its own page.
    pub html_url: String,
    /// Its private key.
    pub pem: SecretString,
    /// What its webhook signs with.
    pub webhook_secret: Option<SecretString>,
}

/// The App that a code stands for.
///
/// # Errors
/// GitHub does not know the code any more, or does not answer.
pub async fn convert(place: &Place, code: &str) -> Result<Made, Failure> {
    let begin_again = "begin again; an App that was made without its key is deleted in its settings at GitHub";
    let doing = format_args!("cannot ask {} for the App's key", place.api);
    let client = reqwest::Client::builder()
        .user_agent(concat!("segue/", env!("CARGO_PKG_VERSION")))
        .timeout(ANSWER_LIMIT)
        .build()
        .explain(doing)?;
    let request = client
        .post(format!("{}/app-manifests/{code}/conversions", place.api))
        .header("accept", "application/vnd.github+json")
        .header("x-github-api-version", "2022-11-28");
    let mut answer = request.send().await.map_err(reqwest::Error::without_url).explain(doing)?;
    let status = answer.status();
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(reqwest::Error::without_url).explain(doing)? {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(Failure::new(format_args!("{} answers with more than an App", place.api)));
        }
        body.extend_from_slice(&chunk);
    }
    if !status.is_success() {
        let said: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let said = said["message"].as_str().unwrap_or_default().to_owned();
        let message = match status.as_u16() {
            404 => "GitHub does not know the code: it was used before, or is older than an hour".to_owned(),
            _ => format!("GitHub gives no key for the code: {status} {said}"),
        };
        return Err(Failure::new(message).remedy(begin_again));
    }
    // what it says holds the key: nothing of it is shown
    serde_json::from_slice(&body).map_err(|_| Failure::new("GitHub's answer is no App with a key").remedy(begin_again))
}
