//! `segue/provision-gpu` and `segue/terminate-gpu`: asks the server for a machine, and waits until it can be used. The server rents it,
//! and has it end with the run: nothing that is to be undone is kept here.

use std::time::Duration;

use indexmap::IndexMap;
use segue_pipelines::machines::{ACTION, RELEASE, request};
use segue_schemas::machine::{AskMachine, Machine, MachineAnswer, MachineState, ReleaseMachine};
use uuid::Uuid;

use super::{
    built_in::{BuiltIn, BuiltInEnd, Inputs},
    error::StepError,
};
use crate::control_plane::retry;

/// How long the server may hold an answer back.
const WAIT: Duration = Duration::from_secs(20);
/// How long the server may be away.
const PATIENCE: Duration = Duration::from_secs(60);

impl BuiltIn<'_> {
    pub(super) async fn provision_gpu(&mut self, with: &IndexMap<String, String>) -> Result<BuiltInEnd, StepError> {
        let known = ["type", "region", "max-price", "wait-for-capacity", "idle-shutdown", "lifetime", "ssh-key"];
        let inputs = Inputs::of(ACTION, with, &known)?;
        let request = request(|key| inputs.get(key)).map_err(StepError::Configuration)?;
        let wait_ms = u64::try_from(WAIT.as_millis()).unwrap_or(0);
        // one number for all tries: an answer that is lost rents no second machine
        let mut ask =
            AskMachine { epoch: self.claim.epoch, step: self.step, ask: Uuid::new_v4(), request, known: None, wait_ms };
        let mut told = String::new();
        loop {
            let MachineAnswer { machine, version } =
                retry(PATIENCE, || self.control_plane.ask_machine(self.claim.job, &ask)).await?;
            ask.known = Some(version);
            let news = told_of(&machine);
            if news != told {
                self.log.line(&news).await;
                told = news;
            }
            match machine.state {
                MachineState::Ready => return Ok(BuiltInEnd::Done(outputs(&machine))),
                MachineState::Ending | MachineState::Ended => {
                    let why = machine.reason.unwrap_or_else(|| "nobody said why".into());
                    return Ok(BuiltInEnd::Refused(format!("no machine was rented: {why}")));
                }
                MachineState::Wanted | MachineState::Launching | MachineState::Booting => {}
            }
        }
    }

    pub(super) async fn terminate_gpu(&mut self, with: &IndexMap<String, String>) -> Result<BuiltInEnd, StepError> {
        let inputs = Inputs::of(RELEASE, with, &["id"])?;
        let machine =
            inputs.get("id").ok_or_else(|| inputs.missing("id", "the output `id` of `segue/provision-gpu`"))?;
        let release = ReleaseMachine { epoch: self.claim.epoch, machine: machine.to_owned() };
        retry(PATIENCE, || self.control_plane.release_machine(self.claim.job, &release)).await?;
        self.log
            .line(format!("{machine} is given back; the server has it terminated, and sees to it that it is"))
            .await;
        Ok(BuiltInEnd::Done(IndexMap::new()))
    }
}

/// How it stands, for people.
fn told_of(machine: &Machine) -> String {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let price = machine.price_per_hour.unwrap_or_default();
    let what = || format!("{} in {} for {price} USD an hour", text(&machine.instance_type), text(&machine.region));
    match machine.state {
        MachineState::Wanted => match &machine.reason {
            Some(reason) => format!("Waiting: {reason}"),
            None => "A machine is asked for".into(),
        },
        MachineState::Launching => format!("Launching {}", what()),
        MachineState::Booting => format!("{} starts: {}", text(&machine.instance), what()),
        MachineState::Ready => {
            let until = machine.expires_at.map(|at| format!(", until {at} at most")).unwrap_or_default();
            format!("{} can be used at {}: {}{until}", text(&machine.instance), text(&machine.ip), what())
        }
        MachineState::Ending | MachineState::Ended => format!("{} is {}", machine.name, machine.state.as_str()),
    }
}

fn outputs(machine: &Machine) -> IndexMap<String, String> {
    let price = machine.price_per_hour.map(|price| price.to_string());
    [
        ("id", machine.instance.clone()),
        ("name", Some(machine.name.clone())),
        ("ip", machine.ip.clone()),
        ("type", machine.instance_type.clone()),
        ("region", machine.region.clone()),
        ("price-per-hour", price),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.unwrap_or_default()))
    .collect()
}
