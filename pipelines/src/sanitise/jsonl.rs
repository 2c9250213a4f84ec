//! One JSON object on each line (RFC 8259). What is not replaced goes out byte by byte as it came, numbers of any size among it.

use std::collections::HashMap;

use segue_schemas::sync::SetTo;
use serde::de::IgnoredAny;

use super::{
    MAX_RECORD,
    rules::{Column, Decided, Rules, Value, looks_like},
};

/// The most different paths in one stream: keys that are data themselves would make ever more.
const MAX_PATHS: usize = 10_000;

/// How deep a value may lie.
const MAX_DEPTH: usize = 100;

/// The most bytes of a key.
const MAX_KEY: usize = 1024;

/// What is known of the objects of a stream.
#[derive(Debug, Default)]
pub(super) struct Jsonl {
    columns: HashMap<Vec<String>, Column>,
    /// Bytes of the paths in it.
    bytes: usize,
}

/// The record goes.
enum Stop {
    Drop,
    Wrong(String),
}

impl From<String> for Stop {
    fn from(what: String) -> Self {
        Self::Wrong(what)
    }
}

impl Jsonl {
    pub(super) fn line(
        &mut self,
        rules: &mut Rules,
        line: &[u8],
        closed: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        let text = line.trim_ascii();
        if !text.is_empty() {
            if text.first() != Some(&b'{') || serde_json::from_slice::<IgnoredAny>(text).is_err() {
                return Err("it is no whole JSON object".into());
            }
            let from = out.len();
            let mut walk = Walk { known: self, rules, text, at: 0, depth: 0, path: Vec::new(), out };
            match walk.value(None) {
                Ok(()) => {}
                Err(Stop::Drop) => {
                    out.truncate(from);
                    return Ok(());
                }
                Err(Stop::Wrong(what)) => return Err(what),
            }
        }
        if closed {
            out.push(b'\n');
        }
        Ok(())
    }
}

/// A way through one object, which is known to be whole.
struct Walk<'a> {
    known: &'a mut Jsonl,
    rules: &'a mut Rules,
    text: &'a [u8],
    at: usize,
    /// How many objects and lists are open.
    depth: usize,
    path: Vec<String>,
    out: &'a mut Vec<u8>,
}

