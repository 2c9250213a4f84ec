//! A server in memory, spoken to over real HTTP: it hands out what it was given, fences by epoch, and keeps what it is told.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use segue_schemas::{
    artifact::Artifact,
    host_api::HostState,
    id::{Epoch, JobId},
    time::Timestamp,
    worker_api::{
        AskEnded, AttachArtifact, CreateRollout, EndedJobs, Finished, JobClaim, JobFinish, JobHandBack, JobLost,
        JobReport, JobWait, LogAck, Registered, Renew, Renewed, Reported,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use tokio::{net::TcpListener, sync::Notify};

#[derive(Default)]
pub struct State {
    pub queue: VecDeque<JobClaim>,
    pub epochs: HashMap<JobId, Epoch>,
    pub cancelled: HashSet<JobId>,
    pub logs: HashMap<JobId, Vec<u8>>,
    pub reports: Vec<JobReport>,
    pub finished: Vec<JobFinish>,
    /// Jobs that were asked for alone, and given.
    pub claims: usize,
    /// The worker's token was revoked, so that it gets no more jobs.
    pub revoked: bool,
    pub waits: Vec<JobWait>,
    pub handed_back: Vec<JobHandBack>,
    pub lost: Vec<JobLost>,
    pub rollouts: Vec<CreateRollout>,
    pub blobs: HashMap<String, Bytes>,
    pub artifacts: BTreeMap<String, Artifact>,
    pub renewals: usize,
    /// Jobs that ended without their worker.
    pub ended: HashSet<JobId>,
    /// The hosts that a worker hears of.
    pub hosts: indexmap::IndexMap<String, String>,
    /// What was told of them.
    pub told: Vec<(String, HostState)>,
    /// Every request is answered 503.
    pub away: bool,
    /// Reports of steps are not answered meanwhile, nor kept.
    pub holds_reports: bool,
}

pub struct FakeServer {
    pub url: String,
    pub lease_ms: u64,
    state: Mutex<State>,
    changed: Notify,
}

impl FakeServer {
    pub async fn start(lease_ms: u64) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = Arc::new(Self { url, lease_ms, state: Mutex::default(), changed: Notify::new() });
        let serving = server.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let server = serving.clone();
                let service = service_fn(move |request| {
                    let server = server.clone();
                    async move { Ok::<_, Infallible>(server.answer(request).await) }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        server
    }

    pub fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let answer = change(&mut self.state.lock().unwrap());
        self.changed.notify_waiters();
        answer
    }

    pub fn queue(&self, claim: JobClaim) {
        self.with(|state| {
            state.epochs.insert(claim.job, claim.epoch);
            state.queue.push_back(claim);
        });
    }

    pub fn log(&self, job: JobId) -> String {
        self.with(|state| String::from_utf8(state.logs.get(&job).cloned().unwrap_or_default()).unwrap())
    }

    /// Waits until the state gives something.
    pub async fn until<T>(&self, what: &str, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                let found = look(&mut self.state.lock().unwrap());
                if let Some(found) = found {
                    return found;
                }
                let _ = tokio::time::timeout(Duration::from_millis(20), changed).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("never: {what}"))
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        if self.with(|state| state.away) {
            return error(StatusCode::SERVICE_UNAVAILABLE, "unavailable");
        }
        if parts.headers.get("authorization").is_none_or(|token| token != "Bearer test-token") {
            return error(StatusCode::UNAUTHORIZED, "unauthorized");
        }
        let path = parts.uri.path().strip_prefix("/api/v1/worker/").unwrap_or_default().to_owned();
        let segments: Vec<&str> = path.split('/').collect();
        let query: HashMap<&str, &str> =
            parts.uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('=')).collect();
        match (&parts.method, segments.as_slice()) {
            (_, ["register"]) => ok(&Registered {
                lease_ms: self.lease_ms,
                renew_ms: self.lease_ms / 6,
                max_log_chunk: 64 * 1024,
                max_log_tail: 1024,
                absent_host_ms: 86_400_000,
                pool: None,
                snapshots: None,
                end_brings_next: true,
                hosts: self.with(|state| state.hosts.clone()),
            }),
            (_, ["jobs", "ended"]) => {
                let asked: AskEnded = read(&body);
                let ended = |state: &mut State| {
                    let jobs: Vec<JobId> = asked.jobs.iter().filter(|job| state.ended.contains(job)).copied().collect();
                    (!jobs.is_empty()).then_some(jobs)
                };
                ok(&EndedJobs { jobs: self.wait(asked.wait_ms, ended).await.unwrap_or_default() })
            }
            (_, ["jobs", "claim"]) => match self.wait(2000, |state| state.queue.pop_front()).await {
                Some(claim) => {
                    self.with(|state| state.claims += 1);
                    ok(&claim)
                }
                None => empty(StatusCode::NO_CONTENT),
            },
            (_, ["rollouts", "claim"]) => {
                tokio::time::sleep(Duration::from_secs(2)).await;
                empty(StatusCode::NO_CONTENT)
            }
            (&Method::HEAD, ["artifacts", digest]) => {
                let known = self.with(|state| state.blobs.contains_key(*digest));
                empty(if known { StatusCode::OK } else { StatusCode::NOT_FOUND })
            }
            (&Method::PUT, ["artifacts", digest]) => {
                self.with(|state| state.blobs.insert((*digest).to_owned(), body));
                empty(StatusCode::CREATED)
            }
            (_, ["artifacts", digest]) => match self.with(|state| state.blobs.get(*digest).cloned()) {
                Some(blob) => Response::new(Full::new(blob)),
                None => error(StatusCode::NOT_FOUND, "not_found"),
            },
            (_, ["hosts", host, "state"]) => {
                self.with(|state| state.told.push(((*host).to_owned(), read(&body))));
                ok(&Reported { cancel: false })
            }
            (_, ["jobs", job, rest @ ..]) => self.job(job.parse().unwrap(), rest, &query, &parts.method, body).await,
            _ => error(StatusCode::NOT_FOUND, "not_found"),
        }
    }

    async fn job(
        &self,
        job: JobId,
        rest: &[&str],
        query: &HashMap<&str, &str>,
        method: &Method,
        body: Bytes,
    ) -> Response<Full<Bytes>> {
        let epoch = match query.get("epoch") {
            Some(epoch) => Some(Epoch(epoch.parse().unwrap())),
            None => serde_json::from_slice::<serde_json::Value>(&body)
                .ok()
                .and_then(|body| body["epoch"].as_i64())
                .map(Epoch),
        };
        let current = self.with(|state| state.epochs.get(&job).copied());
        if epoch.is_some() && epoch != current {
            return error(StatusCode::CONFLICT, "stale_epoch");
        }
        let cancel = self.with(|state| state.cancelled.contains(&job));
        match rest {
            ["renew"] => {
                let renew: Renew = read(&body);
                self.with(|state| state.renewals += 1);
                let cancel = self
                    .wait(renew.wait_ms, |state| {
                        let lost = state.epochs.get(&job) != Some(&renew.epoch);
                        (lost || state.cancelled.contains(&job)).then_some(!lost)
                    })
                    .await;
                match cancel {
                    Some(false) => error(StatusCode::CONFLICT, "stale_epoch"),
                    cancel => ok(&Renewed { cancel: cancel.is_some() }),
                }
            }
            ["report"] => {
                self.wait(60_000, |state| (!state.holds_reports).then_some(())).await;
                self.with(|state| state.reports.push(read(&body)));
                ok(&Reported { cancel })
            }
            ["finish"] => {
                let finish: JobFinish = read(&body);
                if finish.next.is_some() && self.with(|state| state.revoked) {
                    return error(StatusCode::UNAUTHORIZED, "unauthorized");
                }
                let next = self.with(|state| {
                    let log = state.logs.entry(job).or_default();
                    log.extend_from_slice(finish.log_tail.as_bytes());
                    let next = finish.next.as_ref().and_then(|_| state.queue.pop_front());
                    state.finished.push(finish);
                    next
                });
                ok(&Finished { cancel, next })
            }
            ["wait"] => {
                self.with(|state| state.waits.push(read(&body)));
                ok(&Reported { cancel })
            }
            ["lost"] => {
                self.with(|state| state.lost.push(read(&body)));
                ok(&Reported { cancel })
            }
            ["hand-back"] => {
                self.with(|state| state.handed_back.push(read(&body)));
                ok(&Reported { cancel })
            }
            ["logs"] => {
                let offset: usize = query["offset"].parse().unwrap();
                let length = self.with(|state| {
                    let log = state.logs.entry(job).or_default();
                    if offset <= log.len() {
                        log.truncate(offset);
                        log.extend_from_slice(&body);
                    }
                    log.len()
                });
                ok(&LogAck { offset: length as u64 })
            }
            ["artifacts"] => {
                let attach: AttachArtifact = read(&body);
                let AttachArtifact { name, digest, bytes, .. } = attach;
                let artifact = Artifact { name, digest, bytes, created_at: Timestamp(0) };
                self.with(|state| state.artifacts.insert(artifact.name.clone(), artifact.clone()));
                ok(&artifact)
            }
            ["artifacts", name] if *method == Method::GET => {
                match self.with(|state| state.artifacts.get(*name).cloned()) {
                    Some(artifact) => ok(&artifact),
                    None => error(StatusCode::NOT_FOUND, "not_found"),
                }
            }
            ["rollouts"] => {
                let create: CreateRollout = read(&body);
                let release = json!({
                    "id": 1, "repository": "acme/shop", "service": create.service.name, "digest": create.digest,
                    "commit": "0".repeat(40), "run": 1, "created_at": "2026-01-01T00:00:00Z",
                });
                self.with(|state| state.rollouts.push(create));
                ok(&json!({ "rollout": 7, "release": release }))
            }
            _ => error(StatusCode::NOT_FOUND, "not_found"),
        }
    }

    async fn wait<T>(&self, wait_ms: u64, mut look: impl FnMut(&mut State) -> Option<T>) -> Option<T> {
        let until = tokio::time::Instant::now() + Duration::from_millis(wait_ms);
        loop {
            let changed = self.changed.notified();
            let found = look(&mut self.state.lock().unwrap());
            if found.is_some() || tokio::time::timeout_at(until, changed).await.is_err() {
                return found;
            }
        }
    }
}

fn read<T: DeserializeOwned>(body: &Bytes) -> T {
    serde_json::from_slice(body).unwrap()
}

fn ok(body: &impl Serialize) -> Response<Full<Bytes>> {
    Response::new(Full::new(serde_json::to_vec(body).unwrap().into()))
}

fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

fn error(status: StatusCode, code: &str) -> Response<Full<Bytes>> {
    let mut response = ok(&json!({ "error": { "code": code, "message": format!("it is {code}") } }));
    *response.status_mut() = status;
    response
}
