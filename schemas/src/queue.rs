//! What stands in a message queue, and what crosses it: the topology, as plain data that is declared from here alone, and the
//! bells. A bell says where to look and never what is there; the database is the truth, and any bell may be lost or come twice.
//!
//! | name | what | who publishes | who consumes |
//! | --- | --- | --- | --- |
//! | [`DELIVERIES`] | queue: [`DeliveryBell`] | servers | the servers' planners |
//! | [`JOBS`]`POOL` | a queue for each pool: [`PoolBell`] | servers | the workers of the pool |
//! | [`CANCELLATIONS`] | fan-out exchange: [`Word`] | servers | each worker, through a queue of its own that ends with it |
//! | [`DEAD_LETTERS`] | fan-out exchange and queue of the same name | the broker | `segue queue` |

mod dead_letters;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

pub use dead_letters::{DeadLetter, DeadLetterList, RequeueRequest, Requeued};

use crate::id::{DeliveryId, JobId, WorkerId};

/// The queue of the planners' bells.
pub const DELIVERIES: &str = "segue.deliveries";
/// What the name of each pool's queue begins with.
pub const JOBS: &str = "segue.jobs.";
/// The exchange that tells every worker that a job is cancelled, or which of them is to go on with one.
pub const CANCELLATIONS: &str = "segue.cancellations";
/// The exchange and the queue of what nobody could do anything with.
pub const DEAD_LETTERS: &str = "segue.dead-letters";

/// The version of the bells that is written here.
pub const VERSION: u32 = 1;

/// How often a bell may come back unanswered (its consumer died, or could not read it) before it is a dead letter.
pub const DELIVERY_LIMIT: i64 = 5;

/// The longest name of a pool in bytes; AMQP has room for 255 in the name of a queue.
const MAX_POOL_BYTES: usize = 200;

/// A delivery waits for a planner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryBell {
    /// [`VERSION`].
    pub v: u32,
    /// Which.
    pub delivery: DeliveryId,
}

/// Something may be claimable for the workers of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolBell {
    /// [`VERSION`].
    pub v: u32,
    /// Which pool.
    pub pool: String,
}

/// A word to every worker, most of whom it does not concern.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    /// [`VERSION`].
    pub v: u32,
    /// Whom it concerns.
    #[serde(flatten)]
    pub about: About,
}

/// Whom a word concerns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum About {
    /// Whoever holds this job: its lease is to be renewed at once, and the answer says what there is.
    Job(JobId),
    /// This worker: a job goes on that it alone has the workspace of.
    Worker(WorkerId),
}

/// Why a message is no bell that can be answered here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BellError {
    /// It is of a later version: another consumer may be able to read it.
    #[error("it is of version {0}, and this Segue reads version {VERSION}")]
    Newer(u32),
    /// Nobody can read it.
    #[error("it can't be read: {0}")]
    Unreadable(String),
}

/// Writes a bell.
///
/// # Errors
/// JSON can't hold it; that would be a mistake in its type.
pub fn write(bell: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(bell)
}

/// Reads a bell.
///
/// # Errors
/// [`BellError`]; a version that is not known yet is told apart, so that a consumer of that version gets it.
pub fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, BellError> {
    let unreadable = |error: serde_json::Error| BellError::Unreadable(error.to_string());
    let fields: serde_json::Map<String, Value> = serde_json::from_slice(body).map_err(unreadable)?;
    match fields.get("v").and_then(Value::as_u64) {
        Some(v) if v > u64::from(VERSION) => Err(BellError::Newer(u32::try_from(v).unwrap_or(u32::MAX))),
        _ => serde_json::from_value(Value::Object(fields)).map_err(unreadable),
    }
}

/// An exchange that fans out to every queue that is bound to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exchange {
    /// Its name. All are durable.
    pub name: &'static str,
}

/// A queue. All are durable, none is exclusive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// The arguments that it is declared with.
    pub arguments: Vec<(&'static str, Argument)>,
    /// The exchange that it is bound to, besides the default one.
    pub bound_to: Option<&'static str>,
}

/// The value of a queue's argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Argument {
    /// A word.
    Text(&'static str),
    /// A whole number.
    Number(i64),
}

/// Every exchange.
pub const EXCHANGES: [Exchange; 2] = [Exchange { name: CANCELLATIONS }, Exchange { name: DEAD_LETTERS }];

/// The queues that are always there; those of the pools come and go with their workers ([`jobs_queue`]).
#[must_use]
pub fn lasting_queues() -> [Queue; 2] {
    let dead_letters = Queue {
        name: DEAD_LETTERS.into(),
        arguments: vec![("x-queue-type", Argument::Text("quorum"))],
        bound_to: Some(DEAD_LETTERS),
    };
    [dead_letters, bells(DELIVERIES.into())]
}

/// The queue of a pool.
#[must_use]
pub fn jobs_queue(pool: &str) -> Queue {
    bells(format!("{JOBS}{pool}"))
}

