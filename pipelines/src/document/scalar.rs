//! Scalars: what a plain text stands for, by YAML 1.2's core schema. The text is kept as written, so that the version 1.10
//! stays 1.10 where a text is wanted.

use std::ops::Range;

/// A scalar.
#[derive(Debug, Clone, PartialEq)]
pub struct Scalar {
    /// Its text: without quotes, escapes and indentation, folded.
    pub text: String,
    /// What it stands for.
    pub kind: ScalarKind,
}

/// What a scalar stands for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ScalarKind {
    /// Nothing, `~` or `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A number.
    Float(f64),
    /// A text.
    String,
}

impl ScalarKind {
    /// In words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "a boolean",
            Self::Integer(_) | Self::Float(_) => "a number",
            Self::String => "a text",
        }
    }

    /// What a text without quotes stands for.
    pub(super) fn of_plain(text: &str) -> Self {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => return Self::Null,
            "true" | "True" | "TRUE" => return Self::Bool(true),
            "false" | "False" | "FALSE" => return Self::Bool(false),
            ".nan" | ".NaN" | ".NAN" => return Self::Float(f64::NAN),
            _ => {}
        }
        let (sign, digits) = match text.as_bytes()[0] {
            b'-' => (-1.0, &text[1..]),
            b'+' => (1.0, &text[1..]),
            _ => (1.0, text),
        };
        if matches!(digits, ".inf" | ".Inf" | ".INF") {
            return Self::Float(sign * f64::INFINITY);
        }
        if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return match text.parse() {
                Ok(integer) => Self::Integer(integer),
                Err(_) => text.parse().map_or(Self::String, Self::Float),
            };
        }
        for (prefix, radix) in [("0x", 16), ("0o", 8)] {
            if let Some(digits) = text.strip_prefix(prefix) {
                let plain = digits.bytes().all(|byte| char::from(byte).is_digit(radix));
                return match i64::from_str_radix(digits, radix) {
                    Ok(integer) if plain => Self::Integer(integer),
                    _ => Self::String,
                };
            }
        }
        let decimal = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-');
        if digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') && digits.bytes().all(decimal) {
            return text.parse().map_or(Self::String, Self::Float);
        }
        Self::String
    }
}

/// Where a part of a scalar's text stands in the file. `written` is the file's text of the scalar, at `start`. Quotes,
/// indentation and folding make offsets differ, so the first line of the part is looked for, as many occurrences on as in the
/// text; where escapes hide it, the whole scalar is the place.
pub(crate) fn locate(text: &str, part: &Range<usize>, written: &str, start: usize) -> Range<usize> {
    let whole = start..start + written.len();
    let Some(wanted) = text.get(part.clone()) else { return whole };
    let first_line = wanted.lines().next().unwrap_or_default();
    if first_line.is_empty() {
        // a place between two characters: right after what stands before it
        let line_start = text[..part.start].rfind('\n').map_or(0, |newline| newline + 1);
        if line_start == part.start {
            return whole;
        }
        let before = locate(text, &(line_start..part.start), written, start);
        return before.end..before.end;
    }
    let before = text[..part.start].matches(first_line).count();
    match written.match_indices(first_line).nth(before) {
        Some((at, _)) => start + at..start + at + first_line.len(),
        None => whole,
    }
}
