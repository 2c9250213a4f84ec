//! `.dockerignore`: which files of a context a build does not see.
//!
//! As <https://docs.docker.com/build/concepts/context/#dockerignore-files> says it and `github.com/moby/patternmatcher` does it, down to
//! what `**` means at the beginning, in the middle and at the end of a pattern. Paths are those below the context, with `/`.

use regex::Regex;

/// The most patterns of a file.
const MAX_PATTERNS: usize = 10_000;
/// Characters that make more of a pattern than a path.
const WILD: [char; 6] = ['*', '[', ']', '?', '^', '\\'];

/// What is left out of a context.
#[derive(Debug, Default)]
pub struct Ignore {
    patterns: Vec<Pattern>,
    /// Whether what is taken back in is named by paths alone: then directories that hold none of it need no look.
    plain_exceptions: bool,
}

/// How a directory stands to each of the patterns; what is in it stands at least so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing(Vec<bool>);

/// A pattern that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: `{pattern}` is no pattern: {reason}")]
pub struct BadPattern {
    /// Which line, from 1.
    pub line: usize,
    /// What it says.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

#[derive(Debug)]
struct Pattern {
    /// Without `!`, `/` at its ends, `.` and `..`.
    path: String,
    /// Takes back in what it names.
    is_exception: bool,
    how: How,
}

#[derive(Debug)]
enum How {
    Exactly,
    /// It ends with its only `**`.
    Begins,
    /// It begins with its only `**`.
    Ends,
    Matches(Box<Regex>),
}

impl Ignore {
    /// The patterns of a file.
    ///
    /// # Errors
    /// [`BadPattern`].
    pub fn parse(text: &str) -> Result<Self, BadPattern> {
        let mut patterns = Vec::new();
        for (at, raw) in text.strip_prefix('\u{feff}').unwrap_or(text).lines().enumerate() {
            // a comment begins in the first column, before spaces are taken away
            let trimmed = raw.trim();
            if raw.starts_with('#') || trimmed.is_empty() {
                continue;
            }
            let bad = |reason| BadPattern { line: at + 1, pattern: trimmed.to_owned(), reason };
            if patterns.len() == MAX_PATTERNS {
                return Err(bad("10000 are the most"));
            }
            patterns.push(Pattern::parse(trimmed).map_err(bad)?);
        }
        let plain_exceptions =
            patterns.iter().filter(|pattern| pattern.is_exception).all(|pattern| !pattern.trunk().contains(WILD));
        Ok(Self { patterns, plain_exceptions })
    }

    /// Sees to it that a file is sent whatever else says: the Dockerfile.
    pub fn always_send(&mut self, path: &str) {
        if self.look(path, &self.stands(parent(path))).0 {
            self.patterns.push(Pattern { path: path.to_owned(), is_exception: true, how: How::Exactly });
            self.plain_exceptions &= !path.contains(WILD);
        }
    }

    /// Whether the path is left out, and how it stands, for what is in it. `above`: how its directory stands.
    #[must_use]
    pub fn look(&self, path: &str, above: &Standing) -> (bool, Standing) {
        let mut standing = Vec::with_capacity(self.patterns.len());
        let mut is_out = false;
        for (at, pattern) in self.patterns.iter().enumerate() {
            // a pattern that would change nothing is not asked: so it does not count for what is below, either
            let matches = above.0.get(at).copied().unwrap_or_default()
                || (pattern.is_exception == is_out && pattern.matches(path));
            standing.push(matches);
            if matches {
                is_out = !pattern.is_exception;
            }
        }
        (is_out, Standing(standing))
    }

    /// Whether something in a directory that is left out may be taken back in.
    #[must_use]
    pub fn may_hold_exceptions(&self, directory: &str) -> bool {
        let mut exceptions = self.patterns.iter().filter(|pattern| pattern.is_exception);
        let below = |pattern: &Pattern| {
            let trunk = pattern.trunk();
            trunk == directory || trunk.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
        };
        if self.plain_exceptions { exceptions.any(below) } else { exceptions.next().is_some() }
    }

    /// Whether a path is left out, whatever of its directories is looked at before.
    #[must_use]
    pub fn leaves_out(&self, path: &str) -> bool {
        self.look(path, &self.stands(parent(path))).0
    }

    fn stands(&self, directory: &str) -> Standing {
        let mut standing = Standing::default();
        for (at, _) in directory.match_indices('/').chain((!directory.is_empty()).then_some((directory.len(), ""))) {
            standing = self.look(&directory[..at], &standing).1;
        }
        standing
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let (is_exception, text) = text.strip_prefix('!').map_or((false, text), |rest| (true, rest.trim()));
        if text.is_empty() {
            return Err("`!` takes back what it names, and names nothing");
        }
        let path = clean(text);
        // the one below the root, whichever way it is written
        let path = path.strip_prefix('/').filter(|rest| !rest.is_empty()).unwrap_or(&path).to_owned();
        check(&path)?;
        let how = compile(&path)?;
        Ok(Self { path, is_exception, how })
    }

