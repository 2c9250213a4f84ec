//! GitHub's filter patterns for branches, tags and paths.
//!
//! `*` is any text without `/`, `**` any text, `?` makes the character before it optional, `+` repeats it, `[]` is one of a
//! set, `\` takes the next character as it is, `!` at the beginning takes matches out again. Order counts: the last pattern
//! that matches decides. (<https://docs.github.com/actions/reference/workflows-and-actions/workflow-syntax#filter-pattern-cheat-sheet>)
//!
//! Comes in: patterns and names. Goes out: whether they match, in time proportional to both lengths. Never here: what
//! follows from it.

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It has no characters, or none but the `!`.
    #[error("the pattern is empty")]
    Empty,
    /// It is longer than [`MAX_PATTERN_BYTES`].
    #[error("the pattern has {0} bytes, and {MAX_PATTERN_BYTES} are the limit")]
    TooLong(usize),
    /// A `[` without `]`.
    #[error("a `[` is not closed; write `\\[` for the character itself")]
    OpenSet,
    /// `[]`, or a range that runs backwards.
    #[error("the set `[{0}]` holds nothing, or a range in it runs backwards")]
    EmptySet(String),
    /// `?` or `+` after nothing that could be repeated.
    #[error("`{0}` repeats the character before it, and there is none; write `\\{0}` for the character itself")]
    NothingToRepeat(char),
    /// A `\` at the end.
    #[error("a `\\` at the end takes nothing literally")]
    OpenEscape,
    /// Only patterns with `!`.
    #[error(
        "there are only patterns with `!`, which take out of what other patterns match; add one without, such as `**`"
    )]
    OnlyNegative,
}

/// The longest pattern, in bytes.
pub const MAX_PATTERN_BYTES: usize = 1024;

/// One pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    negative: bool,
    parts: Vec<Part>,
}

/// A list of patterns, in which order counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Patterns(Vec<Pattern>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    matcher: Matcher,
    /// How many parts, from this one on, may be left out together; 0 for none.
    skips: usize,
    /// May come again.
    repeated: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Matcher {
    Character(char),
    Set(Vec<(char, char)>),
    NotSlash,
    Any,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`PatternError`] says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.len() > MAX_PATTERN_BYTES {
            return Err(PatternError::TooLong(text.len()));
        }
        let negative = text.starts_with('!');
        let body: Vec<char> = text.strip_prefix('!').unwrap_or(text).chars().collect();
        if body.is_empty() {
            return Err(PatternError::Empty);
        }
        Ok(Self { text: text.to_owned(), negative, parts: parts(&body)? })
    }

    /// Whether the whole of `name` matches, whatever a leading `!` makes of it.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let mut reached = vec![false; self.parts.len() + 1];
        reached[0] = true;
        self.skip(&mut reached);
        for c in name.chars() {
            let mut next = vec![false; self.parts.len() + 1];
            for (i, part) in self.parts.iter().enumerate().filter(|(i, _)| reached[*i]) {
                if part.matcher.takes(c) {
                    next[i + 1] = true;
                    next[i] |= part.repeated;
                }
            }
            self.skip(&mut next);
            reached = next;
        }
        reached[self.parts.len()]
    }

    fn skip(&self, reached: &mut [bool]) {
        for (i, part) in self.parts.iter().enumerate() {
            if reached[i] && part.skips > 0 {
                reached[i + part.skips] = true;
            }
        }
    }
}

impl Patterns {
    /// Reads a list.
    ///
    /// # Errors
    /// The first pattern that cannot be read, with its position; or that all take out and none takes in (position 0).
    pub fn parse<S: AsRef<str>>(texts: &[S]) -> Result<Self, (usize, PatternError)> {
        let patterns: Vec<Pattern> = texts
            .iter()
            .enumerate()
            .map(|(i, text)| Pattern::parse(text.as_ref()).map_err(|error| (i, error)))
            .collect::<Result<_, _>>()?;
        if !patterns.is_empty() && patterns.iter().all(|pattern| pattern.negative) {
            return Err((0, PatternError::OnlyNegative));
        }
        Ok(Self(patterns))
    }

