//! The product of the variables, less what is excluded, with what is included.

use indexmap::IndexMap;

use super::{MAX_COMBINATIONS, MAX_PRODUCT, MAX_VALUES_BYTES, Matrix, MatrixError, Values, label::Labels};
use crate::expr::Value;

type Row = IndexMap<String, Value>;

pub(super) fn expand(matrix: &Matrix) -> Result<Vec<Values>, MatrixError> {
    check_exclude(matrix)?;
    let product = product(matrix)?;
    let names: Vec<&str> = matrix.vectors.keys().map(String::as_str).collect();
    let mut added = vec![false; matrix.include.len()];
    // each with how many of its values tell it apart: what is added to a combination is not in its name
    let mut rows: Vec<(Row, usize)> = Vec::new();
    for nth in 0..product {
        let row = row(matrix, nth, product);
        if matrix.exclude.iter().any(|filter| filter.iter().all(|(key, wanted)| holds(row.get(key), wanted))) {
            continue;
        }
        if rows.len() == MAX_COMBINATIONS {
            return Err(too_many(&format!("more than {MAX_COMBINATIONS}")));
        }
        let mut whole = row.clone();
        for (entry, added) in matrix.include.iter().zip(&mut added) {
            let (filter, extra) = split(entry, &names);
            if filter.iter().all(|(key, wanted)| holds(row.get(*key), wanted)) {
                *added = true;
                whole.extend(extra.into_iter().map(|(key, value)| (key.to_owned(), value.clone())));
            }
        }
        rows.push((whole, row.len()));
    }
    for (entry, _) in matrix.include.iter().zip(added).filter(|(_, added)| !added) {
        let (filter, extra) = split(entry, &names);
        let row: Row = filter.into_iter().chain(extra).map(|(key, value)| (key.to_owned(), value.clone())).collect();
        let length = row.len();
        rows.push((row, length));
    }
    if rows.len() > MAX_COMBINATIONS {
        return Err(too_many(&rows.len().to_string()));
    }
    named(rows)
}

/// The labels of the combinations, and their values as they are stored.
fn named(rows: Vec<(Row, usize)>) -> Result<Vec<Values>, MatrixError> {
    let mut labels = Labels::default();
    let mut bytes = 0;
    let mut found = Vec::with_capacity(rows.len());
    for (row, telling) in rows {
        let label = labels.of(row.values().take(telling));
        let values: IndexMap<String, serde_json::Value> =
            row.into_iter().map(|(key, value)| (key, value.to_json())).collect();
        bytes += values.iter().map(|(key, value)| key.len() + value.to_string().len()).sum::<usize>();
        if bytes > MAX_VALUES_BYTES {
            return Err(MatrixError::TooLarge);
        }
        found.push(Values { label, values });
    }
    Ok(found)
}

fn check_exclude(matrix: &Matrix) -> Result<(), MatrixError> {
    let unknown = matrix.exclude.iter().flat_map(Row::keys).find(|key| !matrix.vectors.contains_key(*key));
    unknown.map_or(Ok(()), |key| {
        let known = matrix.vectors.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        Err(MatrixError::UnknownExclude { key: key.clone(), known })
    })
}

/// How many combinations the variables have.
fn product(matrix: &Matrix) -> Result<usize, MatrixError> {
    if matrix.vectors.is_empty() {
        return Ok(0);
    }
    let product = matrix.vectors.values().fold(1_u128, |product, values| product.saturating_mul(values.len() as u128));
    // without `exclude` all of them are made
    let limit = if matrix.exclude.is_empty() { MAX_COMBINATIONS } else { MAX_PRODUCT };
    match usize::try_from(product) {
        Ok(product) if product <= limit => Ok(product),
        _ => Err(too_many(&product.to_string())),
    }
}

fn too_many(found: &str) -> MatrixError {
    MatrixError::TooMany { found: found.to_owned(), limit: MAX_COMBINATIONS }
}

/// The `nth` of `product` combinations; the first variable changes slowest.
fn row(matrix: &Matrix, nth: usize, product: usize) -> Row {
    let mut block = product;
    let mut value = |(key, values): (&String, &Vec<Value>)| {
        block /= values.len();
        (key.clone(), values[nth / block % values.len()].clone())
    };
    matrix.vectors.iter().map(&mut value).collect()
}

type Part<'e> = Vec<(&'e str, &'e Value)>;

/// What of an entry of `include` chooses combinations, and what it adds to them.
fn split<'e>(entry: &'e Row, names: &[&str]) -> (Part<'e>, Part<'e>) {
    entry.iter().map(|(key, value)| (key.as_str(), value)).partition(|(key, _)| names.contains(key))
}

/// Whether a value is what a filter wants: every leaf of the filter is there, by the language's `==`. So a mapping may be
/// named in part.
fn holds(found: Option<&Value>, wanted: &Value) -> bool {
    match wanted {
        Value::Object(entries) => {
            entries.iter().all(|(key, wanted)| holds(found.and_then(|found| found.get(key)), wanted))
        }
        Value::Array(items) => items.iter().enumerate().all(|(at, wanted)| match found {
            Some(Value::Array(found)) => holds(found.get(at), wanted),
            _ => holds(None, wanted),
        }),
        leaf => found.unwrap_or(&Value::Null).loosely_equals(leaf),
    }
}
