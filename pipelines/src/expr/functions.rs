//! The functions: their names, how many arguments they take, and what those that need no surroundings do.

use std::{fmt, ops::Range};

use super::{
    error::{ErrorKind, ExprError},
    evaluate::MAX_TEXT_BYTES,
    lexer::excerpt,
    value::{Value, folded},
};

/// A function of the language.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Contains,
    StartsWith,
    EndsWith,
    Format,
    Join,
    ToJson,
    FromJson,
    HashFiles,
    Case,
    Success,
    Failure,
    Always,
    Cancelled,
}

impl Function {
    const ALL: [Self; 13] = [
        Self::Contains,
        Self::StartsWith,
        Self::EndsWith,
        Self::Format,
        Self::Join,
        Self::ToJson,
        Self::FromJson,
        Self::HashFiles,
        Self::Case,
        Self::Success,
        Self::Failure,
        Self::Always,
        Self::Cancelled,
    ];

    /// The function of that name, without regard to case.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|function| function.name().eq_ignore_ascii_case(name))
    }

    /// Every name, for suggestions.
    pub(super) fn names() -> impl Iterator<Item = &'static str> {
        Self::ALL.into_iter().map(Self::name)
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Contains => "contains",
            Self::StartsWith => "startsWith",
            Self::EndsWith => "endsWith",
            Self::Format => "format",
            Self::Join => "join",
            Self::ToJson => "toJSON",
            Self::FromJson => "fromJSON",
            Self::HashFiles => "hashFiles",
            Self::Case => "case",
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Always => "always",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether it asks how things went so far: only `if` may.
    pub(super) const fn is_status(self) -> bool {
        matches!(self, Self::Success | Self::Failure | Self::Always | Self::Cancelled)
    }

    /// Refuses a wrong number of arguments.
    pub(super) fn check_arguments(self, count: usize, span: Range<usize>) -> Result<(), ExprError> {
        let (fewest, most) = match self {
            Self::Contains | Self::StartsWith | Self::EndsWith => (2, 2),
            Self::Format | Self::HashFiles => (1, 255),
            Self::Join => (1, 2),
            Self::ToJson | Self::FromJson => (1, 1),
            Self::Case => (3, 255),
            Self::Success | Self::Failure | Self::Always | Self::Cancelled => (0, 0),
        };
        let name = self.name();
        let wanted = match (fewest, most) {
            _ if count >= fewest && count <= most => {
                if self != Self::Case || count % 2 == 1 {
                    return Ok(());
                }
                "an odd number of arguments: condition and value in turn, and a last value for none of them".into()
            }
            (0, 0) => "no arguments".into(),
            (1, 1) => "1 argument".into(),
            (fewest, most) if fewest == most => format!("{fewest} arguments"),
            (fewest, 255) => format!("at least {fewest} and at most 255 arguments"),
            (fewest, most) => format!("{fewest} to {most} arguments"),
        };
        let message = format!("`{name}` takes {wanted}, but here it gets {count}");
        Err(ExprError::new(ErrorKind::ArgumentCount, span, message).help(format!("write `{}`", self.usage())))
    }

    pub(super) const fn usage(self) -> &'static str {
        match self {
            Self::Contains => "contains(search, item)",
            Self::StartsWith => "startsWith(text, beginning)",
            Self::EndsWith => "endsWith(text, end)",
            Self::Format => "format('{0} of {1}', first, second)",
            Self::Join => "join(array, separator)",
            Self::ToJson => "toJSON(value)",
            Self::FromJson => "fromJSON(text)",
            Self::HashFiles => "hashFiles(pattern, ...)",
            Self::Case => "case(condition, value, ..., otherwise)",
            Self::Success => "success()",
            Self::Failure => "failure()",
            Self::Always => "always()",
            Self::Cancelled => "cancelled()",
        }
    }
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `contains`: a text within a text, or an equal item in a list.
pub(super) fn contains(search: &Value, item: &Value) -> bool {
    match search {
        Value::Array(items) => items.iter().any(|candidate| item.loosely_equals(candidate)),
        Value::Object(_) => false,
        _ if !item.is_primitive() => false,
        _ => {
            let (text, part) = (search.to_text(), item.to_text());
            if text.is_ascii() && part.is_ascii() {
                return text.to_ascii_uppercase().contains(&part.to_ascii_uppercase());
            }
            let text: String = folded(&text).into_iter().collect();
            let part: String = folded(&part).into_iter().collect();
            text.contains(&part)
        }
    }
}

/// `startsWith` and `endsWith`.
pub(super) fn begins_or_ends(text: &Value, part: &Value, at_end: bool) -> bool {
    if !text.is_primitive() || !part.is_primitive() {
        return false;
    }
    let (text, part) = (folded(&text.to_text()), folded(&part.to_text()));
    if at_end { text.ends_with(&part) } else { text.starts_with(&part) }
}