/// A queue of bells, replicated, with its dead letters kept until they are in the queue of those.
fn bells(name: String) -> Queue {
    let arguments = vec![
        ("x-queue-type", Argument::Text("quorum")),
        ("x-delivery-limit", Argument::Number(DELIVERY_LIMIT)),
        ("x-dead-letter-exchange", Argument::Text(DEAD_LETTERS)),
        ("x-dead-letter-strategy", Argument::Text("at-least-once")),
        // at-least-once asks for it; there are never so many that it comes to that
        ("x-overflow", Argument::Text("reject-publish")),
        ("x-max-length", Argument::Number(100_000)),
    ];
    Queue { name, arguments, bound_to: None }
}

/// The pool of workers that offer these labels: whoever offers the same labels can take the same jobs. Its name is made of the
/// labels, so that people know it: `default+linux`.
#[must_use]
pub fn pool(labels: &[String]) -> String {
    let mut labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    labels.sort_unstable();
    labels.dedup();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let mut name = String::new();
    for (n, label) in labels.iter().enumerate() {
        if n > 0 {
            name.push('+');
        }
        for byte in label.bytes() {
            if plain(byte) {
                name.push(char::from(byte));
            } else {
                name.push_str(&format!("~{byte:02X}"));
            }
        }
    }
    match name.len() {
        0 => "~".into(),
        1..=MAX_POOL_BYTES => name,
        _ => format!("{}~~{:016x}", &name[..MAX_POOL_BYTES - 18], fnv1a(name.as_bytes())),
    }
}

/// FNV-1a of 64 bits (RFC 9923): two pools that met in it would only share their bells.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(labels: &[&str]) -> Vec<String> {
        labels.iter().map(|label| (*label).to_owned()).collect()
    }

    #[test]
    fn a_pool_is_named_by_its_labels_in_any_order() {
        let long: Vec<String> = (0..60).map(|n| format!("label-{n}")).collect();
        for (given, wanted) in [
            (labels(&["linux", "default"]), "default+linux"),
            (labels(&["linux", "linux"]), "linux"),
            (labels(&["GPU", "a b", "ü"]), "GPU+a~20b+~C3~BC"),
            (labels(&["a+b"]), "a~2Bb"),
            (labels(&[]), "~"),
        ] {
            assert_eq!(pool(&given), wanted);
        }
        let name = pool(&long);
        assert_eq!(name.len(), MAX_POOL_BYTES);
        assert!(jobs_queue(&name).name.len() <= 255);
        assert_ne!(name, pool(&long[..59]), "what is cut off still counts");
    }

    #[test]
    fn bells_are_small_objects_with_a_version() {
        let bell = DeliveryBell { v: VERSION, delivery: "a-1".parse().unwrap() };
        let text = write(&bell).unwrap();
        assert_eq!(String::from_utf8_lossy(&text), r#"{"v":1,"delivery":"a-1"}"#);
        assert_eq!(read::<DeliveryBell>(&text), Ok(bell));
        let word = Word { v: VERSION, about: About::Worker("one".parse().unwrap()) };
        assert_eq!(String::from_utf8_lossy(&write(&word).unwrap()), r#"{"v":1,"worker":"one"}"#);
        assert_eq!(read::<Word>(&write(&word).unwrap()), Ok(word));
        let later = read::<PoolBell>(br#"{"v":2,"somewhere":"else"}"#);
        assert_eq!(later, Err(BellError::Newer(2)), "whatever a later version means, this is not the one to say");
        for bad in
            [&b"\xff"[..], b"", b"{}", br#"{"v":1}"#, br#"{"v":1,"delivery":"../x"}"#, br#"{"v":-1}"#, br#"[1,"a-1"]"#]
        {
            assert!(matches!(read::<DeliveryBell>(bad), Err(BellError::Unreadable(_))));
        }
    }

    #[test]
    fn every_queue_is_replicated_and_every_queue_of_bells_loses_nothing_to_the_dead_letters() {
        let [dead, deliveries] = lasting_queues();
        for queue in [&dead, &deliveries, &jobs_queue("linux")] {
            assert!(queue.arguments.contains(&("x-queue-type", Argument::Text("quorum"))), "{queue:?}");
        }
        assert_eq!(dead.bound_to, Some(DEAD_LETTERS), "or the dead letters would go nowhere");
        for queue in [&deliveries, &jobs_queue("linux")] {
            let argument = |name| queue.arguments.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
            assert_eq!(argument("x-dead-letter-exchange"), Some(Argument::Text(DEAD_LETTERS)));
            assert_eq!(argument("x-dead-letter-strategy"), Some(Argument::Text("at-least-once")));
            assert_eq!(argument("x-overflow"), Some(Argument::Text("reject-publish")));
            assert_eq!(argument("x-delivery-limit"), Some(Argument::Number(5)));
        }
        assert!(EXCHANGES.iter().any(|exchange| Some(exchange.name) == dead.bound_to));
    }
}
