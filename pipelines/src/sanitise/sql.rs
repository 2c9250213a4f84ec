//! A plain dump of PostgreSQL, as `pg_dump --format plain` writes it: statements that make the tables, and the rows of each as a block
//! `COPY schema.table (column, ...) FROM stdin;` up to `\.`, tab-separated, with backslash escapes and `\N` for null
//! (<https://www.postgresql.org/docs/current/sql-copy.html#id-1.9.3.55.9.2>). Statements that could hold data otherwise are refused.

use super::rules::{Column, Rules, Value};

/// The most bytes of a statement that is understood: it names at most 1600 columns of 63 bytes.
const MAX_STATEMENT: usize = 512 * 1024;

/// The last comment of a whole dump.
const COMPLETE: &[u8] = b"-- PostgreSQL database dump complete";

/// The most words that are looked at to see what a statement does.
const WORDS: usize = 10;

/// What may stand before the kind of what is made.
const MODIFIERS: [&str; 12] = [
    "or",
    "replace",
    "temp",
    "temporary",
    "unlogged",
    "unique",
    "materialized",
    "recursive",
    "constraint",
    "trusted",
    "procedural",
    "event",
];

/// What a database consists of, as pg_dump writes it.
const KINDS: [&str; 22] = [
    "table",
    "sequence",
    "index",
    "view",
    "function",
    "procedure",
    "routine",
    "aggregate",
    "trigger",
    "type",
    "domain",
    "schema",
    "extension",
    "policy",
    "rule",
    "statistics",
    "operator",
    "cast",
    "collation",
    "conversion",
    "publication",
    "language",
];

/// The same of what is called by two words.
const PAIRS: [(&str, &str); 4] =
    [("text", "search"), ("default", "privileges"), ("default", "conversion"), ("access", "method")];

/// Where a dump stands.
#[derive(Debug, Default)]
pub(super) struct Sql {
    place: Place,
    /// The statement that is being read, without what is quoted in it.
    statement: Vec<u8>,
    /// How many parentheses are open in it.
    parens: usize,
    /// The texts in it, where they are for people.
    said: Vec<u8>,
    /// The rows that follow; `None`: statements do.
    rows: Option<Vec<Column>>,
    is_complete: bool,
}

/// What the next character of a statement is part of.
#[derive(Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Plain,
    /// A text; whether backslashes escape in it.
    Text(bool),
    Identifier,
    /// A dollar-quoted text, with what ends it.
    Dollar(Vec<u8>),
    /// A comment, and how deep.
    Comment(usize),
}

impl Sql {
    pub(super) fn line(
        &mut self,
        rules: &mut Rules,
        line: &[u8],
        closed: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        if let Some(columns) = &self.rows {
            if line == b"\\." {
                self.rows = None;
            } else if !row(rules, columns, line, out)? {
                return Ok(());
            }
            if line == b"\\." {
                out.extend_from_slice(line);
            }
        } else {
            self.code(rules, line)?;
            out.extend_from_slice(line);
        }
        if closed {
            out.push(b'\n');
        }
        Ok(())
    }

    pub(super) fn ended(&self) -> Result<(), String> {
        let is_open = self.rows.is_some() || self.place != Place::Plain || !self.statement.trim_ascii().is_empty();
        if is_open || !self.is_complete {
            return Err(
                "the dump does not end as pg_dump ends one (`-- PostgreSQL database dump complete`): it was cut off"
                    .into(),
            );
        }
        Ok(())
    }

    fn code(&mut self, rules: &mut Rules, line: &[u8]) -> Result<(), String> {
        if self.place == Place::Plain && self.statement.trim_ascii().is_empty() {
            self.statement.clear();
            self.said.clear();
            if line == COMPLETE {
                self.is_complete = true;
            }
            if line.starts_with(b"\\") {
                let is_known = [&b"\\restrict "[..], b"\\unrestrict "].iter().any(|known| line.starts_with(known));
                return if is_known {
                    Ok(())
                } else {
                    Err("a command for psql stands there, which may lead elsewhere: have pg_dump write one database, without `--create`".into())
                };
            }
        }
        if self.place == Place::Plain && !self.statement.is_empty() && line.starts_with(b"COPY ") {
            return Err("a COPY begins before the statement ahead of it has ended".into());
        }
        let mut at = 0;
        while at < line.len() {
            at = self.step(rules, line, at)?;
        }
        if self.place == Place::Plain {
            self.keep(b' ')?;
        } else {
            self.say(b'\n')?;
        }
        Ok(())
    }