/// `format`.
pub(super) fn format(arguments: &[Value], span: &Range<usize>) -> Result<Value, ExprError> {
    let Some((template, values)) = arguments.split_first() else { return Ok(Value::string("")) };
    let template = template.to_text();
    let refuse = |why: &str| {
        let message = format!("`format` cannot use the text `{}`: {why}", excerpt(&template));
        ExprError::new(ErrorKind::Value, span.clone(), message)
            .help("`{0}` stands for the first value, `{{` and `}}` for braces")
    };
    let mut result = String::new();
    let mut rest: &str = &template;
    while let Some(brace) = rest.find(['{', '}']) {
        result.push_str(&rest[..brace]);
        let opens = rest[brace..].starts_with('{');
        rest = &rest[brace + 1..];
        if rest.starts_with(if opens { '{' } else { '}' }) {
            result.push(if opens { '{' } else { '}' });
            rest = &rest[1..];
            continue;
        }
        if !opens {
            return Err(refuse("a `}` closes nothing"));
        }
        let Some((index, after)) = rest.split_once('}') else { return Err(refuse("a `{` is not closed")) };
        let index: u8 = index
            .parse()
            .ok()
            .filter(|_| index.bytes().all(|b| b.is_ascii_digit()))
            .ok_or_else(|| refuse(&format!("`{{{}}}` is no number from 0 to 255 in braces", excerpt(index))))?;
        let value = values
            .get(usize::from(index))
            .ok_or_else(|| refuse(&format!("there is no value for `{{{index}}}`, only {} are given", values.len())))?;
        result.push_str(&value.to_text());
        if result.len() > MAX_TEXT_BYTES {
            return Err(too_long(span));
        }
        rest = after;
    }
    result.push_str(rest);
    Ok(Value::string(result))
}

/// `join`.
pub(super) fn join(items: &Value, separator: Option<&Value>, span: &Range<usize>) -> Result<Value, ExprError> {
    let Value::Array(items) = items else {
        return Ok(if items.is_primitive() { Value::String(items.to_text()) } else { Value::string("") });
    };
    let separator = separator.filter(|separator| separator.is_primitive()).map_or_else(|| ",".into(), Value::to_text);
    let mut result = String::new();
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            result.push_str(&separator);
        }
        result.push_str(&item.to_text());
        if result.len() > MAX_TEXT_BYTES {
            return Err(too_long(span));
        }
    }
    Ok(Value::string(result))
}

/// `toJSON`: indented by two spaces, keys in their order, numbers as everywhere in the language.
pub(super) fn to_json(value: &Value, span: &Range<usize>) -> Result<Value, ExprError> {
    let mut text = String::new();
    write_json(value, 0, &mut text, span)?;
    Ok(Value::string(text))
}

fn write_json(value: &Value, indent: usize, out: &mut String, span: &Range<usize>) -> Result<(), ExprError> {
    if out.len() > MAX_TEXT_BYTES {
        return Err(too_long(span));
    }
    let line = |out: &mut String, indent: usize| {
        out.push('\n');
        out.push_str(&"  ".repeat(indent));
    };
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(_) | Value::Number(_) => out.push_str(&value.to_text()),
        Value::String(text) => out.push_str(&serde_json::Value::from(text.as_ref()).to_string()),
        Value::Array(items) if items.is_empty() => out.push_str("[]"),
        Value::Object(entries) if entries.is_empty() => out.push_str("{}"),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i > 0 { "," } else { "" });
                line(out, indent + 1);
                write_json(item, indent + 1, out, span)?;
            }
            line(out, indent);
            out.push(']');
        }
        Value::Object(entries) => {
            out.push('{');
            for (i, (key, entry)) in entries.iter().enumerate() {
                out.push_str(if i > 0 { "," } else { "" });
                line(out, indent + 1);
                out.push_str(&serde_json::Value::from(key.as_str()).to_string());
                out.push_str(": ");
                write_json(entry, indent + 1, out, span)?;
            }
            line(out, indent);
            out.push('}');
        }
    }
    Ok(())
}

/// `fromJSON`.
pub(super) fn from_json(text: &Value, span: &Range<usize>) -> Result<Value, ExprError> {
    let text = text.to_text();
    serde_json::from_str(&text).map_err(|error| {
        let shown = if text.trim().is_empty() { "an empty text".into() } else { format!("`{}`", excerpt(&text)) };
        ExprError::new(ErrorKind::Value, span.clone(), format!("`fromJSON` got {shown}, which is not JSON: {error}"))
    })
}

fn too_long(span: &Range<usize>) -> ExprError {
    let message = format!("the text made here is longer than {} KiB", MAX_TEXT_BYTES / 1024);
    ExprError::new(ErrorKind::Limit, span.clone(), message)
}
