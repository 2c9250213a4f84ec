//! Which of two releases a request is assigned to by what it carries.

use http::{
    HeaderMap,
    header::{COOKIE, HeaderValue},
};
use rand::Rng as _;
use segue_schemas::assignment::{KEY_DIGITS, Key, ReleaseRule, Side, Sticky, Test, unit_of_key};

/// The first rule that a request with these headers matches, and where that sends it.
#[must_use]
pub fn first_match(rules: &[ReleaseRule], headers: &HeaderMap) -> Option<(u8, Side)> {
    let matching = rules.iter().position(|rule| matches(rule, headers))?;
    Some((u8::try_from(matching).ok()?, rules[matching].to))
}

/// A client that keeps its release, known by the key in its cookie. The key is nothing but random: whoever makes one up is drawn by it as by any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    key: u128,
    /// Whether it came without a key, so that it is to be told the one that was drawn.
    pub is_new: bool,
}

impl Client {
    /// The client of a request with these headers: a new one, where it brings nothing that is a key.
    #[must_use]
    pub fn of(sticky: &Sticky, headers: &HeaderMap) -> Self {
        let brought = cookies(headers, &sticky.cookie).find_map(|value| {
            let value = std::str::from_utf8(value).ok().filter(|value| unit_of_key(value).is_some())?;
            u128::from_str_radix(value, 16).ok()
        });
        Self { key: brought.unwrap_or_else(|| rand::rng().random()), is_new: brought.is_none() }
    }

    /// As it stands in the cookie.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{:0KEY_DIGITS$x}", self.key)
    }

    /// By which the judge knows it; see [`unit_of_key`].
    #[must_use]
    pub const fn unit(&self) -> u64 {
        (self.key >> 64) as u64
    }

    /// A number that is the same whenever this client comes in the rollout of `release`, and spread evenly over all clients. With another
    /// release it is another, so that it is not always the same who come first.
    #[must_use]
    pub fn draw(&self, release: i64) -> u64 {
        let (high, low) = (self.unit(), self.key as u64);
        mix(mix(mix(low) ^ high) ^ release.cast_unsigned())
    }
}

/// A step of SplitMix64 (Steele, Lea and Flood, 2014): spreads keys that are not random.
const fn mix(key: u64) -> u64 {
    let mut key = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
    key = (key ^ key >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    key = (key ^ key >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    key ^ key >> 31
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
    use proptest::prelude::*;

    use super::*;
    use crate::proxy::table::Share;

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

    fn sticky() -> Sticky {
        serde_json::from_str(r#"{"cookie":"c"}"#).unwrap()
    }

    fn share(canary: u32, stable: u32) -> Share {
        Share { canary: canary.into(), all: u64::from(canary) + u64::from(stable) }
    }

    #[test]
    fn a_client_is_who_it_says_and_a_new_one_where_that_is_no_key() {
        let key = "00000000000000070123456789abcdef";
        let of = |cookie: &'static str| Client::of(&sticky(), &headers(&[("cookie", cookie)]));
        for cookie in [
            "c=00000000000000070123456789abcdef",
            "a=b; c=00000000000000070123456789abcdef;d=e",
            "c=forged; c=00000000000000070123456789abcdef",
        ] {
            let client = of(cookie);
            assert_eq!((client.key().as_str(), client.unit(), client.is_new), (key, 7, false), "{cookie}");
        }
        for cookie in ["", "c=", "c=canary", "C=00000000000000070123456789abcdef", "c=00000000000000070123456789ABCDEF"]
        {
            let (one, other) = (of(cookie), of(cookie));
            assert!(one.is_new && one.key() != other.key(), "{cookie}");
            assert_eq!(unit_of_key(&one.key()), Some(one.unit()));
        }
    }

    proptest! {
        #[test]
        fn a_share_that_grows_sends_nobody_back(
            key: u128,
            release: i64,
            (mut one, mut other) in ((1_u32..1000, 1_u32..1000), (1_u32..1000, 1_u32..1000)),
        ) {
            // by the quotients, whatever the weights are
            if u64::from(one.0) * u64::from(other.1) > u64::from(other.0) * u64::from(one.1) {
                std::mem::swap(&mut one, &mut other);
            }
            let draw = Client { key, is_new: false }.draw(release);
            let (small, large) = (share(one.0, one.1), share(other.0, other.1));
            prop_assert!(!small.includes(draw) || large.includes(draw));
            for parts in [200, 10_000] {
                prop_assert!(small.in_parts(parts) <= large.in_parts(parts));
                prop_assert!((1..parts).contains(&small.in_parts(parts)));
            }
        }

        #[test]
        fn the_share_of_clients_is_what_was_asked_for_whatever_their_keys_are(
            first: u128, step in prop_oneof![Just(1_u128), Just(1 << 64), any::<u128>().prop_map(|step| step | 1)], release in 1_i64..1_000_000,
        ) {
            const CLIENTS: u32 = 10_000;
            let drawn = |release: i64, percent: u32| {
                let clients = (0..CLIENTS).map(|n| Client { key: first.wrapping_add(step.wrapping_mul(n.into())), is_new: false });
                clients.map(|client| share(percent, 100 - percent).includes(client.draw(release))).collect::<Vec<_>>()
            };
            for percent in [1, 10, 50, 99] {
                let wanted = f64::from(CLIENTS) * f64::from(percent) / 100.0;
                let (one, next) = (drawn(release, percent), drawn(release + 1, percent));
                let count = one.iter().filter(|is_canary| **is_canary).count() as f64;
                // six standard deviations: it does not happen by chance
                let spread = 6.0 * (wanted * f64::from(100 - percent) / 100.0).sqrt();
                prop_assert!((count - wanted).abs() < spread, "{percent} %: {count} of {CLIENTS}");
                // and the next rollout draws others
                let both = one.iter().zip(&next).filter(|(one, next)| **one && **next).count() as f64;
                let by_chance = wanted * f64::from(percent) / 100.0;
                prop_assert!((both - by_chance).abs() < 6.0 * by_chance.sqrt() + 6.0, "{percent} %: {both} in both");
            }
        }
    }
}
