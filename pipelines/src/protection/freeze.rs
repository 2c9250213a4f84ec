//! Times in which nothing is deployed: those that come again, and those between two dates, by the clocks of a time zone.
//!
//! A time begins with its first moment and is over at its last one, which is not in it. What the clocks leave out is taken for the
//! next time that there is; of a time that comes twice, the first one begins and the second one ends, so that a change of the
//! clocks makes nothing shorter. A duration is counted as a stopwatch counts it.

use std::{str::FromStr as _, time::Duration};

use chrono::{DateTime, MappedLocalTime, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, TimeZone as _, Utc};
use chrono_tz::Tz;
use segue_schemas::{config::FreezeConfig, time::Timestamp};

use crate::schedule::{Schedule, nearest_zone};

/// The longest freeze that comes again, and the furthest that is looked ahead.
const YEAR: Duration = Duration::from_secs(366 * 24 * 3600);
/// Freezes that follow each other without a gap and are taken together.
const JOINED: usize = 1_000;
/// Between two of the times that clocks leave out.
const MINUTE: TimeDelta = TimeDelta::minutes(1);
/// The longest that clocks ever left out: a day, where a date line was moved.
const LEFT_OUT_MINUTES: usize = 26 * 60;

/// One freeze.
#[derive(Debug, Clone)]
pub struct Freeze {
    when: When,
    zone: Tz,
    reason: Option<String>,
}

#[derive(Debug, Clone)]
enum When {
    Again { schedule: Box<Schedule>, duration: Duration },
    Once { from: Timestamp, until: Timestamp },
}

/// A key of a freeze with a value that can't be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FreezeFault {
    /// The key; empty: the freeze as a whole.
    pub key: &'static str,
    /// What is wrong with it.
    pub message: String,
    /// What to write.
    pub help: String,
}

/// Nothing is deployed now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frozen {
    /// Until when; where it goes on for more than a year, until then at least.
    pub until: Timestamp,
    /// The same as the operator's clocks show it, with the reasons.
    pub in_words: String,
}

impl Freeze {
    /// Reads one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(config: &FreezeConfig) -> Result<Self, FreezeFault> {
        let zone = match config.timezone.as_deref() {
            None => Tz::UTC,
            Some(name) => Tz::from_str(name)
                .map_err(|_| fault("timezone", format!("there is no time zone `{name}`"), &nearest_zone(name)))?,
        };
        let when = match (&config.cron, config.duration, &config.from, &config.until) {
            (Some(cron), Some(duration), None, None) => again(cron, duration.0, config.timezone.as_deref())?,
            (None, None, Some(from), Some(until)) => once(from, until, zone)?,
            (Some(_), None, None, None) => {
                let help = "add `duration`: `{ cron: \"0 16 * * FRI\", duration: 64h }`";
                return Err(fault("cron", "a freeze that comes again needs to end each time".into(), help));
            }
            _ => {
                let help = "write `cron` and `duration` for one that comes again, or `from` and `until` for one that comes once";
                return Err(fault("", "nothing says when this freeze begins and ends".into(), help));
            }
        };
        let reason = config.reason.as_deref().map(one_line).filter(|reason| !reason.is_empty());
        Ok(Self { when, zone, reason })
    }

    /// When the freeze ends that holds at a time; `None`: there is none.
    fn holds_until(&self, now: Timestamp) -> Option<Timestamp> {
        let (from, until) = match &self.when {
            When::Again { schedule, duration } => {
                let from = schedule.latest(now)?;
                (from, from + *duration)
            }
            When::Once { from, until } => (*from, *until),
        };
        (from <= now && now < until).then_some(until)
    }

    /// When it begins next.
    fn next_after(&self, now: Timestamp) -> Option<Timestamp> {
        match &self.when {
            When::Again { schedule, .. } => schedule.next_after(now),
            When::Once { from, .. } => Some(*from).filter(|from| *from > now),
        }
    }
}