    /// Whether `name` is in: the last pattern that matches it decides.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.deciding(name).is_some_and(|pattern| !pattern.negative)
    }

    /// The text of the pattern that decides about `name`, with its `!`.
    #[must_use]
    pub fn deciding_text(&self, name: &str) -> Option<&str> {
        self.deciding(name).map(|pattern| pattern.text.as_str())
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The patterns as they were written.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|pattern| pattern.text.as_str())
    }

    fn deciding(&self, name: &str) -> Option<&Pattern> {
        self.0.iter().rev().find(|pattern| pattern.matches(name))
    }
}

impl Matcher {
    fn takes(&self, c: char) -> bool {
        match self {
            Self::Character(own) => *own == c,
            Self::Set(ranges) => ranges.iter().any(|(first, last)| (*first..=*last).contains(&c)),
            Self::NotSlash => c != '/',
            Self::Any => true,
        }
    }
}

fn parts(body: &[char]) -> Result<Vec<Part>, PatternError> {
    let mut parts: Vec<Part> = Vec::new();
    let mut position = 0;
    // whether `?` and `+` have a character to act on
    let mut repeatable = false;
    while position < body.len() {
        let c = body[position];
        position += 1;
        match c {
            '*' if body.get(position) == Some(&'*') => {
                position += 1;
                let begins_segment = position == 2 || body.get(position - 3) == Some(&'/');
                if begins_segment && body.get(position) == Some(&'/') {
                    position += 1;
                    // any directories, or none: left out as a whole, or at least one character and a `/`
                    parts.push(Part { matcher: Matcher::Any, skips: 3, repeated: false });
                    parts.push(Part { matcher: Matcher::Any, skips: 1, repeated: true });
                    parts.push(Part { matcher: Matcher::Character('/'), skips: 0, repeated: false });
                } else {
                    parts.push(Part { matcher: Matcher::Any, skips: 1, repeated: true });
                }
                repeatable = false;
            }
            '*' => {
                parts.push(Part { matcher: Matcher::NotSlash, skips: 1, repeated: true });
                repeatable = false;
            }
            '?' | '+' => {
                let last = parts.last_mut().filter(|_| repeatable).ok_or(PatternError::NothingToRepeat(c))?;
                if c == '?' {
                    last.skips = 1;
                } else {
                    last.repeated = true;
                }
                repeatable = false;
            }
            _ => {
                let matcher = match c {
                    '[' => {
                        let rest = &body[position..];
                        let length = rest.iter().position(|c| *c == ']').ok_or(PatternError::OpenSet)?;
                        position += length + 1;
                        Matcher::Set(ranges(&rest[..length])?)
                    }
                    '\\' => {
                        let literal = *body.get(position).ok_or(PatternError::OpenEscape)?;
                        position += 1;
                        Matcher::Character(literal)
                    }
                    _ => Matcher::Character(c),
                };
                parts.push(Part { matcher, skips: 0, repeated: false });
                repeatable = true;
            }
        }
    }
    Ok(parts)
}

