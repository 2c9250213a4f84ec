//! Which hosts do not answer just now, as far as this server knows: a worker that drives a rollout there said so, or the request that a
//! joined host keeps open was cut. Any word of the host ends it. In memory: a server that starts knows nothing of it, and sees by its clock.

use std::{collections::HashMap, sync::PoisonError, time::Duration};

use segue_schemas::{
    deploy::{JournalEntry, JournalKind},
    time::Timestamp,
};

use crate::store::Store;

/// How long a host may take to open its next request, after the one that it had open was cut.
const CUT_FOR: Duration = Duration::from_secs(5);

impl Store {
    /// Whether a host does not answer, by what was told of it since it was last heard, here or by another server.
    #[must_use]
    pub fn is_host_silent(&self, name: &str, heard_at: Timestamp) -> bool {
        self.hosts_silent().get(name).is_some_and(|(at, from)| self.now() >= *from && heard_at <= *at)
    }

    /// The request that a joined host had open was cut: it does not answer, unless it opens another soon.
    pub fn host_was_cut(&self, name: &str) {
        let at = self.now();
        self.hosts_silent().entry(name.to_owned()).or_insert((at, at + CUT_FOR));
    }

    /// A host was heard.
    pub(crate) fn host_answers(&self, name: &str) {
        self.hosts_silent().remove(name);
    }

    /// Notes the hosts that a worker's report says do not answer.
    pub(super) fn note_silent<'e>(&self, hosts: &[String], entries: impl Iterator<Item = &'e JournalEntry>) {
        for entry in entries.filter(|entry| says_away(entry)) {
            let alone = hosts.first().filter(|_| hosts.len() == 1);
            if let Some(host) = entry.host.as_ref().or(alone) {
                self.hosts_silent().insert(host.clone(), (self.now(), self.now()));
            }
        }
    }

    fn hosts_silent(&self) -> std::sync::MutexGuard<'_, HashMap<String, (Timestamp, Timestamp)>> {
        self.inner.hosts_silent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn says_away(entry: &JournalEntry) -> bool {
    match entry.kind {
        JournalKind::Held => entry.detail["is_away"] == true,
        JournalKind::Quarantined => {
            entry.detail["reason"].as_str().is_some_and(|reason| reason.starts_with("it does not answer"))
        }
        _ => false,
    }
}
