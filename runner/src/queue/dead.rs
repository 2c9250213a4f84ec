//! Reads the dead letters, says why each is there, and puts them back. Nothing is taken out by reading: what was looked at and not
//! acknowledged is in the queue again when the channel ends.

use std::collections::BTreeSet;

use lapin::{
    Channel, Confirmation,
    message::BasicGetMessage,
    options::{BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions},
    types::{AMQPValue, FieldTable},
};
use segue_schemas::{
    queue::{self, BellError, DeadLetter},
    time::Timestamp,
};
use sha2::{Digest as _, Sha256};

use super::{Queue, error::QueueError};

/// Dead letters that are looked at.
const LOOKED_AT: usize = 1000;
/// Bytes of a body that are shown.
const SHOWN_BYTES: usize = 4096;

impl Queue {
    /// The dead letters, the oldest first.
    ///
    /// # Errors
    /// The broker does not answer.
    pub async fn dead_letters(&self) -> Result<Vec<DeadLetter>, QueueError> {
        let connection = self.address.connect("segue server: dead letters").await?;
        let channel = self.address.channel(&connection).await?;
        let letters = self.take(&channel).await?.iter().map(letter).collect();
        self.address.ask(connection.close(200, "read".into())).await?;
        Ok(letters)
    }

    /// Puts dead letters back into the queues that they came from: the wanted ones, or all. Gives the ids of those that are there
    /// again; one that the broker does not confirm stays where it was.
    ///
    /// # Errors
    /// The broker does not answer.
    pub async fn requeue_dead_letters(&self, wanted: Option<&BTreeSet<String>>) -> Result<Vec<String>, QueueError> {
        let connection = self.address.connect("segue server: dead letters").await?;
        let channel = self.address.channel(&connection).await?;
        self.address.ask(channel.confirm_select(ConfirmSelectOptions::default())).await?;
        let mut put_back = Vec::new();
        for message in self.take(&channel).await? {
            let letter = letter(&message);
            if wanted.is_some_and(|wanted| !wanted.contains(&letter.id)) {
                continue;
            }
            if self.put_back(&channel, &letter.queue, &message).await? {
                self.address.ask(message.ack(BasicAckOptions::default())).await?;
                put_back.push(letter.id);
            }
        }
        self.address.ask(connection.close(200, "done".into())).await?;
        Ok(put_back)
    }

    async fn take(&self, channel: &Channel) -> Result<Vec<BasicGetMessage>, QueueError> {
        let mut taken = Vec::new();
        while taken.len() < LOOKED_AT {
            let next = channel.basic_get(queue::DEAD_LETTERS.into(), BasicGetOptions::default());
            match self.address.ask(next).await? {
                Some(message) => taken.push(message),
                None => break,
            }
        }
        Ok(taken)
    }

    async fn put_back(&self, channel: &Channel, to: &str, message: &BasicGetMessage) -> Result<bool, QueueError> {
        // without the history: it would be a dead letter again at its next mishap otherwise
        let properties = message.properties.clone().with_headers(FieldTable::default());
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let sent = self.address.ask(channel.basic_publish("".into(), to.into(), options, &message.data, properties));
        Ok(self.address.ask(sent.await?).await? == Confirmation::Ack(None))
    }
}

fn letter(message: &BasicGetMessage) -> DeadLetter {
    let death = Death::of(message.properties.headers().as_ref());
    let mut id = Sha256::new();
    let message_id = message.properties.message_id().as_ref().map(ToString::to_string).unwrap_or_default();
    let at = death.at.map(|at| at.0.to_string()).unwrap_or_default();
    for part in [message_id.as_bytes(), death.queue.as_bytes(), at.as_bytes(), &message.data] {
        id.update((part.len() as u64).to_be_bytes());
        id.update(part);
    }
    let (why, remedy) = explain(&death.queue, &death.reason, death.count, &message.data);
    DeadLetter {
        id: hex::encode(id.finalize())[..12].to_owned(),
        body: String::from_utf8_lossy(&message.data[..message.data.len().min(SHOWN_BYTES)]).into_owned(),
        queue: death.queue,
        reason: death.reason,
        count: death.count,
        at: death.at,
        why,
        remedy,
    }
}

