//! The little of SQL that every backend must do: statements with `$1` parameters of two types, rows read by column
//! name. Everything above this file, `sqlite.rs` and `postgres.rs` is the same for each backend.

use std::str::FromStr;

use segue_schemas::time::Timestamp;
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{
    AssertSqlSafe, Column as _, PgConnection, Postgres, Row as _, SqlSafeStr, Sqlite, SqliteConnection, Transaction,
    TypeInfo as _, ValueRef as _, postgres::PgRow, sqlite::SqliteRow,
};

use super::{Bell, Result, StoreError, behind::Of, postgres::Session};

/// A parameter.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Int(Option<i64>),
    Text(Option<String>),
}

macro_rules! value_from {
    ($($kind:ident from $type:ty: $as:expr;)*) => {$(
        impl From<$type> for Value {
            fn from(value: $type) -> Self {
                Self::$kind(Some(($as)(value)))
            }
        }
        impl From<Option<$type>> for Value {
            fn from(value: Option<$type>) -> Self {
                Self::$kind(value.map($as))
            }
        }
    )*};
}

value_from! {
    Int from i64: |n| n;
    Int from i32: i64::from;
    Int from u32: i64::from;
    Int from u8: i64::from;
    Int from bool: i64::from;
    Int from usize: |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    Int from u64: |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    Int from Timestamp: |t: Timestamp| t.0;
    Int from segue_schemas::id::Epoch: |e: segue_schemas::id::Epoch| e.0;
    Int from segue_schemas::id::RunId: |id: segue_schemas::id::RunId| id.0;
    Int from segue_schemas::id::ReleaseId: |id: segue_schemas::id::ReleaseId| id.0;
    Int from segue_schemas::id::RolloutId: |id: segue_schemas::id::RolloutId| id.0;
    Text from String: |s| s;
    Text from &str: str::to_owned;
    Text from &String: String::clone;
    Text from segue_schemas::id::JobId: |id: segue_schemas::id::JobId| id.to_string();
    Text from &segue_schemas::id::DeliveryId: |id: &segue_schemas::id::DeliveryId| id.as_str().to_owned();
    Text from &segue_schemas::id::CommitSha: |id: &segue_schemas::id::CommitSha| id.as_str().to_owned();
    Text from &segue_schemas::id::Digest: |id: &segue_schemas::id::Digest| id.as_str().to_owned();
    Text from &segue_schemas::id::WorkerId: |id: &segue_schemas::id::WorkerId| id.as_str().to_owned();
}

/// The parameters of a statement, in order.
macro_rules! args {
    ($($value:expr),* $(,)?) => { vec![$($crate::store::sql::Value::from($value)),*] };
}
pub(crate) use args;

