//! How much GitHub may be told of: 80 changes in a minute and 500 in an hour, says
//! <https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api>. Pure: time comes in.

use std::{collections::VecDeque, time::Duration};

use segue_schemas::time::Timestamp;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// How much it matters that something is told now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Something is on its way. What comes after it will say more.
    Passing,
    /// People or branch protection wait for it: that something is there at all, and how it ended.
    Awaited,
}

/// What was told in the last hour, to one owner's account.
#[derive(Debug)]
pub struct Budget {
    per_minute: usize,
    per_hour: usize,
    told: VecDeque<Timestamp>,
}

impl Budget {
    /// One of which nothing is used.
    #[must_use]
    pub fn new(per_minute: u32, per_hour: u32) -> Self {
        Self { per_minute: per_minute as usize, per_hour: per_hour as usize, told: VecDeque::new() }
    }

    /// Takes one change out of it, or says when there will be one. A quarter is kept for what is awaited.
    ///
    /// # Errors
    /// The time from which on it may be asked again.
    pub fn take(&mut self, urgency: Urgency, now: Timestamp) -> Result<(), Timestamp> {
        while self.told.front().is_some_and(|at| now.since(*at) >= HOUR) {
            self.told.pop_front();
        }
        let (minute, hour) = (self.share(self.per_minute, urgency), self.share(self.per_hour, urgency));
        // when the one that is so many back falls out of the window
        let free = |most: usize, window| Some(*self.told.get(self.told.len().checked_sub(most)?)? + window);
        let until = [free(minute, MINUTE), free(hour, HOUR)].into_iter().flatten().max().filter(|until| *until > now);
        match until {
            Some(until) => Err(until),
            None => {
                self.told.push_back(now);
                Ok(())
            }
        }
    }

    fn share(&self, most: usize, urgency: Urgency) -> usize {
        match urgency {
            Urgency::Awaited => most,
            Urgency::Passing => (most - most / 4).max(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_quarter_is_kept_for_what_is_awaited() {
        let mut budget = Budget::new(8, 100);
        let now = Timestamp(1_000_000);
        for _ in 0..6 {
            assert_eq!(budget.take(Urgency::Passing, now), Ok(()));
        }
        assert_eq!(budget.take(Urgency::Passing, now), Err(now + MINUTE));
        assert_eq!(budget.take(Urgency::Awaited, now), Ok(()));
        assert_eq!(budget.take(Urgency::Awaited, now), Ok(()));
        assert_eq!(budget.take(Urgency::Awaited, now), Err(now + MINUTE));
        assert_eq!(budget.take(Urgency::Awaited, now + MINUTE), Ok(()));
    }

    proptest! {
        /// Whatever is asked for whenever, no window holds more than GitHub takes, and who comes at the time named gets it.
        #[test]
        fn no_window_holds_more(pauses in prop::collection::vec((0_u64..5_000, any::<bool>()), 1..400)) {
            let mut budget = Budget::new(10, 60);
            let (mut now, mut told) = (Timestamp(0), Vec::new());
            for (pause, is_awaited) in pauses {
                now = now + Duration::from_millis(pause);
                let urgency = if is_awaited { Urgency::Awaited } else { Urgency::Passing };
                if let Err(until) = budget.take(urgency, now) {
                    prop_assert!(until > now && until.since(now) <= HOUR);
                    now = until;
                    prop_assert_eq!(budget.take(urgency, now), Ok(()));
                }
                told.push(now);
                let within = |window: Duration| told.iter().filter(|at| now.since(**at) < window).count();
                prop_assert!(within(MINUTE) <= 10 && within(HOUR) <= 60);
            }
        }
    }
}
