//! Whether a broker can be used, step by step, for `segue doctor`.

use std::{
    io::{self, Read as _, Write as _},
    time::Duration,
};

use lapin::{
    options::{ExchangeDeclareOptions, QueueDeclareOptions},
    tcp::{AMQPUriTcpExt as _, OwnedTLSConfig},
    types::FieldTable,
};
use segue_schemas::{config::BrokerConfig, queue};

use super::{connection::Address, error::QueueError, topology};

/// The oldest RabbitMQ that keeps dead letters until they have arrived.
pub const OLDEST: (u32, u32) = (3, 10);
/// How long the broker's greeting may take.
const GREETING_LIMIT: Duration = Duration::from_secs(5);
/// The largest greeting that is read.
const MAX_GREETING: usize = 64 * 1024;

/// What the broker showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Host and port.
    pub place: String,
    /// As whom.
    pub user: String,
    /// Whether what is said is encrypted, under a certificate that holds.
    pub is_encrypted: bool,
    /// Its version as it says it, where it says one.
    pub version: Option<String>,
    /// Whether the version is too old.
    pub is_old: bool,
    /// What the user may do.
    pub role: Role,
    /// Dead letters; `None`: the queue is not there, or not this user's to look at.
    pub dead_letters: Option<u32>,
}

/// Whose user it is, by what it may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It may declare, publish and take: a server's.
    Server,
    /// It may listen: a worker's.
    Worker,
}

/// Looks at the broker that the configuration names; `None`: none. Declares what a server would declare, and what is there
/// already stays as it is.
///
/// # Errors
/// The first thing that is wrong, with its remedy.
pub async fn check(config: &BrokerConfig) -> Result<Option<Found>, QueueError> {
    let Some(address) = Address::read(config)? else { return Ok(None) };
    let connection = address.connect("segue doctor").await?;
    let version = version_of(&address).await;
    let role = match declare(&address, &connection).await {
        Ok(()) => Role::Server,
        Err(refused @ QueueError::Forbidden { .. }) => match listen(&address, &connection).await {
            Ok(()) => Role::Worker,
            Err(_) => return Err(refused),
        },
        Err(error) => return Err(error),
    };
    let channel = address.channel(&connection).await?;
    let dead_letters = topology::waiting(&address, &channel, queue::DEAD_LETTERS).await.unwrap_or(None);
    let dead_letters = dead_letters.map(|(messages, _)| messages);
    let _ = address.ask(connection.close(200, "checked".into())).await;
    Ok(Some(Found {
        place: address.who.place.clone(),
        user: address.who.user.clone(),
        is_encrypted: address.is_encrypted(),
        is_old: version.as_deref().is_some_and(is_old),
        version,
        role,
        dead_letters,
    }))
}

async fn declare(address: &Address, connection: &lapin::Connection) -> Result<(), QueueError> {
    let channel = address.channel(connection).await?;
    topology::declare(address, &channel).await
}

/// What a worker does, but for taking bells.
async fn listen(address: &Address, connection: &lapin::Connection) -> Result<(), QueueError> {
    let channel = address.channel(connection).await?;
    let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    let own = address.ask(channel.queue_declare("".into(), options, FieldTable::default())).await?;
    let exchange = queue::CANCELLATIONS.into();
    let is_there = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
    let kind = lapin::ExchangeKind::Fanout;
    address.ask(channel.exchange_declare(exchange, kind, is_there, FieldTable::default())).await?;
    let bound = channel.queue_bind(
        own.name().clone(),
        queue::CANCELLATIONS.into(),
        "".into(),
        lapin::options::QueueBindOptions::default(),
        FieldTable::default(),
    );
    address.ask(bound).await
}

/// The version in the broker's greeting, which the client library keeps to itself.
async fn version_of(address: &Address) -> Option<String> {
    let (uri, tls) = (address.uri().ok()?, address.tls());
    tokio::task::spawn_blocking(move || greeting(&uri, &tls).ok()).await.ok()?.and_then(|text| version_in(&text))
}

fn greeting(uri: &lapin::uri::AMQPUri, tls: &OwnedTLSConfig) -> io::Result<Vec<u8>> {
    let mut stream = uri.connect_with_config(tls.as_ref()).map_err(|error| io::Error::other(error.to_string()))?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(GREETING_LIMIT))?;
    stream.write_all(b"AMQP\x00\x00\x09\x01")?;
    stream.flush()?;
    // a frame: its kind, its channel, the length of what follows (AMQP 0-9-1, 2.3.5)
    let mut head = [0; 7];
    stream.read_exact(&mut head)?;
    let bytes = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
    let mut body = vec![0; bytes.min(MAX_GREETING)];
    stream.read_exact(&mut body)?;
    Ok(body)
}

/// The value of `version` in a table of properties: the key, `S`, the length in four bytes, the text.
fn version_in(greeting: &[u8]) -> Option<String> {
    const KEY: &[u8] = b"\x07versionS";
    let at = greeting.windows(KEY.len()).position(|window| window == KEY)? + KEY.len();
    let bytes = u32::from_be_bytes(greeting.get(at..at + 4)?.try_into().ok()?) as usize;
    let text = greeting.get(at + 4..(at + 4).checked_add(bytes)?)?;
    String::from_utf8(text.to_vec()).ok()
}

fn is_old(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| part.parse::<u32>());
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < OLDEST,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_found_in_the_greeting_and_weighed() {
        assert_eq!(version_in(b"\x07versionS\x00\x00\x00\x063.10.8"), Some("3.10.8".into()));
        assert_eq!(version_in(b"\x07versionS\xff\xff\xff\xff3.10.8"), None);
        assert_eq!(version_in(b"\x07versionS\x00"), None);
        for (version, old) in
            [("3.10.8", false), ("3.9.27", true), ("4.1.0", false), ("2.8", true), ("3.10.0-rc.1", false), ("x", false)]
        {
            assert_eq!(is_old(version), old, "{version}");
        }
    }
}
