use segue_schemas::{
    id::{DeliveryId, RunId},
    time::Timestamp,
    trigger::Trigger,
};

use crate::store::{Accepted, Delivery, NewDelivery, NewRun, PlanOutcome, Planning, Result, Store};

impl Store {
    /// Stores a delivery and, if it may start runs, the bell for the planner. When this returns it can't be lost.
    /// A GUID that is known changes nothing.
    pub async fn accept_delivery(&self, delivery: NewDelivery) -> Result<Accepted> {
        later(delivery)
    }

    /// Deliveries that wait for the planner and are due, oldest first.
    pub async fn next_deliveries(&self, limit: u32) -> Result<Vec<Delivery>> {
        later(limit)
    }

    /// When the next delivery that was put off is due; for the planner's timer.
    pub async fn next_delivery_due(&self) -> Result<Option<Timestamp>> {
        later(())
    }

    /// One delivery.
    pub async fn delivery(&self, id: &DeliveryId) -> Result<Delivery> {
        later(id)
    }

    /// Stores what the planner made of a delivery: the runs with their jobs, of which the first are claimable when this
    /// returns. The same work (repository, event, ref, before, after) under another GUID makes nothing.
    pub async fn record_planned(&self, id: &DeliveryId, planning: Planning) -> Result<PlanOutcome> {
        later((id, planning))
    }

    /// Planning failed for a reason that may pass (the repository can't be reached): the planner sees the delivery again
    /// after a pause that doubles from 1 s to 5 min. After a day it is settled as failed.
    pub async fn defer_delivery(&self, id: &DeliveryId, reason: String) -> Result<Timestamp> {
        later((id, reason))
    }

    /// Stores runs that a person asked for.
    pub async fn create_dispatch_run(
        &self,
        trigger: Trigger,
        runs: Vec<NewRun>,
        requested_by: String,
    ) -> Result<Vec<RunId>> {
        later((trigger, runs, requested_by))
    }
}

fn later<T, R>(_: T) -> Result<R> {
    Err(crate::store::StoreError::Unavailable("this operation is not there yet".into()))
}
