//! Writes that nobody asks the outcome of. PostgreSQL is told of those that come together in one statement, as each statement is a
//! way there and back: `WITH second AS (UPDATE ...), third AS (INSERT ...) UPDATE ...`. The parts of such a statement don't see what
//! the others write, and two of them must not write the same row, so each names its row, and the one that it goes by.

use std::fmt::Write as _;

use super::sql::Value;

/// Writes in one statement: that many texts stay prepared.
const MOST: usize = 8;

/// The row that a write is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Of {
    row: String,
    /// A row that is to stand as it does now when this is written.
    by: Option<String>,
}

impl Of {
    /// A row, by its table and its key.
    pub(crate) fn row(table: &str, key: impl std::fmt::Display) -> Self {
        Self { row: format!("{table} {key}"), by: None }
    }

    /// The same, with another that it goes by.
    pub(crate) fn by(self, table: &str, key: impl std::fmt::Display) -> Self {
        Self { by: Some(format!("{table} {key}")), ..self }
    }

    /// Whether both can be said at once: neither writes what the other writes or goes by.
    fn is_apart_from(&self, other: &Self) -> bool {
        self.row != other.row && self.by.as_ref() != Some(&other.row) && other.by.as_ref() != Some(&self.row)
    }
}

/// A write that waits.
#[derive(Debug)]
struct Put {
    of: Of,
    /// Queries that it goes by, as `name AS (query), ...`; or nothing.
    with: &'static str,
    sql: &'static str,
    args: Vec<Value>,
}

/// The writes that wait for the next question, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Behind {
    puts: Vec<Put>,
}

impl Behind {
    /// Whether a write can be said together with those that wait.
    pub(crate) fn has_room_for(&self, of: &Of) -> bool {
        self.puts.len() < MOST && self.puts.iter().all(|put| put.of.is_apart_from(of))
    }

    pub(crate) fn push(&mut self, of: Of, with: &'static str, sql: &'static str, args: Vec<Value>) {
        self.puts.push(Put { of, with, sql, args });
    }

    /// Lets go of them: what they belong to is undone.
    pub(crate) fn clear(&mut self) {
        self.puts.clear();
    }

    /// All of them as one statement with its parameters; none waits after it.
    pub(crate) fn take(&mut self) -> Option<(String, Vec<Value>)> {
        if self.puts.is_empty() {
            return None;
        }
        let first = self.puts.remove(0);
        Some(self.take_behind(first))
    }

    /// The same, with one more whose answer is the statement's.
    pub(crate) fn take_with(&mut self, sql: &'static str, args: Vec<Value>) -> (String, Vec<Value>) {
        let asked = Put { of: Of::row("", ""), with: "", sql, args };
        self.take_behind(asked)
    }

    /// One, and all that wait behind it.
    fn take_behind(&mut self, main: Put) -> (String, Vec<Value>) {
        let (mut with, sql, mut args) = (main.with.to_owned(), main.sql, main.args);
        for (n, put) in self.puts.drain(..).enumerate() {
            let by = args.len();
            if !put.with.is_empty() {
                separate(&mut with);
                with.push_str(&renumbered(put.with, by));
            }
            separate(&mut with);
            // writing to a text can't fail
            let _ = write!(with, "put_{n} AS ({})", renumbered(put.sql, by));
            args.extend(put.args);
        }
        let sql = if with.is_empty() { sql.to_owned() } else { format!("WITH {with} {sql}") };
        (sql, args)
    }
}

fn separate(text: &mut String) {
    if !text.is_empty() {
        text.push_str(", ");
    }
}

/// A statement whose parameters come after so many others.
fn renumbered(sql: &str, by: usize) -> String {
    let mut text = String::with_capacity(sql.len() + 16);
    let mut parts = sql.split('$');
    text.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        let (number, rest) = part.split_at(end);
        text.push('$');
        match number.parse::<usize>() {
            Ok(number) => {
                let _ = write!(text, "{}", number + by);
            }
            Err(_) => text.push_str(number),
        }
        text.push_str(rest);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sql::args;

    fn of(name: &str) -> Of {
        Of::row("rows", name)
    }

    #[test]
    fn one_write_is_said_as_it_is() {
        let mut behind = Behind::default();
        behind.push(of("a"), "", "UPDATE a SET n = $2 WHERE id = $1", args![1_i64, 2_i64]);
        let (sql, args) = behind.take().unwrap();
        assert_eq!((sql.as_str(), args.len()), ("UPDATE a SET n = $2 WHERE id = $1", 2));
        assert!(behind.take().is_none());
    }

    #[test]
    fn several_are_one_statement_with_their_parameters_behind_one_another() {
        let mut behind = Behind::default();
        behind.push(of("a"), "", "INSERT INTO a VALUES ($1, $2)", args![1_i64, "x"]);
        behind.push(of("b"), "g AS (SELECT $1)", "INSERT INTO b SELECT * FROM g WHERE n = $2", args![3_i64, 4_i64]);
        behind.push(of("c"), "", "UPDATE c SET t = '$' || $12 WHERE id = $1", args![5_i64]);
        let (sql, args) = behind.take().unwrap();
        assert_eq!(
            sql,
            "WITH g AS (SELECT $3), put_0 AS (INSERT INTO b SELECT * FROM g WHERE n = $4), \
             put_1 AS (UPDATE c SET t = '$' || $16 WHERE id = $5) INSERT INTO a VALUES ($1, $2)"
        );
        assert_eq!(args.len(), 5);
    }

    #[test]
    fn the_answer_is_that_of_what_is_asked() {
        let mut behind = Behind::default();
        behind.push(of("a"), "", "UPDATE a SET n = $1", args![1_i64]);
        let (sql, args) = behind.take_with("UPDATE b SET n = n + $1 RETURNING n", args![2_i64]);
        assert_eq!(sql, "WITH put_0 AS (UPDATE a SET n = $2) UPDATE b SET n = n + $1 RETURNING n");
        assert_eq!(args.len(), 2);
        assert_eq!(behind.take_with("SELECT 1", args![]).0, "SELECT 1");
    }

    #[test]
    fn a_row_is_written_once_in_a_statement_and_a_statement_has_an_end() {
        let mut behind = Behind::default();
        behind.push(of("1"), "", "UPDATE jobs", args![]);
        assert!(!behind.has_room_for(&of("1")));
        for n in 2..=MOST {
            let of = of(&n.to_string());
            assert!(behind.has_room_for(&of));
            behind.push(of, "", "UPDATE jobs", args![]);
        }
        assert!(!behind.has_room_for(&of("another")));
        behind.clear();
        assert!(behind.has_room_for(&of("1")));
    }

    #[test]
    fn what_goes_by_a_row_is_not_said_with_what_writes_it() {
        let (job, step, other) =
            (Of::row("jobs", 1), Of::row("steps", "1/0").by("jobs", 1), Of::row("steps", "1/1").by("jobs", 1));
        assert!(!job.is_apart_from(&step) && !step.is_apart_from(&job));
        assert!(step.is_apart_from(&other) && job.is_apart_from(&Of::row("jobs", 2)));
    }
}
