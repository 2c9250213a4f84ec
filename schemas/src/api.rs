//! What the public API says and hears: HTTP with JSON bodies under `/api/v1`, `Authorization: Bearer <admin token>`.
//!
//! | request | body -> answer |
//! | --- | --- |
//! | `GET /status` | -> [`ServerStatus`] |
//! | `GET /deliveries?limit=&before=` | -> [`DeliveryPage`], newest first |
//! | `GET /deliveries/{guid}` | -> [`DeliveryView`] with the runs that came of it |
//! | `GET /runs?repository=&pipeline=&ref=&commit=&event=&status=&before=&limit=` | [`RunQuery`] -> [`RunPage`], newest first |
//! | `GET /runs/{id}?attempt=` | -> [`RunView`]; the newest attempt where none is named |
//! | `GET /runs/{id}/events` | -> SSE of [`RunEvent`]: the state first, then each change, `end` last |
//! | `GET /runs/{id}/attempts/compare?from=&to=` | [`AttemptsQuery`] -> [`AttemptsDiff`]: what came out otherwise |
//! | `POST /repositories/{owner}/{name}/dispatches` | [`DispatchRequest`] -> 201 [`Dispatched`] |
//! | `POST /runs/{id}/rerun` | [`RerunRequest`] -> [`RunSummary`]: a new attempt |
//! | `POST /runs/{id}/cancel` | [`CancelRequest`] -> [`RunSummary`]; one that has ended is left as it is |
//! | `POST /runs/{id}/approve` | [`ApproveRequest`] -> [`Approved`] |
//! | `GET /jobs/{id}` | -> [`JobView`] |
//! | `GET /jobs/{id}/logs?offset=&limit=` | -> plain text from that byte on; header `segue-log-end` says where it ends now |
//! | `GET /jobs/{id}/logs?follow=true` | -> SSE: `log` events with [`LogChunk`], `id:` is the offset after it; `end` with [`LogEnd`] |
//! | `GET /releases?repository=&service=&environment=&limit=` | -> [`ReleaseList`], newest first |
//! | `GET /environments` | -> [`EnvironmentList`] |
//! | `POST /environments/{environment}/services/{service}/rollback` | [`RollbackRequest`] -> 201 [`Rollout`] |
//! | `POST /promotions` | [`PromotionRequest`] -> [`PromotionList`]; 201 where runs were started |
//! | `GET /backups?environment=&service=&limit=` | -> [`BackupList`], newest first |
//! | `POST /backups/sync` | [`crate::sync::SyncRequest`] -> 201 [`Rollout`] |
//! | `POST /backups/{id}/restore` | [`RestoreRequest`] -> 201 [`Rollout`] |
//! | `GET /rollouts?environment=&service=&active=&run=&limit=` | -> [`RolloutList`], newest first |
//! | `GET /rollouts/{id}` | -> [`RolloutView`]: with its journal |
//! | `GET /rollouts/{id}/events` | -> SSE of [`RolloutEvent`]: the state first, then each change, `end` last |
//! | `POST /rollouts/{id}/promote`, `/abort`, `/skip` | [`RolloutWord`] -> [`Rollout`] |
//! | `GET /secrets` | -> [`SecretList`]: names, never values |
//! | `PUT /secrets/{name}?repository=&environment=` | [`SecretValue`] -> 204 |
//! | `DELETE /secrets/{name}?repository=&environment=` | -> 204 |
//! | `GET /workers` | -> [`WorkerList`] |
//! | `PUT`, `DELETE /workers/{id}/drain` | -> 204; it takes no new work, or takes it again |
//! | `GET /worker-tokens` | -> [`WorkerTokenList`]: names, never tokens |
//! | `POST /worker-tokens` | [`NewWorkerToken`] -> 201 [`WorkerTokenMade`] |
//! | `DELETE /worker-tokens/{name}` | -> [`Revoked`]; at once |
//! | `GET /hosts` | -> [`HostList`] |
//! | `POST /host-invitations` | [`NewHostInvitation`] -> 201 [`HostInvitation`] |
//! | `DELETE /hosts/{name}` | -> [`HostRevoked`]; at once |
//! | `GET /services` | -> [`RunningServices`]: what runs where |
//! | `GET /queue?limit=` | -> [`QueueList`]: what waits and what for, oldest first |
//! | `GET /queue/dead-letters` | -> [`crate::queue::DeadLetterList`]: messages that nobody could do anything with |
//! | `POST /queue/dead-letters/requeue` | [`crate::queue::RequeueRequest`] -> [`crate::queue::Requeued`] |
//! | `POST /environments/{environment}/services/{service}/emergency` | [`EmergencyReport`] -> [`Rollout`]: put on record what was done at the host |
//!
//! Outside `/api/v1`, without a token: `POST /webhooks/github` -> 202 [`Accepted`], `GET /healthz`, `/readyz`, `/metrics`.
//!
//! Errors are [`crate::worker_api::ErrorBody`]. A server-sent event's `event:` is the `kind` of its data. A stream that falls
//! behind skips to the newest state (logs: goes on at its offset); nothing is queued for it.

