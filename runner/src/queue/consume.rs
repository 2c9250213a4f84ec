//! The planner's consumer: takes bells of deliveries from the queue and hands them on, each to be answered when its delivery is
//! planned. It holds as many as it may have unanswered, and comes back after whatever ends it.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use lapin::{
    message::Delivery as Message,
    options::{BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions, BasicRejectOptions},
    types::FieldTable,
};
use rand::Rng as _;
use segue_schemas::{
    id::DeliveryId,
    queue::{self, BellError, DeliveryBell},
};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::{connection::Address, error::QueueError};

/// Bells that are taken before the first of them is answered.
pub const PREFETCH: usize = 128;
/// Pauses before a connection is made again grow from the first to the second of these.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Before a bell of a later version is given back: a server that can read it is being started, or there is none.
const GIVE_BACK_AFTER: Duration = Duration::from_millis(200);

/// A bell for the planner. Dropped without an answer, it comes again once the connection ends.
#[derive(Debug)]
pub struct PlannerBell {
    /// The delivery that waits.
    pub delivery: DeliveryId,
    message: Message,
}

impl PlannerBell {
    /// The delivery is looked after.
    pub async fn answer(self) {
        // a connection that is gone has given the bell back, and the delivery will be found to be planned
        let _ = self.message.ack(BasicAckOptions::default()).await;
    }

    /// There is no such delivery: a dead letter.
    pub async fn refuse(self) {
        let _ = self.message.reject(BasicRejectOptions { requeue: false }).await;
    }
}

/// Consumes until `stop`.
pub(super) async fn run(
    address: Address,
    bells: mpsc::Sender<PlannerBell>,
    anew: Arc<Notify>,
    stop: CancellationToken,
) {
    let mut pause = PAUSES.0;
    loop {
        let ended = tokio::select! {
            ended = consume(&address, &bells, &mut pause) => ended,
            // the broker may know of no consumer, whatever this one believes
            () = anew.notified() => Ok(()),
            () = stop.cancelled() => return,
        };
        match ended {
            Ok(()) => tracing::info!("the broker has ended the planner's subscription; it is made again"),
            // the relay tells what is wrong with the broker
            Err(error) => tracing::debug!(%error, "bells of deliveries can't be taken"),
        }
        let jittered = pause.mul_f64(rand::rng().random_range(0.5..1.0));
        pause = (pause * 2).min(PAUSES.1);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(jittered) => {}
        }
    }
}

async fn consume(address: &Address, bells: &mpsc::Sender<PlannerBell>, pause: &mut Duration) -> Result<(), QueueError> {
    let connection = address.connect("segue server: planner").await?;
    let channel = address.channel(&connection).await?;
    address.ask(channel.basic_qos(PREFETCH as u16, BasicQosOptions::default())).await?;
    let subscribed = channel.basic_consume(
        queue::DELIVERIES.into(),
        "".into(),
        BasicConsumeOptions::default(),
        FieldTable::default(),
    );
    let mut consumer = address.ask(subscribed).await?;
    *pause = PAUSES.0;
    while let Some(message) = consumer.next().await {
        let message = message.map_err(|error| address.who.explain(&error))?;
        match queue::read::<DeliveryBell>(&message.data) {
            Ok(bell) => {
                let _ = bells.send(PlannerBell { delivery: bell.delivery, message }).await;
            }
            Err(error @ BellError::Newer(_)) => {
                tracing::warn!(%error, "a bell is left to a later Segue");
                tokio::time::sleep(GIVE_BACK_AFTER).await;
                let options = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
                let _ = message.nack(options).await;
            }
            Err(error @ BellError::Unreadable(_)) => {
                tracing::warn!(%error, "a message among the bells is a dead letter now: see `segue queue list`");
                let _ = message.reject(BasicRejectOptions { requeue: false }).await;
            }
        }
    }
    Ok(())
}
