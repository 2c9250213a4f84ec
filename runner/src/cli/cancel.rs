//! `segue cancel`: stop a run.

use segue_schemas::{
    api::{CancelRequest, RunSummary},
    id::RunId,
};

use super::{
    connection::ServerArgs,
    ending::{Exit, Failure},
    out::say,
    place, show,
};

/// Cancel a run
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue cancel 12\n  \
    segue cancel 12 --reason 'wrong branch'\n\n\
    A run that has ended is left as it is.")]
pub struct Args {
    /// The run
    run: RunId,
    /// Why, for the record
    #[arg(long)]
    reason: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub fn run(args: Args) -> Result<Exit, Failure> {
    let client = args.server.client()?;
    let request = CancelRequest { by: show::me(), reason: args.reason };
    let path = format!("/runs/{}/cancel", args.run);
    let summary: RunSummary = place::client_runtime()?.block_on(client.post(&path, &request))?;
    if args.json {
        show::json(&summary)?;
    } else if summary.status.is_final() {
        say!("run {} is {}", summary.id, show::status_text(&summary.status));
    } else {
        say!("run {} is being cancelled", summary.id);
    }
    Ok(Exit::Done)
}
