//! The tree into any type that serde knows, with every mistake at its place.
//!
//! Serde stops at the first mistake. So the entry that holds it is set aside and the rest read again, until nothing is wrong
//! any more or what is missing cannot be set aside.

use std::{cell::RefCell, collections::HashSet, fmt, ops::Range};

use serde::{
    de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Visitor, value::StrDeserializer},
    forward_to_deserialize_any,
};

use super::{Content, Entry, Node, ScalarKind};
use crate::{
    diagnostic::{Code, Findings},
    nearest::did_you_mean,
};

/// Reads `node` as a `T`. Where something is wrong, it is among the findings, and the value is what could be read of the rest,
/// so that more can be checked; `None` where nothing could.
pub(crate) fn deserialize<T: DeserializeOwned>(node: &Node, findings: &mut Findings<'_>) -> Option<T> {
    let aside = RefCell::new(HashSet::new());
    loop {
        match T::deserialize(Reader { node, aside: &aside }) {
            Ok(value) => return Some(value),
            Err(error) => {
                let span = error.span.clone().unwrap_or_else(|| node.span.clone());
                if !error.is_consequence {
                    let (code, message, help) = error.mistake.describe();
                    findings.error(code, &span, message, help);
                }
                match error.aside {
                    Some(place) if !findings.is_full() && aside.borrow_mut().insert(place) => {}
                    _ => return None,
                }
            }
        }
    }
}

/// A mistake on its way up to where it can be set aside.
#[derive(Debug)]
struct Error {
    mistake: Mistake,
    span: Option<Range<usize>>,
    /// The entry or item that holds it, by where that begins.
    aside: Option<usize>,
    /// It comes of a mistake that was told already: what is missing was set aside.
    is_consequence: bool,
}

#[derive(Debug)]
enum Mistake {
    UnknownKey { key: String, known: &'static [&'static str] },
    UnknownWord { word: String, known: &'static [&'static str] },
    Missing(&'static str),
    WrongType(String),
    Other(String),
}

impl Mistake {
    fn describe(&self) -> (Code, String, Option<String>) {
        let list = |known: &[&str]| format!("known here: {}", known.join(", "));
        match self {
            Self::UnknownKey { key, known } => {
                let help = did_you_mean(key, known.iter().copied()).unwrap_or_else(|| list(known));
                (Code::UnknownKey, format!("there is no key `{key}` here"), Some(help))
            }
            Self::UnknownWord { word, known } => {
                let help = did_you_mean(word, known.iter().copied()).unwrap_or_else(|| list(known));
                (Code::InvalidValue, format!("`{word}` is none of the values that can stand here"), Some(help))
            }
            Self::Missing(key) => {
                (Code::MissingKey, format!("the key `{key}` is missing"), Some(format!("add `{key}:`")))
            }
            Self::WrongType(message) => (Code::WrongType, message.clone(), None),
            Self::Other(message) => (Code::InvalidValue, message.clone(), None),
        }
    }
}

impl Error {
    fn new(mistake: Mistake) -> Self {
        Self { mistake, span: None, aside: None, is_consequence: false }
    }

    fn at(mut self, span: &Range<usize>, aside: Option<usize>) -> Self {
        self.span.get_or_insert_with(|| span.clone());
        self.aside = self.aside.or(aside);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.mistake.describe().1)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(Mistake::Other(message.to_string()))
    }
    fn invalid_type(found: de::Unexpected<'_>, wanted: &dyn de::Expected) -> Self {
        let found = match found {
            de::Unexpected::Unit | de::Unexpected::Option => "nothing is written".to_owned(),
            de::Unexpected::Map => "this is a mapping".to_owned(),
            de::Unexpected::Seq => "this is a list".to_owned(),
            de::Unexpected::Str(text) => format!("this is the text `{text}`"),
            de::Unexpected::Bool(value) => format!("this is the boolean `{value}`"),
            de::Unexpected::Signed(value) => format!("this is the number `{value}`"),
            de::Unexpected::Unsigned(value) => format!("this is the number `{value}`"),
            de::Unexpected::Float(value) => format!("this is the number `{value}`"),
            other => format!("this is {other}"),
        };
        Self::new(Mistake::WrongType(format!("{found}, where {} is expected", in_words(&wanted.to_string()))))
    }
    fn invalid_value(found: de::Unexpected<'_>, wanted: &dyn de::Expected) -> Self {
        let found = match found {
            de::Unexpected::Signed(value) => value.to_string(),
            de::Unexpected::Unsigned(value) => value.to_string(),
            de::Unexpected::Str(text) => text.to_owned(),
            other => other.to_string(),
        };
        Self::new(Mistake::Other(format!("`{found}` cannot stand here, {} is expected", in_words(&wanted.to_string()))))
    }
    fn unknown_field(key: &str, known: &'static [&'static str]) -> Self {
        Self::new(Mistake::UnknownKey { key: key.to_owned(), known })
    }
    fn unknown_variant(word: &str, known: &'static [&'static str]) -> Self {
        Self::new(Mistake::UnknownWord { word: word.to_owned(), known })
    }
    fn missing_field(field: &'static str) -> Self {
        Self::new(Mistake::Missing(field))
    }
}

