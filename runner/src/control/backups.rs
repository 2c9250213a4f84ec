//! Backups of services, as hosts have told of them, and the rollout that brings one back.

use segue_pipelines::sync;
use segue_schemas::{
    deploy::{RolloutSpec, Strategy},
    host_api::{Backup, BackupState},
    id::{BackupId, RolloutId},
};

use super::rollouts::next_id;
use crate::store::{
    Bell, Result, Store, StoreError, Tx,
    tables::{
        hosts, releases,
        rollouts::{self, StoredRollout},
    },
};

impl Store {
    /// The backups of services that hosts keep, take, or could not take lately, each with its host; newest first.
    pub async fn backups(&self) -> Result<Vec<(String, Backup)>> {
        let told = hosts::states(&mut self.read().await?).await?;
        let of_host = |told: hosts::ToldState| told.state.backups.into_iter().map(move |one| (told.name.clone(), one));
        let mut all: Vec<(String, Backup)> = told.into_iter().flat_map(of_host).collect();
        all.sort_by(|(a_host, a), (b_host, b)| (b.begun_at, &b.id, a_host).cmp(&(a.begun_at, &a.id, b_host)));
        Ok(all)
    }

    /// Makes the rollout that brings a backup back, with the command of the release that serves.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]: no host keeps it. [`StoreError::Refused`]: that release does not say how. [`StoreError::Conflict`]:
    /// another rollout of the service is on its way.
    pub async fn create_restore(&self, backup: &BackupId, by: String) -> Result<RolloutId> {
        let of_id = self.backups().await?.into_iter().map(|(_, one)| one).filter(|one| one.id == *backup);
        let kept = of_id.into_iter().find(|one| matches!(one.state, BackupState::Kept { .. }));
        let kept = kept.ok_or_else(|| StoreError::not_found("backup", format!("{backup} that a host keeps")))?;
        let store = self.clone();
        self.write(move |tx| Box::pin(async move { create(&store, tx, kept, by).await })).await
    }
}

async fn create(store: &Store, tx: &mut Tx, backup: Backup, by: String) -> Result<RolloutId> {
    let Backup { id, environment, service, copied_from, .. } = backup;
    let serving = releases::serving(&mut tx.conn, &environment, &service).await?.ok_or_else(|| {
        StoreError::Refused(format!(
            "nothing of `{service}` serves in `{environment}`: there is nobody to bring {id} back to"
        ))
    })?;
    let open = rollouts::open_of_pair(&mut tx.conn, &environment, &service).await?;
    // what serves stays the same where a host is only brought to it: this comes after it
    if let Some(open) = open.iter().find(|open| open.record.rollout.spec.repair.is_none()) {
        return Err(StoreError::Conflict(format!(
            "rollout {} of `{service}` to `{environment}` is on its way: wait for its end (`segue rollout show {0} --watch`), or abort it",
            open.id()
        )));
    }
    let known = rollouts::last_spec(&mut tx.conn, &environment, &serving.current).await?;
    let known = known.filter(|known| {
        let own = known.service.backup.as_ref().is_some_and(|it| it.restore.is_some());
        own || copied_from.is_some() && sync::restore_command(&known.service).is_some()
    });
    let known = known.ok_or_else(|| {
        StoreError::Refused(format!(
            "release {} of `{service}`, which serves `{environment}`, does not say how a backup is brought back: write `backup.restore` in \
             .segue/services/{service}.yml and deploy it",
            serving.current.id
        ))
    })?;
    let settings = store.environment(&environment);
    let spec = RolloutSpec {
        release: serving.current.clone(),
        service: known.service,
        hosts: settings.hosts,
        strategy: Strategy::Restore { backup: id },
        previous: Some(serving.current),
        is_rollback: false,
        variables: settings.variables,
        sleep_after: None,
        data: None,
        repair: None,
        environment,
    };
    let rollout = StoredRollout::new(next_id(tx).await?, spec, by, tx.now);
    rollouts::insert(&mut tx.conn, &rollout).await?;
    tx.ring(Bell::Rollouts);
    Ok(rollout.id())
}
