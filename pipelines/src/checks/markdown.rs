//! What people wrote, as text in Markdown that stays what it is: a name with markup is shown, not followed.

/// Text within a line: every mark is escaped, as <https://spec.commonmark.org/0.31.2/#backslash-escapes> allows for all of ASCII's.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\n' => escaped.push_str("  \n"),
            c if c.is_control() => escaped.push(' '),
            // what commonly stands in sentences and means nothing within a line
            '.' | ',' | ':' | ';' | '/' | '%' | '\'' | '"' | '?' | '(' | ')' | ' ' => escaped.push(c),
            '-' | '+' if !escaped.is_empty() && !escaped.ends_with('\n') => escaped.push(c),
            // GitHub links what follows, and tells the person
            '@' => escaped.push_str("@\u{200b}"),
            c if c.is_ascii_punctuation() => escaped.extend(['\\', c]),
            c => escaped.push(c),
        }
    }
    escaped
}

/// The same within a table, of one line.
pub(crate) fn cell(text: &str) -> String {
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect();
    escape(&plain)
}

/// Text as it stands, in a block that nothing in it can end.
pub(crate) fn block(text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}text\n{text}\n{fence}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn markup_is_shown_and_not_followed() {
        let cases = [
            ("[x](http://evil)", "\\[x\\](http://evil)"),
            ("**bold** <img>", "\\*\\*bold\\*\\* \\<img\\>"),
            ("a | b\nc", "a \\| b c"),
            ("- not a list - really", "\\- not a list - really"),
            ("@ada #7 $(touch x)", "@\u{200b}ada \\#7 \\$(touch x)"),
        ];
        for (text, wanted) in cases {
            assert_eq!(cell(text), wanted);
        }
        assert_eq!(block("a\n```\nb"), "````text\na\n```\nb\n````");
    }

    proptest! {
        #[test]
        fn nothing_that_could_begin_markup_is_left_bare(text in "\\PC{0,60}") {
            let escaped = cell(&text);
            let mut rest = escaped.chars();
            while let Some(c) = rest.next() {
                if c == '\\' {
                    prop_assert!(rest.next().is_some_and(|c| c.is_ascii_punctuation()));
                } else {
                    prop_assert!(!"*_`[]<>#|!~&$={}^".contains(c), "{escaped}");
                }
            }
        }

        #[test]
        fn a_block_ends_where_it_is_to_end(text in "[`~a\n]{0,40}") {
            let shown = block(&text);
            let fence = shown.lines().next().unwrap_or_default().trim_end_matches("text").to_owned();
            let inner = shown.lines().skip(1).collect::<Vec<_>>();
            let closes = inner.iter().filter(|line| line.trim().len() >= fence.len() && line.trim().chars().all(|c| c == '`')).count();
            prop_assert_eq!(closes, 1);
        }
    }
}
