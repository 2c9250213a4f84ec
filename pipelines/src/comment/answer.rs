//! What is said below a comment that held a command.

use serde::{Deserialize, Serialize};

use super::Command;
use crate::checks::markdown;

/// Bytes of what came of it that are shown; GitHub takes 65,536 characters.
const TEXT_BYTES: usize = 4_000;
/// What an answer of ours begins with, hidden; the comment's number follows.
const MARK: &str = "<!-- segue-answer:";

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// How it ended.
    pub verdict: Verdict,
    /// In words, without a full stop.
    pub text: String,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It was done.
    Done,
    /// It can't be done.
    Refused,
    /// Its author may not give commands.
    Stranger,
    /// It can't be read.
    Unclear,
}

impl Verdict {
    /// The reaction that shows it. <https://docs.github.com/en/rest/reactions/reactions>
    #[must_use]
    pub const fn reaction(self) -> &'static str {
        match self {
            Self::Done => "+1",
            Self::Refused | Self::Stranger => "-1",
            Self::Unclear => "confused",
        }
    }
}

impl Outcome {
    /// An outcome with its words.
    #[must_use]
    pub fn new(verdict: Verdict, text: impl Into<String>) -> Self {
        Self { verdict, text: text.into() }
    }
}

/// The comment that answers, in Markdown. What people wrote in it is shown as it stands, and calls nobody.
#[must_use]
pub fn reply(comment: i64, author: &str, asked: Option<&Command>, outcome: &Outcome) -> String {
    let author = markdown::cell(author);
    let wish = asked.map_or_else(|| "what was asked".into(), |command| markdown::cell(&command.in_words()));
    let mut end = outcome.text.len().min(TEXT_BYTES);
    while !outcome.text.is_char_boundary(end) {
        end -= 1;
    }
    let text = markdown::escape(&outcome.text[..end]);
    let said = match outcome.verdict {
        Verdict::Done => format!("As {author} asked, to {wish}: {text}."),
        Verdict::Refused => format!("Nothing was done of what {author} asked, to {wish}: {text}."),
        Verdict::Stranger => format!("Nothing was done: {text}."),
        Verdict::Unclear => format!("Nothing was done, as the command can't be read: {text}."),
    };
    format!("{}\n{said}\n", marker(comment))
}

/// By what the answer to a comment is known among others.
#[must_use]
pub fn marker(comment: i64) -> String {
    format!("{MARK}{comment} -->")
}

/// Whether a comment is an answer of ours.
#[must_use]
pub fn is_answer(body: &str) -> bool {
    body.trim_start().starts_with(MARK)
}