    fn matches(&self, path: &str) -> bool {
        match &self.how {
            How::Exactly => path == self.path,
            How::Begins => path.starts_with(self.path.trim_end_matches("**")),
            How::Ends => {
                let end = &self.path[2..];
                path.ends_with(end) || end.strip_prefix('/') == Some(path)
            }
            How::Matches(regex) => regex.is_match(path),
        }
    }

    /// The pattern without `/**` and `/*` at its end: what it names lies at or below that.
    fn trunk(&self) -> &str {
        let path = self.path.strip_suffix("/**").unwrap_or(&self.path);
        path.strip_suffix("/*").unwrap_or(path)
    }
}

/// `filepath.Clean` (<https://pkg.go.dev/path/filepath#Clean>).
fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (rooted, parts.join("/")) {
        (true, rest) => format!("/{rest}"),
        (false, rest) if rest.is_empty() => ".".into(),
        (false, rest) => rest,
    }
}

/// What `filepath.Match` refuses (<https://pkg.go.dev/path/filepath#Match>).
fn check(pattern: &str) -> Result<(), &'static str> {
    let mut chars = pattern.chars();
    while let Some(next) = chars.next() {
        match next {
            '\\' if chars.next().is_none() => return Err("`\\` at its end escapes nothing"),
            '[' => check_class(&mut chars)?,
            _ => {}
        }
    }
    Ok(())
}

fn check_class(chars: &mut std::str::Chars<'_>) -> Result<(), &'static str> {
    const OPEN: &str = "`[` is not closed, or holds no range";
    if chars.as_str().starts_with('^') {
        chars.next();
    }
    let mut ranges = 0;
    let one = |chars: &mut std::str::Chars<'_>| match chars.next() {
        Some('\\') => chars.next().ok_or(OPEN),
        None | Some('-' | ']') => Err(OPEN),
        Some(other) => Ok(other),
    };
    loop {
        if chars.as_str().starts_with(']') && ranges > 0 {
            chars.next();
            return Ok(());
        }
        let from = one(chars)?;
        if chars.as_str().starts_with('-') {
            chars.next();
            if one(chars)? < from {
                return Err("a range ends before it begins");
            }
        }
        ranges += 1;
    }
}

/// How a pattern is matched; what is a regular expression is written as `patternmatcher` writes it.
fn compile(pattern: &str) -> Result<How, &'static str> {
    let mut regex = String::from("^");
    let mut how = How::Exactly;
    let mut is_regex = false;
    let mut chars = pattern.chars().peekable();
    let mut at = 0;
    while let Some(next) = chars.next() {
        match next {
            '*' if chars.peek() == Some(&'*') => {
                chars.next();
                // `**/` is `**`
                if chars.peek() == Some(&'/') {
                    chars.next();
                }
                if chars.peek().is_some() {
                    regex.push_str("(.*/)?");
                    is_regex = true;
                } else if matches!(how, How::Exactly) && !is_regex {
                    how = How::Begins;
                } else {
                    regex.push_str(".*");
                    is_regex = true;
                }
                if at == 0 {
                    (how, is_regex) = (How::Ends, false);
                }
            }
            '*' => {
                regex.push_str("[^/]*");
                is_regex = true;
            }
            '?' => {
                regex.push_str("[^/]");
                is_regex = true;
            }
            '\\' => {
                if let Some(escaped) = chars.next() {
                    regex.push_str(&regex::escape(&escaped.to_string()));
                    is_regex = true;
                }
            }
            '[' => {
                class(&mut chars, &mut regex);
                is_regex = true;
            }
            other => regex.push_str(&regex::escape(&other.to_string())),
        }
        at += 1;
    }
    if is_regex {
        regex.push('$');
        how = How::Matches(Box::new(Regex::new(&regex).map_err(|_| "it is too large, or none")?));
    }
    Ok(how)
}

/// A class, which [`check`] has seen to be one. What is special to one language of expressions and not to the other is escaped.
fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, regex: &mut String) {
    regex.push('[');
    if chars.peek() == Some(&'^') {
        chars.next();
        regex.push('^');
    }
    while let Some(next) = chars.next() {
        match next {
            ']' => break,
            '-' => regex.push('-'),
            '\\' => regex.push_str(&escaped(chars.next().unwrap_or('\\'))),
            other => regex.push_str(&escaped(other)),
        }
    }
    regex.push(']');
}

