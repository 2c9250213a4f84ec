//! Which lines of a comment are its author's own words, by how GitHub shows them.

/// Lines of a comment that are looked at.
const MAX_LINES: usize = 1_000;
/// Elements of which nothing inside is text, <https://spec.commonmark.org/0.31.2/#html-blocks>.
const RAW: [&str; 4] = ["pre", "script", "style", "textarea"];

/// What a line stands in.
enum Within {
    Text,
    /// A block between fences of at least so many of the character.
    Fence(char, usize),
    /// Up to a line that holds this.
    Until(String),
}

/// The lines that are neither quoted, nor in a block of code, nor hidden in markup.
pub(super) fn own(body: &str) -> Vec<&str> {
    let mut within = Within::Text;
    body.lines().take(MAX_LINES).filter(|line| is_text(line, &mut within)).collect()
}

fn is_text(line: &str, within: &mut Within) -> bool {
    let text = line.trim_start();
    // four columns make a block of code as well
    let is_indented = line.starts_with('\t') || line.len() - text.len() >= 4;
    match within {
        Within::Fence(mark, length) => {
            let closes = text.chars().take_while(|c| c == mark).count();
            if !is_indented && closes >= *length && text[closes..].trim().is_empty() {
                *within = Within::Text;
            }
            return false;
        }
        Within::Until(end) => {
            if line.to_ascii_lowercase().contains(end.as_str()) {
                *within = Within::Text;
            }
            return false;
        }
        Within::Text => {}
    }
    if is_indented || text.starts_with('>') {
        return false;
    }
    if let Some(opened) = fence(text).or_else(|| markup(text)) {
        *within = opened;
        return false;
    }
    true
}

/// A fence that opens here. One of backticks has none behind it: that would be code within the line.
fn fence(text: &str) -> Option<Within> {
    let mark = text.chars().next().filter(|mark| matches!(mark, '`' | '~'))?;
    let length = text.chars().take_while(|c| *c == mark).count();
    let is_fence = length >= 3 && (mark == '~' || !text[length..].contains('`'));
    is_fence.then_some(Within::Fence(mark, length))
}

/// Markup that hides what follows, and does not end on this line.
fn markup(text: &str) -> Option<Within> {
    let text = text.to_ascii_lowercase();
    if let Some((_, rest)) = text.rsplit_once("<!--")
        && !rest.contains("-->")
    {
        return Some(Within::Until("-->".into()));
    }
    let name = RAW.into_iter().find(|name| {
        let rest = text.strip_prefix('<').and_then(|rest| rest.strip_prefix(name));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['>', ' ', '\t']))
    })?;
    let end = format!("</{name}>");
    (!text.contains(&end)).then_some(Within::Until(end))
}
