//! Commands in comments below issues and pull requests: a line that begins with `/segue`.
//!
//! Comes in: a comment's text. Goes out: the command that it gives, or what is wrong with it. Never here: whether its author
//! may give it, or doing it.

mod answer;
mod lines;

use segue_schemas::id::is_name;
use serde::{Deserialize, Serialize};

pub use answer::{Outcome, Verdict, is_answer, marker, reply};

use crate::nearest::{did_you_mean, listed};

/// What a comment asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Run the newest run of each pipeline of the pull request's commit once more.
    Rerun,
    /// The same, and what has deployed deploys again.
    RerunAndDeploy,
    /// Cancel what runs for the pull request.
    Cancel,
    /// Make a preview of the pull request.
    Preview,
    /// Let a pull request's commit run, or what waits for an approval.
    Approve {
        /// The commit, or the beginning of its name.
        commit: Option<String>,
    },
    /// Let what waits pass by the rules of its environment.
    Bypass {
        /// Why.
        reason: String,
    },
    /// Deploy the pull request: start the pipeline [`DEPLOY`] with the environment as its input.
    Deploy {
        /// Where to.
        environment: String,
    },
    /// Go back to the release before.
    Rollback {
        /// Where.
        environment: String,
        /// Of which service; needed where there are several.
        service: Option<String>,
    },
}

const COMMANDS: [&str; 7] = ["rerun", "cancel", "preview", "approve", "bypass", "deploy", "rollback"];
/// The pipeline that `deploy` starts, and the input that says where to.
pub const DEPLOY: (&str, &str) = ("deploy", "environment");
/// Characters of a word that an answer repeats.
const SHOWN_CHARS: usize = 60;
/// Characters of a reason.
const REASON_CHARS: usize = 300;

/// The command of a comment: the one line that begins with `/segue`, outside of quotations, blocks of code and what markup hides.
/// `None` where there is no such line.
#[must_use]
pub fn command(body: &str) -> Option<Result<Command, String>> {
    if is_answer(body) {
        return None;
    }
    let mut found = lines::own(body).into_iter().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("/segue")).then(|| words.collect::<Vec<_>>())
    });
    let first = found.next()?;
    let more = found.count();
    if more > 0 {
        return Some(Err(format!(
            "the comment holds {} commands: write one, and the others in comments of their own",
            more + 1
        )));
    }
    Some(read(&first))
}

/// A word as an answer repeats it.
fn shown(word: &str) -> String {
    let mut text: String = word.chars().filter(|c| !c.is_control()).take(SHOWN_CHARS).collect();
    if word.chars().count() > SHOWN_CHARS {
        text.push_str("...");
    }
    text
}

fn read(words: &[&str]) -> Result<Command, String> {
    let named = |name: &str, what: &str| {
        if is_name(name) { Ok(name.to_owned()) } else { Err(format!("`{}` cannot name {what}", shown(name))) }
    };
    let environment = |name: &str| named(name, "an environment");
    match words {
        ["rerun"] => Ok(Command::Rerun),
        ["rerun", "deploy" | "--deploy"] => Ok(Command::RerunAndDeploy),
        ["cancel"] => Ok(Command::Cancel),
        ["preview"] => Ok(Command::Preview),
        ["approve"] => Ok(Command::Approve { commit: None }),
        ["approve", commit] if is_commit(commit) => Ok(Command::Approve { commit: Some((*commit).to_owned()) }),
        ["approve", other] => Err(format!("`{}` is no commit: write at least 7 of its digits", shown(other))),
        ["bypass"] => Err("say why: `/segue bypass the shop is down`".into()),
        ["bypass", why @ ..] => Ok(Command::Bypass { reason: reason(&why.join(" ")) }),
        ["deploy", name] => Ok(Command::Deploy { environment: environment(name)? }),
        ["rollback", name] => Ok(Command::Rollback { environment: environment(name)?, service: None }),
        ["rollback", name, service] => {
            let service = Some(named(service, "a service")?);
            Ok(Command::Rollback { environment: environment(name)?, service })
        }
        ["deploy", ..] => Err("say one environment: `/segue deploy staging`".into()),
        ["rollback", ..] => {
            Err("say one environment, and a service where it has several: `/segue rollback staging web`".into())
        }
        [known, rest @ ..] if COMMANDS.contains(known) => {
            Err(format!("`{known}` takes nothing more, and here follows `{}`", shown(&rest.join(" "))))
        }
        [other, ..] => {
            let help = did_you_mean(other, COMMANDS).unwrap_or_else(|| format!("commands: {}", listed(COMMANDS)));
            Err(format!("there is no command `{}`: {help}", shown(other)))
        }
        [] => Err(format!("`/segue` names no command: {}", listed(COMMANDS))),
    }
}

fn reason(words: &str) -> String {
    words.chars().map(|c| if c.is_control() { ' ' } else { c }).take(REASON_CHARS).collect()
}

fn is_commit(text: &str) -> bool {
    (7..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

impl Command {
    /// What it asks for, in words.
    #[must_use]
    pub fn in_words(&self) -> String {
        match self {
            Self::Rerun => "run it once more".into(),
            Self::RerunAndDeploy => "run it once more and deploy again".into(),
            Self::Cancel => "cancel what runs".into(),
            Self::Preview => "make a preview".into(),
            Self::Approve { commit: None } => "approve what waits".into(),
            Self::Approve { commit: Some(commit) } => format!("approve the commit {commit}"),
            Self::Bypass { reason } => format!("pass by the rules of the environment, because: {reason}"),
            Self::Deploy { environment } => format!("deploy to {environment}"),
            Self::Rollback { environment, service: None } => format!("roll {environment} back"),
            Self::Rollback { environment, service: Some(service) } => format!("roll {service} in {environment} back"),
        }
    }
}

/// What is said of a comment before it is known who wrote it: what it asks for.
#[must_use]
pub fn answer(body: &str) -> String {
    match command(body) {
        None => "the comment holds no command (a line that begins with `/segue`)".into(),
        Some(Ok(command)) => format!(
            "the comment asks to {}, which is done below a pull request and for people with write access",
            command.in_words()
        ),
        Some(Err(problem)) => format!("the comment holds a command that can't be read: {problem}"),
    }
}

#[cfg(test)]
mod tests;
