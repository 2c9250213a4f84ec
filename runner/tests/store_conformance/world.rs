//! A store with a clock that tests turn, and short words for what a server, a worker and a person do.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use indexmap::IndexMap;
use segue_integration_tests::{
    postgres::{Database, Postgres, StoodStill},
    s3::S3,
};
use segue_runner::store::{Clock, Meaning, NewDelivery, NewRun, Payload, PlanOutcome, Planning, Store, StoreOptions};
use segue_schemas::{
    config::{Config, DatabaseConfig, StorageConfig, StorageKind},
    deploy::{JournalEntry, JournalKind, ServiceSpec, Strategy},
    gpu::{self, GpuOffer},
    id::{CommitSha, Digest, Epoch, JobId, RolloutId, RunId},
    plan::{JobPlan, RunPlan, StepAction, StepPlan},
    status::{Conclusion, FailureClass, RolloutStatus, RunStatus, StepStatus},
    time::Timestamp,
    trigger::{Event, Trigger},
    worker_api::{
        ClaimRequest, CreateRollout, CreatedRollout, JobClaim, JobFinish, JobReport, JobWait, Register, RolloutClaim,
        RolloutReport, StepReport,
    },
};

pub struct World {
    pub store: Store,
    pub directory: Arc<tempfile::TempDir>,
    clock: Arc<AtomicI64>,
    next: AtomicU64,
    /// Where contents lie, if not in the data directory, and the folder of the keys to it.
    s3: Option<(S3, tempfile::TempDir)>,
    /// Where the state is, if not in the data directory. Last, as it can't go while somebody uses it.
    database: Option<Arc<Database>>,
}

/// The world of the embedded backend.
pub async fn sqlite() -> World {
    World::open(Config::default()).await
}

/// The world of servers that share a database.
pub async fn postgres() -> World {
    let database = Arc::new(Postgres::shared().unwrap().database().unwrap());
    let config = Config {
        database: DatabaseConfig { url: Some(database.url()), ..DatabaseConfig::default() },
        ..Config::default()
    };
    let mut world = World::open(config).await;
    world.database = Some(database);
    world
}

/// The same, under the name of what concerns several of them.
pub async fn postgres_shared() -> World {
    postgres().await
}

/// The world of the embedded backend, with contents in a bucket.
pub async fn bucket() -> World {
    let _already_installed = rustls::crypto::ring::default_provider().install_default();
    let s3 = S3::start("contents", "key", "secret").await.unwrap();
    let keys = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let file = keys.path().join(name);
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        Some(file)
    };
    let storage = StorageConfig {
        kind: StorageKind::S3,
        bucket: Some("contents".into()),
        endpoint: Some(s3.endpoint()),
        prefix: Some("prefix".into()),
        access_key_file: file("id", "key"),
        secret_key_file: file("secret", "secret"),
        ..StorageConfig::default()
    };
    let mut world = World::open(Config { storage, ..Config::default() }).await;
    world.s3 = Some((s3, keys));
    world
}

impl World {
    pub fn s3(&self) -> &S3 {
        &self.s3.as_ref().unwrap().0
    }

    pub async fn open(config: Config) -> Self {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        let clock = Arc::new(AtomicI64::new(1_700_000_000_000));
        let store = open(directory.path().join("data"), config, clock.clone()).await;
        Self { store, directory, clock, next: AtomicU64::new(1), s3: None, database: None }
    }

