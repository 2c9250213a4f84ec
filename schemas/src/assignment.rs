//! How the requests of one service are assigned to one of two releases while both have traffic.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::id::ReleaseId;

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
