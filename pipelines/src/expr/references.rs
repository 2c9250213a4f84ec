//! What an expression reads, without evaluating it.

use std::ops::Range;

use super::{
    ExprError,
    functions::Function,
    parser,
    syntax::{Accessor, Node, NodeKind},
    template::{Piece, pieces},
    value::Value,
};

/// One way into a context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The context's name, as written.
    pub context: String,
    /// The steps into it; empty where the whole context is used.
    pub path: Vec<Step>,
    /// Where it stands, in bytes of the text that was given.
    pub span: Range<usize>,
}

/// One step into a context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// By a name that stands in the expression: `.name` or `['name']`.
    Name(String),
    /// All of them: `*`.
    All,
    /// By what another expression says.
    Computed,
}

impl Reference {
    /// Whether it reads this context.
    #[must_use]
    pub fn is_in(&self, context: &str) -> bool {
        self.context.eq_ignore_ascii_case(context)
    }

    /// The name at a position of the path; `None` where the path ends before, or is not known there.
    #[must_use]
    pub fn name(&self, position: usize) -> Option<&str> {
        match self.path.get(position) {
            Some(Step::Name(name)) => Some(name),
            _ => None,
        }
    }
}

/// The contexts that a single expression (without `${{ }}`) reads, in order.
///
/// # Errors
/// Every mistake that can be seen without contexts: syntax, unknown functions, argument counts, limits.
pub fn references(source: &str) -> Result<Vec<Reference>, ExprError> {
    Ok(of_node(&parser::parse(source)?))
}

/// The contexts that the `${{ }}` of a text read, in order.
///
/// # Errors
/// As [`references`]; the first mistake of the text.
pub fn template_references(text: &str) -> Result<Vec<Reference>, ExprError> {
    let mut all = Vec::new();
    for piece in pieces(text)? {
        if let Piece::Expression { source, offset } = piece {
            let found = references(source).map_err(|error| error.shifted(offset))?;
            all.extend(found.into_iter().map(|reference| Reference {
                span: reference.span.start + offset..reference.span.end + offset,
                ..reference
            }));
        }
    }
    Ok(all)
}

/// A call of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The function, as the language spells it.
    pub function: &'static str,
    /// Where the call stands, in bytes of the text that was given.
    pub span: Range<usize>,
}

impl Call {
    /// Whether it asks how things went so far, which only `if` may.
    #[must_use]
    pub fn is_status(&self) -> bool {
        Function::named(self.function).is_some_and(Function::is_status)
    }
}

/// The functions that a single expression (without `${{ }}`) calls, outer ones first.
///
/// # Errors
/// As [`references`].
pub fn calls(source: &str) -> Result<Vec<Call>, ExprError> {
    let mut found = Vec::new();
    parser::parse(source)?.walk(&mut |node| {
        if let NodeKind::Call { function, .. } = &node.kind {
            found.push(Call { function: function.name(), span: node.span.clone() });
        }
    });
    Ok(found)
}

/// The expressions of a text with `${{ }}`: each with where it begins, in bytes of the text.
///
/// # Errors
/// A `${{` that is not closed.
pub fn template_expressions(text: &str) -> Result<Vec<(&str, usize)>, ExprError> {
    let expressions = pieces(text)?.into_iter().filter_map(|piece| match piece {
        Piece::Expression { source, offset } => Some((source, offset)),
        Piece::Text(_) => None,
    });
    Ok(expressions.collect())
}

fn of_node(node: &Node) -> Vec<Reference> {
    let mut found: Vec<Reference> = Vec::new();
    node.walk(&mut |node| match &node.kind {
        NodeKind::Context(name) if !found.iter().any(|reference| reference.span.start == node.span.start) => {
            found.push(Reference { context: name.clone(), path: Vec::new(), span: node.span.clone() });
        }
        NodeKind::Access { base, path } => {
            if let NodeKind::Context(name) = &base.kind {
                let path = path.iter().map(step).collect();
                found.push(Reference { context: name.clone(), path, span: base.span.start..node.span.end });
            }
        }
        _ => {}
    });
    found
}

fn step(accessor: &Accessor) -> Step {
    match accessor {
        Accessor::Property(name) => Step::Name(name.clone()),
        Accessor::Wildcard => Step::All,
        Accessor::Index(Node { kind: NodeKind::Literal(Value::String(name)), .. }) => Step::Name(name.to_string()),
        Accessor::Index(_) => Step::Computed,
    }
}
