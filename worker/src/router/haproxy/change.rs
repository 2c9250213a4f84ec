//! From what a running HAProxy has to what it is to have, as commands of its runtime API.

use super::{
    cli::Known,
    config::{Server, is_service},
};

/// The commands that bring the servers of Segue's backends to what is wanted; none where they are there already. Whoever gains comes before
/// whoever loses, so that there is always somebody to give a request to.
pub(super) fn commands(wanted: &[Server], known: &[Known], version: (u32, u32)) -> Vec<String> {
    let (mut gain, mut lose) = (Vec::new(), Vec::new());
    for server in wanted {
        let Server { backend, name, address, weight } = server;
        let full = format!("{backend}/{name}");
        let Some(is) = known.iter().find(|k| k.backend == *backend && k.name == *name) else {
            gain.push(format!("{}add server {full} {address} weight {weight}", experimental(version)));
            gain.push(format!("set server {full} state ready"));
            continue;
        };
        if is.address != Some(*address) {
            gain.push(format!("set server {full} addr {} port {}", address.ip(), address.port()));
        }
        if is.weight != *weight {
            let side = if *weight > is.weight { &mut gain } else { &mut lose };
            side.push(format!("set server {full} weight {weight}"));
        }
        if is.in_maintenance || is.is_drained {
            gain.push(format!("set server {full} state ready"));
        }
    }
    for is in unwanted(wanted, known).filter(|is| !is.in_maintenance) {
        lose.push(format!("set server {}/{} state maint", is.backend, is.name));
    }
    gain.append(&mut lose);
    gain
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
    use proptest::prelude::*;

    use super::*;

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
        let name = words[2].split_once('/').unwrap().1;
        let found = is.iter_mut().find(|k| k.name == name);
        match (words[0], found, words.get(3).copied()) {
            ("add", None, _) => {
                let address: std::net::SocketAddr = words[3].parse().unwrap();
                is.push(known(name, address.port(), words[5].parse().unwrap(), true));
            }
            ("set", Some(k), Some("weight")) => k.weight = words[4].parse().unwrap(),
            ("set", Some(k), Some("addr")) => k.address = Some(format!("{}:{}", words[4], words[6]).parse().unwrap()),
            ("set", Some(k), Some("state")) => (k.in_maintenance, k.is_drained) = (words[4] == "maint", false),
            other => panic!("{other:?}"),
        }
    }

    proptest! {
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
