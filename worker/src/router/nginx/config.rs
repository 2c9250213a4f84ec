//! The file that nginx includes in its `http` block: a server for each host, a location for each path, and behind it one of a route's
//! instances, drawn for each request by `split_clients`.
//!
//! Everything stands in the file, weights too, so every change is a reload. The text's fingerprint is its name: it is in every line of the
//! log, and nginx answers it to whoever asks with the right `Host`. So a worker tells which file it has.

use std::{collections::BTreeMap, fmt::Write as _, net::SocketAddr, path::Path};

use segue_schemas::{
    assignment::{KEY_DIGITS, Key, ReleaseRule, SECURE, Side, Sticky, Test},
    deploy::RouteRule,
};

use crate::proxy::table::{RouteTable, Share, TableRoute, TableTarget};

/// What a line of the access log says; [`super::log`] reads it. Nothing in it is a client's own words.
const LOG: &str = r#"{"era":"NAME","connection":"$connection","upstream":"$upstream_addr","status":"$upstream_status","header":"$upstream_header_time","time":"$upstream_response_time","answered":"$status","complete":"$request_completion","total":"$request_time","synthetic":"$segue_synthetic","rule":"$segue_rule","unit":"$segue_unit"}"#;

/// Shares are given in hundredths of a percent.
const WHOLE: u64 = 10_000;

/// A configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Configuration {
    /// Tells it from others.
    pub(super) name: String,
    /// The file.
    pub(super) text: String,
}

/// Where nginx listens and where it tells what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Surroundings<'a> {
    /// The addresses that it listens on.
    pub(super) listen: &'a [SocketAddr],
    /// Where the host hears its log.
    pub(super) log: SocketAddr,
    /// What marks a line of it, and names the host at which the file's name is answered.
    pub(super) mark: &'a str,
    /// Where errors go besides.
    pub(super) error_log: &'a Path,
}

/// What nginx is to include to carry `table`.
pub(super) fn configuration(table: &RouteTable, around: Surroundings<'_>) -> Configuration {
    let Surroundings { log, mark, error_log, .. } = around;
    let mut text = format!(
        "# Written by `segue host`, which writes it anew with each change of weights. nginx includes this file in its `http` block.\n\
         map $http_upgrade $segue_connection {{ default upgrade; \"\" close; }}\n\
         map $http_segue_synthetic $segue_synthetic {{ default 1; \"\" 0; }}\n\
         map $http_x_forwarded_proto $segue_proto {{ default $http_x_forwarded_proto; \"\" $scheme; }}\n\
         map $http_x_forwarded_host $segue_host {{ default $http_x_forwarded_host; \"\" $http_host; }}\n\
         map $segue_proto $segue_secure {{ default \"\"; \"~*^ *https *(?:,|$)\" \"{SECURE}\"; }}\n\
         log_format segue escape=json '{LOG}';\n"
    );
    table.routes.iter().enumerate().for_each(|(number, route)| add_route(&mut text, number, route));

    // `keepalive_timeout 0`: with each reload nginx closes kept connections, and a request that is on its way on one of them is lost
    let shared = format!(
        "    access_log syslog:server={log},nohostname,tag={mark} segue;\n    \
         error_log syslog:server={log},nohostname,tag={mark} error;\n    error_log {} error;\n    \
         default_type text/plain;\n    client_max_body_size 0;\n    keepalive_timeout 0;\n    \
         proxy_http_version 1.1;\n    proxy_buffering off;\n    proxy_request_buffering off;\n    proxy_connect_timeout 3s;\n    \
         proxy_read_timeout 1h;\n    proxy_send_timeout 1h;\n    proxy_next_upstream error timeout;\n    \
         proxy_next_upstream_tries 4;\n    proxy_set_header Host $http_host;\n    proxy_set_header Upgrade $http_upgrade;\n    \
         proxy_set_header Connection $segue_connection;\n    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n    \
         proxy_set_header X-Forwarded-Proto $segue_proto;\n    proxy_set_header X-Forwarded-Host $segue_host;\n",
        error_log.display()
    );
    let any = places_of(table, None);
    server(&mut text, around, true, "_", &shared, &any);
    let mut hosts: Vec<String> = rules(table).filter_map(|(rule, _)| host_of(rule)).collect();
    hosts.sort();
    hosts.dedup();
    for host in &hosts {
        let mut places = places_of(table, Some(host));
        // a rule with the host goes before one for any host, however long that one's path is
        let own: Vec<String> = places.keys().cloned().collect();
        let is_free = |path: &str| !own.iter().any(|own| begins_at_boundary(path, own));
        places.extend(any.iter().filter(|(path, _)| is_free(path)).map(|(path, number)| (path.clone(), *number)));
        server(&mut text, around, false, host, &shared, &places);
    }
    let name = format!("{:016x}", crate::router::fingerprint(&text));
    let mut tells = String::new();
    listening(&mut tells, around.listen, false);
    let _ = write!(
        text,
        "\nserver {{\n{tells}    server_name {};\n    access_log off;\n    default_type text/plain;\n    \
         location / {{ return 200 \"{name}\"; }}\n}}\n",
        host_that_tells(mark)
    );
    Configuration { text: text.replacen("NAME", &name, 1), name }
}

