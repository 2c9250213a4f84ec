//! What a step asks for, and whether it may.

use std::time::Duration;

use segue_schemas::{config::LambdaConfig, duration::Span, id::is_name, machine::MachineRequest, price::Price};

use crate::nearest::did_you_mean;

/// The action that rents a machine.
pub const ACTION: &str = "segue/provision-gpu";
/// The action that gives one back.
pub const RELEASE: &str = "segue/terminate-gpu";

const ANY: &str = "any";
const DEFAULT_IDLE: Span = Span::seconds(20 * 60);
const DEFAULT_LIFETIME: Span = Span::seconds(4 * 3600);
/// The longest wait for capacity.
const LONGEST_WAIT: Duration = Duration::from_secs(86_400);
/// Types, or regions, that are looked through.
const MOST: usize = 20;

/// The items of a list, parted by commas or lines.
pub fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', '\n']).map(str::trim).filter(|item| !item.is_empty())
}

/// The request that a step's evaluated inputs mean; `input` gives those that are not empty.
///
/// # Errors
/// What is wrong with which input.
pub fn request<'a>(input: impl Fn(&str) -> Option<&'a str>) -> Result<MachineRequest, String> {
    let names = |key: &str| input(key).into_iter().flat_map(list).map(str::to_owned).collect::<Vec<String>>();
    let span = |key: &str, default: Span| {
        input(key).map_or(Ok(default), |text| text.parse::<Span>().map_err(|error| format!("input `{key}`: {error}")))
    };
    let price = |text: &str| text.parse::<Price>().map_err(|error| format!("input `max-price`: {error}"));
    let types = names("type");
    let mut regions = names("region");
    if regions.iter().any(|region| region == ANY) {
        regions.clear();
    }
    let request = MachineRequest {
        types,
        regions,
        max_price: input("max-price").map(price).transpose()?,
        wait_for_capacity: span("wait-for-capacity", Span::default())?,
        idle_shutdown: span("idle-shutdown", DEFAULT_IDLE)?,
        lifetime: span("lifetime", DEFAULT_LIFETIME)?,
        ssh_key: input("ssh-key").map(str::to_owned),
    };
    bounded(&request)?;
    Ok(request)
}

/// Refuses what no request may ask for, whoever makes it.
fn bounded(request: &MachineRequest) -> Result<(), String> {
    for (key, names) in [("type", &request.types), ("region", &request.regions)] {
        if let Some(name) = names.iter().find(|name| !is_name(name)) {
            return Err(format!("input `{key}`: `{name}` is no name; write one, or several parted by commas"));
        }
        if names.len() > MOST {
            return Err(format!("input `{key}` has {} names, and {MOST} are looked through", names.len()));
        }
    }
    if request.types.is_empty() {
        return Err(format!("`{ACTION}` needs `with: type`: what to rent, such as `gpu_1x_a10`"));
    }
    if request.wait_for_capacity.0 > LONGEST_WAIT {
        return Err("input `wait-for-capacity`: at most `24h` are waited".into());
    }
    for (key, span) in [("idle-shutdown", request.idle_shutdown), ("lifetime", request.lifetime)] {
        if span.0.is_zero() {
            return Err(format!("input `{key}` cannot be 0"));
        }
    }
    Ok(())
}

/// Whether a run may rent what it asks for, as far as that can be said without the cloud; gives the key that may log in.
///
/// # Errors
/// Why not, and who could let it.
pub fn may_rent(
    request: &MachineRequest,
    allowed: &LambdaConfig,
    repository: &str,
    is_trusted: bool,
) -> Result<String, String> {
    bounded(request)?;
    if !is_trusted {
        return Err("the code is of a fork: it rents nothing".into());
    }
    if !allowed.is_open() {
        return Err(
            "this server rents no machines: its operator names who may under `lambda.repositories` in segue.yaml"
                .into(),
        );
    }
    if !allowed.repositories.iter().any(|name| name == repository) {
        return Err(format!(
            "`{repository}` may rent no machines: the server's operator can name it under `lambda.repositories` in segue.yaml"
        ));
    }
    let listed = |name: &String| allowed.types.is_empty() || allowed.types.contains(name);
    if let Some(name) = request.types.iter().find(|name| !listed(name)) {
        let hint = did_you_mean(name, allowed.types.iter().map(String::as_str))
            .unwrap_or_else(|| format!("`lambda.types` in segue.yaml has {}", allowed.types.join(", ")));
        return Err(format!("`{name}` may not be rented here: {hint}"));
    }
    if request.lifetime > allowed.max_lifetime {
        let (asked, most) = (request.lifetime, allowed.max_lifetime);
        return Err(format!("`lifetime` is {asked}, and the server's operator allows {most} (`lambda.max-lifetime`)"));
    }
    let key = request.ssh_key.as_ref().or(allowed.ssh_keys.first());
    match key {
        Some(key) if allowed.ssh_keys.contains(key) => Ok(key.clone()),
        Some(key) => Err(format!(
            "the key `{key}` may not log in: `lambda.ssh-keys` in segue.yaml has {}",
            allowed.ssh_keys.join(", ")
        )),
        None => Err("no key may log in: the server's operator names one under `lambda.ssh-keys` in segue.yaml".into()),
    }
}
