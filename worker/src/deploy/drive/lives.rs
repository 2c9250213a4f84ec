//! How the new instances fare while the stages are watched: one whose process ends again and again is no release to go on with, though
//! nobody may have asked it for anything, and the next one may.

use std::time::Duration;

use segue_pipelines::rollout::Input;
use segue_schemas::{
    deploy::JournalKind,
    host_api::{Instance, InstanceState},
};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{
    super::{hosts::HostTrouble, ladder::beyond_hope},
    Driver, Event,
};

/// How long a host holds its answer back while there is no news.
const NEWS_WAIT: Duration = Duration::from_secs(30);
/// Before a host is asked again that did not answer, or knows nothing of news.
const PAUSE: Duration = Duration::from_secs(1);

/// The number of a host's news, and its instances in the machine's names.
pub(super) type Lives = (u64, Vec<Instance>);

impl Driver {
    /// Asks each host for news of its instances while the machine wants them.
    pub(super) fn keep_watching_lives(&mut self) {
        if self.closing_until.is_some() || !self.machine.watches_lives() {
            return;
        }
        for name in self.hosts.names() {
            if !self.lives_asked.insert(name.clone()) {
                continue;
            }
            let (hosts, after) = (self.hosts.clone(), self.lives_seen.get(&name).copied());
            self.tasks.push(Box::pin(async move {
                let asked_at = Instant::now();
                let lives = hosts.instances_after(&name, after, NEWS_WAIT).await;
                let is_news = lives.as_ref().is_ok_and(|(number, _)| Some(*number) != after);
                if !is_news && asked_at.elapsed() < NEWS_WAIT / 2 {
                    sleep(PAUSE).await;
                }
                Event::Lives(name, lives)
            }));
        }
    }

    /// Whether its process has ended by itself more often than was told.
    fn has_fallen(&self, host: &str, one: &Instance) -> bool {
        let told = self.falls_told.get(&(host.to_owned(), one.id.clone())).copied().unwrap_or(0);
        self.machine.watches_lives() && one.restarts > told
    }

    /// Notes it: the requests that were lost by that are explained.
    fn tell_of_fall(&mut self, host: &str, one: &Instance) {
        self.falls_told.insert((host.to_owned(), one.id.clone()), one.restarts);
        let at = if self.hosts.only().is_some() { String::new() } else { format!(" on host `{host}`") };
        let how = match &one.state {
            InstanceState::BackingOff { exit } => format!(" with {exit}"),
            _ => String::new(),
        };
        let times = if one.restarts == 1 { String::new() } else { format!(", by now {} times", one.restarts) };
        let reason = format!("instance {} has ended by itself{how}{at}{times}, and is started again", one.id);
        let detail = json!({ "instance": one.id, "reason": reason, "restarts": one.restarts });
        self.note_at(Some(&host.to_owned()), JournalKind::NotReady, detail);
    }

    pub(super) fn on_lives(&mut self, host: &str, lives: Result<Lives, HostTrouble>) {
        self.lives_asked.remove(host);
        // one that was left out meanwhile has stopped its instances, as it was told
        if !self.hosts.names().iter().any(|name| name == host) {
            return;
        }
        // the acts and renewals tell what a host that is away means; here it only means that nothing is seen
        let Ok((number, instances)) = lives else { return };
        self.lives_seen.insert(host.to_owned(), number);
        let is_new = |one: &&Instance| self.machine.new_instances().any(|id| *id == one.id);
        let fell: Vec<Instance> =
            instances.iter().filter(is_new).filter(|one| self.has_fallen(host, one)).cloned().collect();
        for one in fell {
            self.tell_of_fall(host, &one);
        }
        let is_new = |one: &&Instance| self.machine.new_instances().any(|id| *id == one.id);
        let given_up = instances.iter().filter(is_new).find_map(|one| Some((one.id.clone(), beyond_hope(one)?)));
        let Some((instance, why)) = given_up.filter(|_| self.machine.watches_lives()) else { return };
        let at = if self.hosts.only().is_some() { String::new() } else { format!("on host `{host}` ") };
        if !self.machine.changes_in_turn() {
            return self.feed(Input::NotReady { instance, reason: format!("{at}{why}") });
        }
        // until a host has gone over its ladder says how they are there
        if self.machine.has_gone_over(host) {
            self.feed_at(Some(host.to_owned()), Input::NotReady { instance, reason: why });
        }
    }
}
