//! The way to the broker: where it is, as whom, and under which certificate. Nothing is said to a broker whose certificate does
//! not hold.

use std::{fs, path::Path, time::Duration};

use lapin::{
    Connection, ConnectionProperties, ErrorKind,
    protocol::{AMQPErrorKind, AMQPSoftError},
    tcp::OwnedTLSConfig,
    uri::AMQPUri,
};
use secrecy::{ExposeSecret as _, SecretString};
use segue_pipelines::config::address_fault;
use segue_schemas::config::BrokerConfig;

/// How long a connection may take to be made.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long the broker may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// A connection over which nothing came for this long is dead.
const HEARTBEAT_SECONDS: u16 = 10;
/// The largest frame. The client keeps 64 of them for each connection, and a bell has a hundred bytes.
const FRAME_BYTES: u32 = 8192;
/// What the user of a worker may do, as `rabbitmqctl set_permissions` takes it: make its own queue for cancellations, and read.
const PERMISSIONS: &str = r"'^amq\.gen-' '^amq\.gen-' '^(segue\.jobs\.|segue\.cancellations$|amq\.gen-)'";

/// Why the broker can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// The configuration can't be followed.
    #[error("`broker.{key}`: {problem}; {remedy}")]
    Configuration {
        /// Which key.
        key: &'static str,
        /// What is wrong.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// Nobody answers, or the connection broke.
    #[error("the broker at {place} can't be reached ({problem})")]
    Away {
        /// Host and port.
        place: String,
        /// What happened.
        problem: String,
    },
    /// The other side is not who it should be.
    #[error(
        "the broker at {place} shows a certificate that is not accepted ({problem}): name whoever signed it in `broker.ca-file`, \
         and the host as the certificate names it in `broker.url`; without that nothing is said to it"
    )]
    Certificate {
        /// Host and port.
        place: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The user may not do what is needed.
    #[error(
        "the broker refuses user `{user}` ({problem}): look at user and password in `broker.url`; its administrator may have to \
         run `rabbitmqctl set_permissions --vhost {vhost} {user} {PERMISSIONS}`"
    )]
    Refused {
        /// Who.
        user: String,
        /// Where.
        vhost: String,
        /// The broker's words.
        problem: String,
    },
    /// The queue is not there: the server has not declared it yet.
    #[error("there is no such queue ({0}): the server declares it as soon as it reaches the broker")]
    Missing(String),
    /// Anything else that the broker says.
    #[error("the broker says: {0}")]
    Broker(String),
}

/// Where a broker is, and as whom to speak to it.
#[derive(Debug, Clone)]
pub(super) struct Address {
    url: SecretString,
    certificates: Option<String>,
    pub(super) place: String,
    user: String,
    vhost: String,
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
        let uri = parsed(&url).ok_or_else(|| QueueError::Configuration {
            key,
            problem: "this is no address of a broker".into(),
            remedy: "write `amqps://USER:PASSWORD@HOST/VHOST`".into(),
        })?;
        Ok(Some(Self {
            url: url.into(),
            certificates,
            place: format!("{}:{}", uri.authority.host, uri.authority.port),
            user: uri.authority.userinfo.username,
            vhost: uri.vhost,
        }))
    }

    /// Makes a connection, of which the broker shows the name.
    ///
    /// # Errors
    /// [`QueueError`].
    pub(super) async fn connect(&self, name: &str) -> Result<Connection, QueueError> {
        let uri = parsed(self.url.expose_secret()).ok_or_else(|| self.away("this is no address"))?;
        let runtime = lapin::runtime::default_runtime().map_err(|error| self.explain(&error))?;
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let tls = OwnedTLSConfig { identity: None, cert_chain: self.certificates.clone() };
        let connecting = Connection::connect_uri_with_config(uri, properties, tls, runtime);
        self.ask_for(CONNECT_LIMIT, connecting).await
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
            Ok(answer) => answer.map_err(|error| self.explain(&error)),
            Err(_) => Err(self.away("it does not answer")),
        }
    }

    pub(super) fn away(&self, problem: &str) -> QueueError {
        QueueError::Away { place: self.place.clone(), problem: problem.into() }
    }

    /// What an error of the client library means.
    pub(super) fn explain(&self, error: &lapin::Error) -> QueueError {
        match error.kind() {
            ErrorKind::ProtocolError(amqp) => {
                let problem = amqp.get_message().to_string();
                match amqp.kind() {
                    AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) => QueueError::Missing(problem),
                    AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => {
                        QueueError::Refused { user: self.user.clone(), vhost: self.vhost.clone(), problem }
                    }
                    _ => QueueError::Broker(problem),
                }
            }
            ErrorKind::IOError(io) if io.to_string().to_lowercase().contains("certificate") => {
                QueueError::Certificate { place: self.place.clone(), problem: io.to_string() }
            }
            ErrorKind::IOError(io) => self.away(&io.to_string()),
            _ => self.away(&error.to_string()),
        }
    }
}

/// The library's own words for an address that it can't read are not repeated: they may hold the password.
fn parsed(url: &str) -> Option<AMQPUri> {
    let mut uri: AMQPUri = url.parse().ok()?;
    uri.query.frame_max = Some(FRAME_BYTES);
    uri.query.heartbeat = Some(HEARTBEAT_SECONDS);
    Some(uri)
}

fn text_of(key: &'static str, file: &Path) -> Result<String, QueueError> {
    fs::read_to_string(file).map_err(|error| QueueError::Configuration {
        key,
        problem: format!("{} can't be read: {error}", file.display()),
        remedy: "name a file that this user can read".into(),
    })
}
