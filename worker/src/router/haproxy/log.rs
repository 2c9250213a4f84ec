//! A line of HAProxy's log: how one request ended.

use std::time::Duration;

use segue_schemas::{assignment::unit_of_key, deploy::Outcome};

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// The process that wrote it.
    pub(super) pid: u32,
    /// The server that answered or was tried last; `None`: it came to none.
    pub(super) server: Option<String>,
    /// The status; 0 without an answer of the server's.
    pub(super) status: u16,
    /// How it ended.
    pub(super) outcome: Outcome,
    /// How often it was tried again.
    pub(super) retries: u8,
    /// From the choice of a server to the head of its answer; `None` without one.
    pub(super) latency: Option<Duration>,
    /// The request's whole time, from when it began to be read.
    pub(super) total: Duration,
    /// Declared synthetic.
    pub(super) synthetic: bool,
    /// The service's rule by which it went there.
    pub(super) rule: Option<u8>,
    /// The client, where each keeps its release.
    pub(super) unit: Option<u64>,
}

/// Reads what follows the mark (`LOG_FIELDS` in [`super::config`]; HAProxy Configuration Manual, section 8.2.4). Times are in milliseconds,
/// and -1 where it did not come so far.
pub(super) fn line(text: &str) -> Option<Line> {
    let mut words = text.split_ascii_whitespace();
    let pid = words.next()?.parse().ok()?;
    let _backend = words.next()?;
    let server = words.next().filter(|server| *server != "<NOSRV>" && *server != "<STATS>").map(Into::into);
    let status: u16 = words.next()?.parse().unwrap_or(0);
    let state = words.next()?.as_bytes();
    let retries = words.next()?.trim_start_matches('+').parse().ok()?;
    let connect = millis(words.next()?)?;
    let response = millis(words.next()?)?;
    let total = words.next()?.trim_start_matches('+').parse().map(Duration::from_millis).ok()?;
    let synthetic = words.next().is_some_and(|word| word == "1");
    let rule = words.next().and_then(|word| word.parse().ok());
    let unit = words.next().and_then(unit_of_key);
    let outcome = outcome(*state.first()?, *state.get(1)?, status, response.is_some());
    // an answer that HAProxy made up itself is none of the server's
    let status = if outcome == Outcome::Unreachable { 0 } else { status };
    let latency = response.map(|response| response + connect.unwrap_or_default());
    Some(Line { pid, server, status, outcome, retries, latency, total, synthetic, rule, unit })
}

fn millis(word: &str) -> Option<Option<Duration>> {
    let number: i64 = word.parse().ok()?;
    Some(u64::try_from(number).ok().map(Duration::from_millis))
}

/// Section 8.5: who ended it, and in which phase.
fn outcome(who: u8, phase: u8, status: u16, has_answer: bool) -> Outcome {
    match (who, phase) {
        (b'C' | b'c', _) => Outcome::ClientGone,
        (b'-', _) if status >= 500 => Outcome::ServerError,
        (b'-', _) => Outcome::Ok,
        (_, b'D' | b'L') if has_answer => Outcome::Cut,
        _ => Outcome::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_who_answered_and_how_it_ended() {
        use Outcome::{ClientGone, Cut, Ok, ServerError, Unreachable};
        let cases = [
            ("7 segue:p:web web-1 200 -- 0 0 3 5 -", Some("web-1"), 200, Ok, Some(3)),
            ("7 segue:p:web web-1 503 -- 0 1 3 5 1", Some("web-1"), 503, ServerError, Some(4)),
            ("7 segue:p:web web-1 503 SC 3 -1 -1 3001 -", Some("web-1"), 0, Unreachable, None),
            ("7 segue:p:web web-1 502 SH 0 0 -1 5 -", Some("web-1"), 0, Unreachable, None),
            ("7 segue:p:web web-1 504 sH 0 0 -1 5 -", Some("web-1"), 0, Unreachable, None),
            ("7 segue:p:web web-1 200 SD 0 0 2 +90 -", Some("web-1"), 200, Cut, Some(2)),
            ("7 segue:p:web web-1 200 CD 0 0 2 90 -", Some("web-1"), 200, ClientGone, Some(2)),
            ("7 segue:p:web web-1 -1 CH 0 0 -1 90 -", Some("web-1"), 0, ClientGone, None),
            ("7 segue:p:web web-1 101 -- 0 0 2 90000 -", Some("web-1"), 101, Ok, Some(2)),
            ("7 segue:p:web web-1 502 PH 0 0 -1 2 -", Some("web-1"), 0, Unreachable, None),
            ("7 segue::shape:1 <NOSRV> 404 LR 0 -1 -1 0 -", None, 0, Unreachable, None),
        ];
        for (text, server, status, outcome, latency) in cases {
            let read = line(text).unwrap();
            assert_eq!((read.rule, line(&format!("{text} 3")).unwrap().rule), (None, Some(3)));
            let of_client = line(&format!("{text} - 00000000000000070123456789abcdef")).unwrap();
            assert_eq!((read.unit, of_client.unit, of_client.rule), (None, Some(7), None));
            assert_eq!((read.server.as_deref(), read.status, read.outcome), (server, status, outcome), "{text}");
            assert_eq!(read.latency, latency.map(Duration::from_millis), "{text}");
        }
        let retried = line("7 segue:p:web web-2 200 -- +2 0 3 5 1").unwrap();
        assert_eq!((retried.retries, retried.synthetic, retried.pid), (2, true, 7));
    }

    #[test]
    fn what_is_no_line_is_none() {
        for text in ["", "7", "x segue:p:web web-1 200 -- 0 0 3 5 -", "7 b s 200 - 0 0 3 5 -", "7 b s 200 -- x 0 3 5 -"]
        {
            assert_eq!(line(text), None, "{text}");
        }
    }
}
