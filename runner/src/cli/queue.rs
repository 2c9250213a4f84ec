//! `segue queue`: the dead letters of the message queue, why each is there, and back with them.

use segue_schemas::queue::{DeadLetter, DeadLetterList, RequeueRequest, Requeued};

use super::{
    connection::{ListArgs, ServerArgs},
    ending::{Exit, Failure},
    out::say,
    place, show,
};

/// Look at messages that nobody could do anything with, and put them back
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue queue list\n  \
    segue queue show 3f2a90c1b7de\n  \
    segue queue requeue 3f2a90c1b7de\n  \
    segue queue requeue --all\n\n\
    Only with a `broker` in segue.yaml. No work depends on them: what waits is rung for anew as long as it waits.")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// List the dead letters, the oldest first
    List(ListArgs),
    /// Show one: its content, why it is there and what to do
    Show(ShowArgs),
    /// Put dead letters back into the queues that they came from
    Requeue(RequeueArgs),
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// Its id, as the list has it
    id: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, clap::Args)]
struct RequeueArgs {
    /// Their ids, as the list has them
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<String>,
    /// All of them
    #[arg(long)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub fn run(args: Args) -> Result<Exit, Failure> {
    match args.what {
        What::List(args) => list(&args),
        What::Show(args) => show_one(&args),
        What::Requeue(args) => requeue(args),
    }
}

fn list(args: &ListArgs) -> Result<Exit, Failure> {
    let list = letters(&args.server)?;
    if args.json {
        show::json(&list)?;
        return Ok(Exit::Done);
    }
    let mut table = show::table(&["id", "at", "queue", "why"]);
    for letter in &list.items {
        table.add_row([&letter.id, &at(letter), &letter.queue, &letter.why]);
    }
    show::print_table(&table, "no dead letters");
    Ok(Exit::Done)
}

fn show_one(args: &ShowArgs) -> Result<Exit, Failure> {
    let found = letters(&args.server)?.items.into_iter().find(|letter| letter.id == args.id);
    let letter = found.ok_or_else(|| {
        Failure::new(format_args!("there is no dead letter {}", args.id)).remedy("see `segue queue list`")
    })?;
    if args.json {
        show::json(&letter)?;
        return Ok(Exit::Done);
    }
    say!("dead letter {}", letter.id);
    say!("from    {}", letter.queue);
    say!("at      {}", at(&letter));
    say!("because {} ({})", letter.why, letter.reason);
    say!("do      {}", letter.remedy);
    say!("content {}", letter.body.escape_debug());
    Ok(Exit::Done)
}

fn requeue(args: RequeueArgs) -> Result<Exit, Failure> {
    let client = args.server.client()?;
    let request = RequeueRequest { ids: args.ids, all: args.all };
    let done: Requeued = place::client_runtime()?.block_on(client.post("/queue/dead-letters/requeue", &request))?;
    if args.json {
        show::json(&done)?;
    } else if done.ids.is_empty() {
        say!("no dead letters");
    } else {
        say!("put back: {}", done.ids.join(", "));
    }
    Ok(Exit::Done)
}

fn letters(server: &ServerArgs) -> Result<DeadLetterList, Failure> {
    let client = server.client()?;
    Ok(place::client_runtime()?.block_on(client.get("/queue/dead-letters", &()))?)
}

fn at(letter: &DeadLetter) -> String {
    letter.at.map_or_else(|| "unknown".into(), |at| at.to_string())
}
