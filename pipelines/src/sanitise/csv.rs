//! Comma-separated values with a header (RFC 4180). What is not replaced goes out as it came.

use super::{
    MAX_RECORD,
    rules::{Column, Rules, Value},
    too_long,
};

/// The most columns.
const MAX_COLUMNS: usize = 10_000;

/// Where a stream of records stands.
#[derive(Debug, Default)]
pub(super) struct Csv {
    columns: Option<Vec<Column>>,
    /// A record whose quotes are not closed yet.
    open: Vec<u8>,
}

impl Csv {
    pub(super) fn line(
        &mut self,
        rules: &mut Rules,
        line: &[u8],
        closed: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        // a record that is open has one quote too many, whatever stands in it: quotes are doubled within quotes
        let is_whole = is_balanced(line) == self.open.is_empty();
        if self.open.is_empty() && is_whole {
            return self.record(rules, line, closed, out);
        }
        if self.open.len() + line.len() > MAX_RECORD {
            return Err(too_long());
        }
        self.open.extend_from_slice(line);
        if is_whole {
            let record = std::mem::take(&mut self.open);
            return self.record(rules, &record, closed, out);
        }
        self.open.push(b'\n');
        Ok(())
    }

    pub(super) fn ended(&self) -> Result<(), String> {
        if self.columns.is_none() {
            return Err("there is not even a header".into());
        }
        if self.open.is_empty() { Ok(()) } else { Err("the data end within a quoted value: they were cut off".into()) }
    }

    fn record(&mut self, rules: &mut Rules, record: &[u8], closed: bool, out: &mut Vec<u8>) -> Result<(), String> {
        let (record, end) = match record.strip_suffix(b"\r") {
            Some(record) => (record, &b"\r\n"[..]),
            None => (record, &b"\n"[..]),
        };
        let end = if closed { end } else { &[] };
        let Some(columns) = &self.columns else {
            self.columns = Some(header(rules, record)?);
            out.extend_from_slice(record);
            out.extend_from_slice(end);
            return Ok(());
        };
        if record.is_empty() && columns.len() > 1 {
            out.extend_from_slice(end);
            return Ok(());
        }
        let fields = fields(record)?;
        if fields.len() != columns.len() {
            return Err(format!("it has {} values, and the header {} columns", fields.len(), columns.len()));
        }
        let from = out.len();
        for (index, (raw, column)) in fields.into_iter().zip(columns).enumerate() {
            if index > 0 {
                out.push(b',');
            }
            let value = if raw.is_empty() && rules.drops_empty(column) {
                Value::Drop
            } else {
                rules.apply(column, &unquoted(raw))
            };
            match value {
                Value::Same => out.extend_from_slice(raw),
                Value::Null => {}
                Value::Text(text) => quote(&text, out),
                Value::Drop => {
                    out.truncate(from);
                    return Ok(());
                }
            }
        }
        out.extend_from_slice(end);
        Ok(())
    }
}

fn header(rules: &mut Rules, record: &[u8]) -> Result<Vec<Column>, String> {
    let record = record.strip_prefix(b"\xef\xbb\xbf").unwrap_or(record);
    let fields = fields(record)?;
    if fields.len() > MAX_COLUMNS {
        return Err(format!("there are {} columns, and {MAX_COLUMNS} are the limit", fields.len()));
    }
    let (mut columns, mut names) = (Vec::new(), Vec::new());
    for (index, field) in fields.into_iter().enumerate() {
        // what stands there may be no header, but data: it is told by its number
        let shown = format!("column {} of the header", index + 1);
        let name = String::from_utf8(unquoted(field)).map_err(|_| format!("{shown} is not named in UTF-8"))?;
        if name.contains('\r') || rules.has_address(name.as_bytes()) {
            return Err(format!(
                "{shown} is no name, but looks like data: the first record must be a header, and lines end with LF, or with CR and LF"
            ));
        }
        if names.contains(&name) {
            return Err(format!("{shown} is named like another one"));
        }
        let column = rules.column(std::slice::from_ref(&name), &shown);
        rules.admit(&column, || shown.clone())?;
        names.push(name);
        columns.push(column);
    }
    Ok(columns)
}

fn is_balanced(text: &[u8]) -> bool {
    text.iter().filter(|byte| **byte == b'"').count() % 2 == 0
}

/// The values of a record, as they stand.
fn fields(record: &[u8]) -> Result<Vec<&[u8]>, String> {
    let (mut fields, mut at) = (Vec::new(), 0);
    loop {
        let end = match record.get(at) {
            Some(b'"') => after_quoted(record, at).ok_or("a quoted value does not end")?,
            _ => record[at..].iter().position(|byte| *byte == b',').map_or(record.len(), |length| at + length),
        };
        let field = &record[at..end];
        if !field.starts_with(b"\"") && field.contains(&b'"') {
            return Err("a quote stands within a value that is not quoted".into());
        }
        fields.push(field);
        match record.get(end) {
            None => return Ok(fields),
            Some(b',') => at = end + 1,
            Some(_) => return Err("something stands behind a quoted value".into()),
        }
    }
}

/// Where a quoted value that begins at `at` has ended.
fn after_quoted(record: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        at += record.get(at..)?.iter().position(|byte| *byte == b'"')?;
        if record.get(at + 1) != Some(&b'"') {
            return Some(at + 1);
        }
        at += 2;
    }
}

fn unquoted(raw: &[u8]) -> Vec<u8> {
    let Some(inner) = raw.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")) else { return raw.to_vec() };
    let (mut text, mut was_quote) = (Vec::with_capacity(inner.len()), false);
    for byte in inner {
        if *byte == b'"' && !was_quote {
            was_quote = true;
            continue;
        }
        was_quote = false;
        text.push(*byte);
    }
    text
}

fn quote(text: &[u8], out: &mut Vec<u8>) {
    let is_plain = !text.is_empty() && !text.iter().any(|byte| matches!(byte, b',' | b'"' | b'\n' | b'\r' | b' '));
    if is_plain {
        return out.extend_from_slice(text);
    }
    out.push(b'"');
    for byte in text {
        out.extend_from_slice(if *byte == b'"' { b"\"\"" } else { std::slice::from_ref(byte) });
    }
    out.push(b'"');
}
