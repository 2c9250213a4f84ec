//! The little of SQL that every backend must do: statements with `$1` parameters of two types, rows read by column
//! name. Everything above this file and `sqlite.rs` is the same for each backend.

use std::str::FromStr;

use segue_schemas::time::Timestamp;
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{Row as _, Sqlite, SqliteConnection, Transaction, sqlite::SqliteRow};

use super::{Result, StoreError};

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
    /// The writer's.
    Writer(SqliteConnection),
    /// A reader's, with a snapshot that ends when this is dropped.
    Reader(Transaction<'static, Sqlite>),
}

impl Conn {
    pub(crate) fn raw(&mut self) -> &mut SqliteConnection {
        match self {
            Self::Writer(connection) => connection,
            Self::Reader(transaction) => transaction,
        }
    }

    /// Runs a statement; gives the number of rows that it changed.
    pub(crate) async fn run(&mut self, sql: &'static str, args: Vec<Value>) -> Result<u64> {
        Ok(bound(sql, args).execute(self.raw()).await?.rows_affected())
    }

    /// Every row of the answer. The caller's statement bounds their number.
    pub(crate) async fn all(&mut self, sql: &'static str, args: Vec<Value>) -> Result<Vec<Row>> {
        Ok(bound(sql, args).fetch_all(self.raw()).await?.into_iter().map(Row).collect())
    }

    /// The first row, if there is one.
    pub(crate) async fn first(&mut self, sql: &'static str, args: Vec<Value>) -> Result<Option<Row>> {
        Ok(bound(sql, args).fetch_optional(self.raw()).await?.map(Row))
    }

    /// The next number of a counter.
    pub(crate) async fn next_number(&mut self, counter: &'static str) -> Result<i64> {
        let sql = "UPDATE counters SET value = value + 1 WHERE name = $1 RETURNING value";
        match self.first(sql, args![counter]).await? {
            Some(row) => row.int("value"),
            None => Err(StoreError::corrupt("counters", format!("there is no counter `{counter}`"))),
        }
    }
}

fn bound(sql: &'static str, args: Vec<Value>) -> sqlx::query::Query<'static, Sqlite, sqlx::sqlite::SqliteArguments> {
    args.into_iter().fold(sqlx::query(sql), |query, value| match value {
        Value::Int(n) => query.bind(n),
        Value::Text(s) => query.bind(s),
    })
}

/// One row.
pub(crate) struct Row(SqliteRow);

impl Row {
    pub(crate) fn int(&self, column: &str) -> Result<i64> {
        Ok(self.0.try_get(column)?)
    }

    pub(crate) fn maybe_int(&self, column: &str) -> Result<Option<i64>> {
        Ok(self.0.try_get(column)?)
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
        Ok(self.0.try_get(column)?)
    }

    pub(crate) fn maybe_text(&self, column: &str) -> Result<Option<String>> {
        Ok(self.0.try_get(column)?)
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
        let text: &str = self.0.try_get(column)?;
        serde_json::from_str(text).map_err(|e| StoreError::corrupt(column, e))
    }

    /// A document, or nothing.
    pub(crate) fn maybe_json<T: DeserializeOwned>(&self, column: &str) -> Result<Option<T>> {
        let text: Option<&str> = self.0.try_get(column)?;
        text.map(serde_json::from_str).transpose().map_err(|e| StoreError::corrupt(column, e))
    }
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