mod attempts;
mod hosts;
mod workers;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

pub use self::{attempts::*, hosts::*, workers::*};
use crate::{
    annotation::Annotation,
    artifact::Artifact,
    deploy::{JournalEntry, Release, Rollout},
    host_api::EmergencyResult,
    id::{BackupId, CommitSha, DeliveryId, Digest, JobId, ReleaseId, RolloutId, RunId, WorkerId},
    status::{Conclusion, FailureClass, JobStatus, RunStatus, StepStatus},
    time::Timestamp,
};

/// A webhook's delivery is on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct Accepted {
    /// Its GUID.
    pub delivery: DeliveryId,
}

/// How the server stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct ServerStatus {
    /// Its version.
    pub version: String,
    /// When it was started.
    pub started_at: Timestamp,
    /// Free space of the data directory's disk in MiB.
    pub disk_free_mib: u64,
    /// Whether the disk is so full that no job starts (deliveries are still taken).
    pub is_disk_low: bool,
    /// Deliveries that are not planned yet.
    pub unplanned_deliveries: u64,
    /// Jobs that wait for a worker.
    pub queued_jobs: u64,
    /// Jobs that a worker holds.
    pub running_jobs: u64,
    /// Rollouts that have not ended.
    pub active_rollouts: u64,
}

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryStatus {
    /// Stored; the planner has not been there yet.
    Pending,
    /// Planned; its runs are those that matched.
    Planned,
    /// Nothing to do; the reason says why.
    Ignored,
    /// It could not be planned; the reason says why.
    Failed,
}

/// A webhook delivery, or what a person asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct DeliveryView {
    /// Its GUID.
    pub id: DeliveryId,
    /// `push`, `pull_request`, ...; as GitHub names it.
    pub event: String,
    /// `owner/name`, where the event has one.
    pub repository: Option<String>,
    /// What became of it.
    pub status: DeliveryStatus,
    /// Why nothing came of it, or why the last try to plan it failed.
    pub reason: Option<String>,
    /// The runs that came of it.
    pub runs: Vec<RunId>,
    /// When it was received.
    pub received_at: Timestamp,
}

/// Deliveries, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct DeliveryPage {
    /// The deliveries.
    pub items: Vec<DeliveryView>,
    /// Pass as `before` for the next page; `None`: this is the last.
    pub next: Option<i64>,
}

/// Which deliveries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub struct DeliveryQuery {
    /// What `next` said on the page before.
    pub before: Option<i64>,
    /// How many, 1 to 200; 50 where it is left out.
    pub limit: Option<u32>,
}

/// Which runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub struct RunQuery {
    /// Only of this repository, `owner/name`.
    pub repository: Option<String>,
    /// Only of the pipeline with this name or file stem.
    pub pipeline: Option<String>,
    /// Only of this ref: `refs/heads/main`, or `main` for a branch.
    #[serde(rename = "ref")]
    pub r#ref: Option<String>,
    /// Only of this commit.
    pub commit: Option<CommitSha>,
    /// Only of this event.
    pub event: Option<String>,
    /// Only in this status.
    pub status: Option<RunStatus>,
    /// Only runs with a lower number: what `next` said on the page before.
    pub before: Option<RunId>,
    /// How many, 1 to 200; 50 where it is left out.
    pub limit: Option<u32>,
}

