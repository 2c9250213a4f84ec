//! A host in memory behind a real unix socket: instances that are ready at once or never, a route with weights, traffic by
//! those weights whenever somebody looks, the fence and the dead-man's switch.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use rand::{Rng, SeedableRng, rngs::StdRng};
use segue_schemas::{
    deploy::{Observation, Outcome, Release},
    host_api::{
        ApplyRoute, DrainResult, EmergencyResult, Fence, HostError, HostErrorCode, HostState, Instance, InstanceState,
        ObservationBatch, ProbeResult, RenewDeadMan, Restored, RetireInstance, RouteState, StartInstance, StopInstance,
        Target,
    },
    id::{Epoch, InstanceId},
    time::Timestamp,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use tokio::{net::UnixListener, task::JoinHandle, time::Instant};

/// How a release behaves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Behaviour {
    pub(super) error_rate: f64,
    pub(super) is_ready: bool,
}

impl Behaviour {
    pub(super) const GOOD: Self = Self { error_rate: 0.0, is_ready: true };
    pub(super) const BAD: Self = Self { error_rate: 0.2, is_ready: true };
    pub(super) const NEVER_READY: Self = Self { error_rate: 0.0, is_ready: false };
}

pub(super) struct ScriptedHost {
    world: Arc<Mutex<World>>,
    socket: PathBuf,
    listener: JoinHandle<()>,
}

struct World {
    environment: String,
    service: String,
    epoch: Epoch,
    instances: Vec<Instance>,
    route: Option<RouteState>,
    dead_man_at: Option<Instant>,
    /// Behaviour by release number; good where none is given.
    behaviours: Vec<(i64, Behaviour)>,
    observations: Vec<Observation>,
    random: StdRng,
    weights_asked_for: Vec<(Epoch, Vec<Target>)>,
    /// How many instances run there at most.
    room: usize,
    /// How often it does not say yet what it carries.
    silent: usize,
    /// Its router refuses each change of weights.
    is_router_broken: bool,
}

