//! Machines that runs rent: who asks for one, what changes of it, and which server speaks to the cloud. What is asked of the cloud is
//! written down here first; `crate::lambda` asks.

use std::time::Duration;

use segue_pipelines::machines::{
    self, Holder, Launched, Look, Place, REMEMBERED, Standing, fate, idle_since, may_rent, next_fate,
};
use segue_schemas::{
    id::{Epoch, JobId},
    machine::{AskMachine, Machine, MachineAnswer, MachineState, ReleaseMachine},
    price::Price,
    time::Timestamp,
    worker_api::Reported,
};
use uuid::Uuid;

use crate::store::{
    Bell, RentedMachine, Result, Store, StoreError, Tx,
    tables::{
        jobs,
        machines::{self as rows, Keeper},
        runs,
    },
};

/// Machines that one job may have at a time.
const MOST_OF_A_JOB: usize = 8;
/// Asks that one job may make in all.
const MOST_ASKS: u64 = 100;
/// How long a server that has said so alone speaks to the cloud.
const KEPT_FOR: Duration = Duration::from_secs(90);
/// How exactly it is known when somebody was last heard to wait.
const HEARD_EVERY: Duration = Duration::from_secs(15);

/// What a server that speaks to the cloud has to look after.
#[derive(Debug, Clone, Default)]
pub struct KeptMachines {
    /// Those that may be there, or are asked for, the oldest first.
    pub open: Vec<RentedMachine>,
    /// Those that ended lately: a launch whose answer was lost may still show up.
    pub remembered: Vec<RentedMachine>,
    /// When time alone decides on one of them next.
    pub next_fate: Option<Timestamp>,
    /// When a launch was asked for last.
    pub launched_at: Timestamp,
}

/// Whether this server is the one that speaks to the cloud.
#[derive(Debug, Clone)]
pub enum Keeping {
    /// It is.
    Here(KeptMachines),
    /// Another one is, until then.
    Elsewhere(Timestamp),
}

/// What became known of a machine, or is decided of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MachineChange {
    /// A launch is about to be asked for.
    Launch {
        /// The type.
        instance_type: String,
        /// The region.
        region: String,
        /// What an hour costs.
        price: Price,
    },
    /// It is there and starts.
    Boots {
        /// The cloud's id.
        instance: String,
    },
    /// It can be used.
    Ready {
        /// The cloud's id.
        instance: String,
        /// Its address.
        ip: String,
    },
    /// Its launch was not made, for this reason; another may be.
    NotLaunched(String),
    /// Its launch was refused for good.
    Refused(String),
    /// It waits for a launch, for this reason.
    Waits(String),
    /// It is to go.
    End(String),
    /// There is none, and none comes.
    Ended,
}

/// What a change goes by: it changes nothing where that is no longer so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// Everything is as it was seen.
    Version(u64),
    /// This launch is still the newest: what became of it is a fact, whatever was decided meanwhile.
    Launch(u32),
}

