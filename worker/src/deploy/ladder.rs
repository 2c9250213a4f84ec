//! The readiness ladder: started, port answers, health path answers well, warmed up, latency steady. Only what stands on
//! its top gets traffic.

use std::{fmt, time::Duration};

use segue_schemas::{
    deploy::{Health, ServiceSpec, WarmUp},
    host_api::{Instance, InstanceState, Probe, ProbeResult},
    id::InstanceId,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::hosts::{Host, HostTrouble};

/// Ends of the process after which the instance is given up.
const MAX_EXITS: u32 = 3;

/// The first pause between tries; it doubles until it is the health check's interval. Tries made with a shorter pause
/// than that do not count: they are there so that a quick service is found ready quickly.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// Tries of one warm-up request.
const WARM_UP_TRIES: u32 = 3;

/// Time limit of one warm-up request: the first answer may load a model or fill a cache.
const WARM_UP_TIMEOUT: Duration = Duration::from_secs(60);

/// Requests in a round of the latency rung.
const ROUND: usize = 5;

/// Rounds after which a latency that will not settle fails the instance.
const MAX_ROUNDS: usize = 20;

/// Two rounds in a row whose medians differ by no more than this, or by half of the smaller one, are steady.
const STEADY_US: u64 = 5_000;

/// How much of the instance's output a reason shows.
const TAIL_BYTES: u64 = 2_048;
const TAIL_LINES: usize = 10;

/// A step of the ladder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// The process lives.
    Started,
    /// Something answers on its port.
    Port,
    /// The health path is answered from 200 to 399.
    Health,
    /// The warm-up requests were answered below 500.
    WarmUp,
    /// The latency has settled.
    Steady,
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Started => "started",
            Self::Port => "port",
            Self::Health => "health",
            Self::WarmUp => "warm-up",
            Self::Steady => "latency steady",
        })
    }
}

/// An instance that stands on the top.
#[derive(Debug, Clone)]
pub struct Ready {
    /// Who.
    pub instance: InstanceId,
    /// From the first look to the top.
    pub took: Duration,
    /// Requests that were asked of its health path.
    pub tries: u32,
    /// Median latency of the last round, in microseconds.
    pub latency_us: u64,
}

/// An instance that did not reach the top.
#[derive(Debug, Clone)]
pub struct NotReady {
    /// Who.
    pub instance: InstanceId,
    /// The rung that it did not reach.
    pub rung: Rung,
    /// One line for people: the rung, what was seen, what to look at.
    pub message: String,
    /// What was seen, for programs.
    pub seen: Value,
}

/// How a climb ended, where the host could be asked at all.
pub type Climb = Result<Ready, NotReady>;

/// Leads one instance up the ladder.
///
/// Takes at most `health.tries` tries on each of the first rungs, one per interval, and fails at once when the instance
/// can't be started or has ended three times. Changes nothing at the host; may be repeated and dropped at any time.
///
/// # Errors
/// [`HostTrouble`] when the host itself does not answer: that says nothing about the release.
pub async fn climb(host: &Host, instance: &InstanceId, service: &ServiceSpec) -> Result<Climb, HostTrouble> {
    let mut climber = Climber { host, instance, health: &service.health, begun: Instant::now(), tries: 0, last: None };
    climber.climb(service).await
}

struct Climber<'a> {
    host: &'a Host,
    instance: &'a InstanceId,
    health: &'a Health,
    begun: Instant,
    tries: u32,
    last: Option<ProbeResult>,
}

/// What stopped a climb: the release's doing or the host's.
enum Stop {
    Fell(NotReady),
    Host(HostTrouble),
}

impl From<HostTrouble> for Stop {
    fn from(trouble: HostTrouble) -> Self {
        Self::Host(trouble)
    }
}

