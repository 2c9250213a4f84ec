//! A tree into a value. Total: bounded in depth by the parser, and in work by a budget.

use std::{cmp::Ordering, ops::Range};

use super::{
    contexts::{CONTEXT_NAMES, Contexts, StatusFunctions},
    error::{ErrorKind, ExprError},
    functions::{self, Function},
    lexer::Operator,
    syntax::{Accessor, Node, NodeKind},
    value::Value,
};
use crate::nearest::did_you_mean;

/// The longest text that an expression may make, in bytes.
pub const MAX_TEXT_BYTES: usize = 1024 * 1024;
/// How much one evaluation may touch: bytes of text read or made, and items of lists looked at.
const MAX_WORK: usize = 4 * 1024 * 1024;

/// Where an expression is evaluated.
#[derive(Clone, Copy)]
pub(super) struct Scope<'c> {
    pub contexts: &'c Contexts,
    /// Only where `if` is decided.
    pub status: Option<StatusFunctions>,
}

/// The value of a tree. Names are checked in the whole of it before anything is computed, as short circuits would hide them.
pub(super) fn evaluate(node: &Node, scope: Scope<'_>) -> Result<Value, ExprError> {
    check_names(node, scope)?;
    Evaluation { scope, work_left: MAX_WORK }.value(node)
}

fn check_names(node: &Node, scope: Scope<'_>) -> Result<(), ExprError> {
    let mut found = None;
    node.walk(&mut |node| {
        let error = match &node.kind {
            NodeKind::Context(name) if scope.contexts.get(name).is_none() => {
                unknown_context(name, &node.span, scope.contexts.names())
            }
            NodeKind::Call { function, .. } if function.is_status() && scope.status.is_none() => {
                misplaced_status(*function, &node.span)
            }
            _ => return,
        };
        found.get_or_insert(error);
    });
    found.map_or(Ok(()), Err)
}

/// The error for a context that cannot be used; `here` are those that can.
pub(super) fn unknown_context<'c>(
    name: &str,
    span: &Range<usize>,
    here: impl Iterator<Item = &'c str> + Clone,
) -> ExprError {
    let exists = CONTEXT_NAMES.iter().any(|known| known.eq_ignore_ascii_case(name));
    let message = if exists {
        format!("the context `{name}` is not available here")
    } else {
        format!("there is no context `{name}`")
    };
    let suggestion = if exists { None } else { call_it(name).or_else(|| did_you_mean(name, here.clone())) };
    let error = ExprError::new(ErrorKind::UnknownContext, span.clone(), message);
    match suggestion {
        Some(suggestion) => error.help(suggestion),
        None => {
            let here: Vec<&str> = here.collect();
            let list = if here.is_empty() { "no contexts".into() } else { here.join(", ") };
            let quote = if exists { "" } else { "; a text stands in single quotes" };
            error.help(format!("available here: {list}{quote}"))
        }
    }
}

/// What to write for a function's name that stands without its brackets.
pub(crate) fn call_it(name: &str) -> Option<String> {
    Function::named(name).map(|function| format!("`{}` is a function: write `{}`", function.name(), function.usage()))
}

pub(super) fn misplaced_status(function: Function, span: &Range<usize>) -> ExprError {
    let message = format!("`{function}()` is only known in `if`");
    ExprError::new(ErrorKind::UnknownFunction, span.clone(), message)
        .help("move it to the `if` of the job or step; elsewhere, read `needs.<job>.result` or `steps.<id>.outcome`")
}

struct Evaluation<'c> {
    scope: Scope<'c>,
    work_left: usize,
}

