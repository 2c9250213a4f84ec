//! When a machine has to go.

use std::time::Duration;

use segue_schemas::{duration::Span, machine::MachineState, time::Timestamp};

/// How long one may start; those with eight GPUs take a quarter of an hour.
pub const BOOT_LIMIT: Duration = Duration::from_secs(40 * 60);
/// For how long nobody may ask after one that is not ready: whoever asked for it waits no longer.
pub const UNHEARD_LIMIT: Duration = Duration::from_secs(120);

/// Who has a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// The attempt that asked for it is at work or waits.
    Lives {
        /// Whether a job of it is at work.
        is_at_work: bool,
    },
    /// The job that asked for it begins anew, and will ask again.
    BeginsAnew,
    /// The attempt is over.
    Over,
}

/// What of a machine decides on its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// How it stands.
    pub state: MachineState,
    /// Who has it.
    pub holder: Holder,
    /// When it was asked for.
    pub asked_at: Timestamp,
    /// When whoever asked for it was last heard to wait, or when the server began, whichever is later.
    pub heard_at: Timestamp,
    /// When its launch was asked for last.
    pub launched_at: Option<Timestamp>,
    /// Since when no job of the run is at work.
    pub idle_since: Option<Timestamp>,
    /// How long there may be no capacity.
    pub wait_for_capacity: Span,
    /// How long it may be idle.
    pub idle_shutdown: Span,
    /// How long it may live.
    pub lifetime: Span,
}

/// Why a machine has to go now; `None`: it may stay. One that is to go already has nothing decided of it any more.
#[must_use]
pub fn fate(standing: &Standing, now: Timestamp) -> Option<String> {
    if matches!(standing.state, MachineState::Ending | MachineState::Ended) {
        return None;
    }
    match standing.holder {
        Holder::Over => return Some("its run has ended".into()),
        Holder::BeginsAnew => return Some("its job begins anew".into()),
        Holder::Lives { .. } => {}
    }
    // the first that has come, whatever else has
    times(standing).into_iter().filter(|(at, _)| *at <= now).min_by_key(|(at, _)| *at).map(|(_, reason)| reason)
}

/// When time alone decides on it next.
#[must_use]
pub fn next_fate(standing: &Standing) -> Option<Timestamp> {
    if matches!(standing.state, MachineState::Ending | MachineState::Ended) {
        return None;
    }
    times(standing).into_iter().map(|(at, _)| at).min()
}

/// Since when a machine is idle, if it is: no job of its run is at work.
#[must_use]
pub fn idle_since(before: Option<Timestamp>, holder: Holder, now: Timestamp) -> Option<Timestamp> {
    match holder {
        Holder::Lives { is_at_work: true } => None,
        _ => Some(before.unwrap_or(now)),
    }
}

fn times(standing: &Standing) -> Vec<(Timestamp, String)> {
    let Standing {
        state, asked_at, heard_at, launched_at, idle_since, wait_for_capacity, idle_shutdown, lifetime, ..
    } = standing;
    let mut times = Vec::new();
    let is_awaited = matches!(state, MachineState::Wanted | MachineState::Launching | MachineState::Booting);
    if is_awaited {
        times.push((*heard_at + UNHEARD_LIMIT, "whoever asked for it waits no longer".to_owned()));
    }
    if *state == MachineState::Wanted {
        let reason = if wait_for_capacity.0.is_zero() {
            "there was no capacity, and it was not to be waited for (`wait-for-capacity`)".to_owned()
        } else {
            format!("there was no capacity within {wait_for_capacity}")
        };
        // the first look costs a moment, whatever was said
        times.push((*asked_at + wait_for_capacity.0.max(FIRST_LOOK), reason));
    }
    if let Some(launched) = launched_at.filter(|_| *state != MachineState::Wanted) {
        if *state == MachineState::Booting {
            let minutes = BOOT_LIMIT.as_secs() / 60;
            times.push((launched + BOOT_LIMIT, format!("it was not ready within {minutes} minutes")));
        }
        times.push((launched + lifetime.0, format!("it has lived for {lifetime}")));
    }
    if *state == MachineState::Ready
        && let Some(since) = idle_since
    {
        times.push((*since + idle_shutdown.0, format!("no job of its run was at work for {idle_shutdown}")));
    }
    times
}

/// How long the cloud may take to say what it has, and to take back the machine that stood in the way, where nothing is to be waited for.
const FIRST_LOOK: Duration = Duration::from_secs(180);