    /// Reads on from `at`; says from where next.
    fn step(&mut self, rules: &mut Rules, line: &[u8], at: usize) -> Result<usize, String> {
        let (byte, next) = (line[at], line.get(at + 1).copied());
        match &mut self.place {
            Place::Text(escapes) => match byte {
                b'\\' if *escapes => return Ok(at + 2),
                b'\'' if next == Some(b'\'') => return Ok(at + 2),
                b'\'' => {
                    self.place = Place::Plain;
                    self.say(b'\n')?;
                }
                _ => self.say(byte)?,
            },
            Place::Identifier => {
                if byte == b'"' && next == Some(b'"') {
                    self.keep(byte)?;
                    self.keep(byte)?;
                    return Ok(at + 2);
                }
                if byte == b'"' {
                    self.place = Place::Plain;
                }
                self.keep(byte)?;
            }
            Place::Dollar(end) => {
                if line[at..].starts_with(end) {
                    let length = end.len();
                    self.place = Place::Plain;
                    return Ok(at + length);
                }
                self.say(byte)?;
            }
            Place::Comment(depth) => match (byte, next) {
                (b'/', Some(b'*')) => {
                    *depth += 1;
                    return Ok(at + 2);
                }
                (b'*', Some(b'/')) => {
                    *depth -= 1;
                    if *depth == 0 {
                        self.place = Place::Plain;
                    }
                    return Ok(at + 2);
                }
                _ => {}
            },
            Place::Plain => return self.plain(rules, line, at),
        }
        Ok(at + 1)
    }

    fn plain(&mut self, rules: &mut Rules, line: &[u8], at: usize) -> Result<usize, String> {
        let (byte, next) = (line[at], line.get(at + 1).copied());
        let before = at.checked_sub(1).and_then(|at| line.get(at)).copied().unwrap_or(b' ');
        match (byte, next) {
            (b'-', Some(b'-')) => return Ok(line.len()),
            (b'/', Some(b'*')) => {
                self.place = Place::Comment(1);
                return Ok(at + 2);
            }
            (b'\'', _) => {
                let ahead = at.checked_sub(2).and_then(|at| line.get(at)).copied().unwrap_or(b' ');
                self.place = Place::Text(matches!(before, b'e' | b'E') && !is_word(ahead));
                // that there is one is seen
                self.keep(b'\'')?;
            }
            (b'"', _) => {
                self.place = Place::Identifier;
                self.keep(byte)?;
            }
            (b'$', _) if !is_word(before) => {
                let tag = line[at + 1..].iter().position(|byte| !is_word(*byte) || *byte == b'$');
                if let Some(length) = tag.filter(|length| line[at + 1 + length] == b'$') {
                    let end = line[at..=at + 1 + length].to_vec();
                    let after = at + end.len();
                    self.place = Place::Dollar(end);
                    return Ok(after);
                }
                self.keep(byte)?;
            }
            (b'(', _) => {
                self.parens += 1;
                self.keep(byte)?;
            }
            (b')', _) => {
                self.parens = self.parens.saturating_sub(1);
                self.keep(byte)?;
            }
            // those within a rule's or a function's own statements end none here
            (b';', _) if self.parens > 0 || is_in_body(&self.statement) => self.keep(byte)?,
            (b';', _) => {
                let statement = std::mem::take(&mut self.statement);
                let said = std::mem::take(&mut self.said);
                if rules.has_address(&said) {
                    return Err(
                        "a COMMENT or SECURITY LABEL holds what looks like an e-mail address: leave them out (`--no-comments`, \
                         `--no-security-labels`)"
                            .into(),
                    );
                }
                self.rows = self.finished(rules, &statement)?;
                if self.rows.is_some() && !line[at + 1..].trim_ascii().is_empty() {
                    return Err("something stands behind `FROM stdin;`".into());
                }
            }
            _ => self.keep(byte)?,
        }
        Ok(at + 1)
    }

    fn keep(&mut self, byte: u8) -> Result<(), String> {
        if self.statement.len() >= MAX_STATEMENT {
            return Err(format!("a statement of more than {} KiB is not looked through", MAX_STATEMENT >> 10));
        }
        self.statement.push(byte);
        Ok(())
    }

