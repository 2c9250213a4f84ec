//! What should answer: the server, the host, the proxy's addresses.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
};

use segue_runner::{artifact_store, queue};
use segue_schemas::{
    api::{HostList, HostStatus, HostView, ServerStatus},
    config::{Config, HostConfig, LOCAL_HOST, StorageKind},
    host_api::{HostState, InstanceState},
};
use segue_worker::host::client::{HostClient, HostClientError};

use super::Check;
use crate::cli::{
    client::CallError,
    connection::ServerArgs,
    ending::Failure,
    hosts::{dead, is_dead, out_of_step},
};

/// Whether the server answers, is ready, and takes the token.
pub async fn server(args: &ServerArgs) -> Vec<Check> {
    const NAME: &str = "server";
    let client = match args.anonymous() {
        Ok(client) => client,
        Err(failure) => return vec![Check::bad(NAME, failure.to_string(), "name it with --server URL")],
    };
    match client.plain("/readyz").await {
        Ok(_) => {}
        Err(error @ CallError::Unreachable(_)) => {
            let found = Failure::from(error).to_string();
            return vec![Check::bad(NAME, found, "start it with `segue up`, or name another with --server URL")];
        }
        Err(error) => {
            let found = format!("is not ready: {}", Failure::from(error));
            return vec![Check::bad(NAME, found, "look at what it printed; `GET /readyz` says what is missing")];
        }
    }
    let mut checks = vec![Check::good(NAME, format!("{} is ready", client.base()))];
    checks.push(token(args).await);
    checks
}

async fn token(args: &ServerArgs) -> Check {
    const NAME: &str = "admin's token";
    let remedy = "take the admin-token of that server's data directory: --token-file FILE, SEGUE_TOKEN or --data DIR";
    let client = match args.client() {
        Ok(client) => client,
        Err(failure) => return Check::bad(NAME, failure.to_string(), remedy),
    };
    match client.get::<ServerStatus>("/status", &()).await {
        Ok(status) => Check::good(
            NAME,
            format!(
                "is taken; version {}, {} jobs wait, {} run",
                status.version, status.queued_jobs, status.running_jobs
            ),
        ),
        Err(error) => Check::bad(NAME, Failure::from(error).to_string(), remedy),
    }
}

/// How the hosts stand that joined from other machines, as the server knows it; and those that are named and have not joined.
pub async fn joined_hosts(args: &ServerArgs, config: &Config) -> Vec<Check> {
    let Ok(client) = args.client() else { return Vec::new() };
    // a server that does not answer has a check of its own
    let Ok(list) = client.get::<HostList>("/hosts", &()).await else { return Vec::new() };
    let mut checks: Vec<Check> = list.items.iter().filter(|host| host.joined).map(joined).collect();
    for (name, _) in config.hosts.iter().filter(|(_, host)| host.join || host.address.is_some()) {
        if !list.items.iter().any(|host| host.joined && host.name == *name) {
            let remedy = format!("`segue host invite {name}` makes a token for it");
            checks.push(Check::bad(&format!("host {name}"), "has not joined", remedy));
        }
    }
    checks
}

fn joined(host: &HostView) -> Check {
    let (title, place) = (format!("host {}", host.name), &host.address);
    let restart =
        || format!("look at what `segue host` on its machine printed; workers must reach {place}, and it the server");
    match host.status {
        HostStatus::Revoked => {
            Check::remark(&title, "was revoked", format!("`segue host invite {}` lets it join anew", host.name))
        }
        HostStatus::Absent => Check::bad(&title, format!("at {place} was not heard lately"), restart()),
        HostStatus::Quarantined => {
            let found = format!("at {place}: a rollout ended there without anybody knowing what serves");
            Check::bad(
                &title,
                found,
                format!("`segue host show {}` shows what it carries; deploy there again", host.name),
            )
        }
        HostStatus::Reachable => {
            if let Some(trouble) = &host.router_trouble {
                return Check::bad(&title, trouble.clone(), UNCARRIED);
            }
            if host.not_answering {
                return Check::bad(&title, format!("at {place} does not answer just now"), restart());
            }
            if let Some(lacks) = host.out_of_step.first() {
                let found = format!("{}/{} is {}", lacks.environment, lacks.service, out_of_step(lacks));
                return Check::bad(&title, found, "`segue rollout list` shows what was tried, and why it failed");
            }
            if let Some(one) = host.carries.iter().find(|one| is_dead(one)) {
                let found = format!("{}/{} {}", one.environment, one.service, dead(one));
                return Check::bad(
                    &title,
                    found,
                    "look at the instance's output on that machine; go back with `segue rollback`",
                );
            }
            let version = host.version.as_deref().unwrap_or("not known");
            let ends = host.certificate_ends_at.map(|at| at.to_string()).unwrap_or_default();
            let found = format!("joined from {place}, version {version}, certificate until {ends}");
            if version == env!("CARGO_PKG_VERSION") {
                Check::good(&title, found)
            } else {
                Check::remark(&title, found, "run the same version there as here")
            }
        }
    }
}

