use std::time::Duration;

use segue_schemas::{config::LambdaConfig, duration::Span, machine::MachineRequest};

use super::*;

mod lives;
mod looks;

const REPOSITORY: &str = "acme/shop";

fn asked(inputs: &[(&str, &str)]) -> Result<MachineRequest, String> {
    request(|key| inputs.iter().find(|(name, _)| *name == key).map(|(_, value)| *value))
}

fn allowed() -> LambdaConfig {
    LambdaConfig {
        repositories: vec![REPOSITORY.into()],
        types: ["gpu_1x_a10", "gpu_1x_a100", "gpu_8x_h100_sxm5"].map(str::to_owned).into(),
        ssh_keys: vec!["ci".into(), "release".into()],
        max_price: Some(Price(150)),
        max_lifetime: Span::seconds(12 * 3600),
        ..LambdaConfig::default()
    }
}

fn offer(name: &str, cents: u32, regions: &[&str]) -> Offer {
    Offer { name: name.into(), price: Price(cents), regions: regions.iter().map(|name| (*name).to_owned()).collect() }
}

#[test]
fn what_a_step_asks_for_has_its_order_and_its_defaults() {
    let request = asked(&[("type", "gpu_1x_a10, gpu_1x_a100\n"), ("region", "any"), ("max-price", "0.80")]).unwrap();
    assert_eq!(request.types, ["gpu_1x_a10", "gpu_1x_a100"]);
    assert_eq!((request.regions.len(), request.max_price), (0, Some(Price(80))));
    assert_eq!(request.wait_for_capacity, Span::default());
    assert_eq!((request.idle_shutdown, request.lifetime), (Span::seconds(1200), Span::seconds(14_400)));
    for (inputs, said) in [
        (&[("region", "us-west-1")][..], "needs `with: type`"),
        (&[("type", "gpu 1x")], "is no name"),
        (&[("type", "a"), ("max-price", "cheap")], "is no price"),
        (&[("type", "a"), ("lifetime", "4")], "input `lifetime`"),
        (&[("type", "a"), ("lifetime", "0s")], "cannot be 0"),
        (&[("type", "a"), ("wait-for-capacity", "2days")], "at most `24h`"),
    ] {
        let error = asked(inputs).unwrap_err();
        assert!(error.contains(said), "{inputs:?}: {error}");
    }
}

#[test]
fn who_may_rent_is_said_by_the_operator() {
    let plain = asked(&[("type", "gpu_1x_a10")]).unwrap();
    assert_eq!(may_rent(&plain, &allowed(), REPOSITORY, true).unwrap(), "ci");
    let keyed = asked(&[("type", "gpu_1x_a10"), ("ssh-key", "release")]).unwrap();
    assert_eq!(may_rent(&keyed, &allowed(), REPOSITORY, true).unwrap(), "release");
    let refused = |inputs: &[(&str, &str)], allowed: &LambdaConfig, repository: &str, is_trusted: bool| {
        may_rent(&asked(inputs).unwrap(), allowed, repository, is_trusted).unwrap_err()
    };
    let a10 = [("type", "gpu_1x_a10")];
    assert!(refused(&a10, &allowed(), REPOSITORY, false).contains("of a fork"));
    assert!(refused(&a10, &allowed(), "acme/other", true).contains("`acme/other` may rent no machines"));
    assert!(refused(&a10, &LambdaConfig::default(), REPOSITORY, true).contains("rents no machines"));
    assert!(refused(&[("type", "gpu_1x_a1000")], &allowed(), REPOSITORY, true).contains("did you mean `gpu_1x_a100`?"));
    assert!(refused(&[("type", "gpu_1x_a10"), ("lifetime", "13h")], &allowed(), REPOSITORY, true).contains("12h"));
    assert!(refused(&[("type", "gpu_1x_a10"), ("ssh-key", "mine")], &allowed(), REPOSITORY, true).contains("`mine`"));
}

