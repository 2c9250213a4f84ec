//! Lines of nginx's access log and error log: how each attempt of a request ended.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use segue_schemas::{assignment::unit_of_key, deploy::Outcome};
use serde::Deserialize;

/// Connections that are remembered to have been broken off by the service until their access line comes, which is the next thing.
const REMEMBERED: usize = 256;

/// One attempt of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attempt {
    /// Where.
    pub(super) address: SocketAddr,
    /// The status; 0 without an answer.
    pub(super) status: u16,
    /// How it ended.
    pub(super) outcome: Outcome,
    /// To the head of the answer; `None` without one.
    pub(super) latency: Option<Duration>,
    /// To its end.
    pub(super) time: Duration,
}

/// A request that was given to a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// The name of the file by which it was given.
    pub(super) era: String,
    /// Its attempts in their order.
    pub(super) attempts: Vec<Attempt>,
    /// Declared synthetic.
    pub(super) synthetic: bool,
    /// The service's rule by which it went there.
    pub(super) rule: Option<u8>,
    /// The client, where each keeps its release.
    pub(super) unit: Option<u64>,
}

/// The form of a line, all of it text.
#[derive(Deserialize)]
struct Fields {
    era: String,
    connection: String,
    upstream: String,
    status: String,
    header: String,
    time: String,
    answered: String,
    complete: String,
    synthetic: String,
    #[serde(default)]
    rule: String,
    #[serde(default)]
    unit: String,
}

/// Reads the lines in the order in which they come.
#[derive(Debug, Default)]
pub(super) struct Reader {
    broken: VecDeque<String>,
}

impl Reader {
    /// Reads what follows the mark.
    pub(super) fn read(&mut self, text: &str) -> Option<Line> {
        let text = text.trim_start_matches(':').trim();
        if text.starts_with('{') {
            return self.access(&serde_json::from_str(text).ok()?);
        }
        self.error(text);
        None
    }

    /// The access log does not say who broke an answer off. The error log does, just before, where that was the service:
    /// `2026/11/22 12:00:00 [error] 7#7: *42 upstream prematurely closed connection while reading upstream, client: ...`
    fn error(&mut self, text: &str) {
        let said = text.split(", client:").next().unwrap_or_default();
        let Some((_, said)) = said.split_once(" *") else { return };
        let Some((connection, what)) = said.split_once(' ') else { return };
        if what.ends_with("while reading upstream") {
            if self.broken.len() == REMEMBERED {
                self.broken.pop_front();
            }
            self.broken.push_back(connection.to_owned());
        }
    }

    fn access(&mut self, fields: &Fields) -> Option<Line> {
        let was_broken = self.broken.iter().position(|connection| *connection == fields.connection);
        if let Some(index) = was_broken {
            self.broken.remove(index);
        }
        // one entry for each server that was tried (nginx.org, ngx_http_upstream_module, `$upstream_addr`)
        let list = |text: &'_ str| text.split([',', ':']).map(|word| word.trim().to_owned()).collect::<Vec<_>>();
        let addresses: Vec<&str> = fields.upstream.split(", ").flat_map(|word| word.split(" : ")).collect();
        let (statuses, headers, times) = (list(&fields.status), list(&fields.header), list(&fields.time));
        let last = addresses.len() - 1;
        let attempts = addresses.iter().enumerate().filter_map(|(index, address)| {
            let address = address.trim().parse().ok()?;
            let latency = headers.get(index).and_then(|word| seconds(word));
            let time = times.get(index).and_then(|word| seconds(word)).unwrap_or_default();
            let status: u16 = statuses.get(index).and_then(|word| word.parse().ok()).unwrap_or(0);
            // what the service breaks off may be complete by nginx's count
            let is_broken = index == last && was_broken.is_some();
            let is_whole = index < last || fields.complete == "OK" || status == 101;
            let outcome = match latency {
                None if index == last && fields.answered == "499" => Outcome::ClientGone,
                None => Outcome::Unreachable,
                Some(_) if is_broken => Outcome::Cut,
                Some(_) if !is_whole => Outcome::ClientGone,
                Some(_) if status >= 500 => Outcome::ServerError,
                Some(_) => Outcome::Ok,
            };
            // a status that nginx made up itself is none of the service's
            let status = if latency.is_some() { status } else { 0 };
            Some(Attempt { address, status, outcome, latency, time })
        });
        let attempts: Vec<Attempt> = attempts.collect();
        let synthetic = fields.synthetic == "1";
        let rule = fields.rule.parse().ok();
        let unit = unit_of_key(&fields.unit).filter(|_| rule.is_none());
        (!attempts.is_empty()).then(|| Line { era: fields.era.clone(), attempts, synthetic, rule, unit })
    }
}

