//! How hosts that change in turn are stored: each one's machine does what the whole is to do, so that this is stored once.

use segue_schemas::deploy::{RolloutSpec, Strategy};
use serde::{Serialize, Serializer, ser::Error as _};
use serde_json::{Value, json};

use super::super::machine::RolloutMachine;

/// The part of what is to be done that a host does.
pub(super) fn spec_at(host: &str, whole: &RolloutSpec) -> RolloutSpec {
    RolloutSpec { hosts: vec![host.to_owned()], strategy: Strategy::HotSwap, ..whole.clone() }
}

/// A host's machine, but what is to be done.
pub(super) fn without_spec<S: Serializer>(machine: &RolloutMachine, serializer: S) -> Result<S::Ok, S::Error> {
    let mut state = serde_json::to_value(machine).map_err(S::Error::custom)?;
    if let Some(fields) = state.as_object_mut() {
        fields.remove("spec");
    }
    state.serialize(serializer)
}

/// Says to each host's machine again what is to be done. In a state that was stored before this was told apart, each has it.
pub(in crate::rollout) fn with_specs(state: &mut Value) -> Result<(), serde_json::Error> {
    let Some(whole) = state.get("spec").cloned() else { return Ok(()) };
    let Some(parts) = state.pointer_mut("/turns/parts").and_then(Value::as_array_mut) else { return Ok(()) };
    let whole: RolloutSpec = serde_json::from_value(whole)?;
    for part in parts {
        let Some(host) = part.get("host").and_then(Value::as_str).map(str::to_owned) else { continue };
        if let Some(machine) = part.get_mut("machine").and_then(Value::as_object_mut)
            && !machine.contains_key("spec")
        {
            machine.insert("spec".to_owned(), json!(spec_at(&host, &whole)));
        }
    }
    Ok(())
}
