//! What runs of an instance: a process of the machine, or a container of its engine. Whoever looks after instances knows this alone.

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    container::{Container, ContainerRecord},
    process::{Process, ProcessRecord, SUCCESS},
};

/// One that runs.
#[derive(Debug)]
pub enum Running {
    /// A process.
    Process(Process),
    /// A container.
    Container(Box<Container>),
}

/// What it is found again by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RunningRecord {
    /// A process.
    Process(ProcessRecord),
    /// A container.
    Container(Box<ContainerRecord>),
}

/// What came of taking away what is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleared {
    /// Nothing is left.
    Done,
    /// Nothing is left, or will be: somebody else takes it away.
    ByOthers,
    /// Something is left.
    Left,
}

impl RunningRecord {
    /// Whether it may run on although the host's machine was booted anew.
    #[must_use]
    pub fn outlives_boot(&self, engine_is_elsewhere: bool) -> bool {
        engine_is_elsewhere && matches!(self, Self::Container(_))
    }
}

impl Running {
    /// What to find it by.
    #[must_use]
    pub fn record(&self) -> RunningRecord {
        match self {
            Self::Process(process) => RunningRecord::Process(process.record),
            Self::Container(container) => RunningRecord::Container(Box::new(container.record.clone())),
        }
    }

    /// Waits for its end, however long the engine is away; says how it ended. May be dropped and asked again.
    pub async fn ended(&mut self) -> String {
        match self {
            Self::Process(process) => process.ended().await,
            Self::Container(container) => container.ended().await,
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// How it ended, if not with success.
    pub async fn succeeded(&mut self) -> Result<(), String> {
        let exit = self.ended().await;
        if exit == SUCCESS { Ok(()) } else { Err(exit) }
    }

    /// Asks it to end, and kills it where it has not after `patience`.
    pub async fn terminate(&mut self, patience: Duration) -> String {
        match self {
            Self::Process(process) => process.terminate(patience).await,
            Self::Container(container) => container.terminate(patience).await,
        }
    }

    /// Takes away what is left of one that has ended.
    pub async fn clear(&mut self) -> Cleared {
        match self {
            Self::Process(_) => Cleared::Done,
            Self::Container(container) => container.remove().await,
        }
    }
}

impl RunningRecord {
    /// Its first process on this machine.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        match self {
            Self::Process(process) => Some(process.pid),
            Self::Container(container) => container.pid,
        }
    }

    /// Where it listens, if that is not the instance's port on 127.0.0.1.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Process(_) => None,
            Self::Container(container) => Some(container.address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_elsewhere_alone_outlives_a_boot_of_its_hosts_machine() {
        let container =
            r#"{"container": "1", "address": "10.0.0.5:20001", "pid": null, "stop_signal": "TERM", "facts": {}}"#;
        let record = |text: &str| serde_json::from_str::<RunningRecord>(text).unwrap();
        for (text, is_elsewhere, outlives) in
            [(container, true, true), (container, false, false), (r#"{"pid": 1, "start_ticks": 1}"#, true, false)]
        {
            assert_eq!(record(text).outlives_boot(is_elsewhere), outlives, "{text} {is_elsewhere}");
        }
    }
}
