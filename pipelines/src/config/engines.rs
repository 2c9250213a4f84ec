//! Where an engine for containers is, and what can be wrong with how that is written.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use segue_schemas::{
    config::{Config, HostConfig, LOCAL_HOST},
    engine::EngineConfig,
};

/// Where an engine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineAddress {
    /// On this machine, at a socket.
    Unix(String),
    /// At a port of TCP.
    Tcp {
        /// A name or an address, without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// Behind SSH.
    Ssh {
        /// As whom.
        user: Option<String>,
        /// A name or an address, without brackets.
        host: String,
        /// The port, if it is told.
        port: Option<u16>,
    },
}

impl EngineAddress {
    /// Reads one.
    ///
    /// # Errors
    /// What is wrong with it, and what to write.
    pub fn parse(text: &str) -> Result<Self, (String, &'static str)> {
        let wrong = |what: &str| Err((format!("`{text}` {what}"), HELP));
        let Some((scheme, rest)) = text.split_once("://") else {
            return if text.is_empty() { wrong("is no address") } else { Ok(Self::Unix(text.to_owned())) };
        };
        if scheme == "unix" {
            return if rest.starts_with('/') {
                Ok(Self::Unix(rest.to_owned()))
            } else {
                wrong("names no socket by its whole path")
            };
        }
        if !["tcp", "ssh"].contains(&scheme) {
            return wrong("is the address of no engine");
        }
        let (user, place) = match rest.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, rest),
        };
        let Some((host, port)) = host_and_port(place.strip_suffix('/').unwrap_or(place)) else {
            return wrong("names no machine");
        };
        match (scheme, user, port) {
            ("tcp", None, Some(port)) => Ok(Self::Tcp { host, port }),
            ("tcp", None, None) => wrong("names no port"),
            ("tcp", Some(_), _) => wrong("names a user, and nobody is one by TCP"),
            (_, Some(user), _) if !is_user(user) => wrong("names no user that `ssh` could be told"),
            (_, user, port) => Ok(Self::Ssh { user: user.map(str::to_owned), host, port }),
        }
    }

    /// The socket, of an engine on this machine.
    #[must_use]
    pub fn socket(&self) -> Option<&str> {
        match self {
            Self::Unix(socket) => Some(socket),
            _ => None,
        }
    }

    /// Whether nobody but this machine is on the way.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self.host() {
            None => true,
            Some(host) => {
                host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
            }
        }
    }

    /// The machine that is named.
    fn host(&self) -> Option<&str> {
        match self {
            Self::Unix(_) => None,
            Self::Tcp { host, .. } | Self::Ssh { host, .. } => Some(host),
        }
    }
}

/// Something wrong with how an engine is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineFault {
    /// The key of [`EngineConfig`].
    pub key: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to write.
    pub help: String,
}

/// One address of a machine at which services may listen there.
///
/// # Errors
/// What it is in the place of one.
pub fn one_address(address: IpAddr) -> Result<IpAddr, String> {
    // 0.0.0.0 can be written as an address of IPv6
    let address = address.to_canonical();
    if address.is_unspecified() {
        Err(format!("`{address}` would open services to every network of that machine"))
    } else if address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        Err(format!("`{address}` is the address of many machines"))
    } else {
        Ok(address)
    }
}

