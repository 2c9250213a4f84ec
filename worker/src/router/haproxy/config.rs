//! The file that HAProxy is started with: one frontend with the rules of every route, a backend for each, and in it the servers with the
//! weights that they have now, so that whoever restarts HAProxy changes nothing.
//!
//! Backends and rules can't be added to a running HAProxy; servers and weights can. Everything but those is the configuration's *shape*,
//! and its fingerprint is the name of a backend: so a running HAProxy tells which one it has.

use std::{fmt::Write as _, net::SocketAddr};

use segue_schemas::{
    assignment::{Key, ReleaseRule, Side, Test},
    deploy::RouteRule,
};

use super::clients::{client_backend, drawn_once, head_of_share, is_kept, kept_by, kind_of, sent_by_draw, share_of};
use crate::proxy::table::{RouteTable, TableRoute, TableTarget};

/// What the name of a backend of Segue's begins with. No service or environment has a colon in its name.
pub(super) const PREFIX: &str = "segue:";

/// What the name of the backend begins with that answers where no rule matches; its end is the shape's fingerprint.
const SHAPE: &str = "segue::shape:";

/// What the name of a backend of a service has before the release to which rules send.
const RULED: &str = "rule";

/// The largest weight of a server.
const MAX_WEIGHT: u32 = 256;

