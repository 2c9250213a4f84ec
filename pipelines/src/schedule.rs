//! Times that come again: `cron` in POSIX's five fields as GitHub takes it, in UTC or in a time zone of IANA's list.
//!
//! A field is `*`, numbers, ranges `a-b` and lists of them, each with a step `/n`; months and days of the week have names as
//! well (`JAN`, `SUN`). Where both day fields are restricted, a day that fits either is meant. An hour that a change of the
//! clocks leaves out moves to the next time that there is, one that comes twice counts once.
//! (<https://docs.github.com/actions/reference/workflows-and-actions/events-that-trigger-workflows#schedule>)
//!
//! Comes in: texts and times. Goes out: the next time, the latest one, or what is wrong with the text and where in it.
//! Never here: waiting, or what is done then.

use std::{ops::Range, str::FromStr as _};

use chrono::{DateTime, TimeZone as _, Utc};
use chrono_tz::Tz;
use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use segue_schemas::time::Timestamp;

/// What is wrong with a schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ScheduleError {
    /// In words.
    pub message: String,
    /// What to write instead.
    pub help: String,
    /// Where in the text.
    pub span: Range<usize>,
}

/// The least time between two of its times, as at GitHub.
const SHORTEST_MINUTES: usize = 5;
/// The longest text of one, in bytes.
const MAX_BYTES: usize = 256;

/// When something is to happen, again and again.
#[derive(Debug, Clone)]
pub struct Schedule {
    text: String,
    timezone: Option<String>,
    zone: Tz,
    cron: Cron,
}

impl PartialEq for Schedule {
    fn eq(&self, other: &Self) -> bool {
        (&self.text, &self.timezone) == (&other.text, &other.timezone)
    }
}

impl Eq for Schedule {}

struct Field {
    name: &'static str,
    least: u32,
    most: u32,
    names: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field { name: "minute", least: 0, most: 59, names: &[] },
    Field { name: "hour", least: 0, most: 23, names: &[] },
    Field { name: "day of the month", least: 1, most: 31, names: &[] },
    Field {
        name: "month",
        least: 1,
        most: 12,
        names: &["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"],
    },
    Field { name: "day of the week", least: 0, most: 6, names: &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"] },
];

impl Schedule {
    /// Reads a `cron:`; in UTC.
    ///
    /// # Errors
    /// [`ScheduleError`], also for times that come too often, or never.
    pub fn parse(text: &str) -> Result<Self, ScheduleError> {
        let error = |span: Range<usize>, message: String, help: &str| {
            Err(ScheduleError { message, help: help.to_owned(), span })
        };
        const SHAPE: &str = "write five fields: minute, hour, day of the month, month, day of the week; `30 5 * * 1-5`";
        if text.len() > MAX_BYTES {
            return error(0..0, format!("the schedule has {} bytes, and {MAX_BYTES} are the limit", text.len()), SHAPE);
        }
        if text.trim_start().starts_with('@') {
            let help =
                "write it in five fields: `@daily` is `0 0 * * *`, `@hourly` is `0 * * * *`, `@weekly` is `0 0 * * 0`";
            return error(
                0..text.len(),
                format!("`{}` is a nickname that GitHub does not take either", text.trim()),
                help,
            );
        }
        let words = words(text);
        if words.len() != FIELDS.len() {
            return error(0..text.len(), format!("a schedule has 5 fields, and this one has {}", words.len()), SHAPE);
        }
        let mut minutes = [false; 60];
        let mut hours = [false; 24];
        let mut plain = Vec::with_capacity(FIELDS.len());
        for (number, ((begin, word), field)) in words.iter().zip(&FIELDS).enumerate() {
            let (normal, values) = field.read(word, *begin)?;
            plain.push(normal);
            match number {
                0 => values.into_iter().for_each(|minute| minutes[minute as usize] = true),
                1 => values.into_iter().for_each(|hour| hours[hour as usize] = true),
                _ => {}
            }
        }
        let daily = plain[2] == "*" && plain[3] == "*" && plain[4] == "*";
        if let Some(gap) = shortest_gap(&minutes, &hours, daily).filter(|gap| *gap < SHORTEST_MINUTES) {
            let message =
                format!("it comes again after {gap} min, and {SHORTEST_MINUTES} are the shortest, as at GitHub");
            return error(0..text.len(), message, "write `*/5 * * * *`, or fewer times");
        }
        let parser =
            CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).sloppy_ranges(true).build();
        let whole = 0..text.len();
        let Ok(cron) = parser.parse(&plain.join(" ")) else {
            return error(whole, format!("`{text}` is no schedule"), SHAPE);
        };
        let schedule = Self { text: text.trim().to_owned(), timezone: None, zone: Tz::UTC, cron };
        // any leap year and the years after it hold every date that there is
        if schedule.next_after(Timestamp(1_700_000_000_000)).is_none() {
            return error(whole, "there is no such day, so it never comes".into(), "name a day that the month has");
        }
        Ok(schedule)
    }

