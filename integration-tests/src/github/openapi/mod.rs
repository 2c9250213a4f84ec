//! GitHub's own description of its REST API, held against what is sent here and what is answered:
//! <https://github.com/github/rest-api-description> (or the npm package `@octokit/openapi`), in OpenAPI 3.0 as JSON.
//!
//! Comes in: the file that `SEGUE_GITHUB_OPENAPI` names, and requests with their answers. Goes out: each way in which a request is not
//! as the description has it (path, query, body), or an answer of the stand-in is not one that GitHub gives (status, types of members;
//! which may be left out here is the stand-in's own business). Never here: what follows from that; the story fails at its end.

mod schema;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use anyhow::{Context as _, Result, ensure};
use http::Method;
use jsonschema::Validator;
use serde_json::Value;

/// The variable that names the file.
pub const VARIABLE: &str = "SEGUE_GITHUB_OPENAPI";

/// An operation, and whether its body is meant (`None`) or an answer with a status.
type Validated = (String, Option<u16>);

/// A description.
pub struct Description {
    whole: Value,
    validators: Mutex<BTreeMap<Validated, Arc<Validator>>>,
}

/// A path of the description with what was asked of it.
struct Found<'d> {
    template: &'d str,
    operation: &'d Value,
    /// The values of its parameters.
    values: Vec<(&'d str, String)>,
}

impl Description {
    /// The one that the environment names, read once; `None`: it names none.
    ///
    /// # Errors
    /// See [`Self::read`].
    pub fn named() -> Result<Option<Arc<Self>>> {
        static READ: OnceLock<Arc<Description>> = OnceLock::new();
        let Some(path) = std::env::var_os(VARIABLE) else { return Ok(None) };
        if let Some(known) = READ.get() {
            return Ok(Some(known.clone()));
        }
        let read = Arc::new(Self::read(Path::new(&path))?);
        Ok(Some(READ.get_or_init(|| read).clone()))
    }

