//! The life of an instance: prepared, started, started again when it ends by itself, probed, retired, drained, stopped.

use std::{sync::Arc, time::Duration};

use http::Method;
use segue_schemas::{
    deploy::Health,
    host_api::{
        ArtifactSource, DrainInstance, DrainResult, HostError, HostErrorCode, Instance, Probe, ProbeResult,
        RetireInstance, StartInstance, StopInstance,
    },
    id::{Epoch, InstanceId, is_name},
};
use tokio::{net::TcpStream, time::Instant};

use super::{
    Host,
    clock::{Deadline, now},
    data::{self, Furnished},
    gpus::Placed,
    output,
    process::{self, Launch, Process},
    refusal,
    running::{Cleared, Running},
    state::{InstanceRecord, Nap, Recorded, Retire, RunSpec},
    unix_http,
};

/// The pause before an instance that ended by itself is started again, the first time; it doubles with each end.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest such pause.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// An instance that lived this long was well: the pause is the first one again.
const WELL_AFTER: Duration = Duration::from_secs(60);

/// The most a probe or a wait may ask for.
const MAX_WAIT: Duration = Duration::from_secs(24 * 3600);

impl Host {
    /// `POST /v1/instances`.
    pub(super) async fn start_instance(self: &Arc<Self>, start: StartInstance) -> Result<Instance, HostError> {
        check_start(&start)?;
        if start.container.is_none() && self.docker.is_elsewhere() {
            let message = format!(
                "`{}` is a process, and this host's services run at the engine at {}: have it run as a container (`container` in its file), \
                 or at a host of that machine (`segue host invite`)",
                start.fence.service,
                self.docker.address()
            );
            return Err(refusal(HostErrorCode::BadRequest, message));
        }
        if start.sleep_after_ms.is_some() && !self.router.can_hold() {
            let message = format!(
                "`{}` may sleep, and this host's router can't hold its requests meanwhile; leave `sleep-after` out (`0s` for previews), \
                 or give the host `router: embedded`",
                start.fence.service
            );
            return Err(refusal(HostErrorCode::BadRequest, message));
        }
        let id = start.instance.clone();
        // One that was stopped may be asked for again: a rollout that goes back needs it under its old name.
        if let Some(existing) = self.store.current().instances.get(&id).filter(|i| !i.is_stopped()) {
            if existing.release != start.release || existing.environment != start.fence.environment {
                let message = format!("instance `{id}` is already here with another release; choose another name");
                return Err(refusal(HostErrorCode::BadRequest, message));
            }
            // who rolls out wants it running
            self.wake(&start.fence.environment, &start.fence.service).await?;
            return self.prepared(&id).await;
        }
        let host = self.clone();
        // In a task: a start that was begun is finished even when the caller goes away.
        let begun = tokio::spawn(async move { host.begin(start).await });
        begun.await.map_err(|e| refusal(HostErrorCode::Unavailable, e.to_string()))??;
        self.prepared(&id).await
    }