fn seconds(word: &str) -> Option<Duration> {
    word.parse::<f64>().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(upstream: &str, status: &str, header: &str, answered: &str, complete: &str) -> String {
        format!(
            r#": {{"era":"e1","connection":"42","upstream":"{upstream}","status":"{status}","header":"{header}","time":"{header}","answered":"{answered}","complete":"{complete}","total":"0.009","synthetic":"1","rule":"2"}}"#
        )
    }

    const BROKEN: &str = ": 2026/11/22 12:00:00 [error] 7#7: *42 upstream prematurely closed connection while reading upstream, client: \
                          127.0.0.1, server: x, request: \"GET / HTTP/1.1\"";

    #[test]
    fn each_attempt_tells_how_it_ended() {
        use Outcome::{ClientGone, Cut, Ok, ServerError, Unreachable};
        let a = "127.0.0.1:4001";
        let both = "127.0.0.1:4001, 127.0.0.1:4002";
        type Shown<'a> = &'a [(u16, u16, Outcome)];
        let cases: [(&str, String, Shown<'_>); 11] = [
            ("", line(a, "200", "0.004", "200", "OK"), &[(4001, 200, Ok)]),
            ("", line(a, "503", "0.004", "503", "OK"), &[(4001, 503, ServerError)]),
            ("", line(both, "502, 200", "-, 0.004", "200", "OK"), &[(4001, 0, Unreachable), (4002, 200, Ok)]),
            ("", line(both, "502, 502", "-, -", "502", "OK"), &[(4001, 0, Unreachable), (4002, 0, Unreachable)]),
            ("", line(a, "-", "-", "499", ""), &[(4001, 0, ClientGone)]),
            ("", line(a, "200", "0.004", "200", ""), &[(4001, 200, ClientGone)]),
            (BROKEN, line(a, "200", "0.004", "200", ""), &[(4001, 200, Cut)]),
            (BROKEN, line(a, "200", "0.000", "200", "OK"), &[(4001, 200, Cut)]),
            (&BROKEN.replace("*42", "*43"), line(a, "200", "0.004", "200", ""), &[(4001, 200, ClientGone)]),
            (
                &BROKEN.replace("reading", "connecting to"),
                line(a, "200", "0.004", "200", ""),
                &[(4001, 200, ClientGone)],
            ),
            ("", line(a, "101", "0.004", "101", ""), &[(4001, 101, Ok)]),
        ];
        for (before, text, wanted) in cases {
            let mut reader = Reader::default();
            assert_eq!(reader.read(before), None);
            let read = reader.read(&text).unwrap();
            let shown: Vec<_> = read.attempts.iter().map(|a| (a.address.port(), a.status, a.outcome)).collect();
            assert_eq!(shown, wanted, "{text}");
            assert!(read.synthetic && read.era == "e1" && read.rule == Some(2) && read.unit.is_none());
            // nobody was drawn by the key of a request that went by a rule
            for (rule, unit) in [("", Some(7)), ("2", None)] {
                let fields = format!(r#""rule":"{rule}","unit":"00000000000000070123456789abcdef""#);
                let of_client = Reader::default().read(&text.replace(r#""rule":"2""#, &fields)).unwrap();
                assert_eq!(of_client.unit, unit);
            }
        }
    }

    #[test]
    fn what_came_to_no_service_is_none_and_a_request_can_not_pretend_to_be_an_error() {
        let mut reader = Reader::default();
        for text in ["", "{", "{}", &line("-", "-", "-", "404", "OK"), &line("segue_0_1", "502", "-", "502", "OK")] {
            assert_eq!(reader.read(text), None, "{text}");
        }
        reader.read(
            &BROKEN
                .replace("upstream prematurely closed connection while reading upstream", "x")
                .replace("GET / HTTP/1.1", "GET / *42 while reading upstream"),
        );
        assert!(reader.broken.is_empty());
        (0..2 * REMEMBERED).for_each(|_| assert_eq!(reader.read(BROKEN), None));
        assert_eq!(reader.broken.len(), REMEMBERED);
    }
}