/// Whether something is frozen now, and until when: freezes that overlap or follow each other at once are one.
#[must_use]
pub fn frozen(freezes: &[Freeze], now: Timestamp) -> Option<Frozen> {
    let last = |at: Timestamp| {
        let holding = freezes.iter().filter_map(|freeze| Some((freeze.holds_until(at)?, freeze)));
        holding.max_by_key(|(until, _)| *until)
    };
    let (mut until, mut by) = last(now)?;
    let mut reasons: Vec<&str> = Vec::new();
    note(&mut reasons, by);
    let mut is_open_ended = true;
    for _ in 0..JOINED {
        if until.since(now) > YEAR {
            break;
        }
        let Some(next) = last(until) else {
            is_open_ended = false;
            break;
        };
        (until, by) = next;
        note(&mut reasons, by);
    }
    let at_least = if is_open_ended { " at least" } else { "" };
    let told = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join("; ")) };
    Some(Frozen { until, in_words: format!("until {}{at_least}{told}", local(until, by.zone)) })
}

/// When the next freeze begins, in words; `None`: none is to come, or one holds.
#[must_use]
pub fn next_freeze(freezes: &[Freeze], now: Timestamp) -> Option<String> {
    if frozen(freezes, now).is_some() {
        return None;
    }
    let begins = freezes.iter().filter_map(|freeze| Some((freeze.next_after(now)?, freeze)));
    let (from, freeze) = begins.min_by_key(|(from, _)| *from)?;
    let until = frozen(freezes, from).map(|frozen| format!(" {}", frozen.in_words)).unwrap_or_default();
    Some(format!("from {}{until}", local(from, freeze.zone)))
}

/// A time as the clocks of a zone show it.
fn local(time: Timestamp, zone: Tz) -> String {
    let there = zone.from_utc_datetime(&time.as_chrono().naive_utc());
    format!("{} {}", there.format("%Y-%m-%d %H:%M"), zone.name())
}

fn note<'f>(reasons: &mut Vec<&'f str>, freeze: &'f Freeze) {
    if let Some(reason) = freeze.reason.as_deref()
        && !reasons.contains(&reason)
        && reasons.len() < 3
    {
        reasons.push(reason);
    }
}

fn again(cron: &str, duration: Duration, timezone: Option<&str>) -> Result<When, FreezeFault> {
    let mut schedule = Schedule::parse(cron).map_err(|error| fault("cron", error.message, &error.help))?;
    if let Some(name) = timezone {
        schedule = schedule
            .in_timezone(name)
            .map_err(|help| fault("timezone", format!("there is no time zone `{name}`"), &help))?;
    }
    if duration.is_zero() || duration > YEAR {
        let message =
            format!("`duration` is {}, and up to 366 days are allowed", segue_schemas::duration::Span(duration));
        return Err(fault("duration", message, "write how long it lasts each time, `64h`"));
    }
    Ok(When::Again { schedule: Box::new(schedule), duration })
}

fn once(from: &str, until: &str, zone: Tz) -> Result<When, FreezeFault> {
    let read = |key: &'static str, text: &str| {
        date_or_time(text).ok_or_else(|| {
            fault(key, format!("`{text}` is neither a date nor a time"), "write `2026-12-20` or `2026-12-20T18:00`")
        })
    };
    let (first, last) = (earliest(read("from", from)?, zone), latest(read("until", until)?, zone));
    let (Some(first), Some(last)) = (first, last) else {
        return Err(fault("from", format!("`{}` has no such time", zone.name()), "write a date that there is"));
    };
    if first >= last {
        let message = format!("the freeze ends at `{until}`, which is not after `{from}`");
        return Err(fault(
            "until",
            message,
            "write when it is over; a date is its midnight, so write the day after the last one",
        ));
    }
    Ok(When::Once { from: stamp(first), until: stamp(last) })
}

fn date_or_time(text: &str) -> Option<NaiveDateTime> {
    let text = text.trim();
    if let Ok(date) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        return Some(date.and_time(NaiveTime::MIN));
    }
    ["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S"]
        .into_iter()
        .find_map(|form| NaiveDateTime::parse_from_str(text, form).ok())
}

fn earliest(time: NaiveDateTime, zone: Tz) -> Option<DateTime<Tz>> {
    there_is(time, zone, |first, _| first)
}

