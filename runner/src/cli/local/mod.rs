//! `segue run --local`: a pipeline on the person's own machine. In: a folder, and an event as far as it is told. Out: what
//! the jobs print, and an exit code by how they ended. A server and a worker live in this process while it lasts, with
//! everything in a temporary directory: the code that plans and runs is the one that does so everywhere else.

mod screen;
mod shell;
mod snapshot;

use std::{
    env,
    io::IsTerminal as _,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use indexmap::IndexMap;
use reqwest::Url;
use segue_pipelines::{
    gpu::{ALL, offered},
    pipeline,
    plan::{LeftOut, explain as explain_plan, without_deployments},
};
use segue_runner::{
    planner::PlanError,
    up::{self, Reach, ServerOptions},
    webhook::{PayloadMeaning as Meaning, Upkeep},
};
use segue_schemas::{
    api::{CancelRequest, RunSummary, RunView, SecretValue},
    config::{Config, RepositoryConfig, WorkerConfig},
    gpu,
    id::{CommitSha, RunId},
    plan::JobPlan,
    status::RunStatus,
    trigger::{Event, Trigger},
};
use serde::Serialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use self::{screen::Screen, snapshot::Snapshot};
use super::{
    client::{Client, segment},
    connection::read_token,
    ending::{Exit, Explain as _, Failure},
    explain::{self, EventName},
    logging, pipeline_files, place,
    run::exit_of,
    serve, show,
};

/// What is said of a run without a server.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Here, without a server")]
pub struct LocalArgs {
    /// Run what lies in a repository's folder, or one pipeline of it
    #[arg(long, value_name = "PATH", num_args = 0..=1, default_missing_value = ".", conflicts_with = "watch")]
    pub local: Option<PathBuf>,
    /// Only this job, and what it needs
    #[arg(long, value_name = "KEY", requires = "local")]
    job: Option<String>,
    /// What happens [default: push; for one pipeline, the first event that starts it]
    #[arg(long, value_enum, requires = "local")]
    event: Option<EventName>,
    /// What happened to the pull request, or the type of the repository dispatch
    #[arg(long, value_name = "TYPE", requires = "local")]
    action: Option<String>,
    /// The event's payload; what it leaves out is made up
    #[arg(long, value_name = "FILE", requires = "local")]
    payload: Option<PathBuf>,
    /// Give the environment variable NAME to the jobs that use `secrets.NAME`; may be repeated
    #[arg(long = "secret", value_name = "NAME", requires = "local")]
    secrets: Vec<String>,
    /// A value of `vars`; may be repeated
    #[arg(long = "var", value_name = "NAME=VALUE", value_parser = super::run::pair, requires = "local")]
    variables: Vec<(String, String)>,
    /// Open a shell where a step has failed, before the run goes on
    #[arg(long, requires = "local")]
    shell_on_failure: bool,
}

/// What the other arguments of `segue run` mean here.
#[derive(Debug, Clone, Copy)]
pub struct Told<'t> {
    /// The folder or file.
    pub path: &'t Path,
    /// The branch or full ref.
    pub git_ref: Option<&'t str>,
    /// Inputs of a run that is started by hand.
    pub inputs: &'t [(String, String)],
    /// `owner/name`.
    pub repository: Option<&'t str>,
    /// Whether the result is printed as JSON.
    pub is_json: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Printed {
    runs: Vec<RunView>,
    left_out: Vec<Omitted>,
}

/// A job that is not run on a person's own machine.
#[derive(Debug, Clone, Serialize)]
struct Omitted {
    pipeline: String,
    job: String,
    reason: String,
}

/// What was planned.
#[derive(Debug, Default)]
struct Started {
    runs: Vec<RunId>,
    labels: Vec<String>,
    omitted: Vec<Omitted>,
}

pub fn run(told: &Told<'_>, args: &LocalArgs) -> Result<Exit, Failure> {
    logging::start_at("warn")?;
    if args.shell_on_failure && !std::io::stdin().is_terminal() {
        return Err(Failure::usage("--shell-on-failure needs a terminal").remedy("leave it out in scripts"));
    }
    let secrets = secrets(&args.secrets)?;
    let (folder, file) = place_of(told.path)?;
    let house = tempfile::Builder::new().prefix("segue-local-").tempdir().explain("cannot make a directory")?;
    let mut snapshot = Snapshot::take(&folder, &house.path().join("tree.git"))?;
    if let Some(repository) = told.repository {
        repository.clone_into(&mut snapshot.repository);
    }
    let file = file.map(|file| in_repository(&file, &snapshot.root)).transpose()?;
    let trigger = trigger(told, args, &snapshot, file.as_deref())?;
    let config = configuration(&snapshot, house.path(), &args.variables);
    let options = ServerOptions {
        config,
        data: house.path().join("data"),
        listen: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0),
        schedules: false,
    };
    place::server_runtime()?.block_on(async {
        let told_to_end = serve::until_told()?;
        let running = up::serve(options).await.map_err(Failure::new)?;
        let client = Client::new(
            Url::parse(&format!("http://{}", running.address)).explain("the server's address")?,
            Some(read_token(&running.admin_token_file)?),
        )?;
        for (name, value) in secrets {
            client.put(&format!("/secrets/{}", segment(&name)), &(), &SecretValue { value }).await?;
        }
        let started = start(&running.reach, trigger, file.as_deref(), args.job.as_deref()).await?;
        has_gpus(&running.reach.config.worker, &started.labels).await?;
        let screen = Screen::new(told.is_json);
        let stop = CancellationToken::new();
        let worker =
            tokio::spawn(work(&running.reach, started.labels, args.shell_on_failure.then(|| screen.clone()), &stop)?);
        let result = follow(&client, &screen, &started.runs, started.omitted, told.is_json, told_to_end).await;
        stop.cancel();
        worker.await.explain("the worker")?.map_err(Failure::new)?;
        running.stop().await;
        result
    })
}

