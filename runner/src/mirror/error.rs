use std::path::PathBuf;

use segue_schemas::id::CommitSha;

use super::{ACTIONS, MAX_PIPELINE_FILES, PIPELINES};

/// Why something can't be had from a mirror.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MirrorError {
    /// There is no git, or it can't be started.
    #[error("git can't be run ({0}): install git, and see that it is on the PATH")]
    Spawn(String),
    /// It took too long and was ended.
    #[error("{what} took more than {seconds} s and was ended")]
    Timeout {
        /// What.
        what: String,
        /// The limit.
        seconds: u64,
    },
    /// It said more than anybody can want.
    #[error("{what} gave more than {limit_bytes} bytes")]
    TooMuch {
        /// What.
        what: String,
        /// The limit.
        limit_bytes: u64,
    },
    /// Git refused.
    #[error("{what} failed: {message}")]
    Git {
        /// What.
        what: String,
        /// Git's words.
        message: String,
    },
    /// A read from the mirror failed.
    #[error("the mirror can't be read: {0}")]
    Read(String),
    /// A commit is there, and not all that belongs to it.
    #[error("the mirror lacks a part of commit {commit}: it is fetched anew")]
    Incomplete {
        /// Which.
        commit: CommitSha,
    },
    /// The remote does not have the commit.
    #[error("{source_shown} has no commit {commit}: was it removed by a forced push?")]
    NoCommit {
        /// Where it was looked for.
        source_shown: String,
        /// Which.
        commit: CommitSha,
    },
    /// The remote does not have the ref.
    #[error("{source_shown} has no `{git_ref}`")]
    NoRef {
        /// Where it was looked for.
        source_shown: String,
        /// Which.
        git_ref: String,
    },
    /// More pipeline files than anybody can want.
    #[error(
        "`{PIPELINES}` holds {count} files; at most {MAX_PIPELINE_FILES} are read: split the repository, or join pipelines"
    )]
    TooManyFiles {
        /// How many there are.
        count: usize,
    },
    /// More actions than anybody can want.
    #[error("`{ACTIONS}` holds {count} folders; at most {MAX_PIPELINE_FILES} are read: remove those that nothing uses")]
    TooManyActions {
        /// How many there are.
        count: usize,
    },
    /// The mirrors' folder can't be written.
    #[error("{path} can't be written: {problem}", path = path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// What the system says.
        problem: String,
    },
}
