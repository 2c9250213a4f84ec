//! What every router has to do, played with each of them: the embedded one, and a real HAProxy and nginx.

#[path = "../../../integration-tests/src/routers.rs"]
mod stand;

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use segue_schemas::{
    assignment::{Assignment, ReleaseRule},
    deploy::{Observation, Outcome, RouteRule},
    host_api::{
        ApplyRoute, DrainInstance, EmergencyRollback, HostErrorCode, InstanceState, RetireInstance, StopInstance,
    },
    id::{Epoch, ReleaseId},
    router::RouterSettings,
};
use segue_worker::host::client::HostClient;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::sleep,
};

use self::stand::{Kind, Router};
use crate::{
    code, targets,
    world::{self, Load, World, get, read_all},
};

macro_rules! with_every_router {
    ($($story:ident),+ $(,)?) => {
        mod embedded { $(#[tokio::test] async fn $story() { super::$story(super::Kind::Embedded).await; })+ }
        mod haproxy { $(#[tokio::test] async fn $story() { super::$story(super::Kind::Haproxy).await; })+ }
        mod nginx { $(#[tokio::test] async fn $story() { super::$story(super::Kind::Nginx).await; })+ }
    };
}

with_every_router!(
    weights_are_carried_as_they_are_said,
    a_hot_swap_under_load_cuts_nothing,
    every_attempt_is_observed,
    rules_go_by_host_and_path,
    rules_send_requests_to_one_of_two_releases,
    no_value_of_a_rule_means_anything_to_the_router,
    a_client_keeps_the_release_it_was_assigned_to,
    what_a_client_has_open_stays_where_it_began_when_the_share_grows,
    a_try_that_failed_at_a_clients_release_is_told,
    the_dead_mans_switch_and_an_emergency_go_back,
    a_router_that_dies_in_a_canary_comes_back_with_it,
    a_host_that_dies_changes_nothing,
    what_is_gone_gets_nothing_any_more,
);

macro_rules! with_every_other_router {
    ($($story:ident),+ $(,)?) => {
        mod other_haproxy { $(#[tokio::test] async fn $story() { super::$story(super::Kind::Haproxy).await; })+ }
        mod other_nginx { $(#[tokio::test] async fn $story() { super::$story(super::Kind::Nginx).await; })+ }
    };
}

with_every_other_router!(
    a_broken_configuration_changes_nothing,
    what_is_recorded_and_not_carried_is_said,
    a_change_that_is_being_refused_keeps_no_way_back_from_its_place,
    a_reload_by_somebody_else_loses_nothing,
    what_can_not_be_carried_is_refused,
);

async fn weights_are_carried_as_they_are_said(kind: Kind) {
    let (world, _router) = start(kind).await;
    world.run("web-1", 1, 1).await;
    world.run("web-2", 2, 1).await;
    for (old, new) in [(90, 10), (1, 1), (0, 100), (99, 1)] {
        world.route(1, &[("web-1", old), ("web-2", new)], &[("web-1", 100)]).await;
        let load = Load::begin(&world, 8);
        load.wait_for(1500).await;
        let answers = load.end().await;
        let of_new = answers.iter().filter(|a| a.body == "v2").count();
        assert!(answers.iter().all(|a| a.status == 200), "{:?}", answers.iter().find(|a| a.status != 200));
        #[allow(clippy::cast_precision_loss)]
        let (share, wanted) = (of_new as f64 / answers.len() as f64, f64::from(new) / f64::from(old + new));
        assert!((share - wanted).abs() < 0.06, "{old} : {new} gave {share} of {}", answers.len());
        assert!(wanted > 0.999 || of_new < answers.len(), "{old} : {new} gave all");
    }
    world.end().await;
}

async fn a_hot_swap_under_load_cuts_nothing(kind: Kind) {
    let (world, _router) = start(kind).await;
    world.run("web-1", 1, 1).await;
    world.route(1, &[("web-1", 100)], &[]).await;
    let load = Load::begin(&world, 8);
    let stream = tokio::spawn(get(world.address, world.host(), "/stream?lines=25"));
    let mut socket = upgraded(&world).await;
    world.until_in_flight("web-1", 2).await;
    load.wait_for(50).await;

    world.run("web-2", 2, 1).await;
    world.route(1, &[("web-2", 100)], &[("web-1", 100)]).await;
    let swapped = Instant::now();
    let id = "web-1".parse().unwrap();
    let short = world.client.drain(&id, &DrainInstance { limit_ms: 300 }).await.unwrap();
    assert!(short.in_flight > 0, "a stream and a web socket go on");
    assert_eq!(read_all(&mut socket, b"still", b"still").await, "still");
    let (status, body) = stream.await.unwrap().unwrap();
    assert_eq!((status, body.lines().count()), (200, 25), "the streamed answer was not cut");
    assert_eq!(read_all(&mut socket, b"here", b"here").await, "here");
    drop(socket);
    let whole = world.client.drain(&id, &DrainInstance { limit_ms: 20_000 }).await.unwrap();
    assert_eq!(whole.in_flight, 0);
    let stopped = world.client.stop(&id, &StopInstance { fence: world.fence(1) }).await.unwrap();
    assert_eq!(stopped.state, InstanceState::Stopped);
    load.wait_for(100).await;
    let answers = load.end().await;
    let bad: Vec<_> = answers.iter().filter(|a| a.status != 200).collect();
    assert!(bad.is_empty(), "{} of {} failed: {:?}", bad.len(), answers.len(), bad[0]);
    let late = answers.iter().filter(|a| a.began > swapped && a.body != "v2").count();
    assert_eq!(late, 0, "after the answer to the change, requests went to the former release");
    world.end().await;
}

async fn every_attempt_is_observed(kind: Kind) {
    let (world, _router) = start(kind).await;
    world.run("web-1", 1, 1).await;
    world.run("web-2", 2, 1).await;
    let mut position = world.route(1, &[("web-1", 30), ("web-2", 70)], &[]).await.newest_observation;
    let cases = [
        ("/", 200, 200, Outcome::Ok),
        ("/fail", 500, 500, Outcome::ServerError),
        ("/stream?lines=2", 200, 200, Outcome::Ok),
        ("/hang-up", 502, 0, Outcome::Unreachable),
    ];
    for (path, answered, status, outcome) in cases {
        assert_eq!(get(world.address, world.host(), path).await.unwrap().0, answered, "{path}");
        let seen = read(&world, &mut position, 1).await;
        for one in &seen {
            assert_eq!((one.status, one.outcome, one.synthetic), (status, outcome, false), "{path}: {seen:?}");
            let share = if one.instance.as_str() == "web-1" { 0.3 } else { 0.7 };
            assert!((one.probability - share).abs() < 1e-9, "{one:?}");
            assert!(one.latency_us <= one.duration_us + 1000, "{one:?}");
        }
        if path.starts_with("/stream") {
            assert!(seen[0].duration_us >= 90_000, "{seen:?}");
        }
    }
    // what begins and breaks off
    let _ = get(world.address, world.host(), "/cut").await;
    let mut cut = Vec::new();
    // what was tried at both is told of one by one
    while !cut.iter().any(|one: &Observation| one.outcome == Outcome::Cut) {
        cut.extend(read(&world, &mut position, 1).await);
    }
    let broken = cut.iter().find(|one| one.outcome == Outcome::Cut);
    assert_eq!(broken.map(|one| one.status), Some(200), "{cut:?}");

    // an instance that is down: its requests are answered by the other one, and both attempts are there
    let state = world.client.state().await.unwrap();
    let down = state.instances.iter().find(|i| i.id.as_str() == "web-1").unwrap().pid.unwrap();
    world::stop_for_good(&world, down).await;
    let (began, mut refused, mut answered) = (Instant::now(), 0, 0);
    while refused < 3 {
        assert!(began.elapsed() < Duration::from_secs(20), "{refused} of {answered}");
        let (status, body) = get(world.address, world.host(), "/").await.unwrap();
        // HAProxy may draw the one that is down again and again
        assert!((status, body.as_str()) == (200, "v2") || (kind == Kind::Haproxy && status == 503), "{status} {body}");
        answered += 1;
        for seen in read(&world, &mut position, 1).await {
            if seen.instance.as_str() == "web-1" {
                assert_eq!((seen.outcome, seen.status), (Outcome::Unreachable, 0));
                refused += 1;
            } else {
                assert_eq!((seen.outcome, seen.status), (Outcome::Ok, 200));
            }
        }
    }
    world.end().await;
}

async fn rules_go_by_host_and_path(kind: Kind) {
    let (world, _router) = start(kind).await;
    for (id, release) in [("web-1", 1), ("web-2", 2), ("web-3", 3)] {
        let service = format!("service-{release}");
        let mut start = world.start_request(id, release, 1);
        (start.fence.service, start.release.service) = (service.clone(), service);
        world.client.start_instance(&start).await.unwrap();
        world.wait_until_well(id).await;
    }
    let rule =
        |host: Option<&str>, path: &str| RouteRule { environment: None, host: host.map(Into::into), path: path.into() };
    let rules = [
        ("web-1", vec![rule(Some("Shop.test"), "/"), rule(Some("only.test"), "/api")]),
        ("web-2", vec![rule(Some("shop.test"), "/api/"), rule(None, "/deep/api")]),
        ("web-3", vec![rule(None, "/"), rule(None, "/api/v1")]),
    ];
    for (id, rules) in rules {
        let mut fence = world.fence(1);
        fence.service = id.replace("web", "service");
        let targets = targets(&[(id, 100)]);
        let apply = ApplyRoute {
            fence,
            rules,
            assignment: Assignment::default(),
            targets,
            fallback: vec![],
            dead_man_ms: None,
            leaves: false,
            left: None,
            follows: false,
        };
        world.client.apply_route(&apply).await.unwrap();
    }
    let cases = [
        ("shop.test", "/", "v1"),
        ("SHOP.test:8080", "/x?y=/api", "v1"),
        ("shop.test", "/api", "v2"),
        ("shop.test", "/api/v1", "v2"),
        ("shop.test", "/apix", "v1"),
        ("only.test", "/api/v1/x", "v1"),
        ("only.test", "/", "v3"),
        ("only.test", "/deep/api/1", "v2"),
        ("other.test", "/api/v1", "v3"),
        ("other.test", "/deep/api", "v2"),
    ];
    for (host, path, version) in cases {
        let answer = get(world.address, host.into(), path).await.unwrap();
        assert_eq!(answer, (200, version.to_owned()), "{host}{path}");
    }
    let remove = segue_schemas::host_api::RemoveRoute {
        fence: segue_schemas::host_api::Fence { service: "service-3".into(), ..world.fence(2) },
    };
    world.client.remove(&remove).await.unwrap();
    let (status, body) = get(world.address, "other.test".into(), "/").await.unwrap();
    assert!(status == 404 && body.contains("no service is routed"), "{status} {body}");
    world.end().await;
}

async fn rules_send_requests_to_one_of_two_releases(kind: Kind) {
    let (world, _router) = start(kind).await;
    world.run("web-1", 1, 1).await;
    world.run("web-2", 2, 1).await;
    let rules = [
        r#"{"header":"X-Release","equals":"canary","to":"canary"}"#,
        r#"{"header":"x-release","prefix":"sta","to":"stable"}"#,
        r#"{"cookie":"beta","equals":"1","to":"canary"}"#,
        r#"{"cookie":"be-ta","prefix":"v2.","to":"canary"}"#,
        r#"{"header":"x-any","present":true,"to":"stable"}"#,
        r#"{"cookie":"any","present":true,"to":"canary"}"#,
    ];
    // by weight it would hardly ever be so
    let to_canary: [(&str, u8); 6] = [
        ("x-release: canary", 0),
        ("X-RELEASE: canary\r\ncookie: any=1\r\nx-any: 1", 0),
        ("cookie: beta=1", 2),
        ("cookie: a=b; beta=1;c=d", 2),
        ("cookie: be-ta=v2.7", 3),
        ("cookie: any=0", 5),
    ];
    let to_stable: [(&str, u8); 3] =
        [("x-release: stable", 1), ("x-release: stable\r\ncookie: beta=1", 1), ("x-any: 0\r\ncookie: any=0", 4)];
    let neither = [
        "x-release: Canary",
        "x-release: canary2",
        "cookie: Beta=1",
        "cookie: xbeta=1; beta=11",
        "cookie: be-ta=v2",
        "cookie: any=",
        "x-other: canary",
    ];
    for (weights, chosen, others, body) in
        [([99, 1], &to_canary[..], "v1", "v2"), ([1, 99], &to_stable[..], "v2", "v1")]
    {
        let mut position = assigned(&world, weights, &rules).await;
        for (lines, rule) in chosen {
            for _ in 0..5 {
                assert_eq!(get_with(&world, lines).await, (200, body.to_owned()), "{lines}");
            }
            for seen in read(&world, &mut position, 5).await {
                assert_eq!(
                    (seen.rule, seen.probability.to_bits()),
                    (Some(*rule), 1_f64.to_bits()),
                    "{lines}: {seen:?}"
                );
            }
        }
        let mut by_weight = 0;
        for lines in neither {
            for _ in 0..5 {
                by_weight += u32::from(get_with(&world, lines).await == (200, others.to_owned()));
            }
        }
        // 35 of a hundredth each
        assert!(by_weight >= 30, "{by_weight} of 35");
        let seen = read(&world, &mut position, 35).await;
        assert!(seen.iter().all(|o| o.rule.is_none() && o.probability < 1.0), "{seen:?}");
    }
    // with one release there is nothing to choose, and it is told all the same: who is compared with whom does not change at 100 %
    let mut alone = assigning(&world, [100, 0], &rules);
    alone.targets.truncate(1);
    let mut position = world.client.apply_route(&alone).await.unwrap().newest_observation;
    assert_eq!(get_with(&world, "x-release: canary").await, (200, "v1".into()));
    assert_eq!(read(&world, &mut position, 1).await[0].rule, Some(0));
    // one that stands by without a share is reached by rules, and by nothing else
    let mut position = assigned(&world, [100, 0], &rules).await;
    for _ in 0..10 {
        assert_eq!(get_with(&world, "x-release: canary").await, (200, "v2".into()));
        assert_eq!(get_with(&world, "x-other: 1").await, (200, "v1".into()));
    }
    let seen = read(&world, &mut position, 20).await;
    let by_rule = |o: &&Observation| o.rule.is_some();
    assert!(seen.iter().filter(by_rule).all(|o| o.instance.as_str() == "web-2" && o.rule == Some(0)), "{seen:?}");
    assert_eq!(seen.iter().filter(by_rule).count(), 10, "{seen:?}");
    let mut position = assigned(&world, [0, 100], &rules).await;
    assert_eq!(get_with(&world, "x-release: stable").await, (200, "v2".into()));
    assert_eq!(read(&world, &mut position, 1).await[0].rule, Some(1));
    // what is sent to a release is not shown another one where it is down
    assigned(&world, [1, 99], &rules).await;
    let state = world.client.state().await.unwrap();
    let down = state.instances.iter().find(|i| i.id.as_str() == "web-1").unwrap().pid.unwrap();
    world::stop_for_good(&world, down).await;
    let (status, _) = get_with(&world, "x-release: stable").await;
    assert!(matches!(status, 502 | 503), "{status}");
    assert_eq!(get_with(&world, "x-release: canary").await, (200, "v2".into()));
    world.end().await;
}

async fn no_value_of_a_rule_means_anything_to_the_router(kind: Kind) {
    let (world, _router) = start(kind).await;
    world.run("web-1", 1, 1).await;
    world.run("web-2", 2, 1).await;
    let values = [
        r#"1" 1; } } server { listen 1; } #"#,
        r#"a'b"c\d $e ${f} %[src] {g} }; or TRUE"#,
        ".*",
        r"\x41",
        "(a|b)[c]+?^$",
        "~* default",
        "%0a%0Abind :1",
    ];
    let rules: Vec<String> = values
        .iter()
        .map(|value| serde_json::json!({ "header": "x-hostile", "equals": value, "to": "canary" }).to_string())
        .chain([r#"{"cookie":"c","equals":"'$x{}%[src]~.*#","to":"canary"}"#.to_owned()])
        .collect();
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    let mut position = assigned(&world, [199, 1], &rules).await;
    for (value, rule) in values.iter().zip(0_u8..) {
        assert_eq!(get_with(&world, &format!("x-hostile: {value}")).await, (200, "v2".into()), "{value}");
        assert_eq!(read(&world, &mut position, 1).await[0].rule, Some(rule), "{value}");
    }
    assert_eq!(get_with(&world, "cookie: c='$x{}%[src]~.*#; d=1").await, (200, "v2".into()));
    for other in ["A", "ac", "zz", "default", "a", "1"] {
        assert_eq!(get_with(&world, &format!("x-hostile: {other}")).await.0, 200);
    }
    let seen = read(&world, &mut position, 7).await;
    assert_eq!(seen.iter().map(|o| o.rule).collect::<Vec<_>>(), [Some(7), None, None, None, None, None, None]);
    // what is no rule at all comes no further than the host
    let mut apply = assigning(&world, [1, 1], &rules);
    apply.assignment.rules[0].header = Some("x y\n bind :1".into());
    assert_eq!(code(world.client.apply_route(&apply).await.unwrap_err()), HostErrorCode::BadRequest);
    world.end().await;
}

async fn a_client_keeps_the_release_it_was_assigned_to(kind: Kind) {
    let (world, _router) = start(kind).await;
    for (id, release) in [("web-1", 1), ("web-2", 2), ("web-3", 3)] {
        world.run(id, release, 1).await;
    }
    let share = |old: u32, new: (&'static str, i64, u32)| {
        let mut apply = assigning(&world, [old, 0], &[r#"{"header":"x-rule","present":true,"to":"canary"}"#]);
        apply.targets = targets(&[("web-1", old), (new.0, new.2)]);
        apply.assignment.canary = Some(ReleaseId(new.1));
        let sticky = serde_json::json!({ "cookie": "s-id", "max-age": "1d" });
        apply.assignment.sticky = Some(serde_json::from_value(sticky).unwrap());
        let client = &world.client;
        async move { client.apply_route(&apply).await.unwrap().newest_observation }
    };
    let mut position = share(50, ("web-2", 2, 50)).await;
    let mut clients = Vec::new();
    for _ in 0..40 {
        let (head, body) = answer_to(&world, "cookie: a=b").await;
        let cookie = set_cookie(&head).unwrap_or_else(|| panic!("{head}"));
        let (pair, attributes) = cookie.split_once("; ").unwrap();
        assert_eq!(attributes, "Path=/; Max-Age=86400; HttpOnly; SameSite=Lax");
        let key = pair.strip_prefix("s-id=").unwrap();
        let unit = u64::from_str_radix(&key[..16], 16).unwrap();
        assert_eq!(key.len(), 32);
        for _ in 0..2 {
            let (head, again) = answer_to(&world, &format!("cookie: a=b; {pair}; c=d")).await;
            assert_eq!((again, set_cookie(&head)), (body.clone(), None));
        }
        let seen = read(&world, &mut position, 3).await;
        assert!(seen.iter().all(|o| o.unit == Some(unit) && o.rule.is_none()), "{seen:?}");
        assert!(seen.iter().all(|o| (o.probability - 0.5).abs() < 1e-3), "{seen:?}");
        clients.push((pair.to_owned(), body));
    }
    let is_mixed = |bodies: &[String]| bodies.iter().any(|b| b == "v1") && bodies.iter().any(|b| b != "v1");
    assert!(is_mixed(&clients.iter().map(|(_, body)| body.clone()).collect::<Vec<_>>()), "{clients:?}");
    // a rule goes before
    let (head, body) = answer_to(&world, &format!("x-rule: 1\r\ncookie: {}", clients[0].0)).await;
    assert_eq!((body.as_str(), set_cookie(&head)), ("v2", None));
    // what is no key does not hide the one behind it
    let (head, body) = answer_to(&world, &format!("cookie: s-id=xyz; {}", clients[0].0)).await;
    assert_eq!((&body, set_cookie(&head)), (&clients[0].1, None));
    // with a larger share nobody goes back, and some come
    share(20, ("web-2", 2, 80)).await;
    let mut moved = 0;
    for (cookie, body) in &clients {
        let now = get_with(&world, &format!("cookie: {cookie}")).await.1;
        assert!(body == "v1" || now == "v2", "{cookie}: from {body} to {now}");
        moved += u32::from(*body != now);
    }
    assert!(moved > 0, "{clients:?}");
    // what was forged is a client like any other, or a new one
    for forged in ["xyz", "\"; } #", "0123456789ABCDEF0123456789ABCDEF", "0123456789abcdef0123456789abcdef0", "canary"]
    {
        let (head, _) = answer_to(&world, &format!("x-forwarded-proto: https\r\ncookie: s-id={forged}")).await;
        assert!(head.contains(" 200 "), "{forged}: {head}");
        assert!(set_cookie(&head).is_some_and(|cookie| cookie.ends_with("; Secure")), "{forged}: {head}");
    }
    // of a list, and of two of them, the first is what the client came with
    for (proto, is_secure) in [
        ("x-forwarded-proto: HTTPS, http", true),
        ("x-forwarded-proto: http, https", false),
        ("x-forwarded-proto: https\r\nx-forwarded-proto: http", true),
        ("x-forwarded-proto: httpsx", false),
    ] {
        let (head, _) = answer_to(&world, proto).await;
        let cookie = set_cookie(&head);
        assert!(cookie.is_some_and(|cookie| cookie.ends_with("; Secure") == is_secure), "{proto}: {head}");
    }
    // back to one release: everybody at once
    share(100, ("web-2", 2, 0)).await;
    for (cookie, _) in &clients {
        let (head, body) = answer_to(&world, &format!("cookie: {cookie}")).await;
        assert_eq!((body.as_str(), set_cookie(&head)), ("v1", None));
    }
    assert_eq!(set_cookie(&answer_to(&world, "cookie: a=b").await.0), None);
    // the next one is drawn anew
    share(50, ("web-3", 3, 50)).await;
    let mut others = 0;
    for (cookie, body) in &clients {
        let now = get_with(&world, &format!("cookie: {cookie}")).await.1;
        others += u32::from((body == "v1") != (now == "v1"));
    }
    assert!((1..40).contains(&others), "{others} of 40 are elsewhere");
    world.end().await;
}

async fn what_a_client_has_open_stays_where_it_began_when_the_share_grows(kind: Kind) {
    let (world, _router) = start(kind).await;
    world.run("web-1", 1, 1).await;
    world.run("web-2", 2, 1).await;
    let share = |new: u32| {
        let mut apply = assigning(&world, [100 - new, new], &[]);
        apply.assignment.sticky = Some(serde_json::from_value(serde_json::json!({ "cookie": "s-id" })).unwrap());
        let client = &world.client;
        async move { drop(client.apply_route(&apply).await.unwrap()) }
    };
    // one who goes over between a small share and a large one
    let keys: Vec<String> =
        (1..60_u64).map(|i| format!("{:016x}{i:016x}", i.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
    let mut seen = Vec::new();
    for new in [98, 2] {
        share(new).await;
        for key in &keys {
            seen.push(get_with(&world, &format!("cookie: s-id={key}")).await.1);
        }
    }
    let (large, small) = seen.split_at(keys.len());
    let (key, _) =
        keys.iter().zip(large.iter().zip(small)).find(|(_, of)| *of == (&"v2".into(), &"v1".into())).unwrap();
    let cookie = format!("cookie: s-id={key}");

    let (mut socket, head) = upgraded_with(&world, &cookie).await;
    assert_eq!(set_cookie(&head), None);
    let stream = answer_at(&world, "/stream?lines=60", &cookie);
    let grows = async {
        world.until_in_flight("web-1", 2).await;
        share(98).await;
        assert_eq!(get_with(&world, &cookie).await.1, "v2", "its client has gone over");
        assert_eq!(read_all(&mut socket, b"still", b"still").await, "still");
        let (mut next, _) = upgraded_with(&world, &cookie).await;
        world.until_in_flight("web-2", 1).await;
        assert_eq!(read_all(&mut next, b"there", b"there").await, "there");
    };
    let ((head, body), ()) = tokio::join!(stream, grows);
    assert_eq!(set_cookie(&head), None);
    assert_eq!(body.lines().filter(|line| line.starts_with("line ")).count(), 60, "the stream was not cut: {body}");
    world.until_in_flight("web-1", 1).await;
    assert_eq!(read_all(&mut socket, b"here", b"here").await, "here");
    // one who begins so is a client from then on
    let (_begun, head) = upgraded_with(&world, "x-no: cookie").await;
    assert!(set_cookie(&head).is_some_and(|cookie| cookie.starts_with("s-id=")), "{head}");
    world.end().await;
}

async fn a_try_that_failed_at_a_clients_release_is_told(kind: Kind) {
    let (world, _router) = start(kind).await;
    for (id, release) in [("web-1", 1), ("web-down", 1), ("web-2", 2)] {
        world.run(id, release, 1).await;
    }
    let mut apply = assigning(&world, [0, 0], &[]);
    apply.targets = targets(&[("web-1", 25), ("web-down", 25), ("web-2", 50)]);
    apply.assignment.sticky = Some(serde_json::from_value(serde_json::json!({ "cookie": "s-id" })).unwrap());
    let mut position = world.client.apply_route(&apply).await.unwrap().newest_observation;
    let state = world.client.state().await.unwrap();
    let down = state.instances.iter().find(|i| i.id.as_str() == "web-down").unwrap().pid.unwrap();
    world::stop_for_good(&world, down).await;
    for _ in 0..60 {
        answer_to(&world, "cookie: a=b").await;
    }
    let seen = read(&world, &mut position, 60).await;
    let release = |o: &Observation| if o.instance.as_str() == "web-2" { 2 } else { 1 };
    // 15 of those that are drawn for release 1 try the one that is down first
    let again: Vec<_> = seen.iter().filter(|o| o.attempt > 1 && o.outcome == Outcome::Ok).collect();
    assert!(!again.is_empty(), "{seen:?}");
    for answered in again {
        let is_it = |o: &&Observation| o.unit == answered.unit && o.attempt == 1 && o.outcome == Outcome::Unreachable;
        assert!(answered.unit.is_some() && seen.iter().any(|o| is_it(&o)), "{answered:?} in {seen:?}");
        assert_eq!(release(answered), 1);
    }
    assert!(seen.iter().all(|o| release(o) == 1 || o.outcome == Outcome::Ok), "{seen:?}");
    assert!(seen.iter().all(|o| (o.probability - 0.5).abs() < 1e-9), "{seen:?}");
    world.end().await;
}

async fn the_dead_mans_switch_and_an_emergency_go_back(kind: Kind) {
    let (world, _router) = start(kind).await;
    world.run("web-1", 1, 1).await;
    world.run("web-2", 2, 1).await;
    world.route(1, &[("web-1", 100)], &[]).await;
    world.canary(1, &[("web-1", 10), ("web-2", 90)], &[("web-1", 100)], 500).await;
    world.until_restored().await;
    world.until_all_answer("v1").await;

    world.canary(2, &[("web-1", 10), ("web-2", 90)], &[("web-1", 100)], 60_000).await;
    let rollback = EmergencyRollback { to: None, reason: "now".into() };
    let result = world.client.emergency_rollback("production", "web", &rollback).await.unwrap();
    assert_eq!(result.to.id, ReleaseId(1));
    println!("{kind:?}: emergency rollback in {} us", result.took_us);
    // no sooner than it is carried
    for _ in 0..40 {
        assert_eq!(get(world.address, world.host(), "/").await.unwrap(), (200, "v1".into()));
    }
    let late = ApplyRoute {
        fence: world.fence(2),
        rules: vec![],
        assignment: Assignment::default(),
        targets: targets(&[("web-2", 100)]),
        fallback: vec![],
        dead_man_ms: None,
        leaves: false,
        left: None,
        follows: false,
    };
    assert_eq!(code(world.client.apply_route(&late).await.unwrap_err()), HostErrorCode::StaleEpoch);
    assert_eq!(get(world.address, world.host(), "/").await.unwrap(), (200, "v1".into()));
    world.end().await;
}

async fn a_router_that_dies_in_a_canary_comes_back_with_it(kind: Kind) {
    let (mut world, router) = start(kind).await;
    world.run("web-1", 1, 1).await;
    world.run("web-2", 2, 1).await;
    world.route(1, &[("web-1", 100)], &[]).await;
    world.canary(1, &[("web-1", 60), ("web-2", 40)], &[("web-1", 100)], 600_000).await;
    if let Some(Beside { running: mut router, _folder }) = router {
        // what it comes back with is its own, not what the host tells it
        world.kill_host();
        router.kill();
        router.start();
        both_answer(&world, 40).await;
        world.start_host().await;
        both_answer(&world, 40).await;
        // and a change finds the new one
        world.canary(1, &[("web-1", 0), ("web-2", 100)], &[("web-1", 100)], 600_000).await;
        assert_eq!(get(world.address, world.host(), "/").await.unwrap(), (200, "v2".into()));
        world.end().await;
        return;
    }
    let killed = world.until_proxy(None).await;
    world::kill(killed);
    world.until_proxy(Some(killed)).await;
    both_answer(&world, 40).await;
    world.canary(1, &[("web-1", 0), ("web-2", 100)], &[("web-1", 100)], 600_000).await;
    assert_eq!(get(world.address, world.host(), "/").await.unwrap(), (200, "v2".into()));
    world.end().await;
}

async fn a_host_that_dies_changes_nothing(kind: Kind) {
    let (mut world, _router) = start(kind).await;
    world.run("web-1", 1, 1).await;
    world.run("web-2", 2, 1).await;
    let mut position = world.route(1, &[("web-1", 50), ("web-2", 50)], &[]).await.newest_observation;
    let load = Load::begin(&world, 4);
    load.wait_for(20).await;
    world.kill_host();
    load.wait_for(20).await;
    world.start_host().await;
    load.wait_for(20).await;
    let answers = load.end().await;
    assert!(answers.iter().all(|a| a.status == 200), "{:?}", answers.iter().find(|a| a.status != 200));
    both_answer(&world, 50).await;
    // the position of before is good for reading on; what was missed meanwhile, if anything was, is a gap
    let seen = read(&world, &mut position, 1).await;
    assert!(seen.iter().all(|o| o.outcome == Outcome::Ok), "{seen:?}");
    world.end().await;
}

async fn what_is_gone_gets_nothing_any_more(kind: Kind) {
    let (world, _router) = start(kind).await;
    for (id, release) in [("web-1", 1), ("web-2", 2)] {
        world.run(id, release, 1).await;
    }
    world.route(1, &[("web-1", 50), ("web-2", 50)], &[]).await;
    world.route(1, &[("web-2", 100)], &[]).await;
    world.client.stop(&"web-1".parse().unwrap(), &StopInstance { fence: world.fence(1) }).await.unwrap();
    for _ in 0..30 {
        assert_eq!(get(world.address, world.host(), "/").await.unwrap(), (200, "v2".into()));
    }
    // under its old name, with another release and another port
    world.run("web-1", 3, 1).await;
    world.route(1, &[("web-1", 100), ("web-2", 0)], &[]).await;
    for _ in 0..30 {
        assert_eq!(get(world.address, world.host(), "/").await.unwrap(), (200, "v3".into()));
    }
    world.route(1, &[("web-1", 0), ("web-2", 0)], &[]).await;
    let (status, body) = get(world.address, world.host(), "/").await.unwrap();
    assert!(status == 503 && body.contains("web: no instance has traffic in environment"), "{status} {body}");
    world.end().await;
}

async fn a_broken_configuration_changes_nothing(kind: Kind) {
    let (world, router) = start(kind).await;
    let Beside { running: router, _folder } = router.unwrap();
    world.run("web-1", 1, 1).await;
    world.run("web-2", 2, 1).await;
    world.route(1, &[("web-1", 100)], &[]).await;
    let before = std::fs::read_to_string(router.own_file()).unwrap();

    router.write_main("this is no configuration");
    let rules = vec![RouteRule { environment: None, host: Some("new.test".into()), path: "/".into() }];
    let apply = ApplyRoute {
        fence: world.fence(1),
        rules,
        assignment: Assignment::default(),
        targets: targets(&[("web-2", 100)]),
        fallback: vec![],
        dead_man_ms: None,
        leaves: false,
        left: None,
        follows: false,
    };
    let error = world.client.apply_route(&apply).await.unwrap_err();
    let said = error.to_string();
    assert!(said.contains("broken beside Segue's file") && said.contains("main.cfg"), "{said}");
    assert_eq!(code(error), HostErrorCode::Router);
    let route = world.client.state().await.unwrap().routes.remove(0);
    assert_eq!(
        (route.targets, route.rules.len()),
        (targets(&[("web-1", 100)]), 1),
        "nothing has changed in the record either"
    );
    assert_eq!(std::fs::read_to_string(router.own_file()).unwrap(), before, "the file is as it was");
    assert_eq!(get(world.address, world.host(), "/").await.unwrap(), (200, "v1".into()));

    router.write_main("");
    world.client.apply_route(&apply).await.unwrap();
    assert_eq!(get(world.address, "new.test".into(), "/").await.unwrap(), (200, "v2".into()));
    world.end().await;
}

async fn what_is_recorded_and_not_carried_is_said(kind: Kind) {
    let (world, router) = start(kind).await;
    let Beside { running: router, _folder } = router.unwrap();
    world.run("web-1", 1, 1).await;
    world.run("web-2", 2, 1).await;
    world.route(1, &[("web-1", 100)], &[]).await;
    world.canary(1, &[("web-1", 50), ("web-2", 50)], &[("web-1", 100)], 600_000).await;
    assert_eq!(world.client.state_looked().await.unwrap().router_trouble, None);

    router.write_main("this is no configuration");
    // what is carried is carried: only a look shows it
    let looked = world.client.state_looked().await.unwrap().router_trouble.unwrap();
    assert!(looked.contains("its configuration does not hold") && looked.contains("main.cfg"), "{looked}");
    let rollback = EmergencyRollback { to: None, reason: "the canary fails".into() };
    let gone_back = world.client.emergency_rollback("production", "web", &rollback).await;
    if kind == Kind::Haproxy {
        // weights need no other configuration
        gone_back.unwrap();
        router.write_main("");
        return world.end().await;
    }
    let error = gone_back.unwrap_err();
    let said = error.to_string();
    assert!(said.contains("release 1 has all traffic") && said.contains("not carried yet"), "{said}");
    assert!(said.contains("broken beside Segue's file") && said.contains("once that is mended"), "{said}");
    assert_eq!(code(error), HostErrorCode::Router);
    let until = async |wanted: bool| {
        let began = Instant::now();
        loop {
            let trouble = world.client.state().await.unwrap().router_trouble;
            if trouble.is_some() == wanted {
                return trouble.unwrap_or_default();
            }
            assert!(began.elapsed() < Duration::from_secs(40), "{trouble:?}");
            sleep(Duration::from_millis(20)).await;
        }
    };
    let trouble = until(true).await;
    assert!(trouble.starts_with("recorded, not carried: ") && trouble.contains("main.cfg"), "{trouble}");
    // who has its share still, whatever is recorded, is not taken away, though its time has come
    let fence = world.fence(world.client.state().await.unwrap().routes[0].epoch.0);
    let left = "web-2".parse().unwrap();
    world.client.retire(&left, &RetireInstance { fence, after_ms: 0, drain_ms: 0 }).await.unwrap();
    sleep(Duration::from_millis(1500)).await;
    both_answer(&world, 50).await;

    router.write_main("");
    until(false).await;
    world.until(&left, |instance| instance.state == InstanceState::Stopped).await;
    for _ in 0..30 {
        assert_eq!(get(world.address, world.host(), "/").await.unwrap(), (200, "v1".into()));
    }
    world.end().await;
}

async fn a_change_that_is_being_refused_keeps_no_way_back_from_its_place(kind: Kind) {
    // its configuration is tested for as long as `held` is there, and is refused once if `bad` is
    let test = |folder: &Path, check: &[String]| {
        let folder = folder.display();
        let script = format!(
            "touch {folder}/tested; while [ -e {folder}/held ]; do sleep 0.02; done; rm {folder}/bad 2>/dev/null && exit 1; {}",
            check.join(" ")
        );
        vec!["sh".to_owned(), "-c".to_owned(), script]
    };
    let (world, router) = start_as(kind, |settings, folder| match settings {
        RouterSettings::Haproxy(settings) => settings.check = Some(test(folder, &settings.check())),
        RouterSettings::Nginx(settings) => settings.check = test(folder, &settings.check),
        RouterSettings::Embedded => {}
    })
    .await;
    let folder = router.unwrap();
    let file = |name: &str| folder._folder.path().join(name);
    world.run("web-1", 1, 1).await;
    world.run("web-2", 2, 1).await;
    let carried = world.route(1, &[("web-1", 50), ("web-2", 50)], &[("web-1", 100)]).await;

    let rules = vec![RouteRule { environment: None, host: Some("new.test".into()), path: "/".into() }];
    let (fence, all) = (world.fence(1), targets(&[("web-2", 100)]));
    let apply = ApplyRoute {
        fence,
        rules,
        assignment: Assignment::default(),
        targets: all,
        fallback: targets(&[("web-1", 100)]),
        dead_man_ms: None,
        leaves: false,
        left: None,
        follows: false,
    };
    std::fs::remove_file(file("tested")).unwrap();
    std::fs::write(file("held"), "").unwrap();
    std::fs::write(file("bad"), "").unwrap();
    let asks = |client: HostClient| tokio::spawn(async move { client.apply_route(&apply).await });
    let asked = asks(world.client.clone());
    while !file("tested").exists() {
        sleep(Duration::from_millis(5)).await;
    }
    // whoever asked goes away, as one does after a time-out: what is shown is what is carried
    asked.abort();
    let route = world.client.state().await.unwrap().routes.remove(0);
    assert_eq!((route.targets, route.rules), (carried.targets, carried.rules.clone()));

    let back = EmergencyRollback { to: None, reason: "the canary fails".into() };
    let client = world.client.clone();
    let goes_back = tokio::spawn(async move { client.emergency_rollback("production", "web", &back).await });
    while world.client.state().await.unwrap().routes[0].epoch == Epoch(1) {
        sleep(Duration::from_millis(5)).await;
    }
    std::fs::remove_file(file("held")).unwrap();
    goes_back.await.unwrap().unwrap();
    for _ in 0..50 {
        assert_eq!(get(world.address, world.host(), "/").await.unwrap(), (200, "v1".into()));
    }
    let route = world.client.state().await.unwrap().routes.remove(0);
    assert_eq!((route.targets, route.rules), (targets(&[("web-1", 100)]), carried.rules));
    assert!(!file("bad").exists(), "the change was refused");
    world.end().await;
}

async fn a_reload_by_somebody_else_loses_nothing(kind: Kind) {
    let (world, router) = start(kind).await;
    let Beside { running: router, _folder } = router.unwrap();
    world.run("web-1", 1, 1).await;
    world.run("web-2", 2, 1).await;
    world.route(1, &[("web-1", 60), ("web-2", 40)], &[]).await;
    let load = Load::begin(&world, 4);
    let stream = tokio::spawn(get(world.address, world.host(), "/stream?lines=60"));
    load.wait_for(50).await;
    let before = world.client.state().await.unwrap().proxy_pid;
    router.reload();
    world.route(1, &[("web-1", 0), ("web-2", 100)], &[("web-1", 100)]).await;
    load.wait_for(50).await;
    // which of the two has the stream is not known: it is not cut, and whoever has it is drained
    let id = "web-1".parse().unwrap();
    let drained = world.client.drain(&id, &DrainInstance { limit_ms: 20_000 }).await.unwrap();
    assert_eq!(drained.in_flight, 0);
    world.client.stop(&id, &StopInstance { fence: world.fence(1) }).await.unwrap();
    let (status, body) = stream.await.unwrap().unwrap();
    assert_eq!((status, body.lines().count()), (200, 60));
    let answers = load.end().await;
    let bad: Vec<_> = answers.iter().filter(|a| a.status != 200).collect();
    assert!(bad.is_empty(), "{} of {} failed: {:?}", bad.len(), answers.len(), bad[0]);
    if kind == Kind::Haproxy {
        assert_ne!(world.client.state().await.unwrap().proxy_pid, before, "the worker is another one");
    }
    world.end().await;
}

async fn what_can_not_be_carried_is_refused(kind: Kind) {
    let (world, _router) = start(kind).await;
    let mut sleeper = world.start_request("web-1", 1, 1);
    sleeper.sleep_after_ms = Some(1000);
    let error = world.client.start_instance(&sleeper).await.unwrap_err();
    assert!(error.to_string().contains("leave `sleep-after` out"), "{error}");
    assert_eq!(code(error), HostErrorCode::BadRequest);
    world.run("web-1", 1, 1).await;
    for (host, path) in
        [(Some("a'b"), "/"), (None, "/x y"), (None, "/x\n    bind :1"), (Some("a;b"), "/"), (None, "/$x")]
    {
        let rules = vec![RouteRule { environment: None, host: host.map(Into::into), path: path.into() }];
        let apply = ApplyRoute {
            fence: world.fence(1),
            rules,
            assignment: Assignment::default(),
            targets: targets(&[("web-1", 100)]),
            fallback: vec![],
            dead_man_ms: None,
            leaves: false,
            left: None,
            follows: false,
        };
        let error = world.client.apply_route(&apply).await.unwrap_err();
        assert_eq!(code(error), HostErrorCode::BadRequest, "{host:?} {path:?}");
    }
    world.end().await;
}

/// A router that is no part of the host, with its folder.
struct Beside {
    running: Router,
    _folder: tempfile::TempDir,
}

/// A host with such a router; the embedded one is the host's own.
async fn start(kind: Kind) -> (World, Option<Beside>) {
    start_as(kind, |_, _| {}).await
}

/// The same, with other settings.
async fn start_as(kind: Kind, change: impl FnOnce(&mut RouterSettings, &Path)) -> (World, Option<Beside>) {
    if kind == Kind::Embedded {
        return (World::start().await, None);
    }
    let folder = tempfile::tempdir().unwrap();
    let mut router = Router::prepare(kind, folder.path());
    router.start();
    let mut settings = router.settings();
    change(&mut settings, folder.path());
    let settings = serde_json::to_string(&settings).unwrap();
    let world = World::start_behind(router.address, Some(settings)).await;
    (world, Some(Beside { running: router, _folder: folder }))
}

/// Observations after a position, at least so many.
async fn read(world: &World, position: &mut u64, n: usize) -> Vec<Observation> {
    let (mut all, began) = (Vec::new(), Instant::now());
    while all.len() < n {
        assert!(began.elapsed() < Duration::from_secs(20), "only {} of {n} observations came", all.len());
        let batch =
            world.client.observations("production", "web", *position, Duration::from_secs(5), 1000).await.unwrap();
        *position = batch.next;
        all.extend(batch.observations);
    }
    all
}

/// The releases 1 and 2 with such weights, and rules between them; where its observations begin.
async fn assigned(world: &World, weights: [u32; 2], rules: &[&str]) -> u64 {
    world.client.apply_route(&assigning(world, weights, rules)).await.unwrap().newest_observation
}

fn assigning(world: &World, [old, new]: [u32; 2], rules: &[&str]) -> ApplyRoute {
    let rules = rules.iter().map(|rule| serde_json::from_str::<ReleaseRule>(rule).unwrap()).collect();
    ApplyRoute {
        fence: world.fence(1),
        rules: vec![],
        assignment: Assignment { canary: Some(ReleaseId(2)), rules, sticky: None },
        targets: targets(&[("web-1", old), ("web-2", new)]),
        fallback: targets(&[("web-1", 100)]),
        dead_man_ms: None,
        leaves: false,
        left: None,
        follows: false,
    }
}

/// What a request with these lines in its head is answered.
async fn get_with(world: &World, lines: &str) -> (u16, String) {
    let (head, body) = answer_to(world, lines).await;
    (head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default(), body)
}

/// Head and body of the answer to a request with these lines in its head.
async fn answer_to(world: &World, lines: &str) -> (String, String) {
    answer_at(world, "/", lines).await
}

async fn answer_at(world: &World, path: &str, lines: &str) -> (String, String) {
    let mut stream = tokio::net::TcpStream::connect(world.address).await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nhost: {}\r\n{lines}\r\nconnection: close\r\n\r\n", world.host());
    let exchange = async {
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = tokio::time::timeout(Duration::from_secs(20), exchange).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{lines}: {answer}"));
    (head.to_owned(), body.trim().to_owned())
}

/// What a client is told to keep.
fn set_cookie(head: &str) -> Option<String> {
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    let mut found = lines.filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie"));
    found.next().map(|(_, value)| value.trim().to_owned())
}

/// A connection that has become an echo.
async fn upgraded(world: &World) -> tokio::net::TcpStream {
    upgraded_with(world, "x-no: cookie").await.0
}

/// The same, asked for with this line, and the head of the answer.
async fn upgraded_with(world: &World, line: &str) -> (tokio::net::TcpStream, String) {
    let mut stream = tokio::net::TcpStream::connect(world.address).await.unwrap();
    let head = format!(
        "GET /upgrade HTTP/1.1\r\nhost: {}\r\n{line}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n",
        world.host()
    );
    let answer = read_all(&mut stream, head.as_bytes(), b"\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    (stream, answer)
}

/// Both releases answer, the second one about so often in a hundred.
async fn both_answer(world: &World, percent: i32) {
    let mut counts: BTreeMap<String, i32> = BTreeMap::new();
    for _ in 0..300 {
        let (status, body) = get(world.address, world.host(), "/").await.unwrap();
        assert_eq!(status, 200, "{body}");
        *counts.entry(body).or_default() += 1;
    }
    // a standard deviation is 9 at most
    let second = counts.get("v2").copied().unwrap_or(0);
    assert!((second - 3 * percent).abs() < 50, "{percent} % is {counts:?}");
}
