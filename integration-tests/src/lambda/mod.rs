//! A Lambda Cloud to test against: a stateful server on the loopback that speaks what Segue uses of the API that
//! <https://docs.lambda.ai/api/cloud> publishes, refuses what that refuses, and fails when it is told to.
//!
//! Comes in: requests, and from the test what there is to rent and what is to go wrong. Goes out: answers, and what was rented, for how
//! long. Never here: anything that Segue relies on and Lambda does not promise. A terminated instance leaves the list after a while, a
//! name may be used twice, and a list of capacity promises nothing.

mod answers;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use tokio::{net::TcpListener, task::JoinHandle};

/// The key that opens the account.
pub const KEY: &str = "secret_segue-test_0123456789abcdef";
/// The one SSH key of the account.
pub const SSH_KEY: &str = "ci";

/// The cloud, with one account. Dropped, it ends.
pub struct LambdaCloud {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    server: JoinHandle<()>,
}

/// What goes wrong with the next launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is made, and no answer comes, ever.
    MadeAndSilent,
    /// It is made, and the answer is 502.
    MadeAndBadGateway,
    /// 502; nothing was made.
    BadGateway,
    /// The list said that there is capacity, and there is none.
    NoCapacityAfterAll,
    /// `global/quota-exceeded`
    Quota,
    /// `global/invalid-address`
    InvalidAddress,
}

/// An instance.
#[derive(Debug, Clone)]
pub struct Instance {
    /// Its id.
    pub id: String,
    /// What it was launched as.
    pub name: String,
    /// Its type.
    pub instance_type: String,
    /// Where.
    pub region: String,
    ssh_key: String,
    launched: Instant,
    /// When it was told to end.
    pub told_to_end: Option<Instant>,
    is_preempted: bool,
}

/// One request, as it was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// When it came.
    pub at: Instant,
    /// `GET`, ...
    pub method: String,
    /// Below `/api/v1`.
    pub path: String,
    /// What it was answered.
    pub status: u16,
}

struct State {
    types: BTreeMap<String, OfType>,
    instances: Vec<Instance>,
    boots_for: Duration,
    ends_for: Duration,
    shown_for: Duration,
    request_every: Duration,
    launch_every: Duration,
    last_request: Option<Instant>,
    last_launch: Option<Instant>,
    faults: Vec<Fault>,
    hides: bool,
    is_down: bool,
    requests: Vec<Request>,
    next_id: u64,
}

struct OfType {
    cents: u32,
    /// How many there are, by region.
    capacity: BTreeMap<String, u32>,
}