/// The folder that a path stands for, and the pipeline, where it is one.
fn place_of(path: &Path) -> Result<(PathBuf, Option<PathBuf>), Failure> {
    let shown = path.display();
    let path = path.canonicalize().map_err(|error| Failure::usage(format_args!("cannot read {shown}: {error}")))?;
    if path.is_dir() {
        return Ok((path, None));
    }
    let folder = path.ancestors().find(|folder| folder.join(".segue/pipelines").is_dir());
    match folder {
        Some(folder) => Ok((folder.to_owned(), Some(path))),
        None => Err(outside(&path)),
    }
}

fn outside(path: &Path) -> Failure {
    Failure::usage(format_args!("{} is no pipeline of a repository", path.display()))
        .remedy("pipelines lie in `.segue/pipelines/*.yml` of a repository; `segue validate` reads them anywhere")
}

/// The name of a pipeline's file from the repository's root.
fn in_repository(file: &Path, root: &Path) -> Result<String, Failure> {
    let root = root.canonicalize().explain(format_args!("{}", root.display()))?;
    let name =
        file.strip_prefix(&root).ok().and_then(Path::to_str).filter(|name| name.starts_with(".segue/pipelines/"));
    name.map(str::to_owned).ok_or_else(|| outside(file))
}

/// The values of the named environment variables.
fn secrets(names: &[String]) -> Result<Vec<(String, String)>, Failure> {
    let value = |name: &String| match env::var(name) {
        Ok(value) => Ok((name.clone(), value)),
        Err(_) => Err(Failure::usage(format_args!("--secret {name}: there is no environment variable `{name}`"))
            .remedy(format_args!(
                "a value never stands on a command line; set it before: read -rs {name}; export {name}"
            ))),
    };
    names.iter().map(value).collect()
}

fn configuration(snapshot: &Snapshot, house: &Path, variables: &[(String, String)]) -> Config {
    let repository = RepositoryConfig {
        clone_url: Some(snapshot.bare.display().to_string()),
        variables: variables.iter().cloned().collect(),
        rollback_tags: Some(false),
        ..RepositoryConfig::default()
    };
    let mut config = Config {
        repositories: IndexMap::from([(snapshot.repository.clone(), repository)]),
        worker: WorkerConfig { name: Some("local".into()), capacity: 1, ..WorkerConfig::default() },
        ..Config::default()
    };
    config.secrets.key_file = Some(house.join("secret.key"));
    config
}

