use segue_schemas::time::Timestamp;

use crate::store::{Result, Store};

impl Store {
    /// Ends every lease that has run out, and every wait that has reached its limit. Gives how many it ended.
    pub async fn reap_expired(&self) -> Result<usize> {
        later(())
    }

    /// When the next lease or limit runs out.
    pub async fn next_expiry(&self) -> Result<Option<Timestamp>> {
        later(())
    }

    /// Reaps for ever: sleeps until the next expiry, woken when one moves.
    pub async fn run_reaper(&self) {
        std::future::pending().await
    }
}

fn later<T, R>(_: T) -> Result<R> {
    Err(crate::store::StoreError::Unavailable("this operation is not there yet".into()))
}
