//! What can be wrong with the section `broker`, apart from what only the broker itself can tell.

use std::{net::IpAddr, time::Duration};

use segue_schemas::config::BrokerConfig;

/// The bounds of `look-every`: what asks more often than the first polls, and a worker that asks more seldom than the second
/// counts as gone.
const LOOK_EVERY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(45));

/// A key of `broker` with a value that can't be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerFault {
    /// The key.
    pub key: &'static str,
    /// What is wrong with it. An address is a secret, so nothing of it is in here but its host.
    pub message: String,
    /// What to write.
    pub help: String,
}

/// Everything that is wrong with the section. An address in a file is looked at where it is read, by [`address_fault`].
#[must_use]
pub fn broker_faults(broker: &BrokerConfig) -> Vec<BrokerFault> {
    let mut faults = Vec::new();
    match (&broker.url, &broker.url_file) {
        (Some(_), Some(_)) => {
            faults.push(fault("url-file", "`url` and `url-file` both say where the broker is".into(), "keep one"));
        }
        (Some(url), None) => faults.extend(address_fault(url, broker.allow_plain)),
        (None, Some(_)) => {}
        (None, None) => {
            let given = [("ca-file", broker.ca_file.is_some()), ("allow-plain", broker.allow_plain)];
            let alone = given.into_iter().filter(|(_, given)| *given);
            faults.extend(alone.map(|(key, _)| {
                let message = format!("`{key}` says something of a broker, and nothing says where it is");
                fault(key, message, "name `url-file`, or remove it")
            }));
        }
    }
    if !(LOOK_EVERY.0..=LOOK_EVERY.1).contains(&broker.look_every.0) {
        let message = format!("`look-every` is {}, and 100ms to 45s are allowed", broker.look_every);
        faults.push(fault("look-every", message, "leave it out: that is 30s"));
    }
    faults
}

/// What is wrong with the address of a broker.
#[must_use]
pub fn address_fault(url: &str, allow_plain: bool) -> Option<BrokerFault> {
    match parts(url) {
        None => Some(fault(
            "url",
            "this is no address of a broker".into(),
            "write `amqps://USER:PASSWORD@HOST/VHOST`; `/` in a virtual host's name is `%2f`",
        )),
        Some((false, host)) if !allow_plain && !is_loopback(host) => Some(fault(
            "url",
            format!("what is said to `{host}` would not be encrypted, and that is not this machine"),
            "write `amqps://`, or `allow-plain: true` where the network can be trusted",
        )),
        Some(_) => None,
    }
}

/// Whether it is encrypted, and the host of `amqp[s]://[USER[:PASSWORD]@]HOST[:PORT][/VHOST][?QUERY]`.
fn parts(url: &str) -> Option<(bool, &str)> {
    let (is_encrypted, rest) = match url.split_once("://")? {
        ("amqps", rest) => (true, rest),
        ("amqp", rest) => (false, rest),
        _ => return None,
    };
    let authority = rest.split(['/', '?', '#']).next()?;
    let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (place, None),
    };
    let is_host = match host.strip_prefix('[') {
        Some(address) => address.strip_suffix(']').is_some_and(|address| address.parse::<IpAddr>().is_ok()),
        None => !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)),
    };
    let is_port = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    (is_host && is_port && !url.contains(char::is_whitespace)).then_some((is_encrypted, host))
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn fault(key: &'static str, message: String, help: &str) -> BrokerFault {
    BrokerFault { key, message, help: help.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_are_spoken_to_in_the_clear_only_here_or_where_it_is_said() {
        for (url, allow_plain, wanted) in [
            ("amqps://segue:secret@broker.example/segue", false, true),
            ("amqps://broker.example", false, true),
            ("amqp://segue:secret@127.0.0.1:5672/%2f", false, true),
            ("amqp://localhost", false, true),
            ("amqp://[::1]:5672", false, true),
            ("amqp://broker.example", true, true),
            ("amqp://broker.example", false, false),
            ("amqp://127.0.0.1@broker.example", false, false),
            ("amqp://127.0.0.1.example/", false, false),
            ("amqps://", false, false),
            ("amqps://broker.example:0", false, false),
            ("amqps://a b", false, false),
            ("https://broker.example", true, false),
            ("broker.example:5672", true, false),
        ] {
            assert_eq!(address_fault(url, allow_plain).is_none(), wanted, "{url}");
        }
    }

    #[test]
    fn no_part_of_an_address_but_its_host_is_told() {
        for url in ["amqp://segue:s3cr3t@broker.example/s3cr3t", "amqp://segue:s3cr3t@a b"] {
            let told = format!("{:?}", address_fault(url, false));
            assert!(!told.contains("s3cr3t") && told != "None", "{told}");
        }
    }
}
