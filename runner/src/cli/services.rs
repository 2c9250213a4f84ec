//! `segue services`: what runs where.

use segue_schemas::api::{HostStatus, RunningService, RunningServices};

use super::{
    connection::ListArgs,
    ending::{Exit, Failure},
    hosts, place, show,
};

/// List what runs where: services, releases, hosts, weights
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue services\n  \
    segue services --environment production\n  \
    segue services --json | jq '.items[] | {service, host, release: .release.id, weight}'\n\n\
    As hosts have told it: one on another machine tells each change within a second, one beside a worker \
    when a rollout has ended, and within a minute.\n\n\
    Exit codes: 0 done, 1 the server did not answer or refused, 2 usage.")]
pub struct Args {
    /// Of this environment alone
    #[arg(long, value_name = "NAME")]
    environment: Option<String>,
    #[command(flatten)]
    list: ListArgs,
}

pub fn run(args: &Args) -> Result<Exit, Failure> {
    let client = args.list.server.client()?;
    let mut list: RunningServices = place::client_runtime()?.block_on(client.get("/services", &()))?;
    if let Some(environment) = &args.environment {
        list.items.retain(|one| one.carried.environment == *environment);
    }
    if args.list.json {
        show::json(&list)?;
        return Ok(Exit::Done);
    }
    let head = ["environment", "service", "release", "commit", "host", "weight", "instances", "since", ""];
    let mut table = show::table(&head);
    for one in &list.items {
        let carried = &one.carried;
        table.add_row(vec![
            carried.environment.clone(),
            carried.service.clone(),
            carried.release.id.to_string(),
            carried.release.commit.as_str().chars().take(7).collect(),
            one.host.clone(),
            format!("{} %", carried.weight),
            hosts::instances(carried.running, carried.instances),
            one.since.map(show::ago).unwrap_or_default(),
            remarks(one),
        ]);
    }
    show::print_table(&table, "nothing runs, as far as hosts have told");
    Ok(Exit::Done)
}

fn remarks(one: &RunningService) -> String {
    let mut remarks = Vec::new();
    if one.host_status != HostStatus::Reachable {
        remarks.push(format!("host {}, heard {}", hosts::status(one.host_status), show::ago(one.heard_at)));
    }
    remarks.extend(one.router_trouble.clone());
    if let Some(recorded) = one.recorded {
        remarks.push(format!("by the record release {recorded} serves"));
    }
    if let Some(rollout) = one.rollout {
        remarks.push(format!("rollout {rollout} goes on"));
    }
    if !one.carried.gpus.is_empty() {
        remarks.push(one.carried.gpus.join(", "));
    }
    remarks.extend(one.carried.gpu_losses.iter().cloned());
    remarks.extend(one.carried.drift.iter().cloned());
    remarks.join("; ")
}
