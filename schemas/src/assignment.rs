//! How the requests of one service are assigned to one of two releases while both have traffic.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{duration::Span, id::ReleaseId};

/// The most rules of a service.
pub const MAX_RULES: usize = 16;

/// The longest name of a header or cookie in a rule, in bytes.
pub const MAX_RULE_NAME: usize = 64;

/// The longest value in a rule, in bytes.
pub const MAX_RULE_VALUE: usize = 128;

/// One of two releases that have traffic side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// The new one.
    Canary,
    /// The one before.
    Stable,
}

impl Side {
    /// As it is written in a service's file.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Canary => "canary",
            Self::Stable => "stable",
        }
    }
}

/// Sends requests that carry a header or a cookie to one of two releases while both have traffic, whatever their weights. Exactly one of
/// `header` and `cookie`, and one of `equals`, `prefix` and `present`. The first rule that matches counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ReleaseRule {
    /// The name of a header, in letters, digits and `-`; upper and lower case are the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub header: Option<String>,
    /// The name of a cookie, in letters, digits, `-` and `_`; upper and lower case are not the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub cookie: Option<String>,
    /// The whole value, in the very letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub equals: Option<String>,
    /// What the value begins with, in the very letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub prefix: Option<String>,
    /// With `true`: any value that is not empty.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub present: bool,
    /// Where such requests go.
    pub to: Side,
}

/// Keeps each client at one release while two have traffic, by a cookie: which one it is follows from the key in it, so that a client goes over
/// once, when the new release's share comes to include it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Sticky {
    /// The cookie's name, in letters, digits, `-` and `_`.
    #[schemars(length(min = 1, max = 64))]
    pub cookie: String,
    /// How long a client keeps it, from when it was drawn; from a day to 400 days. It should outlast a rollout.
    #[serde(default = "default_max_age")]
    pub max_age: Span,
}

fn default_max_age() -> Span {
    Span::seconds(30 * 24 * 3600)
}

impl Sticky {
    /// Whether every router can carry it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), RuleProblem> {
        if !is_word(&self.cookie, b"-_") {
            let message = format!("`{}` cannot name a cookie that clients are known by", self.cookie);
            return problem("cookie", message, "use 1 to 64 letters, digits, `-` and `_`");
        }
        let begins_with =
            |prefix: &str| self.cookie.get(..prefix.len()).is_some_and(|p| p.eq_ignore_ascii_case(prefix));
        if begins_with("__Host-") || begins_with("__Secure-") {
            let message = format!("browsers drop a cookie `{}` that comes without TLS", self.cookie);
            return problem("cookie", message, "use a name that does not begin with `__Host-` or `__Secure-`");
        }
        if !(24 * 3600..=400 * 24 * 3600).contains(&self.max_age.0.as_secs()) {
            // in the unit in which the limits are told
            let seconds = self.max_age.0.as_secs();
            let age =
                if seconds < 24 * 3600 { self.max_age.to_string() } else { format!("{} days", seconds / (24 * 3600)) };
            let message = format!("a client can't keep a cookie for {age}");
            return problem(
                "max-age",
                message,
                "write a duration from `1d` to `400d`: it should outlast a rollout, and browsers keep none longer",
            );
        }
        Ok(())
    }

    /// What stands behind the key in a `Set-Cookie` (RFC 6265, section 4.1). `is_secure`: it is sent back over TLS alone.
    #[must_use]
    pub fn attributes(&self, is_secure: bool) -> String {
        let secure = if is_secure { SECURE } else { "" };
        format!("Path=/; Max-Age={}; HttpOnly; SameSite=Lax{secure}", self.max_age.0.as_secs())
    }
}

/// What a cookie ends with that is sent back over TLS alone.
pub const SECURE: &str = "; Secure";

/// How many digits in hexadecimal, small ones, the key in a client's cookie has.
pub const KEY_DIGITS: usize = 32;

/// The unit by which the judge knows the client with this key; `None`: it is no key.
#[must_use]
pub fn unit_of_key(key: &str) -> Option<u64> {
    let is_key = key.len() == KEY_DIGITS && key.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if is_key { u64::from_str_radix(key.get(..16)?, 16).ok() } else { None }
}

