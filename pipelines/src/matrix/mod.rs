//! Matrices: one job, run once for each combination of values.
//!
//! Comes in: a matrix as planned and the contexts that its texts may read. Goes out: its combinations, in order, with the words
//! that tell them apart, or what is wrong with it. The rules are GitHub's
//! (<https://docs.github.com/actions/how-tos/write-workflows/choose-what-workflows-do/run-job-variations>). Never here: jobs, runs.

mod expand;
mod label;

use indexmap::IndexMap;
use segue_schemas::plan::{Combination, MatrixPlan};
use serde_json::Value as Json;

use crate::expr::{Contexts, ExprError, Value, evaluate_template};

/// The most combinations of one matrix: GitHub's limit.
pub const MAX_COMBINATIONS: usize = 256;
/// The most combinations that are looked at before `exclude` takes some away.
pub const MAX_PRODUCT: usize = 4096;
/// The most bytes of all values of all combinations together, as JSON.
pub const MAX_VALUES_BYTES: usize = 1024 * 1024;

/// What is wrong with a matrix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MatrixError {
    /// An expression of it has no value.
    #[error("{place}: {error}")]
    Expression {
        /// `matrix.os`.
        place: String,
        /// Why.
        error: ExprError,
    },
    /// Something is of another kind than it must be.
    #[error("`{place}` is {found}, where {wanted} is expected")]
    Kind {
        /// `matrix.os`.
        place: String,
        /// What it is.
        found: &'static str,
        /// What it must be.
        wanted: &'static str,
    },
    /// `exclude` names what the matrix does not have.
    #[error("`matrix.exclude` names `{key}`, which is no variable of the matrix; its variables are {known}")]
    UnknownExclude {
        /// The key.
        key: String,
        /// Those that there are.
        known: String,
    },
    /// It has nothing to combine.
    #[error("an entry of `{place}` names no value")]
    EmptyEntry {
        /// `matrix.include` or `matrix.exclude`.
        place: &'static str,
    },
    /// More than are run.
    #[error("it has {found} combinations, and {limit} are the limit; split the job, or take values out")]
    TooMany {
        /// How many, or at least how many.
        found: String,
        /// The limit.
        limit: usize,
    },
    /// Larger than is stored.
    #[error("its values are larger than {} KiB together; hand over names, and large values as artifacts", MAX_VALUES_BYTES / 1024)]
    TooLarge,
}

/// One combination.
#[derive(Debug, Clone, PartialEq)]
pub struct Values {
    /// Its values in words, `linux, 1`; unique in the matrix.
    pub label: String,
    /// Its values by name, those of `include` last.
    pub values: IndexMap<String, Json>,
}

/// The combinations of a matrix, in GitHub's order: the first variable changes slowest, what only `include` names comes last. None
/// where a list of it is empty, or everything is excluded.
///
/// # Errors
/// Any [`MatrixError`]. That there are too many is found before any is made.
pub fn combinations(plan: &MatrixPlan, contexts: &Contexts) -> Result<Vec<Values>, MatrixError> {
    expand::expand(&evaluated(plan, contexts)?)
}

/// The combinations as jobs' parts, `fail_fast` and `max_parallel` being the strategy's.
#[must_use]
pub fn parts(
    job: &str,
    found: &[Values],
    fail_fast: bool,
    max_parallel: Option<u32>,
) -> Vec<(Combination, IndexMap<String, Json>)> {
    let total = u32::try_from(found.len()).unwrap_or(u32::MAX);
    let part = |(index, Values { label, values }): (u32, &Values)| {
        let combination =
            Combination { job: job.to_owned(), label: label.clone(), index, total, fail_fast, max_parallel };
        (combination, values.clone())
    };
    (0..total).zip(found).map(part).collect()
}

/// A matrix with nothing left to be evaluated.
#[derive(Debug, Default)]
struct Matrix {
    vectors: IndexMap<String, Vec<Value>>,
    include: Vec<IndexMap<String, Value>>,
    exclude: Vec<IndexMap<String, Value>>,
}

fn evaluated(plan: &MatrixPlan, contexts: &Contexts) -> Result<Matrix, MatrixError> {
    let mut matrix = Matrix::default();
    match plan {
        MatrixPlan::Whole(template) => {
            let value = evaluate(template, "matrix", contexts)?;
            let Value::Object(entries) = &value else { return Err(kind("matrix".into(), &value, "a mapping")) };
            for (key, value) in entries.iter() {
                matrix.put(key, value.clone())?;
            }
        }
        MatrixPlan::Vectors { vectors, include, exclude } => {
            for (key, value) in vectors {
                matrix.put(key, filled(value, &format!("matrix.{key}"), contexts)?)?;
            }
            for (key, value) in [("include", include), ("exclude", exclude)] {
                if let Some(value) = value {
                    matrix.put(key, filled(value, &format!("matrix.{key}"), contexts)?)?;
                }
            }
        }
    }
    Ok(matrix)
}

impl Matrix {
    fn put(&mut self, key: &str, value: Value) -> Result<(), MatrixError> {
        let place = format!("matrix.{key}");
        let items = match &value {
            Value::Array(items) => items.as_ref().clone(),
            Value::Null if matches!(key, "include" | "exclude") => Vec::new(),
            _ => return Err(kind(place, &value, "a list")),
        };
        match key {
            "include" => self.include = entries(items, "matrix.include")?,
            "exclude" => self.exclude = entries(items, "matrix.exclude")?,
            _ => {
                self.vectors.insert(key.to_owned(), items);
            }
        }
        Ok(())
    }
}

fn entries(items: Vec<Value>, place: &'static str) -> Result<Vec<IndexMap<String, Value>>, MatrixError> {
    if items.len() > MAX_COMBINATIONS {
        return Err(MatrixError::TooMany { found: items.len().to_string(), limit: MAX_COMBINATIONS });
    }
    let entry = |item: Value| match item {
        Value::Object(entries) if entries.is_empty() => Err(MatrixError::EmptyEntry { place }),
        Value::Object(entries) => Ok(entries.as_ref().clone()),
        other => Err(kind(format!("an entry of {place}"), &other, "a mapping")),
    };
    items.into_iter().map(entry).collect()
}

fn kind(place: String, found: &Value, wanted: &'static str) -> MatrixError {
    MatrixError::Kind { place, found: found.kind(), wanted }
}

/// The value with its texts evaluated. The depth is the document's, which is limited.
fn filled(value: &Json, place: &str, contexts: &Contexts) -> Result<Value, MatrixError> {
    match value {
        Json::String(text) if text.contains("${{") => evaluate(text, place, contexts),
        Json::Array(items) => {
            items.iter().map(|item| filled(item, place, contexts)).collect::<Result<_, _>>().map(Value::array)
        }
        Json::Object(entries) => {
            let entry = |(key, value): (&String, &Json)| Ok((key.clone(), filled(value, place, contexts)?));
            entries.iter().map(entry).collect::<Result<Vec<_>, _>>().map(Value::object)
        }
        other => Ok(Value::from(other)),
    }
}

fn evaluate(template: &str, place: &str, contexts: &Contexts) -> Result<Value, MatrixError> {
    evaluate_template(template.trim(), contexts)
        .map_err(|error| MatrixError::Expression { place: format!("`{place}`"), error })
}
