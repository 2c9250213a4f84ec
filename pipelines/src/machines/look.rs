//! What follows from the cloud's list of instances.

use std::time::Duration;

use segue_schemas::{machine::MachineState, time::Timestamp};

/// How an instance stands, in the cloud's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeenStatus {
    /// It starts.
    Booting,
    /// It runs.
    Active,
    /// It runs, and can't be reached.
    Unhealthy,
    /// It is on its way out.
    Terminating,
    /// It is gone, or the cloud took it back.
    Gone,
    /// A word that is not known: it may cost, and can't be relied on.
    Unknown,
}

impl SeenStatus {
    /// Whether it is there, and nobody has it end yet.
    pub(super) const fn lives(self) -> bool {
        matches!(self, Self::Booting | Self::Active | Self::Unhealthy | Self::Unknown)
    }
}

/// An instance, as the cloud shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The cloud's id.
    pub id: String,
    /// The name that it was launched under.
    pub name: String,
    /// How it stands.
    pub status: SeenStatus,
    /// Its address, once it has one.
    pub ip: Option<String>,
}

/// Which launch of a machine was the newest, and whether it was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launched {
    /// The how manieth, from 1.
    pub number: u32,
    /// When it was asked for.
    pub at: Timestamp,
}

/// What is known of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place<'a> {
    /// Its name.
    pub name: &'a str,
    /// How it stands.
    pub state: MachineState,
    /// The cloud's id, where it is known.
    pub instance: Option<&'a str>,
    /// Its newest launch.
    pub launched: Option<Launched>,
}

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// Nothing.
    Same,
    /// It is there and starts.
    Boots {
        /// Its id.
        instance: String,
    },
    /// It can be used.
    Ready {
        /// Its id.
        instance: String,
        /// Its address.
        ip: String,
    },
    /// Its launch was never made: another may be.
    Again,
    /// It is to go, for this reason.
    End(String),
    /// It is to go, and this is its id.
    Found {
        /// Its id.
        instance: String,
    },
    /// The list does not have it. The cloud is to be asked for this id, since a list may leave one out.
    Ask {
        /// Its id.
        instance: String,
    },
    /// There is none, and none comes.
    Ended,
}

/// The name of a machine's instance at its nth launch. One that is launched again has another, so that two are told apart.
#[must_use]
pub fn instance_name(machine: &str, launch: u32) -> String {
    format!("{machine}-{launch}")
}

/// Whether an instance's name is that of a launch of this machine.
#[must_use]
pub fn of_machine(machine: &str, instance_name: &str) -> bool {
    let number = instance_name.strip_prefix(machine).and_then(|rest| rest.strip_prefix('-'));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// What follows for a machine from a list that was asked for after its newest launch had been; and which instances of it are to be
/// terminated. A launch that the list does not show is waited for until `settle` has passed: the list may be behind.
#[must_use]
pub fn look(machine: &Place<'_>, list: &[Seen], now: Timestamp, settle: Duration) -> (Look, Vec<String>) {
    let own: Vec<&Seen> =
        list.iter().filter(|seen| of_machine(machine.name, &seen.name) || machine.instance == Some(&seen.id)).collect();
    let newest = machine.launched.map(|launched| instance_name(machine.name, launched.number));
    let current = own.iter().copied().find(|seen| match machine.instance {
        Some(instance) => seen.id == instance,
        None => newest.as_ref() == Some(&seen.name),
    });
    let is_settled = machine.launched.is_none_or(|launched| now.since(launched.at) >= settle);
    let look = match machine.state {
        MachineState::Wanted | MachineState::Ended => Look::Same,
        MachineState::Launching | MachineState::Booting | MachineState::Ready => standing(machine, current, is_settled),
        MachineState::Ending => ending(machine, current, is_settled),
    };
    let is_kept = |seen: &Seen| {
        let is_current = current.is_some_and(|current| current.id == seen.id);
        let stays = matches!(look, Look::Same | Look::Boots { .. } | Look::Ready { .. });
        is_current
            && stays
            && !matches!(machine.state, MachineState::Ending | MachineState::Ended | MachineState::Wanted)
    };
    let terminate =
        own.iter().filter(|seen| seen.status.lives() && !is_kept(seen)).map(|seen| seen.id.clone()).collect();
    (look, terminate)
}

fn standing(machine: &Place<'_>, current: Option<&Seen>, is_settled: bool) -> Look {
    let Some(seen) = current else {
        return match machine.instance {
            // what was launched just now may not be listed yet
            Some(_) if !is_settled => Look::Same,
            Some(instance) => Look::Ask { instance: instance.into() },
            None if is_settled => Look::Again,
            None => Look::Same,
        };
    };
    let instance = seen.id.clone();
    let is_known = machine.instance.is_some() && machine.state != MachineState::Launching;
    match (seen.status, &seen.ip) {
        (SeenStatus::Active, Some(ip)) if machine.state != MachineState::Ready => {
            Look::Ready { instance, ip: ip.clone() }
        }
        (SeenStatus::Active | SeenStatus::Booting | SeenStatus::Unknown, _) if is_known => Look::Same,
        (SeenStatus::Active | SeenStatus::Booting | SeenStatus::Unknown, _) => Look::Boots { instance },
        // whoever uses it may know how to help it
        (SeenStatus::Unhealthy, _) if machine.state == MachineState::Ready => Look::Same,
        (SeenStatus::Unhealthy, _) => Look::End("Lambda says that it is unhealthy".into()),
        (SeenStatus::Terminating | SeenStatus::Gone, _) => {
            Look::End("it was terminated, and not from here: by a person, or taken back by Lambda".into())
        }
    }
}

fn ending(machine: &Place<'_>, current: Option<&Seen>, is_settled: bool) -> Look {
    match (current, machine.instance) {
        (Some(seen), _) if seen.status == SeenStatus::Gone => Look::Ended,
        (Some(_), Some(_)) => Look::Same,
        (Some(seen), None) => Look::Found { instance: seen.id.clone() },
        (None, Some(instance)) => Look::Ask { instance: instance.into() },
        (None, None) if is_settled => Look::Ended,
        (None, None) => Look::Same,
    }
}