#[test]
fn the_first_type_that_is_there_and_not_too_dear_is_launched() {
    let offers = [
        offer("gpu_1x_a10", 75, &["us-west-1", "europe-central-1"]),
        offer("gpu_1x_a100", 129, &["us-east-1"]),
        offer("gpu_8x_h100_sxm5", 2392, &["us-east-1"]),
    ];
    let chosen = |inputs: &[(&str, &str)], passed: &[(&str, &str)]| {
        let passed: Vec<_> = passed.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        match choose(&asked(inputs).unwrap(), &allowed(), &offers, &passed) {
            Choice::Launch { instance_type, region, price } => format!("{instance_type} {region} {price}"),
            Choice::NoCapacity(why) | Choice::Refused(why) => why,
        }
    };
    let both = ("type", "gpu_1x_a100, gpu_1x_a10");
    assert_eq!(chosen(&[both], &[]), "gpu_1x_a100 us-east-1 1.29");
    assert_eq!(chosen(&[both], &[("gpu_1x_a100", "us-east-1")]), "gpu_1x_a10 us-west-1 0.75");
    assert_eq!(chosen(&[both, ("max-price", "1")], &[]), "gpu_1x_a10 us-west-1 0.75");
    assert_eq!(chosen(&[both, ("region", "europe-central-1,us-east-1")], &[]), "gpu_1x_a100 us-east-1 1.29");
    assert_eq!(
        chosen(&[("type", "gpu_1x_a10"), ("region", "europe-central-1, us-west-1")], &[]),
        "gpu_1x_a10 europe-central-1 0.75"
    );
    assert_eq!(
        chosen(&[("type", "gpu_1x_a10"), ("region", "us-south-1")], &[]),
        "there is no capacity for gpu_1x_a10 in us-south-1"
    );
    assert_eq!(
        chosen(&[("type", "gpu_8x_h100_sxm5")], &[]),
        "`gpu_8x_h100_sxm5` costs 23.92 USD an hour, and 1.50 USD may be paid: `lambda.max-price` in segue.yaml"
    );
    assert_eq!(
        chosen(&[("type", "gpu_1x_a10"), ("max-price", "0.5")], &[]),
        "`gpu_1x_a10` costs 0.75 USD an hour, and 0.50 USD may be paid: `max-price`"
    );
    assert!(chosen(&[("type", "gpu_1x_a11")], &[]).contains("did you mean `gpu_1x_a10`?"));
    let no_cap = LambdaConfig { max_price: None, ..allowed() };
    let free = asked(&[("type", "gpu_1x_a10"), ("max-price", "9")]).unwrap();
    assert!(matches!(choose(&free, &no_cap, &offers, &[]), Choice::Refused(_)), "nobody's word is the operator's");
}

#[test]
fn what_one_has_cost_is_told_by_begun_minutes() {
    let at = |minutes: i64| Timestamp(minutes * 60_000);
    let mut machine = Machine {
        name: "segue-1".into(),
        state: MachineState::Ready,
        repository: REPOSITORY.into(),
        run: segue_schemas::id::RunId(1),
        job: "00000000-0000-0000-0000-000000000000".parse().unwrap(),
        instance: Some("i".into()),
        instance_type: None,
        region: None,
        ip: None,
        price_per_hour: Some(Price(129)),
        cost: Price(0),
        reason: None,
        asked_at: at(0),
        launched_at: Some(at(10)),
        ready_at: None,
        expires_at: None,
        ended_at: Some(at(70)),
    };
    assert_eq!(cost(&machine, at(70)), Price(129));
    assert_eq!(cost(&machine, at(70) + Duration::from_millis(1)), Price(132), "61 minutes");
    machine.state = MachineState::Ended;
    assert_eq!(cost(&machine, at(1000)), Price(129));
    machine.instance = None;
    assert_eq!(cost(&machine, at(1000)), Price(0));
    machine.state = MachineState::Launching;
    assert_eq!(cost(&machine, at(11)), Price(3), "it may be there");
}