/// The newest entry of the header `x-death`.
struct Death {
    queue: String,
    reason: String,
    count: u64,
    at: Option<Timestamp>,
}

impl Death {
    fn of(headers: Option<&FieldTable>) -> Self {
        let mut death = Self { queue: "unknown".into(), reason: "unknown".into(), count: 1, at: None };
        let newest = headers.and_then(|headers| match headers.inner().get("x-death") {
            Some(AMQPValue::FieldArray(deaths)) => deaths.as_slice().first(),
            _ => None,
        });
        let Some(AMQPValue::FieldTable(newest)) = newest else { return death };
        for (key, value) in newest.inner() {
            match (key.as_str(), value) {
                ("queue", AMQPValue::LongString(text)) => death.queue = text.to_string(),
                ("reason", AMQPValue::LongString(text)) => death.reason = text.to_string(),
                ("count", AMQPValue::LongLongInt(count)) => death.count = u64::try_from(*count).unwrap_or(1),
                ("time", AMQPValue::Timestamp(seconds)) => {
                    death.at = i64::try_from(*seconds).ok().and_then(|at| at.checked_mul(1000)).map(Timestamp);
                }
                _ => {}
            }
        }
        death
    }
}

/// Why a message became a dead letter, and what to do about it.
fn explain(queue: &str, reason: &str, count: u64, body: &[u8]) -> (String, String) {
    let read = if queue == queue::DELIVERIES {
        queue::read::<queue::DeliveryBell>(body).map(|bell| format!("delivery {}", bell.delivery))
    } else {
        queue::read::<queue::PoolBell>(body).map(|bell| format!("pool `{}`", bell.pool))
    };
    let times = if count > 1 { format!(", {count} times") } else { String::new() };
    match (reason, read) {
        (_, Err(BellError::Unreadable(problem))) => (
            format!("it is no bell: {problem}{times}"),
            format!("find who else publishes to `{queue}`; put back, it comes here again"),
        ),
        (_, Err(newer @ BellError::Newer(_))) => (
            format!("{newer}; it came back unanswered {} times", queue::DELIVERY_LIMIT),
            "upgrade the servers and workers of the older version, then put it back".into(),
        ),
        ("delivery_limit", Ok(subject)) => (
            format!(
                "whoever took this bell for {subject} ended before answering it, more than {} times over{times}",
                queue::DELIVERY_LIMIT
            ),
            "look for what ends them in their logs; what is still to be done is rung for anew, put back or not".into(),
        ),
        ("rejected", Ok(subject)) => (
            format!("it is a bell for {subject}, which the store does not know{times}"),
            "the store was restored to an earlier state, or another server uses this virtual host: give each its own"
                .into(),
        ),
        (_, Ok(subject)) => (
            format!("it is a bell for {subject}, and the broker dropped it ({reason}){times}"),
            "look for a policy of the broker that limits the queue; what is still to be done is rung for anew".into(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_dead_letter_is_explained_by_what_it_is_and_what_befell_it() {
        let (jobs, deliveries) = ("segue.jobs.linux", queue::DELIVERIES);
        for (queue, reason, body, wanted) in [
            (deliveries, "rejected", &b"hello"[..], "it is no bell"),
            (jobs, "rejected", br#"{"v":1,"delivery":"a"}"#, "it is no bell: missing field `pool`"),
            (jobs, "delivery_limit", br#"{"v":7}"#, "of version 7, and this Segue reads version 1"),
            (jobs, "delivery_limit", br#"{"v":1,"pool":"linux"}"#, "for pool `linux` ended before answering it"),
            (deliveries, "rejected", br#"{"v":1,"delivery":"a-1"}"#, "for delivery a-1, which the store does not know"),
            (deliveries, "maxlen", br#"{"v":1,"delivery":"a-1"}"#, "the broker dropped it (maxlen)"),
        ] {
            let (why, remedy) = explain(queue, reason, 2, body);
            assert!(why.contains(wanted) && !remedy.is_empty(), "{why}");
        }
    }

    #[test]
    fn a_message_without_a_history_is_shown_all_the_same() {
        let death = Death::of(None);
        assert_eq!((death.queue.as_str(), death.count), ("unknown", 1));
    }
}