/// Serde's and Rust's words for what is wanted, in words for people.
fn in_words(wanted: &str) -> String {
    match wanted {
        "u8" => "a whole number from 0 to 255".into(),
        "u16" => "a whole number from 0 to 65535".into(),
        "u32" | "u64" | "usize" => "a whole number, 0 or more,".into(),
        "i32" | "i64" => "a whole number".into(),
        "f64" | "f32" => "a number".into(),
        "a string" => "a text".into(),
        "a boolean" => "`true` or `false`".into(),
        "a sequence" => "a list".into(),
        "a map" => "a mapping".into(),
        "path string" => "a path".into(),
        _ if wanted.starts_with("struct ") => "a mapping".into(),
        _ => wanted.to_owned(),
    }
}

/// A node, read by serde.
#[derive(Clone, Copy)]
struct Reader<'a> {
    node: &'a Node,
    aside: &'a RefCell<HashSet<usize>>,
}

impl<'a> Reader<'a> {
    fn is_kept(self, place: usize) -> bool {
        !self.aside.borrow().contains(&place)
    }
}

impl<'de> de::Deserializer<'de> for Reader<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let result = match &self.node.content {
            Content::Scalar(scalar) => match scalar.kind {
                ScalarKind::Null => visitor.visit_unit(),
                ScalarKind::Bool(value) => visitor.visit_bool(value),
                ScalarKind::Integer(value) => match u64::try_from(value) {
                    Ok(value) => visitor.visit_u64(value),
                    Err(_) => visitor.visit_i64(value),
                },
                ScalarKind::Float(value) => visitor.visit_f64(value),
                ScalarKind::String => visitor.visit_borrowed_str(&scalar.text),
            },
            Content::Sequence(items) => visitor.visit_seq(Items { reader: self, rest: items.iter() }),
            Content::Mapping(entries) => visitor.visit_map(Entries::new(self, entries, false)),
        };
        result.map_err(|error: Error| error.at(&self.node.span, None))
    }

    /// A key of a struct with nothing written after it counts as left out.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let Content::Mapping(entries) = &self.node.content else { return self.deserialize_any(visitor) };
        visitor.visit_map(Entries::new(self, entries, true)).map_err(|error: Error| match error.mistake {
            // the place is the key that this mapping belongs to; who reads that adds it
            Mistake::Missing(key) => {
                let set_aside = self.node.entry(key).is_some_and(|entry| !self.is_kept(entry.key_span.start));
                Error { is_consequence: error.is_consequence || set_aside, ..error }
            }
            _ => error.at(&self.node.span, None),
        })
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.node.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    /// Numbers and booleans are texts where texts are wanted, as they were written.
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.content {
            Content::Scalar(scalar) if scalar.kind != ScalarKind::Null => {
                visitor.visit_borrowed_str(&scalar.text).map_err(|error: Error| error.at(&self.node.span, None))
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let result = match &self.node.content {
            Content::Scalar(scalar) => {
                let word: StrDeserializer<'_, Error> = scalar.text.as_str().into_deserializer();
                visitor.visit_enum(word)
            }
            _ => Err(Error::new(Mistake::WrongType(format!("this is {}, where a word is expected", self.node.kind())))),
        };
        result.map_err(|error| error.at(&self.node.span, None))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct seq tuple tuple_struct
        map identifier ignored_any
    }
}

struct Items<'a> {
    reader: Reader<'a>,
    rest: std::slice::Iter<'a, std::rc::Rc<Node>>,
}

impl<'de> de::SeqAccess<'de> for Items<'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let reader = self.reader;
        let Some(node) = self.rest.find(|item| reader.is_kept(item.span.start)) else { return Ok(None) };
        seed.deserialize(Reader { node, ..reader })
            .map(Some)
            .map_err(|error| error.at(&node.span, Some(node.span.start)))
    }
}

struct Entries<'a> {
    reader: Reader<'a>,
    rest: std::slice::Iter<'a, Entry>,
    entry: Option<&'a Entry>,
    skips_empty: bool,
}

impl<'a> Entries<'a> {
    fn new(reader: Reader<'a>, entries: &'a [Entry], skips_empty: bool) -> Self {
        Self { reader, rest: entries.iter(), entry: None, skips_empty }
    }
}

impl<'de> de::MapAccess<'de> for Entries<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let reader = self.reader;
        let skips_empty = self.skips_empty;
        let is_read = |entry: &&Entry| reader.is_kept(entry.key_span.start) && !(skips_empty && entry.value.is_null());
        let Some(entry) = self.rest.find(is_read) else { return Ok(None) };
        self.entry = Some(entry);
        let key: StrDeserializer<'_, Error> = entry.key.as_str().into_deserializer();
        seed.deserialize(key).map(Some).map_err(|error| error.at(&entry.key_span, Some(entry.key_span.start)))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let Some(entry) = self.entry.take() else {
            return Err(Error::new(Mistake::Other("a value was asked for before its key".into())));
        };
        seed.deserialize(Reader { node: &entry.value, ..self.reader }).map_err(|error| {
            // what is missing in a mapping is missed at the key that the mapping belongs to
            let span = if matches!(error.mistake, Mistake::Missing(_)) && error.aside.is_none() {
                &entry.key_span
            } else {
                &entry.value.span
            };
            error.at(span, Some(entry.key_span.start))
        })
    }
}
