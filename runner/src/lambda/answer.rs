//! Lambda's answers, <https://docs.lambda.ai/api/cloud>: `{"data": ...}`, or `{"error": {"code", "message", "suggestion"}}`. What is not
//! needed is not read, and what is new is passed over.

use std::collections::BTreeMap;

use segue_pipelines::machines::{Offer, Seen, SeenStatus};
use segue_schemas::price::Price;
use serde::Deserialize;

#[derive(Deserialize)]
pub(super) struct Data<T> {
    pub(super) data: T,
}

#[derive(Deserialize)]
pub(super) struct Failed {
    pub(super) error: Failure,
}

#[derive(Deserialize)]
pub(super) struct Failure {
    pub(super) code: String,
    pub(super) message: String,
    #[serde(default)]
    pub(super) suggestion: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Launched {
    pub(super) instance_ids: Vec<String>,
}

#[derive(Deserialize)]
pub(super) struct SshKey {
    pub(super) name: String,
}

/// `GET /instance-types`: by name.
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct Types(BTreeMap<String, OfType>);

#[derive(Deserialize)]
struct OfType {
    instance_type: InstanceType,
    #[serde(default)]
    regions_with_capacity_available: Vec<Region>,
}

#[derive(Deserialize)]
struct InstanceType {
    name: String,
    price_cents_per_hour: u32,
}

#[derive(Deserialize)]
struct Region {
    name: String,
}

/// One of `GET /instances`.
#[derive(Deserialize)]
pub(super) struct Instance {
    id: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    ip: Option<String>,
    status: String,
}

impl Types {
    pub(super) fn offers(self) -> Vec<Offer> {
        let offer = |one: OfType| Offer {
            name: one.instance_type.name,
            price: Price(one.instance_type.price_cents_per_hour),
            regions: one.regions_with_capacity_available.into_iter().map(|region| region.name).collect(),
        };
        self.0.into_values().map(offer).collect()
    }
}

impl Instance {
    pub(super) fn seen(self) -> Seen {
        let status = match self.status.as_str() {
            "booting" => SeenStatus::Booting,
            "active" => SeenStatus::Active,
            "unhealthy" => SeenStatus::Unhealthy,
            "terminating" => SeenStatus::Terminating,
            "terminated" | "preempted" => SeenStatus::Gone,
            _ => SeenStatus::Unknown,
        };
        let ip = self.ip.filter(|ip| ip.parse::<std::net::IpAddr>().is_ok());
        Seen { id: self.id, name: self.name.unwrap_or_default(), status, ip }
    }
}
