//! The file that HAProxy is started with: one frontend with the rules of every route, a backend for each, and in it the servers with the
//! weights that they have now, so that whoever restarts HAProxy changes nothing.
//!
//! Backends and rules can't be added to a running HAProxy; servers and weights can. Everything but those is the configuration's *shape*,
//! and its fingerprint is the name of a backend: so a running HAProxy tells which one it has.

use std::{fmt::Write as _, net::SocketAddr};

use segue_schemas::deploy::RouteRule;

use crate::proxy::table::{RouteTable, TableRoute};

/// What the name of a backend of Segue's begins with. No service or environment has a colon in its name.
const PREFIX: &str = "segue:";

/// What the name of the backend begins with that answers where no rule matches; its end is the shape's fingerprint.
const SHAPE: &str = "segue::shape:";

/// The largest weight of a server.
const MAX_WEIGHT: u32 = 256;

/// What a line of the log says after the mark; [`super::log`] reads it.
const LOG_FIELDS: &str = "%pid %b %s %ST %ts %rc %Tc %Tr %Ta %[var(txn.segue_synthetic)]";

/// A configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Configuration {
    /// The name of the backend by which a running HAProxy shows that it has this shape.
    pub(super) shape: String,
    /// The file.
    pub(super) text: String,
    /// The servers in it.
    pub(super) servers: Vec<Server>,
}

/// An instance of a release, in the backend of its service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Server {
    /// The backend's name.
    pub(super) backend: String,
    /// The instance's.
    pub(super) name: String,
    /// Where it listens.
    pub(super) address: SocketAddr,
    /// 0 to 256.
    pub(super) weight: u32,
}

/// What HAProxy is to be started with to carry `table`.
pub(super) fn configuration(table: &RouteTable, listen: &[SocketAddr], log: SocketAddr, mark: &str) -> Configuration {
    let mut front = String::new();
    for address in listen {
        let _ = writeln!(front, "    bind {address}");
    }
    // `idle-close-on-response`: while it is replaced, a process answers what comes on a kept connection and closes it only then
    // `raw`: the line alone, without the head of a syslog line, of which HAProxy knows no way to tell the sender by
    let _ = write!(
        front,
        "    mode http\n    log {log} len 1024 format raw local0\n    log-format \"{mark} {LOG_FIELDS}\"\n    \
         timeout client 1h\n    timeout http-request 30s\n    timeout http-keep-alive 60s\n    \
         option idle-close-on-response\n    option forwardfor\n    \
         http-request set-var(txn.segue_synthetic) str(1) if {{ req.hdr(segue-synthetic) -m found }}\n    \
         http-request set-header X-Forwarded-Proto http unless {{ req.hdr(x-forwarded-proto) -m found }}\n    \
         http-request set-header X-Forwarded-Host %[req.hdr(host)] unless {{ req.hdr(x-forwarded-host) -m found }}\n"
    );
    for (rule, backend) in in_order(table) {
        let _ = writeln!(front, "    use_backend {backend} if {}", condition(rule));
    }
    let mut backends = Vec::new();
    let mut servers = Vec::new();
    for route in &table.routes {
        backends.push((head_of(route), servers.len()));
        servers.extend(servers_of(route));
    }
    let heads: String = backends.iter().map(|(head, _)| head.as_str()).collect();
    let shape = format!("{SHAPE}{:016x}", crate::router::fingerprint(&format!("{front}{heads}")));

    let mut text = format!(
        "# Written by `segue host`, which writes it anew with each change of weights. HAProxy is started with this file beside its own,\n\
         # by a second `-f`.\nfrontend segue\n{front}    default_backend {shape}\n\nbackend {shape}\n    mode http\n    \
         http-request return status 404 content-type \"text/plain; charset=utf-8\" string \"no service is routed here\\n\"\n"
    );
    let ends = backends.iter().skip(1).map(|(_, first)| *first).chain([servers.len()]);
    for ((head, first), end) in backends.iter().zip(ends) {
        text += head;
        for Server { name, address, weight, .. } in &servers[*first..end] {
            let _ = writeln!(text, "    server {name} {address} weight {weight}");
        }
    }
    Configuration { shape, text, servers }
}

/// The name of a service's backend in an environment.
pub(super) fn backend_name(environment: &str, service: &str) -> String {
    format!("{PREFIX}{environment}:{service}")
}

/// Whether a backend is one that Segue has written for a service.
pub(super) fn is_service(backend: &str) -> bool {
    backend.starts_with(PREFIX) && !backend.starts_with(SHAPE)
}

/// Whether a backend's name tells a shape.
pub(super) fn is_shape(backend: &str) -> bool {
    backend.starts_with(SHAPE)
}

/// A backend without its servers. `random(1)`: without its argument HAProxy draws two and takes the one with less to do, which is no
/// assignment by weight. No rule asks for `nbsrv`, which is 0 in a process that is being replaced. What can't be connected to is tried elsewhere; nothing that was sent is sent again.
fn head_of(route: &TableRoute) -> String {
    format!(
        "\nbackend {}\n    mode http\n    balance random(1)\n    load-server-state-from-file none\n    retries 3\n    \
         option redispatch 1\n    timeout connect 3s\n    timeout server 1h\n    timeout tunnel 1h\n    \
         http-error status 503 content-type \"text/plain; charset=utf-8\" string \"{}: no instance has traffic in environment {}, or \
         none that has can be connected to\\n\"\n",
        backend_name(&route.environment, &route.service),
        route.service,
        route.environment,
    )
}

