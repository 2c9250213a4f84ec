//! `segue workers`: who is alive, what each offers, and what each runs.

use segue_schemas::{
    api::{WorkerList, WorkerStatus, WorkerView},
    gpu,
};

use super::{
    connection::ListArgs,
    ending::{Exit, Failure},
    place, show,
};

/// List the workers: who is alive, and what each runs
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue workers\n  \
    segue workers --json | jq '.items[] | select(.status == \"lost\") | .id'\n\n\
    `segue queues` says what waits for them, `segue worker drain NAME` takes one out of service.")]
pub struct Args {
    #[command(flatten)]
    list: ListArgs,
}

pub fn run(Args { list: args }: &Args) -> Result<Exit, Failure> {
    let client = args.server.client()?;
    let list: WorkerList = place::client_runtime()?.block_on(client.get("/workers", &()))?;
    if args.json {
        show::json(&list)?;
        return Ok(Exit::Done);
    }
    let mut table = show::table(&["worker", "status", "busy", "labels", "gpus", "version", "heard", "token", "runs"]);
    for worker in &list.items {
        table.add_row(vec![
            worker.id.to_string(),
            status(worker).to_owned(),
            format!("{} of {}", worker.holds.len(), worker.capacity),
            worker.labels.iter().filter(|label| !gpu::is_shape(label)).cloned().collect::<Vec<_>>().join(", "),
            gpus(worker),
            worker.version.clone(),
            show::ago(worker.heard_at),
            worker.token.clone().unwrap_or_default(),
            runs(worker),
        ]);
    }
    show::print_table(&table, "no workers have registered: `segue worker` starts one");
    Ok(Exit::Done)
}

fn status(worker: &WorkerView) -> &'static str {
    match worker.status {
        WorkerStatus::Alive if worker.holds.is_empty() && worker.drives.is_empty() => "idle",
        WorkerStatus::Alive => "busy",
        WorkerStatus::Draining if worker.holds.is_empty() && worker.drives.is_empty() => "drained",
        WorkerStatus::Draining => "draining",
        WorkerStatus::Lost => "lost",
        WorkerStatus::Revoked => "revoked",
    }
}

/// `1 of 2 busy: NVIDIA H100 80GB HBM3`; nothing where it offers none.
fn gpus(worker: &WorkerView) -> String {
    let Some(first) = worker.gpus.first() else { return String::new() };
    let busy = worker.gpus.iter().filter(|gpu| gpu.job.is_some()).count();
    let others = if worker.gpus.iter().all(|gpu| gpu.name == first.name) { "" } else { ", ..." };
    format!("{busy} of {} busy: {}{others}", worker.gpus.len(), first.name)
}

fn runs(worker: &WorkerView) -> String {
    let jobs = worker.holds.iter().map(|job| format!("run {} {}", job.run, job.key));
    let rollouts = worker.drives.iter().map(|rollout| format!("rollout {rollout}"));
    jobs.chain(rollouts).collect::<Vec<_>>().join(", ")
}