impl LambdaCloud {
    /// Starts one that takes as many requests as come, in which an instance starts and ends at once. It has `gpu_1x_a10` for 0.75 USD an
    /// hour, `gpu_1x_a100` for 1.29 and `gpu_8x_h100_sxm5` for 23.92, of each one in `us-west-1` and one in `us-east-1`.
    ///
    /// # Errors
    /// There is no free port.
    pub async fn start() -> Result<Self> {
        let mut types = BTreeMap::new();
        for (name, cents) in [("gpu_1x_a10", 75), ("gpu_1x_a100", 129), ("gpu_8x_h100_sxm5", 2392)] {
            let capacity = ["us-west-1", "us-east-1"].map(|region| (region.to_owned(), 1)).into();
            types.insert(name.to_owned(), OfType { cents, capacity });
        }
        let state = State {
            types,
            instances: Vec::new(),
            boots_for: Duration::ZERO,
            ends_for: Duration::ZERO,
            shown_for: Duration::from_secs(3600),
            request_every: Duration::ZERO,
            launch_every: Duration::ZERO,
            last_request: None,
            last_launch: None,
            faults: Vec::new(),
            hides: false,
            is_down: false,
            requests: Vec::new(),
            next_id: 1,
        };
        let state = Arc::new(Mutex::new(state));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let router = answers::router(state.clone());
        let server = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { address, state, server })
    }

    /// Its address, as a configuration names it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/api/v1", self.address)
    }

    /// How long an instance starts, how long it ends, and how long it is shown after that.
    pub fn takes(&self, boots_for: Duration, ends_for: Duration, shown_for: Duration) {
        let mut state = self.state();
        (state.boots_for, state.ends_for, state.shown_for) = (boots_for, ends_for, shown_for);
    }

    /// The least time between two requests, and between two launches; what comes sooner is answered 429.
    pub fn limits(&self, request_every: Duration, launch_every: Duration) {
        let mut state = self.state();
        (state.request_every, state.launch_every) = (request_every, launch_every);
    }

    /// How many of a type there are in each region.
    pub fn has(&self, instance_type: &str, count: u32) {
        if let Some(one) = self.state().types.get_mut(instance_type) {
            one.capacity.values_mut().for_each(|capacity| *capacity = count);
        }
    }

    /// What an hour of a type costs from now on.
    pub fn costs(&self, instance_type: &str, cents: u32) {
        if let Some(one) = self.state().types.get_mut(instance_type) {
            one.cents = cents;
        }
    }

    /// The next launches go wrong, each in its way.
    pub fn fails(&self, faults: &[Fault]) {
        self.state().faults.extend(faults);
    }

    /// Whether the list leaves out what was launched: it is behind.
    pub fn hides(&self, hides: bool) {
        self.state().hides = hides;
    }

    /// Whether every request is answered 503.
    pub fn is_down(&self, is_down: bool) {
        self.state().is_down = is_down;
    }

    /// Takes an instance back, as Lambda may.
    pub fn preempts(&self, id: &str) {
        self.state().instances.iter_mut().filter(|one| one.id == id).for_each(|one| one.is_preempted = true);
    }

    /// Launches one that is nobody's of Segue.
    pub fn somebody_launches(&self, name: &str) -> String {
        self.state().launch(name, "gpu_1x_a10", "us-west-1", SSH_KEY)
    }

    /// Every instance that was ever launched.
    #[must_use]
    pub fn launched(&self) -> Vec<Instance> {
        self.state().instances.clone()
    }

    /// The names of those that nobody has told to end.
    #[must_use]
    pub fn left(&self) -> Vec<String> {
        let state = self.state();
        let lives = |one: &&Instance| one.told_to_end.is_none() && !one.is_preempted;
        state.instances.iter().filter(lives).map(|one| one.name.clone()).collect()
    }

    /// What was asked.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.state().requests.clone()
    }

    /// Waits until so many were launched and so many of them live.
    ///
    /// # Errors
    /// It is not so within the limit.
    pub async fn until(&self, launched: usize, left: usize, limit: Duration) -> Result<()> {
        let begun = Instant::now();
        loop {
            let now = (self.launched().len(), self.left().len());
            if now == (launched, left) {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < limit,
                "{} launched and {} left, where {launched} and {left} were awaited: {:#?}",
                now.0,
                now.1,
                self.requests()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LambdaCloud {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl State {
    fn launch(&mut self, name: &str, instance_type: &str, region: &str, ssh_key: &str) -> String {
        let id = format!("{:032x}", self.next_id);
        self.next_id += 1;
        self.instances.push(Instance {
            id: id.clone(),
            name: name.to_owned(),
            instance_type: instance_type.to_owned(),
            region: region.to_owned(),
            ssh_key: ssh_key.to_owned(),
            launched: Instant::now(),
            told_to_end: None,
            is_preempted: false,
        });
        id
    }

    /// How many of a type could be launched in a region now.
    fn free(&self, instance_type: &str, region: &str) -> u32 {
        let capacity = self.types.get(instance_type).and_then(|one| one.capacity.get(region)).copied().unwrap_or(0);
        let is_taken = |one: &&Instance| {
            one.instance_type == instance_type && one.region == region && self.status(one) != "terminated"
        };
        let taken = self.instances.iter().filter(is_taken).count();
        capacity.saturating_sub(u32::try_from(taken).unwrap_or(u32::MAX))
    }

    fn status(&self, instance: &Instance) -> &'static str {
        match instance.told_to_end {
            Some(told) if told.elapsed() >= self.ends_for => "terminated",
            Some(_) => "terminating",
            None if instance.is_preempted => "preempted",
            None if instance.launched.elapsed() >= self.boots_for => "active",
            None => "booting",
        }
    }

    fn is_shown(&self, instance: &Instance) -> bool {
        instance.told_to_end.is_none_or(|told| told.elapsed() < self.ends_for + self.shown_for)
    }
}
