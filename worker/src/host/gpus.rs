//! Which GPUs an instance has. They are chosen once, after a look at all that the host offers and at who has what, and recorded before the
//! instance is first started; they stay its own, over its restarts and the host's, until it has stopped.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use segue_pipelines::gpu::{Facts, Given, Reason, Requirement, Verdict, narrowed, offered, preflight, requirement};
use segue_schemas::{
    gpu::{GpuNeed, GpuOffer},
    host_api::{HostError, HostErrorCode},
    id::InstanceId,
};

use super::{
    Host,
    instances::Life,
    process::Families,
    refusal,
    state::{InstanceRecord, Recorded},
};
use crate::{engine::docker::DockerError, gpu};

/// What a process sees of GPUs, by UUID.
/// <https://docs.nvidia.com/cuda/cuda-c-programming-guide/index.html#env-vars>
const CUDA_VARIABLE: &str = "CUDA_VISIBLE_DEVICES";

/// What an image asks NVIDIA's runtime for, where that is the engine's default.
const RUNTIME_VARIABLE: &str = "NVIDIA_VISIBLE_DEVICES";

/// What a host knows of the GPUs that it offers.
#[derive(Debug, Default)]
pub(super) struct Gpus {
    /// Held while an instance's are chosen: two that choose at once would choose the same.
    turn: tokio::sync::Mutex<()>,
    seen: Mutex<Vec<GpuOffer>>,
}

/// What came of choosing.
#[derive(Debug)]
pub(super) enum Placed {
    /// It has what it asks for.
    Ready,
    /// It was told to stop meanwhile.
    Gone,
    /// It can't have what it asks for.
    Refused(HostError),
}

impl Gpus {
    /// Those that can be given out, as the driver told of them last.
    pub(super) fn seen(&self) -> Vec<GpuOffer> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn note(&self, seen: Vec<GpuOffer>) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }
}

impl Host {
    /// Sees to it that an instance has the GPUs that it asks for. What it has stays; else the host looks at all of them, and chooses. Those of
    /// another engine than the one that answers now are none that it has.
    pub(super) async fn have_gpus(&self, one: &Life) -> Result<Placed, HostError> {
        let recorded = self.store.current();
        let Some(instance) = self.startable(one, &recorded) else { return Ok(Placed::Gone) };
        let Some(need) = instance.run.gpus.clone() else { return Ok(Placed::Ready) };
        // an engine that was set up anew has no images either
        if instance.run.is_container()
            && let Err(error) = self.have_image(&one.id, instance.release.image.as_deref()).await
        {
            return Ok(Placed::Refused(error));
        }
        let recorded = self.store.current();
        let instance = match self.startable(one, &recorded) {
            None => return Ok(Placed::Gone),
            Some(instance) if !instance.gpus.is_empty() => return Ok(Placed::Ready),
            Some(instance) => instance,
        };
        if self.options.gpus.is_empty() {
            let message = format!(
                "it asks for {}, and this host offers none: name them at the host, as `hosts.NAME.gpus` in segue.yaml or with `segue host \
                 --gpus`, and start it again",
                need.in_words()
            );
            return Ok(Placed::Refused(refusal(HostErrorCode::BadRequest, message)));
        }
        let wanted = match self.required_by_image(instance).await {
            Ok(wanted) => wanted,
            Err(error) => return Ok(Placed::Refused(self.told(&error))),
        };
        let _turn = self.gpus.turn.lock().await;
        // the turn may have been long in coming
        match self.startable(one, &self.store.current()) {
            None => return Ok(Placed::Gone),
            Some(instance) if !instance.gpus.is_empty() => return Ok(Placed::Ready),
            Some(_) => {}
        }
        let (verdict, holders) = self.weigh(one, &need, &wanted, Recorded::is_warm).await;
        let verdict = match verdict {
            // what only waits for its end gives way to what is to serve
            Verdict::Recreate { .. } => {
                self.end_warm(one, &holders).await?;
                if self.startable(one, &self.store.current()).is_none() {
                    return Ok(Placed::Gone);
                }
                self.weigh(one, &need, &wanted, Recorded::is_other_release).await.0
            }
            Verdict::Refuse(_) => self.weigh(one, &need, &wanted, Recorded::is_other_release).await.0,
            placed @ Verdict::Place(_) => placed,
        };
        let uuids = match verdict {
            Verdict::Place(uuids) => uuids,
            Verdict::Recreate { uuids, why } => {
                let message = format!(
                    "it does not fit beside the release that serves: {}. It fits on {} once that has stopped",
                    in_words(&why),
                    uuids.join(", ")
                );
                return Ok(Placed::Refused(refusal(HostErrorCode::Full, message)));
            }
            Verdict::Refuse(why) => {
                let code = if why.iter().any(|reason| reason.what.is_unknown()) {
                    HostErrorCode::Unavailable
                } else if why.iter().any(|reason| reason.what.is_fault()) {
                    HostErrorCode::Faulty
                } else {
                    HostErrorCode::BadRequest
                };
                let message = format!("it can't have {}: {}", need.in_words(), in_words(&why));
                return Ok(Placed::Refused(refusal(code, message)));
            }
        };
        tracing::info!(instance = %one.id, gpus = uuids.join(","), "its GPUs are chosen");
        self.note(one, move |instance| instance.gpus = uuids).await?;
        Ok(Placed::Ready)
    }

