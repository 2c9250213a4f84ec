//! Whether service containers still see the GPUs that they were given: each is asked, seldom, and sooner where it is not well. One that has lost
//! what the machine itself sees is made anew with the same GPUs, one after the other, and while another instance of its release has its
//! traffic, where there is one. What it was before is no end of its own, and counts against nobody.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use segue_pipelines::gpu::{LIST, Next, Sight, Told, pause_after_remake, told};
use segue_schemas::{
    host_api::{HostError, Target},
    id::InstanceId,
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

use super::{
    Host,
    clock::{self, Deadline},
    instances::Life,
    running::RunningRecord,
    state::{InstanceRecord, Nap, Recorded},
};
use crate::{engine::docker::Answer, gpu};

/// Between two looks. The program takes seconds where nothing keeps the driver awake.
const EVERY: Duration = Duration::from_secs(120);

/// The least time between two looks, whoever asks for one; a doubt is looked at again after it.
const SOON: Duration = Duration::from_secs(5);

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(20);

/// How much of an answer is kept.
const MOST_BYTES: usize = 16 * 1024;

/// How long the next container is left alone while one is made anew, and how long that may then take to become well.
const REMADE_LIMIT: Duration = Duration::from_secs(600);

/// What is recorded of an instance's container and its GPUs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Within {
    /// Whether this container was seen to see them.
    has_seen: bool,
    phase: Phase,
    /// How often this instance's container was made anew for that.
    remade: u32,
    remade_at: Option<Timestamp>,
    /// When that may happen again.
    not_before: Option<Deadline>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Phase {
    #[default]
    Well,
    /// It is to be made anew: what it said.
    Lost(String),
    /// It was, and is not known to be well yet.
    Anew,
}

impl Within {
    /// What became of it, in words; `None`: it lost nothing.
    pub(super) fn loss(&self) -> Option<String> {
        if let Phase::Lost(said) = &self.phase {
            return Some(format!("its container does not see its GPUs any more ({said}), and is made anew"));
        }
        let at = self.remade_at?;
        let times = if self.remade == 1 { String::new() } else { format!(" {} times, the last", self.remade) };
        Some(format!("its container had lost its GPUs, and was made anew{times} at {at}"))
    }

    /// There is a new container.
    pub(super) fn begin(&mut self) {
        self.has_seen = false;
        if self.phase != Phase::Well {
            self.phase = Phase::Anew;
        }
    }

    /// The machine was started again: its clock tells nothing of before, and neither does any container.
    pub(super) fn forget_pause(&mut self) {
        self.not_before = None;
    }

    fn is_lost(&self) -> bool {
        matches!(self.phase, Phase::Lost(_))
    }

    fn lose(&mut self, said: String) {
        self.phase = Phase::Lost(said);
        self.remade = self.remade.saturating_add(1);
        self.remade_at = Some(clock::now());
        self.not_before = Some(Deadline::after(pause_after_remake(self.remade)));
    }
}

/// What is known of one container.
#[derive(Default)]
struct Look {
    sight: Sight,
    /// A question that it has not answered yet: nothing can end that, so it is asked no other.
    open: Option<String>,
}

/// A container with GPUs.
struct Holder {
    one: Life,
    container: String,
    gpus: Vec<String>,
}

impl Host {
    /// Asks the containers for as long as the host lives.
    pub(super) async fn watch_gpus_within(self: Arc<Self>) {
        if self.options.gpus.is_empty() {
            return;
        }
        let mut looks: HashMap<String, Look> = HashMap::new();
        // new containers that did not become well in their time, while others have their traffic: the rest is not kept waiting for them again
        let mut unwell: HashSet<Life> = HashSet::new();
        let mut pause = Duration::ZERO;
        loop {
            let _ = timeout(pause, self.gpus_within_wanted.notified()).await;
            // of an earlier host's, and those
            let being_remade = self.store.current().being_remade();
            unwell.retain(|one| being_remade.contains(one));
            for one in being_remade {
                let limit = if unwell.contains(&one) { SOON } else { REMADE_LIMIT };
                if !self.see_it_well(&one, limit).await {
                    unwell.insert(one);
                }
            }
            let holders = self.store.current().holders();
            looks.retain(|container, _| holders.iter().any(|(holder, _)| holder.container == *container));
            let mut is_doubtful = false;
            for (holder, has_seen) in holders {
                let fresh = || Look { sight: Sight::of(has_seen), open: None };
                let look = looks.entry(holder.container.clone()).or_insert_with(fresh);
                match self.look_within(&holder, look).await {
                    Next::Wait => {}
                    Next::LookAgain => is_doubtful = true,
                    Next::Never(said) => {
                        tracing::warn!(instance = %holder.one.id, said, "its container does not see its GPUs, and never did: a new one is not tried");
                    }
                    Next::Remake(said) => {
                        if !self.remake(&holder, said).await {
                            unwell.insert(holder.one.clone());
                        }
                    }
                }
            }
            pause = if is_doubtful { Duration::ZERO } else { EVERY };
            sleep(SOON).await;
        }
    }

    async fn look_within(&self, holder: &Holder, look: &mut Look) -> Next {
        if let Some(open) = &look.open {
            match self.docker.answered(open).await {
                Ok(Some(_)) => look.open = None,
                Ok(None) | Err(_) => return Next::Wait,
            }
        }
        let told = match self.docker.ask_within(&holder.container, &LIST, LIMIT, MOST_BYTES).await {
            Ok(Answer::Ended(code, said)) => told(code, &said, &holder.gpus),
            Ok(Answer::GoesOn(question) | Answer::BrokeOff { question, .. }) => {
                look.open = Some(question);
                Told::Nothing
            }
            Err(error) => {
                tracing::debug!(instance = %holder.one.id, %error, "its container does not say whether it sees its GPUs");
                Told::Nothing
            }
        };
        let on_host = matches!(told, Told::Lost(_)) && self.sees(&holder.gpus).await;
        let had_seen = look.sight.has_seen;
        let next = look.sight.look(told, on_host);
        if look.sight.has_seen && !had_seen {
            let container = holder.container.clone();
            let noted = self.note(&holder.one, move |i| i.within.has_seen |= i.runs_in(&container)).await;
            if let Err(error) = noted {
                tracing::warn!(instance = %holder.one.id, %error, "that it sees its GPUs can't be recorded");
            }
        }
        next
    }

    /// Whether the machine itself sees these, and they answer.
    async fn sees(&self, gpus: &[String]) -> bool {
        let looked = gpu::look_at_health(&*self.gpu_tool).await;
        self.rest_unless_watched().await;
        let is_well = |uuid: &String| {
            looked.as_ref().is_ok_and(|facts| facts.gpus.iter().any(|gpu| gpu.uuid == *uuid && gpu.errors.is_empty()))
        };
        gpus.iter().all(is_well)
    }

    /// Has a container made anew, and waits until it is well. `false`: as [`Self::see_it_well`].
    async fn remake(&self, holder: &Holder, said: String) -> bool {
        let (one, container, told) = (holder.one.clone(), holder.container.clone(), said.clone());
        let lost = self.store.change(move |recorded| {
            let Some(instance) = one.among_mut(recorded).filter(|i| !i.stopping && i.runs_in(&container)) else {
                return Ok(false);
            };
            if instance.within.not_before.is_some_and(|until| !until.remaining().is_zero()) {
                return Ok(false);
            }
            instance.within.lose(told);
            // whoever waits for what happens here without a rollout hears of it
            recorded.restorations += 1;
            Ok(true)
        });
        match lost.await {
            Ok(true) => {
                tracing::warn!(instance = %holder.one.id, said, "its container has lost its GPUs, and is made anew");
                return self.see_it_well(&holder.one, REMADE_LIMIT).await;
            }
            Ok(false) => {}
            Err(error) => tracing::error!(instance = %holder.one.id, %error, "that it lost its GPUs can't be recorded"),
        }
        true
    }

    /// Waits until the new container of an instance is there and well; then it has its traffic again. Where nobody else can have that, it has it
    /// when the time is over as well; else it goes without until it is well: `false`.
    async fn see_it_well(&self, one: &Life, limit: Duration) -> bool {
        let mut watch = self.store.watch();
        let is_there = |recorded: &Arc<Recorded>| {
            let is_over = |i: &InstanceRecord| !i.is_usable() || i.nap == Nap::Asleep;
            one.among(recorded).is_none_or(|i| is_over(i) || (!i.within.is_lost() && i.process.is_some()))
        };
        let _ = timeout(limit, watch.wait_for(is_there)).await;
        // one that sleeps gets a new container when it is woken, and is looked at then
        let recorded = self.store.current();
        let Some(instance) = one.among(&recorded).filter(|i| i.is_usable() && i.nap != Nap::Asleep) else {
            return true;
        };
        match instance.within.phase {
            Phase::Well => return true,
            // it is not even there yet
            Phase::Lost(_) => return false,
            Phase::Anew => {}
        }
        if !self.wait_until_well(&one.id, limit).await && self.store.current().stand_in(&one.id).is_some() {
            tracing::warn!(instance = %one.id, "its new container is not well, and another one keeps its traffic");
            return false;
        }
        let of = one.clone();
        let noted = self.store.change_regardless(move |recorded| {
            if let Some(instance) = of.among_mut(recorded).filter(|i| i.within.phase == Phase::Anew) {
                instance.within.phase = Phase::Well;
                recorded.restorations += 1;
            }
            Ok(())
        });
        if let Err(error) = noted.await {
            tracing::error!(instance = %one.id, %error, "that it was made anew can't be recorded");
        }
        let _ = self.carry().await;
        true
    }

    /// Waits until an instance's container is to be made anew.
    pub(super) async fn must_be_remade(&self, one: &Life) {
        let mut watch = self.store.watch();
        let is_lost = |recorded: &Arc<Recorded>| one.among(recorded).is_some_and(|i| i.within.is_lost());
        // the sender is in `self`
        let _ = watch.wait_for(is_lost).await;
    }

    /// Lets others of its release have its traffic, and waits for what it answers yet. Where there is none it serves to its end.
    pub(super) async fn let_others_serve(&self, one: &Life) -> Result<(), HostError> {
        let _ = self.carry().await;
        if self.store.current().stand_in(&one.id).is_some() {
            let cut = self.router.drain(one.id.as_str(), self.options.proxy_drain).await;
            tracing::info!(instance = %one.id, cut, "others of its release have its traffic");
        }
        let of = one.clone();
        self.note(&of, |i| i.is_ending = true).await
    }
}

impl InstanceRecord {
    /// The container that it runs in.
    pub(super) fn container(&self) -> Option<&str> {
        match &self.process {
            Some(RunningRecord::Container(record)) => Some(&record.container),
            _ => None,
        }
    }

    fn runs_in(&self, container: &str) -> bool {
        self.container() == Some(container)
    }
}

impl Recorded {
    /// The containers that have GPUs and are to serve, each with whether it was seen to see them.
    fn holders(&self) -> Vec<(Holder, bool)> {
        let serving = self.instances.iter().filter(|(_, i)| i.is_usable() && i.nap != Nap::Asleep && !i.is_ending);
        let holder = |(id, i): (&InstanceId, &InstanceRecord)| {
            let (one, gpus) = (Life::of(id, i), i.gpus.clone());
            let holder = Holder { one, container: i.container()?.to_owned(), gpus };
            (!i.gpus.is_empty()).then_some((holder, i.within.has_seen))
        };
        serving.filter_map(holder).collect()
    }

    fn being_remade(&self) -> Vec<Life> {
        let is_it = |i: &InstanceRecord| i.is_usable() && i.nap != Nap::Asleep && i.within.phase != Phase::Well;
        let lost = self.instances.iter().filter(|(_, i)| is_it(i));
        lost.map(|(id, i)| Life::of(id, i)).collect()
    }

    /// Who has the traffic of an instance while its container is made anew: another one of its release that serves beside it.
    fn stand_in(&self, id: &InstanceId) -> Option<&InstanceId> {
        let of = self.instances.get(id).filter(|i| i.within.phase != Phase::Well)?;
        let others = self.serving(id)?.targets.iter().filter(|t| t.weight > 0 && t.instance != *id);
        let can = |t: &&Target| {
            self.instances.get(&t.instance).is_some_and(|i| {
                i.release.id == of.release.id
                    && i.is_usable()
                    && i.process.is_some()
                    && i.nap == Nap::Awake
                    && i.within.phase == Phase::Well
            })
        };
        others.filter(can).map(|t| &t.instance).next()
    }

    /// The targets of a route as they are carried: what one has whose container is made anew goes to another of its release.
    pub(super) fn without_remade(&self, targets: &[Target]) -> Vec<Target> {
        let mut carried: Vec<Target> = targets.to_vec();
        for target in targets {
            let Some(other) = self.stand_in(&target.instance) else { continue };
            carried.retain(|one| one.instance != target.instance);
            if let Some(one) = carried.iter_mut().find(|one| one.instance == *other) {
                one.weight = one.weight.saturating_add(target.weight);
            }
        }
        carried
    }
}
