use proptest::prelude::*;

use super::*;

fn time(text: &str) -> Timestamp {
    serde_json::from_value(serde_json::json!(text)).unwrap()
}

fn rules(yaml: &str) -> Rules {
    Rules::of("production", &serde_yaml::from_str(yaml).unwrap()).unwrap()
}

fn yes(by: &str) -> Yes {
    Yes { by: by.into(), teams: Vec::new(), bypass: None }
}

fn wish(said_yes: Vec<Yes>) -> Wish {
    Wish {
        git_ref: "refs/heads/main".into(),
        own: vec!["eve".into()],
        said_yes,
        ready_at: time("2026-11-20T12:00:00Z"),
    }
}

fn in_words(gate: Gate) -> String {
    match gate {
        Gate::Open => "open".into(),
        Gate::AwaitPerson { reason } => format!("person: {reason}"),
        Gate::Closed { reason } => format!("closed: {reason}"),
        Gate::ClosedUntil { reason, until } => format!("until {until}: {reason}"),
        Gate::Refused { reason } => format!("refused: {reason}"),
    }
}

const NOON: &str = "2026-11-20T12:00:00Z";

#[test]
fn approvals_are_of_people_who_may_give_them_each_counted_once() {
    let of_team = |by: &str| Yes { teams: vec!["acme/release".into()], ..yes(by) };
    for (config, said, wanted) in [
        ("{}", vec![], "open"),
        ("{required-approvals: 2}", vec![], "person: `production` has 0 of 2 approvals"),
        ("{required-approvals: 2}", vec![yes("ada")], "person: `production` has 1 of 2 approvals (by ada)"),
        ("{required-approvals: 2}", vec![yes("ada"), yes("Ada")], "person: `production` has 1 of 2 approvals (by ada)"),
        ("{required-approvals: 2}", vec![yes("ada"), yes("eve")], "open"),
        ("{required-approvals: 2}", vec![yes("ada"), yes("bob"), yes("cy")], "open"),
        (
            "{required-approvals: 2, prevent-self-review: true}",
            vec![yes("ada"), yes("EVE")],
            "person: `production` has 1 of 2 approvals (by ada); those not of eve count",
        ),
        ("{reviewers: [bob]}", vec![yes("ada")], "person: `production` has 0 of 1 approvals; those of bob count"),
        ("{reviewers: [bob]}", vec![yes("BOB")], "open"),
        (
            "{reviewers: [bob, acme/release], required-approvals: 2, prevent-self-review: true}",
            vec![of_team("eve"), yes("ada"), yes("bob")],
            "person: `production` has 1 of 2 approvals (by bob); those of bob, acme/release count, and not of eve",
        ),
        ("{reviewers: [bob, acme/Release], required-approvals: 2}", vec![of_team("ada"), yes("bob")], "open"),
    ] {
        assert_eq!(in_words(rules(config).judge(&wish(said.clone()), time(NOON))), wanted, "{config} {said:?}");
    }
}

#[test]
fn branches_and_tags_are_asked_apart() {
    for (config, git_ref, wanted) in [
        ("{}", "refs/heads/anything", None),
        ("{branches: [main]}", "refs/heads/main", None),
        ("{branches: [main]}", "refs/heads/maintenance", Some("`branches`")),
        ("{branches: ['release/*']}", "refs/heads/release/1", None),
        ("{branches: ['release/*']}", "refs/heads/release/1/fix", Some("`branches`")),
        ("{branches: ['release/**', '!release/old/*']}", "refs/heads/release/old/1", Some("`branches`")),
        ("{branches: [main]}", "refs/tags/main", Some("`tags`")),
        ("{branches: [main], tags: ['v*']}", "refs/tags/v1.2", None),
        ("{tags: ['v*']}", "refs/heads/v1", Some("`branches`")),
        ("{branches: [main]}", "refs/pull/1/merge", Some("`branches`")),
    ] {
        let mut wish = wish(Vec::new());
        wish.git_ref = git_ref.into();
        let said = in_words(rules(config).judge(&wish, time(NOON)));
        match wanted {
            None => assert_eq!(said, "open", "{config} {git_ref}"),
            Some(words) => assert!(said.starts_with("refused") && said.ends_with(words), "{config} {git_ref}: {said}"),
        }
    }
}

