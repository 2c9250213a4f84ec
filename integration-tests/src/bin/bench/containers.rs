//! Jobs in containers beside what the engine's own client takes for the same, and an image that is built again though nothing has changed.
//! The two are measured in turns, so that a machine whose speed changes does so to both.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use segue_integration_tests::{
    docker::{Docker, IMAGE},
    stand::Stand,
};
use segue_schemas::{
    api::{DispatchRequest, RunView},
    status::RunStatus,
};

use crate::{
    figures::{Figure, percentile_ms},
    latency::{now, since_epoch},
};

/// Jobs, each with as many steps.
const JOBS: usize = 12;
const STEPS: usize = 8;
const WARM_UP: usize = 2;
/// Builds with nothing changed.
const REBUILDS: usize = 5;
const LIMIT: Duration = Duration::from_secs(120);

const SAY: &str = "echo \"said=$EPOCHREALTIME\"";
const DOCKERFILE: &str = "FROM segue-test:1\nCOPY . /app/\nRUN echo made > /app/made\n";

pub async fn measure() -> Result<Vec<Figure>> {
    let docker = Docker::shared().await?;
    let stand = Stand::start(&docker.settings("")).await?;
    let step = format!("      - run: {SAY}\n");
    let jobs = format!(
        "on: [push, workflow_dispatch]\njobs:\n  one:\n    container: {IMAGE}\n    steps:\n{}",
        step.repeat(STEPS)
    );
    let build = "on: [push, workflow_dispatch]\njobs:\n  one:\n    steps:\n      - uses: segue/checkout\n      - uses: \
                 segue/build-image\n        with: { context: app, network: none }\n";
    let (jobs_file, build_file) = (".segue/pipelines/jobs.yml", ".segue/pipelines/build.yml");
    let files =
        [(jobs_file, jobs.as_str()), (build_file, build), ("app/Dockerfile", DOCKERFILE), ("app/file", "one\n")];
    stand.repository.commit("first", &files)?;
    stand.push("main").await?;
    let mut figures = jobs_beside_the_client(&stand, &docker, "jobs").await?;
    figures.push(rebuilds(&stand, "build").await?);
    Ok(figures)
}

async fn jobs_beside_the_client(stand: &Stand, docker: &Docker, pipeline: &str) -> Result<Vec<Figure>> {
    let kept = client(docker.socket(), &["run", "--detach", IMAGE, "sleep", "3600"])?;
    // where an engine is installed as usual, what is run without a word about it is in a network as well; this one was started without
    let network = "segue-bench";
    client(docker.socket(), &["network", "create", network])?;
    let (mut starts, mut runs, mut steps, mut execs) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for number in 0..JOBS + WARM_UP {
        let view = dispatch(stand, pipeline).await?;
        let job = view.jobs.first().context("no job")?;
        let claimed = since_epoch(job.started_at.context("the job has no start")?);
        let said = said(&stand.api()?.log(&job.id).await?)?;
        ensure!(said.len() == STEPS, "{} of {STEPS} steps said something", said.len());

        let begun = now();
        let bare = client(docker.socket(), &["run", "--rm", "--init", "--network", network, IMAGE, "sh", "-c", SAY])?;
        let first = self::said(&bare)?.first().copied().context("the container said nothing")?;
        let exec = Instant::now();
        client(docker.socket(), &["exec", &kept, "sh", "-c", SAY])?;
        let exec = exec.elapsed();
        if number < WARM_UP {
            continue;
        }
        starts.push(said[0].saturating_sub(claimed));
        steps.extend(said.windows(2).map(|pair| pair[1].saturating_sub(pair[0])));
        runs.push(first.saturating_sub(begun));
        execs.push(exec);
    }
    client(docker.socket(), &["rm", "--force", &kept])?;
    client(docker.socket(), &["network", "rm", network])?;
    let p50 = |samples: &mut Vec<Duration>| percentile_ms(samples, 50.0);
    let (start, run, step, exec) = (p50(&mut starts), p50(&mut runs), p50(&mut steps), p50(&mut execs));
    Ok(vec![
        Figure::new("job in a container: claim -> first command, p50", start, "ms"),
        Figure::new("  `docker run --init --network`: start -> first command, p50", run, "ms"),
        Figure::new("  the first by the second", start / run, "times").at_most(1.15),
        Figure::new("job in a container: from step to step, p50", step, "ms"),
        Figure::new("  `docker exec`: whole, p50", exec, "ms"),
        Figure::new("  the first by the second", step / exec, "times").at_most(1.15),
    ])
}

/// The longest of a few builds of an image of which nothing has changed, as long as its step takes.
async fn rebuilds(stand: &Stand, pipeline: &str) -> Result<Figure> {
    dispatch(stand, pipeline).await?;
    let mut longest = Duration::ZERO;
    for _ in 0..REBUILDS {
        let view = dispatch(stand, pipeline).await?;
        let steps = &view.jobs.first().context("no job")?.steps;
        let step = steps.iter().find(|step| step.name.contains("build-image")).context("no step that builds")?;
        let (began, ended) = step.started_at.zip(step.ended_at).context("the step has no times")?;
        longest = longest.max(ended.since(began));
    }
    Ok(Figure::new("image with nothing changed: built again, longest", longest.as_secs_f64() * 1e3, "ms")
        .at_most(1000.0))
}

async fn dispatch(stand: &Stand, pipeline: &str) -> Result<RunView> {
    let request = DispatchRequest {
        r#ref: Some("refs/heads/main".into()),
        pipeline: Some(pipeline.to_owned()),
        ..DispatchRequest::default()
    };
    let api = stand.api()?;
    let dispatched = api.dispatch(&stand.repository.name, &request).await?;
    let view = api.ended(dispatched.runs.first().context("no run")?.id.0, LIMIT).await?;
    ensure!(view.run.status == RunStatus::Succeeded, "the run ended so: {view:#?}");
    Ok(view)
}

/// The times that commands have said, in their order.
fn said(log: &str) -> Result<Vec<Duration>> {
    let times = log.lines().filter_map(|line| line.trim().strip_prefix("said="));
    times.map(|text| Ok(Duration::from_secs_f64(text.parse()?))).collect()
}

/// Runs a command of the engine's own client; what it printed.
fn client(socket: &Path, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("docker");
    command.arg("--host").arg(format!("unix://{}", socket.display())).args(arguments);
    let output = command.output().context("cannot run docker: install docker.io, of newer Debians docker-cli")?;
    ensure!(output.status.success(), "`docker {}`: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
