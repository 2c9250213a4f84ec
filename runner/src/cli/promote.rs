//! `segue promote`: what serves in one environment comes to another.

use segue_schemas::{
    api::{PromotionList, PromotionRequest, PromotionStrategy, PromotionView},
    deploy::{Release, Strategy},
};

use super::{
    connection::ServerArgs,
    ending::{Exit, Failure},
    out::say,
    place, run, show,
};

/// Have what serves in one environment serve in another: the same bytes
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue promote staging production --dry-run\n  \
    segue promote staging production --service web\n  \
    segue promote staging production --service web --strategy canary --no-wait --json\n\n\
    Shows what differs, and starts a run of one job for each service that does. The job belongs to the second environment, so that it goes \
    through its gates: reviewers (`segue approve RUN`), branches, waits, freezes, and what has to be passed before. Where another release \
    serves in the first environment by then, nothing is promoted.\n\n\
    Exit codes: 0 promoted, or there was nothing to promote, or, with --dry-run and --no-wait, said; 1 refused or failed; 2 usage.")]
pub struct Args {
    /// The environment where it serves
    from: String,
    /// The environment where it is to serve
    to: String,
    /// Only this service [default: every one that serves in the first]
    #[arg(long)]
    service: Option<String>,
    /// How it comes to its traffic [default: as the last release came there]
    #[arg(long, value_enum)]
    strategy: Option<How>,
    /// Only say what would be promoted
    #[arg(long)]
    dry_run: bool,
    /// Return at once instead of waiting for the end
    #[arg(long)]
    no_wait: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum How {
    /// At once
    HotSwap,
    /// By stages: those of the last canary there, else 10, 50 and 100 percent
    Canary,
}

pub fn run(args: Args) -> Result<Exit, Failure> {
    let client = args.server.client()?;
    let request = PromotionRequest {
        from: args.from,
        to: args.to,
        service: args.service,
        strategy: args.strategy.map(|how| match how {
            How::HotSwap => PromotionStrategy::HotSwap,
            How::Canary => PromotionStrategy::Canary,
        }),
        dry_run: args.dry_run,
        by: show::me(),
    };
    place::client_runtime()?.block_on(async {
        let mut list: PromotionList = client.post("/promotions", &request).await?;
        if !args.json {
            list.items.iter().for_each(|one| tell(one, &request));
        }
        let mut exit = Exit::Done;
        for one in list.items.iter_mut().filter(|_| !args.no_wait) {
            let Some(started) = &one.run else { continue };
            let ended = run::watch(&client, started.id, args.json).await?;
            if run::exit_of(ended.status) == Exit::Failed {
                exit = Exit::Failed;
            }
            one.run = Some(ended);
        }
        if args.json {
            show::json(&list)?;
        }
        Ok(exit)
    })
}

fn tell(one: &PromotionView, request: &PromotionRequest) {
    let named = |release: &Release| format!("release {} at {}", release.id, release.commit.short());
    let before = one.before.as_ref().map_or_else(|| "nothing".to_owned(), named);
    let PromotionRequest { from, to, .. } = request;
    if one.is_same {
        say!("{}: {} serves {to} already ({before})", one.service, named(&one.release));
        return;
    }
    let how = match &one.strategy {
        Strategy::Canary(canary) => {
            let stages: Vec<String> = canary.stages.iter().map(ToString::to_string).collect();
            format!("by stages ({} %)", stages.join("/"))
        }
        Strategy::Rolling(rolling) => {
            format!("host after host ({} at a time, {} between)", rolling.batch, rolling.pause)
        }
        Strategy::BlueGreen(swap) if swap.hold => "once it is promoted, with the one before ready".to_owned(),
        Strategy::BlueGreen(_) => "at once, with the one before ready".to_owned(),
        Strategy::HotSwap | Strategy::Remove | Strategy::Restore { .. } | Strategy::Sync(_) => "at once".to_owned(),
    };
    say!("{}: {} from {from} to {to}, {how}; there now: {before}", one.service, named(&one.release));
    say!("  {}", one.release.image.as_deref().unwrap_or(one.release.digest.as_str()));
    for commit in one.commits.iter().flatten() {
        say!("  {}  {}", commit.commit.short(), commit.title);
    }
    if let Some(run) = &one.run {
        say!("  run {}  {}", run.id, show::status_text(&run.status));
    }
}