    /// What a COMMENT or a SECURITY LABEL says is looked through.
    fn say(&mut self, byte: u8) -> Result<(), String> {
        let statement = self.statement.trim_ascii_start();
        let is = |word: &[u8]| statement.get(..word.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(word));
        if !is(b"comment") && !is(b"security") {
            return Ok(());
        }
        if self.said.len() >= MAX_STATEMENT {
            return Err(format!("a comment of more than {} KiB is not looked through", MAX_STATEMENT >> 10));
        }
        self.said.push(byte);
        Ok(())
    }

    /// A statement is whole: what rows follow, if any do.
    fn finished(&self, rules: &mut Rules, statement: &[u8]) -> Result<Option<Vec<Column>>, String> {
        let statement = statement.trim_ascii();
        let words: Vec<String> = statement
            .split(|byte| byte.is_ascii_whitespace())
            .filter(|word| !word.is_empty())
            .take(WORDS)
            .map(|word| String::from_utf8_lossy(word).to_ascii_lowercase())
            .collect();
        let word = |index: usize| words.get(index).map_or("", String::as_str);
        match word(0) {
            "" | "set" | "reset" | "comment" | "grant" | "revoke" | "refresh" | "cluster" | "security" | "truncate"
            | "analyze" => Ok(None),
            "create" | "alter" | "drop" => defined(&words[1..]).map(|()| None),
            "select"
                if ["pg_catalog.set_config(", "pg_catalog.setval("].iter().any(|known| word(1).starts_with(known)) =>
            {
                Ok(None)
            }
            "copy" => copy(rules, statement).map(Some),
            "insert" => {
                Err("rows stand in an INSERT, which is not looked through: leave `--inserts`, `--column-inserts` and \
                             `--rows-per-insert` out, so that pg_dump writes COPY"
                    .into())
            }
            "select" => Err(
                "a SELECT may bring data with it: leave large objects out (`--no-large-objects`, before PostgreSQL 16 \
                             `--no-blobs`), and statistics (`--no-statistics`)"
                    .into(),
            ),
            _ => Err("a statement begins otherwise than those that pg_dump writes: nobody can say what data are in it"
                .into()),
        }
    }
}

/// Refuses to make or change what is no part of a database's structure. Of some things it says how others are reached, and by what password.
fn defined(words: &[String]) -> Result<(), String> {
    let mut words = words.iter().map(String::as_str).skip_while(|word| MODIFIERS.contains(word));
    let (kind, second) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if KINDS.contains(&kind) || PAIRS.contains(&(kind, second)) {
        return Ok(());
    }
    Err(match (kind, second) {
        ("subscription", _) => {
            "a SUBSCRIPTION holds how another database is reached: leave them out (`--no-subscriptions`)"
        }
        ("server" | "foreign", _) | ("user", "mapping") => {
            "a foreign server, table or user mapping holds how another database is reached: have pg_dump write the schemas alone that the \
             service needs (`--schema public`), and no foreign tables (`--exclude-table`)"
        }
        ("role" | "user" | "group", _) => "a role may come with its password: have pg_dump write the database, and no roles",
        ("database" | "tablespace", _) => "a whole database is made or changed there: leave `--create` out",
        ("large", _) => "large objects are not looked through: leave them out (`--no-large-objects`, before PostgreSQL 16 `--no-blobs`)",
        _ => {
            "something is made or changed that is no table, type, function or other part of a database's structure: nobody can say what data \
             are in it"
        }
    }
    .into())
}

/// Whether a statement stands within the body of a function that is written as statements: `BEGIN ATOMIC ...; END`.
fn is_in_body(statement: &[u8]) -> bool {
    let split = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b'(' | b')' | b',' | b';');
    let words: Vec<&[u8]> = statement.split(split).filter(|word| !word.is_empty()).collect();
    let is = |word: &[u8], what: &str| word.eq_ignore_ascii_case(what.as_bytes());
    if !words.first().is_some_and(|word| is(word, "create")) {
        return false;
    }
    let begun = words.windows(2).position(|two| is(two[0], "begin") && is(two[1], "atomic"));
    let Some(begun) = begun else { return false };
    let count = |what: &str| words[begun..].iter().filter(|word| is(word, what)).count();
    count("end") <= count("case")
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || byte >= 0x80
}