fn ranges(set: &[char]) -> Result<Vec<(char, char)>, PatternError> {
    let mut ranges = Vec::new();
    let mut rest = set;
    loop {
        rest = match rest {
            [] => break,
            [first, '-', last, rest @ ..] => {
                ranges.push((*first, *last));
                rest
            }
            [only, rest @ ..] => {
                ranges.push((*only, *only));
                rest
            }
        };
    }
    if ranges.is_empty() || ranges.iter().any(|(first, last)| first > last) {
        return Err(PatternError::EmptySet(set.iter().collect()));
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, yes: &[&str], no: &[&str]) {
        let pattern = Pattern::parse(pattern).unwrap();
        for name in yes {
            assert!(pattern.matches(name), "{pattern:?} should match {name}");
        }
        for name in no {
            assert!(!pattern.matches(name), "{pattern:?} should not match {name}");
        }
    }

    #[test]
    fn branches_as_in_the_cheat_sheet() {
        check("feature/*", &["feature/my-branch", "feature/your-branch", "feature/"], &["feature/a/b", "feature"]);
        check(
            "feature/**",
            &["feature/beta-a/my-branch", "feature/your-branch", "feature/mona/the/octocat"],
            &["feature", "x/feature/y"],
        );
        check("main", &["main"], &["Main", "main2", "amain"]);
        check("releases/mona-the-octocat", &["releases/mona-the-octocat"], &[]);
        check("*", &["main", "releases"], &["all/the/branches"]);
        check("**", &["all/the/branches", "every/tag", ""], &[]);
        check("*feature", &["mona-feature", "feature", "ver-10-feature"], &["a/feature", "feature2"]);
        check("v2*", &["v2", "v2.0", "v2.9"], &["v1"]);
        check("v[12].[0-9]+.[0-9]+", &["v1.10.1", "v2.0.0"], &["v3.0.0", "v1..1", "v1.x.1"]);
    }

    #[test]
    fn paths_as_in_the_cheat_sheet() {
        check("*.jsx?", &["page.js", "page.jsx"], &["page.jsxx", "a/page.js"]);
        check("*.js", &["app.js", "index.js"], &["src/app.js"]);
        check("**.js", &["index.js", "js/index.js", "src/js/app.js"], &["index.jsx"]);
        check("docs/*", &["docs/README.md", "docs/file.txt"], &["docs/mona/x.md"]);
        check("docs/**", &["docs/README.md", "docs/mona/octocat.txt"], &["doc/x"]);
        check(
            "docs/**/*.md",
            &["docs/README.md", "docs/mona/hello-world.md", "docs/a/markdown/file.md"],
            &["docs/x.txt"],
        );
        check(
            "**/docs/**",
            &["docs/hello.md", "dir/docs/my-file.txt", "space/docs/plan/space.doc"],
            &["mydocs/x", "docs"],
        );
        check("**/README.md", &["README.md", "js/README.md"], &["xREADME.md", "js/README.mdx"]);
        check("**/*src/**", &["a/src/app.js", "my-src/code/js/app.js"], &["srcx/a"]);
        check("**/*-post.md", &["my-post.md", "path/their-post.md"], &["post.md"]);
        check(
            "**/migrate-*.sql",
            &["migrate-10909.sql", "db/migrate-v1.0.sql", "db/sept/migrate-v1.sql"],
            &["db/x.sql"],
        );
    }

    #[test]
    fn lists_of_paths_as_in_the_cheat_sheet() {
        check("*", &["README.md", "server.rb"], &["docs/x"]);
        check("**", &["all/the/files.md"], &[]);
        let taken = |patterns: &[&str], name: &str| Patterns::parse(patterns).unwrap().matches(name);
        let without = ["*.md", "!README.md"];
        assert!(taken(&without, "hello.md") && !taken(&without, "README.md") && !taken(&without, "docs/hello.md"));
        let again = ["*.md", "!README.md", "README*"];
        assert!(["hello.md", "README.md", "README.doc"].iter().all(|name| taken(&again, name)));
    }

    #[test]
    fn characters_can_be_repeated_left_out_and_taken_literally() {
        check("ab+c?", &["ab", "abb", "abbc"], &["a", "abcc"]);
        check("[a-cx]+", &["abcx"], &["", "d"]);
        check(r"a\*b\?", &["a*b?"], &["ab", "axb"]);
        check("a**/b", &["a/b", "ax/y/b"], &["ab"]);
        check("ü?ber", &["über", "ber"], &["uber"]);
    }

    #[test]
    fn the_last_pattern_that_matches_decides() {
        let patterns = Patterns::parse(&["releases/**", "!releases/**-alpha", "releases/keep-alpha"]).unwrap();
        assert!(patterns.matches("releases/10"));
        assert!(!patterns.matches("releases/beta/3-alpha"));
        assert!(patterns.matches("releases/keep-alpha"));
        assert!(!patterns.matches("main"));
        assert_eq!(patterns.deciding_text("releases/beta/3-alpha"), Some("!releases/**-alpha"));
    }

    #[test]
    fn broken_patterns_are_refused() {
        for (text, error) in [
            ("", PatternError::Empty),
            ("!", PatternError::Empty),
            ("[ab", PatternError::OpenSet),
            ("[]", PatternError::EmptySet(String::new())),
            ("[z-a]", PatternError::EmptySet("z-a".into())),
            ("+a", PatternError::NothingToRepeat('+')),
            ("*?", PatternError::NothingToRepeat('?')),
            ("a\\", PatternError::OpenEscape),
        ] {
            assert_eq!(Pattern::parse(text), Err(error), "{text}");
        }
        assert_eq!(Patterns::parse(&["!a", "!b"]), Err((0, PatternError::OnlyNegative)));
    }

    #[test]
    fn hostile_patterns_take_no_time() {
        let pattern = Pattern::parse(&"**a".repeat(300)).unwrap();
        assert!(!pattern.matches(&format!("{}b", "a".repeat(4_000))));
    }
}