impl Walk<'_> {
    /// `inherited`: what becomes of the values in what holds this one.
    fn value(&mut self, inherited: Option<&Column>) -> Result<(), Stop> {
        self.space();
        let from = self.at;
        let first = self.text.get(from).copied().unwrap_or_default();
        let own = if self.path.is_empty() { None } else { Some(self.column()?) };
        let column = match (own, inherited) {
            (Some(own), Some(inherited)) => Some(own.within(inherited)),
            (own, _) => own,
        };
        let is_ruled = |column: &Column| column.decided == Decided::ByRule && column.whole.is_some();
        if matches!(first, b'{' | b'[') {
            if let Some(column) = column.as_ref().filter(|column| is_ruled(column)) {
                self.skip();
                return self.put(column, &self.text[from..self.at], from);
            }
            if let Some(column) = &column
                && self.is_empty()
            {
                self.admit(column, from)?;
            }
            if self.depth >= MAX_DEPTH {
                return Err(Stop::Wrong(format!("its values lie deeper than {MAX_DEPTH}")));
            }
            self.depth += 1;
            if first == b'{' {
                self.object(column.as_ref())?
            } else {
                self.array(column.as_ref())?
            }
            self.depth -= 1;
            return Ok(());
        }
        self.skip();
        let raw = &self.text[from..self.at];
        let Some(column) = column else { return Err(Stop::Wrong("it is no JSON object".into())) };
        match first {
            b'n' => {
                if self.rules.drops_empty(&column) {
                    return Err(Stop::Drop);
                }
                self.out.extend_from_slice(raw);
                Ok(())
            }
            // what is true or false stays so where only the name speaks for something else
            b't' | b'f' if !is_ruled(&column) => {
                self.admit(&column, from)?;
                self.out.extend_from_slice(raw);
                Ok(())
            }
            b'"' => {
                self.admit(&column, from)?;
                let text: String = serde_json::from_slice(raw).map_err(|_| "a text in it can't be read".to_owned())?;
                self.put(&column, text.as_bytes(), from)
            }
            _ => {
                self.admit(&column, from)?;
                self.put(&column, raw, from)
            }
        }
    }

    fn put(&mut self, column: &Column, value: &[u8], from: usize) -> Result<(), Stop> {
        match self.rules.apply(column, value) {
            Value::Same => self.out.extend_from_slice(&self.text[from..self.at]),
            Value::Null => self.out.extend_from_slice(b"null"),
            Value::Text(text) => self.text_of(&text)?,
            Value::Drop => return Err(Stop::Drop),
        }
        Ok(())
    }

    fn text_of(&mut self, text: &[u8]) -> Result<(), Stop> {
        let text = serde_json::to_string(&String::from_utf8_lossy(text)).map_err(|e| e.to_string())?;
        self.out.extend_from_slice(text.as_bytes());
        Ok(())
    }

    /// Whether nothing lies in the object or list that begins here.
    fn is_empty(&self) -> bool {
        let within = self.text.get(self.at + 1..).unwrap_or_default();
        matches!(within.trim_ascii_start().first(), Some(b'}' | b']'))
    }

    fn object(&mut self, inherited: Option<&Column>) -> Result<(), Stop> {
        self.copy();
        let keys = self.rules.keys(inherited);
        loop {
            self.space();
            match self.text.get(self.at) {
                Some(b'"') => {
                    let from = self.at;
                    self.skip();
                    let raw = &self.text[from..self.at];
                    let key: String =
                        serde_json::from_slice(raw).map_err(|_| "a key in it can't be read".to_owned())?;
                    self.key(inherited, &keys, &key, from)?;
                    self.space();
                    self.copy();
                    self.path.push(key);
                    self.value(inherited)?;
                    self.path.pop();
                }
                Some(b',') => self.copy(),
                _ => {
                    self.copy();
                    return Ok(());
                }
            }
        }
    }

    /// A key goes out, which may be data itself.
    fn key(&mut self, inherited: Option<&Column>, keys: &Column, key: &str, from: usize) -> Result<(), Stop> {
        if key.len() > MAX_KEY {
            return Err(Stop::Wrong(format!("a key of more than {MAX_KEY} bytes is no name")));
        }
        if !self.rules.admit_key(inherited, key) {
            let holder = if self.path.is_empty() { "the object".to_owned() } else { shown(self.rules, &self.path) };
            return Err(Stop::Wrong(format!(
                "a key in {holder}, at byte {} of the line, looks like no name, and may be data: name it in a rule or under `keep`, keep all \
                 that lies beside it, or write a rule for what holds it (`strict: false` lets such keys pass)",
                from + 1
            )));
        }
        // what a rule names is no data
        if self.rules.is_written(key) {
            self.out.extend_from_slice(&self.text[from..self.at]);
            return Ok(());
        }
        match self.rules.apply(keys, key.as_bytes()) {
            Value::Null => self.out.extend_from_slice(b"\"\""),
            Value::Same => self.out.extend_from_slice(&self.text[from..self.at]),
            Value::Text(text) => self.text_of(&text)?,
            Value::Drop => return Err(Stop::Drop),
        }
        Ok(())
    }

    /// What lies in a list has the path of the list.
    fn array(&mut self, inherited: Option<&Column>) -> Result<(), Stop> {
        self.copy();
        loop {
            self.space();
            match self.text.get(self.at) {
                Some(b',') => self.copy(),
                Some(b']') | None => {
                    self.copy();
                    return Ok(());
                }
                Some(_) if self.path.is_empty() => return Err(Stop::Wrong("it is no JSON object".into())),
                Some(_) => self.value(inherited)?,
            }
        }
    }

    fn column(&mut self) -> Result<Column, Stop> {
        if let Some(known) = self.known.columns.get(&self.path) {
            return Ok(known.clone());
        }
        let bytes: usize = self.path.iter().map(String::len).sum();
        if self.known.columns.len() >= MAX_PATHS || self.known.bytes + bytes > MAX_RECORD {
            return Err(Stop::Wrong(format!(
                "the objects have more than {MAX_PATHS} different paths: where keys are data, they can't be replaced"
            )));
        }
        let column = self.rules.column(&self.path, &counted(self.rules, &self.path));
        self.known.bytes += bytes;
        self.known.columns.insert(self.path.clone(), column.clone());
        Ok(column)
    }

    fn admit(&self, column: &Column, from: usize) -> Result<(), Stop> {
        let shown = || format!("{}, at byte {} of the line,", shown(self.rules, &self.path), from + 1);
        Ok(self.rules.admit(column, shown)?)
    }

    /// Over one value that goes out otherwise.
    fn skip(&mut self) {
        let (mut depth, mut is_text) = (0_usize, false);
        while let Some(byte) = self.text.get(self.at) {
            match byte {
                b'\\' if is_text => self.at += 1,
                b'"' => {
                    is_text = !is_text;
                    if !is_text && depth == 0 {
                        self.at += 1;
                        return;
                    }
                }
                _ if is_text => {}
                b'{' | b'[' => depth += 1,
                b'}' | b']' if depth == 0 => return,
                b'}' | b']' => {
                    depth -= 1;
                    if depth == 0 {
                        self.at += 1;
                        return;
                    }
                }
                b',' | b':' if depth == 0 => return,
                byte if depth == 0 && byte.is_ascii_whitespace() => return,
                _ => {}
            }
            self.at += 1;
        }
    }

    fn copy(&mut self) {
        self.out.extend(self.text.get(self.at));
        self.at += 1;
    }

    fn space(&mut self) {
        while self.text.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.copy();
        }
    }
}

/// A path for people. A key that nobody has written into a rule may be data.
fn shown(rules: &Rules, path: &[String]) -> String {
    let keys = path.iter().map(|key| if rules.is_written(key) { key.as_str() } else { "?" });
    format!("`{}`", keys.collect::<Vec<_>>().join("."))
}

/// Under what it is counted that a path's last key spoke for itself: that key, or only what it speaks of.
fn counted(rules: &Rules, path: &[String]) -> String {
    let Some(key) = path.last() else { return String::new() };
    match looks_like(key) {
        _ if rules.is_written(key) => format!("`{key}`"),
        Some(SetTo::Email) => "`email`".into(),
        Some(SetTo::Phone) => "`phone`".into(),
        _ => "`name`".into(),
    }
}