impl Climber<'_> {
    async fn climb(&mut self, service: &ServiceSpec) -> Result<Climb, HostTrouble> {
        match self.rungs(service).await {
            Ok(ready) => Ok(Ok(ready)),
            Err(Stop::Fell(not_ready)) => Ok(Err(not_ready)),
            Err(Stop::Host(trouble)) => Err(trouble),
        }
    }

    async fn rungs(&mut self, service: &ServiceSpec) -> Result<Ready, Stop> {
        self.answers_well().await?;
        for warm_up in &service.warm_up {
            self.warm(warm_up).await?;
        }
        let latency_us = self.settles().await?;
        let instance = self.host.instance(self.instance, Duration::ZERO).await?;
        if instance.state != InstanceState::Running {
            return Err(self.fell(Rung::Steady, "it ended just after it had become ready", Some(&instance)).await);
        }
        Ok(Ready { instance: self.instance.clone(), took: self.begun.elapsed(), tries: self.tries, latency_us })
    }

    /// Started, port, health: three rungs that one request tells apart.
    async fn answers_well(&mut self) -> Result<(), Stop> {
        let interval = self.health.interval.0.max(FIRST_PAUSE);
        let mut pause = FIRST_PAUSE;
        let mut counted = 0;
        let mut seen = self.host.instance(self.instance, Duration::ZERO).await?;
        loop {
            if let Some(why) = beyond_hope(&seen) {
                return Err(self.fell(Rung::Started, &why, Some(&seen)).await);
            }
            if seen.state == InstanceState::Running {
                let result = self.probe(&self.health.path, self.health.timeout.0).await?;
                self.tries += 1;
                let healthy = result.status.is_some_and(|status| (200..400).contains(&status));
                self.last = Some(result);
                if healthy {
                    return Ok(());
                }
            }
            if pause >= interval {
                counted += 1;
                if counted >= self.health.tries {
                    let (rung, why) = self.where_it_stands(&seen);
                    return Err(self.fell(rung, &why, Some(&seen)).await);
                }
            }
            // the pause ends early when the process ends, so that a crash is not waited out
            let until = Instant::now() + pause;
            seen = self.host.instance(self.instance, pause).await?;
            if seen.state == InstanceState::Running {
                tokio::time::sleep_until(until).await;
            }
            pause = (pause * 2).min(interval);
        }
    }

    fn where_it_stands(&self, seen: &Instance) -> (Rung, String) {
        let within = format!("within {} tries, one every {}", self.health.tries, self.health.interval);
        match (&seen.state, &self.last) {
            (InstanceState::Running, Some(ProbeResult { status: Some(status), .. })) => {
                let path = &self.health.path;
                (Rung::Health, format!("GET {path} answered {status}, not 200 to 399, {within}"))
            }
            (InstanceState::Running, Some(ProbeResult { error: Some(error), .. })) => {
                (Rung::Port, format!("nothing answered on {} {within}: {error}", seen.address))
            }
            (InstanceState::Running, _) => (Rung::Port, format!("nothing answered on {} {within}", seen.address)),
            (InstanceState::BackingOff { exit }, _) => (Rung::Started, format!("its process ended ({exit})")),
            (state, _) => (Rung::Started, format!("it was still {} {within}", state_word(state))),
        }
    }

    async fn warm(&mut self, warm_up: &WarmUp) -> Result<(), Stop> {
        for request in 1..=warm_up.count {
            let mut tries = 0;
            loop {
                let result = self.probe(&warm_up.path, WARM_UP_TIMEOUT).await?;
                let warm = result.status.is_some_and(|status| status < 500);
                let why = describe(&result);
                self.last = Some(result);
                if warm {
                    break;
                }
                tries += 1;
                let seen = self.host.instance(self.instance, self.health.interval.0).await?;
                if tries >= WARM_UP_TRIES || beyond_hope(&seen).is_some() {
                    let path = &warm_up.path;
                    let why = format!("warm-up request {request} of {} to {path}: {why}", warm_up.count);
                    return Err(self.fell(Rung::WarmUp, &why, Some(&seen)).await);
                }
            }
        }
        Ok(())
    }

    /// Rounds of requests until two in a row have the same median latency.
    async fn settles(&mut self) -> Result<u64, Stop> {
        let mut medians: Vec<u64> = Vec::with_capacity(MAX_ROUNDS);
        for _ in 0..MAX_ROUNDS {
            let median = self.round().await?;
            if medians.last().is_some_and(|&before| before.abs_diff(median) <= STEADY_US.max(before.min(median) / 2)) {
                return Ok(median);
            }
            medians.push(median);
        }
        let medians = medians.iter().map(|us| format!("{:.1}", *us as f64 / 1000.0)).collect::<Vec<_>>().join(", ");
        let why = format!("the latency of {} does not settle; medians in ms: {medians}", self.health.path);
        Err(self.fell(Rung::Steady, &why, None).await)
    }

    async fn round(&mut self) -> Result<u64, Stop> {
        let mut latencies = Vec::with_capacity(ROUND);
        let mut failures = 0;
        while latencies.len() < ROUND {
            let result = self.probe(&self.health.path, self.health.timeout.0).await?;
            self.tries += 1;
            if result.status.is_some_and(|status| (200..400).contains(&status)) {
                latencies.push(result.latency_us);
                continue;
            }
            failures += 1;
            let why = format!("GET {}: {}, after it had answered well", self.health.path, describe(&result));
            self.last = Some(result);
            let seen = self.host.instance(self.instance, self.health.interval.0).await?;
            if failures >= WARM_UP_TRIES || beyond_hope(&seen).is_some() {
                return Err(self.fell(Rung::Steady, &why, Some(&seen)).await);
            }
        }
        latencies.sort_unstable();
        Ok(latencies[ROUND / 2])
    }

    async fn probe(&self, path: &str, timeout: Duration) -> Result<ProbeResult, HostTrouble> {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self.host.probe(self.instance, &Probe { path: path.into(), timeout_ms }).await
    }

    async fn fell(&self, rung: Rung, why: &str, seen: Option<&Instance>) -> Stop {
        let tail = match seen {
            Some(seen) => tail(&seen.output).await,
            None => Vec::new(),
        };
        let mut message = format!("instance `{}` did not become ready; rung `{rung}`: {why}", self.instance);
        if let Some(line) = tail.last() {
            message.push_str(&format!("; its last output: `{line}`"));
        }
        if let Some(seen) = seen {
            message.push_str(&format!("; its output is in {}", seen.output));
        }
        let seen = json!({
            "instance": self.instance, "rung": rung.to_string(), "why": why, "tries": self.tries,
            "took_ms": u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            "last_status": self.last.as_ref().and_then(|last| last.status),
            "last_error": self.last.as_ref().and_then(|last| last.error.clone()),
            "restarts": seen.map(|seen| seen.restarts),
            "output": seen.map(|seen| seen.output.clone()),
            "output_tail": tail,
        });
        Stop::Fell(NotReady { instance: self.instance.clone(), rung, message, seen })
    }
}

