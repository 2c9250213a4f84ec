//! Which type is launched in which region.

use segue_schemas::{config::LambdaConfig, machine::MachineRequest, price::Price};

use crate::nearest::{did_you_mean, listed};

/// A type, as the cloud offers it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// `gpu_1x_a10`.
    pub name: String,
    /// What an hour costs.
    pub price: Price,
    /// Where it can be had now.
    pub regions: Vec<String>,
}

/// What follows from the offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// This is launched.
    Launch {
        /// The type.
        instance_type: String,
        /// The region.
        region: String,
        /// What an hour costs.
        price: Price,
    },
    /// Nothing of what may be launched is there now; with the words for people.
    NoCapacity(String),
    /// Nothing of what is asked for may ever be launched, and why.
    Refused(String),
}

/// Chooses: the types in the order in which they are asked for, each in the first region that has it. A type that costs more than may be
/// paid is never chosen, and neither is a pair of type and region that was passed over just now.
#[must_use]
pub fn choose(
    request: &MachineRequest,
    allowed: &LambdaConfig,
    offers: &[Offer],
    passed_over: &[(String, String)],
) -> Choice {
    let most = [request.max_price, allowed.max_price].into_iter().flatten().min();
    let Some(most) = most.filter(|_| allowed.max_price.is_some()) else {
        return Choice::Refused("nothing says what a machine may cost: `lambda.max-price` in segue.yaml".into());
    };
    let known: Vec<&Offer> =
        request.types.iter().filter_map(|name| offers.iter().find(|offer| offer.name == *name)).collect();
    if known.is_empty() {
        return Choice::Refused(unknown(request, offers));
    }
    let affordable: Vec<&Offer> = known.iter().copied().filter(|offer| offer.price <= most).collect();
    if affordable.is_empty() {
        let prices: Vec<String> =
            known.iter().map(|offer| format!("`{}` costs {} USD an hour", offer.name, offer.price)).collect();
        let whose = if request.max_price == Some(most) { "`max-price`" } else { "`lambda.max-price` in segue.yaml" };
        return Choice::Refused(format!("{}, and {most} USD may be paid: {whose}", prices.join(", ")));
    }
    for offer in &affordable {
        if let Some(region) = region(request, offer, passed_over) {
            return Choice::Launch { instance_type: offer.name.clone(), region, price: offer.price };
        }
    }
    let names: Vec<&str> = affordable.iter().map(|offer| offer.name.as_str()).collect();
    let place = if request.regions.is_empty() { "any region".to_owned() } else { request.regions.join(", ") };
    Choice::NoCapacity(format!("there is no capacity for {} in {place}", names.join(", ")))
}

fn region(request: &MachineRequest, offer: &Offer, passed_over: &[(String, String)]) -> Option<String> {
    let is_free = |region: &&String| {
        offer.regions.contains(region)
            && !passed_over.iter().any(|(name, place)| *name == offer.name && place == *region)
    };
    let in_order = if request.regions.is_empty() { &offer.regions } else { &request.regions };
    in_order.iter().find(is_free).cloned()
}

fn unknown(request: &MachineRequest, offers: &[Offer]) -> String {
    let names = request.types.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let hint = request
        .types
        .first()
        .and_then(|name| did_you_mean(name, offers.iter().map(|offer| offer.name.as_str())))
        .unwrap_or_else(|| format!("it has {}", listed(offers.iter().map(|offer| offer.name.as_str()))));
    format!("Lambda has no type {names}: {hint}")
}