/// `COPY [schema.]table (column, ...) FROM stdin`
fn copy(rules: &mut Rules, statement: &[u8]) -> Result<Vec<Column>, String> {
    let wrong =
        || "a COPY reads otherwise than as pg_dump writes it: `COPY schema.table (column, ...) FROM stdin;`".to_owned();
    let text = std::str::from_utf8(statement).map_err(|_| "a COPY does not name its columns in UTF-8".to_owned())?;
    let mut left = text.get(4..).ok_or_else(wrong)?;
    let mut table = Vec::new();
    loop {
        let (name, after) = identifier(left).ok_or_else(wrong)?;
        table.push(name);
        left = after.trim_start();
        match left.strip_prefix('.') {
            Some(after) => left = after,
            None => break,
        }
    }
    left = left.strip_prefix('(').ok_or("a COPY does not name its columns")?;
    let mut columns = Vec::new();
    loop {
        let (name, after) = identifier(left).ok_or_else(wrong)?;
        let path: Vec<String> = table.iter().cloned().chain([name]).collect();
        let shown = format!("`{}`", path.join(".").escape_debug());
        let column = rules.column(&path, &shown);
        rules.admit(&column, || shown.clone())?;
        columns.push(column);
        left = after.trim_start();
        if let Some(after) = left.strip_prefix(',') {
            left = after;
            continue;
        }
        left = left.strip_prefix(')').ok_or_else(wrong)?;
        break;
    }
    let rest: Vec<String> = left.split_whitespace().map(str::to_ascii_lowercase).collect();
    if rest != ["from", "stdin"] {
        return Err(wrong());
    }
    Ok(columns)
}

/// The name at the beginning of a text, and what follows it.
fn identifier(text: &str) -> Option<(String, &str)> {
    let text = text.trim_start();
    if let Some(mut left) = text.strip_prefix('"') {
        let mut name = String::new();
        loop {
            let (part, after) = left.split_once('"')?;
            name.push_str(part);
            match after.strip_prefix('"') {
                Some(after) => {
                    name.push('"');
                    left = after;
                }
                None => return Some((name, after)),
            }
        }
    }
    let end = text.find(|c: char| c.is_ascii() && !is_word(c as u8)).unwrap_or(text.len());
    let (name, after) = text.split_at(end);
    (!name.is_empty()).then(|| (name.to_ascii_lowercase(), after))
}

/// One row; `false`: it goes.
fn row(rules: &mut Rules, columns: &[Column], line: &[u8], out: &mut Vec<u8>) -> Result<bool, String> {
    let fields: Vec<&[u8]> = if columns.is_empty() { Vec::new() } else { line.split(|byte| *byte == b'\t').collect() };
    if fields.len() != columns.len() {
        return Err(format!("a row has {} values, and its table {} columns", fields.len(), columns.len()));
    }
    let from = out.len();
    for (index, (raw, column)) in fields.into_iter().zip(columns).enumerate() {
        if index > 0 {
            out.push(b'\t');
        }
        let value = match raw {
            b"\\N" if rules.drops_empty(column) => Value::Drop,
            b"\\N" => Value::Same,
            raw if raw.contains(&b'\\') => rules.apply(column, &unescaped(raw)?),
            raw => rules.apply(column, raw),
        };
        match value {
            Value::Same => out.extend_from_slice(raw),
            Value::Null => out.extend_from_slice(b"\\N"),
            Value::Text(text) => escape(&text, out),
            Value::Drop => {
                out.truncate(from);
                return Ok(false);
            }
        }
    }
    Ok(true)
}

fn unescaped(raw: &[u8]) -> Result<Vec<u8>, String> {
    let (mut text, mut bytes) = (Vec::with_capacity(raw.len()), raw.iter().copied().peekable());
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            text.push(byte);
            continue;
        }
        text.push(match bytes.next().ok_or("a row ends within an escape")? {
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 11,
            digit @ b'0'..=b'7' => {
                let mut number = u32::from(digit - b'0');
                for _ in 0..2 {
                    let Some(digit) = bytes.next_if(|byte| (b'0'..=b'7').contains(byte)) else { break };
                    number = number * 8 + u32::from(digit - b'0');
                }
                (number & 0xff) as u8
            }
            b'x' if bytes.peek().is_some_and(u8::is_ascii_hexdigit) => {
                let mut number = 0;
                for _ in 0..2 {
                    let Some(digit) = bytes.next_if(u8::is_ascii_hexdigit) else { break };
                    number = number * 16 + char::from(digit).to_digit(16).unwrap_or_default();
                }
                (number & 0xff) as u8
            }
            other => other,
        });
    }
    Ok(text)
}

fn escape(text: &[u8], out: &mut Vec<u8>) {
    for byte in text {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            8 => out.extend_from_slice(b"\\b"),
            12 => out.extend_from_slice(b"\\f"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            11 => out.extend_from_slice(b"\\v"),
            byte => out.push(*byte),
        }
    }
}