/// What is wrong with how an engine is named.
#[must_use]
pub fn engine_faults(engine: &EngineConfig) -> Vec<EngineFault> {
    let fault = |key, message: String, help: &str| EngineFault { key, message, help: help.to_owned() };
    let address = match EngineAddress::parse(&engine.address) {
        Ok(address) => address,
        Err((message, help)) => return vec![fault("address", message, help)],
    };
    let mut faults = Vec::new();
    let tls = [("ca", &engine.ca), ("cert", &engine.cert), ("key", &engine.key)];
    let ssh = [("identity", &engine.identity), ("known-hosts", &engine.known_hosts)];
    let (others, what) = match &address {
        EngineAddress::Tcp { .. } => (ssh.to_vec(), "`ssh://USER@HOST`"),
        EngineAddress::Ssh { .. } => (tls.to_vec(), "`tcp://HOST:PORT`"),
        EngineAddress::Unix(_) => (tls.into_iter().chain(ssh).collect(), "an address on another machine"),
    };
    for (key, _) in others.into_iter().filter(|(_, file)| file.is_some()) {
        faults.push(fault(
            key,
            format!("`{key}` means nothing for `{}`", engine.address),
            &format!("remove it; it is for {what}"),
        ));
    }
    if matches!(address, EngineAddress::Tcp { .. }) {
        let missing: Vec<&str> = tls.iter().filter(|(_, file)| file.is_none()).map(|(key, _)| *key).collect();
        if missing.len() == tls.len() {
            if !address.is_loopback() {
                faults.push(fault(
                    "address",
                    format!(
                        "`{}` is on another machine, and without TLS: whoever reaches that port has the machine",
                        engine.address
                    ),
                    "name `ca`, `cert` and `key`, with the engine started by `--tlsverify`; or reach it by SSH: `ssh://USER@HOST`",
                ));
            }
        } else {
            for key in missing {
                faults.push(fault(
                    "address",
                    format!("`{key}` is missing: engine and host both show a certificate"),
                    "name `ca`, `cert` and `key`",
                ));
            }
        }
    }
    let at = address.host().and_then(|host| host.parse().ok()).map(one_address);
    if let Some(Err(what)) = at {
        faults.push(fault("address", what, "write the address of one machine: `tcp://10.0.0.5:2376`"));
    }
    if let Some(publish) = &engine.publish {
        faults.extend(publish_fault(&address, publish, &engine.address));
    }
    if engine.anew.as_ref().is_some_and(|id| id.is_empty() || !id.chars().all(|c| c.is_ascii_graphic())) {
        faults.push(fault(
            "anew",
            "`anew` names no engine".into(),
            "write its number, which the host's log tells with the refusal: `docker info --format '{{.ID}}'`",
        ));
    }
    for (key, file) in ssh {
        if file.as_ref().is_some_and(|file| is_read_otherwise(&file.to_string_lossy())) {
            faults.push(fault(
                key,
                format!("the path of `{key}` has a sign that `ssh` reads as something else"),
                "give the file a name without `\"`, `%` and `${`",
            ));
        }
    }
    faults
}

fn publish_fault(address: &EngineAddress, publish: &str, engine: &str) -> Option<EngineFault> {
    const HELP: &str = "write one of its addresses, of a network that is private: `10.0.0.5`";
    let (message, help) = match publish.parse().map(one_address) {
        _ if address.socket().is_some() => (
            format!("`publish` means nothing for `{engine}`"),
            "remove it: services of an engine on this machine are reached in their own networks",
        ),
        Err(_) => (format!("`{publish}` is no address"), "write one such as `10.0.0.5`"),
        Ok(Err(what)) => (what, HELP),
        // requests would go to this machine, and there to whoever listens
        Ok(Ok(at)) if at.is_loopback() && !address.is_loopback() => {
            (format!("nobody but that machine itself comes to `{publish}` of another machine"), HELP)
        }
        Ok(Ok(_)) => return None,
    };
    Some(EngineFault { key: "publish", message, help: help.to_owned() })
}

/// Whether `ssh` ends a name in quotes in it, or puts something else in its place (ssh_config(5), TOKENS and ENVIRONMENT VARIABLES).
fn is_read_otherwise(path: &str) -> bool {
    path.contains(['"', '%']) || path.contains("${")
}

