//! Machines with GPUs that runs rent from a cloud: what may be asked for, which one is launched, when one has to go, and what follows
//! from what the cloud shows.
//!
//! Comes in: what a step asks for, the operator's limits, the cloud's offers and its list of instances, times. Goes out: values that
//! say what to do. Never here: asking the cloud, or writing anything down; the server does both, this one first.

mod ask;
mod choose;
mod fate;
mod look;

use std::time::Duration;

use segue_schemas::{
    machine::{Machine, MachineState},
    price::Price,
    time::Timestamp,
};

pub use ask::{ACTION, RELEASE, list, may_rent, request};
pub use choose::{Choice, Offer, choose};
pub use fate::{BOOT_LIMIT, Holder, Standing, UNHEARD_LIMIT, fate, idle_since, next_fate};
pub use look::{Launched, Look, Place, Seen, SeenStatus, instance_name, look, of_machine};

/// How long one is remembered that has ended, so that a launch which shows up late is found: it is looked for that long.
pub const REMEMBERED: Duration = Duration::from_secs(3600);

/// What a machine has cost at most: from its launch on, each minute that has begun. Lambda counts minutes
/// (<https://docs.lambda.ai/public-cloud/billing/>), from a moment that it does not tell.
#[must_use]
pub fn cost(machine: &Machine, now: Timestamp) -> Price {
    let (Some(price), Some(launched)) = (machine.price_per_hour, machine.launched_at) else { return Price(0) };
    // one that was never there: its launch was refused, or never took place
    if machine.instance.is_none() && !machine.state.may_cost() {
        return Price(0);
    }
    let until = if machine.state == MachineState::Ended { machine.ended_at.unwrap_or(now) } else { now };
    let minutes = until.since(launched).as_millis().div_ceil(60_000);
    Price(u32::try_from((u128::from(price.0) * minutes).div_ceil(60)).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests;
