//! `segue services`: what runs where.

use segue_schemas::{
    api::{HostStatus, RunningService, RunningServices},
    time::Timestamp,
};

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
    if let Some(environment) = &args.environment {
        list.missing.retain(|one| one.lacks.environment == *environment);
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
    for one in &list.missing {
        let (lacks, nothing) = (&one.lacks, "nothing".to_owned());
        let mut remarks = silence(one.host_status, one.not_answering, one.heard_at);
        remarks.push(hosts::out_of_step(lacks));
        let (environment, service) = (lacks.environment.clone(), lacks.service.clone());
        let (host, none) = (one.host.clone(), String::new);
        table.add_row(vec![environment, service, nothing, none(), host, none(), none(), none(), remarks.join("; ")]);
    }
    show::print_table(&table, "nothing runs, as far as hosts have told");
    Ok(Exit::Done)
}

/// That what is told may be old.
fn silence(status: HostStatus, not_answering: bool, heard_at: Timestamp) -> Vec<String> {
    let is_silent = not_answering || status != HostStatus::Reachable;
    let words = || format!("host {}, heard {}", hosts::stands(status, not_answering), show::ago(heard_at));
    is_silent.then(words).into_iter().collect()
}

fn remarks(one: &RunningService) -> String {
    let mut remarks = silence(one.host_status, one.not_answering, one.heard_at);
    if one.answers_nobody {
        remarks.push("answers nobody".into());
    }
    remarks.extend(one.router_trouble.clone());
    if one.carried.restarts > 0 {
        let restarts = one.carried.restarts;
        remarks.push(if restarts == 1 { "restarted once".into() } else { format!("restarted {restarts} times") });
    }
    if let Some(lacks) = &one.out_of_step {
        remarks.push(hosts::out_of_step(lacks));
    } else if let Some(recorded) = one.recorded {
        remarks.push(format!("by the record release {recorded} serves"));
    }
    if let Some(rollout) = one.rollout.filter(|_| one.out_of_step.is_none()) {
        remarks.push(format!("rollout {rollout} goes on"));
    }
    if !one.carried.gpus.is_empty() {
        remarks.push(one.carried.gpus.join(", "));
    }
    remarks.extend(one.carried.gpu_losses.iter().cloned());
    remarks.extend(one.carried.drift.iter().cloned());
    remarks.join("; ")
}
