//! Takes secrets out of a stream, wherever it is cut.
//!
//! What comes out depends on the bytes that went in and never on how they were split: a byte is let go only when no
//! secret that has begun before it or at it can still be completed. Overlapping secrets are covered as one.

use aho_corasick::{AhoCorasick, AhoCorasickBuilder, MatchKind};
use base64_forms::base64_forms;

/// What stands in a secret's place.
pub const MASK: &[u8] = b"***";
/// Parts of a secret (its lines, its encoded forms) shorter than this are no secrets by themselves: `}` ends many a file.
const SHORTEST_PART: usize = 5;
/// Longest text that is looked for; of a longer one, each line is.
const LONGEST_PATTERN: usize = 64 * 1024;

/// Takes secrets out of a stream.
#[derive(Debug, Default)]
pub struct Masker {
    patterns: Vec<Vec<u8>>,
    finder: Option<AhoCorasick>,
    longest: usize,
    /// Bytes that came in and were not let go.
    held: Vec<u8>,
    /// How many of the held bytes, from their start, belong to a secret whose mask was written already.
    covered: usize,
}

impl Masker {
    /// A masker for these secrets.
    #[must_use]
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let mut masker = Self::default();
        masker.add(secrets);
        masker
    }

    /// Masks these as well, from the next byte that is let go. Each is looked for as it is, trimmed, line by line, and in
    /// base64 (at each of the three places within a larger text), JSON and URL form.
    pub fn add<'a>(&mut self, secrets: impl IntoIterator<Item = &'a str>) {
        let before = self.patterns.len();
        for secret in secrets {
            self.patterns.extend(forms(secret));
        }
        self.patterns.sort_unstable();
        self.patterns.dedup();
        if self.patterns.len() == before {
            return;
        }
        self.longest = self.patterns.iter().map(Vec::len).max().unwrap_or(0);
        self.finder = AhoCorasickBuilder::new().match_kind(MatchKind::LeftmostLongest).build(&self.patterns).ok();
        if self.finder.is_none() {
            tracing::error!("the masks of this job are too large for one search; its log is withheld");
        }
    }

    /// Whether the text holds a secret.
    #[must_use]
    pub fn finds(&self, text: &str) -> bool {
        self.patterns.iter().any(|pattern| memchr::memmem::find(text.as_bytes(), pattern).is_some())
    }

    /// The same masks, with nothing held.
    #[must_use]
    pub fn without_held(&self) -> Self {
        let (patterns, finder) = (self.patterns.clone(), self.finder.clone());
        Self { patterns, finder, longest: self.longest, ..Self::default() }
    }

    /// The text without secrets.
    #[must_use]
    pub fn mask(&self, text: &str) -> String {
        let mut whole = self.without_held();
        let mut out = Vec::with_capacity(text.len());
        whole.push(text.as_bytes(), &mut out);
        whole.finish(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    /// Takes `input` in and lets go what can be let go.
    pub fn push(&mut self, input: &[u8], out: &mut Vec<u8>) {
        if self.patterns.is_empty() && self.held.is_empty() {
            out.extend_from_slice(input);
            return;
        }
        self.held.extend_from_slice(input);
        let certain = (self.held.len() + 1).saturating_sub(self.longest.max(1));
        self.let_go(certain, out);
    }

    /// Lets go everything that cannot be the beginning of a secret, for a reader who waits.
    pub fn release(&mut self, out: &mut Vec<u8>) {
        let from = (self.held.len() + 1).saturating_sub(self.longest.max(1));
        let uncertain = (from..self.held.len()).find(|&at| {
            let rest = &self.held[at..];
            self.patterns.iter().any(|pattern| pattern.len() > rest.len() && pattern.starts_with(rest))
        });
        self.let_go(uncertain.unwrap_or(self.held.len()), out);
    }

    /// Lets go everything: nothing follows.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        self.let_go(self.held.len(), out);
        self.held.clear();
        self.covered = 0;
    }

    /// Lets go the held bytes before `certain`. All secrets that begin there must be wholly held.
    fn let_go(&mut self, certain: usize, out: &mut Vec<u8>) {
        if certain == 0 {
            return;
        }
        let Some(finder) = &self.finder else {
            // Without patterns there is nothing to hold back; with patterns that can't be searched, everything.
            if self.patterns.is_empty() {
                out.extend_from_slice(&self.held[..certain]);
            }
            self.held.drain(..certain);
            return;
        };
        let mut covered = self.covered;
        let mut from = 0;
        while from < certain
            && let Some(found) = finder.find(aho_corasick::Input::new(&self.held).range(from..))
            && found.start() < certain
        {
            if found.start() >= covered {
                out.extend_from_slice(&self.held[covered..found.start()]);
                out.extend_from_slice(MASK);
            }
            covered = covered.max(found.end());
            from = found.start() + 1;
        }
        if covered < certain {
            out.extend_from_slice(&self.held[covered..certain]);
        }
        self.covered = covered.saturating_sub(certain);
        self.held.drain(..certain);
    }
}

