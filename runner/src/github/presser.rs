//! Buttons of checks that only who may write to the repository presses to any effect. Comes in: the store's outbox of them. GitHub is
//! asked who may; what came of it stands at the delivery, and on the check. Never here: what a button does.

use std::time::Duration;

use async_trait::async_trait;
use segue_schemas::time::Timestamp;

use super::{
    GitHubError, Teller,
    people::Right,
    settle::Due,
    teller::{Trouble, owner_of},
};
use crate::store::{Button, DueButton, Result, Store};

/// How old a wish may be that is fulfilled: what was pressed before the server or GitHub was away may fit no longer.
pub(super) const FRESH: Duration = Duration::from_secs(3600);

impl Teller {
    /// Looks at one button; `Some`: GitHub can't be reached, and is left alone for so long.
    pub(super) async fn press(&mut self, pressed: &DueButton) -> Result<Option<Duration>> {
        let owner = owner_of(&pressed.repository);
        if self.is_held(&owner, pressed).await? {
            return Ok(None);
        }
        let tried = self.fulfil(pressed).await.map(|()| None);
        self.settle(&owner, pressed, tried).await
    }

    async fn fulfil(&self, pressed: &DueButton) -> std::result::Result<(), Trouble> {
        if self.store.now().since(pressed.created_at) > FRESH {
            let why = "it could not be looked at for more than an hour; press it again if it still holds";
            return Ok(self.store.refuse_button(pressed, why.into()).await?);
        }
        if self.right_of(&pressed.repository, &pressed.by).await? < Right::Write {
            let why = format!("{} has no write access to {}", pressed.by, pressed.repository);
            return Ok(self.store.refuse_button(pressed, why).await?);
        }
        let teams = match pressed.button {
            Button::Approve => self.teams_of(&pressed.repository, &pressed.by).await?,
            Button::RollBack => Vec::new(),
        };
        Ok(self.store.press(pressed, teams).await?)
    }
}

#[async_trait]
impl Due for DueButton {
    fn name(&self) -> String {
        format!("what {} may do in {}", self.by, self.repository)
    }

    fn tries(&self) -> u32 {
        self.tries
    }

    fn is_last_try(&self, now: Timestamp, _: &GitHubError) -> bool {
        now.since(self.created_at) >= FRESH
    }

    /// What came of it is with the delivery already.
    async fn told(&self, _: &Store, _: Timestamp) -> Result<()> {
        Ok(())
    }

    async fn put_off(&self, store: &Store, until: Timestamp, error: Option<String>) -> Result<()> {
        store.button_put_off(self, until, error).await
    }

    async fn give_up(&self, store: &Store, error: String) -> Result<()> {
        store.refuse_button(self, error).await
    }
}
