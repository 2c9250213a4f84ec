//! Inputs of pipelines: what they may be given, and what becomes of what they are given.
//!
//! Types and defaults are GitHub's: an input that is left out is its default, else an empty text, `false` or `0`.
//! (<https://docs.github.com/actions/reference/workflows-and-actions/workflow-syntax#onworkflow_dispatchinputs>)
//!
//! Comes in: what a pipeline says of its inputs, and texts that a person gave. Goes out: values, or all that is wrong with
//! them. Never here: who gave them.

use indexmap::IndexMap;
use segue_schemas::id::is_name;
use serde_json::{Value, json};

use crate::nearest::{did_you_mean, listed};

/// The most inputs of a pipeline.
pub const MAX_INPUTS: usize = 25;
/// The longest of all values together, in bytes, as at GitHub.
pub const MAX_BYTES: usize = 65_535;

/// An input.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Input {
    /// What it may be.
    pub kind: InputKind,
    /// For people.
    pub description: String,
    /// Whether it must be given where it has no default.
    pub required: bool,
    /// What it is where it is left out; fits the type.
    pub default: Option<Value>,
}

/// What an input may be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum InputKind {
    /// Any text.
    #[default]
    Text,
    /// `true` or `false`.
    Boolean,
    /// A number.
    Number,
    /// One of these texts.
    Choice {
        /// The texts.
        options: Vec<String>,
    },
    /// The name of an environment.
    Environment,
}

impl InputKind {
    /// The value that a text stands for.
    ///
    /// # Errors
    /// Why it is none, in words that follow the input's name.
    pub fn read(&self, text: &str) -> Result<Value, String> {
        match self {
            Self::Text => Ok(text.into()),
            Self::Boolean => match text {
                "true" => Ok(true.into()),
                "false" => Ok(false.into()),
                _ => Err(format!("`{}` is not `true` or `false`", shown(text))),
            },
            Self::Number => number(text).ok_or_else(|| format!("`{}` is not a number", shown(text))),
            Self::Choice { options } if options.iter().any(|option| option == text) => Ok(text.into()),
            Self::Choice { options } => {
                let known = || options.iter().map(String::as_str);
                let help = did_you_mean(text, known()).unwrap_or_else(|| format!("one of {}", listed(known())));
                Err(format!("`{}` is not among its options: {help}", shown(text)))
            }
            Self::Environment if is_name(text) => Ok(text.into()),
            Self::Environment => Err(format!("`{}` cannot name an environment", shown(text))),
        }
    }

    /// The value as it is, if it is of this type; a text that stands for one is taken as well.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn check(&self, value: &Value) -> Result<Value, String> {
        match (self, value) {
            (Self::Boolean, Value::Bool(_)) | (Self::Number, Value::Number(_)) => Ok(value.clone()),
            (_, Value::String(text)) => self.read(text),
            (_, Value::Bool(_) | Value::Number(_)) => self.read(&value.to_string()),
            (Self::Text, Value::Null) => Ok("".into()),
            (_, Value::Null | Value::Array(_) | Value::Object(_)) => Err(format!("it is not {}", self.article())),
        }
    }

    /// In words, with an article.
    #[must_use]
    pub const fn article(&self) -> &'static str {
        match self {
            Self::Text => "a text",
            Self::Boolean => "a boolean",
            Self::Number => "a number",
            Self::Choice { .. } => "one of its options",
            Self::Environment => "the name of an environment",
        }
    }

    /// What it is where nobody says.
    fn nothing(&self) -> Value {
        match self {
            Self::Text | Self::Choice { .. } | Self::Environment => "".into(),
            Self::Boolean => false.into(),
            Self::Number => 0.into(),
        }
    }
}

impl Input {
    /// What it is where it is left out.
    #[must_use]
    pub fn left_out(&self) -> Value {
        self.default.clone().unwrap_or_else(|| self.kind.nothing())
    }
}

