//! The operator's configuration as a command means it: the file, and environment variables above it. Each value that stands
//! alone can be set by a variable: `SEGUE__WORKER__CAPACITY=4` is `worker.capacity`, `SEGUE__TIMING__DEAD_MAN=5s` is
//! `timing.dead-man`.

use std::{
    env, fs,
    io::IsTerminal as _,
    path::{Path, PathBuf},
};

use segue_pipelines::{
    config,
    diagnostic::{Style, render},
};
use segue_schemas::config::Config;
use serde_json::{Map, Value};

use super::ending::{Explain as _, Failure};

/// What a variable's name begins with.
const PREFIX: &str = "SEGUE__";

/// Where the configuration is, as typed.
#[derive(Debug, Clone, clap::Args)]
pub struct ConfigArgs {
    /// The operator's file; without one the defaults hold. SEGUE__SECTION__KEY variables go before it
    #[arg(long, env = "SEGUE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigArgs {
    /// The configuration that these arguments, the file and the environment mean.
    ///
    /// # Errors
    /// The file can't be read, or is wrong somewhere: everything that is wrong with it is in the message.
    pub fn load(&self) -> Result<Config, Failure> {
        let config = match &self.config {
            Some(path) => read(path)?,
            None => Config::default(),
        };
        overlay(
            config,
            env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
        )
    }

    /// The file, where one is named.
    pub fn path(&self) -> Option<&Path> {
        self.config.as_deref()
    }
}

fn read(path: &Path) -> Result<Config, Failure> {
    let name = path.display().to_string();
    let text = fs::read_to_string(path).explain(format_args!("cannot read the configuration {name}"))?;
    config::parse(&name, &text).map_err(|diagnostics| {
        let style = if std::io::stderr().is_terminal() { Style::Coloured } else { Style::Plain };
        let shown: Vec<String> = diagnostics.iter().map(|diagnostic| render(diagnostic, &text, style)).collect();
        Failure::new(format_args!("the configuration {name} can't be used\n{}", shown.join("\n")))
    })
}

fn overlay(config: Config, variables: impl Iterator<Item = (String, String)>) -> Result<Config, Failure> {
    let mut tree = serde_json::to_value(&config).explain("the configuration")?;
    let mut names = Vec::new();
    for (name, value) in variables {
        let Some(path) = name.strip_prefix(PREFIX) else { continue };
        let keys: Vec<String> = path.split("__").map(|key| key.to_lowercase().replace('_', "-")).collect();
        set(&mut tree, &keys, &value).map_err(|reason| Failure::usage(format_args!("{name}: {reason}")))?;
        names.push(name);
    }
    if names.is_empty() {
        return Ok(config);
    }
    serde_json::from_value(tree).map_err(|error| Failure::usage(format_args!("{}: {error}", names.join(", "))))
}

/// Sets one value. Which type it must have is known from the value that stands there; where none stands, it is a text.
fn set(tree: &mut Value, keys: &[String], text: &str) -> Result<(), String> {
    let [key, rest @ ..] = keys else { return Err("it names no value".into()) };
    let Value::Object(fields) = tree else { return Err(format!("there is nothing below `{key}` to set")) };
    if !rest.is_empty() {
        return set(fields.entry(key).or_insert_with(|| Value::Object(Map::new())), rest, text);
    }
    let value = match fields.get(key) {
        Some(Value::Number(_) | Value::Bool(_)) => {
            serde_json::from_str(text).map_err(|error| format!("`{text}`: {error}"))?
        }
        Some(Value::Array(_)) => text.split(',').map(|item| Value::String(item.trim().into())).collect(),
        Some(Value::Object(_)) => return Err(format!("`{key}` is a section: name a value of it")),
        Some(Value::String(_) | Value::Null) | None => Value::String(text.into()),
    };
    fields.insert(key.clone(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use segue_schemas::duration::Span;

    use super::*;

    fn with(variables: &[(&str, &str)]) -> Result<Config, Failure> {
        overlay(Config::default(), variables.iter().map(|(name, value)| ((*name).into(), (*value).into())))
    }

    #[test]
    fn a_variable_goes_before_the_file() {
        let config = with(&[
            ("SEGUE__WORKER__CAPACITY", "7"),
            ("SEGUE__WORKER__JOB_USER", "builder"),
            ("SEGUE__WORKER__LABELS", "linux, gpu"),
            ("SEGUE__TIMING__DEAD_MAN", "5s"),
            ("SEGUE_SERVER", "http://elsewhere"),
        ])
        .unwrap();
        assert_eq!(config.worker.capacity, 7);
        assert_eq!(config.worker.job_user.as_deref(), Some("builder"));
        assert_eq!(config.worker.labels, ["linux", "gpu"]);
        assert_eq!(config.timing.dead_man, Span::seconds(5));
        assert_eq!(with(&[]).unwrap(), Config::default());
    }

    #[test]
    fn a_variable_that_means_nothing_is_an_error_that_names_it() {
        let cases = [
            ("SEGUE__WORKER__CAPACITY", "many"),
            ("SEGUE__WORKER__CAPACTIY", "3"),
            ("SEGUE__WORKER", "3"),
            ("SEGUE__TIMING__LEASE", "30"),
            ("SEGUE__TIMING__LEASE__SECONDS", "30"),
        ];
        for (name, value) in cases {
            let error = with(&[(name, value)]).expect_err(name).to_string();
            assert!(error.contains(name), "{name}: {error}");
        }
    }
}
