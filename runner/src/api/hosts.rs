//! Hosts as people see them: who may join, who has joined, what each carries, and what runs where.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{Json, extract::State};
use http::StatusCode;
use segue_schemas::{
    api::{
        CarriedService, HostGpu, HostInvitation, HostList, HostRevoked, HostStatus, HostView, MissingService,
        NewHostInvitation, OutOfStep, RunningService, RunningServices,
    },
    gpu::GpuOffer,
    host_api::{HostState, Instance, InstanceState, RouteState},
    id::{InstanceId, ReleaseId},
    worker_api::ErrorBody,
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    App,
    error::Result,
    extract::{Body, Path},
};
use crate::{
    control::Lack,
    store::{JoinedHost, Store, ToldState},
};

/// For how long a host counts as reachable that is not heard. A host of the server's machine is told of each minute at the latest.
const REACHABLE_FOR: Duration = Duration::from_secs(150);

/// How often a host is heard that joined, and one of the server's machine, with some time for the way.
const JOINED_PERIOD: Duration = Duration::from_secs(30);
const LOCAL_PERIOD: Duration = Duration::from_secs(60);

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(hosts))
        .routes(routes!(invite))
        .routes(routes!(revoke))
        .routes(routes!(services))
}

/// Every host that there is, and those that were revoked.
#[utoipa::path(get, path = "/hosts", tag = "hosts", responses((status = 200, body = HostList)))]
async fn hosts(State(app): State<Arc<App>>) -> Result<Json<HostList>> {
    Ok(Json(HostList { items: views(&app.store).await? }))
}

/// Makes a token by which one machine may join under a name, once, for `timing.host-invitation`. It can't be read again.
#[utoipa::path(post, path = "/host-invitations", tag = "hosts", request_body = NewHostInvitation,
    responses((status = 201, body = HostInvitation), (status = 409, body = ErrorBody), (status = 422, body = ErrorBody)))]
async fn invite(
    State(app): State<Arc<App>>,
    Body(wanted): Body<NewHostInvitation>,
) -> Result<(StatusCode, Json<HostInvitation>)> {
    let invited = app.store.invite_host(&wanted.name).await?;
    tracing::info!(host = wanted.name, until = %invited.expires_at, "a host was invited");
    let invitation = HostInvitation { name: wanted.name, token: invited.token.text(), expires_at: invited.expires_at };
    Ok((StatusCode::CREATED, Json(invitation)))
}

/// Takes a host's certificates back, at once. No worker reaches it any more; what it carries goes on as it is.
#[utoipa::path(delete, path = "/hosts/{name}", tag = "hosts", params(("name" = String, Path)),
    responses((status = 200, body = HostRevoked), (status = 404, body = ErrorBody)))]
async fn revoke(State(app): State<Arc<App>>, Path(name): Path<String>) -> Result<Json<HostRevoked>> {
    let rollouts = app.store.revoke_host(&name).await?;
    tracing::info!(host = name, ?rollouts, "a host was revoked");
    Ok(Json(HostRevoked { rollouts }))
}