/// At which `Host` nginx answers the name of its file.
pub(super) fn host_that_tells(mark: &str) -> String {
    format!("{}.segue.invalid", mark.replace('_', "-"))
}

/// The draw among a route's instances, and for each of them an upstream, in which the others stand by for when it can't be connected to.
fn add_route(text: &mut String, number: usize, route: &TableRoute) {
    let targets: Vec<(&TableTarget, u32)> =
        route.targets.iter().filter(|t| t.weight > 0).map(|target| (target, target.weight)).collect();
    let _ = writeln!(text, "\n# {} in {}", route.service, route.environment);
    if targets.is_empty() {
        return;
    }
    let others = format!("{number}{}", if is_ruled(route) { "_any" } else { "" });
    match route.kept() {
        Some(kept) => add_clients(text, number, route, kept, &format!("$segue_route_{others}")),
        None => add_draw(text, &others, &targets),
    }
    if is_ruled(route) {
        add_rules(text, number, route);
    } else if route.kept().is_none() {
        return;
    }
    for side in [Side::Canary, Side::Stable] {
        // where one release has all traffic it is that one's, so that there is somebody
        let of_side = if route.has_both() { route.of_side(side) } else { targets.clone() };
        add_draw(text, &format!("{number}_{}", side.word()), &of_side);
    }
}

/// Which rule a request goes by, and where that sends it.
fn add_rules(text: &mut String, number: usize, route: &TableRoute) {
    let mut names = String::new();
    for (index, rule) in route.assignment.rules.iter().enumerate() {
        add_rule(text, &format!("$segue_match_{number}_{index}"), rule);
        let _ = write!(names, "$segue_match_{number}_{index}");
    }
    // the first that matches
    let _ = writeln!(text, "map {names} $segue_rule_{number} {{");
    text.push_str("    default \"\";\n");
    for index in 0..route.assignment.rules.len() {
        let _ = writeln!(text, "    \"~^{}1\" {index};", "0".repeat(index));
    }
    let _ =
        writeln!(text, "}}\nmap $segue_rule_{number} $segue_route_{number} {{\n    default $segue_route_{number}_any;");
    for (index, rule) in route.assignment.rules.iter().enumerate() {
        let _ = writeln!(text, "    {index} $segue_route_{number}_{};", rule.to.word());
    }
    text.push_str("}\n");
}

/// Whether it is to be told which rule a request goes by.
fn is_ruled(route: &TableRoute) -> bool {
    !route.assignment.rules.is_empty()
}

/// Who the client is, and which release that makes its own, as `variable`: the new one's share begins at the same end however large it is.
fn add_clients(
    text: &mut String,
    number: usize,
    route: &TableRoute,
    (sticky, share): (&Sticky, Share),
    variable: &str,
) {
    let parts = share.in_parts(WHOLE);
    let salt = route.assignment.canary.map_or(0, |release| release.0);
    let (cookie, attributes) = (&sticky.cookie, sticky.attributes(false));
    let brought = format!(
        "~(?:^|;)[ \\t]*{}[ \\t]*=[ \\t]*(?<segue_brought_{number}>[0-9a-f]{{{KEY_DIGITS}}})[ \\t]*(?:;|$)",
        plain(cookie)
    );
    let _ = write!(
        text,
        "map $http_cookie $segue_key_{number} {{ default $request_id; \"{brought}\" $segue_brought_{number}; }}\n\
         map $http_cookie $segue_new_{number} {{\n    default \"{cookie}=$request_id; {attributes}$segue_secure\";\n    \
         \"{brought}\" \"\";\n}}\n\
         split_clients \"$segue_key_{number}:{salt}\" $segue_side_{number} {{ {}.{:02}% canary; * stable; }}\n\
         map $segue_side_{number} {variable} {{\n    default $segue_route_{number}_stable;\n    \
         canary $segue_route_{number}_canary;\n}}\n",
        parts / 100,
        parts % 100
    );
    if is_ruled(route) {
        // who goes by a rule was not drawn, and has nothing to keep
        let _ = writeln!(
            text,
            "map $segue_rule_{number} $segue_keeps_{number} {{ default \"\"; \"\" $segue_new_{number}; }}"
        );
    }
}