impl RentedMachine {
    /// What is known of it, for a look at the cloud's list.
    #[must_use]
    pub fn place(&self) -> Place<'_> {
        let Machine { name, state, instance, launched_at, .. } = &self.record;
        let launched = launched_at.filter(|_| self.launches > 0).map(|at| Launched { number: self.launches, at });
        Place { name, state: *state, instance: instance.as_deref(), launched }
    }

    /// Whether a former try of the same step asked for it, and never had it.
    fn is_left_by(&self, ask: &AskMachine) -> bool {
        use MachineState::{Booting, Launching, Wanted};
        matches!(self.record.state, Wanted | Launching | Booting)
            && (self.step, self.epoch, &self.request) == (ask.step, ask.epoch, &ask.request)
    }

    fn standing(&self, holder: Holder, up_since: Timestamp) -> Standing {
        Standing {
            state: self.record.state,
            holder,
            asked_at: self.record.asked_at,
            heard_at: self.heard_at.max(up_since),
            launched_at: self.record.launched_at,
            idle_since: self.idle_since,
            wait_for_capacity: self.request.wait_for_capacity,
            idle_shutdown: self.request.idle_shutdown,
            lifetime: self.request.lifetime,
        }
    }

    fn becomes(&mut self, state: MachineState, reason: Option<String>, now: Timestamp) -> Result<()> {
        let from = self.record.state;
        if !from.may_become(state) {
            let text =
                format!("the machine {} is {} and can't become {}", self.record.name, from.as_str(), state.as_str());
            return Err(StoreError::Conflict(text));
        }
        self.record.state = state;
        self.record.reason = reason;
        self.record.ended_at = (state == MachineState::Ended).then_some(now);
        self.version += 1;
        Ok(())
    }

    /// It is to go: at once where there is none.
    fn end(&mut self, reason: String, now: Timestamp) -> Result<()> {
        match self.record.state {
            MachineState::Ending | MachineState::Ended => Ok(()),
            MachineState::Wanted => self.becomes(MachineState::Ended, Some(reason), now),
            _ => self.becomes(MachineState::Ending, Some(reason), now),
        }
    }

    /// What a change makes of it.
    fn apply(&mut self, change: MachineChange, now: Timestamp) -> Result<()> {
        let is_to_go = self.record.state == MachineState::Ending;
        match change {
            MachineChange::Launch { instance_type, region, price } => {
                self.becomes(MachineState::Launching, None, now)?;
                self.launches += 1;
                let record = &mut self.record;
                (record.instance, record.ip, record.launched_at) = (None, None, Some(now));
                record.expires_at = Some(now + self.request.lifetime.0);
                (record.instance_type, record.region) = (Some(instance_type), Some(region));
                record.price_per_hour = Some(price);
                Ok(())
            }
            // what was found of one that is to go is what is to be terminated
            MachineChange::Boots { instance } | MachineChange::Ready { instance, .. } if is_to_go => {
                self.record.instance = Some(instance);
                self.version += 1;
                Ok(())
            }
            MachineChange::Boots { instance } => {
                self.record.instance = Some(instance);
                self.becomes(MachineState::Booting, None, now)
            }
            MachineChange::Ready { instance, ip } => {
                (self.record.instance, self.record.ip, self.record.ready_at) = (Some(instance), Some(ip), Some(now));
                self.becomes(MachineState::Ready, None, now)
            }
            MachineChange::NotLaunched(reason) if !is_to_go => {
                (self.record.launched_at, self.record.expires_at) = (None, None);
                self.becomes(MachineState::Wanted, Some(reason), now)
            }
            MachineChange::Refused(reason) if !is_to_go => self.becomes(MachineState::Ended, Some(reason), now),
            MachineChange::NotLaunched(_) | MachineChange::Refused(_) | MachineChange::Ended => {
                let reason = self.record.reason.clone();
                self.becomes(MachineState::Ended, reason, now)
            }
            MachineChange::Waits(reason) => {
                if self.record.state == MachineState::Wanted && self.record.reason.as_ref() != Some(&reason) {
                    self.record.reason = Some(reason);
                    self.version += 1;
                }
                Ok(())
            }
            MachineChange::End(reason) => self.end(reason, now),
        }
    }
}

/// The change that follows from a look at the cloud's list, where one does.
#[must_use]
pub fn change_of(look: Look) -> Option<MachineChange> {
    match look {
        Look::Same | Look::Ask { .. } => None,
        Look::Boots { instance } | Look::Found { instance } => Some(MachineChange::Boots { instance }),
        Look::Ready { instance, ip } => Some(MachineChange::Ready { instance, ip }),
        Look::Again => {
            Some(MachineChange::NotLaunched("its launch was not answered, and Lambda shows no such instance".into()))
        }
        Look::End(reason) => Some(MachineChange::End(reason)),
        Look::Ended => Some(MachineChange::Ended),
    }
}

impl Store {
    /// Asks for a machine for a job that is held under the epoch, or says how the one stands that this ask was for.
    ///
    /// # Errors
    /// [`StoreError::Refused`] where the run may not have what it asks for.
    pub async fn ask_machine(&self, job: JobId, ask: AskMachine) -> Result<MachineAnswer> {
        let store = self.clone();
        self.write(move |tx| {
            Box::pin(async move {
                let held = jobs::load_held(&mut tx.conn, job, ask.epoch).await?.record;
                if let Some(mut known) = rows::of_ask(&mut tx.conn, job, ask.ask).await? {
                    if tx.now.since(known.heard_at) >= HEARD_EVERY {
                        known.heard_at = tx.now;
                        rows::save(&mut tx.conn, &known).await?;
                    }
                    return Ok(answer(known, tx.now));
                }
                let run = runs::load(&mut tx.conn, held.run).await?.record;
                let lambda = &store.config().lambda;
                let ssh_key =
                    may_rent(&ask.request, lambda, &run.repository, run.trusted).map_err(StoreError::Refused)?;
                if rows::asks(&mut tx.conn, job).await? >= MOST_ASKS {
                    return Err(StoreError::Refused(format!("a job asks for {MOST_ASKS} machines at most")));
                }
                let mut others = rows::of_job(&mut tx.conn, job).await?;
                // a try of the step that was ended while it waited: the next one goes on waiting for the same machine
                if let Some(awaited) = others.iter_mut().find(|other| other.is_left_by(&ask)) {
                    (awaited.ask, awaited.heard_at) = (ask.ask, tx.now);
                    if awaited.record.state == MachineState::Wanted {
                        // this try waits for capacity as long as it was told to, whatever the one before has used of that
                        awaited.record.asked_at = tx.now;
                    }
                    rows::save(&mut tx.conn, awaited).await?;
                    return Ok(answer(awaited.clone(), tx.now));
                }
                // the step runs again because its job was begun anew, and nobody knows what became of the machine that it had
                for other in others.iter_mut().filter(|other| other.step == ask.step && other.epoch != ask.epoch) {
                    other.end("its job begins anew".into(), tx.now)?;
                    rows::save(&mut tx.conn, other).await?;
                }
                if others.iter().filter(|other| other.record.state != MachineState::Ending).count() >= MOST_OF_A_JOB {
                    return Err(StoreError::Refused(format!("a job has at most {MOST_OF_A_JOB} machines")));
                }
                let wanted = wanted(job, &held, &run.repository, ask, ssh_key, tx.now);
                rows::insert(&mut tx.conn, &wanted).await?;
                tx.ring(Bell::Machines);
                Ok(answer(wanted, tx.now))
            })
        })
        .await
    }