/// Runs, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct RunPage {
    /// The runs.
    pub items: Vec<RunSummary>,
    /// Pass as `before` for the next page; `None`: this is the last.
    pub next: Option<RunId>,
}

/// A run, as its newest attempt stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct RunSummary {
    /// Its number.
    pub id: RunId,
    /// `owner/name`.
    pub repository: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// The pipeline's file, from the repository's root.
    pub file: String,
    /// `push`, `pull_request`, `workflow_dispatch`.
    pub event: String,
    /// The ref: `refs/heads/main`.
    #[serde(rename = "ref")]
    pub r#ref: String,
    /// The commit.
    pub commit: CommitSha,
    /// The commit's message or the pull request's title; its first line, at most 200 characters.
    pub title: String,
    /// Who did it.
    pub actor: String,
    /// The delivery that it came of, or the key under which it was started by hand.
    pub delivery: Option<DeliveryId>,
    /// How it stands.
    pub status: RunStatus,
    /// Why it stands there, unless all went well. Diagnostics of a pipeline file that could not be read are found here,
    /// whole, over several lines.
    pub reason: Option<String>,
    /// The newest attempt, from 1.
    pub attempt: u32,
    /// What the newest attempt was asked for with.
    #[serde(default, skip_serializing_if = "AttemptTerms::is_plain")]
    pub terms: AttemptTerms,
    /// When it was planned.
    pub created_at: Timestamp,
    /// When the first job of the newest attempt was claimed.
    pub started_at: Option<Timestamp>,
    /// When the newest attempt ended.
    pub ended_at: Option<Timestamp>,
}

/// A run with one of its attempts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct RunView {
    /// The run.
    pub run: RunSummary,
    /// Every attempt, oldest first.
    pub attempts: Vec<AttemptView>,
    /// The attempt that `jobs` and `artifacts` belong to.
    pub attempt: u32,
    /// Its jobs, in the plan's order.
    pub jobs: Vec<JobView>,
    /// Its artifacts.
    pub artifacts: Vec<Artifact>,
    /// The rollouts that its steps made, oldest first.
    pub rollouts: Vec<RolloutId>,
    /// Who said yes to it, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvals: Vec<GivenApproval>,
}

/// Somebody's yes to a run, for its commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct GivenApproval {
    /// For which environment; empty: that code from outside the repository may run.
    pub environment: String,
    /// Who.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// Why the environment's rules were passed by, where they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bypass: Option<String>,
}

impl GivenApproval {
    /// In a sentence.
    #[must_use]
    pub fn in_words(&self) -> String {
        let Self { environment, by, bypass, .. } = self;
        match (environment.as_str(), bypass) {
            ("", _) => format!("{by} let this commit run, which is from outside the repository"),
            (environment, None) => format!("{by} approved it for `{environment}`"),
            (environment, Some(reason)) => format!("{by} passed by the rules of `{environment}`: {reason}"),
        }
    }
}

/// One attempt of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct AttemptView {
    /// Which, from 1.
    pub attempt: u32,
    /// How it stands.
    pub status: RunStatus,
    /// Why, unless all went well.
    pub reason: Option<String>,
    /// Who asked for it, where it was a person.
    pub by: Option<String>,
    /// What of the run it was to run: `first`, `whole`, `failed`, `step`.
    #[serde(default)]
    pub kind: String,
    /// What else was asked for.
    #[serde(default, skip_serializing_if = "AttemptTerms::is_plain")]
    pub terms: AttemptTerms,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its first job was claimed.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

/// A job of one attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct JobView {
    /// Its id.
    pub id: JobId,
    /// Its run.
    pub run: RunId,
    /// The attempt that it belongs to.
    pub attempt: u32,
    /// Its key in the plan.
    pub key: String,
    /// Its name for people.
    pub name: String,
    /// The keys of the jobs before it.
    pub needs: Vec<String>,
    /// The environment that it changes.
    pub environment: Option<String>,
    /// Where what it has deployed can be seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment_url: Option<String>,
    /// Whether its failure is none of the run: one that is `failed` is shown as failed, allowed.
    #[serde(default)]
    pub may_fail: bool,
    /// How it stands.
    pub status: JobStatus,
    /// Why it failed, was skipped or waits.
    pub reason: Option<String>,
    /// What kind of failure.
    pub failure_class: Option<FailureClass>,
    /// What an approval would be for; `None` where none is missing.
    pub approval: Option<ApprovalView>,
    /// Who has it or had it last.
    pub worker: Option<WorkerId>,
    /// The job of an earlier attempt whose end it took over: it did not run again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carried_from: Option<JobId>,
    /// Its outputs.
    pub outputs: IndexMap<String, String>,
    /// Bytes of log that are stored.
    pub log_bytes: u64,
    /// When it became claimable.
    pub queued_at: Option<Timestamp>,
    /// When it was first claimed.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Its steps as last reported.
    pub steps: Vec<StepView>,
}

