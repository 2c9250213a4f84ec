//! From what a running HAProxy has to what it is to have, as commands of its runtime API.

use super::{
    cli::Known,
    clients::{is_drawn, is_kept, is_share},
    config::{Server, is_service},
};

/// The commands that bring the servers of Segue's backends to what is wanted; none where they are there already. Whoever gains comes before
/// whoever loses, so that there is always somebody to give a request to. And what clients are sent by changes when it sends them nowhere
/// that is yet to change: nobody is shown a release between two commands that is neither the one before nor the one after.
pub(super) fn commands(wanted: &[Server], known: &[Known], version: (u32, u32)) -> Vec<String> {
    let mut all = Vec::new();
    let mut push = |backend: &str, gains: bool, command: String| all.push((turn(backend, gains, wanted), command));
    for server in wanted {
        let Server { backend, name, address, weight } = server;
        let full = format!("{backend}/{name}");
        let Some(is) = known.iter().find(|k| k.backend == *backend && k.name == *name) else {
            push(backend, true, format!("{}add server {full} {address} weight {weight}", experimental(version)));
            push(backend, true, format!("set server {full} state ready"));
            continue;
        };
        if is.address != Some(*address) {
            push(backend, true, format!("set server {full} addr {} port {}", address.ip(), address.port()));
        }
        if is.weight != *weight {
            push(backend, *weight > is.weight, format!("set server {full} weight {weight}"));
        }
        if is.in_maintenance || is.is_drained {
            push(backend, true, format!("set server {full} state ready"));
        }
    }
    for is in unwanted(wanted, known).filter(|is| !is.in_maintenance) {
        push(&is.backend, false, format!("set server {}/{} state maint", is.backend, is.name));
    }
    all.sort_by_key(|(turn, _)| *turn);
    all.into_iter().map(|(_, command)| command).collect()
}

/// When a server is changed. Where clients are drawn for from now on: first what they are sent to, then by what, and then what everybody was
/// sent to without that. Where they are not any more, the other way round.
fn turn(backend: &str, gains: bool, wanted: &[Server]) -> u8 {
    let of_clients = is_kept(backend) || is_share(backend);
    let turns = match (of_clients, of_clients && is_drawn(backend, wanted)) {
        (false, _) => [3, 4],
        (true, true) if is_kept(backend) => [0, 1],
        (true, true) => [2, 2],
        (true, false) if is_kept(backend) => [6, 7],
        (true, false) => [5, 5],
    };
    turns[usize::from(!gains)]
}

/// The commands that take servers away which are out of the way. HAProxy refuses that as long as a connection is left; they are said again.
pub(super) fn removals(wanted: &[Server], known: &[Known], version: (u32, u32)) -> Vec<String> {
    let gone = unwanted(wanted, known).filter(|is| is.in_maintenance);
    gone.map(|is| format!("{}del server {}/{}", experimental(version), is.backend, is.name)).collect()
}

fn unwanted<'a>(wanted: &'a [Server], known: &'a [Known]) -> impl Iterator<Item = &'a Known> {
    let is_wanted = |is: &Known| wanted.iter().any(|w| w.backend == is.backend && w.name == is.name);
    known.iter().filter(move |is| is_service(&is.backend) && !is_wanted(is))
}