#[test]
fn what_passes_by_itself_says_when() {
    let weekend = "{ cron: '0 16 * * FRI', duration: 64h, reason: weekend }";
    for (config, now, wanted) in [
        (
            "{wait-timer: 10m}".to_owned(),
            NOON,
            "until 2026-11-20T12:10:00.000Z: `production` waits 10m before each deployment: until 2026-11-20 12:10:00 UTC",
        ),
        (
            "{wait-timer: 10m}".to_owned(),
            "2026-11-20T12:09:59.999Z",
            "until 2026-11-20T12:10:00.000Z: `production` waits 10m before each deployment: until 2026-11-20 12:10:00 UTC",
        ),
        ("{wait-timer: 10m}".to_owned(), "2026-11-20T12:10:00Z", "open"),
        (format!("{{freeze: [{weekend}]}}"), NOON, "open"),
        (
            format!("{{freeze: [{weekend}]}}"),
            "2026-11-20T16:00:00Z",
            "until 2026-11-23T08:00:00.000Z: `production` is frozen until 2026-11-23 08:00 UTC (weekend)",
        ),
        (format!("{{freeze: [{weekend}]}}"), "2026-11-23T08:00:00Z", "open"),
        // the later one of both
        (
            format!("{{wait-timer: 3d, freeze: [{weekend}]}}"),
            "2026-11-20T16:00:00Z",
            "until 2026-11-23T12:00:00.000Z: `production` waits 3days before each deployment: until 2026-11-23 12:00:00 UTC; `production` is frozen until 2026-11-23 08:00 UTC (weekend)",
        ),
        // a person is asked meanwhile
        (
            format!("{{required-approvals: 1, freeze: [{weekend}]}}"),
            "2026-11-20T16:00:00Z",
            "person: `production` has 0 of 1 approvals; it is frozen until 2026-11-23 08:00 UTC (weekend)",
        ),
    ] {
        assert_eq!(in_words(rules(&config).judge(&wish(Vec::new()), time(now))), wanted, "{config} at {now}");
    }
}

#[test]
fn an_administrator_passes_by_all_but_branches_and_only_where_that_is_allowed() {
    let bypass = Yes { bypass: Some("incident 42".into()), ..yes("eve") };
    let strict = "required-approvals: 2, prevent-self-review: true, reviewers: [bob, cy], wait-timer: 1h, freeze: [{ cron: '0 0 * * *', duration: 1d }]";
    let judged = |config: &str| in_words(rules(config).judge(&wish(vec![bypass.clone()]), time(NOON)));
    assert_eq!(judged(&format!("{{{strict}}}")), "open");
    assert!(judged(&format!("{{{strict}, branches: [stable]}}")).starts_with("refused"));
    let firm = format!("{{{strict}, admin-bypass: false}}");
    assert!(judged(&firm).starts_with("person: `production` has 0 of 2 approvals"));
    assert!(rules(&firm).discounts(&[], &bypass).unwrap().contains("admin-bypass"));
}

#[test]
fn who_is_not_counted_is_told_why() {
    let rules = rules("{reviewers: [bob, eve], prevent-self-review: true}");
    let own = ["eve".to_owned()];
    assert_eq!(rules.discounts(&own, &yes("bob")), None);
    assert!(rules.discounts(&own, &yes("Eve")).unwrap().contains("takes another's word for it"));
    assert!(rules.discounts(&own, &yes("ada")).unwrap().contains("none of the reviewers of `production`: bob, eve"));
}

proptest! {
    /// More people who say yes never close a gate, and whoever is left out of the reviewers never opens one.
    #[test]
    fn approvals_only_open(required in 1_u32..4, said in prop::collection::vec("[a-e]", 0..6), own in "[a-e]", strict: bool) {
        let config = EnvironmentConfig {
            required_approvals: required,
            reviewers: ["a", "b", "c", "d"].map(str::to_owned).to_vec(),
            prevent_self_review: strict,
            ..EnvironmentConfig::default()
        };
        let rules = Rules::of("production", &config).unwrap();
        let judged = |said: &[String]| {
            let said_yes = said.iter().map(|by| yes(by)).collect();
            rules.judge(&Wish { own: vec![own.clone()], ..wish(said_yes) }, time(NOON)) == Gate::Open
        };
        let mut people: Vec<&String> = said.iter().filter(|by| *by != "e" && (!strict || **by != own)).collect();
        people.sort();
        people.dedup();
        prop_assert_eq!(judged(&said), people.len() >= required as usize);
        for shorter in 0..said.len() {
            prop_assert!(!judged(&said[..shorter]) || judged(&said));
        }
    }
}
