//! `segue rollback`: back to an earlier release. The usual way is a rollout like any other, asked of the server; the
//! emergency way goes straight to the host of this machine, and needs no server, queue or job.

use std::path::{Path, PathBuf};

use segue_schemas::{
    api::{EmergencyReport, ReleaseList, ReleaseQuery, RollbackRequest},
    deploy::{Release, Rollout},
    host_api::{EmergencyResult, EmergencyRollback, HostError, HostErrorCode},
    id::ReleaseId,
    status::RolloutStatus,
};
use segue_worker::host::client::{HostClient, HostClientError};

use super::{
    client::segment,
    connection::ServerArgs,
    ending::{Exit, Failure},
    out::say,
    place, rollout, show,
};

/// Go back to an earlier release
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue rollback production api\n  \
    segue rollback production api --to rollback-20260102-150405\n  \
    segue rollback production api --emergency\n\n\
    Of several hosts, those that do not serve the release that is on record are brought to it by `--to` with that release's number \
    (`segue hosts` names them); of several, the first is waited for, and `segue rollout list` shows all.\n\
    Works while a rollout runs: that one ends first, rolled back. `segue releases` lists the tags.\n\
    --emergency asks nobody: it goes to the host of this machine, with the server down as well, and \
    the server records it when it sees it. Where the host has gone back already it changes nothing; `--to N` names another release.\n\n\
    Exit codes: 0 done, or there already, 1 refused, or recorded and not carried yet, 2 usage.")]
pub struct Args {
    /// The environment
    environment: String,
    /// The service
    service: String,
    /// Tag of a rollback point, or a release's number [default: the last good one before the current]
    #[arg(long, value_name = "TAG")]
    to: Option<String>,
    /// Straight at the host: no job, no queue, no server
    #[arg(long)]
    emergency: bool,
    /// The host's socket, with --emergency [default: host/host.sock in the data directory]
    #[arg(long, value_name = "PATH", requires = "emergency")]
    socket: Option<PathBuf>,
    /// Why, for the record
    #[arg(long)]
    reason: Option<String>,
    /// Return at once instead of waiting for the end
    #[arg(long, conflicts_with = "emergency")]
    no_wait: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub fn run(args: &Args) -> Result<Exit, Failure> {
    let runtime = place::client_runtime()?;
    if args.emergency { runtime.block_on(at_the_host(args)) } else { runtime.block_on(by_the_server(args)) }
}

async fn by_the_server(args: &Args) -> Result<Exit, Failure> {
    let client = args.server.client()?;
    let request = RollbackRequest { to: args.to.clone(), reason: args.reason.clone(), by: show::me() };
    let path = format!("/environments/{}/services/{}/rollback", segment(&args.environment), segment(&args.service));
    let started: Rollout = client.post(&path, &request).await?;
    if !args.json
        && let Some(repair) = &started.spec.repair
    {
        let (release, environment) = (started.spec.release.id, &args.environment);
        say!(
            "release {release} serves {environment} already; a host that is out of step is brought to it: {}",
            repair.why
        );
    }
    if args.no_wait {
        if args.json {
            show::json(&started)?;
        } else {
            let how = if started.spec.repair.is_some() { "brings the host" } else { "goes back" };
            say!("rollout {} {how} to release {}", started.id, started.spec.release.id);
        }
        return Ok(Exit::Done);
    }
    let end = rollout::watch(&client, started.id, args.json).await?;
    Ok(if end.status == RolloutStatus::Succeeded { Exit::Done } else { Exit::Failed })
}

async fn at_the_host(args: &Args) -> Result<Exit, Failure> {
    let socket = match &args.socket {
        Some(socket) => socket.clone(),
        None => place::data(args.server.data())?.join("host/host.sock"),
    };
    let host = HostClient::new(socket.clone());
    let to = match &args.to {
        Some(text) => Some(wanted_release(args, &host, text).await?),
        None => None,
    };
    let by = show::me().unwrap_or_else(|| "somebody".into());
    let reason = format!("{by}: {}", args.reason.as_deref().unwrap_or("emergency rollback"));
    let request = EmergencyRollback { to, reason };
    let result = match host.emergency_rollback(&args.environment, &args.service, &request).await {
        Ok(result) => result,
        Err(error) => return Err(explain_host(args, &error, &host, &socket).await),
    };
    // what was on record before is there already
    if result.stands.as_ref().is_none_or(|stands| stands.epoch != result.epoch) {
        tell_server(args, &result, request.reason).await;
    }
    if args.json {
        show::json(&result)?
    } else {
        print(args, &result)
    }
    Ok(Exit::Done)
}

/// Has it put on record at once. A server that can't be reached hears of it from the host at its next start.
async fn tell_server(args: &Args, result: &EmergencyResult, reason: String) {
    let Ok(client) = args.server.client() else { return };
    let path = format!("/environments/{}/services/{}/emergency", segment(&args.environment), segment(&args.service));
    let report = EmergencyReport { result: result.clone(), reason };
    if let Err(error) = client.post::<Rollout>(&path, &report).await.map_err(Failure::from) {
        anstream::eprintln!(
            "the server has no record of it yet, and takes it from the host when it next starts: {error}"
        );
    }
}

/// A release's number as it was given, or the one behind a tag. Tags are known to the server alone; with the server down
/// the numbers that the host has are shown instead.
async fn wanted_release(args: &Args, host: &HostClient, text: &str) -> Result<ReleaseId, Failure> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let asked = async {
        let query = ReleaseQuery {
            service: Some(args.service.clone()),
            environment: Some(args.environment.clone()),
            limit: Some(200),
            ..ReleaseQuery::default()
        };
        args.server.client()?.get::<ReleaseList>("/releases", &query).await.map_err(Failure::from)
    };
    let unknown = match asked.await {
        Ok(list) => {
            let is_wanted =
                |point: &segue_schemas::api::RollbackPoint| point.tag == text && point.environment == args.environment;
            if let Some(view) = list.items.iter().find(|view| view.points.iter().any(is_wanted)) {
                return Ok(view.release.id);
            }
            format!("{} has no rollback point `{text}` in {}", args.service, args.environment)
        }
        Err(failure) => format!("cannot look the tag `{text}` up without the server ({failure})"),
    };
    let kept = host.state().await.map(|state| state.releases).unwrap_or_default();
    let numbers: Vec<String> = kept.iter().filter(|release| release.service == args.service).map(describe).collect();
    Err(Failure::new(unknown).remedy(format_args!(
        "leave --to out for the last good release, or give a number that the host has: {}",
        if numbers.is_empty() { "none".into() } else { numbers.join(", ") }
    )))
}

