//! `segue rerun`: a run once more, as a new attempt.

use segue_schemas::{
    api::{RerunRequest, RunSummary},
    id::RunId,
};

use super::{
    connection::ServerArgs,
    ending::{Exit, Failure},
    out::say,
    place, run as run_command, show,
};

/// Run a run once more, as a new attempt
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue rerun 12\n  \
    segue rerun 12 --failed --watch\n\n\
    Same commit, same inputs. Former attempts stay readable: `segue runs 12 --attempt 1`.")]
pub struct Args {
    /// The run
    run: RunId,
    /// Only the jobs that did not succeed, and what comes after them
    #[arg(long)]
    failed: bool,
    /// Follow until it ends; exit code 1 unless it succeeds
    #[arg(long)]
    watch: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub fn run(args: &Args) -> Result<Exit, Failure> {
    let client = args.server.client()?;
    place::client_runtime()?.block_on(async {
        let request = RerunRequest { failed: args.failed, by: show::me() };
        let mut summary: RunSummary = client.post(&format!("/runs/{}/rerun", args.run), &request).await?;
        let mut exit = Exit::Done;
        if args.watch {
            summary = run_command::watch(&client, args.run, args.json).await?;
            exit = run_command::exit_of(summary.status);
        }
        if args.json {
            show::json(&summary)?;
        } else if !args.watch {
            say!("run {} attempt {}  {}", summary.id, summary.attempt, show::status_text(&summary.status));
        }
        Ok(exit)
    })
}
