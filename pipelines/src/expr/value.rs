//! The values of expressions and how they turn into each other. The rules are those of GitHub's runner
//! (<https://docs.github.com/actions/reference/workflows-and-actions/expressions#operators>): JavaScript's loose
//! comparison, but strings compare without regard to case, and objects and arrays equal only themselves.

use std::{cmp::Ordering, fmt, sync::Arc};

use indexmap::IndexMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A value. Cloning costs nothing but a counter; arrays and objects keep their identity and the order of their keys.
#[derive(Debug, Clone, Default)]
pub enum Value {
    /// Nothing.
    #[default]
    Null,
    /// True or false.
    Bool(bool),
    /// A number; NaN and the infinities too.
    Number(f64),
    /// A text.
    String(Arc<str>),
    /// A list.
    Array(Arc<Vec<Value>>),
    /// A mapping. Its keys are looked up without regard to case, an exact match first.
    Object(Arc<IndexMap<String, Value>>),
}

impl Value {
    /// A text.
    pub fn string(text: impl Into<Arc<str>>) -> Self {
        Self::String(text.into())
    }

    /// A list.
    #[must_use]
    pub fn array(items: Vec<Self>) -> Self {
        Self::Array(Arc::new(items))
    }

    /// A mapping, in the order given.
    pub fn object(entries: impl IntoIterator<Item = (String, Self)>) -> Self {
        Self::Object(Arc::new(entries.into_iter().collect()))
    }

    /// Whether `&&` goes on after it: everything but null, false, 0, NaN and the empty text.
    #[must_use]
    pub fn is_truthy(&self) -> bool {
        match self {
            Self::Null => false,
            Self::Bool(value) => *value,
            Self::Number(value) => *value != 0.0 && !value.is_nan(),
            Self::String(text) => !text.is_empty(),
            Self::Array(_) | Self::Object(_) => true,
        }
    }

    /// Whether it is neither a list nor a mapping.
    #[must_use]
    pub const fn is_primitive(&self) -> bool {
        !matches!(self, Self::Array(_) | Self::Object(_))
    }

    /// As a number: null and the empty text are 0, a text that is no number and every list or mapping NaN.
    #[must_use]
    pub fn to_number(&self) -> f64 {
        match self {
            Self::Null => 0.0,
            Self::Bool(value) => f64::from(u8::from(*value)),
            Self::Number(value) => *value,
            Self::String(text) => parse_number(text),
            Self::Array(_) | Self::Object(_) => f64::NAN,
        }
    }

    /// As a text: null is empty, a list `Array`, a mapping `Object`.
    #[must_use]
    pub fn to_text(&self) -> Arc<str> {
        match self {
            Self::Null => "".into(),
            Self::Bool(true) => "true".into(),
            Self::Bool(false) => "false".into(),
            Self::Number(number) => format_number(*number).into(),
            Self::String(text) => Arc::clone(text),
            Self::Array(_) => "Array".into(),
            Self::Object(_) => "Object".into(),
        }
    }

    /// As JSON. NaN and the infinities, which JSON does not have, become texts.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Bool(value) => (*value).into(),
            Self::Number(number) => match whole(*number) {
                Some(whole) => whole.into(),
                None => serde_json::Number::from_f64(*number)
                    .map_or_else(|| format_number(*number).into(), serde_json::Value::Number),
            },
            Self::String(text) => text.as_ref().into(),
            Self::Array(items) => items.iter().map(Self::to_json).collect(),
            Self::Object(entries) => entries.iter().map(|(key, value)| (key.clone(), value.to_json())).collect(),
        }
    }

    /// The entry of a mapping; `None` where it is no mapping or has no such key. Without regard to case, an exact match
    /// first.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Self::Object(entries) = self else { return None };
        entries.get(key).or_else(|| entries.iter().find(|(k, _)| equal_ignoring_case(k, key)).map(|(_, value)| value))
    }

    /// What kind of value it is, in words.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::String(_) => "a string",
            Self::Array(_) => "an array",
            Self::Object(_) => "an object",
        }
    }

    /// `==`.
    #[must_use]
    pub fn loosely_equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::String(a), Self::String(b)) => equal_ignoring_case(a, b),
            (Self::Array(a), Self::Array(b)) => Arc::ptr_eq(a, b),
            (Self::Object(a), Self::Object(b)) => Arc::ptr_eq(a, b),
            // kinds differ (or both are numbers): a list or mapping becomes NaN, which equals nothing
            #[expect(clippy::float_cmp, reason = "the language compares exactly")]
            _ => self.to_number() == other.to_number(),
        }
    }

    /// How `<` and `>` see the two; `None` where neither holds and they are not equal either.
    #[must_use]
    pub fn loosely_compares(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => Some(a.cmp(b)),
            (Self::String(a), Self::String(b)) => Some(compare_ignoring_case(a, b)),
            (Self::Null, Self::Null) => Some(Ordering::Equal),
            _ if self.loosely_equals(other) => Some(Ordering::Equal),
            _ => self.to_number().partial_cmp(&other.to_number()),
        }
    }
}

impl From<&serde_json::Value> for Value {
    fn from(json: &serde_json::Value) -> Self {
        match json {
            serde_json::Value::Null => Self::Null,
            serde_json::Value::Bool(value) => Self::Bool(*value),
            serde_json::Value::Number(number) => Self::Number(number.as_f64().unwrap_or(f64::NAN)),
            serde_json::Value::String(text) => Self::string(text.as_str()),
            serde_json::Value::Array(items) => Self::array(items.iter().map(Self::from).collect()),
            serde_json::Value::Object(entries) => {
                Self::object(entries.iter().map(|(key, value)| (key.clone(), value.into())))
            }
        }
    }
}