    /// The same by the clocks of a time zone, `Europe/Berlin`.
    ///
    /// # Errors
    /// The names that were probably meant, or a sentence where there are none.
    pub fn in_timezone(mut self, name: &str) -> Result<Self, String> {
        match Tz::from_str(name) {
            Ok(zone) => {
                self.zone = zone;
                self.timezone = Some(name.to_owned());
                Ok(self)
            }
            Err(_) => Err(nearest_zone(name)),
        }
    }

    /// As written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The time zone as written; `None`: UTC.
    #[must_use]
    pub fn timezone(&self) -> Option<&str> {
        self.timezone.as_deref()
    }

    /// The first time after `time`.
    #[must_use]
    pub fn next_after(&self, time: Timestamp) -> Option<Timestamp> {
        self.cron.find_next_occurrence(&self.local(time), false).ok().map(stamp)
    }

    /// The last time that is not after `time`.
    #[must_use]
    pub fn latest(&self, time: Timestamp) -> Option<Timestamp> {
        self.cron.find_previous_occurrence(&self.local(time), true).ok().map(stamp)
    }

    fn local(&self, time: Timestamp) -> DateTime<Tz> {
        self.zone.from_utc_datetime(&time.as_chrono().naive_utc())
    }
}

fn stamp(time: DateTime<Tz>) -> Timestamp {
    Timestamp(time.with_timezone(&Utc).timestamp_millis())
}

impl Field {
    /// The field in numbers alone, and every value that it takes in.
    fn read(&self, word: &str, begin: usize) -> Result<(String, Vec<u32>), ScheduleError> {
        let mut normal = Vec::new();
        let mut values = Vec::new();
        let mut at = begin;
        for part in word.split(',') {
            let span = at..at + part.len();
            at = span.end + 1;
            let (first, last, step) =
                self.part(part).map_err(|(message, help)| ScheduleError { message, help, span })?;
            if let Some(step) = step {
                normal.push(if part.starts_with('*') { format!("*/{step}") } else { format!("{first}-{last}/{step}") });
            } else if part == "*" {
                normal.push("*".to_owned());
            } else {
                normal.push(format!("{first}-{last}"));
            }
            values.extend((first..=last).step_by(step.unwrap_or(1) as usize));
        }
        Ok((normal.join(","), values))
    }