/// A variable that is 1 where a rule matches.
fn add_rule(text: &mut String, variable: &str, rule: &ReleaseRule) {
    let Ok((place, test)) = rule.parts() else {
        // one that is no rule matches nothing
        let _ = writeln!(text, "map \"\" {variable} {{ default 0; }}");
        return;
    };
    // each ends with what it looks for: a long value that nearly matches is read once, not over and over
    let (source, pattern) = match place {
        Key::Header(name) => {
            let value = match test {
                Test::Equals(wanted) => format!("{}$", plain(wanted)),
                Test::Prefix(wanted) => plain(wanted),
                Test::Present => ".".to_owned(),
            };
            (format!("$http_{}", name.to_ascii_lowercase().replace('-', "_")), format!("~^{value}"))
        }
        Key::Cookie(name) => {
            let value = match test {
                Test::Equals(wanted) => format!("{}[ \\t]*(?:;|$)", plain(wanted)),
                Test::Prefix(wanted) => plain(wanted),
                Test::Present => "[^; \\t]".to_owned(),
            };
            ("$http_cookie".to_owned(), format!("~(?:^|;)[ \\t]*{}[ \\t]*=[ \\t]*{value}", plain(name)))
        }
    };
    let _ = writeln!(text, "map {source} {variable} {{ default 0; \"{pattern}\" 1; }}");
}

/// A text as a regular expression that matches it and nothing else: whatever is no letter or digit stands there by its number, so that it means
/// nothing to nginx, which leaves such a backslash alone, nor to the expression.
fn plain(text: &str) -> String {
    text.bytes().fold(String::new(), |mut plain, byte| {
        if byte.is_ascii_alphanumeric() {
            plain.push(char::from(byte));
        } else {
            let _ = write!(plain, "\\x{byte:02x}");
        }
        plain
    })
}

/// The draw among some targets of a route, by whose names its variable and its upstreams are called.
fn add_draw(text: &mut String, number: &str, targets: &[(&TableTarget, u32)]) {
    let _ = writeln!(text, "split_clients $request_id $segue_route_{number} {{");
    let shares = shares(&targets.iter().map(|(_, weight)| *weight).collect::<Vec<_>>());
    for (index, share) in shares.iter().enumerate().filter(|(_, share)| **share > 0) {
        let _ = writeln!(text, "    {}.{:02}% segue_{number}_{index};", share / 100, share % 100);
    }
    // `*` takes whatever comes to it: it is the last
    let rest = shares.iter().position(|share| *share == 0).unwrap_or(0);
    let _ = writeln!(text, "    * segue_{number}_{rest};\n}}");
    for (index, (target, _)) in targets.iter().enumerate() {
        let _ = write!(text, "upstream segue_{number}_{index} {{ server {} max_fails=0;", target.address);
        for (_, (other, _)) in targets.iter().enumerate().filter(|(other, _)| *other != index) {
            let _ = write!(text, " server {} max_fails=0 backup;", other.address);
        }
        let _ = writeln!(text, " }} # {}", target.instance);
    }
}

/// Shares in hundredths of a percent; 0 stands for the rest, which the heaviest gets.
fn shares(weights: &[u32]) -> Vec<u64> {
    let total: u64 = weights.iter().map(|w| u64::from(*w)).sum::<u64>().max(1);
    let heaviest = (0..weights.len()).max_by_key(|i| weights[*i]);
    let share = |weight: u32| ((u64::from(weight) * WHOLE + total / 2) / total).max(1);
    weights.iter().enumerate().map(|(i, weight)| if Some(i) == heaviest { 0 } else { share(*weight) }).collect()
}

fn server(
    text: &mut String,
    around: Surroundings<'_>,
    is_default: bool,
    host: &str,
    shared: &str,
    places: &BTreeMap<String, Place<'_>>,
) {
    text.push_str("\nserver {\n");
    listening(text, around.listen, is_default);
    let _ = write!(text, "    server_name {host};\n    set $segue_rule \"\";\n    set $segue_unit \"\";\n{shared}");
    for (path, (number, route)) in places {
        let does = if route.targets.iter().any(|t| t.weight > 0) {
            let mut notes = String::new();
            if is_ruled(route) {
                let _ = write!(notes, "set $segue_rule $segue_rule_{number}; ");
            }
            if route.kept().is_some() {
                let keeps = if is_ruled(route) { "keeps" } else { "new" };
                let _ = write!(
                    notes,
                    "set $segue_unit $segue_key_{number}; add_header Set-Cookie $segue_{keeps}_{number} always; "
                );
            }
            format!("{notes}proxy_pass http://$segue_route_{number};")
        } else {
            let TableRoute { environment, service, .. } = route;
            format!("return 503 \"{service}: no instance has traffic in environment {environment}\\n\";")
        };
        if path.is_empty() {
            let _ = writeln!(text, "    location / {{ {does} }}");
        } else {
            let _ = writeln!(text, "    location = {path} {{ {does} }}\n    location ^~ {path}/ {{ {does} }}");
        }
    }
    if !places.contains_key("") {
        text.push_str("    location / { return 404 \"no service is routed here\\n\"; }\n");
    }
    text.push_str("}\n");
}