    /// Looks at the GPUs that the host offers, and decides. `is_replaced`: what would make room; those of it that have GPUs are given as well.
    async fn weigh(
        &self,
        one: &Life,
        need: &GpuNeed,
        wanted: &[Requirement],
        is_replaced: fn(&Recorded, &Life, &InstanceId) -> bool,
    ) -> (Verdict, BTreeSet<InstanceId>) {
        let looked = gpu::look_by(&*self.gpu_tool).await;
        self.rest_unless_watched().await;
        let (mut looked, absent) = match looked {
            Ok(mut facts) => {
                self.add_xids(&mut facts);
                self.gpus.note(offered(&facts, &self.options.gpus).0);
                let (facts, absent) = narrowed(facts, &self.options.gpus);
                (Ok(facts), absent)
            }
            Err(fault) => (Err(fault), Vec::new()),
        };
        let recorded = self.store.current();
        let kin = match looked.as_mut() {
            Ok(facts) => self.kin(&recorded, facts).await,
            Err(_) => Kin::None,
        };
        let given = recorded.given(&kin, looked.as_ref().ok(), |id| is_replaced(&recorded, one, id));
        let (holders, given): (Vec<&InstanceId>, Vec<Given>) = given.into_iter().unzip();
        let replaced = holders.into_iter().zip(&given).filter(|(_, given)| given.is_replaced).map(|(id, _)| id.clone());
        let replaced = replaced.collect();
        match preflight(looked.as_ref(), need, wanted, &given) {
            Verdict::Refuse(mut why) => {
                why.extend(absent);
                (Verdict::Refuse(why), replaced)
            }
            placed => (placed, replaced),
        }
    }

    /// Which processes are whose. Those on another machine the engine lists; where it can't, nobody is taken for a stranger.
    async fn kin(&self, recorded: &Recorded, facts: &mut Facts) -> Kin {
        if !self.docker.is_elsewhere() {
            return Kin::Here(Families::now());
        }
        if facts.processes.is_empty() {
            return Kin::None;
        }
        let mut listed = HashMap::new();
        for (id, instance) in recorded.instances.iter().filter(|(_, i)| !i.is_stopped()) {
            let Some(container) = instance.container() else { continue };
            match self.docker.processes_of(container).await {
                Ok(pids) => drop(listed.insert(id.clone(), pids)),
                Err(error) => {
                    tracing::warn!(instance = %id, %error, "whose processes use the GPUs can't be told");
                    facts.processes.clear();
                    return Kin::None;
                }
            }
        }
        Kin::There(listed)
    }

    /// Ends those of the `holders` of GPUs that are kept for a way back and have no traffic: first what they answer still, as when their time
    /// had come.
    async fn end_warm(&self, one: &Life, holders: &BTreeSet<InstanceId>) -> Result<(), HostError> {
        let warm = self.store.current().warm(one, holders);
        let drained = join_all(warm.into_iter().map(async |(id, limit)| {
            let cut = self.router.drain(id.as_str(), limit).await;
            tracing::info!(instance = %id, cut, "it is ended before its time: its GPUs are needed");
            id
        }));
        let (of, drained) = (one.clone(), drained.await.into_iter().collect());
        let ended = self.store.change(move |recorded| {
            // some may have traffic again, and what needs their place may have gone
            let warm = recorded.warm(&of, &drained);
            for (id, _) in &warm {
                recorded.send_away(id)?;
            }
            Ok(warm)
        });
        for (id, _) in ended.await? {
            self.has_stopped(&id).await?;
        }
        Ok(())
    }

    /// What the image of an instance says that it needs of the machine.
    async fn required_by_image(&self, instance: &InstanceRecord) -> Result<Vec<Requirement>, DockerError> {
        let Some(image) = instance.release.image.as_deref().filter(|_| instance.run.is_container()) else {
            return Ok(Vec::new());
        };
        let env = self.docker.image_env(image).await?;
        let pairs = || env.iter().filter_map(|pair| pair.split_once('='));
        if pairs().any(|(name, value)| name == "NVIDIA_DISABLE_REQUIRE" && matches!(value, "1" | "true")) {
            return Ok(Vec::new());
        }
        let mut wanted = Vec::new();
        for (name, value) in pairs().filter(|(name, _)| name.starts_with("NVIDIA_REQUIRE_")) {
            match requirement(value) {
                Ok(requirement) => wanted.push(requirement),
                Err(error) => tracing::warn!(image, name, value, error, "what the image requires can't be read"),
            }
        }
        Ok(wanted)
    }

