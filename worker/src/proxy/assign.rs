//! Which of two releases a request is assigned to by what it carries.

use http::{
    HeaderMap,
    header::{COOKIE, HeaderValue},
};
use segue_schemas::assignment::{Key, ReleaseRule, Side, Test};

/// The first rule that a request with these headers matches, and where that sends it.
#[must_use]
pub fn first_match(rules: &[ReleaseRule], headers: &HeaderMap) -> Option<(u8, Side)> {
    let matching = rules.iter().position(|rule| matches(rule, headers))?;
    Some((u8::try_from(matching).ok()?, rules[matching].to))
}

fn matches(rule: &ReleaseRule, headers: &HeaderMap) -> bool {
    let Ok((place, test)) = rule.parts() else { return false };
    match place {
        Key::Header(name) => headers.get(name).is_some_and(|value| holds(test, value.as_bytes())),
        Key::Cookie(name) => cookies(headers, name).any(|value| holds(test, value)),
    }
}

fn holds(test: Test<'_>, value: &[u8]) -> bool {
    match test {
        Test::Equals(wanted) => value == wanted.as_bytes(),
        Test::Prefix(wanted) => value.starts_with(wanted.as_bytes()),
        Test::Present => !value.is_empty(),
    }
}

/// The values of every cookie of a name (RFC 6265, section 5.4).
fn cookies<'h>(headers: &'h HeaderMap, name: &'h str) -> impl Iterator<Item = &'h [u8]> {
    let pairs = headers.get_all(COOKIE).iter().flat_map(|line: &HeaderValue| line.as_bytes().split(|b| *b == b';'));
    pairs.filter_map(move |pair| {
        let at = pair.iter().position(|b| *b == b'=')?;
        (pair[..at].trim_ascii() == name.as_bytes()).then(|| pair[at + 1..].trim_ascii())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> ReleaseRule {
        serde_json::from_str(text).unwrap()
    }

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn the_first_rule_that_matches_counts() {
        let rules = [
            rule(r#"{"header":"X-Release","equals":"stable","to":"stable"}"#),
            rule(r#"{"header":"x-release","prefix":"can","to":"canary"}"#),
            rule(r#"{"cookie":"beta","equals":"1","to":"canary"}"#),
            rule(r#"{"cookie":"any","present":true,"to":"stable"}"#),
        ];
        type Lines = &'static [(&'static str, &'static str)];
        let cases: [(Lines, Option<u8>); 12] = [
            (&[], None),
            (&[("x-release", "stable")], Some(0)),
            (&[("x-release", "Stable")], None),
            (&[("x-release", "canary"), ("cookie", "beta=1")], Some(1)),
            (&[("cookie", "a=b; beta=1; c=d")], Some(2)),
            (&[("cookie", "beta=2;beta=1")], Some(2)),
            (&[("cookie", "Beta=1")], None),
            (&[("cookie", "xbeta=1; beta=11")], None),
            (&[("cookie", "any=")], None),
            (&[("cookie", "any")], None),
            (&[("cookie", "any=x=y")], Some(3)),
            (&[("cookie", "x=1"), ("cookie", "any=0")], Some(3)),
        ];
        for (lines, wanted) in cases {
            assert_eq!(first_match(&rules, &headers(lines)).map(|(rule, _)| rule), wanted, "{lines:?}");
        }
    }
}
