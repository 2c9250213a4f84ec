//! Filters of names and paths: `branches`, `tags` and `paths`, each to take in or with `-ignore` to leave out.

use crate::{
    diagnostic::Code,
    document::{Entry, Node},
    filter::Patterns,
    pipeline::{model::RefFilter, reader::Reader},
};

impl Reader<'_, '_> {
    /// `key` or `key-ignore`, not both.
    pub(super) fn filter(&mut self, owner: &Node, key: &str, ignore_key: &str) -> Option<RefFilter> {
        let ignored = owner.entry(ignore_key);
        let Some(entry) = owner.entry(key) else {
            // in a list of what is ignored, `!` has nothing to take out of
            let entry = ignored?;
            let patterns = self.patterns(entry)?;
            if let Some(text) = patterns.texts().find(|text| text.starts_with('!')) {
                let message = format!("`{text}`: `!` has no meaning under `{ignore_key}`");
                let help = Some(format!("use `{key}` with `!` for what is left out"));
                self.findings.error(Code::InvalidValue, &entry.value.span, message, help);
            }
            return Some(RefFilter::Ignore(patterns));
        };
        if let Some(ignored) = ignored {
            let message = format!("`{key}` and `{ignore_key}` exclude each other");
            let help = Some(format!("use `{key}` alone, with `!` before what is left out"));
            self.findings.error(Code::Conflict, &ignored.key_span, message, help);
        }
        self.patterns(entry).map(RefFilter::Only)
    }

    fn patterns(&mut self, entry: &Entry) -> Option<Patterns> {
        let written = self.plain_list(&entry.value, &entry.key);
        let texts: Vec<&str> = written.iter().map(|(text, _)| text.as_str()).collect();
        if texts.is_empty() {
            let help = Some("name a pattern such as `main` or `releases/**`, or leave the key out".into());
            let message = format!("`{}` is empty, so nothing would start", entry.key);
            self.findings.error(Code::InvalidValue, &entry.key_span, message, help);
            return None;
        }
        for (text, span) in &written {
            if let Some((why, instead)) = matches_nothing(&entry.key, text) {
                let message = format!("`{text}` matches nothing: {why}");
                self.findings.warning(Code::InvalidValue, span, message, Some(format!("write `{instead}`")));
            }
        }
        match Patterns::parse(&texts) {
            Ok(patterns) => Some(patterns),
            Err((index, error)) => {
                let span = written.get(index).map_or(entry.key_span.clone(), |(_, span)| span.clone());
                self.findings.error(Code::InvalidValue, &span, format!("`{}`: {error}", texts[index]), None);
                None
            }
        }
    }
}

/// Why no name can match the pattern, and what to write instead.
fn matches_nothing(key: &str, text: &str) -> Option<(&'static str, String)> {
    let (not, pattern) = text.strip_prefix('!').map_or(("", text), |pattern| ("!", pattern));
    let (why, rest) = if key.starts_with("paths") {
        let rest = pattern.strip_prefix("./").or_else(|| pattern.strip_prefix('/'))?;
        ("a path begins with the name of a folder or file at the repository's root", rest)
    } else {
        let prefix = if key.starts_with("tags") { "refs/tags/" } else { "refs/heads/" };
        ("a name stands here without what comes before it in a ref", pattern.strip_prefix(prefix)?)
    };
    (!rest.is_empty()).then(|| (why, format!("{not}{rest}")))
}