    /// What a process sees of GPUs: its own, or none where others have some.
    pub(super) fn gpu_variable(&self, instance: &InstanceRecord) -> Option<(String, String)> {
        let is_told = !instance.run.is_container() && (!instance.gpus.is_empty() || !self.options.gpus.is_empty());
        is_told.then(|| (CUDA_VARIABLE.to_owned(), instance.gpus.join(",")))
    }

    /// A container has what the engine is asked for, whatever its image or its service says.
    pub(super) fn shut_gpus_out(&self, instance: &InstanceRecord, env: &mut Vec<(String, String)>) {
        if instance.gpus.is_empty() && self.options.gpus.is_empty() {
            return;
        }
        env.retain(|(name, _)| name != RUNTIME_VARIABLE);
        if instance.gpus.is_empty() {
            env.push((RUNTIME_VARIABLE.to_owned(), "void".to_owned()));
        }
    }
}

/// Gives a container none, whatever its image says. Its variables are `NAME=VALUE`.
pub(super) fn shut_all_out(env: &mut Vec<String>) {
    env.retain(|one| one.split('=').next() != Some(RUNTIME_VARIABLE));
    env.push(format!("{RUNTIME_VARIABLE}=void"));
}

/// Which processes belong to which instance.
enum Kin {
    /// As this machine has them.
    Here(Families),
    /// As the engine lists them, by the numbers of its machine.
    There(HashMap<InstanceId, Vec<u32>>),
    /// Nobody uses any.
    None,
}

impl Kin {
    fn of(&self, id: &InstanceId, instance: &InstanceRecord) -> Vec<u32> {
        match self {
            Self::Here(families) => {
                let first = instance.process.as_ref().and_then(super::running::RunningRecord::pid);
                first.map(|pid| families.of(pid)).unwrap_or_default()
            }
            Self::There(listed) => listed.get(id).cloned().unwrap_or_default(),
            Self::None => Vec::new(),
        }
    }
}

impl Recorded {
    /// What was given out, and by which processes it is known; and what instances use that were given none, as they may where they asked for
    /// none. `is_replaced`: what would make room.
    fn given(
        &self,
        kin: &Kin,
        facts: Option<&Facts>,
        is_replaced: impl Fn(&InstanceId) -> bool,
    ) -> Vec<(&InstanceId, Given)> {
        let mut given = Vec::new();
        for (id, instance) in self.instances.iter().filter(|(_, i)| !i.is_stopped()) {
            let pids = kin.of(id, instance);
            let asked = instance.run.gpus.as_ref().and_then(|need| need.memory_mib);
            let is_replaced = is_replaced(id);
            let of = |uuid: &String, memory_mib| {
                (id, Given { uuid: uuid.clone(), memory_mib, pids: pids.clone(), is_replaced })
            };
            given.extend(instance.gpus.iter().map(|uuid| of(uuid, asked)));
            let used = facts.into_iter().flat_map(|facts| &facts.processes);
            let used: BTreeSet<&String> =
                used.filter(|process| pids.contains(&process.pid)).map(|process| &process.uuid).collect();
            // what it has of them is not free already
            given.extend(used.into_iter().filter(|uuid| !instance.gpus.contains(uuid)).map(|uuid| of(uuid, Some(0))));
        }
        given
    }

    /// Whether it is of the same service and environment as `one`, of another release.
    fn is_other_release(&self, one: &Life, id: &InstanceId) -> bool {
        let (Some(of), Some(other)) = (one.among(self), self.instances.get(id)) else { return false };
        other.environment == of.environment
            && other.release.service == of.release.service
            && other.release.id != of.release.id
    }

    /// Those of them that are only kept for a way back, each with how long what it answers may go on; none, where `one` is not to be started
    /// any more.
    fn warm(&self, one: &Life, among: &BTreeSet<InstanceId>) -> Vec<(InstanceId, Duration)> {
        if one.among(self).is_none_or(|instance| instance.stopping) {
            return Vec::new();
        }
        let warm = self.instances.iter().filter(|(id, _)| among.contains(*id) && self.is_warm(one, id));
        warm.filter_map(|(id, i)| Some((id.clone(), Duration::from_millis(i.retire?.drain_ms)))).collect()
    }

    /// Whether it is such a one that is only kept for a way back, until its time is over.
    fn is_warm(&self, one: &Life, id: &InstanceId) -> bool {
        let is_retiring = self.instances.get(id).is_some_and(|i| i.retire.is_some() && !i.stopping);
        is_retiring && self.is_other_release(one, id) && !self.is_awaited(id)
    }
}

fn in_words(reasons: &[Reason]) -> String {
    reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
