//! `segue demo`: the main job from end to end, in under a minute, on this machine alone. In: nothing. Out: a sample
//! repository, three pushes to it (a first release, a good change, one that fails in production), what Segue did about
//! them, and a summary that is checked. It enters by git, the webhook and the public API alone, as a user would; it never
//! looks into the server, its database or the host.

mod house;
mod load;
mod repository;
mod screen;
mod summary;
mod webhook;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use segue_schemas::{
    api::{DeliveryStatus, DeliveryView, RolloutList, RolloutQuery, RolloutView, RunEvent, RunView},
    deploy::Rollout,
    id::{DeliveryId, RunId},
    status::JobStatus,
};

use self::{
    house::House,
    load::Load,
    repository::{Change, Repository},
    screen::Screen,
    summary::{Chapter, Evidence},
};
use crate::cli::{
    client::Client,
    ending::{Exit, Failure},
    follow, place, serve, show,
};

/// How long a delivery may take until it is planned.
const PLANNED_LIMIT: Duration = Duration::from_secs(20);
/// Between two looks at the traffic.
const TELL_EVERY: Duration = Duration::from_millis(500);
/// How long the whole of it may take.
const LIMIT: Duration = Duration::from_secs(300);
/// Traffic that goes on after the last run, to see that nothing reaches the bad release any more.
const AFTERMATH: Duration = Duration::from_millis(1500);

/// Show the way to production, and back, on a sample service
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue demo\n  \
    segue demo --json | tail -n 1 | jq .rollback\n  \
    segue demo --keep\n\n\
    Needs git and bash, and nothing else: no Docker, no account, no network. Exit code 0: all of it happened as it should.")]
pub struct Args {
    /// Print the summary as one JSON object on the last line; progress goes to standard error
    #[arg(long)]
    json: bool,
    /// Leave it running at the end, to look around
    #[arg(long)]
    keep: bool,
    /// Where everything is kept [default: a new directory, removed at the end]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

pub fn run(args: &Args) -> Result<Exit, Failure> {
    place::server_runtime()?.block_on(async {
        let told_to_end = serve::until_told()?;
        let screen = Arc::new(Screen::new(args.json));
        let house = House::open(args.data.clone(), &screen).await?;
        let told = tokio::select! {
            told = tokio::time::timeout(LIMIT, tell(&house, &screen)) => {
                told.unwrap_or_else(|_| Err(Failure::new(format_args!("the demonstration did not end within {LIMIT:?}"))))
            }
            () = told_to_end.cancelled() => Err(Failure::new("interrupted")),
        };
        screen.finish();
        let shown = told.and_then(|evidence| finish(args, &evidence));
        if args.keep && shown.is_ok() {
            house.keep(&told_to_end).await;
        }
        let is_evidence = !matches!(shown, Ok(Exit::Done));
        let closed = house.close(is_evidence).await;
        shown.and_then(|exit| closed.map(|()| exit))
    })
}

/// Prints what it came to, and whether that is as it should be.
fn finish(args: &Args, evidence: &Evidence) -> Result<Exit, Failure> {
    let complaints = evidence.complaints();
    if !args.json {
        evidence.print();
    }
    summary::print_complaints(&complaints);
    if args.json {
        summary::print_json(&evidence.summary())?;
    }
    Ok(if complaints.is_empty() { Exit::Done } else { Exit::Failed })
}

/// The story: three pushes under traffic.
async fn tell(house: &House, screen: &Arc<Screen>) -> Result<Evidence, Failure> {
    let mut repository = house.repository().await?;
    let mut push = async |change: Change| play(house, &mut repository, screen, change).await;

    screen.headline("the first release: there is nothing yet to compare it with");
    let first = push(Change { version: "1.0.0", fails_in_production: 0.0, message: "Greet" }).await?;

    let traffic = Traffic::start(house, screen)?;
    screen.headline(format_args!("traffic: {} requests/s to production, from now on", load::RATE));

    screen.headline("a good change");
    let good = push(Change { version: "1.1.0", fails_in_production: 0.0, message: "Greet better" }).await?;

    screen.headline("a change that passes its tests, but fails 20 % of production's requests");
    let bad = push(Change { version: "1.2.0", fails_in_production: 0.2, message: "Greet in a hurry" }).await?;
    let took = screen.elapsed();

    tokio::time::sleep(AFTERMATH).await;
    let tally = traffic.stop().await;
    Ok(Evidence { first, good, bad, tally, took })
}

/// One push, followed to its end.
async fn play(house: &House, repository: &mut Repository, screen: &Screen, change: Change) -> Result<Chapter, Failure> {
    let client = house.client();
    let push = repository.push(change).await?;
    let delivery = webhook::send(client.base(), house.webhook_secret(), repository, &push).await?;
    screen.line(format_args!("git push of {} ({}), webhook accepted", push.after.short(), change.version));
    let run = planned_run(client, &delivery).await?;
    let mut watcher = Watcher { screen, jobs: BTreeMap::new(), stand: None };
    let summary = follow::run(client, run, |event| watcher.see(event)).await?;
    let view: RunView = client.get(&format!("/runs/{run}"), &()).await?;
    let production = production_rollout(client, run).await?;
    Ok(Chapter { version: change.version, run: summary, jobs: view.jobs, production })
}

/// The run that came of a delivery. Nothing tells when a delivery is planned, so it is asked for, for a bounded time.
async fn planned_run(client: &Client, delivery: &DeliveryId) -> Result<RunId, Failure> {
    let look = async {
        loop {
            let view: DeliveryView = client.get(&format!("/deliveries/{delivery}"), &()).await?;
            match (view.status, view.runs.as_slice()) {
                (DeliveryStatus::Planned, [run]) => return Ok(*run),
                (DeliveryStatus::Pending, _) => tokio::time::sleep(Duration::from_millis(10)).await,
                (status, runs) => {
                    let reason = view.reason.unwrap_or_default();
                    return Err(Failure::new(format_args!(
                        "one run should come of the push, but: {status:?} {runs:?} {reason}"
                    )));
                }
            }
        }
    };
    let late = |_| Err(Failure::new(format_args!("the push was not planned within {PLANNED_LIMIT:?}")));
    tokio::time::timeout(PLANNED_LIMIT, look).await.unwrap_or_else(late)
}

async fn production_rollout(client: &Client, run: RunId) -> Result<Option<RolloutView>, Failure> {
    let query = RolloutQuery { run: Some(run), environment: Some("production".into()), ..RolloutQuery::default() };
    let list: RolloutList = client.get("/rollouts", &query).await?;
    match list.items.first() {
        Some(rollout) => Ok(Some(client.get(&format!("/rollouts/{}", rollout.id), &()).await?)),
        None => Ok(None),
    }
}

/// Where the traffic went since the last look, and what it came to so far.
fn describe(before: &load::Tally, now: &load::Tally) -> String {
    let since = |version: &str| {
        let count = |tally: &load::Tally| tally.versions.get(version).map_or(0, |answers| answers.total);
        count(now) - count(before)
    };
    let recent: u64 = now.versions.keys().map(|version| since(version)).sum();
    let shares: Vec<String> = now
        .versions
        .keys()
        .filter(|version| since(version) > 0)
        .map(|version| format!("{version} {} %", since(version) * 100 / recent.max(1)))
        .collect();
    let failed: u64 = now.versions.values().map(|answers| answers.failed).sum();
    format!("production: {} | {} requests, {failed} failed, {} dropped", shares.join(", "), now.total(), now.dropped)
}

/// Turns a run's events into lines.
struct Watcher<'a> {
    screen: &'a Screen,
    jobs: BTreeMap<String, JobStatus>,
    stand: Option<String>,
}

