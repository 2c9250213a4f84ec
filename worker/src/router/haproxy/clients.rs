//! Clients that keep their release: what HAProxy draws for a key, and by which share.
//!
//! The draw is part of the configuration. The share is not, or each step of a canary would be a reload: it is the weight of a server that is no
//! server, in a backend that nothing is sent to, because weights can be changed while HAProxy runs and be asked for by whoever is in the
//! configuration. A share in one number is changed at once: no request sees half of a change.

use std::fmt::Write as _;

use segue_schemas::assignment::{KEY_DIGITS, Side, Sticky};

use super::config::{PREFIX, Server, backend_name};
use crate::proxy::table::TableRoute;

/// What the name of a backend of a service has before the release to which clients keep.
const KEPT: &str = "client";

/// The same of the one that says how large the new release's share is.
const SHARE: &str = "share";

/// The server whose weight is the share.
const HALVES: &str = "halves";

/// The server whose weight makes the draws of a rollout others than those of the one before.
const SALT: &str = "salt";

/// Shares are given in halves of a percent: 0 where nobody is drawn.
const WHOLE: u64 = 200;

/// As many different draws as a weight can name.
const SALTS: i64 = 256;

/// The name of the backend of the clients that keep to one of a service's releases.
pub(super) fn client_backend(route: &TableRoute, side: Side) -> String {
    format!("{}:{KEPT}:{}", backend_name(&route.environment, &route.service), side.word())
}

/// Whether a backend is one of those.
pub(super) fn is_kept(backend: &str) -> bool {
    kind_of(backend) == Some(KEPT)
}

fn share_backend(route: &TableRoute) -> String {
    format!("{}:{SHARE}", backend_name(&route.environment, &route.service))
}

/// Whether a backend is one whose servers are no servers.
pub(super) fn is_share(backend: &str) -> bool {
    kind_of(backend) == Some(SHARE)
}

/// What of a service a backend is for; none, where that is everything.
pub(super) fn kind_of(backend: &str) -> Option<&str> {
    backend.strip_prefix(PREFIX)?.split(':').nth(2)
}

/// Whether clients of the service that a backend is of are drawn for, once all of these servers are there.
pub(super) fn is_drawn(backend: &str, wanted: &[Server]) -> bool {
    let service = |backend: &str| backend.splitn(4, ':').take(3).map(str::to_owned).collect::<Vec<_>>();
    let halves = wanted.iter().filter(|server| server.name == HALVES && is_share(&server.backend) && server.weight > 0);
    halves.into_iter().any(|server| service(&server.backend) == service(backend))
}

/// The backend of the share, without its servers.
pub(super) fn head_of_share(route: &TableRoute) -> String {
    format!(
        "\nbackend {}\n    mode http\n    balance random(1)\n    load-server-state-from-file none\n    timeout connect 3s\n    \
         timeout server 1h\n",
        share_backend(route)
    )
}

/// Its servers: they have an address because each must.
pub(super) fn share_of(route: &TableRoute) -> [Server; 2] {
    let halves = route.kept().map_or(0, |(_, share)| share.in_parts(WHOLE));
    let salt = route.assignment.canary.map_or(0, |release| release.0.rem_euclid(SALTS).unsigned_abs());
    [(SALT, salt), (HALVES, halves)].map(|(name, number)| Server {
        backend: share_backend(route),
        name: name.into(),
        address: ([127, 0, 0, 1], 1).into(),
        weight: u32::try_from(number).unwrap_or(0),
    })
}

/// Who the client of a request is, and what is drawn for it: the same each time that it brings its key. Nothing is, where one release has
/// all traffic. `conditions`: what a request of the route is, of which one is enough.
pub(super) fn drawn_once(number: usize, route: &TableRoute, sticky: &Sticky, conditions: &[String]) -> String {
    let (backend, cookie) = (share_backend(route), &sticky.cookie);
    let (share, key, new) = (share(number), format!("txn.segue_key_{number}"), new(number));
    let (salt, draw) = (format!("txn.segue_salt_{number}"), draw(number));
    let is_drawn = format!("{{ var({share}) -m int gt 0 }}");
    // a line each: HAProxy takes none of more than 64 words
    let shares = if conditions.iter().any(|condition| condition.trim().is_empty()) {
        vec![format!("{share}) srv_uweight({backend}/{HALVES})")]
    } else {
        let one = |condition: &String| format!("{share}) srv_uweight({backend}/{HALVES}) if {}", condition.trim());
        conditions.iter().map(one).collect()
    };
    let draws = [
        format!("{key}) req.cook({cookie}) if {is_drawn}"),
        format!("{new}) int(1) if {is_drawn} !{{ var({key}) -m reg ^[0-9a-f]{{{KEY_DIGITS}}}$ }}"),
        format!("{key}) uuid,regsub(-,,g) if {{ var({new}) -m found }}"),
        format!("{salt}) srv_uweight({backend}/{SALT}) if {is_drawn}"),
        format!("{draw}) var({key}),concat(:,{salt}),xxh32,mod({WHOLE}) if {is_drawn}"),
    ];
    shares.iter().chain(&draws).fold(String::new(), |mut text, line| {
        let _ = writeln!(text, "    http-request set-var({line}");
        text
    })
}

/// Where the requests of drawn clients go, whose conditions these are: what is drawn lies below the share for the new release.
pub(super) fn sent_by_draw(number: usize, route: &TableRoute, conditions: &[String]) -> String {
    let (draw, share) = (draw(number), share(number));
    let sides = [
        (Side::Canary, format!("{{ var({draw}),sub({share}) lt 0 }}")),
        (Side::Stable, format!("{{ var({draw}) -m found }}")),
    ];
    sides.iter().fold(String::new(), |mut text, (side, is_its)| {
        let all: Vec<String> = conditions.iter().map(|condition| format!("{condition} {is_its}")).collect();
        let _ = writeln!(text, "    use_backend {} if {}", client_backend(route, *side), all.join(" or ").trim_start());
        text
    })
}

/// In such a backend: has a new client keep its key, and takes down whose request it was.
pub(super) fn kept_by(number: usize, sticky: &Sticky) -> String {
    let (key, new) = (format!("txn.segue_key_{number}"), new(number));
    let cookie = |is_secure: bool| {
        format!(
            "    http-response add-header Set-Cookie \"{}=%[var({key})]; {}\" if {{ var({new}) -m found }} {}{{ var(txn.segue_proto) -m str -i \
             https }}\n",
            sticky.cookie,
            sticky.attributes(is_secure),
            if is_secure { "" } else { "!" },
        )
    };
    format!(
        "    http-request set-var(txn.segue_unit) var({key})\n    http-request set-var(txn.segue_proto) req.hdr(x-forwarded-proto,1)\n{}{}",
        cookie(true),
        cookie(false)
    )
}

fn share(number: usize) -> String {
    format!("txn.segue_share_{number}")
}

fn new(number: usize) -> String {
    format!("txn.segue_new_{number}")
}

fn draw(number: usize) -> String {
    format!("txn.segue_draw_{number}")
}