impl From<serde_json::Value> for Value {
    fn from(json: serde_json::Value) -> Self {
        Self::from(&json)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::string(text)
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::string(text)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Number(value)
    }
}

/// Sameness for tests and caches, not the language's `==`: texts by case, lists and mappings by content, NaN equals NaN.
impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Number(a), Self::Number(b)) => a == b || (a.is_nan() && b.is_nan()),
            (Self::String(a), Self::String(b)) => a == b,
            (Self::Array(a), Self::Array(b)) => a == b,
            (Self::Object(a), Self::Object(b)) => a == b,
            _ => false,
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Number(number) => match whole(*number) {
                Some(whole) => serializer.serialize_i64(whole),
                None if number.is_finite() => serializer.serialize_f64(*number),
                None => serializer.collect_str(&format_number(*number)),
            },
            Self::String(text) => serializer.serialize_str(text),
            Self::Array(items) => serializer.collect_seq(items.iter()),
            Self::Object(entries) => serializer.collect_map(entries.iter()),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Value;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON value")
            }
            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }
            fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
                Ok(Value::Bool(value))
            }
            #[expect(clippy::cast_precision_loss, reason = "the language has no other numbers")]
            fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
                Ok(Value::Number(value as f64))
            }
            #[expect(clippy::cast_precision_loss, reason = "the language has no other numbers")]
            fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
                Ok(Value::Number(value as f64))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
                Ok(Value::Number(value))
            }
            fn visit_str<E>(self, text: &str) -> Result<Value, E> {
                Ok(Value::string(text))
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
                let mut array = Vec::new();
                while let Some(item) = items.next_element()? {
                    array.push(item);
                }
                Ok(Value::array(array))
            }
            fn visit_map<A: de::MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
                let mut object = IndexMap::new();
                while let Some((key, value)) = entries.next_entry()? {
                    object.insert(key, value);
                }
                Ok(Value::Object(Arc::new(object)))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// The number that a text stands for, as in a literal or a coercion: decimal, `0x`, `0o`, `Infinity`; an empty text is 0,
/// any other NaN.
pub(super) fn parse_number(text: &str) -> f64 {
    let text = text.trim();
    if text.is_empty() {
        return 0.0;
    }
    // Rust's parser knows `inf` and `nan` in many spellings; let only decimal notation reach it
    if text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'+' | b'-' | b'e' | b'E')) {
        return text.parse().unwrap_or(f64::NAN);
    }
    let radix = |digits: &str, radix| {
        let plain = digits.bytes().all(|b| char::from(b).is_digit(radix));
        u32::from_str_radix(digits, radix).ok().filter(|_| plain).map_or(f64::NAN, f64::from)
    };
    if let Some(digits) = text.strip_prefix("0x") {
        return radix(digits, 16);
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return radix(digits, 8);
    }
    match text {
        "Infinity" | "+Infinity" => f64::INFINITY,
        "-Infinity" => f64::NEG_INFINITY,
        _ => f64::NAN,
    }
}

/// A number as text: 15 significant digits, an exponent from 10^15 and below 10^-4 (.NET's `G15`, which GitHub uses).
pub(super) fn format_number(number: f64) -> String {
    if number.is_nan() {
        return "NaN".into();
    }
    if number.is_infinite() {
        return if number > 0.0 { "Infinity".into() } else { "-Infinity".into() };
    }
    if number == 0.0 {
        return "0".into();
    }
    let scientific = format!("{:.14e}", number.abs());
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let digits = digits.trim_end_matches('0');
    let sign = if number < 0.0 { "-" } else { "" };
    let split = |whole: usize| {
        if digits.len() <= whole {
            format!("{digits}{}", "0".repeat(whole - digits.len()))
        } else {
            format!("{}.{}", &digits[..whole], &digits[whole..])
        }
    };
    match exponent {
        0..15 => format!("{sign}{}", split(usize::try_from(exponent + 1).unwrap_or(1))),
        -4..0 => format!("{sign}0.{}{digits}", "0".repeat(usize::try_from(-exponent - 1).unwrap_or(0))),
        _ => {
            let direction = if exponent < 0 { '-' } else { '+' };
            format!("{sign}{}E{direction}{:02}", split(1), exponent.unsigned_abs())
        }
    }
}

/// Whether two texts are the same but for their case.
pub(crate) fn equal_ignoring_case(a: &str, b: &str) -> bool {
    if a.is_ascii() && b.is_ascii() {
        return a.eq_ignore_ascii_case(b);
    }
    a.chars().map(fold).eq(b.chars().map(fold))
}

/// The texts' letters in upper case, one for one, so that positions stay comparable.
pub(super) fn folded(text: &str) -> Vec<char> {
    text.chars().map(fold).collect()
}

fn compare_ignoring_case(a: &str, b: &str) -> Ordering {
    a.chars().map(fold).cmp(b.chars().map(fold))
}

fn fold(c: char) -> char {
    if c.is_ascii() {
        return c.to_ascii_uppercase();
    }
    let mut upper = c.to_uppercase();
    match (upper.next(), upper.next()) {
        // as .NET's invariant culture, no other letter becomes one of ASCII: `ı` is no `I`, `ſ` no `S`
        (Some(only), None) if !only.is_ascii() => only,
        _ => c,
    }
}

/// The number as an integer, where it is one that a double holds exactly.
fn whole(number: f64) -> Option<i64> {
    const LARGEST: f64 = 9_007_199_254_740_991.0;
    #[expect(clippy::cast_possible_truncation, reason = "whole and within the exact range")]
    (number.fract() == 0.0 && number.abs() <= LARGEST).then_some(number as i64)
}