fn servers_of(route: &TableRoute) -> impl Iterator<Item = Server> + '_ {
    let weights = scaled(&route.targets.iter().map(|t| t.weight).collect::<Vec<_>>());
    route.targets.iter().zip(weights).map(|(target, weight)| Server {
        backend: backend_name(&route.environment, &route.service),
        name: target.instance.to_string(),
        address: target.address,
        weight,
    })
}

/// Weights in the same proportions, as large as HAProxy takes them: the larger they are, the closer its shares come to them. None that is
/// not 0 becomes 0.
pub(super) fn scaled(weights: &[u32]) -> Vec<u32> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let reduced: Vec<u64> = weights.iter().map(|w| u64::from(w / divisor)).collect();
    let max = reduced.iter().copied().max().unwrap_or(0).max(1);
    let limit = u64::from(MAX_WEIGHT);
    let fit = |weight: u64| match weight {
        0 => 0,
        _ if max <= limit => weight * (limit / max),
        _ => ((weight * limit + max / 2) / max).max(1),
    };
    reduced.into_iter().map(|weight| u32::try_from(fit(weight)).unwrap_or(MAX_WEIGHT)).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Every rule with its backend, the one that goes before others first: those with a host, then the longest path.
fn in_order(table: &RouteTable) -> Vec<(&RouteRule, String)> {
    let mut rules: Vec<(&RouteRule, String)> = table
        .routes
        .iter()
        .flat_map(|route| {
            let backend = backend_name(&route.environment, &route.service);
            route.rules.iter().map(move |rule| (rule, backend.clone()))
        })
        .collect();
    rules.sort_by_key(|(rule, _)| (rule.host.is_none(), std::cmp::Reverse(rule.path.trim_end_matches('/').len())));
    rules
}

fn condition(rule: &RouteRule) -> String {
    let host = rule.host.as_ref().map(|host| {
        let host = host.to_ascii_lowercase();
        format!("{{ req.hdr(host),field(1,:),lower -m str {host} }} ")
    });
    let host = host.unwrap_or_default();
    match rule.path.trim_end_matches('/') {
        "" if host.is_empty() => "TRUE".into(),
        "" => host.trim_end().to_owned(),
        path => format!("{host}{{ path {path} }} or {host}{{ path_beg {path}/ }}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::table::TableTarget;

    fn route(service: &str, rules: &[(Option<&str>, &str)], targets: &[(&str, u32)]) -> TableRoute {
        let rule = |(host, path): &(Option<&str>, &str)| RouteRule {
            environment: None,
            host: host.map(Into::into),
            path: (*path).into(),
        };
        let target = |(index, (instance, weight)): (usize, &(&str, u32))| TableTarget {
            instance: instance.parse().unwrap(),
            address: ([127, 0, 0, 1], 4000 + u16::try_from(index).unwrap()).into(),
            weight: *weight,
            release: 1,
        };
        TableRoute {
            environment: "production".into(),
            service: service.into(),
            rules: rules.iter().map(rule).collect(),
            targets: targets.iter().enumerate().map(target).collect(),
            asleep: false,
        }
    }

    fn of(routes: Vec<TableRoute>) -> Configuration {
        let listen = ["127.0.0.1:8080".parse().unwrap(), "[::1]:8080".parse().unwrap()];
        configuration(&RouteTable { routes }, &listen, "127.0.0.1:5514".parse().unwrap(), "segue-mark")
    }

    #[test]
    fn the_file_has_rules_by_right_and_servers_by_weight() {
        let made = of(vec![
            route("any", &[(None, "/")], &[]),
            route("web", &[(Some("Shop.test"), "/")], &[("web-1", 90), ("web-2", 10)]),
            route("api", &[(Some("shop.test"), "/api/"), (None, "/api/v1")], &[("api-1", 1), ("api-2", 0)]),
        ]);
        insta::assert_snapshot!(made.text.replace(&made.shape, "SHAPE"));
        assert_eq!(made.servers.len(), 4);
    }

    #[test]
    fn weights_and_servers_are_no_part_of_the_shape_rules_and_services_are() {
        let shape =
            |rules: &[(Option<&str>, &str)], targets: &[(&str, u32)]| of(vec![route("web", rules, targets)]).shape;
        let first = shape(&[(None, "/")], &[("web-1", 90)]);
        assert_eq!(first, shape(&[(None, "/")], &[("web-1", 1), ("web-2", 7)]));
        assert_ne!(first, shape(&[(None, "/x")], &[("web-1", 90)]));
        assert_ne!(first, of(vec![]).shape);
        assert!(is_shape(&first) && !is_service(&first) && is_service(&backend_name("production", "web")));
    }

    #[test]
    fn weights_keep_their_proportions() {
        let cases: [(&[u32], &[u32]); 8] = [
            (&[90, 10], &[252, 28]),
            (&[100], &[256]),
            (&[100, 0], &[256, 0]),
            (&[99, 1], &[198, 2]),
            (&[50, 50, 100], &[128, 128, 256]),
            (&[0, 0], &[0, 0]),
            (&[10_000, 1], &[256, 1]),
            (&[], &[]),
        ];
        for (given, wanted) in cases {
            assert_eq!(scaled(given), wanted, "{given:?}");
        }
    }
}
