//! A rollout that brings no release, but data back: claimed, fenced and journaled as every other. What is there now is backed up first.

use segue_schemas::{
    deploy::{JournalKind, ServiceBackup},
    host_api::{BackupState, HostState, RestoreBackup, RestoreState},
    id::BackupId,
};
use serde_json::json;

use super::{
    super::{hosts::Host, place},
    leave::GivenUp,
    save::{HOLD, Saving, Stop, minutes_ms, with_last_words},
};

impl Saving<'_> {
    /// Brings a backup back, everywhere where it is kept.
    pub(super) async fn restore(&mut self, backup: &BackupId) -> Result<(), Stop> {
        let service = &self.claim.rollout.spec.service;
        let commands = service.backup.as_ref().and_then(|settings| Some((settings.clone(), settings.restore.clone()?)));
        let Some((settings, command)) = commands else {
            let why = format!("the file of `{}` says nothing of how to bring a backup back", service.name);
            return Err(Stop::unchanged(&why));
        };
        let keeps = |state: &HostState| {
            let mut of_id = state.backups.iter().filter(|known| known.id == *backup);
            of_id.any(|known| matches!(known.state, BackupState::Kept { .. }))
        };
        let mut holders = self.carriers().await?;
        holders.retain(|(_, state)| keeps(state));
        if holders.is_empty() {
            let why = format!("no host that serves `{}` and answers keeps the backup `{backup}`", self.service());
            return Err(Stop::unchanged(&why));
        }
        self.back_up(&holders).await?;
        if !self.claim.journal.iter().any(|entry| entry.kind == JournalKind::RestoreIntent) {
            let message = format!("bringing the data of {} back from {backup}", self.service());
            self.write(JournalKind::RestoreIntent, json!({ "message": message, "backup": backup })).await?;
        }
        for (host, _) in &holders {
            self.restore_at(host, backup, &settings, &command).await?;
        }
        let message = format!("the data of {} are those of {backup} again", self.service());
        self.write(JournalKind::Restored, json!({ "message": message, "backup": backup })).await?;
        self.end(message).await
    }

    async fn restore_at(
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
        if !was_begun {
            return Err(Stop::unchanged(&format!("{what}: {reason}")));
        }
        let before = segue_pipelines::backup::begun(&self.claim.journal);
        let undo = before.map_or_else(String::new, |before| format!("; what was there before is kept as {before}"));
        let reason = format!("the data may be half brought back on host `{}`: {reason}{undo}", host.name);
        Err(Stop::End(GivenUp { serves: "former", reason: with_last_words(reason, &said) }))
    }

    fn service(&self) -> &str {
        &self.claim.rollout.spec.service.name
    }
}
