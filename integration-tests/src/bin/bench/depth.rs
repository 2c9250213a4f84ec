//! How long a claim takes where much is queued, and where much has ended: a server on PostgreSQL, asked as a worker asks it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use segue_integration_tests::{api::Api, postgres::Database, stand::Stand};
use segue_schemas::{
    api::DispatchRequest,
    id::{CommitSha, RunId, WorkerId},
    worker_api::{ClaimRequest, JobClaim, Register, Registered, Reported},
};
use serde_json::json;

use crate::figures::{Figure, percentile_ms};

/// Claims that are measured at each depth, after some that are not.
const CLAIMS: usize = 200;
const UNCOUNTED: usize = 20;

const PIPELINE: &str =
    "name: deep\non:\n  workflow_dispatch:\njobs:\n  one:\n    runs-on: [linux]\n    steps:\n      - run: 'true'\n";

/// The same claims with nothing else queued, with `queued` jobs before them, and with `ended` runs on record.
pub async fn measure(stand: &Stand, database: &Database, queued: usize, ended: usize) -> Result<Vec<Figure>> {
    stand.repository.commit("deep", &[(".segue/pipelines/first.yml", PIPELINE)])?;
    let guid = stand.push("main").await?;
    stand.api()?.planned(&guid, Duration::from_secs(30)).await?;
    let claimant = Claimant::register(stand).await?;
    let shallow = claimant.median(stand).await?;
    let mut figures = vec![Figure::new("a claim with nothing else queued, p50", shallow, "ms")];
    if ended > 0 {
        let run = claimant.claim(stand).await?.run;
        grow(database, run, ended)?;
        let with_ended = claimant.median(stand).await?;
        let name = format!("a claim with {ended} runs that have ended, p50");
        figures.push(Figure::new(format!("{name}: that without"), with_ended / shallow, "ratio").at_most(1.5));
        figures.push(Figure::new(name, with_ended, "ms"));
    }
    if queued > 0 {
        let run = claimant.dispatch(stand).await?;
        grow(database, run, queued)?;
        let deep = claimant.median(stand).await?;
        let name = format!("a claim with {queued} jobs queued, p50");
        figures.push(Figure::new(format!("{name}: that without"), deep / shallow, "ratio").at_most(1.5));
        figures.push(Figure::new(name, deep, "ms"));
    }
    Ok(figures)
}

/// Copies a run with its job, as often as is said, and has the database look at what it has now, as it does by itself in time.
fn grow(database: &Database, run: RunId, copies: usize) -> Result<()> {
    let insert = |table: &str, condition: &str, changes: &str| {
        format!(
            "INSERT INTO {table} SELECT made.* FROM {table} t, generate_series(1, {copies}) AS n,
                LATERAL jsonb_populate_record(t, jsonb_build_object({changes})) AS made WHERE t.{condition} = {run};"
        )
    };
    let sql = [
        insert("runs", "id", "'id', t.id + n"),
        insert("attempts", "run_id", "'run_id', t.run_id + n"),
        insert("jobs", "run_id", "'run_id', t.run_id + n, 'id', gen_random_uuid()::text"),
        format!("UPDATE counters SET value = value + {copies} WHERE name = 'run'; ANALYZE;"),
    ];
    database.sql(&format!("BEGIN; {} COMMIT;", sql.concat()))?;
    Ok(())
}

/// Somebody who claims as a worker does, and ends what it gets at once.
struct Claimant {
    people: Api,
    server: Api,
    request: ClaimRequest,
    commit: CommitSha,
}

impl Claimant {
    async fn register(stand: &Stand) -> Result<Self> {
        let token = std::fs::read_to_string(stand.data().join("worker-token"))?;
        let server = Api::new(&format!("http://{}", stand.listen), token.trim());
        let (worker, labels) = ("claimant".parse::<WorkerId>()?, vec!["default".to_owned(), "linux".to_owned()]);
        let register = Register {
            worker: worker.clone(),
            incarnation: "1".into(),
            labels: labels.clone(),
            capacity: 4,
            version: "0".into(),
            gpus: Vec::new(),
        };
        let _: Registered = server.post("/worker/register", &register).await?;
        let request = ClaimRequest { worker, incarnation: "1".into(), labels, wait_ms: 0, strategies: Vec::new() };
        Ok(Self { people: stand.api()?, server, request, commit: stand.repository.head()?.parse()? })
    }

    async fn dispatch(&self, stand: &Stand) -> Result<RunId> {
        let commit = Some(self.commit.clone());
        let request = DispatchRequest { r#ref: Some("refs/heads/main".into()), commit, ..DispatchRequest::default() };
        let made = self.people.dispatch(&stand.repository.name, &request).await?;
        Ok(made.runs.first().context("no run was made")?.id)
    }

    /// Makes a run and claims the oldest job.
    async fn claim(&self, stand: &Stand) -> Result<JobClaim> {
        self.timed(stand).await.map(|(claim, _)| claim)
    }

    async fn timed(&self, stand: &Stand) -> Result<(JobClaim, Duration)> {
        self.dispatch(stand).await?;
        let begun = Instant::now();
        let claim: JobClaim = self.server.post("/worker/jobs/claim", &self.request).await?;
        let took = begun.elapsed();
        let finish = json!({
            "epoch": claim.epoch, "conclusion": "success", "reason": null, "failure_class": null, "outputs": {},
            "steps": [], "log_bytes": 0,
        });
        let _: Reported = self.server.post(&format!("/worker/jobs/{}/finish", claim.job), &finish).await?;
        Ok((claim, took))
    }

    async fn median(&self, stand: &Stand) -> Result<f64> {
        let mut samples = Vec::with_capacity(CLAIMS);
        for n in 0..UNCOUNTED + CLAIMS {
            let (_, took) = self.timed(stand).await?;
            if n >= UNCOUNTED {
                samples.push(took);
            }
        }
        ensure!(samples.len() == CLAIMS, "{} of {CLAIMS} claims were measured", samples.len());
        Ok(percentile_ms(&mut samples, 50.0))
    }
}
