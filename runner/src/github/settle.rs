//! What becomes of one thing that GitHub is to be told, once it was tried: the same for every outbox of the store. Never here: what is
//! told, or how.

use std::time::Duration;

use async_trait::async_trait;
use segue_schemas::time::Timestamp;

use super::{
    GitHubError, Teller,
    teller::{Trial, Trouble},
};
use crate::store::{Result, Store};

/// How a try went: `None`, all of it is told; `Some`, the rest can be from then on.
pub(super) type Tried = std::result::Result<Option<Timestamp>, Trouble>;

/// One thing in an outbox.
#[async_trait]
pub(super) trait Due: Sync {
    /// What it is, for the log.
    fn name(&self) -> String;
    /// Tries that GitHub has refused since it last took something of it.
    fn tries(&self) -> u32;
    /// Whether a refusal now is the last: whoever could mend something has had the time.
    fn is_last_try(&self, now: Timestamp, error: &GitHubError) -> bool;
    /// All of it is told. What changes of it is not told before `next`.
    async fn told(&self, store: &Store, next: Timestamp) -> Result<()>;
    /// It is tried again then; with the error, where one counts.
    async fn put_off(&self, store: &Store, until: Timestamp, error: Option<String>) -> Result<()>;
    /// It is not tried any more, unless it changes.
    async fn give_up(&self, store: &Store, error: String) -> Result<()>;
}

impl Teller {
    /// Whether nothing may be told of an owner now; the thing is put off if so.
    pub(super) async fn is_held(&mut self, owner: &str, due: &impl Due) -> Result<bool> {
        let held = self.held_until(owner);
        let is_held = held > self.store.now();
        if is_held {
            due.put_off(&self.store, held, None).await?;
        }
        Ok(is_held)
    }

    /// Records how a try went; `Some`: GitHub can't be reached, and is left alone for so long.
    pub(super) async fn settle(&mut self, owner: &str, due: &impl Due, tried: Tried) -> Result<Option<Duration>> {
        let error = match tried {
            Ok(later) => {
                self.well(owner);
                match later {
                    None => due.told(&self.store, self.store.now() + self.config.gather.0).await?,
                    Some(until) => due.put_off(&self.store, until, None).await?,
                }
                return Ok(None);
            }
            Err(Trouble::Store(error)) => return Err(error),
            Err(Trouble::GitHub(error)) => error,
        };
        let trial = self.trouble(owner, &error);
        let now = self.store.now();
        match trial {
            // a server that shares the database may reach it, or this one after a restart
            Trial::Away(pause) => {
                due.put_off(&self.store, now + pause, Some(error.to_string())).await?;
                return Ok(Some(pause));
            }
            Trial::Held(until) => due.put_off(&self.store, until, None).await?,
            Trial::Refused if due.is_last_try(now, &error) => {
                tracing::error!(what = due.name(), %error, "GitHub refuses this, and it is given up");
                due.give_up(&self.store, error.to_string()).await?;
            }
            // what somebody has to mend may be mended
            Trial::Refused => {
                if due.tries() == 0 {
                    tracing::warn!(what = due.name(), %error, "GitHub refuses this, and it is tried again");
                }
                due.put_off(&self.store, now + self.pause(due.tries()), Some(error.to_string())).await?;
            }
        }
        Ok(None)
    }
}
