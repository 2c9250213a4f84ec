//! What combinations are called.

use std::collections::HashSet;

use crate::expr::Value;

/// The longest label, in characters; what is longer is cut, as GitHub cuts names.
const LONGEST: usize = 80;

/// The labels of one matrix so far.
#[derive(Debug, Default)]
pub(super) struct Labels {
    taken: HashSet<String>,
    made: usize,
}

impl Labels {
    /// The values in words, with a number where an earlier combination has the same.
    pub(super) fn of<'v>(&mut self, values: impl Iterator<Item = &'v Value>) -> String {
        self.made += 1;
        let mut words = Vec::new();
        let mut characters = 0;
        for value in values {
            leaves(value, &mut words, &mut characters);
        }
        let whole = words.join(", ");
        let label = match whole.chars().count() {
            0 => format!("#{}", self.made),
            1..=LONGEST => whole,
            _ => whole.chars().take(LONGEST - 3).chain("...".chars()).collect(),
        };
        // a label that ends like this one by itself is passed over as well
        let numbered = (2..).map(|n: usize| format!("{label} #{n}"));
        let label =
            std::iter::once(label.clone()).chain(numbered).find(|label| !self.taken.contains(label)).unwrap_or(label);
        self.taken.insert(label.clone());
        label
    }
}

/// The texts, numbers and booleans in a value, in order; no more of them than a label can hold.
fn leaves(value: &Value, words: &mut Vec<String>, characters: &mut usize) {
    if *characters > LONGEST {
        return;
    }
    match value {
        Value::Array(items) => items.iter().for_each(|item| leaves(item, words, characters)),
        Value::Object(entries) => entries.values().for_each(|item| leaves(item, words, characters)),
        Value::Null => {}
        leaf => {
            let word: String =
                leaf.to_text().chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST + 1).collect();
            if !word.is_empty() {
                *characters += word.chars().count() + 2;
                words.push(word);
            }
        }
    }
}
