//! `segue approve`: a person's yes to what a run waits for.

use segue_schemas::{
    api::{ApproveRequest, Approved},
    id::RunId,
};

use super::{
    connection::ServerArgs,
    ending::{Exit, Failure},
    out::say,
    place, show,
};

/// Approve what a run waits for
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue approve 12\n  \
    segue approve 12 --job production --by ada\n  \
    segue approve 12 --job production --bypass 'incident 42: the shop is down'\n\n\
    An approval holds for the run's commit. One person counts once. A bypass lets a job start without the\n\
    approvals, the wait and the end of a freeze that its environment asks for; who did it and why is kept.")]
pub struct Args {
    /// The run
    run: RunId,
    /// Only this job [default: every one that waits for an approval]
    #[arg(long, value_name = "KEY")]
    job: Option<String>,
    /// Who approves [default: this machine's user]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// Pass by the rules of the environment, and say why
    #[arg(long, value_name = "REASON")]
    bypass: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub fn run(args: Args) -> Result<Exit, Failure> {
    let client = args.server.client()?;
    let request = ApproveRequest { job: args.job, by: args.by.or_else(show::me), bypass: args.bypass };
    let path = format!("/runs/{}/approve", args.run);
    let approved: Approved = place::client_runtime()?.block_on(client.post(&path, &request))?;
    if args.json {
        show::json(&approved)?;
    } else {
        say!("approved: {}", approved.jobs.join(", "));
    }
    Ok(Exit::Done)
}