/// The context `inputs` that follows from what was given: each input once, of its own type.
///
/// # Errors
/// A sentence for each that is missing, unknown or does not fit.
pub fn resolve(
    inputs: &IndexMap<String, Input>,
    given: &IndexMap<String, String>,
) -> Result<IndexMap<String, Value>, Vec<String>> {
    let mut problems = Vec::new();
    let bytes: usize = given.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > MAX_BYTES {
        return Err(vec![format!("the inputs have {bytes} bytes together, and {MAX_BYTES} are the limit")]);
    }
    for name in given.keys().filter(|name| !inputs.contains_key(*name)).take(MAX_INPUTS) {
        let known = || inputs.keys().map(String::as_str);
        let help = match inputs.len() {
            0 => "it has none".to_owned(),
            _ => did_you_mean(name, known()).unwrap_or_else(|| format!("it has {}", listed(known()))),
        };
        problems.push(format!("there is no input `{}`: {help}", shown(name)));
    }
    let mut values = IndexMap::with_capacity(inputs.len());
    for (name, input) in inputs {
        let value = match given.get(name) {
            Some(text) if !(text.is_empty() && input.required) => {
                input.kind.read(text).map_err(|problem| format!("input `{name}`: {problem}"))
            }
            _ if input.required && input.default.is_none() => {
                let about =
                    if input.description.is_empty() { String::new() } else { format!(" ({})", input.description) };
                Err(format!("input `{name}`{about} is required: give {}", input.kind.article()))
            }
            _ => Ok(input.left_out()),
        };
        match value {
            Ok(value) => {
                values.insert(name.clone(), value);
            }
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(values) } else { Err(problems) }
}

/// As `github.event.inputs` has them: texts.
#[must_use]
pub fn as_texts(values: &IndexMap<String, Value>) -> IndexMap<String, String> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), String::from);
    values.iter().map(|(name, value)| (name.clone(), text(value))).collect()
}

fn number(text: &str) -> Option<Value> {
    let text = text.trim();
    if let Ok(whole) = text.parse::<i64>() {
        return Some(whole.into());
    }
    let number: f64 = text.parse().ok()?;
    number.is_finite().then(|| json!(number))
}

/// The beginning of a text, for messages.
fn shown(text: &str) -> String {
    const SHOWN: usize = 60;
    let mut shown: String = text.chars().take(SHOWN).collect();
    if shown.len() < text.len() {
        shown.push_str("...");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(kind: InputKind, required: bool, default: Option<Value>) -> Input {
        Input { kind, required, default, description: String::new() }
    }

    fn inputs() -> IndexMap<String, Input> {
        let options = vec!["debug".to_owned(), "release".to_owned()];
        [
            ("text", input(InputKind::Text, false, None)),
            ("flag", input(InputKind::Boolean, false, None)),
            ("count", input(InputKind::Number, false, Some(json!(3)))),
            ("kind", input(InputKind::Choice { options }, true, Some(json!("debug")))),
            ("target", input(InputKind::Environment, true, None)),
        ]
        .map(|(name, input)| (name.to_owned(), input))
        .into()
    }

    fn given(pairs: &[(&str, &str)]) -> IndexMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_is_left_out_is_the_default_or_nothing_of_its_type() {
        let values = resolve(&inputs(), &given(&[("target", "staging")])).unwrap();
        assert_eq!(json!(values), json!({"text": "", "flag": false, "count": 3, "kind": "debug", "target": "staging"}));
        assert_eq!(as_texts(&values)["count"], "3");
        assert_eq!(as_texts(&values)["flag"], "false");
    }

    #[test]
    fn what_is_given_has_the_type_that_is_asked_for() {
        let all = given(&[("text", "1"), ("flag", "true"), ("count", "-2.5"), ("kind", "release"), ("target", "prod")]);
        let values = resolve(&inputs(), &all).unwrap();
        assert_eq!(
            json!(values),
            json!({"text": "1", "flag": true, "count": -2.5, "kind": "release", "target": "prod"})
        );
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let wrong = given(&[("flag", "yes"), ("count", "NaN"), ("kind", "releas"), ("target", "-x"), ("txt", "")]);
        let problems = resolve(&inputs(), &wrong).unwrap_err();
        for (problem, words) in problems.iter().zip([
            "no input `txt`: did you mean `text`?",
            "`flag`: `yes` is not `true` or `false`",
            "`count`: `NaN` is not a number",
            "`kind`: `releas` is not among its options: did you mean `release`?",
            "`target`: `-x` cannot name an environment",
        ]) {
            assert!(problem.contains(words), "{problem}");
        }
        assert_eq!(problems.len(), 5);
        assert_eq!(
            resolve(&inputs(), &given(&[("target", "")])).unwrap_err(),
            ["input `target` is required: give the name of an environment"]
        );
        assert!(resolve(&inputs(), &given(&[("text", &"x".repeat(70_000))])).unwrap_err()[0].contains("65535"));
    }
}
