//! Production's traffic: requests at a fixed rate over kept connections, and a streamed answer now and then. It counts what
//! its user would have noticed: answers by version, answers of 500 and above, and requests that were dropped, that is, could
//! not be completed at all (no connection, a reset, no answer in time, a stream that broke off).

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use reqwest::{Client, header};
use segue_schemas::time::Timestamp;
use serde::Deserialize;
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use crate::cli::{
    ending::{Explain as _, Failure, with_causes},
    show,
};

/// Requests per second.
pub const RATE: u32 = 300;
/// A streamed answer is begun after so many other requests.
const STREAM_EVERY: u64 = 150;
/// How long a streamed answer goes on.
const STREAM_SECONDS: u32 = 3;
/// Requests in flight at most; beyond it the generator holds requests back, and says how many.
const IN_FLIGHT: usize = 512;
/// How long a request may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Reasons of drops that are kept for the report.
const KEPT_REASONS: usize = 5;

/// The answers of one version.
#[derive(Debug, Clone, Default)]
pub struct Answers {
    /// All.
    pub total: u64,
    /// Those of 500 and above.
    pub failed: u64,
    /// When the newest one was begun, by this machine's clock.
    pub last_begun: Timestamp,
}

/// What was noticed so far.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// By version.
    pub versions: BTreeMap<String, Answers>,
    /// Requests that were not completed.
    pub dropped: u64,
    /// Why, for the first few.
    pub reasons: Vec<String>,
    /// Streamed answers that arrived whole.
    pub streams: u64,
    /// Requests that were not sent, because too many were in flight.
    pub held_back: u64,
}

impl Tally {
    /// Requests that were sent and have ended.
    pub fn total(&self) -> u64 {
        self.versions.values().map(|answers| answers.total).sum::<u64>() + self.dropped + self.streams
    }
}

/// Traffic that goes on until it is stopped.
pub struct Load {
    tally: Arc<Mutex<Tally>>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Load {
    /// Begins to send requests for `host` to the proxy.
    ///
    /// # Errors
    /// The HTTP client can't be set up.
    pub fn start(proxy: SocketAddr, host: &str) -> Result<Self, Failure> {
        let client = Client::builder().no_proxy().timeout(LIMIT).pool_max_idle_per_host(64).build();
        let asker = Arc::new(Asker {
            client: client.explain("cannot set an HTTP client up")?,
            base: format!("http://{proxy}"),
            host: host.to_owned(),
            tally: Arc::default(),
        });
        let stop = CancellationToken::new();
        let tally = Arc::clone(&asker.tally);
        let task = tokio::spawn(send(asker, stop.clone()));
        Ok(Self { tally, stop, task })
    }

    /// How it stands.
    pub fn tally(&self) -> Tally {
        lock(&self.tally).clone()
    }

    /// Stops sending, waits for what is in flight, and gives the final count.
    pub async fn stop(self) -> Tally {
        self.stop.cancel();
        // a panic in there would be a defect; what was counted is still to be shown
        let _ended = self.task.await;
        lock(&self.tally).clone()
    }
}

async fn send(asker: Arc<Asker>, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(IN_FLIGHT));
    let mut requests = JoinSet::new();
    let mut tick = tokio::time::interval(Duration::from_secs(1) / RATE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut count: u64 = 0;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = tick.tick() => {}
        }
        while requests.try_join_next().is_some() {}
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            lock(&asker.tally).held_back += 1;
            continue;
        };
        count += 1;
        let is_stream = count.is_multiple_of(STREAM_EVERY);
        let asker = Arc::clone(&asker);
        requests.spawn(async move {
            if is_stream {
                asker.stream().await
            } else {
                asker.ask().await
            }
            drop(slot);
        });
    }
    while requests.join_next().await.is_some() {}
}

struct Asker {
    client: Client,
    base: String,
    host: String,
    tally: Arc<Mutex<Tally>>,
}

#[derive(Deserialize)]
struct Greeting {
    version: String,
}

impl Asker {
    async fn ask(&self) {
        let begun = show::now();
        let result = async {
            let response = self.get("/").send().await?;
            let status = response.status();
            Ok::<_, reqwest::Error>((status, response.bytes().await?))
        };
        let (status, body) = match result.await {
            Ok(answer) => answer,
            Err(error) => return self.drop_request(&with_causes(&error)),
        };
        match serde_json::from_slice::<Greeting>(&body) {
            Ok(greeting) => self.count(&greeting.version, status.is_server_error(), begun),
            // the proxy's own word, not the service's: whoever asked got nothing
            Err(_) => self.drop_request(&format!("{status}: {}", String::from_utf8_lossy(&body).trim())),
        }
    }

    async fn stream(&self) {
        let begun = Instant::now();
        let result = async {
            let response = self.get(&format!("/stream?seconds={STREAM_SECONDS}")).send().await?;
            response.text().await
        };
        match result.await {
            Ok(text) if text.ends_with("end\n") => lock(&self.tally).streams += 1,
            Ok(text) => self.drop_request(&format!("a stream ended after {} lines", text.lines().count())),
            Err(error) => {
                self.drop_request(&format!("a stream broke off after {:?}: {}", begun.elapsed(), with_causes(&error)));
            }
        }
    }

    fn get(&self, path: &str) -> reqwest::RequestBuilder {
        self.client.get(format!("{}{path}", self.base)).header(header::HOST, &self.host)
    }

    fn count(&self, version: &str, is_failure: bool, begun: Timestamp) {
        let mut tally = lock(&self.tally);
        if !tally.versions.contains_key(version) {
            tally.versions.insert(version.to_owned(), Answers::default());
        }
        if let Some(answers) = tally.versions.get_mut(version) {
            answers.total += 1;
            answers.failed += u64::from(is_failure);
            answers.last_begun = answers.last_begun.max(begun);
        }
    }

    fn drop_request(&self, reason: &str) {
        let mut tally = lock(&self.tally);
        tally.dropped += 1;
        if tally.reasons.len() < KEPT_REASONS {
            tally.reasons.push(format!("{} {reason}", show::now()));
        }
    }
}

/// Counters stay good even if some holder of the lock panicked.
fn lock(tally: &Mutex<Tally>) -> std::sync::MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}