    /// The same world under another configuration.
    pub async fn configured(self, change: impl FnOnce(&mut Config)) -> Self {
        let known = self.store.config();
        let mut config =
            Config { storage: known.storage.clone(), database: known.database.clone(), ..Config::default() };
        config.secrets.key_file = Some(self.directory.path().join("secret.key"));
        change(&mut config);
        self.reopened_with(config).await
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// A new start under a configuration that has changed.
    pub async fn reconfigured(self, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = (**self.store.config()).clone();
        change(&mut config);
        self.reopened_with(config).await
    }

    /// What a crash and a new start leave: nothing is closed in order.
    pub async fn reopened(self) -> Self {
        let config = (**self.store.config()).clone();
        self.reopened_with(config).await
    }

    async fn reopened_with(self, config: Config) -> Self {
        let Self { store, directory, clock, next, s3, database } = self;
        drop(store);
        let store = open(directory.path().join("data"), config, clock.clone()).await;
        Self { store, directory, clock, next, s3, database }
    }

    /// What the database holds where secrets are, and what it is about to.
    pub fn stored_secrets(&self) -> Vec<u8> {
        match &self.database {
            Some(database) => database.sql("SELECT * FROM secrets").unwrap().into_bytes(),
            None => std::fs::read(self.directory.path().join("data/segue.db-wal")).unwrap(),
        }
    }

    /// Another server on the same database, with a data directory of its own.
    pub async fn another_server(&self) -> Store {
        let n = self.next.fetch_add(1, Ordering::SeqCst);
        let config = (**self.store.config()).clone();
        open(self.directory.path().join(format!("data-{n}")), config, self.clock.clone()).await
    }

    /// Whether the database only reads from now on. Connections that are there know nothing of it.
    pub fn only_reads(&self, only: bool) {
        let database = self.database.as_ref().unwrap();
        let name = database.sql("SELECT current_database()").unwrap();
        database
            .server()
            .sql("postgres", &format!("ALTER DATABASE {name} SET default_transaction_read_only = {only}"))
            .unwrap();
        self.cut_connections();
    }

    /// Takes the writers' lock as a server does, and does nothing more.
    pub fn stand_still(&self) -> StoodStill {
        self.database.as_ref().unwrap().stand_still()
    }

    /// Ends every connection to the database, as a restart of it does.
    pub fn cut_connections(&self) {
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()";
        self.database.as_ref().unwrap().sql(sql).unwrap();
    }

    pub fn pass(&self, time: Duration) {
        self.clock.fetch_add(i64::try_from(time.as_millis()).unwrap(), Ordering::SeqCst);
    }

    pub fn push(&self, repository: &str) -> Trigger {
        let n = self.next.fetch_add(1, Ordering::SeqCst);
        Trigger {
            repository: repository.into(),
            clone_url: Some(format!("https://example.invalid/{repository}.git")),
            actor: "ada".into(),
            authors: Vec::new(),
            event: Event::Push {
                r#ref: "refs/heads/main".into(),
                before: commit(n),
                after: commit(n + 1_000_000),
                message: format!("Change {n}\n\nbody"),
                forced: false,
            },
        }
    }

    pub fn delivery(&self, trigger: Trigger) -> NewDelivery {
        let n = self.next.fetch_add(1, Ordering::SeqCst);
        NewDelivery {
            id: format!("guid-{n}").parse().unwrap(),
            event: trigger.event.name().into(),
            repository: Some(trigger.repository.clone()),
            payload: Payload::Inline("{}".into()),
            meaning: Meaning::Starts(trigger),
        }
    }

    /// A push that becomes one run with these jobs.
    pub async fn run(&self, jobs: Vec<JobPlan>) -> RunId {
        self.run_of(self.push("o/r"), jobs).await
    }

    pub async fn run_of(&self, trigger: Trigger, jobs: Vec<JobPlan>) -> RunId {
        let delivery = self.delivery(trigger);
        let id = delivery.id.clone();
        self.store.accept_delivery(delivery).await.unwrap();
        match self.store.record_planned(&id, Planning::Runs(vec![NewRun::Planned(plan(jobs))])).await.unwrap() {
            PlanOutcome::Made(runs) => runs[0],
            other => panic!("{other:?}"),
        }
    }

    pub async fn worker(&self, name: &str, incarnation: &str) -> ClaimRequest {
        self.worker_with(name, incarnation, 8, &["default"]).await
    }

    pub async fn worker_with(&self, name: &str, incarnation: &str, capacity: u32, labels: &[&str]) -> ClaimRequest {
        self.worker_with_gpus(name, incarnation, capacity, labels, &[]).await
    }

    /// One that offers GPUs, each named with its memory.
    pub async fn worker_with_gpus(
        &self,
        name: &str,
        incarnation: &str,
        capacity: u32,
        labels: &[&str],
        gpus: &[(&str, u64)],
    ) -> ClaimRequest {
        let offer = |(uuid, memory_mib): &(&str, u64)| GpuOffer {
            uuid: (*uuid).to_owned(),
            name: "NVIDIA".into(),
            memory_mib: *memory_mib,
        };
        let gpus: Vec<GpuOffer> = gpus.iter().map(offer).collect();
        let labels: Vec<String> = labels.iter().map(|l| (*l).to_owned()).chain(gpu::offered_labels(&gpus)).collect();
        let register = Register {
            worker: name.parse().unwrap(),
            incarnation: incarnation.into(),
            labels: labels.clone(),
            capacity,
            version: "0".into(),
            gpus,
        };
        self.store.register_worker(register).await.unwrap();
        let strategies = segue_schemas::strategy::NEWER.map(Into::into).to_vec();
        ClaimRequest { worker: name.parse().unwrap(), incarnation: incarnation.into(), labels, wait_ms: 0, strategies }
    }

    pub async fn claim(&self, worker: &ClaimRequest) -> JobClaim {
        self.store.claim_job(worker).await.unwrap().expect("something is claimable")
    }

    pub async fn finish(&self, claim: &JobClaim, conclusion: Conclusion) {
        self.store.finish_job(claim.job, finish(claim, conclusion)).await.unwrap();
    }

    pub async fn status(&self, run: RunId) -> RunStatus {
        self.store.run(run).await.unwrap().status
    }

    /// Each job of the newest attempt as `key status`, with its reason where it has one.
    pub async fn jobs(&self, run: RunId) -> Vec<String> {
        let detail = self.store.run_detail(run, None).await.unwrap();
        let line = |job: &segue_runner::store::JobRecord| match &job.reason {
            Some(reason) => format!("{} {}: {reason}", job.plan.key, job.status),
            None => format!("{} {}", job.plan.key, job.status),
        };
        detail.jobs.iter().map(|(job, _)| line(job)).collect()
    }

    pub async fn job_id(&self, run: RunId, key: &str) -> JobId {
        let detail = self.store.run_detail(run, None).await.unwrap();
        detail.jobs.iter().find(|(job, _)| job.plan.key == key).unwrap().0.id
    }

    /// Uploads an artifact of these bytes.
    pub async fn artifact(&self, bytes: &[u8]) -> Digest {
        let hash = ring_digest(bytes);
        let digest: Digest = format!("sha256:{hash}").parse().unwrap();
        let mut upload = self.store.artifacts().upload(&digest, 1 << 20).await.unwrap();
        upload.write(bytes.to_vec().into()).await.unwrap();
        self.store.keep_content(&digest, upload).await.unwrap();
        digest
    }

    /// Whether a content lies where contents lie.
    pub async fn has(&self, digest: &Digest) -> bool {
        self.store.artifacts().bytes_of(digest).await.unwrap().is_some()
    }

    /// Runs one deploy job up to where it waits for its rollout of these bytes.
    pub async fn deploy(
        &self,
        worker: &ClaimRequest,
        environment: &str,
        bytes: &[u8],
    ) -> (RunId, JobClaim, CreatedRollout) {
        let run = self.run(vec![deploy_job("deploy", environment)]).await;
        let claim = self.claim(worker).await;
        let created = self.ask(&claim, bytes).await.unwrap();
        self.wait(&claim, created.rollout).await;
        (run, claim, created)
    }

    pub async fn ask(&self, claim: &JobClaim, bytes: &[u8]) -> segue_runner::store::Result<CreatedRollout> {
        let create = self.asks_for(claim, bytes).await;
        self.store.create_rollout(claim.job, create).await
    }

    /// What the first step of a job asks for: a rollout of these bytes.
    pub async fn asks_for(&self, claim: &JobClaim, bytes: &[u8]) -> CreateRollout {
        CreateRollout {
            epoch: claim.epoch,
            step: 0,
            service: service(),
            environment: claim.plan.environment.clone().unwrap(),
            digest: self.artifact(bytes).await,
            image: None,
            strategy: Strategy::HotSwap,
            preview: false,
            seed: None,
        }
    }

    pub async fn wait(&self, claim: &JobClaim, rollout: RolloutId) {
        self.wait_forgiving(claim, rollout, None).await;
    }

    /// Waits in a step whose failure may be allowed.
    pub async fn wait_forgiving(&self, claim: &JobClaim, rollout: RolloutId, may_fail: Option<bool>) {
        let steps = vec![step(0, StepStatus::Waiting)];
        let wait = JobWait { epoch: claim.epoch, rollout, step: 0, may_fail, steps, log_bytes: 0 };
        self.store.wait_job(claim.job, wait).await.unwrap();
    }

    pub async fn claim_rollout(&self, worker: &ClaimRequest) -> RolloutClaim {
        self.store.claim_rollout(worker).await.unwrap().expect("a rollout is claimable")
    }

    pub async fn end_rollout(&self, claim: &RolloutClaim, status: RolloutStatus) {
        self.end_rollout_at(claim, status, 1 + claim.journal.len() as i64).await;
    }

    /// Ends it with an entry at this place in the journal.
    pub async fn end_rollout_at(&self, claim: &RolloutClaim, status: RolloutStatus, sequence: i64) {
        let report = report(claim, status, vec![(sequence, JournalKind::Ended)]);
        self.store.report_rollout(claim.rollout.id, report).await.unwrap();
    }

    /// Brings these bytes to staging, and to production where that is asked for.
    pub async fn deployed(&self, worker: &ClaimRequest, environment: &str, bytes: &[u8]) -> CreatedRollout {
        let (_, _, created) = self.deploy(worker, environment, bytes).await;
        let claim = self.claim_rollout(worker).await;
        assert_eq!(claim.rollout.id, created.rollout);
        self.end_rollout(&claim, RolloutStatus::Succeeded).await;
        created
    }
}

async fn open(data: PathBuf, config: Config, clock: Arc<AtomicI64>) -> Store {
    let clock = Clock::new(move || Timestamp(clock.load(Ordering::SeqCst)));
    Store::open(StoreOptions { data, config: Arc::new(config), clock }).await.unwrap()
}

pub fn commit(n: u64) -> CommitSha {
    format!("{n:040x}").parse().unwrap()
}

pub fn plan(jobs: Vec<JobPlan>) -> RunPlan {
    RunPlan { file: ".segue/pipelines/main.yml".into(), pipeline: "main".into(), jobs, ..RunPlan::default() }
}

pub fn job(key: &str, needs: &[&str]) -> JobPlan {
    JobPlan {
        key: key.into(),
        name: key.into(),
        needs: needs.iter().map(|n| (*n).to_owned()).collect(),
        runs_on: vec!["default".into()],
        timeout_seconds: 3600,
        steps: vec![script(), script()],
        ..JobPlan::default()
    }
}

pub fn deploy_job(key: &str, environment: &str) -> JobPlan {
    let mut deploy = script();
    deploy.id = Some("deploy".into());
    deploy.action = StepAction::Uses { uses: "segue/deploy".into(), with: IndexMap::new() };
    JobPlan { environment: Some(environment.into()), steps: vec![deploy], ..job(key, &[]) }
}

pub fn script() -> StepPlan {
    StepPlan {
        id: None,
        name: "true".into(),
        condition: None,
        env: IndexMap::new(),
        working_directory: None,
        timeout_minutes: None,
        continue_on_error_when: None,
        retry: None,
        timeout_seconds: None,
        continue_on_error: false,
        action: StepAction::Run { script: "true".into(), shell: "bash".into() },
        line: 1,
    }
}

pub fn step(index: usize, status: StepStatus) -> StepReport {
    StepReport { status, ..StepReport::pending(index, format!("step {index}")) }
}

pub fn running(epoch: Epoch, index: usize) -> JobReport {
    JobReport { epoch, steps: vec![step(index, StepStatus::Running)] }
}

pub fn finish(claim: &JobClaim, conclusion: Conclusion) -> JobFinish {
    JobFinish {
        epoch: claim.epoch,
        conclusion,
        reason: (conclusion == Conclusion::Failure).then(|| "exit code 1".into()),
        failure_class: (conclusion == Conclusion::Failure).then_some(FailureClass::Script),
        outputs: IndexMap::new(),
        steps: Vec::new(),
        log_bytes: 0,
        log_tail: String::new(),
        next: None,
    }
}

pub fn service() -> ServiceSpec {
    ServiceSpec {
        name: "web".into(),
        command: vec!["./web".into()],
        container: None,
        resources: Default::default(),
        gpus: None,
        env: IndexMap::new(),
        health: Default::default(),
        warm_up: Vec::new(),
        drain: segue_schemas::duration::Span::seconds(1),
        keep_warm: segue_schemas::duration::Span::seconds(1),
        replicas: 1,
        routes: Vec::new(),
        rules: Vec::new(),
        sticky: None,
        sync: None,
        backup: None,
    }
}

pub fn report(claim: &RolloutClaim, status: RolloutStatus, entries: Vec<(i64, JournalKind)>) -> RolloutReport {
    let entry = |(sequence, kind)| JournalEntry {
        sequence,
        epoch: claim.epoch,
        at: Timestamp(0),
        kind,
        host: None,
        detail: serde_json::json!({ "message": "x" }),
    };
    RolloutReport {
        epoch: claim.epoch,
        entries: entries.into_iter().map(entry).collect(),
        status,
        weight: if status == RolloutStatus::Succeeded { 100 } else { 0 },
        stage: 0,
        reason: (status != RolloutStatus::Succeeded).then(|| "because".into()),
        verdict: None,
        state: Some(serde_json::json!({ "phase": "some" })),
    }
}

fn ring_digest(bytes: &[u8]) -> String {
    hex::encode(ring::digest::digest(&ring::digest::SHA256, bytes))
}