    async fn begin(self: Arc<Self>, start: StartInstance) -> Result<(), HostError> {
        let id = start.instance.clone();
        let (digest, image) = (start.release.digest.clone(), start.release.image.clone());
        let source = start.artifact.clone();
        let recorded = self.store.current();
        let before = recorded.kept_run(&start.fence.environment, &start.release).filter(|_| start.as_before);
        let run = before.cloned().unwrap_or_else(|| RunSpec::of(&start));
        let (named, env) = (id.clone(), start.fence.environment.clone());
        let begun = self
            .store
            .change(move |recorded| {
                recorded.admit(&start.fence)?;
                if recorded.instances.get(&named).is_some_and(|i| !i.is_stopped()) {
                    return Ok(None);
                }
                recorded.uses_engine |= run.is_container();
                recorded.keep(&env, &start.release, &run, now());
                let life = recorded.add_instance(named, env, start.release, run, false)?;
                Ok(Some((life, recorded.forget_old())))
            })
            .await?;
        // Another call with this name came between; it goes on with it.
        let Some((life, forgotten)) = begun else { return Ok(()) };
        let one = Life { id: id.clone(), life };
        self.tidy(&forgotten);
        let prepared = match source {
            ArtifactSource::Image => self.have_image(&id, image.as_deref()).await,
            source => self.releases.prepare(&digest, source, self.link.as_deref()).await,
        };
        let placed = match prepared {
            Ok(()) => match self.have_gpus(&one).await? {
                Placed::Ready | Placed::Gone => Ok(()),
                Placed::Refused(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        if let Err(error) = placed {
            let forget = self.store.change(move |recorded| {
                if one.among(recorded).is_some() {
                    recorded.instances.shift_remove(&one.id);
                }
                recorded.kept.retain(|k| k.release.digest != digest || k.good);
                Ok(())
            });
            forget.await?;
            return Err(error);
        }
        self.note(&one, |i| i.prepared = true).await?;
        self.supervise(id, None);
        Ok(())
    }

    /// An instance once it is no longer being prepared.
    async fn prepared(&self, id: &InstanceId) -> Result<Instance, HostError> {
        let mut watch = self.store.watch();
        let started = |recorded: &Arc<Recorded>| {
            recorded
                .instances
                .get(id)
                .is_none_or(|i| i.process.is_some() || i.failed.is_some() || i.last_exit.is_some() || i.stopping)
        };
        let recorded = watch.wait_for(started).await.map_err(|e| refusal(HostErrorCode::Unavailable, e.to_string()))?;
        match recorded.instances.get(id) {
            Some(_) => self.shown(&recorded, id),
            None => {
                let message = format!("the artifact of instance `{id}` could not be had; start it again");
                Err(refusal(HostErrorCode::Artifact, message))
            }
        }
    }

    /// `GET /v1/instances/{id}`.
    pub(super) async fn instance(&self, id: &InstanceId, wait: Duration) -> Result<Instance, HostError> {
        let before = self.shown(&self.store.current(), id)?;
        if wait.is_zero() {
            return Ok(before);
        }
        let mut watch = self.store.watch();
        let changed = |recorded: &Arc<Recorded>| match self.shown(recorded, id) {
            Ok(now) => now.state != before.state || now.pid != before.pid,
            Err(_) => true,
        };
        let _ = tokio::time::timeout(wait.min(MAX_WAIT), watch.wait_for(changed)).await;
        self.shown(&self.store.current(), id)
    }

    /// `POST /v1/instances/{id}/probe`.
    pub(super) async fn probe(&self, id: &InstanceId, probe: &Probe) -> Result<ProbeResult, HostError> {
        let recorded = self.store.current();
        let instance = recorded.instance(id)?;
        let result = probe_once(instance, &probe.path, Duration::from_millis(probe.timeout_ms).min(MAX_WAIT)).await;
        // it may be its GPUs
        if !instance.gpus.is_empty() && result.status.is_none_or(|status| status >= 400) {
            self.gpus_within_wanted.notify_one();
        }
        Ok(result)
    }

    /// `POST /v1/instances/{id}/retire`.
    pub(super) async fn retire(&self, id: InstanceId, retire: RetireInstance) -> Result<Instance, HostError> {
        let shown = id.clone();
        let change = self.store.change(move |recorded| {
            check_owner(recorded, &id, &retire.fence.environment, &retire.fence.service)?;
            recorded.admit(&retire.fence)?;
            let deadline = Deadline::after(Duration::from_millis(retire.after_ms));
            recorded.instance_mut(&id)?.retire = Some(Retire { deadline, drain_ms: retire.drain_ms });
            Ok(())
        });
        change.await?;
        self.shown(&self.store.current(), &shown)
    }

    /// `POST /v1/instances/{id}/drain`.
    pub(super) async fn drain(&self, id: &InstanceId, drain: &DrainInstance) -> Result<DrainResult, HostError> {
        let recorded = self.store.current();
        recorded.instance(id)?;
        if let Some(route) = recorded.serving(id) {
            let message = format!(
                "instance `{id}` still gets traffic of {} in {} and would never be drained; take its weight first",
                route.service, route.environment
            );
            return Err(refusal(HostErrorCode::BadRequest, message));
        }
        let limit = Duration::from_millis(drain.limit_ms).min(MAX_WAIT);
        Ok(DrainResult { in_flight: self.router.drain(id.as_str(), limit).await })
    }

    /// `POST /v1/instances/{id}/stop`.
    pub(super) async fn stop(&self, id: InstanceId, stop: StopInstance) -> Result<Instance, HostError> {
        let stopped = id.clone();
        let change = self.store.change(move |recorded| {
            check_owner(recorded, &id, &stop.fence.environment, &stop.fence.service)?;
            recorded.admit(&stop.fence)?;
            if let Some(route) = recorded.serving(&id) {
                let message = format!(
                    "instance `{id}` still gets traffic of {} in {}; give it to another one first",
                    route.service, route.environment
                );
                return Err(refusal(HostErrorCode::BadRequest, message));
            }
            recorded.send_away(&id)
        });
        change.await?;
        self.has_stopped(&stopped).await
    }

    /// Waits for the end of an instance that was told to stop.
    pub(super) async fn has_stopped(&self, id: &InstanceId) -> Result<Instance, HostError> {
        let mut watch = self.store.watch();
        let stopped = |recorded: &Arc<Recorded>| recorded.instances.get(id).is_none_or(InstanceRecord::is_stopped);
        let recorded = watch.wait_for(stopped).await.map_err(|e| refusal(HostErrorCode::Unavailable, e.to_string()))?;
        self.shown(&recorded, id)
    }

    /// Drains and stops an instance whose time has come; one that has traffic again is left alone.
    pub(super) async fn retire_now(self: Arc<Self>, id: InstanceId) {
        self.until_carried().await;
        let named = id.clone();
        let taken_out = self.store.change(move |recorded| {
            let serves = recorded.serving(&named).is_some();
            let instance = recorded.instance_mut(&named)?;
            if serves {
                instance.retire = None;
                return Ok(None);
            }
            let drain = instance.retire.map(|r| Duration::from_millis(r.drain_ms));
            recorded.take_from_fallbacks(&named);
            Ok(drain)
        });
        match taken_out.await {
            Ok(Some(limit)) => {
                let cut = self.router.drain(id.as_str(), limit).await;
                tracing::info!(instance = %id, cut, "retired");
                let named = id.clone();
                let stop = self.store.change(move |recorded| match recorded.serving(&named) {
                    Some(_) => Ok(()),
                    None => recorded.send_away(&named),
                });
                if let Err(error) = stop.await {
                    tracing::error!(instance = %id, %error, "it can't be retired");
                }
            }
            Ok(None) => {}
            Err(error) => tracing::error!(instance = %id, %error, "it can't be retired"),
        }
        self.retiring.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&id);
    }

    /// Asks an instance's health path until it is well; whether it is.
    pub(super) async fn wait_until_well(&self, id: &InstanceId, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        // A service tells nobody that it is ready: it has to be asked, quickly at first.
        let mut pause = Duration::from_millis(5);
        loop {
            let recorded = self.store.current();
            let Some(instance) = recorded.instances.get(id).filter(|i| i.is_usable()) else { return false };
            let Health { path, timeout, interval, .. } = &instance.run.health;
            if instance.process.is_some() && !instance.is_ending {
                let answer = probe_once(instance, path, timeout.0.min(limit)).await;
                if answer.status.is_some_and(|s| (200..400).contains(&s)) {
                    return true;
                }
            }
            if Instant::now() + pause >= deadline {
                return false;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(interval.0.max(Duration::from_millis(5)));
        }
    }

    /// Looks after an instance in a task of its own, until it has stopped or could not be started.
    pub(super) fn supervise(self: &Arc<Self>, id: InstanceId, found: Option<Running>) {
        let host = self.clone();
        let Some(life) = self.store.current().instances.get(&id).map(|i| i.life) else { return };
        tokio::spawn(async move {
            if let Err(error) = host.look_after(&Life { id: id.clone(), life }, found).await {
                // The record can't be written, so nothing more is done to the world: what runs runs on.
                tracing::error!(instance = %id, %error, "the instance is no longer looked after");
            }
            // of what it was begun with, and of what it shared with others
            host.sweep_wanted.notify_one();
        });
    }

    /// Whether a process ends because its instance sleeps still: whoever wakes it from then on waits for the next process.
    async fn begins_to_end(&self, one: &Life) -> Result<bool, HostError> {
        let of = one.clone();
        let begins = self.store.change_regardless(move |recorded| {
            let asleep = of.among_mut(recorded).filter(|instance| instance.nap == Nap::Asleep);
            let is_asleep = asleep.is_some();
            if let Some(instance) = asleep {
                instance.is_ending = true;
            }
            Ok(is_asleep)
        });
        begins.await
    }

    async fn look_after(&self, one: &Life, found: Option<Running>) -> Result<(), HostError> {
        let id = &one.id;
        let mut found = found;
        let mut pause = FIRST_PAUSE;
        loop {
            let mut process = match found.take() {
                Some(process) => process,
                None if !self.is_woken(one).await => return Ok(()),
                None => match self.start_process(one).await? {
                    Started::Running(process) => process,
                    Started::Over => return Ok(()),
                    Started::Later(why) => {
                        tracing::warn!(instance = %id, why, ?pause, "can't be started yet");
                        self.note(one, move |i| i.last_exit = Some(why)).await?;
                        tokio::select! {
                            () = tokio::time::sleep(pause) => {}
                            _ = self.must_end(one) => return Ok(()),
                        }
                        pause = (pause * 2).min(MAX_PAUSE);
                        continue;
                    }
                },
            };
            let began = Instant::now();
            let exit = tokio::select! {
                exit = process.ended() => exit,
                patience = self.must_end(one) => {
                    let exit = process.terminate(patience).await;
                    tracing::info!(instance = %id, %exit, "stopped");
                    process.clear().await;
                    let noted = self.note(one, |i| i.process = None).await;
                    self.news.tell();
                    return noted;
                }
                patience = self.must_sleep(one) => {
                    if !self.begins_to_end(one).await? {
                        found = Some(process);
                        continue;
                    }
                    let exit = process.terminate(patience).await;
                    tracing::info!(instance = %id, %exit, "asleep");
                    process.clear().await;
                    self.note(one, |i| (i.process, i.is_ending) = (None, false)).await?;
                    pause = FIRST_PAUSE;
                    continue;
                }
                () = self.must_be_remade(one) => {
                    tokio::select! {
                        ready = self.let_others_serve(one) => ready?,
                        // its end is told above
                        _ = self.must_end(one) => {
                            found = Some(process);
                            continue;
                        }
                    }
                    let exit = process.terminate(self.stop_timeout(one)).await;
                    tracing::info!(instance = %id, %exit, "its container is made anew");
                    process.clear().await;
                    self.note(one, |i| (i.process, i.is_ending) = (None, false)).await?;
                    // the address that it had may be another's next
                    let _ = self.carry().await;
                    pause = FIRST_PAUSE;
                    continue;
                }
            };
            if began.elapsed() > WELL_AFTER {
                pause = FIRST_PAUSE;
            }
            tracing::warn!(instance = %id, %exit, ?pause, "ended by itself and is started again");
            self.note(one, move |i| {
                i.process = None;
                i.changed.clear();
                i.last_exit = Some(exit);
                i.restarts = i.restarts.saturating_add(1);
            })
            .await?;
            self.news.tell();
            if matches!(process, Running::Container(_)) {
                // the address that it had may be another's next
                let _ = self.carry().await;
                if process.clear().await == Cleared::ByOthers {
                    tracing::warn!(instance = %id, "its container was removed by hand");
                    self.note(one, |i| i.removed = i.removed.saturating_add(1)).await?;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = self.must_end(one) => return Ok(()),
            }
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// Starts the process or container of an instance.
    async fn start_process(&self, one: &Life) -> Result<Started, HostError> {
        let id = &one.id;
        match self.have_gpus(one).await? {
            Placed::Ready => {}
            Placed::Gone => return Ok(Started::Over),
            Placed::Refused(error) if error.code == HostErrorCode::Unavailable => {
                return Ok(Started::Later(error.message));
            }
            Placed::Refused(error) => return self.note_failed(one, error.message).await,
        }
        match self.furnish(one).await? {
            Furnished::Ready => {}
            Furnished::Ended => return Ok(Started::Over),
            Furnished::Later(why) => return Ok(Started::Later(why)),
            Furnished::Failed(reason) => return self.note_failed(one, reason).await,
        }
        if one.among(&self.store.current()).is_some_and(|i| i.run.is_container()) {
            return self.start_container(one).await;
        }
        let Some(port) = one.among(&self.store.current()).map(|i| i.port) else { return Ok(Started::Over) };
        // The port stays the instance's own over restarts, unless somebody else has taken it.
        let moved = !process::is_free(port);
        if moved {
            self.take_another_port(one).await?;
        }
        let recorded = self.store.current();
        let Some(instance) = self.startable(one, &recorded) else { return Ok(Started::Over) };
        match self.launch(id, instance, &instance.run.command, &self.mark(id)) {
            Ok(process) => self.note_running(one, Running::Process(process), moved).await,
            Err(reason) => self.note_failed(one, reason).await,
        }
    }

    /// Gives an instance another port: somebody else has its own.
    pub(super) async fn take_another_port(&self, one: &Life) -> Result<(), HostError> {
        let one = one.clone();
        let change = self.store.change(move |recorded| {
            let port = recorded.free_port()?;
            if let Some(instance) = one.among_mut(recorded) {
                instance.port = port;
            }
            Ok(())
        });
        change.await
    }

    /// An instance that is still to be started.
    pub(super) fn startable<'a>(&self, one: &Life, recorded: &'a Recorded) -> Option<&'a InstanceRecord> {
        one.among(recorded).filter(|i| !i.stopping && !*self.closing.borrow())
    }

    /// Records what runs now. `moved`: not where it ran before.
    pub(super) async fn note_running(&self, one: &Life, running: Running, moved: bool) -> Result<Started, HostError> {
        let record = running.record();
        let pid = record.pid();
        let is_new = moved && one.among(&self.store.current()).is_some_and(|i| !i.gpus.is_empty());
        self.note(one, move |i| {
            (i.process, i.is_ending) = (Some(record), false);
            i.within.begin();
        })
        .await?;
        if is_new {
            self.gpus_within_wanted.notify_one();
        }
        let address = one.among(&self.store.current()).map(|i| i.address().to_string());
        tracing::info!(instance = %one.id, pid, address, "started");
        self.news.tell();
        if moved {
            // Recorded; told to the proxy now or, if there is none, to the next one.
            let _ = self.carry().await;
        }
        Ok(Started::Running(running))
    }

    /// Records that an instance can't be started.
    pub(super) async fn note_failed(&self, one: &Life, reason: String) -> Result<Started, HostError> {
        tracing::error!(instance = %one.id, reason, "can't be started");
        self.note(one, move |i| i.failed = Some(reason)).await?;
        self.news.tell();
        Ok(Started::Over)
    }

    /// Starts a command of an instance, in its release's directory and with its variables.
    pub(super) fn launch(
        &self,
        id: &InstanceId,
        instance: &InstanceRecord,
        command: &[String],
        mark: &str,
    ) -> Result<Process, String> {
        let directory = self.releases.path(&instance.release.digest);
        let output = output::path(&self.output, id);
        let opened = output::open(&output).map_err(|e| format!("{} can't be opened: {e}", output.display()))?;
        let launch = Launch {
            command,
            env: self.variables(instance),
            directory: &directory,
            port: instance.port,
            input: None,
            output: opened,
            errors: None,
            mark,
        };
        let program = command.first().cloned().unwrap_or_default();
        Process::start(launch).map_err(|e| format!("`{program}` can't be run in {}: {e}", directory.display()))
    }

    /// The variables of an instance, but for its port.
    pub(super) fn variables(&self, instance: &InstanceRecord) -> Vec<(String, String)> {
        let own = [
            ("SEGUE_SERVICE", instance.release.service.clone()),
            ("SEGUE_RELEASE", instance.release.id.to_string()),
            ("SEGUE_ENVIRONMENT", instance.environment.clone()),
        ];
        let given = instance.run.env.iter().map(|(name, value)| (name.clone(), value.clone()));
        let data = instance.run.data.as_ref().map(|_| (data::VARIABLE.to_owned(), self.data_path(instance)));
        let gpus = self.gpu_variable(instance);
        given.chain(own.map(|(name, value)| (name.to_owned(), value))).chain(data).chain(gpus).collect()
    }

    /// Waits until an instance is told to stop or everything is; its time from TERM to KILL.
    pub(super) async fn must_end(&self, one: &Life) -> Duration {
        let (mut watch, mut closing) = (self.store.watch(), self.closing.subscribe());
        let stopping = |recorded: &Arc<Recorded>| one.among(recorded).is_none_or(|i| i.stopping);
        // The senders are in `self` and outlive this.
        tokio::select! {
            _ = watch.wait_for(stopping) => {}
            _ = closing.wait_for(|closing| *closing) => {}
        }
        self.stop_timeout(one)
    }

    /// An instance's time from TERM to KILL.
    fn stop_timeout(&self, one: &Life) -> Duration {
        let limit = one.among(&self.store.current()).map_or(0, |i| i.run.stop_timeout_ms);
        Duration::from_millis(limit).min(MAX_WAIT)
    }

    /// Waits until an instance is put to sleep; its time from TERM to KILL.
    async fn must_sleep(&self, one: &Life) -> Duration {
        let mut watch = self.store.watch();
        let sleeps = |recorded: &Arc<Recorded>| one.among(recorded).is_some_and(|i| i.nap == Nap::Asleep);
        // the sender is in `self`
        let _ = watch.wait_for(sleeps).await;
        self.stop_timeout(one)
    }

    /// Waits until an instance is not asleep; `false`: it is to end.
    async fn is_woken(&self, one: &Life) -> bool {
        let mut watch = self.store.watch();
        let awake = |recorded: &Arc<Recorded>| one.among(recorded).is_none_or(|i| i.nap != Nap::Asleep);
        tokio::select! {
            _ = watch.wait_for(awake) => true,
            _ = self.must_end(one) => false,
        }
    }

    pub(super) async fn note(
        &self,
        one: &Life,
        change: impl FnOnce(&mut InstanceRecord) + Send + 'static,
    ) -> Result<(), HostError> {
        let one = one.clone();
        let noted = self.store.change(move |recorded| {
            if let Some(instance) = one.among_mut(recorded) {
                change(instance);
            }
            Ok(())
        });
        noted.await
    }

    /// Removes what belongs to instances that were forgotten and to releases that nothing names any more.
    pub(super) fn tidy(self: &Arc<Self>, forgotten: &[InstanceId]) {
        for id in forgotten {
            output::remove(&self.output, id);
        }
        let host = self.clone();
        tokio::task::spawn_blocking(move || host.releases.remove_unused(|digest| host.store.current().names(digest)));
    }

    pub(super) fn shown(&self, recorded: &Recorded, id: &InstanceId) -> Result<Instance, HostError> {
        Ok(recorded.instance(id)?.shown(id, &output::path(&self.output, id)))
    }

    /// What marks an instance's processes on this machine: another host's instance of the same name has another mark.
    pub(super) fn mark(&self, id: &InstanceId) -> String {
        format!("{}/{id}", self.options.data.display())
    }
}

/// What came of starting an instance.
#[derive(Debug)]
pub(super) enum Started {
    /// It runs.
    Running(Running),
    /// It can't be started now, and is to be tried again: why.
    Later(String),
    /// It was told to stop meanwhile, or can't be started at all.
    Over,
}

/// One instance, told from another that has its name later.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Life {
    pub(super) id: InstanceId,
    life: u64,
}

impl Life {
    pub(super) fn of(id: &InstanceId, record: &InstanceRecord) -> Self {
        Self { id: id.clone(), life: record.life }
    }

    pub(super) fn among<'a>(&self, recorded: &'a Recorded) -> Option<&'a InstanceRecord> {
        recorded.instances.get(&self.id).filter(|i| i.life == self.life)
    }

    pub(super) fn among_mut<'a>(&self, recorded: &'a mut Recorded) -> Option<&'a mut InstanceRecord> {
        recorded.instances.get_mut(&self.id).filter(|i| i.life == self.life)
    }
}

