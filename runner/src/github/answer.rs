//! What an answer of GitHub means: <https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api> and
//! <https://docs.github.com/en/rest/using-the-rest-api/troubleshooting-the-rest-api>.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use serde_json::Value;

/// The longest wait that is believed.
const LONGEST_WAIT: Duration = Duration::from_secs(2 * 3600);
/// How long to wait at a limit that says nothing of it.
const UNTOLD_WAIT: Duration = Duration::from_secs(60);
/// Characters of what it says that are shown.
const MESSAGE_CHARS: usize = 300;

/// An answer that is no refusal.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status: 2xx, or 304.
    pub status: StatusCode,
    /// The body; `Null` where there is none.
    pub body: Value,
    /// The address of the next page of a list.
    pub next: Option<String>,
    /// By which GitHub knows the answer again.
    pub etag: Option<String>,
}

/// What an answer comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Meaning {
    Good,
    /// The token is worth nothing.
    Unauthorized,
    /// Nothing more for so long; whether it said so itself.
    Limited {
        wait: Duration,
        is_told: bool,
    },
    /// It can't now.
    Away,
    /// It may not be done with this token.
    Forbidden,
    /// It says no.
    Refused,
}

/// Reads status and headers; `now` in seconds of GitHub's clock since 1970.
pub(super) fn meaning(status: StatusCode, headers: &HeaderMap, message: &str, now: i64) -> Meaning {
    // the second is said only to who asked for it
    if status.is_success() || status == StatusCode::NOT_MODIFIED {
        return Meaning::Good;
    }
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<i64>().ok();
    let told = |seconds: i64| {
        let wait = Duration::from_secs(u64::try_from(seconds.max(1)).unwrap_or(1)).min(LONGEST_WAIT);
        Meaning::Limited { wait, is_told: true }
    };
    match status {
        StatusCode::UNAUTHORIZED => Meaning::Unauthorized,
        StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS => {
            if let Some(seconds) = number("retry-after") {
                return told(seconds);
            }
            if number("x-ratelimit-remaining") == Some(0) {
                // the reset's own second is not over when it comes
                return told(number("x-ratelimit-reset").map_or(60, |reset| reset - now + 1));
            }
            let is_limit = status == StatusCode::TOO_MANY_REQUESTS || message.to_lowercase().contains("rate limit");
            if is_limit { Meaning::Limited { wait: UNTOLD_WAIT, is_told: false } } else { Meaning::Forbidden }
        }
        StatusCode::REQUEST_TIMEOUT => Meaning::Away,
        _ if status.is_server_error() => Meaning::Away,
        _ => Meaning::Refused,
    }
}

/// What a refusal says, for people: the message and the fields that it is about. A page is left out.
pub(super) fn message(body: &Value, status: StatusCode) -> String {
    let Some(said) = body["message"].as_str() else { return status.to_string() };
    let mut text = said.to_owned();
    for error in body["errors"].as_array().into_iter().flatten().take(3) {
        let part = |field: &str| error[field].as_str().unwrap_or_default();
        match error.as_str() {
            Some(error) => text.push_str(&format!("; {error}")),
            None => text.push_str(&format!("; {} {} {}", part("field"), part("code"), part("message"))),
        }
    }
    text.chars().take(MESSAGE_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The next page of `link`. <https://docs.github.com/en/rest/using-the-rest-api/using-pagination-in-the-rest-api>
pub(super) fn next_page(headers: &HeaderMap) -> Option<String> {
    let links = headers.get("link")?.to_str().ok()?;
    let next = links.split(',').find(|link| link.contains("rel=\"next\""))?;
    let (_, rest) = next.split_once('<')?;
    Some(rest.split_once('>')?.0.to_owned())
}

/// By which GitHub knows an answer again; one that would be unbounded is none.
pub(super) fn etag_of(headers: &HeaderMap) -> Option<String> {
    let etag = headers.get("etag")?.to_str().ok()?;
    (etag.len() <= 200).then(|| etag.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn limits_are_told_from_refusals_and_say_how_long() {
        let limited = |seconds, is_told| Meaning::Limited { wait: Duration::from_secs(seconds), is_told };
        type Headers<'c> = &'c [(&'static str, &'c str)];
        let cases: [(u16, Headers, &str, Meaning); 13] = [
            (201, &[], "", Meaning::Good),
            (304, &[], "", Meaning::Good),
            (401, &[], "Bad credentials", Meaning::Unauthorized),
            (403, &[("retry-after", "30")], "You have exceeded a secondary rate limit", limited(30, true)),
            (429, &[("retry-after", "0")], "", limited(1, true)),
            (
                403,
                &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1100")],
                "API rate limit",
                limited(101, true),
            ),
            (403, &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "900")], "", limited(1, true)),
            (403, &[("retry-after", "999999999")], "", limited(7200, true)),
            (
                403,
                &[("x-ratelimit-remaining", "4999")],
                "You have exceeded a secondary rate limit.",
                limited(60, false),
            ),
            (429, &[], "", limited(60, false)),
            (403, &[("x-ratelimit-remaining", "4999")], "Resource not accessible by integration", Meaning::Forbidden),
            (502, &[], "", Meaning::Away),
            (422, &[("retry-after", "3")], "Validation Failed", Meaning::Refused),
        ];
        for (status, pairs, message, wanted) in cases {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(meaning(status, &headers(pairs), message, 1000), wanted, "{status} {pairs:?} {message}");
        }
    }

    #[test]
    fn a_refusal_names_its_fields_and_a_page_is_not_shown() {
        let body =
            json!({"message": "Validation Failed", "errors": [{"field": "name", "code": "missing_field"}, "a\nb"]});
        assert_eq!(message(&body, StatusCode::UNPROCESSABLE_ENTITY), "Validation Failed; name missing_field ; a b");
        assert_eq!(message(&Value::Null, StatusCode::BAD_GATEWAY), "502 Bad Gateway");
    }

    #[test]
    fn the_next_page_is_found_among_links() {
        let link = "<https://a/pulls?page=1>; rel=\"prev\", <https://a/pulls?page=3>; rel=\"next\"";
        assert_eq!(next_page(&headers(&[("link", link)])).as_deref(), Some("https://a/pulls?page=3"));
        assert_eq!(next_page(&headers(&[("link", "<https://a>; rel=\"last\"")])), None);
    }
}
