//! The way to the broker: where it is, as whom, and under which certificate. Nothing is said to a broker whose certificate does
//! not hold, and a connection that breaks is made anew by whoever uses it.

use std::{fs, path::Path, time::Duration};

use lapin::{Channel, Connection, ConnectionProperties, tcp::OwnedTLSConfig, uri::AMQPUri};
use secrecy::{ExposeSecret as _, SecretString};
use segue_pipelines::config::address_fault;
use segue_schemas::config::BrokerConfig;

use super::error::{QueueError, Who};

/// How long a connection may take to be made.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long the broker may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// A connection over which nothing came for this long is dead.
const HEARTBEAT_SECONDS: u16 = 10;
/// The largest frame. The client keeps 64 of them for each connection, and a bell has a hundred bytes.
const FRAME_BYTES: u32 = 8192;

/// Where a broker is, and as whom to speak to it.
#[derive(Debug, Clone)]
pub(super) struct Address {
    url: SecretString,
    certificates: Option<String>,
    pub(super) who: Who,
}

impl Address {
    /// What the configuration says; `None`: there is no broker.
    ///
    /// # Errors
    /// [`QueueError::Configuration`]: a file can't be read, or what is in it is no address.
    pub(super) fn read(config: &BrokerConfig) -> Result<Option<Self>, QueueError> {
        let (key, url) = match (&config.url, &config.url_file) {
            (Some(url), _) => ("url", url.clone()),
            (None, Some(file)) => ("url-file", text_of("url-file", file)?.trim().to_owned()),
            (None, None) => return Ok(None),
        };
        if let Some(fault) = address_fault(&url, config.allow_plain) {
            return Err(QueueError::Configuration { key, problem: fault.message, remedy: fault.help });
        }
        let certificates = config.ca_file.as_deref().map(|file| text_of("ca-file", file)).transpose()?;
        if certificates.as_ref().is_some_and(|text| !text.contains("-----BEGIN CERTIFICATE-----")) {
            return Err(QueueError::Configuration {
                key: "ca-file",
                problem: "the file holds no certificate".into(),
                remedy: "name a file in PEM form, with lines `-----BEGIN CERTIFICATE-----`".into(),
            });
        }
        let uri = parsed(&url).map_err(|problem| QueueError::Configuration {
            key,
            problem,
            remedy: "write `amqps://USER:PASSWORD@HOST/VHOST`".into(),
        })?;
        let who = Who {
            place: format!("{}:{}", uri.authority.host, uri.authority.port),
            user: uri.authority.userinfo.username,
            vhost: uri.vhost,
        };
        Ok(Some(Self { url: url.into(), certificates, who }))
    }

    /// Makes a connection, of which the broker shows the name.
    ///
    /// # Errors
    /// [`QueueError`].
    pub(super) async fn connect(&self, name: &str) -> Result<Connection, QueueError> {
        let uri = self.uri()?;
        let runtime = lapin::runtime::default_runtime().map_err(|error| self.who.explain(&error))?;
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let connecting = Connection::connect_uri_with_config(uri, properties, self.tls(), runtime);
        self.ask_for(CONNECT_LIMIT, connecting).await
    }

    /// The address itself.
    pub(super) fn uri(&self) -> Result<AMQPUri, QueueError> {
        parsed(self.url.expose_secret()).map_err(QueueError::Broker)
    }

    /// Whose certificates are accepted, besides those that the system trusts.
    pub(super) fn tls(&self) -> OwnedTLSConfig {
        OwnedTLSConfig { identity: None, cert_chain: self.certificates.clone() }
    }

    /// Whether what is said is encrypted.
    pub(super) fn is_encrypted(&self) -> bool {
        self.url.expose_secret().starts_with("amqps:")
    }

    /// Opens a channel.
    ///
    /// # Errors
    /// [`QueueError`].
    pub(super) async fn channel(&self, connection: &Connection) -> Result<Channel, QueueError> {
        self.ask(connection.create_channel()).await
    }

    /// The answer to a question, which must come in time.
    ///
    /// # Errors
    /// [`QueueError`].
    pub(super) async fn ask<T>(&self, question: impl Future<Output = lapin::Result<T>>) -> Result<T, QueueError> {
        self.ask_for(ANSWER_LIMIT, question).await
    }

    async fn ask_for<T>(
        &self,
        limit: Duration,
        question: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, QueueError> {
        match tokio::time::timeout(limit, question).await {
            Ok(answer) => answer.map_err(|error| self.who.explain(&error)),
            Err(_) => Err(self.who.silent()),
        }
    }
}

/// The library's own words for an address that it can't read are not repeated: they may hold the password.
fn parsed(url: &str) -> Result<AMQPUri, String> {
    let mut uri: AMQPUri = url.parse().map_err(|_| "this is no address of a broker".to_owned())?;
    uri.query.frame_max = Some(FRAME_BYTES);
    uri.query.heartbeat = Some(HEARTBEAT_SECONDS);
    Ok(uri)
}

fn text_of(key: &'static str, file: &Path) -> Result<String, QueueError> {
    fs::read_to_string(file).map_err(|error| QueueError::Configuration {
        key,
        problem: format!("{} can't be read: {error}", file.display()),
        remedy: "name a file that this user can read".into(),
    })
}
