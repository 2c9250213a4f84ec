use segue_schemas::id::RunId;

use crate::store::{AttemptKind, Result, RunRecord, Store};

impl Store {
    /// Cancels a run: what has not started never will, what runs is told, a rollout that one of its jobs waits for is
    /// aborted. A run that has ended stays as it is.
    pub async fn cancel_run(&self, run: RunId, by: String) -> Result<RunRecord> {
        later((run, by))
    }

    /// Opens a new attempt of a run that has ended, with the same commit and inputs. `Whole`: every job. `Failed`: those
    /// that did not succeed; the others are carried over with their outputs and artifacts.
    pub async fn rerun(&self, run: RunId, kind: AttemptKind, by: String) -> Result<RunRecord> {
        later((run, kind, by))
    }

    /// Says yes to a run's jobs for an environment (`None`: every environment of it that waits, and the run of foreign code
    /// itself), at its commit. Gives the environments that it counted for.
    pub async fn approve(&self, run: RunId, environment: Option<&str>, by: String) -> Result<Vec<String>> {
        later((run, environment, by))
    }
}

fn later<T, R>(_: T) -> Result<R> {
    Err(crate::store::StoreError::Unavailable("this operation is not there yet".into()))
}