impl Watcher<'_> {
    fn see(&mut self, event: &RunEvent) {
        match event {
            RunEvent::Job(job) => {
                let is_news = self.jobs.insert(job.key.clone(), job.status) != Some(job.status);
                let active: Vec<&str> = self
                    .jobs
                    .iter()
                    .filter(|(_, status)| !status.is_final() && **status != JobStatus::Pending)
                    .map(|(key, _)| key.as_str())
                    .collect();
                self.screen.run(active.join(", "));
                if is_news && job.status.is_final() {
                    let reason = job
                        .reason
                        .as_deref()
                        .map(|reason| format!("  {}", show::one_line(reason, 160)))
                        .unwrap_or_default();
                    let took = show::span(job.started_at, job.ended_at);
                    self.screen.line(format_args!(
                        "  {:<12} {} {took}{reason}",
                        job.key,
                        show::status_text(&job.status)
                    ));
                }
            }
            RunEvent::Rollout(rollout) => self.see_rollout(rollout),
            RunEvent::Run(_) | RunEvent::Gone(_) => {}
            RunEvent::End(run) => {
                self.screen.run(String::new());
                let took = show::span(Some(run.created_at), run.ended_at);
                self.screen.line(format_args!("run {} {} after {took}", run.id, show::status_text(&run.status)));
            }
        }
    }

    fn see_rollout(&mut self, rollout: &Rollout) {
        let reason =
            rollout.reason.as_deref().map(|reason| format!("  {}", show::one_line(reason, 200))).unwrap_or_default();
        let line = format!(
            "    {:<12} {:>3} %  {}{reason}",
            rollout.spec.environment,
            rollout.weight,
            show::status_text(&rollout.status)
        );
        if self.stand.as_ref() != Some(&line) {
            self.screen.line(&line);
            self.stand = Some(line);
        }
    }
}

/// Traffic to production, with a line about it that moves.
struct Traffic {
    load: Arc<Mutex<Option<Load>>>,
    teller: tokio::task::JoinHandle<()>,
}

impl Traffic {
    fn start(house: &House, screen: &Arc<Screen>) -> Result<Self, Failure> {
        let load = Arc::new(Mutex::new(Some(Load::start(house.proxy(), "greeter.production.localhost")?)));
        let (seen, screen) = (Arc::clone(&load), Arc::clone(screen));
        let teller = tokio::spawn(async move {
            let mut tick = tokio::time::interval(TELL_EVERY);
            let mut before = load::Tally::default();
            loop {
                tick.tick().await;
                let tally = seen.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Load::tally);
                let Some(tally) = tally else { return };
                screen.traffic(describe(&before, &tally));
                before = tally;
            }
        });
        Ok(Self { load, teller })
    }

    async fn stop(self) -> load::Tally {
        self.teller.abort();
        let load = self.load.lock().unwrap_or_else(PoisonError::into_inner).take();
        match load {
            Some(load) => load.stop().await,
            None => load::Tally::default(),
        }
    }
}
