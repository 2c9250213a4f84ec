//! YAML into a tree in which everything knows its place.
//!
//! Comes in: the text of a file. Goes out: a tree of mappings, lists and scalars with byte spans, anchors and merge keys
//! resolved, or the diagnostics that say why not. One pass, under a budget of size, depth and nodes, where an alias counts as
//! all that it stands for. Never here: what keys mean, files.

mod build;
mod deserialize;
mod scalar;

use std::{ops::Range, rc::Rc};

use crate::diagnostic::Findings;

pub(crate) use deserialize::deserialize;
pub(crate) use scalar::locate;
pub use scalar::{Scalar, ScalarKind};

/// The largest file.
pub const MAX_BYTES: usize = 1024 * 1024;
/// The deepest nesting of lists and mappings.
pub const MAX_DEPTH: usize = 64;
/// The most mappings, lists, keys and scalars, with everything counted as often as an alias repeats it.
pub const MAX_NODES: usize = 50_000;

/// A part of the tree.
#[derive(Debug)]
pub struct Node {
    /// What it is.
    pub content: Content,
    /// Where it stands, in bytes of the file; for what an alias stands for, where that was written.
    pub span: Range<usize>,
    /// How many nodes it holds, itself included, aliases counted in full.
    weight: usize,
}

/// What a node is.
#[derive(Debug)]
pub enum Content {
    /// A text, number, boolean or nothing.
    Scalar(Scalar),
    /// A list.
    Sequence(Vec<Rc<Node>>),
    /// A mapping, in the file's order; each key once.
    Mapping(Vec<Entry>),
}

/// A key and its value.
#[derive(Debug)]
pub struct Entry {
    /// The key, as text.
    pub key: String,
    /// Where the key stands.
    pub key_span: Range<usize>,
    /// The value.
    pub value: Rc<Node>,
}

impl Node {
    /// What kind of thing it is, in words.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match &self.content {
            Content::Sequence(_) => "a list",
            Content::Mapping(_) => "a mapping",
            Content::Scalar(scalar) => scalar.kind.as_str(),
        }
    }

    /// Its scalar, where it is one.
    #[must_use]
    pub fn scalar(&self) -> Option<&Scalar> {
        match &self.content {
            Content::Scalar(scalar) => Some(scalar),
            _ => None,
        }
    }

    /// Whether nothing is written here.
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.scalar().is_some_and(|scalar| scalar.kind == ScalarKind::Null)
    }
}

impl Node {
    /// Its entries, where it is a mapping; nothing otherwise.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        match &self.content {
            Content::Mapping(entries) => entries,
            _ => &[],
        }
    }

    /// Its items, where it is a list; nothing otherwise.
    #[must_use]
    pub fn items(&self) -> &[Rc<Self>] {
        match &self.content {
            Content::Sequence(items) => items,
            _ => &[],
        }
    }

    /// The entry of a key, where it is a mapping that has it.
    #[must_use]
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    /// The value of a key, where it is a mapping that has it.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.entry(key).map(|entry| &*entry.value)
    }
}

/// Where the value stands that a path of keys leads to; where the path ends early, the last key or value on it.
pub(crate) fn place(root: &Node, path: &[&str]) -> Range<usize> {
    let Some((first, rest)) = path.split_first() else { return root.span.clone() };
    match root.entry(first) {
        None => root.span.clone(),
        Some(entry) if rest.is_empty() && entry.value.span.is_empty() => entry.key_span.clone(),
        Some(entry) => place(&entry.value, rest),
    }
}

/// The tree of a file; `None` where there is none, with an error among the findings.
pub(crate) fn parse(findings: &mut Findings<'_>) -> Option<Rc<Node>> {
    build::build(findings)
}