/// What a rule looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key<'a> {
    /// The first header of this name.
    Header(&'a str),
    /// Every cookie of this name.
    Cookie(&'a str),
}

/// What it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Test<'a> {
    /// This.
    Equals(&'a str),
    /// This at its beginning.
    Prefix(&'a str),
    /// Anything but empty.
    Present,
}

/// What is wrong with a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleProblem {
    /// The key in the rule.
    pub key: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to write.
    pub help: &'static str,
}

impl ReleaseRule {
    /// What it looks at, and for what.
    ///
    /// # Errors
    /// The rule is no rule, or says what not every router can look for.
    pub fn parts(&self) -> Result<(Key<'_>, Test<'_>), RuleProblem> {
        Ok((self.key()?, self.test()?))
    }

    /// Whether two rules match the same requests.
    #[must_use]
    pub fn is_same_match(&self, other: &Self) -> bool {
        let header = |rule: &Self| rule.header.as_ref().map(|name| name.to_ascii_lowercase());
        header(self) == header(other)
            && (&self.cookie, &self.equals, &self.prefix, self.present)
                == (&other.cookie, &other.equals, &other.prefix, other.present)
    }

    /// As people read it: `header x-release = canary`.
    #[must_use]
    pub fn words(&self) -> String {
        let (place, name) = match (&self.header, &self.cookie) {
            (Some(name), _) => ("header", name.as_str()),
            (None, name) => ("cookie", name.as_deref().unwrap_or_default()),
        };
        match (&self.equals, &self.prefix) {
            (Some(value), _) => format!("{place} {name} = {value}"),
            (None, Some(value)) => format!("{place} {name} = {value}..."),
            (None, None) => format!("{place} {name}"),
        }
    }

    fn key(&self) -> Result<Key<'_>, RuleProblem> {
        match (&self.header, &self.cookie) {
            (Some(name), None) => match is_word(name, b"-") {
                true => Ok(Key::Header(name)),
                false => {
                    let message = format!("`{name}` cannot name a header that a rule looks at");
                    problem(
                        "header",
                        message,
                        "use 1 to 64 letters, digits and `-`: some routers drop headers with others",
                    )
                }
            },
            (None, Some(name)) => match is_word(name, b"-_") {
                true => Ok(Key::Cookie(name)),
                false => {
                    let message = format!("`{name}` cannot name a cookie that a rule looks at");
                    problem("cookie", message, "use 1 to 64 letters, digits, `-` and `_`")
                }
            },
            (Some(_), Some(_)) => problem(
                "cookie",
                "a rule looks at a header or at a cookie, and this one at both".into(),
                "write two rules",
            ),
            (None, None) => problem(
                "to",
                "the rule says neither `header` nor `cookie`".into(),
                "name what it looks at: `header: x-release`",
            ),
        }
    }

    fn test(&self) -> Result<Test<'_>, RuleProblem> {
        let checked = |key, value: &str, is_cookie: bool| match value_problem(value, is_cookie) {
            None => Ok(()),
            Some(what) => problem(
                key,
                format!("the value {value:?} can't be looked for: {what}"),
                "write 1 to 128 printable ASCII characters, without a space at either end, in a cookie without spaces, `\"`, `,`, `;` and `\\`",
            ),
        };
        match (&self.equals, &self.prefix, self.present) {
            (Some(value), None, false) => checked("equals", value, self.cookie.is_some()).map(|()| Test::Equals(value)),
            (None, Some(value), false) => checked("prefix", value, self.cookie.is_some()).map(|()| Test::Prefix(value)),
            (None, None, true) => Ok(Test::Present),
            (None, None, false) => problem(
                "to",
                "the rule does not say which value it looks for".into(),
                "write one of `equals: VALUE`, `prefix: BEGINNING` and `present: true`",
            ),
            _ => problem(
                "to",
                "the rule says more than one of `equals`, `prefix` and `present`".into(),
                "leave one; for several values write several rules",
            ),
        }
    }
}

fn problem<T>(key: &'static str, message: String, help: &'static str) -> Result<T, RuleProblem> {
    Err(RuleProblem { key, message, help })
}

/// Whether a text is a token (RFC 9110, section 5.6.2) of letters, digits and `others`.
fn is_word(text: &str, others: &[u8]) -> bool {
    (1..=MAX_RULE_NAME).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || others.contains(&b))
}

/// A header's value has no spaces at its ends (RFC 9110, section 5.5), a cookie's is of `cookie-octet` (RFC 6265, section 4.1.1).
fn value_problem(value: &str, is_cookie: bool) -> Option<&'static str> {
    if value.is_empty() {
        Some("it is empty")
    } else if value.len() > MAX_RULE_VALUE {
        Some("it is too long")
    } else if !value.bytes().all(|b| (b' '..=b'~').contains(&b)) {
        Some("not all of it is printable ASCII")
    } else if value.trim() != value {
        Some("no value begins or ends with a space")
    } else if is_cookie && value.bytes().any(|b| matches!(b, b' ' | b'"' | b',' | b';' | b'\\')) {
        Some("no cookie's value has such characters")
    } else {
        None
    }
}