/// Before 2.6 dynamic servers are behind a word of consent. It holds for the commands of its line.
const fn experimental((major, minor): (u32, u32)) -> &'static str {
    if major > 2 || (major == 2 && minor >= 6) { "" } else { "experimental-mode on;" }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use segue_schemas::{assignment::Assignment, deploy::RouteRule, id::ReleaseId};

    use super::{super::config::configuration, *};
    use crate::proxy::table::{RouteTable, TableRoute, TableTarget};

    fn server(name: &str, port: u16, weight: u32) -> Server {
        Server { backend: "segue:p:web".into(), name: name.into(), address: ([127, 0, 0, 1], port).into(), weight }
    }

    fn known(name: &str, port: u16, weight: u32, in_maintenance: bool) -> Known {
        let Server { backend, name, address, weight } = server(name, port, weight);
        Known { backend, name, address: Some(address), weight, in_maintenance, is_drained: false }
    }

    #[test]
    fn who_gains_comes_before_who_loses() {
        let is = [known("web-1", 1, 256, false), known("web-0", 9, 0, true), known("web-x", 8, 7, false)];
        let wanted = [server("web-1", 1, 0), server("web-2", 2, 256)];
        assert_eq!(
            commands(&wanted, &is, (2, 6)),
            [
                "add server segue:p:web/web-2 127.0.0.1:2 weight 256",
                "set server segue:p:web/web-2 state ready",
                "set server segue:p:web/web-1 weight 0",
                "set server segue:p:web/web-x state maint",
            ]
        );
        assert_eq!(removals(&wanted, &is, (2, 4)), ["experimental-mode on;del server segue:p:web/web-0"]);
        assert!(commands(&[server("a", 1, 5)], &[], (2, 4))[0].starts_with("experimental-mode on;add server"));
    }

    #[test]
    fn what_others_have_is_left_alone() {
        let others = Known { backend: "shop".into(), ..known("web-1", 1, 5, true) };
        assert!(commands(&[], std::slice::from_ref(&others), (3, 0)).is_empty());
        assert!(removals(&[], &[others], (3, 0)).is_empty());
    }

    /// What HAProxy does with a command, as far as it matters here.
    fn obey(is: &mut Vec<Known>, command: &str) {
        let words: Vec<&str> = command.split_whitespace().collect();
        let (backend, name) = words[2].split_once('/').unwrap();
        let found = is.iter_mut().find(|k| k.backend == backend && k.name == name);
        match (words[0], found, words.get(3).copied()) {
            ("add", None, _) => {
                let address: std::net::SocketAddr = words[3].parse().unwrap();
                let added = known(name, address.port(), words[5].parse().unwrap(), true);
                is.push(Known { backend: backend.into(), ..added });
            }
            ("set", Some(k), Some("weight")) => k.weight = words[4].parse().unwrap(),
            ("set", Some(k), Some("addr")) => k.address = Some(format!("{}:{}", words[4], words[6]).parse().unwrap()),
            ("set", Some(k), Some("state")) => (k.in_maintenance, k.is_drained) = (words[4] == "maint", false),
            other => panic!("{other:?}"),
        }
    }

    /// What a service's servers are to be, with these weights of its releases, of which `new` is the newest.
    fn wanted(weights: &[(i64, u32)], new: i64, copies: u16) -> Vec<Server> {
        let targets = weights.iter().flat_map(|(release, weight)| {
            (0..copies).map(move |copy| TableTarget {
                instance: format!("v{release}-{copy}").parse().unwrap(),
                address: ([127, 0, 0, 1], 1000 * u16::try_from(*release).unwrap() + copy).into(),
                weight: *weight,
                release: *release,
            })
        });
        let sticky = serde_json::from_str(r#"{"cookie":"c"}"#).unwrap();
        let route = TableRoute {
            environment: "p".into(),
            service: "web".into(),
            rules: vec![RouteRule { environment: None, host: None, path: "/".into() }],
            assignment: Assignment { canary: Some(ReleaseId(new)), rules: Vec::new(), sticky: Some(sticky) },
            targets: targets.collect(),
            asleep: false,
        };
        let (nowhere, table) = (([127, 0, 0, 1], 1).into(), RouteTable { routes: vec![route] });
        configuration(&table, &[], nowhere, "mark").servers
    }

    /// The weight of one of the servers that are none.
    fn number(is: &[Known], name: &str) -> u32 {
        is.iter().find(|k| k.name == name).map_or(0, |k| k.weight)
    }

    /// The releases that a client may be shown for whom this was drawn.
    fn shown(is: &[Known], draw: u32) -> BTreeSet<String> {
        let backend = match number(is, "halves") {
            0 => "segue:p:web",
            share if draw < share => "segue:p:web:client:canary",
            _ => "segue:p:web:client:stable",
        };
        let open = is.iter().filter(|k| k.backend == backend && k.weight > 0 && !k.in_maintenance);
        open.map(|k| k.name.split('-').next().unwrap().to_owned()).collect()
    }

    proptest! {
        #[test]
        fn a_client_goes_over_once_whatever_command_it_comes_after(
            percents in proptest::collection::btree_set(1_u32..100, 1..4), is_good: bool, copies in 1_u16..3,
        ) {
            let as_they_are = |s: Server| Known { backend: s.backend, ..known(&s.name, s.address.port(), s.weight, false) };
            let mut is: Vec<Known> = wanted(&[(1, 100)], 1, copies).into_iter().map(as_they_are).collect();
            let mut serving = 1;
            for new in 2..5 {
                let (first, last) = if is_good { (0, 100) } else { (100, 0) };
                let end = if is_good { new } else { serving };
                let stages = percents.iter().map(|percent| vec![(serving, 100 - percent), (new, *percent)]);
                let steps = stages.chain([vec![(serving, first), (new, last)], vec![(end, 100)]]);
                let mut paths = vec![vec![shown(&is, 0)]; 200];
                for weights in steps {
                    let wanted = wanted(&weights, new, copies);
                    for command in commands(&wanted, &is.clone(), (2, 6)) {
                        let (salt, is_drawn) = (number(&is, "salt"), number(&is, "halves") > 0);
                        obey(&mut is, &command);
                        prop_assert!(!is_drawn || salt == number(&is, "salt"), "drawn anew by `{command}`");
                        for (draw, path) in (0..).zip(&mut paths) {
                            let shown = shown(&is, draw);
                            prop_assert_eq!(shown.len(), 1, "{:?} after `{}`", shown, command);
                            if path.last() != Some(&shown) {
                                path.push(shown);
                            }
                        }
                    }
                    prop_assert!(commands(&wanted, &is, (2, 6)).is_empty());
                    is.retain(|k| !k.in_maintenance);
                }
                let [old, young] = [serving, new].map(|release| BTreeSet::from([format!("v{release}")]));
                for path in paths {
                    let is_straight = match &path[..] {
                        [one] => !is_good && *one == old,
                        [one, two] => is_good && *one == old && *two == young,
                        [one, two, three] => !is_good && *one == old && *two == young && *three == old,
                        _ => false,
                    };
                    prop_assert!(is_straight, "{path:?}");
                }
                serving = end;
            }
        }

        #[test]
        fn whatever_it_has_it_comes_to_what_is_wanted_and_always_has_somebody(
            is in proptest::collection::btree_map(0_u8..5, (1_u16..4, 0_u32..4, any::<bool>()), 0..5),
            wanted in proptest::collection::btree_map(0_u8..5, (1_u16..4, 0_u32..4), 0..5),
        ) {
            let mut is: Vec<Known> = is.iter().map(|(n, (p, w, m))| known(&format!("s{n}"), *p, *w, *m)).collect();
            let wanted: Vec<Server> = wanted.iter().map(|(n, (p, w))| server(&format!("s{n}"), *p, *w)).collect();
            let serves = |is: &[Known]| is.iter().any(|k| k.weight > 0 && !k.in_maintenance);
            let all_the_time = serves(&is) && wanted.iter().any(|w| w.weight > 0);
            for command in commands(&wanted, &is.clone(), (2, 6)) {
                obey(&mut is, &command);
                prop_assert!(!all_the_time || serves(&is), "nobody after `{command}`");
            }
            prop_assert!(commands(&wanted, &is, (2, 6)).is_empty());
            for want in &wanted {
                let has = is.iter().find(|k| k.name == want.name).unwrap();
                prop_assert_eq!((has.weight, has.address, has.in_maintenance), (want.weight, Some(want.address), false));
            }
        }
    }
}
