//! `segue run`: run a commit by hand.

use indexmap::IndexMap;
use segue_schemas::{
    api::{DispatchRequest, Dispatched},
    id::CommitSha,
    status::RunStatus,
};

use super::{
    client::{Client, segment},
    connection::ServerArgs,
    ending::{Exit, Failure},
    follow, local,
    out::say,
    place, show,
};

/// Run a commit by hand, or what lies in a folder here, without a server
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue run --repository acme/shop --ref main\n  \
    segue run --repository acme/shop --ref main --pipeline deploy --input version=12 --watch\n  \
    segue run --local\n  \
    segue run --local .segue/pipelines/ci.yml --job test --shell-on-failure\n\n\
    Runs the pipelines with `on: workflow_dispatch`, or the one that is named.\n\
    With --local: what a push of the working tree would run, on this machine and as you, but for jobs with an environment.")]
pub struct Args {
    /// The repository, owner/name
    #[arg(long, value_name = "OWNER/NAME", value_parser = repository, required_unless_present = "local")]
    repository: Option<String>,
    /// Branch or tag [default: the repository's default branch]
    #[arg(long = "ref", value_name = "REF")]
    git_ref: Option<String>,
    /// The commit, in full [default: the newest of the ref]
    #[arg(long, conflicts_with = "local")]
    commit: Option<CommitSha>,
    /// The pipeline's name or file stem [default: every one with `on: workflow_dispatch`]
    #[arg(long, conflicts_with = "local")]
    pipeline: Option<String>,
    /// An input of the pipeline; may be given several times
    #[arg(long = "input", value_name = "NAME=VALUE", value_parser = pair)]
    inputs: Vec<(String, String)>,
    /// Follow until it ends; exit code 1 unless it succeeds
    #[arg(long)]
    watch: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    local: local::LocalArgs,
    #[command(flatten)]
    server: ServerArgs,
}

pub fn run(args: Args) -> Result<Exit, Failure> {
    if let Some(path) = &args.local.local {
        let told = local::Told {
            path,
            git_ref: args.git_ref.as_deref(),
            inputs: &args.inputs,
            repository: args.repository.as_deref(),
            is_json: args.json,
        };
        return local::run(&told, &args.local);
    }
    let client = args.server.client()?;
    place::client_runtime()?.block_on(dispatch(&client, args))
}

async fn dispatch(client: &Client, args: Args) -> Result<Exit, Failure> {
    let request = DispatchRequest {
        r#ref: args.git_ref,
        commit: args.commit,
        pipeline: args.pipeline,
        inputs: args.inputs.into_iter().collect::<IndexMap<_, _>>(),
        by: show::me(),
        ..DispatchRequest::default()
    };
    let repository = args.repository.unwrap_or_default();
    let (owner, name) = repository.split_once('/').unwrap_or((&repository, ""));
    let path = format!("/repositories/{}/{}/dispatches", segment(owner), segment(name));
    let mut dispatched: Dispatched = client.post(&path, &request).await?;
    if args.watch {
        for run in &mut dispatched.runs {
            *run = watch(client, run.id, args.json).await?;
        }
    }
    if args.json {
        show::json(&dispatched)?;
    } else if !args.watch {
        for run in &dispatched.runs {
            say!("run {}  {}  {}", run.id, run.pipeline, show::status_text(&run.status));
        }
    }
    let failed = dispatched.runs.iter().any(|run| run.status.is_final() && run.status != RunStatus::Succeeded);
    Ok(if failed { Exit::Failed } else { Exit::Done })
}

/// Follows a run to its end; in lines, unless JSON is to be printed afterwards.
pub async fn watch(
    client: &Client,
    id: segue_schemas::id::RunId,
    is_json: bool,
) -> Result<segue_schemas::api::RunSummary, Failure> {
    let mut lines = follow::RunLines::default();
    follow::run(client, id, |event| {
        if !is_json {
            lines.print(event);
        }
    })
    .await
}

/// The exit code that a run's end deserves.
pub const fn exit_of(status: RunStatus) -> Exit {
    match status {
        RunStatus::Succeeded | RunStatus::Skipped => Exit::Done,
        RunStatus::Queued | RunStatus::Running | RunStatus::Waiting | RunStatus::Failed | RunStatus::Cancelled => {
            Exit::Failed
        }
    }
}

/// `owner/name`.
pub fn repository(text: &str) -> Result<String, String> {
    match text.split_once('/') {
        Some((owner, name)) if !owner.is_empty() && !name.is_empty() && !name.contains('/') => Ok(text.to_owned()),
        _ => Err("a repository is named owner/name".into()),
    }
}

/// `NAME=VALUE`.
pub fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("it is given as NAME=VALUE".into()),
    }
}