/// Whether each host of this machine answers, and whether its proxy has its addresses.
pub async fn host(config: &Config, data: &Path) -> Vec<Check> {
    let mut checks = Vec::new();
    let is_named = config.hosts.contains_key("local");
    let built_in = (!is_named).then(|| ("local".to_owned(), HostConfig::default()));
    for (name, host) in built_in.into_iter().chain(config.hosts.clone()).filter(|(_, host)| host.is_here()) {
        let socket = host.socket_in(&name, data);
        let title = format!("host {name}");
        let state = match HostClient::new(socket.clone()).state_looked().await {
            Ok(state) => Some(state),
            Err(_) if !is_named && name == LOCAL_HOST && is_unused(config) && !socket.exists() => {
                let found = "is not here, and no environment names it";
                checks.push(Check::remark(&title, found, "nothing: hosts on other machines carry the environments"));
                None
            }
            Err(error) => {
                checks.push(silent(&title, &socket, &error));
                None
            }
        };
        if let Some(state) = &state {
            checks.push(well(&title, state));
        }
        let listening = state.map(|state| state.listen).unwrap_or_default();
        checks.extend(host.listen.iter().map(|address| port(address, &listening)));
    }
    checks
}

/// Whether the host that there is without being named carries nothing: all environments name others.
fn is_unused(config: &Config) -> bool {
    let names_it = |name: &String| name == LOCAL_HOST;
    !config.environments.is_empty() && config.environments.values().all(|one| !one.hosts.iter().any(names_it))
}

/// Whether the bucket for artifacts and caches, where there is one, can be written, read and emptied.
pub async fn storage(config: &Config) -> Option<Check> {
    const NAME: &str = "storage";
    if config.storage.kind == StorageKind::Directory {
        return None;
    }
    Some(match artifact_store::try_bucket(&config.storage).await {
        Ok(place) => Check::good(NAME, format!("{place} can be written, read and emptied")),
        Err(error) => {
            // what is wrong ends in what to do
            let told = error.to_string();
            let (found, remedy) = told.rsplit_once(": ").unwrap_or((&told, "look at `storage` in segue.yaml"));
            Check::bad(NAME, found, remedy)
        }
    })
}

/// Whether the message queue, where there is one, can be used.
pub async fn broker(config: &Config) -> Vec<Check> {
    const NAME: &str = "broker";
    let found = match queue::check(&config.broker).await {
        Ok(None) => return Vec::new(),
        Ok(Some(found)) => found,
        Err(error) => {
            // what is wrong ends in what to do
            let told = error.to_string();
            let (found, remedy) = told.split_once("): ").unwrap_or((&told, "look at `broker` in segue.yaml"));
            return vec![Check::bad(NAME, found, remedy)];
        }
    };
    let encrypted = if found.is_encrypted { "encrypted, and its certificate holds" } else { "not encrypted" };
    let role = match found.role {
        queue::Role::Server => "a server's; quorum queues are declared",
        queue::Role::Worker => "a worker's; a server needs more",
    };
    let version = found.version.as_deref().unwrap_or("that is not said");
    let (major, minor) = queue::OLDEST;
    let mut checks = vec![if found.is_old {
        let remedy = format!("upgrade it to {major}.{minor} or later: before, dead letters may be lost");
        Check::bad(NAME, format!("version {version} at {}", found.place), remedy)
    } else {
        let (place, user) = (&found.place, &found.user);
        Check::good(NAME, format!("version {version} at {place}, {encrypted}; the permissions of `{user}` are {role}"))
    }];
    if let Some(dead) = found.dead_letters.filter(|dead| *dead > 0) {
        checks.push(Check::remark("dead letters", format!("{dead}"), "see `segue queue list`"));
    }
    checks
}

