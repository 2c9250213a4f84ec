//! Diagnostics as text: message, file, line, the source line with a caret, help.

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet, renderer::DecorStyle};

use super::{Diagnostic, Severity};

/// How it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// For files, logs and pipes.
    Plain,
    /// For terminals: ANSI colours.
    Coloured,
}

/// Characters of a line that are shown; of a longer one, what stands around the place.
const WIDTH: usize = 160;

/// One diagnostic over several lines, without a line break at its end. `text` is the file's; empty where it is not at hand.
#[must_use]
pub fn render(diagnostic: &Diagnostic, text: &str, style: Style) -> String {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
        Severity::Note => Level::NOTE,
    };
    let line = text.lines().nth(diagnostic.line - 1).unwrap_or_default();
    let (shown, skipped, start, end) =
        window(line, diagnostic.column - 1, text.get(diagnostic.span.clone()).unwrap_or_default());
    let snippet = Snippet::source(shown)
        .line_start(diagnostic.line)
        .path(diagnostic.file.as_str())
        .annotation(AnnotationKind::Primary.span(start..end));
    let mut group = level.primary_title(diagnostic.message.as_str()).id(diagnostic.code.as_str()).element(snippet);
    if let Some(help) = &diagnostic.help {
        group = group.element(Level::HELP.message(help.as_str()));
    }
    let renderer = match style {
        Style::Plain => Renderer::plain(),
        Style::Coloured => Renderer::styled(),
    };
    let rendered = renderer.decor_style(DecorStyle::Ascii).render(&[group]);
    if skipped == 0 {
        return rendered;
    }
    // the place is counted in what is shown of the line
    let place = |column: usize| format!("{}:{}:{column}", diagnostic.file, diagnostic.line);
    rendered.replacen(&place(diagnostic.column - skipped), &place(diagnostic.column), 1)
}

/// The part of a line that is shown, how many characters before it are not, and the marked bytes in it.
fn window(line: &str, column: usize, marked: &str) -> (String, usize, usize, usize) {
    let characters = line.chars().count();
    let skipped = if characters <= WIDTH { 0 } else { column.saturating_sub(WIDTH / 2).min(characters - WIDTH) };
    let shown: String = line.chars().skip(skipped).take(WIDTH).collect();
    let byte = |character: usize| shown.char_indices().nth(character).map_or(shown.len(), |(i, _)| i);
    let start = byte(column.saturating_sub(skipped));
    let end = byte(column.saturating_sub(skipped) + marked.chars().count());
    (shown, skipped, start, end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::Code;

    #[test]
    fn the_place_in_a_long_line_is_the_line_s_own() {
        for before in [0, 10, 79, 80, 81, 90, 500] {
            let text = format!("{}here{}", "x".repeat(before), "y".repeat(300));
            let diagnostic = Diagnostic {
                file: "a.yml".into(),
                line: 1,
                column: before + 1,
                span: before..before + 4,
                severity: Severity::Error,
                code: Code::InvalidValue,
                message: "wrong".into(),
                help: None,
            };
            let shown = render(&diagnostic, &text, Style::Plain);
            assert!(shown.contains(&format!("--> a.yml:1:{}\n", before + 1)), "{shown}");
            assert!(shown.contains("here") && shown.contains("^^^^"), "{shown}");
            let coloured = render(&diagnostic, &text, Style::Coloured);
            assert!(coloured.contains(&format!("a.yml:1:{}", before + 1)), "{coloured}");
        }
    }
}
