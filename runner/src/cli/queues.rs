//! `segue queues`: what waits, and what for.

use segue_schemas::{api::QueueList, gpu};

use super::{
    connection::ServerArgs,
    ending::{Exit, Failure},
    out::say,
    place, show,
};

/// List what waits, and what for: labels, gates, concurrency groups, other rollouts
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue queues\n  \
    segue queues --limit 200\n  \
    segue queues --json | jq '.pools[] | select(.workers == 0)'\n\n\
    `segue workers` says who could take it.")]
pub struct Args {
    /// How many jobs to list
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=200))]
    limit: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub fn run(args: &Args) -> Result<Exit, Failure> {
    let client = args.server.client()?;
    let query = serde_json::json!({"limit": args.limit});
    let list: QueueList = place::client_runtime()?.block_on(client.get("/queue", &query))?;
    if args.json {
        show::json(&list)?;
        return Ok(Exit::Done);
    }
    if list.items.is_empty() && list.rollouts.is_empty() {
        say!("nothing waits");
        return Ok(Exit::Done);
    }
    if !list.pools.is_empty() {
        let mut table = show::table(&["labels", "queued", "oldest", "workers", "free slots"]);
        for pool in &list.pools {
            table.add_row(vec![
                pool.labels.iter().map(|label| gpu::label_in_words(label)).collect::<Vec<_>>().join(", "),
                pool.jobs.to_string(),
                pool.since.map(show::ago).unwrap_or_default(),
                pool.workers.to_string(),
                pool.free.to_string(),
            ]);
        }
        show::print_table(&table, "");
    }
    if !list.items.is_empty() {
        say!();
        let mut table = show::table(&["job", "run", "repository", "since", "waits because"]);
        for job in &list.items {
            table.add_row(vec![
                job.key.clone(),
                job.run.to_string(),
                job.repository.clone(),
                job.since.map(show::ago).unwrap_or_default(),
                job.reason.clone(),
            ]);
        }
        show::print_table(&table, "");
    }
    if !list.rollouts.is_empty() {
        say!();
        let mut table = show::table(&["rollout", "environment", "service", "since", "waits because"]);
        for rollout in &list.rollouts {
            table.add_row(vec![
                rollout.rollout.to_string(),
                rollout.environment.clone(),
                rollout.service.clone(),
                show::ago(rollout.since),
                rollout.reason.clone(),
            ]);
        }
        show::print_table(&table, "");
    }
    let queued: u64 = list.pools.iter().map(|pool| pool.jobs).sum();
    if queued > list.items.len() as u64 && list.items.len() >= args.limit as usize {
        anstream::eprintln!("{queued} jobs are queued; the oldest {} are listed (--limit)", list.items.len());
    }
    Ok(Exit::Done)
}
