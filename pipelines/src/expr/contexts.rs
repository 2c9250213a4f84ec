//! What an expression can see.

use std::{fmt, sync::Arc};

use indexmap::IndexMap;

use super::value::{Value, equal_ignoring_case};

/// The contexts of the language; which of them a place may use is the place's matter.
pub const CONTEXT_NAMES: [&str; 12] =
    ["github", "env", "inputs", "matrix", "needs", "steps", "job", "jobs", "secrets", "vars", "runner", "strategy"];

/// Computes `hashFiles(patterns)`: the digest, empty where nothing matches, or why it cannot be computed.
pub type HashFiles = dyn Fn(&[String]) -> Result<String, String> + Send + Sync;

/// How things went so far, for `success()`, `failure()` and `cancelled()` in a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusFunctions {
    /// Everything before (for a job: everything that it needs) ended well.
    pub success: bool,
    /// Something before failed.
    pub failure: bool,
    /// The run was cancelled.
    pub cancelled: bool,
}

impl StatusFunctions {
    /// Nothing has gone wrong.
    pub const SUCCESS: Self = Self { success: true, failure: false, cancelled: false };
}

/// The contexts of one evaluation, by name. One that is not here is an error in the expression; one that is here and empty
/// is null wherever it is read. Cloning is cheap.
#[derive(Clone, Default)]
pub struct Contexts {
    values: IndexMap<String, Value>,
    hash_files: Option<Arc<HashFiles>>,
}

impl Contexts {
    /// No contexts.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// These, and `name` with this value.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.set(name, value);
        self
    }

    /// These, with the way to compute `hashFiles`.
    #[must_use]
    pub fn with_hash_files(
        mut self,
        hash_files: impl Fn(&[String]) -> Result<String, String> + Send + Sync + 'static,
    ) -> Self {
        self.hash_files = Some(Arc::new(hash_files));
        self
    }

    /// Puts a context in, in place of the one that had this name.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.values.insert(name.to_owned(), value.into());
    }

    /// The context of that name, without regard to case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.values
            .get(name)
            .or_else(|| self.values.iter().find(|(key, _)| equal_ignoring_case(key, name)).map(|(_, value)| value))
    }

    /// The names of the contexts, in the order in which they were put in.
    pub fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.values.keys().map(String::as_str)
    }

    pub(super) fn hash_files(&self) -> Option<&HashFiles> {
        self.hash_files.as_deref()
    }
}

impl fmt::Debug for Contexts {
    /// Names only: values may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.values.keys()).finish()
    }
}