/// What a line of the log says after the mark; [`super::log`] reads it.
const LOG_FIELDS: &str = "%pid %b %s %ST %ts %rc %Tc %Tr %Ta %[var(txn.segue_synthetic)] %[var(txn.segue_rule)] \
                          %[var(txn.segue_unit)]";

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
    for (number, route) in table.routes.iter().enumerate() {
        if let Some(sticky) = &route.assignment.sticky {
            let conditions: Vec<String> = route.rules.iter().flat_map(conditions).collect();
            front += &drawn_once(number, route, sticky, &conditions);
        }
    }
    for (rule, route, number) in in_order(table) {
        let conditions = conditions(rule);
        for chosen in &route.assignment.rules {
            let Some(matches) = matching(chosen) else { continue };
            let all: Vec<String> = conditions.iter().map(|condition| format!("{condition} {matches}")).collect();
            let backend = rule_backend(route, chosen.to);
            let _ = writeln!(front, "    use_backend {backend} if {}", all.join(" or ").trim_start());
        }
        if route.assignment.sticky.is_some() {
            front += &sent_by_draw(number, route, &conditions);
        }
        let conditions = if conditions == [""] { "TRUE".into() } else { conditions.join(" or ") };
        let _ = writeln!(front, "    use_backend {} if {conditions}", backend_name(&route.environment, &route.service));
    }
    let mut backends = Vec::new();
    let mut servers = Vec::new();
    for (number, route) in table.routes.iter().enumerate() {
        let backend = backend_name(&route.environment, &route.service);
        backends.push((head_of(route, &backend), servers.len()));
        servers.extend(servers_of(route, &backend, None));
        for side in [Side::Canary, Side::Stable] {
            if route.assignment.rules.iter().any(|rule| rule.to == side) {
                let backend = rule_backend(route, side);
                backends.push((head_of(route, &backend) + &notes_of(route), servers.len()));
                servers.extend(servers_of(route, &backend, Some(side)));
            }
        }
        if let Some(sticky) = &route.assignment.sticky {
            for side in [Side::Canary, Side::Stable] {
                let backend = client_backend(route, side);
                backends.push((head_of(route, &backend) + &kept_by(number, sticky), servers.len()));
                servers.extend(servers_of(route, &backend, Some(side)));
            }
            backends.push((head_of_share(route), servers.len()));
            servers.extend(share_of(route));
        }
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

/// The name of the backend of what a service's rules send to one of its releases.
fn rule_backend(route: &TableRoute, side: Side) -> String {
    format!("{}:{RULED}:{}", backend_name(&route.environment, &route.service), side.word())
}

/// Whether a backend is of one release: none was drawn for a request by weight there.
pub(super) fn is_of_one(backend: &str) -> bool {
    kind_of(backend) == Some(RULED) || is_kept(backend)
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
fn head_of(route: &TableRoute, backend: &str) -> String {
    format!(
        "\nbackend {backend}\n    mode http\n    balance random(1)\n    load-server-state-from-file none\n    retries 3\n    \
         option redispatch 1\n    timeout connect 3s\n    timeout server 1h\n    timeout tunnel 1h\n    \
         http-error status 503 content-type \"text/plain; charset=utf-8\" string \"{}: no instance has traffic in environment {}, or \
         none that has can be connected to\\n\"\n",
        route.service, route.environment,
    )
}

/// Takes down which rule it was: the first that matches, so that the last is looked at first.
fn notes_of(route: &TableRoute) -> String {
    let rules = route.assignment.rules.iter().enumerate().rev();
    let notes = rules.filter_map(|(number, rule)| Some((number, matching(rule)?)));
    notes
        .map(|(number, matches)| format!("    http-request set-var(txn.segue_rule) int({number}) if {matches}\n"))
        .collect()
}

/// The servers of a backend: every target's, or those of one release. Where only one has traffic it is that one's, so that there is somebody.
fn servers_of(route: &TableRoute, backend: &str, side: Option<Side>) -> impl Iterator<Item = Server> {
    let targets: Vec<(&TableTarget, u32)> = match side.filter(|_| route.has_both()) {
        Some(side) => route.of_side(side),
        None => route.targets.iter().map(|target| (target, target.weight)).collect(),
    };
    let weights = scaled(&targets.iter().map(|(_, weight)| *weight).collect::<Vec<_>>());
    targets.into_iter().zip(weights).map(|((target, _), weight)| Server {
        backend: backend.to_owned(),
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

/// Every rule with its route and that one's number, the one that goes before others first: those with a host, then the longest path.
fn in_order(table: &RouteTable) -> Vec<(&RouteRule, &TableRoute, usize)> {
    let routes = table.routes.iter().enumerate();
    let all = routes.flat_map(|(number, route)| route.rules.iter().map(move |rule| (rule, route, number)));
    let mut rules: Vec<(&RouteRule, &TableRoute, usize)> = all.collect();
    rules.sort_by_key(|(rule, ..)| (rule.host.is_none(), std::cmp::Reverse(rule.path.trim_end_matches('/').len())));
    rules
}

/// What a request must be for a rule, of which one is enough; nothing, where any is.
fn conditions(rule: &RouteRule) -> Vec<String> {
    let host = rule.host.as_ref().map(|host| {
        let host = host.to_ascii_lowercase();
        format!("{{ req.hdr(host),field(1,:),lower -m str {host} }} ")
    });
    let host = host.unwrap_or_default();
    match rule.path.trim_end_matches('/') {
        "" => vec![host.trim_end().to_owned()],
        path => vec![format!("{host}{{ path {path} }}"), format!("{host}{{ path_beg {path}/ }}")],
    }
}

/// What a request must have for a service's rule. Values are compared by their bytes in hexadecimal: whatever they are, they mean nothing here.
fn matching(rule: &ReleaseRule) -> Option<String> {
    let (place, test) = rule.parts().ok()?;
    let value = match place {
        Key::Header(name) => format!("req.fhdr({name},1)"),
        Key::Cookie(name) => format!("req.cook({name})"),
    };
    Some(match test {
        Test::Equals(wanted) => format!("{{ {value},hex -m str {} }}", hex(wanted)),
        Test::Prefix(wanted) => format!("{{ {value},hex -m beg {} }}", hex(wanted)),
        Test::Present => format!("{{ {value},length gt 0 }}"),
    })
}

/// As HAProxy's converter `hex` writes it.
fn hex(text: &str) -> String {
    text.bytes().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02X}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use segue_schemas::{assignment::Assignment, id::ReleaseId};

    use super::*;

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
            assignment: Assignment::default(),
            targets: targets.iter().enumerate().map(target).collect(),
            asleep: false,
        }
    }

    fn of(routes: Vec<TableRoute>) -> Configuration {
        let listen = ["127.0.0.1:8080".parse().unwrap(), "[::1]:8080".parse().unwrap()];
        configuration(&RouteTable { routes }, &listen, "127.0.0.1:5514".parse().unwrap(), "segue-mark")
    }

    #[test]
    fn what_rules_send_to_a_release_is_drawn_among_its_instances() {
        let mut web =
            route("web", &[(None, "/"), (Some("a.test"), "/x")], &[("web-1", 90), ("web-2", 5), ("web-3", 5)]);
        web.targets[1].release = 2;
        web.targets[2].release = 2;
        let rules = [
            r#"{"header":"x-release","equals":"c\"; }","to":"canary"}"#,
            r#"{"cookie":"be-ta","prefix":"1.","to":"canary"}"#,
            r#"{"cookie":"any","present":true,"to":"stable"}"#,
        ];
        let rules = rules.map(|rule| serde_json::from_str(rule).unwrap()).to_vec();
        web.assignment = Assignment { canary: Some(ReleaseId(2)), rules, sticky: None };
        let made = of(vec![web]);
        insta::assert_snapshot!(made.text.replace(&made.shape, "NAME"));
    }

    fn sticky(old: u32, new: u32) -> TableRoute {
        let mut web = route("web", &[(None, "/"), (Some("a.test"), "/x")], &[("web-1", old), ("web-2", new)]);
        web.targets[1].release = 258;
        let sticky = serde_json::from_str(r#"{"cookie":"s-id","max-age":"1d"}"#).unwrap();
        web.assignment = Assignment { canary: Some(ReleaseId(258)), rules: Vec::new(), sticky: Some(sticky) };
        web
    }

    #[test]
    fn a_client_is_drawn_once_by_a_share_that_is_a_weight() {
        let rule = serde_json::from_str(r#"{"header":"x-release","equals":"canary","to":"canary"}"#).unwrap();
        let mut hosted = route("api", &[(Some("api.test"), "/v1"), (Some("b.test"), "/")], &[("api-1", 100)]);
        hosted.assignment = Assignment { rules: vec![rule], ..sticky(1, 1).assignment };
        let made = of(vec![sticky(90, 10), hosted]);
        insta::assert_snapshot!(made.text.replace(&made.shape, "NAME"));
    }

    #[test]
    fn no_line_has_more_words_than_haproxy_takes() {
        let mut web = sticky(90, 10);
        let hosts: Vec<String> = (0..20).map(|number| format!("{number}.test")).collect();
        let rules: Vec<_> = hosts.iter().map(|host| (Some(host.as_str()), "/shop/")).collect();
        web.rules = route("web", &rules, &[]).rules;
        web.assignment.rules = vec![serde_json::from_str(r#"{"cookie":"beta","equals":"1","to":"canary"}"#).unwrap()];
        let made = of(vec![web]);
        // MAX_LINE_ARGS
        let most = made.text.lines().map(|line| line.split_whitespace().count()).max();
        assert!(most.is_some_and(|words| words <= 64), "{most:?}");
        let set = made.text.lines().filter(|line| line.contains("set-var(txn.segue_share_0)")).count();
        assert_eq!(set, 40, "a share for each host, by the path and by what lies below it");
    }

    #[test]
    fn a_share_is_no_part_of_the_shape_and_one_number() {
        let shape = of(vec![sticky(90, 10)]).shape;
        for (old, new, halves) in [(90, 10, 20), (1, 1, 100), (100, 0, 0), (0, 100, 0), (9_999, 1, 1), (1, 9_999, 199)]
        {
            let made = of(vec![sticky(old, new)]);
            assert_eq!(made.shape, shape);
            let weight = |name: &str| made.servers.iter().find(|s| s.name == name).map(|s| s.weight);
            assert_eq!((weight("halves"), weight("salt")), (Some(halves), Some(2)), "{old} : {new}");
        }
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
        assert!(is_of_one("segue:p:web:rule:canary") && !is_of_one("segue:rule:rule") && !is_of_one(&first));
        assert!(
            is_of_one("segue:p:web:client:stable")
                && !is_of_one("segue:p:web:share")
                && !is_of_one("segue:client:client")
        );
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
