//! How much may be asked. <https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api>

use std::{collections::VecDeque, time::Duration};

use chrono::{DateTime, Utc};
use http::{Method, StatusCode};

use super::answer::Answer;

/// Requests an hour.
const LIMIT: u64 = 5_000;
/// Writes an hour.
const WRITES_AN_HOUR: usize = 500;

pub(super) struct Limits {
    pub(super) writes_a_minute: usize,
    /// When writes came, of the last hour.
    writes: VecDeque<DateTime<Utc>>,
    remaining: u64,
    reset: DateTime<Utc>,
}

impl Default for Limits {
    fn default() -> Self {
        let reset = Utc::now() + Duration::from_secs(3600);
        Self { writes_a_minute: 80, writes: VecDeque::new(), remaining: LIMIT, reset }
    }
}

impl Limits {
    pub(super) fn set_remaining(&mut self, remaining: u64, reset: DateTime<Utc>) {
        (self.remaining, self.reset) = (remaining, reset);
    }

    /// Counts a request, and refuses it where there were too many.
    pub(super) fn refuse(&mut self, method: &Method, now: DateTime<Utc>) -> Option<Answer> {
        if now >= self.reset {
            self.set_remaining(LIMIT, now + Duration::from_secs(3600));
        }
        if self.remaining == 0 {
            return Some(Answer::refusal(
                StatusCode::FORBIDDEN,
                "API rate limit exceeded for installation ID 4242. If you reach out to GitHub Support for help, please include the request ID.",
            ));
        }
        self.remaining -= 1;
        if matches!(*method, Method::GET | Method::HEAD) {
            return None;
        }
        let hour_ago = now - Duration::from_secs(3600);
        while self.writes.front().is_some_and(|at| *at <= hour_ago) {
            self.writes.pop_front();
        }
        let minute_ago = now - Duration::from_secs(60);
        let of_minute = self.writes.iter().rev().take_while(|at| **at > minute_ago).count();
        if of_minute >= self.writes_a_minute || self.writes.len() >= WRITES_AN_HOUR {
            return Some(secondary(StatusCode::FORBIDDEN, Some(60)));
        }
        self.writes.push_back(now);
        None
    }

    /// The last request does not count.
    pub(super) fn give_back(&mut self) {
        self.remaining += 1;
    }

    pub(super) fn headers(&self) -> Vec<(&'static str, String)> {
        vec![
            ("x-ratelimit-limit", LIMIT.to_string()),
            ("x-ratelimit-remaining", self.remaining.to_string()),
            ("x-ratelimit-used", LIMIT.saturating_sub(self.remaining).to_string()),
            ("x-ratelimit-reset", self.reset.timestamp().to_string()),
            ("x-ratelimit-resource", "core".into()),
        ]
    }
}

/// A secondary limit, with the seconds to wait where it says them.
pub(super) fn secondary(status: StatusCode, seconds: Option<u64>) -> Answer {
    let message = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again.";
    let answer = Answer::refusal(status, message);
    match seconds {
        Some(seconds) => answer.with("retry-after", seconds),
        None => answer,
    }
}
