//! One JSON object on each line (RFC 8259). What is not replaced goes out byte by byte as it came, numbers of any size among it.

use std::collections::HashMap;

use serde::de::IgnoredAny;

use super::rules::{Column, Decided, Rules, Value};

/// The most different paths in one stream: keys that are data themselves would make ever more.
const MAX_PATHS: usize = 10_000;

/// How deep a value may lie.
const MAX_DEPTH: usize = 100;

/// What is known of the objects of a stream.
#[derive(Debug, Default)]
pub(super) struct Jsonl {
    columns: HashMap<Vec<String>, Column>,
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
            let mut walk = Walk { known: self, rules, text, at: 0, path: Vec::new(), out };
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
    path: Vec<String>,
    out: &'a mut Vec<u8>,
}

impl Walk<'_> {
    /// `inherited`: what becomes of the values in what holds this one.
    fn value(&mut self, inherited: Option<&Column>) -> Result<(), Stop> {
        self.space();
        let from = self.at;
        let first = self.text.get(from).copied().unwrap_or_default();
        if self.path.len() > MAX_DEPTH {
            return Err(Stop::Wrong(format!("its values lie deeper than {MAX_DEPTH}")));
        }
        let own = if self.path.is_empty() { None } else { Some(self.column()?) };
        let column = match (&own, inherited) {
            (Some(own), Some(inherited)) if own.decided == Decided::Not => Some(inherited.clone()),
            _ => own,
        };
        let is_ruled = |column: &Column| column.decided == Decided::ByRule && column.whole.is_some();
        if matches!(first, b'{' | b'[') {
            if let Some(column) = column.as_ref().filter(|column| is_ruled(column)) {
                self.skip();
                return self.put(column, &self.text[from..self.at], from);
            }
            // that one is named otherwise does not decide what lies in it
            let handed = column.filter(|column| column.decided != Decided::Not);
            return if first == b'{' { self.object(handed.as_ref()) } else { self.array(handed.as_ref()) };
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
            // what is true or false tells of nobody by itself
            b't' | b'f' if !is_ruled(&column) => {
                self.out.extend_from_slice(raw);
                Ok(())
            }
            b'"' => {
                self.admit(&column)?;
                let text: String = serde_json::from_slice(raw).map_err(|_| "a text in it can't be read".to_owned())?;
                self.put(&column, text.as_bytes(), from)
            }
            _ => {
                self.admit(&column)?;
                self.put(&column, raw, from)
            }
        }
    }

    fn put(&mut self, column: &Column, value: &[u8], from: usize) -> Result<(), Stop> {
        match self.rules.apply(column, value) {
            Value::Same => self.out.extend_from_slice(&self.text[from..self.at]),
            Value::Null => self.out.extend_from_slice(b"null"),
            Value::Text(text) => {
                let text = serde_json::to_string(&String::from_utf8_lossy(&text)).map_err(|e| e.to_string())?;
                self.out.extend_from_slice(text.as_bytes());
            }
            Value::Drop => return Err(Stop::Drop),
        }
        Ok(())
    }

    fn object(&mut self, inherited: Option<&Column>) -> Result<(), Stop> {
        self.copy();
        loop {
            self.space();
            match self.text.get(self.at) {
                Some(b'"') => {
                    let from = self.at;
                    self.skip();
                    let raw = &self.text[from..self.at];
                    let key: String =
                        serde_json::from_slice(raw).map_err(|_| "a key in it can't be read".to_owned())?;
                    self.out.extend_from_slice(raw);
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
        if self.known.columns.len() >= MAX_PATHS {
            return Err(Stop::Wrong(format!(
                "the objects have more than {MAX_PATHS} different paths: where keys are data, they can't be replaced"
            )));
        }
        let column = self.rules.column(&self.path, &shown(&self.path));
        self.known.columns.insert(self.path.clone(), column.clone());
        Ok(column)
    }

    fn admit(&self, column: &Column) -> Result<(), Stop> {
        Ok(self.rules.admit(column, &shown(&self.path))?)
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

/// A path for people. A key that does not look like a name may be data.
fn shown(path: &[String]) -> String {
    let is_name = |key: &str| {
        (1..=40).contains(&key.len())
            && !key.starts_with(|c: char| c.is_ascii_digit())
            && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
    };
    let keys = path.iter().map(|key| if is_name(key) { key.as_str() } else { "?" });
    format!("`{}`", keys.collect::<Vec<_>>().join("."))
}
