//! Texts that hold `${{ }}`.

use super::error::ExprError;

/// A piece of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece<'t> {
    /// As it is.
    Text(&'t str),
    /// What stands between `${{` and `}}`, and where it begins, in bytes of the whole text.
    Expression { source: &'t str, offset: usize },
}

/// The pieces of a text, in order; empty ones left out. A `}}` within a string of the expression does not end it.
pub(super) fn pieces(text: &str) -> Result<Vec<Piece<'_>>, ExprError> {
    const OPEN: &str = "${{";
    let mut pieces = Vec::new();
    let mut position = 0;
    while let Some(found) = text[position..].find(OPEN) {
        let open = position + found;
        if open > position {
            pieces.push(Piece::Text(&text[position..open]));
        }
        let offset = open + OPEN.len();
        let Some(length) = end_of_expression(&text[offset..]) else {
            return Err(ExprError::syntax(open..text.len().min(offset + 40).max(offset), "this `${{` is not closed")
                .help("end the expression with `}}`")
                .on_boundary(text));
        };
        pieces.push(Piece::Expression { source: &text[offset..offset + length], offset });
        position = offset + length + 2;
    }
    if position < text.len() {
        pieces.push(Piece::Text(&text[position..]));
    }
    Ok(pieces)
}

/// The one expression that a condition consists of, with its offset: bare, or wholly in `${{ }}`.
pub(super) fn condition(text: &str) -> Result<(&str, usize), ExprError> {
    if !text.contains("${{") {
        return Ok((text, 0));
    }
    let pieces = pieces(text)?;
    let mut expressions = pieces.iter().filter(|piece| !matches!(piece, Piece::Text(text) if text.trim().is_empty()));
    match (expressions.next(), expressions.next()) {
        (Some(Piece::Expression { source, offset }), None) => Ok((source, *offset)),
        _ => Err(ExprError::syntax(0..text.len(), "`if` mixes text with `${{ }}`, which would always be true").help(
            "write the whole condition as one expression, without `${{ }}`: `if: github.ref == 'refs/heads/main'`",
        )),
    }
}

fn end_of_expression(text: &str) -> Option<usize> {
    let mut quoted = false;
    let bytes = text.as_bytes();
    (0..bytes.len()).find(|&i| {
        quoted ^= bytes[i] == b'\'';
        !quoted && bytes[i..].starts_with(b"}}")
    })
}

impl ExprError {
    /// The span, with its end moved back to where a character of `text` ends.
    fn on_boundary(mut self, text: &str) -> Self {
        while !text.is_char_boundary(self.span.end) {
            self.span.end -= 1;
        }
        self
    }
}
