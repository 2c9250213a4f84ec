//! `segue doctor`: looks at everything that Segue needs on this machine, and says for each thing that is missing how to mend
//! it. In: the configuration and the data directory. Out: a line for each check. It changes nothing, apart from a file that it
//! writes to the data directory, and an object in the bucket where there is one, which it takes away again, and the queues that a
//! server would declare at the broker.

mod engines;
mod files;
mod github;
mod gpus;
mod machine;
mod outside;
mod services;

use std::path::PathBuf;

use serde::Serialize;

pub use self::github::{HEARD, NEEDED, WEBHOOK_PATH, github as of_github, of_new_app};
use super::{
    configuration::ConfigArgs,
    connection::ServerArgs,
    ending::{Exit, Failure},
    place, show,
};
use crate::cli::out::say;

/// Check everything that Segue needs here, and say how to mend what is missing
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue doctor\n  \
    segue doctor --config /etc/segue/segue.yaml --data /var/lib/segue\n  \
    segue doctor --json | jq '.[] | select(.state == \"bad\")'\n\n\
    Exit code 1: at least one check failed. A remark is no failure.")]
pub struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Good,
    /// Works, and should be known.
    Remark,
    Bad,
}

/// One check.
#[derive(Debug, Serialize)]
pub struct Check {
    /// What was looked at.
    name: String,
    state: State,
    /// What was found.
    found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Check {
    /// Whether something is missing.
    pub const fn is_bad(&self) -> bool {
        matches!(self.state, State::Bad)
    }

    fn good(name: &str, found: impl Into<String>) -> Self {
        Self { name: name.into(), state: State::Good, found: found.into(), remedy: None }
    }

    fn remark(name: &str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name: name.into(), state: State::Remark, found: found.into(), remedy: Some(remedy.into()) }
    }

    fn bad(name: &str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name: name.into(), state: State::Bad, found: found.into(), remedy: Some(remedy.into()) }
    }
}

pub fn run(args: &Args) -> Result<Exit, Failure> {
    let data = place::data(args.server.data())?;
    let checks = place::client_runtime()?.block_on(look(args, data));
    if args.json {
        show::json(&checks)?;
    } else {
        checks.iter().for_each(print);
    }
    let is_bad = checks.iter().any(Check::is_bad);
    Ok(if is_bad { Exit::Failed } else { Exit::Done })
}

async fn look(args: &Args, data: PathBuf) -> Vec<Check> {
    let mut checks = Vec::new();
    let config = match args.config.load() {
        Ok(config) => {
            let found =
                args.config.path().map_or_else(|| "none; the defaults hold".into(), |path| path.display().to_string());
            checks.push(Check::good("configuration", found));
            config
        }
        Err(failure) => {
            checks.push(Check::bad(
                "configuration",
                failure.to_string(),
                "mend the file; what follows was checked with the defaults",
            ));
            segue_schemas::config::Config::default()
        }
    };
    checks.push(machine::git().await);
    checks.push(machine::shell());
    checks.push(machine::job_user(&config, &data));
    checks.push(files::data_directory(&data));
    checks.extend(files::write_speed(&data));
    checks.push(files::disk(&data, config.retention.low_disk_mib));
    checks.extend(files::tokens(&data));
    checks.push(files::key(&config, &data));
    checks.extend(files::database(&data).await);
    checks.extend(services::storage(&config).await);
    checks.extend(services::broker(&config).await);
    checks.extend(outside::lambda(&config.lambda).await);
    checks.extend(services::server(&args.server).await);
    checks.extend(services::host(&config, &data).await);
    checks.extend(services::joined_hosts(&args.server, &config).await);
    checks.extend(outside::clock(&args.server).await);
    checks.extend(outside::repositories(&config, &data).await);
    checks.extend(github::github(&config).await);
    checks.extend(outside::docker(&config.worker.docker).await);
    checks.extend(engines::engines(&config, &data).await);
    checks.extend(gpus::gpus(&config).await);
    checks
}

/// Prints a line for people, and one with what to do.
pub fn print(check: &Check) {
    let (word, tone) = match check.state {
        State::Good => ("good", show::Tone::Good),
        State::Remark => ("note", show::Tone::Look),
        State::Bad => ("BAD ", show::Tone::Bad),
    };
    let style = show::tone_style(tone);
    say!("{style}{word}{style:#}  {:<20} {}", check.name, check.found);
    if let Some(remedy) = &check.remedy {
        say!("      {:<20} -> {remedy}", "");
    }
}
