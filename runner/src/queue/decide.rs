//! Which bells are to be rung. Pure: what is known comes in, what to ring goes out.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use segue_schemas::{gpu, id::DeliveryId, queue, time::Timestamp};

/// How far back deliveries are looked at once more: two servers commit in another order than they took the time.
pub(super) const OVERLAP: Duration = Duration::from_secs(10);

/// Deliveries in one look.
pub(super) const LOOK: usize = 4096;

/// The pools of which some worker could take one of the queued jobs. Each job goes to every pool that offers its labels: a bell
/// too many costs a look.
pub(super) fn pools_with_work<'p>(queued: &[Vec<String>], pools: &'p BTreeMap<String, Vec<String>>) -> Vec<&'p str> {
    let fits = |offered: &[String]| queued.iter().any(|wanted| wanted.iter().all(|label| gpu::offers(offered, label)));
    pools.iter().filter(|(_, offered)| fits(offered)).map(|(name, _)| name.as_str()).collect()
}

/// Workers' sets of labels by the pool that they make.
pub(super) fn by_pool(offered: Vec<Vec<String>>) -> BTreeMap<String, Vec<String>> {
    offered.into_iter().map(|labels| (queue::pool(&labels), labels)).collect()
}

/// Bells of pools that are on their way: what happens meanwhile asks for another one after them.
#[derive(Debug, Default)]
pub(super) struct Underway {
    unconfirmed: BTreeSet<String>,
    again: bool,
}

impl Underway {
    /// Whether a pool may be rung now. If not, it is looked at again when the bell that is on its way has arrived: that one may be
    /// answered by a look from before the change that asks for this one.
    pub(super) fn may_ring(&mut self, pool: &str) -> bool {
        let is_free = !self.unconfirmed.contains(pool);
        self.again |= !is_free;
        is_free
    }

    /// A bell was sent off.
    pub(super) fn sent(&mut self, pool: &str) {
        self.unconfirmed.insert(pool.to_owned());
    }

    /// A bell has arrived. Whether to look again.
    pub(super) fn arrived(&mut self, pool: &str) -> bool {
        self.unconfirmed.remove(pool);
        std::mem::take(&mut self.again)
    }
}

/// Which deliveries have been rung, so that each is rung once by a server while its bell is in the queue.
#[derive(Debug, Default)]
pub(super) struct Rung {
    /// Those that became due before this were looked at.
    seen_until: Timestamp,
    /// Those that were rung and that a look may still show, with when they became due.
    rung: BTreeMap<DeliveryId, Timestamp>,
    /// More have become due within the overlap than a look shows: the next one begins where this one ended.
    is_crowded: bool,
}

impl Rung {
    /// From when on deliveries are to be looked at.
    pub(super) fn look_from(&self) -> Timestamp {
        if self.is_crowded {
            return self.seen_until;
        }
        before(self.seen_until, OVERLAP)
    }

    /// Of the deliveries that have become due from [`Self::look_from`] on, [`LOOK`] at most and the oldest first, those that were
    /// not rung; they count as rung now.
    pub(super) fn fresh(&mut self, due: Vec<(DeliveryId, Timestamp)>) -> Vec<DeliveryId> {
        let mut fresh = Vec::new();
        self.is_crowded = due.len() >= LOOK;
        for (id, at) in due {
            self.seen_until = self.seen_until.max(at);
            // one that was put off becomes due once more, at another time
            if self.rung.insert(id.clone(), at) != Some(at) {
                fresh.push(id);
            }
        }
        // looks go back no further than this, crowded or not
        let from = before(self.seen_until, OVERLAP);
        self.rung.retain(|_, at| *at >= from);
        fresh
    }

    /// Whether there is more to look at, at once.
    pub(super) const fn is_crowded(&self) -> bool {
        self.is_crowded
    }

    /// Nothing is known of the queue any more: whatever waits is rung.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}

fn before(at: Timestamp, span: Duration) -> Timestamp {
    Timestamp(at.0.saturating_sub(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)).max(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_bell_goes_to_every_pool_that_can_take_a_job_and_to_no_other() {
        let pools =
            by_pool(vec![labels("linux default"), labels("linux gpu"), labels("mac"), labels("dgx gpu:2x81559")]);
        for (queued, wanted) in [
            (vec!["linux"], vec!["default+linux", "gpu+linux"]),
            (vec!["linux gpu"], vec!["gpu+linux"]),
            (vec!["linux mac"], vec![]),
            (vec!["mac", "default"], vec!["default+linux", "mac"]),
            (vec!["gpu:2x40000"], vec!["dgx+gpu~3A2x81559"]),
            (vec!["gpu:3x0 dgx"], vec![]),
            (vec![""], vec!["default+linux", "dgx+gpu~3A2x81559", "gpu+linux", "mac"]),
            (vec![], vec![]),
        ] {
            let queued: Vec<_> = queued.into_iter().map(labels).collect();
            assert_eq!(pools_with_work(&queued, &pools), wanted, "{queued:?}");
        }
    }

    #[test]
    fn what_happens_while_a_bell_is_on_its_way_asks_for_another() {
        let mut underway = Underway::default();
        assert!(underway.may_ring("a"));
        underway.sent("a");
        assert!(underway.may_ring("b"), "another pool waits for nobody");
        assert!(!underway.may_ring("a"));
        assert!(underway.arrived("a"), "there is something that the bell may not have told");
        assert!(!underway.arrived("a") && underway.may_ring("a"));
    }

    #[test]
    fn a_delivery_is_rung_once_for_each_time_that_it_becomes_due() {
        let id = |name: &str| name.parse::<DeliveryId>().unwrap();
        let at = |seconds: i64| Timestamp(seconds * 1000);
        let mut rung = Rung::default();
        assert_eq!(rung.look_from(), Timestamp(0));
        assert_eq!(rung.fresh(vec![(id("a"), at(100)), (id("b"), at(101))]), [id("a"), id("b")]);
        assert_eq!(rung.look_from(), at(91), "what another server committed late is still seen");
        assert_eq!(rung.fresh(vec![(id("a"), at(100)), (id("late"), at(95)), (id("b"), at(101))]), [id("late")]);
        assert_eq!(rung.fresh(vec![(id("a"), at(130))]), [id("a")], "put off, and due again");
        assert_eq!(rung.rung.len(), 1, "what no look shows any more is not kept");
        let many = (0..LOOK).map(|n| (id(&format!("n{n}")), at(131))).collect();
        assert_eq!(rung.fresh(many).len(), LOOK);
        assert_eq!((rung.is_crowded(), rung.look_from()), (true, at(131)), "it goes on where it ended");
        rung.forget();
        assert_eq!(rung.fresh(vec![(id("a"), at(130))]), [id("a")]);
    }
}