fn escaped(literal: char) -> String {
    if literal.is_ascii_punctuation() { format!("\\{literal}") } else { literal.to_string() }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Patterns, then paths that are left out, then such as are sent.
    type Case<'a> = (&'a str, &'a [&'a str], &'a [&'a str]);

    /// The rules of the page named above, and the cases in which the program goes its own way.
    const CASES: &[Case<'_>] = &[
        (
            "# comment\n*/temp*\n*/*/temp*\ntemp?",
            &["a/temporary.txt", "a/temp/x", "a/b/temporary", "tempa", "tempb/x"],
            &["temp", "temporary", "a/b/c/temp", "# comment"],
        ),
        ("**/*.go", &["x.go", "a/x.go", "a/b/c/x.go"], &["x.gone", "go"]),
        ("*.md\n!README.md", &["a.md"], &["README.md", "docs/a.md"]),
        ("*.md\n!README*.md\nREADME-secret.md", &["a.md", "README-secret.md"], &["README.md", "README-x.md"]),
        ("*.md\nREADME-secret.md\n!README*.md", &["a.md"], &["README-secret.md"]),
        ("/foo/bar\n", &["foo/bar", "foo/bar/x"], &["a/foo/bar", "foo/baz"]),
        ("foo/bar/", &["foo/bar", "foo/bar/x/y"], &["foo"]),
        ("./a/../b", &["b", "b/c"], &["a"]),
        ("..", &[], &["a", "b/c"]),
        (".", &[], &["a", "b/c"]),
        ("/", &[], &["a"]),
        ("*", &["a", "a/b/c", ".git"], &[]),
        ("**", &["a", "a/b/c"], &[]),
        ("*\n!src\n!*.toml", &["docs/a", "a.txt", "docs/x.toml"], &["src", "src/a/b.rs", "Cargo.toml"]),
        ("a/**", &["a/b", "a/b/c"], &["a", "ab"]),
        ("a**", &["a", "ab", "a/b"], &["b/a"]),
        ("**a", &["a", "ba", "x/ya"], &["ab"]),
        ("**/a", &["a", "x/a", "x/a/y"], &["xa", "ab"]),
        ("a/**/b", &["a/b", "a/x/b", "a/x/y/b/z"], &["a/xb", "ab"]),
        ("**/a/*.txt", &["a/x.txt", "z/a/x.txt"], &["a/b/x.txt"]),
        ("**/dist\n!web/dist", &["dist/a", "x/dist"], &["web/dist", "web/dist/a"]),
        ("node_modules\n!**/keep", &["node_modules", "node_modules/a"], &["node_modules/keep", "node_modules/x/keep"]),
        ("a\n!a/b\na/b/c", &["a/x", "a/b/c", "a/b/c/d"], &["a/b", "a/b/d"]),
        ("[a-c]x", &["ax", "cx/y"], &["dx"]),
        ("[^a-c]x", &["dx"], &["ax"]),
        ("[!a]x", &["!x", "ax"], &["bx"]),
        ("a[&~-]b", &[], &[]),
        ("\\*.md", &["*.md"], &["a.md"]),
        ("a.b+(c)|d$e{f}", &["a.b+(c)|d$e{f}"], &["aXb+(c)|d$e{f}"]),
        ("  spaced  \n\t\n #no comment", &["spaced", "#no comment"], &[" spaced"]),
        ("! a\nb", &["b"], &["a"]),
        ("*.ä?", &["x.äö"], &["x.ä"]),
        ("\u{feff}a", &["a"], &["\u{feff}a"]),
    ];

    #[test]
    fn paths_are_left_out_as_docker_leaves_them_out() {
        for (text, out, sent) in CASES {
            let Ok(ignore) = Ignore::parse(text) else {
                assert!(out.is_empty() && sent.is_empty(), "{text:?} is refused");
                continue;
            };
            out.iter().for_each(|path| assert!(ignore.leaves_out(path), "{text:?} should leave out {path}"));
            sent.iter().for_each(|path| assert!(!ignore.leaves_out(path), "{text:?} should send {path}"));
        }
    }

    #[test]
    fn a_directory_is_passed_over_only_where_nothing_in_it_is_taken_back() {
        for (text, directory, may) in [
            ("a\n!b/c", "a", false),
            ("a\n!a/b/c", "a", true),
            ("a\n!a/b/c", "a/b", true),
            ("a\n!a/b/c", "a/x", false),
            ("a\n!**/keep", "a", true),
            ("a\n!ab", "a", false),
            ("a\n!a/b/**", "a/b", true),
            ("a", "a", false),
        ] {
            assert_eq!(Ignore::parse(text).unwrap().may_hold_exceptions(directory), may, "{text:?} {directory}");
        }
    }

    #[test]
    fn the_dockerfile_is_sent_in_any_case() {
        for (text, file) in
            [("*", "Dockerfile"), ("**/Dockerfile", "a/b/Dockerfile"), ("a", "a/b/Dockerfile"), ("", "x")]
        {
            let mut ignore = Ignore::parse(text).unwrap();
            ignore.always_send(file);
            assert!(!ignore.leaves_out(file), "{text:?}");
            let above = parent(file);
            assert!(above.is_empty() || !ignore.leaves_out(above) || ignore.may_hold_exceptions(above), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_named_with_its_line() {
        for text in ["a\n!", "a\n[", "a\n[]a]", "a\n[b-a]", "a\nx\\", "a\n[a", "a\n[a-]"] {
            assert_eq!(Ignore::parse(text).unwrap_err().line, 2, "{text:?}");
        }
    }
}