    /// One part of a list: first and last value, and the step.
    fn part(&self, part: &str) -> Result<(u32, u32, Option<u32>), (String, String)> {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(step)),
            None => (part, None),
        };
        let step = match step.map(|step| (step, step.parse::<u32>())) {
            None => None,
            Some((_, Ok(step))) if step > 0 && step <= self.most => Some(step),
            Some((step, _)) => {
                let help = format!("write a whole number from 1 to {}", self.most);
                return Err((format!("`{step}` is no step of the {}", self.name), help));
            }
        };
        if range == "*" {
            return Ok((self.least, self.most, step));
        }
        let Some((first, last)) = range.split_once('-') else {
            let first = self.value(range)?;
            // with a step, one number means from there on
            return Ok((first, if step.is_some() { self.most } else { first }, step));
        };
        let (first, last) = (self.value(first)?, self.value(last)?);
        if first > last {
            let help = format!("begin with the lower one, or write two: `{first}-{},{}-{last}`", self.most, self.least);
            return Err((format!("the range `{range}` of the {} runs backwards", self.name), help));
        }
        Ok((first, last, step))
    }

    fn value(&self, text: &str) -> Result<u32, (String, String)> {
        if let Some(position) = self.names.iter().position(|name| name.eq_ignore_ascii_case(text)) {
            return Ok(self.least + u32::try_from(position).unwrap_or(0));
        }
        let number = text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u32>().ok()).flatten();
        if let Some(number) = number.filter(|number| (self.least..=self.most).contains(number)) {
            return Ok(number);
        }
        let names = match self.names {
            [] => String::new(),
            [first, .., last] => format!(", or {first} to {last}"),
            [only] => format!(", or {only}"),
        };
        let sunday = if self.least == 0 && self.most == 6 { "; Sunday is 0" } else { "" };
        let help = format!("write {} to {}{names}{sunday}; `*` is any", self.least, self.most);
        let what = if text.is_empty() {
            format!("there is no {} here, where one is expected", self.name)
        } else {
            format!("`{text}` is no {}", self.name)
        };
        Err((what, help))
    }
}

/// The words of a text, each with where it begins.
fn words(text: &str) -> Vec<(usize, &str)> {
    let begin = text.as_ptr() as usize;
    text.split_whitespace().map(|word| (word.as_ptr() as usize - begin, word)).collect()
}

/// The fewest minutes between two times of one day, or across midnight where every day is meant.
fn shortest_gap(minutes: &[bool; 60], hours: &[bool; 24], daily: bool) -> Option<usize> {
    let times: Vec<usize> = (0..24 * 60).filter(|minute| hours[minute / 60] && minutes[minute % 60]).collect();
    let within = times.windows(2).map(|pair| pair[1] - pair[0]).min();
    let across = match (times.first(), times.last()) {
        (Some(first), Some(last)) if daily => Some(24 * 60 - last + first),
        _ => None,
    };
    within.into_iter().chain(across).min()
}

