//! Canaries that never were: streams of requests made up from a seed, judged as real ones are. Used by the bench `judge`
//! with many seeds, and by the tests with few.

use rand::{Rng, SeedableRng, rngs::StdRng};
use segue_pipelines::judge::{Arm, Decision, Judge, Verdict};
use segue_schemas::{
    deploy::{CanarySpec, Observation, Outcome},
    duration::Span,
    id::InstanceId,
    time::Timestamp,
};

/// How the traffic and the two releases are.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The share of requests that fail at the former release.
    pub base_errors: f64,
    /// The share of requests that fail at the canary only.
    pub added_errors: f64,
    /// How many times as slow the canary is.
    pub slowness: f64,
    /// Whether errors and slow answers come in bursts that strike both releases.
    pub bursts: bool,
    /// Clients that always come to the same release, each with its own error rate; 0: every request is assigned anew.
    pub clients: u64,
    /// Which they are: others go to the canary, and others fail.
    pub crowd: u64,
    /// How many times as slow one in ten of them is answered, wherever it is.
    pub habit: f64,
    /// Requests per second.
    pub rate: f64,
    /// How long a stage is watched.
    pub stage_seconds: u64,
    /// From which second on the canary is worse.
    pub worse_from: f64,
    /// Until which second, from the tenth on, both releases fail every request, so that every client has failed once; 0: they don't.
    pub outage_until: f64,
}

impl Scenario {
    /// Releases that are the same, 100 requests per second, bursts.
    pub const IDENTICAL: Self = Self {
        base_errors: 0.005,
        added_errors: 0.0,
        slowness: 1.0,
        bursts: true,
        clients: 0,
        crowd: 0,
        habit: 1.0,
        rate: 100.0,
        stage_seconds: 60,
        worse_from: 0.0,
        outage_until: 0.0,
    };
}

/// How a simulated rollout ended.
#[derive(Debug, Clone)]
pub struct Ending {
    /// `Advance`: promoted; `Hold`: held to the limit.
    pub decision: Decision,
    /// Requests that the canary had answered.
    pub canary_requests: u64,
    /// Seconds from when the canary was worse, and answered anything.
    pub seconds: f64,
    /// The last verdict.
    pub verdict: Verdict,
}

/// Runs a whole rollout through stages of 10, 50 and 100 %, held stages for up to ten times their length.
pub fn rollout(scenario: &Scenario, seed: u64) -> Ending {
    let spec = CanarySpec { stage_duration: Span::seconds(scenario.stage_seconds), ..CanarySpec::default() };
    let mut judge = Judge::new(&spec, &[]);
    let mut traffic = Traffic::new(scenario, seed);
    // while the new release starts, the former one answers alone
    traffic.until(2.0, 0.0, |arm, observation| {
        judge.observe(arm, observation);
        false
    });
    let begun = traffic.seconds.max(scenario.worse_from);
    let ending = |decision, verdict: Verdict, seconds: f64| Ending {
        decision,
        canary_requests: verdict.canary_requests,
        seconds: seconds - begun,
        verdict,
    };
    let mut last = judge.verdict(false);
    for percent in spec.stages {
        judge.begin_stage(percent);
        let begun = traffic.seconds;
        let stage = scenario.stage_seconds as f64;
        let mut ends = begun + stage;
        loop {
            traffic.until(ends, f64::from(percent) / 100.0, |arm, observation| {
                judge.observe(arm, observation);
                judge.is_alarmed()
            });
            last = judge.verdict(traffic.seconds >= ends);
            match last.decision {
                Decision::Advance => break,
                Decision::Hold | Decision::Continue if ends < begun + 10.0 * stage => ends += stage / 20.0,
                decision => return ending(decision, last, traffic.seconds),
            }
        }
    }
    ending(last.decision, last, traffic.seconds)
}

/// A made-up stream of requests.
struct Traffic {
    scenario: Scenario,
    random: StdRng,
    seconds: f64,
    sequence: u64,
    burst_until: f64,
    next_burst: f64,
    /// The logarithm of how slow everything is at the moment; wanders.
    mood: f64,
    mood_until: f64,
    canary: InstanceId,
    control: InstanceId,
}

/// Mean length of a burst, and mean time between two, in seconds.
const BURST_SECONDS: f64 = 2.0;
const CALM_SECONDS: f64 = 40.0;

impl Traffic {
    fn new(scenario: &Scenario, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let next_burst = exponential(&mut random, CALM_SECONDS);
        Self {
            scenario: scenario.clone(),
            random,
            seconds: 0.0,
            sequence: 0,
            burst_until: 0.0,
            next_burst,
            mood: 0.0,
            mood_until: 0.0,
            canary: "new".parse().expect("a name"),
            control: "old".parse().expect("a name"),
        }
    }

