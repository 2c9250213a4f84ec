//! `segue logs`: what a run's jobs printed. Jobs are shown one after the other, in the plan's order, also while they run:
//! two jobs never mix their lines.

use segue_schemas::{
    api::{JobView, LogChunk, LogEnd, RunView},
    id::RunId,
};

use super::{
    client::{CallError, Client},
    connection::ServerArgs,
    ending::{Exit, Explain as _, Failure},
    out::{self, say},
    place, run as run_command,
};

/// Print what a run's jobs printed
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue logs 12\n  \
    segue logs 12 --job build > build.log\n  \
    segue logs 12 --follow\n\n\
    With --follow the exit code is 1 unless the run succeeds.")]
pub struct Args {
    /// The run
    run: RunId,
    /// Only this job
    #[arg(long, value_name = "KEY")]
    job: Option<String>,
    /// An earlier attempt
    #[arg(long)]
    attempt: Option<u32>,
    /// Go on until the run ends
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub fn run(args: &Args) -> Result<Exit, Failure> {
    let client = args.server.client()?;
    place::client_runtime()?.block_on(print(&client, args))
}

async fn print(client: &Client, args: &Args) -> Result<Exit, Failure> {
    let query = serde_json::json!({"attempt": args.attempt});
    let view: RunView = client.get(&format!("/runs/{}", args.run), &query).await?;
    let jobs: Vec<&JobView> =
        view.jobs.iter().filter(|job| args.job.as_ref().is_none_or(|key| *key == job.key)).collect();
    if let (Some(key), []) = (&args.job, jobs.as_slice()) {
        let keys: Vec<&str> = view.jobs.iter().map(|job| job.key.as_str()).collect();
        return Err(Failure::new(format_args!("run {} has no job `{key}`", args.run))
            .remedy(format_args!("its jobs are {}", keys.join(", "))));
    }
    for job in &jobs {
        if jobs.len() > 1 {
            say!("{0}== {1} =={0:#}", anstyle::Style::new().bold(), job.key);
        }
        if args.follow { follow(client, job).await? } else { copy(client, job).await? }
    }
    if !args.follow {
        return Ok(Exit::Done);
    }
    let end = super::follow::run(client, args.run, |_| ()).await?;
    Ok(run_command::exit_of(end.status))
}

/// What is stored, from its beginning, as it comes: a log of any size passes through a few kilobytes of memory.
async fn copy(client: &Client, job: &JobView) -> Result<(), Failure> {
    let mut answer = client.bytes(&format!("/jobs/{}/logs", job.id), &()).await?;
    while let Some(piece) = answer.chunk().await.explain("the log broke off")? {
        out::bytes(&piece);
    }
    Ok(())
}

/// What is stored and what comes, until the job ends; a server that is restarted meanwhile is found again.
async fn follow(client: &Client, job: &JobView) -> Result<(), Failure> {
    const TRIES: u32 = 120;
    let mut offset = 0;
    let mut tries = 0;
    loop {
        match follow_once(client, job, &mut offset).await {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) if error.may_pass() && tries < TRIES => tries += 1,
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
}

/// Whether the log is complete; `offset` moves with what was printed.
async fn follow_once(client: &Client, job: &JobView, offset: &mut u64) -> Result<bool, CallError> {
    let query = serde_json::json!({"follow": true, "offset": *offset});
    let mut events = client.events(&format!("/jobs/{}/logs", job.id), &query).await?;
    while let Some(event) = events.next().await? {
        let unreadable = |error: serde_json::Error| CallError::Unreadable(error.to_string());
        match event.name.as_str() {
            "log" => {
                let chunk: LogChunk = serde_json::from_str(&event.data).map_err(unreadable)?;
                out::bytes(chunk.text.as_bytes());
                *offset = event.id.and_then(|id| id.parse().ok()).unwrap_or(chunk.offset + chunk.text.len() as u64);
            }
            "end" => {
                let _end: LogEnd = serde_json::from_str(&event.data).map_err(unreadable)?;
                return Ok(true);
            }
            _ => {}
        }
    }
    Ok(false)
}
