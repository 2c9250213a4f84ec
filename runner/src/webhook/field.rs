//! JSON fields as they really come: missing, null, or of another type than the documentation says. Nothing here fails on
//! any of these; whether a field is needed is decided where it is used, so that the answer can name its path.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, IgnoredAny, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

/// Texts longer than this (in bytes) are cut: a commit message has no upper bound, what we keep of it has.
const TEXT_LIMIT: usize = 16 * 1024;
/// Objects of a list that are kept.
const LIST_LIMIT: usize = 20;

/// A needed field that is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// It is missing or null.
    #[error("the payload has no `{path}`")]
    Missing {
        /// Where it should be.
        path: &'static str,
    },
    /// It is something else.
    #[error("`{path}` of the payload is {found}, not {wanted}")]
    Wrong {
        /// Where it is.
        path: &'static str,
        /// What it is.
        found: &'static str,
        /// What it should be.
        wanted: &'static str,
    },
    /// It has the right type and a value that can't be.
    #[error("`{path}` of the payload can't be used: {reason}")]
    Invalid {
        /// Where it is.
        path: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// One field.
#[derive(Debug, Default)]
pub enum Field<T> {
    /// Missing or null.
    #[default]
    Absent,
    /// There, and of the right type.
    Present(T),
    /// There, and of another type: which.
    Wrong(&'static str),
}

impl<T: Shape> Field<T> {
    /// The value, which is needed.
    ///
    /// # Errors
    /// [`FieldError`] with the path where there is none.
    pub fn need(self, path: &'static str) -> Result<T, FieldError> {
        match self {
            Self::Present(value) => Ok(value),
            Self::Absent => Err(FieldError::Missing { path }),
            Self::Wrong(found) => Err(FieldError::Wrong { path, found, wanted: T::WANTED }),
        }
    }

    /// The value, which may be missing; one of a wrong type counts as missing.
    pub fn get(self) -> Option<T> {
        match self {
            Self::Present(value) => Some(value),
            Self::Absent | Self::Wrong(_) => None,
        }
    }
}

/// A type that a field can have. Each offers what it can be made of; the rest stays `None`.
pub trait Shape: Sized {
    /// In words.
    const WANTED: &'static str;

    /// From a text.
    fn from_text(_: &str) -> Option<Self> {
        None
    }
    /// From a truth value.
    fn from_bool(_: bool) -> Option<Self> {
        None
    }
    /// From a whole number.
    fn from_number(_: u64) -> Option<Self> {
        None
    }
    /// From a list.
    ///
    /// # Errors
    /// Those of the reader below: the JSON breaks off.
    fn from_seq<'de, A: SeqAccess<'de>>(mut seq: A) -> Result<Option<Self>, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }
    /// From an object; `None` leaves the map unread.
    ///
    /// # Errors
    /// Those of the reader below: the JSON breaks off.
    fn from_map<'de, A: MapAccess<'de>>(map: A) -> Result<Option<Self>, A::Error> {
        drain_map(map)?;
        Ok(None)
    }
}

impl Shape for String {
    const WANTED: &'static str = "a text";
    fn from_text(text: &str) -> Option<Self> {
        Some(text[..text.floor_char_boundary(TEXT_LIMIT)].to_owned())
    }
}

impl Shape for bool {
    const WANTED: &'static str = "true or false";
    fn from_bool(value: bool) -> Option<Self> {
        Some(value)
    }
}

impl Shape for u64 {
    const WANTED: &'static str = "a whole number";
    fn from_number(value: u64) -> Option<Self> {
        Some(value)
    }
}

/// An object of the payload: every field of `T` is a [`Field`] with a default.
#[derive(Debug, Default)]
pub struct Object<T>(pub T);

impl<T: DeserializeOwned> Shape for Object<T> {
    const WANTED: &'static str = "an object";
    fn from_map<'de, A: MapAccess<'de>>(map: A) -> Result<Option<Self>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(|value| Some(Self(value)))
    }
}

/// The first objects of a list; what else stands in it is passed over.
#[derive(Debug, Default)]
pub struct List<T>(pub Vec<T>);

impl<T: DeserializeOwned> Shape for List<T> {
    const WANTED: &'static str = "a list";
    fn from_seq<'de, A: SeqAccess<'de>>(mut seq: A) -> Result<Option<Self>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element::<Field<Object<T>>>()? {
            if let Field::Present(item) = item
                && items.len() < LIST_LIMIT
            {
                items.push(item.0);
            }
        }
        Ok(Some(Self(items)))
    }
}

/// An object of the sender's own making, kept as it came.
#[derive(Debug, Default)]
pub struct Free(pub serde_json::Map<String, serde_json::Value>);

impl Shape for Free {
    const WANTED: &'static str = "an object";
    fn from_map<'de, A: MapAccess<'de>>(map: A) -> Result<Option<Self>, A::Error> {
        serde_json::Map::deserialize(MapAccessDeserializer::new(map)).map(|map| Some(Self(map)))
    }
}

impl<'de, T: Shape> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FieldVisitor(PhantomData))
    }
}

struct FieldVisitor<T>(PhantomData<T>);

impl<'de, T: Shape> Visitor<'de> for FieldVisitor<T> {
    type Value = Field<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::WANTED)
    }
    fn visit_str<E>(self, text: &str) -> Result<Field<T>, E> {
        Ok(T::from_text(text).map_or(Field::Wrong("a text"), Field::Present))
    }
    fn visit_bool<E>(self, value: bool) -> Result<Field<T>, E> {
        Ok(T::from_bool(value).map_or(Field::Wrong("true or false"), Field::Present))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Field<T>, E> {
        Ok(T::from_number(value).map_or(Field::Wrong("a number"), Field::Present))
    }
    fn visit_i64<E>(self, _: i64) -> Result<Field<T>, E> {
        Ok(Field::Wrong("a negative number"))
    }
    fn visit_f64<E>(self, _: f64) -> Result<Field<T>, E> {
        Ok(Field::Wrong("a number with a fraction"))
    }
    fn visit_unit<E>(self) -> Result<Field<T>, E> {
        Ok(Field::Absent)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Field<T>, A::Error> {
        Ok(T::from_seq(seq)?.map_or(Field::Wrong("a list"), Field::Present))
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Field<T>, A::Error> {
        Ok(T::from_map(map)?.map_or(Field::Wrong("an object"), Field::Present))
    }
}

fn drain_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<(), A::Error> {
    while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok(())
}
