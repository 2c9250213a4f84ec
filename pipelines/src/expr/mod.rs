//! GitHub's expression language, `${{ }}`: own lexer, Pratt parser and evaluator.
//!
//! Comes in: the text of an expression, or a text with expressions in it, and the contexts it may read. Goes out: a
//! value, or an error with its kind and its place in that text. Every function is total: any input ends in one of the two,
//! in bounded time, depth and memory. Never here: files, clocks, the environment; `hashFiles` is handed in by who has files.

mod contexts;
mod error;
mod evaluate;
mod functions;
mod lexer;
mod parser;
mod references;
mod syntax;
mod template;
mod value;

pub(crate) use value::equal_ignoring_case;

pub use contexts::{CONTEXT_NAMES, Contexts, HashFiles, StatusFunctions};
pub use error::{ErrorKind, ExprError};
pub use evaluate::MAX_TEXT_BYTES;
pub(crate) use evaluate::call_it;
pub use parser::{MAX_DEPTH, MAX_LENGTH_BYTES};
pub use references::{Call, Reference, Step, calls, references, template_expressions, template_references};
pub use value::Value;

use evaluate::Scope;
use syntax::{Node, NodeKind};
use template::Piece;

/// The value of one expression, written without `${{ }}`.
///
/// # Errors
/// Every mistake that [`ErrorKind`] lists. Unknown contexts and functions are found even where they would not be reached.
pub fn evaluate(source: &str, contexts: &Contexts) -> Result<Value, ExprError> {
    evaluate::evaluate(&parser::parse(source)?, Scope { contexts, status: None })
}

/// The value of one expression, bare or wholly in `${{ }}`, in a place that knows `success()` and its like: to try one out.
///
/// # Errors
/// As [`evaluate`], and a text mixed with `${{ }}`.
pub fn evaluate_with_status(source: &str, contexts: &Contexts, status: StatusFunctions) -> Result<Value, ExprError> {
    let (source, offset) =
        if source.trim_start().starts_with("${{") { template::condition(source)? } else { (source, 0) };
    parser::parse(source)
        .and_then(|node| evaluate::evaluate(&node, Scope { contexts, status: Some(status) }))
        .map_err(|error| error.shifted(offset))
}

/// The text with every `${{ }}` replaced by its value as text. A text without any is given back as it is.
///
/// # Errors
/// As [`evaluate`]; spans are in bytes of `text`.
pub fn render_template(text: &str, contexts: &Contexts) -> Result<String, ExprError> {
    let mut rendered = String::new();
    for piece in template::pieces(text)? {
        match piece {
            Piece::Text(text) => rendered.push_str(text),
            Piece::Expression { source, offset } => {
                let value = evaluate(source, contexts).map_err(|error| error.shifted(offset))?;
                rendered.push_str(&value.to_text());
            }
        }
        if rendered.len() > MAX_TEXT_BYTES {
            let message = format!("the text made here is longer than {} KiB", MAX_TEXT_BYTES / 1024);
            return Err(ExprError::new(ErrorKind::Limit, 0..text.len(), message));
        }
    }
    Ok(rendered)
}

/// The value of a text: where it is one `${{ }}` and nothing else, the expression's own value, with its type; otherwise
/// the rendered text.
///
/// # Errors
/// As [`render_template`].
pub fn evaluate_template(text: &str, contexts: &Contexts) -> Result<Value, ExprError> {
    match template::pieces(text)?.as_slice() {
        [Piece::Expression { source, offset }] => evaluate(source, contexts).map_err(|error| error.shifted(*offset)),
        _ => render_template(text, contexts).map(Value::from),
    }
}

/// What an `if` says: one expression, bare or wholly in `${{ }}`. Without one, or where it asks for none of `success()`,
/// `failure()`, `cancelled()` and `always()`, `success()` must hold as well.
///
/// # Errors
/// As [`evaluate`], and a text mixed with `${{ }}`.
pub fn evaluate_condition(
    source: Option<&str>,
    contexts: &Contexts,
    status: StatusFunctions,
) -> Result<bool, ExprError> {
    let Some(text) = source.filter(|text| !text.trim().is_empty()) else { return Ok(status.success) };
    let (source, offset) = template::condition(text)?;
    let decide = || {
        let node = parser::parse(source)?;
        let value = evaluate::evaluate(&node, Scope { contexts, status: Some(status) })?;
        Ok(value.is_truthy() && (status.success || asks_for_status(&node)))
    };
    decide().map_err(|error: ExprError| error.shifted(offset))
}

/// The bare expression of an `if`, taken out of its `${{ }}`, and where it begins in `text`, in bytes.
///
/// # Errors
/// A text mixed with `${{ }}`.
pub fn condition_source(text: &str) -> Result<(&str, usize), ExprError> {
    template::condition(text)
}

/// Whether the expression of an `if` calls one of `success()`, `failure()`, `cancelled()` and `always()`, and so does not
/// get `success()` by itself.
///
/// # Errors
/// As [`references`].
pub fn uses_status_function(source: &str) -> Result<bool, ExprError> {
    Ok(asks_for_status(&parser::parse(source)?))
}

fn asks_for_status(node: &Node) -> bool {
    let mut asks = false;
    node.walk(&mut |node| asks |= matches!(&node.kind, NodeKind::Call { function, .. } if function.is_status()));
    asks
}
