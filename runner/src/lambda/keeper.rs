//! Launches what is wanted, looks after what is there, and terminates what is to go until Lambda shows that it is gone. Everything that
//! it goes by is in the store, so a new start goes on where the last one ended: recovery is a look like every other.

use std::{collections::HashMap, sync::Arc, time::Duration};

use segue_pipelines::machines::{Choice, Look, Offer, SeenStatus, choose, instance_name, look, may_rent};
use segue_schemas::{config::Config, machine::MachineState, time::Timestamp};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Lambda, LambdaError, Launch};
use crate::{
    control::{Basis, Keeping, KeptMachines, MachineChange, change_of},
    outgoing::at,
    store::{Bell, RentedMachine, Store, StoreError},
};

/// How often what starts or is to go is looked at, at least.
const SOON: Duration = Duration::from_secs(10);
/// How often it is looked whether a launch shows up whose machine has ended.
const SELDOM: Duration = Duration::from_secs(300);
/// For how long a region is passed over that had no room after all.
const PASSED_OVER: Duration = Duration::from_secs(30);
/// The pauses after what can't be done now; they double.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Keeps the machines of one server, or of those that share its database.
pub struct Keeper {
    store: Store,
    config: Arc<Config>,
    lambda: Lambda,
    up_since: Timestamp,
    /// When the list was asked for last, and is to be next.
    last_list: Option<Instant>,
    next_list: Instant,
    passed_over: HashMap<(String, String), Instant>,
    trouble: Option<String>,
    /// Whether it is written down how the last look ended: an earlier start, or another server, may have left something else.
    is_told: bool,
    /// Whether this server is the one that speaks to the cloud.
    is_keeper: bool,
}

