//! What happens by the clock: dead-man's switches that go off, instances whose time is over.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use segue_schemas::id::InstanceId;

use super::{Host, state::Recorded};

/// What is due.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Due {
    DeadMan { environment: String, service: String },
    Retire(InstanceId),
}

impl Host {
    /// Acts on every recorded deadline when it comes, for ever. Sleeps until the next one or a change of the record.
    pub(super) async fn keep_time(self: Arc<Self>) {
        let mut watch = self.store.watch();
        loop {
            let recorded = watch.borrow_and_update().clone();
            let next = self.deadlines(&recorded).min_by_key(|(remaining, _)| *remaining);
            let Some((remaining, due)) = next else {
                if watch.changed().await.is_err() {
                    return;
                }
                continue;
            };
            if remaining.is_zero() {
                // What was recorded by this is looked at afresh; a due thing that could not be done waits for a change.
                self.act(due).await;
                continue;
            }
            tokio::select! {
                () = tokio::time::sleep(remaining) => {}
                changed = watch.changed() => if changed.is_err() { return },
            }
        }
    }

    fn deadlines<'a>(&'a self, recorded: &'a Recorded) -> impl Iterator<Item = (Duration, Due)> + 'a {
        let dead_men = recorded.routes.iter().filter_map(|r| {
            let due = Due::DeadMan { environment: r.environment.clone(), service: r.service.clone() };
            Some((r.dead_man?.remaining(), due))
        });
        let retiring = self.retiring.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let retirements = recorded.instances.iter().filter_map(move |(id, instance)| {
            if retiring.contains(id) || instance.stopping {
                return None;
            }
            Some((instance.retire?.deadline.remaining(), Due::Retire(id.clone())))
        });
        dead_men.chain(retirements)
    }

    async fn act(self: &Arc<Self>, due: Due) {
        match due {
            Due::DeadMan { environment, service } => self.restore(environment, service).await,
            Due::Retire(id) => {
                self.retiring.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone());
                // Draining takes time; other deadlines do not wait for it.
                tokio::spawn(self.clone().retire_now(id));
            }
        }
    }
}
