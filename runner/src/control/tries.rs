//! When a host that is out of step is brought to what is on record once more, after that failed. Pure.

use std::time::Duration;

use segue_schemas::{id::ReleaseId, status::RolloutStatus, time::Timestamp};

use crate::store::tables::rollouts::StoredRollout;

/// For how long a host is left as it is after it could not be brought up to date: once, and at most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));

/// Who is on record for a rollout that nobody asked for.
pub(super) const BY_ITSELF: &str = "segue";

/// An earlier rollout of the service, as far as it matters.
#[derive(Debug, Clone)]
pub(super) struct Past {
    /// The host that it brought to what is on record, and which start of it that was; `None`: it was another rollout.
    repaired: Option<(String, Option<u64>)>,
    release: ReleaseId,
    succeeded: bool,
    /// Whether a person asked for it.
    is_asked: bool,
    /// When it ended, of one that was begun.
    ended_at: Option<Timestamp>,
}

impl From<&StoredRollout> for Past {
    fn from(stored: &StoredRollout) -> Self {
        let rollout = &stored.record.rollout;
        let host = || rollout.spec.hosts.first().cloned().unwrap_or_default();
        Self {
            repaired: rollout.spec.repair.as_ref().map(|repair| (host(), repair.host_start)),
            release: rollout.spec.release.id,
            succeeded: rollout.status == RolloutStatus::Succeeded,
            is_asked: stored.record.requested_by != BY_ITSELF,
            ended_at: rollout.ended_at.filter(|_| stored.started_at.is_some()),
        }
    }
}

/// One that was begun and has ended.
#[derive(Debug, Clone, Copy)]
struct Try {
    ended_at: Timestamp,
    start: Option<u64>,
    is_asked: bool,
    succeeded: bool,
}

/// A host to which a release is to come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) host: &'a str,
    pub(super) release: ReleaseId,
    /// Which start of the host's process this is.
    pub(super) start: Option<u64>,
    /// When it joined; `None`: it is of a server's or worker's machine.
    pub(super) joined_at: Option<Timestamp>,
}

impl Wanted<'_> {
    /// When it is tried again, by a service's rollouts, newest first; `None`: at once. A host that was started anew since it failed is tried
    /// at once, but not one that starts anew with each try. `is_stopped`: whether a person has ended the newest try.
    pub(super) fn again_at(&self, past: &[Past], is_stopped: bool, now: Timestamp) -> Option<Timestamp> {
        let tries = self.tries(past, now);
        // a person who tries it puts nothing off
        let by_itself: Vec<Try> = tries.iter().filter(|one| !one.is_asked).copied().collect();
        let tries = if by_itself.is_empty() || is_stopped { tries } else { by_itself };
        let newest = tries.first()?;
        let is_new_start = tries.iter().all(|one| one.start != self.start);
        let broke_it = tries.get(1).is_some_and(|before| before.start != newest.start);
        if is_new_start && !broke_it && !is_stopped {
            return None;
        }
        Some(newest.ended_at + if is_stopped { AGAIN.1 } else { pause(tries.len()) })
    }

    /// Whether one try at most has failed since all was well.
    pub(super) fn is_first(&self, past: &[Past], now: Timestamp) -> bool {
        self.tries(past, now).iter().take_while(|one| !one.succeeded).count() <= 1
    }

    /// The tries that count, newest first. What failed before another rollout of the service
    /// succeeded counts no more, nor what was for another release, or before the host joined anew. One that went well counts for a while as
    /// well: it is asked only where the host lacks the release all the same.
    fn tries(&self, past: &[Past], now: Timestamp) -> Vec<Try> {
        let start_of =
            |one: &Past| one.repaired.as_ref().filter(|(host, _)| host == self.host).map(|(_, start)| *start);
        let is_over = |one: &&Past| {
            let is_old = one.ended_at.is_some_and(|at| now.since(at) >= AGAIN.1);
            one.succeeded && (one.repaired.is_none() || start_of(one).is_some() && is_old)
        };
        let counted = |one: &Past| {
            let (start, ended_at) = (start_of(one)?, one.ended_at?);
            let is_it = one.release == self.release && self.joined_at.is_none_or(|joined_at| ended_at >= joined_at);
            is_it.then_some(Try { ended_at, start, is_asked: one.is_asked, succeeded: one.succeeded })
        };
        past.iter().take_while(|one| !is_over(one)).filter_map(counted).collect()
    }
}

