//! A rollout that brings no release, but data back: claimed, fenced and journaled as every other. What is there now is backed up first.

use segue_pipelines::sync;
use segue_schemas::{
    deploy::{JournalKind, ServiceBackup},
    host_api::{BackupState, HostState, RestoreBackup, RestoreState},
    id::BackupId,
};
use serde_json::json;

use super::{
    super::{hosts::Host, place},
    leave::{GivenUp, left_by},
    save::{HOLD, Saving, Stop, minutes_ms, with_last_words},
};

impl Saving<'_> {
    /// Brings a backup back, everywhere where it is kept.
    pub(super) async fn restore(&mut self, backup: &BackupId) -> Result<(), Stop> {
        let service = self.claim.rollout.spec.service.clone();
        let (settings, taken_in) = (service.backup.clone(), sync::restore_command(&service));
        let keeps = |state: &HostState| {
            let mut of_id = state.backups.iter().filter(|known| known.id == *backup);
            of_id.any(|known| matches!(known.state, BackupState::Kept { .. }))
        };
        let (mut holders, away) = self.carriers().await?;
        holders.retain(|(_, state)| keeps(state));
        let is_begun =
            |saving: &Self| saving.claim.journal.iter().any(|entry| entry.kind == JournalKind::RestoreIntent);
        match away {
            // who does not answer may be who keeps it, or have data of its own that would stay as they are
            Some(trouble) if holders.is_empty() || self.takes_each() => return Err(Stop::Leave(left_by(trouble))),
            _ if holders.is_empty() => {
                let why = format!("no host that serves `{}` keeps the backup `{backup}`", self.service());
                return Err(if is_begun(self) { self.half_back(&why) } else { Stop::unchanged(&why) });
            }
            _ => {}
        }
        // what came from elsewhere has the form that was agreed on for that
        let mut of_id = holders.iter().flat_map(|(_, state)| &state.backups).filter(|known| known.id == *backup);
        let is_copy = of_id.any(|known| known.copied_from.is_some());
        let command = if is_copy { taken_in } else { settings.as_ref().and_then(|settings| settings.restore.clone()) };
        let (Some(settings), Some(command)) = (settings, command) else {
            let why = format!("the file of `{}` says nothing of how to bring a backup back", self.service());
            return Err(Stop::unchanged(&why));
        };
        self.back_up(&holders).await?;
        let mut is_untouched = !is_begun(self);
        if is_untouched {
            self.heed_all(&holders[0].0).await?;
            let message = format!("bringing the data of {} back from {backup}", self.service());
            self.write(JournalKind::RestoreIntent, json!({ "message": message, "backup": backup })).await?;
        }
        for (host, _) in &holders {
            match self.restore_at(host, backup, &settings, &command).await {
                Ok(()) => is_untouched = false,
                // only the first of all may say that nothing was changed
                Err(Stop::End(GivenUp { reason, .. })) if !is_untouched => return Err(self.half_back(&reason)),
                Err(stop) => return Err(stop),
            }
        }
        let message = format!("the data of {} are those of {backup} again", self.service());
        self.write(JournalKind::Restored, json!({ "message": message, "backup": backup })).await?;
        self.end(message).await
    }

    pub(super) async fn restore_at(
        &mut self,
        host: &Host,
        backup: &BackupId,
        settings: &ServiceBackup,
        command: &str,
    ) -> Result<(), Stop> {
        let id = self.claim.rollout.id;
        let wanted = RestoreBackup {
            fence: place::fence(&self.claim),
            id,
            backup: backup.clone(),
            run: command.to_owned(),
            container: settings.container.clone(),
            timeout_ms: minutes_ms(settings.timeout_minutes),
        };
        let what = format!("{backup} can't be brought back on host `{}`", host.name);
        self.is_held()?;
        let begun = host.restore_backup(&wanted).await;
        let mut restore = begun.map_err(|trouble| Stop::of(trouble, &what))?;
        while restore.state == RestoreState::Running {
            let asked = host.clone();
            let seen = async move { asked.restore(id, HOLD).await };
            let news = tokio::select! {
                seen = seen => {
                    restore = seen.map_err(|trouble| Stop::of(trouble, &what))?;
                    continue;
                }
                news = self.news() => news,
            };
            // what is half back is worth less than what is wholly so: the command goes on to its end
            self.heed(news, host, false).await?;
        }
        let RestoreState::Failed { reason, said, was_begun } = restore.state else { return Ok(()) };
        let why = with_last_words(format!("{what}: {reason}"), &said);
        Err(if was_begun { self.half_back(&why) } else { Stop::unchanged(&why) })
    }

    /// It ends, and what was there may be half replaced.
    pub(super) fn half_back(&self, why: &str) -> Stop {
        let before = segue_pipelines::backup::begun(&self.claim.journal);
        let undo = before.map_or_else(String::new, |before| format!("what was there before is kept as {before}; "));
        Stop::End(GivenUp { serves: "former", reason: format!("the data may be half brought back; {undo}{why}") })
    }

    fn service(&self) -> &str {
        &self.claim.rollout.spec.service.name
    }
}