    /// How the machine of an ask stands.
    pub async fn machine_of_ask(&self, job: JobId, epoch: Epoch, ask: Uuid) -> Result<MachineAnswer> {
        let mut conn = self.read().await?;
        jobs::load_held(&mut conn, job, epoch).await?;
        let known = rows::of_ask(&mut conn, job, ask).await?;
        Ok(answer(known.ok_or_else(|| StoreError::not_found("machine", ask))?, self.now()))
    }

    /// Gives a machine of the job's run back.
    pub async fn release_machine(&self, job: JobId, release: ReleaseMachine) -> Result<Reported> {
        self.write(move |tx| {
            Box::pin(async move {
                let held = jobs::load_held(&mut tx.conn, job, release.epoch).await?.record;
                let found = rows::called(&mut tx.conn, &release.machine).await?;
                let found = found.filter(|one| one.record.run == held.run && one.attempt == held.attempt);
                let none = || StoreError::Refused(format!("this run has no machine `{}`", release.machine));
                end(tx, found.ok_or_else(none)?, "a step gave it back".into()).await?;
                Ok(Reported { cancel: held.cancel_requested })
            })
        })
        .await
    }

    /// Has a machine end, because a person wants it to.
    pub async fn end_machine(&self, word: String) -> Result<Machine> {
        self.write(move |tx| {
            Box::pin(async move {
                let found = rows::called(&mut tx.conn, &word).await?;
                let found = found.ok_or_else(|| StoreError::not_found("machine", &word))?;
                let ended = end(tx, found, "a person had it terminated".into()).await?;
                Ok(answer(ended, tx.now).machine)
            })
        })
        .await
    }

    /// Machines: those that may be there first, then the newest; and what is wrong with the way to the cloud.
    pub async fn machines(&self, limit: u32) -> Result<(Vec<Machine>, Option<String>)> {
        let mut conn = self.read().await?;
        let now = self.now();
        let all = rows::list(&mut conn, limit).await?.into_iter().map(|one| answer(one, now).machine).collect();
        Ok((all, rows::keeper(&mut conn).await?.and_then(|keeper| keeper.trouble)))
    }

    /// What this server has to look after, if it is the one that speaks to the cloud; those that have to go are told so. `up_since`: when
    /// it began, before which nobody could be heard. `is_well`: whether it could speak to the cloud the last time that it tried. One that
    /// could not does not stay the one: another gets a turn.
    pub async fn keep_machines(&self, up_since: Timestamp, is_well: bool) -> Result<Keeping> {
        self.write(move |tx| {
            Box::pin(async move {
                let there = rows::there(&mut tx.conn).await?;
                let since = Timestamp(tx.now.0.saturating_sub(i64::try_from(REMEMBERED.as_millis()).unwrap_or(0)));
                let remembered = rows::ended_since(&mut tx.conn, since).await?;
                if there.is_empty() && remembered.is_empty() {
                    return Ok(Keeping::Here(KeptMachines::default()));
                }
                let keeper = match take(tx, is_well).await? {
                    Ok(keeper) => keeper,
                    Err(until) => return Ok(Keeping::Elsewhere(until)),
                };
                let mut kept = KeptMachines { remembered, launched_at: keeper.launched_at, ..KeptMachines::default() };
                for (mut one, holder) in there {
                    let before = one.clone();
                    one.idle_since = idle_since(one.idle_since, holder, tx.now);
                    let standing = one.standing(holder, up_since);
                    match fate(&standing, tx.now) {
                        Some(reason) => one.end(reason, tx.now)?,
                        None => kept.next_fate = kept.next_fate.into_iter().chain(next_fate(&standing)).min(),
                    }
                    if one != before {
                        rows::save(&mut tx.conn, &one).await?;
                    }
                    if one.version != before.version {
                        tx.ring(Bell::Machines);
                    }
                    match one.record.state {
                        MachineState::Ended if one.launches > 0 => kept.remembered.push(one),
                        MachineState::Ended => {}
                        _ => kept.open.push(one),
                    }
                }
                Ok(Keeping::Here(kept))
            })
        })
        .await
    }

