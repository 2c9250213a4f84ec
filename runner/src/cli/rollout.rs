//! `segue rollout`: look at rollouts, and have a word in them.

use segue_pipelines::judge::RuleNumbers;
use segue_schemas::{
    api::{RolloutList, RolloutQuery, RolloutView, RolloutWord},
    deploy::{Rollout, Strategy},
    id::{RolloutId, RunId},
    status::RolloutStatus,
};

use super::{
    client::Client,
    connection::ServerArgs,
    ending::{Exit, Failure},
    follow, place, show,
};

/// Look at rollouts; promote, abort or skip a stage
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue rollout list --active\n  \
    segue rollout show 7 --watch\n  \
    segue rollout promote 7\n  \
    segue rollout abort 7 --reason 'customers complain'\n  \
    segue rollout skip 7\n\n\
    A word whose answer is lost is asked for again, and counts once; so does one that is said twice before the rollout has heard it.")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// List rollouts, newest first
    List(ListArgs),
    /// Show a rollout with its journal
    Show(ShowArgs),
    /// To 100 % now; a rolling one goes on without pauses, one that is held gets all traffic and is watched
    Promote(WordArgs),
    /// Back to the release before, now
    Abort(WordArgs),
    /// On to the next stage now, or to the next hosts
    Skip(WordArgs),
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Only to this environment
    #[arg(long)]
    environment: Option<String>,
    /// Only of this service
    #[arg(long)]
    service: Option<String>,
    /// Only those that a step of this run made
    #[arg(long)]
    run: Option<RunId>,
    /// Only those that have not ended
    #[arg(long)]
    active: bool,
    /// How many
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=200))]
    limit: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// The rollout
    rollout: RolloutId,
    /// Follow until it ends; exit code 1 unless it succeeds
    #[arg(long)]
    watch: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, clap::Args)]