/// The hosts that `segue up` starts on one machine, and whose routers can't all have the addresses that they are to listen at: the host, the number
/// of the address in its list, and whose it is already.
pub(super) fn doubled_listens(config: &Config) -> Vec<(&str, usize, &str)> {
    let hosts = config.hosts.iter().filter(|(name, host)| host.is_started_here(name));
    let all = hosts.flat_map(|(name, host)| {
        let addresses = host.listen.iter().enumerate();
        addresses.filter_map(move |(index, text)| Some((name.as_str(), index, text.parse::<SocketAddr>().ok()?)))
    });
    let (mut known, mut doubled): (Vec<(&str, SocketAddr)>, Vec<_>) = (Vec::new(), Vec::new());
    for (name, index, address) in all {
        match known.iter().find(|(other, known)| *other != name && are_in_each_others_way(*known, address)) {
            Some((other, _)) => doubled.push((name, index, *other)),
            None => known.push((name, address)),
        }
    }
    doubled
}

/// Whether two can't be listened at by two. Of port 0, each gets one of its own.
fn are_in_each_others_way(one: SocketAddr, other: SocketAddr) -> bool {
    let is_any = one.ip().is_unspecified() || other.ip().is_unspecified();
    let is_same = one.ip() == other.ip() || (is_any && one.is_ipv4() == other.is_ipv4());
    one.port() == other.port() && one.port() != 0 && is_same
}

/// What is wrong with a host that has an engine of its own, as its file has it.
pub(super) fn faults_of_host(name: &str, host: &HostConfig) -> Vec<EngineFault> {
    let Some(engine) = &host.docker else { return Vec::new() };
    let mut faults = engine_faults(engine);
    let mut whole = |message: String, help: &str| {
        faults.push(EngineFault { key: "", message, help: help.to_owned() });
    };
    let is_far = EngineAddress::parse(&engine.address).is_ok_and(|address| address.socket().is_none());
    if name != LOCAL_HOST && (host.join || host.address.is_some()) && is_far {
        let help = "name it there: `segue host --docker ADDRESS`";
        whole(format!("`{name}` joins from another machine, and `docker` means nothing here"), help);
    } else if name != LOCAL_HOST && is_far && host.socket.is_some() {
        whole(
            format!("`{name}` has a `socket`: it is started by somebody else, who names its engine"),
            "remove `socket`, and `segue up` starts it; or name the engine there: `segue host --docker ADDRESS`",
        );
    } else if host.is_started_here(name) && name != LOCAL_HOST && host.listen.is_empty() {
        whole(
            format!("`segue up` starts `{name}`, and nothing says where its router listens"),
            "name an address that no other host has: `listen: [\"127.0.0.1:8332\"]`",
        );
    }
    faults
}

/// What is wrong with how a host's GPUs are looked at, by the key of [`HostConfig`].
pub(super) fn faults_of_look(host: &HostConfig) -> Vec<EngineFault> {
    let engine = host.docker.as_ref();
    look_faults(engine, &host.gpus, host.nvidia_smi.is_some(), host.nvidia_smi_image.as_deref())
}

/// What is wrong with how GPUs are looked at, of a host with this engine: on this machine by a program, on another one in a container.
#[must_use]
pub fn look_faults(
    engine: Option<&EngineConfig>,
    gpus: &[String],
    has_program: bool,
    image: Option<&str>,
) -> Vec<EngineFault> {
    let address = engine.and_then(|engine| EngineAddress::parse(&engine.address).ok());
    let is_far = address.is_some_and(|address| address.socket().is_none());
    let fault =
        |key, message: &str, help: &str| EngineFault { key, message: message.to_owned(), help: help.to_owned() };
    let mut faults = Vec::new();
    if is_far && !gpus.is_empty() && image.is_none() {
        faults.push(fault(
            "gpus",
            "the engine is on another machine, and nothing says in which image `nvidia-smi` is run there",
            "name one with glibc and `sleep`: `nvidia-smi-image: debian:13-slim`; or run a `segue host` on that machine and have it join \
             (`segue host invite`)",
        ));
    }
    if is_far && has_program {
        faults.push(fault(
            "nvidia-smi",
            "`nvidia-smi` is a program of this machine, and the engine is on another one",
            "remove it; there it is run in a container, of the image that `nvidia-smi-image` names",
        ));
    }
    match image {
        Some(_) if !is_far => faults.push(fault(
            "nvidia-smi-image",
            "`nvidia-smi-image` means nothing for an engine on this machine, where `nvidia-smi` itself is run",
            "remove it",
        )),
        Some(image) if image.is_empty() || !image.chars().all(|c| c.is_ascii_graphic()) => {
            faults.push(fault("nvidia-smi-image", "this names no image", "write one such as `debian:13-slim`"));
        }
        _ => {}
    }
    faults
}