/// What runs where: each release that a host carries, as it was last told.
#[utoipa::path(get, path = "/services", tag = "hosts", responses((status = 200, body = RunningServices)))]
async fn services(State(app): State<Arc<App>>) -> Result<Json<RunningServices>> {
    let (served, since) = (app.store.served().await?, app.store.serving_since().await?);
    let (mut items, mut missing) = (Vec::new(), Vec::new());
    for host in views(&app.store).await? {
        let Some(heard_at) = host.heard_at else { continue };
        let answers = |one: &&CarriedService| one.weight > 0 && one.running + one.asleep > 0;
        let answered: Vec<(String, String)> = host.carries.iter().filter(answers).map(pair_of).collect();
        let is_of = |lacks: &OutOfStep, carried: &CarriedService| {
            lacks.environment == carried.environment && lacks.service == carried.service
        };
        let lacking = host.out_of_step.iter().filter(|lacks| !host.carries.iter().any(|one| is_of(lacks, one)));
        missing.extend(lacking.map(|lacks| MissingService {
            host: host.name.clone(),
            host_status: host.status,
            not_answering: host.not_answering,
            heard_at,
            lacks: lacks.clone(),
        }));
        for carried in host.carries {
            let pair = (carried.environment.clone(), carried.service.clone());
            let record = served.iter().find(|record| record.environment == pair.0 && record.service == pair.1);
            let current = record.and_then(|record| record.current.as_ref());
            let is_recorded = current.is_some_and(|current| current.id == carried.release.id);
            let may_differ = carried.weight == 100 && !is_recorded;
            let differs = may_differ && app.store.is_heard_since_rollouts(&pair.0, &pair.1, heard_at).await?;
            // weights that a rollout has just set may not have been told yet
            let answers_nobody = current.is_some()
                && !answered.contains(&pair)
                && (carried.running == 0 || app.store.is_heard_since_rollouts(&pair.0, &pair.1, heard_at).await?);
            items.push(RunningService {
                host: host.name.clone(),
                host_status: host.status,
                heard_at,
                since: since.get(&pair).copied().filter(|_| is_recorded),
                recorded: current.filter(|_| differs).map(|current| current.id),
                rollout: record.and_then(|record| record.open_rollout),
                router_trouble: host.router_trouble.clone(),
                not_answering: host.not_answering,
                answers_nobody,
                out_of_step: host.out_of_step.iter().find(|lacks| is_of(lacks, &carried)).cloned(),
                carried,
            });
        }
    }
    let key = |one: &RunningService| {
        (one.carried.environment.clone(), one.carried.service.clone(), one.host.clone(), one.carried.release.id)
    };
    items.sort_by_key(key);
    Ok(Json(RunningServices { items, missing }))
}

fn pair_of(carried: &CarriedService) -> (String, String) {
    (carried.environment.clone(), carried.service.clone())
}

async fn views(store: &Store) -> Result<Vec<HostView>> {
    let (now, quarantined) = (store.now(), store.quarantined_hosts().await?);
    let told: BTreeMap<String, ToldState> =
        store.host_states().await?.into_iter().map(|told| (told.name.clone(), told)).collect();
    let joined = store.joined_hosts().await?;
    let mut views = Vec::new();
    for (name, address) in store.local_hosts() {
        if !joined.iter().any(|host| host.name == name) {
            views.push(view(name, address, None, &told));
        }
    }
    for host in &joined {
        let configured = store.config().hosts.get(&host.name).and_then(|host| host.address.clone());
        let address = configured.unwrap_or_else(|| host.address.clone());
        views.push(view(host.name.clone(), address, Some(host), &told));
    }
    let lacks = store.out_of_step().await?;
    for view in &mut views {
        let of_host = lacks.iter().filter(|lack| lack.host == view.name);
        view.out_of_step = of_host.map(out_of_step).collect();
        let period = if view.joined { JOINED_PERIOD } else { LOCAL_PERIOD };
        let has_missed = view.heard_at.is_some_and(|at| now.since(at) >= period * 2);
        let is_silent = view.heard_at.is_some_and(|at| store.is_host_silent(&view.name, at));
        view.not_answering = view.revoked_at.is_none() && (has_missed || is_silent);
        view.status = if view.revoked_at.is_some() {
            HostStatus::Revoked
        } else if view.heard_at.is_none_or(|at| now.since(at) >= REACHABLE_FOR) {
            HostStatus::Absent
        } else if quarantined.contains(&view.name) {
            HostStatus::Quarantined
        } else {
            HostStatus::Reachable
        };
    }
    views.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(views)
}

