//! What a host does with what it finds recorded: after its own death, after a reboot of the machine, which containers at an engine elsewhere
//! outlive; and how it stops all.

use std::{sync::Arc, time::Duration};

use segue_schemas::{host_api::HostError, id::InstanceId};

use super::{
    Host,
    container::Container,
    output,
    process::Process,
    running::{Running, RunningRecord},
    state::Nap,
};

/// How long connections wait, after a reboot, for the services that are to answer them; then those that are well get theirs.
const WELL_LIMIT: Duration = Duration::from_secs(10);

impl Host {
    /// Finds the recorded instances again and looks after them. After a reboot, those that have traffic or are fallen back
    /// to are started, the others are done. Gives the instances that were started afresh and have traffic.
    pub(super) async fn recover(self: &Arc<Self>, boot_id: String) -> Result<Vec<InstanceId>, HostError> {
        let recorded = self.store.current();
        let rebooted = !recorded.boot_id.is_empty() && recorded.boot_id != boot_id;
        let mut found: Vec<(InstanceId, Option<Running>)> = Vec::new();
        for (id, instance) in &recorded.instances {
            let mark = self.mark(id);
            // what runs on another machine was not booted with this one, and has its requests meanwhile
            let is_there = |record: &RunningRecord| !rebooted || record.outlives_boot(self.docker.is_elsewhere());
            let known = instance.process.clone().filter(is_there).and_then(|record| self.adopt(id, record));
            // Started, but killed before it could be recorded: it is there all the same. A container is found by its labels when it
            // would be started.
            let is_lost = !rebooted && !instance.is_stopped() && !instance.run.is_container();
            let marked = || is_lost.then(|| Process::find(&mark)).flatten().map(Running::Process);
            found.push((id.clone(), known.or_else(marked)));
        }
        let processes: Vec<_> = found.iter().map(|(id, p)| (id.clone(), p.as_ref().map(Running::record))).collect();
        let listening: Vec<_> = self.options.listen.iter().copied().zip(self.router.addresses()).collect();
        let unprepared = self.store.change({
            let unpacked: Vec<InstanceId> = recorded
                .instances
                .iter()
                .filter(|(_, i)| i.prepared || self.releases.has(&i.release.digest))
                .map(|(id, _)| id.clone())
                .collect();
            move |recorded| {
                recorded.boot_id = boot_id;
                recorded.listen.extend(listening);
                // Whoever asked for these is told nothing and asks again: the way to their artifacts is not recorded.
                recorded.instances.retain(|id, _| unpacked.contains(id));
                for (id, instance) in &mut recorded.instances {
                    instance.prepared = true;
                    instance.process = processes.iter().find(|(found, _)| found == id).and_then(|(_, p)| p.clone());
                    if rebooted {
                        instance.within.forget_pause();
                        instance.retire = instance.retire.map(|mut retire| {
                            retire.deadline = retire.deadline.carried_over();
                            retire
                        });
                    }
                }
                if rebooted {
                    let done: Vec<InstanceId> =
                        recorded.instances.keys().filter(|id| !recorded.is_needed(id)).cloned().collect();
                    for id in done {
                        recorded.instance_mut(&id)?.stopping = true;
                    }
                    for route in &mut recorded.routes {
                        route.dead_man = route.dead_man.map(super::clock::Deadline::carried_over);
                    }
                }
                Ok(())
            }
        });
        unprepared.await?;
        let recorded = self.store.current();
        let mut awaited = Vec::new();
        for (id, instance) in &recorded.instances {
            if instance.is_stopped() || (instance.failed.is_some() && instance.process.is_none()) {
                continue;
            }
            let index = found.iter().position(|(known, _)| known == id);
            let process = index.and_then(|i| found[i].1.take());
            if instance.nap == Nap::Held {
                tokio::spawn(self.clone().give_back(vec![id.clone()]));
            }
            if process.is_none() && recorded.serving(id).is_some() && instance.nap == Nap::Awake {
                awaited.push(id.clone());
            }
            tracing::info!(instance = %id, found = process.is_some(), rebooted, "recorded");
            self.supervise(id.clone(), process);
        }
        Ok(awaited)
    }

    /// What was recorded as running, if it is there still. Of a container that is seen once the engine answers, for which nobody waits here.
    fn adopt(&self, id: &InstanceId, record: RunningRecord) -> Option<Running> {
        match record {
            RunningRecord::Process(record) => Process::adopt(record, &self.mark(id)).map(Running::Process),
            RunningRecord::Container(record) => {
                let adopted = Container::adopted(self.docker.clone(), *record, output::path(&self.output, id));
                Some(Running::Container(Box::new(adopted)))
            }
        }
    }

    /// Waits until instances that were started afresh answer, so that the first connections after a reboot, which wait in
    /// the backlog meanwhile, are served rather than refused.
    pub(super) async fn wait_for_serving(&self, awaited: Vec<InstanceId>) {
        let all = awaited.iter().map(|id| self.wait_until_well(id, WELL_LIMIT));
        futures_util::future::join_all(all).await;
    }

    /// Ends the proxy and every service. What serves stays recorded as serving, so that the next host brings it back; what
    /// is not needed for that is done.
    pub(super) async fn stop_everything(self: &Arc<Self>) {
        self.router.stop().await;
        let done = self.store.change_regardless(|recorded| {
            let done: Vec<InstanceId> =
                recorded.instances.keys().filter(|id| !recorded.is_needed(id)).cloned().collect();
            for id in done {
                recorded.instance_mut(&id)?.stopping = true;
            }
            Ok(())
        });
        if let Err(error) = done.await {
            tracing::error!(%error, "what is not needed any more can't be marked");
        }
        self.closing.send_replace(true);
        let recorded = self.store.current();
        let mut watch = self.store.watch();
        let gone = watch.wait_for(|r| r.instances.values().all(|i| i.process.is_none()));
        let longest = recorded.instances.values().map(|i| i.run.stop_timeout_ms).max().unwrap_or(0);
        let limit = Duration::from_millis(longest).saturating_add(Duration::from_secs(5));
        if tokio::time::timeout(limit, gone).await.is_err() {
            tracing::warn!("some services are still ending");
        }
    }
}
