//! `segue rerun`: a run once more, as a new attempt.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use segue_schemas::{
    api::{RerunRequest, RunSummary},
    id::RunId,
};

use super::{
    client::{CallError, Client},
    connection::ServerArgs,
    ending::{Exit, Failure},
    out::say,
    place, run as run_command, show,
};

/// Run a run once more, as a new attempt
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue rerun 12\n  \
    segue rerun 12 --failed --watch\n  \
    segue rerun 12 --from test/unit --reason \"the registry was away\"\n  \
    segue rerun 12 --debug --input level=high\n\n\
    Same commit; same inputs, but for those that are given. Jobs that have deployed before deploy again only with --deploy.\n\
    Former attempts stay readable: `segue runs 12 --attempt 1`, `segue diff-attempts 12`.")]
pub struct Args {
    /// The run
    run: RunId,
    /// Only the jobs that did not succeed, and what comes after them
    #[arg(long)]
    failed: bool,
    /// Only this job from this step on (its id, its name, or its number from 1), and what comes after it
    #[arg(long, value_name = "JOB/STEP", conflicts_with = "failed")]
    from: Option<String>,
    /// Let jobs that have deployed before deploy again
    #[arg(long)]
    deploy: bool,
    /// Leave jobs that have deployed before as they ended
    #[arg(long, conflicts_with = "deploy")]
    no_deploy: bool,
    /// Have the steps tell more: RUNNER_DEBUG=1
    #[arg(long)]
    debug: bool,
    /// Another value of an input, for a run that was started by hand; may be given several times
    #[arg(long = "input", value_name = "NAME=VALUE", value_parser = run_command::pair)]
    inputs: Vec<(String, String)>,
    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
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
    let request = RerunRequest {
        failed: args.failed,
        from: args.from.clone(),
        deploy: (args.deploy || args.no_deploy).then_some(args.deploy),
        debug: args.debug,
        inputs: args.inputs.iter().cloned().collect(),
        reason: args.reason.clone(),
        by: show::me(),
    };
    place::client_runtime()?.block_on(async {
        let mut summary = ask(&client, args.run, request).await?;
        let mut exit = Exit::Done;
        if args.watch {
            summary = run_command::watch(&client, args.run, args.json).await?;
            exit = run_command::exit_of(summary.status);
        }
        if args.json {
            show::json(&summary)?;
            return Ok(exit);
        }
        if !args.watch {
            say!("run {} attempt {}  {}", summary.id, summary.attempt, show::status_text(&summary.status));
        }
        for term in summary.terms.in_words() {
            say!("  {term}");
        }
        Ok(exit)
    })
}

/// Asks for the attempt, and the person where it would deploy again.
async fn ask(client: &Client, run: RunId, mut request: RerunRequest) -> Result<RunSummary, Failure> {
    let path = format!("/runs/{run}/rerun");
    let message = match client.post(&path, &request).await {
        Err(CallError::Refused { code, message, .. }) if code == "would_deploy" => message,
        other => return Ok(other?),
    };
    let both = "--deploy deploys again, --no-deploy leaves those jobs as they ended";
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(message).remedy(both));
    }
    anstream::eprint!(
        "{message}\nDeploy again? y: yes; n: run the rest and leave them out; anything else: stop [stop] "
    );
    let _unseen = std::io::stderr().flush();
    let mut answer = String::new();
    let _nothing = std::io::stdin().lock().read_line(&mut answer);
    request.deploy = Some(match answer.trim() {
        "y" | "Y" | "yes" => true,
        "n" | "N" | "no" => false,
        _ => return Err(Failure::new("nothing was run again").remedy(both)),
    });
    Ok(client.post(&path, &request).await?)
}