/// Why jobs can't run at an engine; none: they can.
pub(super) fn no_engine_of_jobs(socket: &str) -> Option<EngineFault> {
    let is_path = !socket.contains("://");
    (!is_path).then(|| {
        let (message, help) = match socket.strip_prefix("unix://") {
            Some(path) => ("a socket is named by its path".to_owned(), format!("write `{path}`")),
            None => (
                format!("`{socket}` is no socket of this machine, and a job's container has its workspace from here"),
                "run a worker on that machine; services alone may have an engine elsewhere (`hosts.NAME.docker`)"
                    .into(),
            ),
        };
        EngineFault { key: "socket", message, help }
    })
}

const HELP: &str = "write `unix:///run/docker.sock`, `tcp://HOST:2376` or `ssh://USER@HOST`";

fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
    let is_host = host.starts_with(|c: char| c.is_ascii_alphanumeric() || c == ':') && host.chars().all(is_plain);
    let port = port.map(|port| port.parse::<u16>().ok().filter(|port| *port != 0).ok_or(())).transpose().ok()?;
    is_host.then(|| (host.to_owned(), port))
}

/// Nothing that a shell or `ssh` could take for anything else.
fn is_user(user: &str) -> bool {
    user.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && user.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_listen_at_one_address_that_their_proxy_comes_to() {
        for (address, publish, is_right) in [
            ("tcp://10.0.0.5:2376", Some("10.1.0.5"), true),
            ("tcp://10.0.0.5:2376", Some("::ffff:10.1.0.5"), true),
            ("tcp://10.0.0.5:2376", Some("0.0.0.0"), false),
            ("tcp://10.0.0.5:2376", Some("::"), false),
            ("tcp://10.0.0.5:2376", Some("::ffff:0.0.0.0"), false),
            ("tcp://10.0.0.5:2376", Some("224.0.0.1"), false),
            ("tcp://10.0.0.5:2376", Some("ff02::1"), false),
            ("tcp://10.0.0.5:2376", Some("255.255.255.255"), false),
            ("tcp://10.0.0.5:2376", Some("127.0.0.1"), false),
            ("ssh://deploy@gpu-1", Some("::1"), false),
            ("ssh://deploy@gpu-1", Some("::ffff:127.0.0.1"), false),
            ("ssh://deploy@127.0.0.2", Some("127.0.0.1"), true),
            ("ssh://deploy@localhost", Some("10.0.0.5"), true),
            ("ssh://deploy@localhost", None, true),
            ("ssh://deploy@0.0.0.0", None, false),
            ("ssh://deploy@[::ffff:0.0.0.0]", None, false),
            ("tcp://239.0.0.1:2376", None, false),
        ] {
            let file = || address.starts_with("tcp").then(|| "file.pem".into());
            let publish = publish.map(str::to_owned);
            let engine = EngineConfig { ca: file(), cert: file(), key: file(), publish, ..EngineConfig::at(address) };
            let faults = engine_faults(&engine);
            assert_eq!(faults.is_empty(), is_right, "{engine:?}: {faults:?}");
        }
    }

    #[test]
    fn gpus_elsewhere_are_looked_at_in_an_image_that_somebody_named() {
        let far = EngineConfig::at("ssh://deploy@gpu-1");
        let here = EngineConfig::at("/run/docker.sock");
        for (engine, gpus, has_program, image, keys) in [
            (Some(&far), true, false, Some("debian:13-slim"), &[][..]),
            (Some(&far), true, false, None, &["gpus"]),
            (Some(&far), false, false, None, &[]),
            (Some(&far), true, true, Some("debian:13-slim"), &["nvidia-smi"]),
            (Some(&far), true, false, Some("debian 13"), &["nvidia-smi-image"]),
            (Some(&far), true, false, Some(""), &["nvidia-smi-image"]),
            (Some(&here), true, true, None, &[]),
            (None, true, false, Some("debian:13-slim"), &["nvidia-smi-image"]),
        ] {
            let gpus = if gpus { vec!["all".to_owned()] } else { Vec::new() };
            let found = look_faults(engine, &gpus, has_program, image);
            assert_eq!(found.iter().map(|fault| fault.key).collect::<Vec<_>>(), keys, "{engine:?} {image:?}");
        }
    }

    #[test]
    fn an_engine_set_up_anew_is_named_by_its_number() {
        for (anew, is_right) in [
            ("7d1c6b1e-54a4-4f2b-a2b5-2a3a2b7f0d11", true),
            ("ABCD:EFGH:IJKL:MNOP", true),
            ("", false),
            ("the new one", false),
        ] {
            let engine = EngineConfig { anew: Some(anew.into()), ..EngineConfig::at("ssh://gpu-1") };
            let faults = engine_faults(&engine);
            assert_eq!(faults.iter().all(|fault| fault.key != "anew"), is_right, "{anew}: {faults:?}");
        }
    }

    #[test]
    fn files_are_what_ssh_takes_them_for() {
        for (path, is_right) in [
            ("/etc/segue/a key", true),
            ("/home/$me/key", true),
            ("/etc/a\"key", false),
            ("/etc/%h/key", false),
            ("/etc/${HOME}/key", false),
        ] {
            let engine = EngineConfig { identity: Some(path.into()), ..EngineConfig::at("ssh://gpu-1") };
            assert_eq!(engine_faults(&engine).is_empty(), is_right, "{path}");
            let engine = EngineConfig { known_hosts: Some(path.into()), ..EngineConfig::at("ssh://gpu-1") };
            assert_eq!(engine_faults(&engine).is_empty(), is_right, "{path}");
        }
    }

    #[test]
    fn addresses_are_read_or_refused() {
        let tcp = |host: &str, port| EngineAddress::Tcp { host: host.into(), port };
        let ssh = |user: Option<&str>, host: &str, port| EngineAddress::Ssh {
            user: user.map(str::to_owned),
            host: host.into(),
            port,
        };
        for (text, address) in [
            ("/run/docker.sock", EngineAddress::Unix("/run/docker.sock".into())),
            ("unix:///run/docker.sock", EngineAddress::Unix("/run/docker.sock".into())),
            ("tcp://10.0.0.5:2376", tcp("10.0.0.5", 2376)),
            ("tcp://gpu-1.internal:2376/", tcp("gpu-1.internal", 2376)),
            ("tcp://[fd00::5]:2376", tcp("fd00::5", 2376)),
            ("ssh://deploy@10.0.0.5", ssh(Some("deploy"), "10.0.0.5", None)),
            ("ssh://deploy@gpu-1:2222", ssh(Some("deploy"), "gpu-1", Some(2222))),
            ("ssh://gpu-1", ssh(None, "gpu-1", None)),
        ] {
            assert_eq!(EngineAddress::parse(text), Ok(address), "{text}");
        }
        for text in [
            "",
            "unix://docker.sock",
            "http://10.0.0.5:2375",
            "tcp://10.0.0.5",
            "tcp://10.0.0.5:0",
            "tcp://10.0.0.5:70000",
            "tcp://me@10.0.0.5:2376",
            "tcp://",
            "tcp://a b:1",
            "ssh://-oProxyCommand=x",
            "ssh://-l@host",
            "ssh://a@b@c",
            "ssh://deploy@host/run/docker.sock",
            "ssh://deploy:word@host",
        ] {
            assert!(EngineAddress::parse(text).is_err(), "{text}");
        }
    }
}
