//! Requests and their answers, in the forms of the published API.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Bytes,
    extract::State as Extract,
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, Method, StatusCode, Uri};
use serde_json::{Value, json};

use super::{Fault, Instance, KEY, Request, SSH_KEY, State};

/// Bytes of a name of an instance.
const MAX_NAME: usize = 64;

type Shared = Arc<Mutex<State>>;

/// What is answered; `None`: nothing, ever.
type Answer = Option<(StatusCode, Value)>;

pub(super) fn router(state: Shared) -> Router {
    Router::new().fallback(answer).with_state(state)
}

async fn answer(
    Extract(state): Extract<Shared>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let (at, path) = (Instant::now(), uri.path().strip_prefix("/api/v1").unwrap_or("?").to_owned());
    let answered = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let answered = state.answer(&method, &path, &headers, &body);
        let status = answered.as_ref().map_or(0, |(status, _)| status.as_u16());
        state.requests.push(Request { at, method: method.to_string(), path, status });
        answered
    };
    match answered {
        Some((StatusCode::BAD_GATEWAY, _)) => (StatusCode::BAD_GATEWAY, "<html>502 Bad Gateway</html>").into_response(),
        Some((status, body)) => (status, axum::Json(body)).into_response(),
        None => std::future::pending().await,
    }
}

fn data(data: &Value) -> Answer {
    Some((StatusCode::OK, json!({ "data": data })))
}

fn error(status: StatusCode, code: &str, message: &str) -> Answer {
    Some((status, json!({"error": {"code": code, "message": message, "suggestion": null}})))
}

fn invalid(message: &str) -> Answer {
    error(StatusCode::BAD_REQUEST, "global/invalid-parameters", message)
}

fn unknown(what: &str) -> Answer {
    error(StatusCode::NOT_FOUND, "global/object-does-not-exist", &format!("Specified {what} does not exist."))
}

impl State {
    fn answer(&mut self, method: &Method, path: &str, headers: &HeaderMap, body: &[u8]) -> Answer {
        if self.is_down {
            return error(StatusCode::SERVICE_UNAVAILABLE, "global/unknown", "Down for maintenance.");
        }
        if headers.get("authorization").and_then(|value| value.to_str().ok()) != Some(&format!("Bearer {KEY}")) {
            return error(
                StatusCode::UNAUTHORIZED,
                "global/invalid-api-key",
                "API key was invalid, expired, or deleted.",
            );
        }
        let is_launch = path == "/instance-operations/launch";
        let too_soon = |last: Option<Instant>, every: Duration| last.is_some_and(|last| last.elapsed() < every);
        if too_soon(self.last_request, self.request_every) || is_launch && too_soon(self.last_launch, self.launch_every)
        {
            return error(StatusCode::TOO_MANY_REQUESTS, "global/rate-limited", "Too many requests.");
        }
        self.last_request = Some(Instant::now());
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        match (method, path) {
            (&Method::GET, "/instance-types") => data(&self.types()),
            (&Method::GET, "/ssh-keys") => {
                data(&json!([{"id": "k1", "name": SSH_KEY, "public_key": "ssh-ed25519 AAAA"}]))
            }
            (&Method::GET, "/instances") => {
                let shown = self.instances.iter().filter(|one| self.is_shown(one) && !self.hides);
                data(&shown.map(|one| self.instance(one)).collect())
            }
            (&Method::GET, path) if path.starts_with("/instances/") => {
                let found = self.instances.iter().find(|one| path.ends_with(&format!("/{}", one.id)));
                match found.filter(|one| self.is_shown(one)) {
                    Some(one) => data(&self.instance(one)),
                    None => unknown("instance"),
                }
            }
            (&Method::POST, "/instance-operations/launch") => {
                self.last_launch = Some(Instant::now());
                self.launches(&body)
            }
            (&Method::POST, "/instance-operations/terminate") => self.terminates(&body),
            _ => error(StatusCode::NOT_FOUND, "global/not-found", "Not found."),
        }
    }