/// An approval that a job waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct ApprovalView {
    /// How many are needed.
    pub required: u32,
    /// Who has approved already.
    pub by: Vec<String>,
}

/// A step of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct StepView {
    /// Which step of the plan, from 0.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// How it stands.
    pub status: StepStatus,
    /// How it ended, before `continue-on-error`.
    pub outcome: Option<Conclusion>,
    /// The exit code of its process.
    pub exit_code: Option<i32>,
    /// Why it failed or was skipped.
    pub reason: Option<String>,
    /// What it set.
    pub outputs: IndexMap<String, String>,
    /// When it started, by the worker's clock.
    pub started_at: Option<Timestamp>,
    /// When it ended, by the worker's clock.
    pub ended_at: Option<Timestamp>,
    /// Where its log begins in the job's.
    pub log_start: u64,
    /// Where its log ends in the job's.
    pub log_end: u64,
    /// What it said by `::error::` and its like.
    #[serde(default)]
    pub annotations: Vec<Annotation>,
    /// The length of its summary in bytes; the text is at `/jobs/{id}/summary`.
    #[serde(default)]
    pub summary_bytes: u64,
}

/// A change of a run, or (first) its state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case", tag = "kind", content = "data")]
pub enum RunEvent {
    /// The run changed.
    Run(RunSummary),
    /// A job of it, or a step of that, changed.
    Job(Box<JobView>),
    /// A job of it is no more: its combinations, which follow, have taken its place.
    Gone(JobId),
    /// A rollout of it changed.
    Rollout(Box<Rollout>),
    /// The run has ended; nothing follows.
    End(RunSummary),
}

/// Run a commit by hand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DispatchRequest {
    /// A branch or tag (`main`, `refs/tags/v1`). The commit's own run of a branch is not touched by it. With `commit`: the
    /// ref that `github.ref` shows. Left out: the repository's default branch.
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    pub r#ref: Option<String>,
    /// The commit; the newest of `ref` where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<CommitSha>,
    /// The pipeline's name or file stem; every one with `on: workflow_dispatch` where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<String>,
    /// The inputs.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub inputs: IndexMap<String, String>,
    /// Chosen by the caller: the same key again starts nothing and answers with what it started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<DeliveryId>,
    /// Who asks, for the record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// Tell a repository that something happened elsewhere: its default branch's pipelines with `on: repository_dispatch` run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RepositoryDispatchRequest {
    /// What `types` of the pipelines names; 1 to 100 characters.
    pub event_type: String,
    /// Seen as `github.event.client_payload`: an object of at most 10 keys and 64 KiB.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub client_payload: serde_json::Value,
    /// Chosen by the caller: the same key again starts nothing and answers with what it started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<DeliveryId>,
    /// Who asks, for the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// What was started by hand.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct Dispatched {
    /// The GUID under which it is recorded.
    pub delivery: DeliveryId,
    /// The runs.
    pub runs: Vec<RunSummary>,
}

/// Run a run once more, as a new attempt with the same commit, and the same inputs unless others are given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RerunRequest {
    /// Only the jobs that did not succeed, and what comes after them.
    pub failed: bool,
    /// Only this job from this step on, and what comes after it: `JOB/STEP`, the step by its id, its name or its number from 1. The
    /// workspace is as it was before that step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Whether jobs that have deployed before do so again. Left out: the request is refused with `would_deploy` where one would.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deploy: Option<bool>,
    /// Whether its steps tell more: `RUNNER_DEBUG=1`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub debug: bool,
    /// Inputs that are others than before, of a run that was started by hand.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub inputs: IndexMap<String, String>,
    /// Why, for the record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Who asks, for the record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// Cancel a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CancelRequest {
    /// Who asks, for the record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Approve what a run waits for, for the commit that it has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ApproveRequest {
    /// Only the job with this key; every one that waits for an approval where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Who approves; one person counts once. `admin` where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why the rules of the environment are passed by: approvals that are missing, a wait, a freeze. It is kept with the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bypass: Option<String>,
}