fn describe(release: &Release) -> String {
    format!("{} (commit {})", release.id, release.commit.short())
}

async fn explain_host(args: &Args, error: &HostClientError, host: &HostClient, socket: &Path) -> Failure {
    let failure = Failure::new(error);
    match error {
        HostClientError::Unreachable(_) => failure.remedy(format_args!(
            "on the machine that carries the service: `segue host` must run; its socket was looked for at {}{}",
            socket.display(),
            others(args, socket)
        )),
        HostClientError::Host(HostError { code: HostErrorCode::NotFound, .. }) => {
            let routes = host.state().await.map(|state| state.routes).unwrap_or_default();
            if routes.iter().any(|route| route.environment == args.environment && route.service == args.service) {
                // it is a release that is not there
                return failure;
            }
            let carried: Vec<String> =
                routes.iter().map(|route| format!("{}/{}", route.environment, route.service)).collect();
            let carried = if carried.is_empty() { "nothing".into() } else { carried.join(", ") };
            let others = others(args, socket);
            failure.remedy(format_args!(
                "the host at {} carries {carried}; `--socket` names another{others}",
                socket.display()
            ))
        }
        HostClientError::Host(_) | HostClientError::Timeout(_) | HostClientError::Protocol(_) => failure,
    }
}

/// The sockets of other hosts that there are in the data directory, for a person to choose from.
fn others(args: &Args, socket: &Path) -> String {
    let Ok(data) = place::data(args.server.data()) else { return String::new() };
    let named = std::fs::read_dir(data.join("hosts")).into_iter().flatten().flatten();
    let mut sockets: Vec<PathBuf> = named.map(|one| one.path().join("host.sock")).collect();
    sockets.push(data.join("host/host.sock"));
    sockets.retain(|one| one != socket && one.exists());
    sockets.sort();
    let shown: Vec<String> = sockets.iter().map(|one| one.display().to_string()).collect();
    if shown.is_empty() { String::new() } else { format!("; there are {}", shown.join(", ")) }
}

fn print(args: &Args, result: &EmergencyResult) {
    if let Some(restored) = &result.stands {
        let shut_out =
            if restored.epoch == result.epoch { "" } else { " but that a rollout that may go on is shut out" };
        say!(
            "release {} has all the traffic of {}/{} already, restored {} by {}; nothing was changed{shut_out}, `--to N` names another",
            describe(&result.to),
            args.environment,
            args.service,
            show::ago(restored.at),
            restored.reason
        );
        return;
    }
    let shares = result.before.iter().map(|one| format!("release {} {} %", one.release, one.percent));
    let before = shares.collect::<Vec<_>>().join(", ");
    // a host of an earlier version tells of one release alone
    let from = || result.from.as_ref().map_or_else(|| "nothing".into(), describe);
    let before = if before.is_empty() { from() } else { before };
    say!(
        "{}/{} serves release {} again (before: {before}); it took {:.1} ms, the epoch is {} now",
        args.environment,
        args.service,
        describe(&result.to),
        result.took_us as f64 / 1000.0,
        result.epoch
    );
}
