//! What can be wrong with the router of a host.

use std::net::SocketAddr;

use segue_schemas::{
    config::{Config, EnvironmentConfig, HostConfig},
    router::{RouterKind, RouterSettings},
};

/// Something wrong with one of the keys of a host.
pub(super) struct RouterFault {
    /// The key.
    pub(super) key: &'static str,
    /// What is wrong.
    pub(super) message: String,
    /// What to write.
    pub(super) help: String,
}

/// What is wrong with what a host says of its router.
pub(super) fn router_faults(host: &HostConfig) -> Vec<RouterFault> {
    let mut faults = Vec::new();
    let settings =
        [("haproxy", host.haproxy.is_some(), RouterKind::Haproxy), ("nginx", host.nginx.is_some(), RouterKind::Nginx)];
    for (key, is_written, kind) in settings {
        if is_written && host.router != kind {
            let message = format!("`{key}` means nothing to a host whose `router` is another");
            faults.push(RouterFault { key, message, help: format!("write `router: {key}`, or remove it") });
        }
    }
    let (key, log, commands) = match RouterSettings::of(host) {
        RouterSettings::Embedded => return faults,
        RouterSettings::Haproxy(haproxy) => ("haproxy", haproxy.log.clone(), [haproxy.check(), haproxy.reload]),
        RouterSettings::Nginx(nginx) => ("nginx", nginx.log, [nginx.check, nginx.reload]),
    };
    let has_port = |address: &String| address.parse::<SocketAddr>().map_or(true, |address| address.port() != 0);
    if host.listen.is_empty() || !host.listen.iter().all(has_port) {
        let message = format!("{key} has to be told where to listen");
        let help = "name addresses with their ports: `listen: [\"0.0.0.0:80\"]`".into();
        faults.push(RouterFault { key: "listen", message, help });
    }
    let is_loopback = |text: &str| text.parse::<SocketAddr>().is_ok_and(|at| at.is_ipv4() && at.ip().is_loopback());
    if let Some(log) = log.filter(|log| !is_loopback(log)) {
        let message = format!("`{log}` is no address of the loopback, at which the host could hear the log");
        faults.push(RouterFault { key, message, help: "write `127.0.0.1` and a port, or leave `log` out".into() });
    }
    if commands.iter().any(|command| command.first().is_none_or(String::is_empty)) {
        let message = "a command is empty".into();
        faults.push(RouterFault { key, message, help: "write the program and its arguments, or leave it out".into() });
    }
    faults
}

/// The first host of an environment whose router can't hold requests while a service sleeps.
pub(super) fn sleepless<'c>(config: &'c Config, environment: &EnvironmentConfig) -> Option<&'c str> {
    let hosts = environment.hosts.iter().filter_map(|name| config.hosts.get_key_value(name));
    let mut others = hosts.filter(|(_, host)| host.router != RouterKind::Embedded);
    others.next().map(|(name, _)| name.as_str())
}