/// What to do about a router that can't be told.
const UNCARRIED: &str = "start the router, or mend its configuration: what is recorded is carried by itself then";

fn silent(title: &str, socket: &Path, error: &HostClientError) -> Check {
    let remedy = match error {
        HostClientError::Unreachable(_) => {
            format!(
                "`segue up` starts it; apart from that, run `segue host --data {}`",
                socket.parent().unwrap_or(socket).display()
            )
        }
        HostClientError::Host(_) | HostClientError::Timeout(_) | HostClientError::Protocol(_) => {
            "look at what `segue host` printed; restart it: its services live on meanwhile".into()
        }
    };
    Check::bad(title, error.to_string(), remedy)
}

fn well(title: &str, state: &HostState) -> Check {
    let troubled: Vec<String> = state
        .instances
        .iter()
        .filter_map(|instance| match &instance.state {
            InstanceState::BackingOff { exit } => {
                Some(format!("{} ended with {exit} and is started again", instance.id))
            }
            InstanceState::Failed { reason } => Some(format!("{} can't be started: {reason}", instance.id)),
            InstanceState::Preparing | InstanceState::Running | InstanceState::Asleep | InstanceState::Stopped => None,
        })
        .collect();
    if let Some(trouble) = &state.router_trouble {
        return Check::bad(title, trouble.clone(), UNCARRIED);
    }
    if state.proxy_pid.is_none() {
        return Check::bad(title, "answers, but its proxy does not run", "look at what it printed: is a port taken?");
    }
    if let Some(first) = troubled.first() {
        let found = format!("{} of {} instances are in trouble: {first}", troubled.len(), state.instances.len());
        return Check::bad(title, found, "look at the instance's output; go back with `segue rollback`");
    }
    let drift = state.instances.iter().flat_map(|one| one.drift.iter().map(|drift| format!("{}: {drift}", one.id)));
    if let Some(first) = drift.clone().next() {
        let found = format!("{} changes by hand: {first}", drift.count());
        return Check::bad(
            title,
            found,
            "what can be put right at the engine is seen within seconds; the rest ends with the next deploy",
        );
    }
    let counts = format!("{} instances, {} routes", state.instances.len(), state.routes.len());
    Check::good(title, format!("version {}, {counts}", state.version))
}

/// Whether the proxy has an address, or could have it.
fn port(address: &str, listening: &[String]) -> Check {
    let title = format!("port {}", address.rsplit(':').next().unwrap_or(address));
    if listening.iter().any(|known| known == address) {
        return Check::good(&title, format!("the proxy listens on {address}"));
    }
    let Ok(wanted) = address.parse::<SocketAddr>() else {
        return Check::bad(&title, format!("`{address}` is no address"), "write IP:PORT in hosts.*.listen");
    };
    match TcpListener::bind(wanted) {
        Ok(_) => Check::good(&title, format!("{address} is free")),
        Err(error) => Check::bad(
            &title,
            format!("{address} can't be listened on: {error}"),
            format!("find who has it (ss -ltnp 'sport = :{}'), or choose another in hosts.*.listen", wanted.port()),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::State, *};

    #[test]
    fn a_router_that_carries_nothing_is_told_in_its_own_words() {
        let state = |trouble: Option<&str>| -> HostState {
            let mut state = serde_json::json!({
                "version": "1", "pid": 1, "listen": [], "proxy_pid": null, "instances": [], "routes": [], "releases": [],
            });
            if let Some(trouble) = trouble {
                state["router_trouble"] = trouble.into();
            }
            serde_json::from_value(state).unwrap()
        };
        let found = well("host ng", &state(Some("recorded, not carried: nginx is stopped")));
        assert_eq!((found.state, found.found.as_str()), (State::Bad, "recorded, not carried: nginx is stopped"));
        let of_before = well("host local", &state(None));
        assert!(of_before.found.contains("its proxy does not run"), "{}", of_before.found);
    }

    #[test]
    fn a_taken_port_is_found_unless_the_proxy_has_it() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        assert_eq!(port(&address, &[]).state, State::Bad);
        assert_eq!(port(&address, std::slice::from_ref(&address)).state, State::Good);
        drop(taken);
        assert_eq!(port(&address, &[]).state, State::Good);
    }
}