pub(crate) fn nearest_zone(name: &str) -> String {
    let same_place = |zone: &&Tz| {
        let last = |name: &str| name.rsplit('/').next().unwrap_or_default().to_lowercase();
        zone.name().eq_ignore_ascii_case(name) || last(zone.name()) == last(name)
    };
    let found: Vec<&str> = chrono_tz::TZ_VARIANTS.iter().filter(same_place).take(3).map(|zone| zone.name()).collect();
    match found.as_slice() {
        [] => "write a name of IANA's list: `Europe/Berlin`, `America/New_York`, `UTC`".into(),
        found => format!("did you mean `{}`?", found.join("`, `")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Timestamp {
        serde_json::from_value(serde_json::json!(text)).unwrap()
    }

    fn schedule(text: &str, zone: &str) -> Schedule {
        Schedule::parse(text).unwrap().in_timezone(zone).unwrap()
    }

    /// The times that follow, as UTC.
    fn check(text: &str, zone: &str, from: &str, wanted: &[&str]) {
        let schedule = schedule(text, zone);
        let mut at = time(from);
        for wanted in wanted {
            at = schedule.next_after(at).unwrap();
            assert_eq!(at, time(wanted), "{text} in {zone}");
            assert_eq!(schedule.latest(at), Some(at), "{text} in {zone}");
            assert_eq!(schedule.latest(Timestamp(at.0 + 59_000)), Some(at), "{text} in {zone}");
        }
    }

    #[test]
    fn times_as_githubs_documentation_describes_them() {
        let from = "2026-03-06T00:00:00Z"; // a Friday
        check("30 5,17 * * *", "UTC", from, &["2026-03-06T05:30:00Z", "2026-03-06T17:30:00Z", "2026-03-07T05:30:00Z"]);
        check("15 4,5 * * *", "UTC", from, &["2026-03-06T04:15:00Z", "2026-03-06T05:15:00Z"]);
        check("30 4-6 * * *", "UTC", from, &["2026-03-06T04:30:00Z", "2026-03-06T05:30:00Z", "2026-03-06T06:30:00Z"]);
        check(
            "20/15 * * * *",
            "UTC",
            from,
            &["2026-03-06T00:20:00Z", "2026-03-06T00:35:00Z", "2026-03-06T00:50:00Z", "2026-03-06T01:20:00Z"],
        );
        check("*/5 * * * *", "UTC", from, &["2026-03-06T00:05:00Z"]);
        check("30 5 * * 1,3", "UTC", from, &["2026-03-09T05:30:00Z", "2026-03-11T05:30:00Z"]);
        check(
            "0 0 * apr SUN-tue",
            "UTC",
            from,
            &["2026-04-05T00:00:00Z", "2026-04-06T00:00:00Z", "2026-04-07T00:00:00Z", "2026-04-12T00:00:00Z"],
        );
        check("0 12 29 FEB *", "UTC", from, &["2028-02-29T12:00:00Z"]);
    }

    #[test]
    fn either_day_field_is_enough_where_both_are_restricted() {
        check(
            "0 0 13 * 5",
            "UTC",
            "2026-03-01T00:00:00Z",
            &["2026-03-06T00:00:00Z", "2026-03-13T00:00:00Z", "2026-03-20T00:00:00Z"],
        );
    }

    #[test]
    fn a_time_zone_keeps_the_hour_over_the_changes_of_its_clocks() {
        check("0 9 * * *", "Europe/Berlin", "2026-03-27T12:00:00Z", &["2026-03-28T08:00:00Z", "2026-03-29T07:00:00Z"]);
        // 02:30 does not exist on the 29th
        check("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", &["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]);
        // 02:30 comes twice on the 25th
        check("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, span, words) in [
            ("", 0..0, "has 0"),
            ("* * * *", 0..7, "has 4"),
            ("0 0 0 * * *", 0..11, "has 6"),
            ("@daily", 0..6, "nickname"),
            ("60 * * * *", 0..2, "`60` is no minute"),
            ("0 24 * * *", 2..4, "`24` is no hour"),
            ("0 0 0 * *", 4..5, "no day of the month"),
            ("0 0 1 13 *", 6..8, "no month"),
            ("0 0 * * 7", 8..9, "no day of the week"),
            ("0 0 * * FRI-MON", 8..15, "runs backwards"),
            ("0 0 * * 5L", 8..10, "no day of the week"),
            ("0 0 ? * *", 4..5, "no day of the month"),
            ("0 /3 * * *", 2..4, "no hour"),
            ("0,,5 * * * *", 2..2, "no minute"),
            ("*/0 * * * *", 0..3, "no step"),
            ("0 0 -1 * *", 4..6, "there is no day of the month here"),
            ("* * * * *", 0..9, "after 1 min"),
            ("*/3 9 * * *", 0..11, "after 3 min"),
            ("0,58 * * * *", 0..12, "after 2 min"),
            ("0,58 0,23 * * *", 0..15, "after 2 min"),
            ("0 0 31 2 *", 0..10, "never comes"),
            ("0 0 ä * *", 4..6, "no day of the month"),
        ] {
            let error = Schedule::parse(text).expect_err(text);
            assert!(error.message.contains(words), "{text}: {error}");
            assert_eq!(error.span, span, "{text}: {error}");
        }
        assert_eq!(schedule("0 0 * * *", "UTC").in_timezone("Berlin"), Err("did you mean `Europe/Berlin`?".into()));
        assert!(Schedule::parse("0 0 * * *").unwrap().in_timezone("Mars/Olympus").unwrap_err().contains("IANA"));
    }
}
