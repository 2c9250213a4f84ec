//! From the store's records to what the API shows. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use segue_schemas::{
    api::{
        ApprovalView, AttemptView, DeliveryStatus, DeliveryView, GpuView, JobView, QueuedJob, QueuedPool,
        QueuedRollout, ReleaseView, RollbackPoint, RunSummary, SecretScope, SecretView, StepView, WorkerStatus,
        WorkerTokenView, WorkerView,
    },
    deploy::{Release, Rollout},
    gpu::GpuOffer,
    id::{JobId, RunId},
    time::Timestamp,
    worker_api::StepReport,
};

use crate::store::{self, AttemptRecord, Delivery, DeliveryState, JobRecord, RunDetail, RunRecord};

/// Items of a page: what was asked for, within 1 to 200; 50 where nothing was.
pub fn limit(asked: Option<u32>) -> u32 {
    asked.unwrap_or(50).clamp(1, 200)
}

pub fn run(record: RunRecord) -> RunSummary {
    RunSummary {
        id: record.id,
        repository: record.repository,
        pipeline: record.pipeline,
        file: record.file,
        event: record.event,
        r#ref: record.git_ref,
        commit: record.commit,
        title: record.title.lines().next().unwrap_or_default().chars().take(200).collect(),
        actor: record.actor,
        delivery: record.delivery,
        status: record.status,
        reason: record.diagnostics.or(record.reason),
        attempt: record.attempt,
        terms: record.terms.shown,
        created_at: record.created_at,
        started_at: record.started_at,
        ended_at: record.ended_at,
    }
}

pub fn attempt(record: AttemptRecord) -> AttemptView {
    AttemptView {
        attempt: record.attempt,
        status: record.status,
        reason: None,
        kind: record.kind.as_str().into(),
        terms: record.terms.shown,
        by: Some(record.requested_by).filter(|by| !by.is_empty()),
        created_at: record.created_at,
        started_at: record.started_at,
        ended_at: record.ended_at,
    }
}

/// The jobs of an attempt, in the plan's order.
pub fn jobs(detail: RunDetail) -> Vec<JobView> {
    let approvals = detail.approvals.into_iter().map(|a| (a.job, ApprovalView { required: a.required, by: a.by }));
    let mut approvals: HashMap<JobId, ApprovalView> = approvals.collect();
    detail
        .jobs
        .into_iter()
        .map(|(record, steps)| {
            let approval = approvals.remove(&record.id);
            job(record, steps, approval)
        })
        .collect()
}

fn job(record: JobRecord, steps: Vec<StepReport>, approval: Option<ApprovalView>) -> JobView {
    let name = if record.plan.name.contains("${{") { record.plan.key.clone() } else { record.plan.name };
    JobView {
        id: record.id,
        run: record.run,
        attempt: record.attempt,
        key: record.plan.key,
        name,
        needs: record.plan.needs,
        environment: record.plan.environment,
        environment_url: record.environment_url,
        may_fail: record.plan.continue_on_error,
        status: record.status,
        reason: record.reason,
        failure_class: record.failure_class,
        approval,
        worker: record.worker,
        carried_from: record.carried_from,
        outputs: record.outputs,
        log_bytes: steps.iter().map(|step| step.log_end).max().unwrap_or(0),
        queued_at: record.queued_at,
        started_at: record.started_at,
        ended_at: record.ended_at,
        steps: steps.into_iter().map(step).collect(),
    }
}

fn step(report: StepReport) -> StepView {
    StepView {
        index: report.index,
        name: report.name,
        status: report.status,
        outcome: report.outcome,
        exit_code: report.exit_code,
        reason: report.reason,
        outputs: report.outputs,
        started_at: report.started_at,
        ended_at: report.ended_at,
        log_start: report.log_start,
        log_end: report.log_end,
        annotations: report.annotations,
        summary_bytes: report.summary_bytes,
    }
}

/// A rollout without the decision machine's state, which is for its driver alone.
pub fn rollout(mut rollout: Rollout) -> Rollout {
    rollout.state = None;
    rollout
}

/// A release with its rollback points.
pub fn release(release: Release, points: Vec<store::RollbackPoint>) -> ReleaseView {
    let points = points.into_iter().map(|point| RollbackPoint {
        environment: point.environment,
        tag: point.tag,
        rollout: point.rollout,
        is_current: point.current,
        at: point.created_at,
    });
    ReleaseView { release, points: points.collect() }
}

pub fn delivery(record: Delivery, runs: Vec<RunId>) -> DeliveryView {
    let status = match record.state {
        DeliveryState::Accepted => DeliveryStatus::Pending,
        DeliveryState::Planned => DeliveryStatus::Planned,
        DeliveryState::Ignored => DeliveryStatus::Ignored,
        DeliveryState::Failed => DeliveryStatus::Failed,
    };
    DeliveryView {
        id: record.id,
        event: record.event,
        repository: record.repository,
        status,
        reason: record.reason,
        runs,
        received_at: record.received_at,
    }
}

pub fn secret(record: store::SecretRecord) -> SecretView {
    let scope = SecretScope { repository: record.scope.repository, environment: record.scope.environment };
    SecretView { name: record.name, scope, updated_at: record.updated_at }
}

/// A worker; `alive_for`: how long after it was last heard it counts as alive.
pub fn worker(record: store::WorkerRecord, now: Timestamp, alive_for: Duration) -> WorkerView {
    let status = match record.draining_since {
        _ if record.is_revoked => WorkerStatus::Revoked,
        _ if now.since(record.heard_at) >= alive_for => WorkerStatus::Lost,
        Some(_) => WorkerStatus::Draining,
        None => WorkerStatus::Alive,
    };
    WorkerView {
        status,
        id: record.id,
        labels: record.labels,
        capacity: record.capacity,
        version: record.version,
        registered_at: record.registered_at,
        heard_at: record.heard_at,
        token: record.token,
        draining_since: record.draining_since,
        jobs: record.holds.iter().map(|held| held.job).collect(),
        holds: record.holds,
        drives: record.drives,
        gpus: record.gpus.into_iter().map(|gpu| gpu_view(gpu, &record.taken_gpus)).collect(),
    }
}

fn gpu_view(gpu: GpuOffer, taken: &BTreeMap<String, JobId>) -> GpuView {
    let job = taken.get(&gpu.uuid).copied();
    GpuView { uuid: gpu.uuid, name: gpu.name, memory_mib: gpu.memory_mib, job }
}

pub fn worker_token(record: store::WorkerToken) -> WorkerTokenView {
    let store::WorkerToken { name, labels, created_at, revoked_at, workers } = record;
    WorkerTokenView { name, labels, created_at, revoked_at, workers }
}

pub fn queued_pool(record: store::QueuedPool) -> QueuedPool {
    let store::QueuedPool { labels, jobs, since, workers, free } = record;
    QueuedPool { labels, jobs, since, workers, free }
}

pub fn queued_rollout(record: store::QueuedRollout) -> QueuedRollout {
    let store::QueuedRollout { rollout, environment, service, since, reason } = record;
    QueuedRollout { rollout, environment, service, since, reason }
}

pub fn queued(record: store::QueuedJob) -> QueuedJob {
    QueuedJob {
        job: record.job,
        run: record.run,
        key: record.key,
        repository: record.repository,
        since: record.since,
        reason: record.reason,
    }
}
