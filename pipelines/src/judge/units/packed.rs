//! How a set of bits is stored: as text, by the numbers of the bits while they are few, else by all of them. Earlier versions stored its words as
//! numbers, which took several times the room; they are read as well.

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD as BASE64};
use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

use super::WORDS;

/// Before the numbers of the bits that are set, of sixteen bits each.
const FEW: char = '#';
/// Before all of them.
const ALL: char = '=';

/// As it is stored, now and before.
#[derive(Deserialize)]
#[serde(untagged)]
enum Stored {
    Text(String),
    Words(Vec<u64>),
}

pub(super) fn serialize<S: Serializer>(words: &[u64], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&packed(words))
}

/// Nothing, or as many words as a set has.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u64>, D::Error> {
    let words = match Stored::deserialize(deserializer)? {
        Stored::Text(text) => unpacked(&text),
        Stored::Words(words) => Some(words),
    };
    let is_set = |words: &Vec<u64>| words.is_empty() || words.len() == WORDS;
    words.filter(is_set).ok_or_else(|| D::Error::custom("this is no set of clients"))
}

fn packed(words: &[u64]) -> String {
    if words.is_empty() {
        return String::new();
    }
    let bits = |(word, number): (&u64, u16)| {
        let word = *word;
        (0..64_u16).filter(move |bit| word >> bit & 1 == 1).map(move |bit| number * 64 + bit)
    };
    let few: Vec<u8> = words.iter().zip(0..).flat_map(bits).flat_map(u16::to_le_bytes).collect();
    if few.len() < words.len() * 8 {
        return format!("{FEW}{}", BASE64.encode(few));
    }
    let all: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    format!("{ALL}{}", BASE64.encode(all))
}

fn unpacked(text: &str) -> Option<Vec<u64>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let Some(few) = text.strip_prefix(FEW) else {
        let all = BASE64.decode(text.strip_prefix(ALL)?).ok()?;
        let (words, rest) = all.as_chunks::<8>();
        return rest.is_empty().then(|| words.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect());
    };
    let few = BASE64.decode(few).ok()?;
    let (bits, rest) = few.as_chunks::<2>();
    let mut words = vec![0_u64; WORDS];
    for bit in bits.iter().map(|bytes| usize::from(u16::from_le_bytes(*bytes))) {
        *words.get_mut(bit / 64)? |= 1 << (bit % 64);
    }
    rest.is_empty().then_some(words)
}