    /// Reads a file.
    ///
    /// # Errors
    /// It can't be read, or is no description in JSON.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("{VARIABLE} names {}", path.display()))?;
        let whole = serde_json::from_slice(&bytes).with_context(|| format!("{} is no JSON", path.display()))?;
        Self::new(whole).with_context(|| path.display().to_string())
    }

    /// One that was read.
    ///
    /// # Errors
    /// It has no paths.
    pub fn new(whole: Value) -> Result<Self> {
        ensure!(whole["paths"].is_object(), "there are no `paths`: it is no OpenAPI description");
        Ok(Self { whole, validators: Mutex::default() })
    }

    /// What is wrong with a request, in words.
    #[must_use]
    pub fn of_request(
        &self,
        method: &Method,
        path: &[&str],
        query: &BTreeMap<String, String>,
        body: &Value,
    ) -> Vec<String> {
        let Some(found) = self.find(method, path) else {
            return vec![format!("{method} /{}: no such operation", path.join("/"))];
        };
        let mut wrong = self.of_parameters(&found, query);
        let described = self.resolve(&found.operation["requestBody"]);
        let shape = self.resolve(&described["content"]["application/json"]["schema"]);
        match (body, shape) {
            (Value::Null, _) if described["required"] == true => wrong.push("it needs a body".into()),
            (Value::Null, _) => {}
            (_, Value::Null) => wrong.push("it takes no body".into()),
            (body, shape) => {
                wrong.extend(unknown_members(body, shape));
                let validator = self.validator(&found, method, None, || schema::strict(&self.whole, shape));
                wrong.extend(validator.iter_errors(body).map(|error| format!("`{}`: {error}", error.instance_path())));
            }
        }
        wrong.into_iter().map(|problem| format!("{method} {}: {problem}", found.template)).collect()
    }

    /// What is wrong with an answer of the stand-in, in words.
    #[must_use]
    pub fn of_answer(&self, method: &Method, path: &[&str], status: u16, body: &Value) -> Vec<String> {
        let Some(found) = self.find(method, path) else { return Vec::new() };
        let said = |problem: String| format!("{method} {} was answered {status}: {problem}", found.template);
        let answers = &found.operation["responses"];
        let described = self.resolve(&answers[status.to_string()]);
        if described.is_null() {
            // what any request may be refused with, or led elsewhere, is not listed with each
            return if status < 300 { vec![said("it never is".into())] } else { Vec::new() };
        }
        let shape = self.resolve(&described["content"]["application/json"]["schema"]);
        if shape.is_null() {
            return Vec::new();
        }
        let validator = self.validator(&found, method, Some(status), || schema::lenient(&self.whole, shape));
        validator.iter_errors(body).map(|error| said(format!("`{}`: {error}", error.instance_path()))).collect()
    }

    /// The operation whose path has the most parts as they are.
    fn find(&self, method: &Method, path: &[&str]) -> Option<Found<'_>> {
        // the way of a repository by its number, to which its old names lead, is not listed
        let by_name: Vec<&str>;
        let path = match path {
            ["repositories", id, rest @ ..] => {
                by_name = ["repos", "by-number", id].iter().chain(rest).copied().collect();
                &by_name
            }
            path => path,
        };
        let method = method.as_str().to_lowercase();
        let all = self.whole["paths"].as_object()?;
        let fitting = all.iter().filter_map(|(template, operations)| {
            let parts: Vec<&str> = template.trim_start_matches('/').split('/').collect();
            let operation = operations.get(&method)?;
            if parts.len() != path.len() {
                return None;
            }
            let mut values = Vec::new();
            for (part, given) in parts.into_iter().zip(path) {
                match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
                    Some(name) => values.push((name, (*given).to_owned())),
                    None if part == *given => {}
                    None => return None,
                }
            }
            Some(Found { template, operation, values })
        });
        fitting.min_by_key(|found| found.values.len())
    }

    /// What is wrong with the values in the path and in the query.
    fn of_parameters(&self, found: &Found<'_>, query: &BTreeMap<String, String>) -> Vec<String> {
        let described = found.operation["parameters"].as_array().map_or(&[][..], Vec::as_slice);
        let described: Vec<&Value> = described.iter().map(|one| self.resolve(one)).collect();
        let of = |place: &str, name: &str| described.iter().find(|one| one["in"] == place && one["name"] == name);
        let mut wrong = Vec::new();
        for (name, value) in &found.values {
            if let Some(problem) = of("path", name).and_then(|one| self.misfit(one, value)) {
                wrong.push(format!("{{{name}}} {problem}"));
            }
        }
        for (name, value) in query {
            match of("query", name) {
                None => wrong.push(format!("the query knows no `{name}`")),
                Some(one) => wrong.extend(self.misfit(one, value).map(|problem| format!("`{name}` {problem}"))),
            }
        }
        let needed = described.iter().filter(|one| one["in"] == "query" && one["required"] == true);
        let missing = needed.filter_map(|one| one["name"].as_str()).filter(|name| !query.contains_key(*name));
        wrong.extend(missing.map(|name| format!("the query has no `{name}`")));
        wrong
    }

    /// Why a text can't be a parameter's value.
    fn misfit(&self, parameter: &Value, text: &str) -> Option<String> {
        let shape = schema::strict(&self.whole, self.resolve(&parameter["schema"]));
        let typed = match shape["type"].as_str() {
            Some("integer" | "number" | "boolean") => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
            _ => Value::from(text),
        };
        let error =
            jsonschema::validator_for(&shape).ok()?.iter_errors(&typed).next().map(|error| error.to_string())?;
        Some(format!("can't be {text}: {error}"))
    }

    fn resolve<'d>(&'d self, value: &'d Value) -> &'d Value {
        schema::resolve(&self.whole, value)
    }

    fn validator(
        &self,
        found: &Found<'_>,
        method: &Method,
        status: Option<u16>,
        shape: impl FnOnce() -> Value,
    ) -> Arc<Validator> {
        let mut known = self.validators.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (format!("{method} {}", found.template), status);
        let made = known.entry(key).or_insert_with(|| {
            let shape = shape();
            let made = jsonschema::validator_for(&shape);
            Arc::new(made.unwrap_or_else(|error| panic!("{method} {} has no schema: {error}", found.template)))
        });
        made.clone()
    }
}

/// Members that the description has not heard of, where it lists any: GitHub would pass over them in silence.
fn unknown_members(body: &Value, shape: &Value) -> Vec<String> {
    let (Some(body), Some(known)) = (body.as_object(), shape["properties"].as_object()) else { return Vec::new() };
    let unknown = body.keys().filter(|name| !known.contains_key(*name));
    unknown.map(|name| format!("the body knows no `{name}`")).collect()
}

#[cfg(test)]
mod tests;