struct WordArgs {
    /// The rollout
    rollout: RolloutId,
    /// Why, for the record
    #[arg(long)]
    reason: Option<String>,
    /// Follow until it ends
    #[arg(long)]
    watch: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub fn run(args: Args) -> Result<Exit, Failure> {
    match args.what {
        What::List(args) => list(args),
        What::Show(args) => show_one(&args),
        What::Promote(args) => word(args, "promote", RolloutStatus::Succeeded),
        What::Abort(args) => word(args, "abort", RolloutStatus::RolledBack),
        What::Skip(args) => word(args, "skip", RolloutStatus::Succeeded),
    }
}

fn list(args: ListArgs) -> Result<Exit, Failure> {
    let query = RolloutQuery {
        environment: args.environment,
        service: args.service,
        run: args.run,
        active: args.active.then_some(true),
        limit: Some(args.limit),
        ..RolloutQuery::default()
    };
    let client = args.server.client()?;
    let list: RolloutList = place::client_runtime()?.block_on(client.get("/rollouts", &query))?;
    if args.json {
        show::json(&list)?;
        return Ok(Exit::Done);
    }
    let headers =
        ["rollout", "status", "weight", "environment", "service", "release", "commit", "strategy", "when", "reason"];
    let mut table = show::table(&headers);
    for rollout in &list.items {
        let release = &rollout.spec.release;
        table.add_row(vec![
            rollout.id.to_string().into(),
            show::status_cell(&rollout.status),
            format!("{} %", rollout.weight).into(),
            rollout.spec.environment.clone().into(),
            rollout.spec.service.name.clone().into(),
            release.id.to_string().into(),
            release.commit.short().into(),
            if rollout.spec.repair.is_some() { "repair".into() } else { strategy(rollout).into() },
            show::ago(rollout.created_at).into(),
            show::one_line(rollout.reason.as_deref().unwrap_or_default(), 80).into(),
        ]);
    }
    show::print_table(&table, "no rollouts");
    Ok(Exit::Done)
}

fn show_one(args: &ShowArgs) -> Result<Exit, Failure> {
    let client = args.server.client()?;
    place::client_runtime()?.block_on(async {
        if args.watch {
            let end = watch(&client, args.rollout, args.json).await?;
            return Ok(if end.status == RolloutStatus::Succeeded { Exit::Done } else { Exit::Failed });
        }
        let view: RolloutView = client.get(&format!("/rollouts/{}", args.rollout), &()).await?;
        if args.json {
            show::json(&view)?
        } else {
            print(&view)
        }
        Ok(Exit::Done)
    })
}

fn print(view: &RolloutView) {
    let rollout = &view.rollout;
    let (spec, release) = (&rollout.spec, &rollout.spec.release);
    anstream::println!("rollout {}  {}  {} %", rollout.id, show::status_text(&rollout.status), rollout.weight);
    anstream::println!(
        "  {} to {} on {}, {}",
        spec.service.name,
        spec.environment,
        spec.hosts.join(", "),
        strategy(rollout)
    );
    anstream::println!("  release {} of {} at {}", release.id, release.repository, release.commit.short());
    match &spec.previous {
        Some(previous) => anstream::println!("  before: release {} at {}", previous.id, previous.commit.short()),
        None => anstream::println!("  before: nothing"),
    }
    if let Some(repair) = &spec.repair {
        anstream::println!("  brings a host to what is on record: {}", repair.why);
    }
    if let Some(run) = rollout.run {
        anstream::println!("  asked for by run {run}");
    }
    if let Some(reason) = &rollout.reason {
        anstream::println!("  {reason}");
    }
    print_rules(rollout);
    for entry in &view.journal {
        follow::print_entry(entry);
    }
}

/// What the service's rules sent to either release, where there was a canary.
fn print_rules(rollout: &Rollout) {
    let rules = rollout.verdict.as_ref().and_then(|verdict| verdict.get("rules"));
    let rules: Vec<RuleNumbers> =
        rules.and_then(|rules| serde_json::from_value(rules.clone()).ok()).unwrap_or_default();
    let milliseconds = |ms: Option<f64>| ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms"));
    for RuleNumbers { rule, to, requests, errors, p50_ms, p95_ms } in rules {
        anstream::println!(
            "  {rule} -> {to}: {requests} requests, {errors} failed, median {}, 95th percentile {}",
            milliseconds(p50_ms),
            milliseconds(p95_ms)
        );
    }
}

fn strategy(rollout: &Rollout) -> String {
    match &rollout.spec.strategy {
        Strategy::HotSwap => "hot swap".into(),
        Strategy::Rolling(rolling) => format!("rolling by {}", rolling.batch),
        Strategy::BlueGreen(swap) => format!("blue-green{}", if swap.hold { ", held" } else { "" }),
        Strategy::Remove => "removal".into(),
        Strategy::Restore { backup } => format!("restore of {backup}"),
        Strategy::Sync(sync) => format!("data of {}", sync.from),
        Strategy::Canary(canary) => {
            let stages: Vec<String> = canary.stages.iter().map(ToString::to_string).collect();
            format!("canary {}", stages.join("/"))
        }
    }
}

fn word(args: WordArgs, word: &str, wanted: RolloutStatus) -> Result<Exit, Failure> {
    let client = args.server.client()?;
    place::client_runtime()?.block_on(async {
        let body = RolloutWord { by: show::me(), reason: args.reason };
        let rollout: Rollout = client.post_once(&format!("/rollouts/{}/{word}", args.rollout), &body).await?;
        if args.watch {
            let end = watch(&client, args.rollout, args.json).await?;
            return Ok(if end.status == wanted { Exit::Done } else { Exit::Failed });
        }
        if args.json {
            show::json(&rollout)?;
        } else {
            anstream::println!("rollout {}: {word} was asked for", rollout.id);
        }
        Ok(Exit::Done)
    })
}

/// Follows a rollout to its end: in lines for people, or with one JSON object at the end.
pub async fn watch(client: &Client, id: RolloutId, is_json: bool) -> Result<Rollout, Failure> {
    let mut lines = follow::RolloutLines::default();
    let end = follow::rollout(client, id, |event| {
        if !is_json {
            lines.print(event);
        }
    })
    .await?;
    if is_json {
        show::json(&end)?;
    }
    Ok(end)
}