    /// Requests up to that time, or until `stop` says so.
    fn until(&mut self, seconds: f64, weight: f64, mut stop: impl FnMut(Arm, &Observation) -> bool) {
        while self.seconds < seconds {
            let (arm, observation) = self.request(weight);
            if stop(arm, &observation) {
                return;
            }
        }
    }

    fn request(&mut self, weight: f64) -> (Arm, Observation) {
        self.seconds += exponential(&mut self.random, 1.0 / self.scenario.rate);
        let in_burst = self.advance_weather();
        let unit = (self.scenario.clients > 0).then(|| self.client());
        let arm = match unit {
            Some(unit) if part_of(unit, 1) < weight => Arm::Canary,
            None if self.random.random::<f64>() < weight => Arm::Canary,
            _ => Arm::Control,
        };
        let habit = if unit.is_some_and(|unit| part_of(unit, 3) < 0.1) { self.scenario.habit } else { 1.0 };
        let is_worse = arm == Arm::Canary && self.seconds >= self.scenario.worse_from;
        let is_error = self.random.random::<f64>() < self.error_rate(in_burst, unit)
            || is_worse && self.random.random::<f64>() < self.scenario.added_errors;
        let latency_ms = self.latency_ms(in_burst) * habit * if is_worse { self.scenario.slowness } else { 1.0 };
        self.sequence += 1;
        let (instance, probability) = match arm {
            Arm::Canary => (self.canary.clone(), weight),
            Arm::Control => (self.control.clone(), 1.0 - weight),
        };
        let observation = Observation {
            sequence: self.sequence,
            at: Timestamp((self.seconds * 1_000.0) as i64),
            instance,
            probability,
            status: if is_error { 500 } else { 200 },
            outcome: if is_error { Outcome::ServerError } else { Outcome::Ok },
            latency_us: (latency_ms * 1_000.0) as u64,
            duration_us: (latency_ms * 1_000.0) as u64,
            rule: None,
            attempt: 1,
            unit,
            synthetic: false,
        };
        (arm, observation)
    }

    fn advance_weather(&mut self) -> bool {
        if self.seconds >= self.mood_until {
            self.mood = 0.9 * self.mood + 0.1 * normal(&mut self.random);
            self.mood_until = self.seconds + 1.0;
        }
        if !self.scenario.bursts {
            return false;
        }
        if self.seconds >= self.next_burst {
            self.burst_until = self.next_burst + exponential(&mut self.random, BURST_SECONDS);
            self.next_burst = self.burst_until + exponential(&mut self.random, CALM_SECONDS);
        }
        self.seconds < self.burst_until
    }

    /// Half of the errors come in the bursts, which make up a twentieth of the time; or come from few of the clients.
    fn error_rate(&self, in_burst: bool, unit: Option<u64>) -> f64 {
        let base = self.scenario.base_errors;
        if (10.0..self.scenario.outage_until).contains(&self.seconds) {
            return 1.0;
        }
        if let Some(unit) = unit {
            return if part_of(unit, 2) < 0.1 { (base * 10.0).min(0.9) } else { 0.0 };
        }
        let bursts = BURST_SECONDS / (BURST_SECONDS + CALM_SECONDS);
        let in_bursts = (0.5 * base / bursts).min(0.9);
        match (self.scenario.bursts, in_burst) {
            (true, true) => in_bursts,
            (true, false) => (base - in_bursts * bursts) / (1.0 - bursts),
            (false, _) => base,
        }
    }

    /// Log-normal around 20 ms with a spread of e, a Pareto tail (without a variance) for one in twenty, all of it slower and
    /// faster by turns, and three times as slow in a burst.
    fn latency_ms(&mut self, in_burst: bool) -> f64 {
        let body = if self.random.random::<f64>() < 0.05 {
            100.0 * (1.0 - self.random.random::<f64>()).powf(-1.0 / 1.5)
        } else {
            20.0 * normal(&mut self.random).exp()
        };
        body * self.mood.exp() * if in_burst { 3.0 } else { 1.0 }
    }

    /// Some clients come much more often than others.
    fn client(&mut self) -> u64 {
        let part = self.random.random::<f64>();
        self.scenario.crowd * self.scenario.clients + (part * part * self.scenario.clients as f64) as u64
    }
}

fn exponential(random: &mut StdRng, mean: f64) -> f64 {
    -(1.0 - random.random::<f64>()).ln() * mean
}

/// Box and Muller's.
fn normal(random: &mut StdRng) -> f64 {
    let (u, v) = (1.0 - random.random::<f64>(), random.random::<f64>());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// A client's fixed place between 0 and 1.
fn part_of(unit: u64, salt: u64) -> f64 {
    let mut random = StdRng::seed_from_u64(unit.wrapping_mul(7_919).wrapping_add(salt));
    random.random()
}
