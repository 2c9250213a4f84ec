//! Declares at the broker what `segue_schemas::queue` says must stand there.

use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use segue_schemas::queue::{self, Argument, Queue};

use super::{connection::Address, error::QueueError};

/// Declares everything but the queues of pools. What is there already and is the same stays as it is.
///
/// # Errors
/// [`QueueError::Mismatch`] where it is not the same. The channel is closed then, as after every error.
pub(super) async fn declare(address: &Address, channel: &Channel) -> Result<(), QueueError> {
    for exchange in queue::EXCHANGES {
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let name = exchange.name.into();
        address.ask(channel.exchange_declare(name, ExchangeKind::Fanout, options, FieldTable::default())).await?;
    }
    for queue in queue::lasting_queues() {
        declare_queue(address, channel, &queue).await?;
    }
    Ok(())
}

/// Declares one queue.
///
/// # Errors
/// As [`declare`].
pub(super) async fn declare_queue(address: &Address, channel: &Channel, queue: &Queue) -> Result<(), QueueError> {
    let name = queue.name.as_str();
    let mut arguments = FieldTable::default();
    for (key, value) in &queue.arguments {
        let value = match value {
            Argument::Text(text) => AMQPValue::LongString((*text).into()),
            Argument::Number(number) => AMQPValue::LongLongInt(*number),
        };
        arguments.insert((*key).into(), value);
    }
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    address.ask(channel.queue_declare(name.into(), options, arguments)).await?;
    if let Some(exchange) = queue.bound_to {
        let bound = channel.queue_bind(
            name.into(),
            exchange.into(),
            "".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        address.ask(bound).await?;
    }
    Ok(())
}

/// How many messages of a queue wait, and how many consumers it has; `None`: there is no such queue, and the channel is closed.
///
/// # Errors
/// [`QueueError`].
pub(super) async fn waiting(
    address: &Address,
    channel: &Channel,
    queue: &str,
) -> Result<Option<(u32, u32)>, QueueError> {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    match address.ask(channel.queue_declare(queue.into(), options, FieldTable::default())).await {
        Ok(queue) => Ok(Some((queue.message_count(), queue.consumer_count()))),
        Err(QueueError::Lost(_)) => Ok(None),
        Err(error) => Err(error),
    }
}
