//! Requests that wait while what they are for is asleep: how many, for how long, and word of them to the host.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// How long one waits at most; then it is told when to come again.
pub const HOLD_LIMIT: Duration = Duration::from_secs(30);

/// What such a request, and one too many, is told: to come again after so many seconds.
pub const RETRY_AFTER_SECONDS: u32 = 5;

/// How many wait for one service, and for all together.
const MOST_OF_ONE: usize = 64;
const MOST: usize = 512;

/// Which services requests wait for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldRoutes {
    /// How many have begun to wait so far in this proxy process.
    pub sequence: u64,
    /// The services that some wait for now, as (environment, service).
    pub routes: Vec<(String, String)>,
}

/// Those that wait.
#[derive(Debug, Default)]
pub struct Waiting {
    routes: Mutex<Vec<(String, String, usize)>>,
    all: AtomicUsize,
    begun: watch::Sender<u64>,
}

/// A request's place among those that wait.
#[derive(Debug)]
pub struct Place {
    waiting: Arc<Waiting>,
    environment: String,
    service: String,
}

impl Waiting {
    /// A place for one more; `None`: there are too many.
    pub fn enter(self: &Arc<Self>, environment: &str, service: &str) -> Option<Place> {
        if self.all.fetch_add(1, Ordering::AcqRel) >= MOST || !self.count_up(environment, service) {
            self.all.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        self.begun.send_modify(|begun| *begun += 1);
        Some(Place { waiting: self.clone(), environment: environment.to_owned(), service: service.to_owned() })
    }

    fn count_up(&self, environment: &str, service: &str) -> bool {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        match routes.iter_mut().find(|(e, s, _)| e == environment && s == service) {
            Some((_, _, count)) if *count >= MOST_OF_ONE => return false,
            Some((_, _, count)) => *count += 1,
            None => routes.push((environment.to_owned(), service.to_owned(), 1)),
        }
        true
    }

    /// Which services are waited for, once more than `after` have begun to wait, or others than that; at the latest after `wait`.
    pub async fn held(&self, after: u64, wait: Duration) -> HeldRoutes {
        let mut begun = self.begun.subscribe();
        // the sender is in `self`
        let _ = tokio::time::timeout(wait, begun.wait_for(|begun| *begun != after)).await;
        let sequence = *begun.borrow();
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        HeldRoutes { sequence, routes: routes.iter().map(|(e, s, _)| (e.clone(), s.clone())).collect() }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut routes = self.waiting.routes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = routes.iter().position(|(e, s, _)| *e == self.environment && *s == self.service) {
            routes[at].2 -= 1;
            if routes[at].2 == 0 {
                routes.swap_remove(at);
            }
        }
        self.waiting.all.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn places_are_bounded_and_given_back() {
        let waiting = Arc::new(Waiting::default());
        let of = |service: &str| waiting.enter("preview", service);
        let mut places: Vec<Place> = (0..MOST_OF_ONE).map(|_| of("a").unwrap()).collect();
        assert!(of("a").is_none(), "one service takes no more");
        let other = of("b").unwrap();
        let held = waiting.held(0, Duration::ZERO).await;
        assert_eq!(held.sequence, MOST_OF_ONE as u64 + 1);
        assert_eq!(held.routes, ["a", "b"].map(|service| ("preview".to_owned(), service.to_owned())));
        drop(other);
        assert_eq!(waiting.held(0, Duration::ZERO).await.routes.len(), 1);
        places.pop();
        places.push(of("a").unwrap());
        for n in 1..MOST / MOST_OF_ONE {
            places.extend((0..MOST_OF_ONE).map(|_| of(&n.to_string()).unwrap()));
        }
        assert!(of("last").is_none(), "all together are no more");
        drop(places);
        assert!(waiting.held(0, Duration::ZERO).await.routes.is_empty());
        assert!(of("last").is_some());
    }

    #[tokio::test]
    async fn whoever_begins_to_wait_is_told_of_at_once() {
        let waiting = Arc::new(Waiting::default());
        let told = tokio::spawn({
            let waiting = waiting.clone();
            async move { waiting.held(0, Duration::from_secs(60)).await }
        });
        tokio::task::yield_now().await;
        let _place = waiting.enter("preview", "a").unwrap();
        assert_eq!(told.await.unwrap().sequence, 1);
    }
}
