//! The deliveries of the App's webhook, and their repetition. <https://docs.github.com/en/rest/apps/webhooks>

use chrono::{DateTime, SecondsFormat, Utc};
use http::StatusCode;
use serde_json::{Value, json};

use super::{Asked, State, access::as_app, answer::Answer};

/// One try to deliver an event.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// GitHub's number of the try.
    pub id: u64,
    /// The same for every try of one event.
    pub guid: String,
    /// `push`, ...
    pub event: String,
    /// What it was answered; 0 for nothing.
    pub status_code: u16,
    /// Whether somebody asked for it again.
    pub redelivery: bool,
    /// When.
    pub delivered_at: DateTime<Utc>,
}

impl super::GitHub {
    /// Notes a try that came to nothing, as one does while the receiver is away.
    pub fn missed(&self, guid: &str, event: &str) {
        let mut state = self.state();
        let (id, delivered_at) = (state.next_id(), state.now());
        let (guid, event) = (guid.to_owned(), event.to_owned());
        state.deliveries.push(Delivery { id, guid, event, status_code: 0, redelivery: false, delivered_at });
    }

    /// The GUIDs that were asked for again, in that order.
    #[must_use]
    pub fn asked_again(&self) -> Vec<String> {
        let state = self.state();
        state.deliveries.iter().filter(|delivery| delivery.redelivery).map(|delivery| delivery.guid.clone()).collect()
    }
}

/// `GET /app/hook/deliveries`: the newest first, by a cursor.
pub(super) fn list(state: &State, asked: &Asked) -> Result<Answer, Answer> {
    as_app(state, asked)?;
    let size = asked.query.get("per_page").and_then(|text| text.parse().ok()).unwrap_or(30_usize).clamp(1, 100);
    let before = asked.query.get("cursor").and_then(|text| text.parse().ok()).unwrap_or(u64::MAX);
    let mut found = state.deliveries.iter().rev().filter(|delivery| delivery.id < before);
    let items: Vec<&Delivery> = found.by_ref().take(size).collect();
    let next = items.last().filter(|_| found.next().is_some()).map(|last| last.id);
    let answer = Answer::ok(items.into_iter().map(shown).collect::<Vec<Value>>().into());
    Ok(match next {
        Some(cursor) => answer
            .with("link", format!("<{}/app/hook/deliveries?per_page={size}&cursor={cursor}>; rel=\"next\"", state.url)),
        None => answer,
    })
}

/// `POST /app/hook/deliveries/{delivery_id}/attempts`
pub(super) fn redeliver(state: &mut State, asked: &Asked, id: &str) -> Result<Answer, Answer> {
    as_app(state, asked)?;
    let known = state.deliveries.iter().find(|delivery| delivery.id.to_string() == id);
    let mut again = known.ok_or_else(Answer::not_found)?.clone();
    (again.id, again.delivered_at, again.redelivery) = (state.next_id(), state.now(), true);
    state.deliveries.push(again);
    Ok(Answer::json(StatusCode::ACCEPTED, json!({})))
}

fn shown(delivery: &Delivery) -> Value {
    json!({
        "id": delivery.id, "guid": delivery.guid, "event": delivery.event, "action": null,
        "status_code": delivery.status_code, "status": if delivery.status_code == 0 { "failed to connect to host" } else { "OK" },
        "delivered_at": delivery.delivered_at.to_rfc3339_opts(SecondsFormat::Millis, true), "redelivery": delivery.redelivery,
        "duration": 0.1, "installation_id": super::INSTALLATION_ID, "repository_id": 1, "throttled_at": null,
    })
}
