//! A service's data without what is personal in them: a stream comes in block by block, and goes out by rules.
//!
//! Comes in: the rules of a service's file, a key, and the bytes of a dump (a plain one of PostgreSQL, CSV, or JSON lines). Goes out: the
//! same with values replaced, how often each rule did, or why it can't be done: with the line, and never with anything of the data. Never
//! here: where the bytes come from. Memory is bounded by one record.
//!
//! What can't be read whole is refused: whoever reads on after a mistake lets pass what he has not understood.

mod csv;
mod jsonl;
mod rules;
mod sql;
#[cfg(test)]
mod tests;

use segue_schemas::sync::{ServiceSync, SyncCount, SyncFormat};

use rules::Rules;
pub use rules::{Mistake, mistakes};

/// The most bytes of a record: a row, or an object.
pub const MAX_RECORD: usize = 16 * 1024 * 1024;

/// Bytes from which it is told what the data are.
const HEAD: usize = 512;

/// Why data can't be made harmless.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A line can't be read, or nobody has said what is to become of it.
    #[error("line {line}: {what}")]
    Line {
        /// Its number, from 1.
        line: u64,
        /// What is wrong, and what to do.
        what: String,
    },
    /// The data as a whole.
    #[error("{0}")]
    Whole(String),
}

/// Makes one stream harmless.
#[derive(Debug)]
pub struct Sanitiser {
    rules: Rules,
    form: Form,
    head: Option<Vec<u8>>,
    rest: Vec<u8>,
    lines: u64,
}

#[derive(Debug)]
enum Form {
    Sql(sql::Sql),
    Csv(csv::Csv),
    Jsonl(jsonl::Jsonl),
}

impl Sanitiser {
    /// One for data of a service. `key` is random, and nobody else's: hashes are made with it.
    ///
    /// # Errors
    /// A rule can't be used; [`mistakes`] tells all of them.
    pub fn new(sync: &ServiceSync, key: [u8; 32]) -> Result<Self, Problem> {
        let rules = Rules::new(sync, key).map_err(|mistake| Problem::Whole(mistake.to_string()))?;
        let form = match sync.format {
            SyncFormat::Sql => Form::Sql(sql::Sql::default()),
            SyncFormat::Csv => Form::Csv(csv::Csv::default()),
            SyncFormat::Jsonl => Form::Jsonl(jsonl::Jsonl::default()),
        };
        Ok(Self { rules, form, head: Some(Vec::new()), rest: Vec::new(), lines: 0 })
    }

    /// Takes the next block, and adds what can go out of it to `out`.
    ///
    /// # Errors
    /// [`Problem`]; what went out before is worth nothing then.
    pub fn push(&mut self, block: &[u8], out: &mut Vec<u8>) -> Result<(), Problem> {
        let Some(head) = &mut self.head else { return self.lines_of(block, out) };
        head.extend_from_slice(block);
        if head.len() < HEAD {
            return Ok(());
        }
        self.begin(out)
    }

    /// There is no more. How often each rule has replaced something.
    ///
    /// # Errors
    /// [`Problem`]: the data end where they can't, or a rule names what is not in them.
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<Vec<SyncCount>, Problem> {
        if self.head.is_some() {
            self.begin(out)?;
        }
        if !self.rest.is_empty() {
            let last = std::mem::take(&mut self.rest);
            self.line(&last, false, out)?;
        }
        match &self.form {
            Form::Sql(sql) => sql.ended().map_err(Problem::Whole)?,
            Form::Csv(csv) => csv.ended().map_err(Problem::Whole)?,
            Form::Jsonl(_) => {}
        }
        self.rules.finish().map_err(Problem::Whole)
    }

    fn begin(&mut self, out: &mut Vec<u8>) -> Result<(), Problem> {
        let head = self.head.take().unwrap_or_default();
        if let Some(what) = unreadable(&head) {
            return Err(Problem::Whole(format!(
                "the data are {what}, in which nothing can be replaced: have `sync.run` write them in the plain form that `sync.format` \
                 names, such as `pg_dump --format plain \"$DATABASE_URL\"`, and `sync.restore` take that in"
            )));
        }
        self.lines_of(&head, out)
    }

    fn lines_of(&mut self, block: &[u8], out: &mut Vec<u8>) -> Result<(), Problem> {
        let mut left = block;
        while let Some(end) = left.iter().position(|byte| *byte == b'\n') {
            let (line, after) = (&left[..end], &left[end + 1..]);
            left = after;
            if self.rest.is_empty() {
                self.line(line, true, out)?;
                continue;
            }
            self.keep(line)?;
            let whole = std::mem::take(&mut self.rest);
            self.line(&whole, true, out)?;
        }
        self.keep(left)
    }

    fn keep(&mut self, part: &[u8]) -> Result<(), Problem> {
        if self.rest.len() + part.len() > MAX_RECORD {
            return Err(Problem::Line { line: self.lines + 1, what: too_long() });
        }
        self.rest.extend_from_slice(part);
        Ok(())
    }

    fn line(&mut self, line: &[u8], closed: bool, out: &mut Vec<u8>) -> Result<(), Problem> {
        self.lines += 1;
        let done = match &mut self.form {
            Form::Sql(sql) => sql.line(&mut self.rules, line, closed, out),
            Form::Csv(csv) => csv.line(&mut self.rules, line, closed, out),
            Form::Jsonl(jsonl) => jsonl.line(&mut self.rules, line, closed, out),
        };
        done.map_err(|what| Problem::Line { line: self.lines, what })
    }
}

fn too_long() -> String {
    format!("a record of more than {} MiB is not looked through", MAX_RECORD >> 20)
}

/// What bytes are that no line can be read of; `None`: they may be text.
fn unreadable(head: &[u8]) -> Option<&'static str> {
    let known: [(&[u8], &str); 8] = [
        (b"PGDMP", "a custom-format dump of PostgreSQL"),
        (b"\x1f\x8b", "compressed with gzip"),
        (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
        (b"\xfd7zXZ\0", "compressed with xz"),
        (b"BZh", "compressed with bzip2"),
        (b"\x04\x22\x4d\x18", "compressed with lz4"),
        (b"PK\x03\x04", "a zip archive"),
        (b"SQLite format 3\0", "a database file of SQLite"),
    ];
    let found = known.iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, what)| *what);
    let is_tar = head.get(257..262) == Some(b"ustar");
    found.or(is_tar.then_some("a tar archive")).or(head.contains(&0).then_some("no text"))
}
