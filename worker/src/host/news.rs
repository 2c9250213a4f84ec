//! That something is new here: a number that is another one each time that whoever watches the host should look again. Weights that a
//! rollout sets are none: whoever set them knows, and a word that was begun just before them would tell the server of drift.

use std::time::Duration;

use rand::Rng as _;
use tokio::sync::watch;

use super::Host;

/// News that are in no record of their own: how an instance fares.
#[derive(Debug)]
pub(super) struct News(watch::Sender<u64>, u64);

impl News {
    /// Begins anywhere, so that whoever knows a number of the host that was there before hears of this one at once.
    pub(super) fn new() -> Self {
        let start = u64::from(rand::rng().random::<u32>());
        Self(watch::Sender::new(start << 16), start)
    }

    /// Another number with each start of the host.
    pub(super) const fn start(&self) -> u64 {
        self.1
    }

    /// Word of what is new.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }

    /// Something is new.
    pub(super) fn tell(&self) {
        self.0.send_modify(|number| *number += 1);
    }
}

impl Host {
    /// The number that is another one once there is something new.
    pub(super) fn newest(&self) -> u64 {
        self.store.current().restorations + *self.news.0.borrow()
    }

    /// Waits until that number is not the `known` one; not longer than `wait`.
    pub(super) async fn news_since(&self, known: u64, wait: Duration) {
        let (mut recorded, mut news) = (self.store.watch(), self.news.0.subscribe());
        let told = async {
            while self.newest() == known {
                // an end of either is the host's: the state says what there is either way
                tokio::select! {
                    changed = recorded.changed() => if changed.is_err() { return },
                    changed = news.changed() => if changed.is_err() { return },
                }
            }
        };
        let _ = tokio::time::timeout(wait, told).await;
    }
}