/// Every form in which a secret is looked for.
fn forms(secret: &str) -> Vec<Vec<u8>> {
    let mut forms = Vec::new();
    let trimmed = secret.trim();
    if trimmed.is_empty() {
        return forms;
    }
    if secret.len() <= LONGEST_PATTERN {
        forms.push(secret.as_bytes().to_vec());
        forms.push(trimmed.as_bytes().to_vec());
    }
    let mut parts: Vec<Vec<u8>> = Vec::new();
    if trimmed.contains(['\n', '\r']) {
        parts.extend(trimmed.split(['\n', '\r']).map(|line| line.trim().as_bytes().to_vec()));
    }
    if secret.len() <= LONGEST_PATTERN / 2 {
        for text in [secret, trimmed] {
            parts.extend(base64_forms(text.as_bytes()));
            parts.push(json_form(text));
            parts.push(url_form(text));
        }
    }
    forms.extend(parts.into_iter().filter(|part| (SHORTEST_PART..=LONGEST_PATTERN).contains(&part.len())));
    forms
}

/// Within a JSON string (RFC 8259 section 7).
fn json_form(text: &str) -> Vec<u8> {
    let quoted = serde_json::Value::from(text).to_string();
    quoted.as_bytes()[1..quoted.len() - 1].to_vec()
}

/// Percent-encoded (RFC 3986 section 2.1), everything but unreserved characters.
fn url_form(text: &str) -> Vec<u8> {
    let mut form = Vec::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            form.push(byte);
        } else {
            form.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
    form
}

/// The base64 forms (RFC 4648 sections 4 and 5) of a text, alone or anywhere within a larger one that is encoded.
mod base64_forms {
    const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    /// Of the characters of each form, only those that depend on the text alone; at each of the three offsets that the
    /// text can have within a group of three bytes; in both alphabets.
    pub(super) fn base64_forms(text: &[u8]) -> Vec<Vec<u8>> {
        let mut forms = Vec::new();
        for offset in 0..3 {
            let mut shifted = vec![0; offset];
            shifted.extend_from_slice(text);
            let encoded = encode(&shifted);
            // Character n holds bits 6n to 6n+5.
            let first = (offset * 8).div_ceil(6);
            let last = shifted.len() * 8 / 6;
            if let Some(form) = encoded.get(first..last) {
                forms.push(form.to_vec());
                forms.push(
                    form.iter()
                        .map(|&c| {
                            if c == b'+' {
                                b'-'
                            } else if c == b'/' {
                                b'_'
                            } else {
                                c
                            }
                        })
                        .collect(),
                );
            }
        }
        forms
    }

    fn encode(bytes: &[u8]) -> Vec<u8> {
        let mut encoded = Vec::with_capacity(bytes.len().div_ceil(3) * 4);
        for group in bytes.chunks(3) {
            let bits = group.iter().enumerate().fold(0_u32, |bits, (n, &byte)| bits | u32::from(byte) << (16 - 8 * n));
            encoded.extend((0..4).map(|n| STANDARD[(bits >> (18 - 6 * n) & 63) as usize]));
        }
        encoded
    }

