//! Deliveries that did not come here are asked for again: GitHub tries each once, and keeps it for three days.
//! <https://docs.github.com/en/webhooks/using-webhooks/handling-failed-webhook-deliveries>
//!
//! Comes in: the list of what GitHub tried to deliver to the App. Goes out: requests to do so once more. Never here: the deliveries
//! themselves, which come in by the webhook as ever.

use std::{collections::HashMap, time::Duration};

use http::Method;
use segue_schemas::{id::DeliveryId, time::Timestamp};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{
    GitHub, GitHubError, Speaker,
    pages::{PER_PAGE, Pages},
    presser::FRESH,
};
use crate::store::{Store, StoreError};

/// How old a delivery may be that is sent again.
const KEPT: Duration = Duration::from_secs(3 * 24 * 3600);
/// How old it must be: before, its answer may not be noted yet.
const SETTLED: Duration = Duration::from_secs(30);
/// Tries of one delivery, GitHub's own counted.
const TRIES: usize = 5;
/// Pages of 100 that are looked through.
const PAGES: usize = 50;

/// Asks for what was missed.
pub struct Sweeper {
    store: Store,
    github: GitHub,
    list: Pages<Tried>,
    every: Duration,
}

/// One try of GitHub's.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Tried {
    id: u64,
    guid: String,
    at: Timestamp,
    is_taken: bool,
    /// Whether somebody pressed a button of a check.
    is_pressed: bool,
}

impl Sweeper {
    /// One that looks through what GitHub tried to deliver.
    #[must_use]
    pub fn new(store: Store, github: GitHub) -> Self {
        let every = store.config().github.sweep_every.0;
        Self { store, github, list: Pages::default(), every }
    }

    /// Looks at once, and then ever again, until `stop`. What can't be asked now is asked at the next look.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                swept = self.sweep() => match swept {
                    Ok(0) => {}
                    Ok(missed) => tracing::warn!(missed, "GitHub is asked for deliveries that did not come here"),
                    Err(error) => tracing::warn!(%error, "GitHub can't be asked for deliveries that did not come here"),
                },
                () = stop.cancelled() => return,
            }
            tokio::select! {
                () = tokio::time::sleep(self.every) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// How many were asked for.
    async fn sweep(&mut self) -> Result<usize, GitHubError> {
        let mut asked = 0;
        let now = self.store.now();
        for (id, guid) in missed(&self.tried(now).await?, now) {
            let Ok(guid) = guid.parse::<DeliveryId>() else { continue };
            // it came, and the answer was lost; where the store can't say, it comes twice, which changes nothing
            if !matches!(self.store.delivery(&guid).await, Err(StoreError::NotFound { .. })) {
                continue;
            }
            let path = format!("/app/hook/deliveries/{id}/attempts");
            self.github.ask(Speaker::App, Method::POST, &path, None).await?;
            asked += 1;
        }
        Ok(asked)
    }

    /// What GitHub tried in the last days, newest first.
    async fn tried(&mut self, now: Timestamp) -> Result<Vec<Tried>, GitHubError> {
        let path = format!("/app/hook/deliveries?per_page={PER_PAGE}");
        let is_old = |page: &[Tried]| page.last().is_some_and(|last| now.since(last.at) > KEPT);
        self.list.look_through(&self.github, Speaker::App, path, PAGES, read, is_old).await
    }
}

fn read(delivery: &Value) -> Option<Tried> {
    Some(Tried {
        id: delivery["id"].as_u64()?,
        guid: delivery["guid"].as_str()?.to_owned(),
        at: delivery["delivered_at"].as_str()?.parse().ok()?,
        is_taken: delivery["status_code"].as_u64().is_some_and(|code| (200..300).contains(&code)),
        is_pressed: delivery["event"] == "check_run" && delivery["action"] == "requested_action",
    })
}

/// The newest try of each delivery that nobody has taken, oldest first: that what comes again comes in its order.
fn missed(tried: &[Tried], now: Timestamp) -> Vec<(u64, String)> {
    let mut by_guid: HashMap<&str, Vec<&Tried>> = HashMap::new();
    for one in tried {
        by_guid.entry(&one.guid).or_default().push(one);
    }
    let mut missed: Vec<&Tried> = by_guid
        .into_values()
        .filter(|tries| tries.len() < TRIES && !tries.iter().any(|one| one.is_taken))
        // what was pressed long ago may fit no longer, and would look new
        .filter(|tries| !tries.iter().any(|one| one.is_pressed && now.since(one.at) >= FRESH))
        .filter_map(|tries| tries.into_iter().max_by_key(|one| one.id))
        .filter(|newest| (SETTLED..KEPT).contains(&now.since(newest.at)))
        .collect();
    missed.sort_by_key(|one| one.id);
    missed.into_iter().map(|one| (one.id, one.guid.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_took_is_asked_for_while_it_can_be() {
        let now = Timestamp(1_000_000_000_000);
        let tried = |id, guid: &str, seconds_ago: u64, is_taken| {
            let at = Timestamp(now.0 - i64::try_from(seconds_ago * 1000).unwrap());
            Tried { id, guid: guid.into(), at, is_taken, is_pressed: guid.starts_with("button") }
        };
        let mut all = vec![
            tried(9, "again", 100, true),
            tried(8, "new", 5, false),
            tried(7, "twice", 200, false),
            tried(6, "twice", 300, false),
            tried(5, "once", 400, false),
            tried(4, "again", 500, false),
            tried(1, "old", 4 * 24 * 3600, false),
            tried(3, "button of an hour ago", 3700, false),
            tried(2, "button", 2000, false),
        ];
        let button = (2, "button".to_owned());
        assert_eq!(missed(&all, now), [button.clone(), (5, "once".to_owned()), (7, "twice".to_owned())]);
        all.extend((10..13).map(|id| tried(id, "twice", 150, false)));
        assert_eq!(missed(&all, now), [button, (5, "once".to_owned())], "what fails again and again is left");
    }
}