    fn types(&self) -> Value {
        let one = |(name, of_type): (&String, &super::OfType)| {
            let regions = of_type.capacity.keys().filter(|region| self.free(name, region) > 0);
            let regions: Vec<Value> = regions.map(|name| json!({"name": name, "description": "Somewhere"})).collect();
            let shown = json!({
                "instance_type": {
                    "name": name, "description": name, "gpu_description": "A GPU", "price_cents_per_hour": of_type.cents,
                    "specs": {"vcpus": 30, "memory_gib": 200, "storage_gib": 1400, "gpus": 1},
                },
                "regions_with_capacity_available": regions,
            });
            (name.clone(), shown)
        };
        self.types.iter().map(one).collect::<serde_json::Map<_, _>>().into()
    }

    fn instance(&self, one: &Instance) -> Value {
        let status = self.status(one);
        let mut shown = json!({
            "id": one.id, "name": one.name, "status": status, "ssh_key_names": [one.ssh_key], "file_system_names": [],
            "region": {"name": one.region, "description": "Somewhere"},
            "instance_type": {"name": one.instance_type, "description": one.instance_type, "price_cents_per_hour": 0},
            "hostname": "host", "is_reserved": false,
        });
        if status == "active" {
            shown["ip"] = json!("198.51.100.2");
        }
        shown
    }

    fn launches(&mut self, body: &Value) -> Answer {
        let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
        let (name, instance_type, region) = (text("name"), text("instance_type_name"), text("region_name"));
        let [Value::String(ssh_key)] = body["ssh_key_names"].as_array().map_or(&[][..], Vec::as_slice) else {
            return invalid("Exactly one SSH key must be specified.");
        };
        let known = ["name", "instance_type_name", "region_name", "ssh_key_names", "user_data", "tags"];
        if let Some(key) =
            body.as_object().into_iter().flatten().map(|(key, _)| key).find(|key| !known.contains(&&***key))
        {
            return invalid(&format!("{key}: extra fields not permitted"));
        }
        if name.len() > MAX_NAME {
            return invalid("name: ensure this value has at most 64 characters");
        }
        let Some(of_type) = self.types.get(&instance_type) else { return unknown("instance type") };
        if !of_type.capacity.contains_key(&region) {
            return unknown("region");
        }
        if ssh_key != SSH_KEY {
            return unknown("SSH key");
        }
        let fault = if self.faults.is_empty() { None } else { Some(self.faults.remove(0)) };
        match fault {
            Some(Fault::BadGateway) => return Some((StatusCode::BAD_GATEWAY, Value::Null)),
            Some(Fault::Quota) => {
                return error(StatusCode::BAD_REQUEST, "global/quota-exceeded", "Quota exceeded.");
            }
            Some(Fault::InvalidAddress) => {
                return error(StatusCode::BAD_REQUEST, "global/invalid-address", "Billing address is invalid.");
            }
            _ => {}
        }
        if fault == Some(Fault::NoCapacityAfterAll) || self.free(&instance_type, &region) == 0 {
            let code = "instance-operations/launch/insufficient-capacity";
            return error(StatusCode::BAD_REQUEST, code, "Not enough capacity to fulfill launch request.");
        }
        let id = self.launch(&name, &instance_type, &region, ssh_key);
        match fault {
            Some(Fault::MadeAndSilent) => None,
            Some(Fault::MadeAndBadGateway) => Some((StatusCode::BAD_GATEWAY, Value::Null)),
            _ => data(&json!({ "instance_ids": [id] })),
        }
    }

    fn terminates(&mut self, body: &Value) -> Answer {
        let ids: Vec<String> = body["instance_ids"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|id| id.as_str().map(str::to_owned))
            .collect();
        if ids.is_empty() {
            return invalid("instance_ids: at least one is needed");
        }
        // all of them or none
        if ids.iter().any(|id| !self.instances.iter().any(|one| one.id == *id && self.is_shown(one))) {
            return unknown("instance");
        }
        for one in self.instances.iter_mut().filter(|one| ids.contains(&one.id)) {
            one.told_to_end.get_or_insert_with(Instant::now);
        }
        let ended = self.instances.iter().filter(|one| ids.contains(&one.id));
        data(&json!({ "terminated_instances": ended.map(|one| self.instance(one)).collect::<Vec<_>>() }))
    }
}