    /// Writes down what became known of a machine, or is about to be asked for; `None` where it stands otherwise than was thought. A launch
    /// is written down only while this server is the one that speaks to the cloud.
    pub async fn change_machine(
        &self,
        name: &str,
        basis: Basis,
        change: MachineChange,
    ) -> Result<Option<RentedMachine>> {
        let name = name.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                let Some(mut one) = rows::find(&mut tx.conn, &name).await? else { return Ok(None) };
                let is_so = match basis {
                    Basis::Version(version) => one.version == version,
                    Basis::Launch(number) => one.launches == number && one.record.state != MachineState::Ended,
                };
                if !is_so {
                    return Ok(None);
                }
                if matches!(change, MachineChange::Launch { .. }) {
                    let Ok(mut keeper) = take(tx, false).await? else { return Ok(None) };
                    keeper.launched_at = tx.now;
                    rows::save_keeper(&mut tx.conn, &keeper).await?;
                }
                let version = one.version;
                one.apply(change, tx.now)?;
                if one.version != version {
                    rows::save(&mut tx.conn, &one).await?;
                    tx.ring(Bell::Machines);
                }
                Ok(Some(one))
            })
        })
        .await
    }

    /// Keeps what is wrong with the way to the cloud, for people; `None`: nothing.
    pub async fn machine_trouble(&self, trouble: Option<String>) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                let Some(keeper) = rows::keeper(&mut tx.conn).await?.filter(|keeper| keeper.trouble != trouble) else {
                    return Ok(());
                };
                rows::save_keeper(&mut tx.conn, &Keeper { trouble, ..keeper }).await
            })
        })
        .await
    }
}

/// Has this server speak to the cloud, for longer only if it can; or says until when another one does.
async fn take(tx: &mut Tx, is_well: bool) -> Result<std::result::Result<Keeper, Timestamp>> {
    let server = tx.conn.server().unwrap_or(0);
    let known = rows::keeper(&mut tx.conn).await?;
    if let Some(other) = known.as_ref().filter(|keeper| keeper.server != server && keeper.until > tx.now)
        && tx.conn.server().is_some()
    {
        return Ok(Err(other.until));
    }
    let keeper = match known {
        Some(keeper) if keeper.server == server && !is_well => return Ok(Ok(keeper)),
        Some(keeper) => Keeper { server, until: tx.now + KEPT_FOR, ..keeper },
        None => Keeper { server, until: tx.now + KEPT_FOR, launched_at: Timestamp(0), trouble: None },
    };
    rows::save_keeper(&mut tx.conn, &keeper).await?;
    Ok(Ok(keeper))
}

async fn end(tx: &mut Tx, mut one: RentedMachine, reason: String) -> Result<RentedMachine> {
    one.end(reason, tx.now)?;
    rows::save(&mut tx.conn, &one).await?;
    tx.ring(Bell::Machines);
    Ok(one)
}

fn wanted(
    job: JobId,
    held: &crate::store::JobRecord,
    repository: &str,
    ask: AskMachine,
    ssh_key: String,
    now: Timestamp,
) -> RentedMachine {
    // nobody else's in the cloud's account is called so
    let digits = Uuid::new_v4().simple().to_string();
    RentedMachine {
        record: Machine {
            name: format!("segue-{}", &digits[..16]),
            state: MachineState::Wanted,
            repository: repository.to_owned(),
            run: held.run,
            job,
            instance: None,
            instance_type: None,
            region: None,
            ip: None,
            price_per_hour: None,
            cost: Price(0),
            reason: None,
            asked_at: now,
            launched_at: None,
            ready_at: None,
            expires_at: None,
            ended_at: None,
        },
        request: ask.request,
        ssh_key,
        attempt: held.attempt,
        ask: ask.ask,
        step: ask.step,
        epoch: ask.epoch,
        version: 1,
        launches: 0,
        heard_at: now,
        idle_since: None,
    }
}

fn answer(one: RentedMachine, now: Timestamp) -> MachineAnswer {
    let cost = machines::cost(&one.record, now);
    MachineAnswer { machine: Machine { cost, ..one.record }, version: one.version }
}
