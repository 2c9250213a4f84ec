//! `segue worker`: a worker for a server that runs elsewhere; the tokens that workers come with; and taking one out of service.

use segue_schemas::{
    api::{NewWorkerToken, Revoked, WorkerTokenList, WorkerTokenMade},
    id::WorkerId,
};

use super::{
    client::segment,
    connection::{ListArgs, ServerArgs},
    ending::{Exit, Failure},
    out::say,
    place, serve, show,
};

/// Start a worker, make tokens for workers, take a worker out of service
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  \
    segue worker --server http://127.0.0.1:8321 --token-file /etc/segue/worker-token --data /var/lib/segue-worker\n  \
    segue worker token create builders --labels linux,gpu > worker-token\n  \
    segue worker token revoke builders\n  \
    segue worker drain build-3\n\n\
    Labels, slots and the user for jobs are in the configuration's `worker` section."
)]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    worker: serve::WorkerArgs,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Make, list and revoke the tokens that workers come with
    Token(TokenArgs),
    /// Have a worker take no new work, and end what it has
    Drain(DrainArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue worker token create build-3 > worker-token\n  \
    segue worker token create builders --labels linux,gpu > worker-token\n  \
    segue worker token list\n  \
    segue worker token revoke builders")]
struct TokenArgs {
    #[command(subcommand)]
    what: TokenWhat,
}

#[derive(Debug, clap::Subcommand)]
enum TokenWhat {
    /// Make a token for a worker, or for several that are alike; it is printed once
    Create(CreateArgs),
    /// List the tokens, and the workers that came with each
    List(ListArgs),
    /// Take a token back, at once: what its workers run is lost, as if they had died
    Revoke(RevokeArgs),
}

#[derive(Debug, clap::Args)]
struct CreateArgs {
    /// Its name: letters, digits, `-`, `_` and `.`
    name: String,
    /// What its workers may offer to `runs-on` [default: anything]
    #[arg(long, value_name = "LABEL,...", value_delimiter = ',')]
    labels: Option<Vec<String>>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, clap::Args)]
struct RevokeArgs {
    /// The token's name
    name: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue worker drain build-3\n  \
    segue worker drain build-3 --undo\n\n\
    `segue workers` shows when it has nothing left. It holds until it is taken back, over restarts of worker and server.")]
struct DrainArgs {
    /// The worker's name
    worker: WorkerId,
    /// Have it take work again
    #[arg(long)]
    undo: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub fn run(args: Args) -> Result<Exit, Failure> {
    match args.what {
        None => serve::run_worker(args.worker),
        Some(What::Token(token)) => match token.what {
            TokenWhat::Create(args) => create(args),
            TokenWhat::List(args) => list(&args),
            TokenWhat::Revoke(args) => revoke(&args),
        },
        Some(What::Drain(args)) => drain(&args),
    }
}

fn create(args: CreateArgs) -> Result<Exit, Failure> {
    let client = args.server.client()?;
    let wanted = NewWorkerToken { name: args.name, labels: args.labels };
    let made: WorkerTokenMade = place::client_runtime()?.block_on(client.post("/worker-tokens", &wanted))?;
    if args.json {
        show::json(&made)?;
    } else {
        say!("{}", made.token);
        anstream::eprintln!("keep it: it can't be shown again. `segue worker --token-file FILE` takes it");
    }
    Ok(Exit::Done)
}

fn list(args: &ListArgs) -> Result<Exit, Failure> {
    let client = args.server.client()?;
    let list: WorkerTokenList = place::client_runtime()?.block_on(client.get("/worker-tokens", &()))?;
    if args.json {
        show::json(&list)?;
        return Ok(Exit::Done);
    }
    let mut table = show::table(&["token", "labels", "workers", "made", "revoked"]);
    for token in &list.items {
        let workers: Vec<&str> = token.workers.iter().map(WorkerId::as_str).collect();
        table.add_row(vec![
            token.name.clone(),
            token.labels.as_ref().map_or_else(|| "any".into(), |labels| labels.join(", ")),
            workers.join(", "),
            show::ago(token.created_at),
            token.revoked_at.map(show::ago).unwrap_or_default(),
        ]);
    }
    show::print_table(&table, "no worker tokens: `segue worker token create NAME` makes one");
    Ok(Exit::Done)
}

fn revoke(args: &RevokeArgs) -> Result<Exit, Failure> {
    let client = args.server.client()?;
    let path = format!("/worker-tokens/{}", segment(&args.name));
    let revoked: Revoked = place::client_runtime()?.block_on(client.delete_for(&path))?;
    if args.json {
        show::json(&revoked)?;
        return Ok(Exit::Done);
    }
    let workers: Vec<&str> = revoked.workers.iter().map(WorkerId::as_str).collect();
    match workers.as_slice() {
        [] => say!("revoked; no worker had registered with it"),
        workers => say!("revoked; lost with it: {}", workers.join(", ")),
    }
    Ok(Exit::Done)
}

fn drain(args: &DrainArgs) -> Result<Exit, Failure> {
    let client = args.server.client()?;
    let path = format!("/workers/{}/drain", segment(args.worker.as_str()));
    let runtime = place::client_runtime()?;
    if args.undo {
        runtime.block_on(client.delete(&path, &()))?;
        say!("{} takes work again", args.worker);
    } else {
        runtime.block_on(client.put(&path, &(), &()))?;
        say!("{} takes no new work; `segue workers` shows what it still runs", args.worker);
    }
    Ok(Exit::Done)
}