/// What was approved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct Approved {
    /// The keys of the jobs.
    pub jobs: Vec<String>,
}

/// A part of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct LogChunk {
    /// Where it begins.
    pub offset: u64,
    /// The text; what is not UTF-8 is replaced. Cut at character borders.
    pub text: String,
}

/// A log is complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct LogEnd {
    /// How long it is.
    pub offset: u64,
    /// How its job ended.
    pub status: JobStatus,
}

/// Which part of a log, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub struct LogQuery {
    /// The first byte.
    pub offset: Option<u64>,
    /// At most so many bytes; to the end where it is left out.
    pub limit: Option<u64>,
    /// Server-sent events until the job has ended. `Last-Event-ID` goes before `offset`.
    pub follow: bool,
}

/// Which releases.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub struct ReleaseQuery {
    /// Only of this repository, `owner/name`.
    pub repository: Option<String>,
    /// Only of this service.
    pub service: Option<String>,
    /// Only those that were rolled out to this environment.
    pub environment: Option<String>,
    /// How many, 1 to 200; 50 where it is left out.
    pub limit: Option<u32>,
}

/// Releases, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct ReleaseList {
    /// The releases.
    pub items: Vec<ReleaseView>,
}

/// A release and where it has been.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct ReleaseView {
    /// The release.
    pub release: Release,
    /// Its rollback points: one per environment that it was promoted in.
    pub points: Vec<RollbackPoint>,
}

/// A release that served in an environment, and that can be gone back to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct RollbackPoint {
    /// The environment.
    pub environment: String,
    /// `rollback-YYYYMMDD-HHMMSS`.
    pub tag: String,
    /// The rollout that promoted it.
    pub rollout: RolloutId,
    /// Whether it is what serves now.
    pub is_current: bool,
    /// When it was promoted.
    pub at: Timestamp,
}

/// The environments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct EnvironmentList {
    /// In the order of the operator's file.
    pub items: Vec<EnvironmentView>,
}

/// An environment and what serves in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct EnvironmentView {
    /// Its name.
    pub name: String,
    /// The names of its hosts.
    pub hosts: Vec<String>,
    /// Environments that an artifact must have passed before.
    pub requires: Vec<String>,
    /// How many approvals a job for it needs.
    pub required_approvals: u32,
    /// Until when nothing is deployed to it, or when that begins next; left out: no freeze is to come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freeze: Option<String>,
    /// The services in it.
    pub services: Vec<ServiceView>,
}

/// A service in an environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct ServiceView {
    /// Its name.
    pub service: String,
    /// What serves.
    pub current: Option<Release>,
    /// A rollout that has not ended.
    pub active_rollout: Option<RolloutId>,
}

/// Go back to an earlier release.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RollbackRequest {
    /// The tag of a rollback point, or a release's number. The last good one before the current where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Why, for the record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Who asks, for the record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// Have what serves in one environment serve in another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PromotionRequest {
    /// Where it serves.
    pub from: String,
    /// Where it is to serve.
    pub to: String,
    /// The service; every one that serves in `from` where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// How: as the last release came to `to` where it is left out, which is at once where none has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strategy: Option<PromotionStrategy>,
    /// Only say what would be promoted.
    pub dry_run: bool,
    /// Who asks, for the record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// How a promoted release comes to its traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PromotionStrategy {
    /// At once.
    HotSwap,
    /// By stages: those of the last canary there, else 10, 50 and 100 percent.
    Canary,
}

/// What is, or would be, promoted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct PromotionList {
    /// One for each service.
    pub items: Vec<PromotionView>,
}