/// How long a host is left alone after so many failures.
fn pause(failures: usize) -> Duration {
    let doubled = u32::try_from(failures.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    (AGAIN.0 * 2_u32.pow(doubled)).min(AGAIN.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(10_000_000);
    const WANTED: Wanted<'_> = Wanted { host: "two", release: ReleaseId(2), start: Some(7), joined_at: None };

    fn minutes_ago(minutes: i64) -> Timestamp {
        Timestamp(NOW.0 - minutes * 60_000)
    }

    fn failed(minutes: i64, start: u64) -> Past {
        let repaired = Some(("two".to_owned(), Some(start)));
        let ended_at = Some(minutes_ago(minutes));
        Past { repaired, release: ReleaseId(2), succeeded: false, is_asked: false, ended_at }
    }

    /// Minutes from now until it is tried again; `None`: at once.
    fn again(past: &[Past]) -> Option<i64> {
        WANTED.again_at(past, false, NOW).map(|at| (at.0 - NOW.0) / 60_000)
    }

    #[test]
    fn the_pause_grows_from_a_minute_to_an_hour() {
        let minutes: Vec<u64> = (1..=8).map(|failures| pause(failures).as_secs() / 60).collect();
        assert_eq!(minutes, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pause(usize::MAX), AGAIN.1);
        assert_eq!(again(&[]), None);
        assert_eq!(again(&[failed(0, 7), failed(2, 7), failed(3, 7)]), Some(4));
    }

    #[test]
    fn what_failed_for_another_host_release_or_before_it_was_well_counts_no_more() {
        let other_host = Past { repaired: Some(("one".into(), Some(7))), ..failed(0, 7) };
        let other_release = Past { release: ReleaseId(1), ..failed(0, 7) };
        let never_begun = Past { ended_at: None, ..failed(0, 7) };
        assert_eq!(again(&[other_host.clone(), other_release, never_begun]), None);
        let rollout = Past { repaired: None, succeeded: true, ..failed(1, 0) };
        assert_eq!(again(&[rollout, failed(2, 7)]), None);
        let other_went_well = Past { succeeded: true, ..other_host };
        assert_eq!(again(&[other_went_well, failed(0, 7)]), Some(1));
        let joined = Wanted { joined_at: Some(minutes_ago(0)), ..WANTED };
        assert_eq!(joined.again_at(&[failed(1, 7)], false, NOW), None);
    }

    #[test]
    fn a_new_start_of_the_host_is_tried_at_once_unless_each_try_makes_one() {
        assert_eq!(again(&[failed(0, 6), failed(2, 6)]), None, "it was started anew since");
        assert_eq!(again(&[failed(0, 6)]), None);
        assert_eq!(again(&[failed(0, 6), failed(2, 5)]), Some(2), "each try ends the host");
        assert_eq!(again(&[failed(0, 7), failed(2, 6), failed(3, 6)]), Some(4), "that start was of no use");
    }

    #[test]
    fn one_that_went_well_and_brought_nothing_is_not_repeated_without_a_pause() {
        let well = |minutes| Past { succeeded: true, ..failed(minutes, 7) };
        assert_eq!(again(&[well(0)]), Some(1));
        assert_eq!(again(&[well(0), well(1), well(3)]), Some(4));
        assert_eq!(again(&[well(60), failed(61, 7)]), None, "that was another time");
        assert!(WANTED.is_first(&[failed(0, 7), well(30), failed(31, 7)], NOW));
        assert!(WANTED.is_first(&[failed(0, 7)], NOW) && !WANTED.is_first(&[failed(0, 7), failed(1, 7)], NOW));
    }

    #[test]
    fn a_person_who_tries_it_puts_nothing_off() {
        let asked = |minutes| Past { is_asked: true, ..failed(minutes, 7) };
        assert_eq!(again(&[asked(0), asked(0), failed(1, 7), failed(2, 7)]), Some(1));
        assert_eq!(again(&[asked(0)]), Some(1));
    }

    #[test]
    fn a_person_who_ends_one_has_peace_for_an_hour() {
        assert_eq!(WANTED.again_at(&[failed(0, 7)], true, NOW), Some(minutes_ago(-60)));
    }
}
