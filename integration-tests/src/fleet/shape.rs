//! What a fleet consists of, and what is started around it: a database with a bucket, a broker, and wires that can be cut.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc};

use anyhow::Result;

use crate::{
    broker::Broker,
    cut::Wire,
    postgres::{Database, Postgres},
    s3::S3,
};

/// Whose a service is that is started around a fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// The one that tests share, which nobody may stop or spoil.
    Shared,
    /// One for this fleet alone.
    Own,
}

/// Where the state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// In the server's data directory.
    Sqlite,
    /// In a PostgreSQL, with contents in a bucket, so that servers can share both.
    Postgres(Whose),
}

/// How servers and workers are told that there is something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bells {
    /// By the server, which holds a claim open.
    OfTheServer,
    /// By a RabbitMQ, with a user for servers and one for workers.
    RabbitMq(Whose),
}

/// What a fleet consists of.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Where the state is.
    pub store: Store,
    /// Who rings.
    pub bells: Bells,
    /// Servers; more than one need a store that they share.
    pub servers: usize,
    /// Workers; each speaks to the server with its number, modulo their count.
    pub workers: usize,
    /// Slots of each worker.
    pub capacity: u32,
    /// Whether workers reach their servers, and all of them the broker, by wires that can be cut.
    pub wired: bool,
    /// Appended to every `segue.yaml`.
    pub extra: String,
    /// Set in the environment of every server.
    pub server_env: Vec<(String, String)>,
    /// The same for a PostgreSQL of its own.
    pub database_env: Vec<(String, String)>,
}

impl Shape {
    /// A server with everything in it, and two workers.
    #[must_use]
    pub fn embedded() -> Self {
        Self {
            store: Store::Sqlite,
            bells: Bells::OfTheServer,
            servers: 1,
            workers: 2,
            capacity: 2,
            wired: false,
            extra: String::new(),
            server_env: Vec::new(),
            database_env: Vec::new(),
        }
    }

    /// Two servers and two workers on a PostgreSQL and a RabbitMQ.
    #[must_use]
    pub fn cluster(whose: Whose) -> Self {
        Self { store: Store::Postgres(whose), bells: Bells::RabbitMq(whose), servers: 2, ..Self::embedded() }
    }
}

/// What is around a fleet.
#[derive(Default)]
pub(super) struct Surroundings {
    pub database: Option<Database>,
    pub broker: Option<Broker>,
    /// Between servers and the broker.
    pub servers_to_broker: Option<Wire>,
    /// Between workers and the broker.
    pub workers_to_broker: Option<Wire>,
    s3: Option<S3>,
}

impl Surroundings {
    pub async fn start(shape: &Shape) -> Result<Self> {
        let mut around = Self::default();
        if let Store::Postgres(whose) = shape.store {
            let server = match whose {
                Whose::Shared => Postgres::shared()?,
                Whose::Own => Arc::new(Postgres::start_with(&shape.database_env)?),
            };
            around.database = Some(server.database()?);
            around.s3 = Some(S3::start("contents", "key", "secret").await?);
        }
        if let Bells::RabbitMq(whose) = shape.bells {
            let broker = match whose {
                Whose::Shared => Broker::shared().await?,
                Whose::Own => Broker::start("").await?,
            };
            if shape.wired {
                around.servers_to_broker = Some(Wire::to(broker.address()).await?);
                around.workers_to_broker = Some(Wire::to(broker.address()).await?);
            }
            around.broker = Some(broker);
        }
        Ok(around)
    }

    /// What the `segue.yaml` of a server says of it.
    pub fn for_servers(&self, keys: &Path) -> Result<String> {
        let mut text = self.broker_line(self.servers_to_broker.as_ref(), "server");
        if let (Some(database), Some(s3)) = (&self.database, &self.s3) {
            text.push_str(&configuration(database, s3, keys)?);
        }
        Ok(text)
    }

    /// What the `segue.yaml` of a worker says of it, which knows no database.
    pub fn for_workers(&self) -> String {
        self.broker_line(self.workers_to_broker.as_ref(), "worker")
    }

    fn broker_line(&self, wire: Option<&Wire>, user: &str) -> String {
        let Some(broker) = &self.broker else { return String::new() };
        let url = broker.url_at(wire.map_or(broker.address(), Wire::address), user);
        // who is idle asks so often that what is lost is found soon
        format!("broker: {{url: \"{url}\", look-every: 2s}}\n")
    }
}

/// What `segue.yaml` says of a database, a bucket and the key of secrets; the files that it names lie in `keys`.
///
/// # Errors
/// The files of the keys can't be written.
pub fn configuration(database: &Database, s3: &S3, keys: &Path) -> Result<String> {
    fs::create_dir_all(keys)?;
    let file = |name: &str, text: &str| -> Result<String> {
        let file = keys.join(name);
        fs::write(&file, text)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
        Ok(file.display().to_string())
    };
    let (id, secret, url) = (file("id", "key")?, file("secret", "secret")?, file("url", &database.url())?);
    Ok(format!(
        "database: {{url-file: {url}}}\nsecrets: {{key-file: {}}}\nstorage:\n  kind: s3\n  bucket: contents\n  \
         endpoint: {}\n  access-key-file: {id}\n  secret-key-file: {secret}\n",
        keys.join("secret.key").display(),
        s3.endpoint(),
    ))
}
