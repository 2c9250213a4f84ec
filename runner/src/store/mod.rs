//! The store: what a control plane knows, made durable. Every operation is one transaction and one method of [`Store`];
//! when it has returned, what it did is on the disk, and every bell that it concerns has been rung.
//!
//! Here: the tables (`migrations/`), the writer with its group commit, readers beside it, the doorbell, the statements of
//! each table, and the queries. The operations that decide something (claims, reports, progress, rollouts) are methods of
//! [`Store`] too, but live in [`crate::control`], which asks `segue_pipelines` what to do and does it. Comes in: checked
//! values of `schemas`. Goes out: records, never rows. Never here: HTTP, YAML, git, and no sleep but for the next expiry.

pub(crate) mod behind;
mod bells;
pub(crate) mod buttons;
mod clock;
pub(crate) mod comments;
mod common;
mod copy;
mod deployments;
mod doorbell;
mod due;
mod error;
pub(crate) mod fleet;
mod left_out;
mod model;
pub(crate) mod outboxes;
mod postgres;
mod queries;
pub(crate) mod sealed;
mod shows;
pub(crate) mod sql;
mod sqlite;
pub(crate) mod tables;
pub(crate) mod told_previews;
mod waiting;
mod writer;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use segue_schemas::{
    config::Config,
    id::{Epoch, JobId, RolloutId, WorkerId},
    time::Timestamp,
};
use sqlx::SqlitePool;
use tokio::sync::Notify;

pub use self::tables::{
    hosts::{JoinedHost, ToldState},
    machines::RentedMachine,
};
pub(crate) use bells::LogBells;
pub use buttons::DueButton;
pub use clock::Clock;
pub use comments::{Comment, DueComment, Strangers};
pub(crate) use common::SharedLock;
pub use copy::{Copied, copy};
pub use deployments::{DeploymentFacts, DueDeployment};
pub use doorbell::{Bell, Doorbell, Listener};
pub use error::{Result, StoreError};
pub use left_out::LeftOut;
pub use model::*;
pub(crate) use postgres::{Database as PostgresDatabase, SERVER_ID};
pub use shows::{DueShow, ShowFacts, ShownCheck};
pub(crate) use sqlite::{check_database, copy_database};
pub use told_previews::{DuePreviews, PreviewFacts};
pub(crate) use waiting::Waiting;
pub(crate) use writer::{Tx, Work};

use self::{sql::Conn, writer::Writer};
use crate::{
    artifact_store::ArtifactStore,
    control::{contents::ContentLocks, joined::AccessGiven, tokens::JobTokens},
    log_store::LogStore,
    secrets::SecretBox,
};

/// What a store is opened with.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// The data directory, `DIR`; made where it does not exist.
    pub data: PathBuf,
    /// The operator's configuration: gates, environments, limits.
    pub config: Arc<Config>,
    /// The time.
    pub clock: Clock,
}

/// The store of one control plane. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    writer: Writer,
    readers: Readers,
    /// What goes on beside the writer: SQLite's checkpoints, or hearing the bells of other servers.
    beside: Vec<tokio::task::AbortHandle>,
    pub(crate) doorbell: Arc<Doorbell>,
    pub(crate) clock: Clock,
    pub(crate) config: Arc<Config>,
    pub(crate) data: PathBuf,
    pub(crate) logs: LogStore,
    pub(crate) artifacts: ArtifactStore,
    pub(crate) content_locks: ContentLocks,
    pub(crate) secrets: SecretBox,
    /// When each worker was last heard, so that an idle one costs no write.
    pub(crate) heard: Mutex<HashMap<WorkerId, Timestamp>>,
    /// What the tokens of leases stand for, as far as memory goes.
    pub(crate) job_tokens: Mutex<JobTokens>,
    /// Behind which repository a claim begins to look, where more have something queued than one claim looks at.
    pub(crate) turn: Mutex<String>,
    /// Which owner of a rollout was given a person's word, and when.
    pub(crate) told: Mutex<HashMap<RolloutId, Told>>,
    /// The ports of hosts' proxies, as far as hosts told them.
    pub(crate) proxy_ports: Mutex<HashMap<String, u16>>,
    /// Which owners of rollouts were given certificates for joined hosts, and when.
    pub(crate) access_given: Mutex<AccessGiven>,
    /// When it was written down last that a host was heard.
    pub(crate) hosts_heard: Mutex<HashMap<String, Timestamp>>,
    /// Which hosts do not answer, as a worker or a cut connection told;
    /// when that was told, and from when it counts.
    pub(crate) hosts_silent: Mutex<HashMap<String, (Timestamp, Timestamp)>>,
}

/// When a word was told to whom.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) to: Epoch,
    pub(crate) number: Option<i64>,
    pub(crate) at: Timestamp,
}

/// Where readers get their snapshots.
enum Readers {
    Sqlite(SqlitePool),
    Postgres(Arc<postgres::Database>),
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.beside.iter().for_each(tokio::task::AbortHandle::abort);
    }
}

