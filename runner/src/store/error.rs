use segue_schemas::{id::Epoch, status::IllegalTransition};

/// Why an operation of the store did not happen. Whatever it is, nothing was changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// There is no such thing.
    #[error("there is no {kind} {id}")]
    NotFound {
        /// `run`, `job`, `rollout`, ...
        kind: &'static str,
        /// What was asked for.
        id: String,
    },
    /// The writer's lease has passed to somebody else or has ended.
    #[error("{kind} {id} is no longer held under epoch {given}; the current epoch is {current}: stop working on it")]
    StaleEpoch {
        /// `job` or `rollout`.
        kind: &'static str,
        /// Which.
        id: String,
        /// The epoch of the write.
        given: Epoch,
        /// The epoch that counts.
        current: Epoch,
    },
    /// The worker is not registered, or a newer incarnation of it is.
    #[error("worker {worker} is not registered under this incarnation: register, then ask again")]
    StaleWorker {
        /// Its name.
        worker: String,
    },
    /// A gate says no, and why.
    #[error("{0}")]
    Refused(String),
    /// A host has no say here any more, and why.
    #[error("{0}")]
    Revoked(String),
    /// It is for a commit in whose place a newer one has come.
    #[error("{0}")]
    Outdated(String),
    /// What was asked contradicts what is stored.
    #[error("{0}")]
    Conflict(String),
    /// It would deploy again what has been deployed, and nobody said that it may.
    #[error("this would deploy again: {0}. Say whether it may")]
    WouldDeploy(String),
    /// A change of state that is not allowed.
    #[error(transparent)]
    Illegal(#[from] IllegalTransition),
    /// The database can't be read or written now.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// A stored value can't be read: the database was changed from outside, or by a newer version.
    #[error("stored {what} can't be read: {problem}")]
    Corrupt {
        /// Table and column.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A secret can't be opened or sealed.
    #[error(transparent)]
    Secret(#[from] crate::secrets::SecretError),
    /// The data directory can't be read or written.
    #[error("{what}: {problem}")]
    Files {
        /// What was tried with which path.
        what: String,
        /// What the system says.
        problem: String,
    },
}

impl From<crate::auth::AuthError> for StoreError {
    fn from(error: crate::auth::AuthError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl StoreError {
    /// Nothing of this kind has this name.
    pub fn not_found(kind: &'static str, id: impl ToString) -> Self {
        Self::NotFound { kind, id: id.to_string() }
    }

    /// A stored value that can't be read.
    pub fn corrupt(what: impl Into<String>, problem: impl ToString) -> Self {
        Self::Corrupt { what: what.into(), problem: problem.to_string() }
    }

    /// A failed system call on a path.
    pub fn files(what: impl Into<String>, problem: &std::io::Error) -> Self {
        Self::Files { what: what.into(), problem: problem.to_string() }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// The result of an operation of the store.
pub type Result<T> = std::result::Result<T, StoreError>;

impl From<crate::log_store::LogError> for StoreError {
    fn from(error: crate::log_store::LogError) -> Self {
        match error {
            crate::log_store::LogError::Stale { job, given, current } => {
                Self::StaleEpoch { kind: "job", id: job.to_string(), given, current }
            }
            crate::log_store::LogError::Unavailable(problem) => Self::Unavailable(problem),
            crate::log_store::LogError::Io { action, path, source } => {
                Self::files(format!("the log {} can't be {action}", path.display()), &source)
            }
        }
    }
}

impl From<crate::artifact_store::ArtifactError> for StoreError {
    fn from(error: crate::artifact_store::ArtifactError) -> Self {
        match error {
            crate::artifact_store::ArtifactError::Io { action, path, source } => {
                Self::files(format!("the artifact store can't {action} {}", path.display()), &source)
            }
            crate::artifact_store::ArtifactError::Bucket { action, place, trouble } => {
                Self::Files { what: format!("the object store {place} can't {action}"), problem: trouble.to_string() }
            }
            other => Self::Refused(other.to_string()),
        }
    }
}