    #[cfg(test)]
    mod tests {
        #[test]
        fn the_fixed_characters_of_the_encoding_are_given() {
            let forms = super::base64_forms(b"s3cret-token");
            // printf 's3cret-token' | base64; printf 'xs3cret-token' | base64; printf 'xxs3cret-token' | base64
            for whole in ["czNjcmV0LXRva2Vu", "eHMzY3JldC10b2tlbg==", "eHhzM2NyZXQtdG9rZW4="] {
                assert!(
                    forms.iter().any(|form| whole.contains(std::str::from_utf8(form).unwrap()) && form.len() >= 15),
                    "{whole}"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn masked(secrets: &[&str], pieces: &[&[u8]]) -> String {
        let mut masker = Masker::new(secrets.iter().copied());
        let mut out = Vec::new();
        for piece in pieces {
            masker.push(piece, &mut out);
        }
        masker.finish(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn secrets_are_masked_in_every_form() {
        let key = "-----BEGIN KEY-----\nabcdefgh12345\n}\n-----END KEY-----\n";
        for (secret, text, expected) in [
            ("hunter2", "a hunter2 b hunter2", "a *** b ***"),
            (" hunter2\n", "a hunter2 b", "a *** b"),
            ("abcd", "xabcdabcdx", "x******x"),
            ("hunter2", "aHVudGVyMg==", "***g=="),
            (key, "line: abcdefgh12345.", "line: ***."),
            (key, "}", "}"),
            ("pa\"ss\\word", r#"{"p":"pa\"ss\\word"}"#, r#"{"p":"***"}"#),
            ("p@ss word", "?q=p%40ss%20word&", "?q=***&"),
            ("", "nothing", "nothing"),
            ("é-secret", "xé-secretx", "x***x"),
        ] {
            let shown = masked(&[secret], &[text.as_bytes()]);
            assert_eq!(shown, expected, "{secret:?} in {text:?}");
        }
    }

    #[test]
    fn overlapping_secrets_leave_nothing_of_either() {
        assert_eq!(masked(&["abcdef", "defghi"], &[b"xabcdefghix"]), "x***x");
        assert_eq!(masked(&["abcdef", "cd"], &[b"abcdeX abcdef"]), "ab***eX ***");
    }

    #[test]
    fn a_reader_who_waits_gets_what_cannot_become_a_secret() {
        let mut masker = Masker::new(["password-of-great-length"]);
        let mut out = Vec::new();
        masker.push(b"Continue? pass", &mut out);
        masker.release(&mut out);
        assert_eq!(out, b"Continue? ");
        masker.push(b"word-of-great-length!", &mut out);
        masker.release(&mut out);
        assert_eq!(out, b"Continue? ***!");
    }

    #[test]
    fn a_mask_that_is_added_holds_for_what_is_still_held() {
        let mut masker = Masker::new(["a-long-secret-value"]);
        let mut out = Vec::new();
        masker.push(b"token=", &mut out);
        masker.add(["tok-123456"]);
        masker.push(b"tok-123456 end", &mut out);
        masker.finish(&mut out);
        assert_eq!(out, b"token=*** end");
    }

    proptest! {
        /// Texts over three letters hold many secrets, and many near misses.
        #[test]
        fn any_split_gives_the_same_and_leaks_nothing(
            secrets in prop::collection::vec("[abc]{2,9}", 1..4),
            text in "[abc]{0,120}",
            cuts in prop::collection::vec((0_usize..120, any::<bool>()), 0..12),
        ) {
            let names: Vec<&str> = secrets.iter().map(String::as_str).collect();
            let whole = masked(&names, &[text.as_bytes()]);
            let mut masker = Masker::new(names.iter().copied());
            let mut out = Vec::new();
            let mut cuts: Vec<_> = cuts.into_iter().map(|(at, release)| (at.min(text.len()), release)).collect();
            cuts.sort_unstable();
            let mut from = 0;
            for (at, release) in cuts {
                masker.push(&text.as_bytes()[from..at], &mut out);
                if release {
                    masker.release(&mut out);
                }
                from = at;
            }
            masker.push(&text.as_bytes()[from..], &mut out);
            masker.finish(&mut out);
            prop_assert_eq!(String::from_utf8(out).unwrap(), whole.clone());

            // Every byte that is part of a secret is gone; every other is there.
            let mut hidden = vec![false; text.len()];
            for secret in &secrets {
                for at in 0..text.len() {
                    if text[at..].starts_with(secret.as_str()) {
                        hidden[at..at + secret.len()].fill(true);
                    }
                }
            }
            let visible: String = text.chars().zip(hidden).filter(|(_, hidden)| !hidden).map(|(c, _)| c).collect();
            prop_assert_eq!(whole.replace('*', ""), visible);
        }
    }
}
