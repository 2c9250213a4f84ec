//! Whether what runs at the engine is still what was deployed. Somebody with a hand at the engine may change a container's limits, pause it,
//! take it from its network, or remove it: the engine tells of that as it happens, and it is compared with what was seen when
//! the container was started. Nothing is put right here but what has ended, which is started again; who asks is told.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use indexmap::IndexMap;
use segue_schemas::id::InstanceId;
use tokio::time::{Instant, sleep};

use super::{
    Host,
    running::RunningRecord,
    state::{InstanceRecord, Recorded},
};

/// Changes that come one after the other are looked at together.
const GATHER: Duration = Duration::from_millis(100);

/// Pauses before an engine that breaks off is listened to again, from the first to the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// An engine that was listened to for so long did not break off at once: the next pause is the first one again.
const LISTENED_WELL: Duration = Duration::from_secs(60);

impl Host {
    /// Compares containers with what was deployed whenever the engine tells of a change, for ever. While there is none, nothing is asked.
    pub(super) async fn watch_for_drift(self: Arc<Self>) {
        let mut watch = self.store.watch();
        let mut pause = PAUSES.0;
        loop {
            let has_any = |recorded: &Arc<Recorded>| containers(recorded).next().is_some();
            if watch.wait_for(has_any).await.is_err() {
                return;
            }
            let (changes, begun) = (self.docker.changes().await, Instant::now());
            if let Err(error) = &changes {
                tracing::warn!(%error, "what is changed at the engine is not heard of");
            }
            if let Ok(changes) = changes {
                let mut changes = Box::pin(changes);
                // what happened before it was listened
                let mut has_changed = true;
                loop {
                    if has_changed {
                        sleep(GATHER).await;
                        self.compare_all().await;
                    }
                    let Some(container) = changes.next().await else { break };
                    pause = PAUSES.0;
                    let recorded = self.store.current();
                    has_changed = containers(&recorded).any(|(_, _, known)| known == container);
                    if containers(&recorded).next().is_none() {
                        break;
                    }
                }
            }
            if begun.elapsed() > LISTENED_WELL {
                pause = PAUSES.0;
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    async fn compare_all(&self) {
        let recorded = self.store.current();
        for (id, instance, container) in containers(&recorded) {
            let Some(RunningRecord::Container(record)) = &instance.process else { continue };
            // what is not there is started again by whoever looks after it
            let Ok(Some(seen)) = self.docker.look_at(container).await else { continue };
            if !seen.is_running {
                continue;
            }
            let changed = differences(&record.facts, &seen.facts);
            if changed == instance.changed {
                continue;
            }
            if changed.is_empty() {
                tracing::info!(instance = %id, "its container is what was deployed again");
            } else {
                tracing::warn!(instance = %id, ?changed, "its container is not what was deployed");
            }
            let (id, life) = (id.clone(), instance.life);
            let noted = self.store.change_regardless(move |recorded| {
                // whoever waits for what happens here without a rollout hears of it
                recorded.restorations += 1;
                if let Some(instance) = recorded.instances.get_mut(&id).filter(|i| i.life == life) {
                    instance.changed = changed;
                }
                Ok(())
            });
            if let Err(error) = noted.await {
                tracing::error!(%error, "a change of a container can't be recorded");
            }
        }
    }
}

impl InstanceRecord {
    /// What is another than what was deployed, in words; empty: nothing.
    #[must_use]
    pub fn drift(&self) -> Vec<String> {
        let removed = match self.removed {
            0 => None,
            1 => Some("its container was removed by hand, and made again".to_owned()),
            times => Some(format!("its container was removed by hand, and made again, {times} times")),
        };
        self.changed.iter().cloned().chain(self.emptied_in_words()).chain(removed).collect()
    }
}

fn containers(recorded: &Recorded) -> impl Iterator<Item = (&InstanceId, &InstanceRecord, &str)> {
    recorded.instances.iter().filter_map(|(id, instance)| match &instance.process {
        Some(RunningRecord::Container(record)) => Some((id, instance, record.container.as_str())),
        _ => None,
    })
}

fn differences(deployed: &IndexMap<String, String>, seen: &IndexMap<String, String>) -> Vec<String> {
    let shown = |value: &str| if value.is_empty() { "nothing".to_owned() } else { format!("`{value}`") };
    let differs = |(name, before): (&String, &String)| {
        let now = seen.get(name)?;
        (now != before).then(|| format!("{name} is {}, and was {} when it was deployed", shown(now), shown(before)))
    };
    deployed.iter().filter_map(differs).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_named_with_both_values() {
        let facts = |pairs: &[(&str, &str)]| -> IndexMap<String, String> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let deployed = facts(&[("memory", "1"), ("networks", "a"), ("old", "x")]);
        assert!(differences(&deployed, &deployed).is_empty());
        // what an earlier host did not know to look at is no difference
        let seen = facts(&[("memory", "2"), ("networks", ""), ("paused", "false")]);
        let found = differences(&deployed, &seen);
        assert_eq!(
            found,
            [
                "memory is `2`, and was `1` when it was deployed",
                "networks is nothing, and was `a` when it was deployed"
            ]
        );
    }
}