impl Store {
    /// Opens the store in a data directory, or in the database that the configuration names; makes it where there is none, and
    /// brings its tables up to date.
    ///
    /// # Errors
    /// [`StoreError::Files`] or [`StoreError::Unavailable`] naming the path, where the directory or the database can't be used.
    pub async fn open(options: StoreOptions) -> Result<Self> {
        let StoreOptions { data, config, clock } = options;
        make_private(&data, 0o711)?;
        let artifacts = ArtifactStore::open(&config.storage, data.join("artifacts"))?;
        let secrets = SecretBox::new(config.secrets.key_file.clone(), &data);
        let doorbell = Arc::new(Doorbell::default());
        let committed = Arc::new(Notify::new());
        let (conn, readers, clock, logs, beside) = if config.database.is_shared() {
            let (database, now) = postgres::Database::open(&config.database, &data).await?;
            let (database, bells) = (Arc::new(database), Arc::new(LogBells::default()));
            let hearing = tokio::spawn(database.clone().hear(doorbell.clone()));
            let telling = tokio::spawn(database.clone().tell_of_logs(bells.clone()));
            let conn = Conn::Postgres(Box::new(database.session()));
            let logs = LogStore::shared(database.clone(), doorbell.clone(), bells);
            (conn, Readers::Postgres(database), clock.of_database(now), logs, vec![hearing, telling])
        } else {
            let file = data.join("segue.db");
            make_secret(&file)?;
            let (writer, readers) = sqlite::connect(&file).await?;
            let checkpoints = tokio::spawn(sqlite::checkpoint(file, committed.clone()));
            let logs = LogStore::open(data.join("logs"))?;
            (Conn::Sqlite(writer), Readers::Sqlite(readers), clock, logs, vec![checkpoints])
        };
        let writer = Writer::start(conn, clock.clone(), doorbell.clone(), committed);
        let inner = Inner {
            writer,
            readers,
            beside: beside.iter().map(tokio::task::JoinHandle::abort_handle).collect(),
            doorbell,
            clock,
            config,
            data,
            logs,
            artifacts,
            content_locks: ContentLocks::default(),
            secrets,
            heard: Mutex::default(),
            job_tokens: Mutex::default(),
            turn: Mutex::default(),
            told: Mutex::default(),
            proxy_ports: Mutex::default(),
            access_given: Mutex::default(),
            hosts_heard: Mutex::default(),
            hosts_silent: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The bells.
    #[must_use]
    pub fn doorbell(&self) -> &Doorbell {
        &self.inner.doorbell
    }

    /// The time that the store goes by.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    /// The number of this server, where several share the database.
    pub(crate) fn server(&self) -> Option<i64> {
        match &self.inner.readers {
            Readers::Sqlite(_) => None,
            Readers::Postgres(database) => Some(database.server()),
        }
    }

    /// The operator's configuration.
    #[must_use]
    pub fn config(&self) -> &Arc<Config> {
        &self.inner.config
    }

    /// The logs, for readers. Workers write through [`Store::append_log`], which checks their epoch.
    #[must_use]
    pub fn logs(&self) -> &LogStore {
        &self.inner.logs
    }

    /// The contents of artifacts.
    #[must_use]
    pub fn artifacts(&self) -> &ArtifactStore {
        &self.inner.artifacts
    }

    /// Whether the database answers and the writer lives: for `/readyz`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if not.
    pub async fn check(&self) -> Result<()> {
        self.write(|tx| {
            Box::pin(async move { tx.conn.first("SELECT value FROM counters LIMIT 1", vec![]).await.map(|_| ()) })
        })
        .await
    }

    /// One operation, durable when this returns.
    pub(crate) async fn write<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'t> FnOnce(&'t mut Tx) -> Work<'t, T> + Send + 'static,
    {
        self.inner.writer.run(self.shown(work)).await
    }

    /// Two operations, the second after the first, under one commit. Each fails alone.
    pub(crate) async fn write_both<T, U, F, G>(&self, first: F, second: G) -> (Result<T>, Result<U>)
    where
        T: Send + 'static,
        U: Send + 'static,
        F: for<'t> FnOnce(&'t mut Tx) -> Work<'t, T> + Send + 'static,
        G: for<'t> FnOnce(&'t mut Tx) -> Work<'t, U> + Send + 'static,
    {
        self.inner.writer.run_both(self.shown(first), self.shown(second)).await
    }

    /// An operation after which GitHub is told what it changed: who rings for a run has changed it, and that is known as soon as the
    /// change is.
    fn shown<T, F>(&self, work: F) -> impl for<'t> FnOnce(&'t mut Tx) -> Work<'t, T> + Send + use<T, F>
    where
        T: Send + 'static,
        F: for<'t> FnOnce(&'t mut Tx) -> Work<'t, T> + Send + 'static,
    {
        let github = &self.inner.config.github;
        let gather = github.is_told().then_some(github.gather.0);
        move |tx: &mut Tx| -> Work<'_, T> {
            let Some(gather) = gather else { return work(tx) };
            Box::pin(async move {
                let bells = tx.bells();
                let done = work(&mut *tx).await?;
                for run in tx.runs_rung_since(bells) {
                    shows::mark(tx, run, gather).await?;
                }
                for rollout in tx.rollouts_rung_since(bells) {
                    deployments::mark(tx, rollout, gather).await?;
                }
                Ok(done)
            })
        }
    }

    /// A reader with a snapshot of its own; it sees every operation that was answered before.
    pub(crate) async fn read(&self) -> Result<Conn> {
        Ok(match &self.inner.readers {
            Readers::Sqlite(pool) => Conn::SqliteReader(pool.begin().await?),
            Readers::Postgres(database) => Conn::PostgresReader(database.read().await?),
        })
    }
}

/// A new job's id. Ids rise with time, so that a table by id is a table by age.
pub(crate) fn new_job_id() -> JobId {
    JobId(uuid::Uuid::now_v7())
}

/// Makes a directory with the given mode, or leaves one alone that is there.
fn make_private(path: &std::path::Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|e| StoreError::files(format!("the directory {} can't be made", path.display()), &e))
}

/// The database holds sealed secrets: nobody but the runner reads it. SQLite gives its write-ahead log the mode that the
/// database has when it is opened, so the mode is there first.
fn make_secret(file: &std::path::Path) -> Result<()> {
    use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(file)
        .and_then(|open| open.set_permissions(private))
        .map_err(|e| StoreError::files(format!("{} can't be made private", file.display()), &e))
}
