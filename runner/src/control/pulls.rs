//! What GitHub says when it is asked which pull requests are open, taken in as what its webhooks tell.

use segue_pipelines::preview::Pull;
use segue_schemas::{
    preview::PreviewState,
    trigger::{Event, Trigger},
};

use super::{
    heads::found_by_comparing,
    previews::{self, note},
};
use crate::store::{
    Bell, Meaning, NewDelivery, Payload, Result, Store, Tx,
    tables::{deliveries, previews as table},
};

impl Store {
    /// The repositories of which a pull request was heard, or that have a preview.
    pub async fn repositories_with_pulls(&self) -> Result<Vec<String>> {
        table::repositories(&mut self.read().await?).await
    }

    /// The numbers of the pull requests that are open, as far as is known.
    pub async fn open_pulls(&self, repository: &str) -> Result<Vec<u64>> {
        table::open_pulls(&mut self.read().await?, repository).await
    }

    /// The numbers of those of which a preview is there.
    pub async fn pulls_with_previews(&self, repository: &str) -> Result<Vec<u64>> {
        let there = table::list(&mut self.read().await?, false).await?;
        Ok(there.into_iter().filter(|one| one.repository == repository).map(|one| one.number).collect())
    }

    /// A pull request is open, as GitHub lists it; whether that was news. A commit of one that was known to be open, of which no webhook
    /// told, is planned as if it had; so is one that was opened again. One that nothing was known of is only taken note of: its
    /// webhook may be on its way.
    pub async fn pull_is_open(&self, repository: &str, listed: &Pull, trigger: Trigger) -> Result<bool> {
        let known = table::pull(&mut self.read().await?, repository, listed.number).await?;
        if known.as_ref().is_some_and(|known| known.is_open && known.head == listed.head) {
            return Ok(false);
        }
        let (store, repository, mut listed) = (self.clone(), repository.to_owned(), listed.clone());
        self.write(move |tx| {
            Box::pin(async move {
                let known = table::pull(&mut tx.conn, &repository, listed.number).await?;
                let was_closed = known.as_ref().is_some_and(|known| !known.is_open);
                listed.is_reopened = was_closed;
                if !note(&store, tx, &repository, &listed).await? {
                    return Ok(false);
                }
                if known.is_some() {
                    plan(tx, trigger, was_closed).await?;
                }
                Ok(true)
            })
        })
        .await
    }

    /// A pull request is closed, as GitHub says; whether that was news.
    pub async fn pull_is_closed(&self, repository: &str, closed: Pull) -> Result<bool> {
        let (store, repository, mut closed) = (self.clone(), repository.to_owned(), closed);
        self.write(move |tx| {
            Box::pin(async move {
                // one that GitHub knows no more
                if closed.head.is_zero()
                    && let Some(known) = table::pull(&mut tx.conn, &repository, closed.number).await?
                {
                    closed.head = known.head;
                }
                note(&store, tx, &repository, &closed).await
            })
        })
        .await
    }

    /// Has removals asked for once more that came to nothing; how many. For each look at what is open.
    pub async fn remove_again(&self) -> Result<usize> {
        let stuck = |one: &segue_schemas::preview::Preview| one.state == PreviewState::Removing;
        if !table::list(&mut self.read().await?, false).await?.iter().any(stuck) {
            return Ok(0);
        }
        let store = self.clone();
        self.write(move |tx| Box::pin(async move { previews::remove_again(&store, tx).await })).await
    }
}

/// Makes the delivery that did not come.
async fn plan(tx: &mut Tx, mut trigger: Trigger, is_reopened: bool) -> Result<()> {
    let Event::PullRequest { action, number, head, updated_at, .. } = &mut trigger.event else { return Ok(()) };
    let mut opened_at = String::new();
    if is_reopened {
        *action = "reopened".into();
        // it may be opened again and again at one commit
        opened_at = updated_at.0.to_string();
    }
    let told = format!("pull-{number}-{}", head.short());
    let id = found_by_comparing(&told, &[&trigger.repository, head.as_str(), &opened_at])?;
    let delivery = NewDelivery {
        id,
        event: trigger.event.name().into(),
        repository: Some(trigger.repository.clone()),
        payload: Payload::Inline(String::new()),
        meaning: Meaning::Starts(trigger),
    };
    deliveries::insert(&mut tx.conn, &delivery, tx.now).await?;
    tx.ring(Bell::Deliveries);
    Ok(())
}
