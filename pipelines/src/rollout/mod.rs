//! Decides how a release comes to its traffic, and back. Comes in: what was seen at the host, what was observed of the
//! requests, a person's word, the time. Goes out: actions, in the order in which they are to be performed. Never here:
//! performing them, clocks, retries of calls.
//!
//! # How it is driven
//! ```text
//! claim -> machine = RolloutMachine::restore(state) or RolloutMachine::new(id, spec)
//!       -> handle(Claimed { what the host reports }, now) -> actions      always the first input of an owner
//! loop  -> perform each action in order, journal intent before and what was seen after, give back what it led to
//!       -> Observations after `observed_until()` while `is_watching()`, Tick at `next_wake()`, commands as they come
//! until -> Finish
//! ```
//! * After each `handle` the machine's state (`serde`) is stored together with the journal entries, before the actions that
//!   follow are performed. A new owner restores it and gives `Claimed`: the machine asks again for whatever was under way,
//!   so every action must be safe to perform twice. There is no other path of recovery.
//! * `Shift` is confirmed with `Shifted` once the proxy carries it. Actions may come while an earlier one is under way; they
//!   are performed in order. A `Shift` to 0 % takes the place of every action before it that has not begun, but for `Record` and `Quarantine`.
//! * Of a rollout that goes host after host `Shift` names the hosts that go over, and the owner says by `Hosts` when one is left out. A release
//!   that is to be tried first stands by (`StandBy`): it has no share, and rules reach it.
//! * While the last `Shift` had `dead_man`, the owner renews the dead-man's deadline for as long as it holds its lease, and
//!   gives each renewal's answer that shows `restored` back as `Route`.
//! * Where old and new do not fit side by side and the service chose it, `Interrupt` takes the traffic from everybody, the former instances are
//!   stopped, and then the new ones started; back in the same way. `NoRoom` is what tells it. Of several hosts each does so by itself, in turn: what is to
//!   be done at one alone comes as `At`, in that host's own names, and what came of it is given back as `At`.
//! * Of a service with GPUs, `Gpus` comes before `Claimed` where a rollout begins, and again whenever `watches_gpus()` and something changes. Before a release
//!   is blamed for what a broken GPU may have done, the traffic is taken from it and the hosts are asked (`LookAtGpus`).
//! * A call to the host that fails is tried again by the owner within its own bound; what it gives up on comes back as `NotReady`,
//!   `ShiftFailed`, `InterruptFailed` or `CleanUpFailed`. A host that does not answer at all is no input: the owner hands the rollout back.

mod action;
mod claim;
pub mod fleet;
mod gpus;
mod input;
mod machine;
mod recreate;
mod rolling;
mod stages;
mod standing;
mod trouble;
mod turns;
mod way_back;
mod weights;

pub use action::{Action, Serves};
pub use claim::KEPT;
pub use input::{HostFacts, Input};
pub use machine::{RestoreError, RolloutMachine};
pub use weights::reduce;