/// One service that is, or would be, promoted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct PromotionView {
    /// The service.
    pub service: String,
    /// What serves where it comes from.
    pub release: Release,
    /// What serves where it goes to; nothing yet where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Release>,
    /// Whether that is the same, so that nothing is to be done.
    pub is_same: bool,
    /// How it comes to its traffic.
    pub strategy: crate::deploy::Strategy,
    /// The commits that it brings, newest first, 50 at most; left out where that can't be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commits: Option<Vec<PromotedCommit>>,
    /// The run that does it, through the gates of the target; left out where none was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<RunSummary>,
}

/// A commit that a promotion brings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct PromotedCommit {
    /// The commit.
    pub commit: CommitSha,
    /// The first line of its message, at most 200 characters.
    pub title: String,
}

/// Which backups.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub struct BackupQuery {
    /// Only of this environment.
    pub environment: Option<String>,
    /// Only of this service.
    pub service: Option<String>,
    /// How many, 1 to 200; 50 where it is left out.
    pub limit: Option<u32>,
}

/// Backups of services, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct BackupList {
    /// The backups, one for each host that has taken part.
    pub items: Vec<BackupView>,
}

/// A backup of a service's data on one host, as it was last told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct BackupView {
    /// Its name; the same on each host that has taken part.
    pub id: BackupId,
    /// The host.
    pub host: String,
    /// The environment.
    pub environment: String,
    /// The service.
    pub service: String,
    /// The release that served.
    pub release: ReleaseId,
    /// The commit of that.
    pub commit: CommitSha,
    /// When it was begun.
    pub begun_at: Timestamp,
    /// What it was taken for.
    pub why: String,
    /// What has become of it.
    pub status: BackupStatus,
    /// Its size, once it is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// The digest of its bytes, once it is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Digest>,
    /// Why it could not be taken, with the last lines of its command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What has become of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BackupStatus {
    /// It is being taken.
    Taking,
    /// It is kept.
    Kept,
    /// It could not be taken.
    Failed,
}

/// Bring a backup back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RestoreRequest {
    /// Why, for the record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Who asks, for the record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// Which rollouts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub struct RolloutQuery {
    /// Only to this environment.
    pub environment: Option<String>,
    /// Only of this service.
    pub service: Option<String>,
    /// Only those that a step of this run made.
    pub run: Option<RunId>,
    /// Only of this release.
    pub release: Option<ReleaseId>,
    /// Only those that have (not) ended.
    pub active: Option<bool>,
    /// How many, 1 to 200; 50 where it is left out.
    pub limit: Option<u32>,
}

/// Rollouts, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct RolloutList {
    /// The rollouts, without the decision machine's state.
    pub items: Vec<Rollout>,
}

/// A rollout with its journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct RolloutView {
    /// The rollout.
    pub rollout: Rollout,
    /// What was done and seen, in order.
    pub journal: Vec<JournalEntry>,
}

/// A change of a rollout, or (first) its state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case", tag = "kind", content = "data")]
pub enum RolloutEvent {
    /// It changed; without the decision machine's state.
    Rollout(Box<Rollout>),
    /// A new entry of its journal.
    Journal(JournalEntry),
    /// It has ended; nothing follows.
    End(Box<Rollout>),
}

/// A person's word to a rollout, for the record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RolloutWord {
    /// Who says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Where a secret holds. Without both: everywhere. The narrowest one wins: repository and environment, then environment, then
/// repository, then everywhere.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, ToSchema, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub struct SecretScope {
    /// Only for this repository, `owner/name`.
    pub repository: Option<String>,
    /// Only for jobs with this environment.
    pub environment: Option<String>,
}

/// A secret's value. It can't be read back.
#[derive(Clone, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretValue {
    /// The value, at most 64 KiB.
    pub value: String,
}

impl std::fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretValue(..)")
    }
}

/// The secrets that are set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct SecretList {
    /// By name.
    pub items: Vec<SecretView>,
}

/// A secret, without its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct SecretView {
    /// Its name.
    pub name: String,
    /// Where it holds.
    pub scope: SecretScope,
    /// When it was last set.
    pub updated_at: Timestamp,
}

/// How many.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub struct Limit {
    /// How many, 1 to 200; 50 where it is left out.
    pub limit: Option<u32>,
}

/// An emergency rollback that was done at the host, for the record.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct EmergencyReport {
    /// The host's answer.
    #[schema(value_type = Object)]
    pub result: EmergencyResult,
    /// Who did it, and why.
    pub reason: String,
}