impl Recorded {
    /// Tells an instance to stop, and takes it out of what is fallen back to.
    pub(super) fn send_away(&mut self, id: &InstanceId) -> Result<(), HostError> {
        self.take_from_fallbacks(id);
        let instance = self.instance_mut(id)?;
        instance.stopping = true;
        instance.retire = None;
        Ok(())
    }

    fn take_from_fallbacks(&mut self, id: &InstanceId) {
        for route in &mut self.routes {
            route.fallback.retain(|t| t.instance != *id);
        }
    }
}

/// One GET to an instance.
async fn probe_once(instance: &InstanceRecord, path: &str, limit: Duration) -> ProbeResult {
    let address = instance.address();
    let began = Instant::now();
    let exchange = async {
        let stream = TcpStream::connect(address).await.map_err(|e| format!("no connection to {address}: {e}"))?;
        unix_http::exchange(stream, Method::GET, &address.to_string(), path, None).await
    };
    let result = match tokio::time::timeout(limit, exchange).await {
        Ok(Ok((status, _))) => Ok(status.as_u16()),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(format!("no answer from {address}{path} within {limit:?}")),
    };
    let latency_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    ProbeResult { status: result.as_ref().ok().copied(), latency_us, error: result.err() }
}

fn check_start(start: &StartInstance) -> Result<(), HostError> {
    let wrong = |message: String| Err(refusal(HostErrorCode::BadRequest, message));
    if start.fence.service != start.release.service {
        return wrong(format!(
            "the right is for service `{}`, the release is of `{}`",
            start.fence.service, start.release.service
        ));
    }
    for name in [&start.fence.environment, &start.fence.service] {
        if !is_name(name) {
            return wrong(format!("`{name}` can't be the name of an environment or a service"));
        }
    }
    if start.container.is_none() && start.command.first().is_none_or(String::is_empty) {
        return wrong(format!("the service `{}` has no command", start.fence.service));
    }
    if let Some(name) = start.env.keys().find(|n| n.is_empty() || n.contains(['=', '\0'])) {
        return wrong(format!("`{name}` can't be the name of an environment variable"));
    }
    Ok(())
}

/// An instance is changed only by who may change its service in its environment.
fn check_owner(recorded: &Recorded, id: &InstanceId, environment: &str, service: &str) -> Result<(), HostError> {
    let instance = recorded.instance(id)?;
    if instance.environment == environment && instance.release.service == service {
        return Ok(());
    }
    let message = format!(
        "instance `{id}` belongs to {} in {}, not to {service} in {environment}",
        instance.release.service, instance.environment
    );
    Err(refusal(HostErrorCode::BadRequest, message))
}

/// The name of an instance that the host starts by itself.
pub(super) fn own_name(service: &str, release: i64, epoch: Epoch, number: usize) -> Result<InstanceId, HostError> {
    let service: String = service.chars().take(24).collect();
    let name = format!("{service}-{release}-{number}-e{epoch}");
    name.parse().map_err(|e: segue_schemas::id::InvalidId| refusal(HostErrorCode::Unavailable, e.to_string()))
}