/// The event, of the snapshot's commit.
fn trigger(told: &Told<'_>, args: &LocalArgs, snapshot: &Snapshot, file: Option<&str>) -> Result<Trigger, Failure> {
    let event = match (args.event, file) {
        (Some(event), _) => event,
        (None, None) => EventName::Push,
        (None, Some(file)) => first_event(told, args, snapshot, file)?,
    };
    trigger_of(event, told, args, snapshot)
}

/// The first event that starts a pipeline; where none does as it is told, the one that it is most likely for, so that the
/// answer says why.
fn first_event(told: &Told<'_>, args: &LocalArgs, snapshot: &Snapshot, file: &str) -> Result<EventName, Failure> {
    let path = snapshot.root.join(file);
    let text = std::fs::read_to_string(&path).explain(format_args!("cannot read {}", path.display()))?;
    let beside = pipeline_files::usable_of(&snapshot.root)?;
    let mut files: Vec<(&str, &str)> = vec![(file, &text)];
    files.extend(beside.iter().map(|file| (file.name.as_str(), file.text.as_str())));
    if !told.inputs.is_empty() {
        return Ok(EventName::WorkflowDispatch);
    }
    for event in [EventName::Push, EventName::PullRequest, EventName::WorkflowDispatch, EventName::Schedule] {
        let trigger = trigger_of(event, told, args, snapshot)?;
        if explain_plan(&files, &trigger, None).first().is_some_and(|pipeline| pipeline.matches) {
            return Ok(event);
        }
    }
    let triggers = pipeline::parse(file, &text).triggers.unwrap_or_default();
    Ok(match () {
        () if triggers.push.is_some() => EventName::Push,
        () if triggers.pull_request.is_some() => EventName::PullRequest,
        () if triggers.workflow_dispatch.is_some() => EventName::WorkflowDispatch,
        () if triggers.repository_dispatch.is_some() => EventName::RepositoryDispatch,
        () => EventName::Push,
    })
}

fn trigger_of(event: EventName, told: &Told<'_>, args: &LocalArgs, snapshot: &Snapshot) -> Result<Trigger, Failure> {
    let head = snapshot.head.as_ref().unwrap_or(&snapshot.commit);
    let mut given = json!({"repository": {"full_name": snapshot.repository}, "sender": {"login": show::me()}});
    match event {
        EventName::Push => {
            given["ref"] = format!("refs/heads/{}", snapshot.branch).into();
            given["head_commit"] = json!({"message": "the working tree", "id": snapshot.commit.as_str()});
        }
        EventName::PullRequest => {
            given["pull_request"] = json!({
                "head": {"ref": snapshot.branch, "repo": {"full_name": snapshot.repository}},
                "base": {"sha": head.as_str()},
            });
        }
        EventName::WorkflowDispatch => {
            given["ref"] = format!("refs/heads/{}", snapshot.branch).into();
            let inputs = told.inputs.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str())));
            given["inputs"] = Value::Object(inputs.collect());
        }
        EventName::Schedule => given["ref"] = format!("refs/heads/{}", snapshot.branch).into(),
        EventName::RepositoryDispatch | EventName::IssueComment => given["branch"] = snapshot.branch.as_str().into(),
    }
    explain::merge(&mut given, explain::payload(args.payload.as_deref())?);
    let made_up =
        explain::Told { event, git_ref: told.git_ref, action: args.action.as_deref(), message: None, inputs: &[] };
    match explain::trigger(made_up, given)? {
        Meaning::Trigger(trigger) | Meaning::Comment(trigger, _) => at_snapshot(*trigger, snapshot, head),
        Meaning::Asks(_) => {
            Err(Failure::new("this event asks something of runs that are there, and starts none of its own"))
        }
        Meaning::Ignored { reason, .. } | Meaning::Upkeep(Upkeep { reason, .. }) => {
            Err(Failure::new(format_args!("this event starts nothing: {reason}")))
        }
    }
}

