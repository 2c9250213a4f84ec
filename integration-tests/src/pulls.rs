//! Pull requests with a preview, as a story plays them: commits, pushes, webhooks, and what is to be seen of the preview.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use segue_schemas::preview::{Preview, PreviewList, PreviewState};
use serde_json::Value;

use crate::{github::GitHub, sample, stand::Stand};

/// The repository of the stories.
const REPOSITORY: &str = "acme/shop";

/// A pipeline that makes a preview of the sample service; `before` are further steps, each a line of a script.
#[must_use]
pub fn pipeline(before: &str) -> String {
    PIPELINE.replace("BEFORE", before)
}

const PIPELINE: &str = r#"name: preview
on: [pull_request]
jobs:
  preview:
    runs-on: [linux]
    environment: {name: preview, url: "${{ steps.copy.outputs.url }}"}
    steps:
      - uses: segue/checkout
      - run: |
          BEFORE
          mkdir dist
          cp service.yml dist/
          cp "$SAMPLE_SERVICE" dist/sample-service
        env:
          SAMPLE_SERVICE: ${{ vars.SAMPLE_SERVICE }}
      - uses: segue/preview
        id: copy
        with: {service: api, path: dist}
      - run: echo "it is at $WHERE"
        env:
          WHERE: ${{ steps.copy.outputs.url }}
"#;

/// A pull request on its way.
pub struct Pull<'s> {
    stand: &'s Stand,
    github: &'s GitHub,
    /// Its number.
    pub number: u64,
    from: String,
    /// Its newest commit.
    pub head: String,
    /// What its commits hold beside the sample service, or in the place of it: path and text.
    pub files: Vec<(String, String)>,
}

impl<'s> Pull<'s> {
    /// One that is not open yet; `from` is the repository that it comes from.
    #[must_use]
    pub fn new(stand: &'s Stand, github: &'s GitHub, number: u64, from: &str) -> Self {
        Self { stand, github, number, from: from.into(), head: String::new(), files: Vec::new() }
    }

    /// Commits a version of the sample service with the pipeline, and pushes it as the pull request's head; nobody is told.
    ///
    /// # Errors
    /// git refuses.
    pub fn commit(&mut self, version: &str, pipeline: &str) -> Result<String> {
        let config = sample::service_yml(version, 0.0);
        let mut files = vec![
            (".segue/pipelines/preview.yml", pipeline),
            (".segue/services/api.yml", sample::SERVICE),
            ("service.yml", &config),
        ];
        files.extend(self.files.iter().map(|(path, text)| (path.as_str(), text.as_str())));
        let head = self.stand.repository.commit(&format!("version {version} of #{}", self.number), &files)?;
        let bare = self.stand.repository.bare().display().to_string();
        let to = format!("{head}:refs/pull/{}/head", self.number);
        git(self.stand.repository.work(), &["push", "--quiet", "--force", &bare, &to])?;
        self.github.set_pull(REPOSITORY, self.number, &head, &format!("topic-{}", self.number), &self.from);
        self.head.clone_from(&head);
        Ok(head)
    }

    /// What the webhook would tell now.
    #[must_use]
    pub fn payload(&self, action: &str, before: Option<&str>) -> Value {
        self.github.pull_payload(REPOSITORY, self.number, action, before)
    }

    /// Sends what the webhook tells; the delivery's GUID.
    ///
    /// # Errors
    /// It is not answered with 202.
    pub async fn tell(&self, payload: &Value) -> Result<String> {
        let guid = uuid::Uuid::new_v4().to_string();
        let answer = self.stand.webhook()?.send(&guid, "pull_request", &serde_json::to_vec(payload)?).await?;
        let status = answer.status();
        ensure!(status == 202, "the webhook was answered {status}: {}", answer.text().await?);
        Ok(guid)
    }

    /// Commits a version and tells of it; the delivery's GUID.
    ///
    /// # Errors
    /// git or the webhook refuses.
    pub async fn push(&mut self, version: &str, pipeline: &str) -> Result<String> {
        let before = self.head.clone();
        self.commit(version, pipeline)?;
        if before.is_empty() {
            return self.tell(&self.payload("opened", None)).await;
        }
        self.tell(&self.payload("synchronize", Some(&before))).await
    }

    /// Closes it (`closed`) or opens it again (`reopened`), and tells of it.
    ///
    /// # Errors
    /// The webhook refuses.
    pub async fn turn(&self, action: &str) -> Result<String> {
        let word = if action == "closed" { "closed" } else { "open" };
        self.github.set_pull_state(REPOSITORY, self.number, word);
        self.tell(&self.payload(action, None)).await
    }

    /// What its preview answers: the service's version, or the status of what answers in its place.
    ///
    /// # Errors
    /// The proxy does not answer.
    pub async fn answer(&self, domain: &str) -> Result<Result<String, u16>> {
        let answer = reqwest::Client::new()
            .get(format!("http://{}/", self.stand.proxy))
            .header("host", format!("pr-{}-api.{domain}", self.number))
            .timeout(Duration::from_secs(60))
            .send()
            .await?;
        if !answer.status().is_success() {
            return Ok(Err(answer.status().as_u16()));
        }
        let body: Value = answer.json().await?;
        Ok(Ok(body["version"].as_str().unwrap_or_default().to_owned()))
    }

    /// Waits until its preview answers so; how long that took.
    ///
    /// # Errors
    /// It does not within the limit.
    pub async fn answers(&self, wanted: std::result::Result<&str, u16>, limit: Duration) -> Result<Duration> {
        let begun = Instant::now();
        loop {
            let answer = self.answer("preview.localhost").await?;
            if answer.as_ref().map(String::as_str).map_err(|status| *status) == wanted {
                return Ok(begun.elapsed());
            }
            ensure!(begun.elapsed() < limit, "#{} answers {answer:?}, not {wanted:?}", self.number);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until its preview is listed so; `None`: not at all.
    ///
    /// # Errors
    /// It is not within the limit.
    pub async fn is_listed(&self, wanted: Option<PreviewState>, limit: Duration) -> Result<Option<Preview>> {
        let begun = Instant::now();
        loop {
            let list: PreviewList = self.stand.api()?.get("/previews").await?;
            let found = list.items.into_iter().find(|preview| preview.number == self.number);
            if found.as_ref().map(|preview| preview.state) == wanted {
                return Ok(found);
            }
            ensure!(begun.elapsed() < limit, "#{} is listed as {found:#?}, not {wanted:?}", self.number);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn git(folder: &Path, arguments: &[&str]) -> Result<()> {
    let output = Command::new("git").arg("-C").arg(folder).args(arguments).output()?;
    ensure!(output.status.success(), "git: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
