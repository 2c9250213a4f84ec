//! The proxy's control socket: the host sets routes and reads what was observed. HTTP/1.1 with JSON bodies.
//!
//! | request | body -> answer |
//! | --- | --- |
//! | `GET /v1/state` | -> [`ProxyState`] |
//! | `PUT /v1/routes` | [`RouteTable`] -> `{}`, once every request that is accepted from now on goes by it |
//! | `GET /v1/observations/{environment}/{service}?after=&wait_ms=&limit=` | -> [`segue_schemas::host_api::ObservationBatch`] |
//! | `GET /v1/held?after=&wait_ms=` | -> [`HeldRoutes`](super::hold::HeldRoutes), once more than `after` requests have begun to wait for what sleeps, or the time is over |
//! | `GET /v1/in-flight/{instance}?wait_ms=` | -> `{"in_flight": n}`, when there are none or the time is over |

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, StatusCode};
use indexmap::IndexMap;
use segue_schemas::strategy::CARRIED;
use serde::{Deserialize, Serialize};

use super::{
    table::{RouteTable, Routing},
    traffic::SharedRouting,
};
use crate::host::unix_http::Call;

/// Observations that one answer holds at most.
const MAX_BATCH: usize = 8192;

/// How long one request may wait.
const MAX_WAIT: Duration = Duration::from_secs(24 * 3600);

/// What a proxy process says about itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProxyState {
    /// Its process.
    pub pid: u32,
    /// Its version; a host of another version replaces it.
    pub version: String,
    /// What of the table not every build can; one that can less than its host is replaced as well.
    #[serde(default)]
    pub carries: Vec<String>,
    /// The addresses that it listens on.
    pub listen: Vec<String>,
    /// Requests in flight by instance.
    pub in_flight: IndexMap<String, u64>,
    /// The newest observation of each route, as (environment, service, sequence).
    pub newest: Vec<(String, String, u64)>,
    /// How long ago that was, in milliseconds, of each route that has one.
    #[serde(default)]
    pub idle_ms: Vec<(String, String, u64)>,
}

/// The answer of `GET /v1/in-flight/{instance}`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct InFlightCount {
    /// How many there are.
    pub in_flight: u64,
}

/// The control side.
#[derive(Debug)]
pub struct Control {
    /// The routes.
    pub routing: Arc<SharedRouting>,
    /// The number of this proxy process among those of its host.
    pub generation: u64,
    /// The addresses that it listens on.
    pub listen: Vec<String>,
}

impl Control {
    /// Answers one call.
    pub async fn answer(&self, call: Call) -> (StatusCode, Bytes) {
        let path: Vec<&str> = call.path.iter().map(String::as_str).collect();
        let wait = Duration::from_millis(call.number("wait_ms").unwrap_or(0)).min(MAX_WAIT);
        match (&call.method, path.as_slice()) {
            (&Method::GET, ["v1", "state"]) => json(&self.state()),
            (&Method::PUT, ["v1", "routes"]) => match serde_json::from_slice::<RouteTable>(&call.body) {
                Ok(table) => {
                    self.routing.replace(|before| Routing::new(&table, before, self.generation));
                    json(&serde_json::json!({}))
                }
                Err(error) => failure(StatusCode::BAD_REQUEST, &format!("the route table can't be read: {error}")),
            },
            (&Method::GET, ["v1", "observations", environment, service]) => {
                let Some(route) = self.routing.current().route(environment, service).cloned() else {
                    return failure(StatusCode::NOT_FOUND, &format!("no route for {service} in {environment}"));
                };
                let limit = call.number("limit").and_then(|n| usize::try_from(n).ok()).unwrap_or(MAX_BATCH);
                let after = call.number("after").unwrap_or(0);
                json(&route.log.read(after, limit.clamp(1, MAX_BATCH), wait).await)
            }
            (&Method::GET, ["v1", "held"]) => {
                let after = call.number("after").unwrap_or(u64::MAX);
                json(&self.routing.waiting.held(after, wait).await)
            }
            (&Method::GET, ["v1", "in-flight", instance]) => {
                let count = self.routing.current().in_flight(instance);
                let in_flight = match count {
                    Some(count) => count.wait_for_none(wait).await,
                    None => 0,
                };
                json(&InFlightCount { in_flight })
            }
            _ => failure(StatusCode::NOT_FOUND, &format!("{} /{} is not known", call.method, path.join("/"))),
        }
    }

    fn state(&self) -> ProxyState {
        let routing = self.routing.current();
        let newest = |r: &Arc<super::table::Route>| (r.environment.clone(), r.service.clone(), r.log.newest());
        let idle = |r: &Arc<super::table::Route>| {
            let unused = r.log.newest_at()?.elapsed();
            let ms = u64::try_from(unused.as_millis()).unwrap_or(u64::MAX);
            Some((r.environment.clone(), r.service.clone(), ms))
        };
        ProxyState {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            carries: CARRIED.map(Into::into).into(),
            listen: self.listen.clone(),
            in_flight: routing.all_in_flight().map(|(id, count)| (id.to_string(), count)).collect(),
            newest: routing.routes.iter().map(newest).collect(),
            idle_ms: routing.routes.iter().filter_map(idle).collect(),
        }
    }
}

fn json<T: Serialize>(value: &T) -> (StatusCode, Bytes) {
    match serde_json::to_vec(value) {
        Ok(body) => (StatusCode::OK, body.into()),
        Err(error) => failure(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

fn failure(status: StatusCode, message: &str) -> (StatusCode, Bytes) {
    (status, serde_json::json!({ "message": message }).to_string().into())
}