/// The event, with the commits that there are. Which files changed is left unknown, so that no filter on paths keeps a
/// pipeline out.
fn at_snapshot(mut trigger: Trigger, snapshot: &Snapshot, base_commit: &CommitSha) -> Result<Trigger, Failure> {
    trigger.repository.clone_from(&snapshot.repository);
    trigger.clone_url = None;
    match &mut trigger.event {
        Event::Push { r#ref, before, after, .. } => {
            *before = "0".repeat(40).parse().explain("a commit of zeros")?;
            after.clone_from(&snapshot.commit);
            snapshot.name(r#ref, &snapshot.commit)?;
        }
        Event::PullRequest { number, head, base, base_ref, .. } => {
            head.clone_from(&snapshot.commit);
            base.clone_from(base_commit);
            snapshot.name(&format!("refs/pull/{number}/head"), &snapshot.commit)?;
            snapshot.name(&format!("refs/heads/{base_ref}"), base_commit)?;
        }
        Event::WorkflowDispatch { r#ref, commit, .. }
        | Event::Schedule { r#ref, commit, .. }
        | Event::RepositoryDispatch { r#ref, commit, .. }
        | Event::IssueComment { r#ref, commit, .. } => {
            commit.clone_from(&snapshot.commit);
            snapshot.name(r#ref, &snapshot.commit)?;
        }
    }
    Ok(trigger)
}

/// Plans, and stores what is to run here.
async fn start(reach: &Reach, trigger: Trigger, file: Option<&str>, job: Option<&str>) -> Result<Started, Failure> {
    let mut started = Started::default();
    let mut keys: Vec<String> = Vec::new();
    let runs = reach.planner.start(trigger, |plan| {
        if file.is_some_and(|file| file != plan.file) {
            return None;
        }
        keys.extend(plan.jobs.iter().map(|job| job.key.clone()));
        let (mut plan, left_out) = without_deployments(plan, job);
        // this machine is the only one: what labels an expression will ask for need not be known
        plan.jobs.iter_mut().for_each(|job| job.runs_on.retain(|label| !label.contains("${{")));
        let pipeline = &plan.pipeline;
        let omitted =
            left_out.into_iter().map(|LeftOut { job, reason }| Omitted { pipeline: pipeline.clone(), job, reason });
        started.omitted.extend(omitted);
        note_labels(&plan.jobs, &mut started.labels);
        (!plan.jobs.is_empty()).then_some(plan)
    });
    started.runs = match runs.await {
        Ok(runs) => runs,
        Err(error @ PlanError::NothingMatches(_)) => {
            return Err(
                Failure::new(error).remedy("`segue explain` says what each event would start; name one with --event")
            );
        }
        Err(error) => return Err(Failure::new(error)),
    };
    match job {
        Some(job) if !keys.iter().any(|key| key == job) => {
            let failure = Failure::usage(format_args!("there is no job `{job}` in what this event starts"));
            Err(failure.remedy(format_args!("its jobs are {}", keys.join(", "))))
        }
        Some(job) if started.omitted.iter().any(|one| one.job == job) => {
            let reason = started.omitted.iter().find(|one| one.job == job).map_or("", |one| &one.reason);
            Err(Failure::new(format_args!("the job `{job}` is not run here: {reason}"))
                .remedy("start it at a server: segue run --repository OWNER/NAME"))
        }
        _ => Ok(started),
    }
}

/// What the jobs ask of a worker, and those that they call.
fn note_labels(jobs: &[JobPlan], labels: &mut Vec<String>) {
    for job in jobs {
        labels.extend(job.needed_labels());
        note_labels(job.call.as_ref().map_or(&[], |call| &call.jobs), labels);
    }
}

/// Nobody else will take a job whose GPUs are not here.
async fn has_gpus(worker: &WorkerConfig, labels: &[String]) -> Result<(), Failure> {
    let wanted: Vec<&String> = labels.iter().filter(|label| gpu::is_shape(label)).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let facts = segue_worker::gpu::look(worker.nvidia_smi.as_deref()).await;
    let facts = facts.map_err(|fault| {
        Failure::new(format_args!("a job asks for GPUs, and this machine has none: {fault}")).remedy(fault.remedy())
    })?;
    let (offered, reasons) = offered(&facts, &[ALL.to_owned()]);
    let labels = gpu::offered_labels(&offered);
    match wanted.into_iter().find(|wanted| !gpu::offers(&labels, wanted)) {
        None => Ok(()),
        Some(wanted) => {
            let reasons: Vec<String> = reasons.iter().map(|reason| format!("; {reason}")).collect();
            let (wanted, there) = (gpu::label_in_words(wanted), offered.len());
            let message =
                format!("a job asks for {wanted}, and this machine has {there} that can be used{}", reasons.concat());
            Err(Failure::new(message).remedy("start it at a server: segue run --repository OWNER/NAME"))
        }
    }
}

/// The worker, which offers every label that is asked for.
fn work(
    reach: &Reach,
    labels: Vec<String>,
    shell: Option<Screen>,
    stop: &CancellationToken,
) -> Result<impl Future<Output = Result<(), segue_worker::WorkerError>> + use<>, Failure> {
    let mut config = Config::clone(&reach.config);
    if labels.iter().any(|label| gpu::is_shape(label)) {
        config.worker.gpus = vec![ALL.to_owned()];
    }
    let offered = &mut config.worker.labels;
    offered.extend(labels.into_iter().filter(|label| !gpu::is_shape(label)));
    offered.sort();
    offered.dedup();
    let mut options = serve::worker_options(&config, reach.server_url.clone(), reach.worker_token.clone(), &reach.data);
    options.as_own_user = true;
    // a person's own machine: its engine needs no naming
    let usual = Path::new("/var/run/docker.sock");
    if options.docker.socket.is_none() && usual.exists() {
        options.docker.socket = Some(usual.to_owned());
    }
    options.on_failed_script = shell.map(shell::on_failure);
    Ok(segue_worker::run(options, stop.clone()))
}

/// Shows the runs one after the other. Told to end, it cancels them and shows that.
async fn follow(
    client: &Client,
    screen: &Screen,
    runs: &[RunId],
    omitted: Vec<Omitted>,
    is_json: bool,
    told_to_end: CancellationToken,
) -> Result<Exit, Failure> {
    let cancelling = tokio::spawn(cancel_when_told(client.clone(), runs.to_vec(), told_to_end));
    let mut exit = Exit::Done;
    for run in runs {
        let view: RunView = client.get(&format!("/runs/{run}"), &()).await?;
        screen.line(format_args!("{} ({})", view.run.pipeline, view.run.file));
        let ended: RunSummary = screen.follow(client, *run).await?;
        if exit_of(ended.status) != Exit::Done {
            exit = Exit::Failed;
        }
        screen.line(format_args!("{:<24} {}", ended.pipeline, show::status_text(&ended.status)));
        if let Some(reason) = ended.reason.filter(|_| ended.status != RunStatus::Succeeded) {
            screen.line(reason);
        }
    }
    cancelling.abort();
    for one in &omitted {
        screen.line(format_args!("{:<24} not run here: {}", one.job, one.reason));
    }
    if is_json {
        let mut views = Vec::with_capacity(runs.len());
        for run in runs {
            views.push(client.get(&format!("/runs/{run}"), &()).await?);
        }
        show::json(&Printed { runs: views, left_out: omitted })?;
    }
    Ok(exit)
}

async fn cancel_when_told(client: Client, runs: Vec<RunId>, told_to_end: CancellationToken) {
    told_to_end.cancelled().await;
    for run in runs {
        let request = CancelRequest { by: show::me(), reason: None };
        let cancelled: Result<RunSummary, _> = client.post(&format!("/runs/{run}/cancel"), &request).await;
        if let Err(error) = cancelled {
            Failure::from(error).print();
        }
    }
}
