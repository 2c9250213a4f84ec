//! Commands in comments below issues and pull requests: a line that begins with `/segue`.
//!
//! Comes in: a comment's text. Goes out: the command that it gives, or what is wrong with it. Never here: whether its author
//! may give it, or doing it.

use segue_schemas::id::is_name;

use crate::nearest::{did_you_mean, listed};

/// What a comment asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Run the newest run of the pull request once more.
    Rerun,
    /// Cancel what runs for the pull request.
    Cancel,
    /// Make a preview of the pull request.
    Preview,
    /// Let a pull request's commit run, or what waits for an approval.
    Approve {
        /// The commit, or the beginning of its name.
        commit: Option<String>,
    },
    /// Deploy the pull request.
    Deploy {
        /// Where to.
        environment: String,
    },
    /// Go back to the release before.
    Rollback {
        /// Where.
        environment: String,
    },
}

const COMMANDS: [&str; 6] = ["rerun", "cancel", "preview", "approve", "deploy", "rollback"];
/// Lines of a comment that are looked at.
const MAX_LINES: usize = 1_000;

/// The command of a comment: the first line that begins with `/segue`, outside of quotations and blocks of code. `None` where
/// there is no such line.
#[must_use]
pub fn command(body: &str) -> Option<Result<Command, String>> {
    let mut in_code = false;
    for line in body.lines().take(MAX_LINES) {
        // four blanks make a block of code as well
        let text = line.trim_end();
        if text.trim_start().starts_with("```") || text.trim_start().starts_with("~~~") {
            in_code = !in_code;
            continue;
        }
        let mut words = text.split_whitespace();
        if !in_code && !text.starts_with("    ") && words.next() == Some("/segue") {
            return Some(read(&words.collect::<Vec<_>>()));
        }
    }
    None
}

fn read(words: &[&str]) -> Result<Command, String> {
    let environment = |name: &str| {
        if is_name(name) { Ok(name.to_owned()) } else { Err(format!("`{name}` cannot name an environment")) }
    };
    match words {
        ["rerun"] => Ok(Command::Rerun),
        ["cancel"] => Ok(Command::Cancel),
        ["preview"] => Ok(Command::Preview),
        ["approve"] => Ok(Command::Approve { commit: None }),
        ["approve", commit] if is_commit(commit) => Ok(Command::Approve { commit: Some((*commit).to_owned()) }),
        ["approve", other] => Err(format!("`{other}` is no commit: write at least 7 of its digits")),
        ["deploy", name] => Ok(Command::Deploy { environment: environment(name)? }),
        ["rollback", name] => Ok(Command::Rollback { environment: environment(name)? }),
        [verb @ ("deploy" | "rollback"), ..] => Err(format!("say one environment: `/segue {verb} staging`")),
        [known, rest @ ..] if COMMANDS.contains(known) => {
            Err(format!("`{known}` takes nothing more, and here follows `{}`", rest.join(" ")))
        }
        [other, ..] => {
            let help = did_you_mean(other, COMMANDS).unwrap_or_else(|| format!("commands: {}", listed(COMMANDS)));
            Err(format!("there is no command `{other}`: {help}"))
        }
        [] => Err(format!("`/segue` names no command: {}", listed(COMMANDS))),
    }
}

fn is_commit(text: &str) -> bool {
    (7..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

impl Command {
    /// What it asks for, in words.
    #[must_use]
    pub fn in_words(&self) -> String {
        match self {
            Self::Rerun => "run the newest run once more".into(),
            Self::Cancel => "cancel what runs".into(),
            Self::Preview => "make a preview".into(),
            Self::Approve { commit: None } => "approve what waits".into(),
            Self::Approve { commit: Some(commit) } => format!("approve the commit {commit}"),
            Self::Deploy { environment } => format!("deploy to {environment}"),
            Self::Rollback { environment } => format!("roll {environment} back"),
        }
    }
}

/// What is said of a comment: what it asks for, and that nothing follows from it yet.
#[must_use]
pub fn answer(body: &str) -> String {
    match command(body) {
        None => "the comment holds no command (a line that begins with `/segue`)".into(),
        Some(Ok(command)) => format!("the comment asks to {}; Segue does not act on comments yet", command.in_words()),
        Some(Err(problem)) => format!("the comment holds a command that can't be read: {problem}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_lines_that_begin_with_the_word() {
        for (body, wanted) in [
            ("/segue rerun", Command::Rerun),
            ("Fails by chance.\r\n\r\n/segue  rerun \r\n", Command::Rerun),
            ("/segue deploy staging", Command::Deploy { environment: "staging".into() }),
            ("/segue rollback production", Command::Rollback { environment: "production".into() }),
            ("/segue approve", Command::Approve { commit: None }),
            ("/segue approve 0123abc", Command::Approve { commit: Some("0123abc".into()) }),
            ("```\n/segue cancel\n```\n/segue preview", Command::Preview),
        ] {
            assert_eq!(command(body), Some(Ok(wanted)), "{body}");
        }
    }

    #[test]
    fn what_only_speaks_of_commands_is_none() {
        for body in
            ["", "try /segue rerun", "> /segue rerun", "```\n/segue cancel\n```", "    /segue cancel", "/seguerun"]
        {
            assert_eq!(command(body), None, "{body}");
        }
    }

    #[test]
    fn a_command_that_cannot_be_read_says_what_to_write() {
        for (body, words) in [
            ("/segue", "names no command"),
            ("/segue rerum", "did you mean `rerun`?"),
            ("/segue deploy", "say one environment"),
            ("/segue deploy a b", "say one environment"),
            ("/segue deploy ../x", "cannot name an environment"),
            ("/segue approve HEAD", "is no commit"),
            ("/segue cancel all", "takes nothing more"),
        ] {
            let problem = command(body).unwrap().unwrap_err();
            assert!(problem.contains(words), "{body}: {problem}");
        }
    }
}