fn listening(text: &mut String, listen: &[SocketAddr], is_default: bool) {
    for address in listen {
        let _ = writeln!(text, "    listen {address}{};", if is_default { " default_server" } else { "" });
    }
}

/// The route at a path, with its number.
type Place<'a> = (usize, &'a TableRoute);

/// The routes of a host, or of any, by their paths without the slash at the end.
fn places_of<'a>(table: &'a RouteTable, host: Option<&str>) -> BTreeMap<String, Place<'a>> {
    let of_host = rules(table).filter(|(rule, _)| host_of(rule).as_deref() == host);
    of_host.map(|(rule, place)| (rule.path.trim_end_matches('/').to_owned(), place)).collect()
}

fn rules(table: &RouteTable) -> impl Iterator<Item = (&RouteRule, Place<'_>)> {
    let routes = table.routes.iter().enumerate();
    routes.flat_map(|(number, route)| route.rules.iter().map(move |rule| (rule, (number, route))))
}

fn host_of(rule: &RouteRule) -> Option<String> {
    rule.host.as_ref().map(|host| host.to_ascii_lowercase())
}

fn begins_at_boundary(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
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
        let around = Surroundings {
            listen: &listen,
            log: "127.0.0.1:5514".parse().unwrap(),
            mark: "segue_mark",
            error_log: Path::new("/var/log/nginx/error.log"),
        };
        configuration(&RouteTable { routes }, around)
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
        insta::assert_snapshot!(made.text.replace(&made.name, "NAME"));
    }

    #[test]
    fn a_client_is_drawn_once_by_its_key() {
        let sticky = serde_json::from_str(r#"{"cookie":"s-id","max-age":"1d"}"#).unwrap();
        let rule: ReleaseRule =
            serde_json::from_str(r#"{"header":"x-release","equals":"canary","to":"canary"}"#).unwrap();
        let mut web = route("web", &[(None, "/")], &[("web-1", 90), ("web-2", 10)]);
        web.targets[1].release = 258;
        web.assignment = Assignment { canary: Some(ReleaseId(258)), rules: Vec::new(), sticky: Some(sticky) };
        let mut ruled = TableRoute { service: "api".into(), ..web.clone() };
        (ruled.rules[0].path, ruled.assignment.rules) = ("/api".into(), vec![rule]);
        // with one release there is nothing to draw, and none keeps anything
        let mut alone = TableRoute { service: "one".into(), ..web.clone() };
        (alone.rules[0].path, alone.targets[1].weight) = ("/one".into(), 0);
        let made = of(vec![web, ruled, alone]);
        insta::assert_snapshot!(made.text.replace(&made.name, "NAME"));
    }

    #[test]
    fn the_file_has_rules_by_right_and_draws_by_weight() {
        let made = of(vec![
            route("any", &[(None, "/"), (None, "/api/v1")], &[]),
            route(
                "web",
                &[(Some("Shop.test"), "/"), (Some("only.test"), "/api")],
                &[("web-1", 90), ("web-2", 10), ("web-3", 0)],
            ),
        ]);
        insta::assert_snapshot!(made.text.replace(&made.name, "NAME"));
    }

    #[test]
    fn the_name_is_another_with_other_weights_and_the_same_with_the_same() {
        let with = |weight| of(vec![route("web", &[(None, "/")], &[("web-1", 90), ("web-2", weight)])]);
        assert_eq!(with(10), with(10));
        assert_ne!(with(10).name, with(11).name);
        assert!(!with(10).text.contains("\"NAME\""));
    }

    #[test]
    fn shares_are_hundredths_of_a_percent_and_none_is_nothing() {
        let cases: [(&[u32], &[u64]); 6] = [
            (&[90, 10], &[0, 1000]),
            (&[10, 90], &[1000, 0]),
            (&[1, 1, 1], &[3333, 3333, 0]),
            (&[100], &[0]),
            (&[1_000_000, 1], &[0, 1]),
            (&[], &[]),
        ];
        for (weights, wanted) in cases {
            assert_eq!(shares(weights), wanted, "{weights:?}");
        }
    }
}