/// Why a look at everything was not finished.
#[derive(Debug, thiserror::Error)]
enum PassError {
    #[error(transparent)]
    Lambda(#[from] LambdaError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Keeper {
    /// One that has done nothing yet.
    ///
    /// # Errors
    /// As [`Lambda::new`].
    pub fn new(store: Store) -> Result<Self, LambdaError> {
        let config = store.config().clone();
        let lambda = Lambda::new(&config.lambda)?;
        let up_since = store.now();
        let (next_list, passed_over) = (Instant::now(), HashMap::new());
        let (last_list, trouble) = (None, None);
        let (is_told, is_keeper) = (false, false);
        Ok(Self { store, config, lambda, up_since, last_list, next_list, passed_over, trouble, is_told, is_keeper })
    }

    /// Keeps them until `stop`. What is under way then is looked at after the next start.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut bell = self.store.doorbell().listen(Bell::Machines);
        let mut pause = PAUSES.0;
        loop {
            let passed = tokio::select! {
                passed = self.pass() => passed,
                () = stop.cancelled() => return,
            };
            let (next, trouble) = match passed {
                Ok(next) => {
                    pause = PAUSES.0;
                    (next, None)
                }
                Err(error) => {
                    let wait = if let PassError::Lambda(LambdaError::Busy { pause }) = &error { *pause } else { pause };
                    pause = (pause * 2).min(PAUSES.1);
                    (Some(Instant::now() + wait), Some(error.to_string()))
                }
            };
            self.tell(trouble).await;
            // after what can't be done a bell changes nothing
            let is_well = self.trouble.is_none();
            tokio::select! {
                () = bell.rung(), if is_well => {}
                () = at(next) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Says once what is wrong, and once that it is not any more.
    async fn tell(&mut self, trouble: Option<String>) {
        if trouble != self.trouble {
            match &trouble {
                Some(problem) => tracing::warn!(problem, "rented machines can't be looked after now; tried again"),
                None => tracing::info!("rented machines are looked after again"),
            }
            (self.trouble, self.is_told) = (trouble, false);
        }
        if self.is_told || !self.is_keeper {
            return;
        }
        match self.store.machine_trouble(self.trouble.clone()).await {
            Ok(()) => self.is_told = true,
            Err(error) => tracing::warn!(%error, "what is wrong with rented machines can't be written down"),
        }
    }

    /// One look at everything; when the next one is due.
    async fn pass(&mut self) -> Result<Option<Instant>, PassError> {
        let kept = match self.store.keep_machines(self.up_since, self.trouble.is_none()).await? {
            Keeping::Here(kept) => kept,
            Keeping::Elsewhere(until) => {
                (self.is_keeper, self.is_told) = (false, false);
                // what kept it from speaking to the cloud may be over by then
                self.trouble = None;
                return Ok(Some(self.instant(until)));
            }
        };
        self.is_keeper = true;
        if kept.open.is_empty() && kept.remembered.is_empty() {
            return Ok(None);
        }
        let pace = pace(&kept, self.config.lambda.look_every.0);
        if let Some((last, pace)) = self.last_list.zip(pace) {
            // what has to go since then is not left until what was ready would have been looked at
            self.next_list = self.next_list.min(last + pace);
        }
        if pace.is_none() {
            self.next_list = Instant::now();
        } else if Instant::now() >= self.next_list {
            self.look(&kept).await?;
            // what was seen may have made room
            return Ok(Some(Instant::now()));
        }
        let launch = self.launch(&kept).await?;
        let fate = kept.next_fate.map(|next| self.instant(next));
        let listed = Some(self.next_list).filter(|_| pace.is_some());
        Ok([launch, fate, listed].into_iter().flatten().min())
    }

    /// Compares what is known with what Lambda shows.
    async fn look(&mut self, kept: &KeptMachines) -> Result<(), PassError> {
        let list = self.lambda.instances().await?;
        self.last_list = Some(Instant::now());
        let settle = self.config.lambda.settle.0;
        let (mut to_end, mut failed) = (Vec::new(), None);
        for one in kept.open.iter().chain(&kept.remembered) {
            let (mut found, strays) = look(&one.place(), &list, self.store.now(), settle);
            if let Look::Ask { instance } = &found {
                found = match self.lambda.instance(instance).await {
                    // one that can't be asked for is no reason to leave the others
                    Err(error) => {
                        unless_for_all(error, &mut failed)?;
                        Look::Same
                    }
                    Ok(Some(seen)) if seen.status != SeenStatus::Gone => {
                        if one.record.state == MachineState::Ending && seen.status != SeenStatus::Terminating {
                            to_end.push(instance.clone());
                        }
                        Look::Same
                    }
                    _ if one.record.state == MachineState::Ending => Look::Ended,
                    _ => Look::End("it is gone, and not by a word from here: a person, or Lambda".into()),
                };
            }
            if let Some(change) = change_of(found) {
                self.change(one, Basis::Version(one.version), change).await?;
            }
            to_end.extend(strays);
        }
        self.next_list = Instant::now() + pace(kept, self.config.lambda.look_every.0).unwrap_or(SELDOM);
        for instance in to_end {
            match self.lambda.terminate(&instance).await {
                Ok(()) => tracing::info!(instance, "a rented machine is told to end"),
                // the next look shows it gone
                Err(error) if error.is_not_there() => {}
                Err(error) => {
                    tracing::warn!(instance, %error, "a rented machine does not end; it is told again");
                    unless_for_all(error, &mut failed)?;
                }
            }
        }
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Launches the first that is wanted and can be had; when it is to be tried again.
    async fn launch(&mut self, kept: &KeptMachines) -> Result<Option<Instant>, PassError> {
        let wanted: Vec<&RentedMachine> =
            kept.open.iter().filter(|one| one.record.state == MachineState::Wanted).collect();
        if wanted.is_empty() {
            return Ok(None);
        }
        let limits = &self.config.lambda;
        let again = Instant::now() + limits.look_every.0.min(SOON);
        let there = kept.open.iter().filter(|one| one.record.state.may_cost()).count();
        let most = usize::try_from(limits.max_machines).unwrap_or(usize::MAX);
        if there >= most {
            let ending = kept.open.iter().filter(|one| one.record.state == MachineState::Ending).count();
            for one in wanted {
                let reason = format!("{there} machines are rented, and there may be {most} (`lambda.max-machines`)");
                if there - ending < most {
                    // one is about to go, mostly that of the very job that asks once more
                    self.change(one, Basis::Version(one.version), MachineChange::Waits(reason)).await?;
                } else {
                    self.wait_or_end(one, reason).await?;
                }
            }
            return Ok(Some(again));
        }
        let may_launch = kept.launched_at + limits.launch_every.0;
        if may_launch > self.store.now() {
            return Ok(Some(self.instant(may_launch)));
        }
        let offers = match self.lambda.types().await {
            Err(error @ (LambdaError::NoKey(_) | LambdaError::Key { .. })) => {
                for one in wanted {
                    self.change(one, Basis::Version(one.version), MachineChange::End(error.to_string())).await?;
                }
                return Err(error.into());
            }
            offers => offers?,
        };
        self.passed_over.retain(|_, until| *until > Instant::now());
        for one in wanted {
            if self.launch_one(one, &offers).await? {
                return Ok(Some(Instant::now()));
            }
        }
        Ok(Some(again))
    }

    /// Whether something of it has changed.
    async fn launch_one(&mut self, one: &RentedMachine, offers: &[Offer]) -> Result<bool, PassError> {
        // the operator may have changed their mind since it was asked for
        if let Err(reason) = may_rent(&one.request, &self.config.lambda, &one.record.repository, true) {
            return self.change(one, Basis::Version(one.version), MachineChange::End(reason)).await;
        }
        let passed_over: Vec<_> = self.passed_over.keys().cloned().collect();
        let (instance_type, region, price) = match choose(&one.request, &self.config.lambda, offers, &passed_over) {
            Choice::Launch { instance_type, region, price } => (instance_type, region, price),
            Choice::NoCapacity(reason) => return self.wait_or_end(one, reason).await,
            Choice::Refused(reason) => {
                return self.change(one, Basis::Version(one.version), MachineChange::End(reason)).await;
            }
        };
        // from here on a machine may be there under this name, whatever becomes of this server
        let intent = MachineChange::Launch { instance_type: instance_type.clone(), region: region.clone(), price };
        let Some(written) = self.store.change_machine(&one.record.name, Basis::Version(one.version), intent).await?
        else {
            return Ok(true);
        };
        let name = instance_name(&written.record.name, written.launches);
        let launch = Launch { name: &name, instance_type: &instance_type, region: &region, ssh_key: &written.ssh_key };
        tracing::info!(name, instance_type, region, %price, run = %one.record.run, "a machine is rented");
        let (launched, error) = match self.lambda.launch(&launch).await {
            Ok(instance) => (MachineChange::Boots { instance }, None),
            Err(error) if error.is_lack_of_capacity() => {
                self.passed_over.insert((instance_type.clone(), region.clone()), Instant::now() + PASSED_OVER);
                (MachineChange::NotLaunched(format!("there was no capacity for {instance_type} in {region}")), None)
            }
            Err(error @ LambdaError::Unanswered { .. }) => {
                // it is looked for by its name
                self.next_list = Instant::now();
                return Err(error.into());
            }
            Err(error @ (LambdaError::Refused { .. } | LambdaError::Key { .. } | LambdaError::NoKey(_))) => {
                (MachineChange::Refused(error.to_string()), None)
            }
            Err(error @ (LambdaError::Busy { .. } | LambdaError::Away { .. })) => {
                (MachineChange::NotLaunched(error.to_string()), Some(error))
            }
        };
        self.next_list = Instant::now() + self.config.lambda.look_every.0.min(SOON);
        self.change(&written, Basis::Launch(written.launches), launched).await?;
        error.map_or(Ok(true), |error| Err(error.into()))
    }

    async fn wait_or_end(&self, one: &RentedMachine, reason: String) -> Result<bool, PassError> {
        let change = if one.request.wait_for_capacity.0.is_zero() {
            MachineChange::End(format!("{reason}, and it was not to be waited for (`wait-for-capacity`)"))
        } else {
            MachineChange::Waits(reason)
        };
        self.change(one, Basis::Version(one.version), change).await?;
        Ok(false)
    }

    async fn change(&self, one: &RentedMachine, basis: Basis, change: MachineChange) -> Result<bool, PassError> {
        Ok(self.store.change_machine(&one.record.name, basis, change).await?.is_some())
    }

    /// A time of the store, by the clock that waits go by.
    fn instant(&self, at: Timestamp) -> Instant {
        // at least a moment: a clock that stands still must not make this spin
        Instant::now() + at.since(self.store.now()).max(Duration::from_millis(5))
    }
}

/// Puts down what went wrong with one machine; what would go wrong with every other one as well ends the look.
fn unless_for_all(error: LambdaError, failed: &mut Option<LambdaError>) -> Result<(), LambdaError> {
    match error {
        LambdaError::NoKey(_) | LambdaError::Key { .. } | LambdaError::Busy { .. } | LambdaError::Away { .. } => {
            Err(error)
        }
        LambdaError::Refused { .. } | LambdaError::Unanswered { .. } => {
            failed.get_or_insert(error);
            Ok(())
        }
    }
}

/// How often the list is asked for; `None`: it need not be.
fn pace(kept: &KeptMachines, look_every: Duration) -> Option<Duration> {
    let soon = |one: &RentedMachine| match one.record.state {
        MachineState::Launching | MachineState::Booting | MachineState::Ending => true,
        // an earlier launch may show up
        MachineState::Wanted => one.launches > 0,
        MachineState::Ready | MachineState::Ended => false,
    };
    if kept.open.iter().any(soon) {
        Some(look_every.min(SOON))
    } else if kept.open.iter().any(|one| one.record.state == MachineState::Ready) {
        Some(look_every)
    } else {
        (!kept.remembered.is_empty()).then_some(SELDOM)
    }
}