fn latest(time: NaiveDateTime, zone: Tz) -> Option<DateTime<Tz>> {
    there_is(time, zone, |_, second| second)
}

/// The time by the zone's clocks; what they leave out is the next one that there is.
fn there_is(
    time: NaiveDateTime,
    zone: Tz,
    of_two: impl Fn(DateTime<Tz>, DateTime<Tz>) -> DateTime<Tz>,
) -> Option<DateTime<Tz>> {
    let mut time = time;
    for _ in 0..=LEFT_OUT_MINUTES {
        match zone.from_local_datetime(&time) {
            MappedLocalTime::Single(found) => return Some(found),
            MappedLocalTime::Ambiguous(first, second) => return Some(of_two(first, second)),
            MappedLocalTime::None => time = time.checked_add_signed(MINUTE)?,
        }
    }
    None
}

fn stamp(time: DateTime<Tz>) -> Timestamp {
    Timestamp(time.with_timezone(&Utc).timestamp_millis())
}

fn one_line(text: &str) -> String {
    let plain: String = text.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect();
    plain.trim().to_owned()
}

fn fault(key: &'static str, message: String, help: &str) -> FreezeFault {
    FreezeFault { key, message, help: help.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Timestamp {
        serde_json::from_value(serde_json::json!(text)).unwrap()
    }

    fn freezes(yaml: &str) -> Vec<Freeze> {
        let configs: Vec<FreezeConfig> = serde_yaml::from_str(yaml).unwrap();
        configs.iter().map(|config| Freeze::parse(config).unwrap()).collect()
    }

    /// Times with what is said then; empty: it is open.
    fn check(yaml: &str, cases: &[(&str, &str)]) {
        let freezes = freezes(yaml);
        for (now, wanted) in cases {
            let said = frozen(&freezes, time(now));
            assert_eq!(said.as_ref().map_or("", |frozen| &frozen.in_words), *wanted, "{yaml} at {now}");
            // it is over at the moment that it names, and at none before
            if let Some(frozen_now) = said.filter(|frozen| !frozen.in_words.contains("at least")) {
                assert_eq!(frozen(&freezes, frozen_now.until), None, "{yaml} at {now}");
                assert!(frozen(&freezes, Timestamp(frozen_now.until.0 - 1)).is_some(), "{yaml} at {now}");
            }
        }
    }

    #[test]
    fn a_weekend_is_frozen_from_its_first_moment_to_its_last() {
        check(
            "[{ cron: '0 16 * * FRI', duration: 64h, timezone: Europe/Berlin, reason: weekend }]",
            &[
                ("2026-11-20T14:59:59.999Z", ""),
                ("2026-11-20T15:00:00Z", "until 2026-11-23 08:00 Europe/Berlin (weekend)"),
                ("2026-11-23T06:59:59.999Z", "until 2026-11-23 08:00 Europe/Berlin (weekend)"),
                ("2026-11-23T07:00:00Z", ""),
                // the clocks go forward in it: a stopwatch's 64 hours are over an hour later by the clock
                ("2026-03-27T15:00:00Z", "until 2026-03-30 09:00 Europe/Berlin (weekend)"),
                ("2026-10-24T00:00:00Z", "until 2026-10-26 07:00 Europe/Berlin (weekend)"),
            ],
        );
    }

    #[test]
    fn a_freeze_between_two_dates_is_from_midnight_to_midnight_there() {
        check(
            "[{ from: 2026-12-20, until: 2027-01-04, timezone: America/New_York, reason: Holidays }]",
            &[
                ("2026-12-20T04:59:59.999Z", ""),
                ("2026-12-20T05:00:00Z", "until 2027-01-04 00:00 America/New_York (Holidays)"),
                ("2027-01-04T04:59:59.999Z", "until 2027-01-04 00:00 America/New_York (Holidays)"),
                ("2027-01-04T05:00:00Z", ""),
            ],
        );
        check(
            "[{ from: '2026-12-24T18:00', until: '2026-12-24 18:30:30' }]",
            &[
                ("2026-12-24T17:59:00Z", ""),
                ("2026-12-24T18:00:00Z", "until 2026-12-24 18:30 UTC"),
                ("2026-12-24T18:30:30Z", ""),
            ],
        );
    }

    #[test]
    fn a_change_of_the_clocks_makes_no_freeze_shorter() {
        // 02:30 does not exist on the 29th of March, and comes twice on the 25th of October
        check(
            "[{ from: '2026-03-29T02:30', until: '2026-03-29T04:00', timezone: Europe/Berlin }]",
            &[("2026-03-29T00:59:59Z", ""), ("2026-03-29T01:00:00Z", "until 2026-03-29 04:00 Europe/Berlin")],
        );
        check(
            "[{ from: '2026-10-25T02:30', until: '2026-10-25T02:45', timezone: Europe/Berlin }]",
            &[
                ("2026-10-25T00:29:59Z", ""),
                ("2026-10-25T00:30:00Z", "until 2026-10-25 02:45 Europe/Berlin"),
                ("2026-10-25T01:44:59Z", "until 2026-10-25 02:45 Europe/Berlin"),
                ("2026-10-25T01:45:00Z", ""),
            ],
        );
    }

    #[test]
    fn freezes_that_touch_are_one() {
        check(
            "[{ cron: '0 0 * * SAT', duration: 1d, reason: a }, { cron: '0 0 * * SUN', duration: 2d, reason: b }]",
            &[("2026-11-21T12:00:00Z", "until 2026-11-24 00:00 UTC (a; b)"), ("2026-11-24T00:00:00Z", "")],
        );
        check(
            "[{ cron: '0 0 * * *', duration: 1d }]",
            &[("2026-01-01T12:00:00Z", "until 2027-01-03 00:00 UTC at least")],
        );
        assert_eq!(frozen(&[], time("2026-01-01T12:00:00Z")), None);
    }

    #[test]
    fn the_next_one_is_announced() {
        let two = freezes("[{ from: 2026-12-20, until: 2027-01-04 }, { cron: '0 16 * * FRI', duration: 1h }]");
        let said = |now: &str| next_freeze(&two, time(now));
        let next = "from 2026-11-27 16:00 UTC until 2026-11-27 17:00 UTC";
        assert_eq!(said("2026-11-22T00:00:00Z").as_deref(), Some(next));
        assert_eq!(said("2026-12-21T00:00:00Z"), None);
        assert_eq!(
            next_freeze(&freezes("[{ from: 2026-12-20, until: 2026-12-21 }]"), time("2027-01-01T00:00:00Z")),
            None
        );
    }

    #[test]
    fn what_is_no_freeze_is_refused_with_its_key() {
        for (yaml, key, words) in [
            ("{}", "", "nothing says when"),
            ("{ cron: '0 0 * * *' }", "cron", "needs to end"),
            ("{ from: 2026-12-20 }", "", "nothing says when"),
            ("{ cron: '0 0 * * *', duration: 1h, until: 2026-12-20 }", "", "nothing says when"),
            ("{ cron: '0 25 * * *', duration: 1h }", "cron", "no hour"),
            ("{ cron: '0 0 * * *', duration: 0s }", "duration", "up to 366 days"),
            ("{ cron: '0 0 * * *', duration: 2years }", "duration", "up to 366 days"),
            ("{ cron: '0 0 * * *', duration: 1h, timezone: Berlin }", "timezone", "no time zone `Berlin`"),
            ("{ from: 2026-12-20, until: 2026-12-20 }", "until", "not after"),
            ("{ from: 20.12.2026, until: 2026-12-20 }", "from", "neither a date nor a time"),
            ("{ from: 2026-02-30, until: 2026-12-20 }", "from", "neither a date nor a time"),
            ("{ from: 2026-12-20, until: '2026-12-21T25:00' }", "until", "neither a date nor a time"),
        ] {
            let config: FreezeConfig = serde_yaml::from_str(yaml).unwrap();
            let fault = Freeze::parse(&config).expect_err(yaml);
            assert_eq!(fault.key, key, "{yaml}: {fault:?}");
            assert!(fault.message.contains(words), "{yaml}: {fault:?}");
        }
    }
}
