//! What people see of the dead letters: messages that nobody could do anything with, and what to do about each.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::time::Timestamp;

/// The dead letters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct DeadLetterList {
    /// The oldest first, 1,000 at most.
    pub items: Vec<DeadLetter>,
}

/// A message that nobody could do anything with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct DeadLetter {
    /// By which it can be named: made of its content, so that it stays the same.
    pub id: String,
    /// The queue that it was in.
    pub queue: String,
    /// The broker's word for what happened: `rejected`, `delivery_limit`, `maxlen`, `expired`.
    pub reason: String,
    /// How often it came there.
    pub count: u64,
    /// When it did, at first.
    pub at: Option<Timestamp>,
    /// Its text, 4 KiB of it at most; what is no UTF-8 is replaced.
    pub body: String,
    /// Why it is here.
    pub why: String,
    /// What to do about it.
    pub remedy: String,
}

/// Put dead letters back into the queues that they came from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RequeueRequest {
    /// Those with these ids.
    #[serde(default)]
    pub ids: Vec<String>,
    /// All.
    #[serde(default)]
    pub all: bool,
}

/// What was put back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct Requeued {
    /// The ids.
    pub ids: Vec<String>,
}