/// One connection, inside a transaction.
pub(crate) enum Conn {
    /// SQLite's one writer.
    Sqlite(SqliteConnection),
    /// A reader's, with a snapshot that ends when this is dropped.
    SqliteReader(Transaction<'static, Sqlite>),
    /// The writer of one server on PostgreSQL.
    Postgres(Box<Session>),
    /// A reader's, as on SQLite.
    PostgresReader(Transaction<'static, Postgres>),
}

enum Raw<'c> {
    Sqlite(&'c mut SqliteConnection),
    Postgres(&'c mut PgConnection),
}

impl Conn {
    /// What the next statement is put to; each is told to who counts them.
    fn raw(&mut self, sql: &'static str) -> Result<Raw<'_>> {
        tracing::trace!(target: "segue::sql", sql);
        Ok(match self {
            Self::Sqlite(connection) => Raw::Sqlite(connection),
            Self::SqliteReader(transaction) => Raw::Sqlite(transaction),
            Self::Postgres(session) => Raw::Postgres(session.connection()?),
            Self::PostgresReader(transaction) => Raw::Postgres(transaction),
        })
    }

    /// The server, where several share the database.
    pub(crate) fn server(&self) -> Option<i64> {
        match self {
            Self::Postgres(session) => Some(session.server()),
            _ => None,
        }
    }

    /// Runs a statement; gives the number of rows that it changed.
    pub(crate) async fn run(&mut self, sql: &'static str, args: Vec<Value>) -> Result<u64> {
        self.write_out().await?;
        Ok(match self.raw(sql)? {
            Raw::Sqlite(raw) => bound_sqlite(sql, args).execute(raw).await?.rows_affected(),
            Raw::Postgres(raw) => bound_postgres(sql, args).execute(raw).await?.rows_affected(),
        })
    }

    /// Every row of the answer. The caller's statement bounds their number.
    pub(crate) async fn all(&mut self, sql: &'static str, args: Vec<Value>) -> Result<Vec<Row>> {
        self.write_out().await?;
        Ok(match self.raw(sql)? {
            Raw::Sqlite(raw) => bound_sqlite(sql, args).fetch_all(raw).await?.into_iter().map(Row::Sqlite).collect(),
            Raw::Postgres(raw) => {
                bound_postgres(sql, args).fetch_all(raw).await?.into_iter().map(Row::Postgres).collect()
            }
        })
    }

    /// The first row, if there is one.
    pub(crate) async fn first(&mut self, sql: &'static str, args: Vec<Value>) -> Result<Option<Row>> {
        self.write_out().await?;
        Ok(match self.raw(sql)? {
            Raw::Sqlite(raw) => bound_sqlite(sql, args).fetch_optional(raw).await?.map(Row::Sqlite),
            Raw::Postgres(raw) => bound_postgres(sql, args).fetch_optional(raw).await?.map(Row::Postgres),
        })
    }

    /// Writes what nobody asks the outcome of: before the next question, or the operation's end, at the latest. It reads nothing that
    /// other writes change.
    pub(crate) async fn put(&mut self, of: Of, sql: &'static str, args: Vec<Value>) -> Result<()> {
        self.put_with(of, "", sql, args).await
    }

    /// The same of one that goes by other queries (`name AS (query), ...`), which PostgreSQL alone is asked.
    pub(crate) async fn put_with(
        &mut self,
        of: Of,
        with: &'static str,
        sql: &'static str,
        args: Vec<Value>,
    ) -> Result<()> {
        let Some(session) = self.room_for(&of).await? else { return self.run(sql, args).await.map(drop) };
        session.behind.push(of, with, sql, args);
        Ok(())
    }

    /// The session in which a write can wait, or be said with those that do; `None`: here none waits.
    async fn room_for(&mut self, of: &Of) -> Result<Option<&mut Session>> {
        if matches!(self, Self::Postgres(session) if !session.behind.has_room_for(of)) {
            self.write_out().await?;
        }
        Ok(if let Self::Postgres(session) = self { Some(session) } else { None })
    }

    /// Writes what waits to be written.
    pub(crate) async fn write_out(&mut self) -> Result<()> {
        let Self::Postgres(session) = self else { return Ok(()) };
        let Some((sql, args)) = session.behind.take() else { return Ok(()) };
        tracing::trace!(target: "segue::sql", sql);
        bound_postgres(AssertSqlSafe(sql), args).execute(session.connection()?).await?;
        Ok(())
    }

    /// Lets go of what waits to be written: the operation that it is of is undone.
    pub(crate) fn forget_unwritten(&mut self) {
        if let Self::Postgres(session) = self {
            session.behind.clear();
        }
    }

    /// A write whose answer is wanted, said together with those that wait.
    async fn ask(&mut self, of: Of, sql: &'static str, args: Vec<Value>) -> Result<Option<Row>> {
        let Some(session) = self.room_for(&of).await? else { return self.first(sql, args).await };
        let (sql, args) = session.behind.take_with(sql, args);
        tracing::trace!(target: "segue::sql", sql);
        let asked = bound_postgres(AssertSqlSafe(sql), args).fetch_optional(session.connection()?).await?;
        Ok(asked.map(Row::Postgres))
    }

    /// The next number of a counter.
    pub(crate) async fn next_number(&mut self, counter: &'static str) -> Result<i64> {
        let sql = "UPDATE counters SET value = value + 1 WHERE name = $1 RETURNING value";
        match self.ask(Of::row("counters", counter), sql, args![counter]).await? {
            Some(row) => row.int("value"),
            None => Err(StoreError::corrupt("counters", format!("there is no counter `{counter}`"))),
        }
    }
}

/// The writer's transactions. What a group of operations does is kept or undone one by one, and made durable together.
impl Conn {
    /// Begins one; gives the database's time, where that is the time that counts.
    pub(crate) async fn begin(&mut self) -> Result<Option<Timestamp>> {
        match self {
            Self::Postgres(session) => session.begin().await.map(Some),
            _ => self.run("BEGIN IMMEDIATE", vec![]).await.map(|_| None),
        }
    }

    /// An operation of a group begins.
    pub(crate) async fn operation_begins(&mut self) -> Result<()> {
        match self {
            Self::Postgres(session) => session.operation_begins().await,
            _ => self.run("SAVEPOINT operation", vec![]).await.map(|_| ()),
        }
    }

    /// It has ended; whether what it did is kept.
    pub(crate) async fn operation_ends(&mut self, keep: bool) -> Result<()> {
        if let Self::Postgres(session) = self {
            session.operation_ends(keep);
            return Ok(());
        }
        if !keep {
            self.run("ROLLBACK TO operation", vec![]).await?;
        }
        self.run("RELEASE operation", vec![]).await.map(|_| ())
    }

    /// Makes everything durable, and tells the other servers which bells to ring.
    pub(crate) async fn commit(&mut self, bells: &[Bell]) -> Result<()> {
        match self {
            Self::Postgres(session) => session.commit(bells).await,
            _ => self.run("COMMIT", vec![]).await.map(|_| ()),
        }
    }

    /// Undoes everything.
    pub(crate) async fn roll_back(&mut self) -> Result<()> {
        match self {
            Self::Postgres(session) => session.roll_back().await,
            _ => self.run("ROLLBACK", vec![]).await.map(|_| ()),
        }
    }
}

fn bound_sqlite(
    sql: &'static str,
    args: Vec<Value>,
) -> sqlx::query::Query<'static, Sqlite, sqlx::sqlite::SqliteArguments> {
    args.into_iter().fold(sqlx::query(sql), |query, value| match value {
        Value::Int(n) => query.bind(n),
        Value::Text(s) => query.bind(s),
    })
}

fn bound_postgres(
    sql: impl SqlSafeStr,
    args: Vec<Value>,
) -> sqlx::query::Query<'static, Postgres, sqlx::postgres::PgArguments> {
    args.into_iter().fold(sqlx::query(sql), |query, value| match value {
        Value::Int(n) => query.bind(n),
        // the one character that its texts can't hold
        Value::Text(Some(s)) if s.contains('\0') => query.bind(s.replace('\0', "\u{fffd}")),
        Value::Text(s) => query.bind(s),
    })
}

/// One row.
pub(crate) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

macro_rules! read {
    ($row:expr, $column:expr) => {
        match $row {
            Row::Sqlite(row) => row.try_get($column)?,
            Row::Postgres(row) => row.try_get($column)?,
        }
    };
}

impl Row {
    pub(crate) fn int(&self, column: &str) -> Result<i64> {
        self.maybe_int(column)?.ok_or_else(|| StoreError::corrupt(column, "there is no number"))
    }

    pub(crate) fn maybe_int(&self, column: &str) -> Result<Option<i64>> {
        match self {
            Self::Sqlite(row) => Ok(row.try_get(column)?),
            Self::Postgres(row) => postgres_int(row, column),
        }
    }

    pub(crate) fn flag(&self, column: &str) -> Result<bool> {
        Ok(self.int(column)? != 0)
    }

    /// A number that is never negative.
    pub(crate) fn count<N: TryFrom<i64>>(&self, column: &str) -> Result<N> {
        let n = self.int(column)?;
        N::try_from(n).map_err(|_| StoreError::corrupt(column, format!("{n} is out of range")))
    }

    pub(crate) fn time(&self, column: &str) -> Result<Timestamp> {
        Ok(Timestamp(self.int(column)?))
    }

    pub(crate) fn maybe_time(&self, column: &str) -> Result<Option<Timestamp>> {
        Ok(self.maybe_int(column)?.map(Timestamp))
    }

    pub(crate) fn text(&self, column: &str) -> Result<String> {
        Ok(read!(self, column))
    }

    pub(crate) fn maybe_text(&self, column: &str) -> Result<Option<String>> {
        Ok(read!(self, column))
    }

    /// A text of a checked type.
    pub(crate) fn parsed<T: FromStr<Err: ToString>>(&self, column: &str) -> Result<T> {
        self.text(column)?.parse().map_err(|e: T::Err| StoreError::corrupt(column, e))
    }

    /// A text of a checked type, or nothing.
    pub(crate) fn maybe_parsed<T: FromStr<Err: ToString>>(&self, column: &str) -> Result<Option<T>> {
        let text = self.maybe_text(column)?;
        text.map(|t| t.parse()).transpose().map_err(|e: T::Err| StoreError::corrupt(column, e))
    }

    /// A word of a closed set, by the set's own function.
    pub(crate) fn word<T>(&self, column: &str, parse: fn(&str) -> Option<T>) -> Result<T> {
        let word = self.text(column)?;
        parse(&word).ok_or_else(|| StoreError::corrupt(column, format!("`{word}` is no word of it")))
    }

    /// A document.
    pub(crate) fn json<T: DeserializeOwned>(&self, column: &str) -> Result<T> {
        // borrowed from the row: a plan is not copied to be parsed
        let text: &str = read!(self, column);
        serde_json::from_str(text).map_err(|e| StoreError::corrupt(column, e))
    }

    /// A document, or nothing.
    pub(crate) fn maybe_json<T: DeserializeOwned>(&self, column: &str) -> Result<Option<T>> {
        let text: Option<&str> = read!(self, column);
        text.map(serde_json::from_str).transpose().map_err(|e| StoreError::corrupt(column, e))
    }
}

/// PostgreSQL tells the whole numbers of a calculation, and the truth of a comparison, from the numbers of a column.
fn postgres_int(row: &PgRow, column: &str) -> Result<Option<i64>> {
    let value = row.try_get_raw(column)?;
    if value.is_null() {
        return Ok(None);
    }
    Ok(Some(match row.column(column).type_info().name() {
        "BOOL" => i64::from(row.try_get::<bool, _>(column)?),
        "INT4" => i64::from(row.try_get::<i32, _>(column)?),
        _ => row.try_get(column)?,
    }))
}

/// A document as it is stored.
pub(crate) fn to_json<T: Serialize + ?Sized>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|e| StoreError::corrupt("a value to store", e))
}

/// The word that serde uses for a value of a closed set.
pub(crate) fn to_word<T: Serialize>(value: &T) -> Result<String> {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => Ok(word),
        other => Err(StoreError::corrupt("a word to store", format!("{other:?}"))),
    }
}

/// The value of a closed set that serde's word names.
pub(crate) fn from_word<T: DeserializeOwned>(word: &str) -> Option<T> {
    serde_json::from_value(serde_json::Value::String(word.to_owned())).ok()
}