/// Why no further try can help.
pub(super) fn beyond_hope(seen: &Instance) -> Option<String> {
    match &seen.state {
        InstanceState::Failed { reason } => Some(format!("it could not be started: {reason}")),
        InstanceState::Stopped => Some("it was stopped by somebody else".into()),
        // the host counts an end when it comes, before the pause that follows
        InstanceState::BackingOff { exit } if seen.restarts >= MAX_EXITS => {
            Some(format!("its process ended {} times, last with {exit}", seen.restarts))
        }
        InstanceState::Running if seen.restarts >= MAX_EXITS => {
            Some(format!("its process ended {} times", seen.restarts))
        }
        _ => None,
    }
}

fn describe(result: &ProbeResult) -> String {
    match (result.status, &result.error) {
        (Some(status), _) => format!("answered {status}"),
        (None, Some(error)) => format!("no answer: {error}"),
        (None, None) => "no answer".into(),
    }
}

const fn state_word(state: &InstanceState) -> &'static str {
    match state {
        InstanceState::Preparing => "being prepared",
        InstanceState::Running => "running",
        InstanceState::BackingOff { .. } => "waiting to be started again",
        InstanceState::Asleep => "asleep",
        InstanceState::Stopped => "stopped",
        InstanceState::Failed { .. } => "failed",
    }
}

/// The last lines of an instance's output, where its file can be read from here; control characters left out.
async fn tail(path: &str) -> Vec<String> {
    use tokio::io::{AsyncReadExt, AsyncSeekExt};
    let read = async {
        let mut file = tokio::fs::File::open(path).await?;
        let length = file.metadata().await?.len();
        file.seek(std::io::SeekFrom::Start(length.saturating_sub(TAIL_BYTES))).await?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes).await?;
        Ok::<_, std::io::Error>(bytes)
    };
    let bytes = read.await.unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let clean = |line: &str| line.chars().filter(|c| !c.is_control()).take(300).collect::<String>();
    let lines: Vec<String> = text.lines().map(clean).filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].to_vec()
}
