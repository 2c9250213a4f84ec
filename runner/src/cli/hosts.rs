//! `segue hosts`, and what concerns one of them: `segue host invite`, `revoke` and `show`.

use segue_schemas::{
    api::{CarriedService, HostInvitation, HostList, HostRevoked, HostStatus, HostView, NewHostInvitation, OutOfStep},
    time::Timestamp,
};

use super::{
    client::segment,
    connection::{ListArgs, ServerArgs},
    ending::{Exit, Failure},
    out::say,
    place, show,
};

/// List the hosts: where each is reached, when it was heard, and what it carries
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue hosts\n  \
    segue hosts --json | jq '.items[] | select(.status != \"reachable\") | .name'\n\n\
    `reachable`: heard lately. `not answering`: so far reachable, but a worker said so, its connection was cut or two words are missed \
    (--json: `not_answering`). `absent`: not heard for 150 s, or never. `quarantined`: a rollout ended there without anybody knowing \
    what serves, and the host has not shown it since. `revoked`: no worker reaches it.\n\n\
    Exit codes: 0 done, 1 the server did not answer or refused, 2 usage.")]
pub struct Args {
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue host invite gpu-1\n  \
    segue host invite gpu-1 --json | jq -r .token\n\n\
    The token lets one machine join under that name, once, within `timing.host-invitation` (15 minutes). A later one takes its place.\n\n\
    Exit codes: 0 done, 1 refused, 2 usage.")]
pub struct InviteArgs {
    /// The host's name: small letters, digits and `-`
    name: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue host revoke gpu-1\n\n\
    Workers are cut off from it at once. What it carries goes on as it is; rollouts there wait for it as for one that is absent. \
    `segue host invite` lets it join anew, after `joined.json` was removed from its directory.\n\n\
    Exit codes: 0 done, 1 no such host, 2 usage.")]
pub struct RevokeArgs {
    /// The host's name
    name: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue host show gpu-1\n\n\
    Exit codes: 0 done, 1 no such host, 2 usage.")]
pub struct ShowArgs {
    /// The host's name
    name: String,
    #[command(flatten)]
    list: ListArgs,
}

pub fn run(Args { list: args }: &Args) -> Result<Exit, Failure> {
    let list = fetch(&args.server)?;
    if args.json {
        show::json(&list)?;
        return Ok(Exit::Done);
    }
    let mut table =
        show::table(&["host", "status", "address", "version", "heard", "certificate ends", "gpus", "carries"]);
    for host in &list.items {
        table.add_row(vec![
            host.name.clone(),
            stands(host.status, host.not_answering).to_owned(),
            host.address.clone(),
            host.version.clone().unwrap_or_default(),
            host.heard_at.map_or_else(|| "never".to_owned(), show::ago),
            host.certificate_ends_at.map(date).unwrap_or_default(),
            gpus(host),
            carries(host),
        ]);
    }
    show::print_table(&table, "there are no hosts");
    for host in &list.items {
        for lacks in &host.out_of_step {
            say!("{}: {}/{} is {}", host.name, lacks.environment, lacks.service, out_of_step(lacks));
        }
        for one in host.carries.iter().filter(|one| is_dead(one)) {
            say!("{}: {}/{} {}", host.name, one.environment, one.service, dead(one));
        }
        if let Some(trouble) = &host.router_trouble {
            say!("{}: {trouble}", host.name);
        }
    }
    Ok(Exit::Done)
}

pub fn invite(args: &InviteArgs) -> Result<Exit, Failure> {
    let client = args.server.client()?;
    let wanted = NewHostInvitation { name: args.name.clone() };
    let made: HostInvitation = place::client_runtime()?.block_on(client.post("/host-invitations", &wanted))?;
    if args.json {
        show::json(&made)?;
    } else {
        say!("{}", made.token);
        anstream::eprintln!(
            "it can't be shown again, and holds until {}. On the machine that is to join: segue host join SERVER --token TOKEN --name {}",
            made.expires_at,
            made.name
        );
    }
    Ok(Exit::Done)
}

pub fn revoke(args: &RevokeArgs) -> Result<Exit, Failure> {
    let client = args.server.client()?;
    let path = format!("/hosts/{}", segment(&args.name));
    let revoked: HostRevoked = place::client_runtime()?.block_on(client.delete_for(&path))?;
    if args.json {
        show::json(&revoked)?;
        return Ok(Exit::Done);
    }
    let rollouts: Vec<String> = revoked.rollouts.iter().map(ToString::to_string).collect();
    match rollouts.as_slice() {
        [] => say!("revoked; no rollout was driven there"),
        rollouts => say!("revoked; driven there: rollout {}", rollouts.join(", ")),
    }
    Ok(Exit::Done)
}

pub fn show(args: &ShowArgs) -> Result<Exit, Failure> {
    let list = fetch(&args.list.server)?;
    let Some(host) = list.items.into_iter().find(|host| host.name == args.name) else {
        return Err(Failure::new(format_args!("there is no host `{}`", args.name)).remedy("`segue hosts` lists them"));
    };
    if args.list.json {
        show::json(&host)?;
        return Ok(Exit::Done);
    }
    say!("{} is {}", host.name, stands(host.status, host.not_answering));
    say!("  reached at        {}{}", host.address, if host.joined { " (mutual TLS)" } else { "" });
    say!("  version           {}", host.version.as_deref().unwrap_or("not known"));
    say!("  last heard        {}", host.heard_at.map_or_else(|| "never".to_owned(), show::ago));
    if let Some(ends) = host.certificate_ends_at {
        say!("  certificate ends  {}", date(ends));
    }
    if let Some(at) = host.revoked_at {
        say!("  revoked           {}", show::ago(at));
    }
    say!("  traffic comes to  {}", host.listen.join(", "));
    if let Some(trouble) = &host.router_trouble {
        say!("  router            {trouble}");
    }
    let mut table = show::table(&["environment", "service", "release", "commit", "weight", "instances"]);
    for one in &host.carries {
        table.add_row(vec![
            one.environment.clone(),
            one.service.clone(),
            one.release.id.to_string(),
            one.release.commit.as_str().chars().take(7).collect(),
            format!("{} %", one.weight),
            instances(one.running, one.instances),
        ]);
    }
    show::print_table(&table, "it carries nothing");
    for lacks in &host.out_of_step {
        say!("{}/{} is {}", lacks.environment, lacks.service, out_of_step(lacks));
    }
    for one in host.carries.iter().filter(|one| is_dead(one)) {
        say!("{}/{} {}", one.environment, one.service, dead(one));
    }
    if !host.gpus.is_empty() {
        let mut table = show::table(&["gpu", "model", "memory", "given to"]);
        for one in &host.gpus {
            let given = if one.instances.is_empty() { "nobody".to_owned() } else { one.instances.join(", ") };
            let memory = format!("{} MiB", one.gpu.memory_mib);
            table.add_row(vec![one.gpu.uuid.clone(), one.gpu.name.clone(), memory, given]);
        }
        show::print_table(&table, "");
    }
    for fault in &host.gpu_faults {
        let gpu = fault.gpu.as_deref().unwrap_or("all GPUs");
        say!("fault: {gpu}: {} ({})", fault.what, fault.remedy);
    }
    for xid in &host.gpu_xids {
        let struck: Vec<String> = xid.instances.iter().map(ToString::to_string).collect();
        let struck = if struck.is_empty() { String::new() } else { format!(", under {}", struck.join(", ")) };
        say!("reported {}: {}: Xid {} ({}){struck}", show::ago(xid.at), xid.gpu, xid.code, xid.meaning);
    }
    for blind in &host.gpu_blind {
        say!("not seen: {blind}");
    }
    for loss in host.carries.iter().flat_map(|one| &one.gpu_losses) {
        say!("GPUs lost: {loss}");
    }
    for drift in host.carries.iter().flat_map(|one| &one.drift) {
        say!("changed by hand: {drift}");
    }
    Ok(Exit::Done)
}

fn fetch(server: &ServerArgs) -> Result<HostList, Failure> {
    let client = server.client()?;
    Ok(place::client_runtime()?.block_on(client.get("/hosts", &()))?)
}

/// How a host stands, in a word.
pub const fn status(status: HostStatus) -> &'static str {
    match status {
        HostStatus::Reachable => "reachable",
        HostStatus::Absent => "absent",
        HostStatus::Quarantined => "quarantined",
        HostStatus::Revoked => "revoked",
    }
}

/// The same of one that counts as reachable and does not answer just now.
pub const fn stands(status: HostStatus, not_answering: bool) -> &'static str {
    match status {
        HostStatus::Reachable if not_answering => "not answering",
        status => self::status(status),
    }
}

/// Whether requests go to a release of which nothing runs.
pub const fn is_dead(one: &CarriedService) -> bool {
    one.weight > 0 && one.running == 0 && one.asleep == 0
}

/// The same in words.
pub fn dead(one: &CarriedService) -> String {
    let (release, instances) = (one.release.id, one.instances);
    let restarts = if one.restarts > 0 { format!(", restarted {} times", one.restarts) } else { String::new() };
    format!("answers nobody: 0 of {instances} instances of release {release} run{restarts}")
}

/// What a host serves in the place of what is on record, and when that is mended.
pub fn out_of_step(lacks: &OutOfStep) -> String {
    let OutOfStep { environment, service, recorded, .. } = lacks;
    let serves = lacks.serves.map_or_else(|| "serves nothing".to_owned(), |serves| format!("release {serves}"));
    let when = match (lacks.rollout, lacks.again_at) {
        (Some(rollout), _) => format!("rollout {rollout} goes on"),
        (None, Some(at)) => {
            let at = at.as_chrono().format("%H:%M");
            format!("tried again at {at}; `segue rollback {environment} {service} --to {recorded}` tries now")
        }
        (None, None) => format!("`segue rollback {environment} {service} --to {recorded}` brings it there now"),
    };
    let failed = match (lacks.failed, &lacks.reason) {
        (Some(rollout), Some(reason)) if lacks.rollout.is_none() => format!("; rollout {rollout} failed: {reason}"),
        _ => String::new(),
    };
    format!("out of step: {serves}, the record {recorded}; {when}{failed}")
}

/// How many instances there are, and of those how many run where not all do.
pub fn instances(running: u32, all: u32) -> String {
    if running == all { all.to_string() } else { format!("{running} of {all}") }
}

/// How many GPUs there are, and how many of them are given to somebody.
fn gpus(host: &HostView) -> String {
    let given = host.gpus.iter().filter(|one| !one.instances.is_empty()).count();
    let all = if host.gpus.is_empty() { String::new() } else { format!("{given} of {} given", host.gpus.len()) };
    let faulty = host.gpu_faults.len();
    match (all.is_empty(), faulty) {
        (_, 0) => all,
        (true, _) => format!("{faulty} at fault"),
        (false, _) => format!("{all}, {faulty} at fault"),
    }
}

fn carries(host: &HostView) -> String {
    let services = host.carries.iter().filter(|one| one.weight > 0);
    services.map(|one| format!("{}/{} {}", one.environment, one.service, one.release.id)).collect::<Vec<_>>().join(", ")
}

fn date(at: Timestamp) -> String {
    at.to_string().chars().take(16).collect::<String>().replace('T', " ")
}
