//! Many machines on one: a server and two workers apart, with RabbitMQ between them and the state in PostgreSQL.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use segue_integration_tests::{
    broker::Broker,
    fleet::configuration,
    postgres::{Database, Postgres},
    processes,
    s3::S3,
    stand::Stand,
};
use segue_schemas::{
    api::DispatchRequest,
    status::{JobStatus, RunStatus},
};

use crate::{
    depth,
    figures::Figure,
    latency::{self, Wanted},
    throughput,
};

const PAIR: [&str; 2] = ["first", "second"];
/// Jobs of the measurement of throughput.
const SOME: usize = 1000;
/// Jobs of the measurement that takes long.
const MANY: usize = 100_000;
/// Jobs that are queued, and runs that have ended, where a claim is measured.
const QUEUED: usize = 100_000;
const ENDED: usize = 1_000_000;
/// One job that lasts, and says who runs it.
const LASTING: &str = "name: lasting\non: { workflow_dispatch: }\njobs:\n  one:\n    runs-on: [linux]\n    steps:\n      - run: \
                       'test -e \"$MARK\" && exit 0; touch \"$MARK\"; sleep 600'\n";

/// Everything, each part for this measurement alone.
struct Scale {
    stand: Stand,
    workers: Vec<u32>,
    broker: Broker,
    database: Database,
    _s3: S3,
    _keys: tempfile::TempDir,
}

impl Scale {
    async fn start(workers: &[&str]) -> Result<Self> {
        let broker = Broker::start("").await?;
        let database = Arc::new(Postgres::start()?).database()?;
        let s3 = S3::start("contents", "key", "secret").await?;
        let keys = tempfile::tempdir()?;
        let configuration = configuration(&database, &s3, keys.path())?;
        let stand = Stand::start_with_broker(&broker, &configuration).await?;
        let mut scale = Self { stand, workers: Vec::new(), broker, database, _s3: s3, _keys: keys };
        for name in workers {
            let worker = scale.stand.start_worker(name, &scale.broker.url("worker"))?;
            scale.workers.push(worker);
        }
        Ok(scale)
    }

    fn memory(&self, when: &str) -> Result<Vec<(String, f64)>> {
        let mib = |pid| Ok::<_, anyhow::Error>(processes::pss_kib(pid)? as f64 / 1024.0);
        let server = self.stand.server_pid().context("the server does not run")?;
        Ok(vec![(format!("server, {when}"), mib(server)?), (format!("worker, {when}"), mib(self.workers[0])?)])
    }
}

/// What is promised of it.
pub async fn measure() -> Result<Vec<Figure>> {
    let mut figures = at_work().await?;
    let scale = Scale::start(&[]).await?;
    figures.extend(depth::measure(&scale.stand, &scale.database, QUEUED, 0).await?);
    for figure in &mut figures {
        figure.name = format!("with RabbitMQ and PostgreSQL: {}", figure.name);
    }
    Ok(figures)
}

/// The same claims where a million runs have ended.
pub async fn deepest() -> Result<Vec<Figure>> {
    let scale = Scale::start(&[]).await?;
    depth::measure(&scale.stand, &scale.database, 0, ENDED).await
}

/// A server with two workers.
async fn at_work() -> Result<Vec<Figure>> {
    let scale = Scale::start(&PAIR).await?;
    let wanted = Wanted { manual: (20.0, 40.0), push: (45.0, 90.0) };
    let mut figures = latency::measure_on(&scale.stand, &wanted).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    for (name, mib) in scale.memory("idle")? {
        figures.push(Figure::new(name, mib, "MiB PSS").at_most(25.0));
    }
    let before = Written::by(&scale.database)?;
    figures.push(throughput::measure_on(&scale.stand, SOME).await?);
    figures.extend(Written::by(&scale.database)?.since(&before));
    figures.push(lost_worker(&scale).await?);
    Ok(figures)
}

/// What the database has written, from which a larger one is reckoned.
struct Written {
    bytes: f64,
    log_bytes: f64,
}

impl Written {
    fn by(database: &Database) -> Result<Self> {
        let number = |sql: &str| Ok::<f64, anyhow::Error>(database.sql(sql)?.trim().parse()?);
        Ok(Self {
            bytes: number("SELECT pg_database_size(current_database())")?,
            log_bytes: number("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn")?,
        })
    }

    fn since(&self, before: &Self) -> [Figure; 2] {
        let per_job =
            |name: &str, now: f64, before: f64| Figure::new(name, (now - before) / 1024.0 / SOME as f64, "KiB");
        [
            per_job("  of which the database keeps, per job", self.bytes, before.bytes),
            per_job("  and has written ahead, per job", self.log_bytes, before.log_bytes),
        ]
    }
}

/// From the death of a worker until another runs its job.
async fn lost_worker(scale: &Scale) -> Result<Figure> {
    let (stand, api) = (&scale.stand, scale.stand.api()?);
    let meeting = stand.folder().join("meeting");
    std::fs::create_dir(&meeting)?;
    std::fs::set_permissions(&meeting, std::os::unix::fs::PermissionsExt::from_mode(0o1777))?;
    let mark = meeting.join("mark-of-the-first-try");
    let pipeline = LASTING.replace("$MARK", &mark.display().to_string());
    stand.repository.commit("lasting", &[(".segue/pipelines/first.yml", &pipeline)])?;
    stand.repository.push("main")?;
    let request = DispatchRequest { r#ref: Some("refs/heads/main".into()), ..DispatchRequest::default() };
    let run = api.dispatch(&stand.repository.name, &request).await?.runs.first().context("no run")?.id.0;
    let view = api.job_becomes(run, "one", &[JobStatus::Running], Duration::from_secs(30)).await?;
    let begun = Instant::now();
    while !mark.exists() {
        ensure!(begun.elapsed() < Duration::from_secs(30), "its step does not begin");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let owner = view.jobs.first().and_then(|job| job.worker.clone()).context("nobody runs it")?;
    let first = std::fs::read_to_string(stand.folder().join("first/worker/name"))?;
    let victim = usize::from(first.trim() != owner.as_str());
    processes::signal(scale.workers[victim], Signal::SIGKILL)?;
    let begun = Instant::now();
    let view = api.ended(run, Duration::from_secs(90)).await?;
    ensure!(view.run.status == RunStatus::Succeeded, "the run ended so: {view:#?}");
    Ok(Figure::new("a lost worker's job has run again after", begun.elapsed().as_secs_f64(), "s").at_most(35.0))
}

/// What 100,000 jobs leave in the memory of a server and a worker.
pub async fn endure() -> Result<Vec<Figure>> {
    let scale = Scale::start(&PAIR).await?;
    let mut figures = vec![throughput::measure_on(&scale.stand, 1000).await?];
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = scale.memory("after 1,000 jobs")?;
    figures.push(throughput::measure_on(&scale.stand, MANY).await?);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let after = scale.memory("after 100,000 jobs")?;
    for ((_, before), (name, after)) in before.iter().zip(&after) {
        figures.push(Figure::new(name.clone(), *after, "MiB PSS"));
        figures.push(Figure::new(format!("{name}: that after 1,000"), after / before, "ratio").at_most(1.3));
    }
    Ok(figures)
}