fn view(name: String, address: String, joined: Option<&JoinedHost>, told: &BTreeMap<String, ToldState>) -> HostView {
    let told = told.get(&name);
    let report = told.and_then(|told| told.state.gpu_report.clone()).unwrap_or_default();
    HostView {
        name,
        status: HostStatus::Absent,
        address,
        joined: joined.is_some(),
        version: told.map(|told| told.state.version.clone()),
        heard_at: told.map(|told| told.heard_at),
        certificate_ends_at: joined.map(|joined| joined.ends_at),
        revoked_at: joined.and_then(|joined| joined.revoked_at),
        listen: told.map(|told| told.state.listen.clone()).unwrap_or_default(),
        router_trouble: told.and_then(|told| told.state.router_trouble.clone()),
        gpus: told.map(|told| gpus(&told.state)).unwrap_or_default(),
        gpu_faults: report.faults,
        gpu_xids: report.xids,
        gpu_blind: report.blind,
        carries: told.map(|told| carried(&told.state)).unwrap_or_default(),
        not_answering: false,
        out_of_step: Vec::new(),
    }
}

fn out_of_step(lack: &Lack) -> OutOfStep {
    OutOfStep {
        environment: lack.environment.clone(),
        service: lack.release.service.clone(),
        serves: lack.serves,
        recorded: lack.release.id,
        again_at: lack.again_at,
        rollout: lack.rollout,
        failed: lack.failed.as_ref().map(|(rollout, _)| *rollout),
        reason: lack.failed.as_ref().map(|(_, reason)| reason.clone()),
    }
}

/// The releases that a host carries, each with its share of its route's traffic.
fn carried(state: &HostState) -> Vec<CarriedService> {
    let mut found: BTreeMap<(String, String, ReleaseId), CarriedService> = BTreeMap::new();
    for instance in &state.instances {
        let Instance { environment, release, .. } = instance;
        let route =
            state.routes.iter().find(|route| route.environment == *environment && route.service == release.service);
        let key = (environment.clone(), release.service.clone(), release.id);
        let carried = found.entry(key).or_insert_with(|| CarriedService {
            environment: environment.clone(),
            service: release.service.clone(),
            release: release.clone(),
            weight: route.map_or(0, |route| share(route, release.id, &state.instances)),
            running: 0,
            instances: 0,
            asleep: 0,
            restarts: 0,
            drift: Vec::new(),
            gpus: Vec::new(),
            gpu_losses: Vec::new(),
        });
        carried.instances += 1;
        carried.restarts += instance.restarts;
        carried.running += u32::from(instance.state == InstanceState::Running);
        carried.asleep += u32::from(instance.state == InstanceState::Asleep);
        carried.gpus.extend(instance.gpus.iter().cloned());
        carried.gpu_losses.extend(instance.gpu_loss.iter().map(|loss| format!("{}: {loss}", instance.id)));
        carried.drift.extend(instance.drift.iter().map(|drift| format!("{}: {drift}", instance.id)));
    }
    found
        .into_values()
        .map(|mut carried| {
            carried.gpus.sort();
            carried.gpus.dedup();
            carried
        })
        .collect()
}

/// The GPUs that a host offers, and those that an instance has although they are not offered any more.
fn gpus(state: &HostState) -> Vec<HostGpu> {
    let mut gpus: Vec<HostGpu> =
        state.gpus.iter().map(|gpu| HostGpu { gpu: gpu.clone(), instances: Vec::new() }).collect();
    for instance in &state.instances {
        for uuid in &instance.gpus {
            let known = gpus.iter().position(|one| one.gpu.uuid == *uuid).unwrap_or_else(|| {
                let gpu = GpuOffer { uuid: uuid.clone(), name: "not offered now".into(), memory_mib: 0 };
                gpus.push(HostGpu { gpu, instances: Vec::new() });
                gpus.len() - 1
            });
            gpus[known].instances.push(instance.id.to_string());
        }
    }
    gpus
}

/// The percentage of a route's traffic that a release has.
fn share(route: &RouteState, release: ReleaseId, instances: &[Instance]) -> u8 {
    let is_of = |id: &InstanceId| instances.iter().any(|one| one.id == *id && one.release.id == release);
    let all: u64 = route.targets.iter().map(|target| u64::from(target.weight)).sum();
    let own: u64 =
        route.targets.iter().filter(|target| is_of(&target.instance)).map(|target| u64::from(target.weight)).sum();
    u8::try_from((own * 100).checked_div(all).unwrap_or(0)).unwrap_or(100)
}
