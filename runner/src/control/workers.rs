use segue_schemas::worker_api::{Register, Registered};

use crate::store::{Result, Store};

impl Store {
    /// Registers a worker's incarnation. Leases of an earlier one end at once, by the rules for a lost worker.
    pub async fn register_worker(&self, register: Register) -> Result<Registered> {
        later(register)
    }
}

fn later<T, R>(_: T) -> Result<R> {
    Err(crate::store::StoreError::Unavailable("this operation is not there yet".into()))
}
