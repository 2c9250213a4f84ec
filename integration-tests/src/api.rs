//! A client of the public API, as a script would use it.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::StreamExt as _;
use segue_schemas::{
    api::{DeliveryView, DispatchRequest, Dispatched, RolloutList, RolloutView, RunPage, RunView},
    deploy::{JournalKind, Rollout},
    id::RolloutId,
    status::JobStatus,
};
use serde::{Serialize, de::DeserializeOwned};

/// How long between two looks, where a story waits for something that no stream tells.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A client with a token.
#[derive(Clone)]
pub struct Api {
    base: String,
    token: String,
    client: reqwest::Client,
}

impl Api {
    /// A client of the server at `base`.
    #[must_use]
    pub fn new(base: &str, token: &str) -> Self {
        Self { base: format!("{base}/api/v1"), token: token.to_owned(), client: reqwest::Client::new() }
    }

    /// `GET`, read as JSON.
    ///
    /// # Errors
    /// No answer, or another one than 2xx.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let answer = self.raw_get(path).await?;
        let status = answer.status();
        let body = answer.text().await?;
        ensure!(status.is_success(), "GET {path} was answered {status}: {body}");
        serde_json::from_str(&body).with_context(|| format!("GET {path} was answered {body}"))
    }

    /// `GET`, as it comes.
    ///
    /// # Errors
    /// No answer.
    pub async fn raw_get(&self, path: &str) -> Result<reqwest::Response> {
        Ok(self.client.get(format!("{}{path}", self.base)).bearer_auth(&self.token).send().await?)
    }

    /// `POST` with a JSON body, the answer read as JSON.
    ///
    /// # Errors
    /// No answer, or another one than 2xx.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        let request = self.client.post(format!("{}{path}", self.base)).bearer_auth(&self.token).json(body);
        let answer = request.send().await?;
        let status = answer.status();
        let body = answer.text().await?;
        ensure!(status.is_success(), "POST {path} was answered {status}: {body}");
        serde_json::from_str(&body).with_context(|| format!("POST {path} was answered {body}"))
    }

    /// Starts a run by hand.
    ///
    /// # Errors
    /// It is refused.
    pub async fn dispatch(&self, repository: &str, request: &DispatchRequest) -> Result<Dispatched> {
        self.post(&format!("/repositories/{repository}/dispatches"), request).await
    }

    /// Waits until a delivery is planned or ignored.
    ///
    /// # Errors
    /// Not within the limit.
    pub async fn planned(&self, guid: &str, limit: Duration) -> Result<DeliveryView> {
        self.wait_for(&format!("delivery {guid} to be planned"), limit, async || {
            let view: DeliveryView = self.get(&format!("/deliveries/{guid}")).await?;
            Ok((view.status != segue_schemas::api::DeliveryStatus::Pending).then_some(view))
        })
        .await
    }

    /// The one run that came of a delivery, followed to its end on its stream of events.
    ///
    /// # Errors
    /// Another number of runs than one, or no end within the limit.
    pub async fn run_of(&self, guid: &str, limit: Duration) -> Result<RunView> {
        let delivery = self.planned(guid, Duration::from_secs(30)).await?;
        let [run] = delivery.runs[..] else {
            bail!("delivery {guid} made {} runs: {:?}", delivery.runs.len(), delivery.reason)
        };
        self.ended(run.0, limit).await
    }

    /// Follows a run to its end.
    ///
    /// # Errors
    /// No end within the limit; the message says how far it came.
    pub async fn ended(&self, run: i64, limit: Duration) -> Result<RunView> {
        if tokio::time::timeout(limit, self.follow_to_the_end(&format!("/runs/{run}/events"))).await.is_err() {
            let view: RunView = self.get(&format!("/runs/{run}")).await?;
            bail!("run {run} did not end within {limit:?}; it stands so: {view:#?}");
        }
        self.get(&format!("/runs/{run}")).await
    }

    async fn follow_to_the_end(&self, path: &str) -> Result<()> {
        loop {
            let Ok(answer) = self.raw_get(path).await else {
                // the server is being restarted by the story
                tokio::time::sleep(LOOK_AGAIN).await;
                continue;
            };
            let mut stream = answer.bytes_stream();
            let mut text = String::new();
            while let Some(Ok(bytes)) = stream.next().await {
                text.push_str(&String::from_utf8_lossy(&bytes));
                if text.contains("event: end") || text.contains("event:end") {
                    return Ok(());
                }
                // only the last piece can hold the beginning of the word
                let keep = text.char_indices().rev().nth(16).map_or(0, |(at, _)| at);
                text.drain(..keep);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// The runs, newest first.
    ///
    /// # Errors
    /// See [`Self::get`].
    pub async fn runs(&self) -> Result<RunPage> {
        self.get("/runs?limit=200").await
    }

    /// The whole log of a job.
    ///
    /// # Errors
    /// See [`Self::raw_get`].
    pub async fn log(&self, job: &segue_schemas::id::JobId) -> Result<String> {
        Ok(self.raw_get(&format!("/jobs/{job}/logs")).await?.text().await?)
    }

    /// The rollouts of an environment, newest first.
    ///
    /// # Errors
    /// See [`Self::get`].
    pub async fn rollouts(&self, environment: &str) -> Result<Vec<Rollout>> {
        let list: RolloutList = self.get(&format!("/rollouts?environment={environment}")).await?;
        Ok(list.items)
    }

    /// A rollout with its journal.
    ///
    /// # Errors
    /// See [`Self::get`].
    pub async fn rollout(&self, id: RolloutId) -> Result<RolloutView> {
        self.get(&format!("/rollouts/{id}")).await
    }

    /// Waits until the newest rollout of an environment has a journal entry of the kind (and stage, where one is given).
    ///
    /// # Errors
    /// Not within the limit.
    pub async fn journaled(
        &self,
        environment: &str,
        newer_than: i64,
        limit: Duration,
        wanted: impl Fn(&RolloutView) -> bool,
    ) -> Result<RolloutView> {
        self.wait_for(&format!("a journal entry of a rollout to {environment}"), limit, async || {
            let rollouts = self.rollouts(environment).await?;
            let Some(newest) = rollouts.first().filter(|rollout| rollout.id.0 > newer_than) else { return Ok(None) };
            let view = self.rollout(newest.id).await?;
            Ok(wanted(&view).then_some(view))
        })
        .await
    }

    /// Waits until a job of a run is in one of the states.
    ///
    /// # Errors
    /// Not within the limit.
    pub async fn job_becomes(&self, run: i64, key: &str, states: &[JobStatus], limit: Duration) -> Result<RunView> {
        self.wait_for(&format!("job `{key}` of run {run} to become one of {states:?}"), limit, async || {
            let view: RunView = self.get(&format!("/runs/{run}")).await?;
            let is_so = view.jobs.iter().any(|job| job.key == key && states.contains(&job.status));
            Ok(is_so.then_some(view))
        })
        .await
    }

    /// Waits until a rollout has ended.
    ///
    /// # Errors
    /// Not within the limit.
    pub async fn rollout_ended(&self, id: RolloutId, limit: Duration) -> Result<RolloutView> {
        self.wait_for(&format!("rollout {id} to end"), limit, async || {
            let view = self.rollout(id).await?;
            Ok(view.rollout.status.is_final().then_some(view))
        })
        .await
    }

    /// Looks until there is something to see. An error of the server counts as nothing yet: it may be restarting.
    async fn wait_for<T>(
        &self,
        what: &str,
        limit: Duration,
        mut look: impl AsyncFnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let begun = std::time::Instant::now();
        loop {
            let seen = look().await;
            if let Ok(Some(found)) = seen {
                return Ok(found);
            }
            if begun.elapsed() > limit {
                bail!("waited {limit:?} in vain for {what}; last: {:?}", seen.err());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// Whether a journal has an entry of the kind.
#[must_use]
pub fn has(view: &RolloutView, kind: JournalKind) -> bool {
    view.journal.iter().any(|entry| entry.kind == kind)
}
