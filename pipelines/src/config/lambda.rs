//! What can be wrong with the section `lambda`, apart from what only Lambda itself can tell.

use std::time::Duration;

use segue_schemas::{config::LambdaConfig, id::is_name};

use super::is_loopback_endpoint;

/// The longest that a machine may live.
const LONGEST: Duration = Duration::from_secs(30 * 86_400);

/// A key of `lambda` with a value that can't be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LambdaFault {
    /// The key.
    pub key: &'static str,
    /// What is wrong with it.
    pub message: String,
    /// What to write.
    pub help: String,
}

/// Everything that is wrong with the section; in no other order than that of its keys.
#[must_use]
pub fn lambda_faults(lambda: &LambdaConfig) -> Vec<LambdaFault> {
    let mut faults: Vec<LambdaFault> = of_address(&lambda.url).into_iter().collect();
    let is_repository =
        |name: &&String| name.split_once('/').is_some_and(|(owner, name)| is_name(owner) && is_name(name));
    if let Some(wrong) = lambda.repositories.iter().find(|name| !is_repository(name)) {
        faults.push(fault("repositories", format!("`{wrong}` is no repository"), "write `owner/name`, one for each"));
    }
    if let Some(wrong) = lambda.types.iter().find(|name| !is_name(name)) {
        faults.push(fault("types", format!("`{wrong}` is no type of machine"), "write one such as `gpu_1x_a10`"));
    }
    if lambda.is_open() && lambda.max_price.is_none() {
        faults.push(fault(
            "repositories",
            "jobs may rent machines, and nothing says what those may cost".into(),
            "write `max-price`: what an hour of one may cost, in US dollars",
        ));
    }
    if lambda.is_open() && lambda.ssh_keys.is_empty() {
        faults.push(fault(
            "repositories",
            "jobs may rent machines, and nobody may log in to those".into(),
            "name a key that is known at Lambda under `ssh-keys`",
        ));
    }
    if lambda.max_price.is_some_and(|price| price.0 == 0) {
        faults.push(fault("max-price", "nothing costs so little".into(), "write US dollars for an hour: `1.50`"));
    }
    if lambda.max_machines == 0 {
        faults.push(fault(
            "max-machines",
            "`max-machines` cannot be 0".into(),
            "leave `repositories` out, and none is rented",
        ));
    }
    if lambda.max_lifetime.0.is_zero() || lambda.max_lifetime.0 > LONGEST {
        faults.push(fault(
            "max-lifetime",
            format!("`max-lifetime` is {}, and more than 0s up to 30days are allowed", lambda.max_lifetime),
            "write a duration such as `24h`",
        ));
    }
    for (key, span) in [
        ("look-every", lambda.look_every),
        ("request-every", lambda.request_every),
        ("launch-every", lambda.launch_every),
        ("settle", lambda.settle),
    ] {
        if span.0.is_zero() {
            faults.push(fault(key, format!("`{key}` cannot be 0"), "write a duration such as `10s`, or leave it out"));
        }
    }
    faults
}

fn of_address(url: &str) -> Option<LambdaFault> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._~/:[]".contains(c);
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let host = rest.split('/').next().unwrap_or_default();
    if !matches!(scheme, "http" | "https") || host.is_empty() || !rest.chars().all(is_plain) {
        return Some(fault(
            "url",
            format!("`{url}` is no address of an API"),
            "leave it out: it is `https://cloud.lambda.ai/api/v1`",
        ));
    }
    (scheme == "http" && !is_loopback_endpoint(&format!("http://{host}")))
        .then(|| fault("url", format!("`{url}` is not encrypted, and not on this machine"), "write `https://`"))
}

fn fault(key: &'static str, message: String, help: &str) -> LambdaFault {
    LambdaFault { key, message, help: help.into() }
}

#[cfg(test)]
mod tests {
    use segue_schemas::{duration::Span, price::Price};

    use super::*;

    /// A key, and a change that makes it wrong.
    type Case = (&'static str, fn(&mut LambdaConfig));

    fn open() -> LambdaConfig {
        LambdaConfig {
            repositories: vec!["acme/shop".into()],
            ssh_keys: vec!["ci".into()],
            max_price: Some(Price(150)),
            ..LambdaConfig::default()
        }
    }

    #[test]
    fn it_is_closed_until_somebody_says_who_and_for_how_much() {
        assert!(!LambdaConfig::default().is_open());
        assert_eq!(lambda_faults(&LambdaConfig::default()), []);
        assert_eq!(lambda_faults(&open()), []);
        let cases: [Case; 9] = [
            ("repositories", |lambda| lambda.max_price = None),
            ("repositories", |lambda| lambda.ssh_keys.clear()),
            ("repositories", |lambda| lambda.repositories.push("everybody".into())),
            ("types", |lambda| lambda.types.push("a 10".into())),
            ("max-price", |lambda| lambda.max_price = Some(Price(0))),
            ("max-machines", |lambda| lambda.max_machines = 0),
            ("max-lifetime", |lambda| lambda.max_lifetime = Span::seconds(31 * 86_400)),
            ("settle", |lambda| lambda.settle = Span::seconds(0)),
            ("url", |lambda| lambda.url = "http://cloud.lambda.ai/api/v1".into()),
        ];
        for (key, change) in cases {
            let mut lambda = open();
            change(&mut lambda);
            let keys: Vec<&str> = lambda_faults(&lambda).iter().map(|fault| fault.key).collect();
            assert_eq!(keys, [key]);
        }
        let here = LambdaConfig { url: "http://127.0.0.1:4000/api/v1".into(), ..open() };
        assert_eq!(lambda_faults(&here), []);
    }
}