impl ScriptedHost {
    pub(super) fn start(directory: &Path, environment: &str, service: &str) -> Self {
        let world = Arc::new(Mutex::new(World {
            environment: environment.into(),
            service: service.into(),
            epoch: Epoch(0),
            instances: Vec::new(),
            route: None,
            dead_man_at: None,
            behaviours: Vec::new(),
            observations: Vec::new(),
            random: StdRng::seed_from_u64(7),
            weights_asked_for: Vec::new(),
            room: usize::MAX,
            silent: 0,
            is_router_broken: false,
        }));
        let socket = directory.join("host.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let shared = world.clone();
        let listener = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let world = shared.clone();
                let service = service_fn(move |request| answer(world.clone(), request));
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        Self { world, socket, listener }
    }

    pub(super) fn socket(&self) -> String {
        self.socket.display().to_string()
    }

    pub(super) fn behave(&self, release: i64, behaviour: Behaviour) {
        self.world.lock().unwrap().behaviours.push((release, behaviour));
    }

    /// So many instances have room from now on.
    pub(super) fn has_room_for(&self, instances: usize) {
        self.world.lock().unwrap().room = instances;
    }

    /// Whether its router refuses each change of weights from now on.
    pub(super) fn break_router(&self, is_broken: bool) {
        self.world.lock().unwrap().is_router_broken = is_broken;
    }

    /// The next so many questions for what it carries get no answer that says it.
    pub(super) fn keep_silent(&self, times: usize) {
        self.world.lock().unwrap().silent = times;
    }

    /// An instance that serves everything already.
    pub(super) fn serve(&self, release: &Release, instance: &str) {
        let mut world = self.world.lock().unwrap();
        let environment = world.environment.clone();
        world.instances.push(running(instance.parse().unwrap(), release.clone(), &environment));
        let targets = vec![Target { instance: instance.parse().unwrap(), weight: 1 }];
        world.epoch = Epoch(1);
        world.route = Some(world.route_with(targets.clone(), targets));
    }

    /// The releases that have traffic.
    pub(super) fn serving(&self) -> Vec<i64> {
        let world = self.world.lock().unwrap();
        let Some(route) = &world.route else { return Vec::new() };
        let release = |t: &Target| world.instances.iter().find(|i| i.id == t.instance).map_or(0, |i| i.release.id.0);
        let mut releases: Vec<i64> = route.targets.iter().filter(|t| t.weight > 0).map(release).collect();
        releases.dedup();
        releases
    }

    /// The instances of a release that are not stopped.
    pub(super) fn instances_of(&self, release: i64) -> Vec<Instance> {
        let world = self.world.lock().unwrap();
        world.instances.iter().filter(|i| i.release.id.0 == release).cloned().collect()
    }

    pub(super) fn targets(&self) -> Vec<Target> {
        self.world.lock().unwrap().route.as_ref().map(|route| route.targets.clone()).unwrap_or_default()
    }

    /// Every weight that was accepted, with its epoch.
    pub(super) fn weights_asked_for(&self) -> Vec<(Epoch, Vec<Target>)> {
        self.world.lock().unwrap().weights_asked_for.clone()
    }

    /// Nobody answers from now on.
    pub(super) fn go_away(&self) {
        self.listener.abort();
        std::fs::remove_file(&self.socket).unwrap();
    }

    /// `rollback --emergency` at the host.
    pub(super) fn emergency(&self) -> EmergencyResult {
        let mut world = self.world.lock().unwrap();
        world.epoch = world.epoch.after_emergency();
        world.restore("emergency: ada saw red");
        let serving = world.route.as_ref().and_then(|route| route.targets.first()).unwrap().instance.clone();
        let to = world.instances.iter().find(|i| i.id == serving).unwrap().release.clone();
        EmergencyResult { epoch: world.epoch, from: None, to, took_us: 1, before: Vec::new(), stands: None }
    }
}

impl Drop for ScriptedHost {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

type Answer = Result<serde_json::Value, HostError>;

async fn answer(world: Arc<Mutex<World>>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    if parts.last() == Some(&"observations") {
        // traffic goes on while somebody waits
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let result = world.lock().unwrap().handle(&method, &parts, &query, &body);
    let (status, body) = match result {
        Ok(value) => (StatusCode::OK, value),
        Err(error) => (StatusCode::from_u16(error.code.http_status()).unwrap(), json!(error)),
    };
    Ok(Response::builder().status(status).body(Full::new(Bytes::from(body.to_string()))).unwrap())
}

impl World {
    fn handle(&mut self, method: &Method, parts: &[&str], query: &str, body: &[u8]) -> Answer {
        if self.dead_man_at.is_some_and(|at| at <= Instant::now()) {
            self.restore("dead-man: not renewed in time");
        }
        match (method.as_str(), parts) {
            ("GET", ["v1", "state"]) if self.silent > 0 => {
                self.silent -= 1;
                refuse(HostErrorCode::BadRequest, "not now")
            }
            ("GET", ["v1", "state"]) => ok(self.state()),
            ("POST", ["v1", "instances"]) => self.start(read(body)),
            ("GET", ["v1", "instances", id]) => self.instance(id).map(|i| json!(i)),
            ("POST", ["v1", "instances", id, "probe"]) => self.probe(id),
            ("POST", ["v1", "instances", id, "retire"]) => {
                let retire: RetireInstance = read(body);
                self.check(&retire.fence)?;
                self.not_serving(id)?;
                self.instance(id)?.retire_at = Some(Timestamp(1 + retire.after_ms as i64));
                self.instance(id).map(|i| json!(i))
            }
            ("POST", ["v1", "instances", id, "drain"]) => {
                self.instance(id)?;
                ok(DrainResult { in_flight: 0 })
            }
            ("POST", ["v1", "instances", id, "stop"]) => {
                let stop: StopInstance = read(body);
                self.check(&stop.fence)?;
                self.not_serving(id)?;
                let mut instance = self.instance(id)?.clone();
                self.instances.retain(|i| i.id != instance.id);
                instance.state = InstanceState::Stopped;
                ok(instance)
            }
            ("PUT", ["v1", "routes", ..]) => self.apply(read(body)),
            ("POST", ["v1", "routes", _, _, "renew"]) => {
                let renew: RenewDeadMan = read(body);
                self.check(&renew.fence)?;
                if self.dead_man_at.is_none() {
                    return refuse(HostErrorCode::BadRequest, "no dead-man's deadline is set");
                }
                self.dead_man_at = Some(Instant::now() + Duration::from_millis(renew.dead_man_ms));
                ok(self.route.clone())
            }
            ("GET", ["v1", "routes", _, _, "observations"]) => {
                let after = query.split('&').find_map(|pair| pair.strip_prefix("after=")).unwrap().parse().unwrap();
                self.traffic();
                let observations: Vec<_> = self.observations.iter().filter(|o| o.sequence > after).cloned().collect();
                let next = observations.last().map_or(after, |o| o.sequence);
                ok(ObservationBatch { observations, next, lost: 0 })
            }
            other => refuse(HostErrorCode::BadRequest, &format!("{other:?}")),
        }
    }

    fn state(&self) -> HostState {
        HostState {
            gpu_report: None,
            version: "scripted".into(),
            pid: 1,
            listen: Vec::new(),
            proxy_pid: None,
            router_trouble: None,
            instances: self.instances.clone(),
            routes: self.route.clone().into_iter().collect(),
            releases: Vec::new(),
            gpus: Vec::new(),
            restorations: 0,
            backups: Vec::new(),
            carries: Vec::new(),
            start: None,
        }
    }

    fn start(&mut self, start: StartInstance) -> Answer {
        self.check(&start.fence)?;
        if self.instance(start.instance.as_str()).is_err() {
            if self.instances.len() >= self.room {
                return refuse(HostErrorCode::Full, "its only GPU is held by another instance");
            }
            self.instances.push(running(start.instance.clone(), start.release, &start.fence.environment));
        }
        self.instance(start.instance.as_str()).map(|instance| {
            instance.retire_at = None;
            json!(instance)
        })
    }

    fn probe(&mut self, id: &str) -> Answer {
        let release = self.instance(id)?.release.id.0;
        let status = if self.behaviour(release).is_ready { 200 } else { 503 };
        ok(ProbeResult { status: Some(status), latency_us: 900, error: None })
    }

    fn apply(&mut self, apply: ApplyRoute) -> Answer {
        self.check(&apply.fence)?;
        if self.is_router_broken {
            return refuse(HostErrorCode::Router, "nginx can't carry the change: mend it");
        }
        for target in &apply.targets {
            self.instance(target.instance.as_str())?;
        }
        self.weights_asked_for.push((apply.fence.epoch, apply.targets.clone()));
        self.dead_man_at = apply.dead_man_ms.map(|ms| Instant::now() + Duration::from_millis(ms));
        self.route = Some(self.route_with(apply.targets, apply.fallback));
        ok(self.route.clone())
    }

    fn restore(&mut self, reason: &str) {
        self.dead_man_at = None;
        let epoch = self.epoch;
        if let Some(route) = &mut self.route {
            route.targets.clone_from(&route.fallback);
            route.restored = Some(Restored { at: Timestamp(1), reason: reason.into(), epoch });
            route.epoch = epoch;
        }
    }

    fn route_with(&self, targets: Vec<Target>, fallback: Vec<Target>) -> RouteState {
        RouteState {
            environment: self.environment.clone(),
            service: self.service.clone(),
            epoch: self.epoch,
            rules: Vec::new(),
            targets,
            fallback,
            dead_man_at: None,
            restored: None,
            in_flight: [].into(),
            newest_observation: self.observations.len() as u64,
        }
    }

    /// Twenty requests by the weights.
    fn traffic(&mut self) {
        let Some(route) = &self.route else { return };
        let targets = route.targets.clone();
        let sum: u32 = targets.iter().map(|t| t.weight).sum();
        for _ in 0..20 {
            let mut at = self.random.random_range(0..sum.max(1));
            let Some(target) = targets.iter().find(|t| {
                let is_here = at < t.weight;
                at = at.saturating_sub(t.weight);
                is_here
            }) else {
                return;
            };
            let release = self.instances.iter().find(|i| i.id == target.instance).map_or(0, |i| i.release.id.0);
            let failed = self.random.random_bool(self.behaviour(release).error_rate);
            let latency_us = self.random.random_range(800..1200);
            self.observations.push(Observation {
                sequence: self.observations.len() as u64 + 1,
                at: Timestamp(1),
                instance: target.instance.clone(),
                probability: f64::from(target.weight) / f64::from(sum),
                status: if failed { 500 } else { 200 },
                outcome: if failed { Outcome::ServerError } else { Outcome::Ok },
                latency_us,
                duration_us: latency_us + 100,
                rule: None,
                attempt: 1,
                unit: None,
                synthetic: false,
            });
        }
    }

    fn behaviour(&self, release: i64) -> Behaviour {
        self.behaviours.iter().rev().find(|(id, _)| *id == release).map_or(Behaviour::GOOD, |(_, behaviour)| *behaviour)
    }

    fn check(&mut self, fence: &Fence) -> Result<(), HostError> {
        if fence.epoch < self.epoch {
            let message = format!("epoch {} is below {}", fence.epoch, self.epoch);
            return Err(HostError { code: HostErrorCode::StaleEpoch, message, epoch: Some(self.epoch) });
        }
        self.epoch = fence.epoch;
        if let Some(route) = &mut self.route {
            route.epoch = fence.epoch;
        }
        Ok(())
    }

    fn not_serving(&self, id: &str) -> Result<(), HostError> {
        let has_weight = |t: &Target| t.weight > 0 && t.instance.as_str() == id;
        match self.route.as_ref().is_some_and(|route| route.targets.iter().any(has_weight)) {
            true => refuse(HostErrorCode::BadRequest, "it has traffic").map(drop),
            false => Ok(()),
        }
    }

    fn instance(&mut self, id: &str) -> Result<&mut Instance, HostError> {
        self.instances.iter_mut().find(|i| i.id.as_str() == id).ok_or_else(|| HostError {
            code: HostErrorCode::NotFound,
            message: format!("no instance `{id}`"),
            epoch: None,
        })
    }
}

fn running(id: InstanceId, release: Release, environment: &str) -> Instance {
    Instance {
        id,
        environment: environment.into(),
        release,
        address: "127.0.0.1:1".into(),
        state: InstanceState::Running,
        pid: Some(1),
        restarts: 0,
        retire_at: None,
        output: "/nowhere".into(),
        drift: Vec::new(),
        gpu_loss: None,
        gpus: Vec::new(),
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> T {
    serde_json::from_slice(body).unwrap()
}

fn ok(value: impl Serialize) -> Answer {
    Ok(json!(value))
}

fn refuse(code: HostErrorCode, message: &str) -> Answer {
    Err(HostError { code, message: message.into(), epoch: None })
}
