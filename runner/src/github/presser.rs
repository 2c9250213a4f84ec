//! Buttons of checks that only who may write to the repository presses to any effect. Comes in: the store's outbox of them. GitHub is
//! asked who may; what came of it stands at the delivery, and on the check. Never here: what a button does.

use std::time::Duration;

use super::{
    Teller,
    people::Right,
    teller::{GIVE_UP_AFTER, Trial, Trouble, owner_of},
};
use crate::store::{Button, DueButton, Result};

/// How old a wish may be that is fulfilled: what was pressed before the server or GitHub was away may fit no longer.
const FRESH: Duration = Duration::from_secs(3600);

impl Teller {
    /// Looks at one button; `Some`: GitHub can't be reached, and is left alone for so long.
    pub(super) async fn press(&mut self, pressed: &DueButton) -> Result<Option<Duration>> {
        let owner = owner_of(&pressed.repository);
        let held = self.held_until(&owner);
        if held > self.store.now() {
            self.store.button_put_off(pressed, held, None).await?;
            return Ok(None);
        }
        let error = match self.fulfil(pressed).await {
            Ok(()) => {
                self.well(&owner);
                return Ok(None);
            }
            Err(Trouble::Store(error)) => return Err(error),
            Err(Trouble::GitHub(error)) => error,
        };
        let now = self.store.now();
        match self.trouble(&owner, &error) {
            Trial::Away(pause) => {
                self.store.button_put_off(pressed, now + pause, Some(error.to_string())).await?;
                return Ok(Some(pause));
            }
            Trial::Held(until) => self.store.button_put_off(pressed, until, None).await?,
            Trial::Refused if now.since(pressed.created_at) >= GIVE_UP_AFTER.min(FRESH) => {
                self.store.refuse_button(pressed, error.to_string()).await?;
            }
            Trial::Refused => {
                let until = now + self.pause(pressed.tries);
                self.store.button_put_off(pressed, until, Some(error.to_string())).await?;
            }
        }
        Ok(None)
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