impl Evaluation<'_> {
    fn value(&mut self, node: &Node) -> Result<Value, ExprError> {
        match &node.kind {
            NodeKind::Literal(value) => Ok(value.clone()),
            NodeKind::Context(name) => Ok(self.scope.contexts.get(name).cloned().unwrap_or_default()),
            NodeKind::Access { base, path } => self.access(base, path, &node.span),
            NodeKind::Call { function, arguments } => self.call(*function, arguments, &node.span),
            NodeKind::Not(operand) => Ok(Value::Bool(!self.value(operand)?.is_truthy())),
            NodeKind::Compare { operator, left, right } => {
                let (left, right) = (self.value(left)?, self.value(right)?);
                self.charge(size(&left) + size(&right), &node.span)?;
                Ok(Value::Bool(compare(*operator, &left, &right)))
            }
            NodeKind::And(operands) => self.first(operands, |value| !value.is_truthy()),
            NodeKind::Or(operands) => self.first(operands, Value::is_truthy),
        }
    }

    /// The first operand that decides, else the last: `&&` and `||` give an operand back, not a boolean.
    fn first(&mut self, operands: &[Node], decides: fn(&Value) -> bool) -> Result<Value, ExprError> {
        let mut value = Value::Null;
        for operand in operands {
            value = self.value(operand)?;
            if decides(&value) {
                break;
            }
        }
        Ok(value)
    }

    fn access(&mut self, base: &Node, path: &[Accessor], span: &Range<usize>) -> Result<Value, ExprError> {
        let mut value = self.value(base)?;
        // after a `*`, every further step is taken in each of the items, and those that lead nowhere fall out
        let mut filtered: Option<Vec<Value>> = None;
        for accessor in path {
            let index = match accessor {
                Accessor::Wildcard => None,
                Accessor::Property(name) => Some(Value::string(name.as_str())),
                Accessor::Index(index) => Some(self.value(index)?),
            };
            filtered = match (filtered, index) {
                (None, Some(index)) => {
                    self.charge(1, span)?;
                    value = step(&value, &index).unwrap_or_default();
                    None
                }
                (None, None) => Some(self.members(&value, span)?),
                (Some(items), Some(index)) => {
                    self.charge(items.len(), span)?;
                    Some(items.iter().filter_map(|item| step(item, &index)).collect())
                }
                (Some(items), None) => {
                    let mut all = Vec::new();
                    for item in &items {
                        all.append(&mut self.members(item, span)?);
                    }
                    Some(all)
                }
            };
        }
        Ok(filtered.map_or(value, Value::array))
    }

    fn members(&mut self, value: &Value, span: &Range<usize>) -> Result<Vec<Value>, ExprError> {
        let members: Vec<Value> = match value {
            Value::Array(items) => items.to_vec(),
            Value::Object(entries) => entries.values().cloned().collect(),
            _ => Vec::new(),
        };
        self.charge(members.len(), span)?;
        Ok(members)
    }

    fn call(&mut self, function: Function, arguments: &[Node], span: &Range<usize>) -> Result<Value, ExprError> {
        if function == Function::Case {
            return self.case(arguments);
        }
        if let Some(status) = self.scope.status.filter(|_| function.is_status()) {
            return Ok(Value::Bool(match function {
                Function::Success => status.success,
                Function::Failure => status.failure,
                Function::Cancelled => status.cancelled,
                _ => true,
            }));
        }
        let values = arguments.iter().map(|argument| self.value(argument)).collect::<Result<Vec<_>, _>>()?;
        self.charge(values.iter().map(size).sum(), span)?;
        let result = match (function, values.as_slice()) {
            (Function::Contains, [search, item]) => Value::Bool(functions::contains(search, item)),
            (Function::StartsWith, [text, part]) => Value::Bool(functions::begins_or_ends(text, part, false)),
            (Function::EndsWith, [text, part]) => Value::Bool(functions::begins_or_ends(text, part, true)),
            (Function::Format, values) => functions::format(values, span)?,
            (Function::Join, [items, rest @ ..]) => functions::join(items, rest.first(), span)?,
            (Function::ToJson, [value]) => functions::to_json(value, span)?,
            (Function::FromJson, [text]) => functions::from_json(text, span)?,
            (Function::HashFiles, patterns) => self.hash_files(patterns, span)?,
            _ => Value::Null,
        };
        self.charge(size(&result), span)?;
        Ok(result)
    }

    fn case(&mut self, arguments: &[Node]) -> Result<Value, ExprError> {
        let Some((otherwise, pairs)) = arguments.split_last() else { return Ok(Value::Null) };
        for pair in pairs.chunks_exact(2) {
            match self.value(&pair[0])? {
                Value::Bool(true) => return self.value(&pair[1]),
                Value::Bool(false) => {}
                other => {
                    let message = format!("a condition of `case` must be a boolean, and this is {}", other.kind());
                    return Err(ExprError::new(ErrorKind::Value, pair[0].span.clone(), message)
                        .help("compare it: `x == 'value'`, or turn it into a boolean: `!!x`"));
                }
            }
        }
        self.value(otherwise)
    }

    fn hash_files(&self, patterns: &[Value], span: &Range<usize>) -> Result<Value, ExprError> {
        let refuse = |kind, message: String| ExprError::new(kind, span.clone(), message);
        let Some(hash_files) = self.scope.contexts.hash_files() else {
            let message = "`hashFiles` is only known in steps, where there is a workspace".to_owned();
            return Err(refuse(ErrorKind::UnknownFunction, message));
        };
        let patterns: Vec<String> = patterns.iter().map(|pattern| pattern.to_text().to_string()).collect();
        hash_files(&patterns)
            .map(Value::from)
            .map_err(|why| refuse(ErrorKind::Value, format!("`hashFiles` cannot read the files: {why}")))
    }

    fn charge(&mut self, work: usize, span: &Range<usize>) -> Result<(), ExprError> {
        self.work_left = self.work_left.checked_sub(work).ok_or_else(|| {
            ExprError::new(ErrorKind::Limit, span.clone(), "this expression reads or makes more than is allowed")
                .help("compute it in a step, and hand the result on as an output")
        })?;
        Ok(())
    }
}

/// One step down, `None` where it leads nowhere.
fn step(value: &Value, index: &Value) -> Option<Value> {
    match value {
        Value::Object(_) if index.is_primitive() => value.get(&index.to_text()).cloned(),
        Value::Array(items) => {
            let position = index.to_number().floor();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within 0 and i32::MAX")]
            (position >= 0.0 && position <= f64::from(i32::MAX))
                .then(|| items.get(position as usize).cloned())
                .flatten()
        }
        _ => None,
    }
}

fn compare(operator: Operator, left: &Value, right: &Value) -> bool {
    let order = || left.loosely_compares(right);
    match operator {
        Operator::Equal => left.loosely_equals(right),
        Operator::NotEqual => !left.loosely_equals(right),
        Operator::Less => order() == Some(Ordering::Less),
        Operator::LessOrEqual => matches!(order(), Some(Ordering::Less | Ordering::Equal)),
        Operator::Greater => order() == Some(Ordering::Greater),
        Operator::GreaterOrEqual => matches!(order(), Some(Ordering::Greater | Ordering::Equal)),
        Operator::And | Operator::Or => false,
    }
}

/// What it costs to read a value once.
fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.len(),
        Value::Object(entries) => entries.len(),
        _ => 1,
    }
}