/// How a route's requests are assigned to its releases.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The new release, of two; `None`: requests go by weight alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<ReleaseId>,
    /// What goes before the weights.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<ReleaseRule>,
    /// By what clients keep theirs; `None`: each request is drawn anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky: Option<Sticky>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> ReleaseRule {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_rule_says_what_it_looks_at() {
        let header = rule(r#"{"header":"X-Release","equals":"a \"b\" $c","to":"canary"}"#);
        assert_eq!(header.parts().unwrap(), (Key::Header("X-Release"), Test::Equals("a \"b\" $c")));
        assert_eq!(header.words(), "header X-Release = a \"b\" $c");
        let cookie = rule(r#"{"cookie":"beta_1","prefix":"v","to":"stable"}"#);
        assert_eq!(cookie.parts().unwrap(), (Key::Cookie("beta_1"), Test::Prefix("v")));
        assert_eq!(cookie.words(), "cookie beta_1 = v...");
        let any = rule(r#"{"cookie":"beta","present":true,"to":"canary"}"#);
        assert_eq!((any.parts().unwrap(), any.words()), ((Key::Cookie("beta"), Test::Present), "cookie beta".into()));
    }

    #[test]
    fn a_cookie_has_a_name_and_an_age_that_every_router_and_browser_takes() {
        let sticky = |text: &str| serde_json::from_str::<Sticky>(text).unwrap();
        let too_old = sticky(r#"{"cookie":"a","max-age":"401d"}"#).check().unwrap_err();
        assert_eq!(too_old.message, "a client can't keep a cookie for 401 days");
        let usual = sticky(r#"{"cookie":"segue-client"}"#);
        assert_eq!(usual.attributes(false), "Path=/; Max-Age=2592000; HttpOnly; SameSite=Lax");
        assert_eq!(
            sticky(r#"{"cookie":"a_1","max-age":"1d"}"#).attributes(true).split_once("; ").unwrap().1,
            "Max-Age=86400; HttpOnly; SameSite=Lax; Secure"
        );
        let cases = [
            (r#"{"cookie":"a_1","max-age":"400d"}"#, Ok(())),
            (r#"{"cookie":"a b"}"#, Err("cookie")),
            (r#"{"cookie":""}"#, Err("cookie")),
            (r#"{"cookie":"a;b"}"#, Err("cookie")),
            (r#"{"cookie":"__host-a"}"#, Err("cookie")),
            (r#"{"cookie":"__Secure-a"}"#, Err("cookie")),
            (r#"{"cookie":"_Host-a","max-age":"1d"}"#, Ok(())),
            (r#"{"cookie":"a","max-age":"23h"}"#, Err("max-age")),
            (r#"{"cookie":"a","max-age":"401d"}"#, Err("max-age")),
        ];
        for (text, wanted) in cases {
            assert_eq!(sticky(text).check().map_err(|problem| problem.key), wanted, "{text}");
        }
    }

    #[test]
    fn a_key_is_small_hexadecimal_digits_and_nothing_else() {
        assert_eq!(unit_of_key("00000000000000ff0123456789abcdef"), Some(255));
        let long = "0".repeat(KEY_DIGITS + 1);
        for text in
            ["", "canary", "0000", "00000000000000FF0123456789abcdef", "+0000000000000ff0123456789abcdef", &long]
        {
            assert_eq!(unit_of_key(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_no_rule_is_named_by_its_key() {
        let long = "x".repeat(129);
        let cases = [
            (r#"{"equals":"a","to":"canary"}"#.to_owned(), "to"),
            (r#"{"header":"a","cookie":"b","equals":"a","to":"canary"}"#.into(), "cookie"),
            (r#"{"header":"a b","equals":"a","to":"canary"}"#.into(), "header"),
            (r#"{"header":"a_b","equals":"a","to":"canary"}"#.into(), "header"),
            (r#"{"header":"","equals":"a","to":"canary"}"#.into(), "header"),
            (r#"{"cookie":"a;b","equals":"a","to":"canary"}"#.into(), "cookie"),
            (r#"{"header":"a","to":"canary"}"#.into(), "to"),
            (r#"{"header":"a","equals":"a","present":true,"to":"canary"}"#.into(), "to"),
            (r#"{"header":"a","equals":"","to":"canary"}"#.into(), "equals"),
            (r#"{"header":"a","equals":" a","to":"canary"}"#.into(), "equals"),
            (r#"{"header":"a","prefix":"a\nb","to":"canary"}"#.into(), "prefix"),
            (r#"{"header":"a","equals":"ä","to":"canary"}"#.into(), "equals"),
            (r#"{"cookie":"a","equals":"a;b","to":"canary"}"#.into(), "equals"),
            (format!(r#"{{"header":"a","equals":"{long}","to":"canary"}}"#), "equals"),
        ];
        for (text, key) in cases {
            assert_eq!(rule(&text).parts().map_err(|problem| problem.key), Err(key), "{text}");
        }
    }
}
