//! Requests at a fixed rate over kept connections, with a record of how each of them ended.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use reqwest::Client;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinHandle,
    time::MissedTickBehavior,
};

/// What the requests came to.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Requests begun.
    pub sent: u64,
    /// Whole answers by version (`version` in the JSON body) and whether they were 500 or above.
    pub answers: BTreeMap<(String, bool), u64>,
    /// Requests that no whole answer came to: refused, reset, cut, timed out, or answered by the proxy itself.
    pub dropped: u64,
    /// The first few reasons.
    pub reasons: Vec<String>,
    /// Streamed answers that arrived whole.
    pub streams: u64,
    /// Times to the whole answer, without streams.
    pub latencies: Vec<Duration>,
    /// When each version was last answered by, from the load's beginning.
    pub last_seen: BTreeMap<String, Duration>,
}

impl Tally {
    /// Whole answers of a version, good and bad.
    #[must_use]
    pub fn of(&self, version: &str) -> u64 {
        self.answers.iter().filter(|((v, _), _)| v == version).map(|(_, count)| count).sum()
    }
}

/// What is asked of whom.
#[derive(Debug, Clone)]
pub struct Load {
    /// The proxy's address.
    pub address: String,
    /// The `Host` header.
    pub host: String,
    /// Requests per second.
    pub rate: u32,
    /// A streamed answer is asked for every so many requests; 0: never.
    pub stream_every: u64,
    /// How long such an answer goes on.
    pub stream_seconds: u32,
}

/// Requests under way.
pub struct Running {
    tally: Arc<Mutex<Tally>>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Load {
    /// Traffic to the sample service in an environment, 100 requests per second, with a stream now and then.
    #[must_use]
    pub fn to(proxy: &str, environment: &str) -> Self {
        Self {
            address: proxy.to_owned(),
            host: crate::sample::host_name(environment),
            rate: 100,
            stream_every: 100,
            stream_seconds: 2,
        }
    }

    /// Begins.
    #[must_use]
    pub fn start(self) -> Running {
        let tally = Arc::new(Mutex::new(Tally::default()));
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(send(self, Arc::clone(&tally), stopped));
        Running { tally, stop, task }
    }
}

impl Running {
    /// What it came to so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Begins no more requests, and waits for those under way.
    pub async fn stop(self) -> Tally {
        let _ = self.stop.send(true);
        let _ = self.task.await;
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn send(load: Load, tally: Arc<Mutex<Tally>>, mut stopped: watch::Receiver<bool>) {
    /// Requests in flight at most.
    const IN_FLIGHT: u32 = 1024;
    let client = Client::builder().timeout(Duration::from_secs(30)).build().unwrap_or_default();
    let room = Arc::new(Semaphore::new(IN_FLIGHT as usize));
    let begun = Instant::now();
    let mut beat = tokio::time::interval(Duration::from_secs(1) / load.rate.max(1));
    beat.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut number = 0u64;
    loop {
        tokio::select! {
            _ = beat.tick() => {}
            _ = stopped.changed() => break,
        }
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { break };
        number += 1;
        let streams = load.stream_every > 0 && number.is_multiple_of(load.stream_every);
        let path = if streams { format!("/stream?seconds={}", load.stream_seconds) } else { "/".to_owned() };
        let request = client.get(format!("http://{}{path}", load.address)).header("host", &load.host);
        let tally = Arc::clone(&tally);
        with(&tally, |t| t.sent += 1);
        tokio::spawn(async move {
            let at = Instant::now();
            let ended = ask(request, streams).await;
            with(&tally, |t| record(t, ended, streams, at.elapsed(), at.duration_since(begun)));
            drop(permit);
        });
    }
    let _ = room.acquire_many(IN_FLIGHT).await;
}

/// The version that answered, and whether with 500 or above; or why there was no whole answer.
async fn ask(request: reqwest::RequestBuilder, streams: bool) -> Result<(String, bool), String> {
    let answer = request.send().await.map_err(|error| format!("{error:?}"))?;
    let status = answer.status();
    let body = answer.text().await.map_err(|error| format!("cut after {status}: {error:?}"))?;
    if streams {
        return if status.is_success() { Ok((String::new(), false)) } else { Err(format!("stream: {status} {body}")) };
    }
    match serde_json::from_str::<serde_json::Value>(&body) {
        Ok(value) if value["version"].is_string() => {
            Ok((value["version"].as_str().unwrap_or_default().to_owned(), status.as_u16() >= 500))
        }
        _ => Err(format!("{status} not from the service: {body}")),
    }
}

fn record(tally: &mut Tally, ended: Result<(String, bool), String>, streams: bool, took: Duration, begun: Duration) {
    match ended {
        Ok(_) if streams => tally.streams += 1,
        Ok((version, failed)) => {
            *tally.answers.entry((version.clone(), failed)).or_default() += 1;
            let last = tally.last_seen.entry(version).or_default();
            *last = begun.max(*last);
            tally.latencies.push(took);
        }
        Err(reason) => {
            tally.dropped += 1;
            if tally.reasons.len() < 10 {
                tally.reasons.push(reason);
            }
        }
    }
}

fn with(tally: &Mutex<Tally>, change: impl FnOnce(&mut Tally)) {
    change(&mut tally.lock().unwrap_or_else(PoisonError::into_inner));
}
