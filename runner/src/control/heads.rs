//! Where GitHub says that a default branch is, taken in as the push that nobody told of.

use segue_schemas::{
    id::{CommitSha, DeliveryId},
    trigger::{Event, Trigger},
};
use sha2::{Digest as _, Sha256};

use crate::store::{Bell, Meaning, NewDelivery, Payload, Result, Store, StoreError, tables::deliveries};

impl Store {
    /// The repositories to which a push was heard of.
    pub async fn repositories_with_pushes(&self) -> Result<Vec<String>> {
        deliveries::pushed_repositories(&mut self.read().await?).await
    }

    /// Whether no push has told that a branch is at this commit now; with the commit at which it was last known to be. `None` also where no push
    /// to it was ever heard of, and while one to the repository waits to be planned.
    pub async fn missed_push(&self, repository: &str, branch: &str, head: &CommitSha) -> Result<Option<CommitSha>> {
        let mut conn = self.read().await?;
        let Some(last) = deliveries::last_push(&mut conn, repository, branch).await? else { return Ok(None) };
        let is_told = last == *head
            || deliveries::is_known_to_be_at(&mut conn, repository, branch, head).await?
            || deliveries::has_waiting_push(&mut conn, repository).await?;
        Ok((!is_told).then_some(last))
    }

    /// Makes the delivery of a push that did not come; `false`: it was made before.
    pub async fn plan_missed_push(&self, trigger: Trigger) -> Result<bool> {
        let delivery = NewDelivery {
            id: name(&trigger)?,
            event: trigger.event.name().into(),
            repository: Some(trigger.repository.clone()),
            payload: Payload::Inline(String::new()),
            meaning: Meaning::Starts(trigger),
        };
        self.write(move |tx| {
            Box::pin(async move {
                let is_new = deliveries::insert(&mut tx.conn, &delivery, tx.now).await?;
                tx.ring(Bell::Deliveries);
                Ok(is_new)
            })
        })
        .await
    }
}

/// The same for the same push, whichever server finds it.
fn name(trigger: &Trigger) -> Result<DeliveryId> {
    let Event::Push { r#ref, before, after, .. } = &trigger.event else {
        return Err(StoreError::Refused("only a push can have been missed on a branch".into()));
    };
    let told = format!("{}{}", deliveries::FOUND, after.short());
    found_by_comparing(&told, &[&trigger.repository, r#ref, before.as_str(), after.as_str()])
}

/// The id of a delivery that was made because of what was found: `told`, for people, and by what it is the same, whichever server finds it.
pub(super) fn found_by_comparing(told: &str, by: &[&str]) -> Result<DeliveryId> {
    let mut digest = Sha256::new();
    for part in by {
        digest.update(part.as_bytes());
        digest.update([0]);
    }
    let name = format!("{told}-{}", hex::encode(&digest.finalize()[..8]));
    name.parse().map_err(|error| StoreError::Refused(format!("`{name}` can't name a delivery: {error}")))
}
