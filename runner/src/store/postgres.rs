//! PostgreSQL: the only file that knows its settings, its locks, and what becomes of a connection that breaks.
//!
//! Operations of all servers happen one after the other, as on SQLite: each transaction of a writer takes one lock of the
//! database before it looks at anything, and its statements see what was committed before them (READ COMMITTED). A server that
//! stands still inside a transaction loses it after [`IDLE_LIMIT`], so that the others wait no longer than that.

use std::{
    path::Path,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use secrecy::ExposeSecret as _;
use segue_schemas::{config::DatabaseConfig, time::Timestamp};
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, PgPool, Postgres, Row as _, Transaction,
    postgres::{PgConnectOptions, PgPoolOptions, PgSslMode},
};

use super::{Bell, Doorbell, LogBells, Result, StoreError, behind::Behind, bells, sqlite::MIGRATIONS};
use crate::auth;

/// The file of a data directory that tells its server from the others; there where the state is in a database, and nowhere else.
pub(crate) const SERVER_ID: &str = "server-id";

/// The lock that writers take for the length of a transaction. Any number that nothing else in the database uses.
const WRITERS: i64 = 0x5e60_e001;

/// A transaction in which nothing happens for so long is ended by the database: its server stands still.
const IDLE_LIMIT: Duration = Duration::from_secs(5);
/// How long a transaction waits for those before it: longer than one of them may stand still.
const LOCK_LIMIT: Duration = Duration::from_secs(12);
/// How long one statement may take.
const STATEMENT_LIMIT: Duration = Duration::from_secs(30);
/// How long a connection may take to be made.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long operations wait for a database that was just lost; after that they are refused until it is back.
const PATIENCE: Duration = Duration::from_secs(3);
/// Pauses between tries to connect again: the first, which doubles, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// Connections for locks of contents.
const LOCKS: u32 = 2;
/// Connections that are none of the readers': the writer's, the bells', and those for locks.
const OTHERS: u32 = 2 + LOCKS;
/// Statements that a connection keeps prepared.
const PREPARED: usize = 200;

const MAKE_IT: &str = "the database's encoding must be UTF8 and its locale C: make it with \
    `createdb --template template0 --encoding UTF8 --locale C NAME`";

const NOW: &str = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT) AS now";

/// The database of a store, for everything but the writer.
#[derive(Debug)]
pub(crate) struct Database {
    options: PgConnectOptions,
    pool: PgPool,
    /// Connections that hold locks of contents, and nothing else.
    locks: PgPool,
    /// Tells the bells that this process rings from those of others.
    sender: u64,
    /// The number of this server, which it has again after a restart.
    server: i64,
}

impl Database {
    /// Connects, brings the tables up to date, and sees that nothing which was answered can be lost; gives the time too.
    pub(super) async fn open(config: &DatabaseConfig, data: &Path) -> Result<(Self, Timestamp)> {
        let options = options(config)?;
        let server = server_number(data)?;
        let mut first = Self::maintenance(config).await?;
        let now = sqlx::raw_sql(NOW).fetch_one(&mut first).await?.try_get("now")?;
        let _ = first.close().await;
        let readers = config.max_connections.saturating_sub(OTHERS).max(1);
        let pool = PgPoolOptions::new()
            .max_connections(readers)
            .min_connections(1)
            .acquire_timeout(Duration::from_secs(10))
            .test_before_acquire(false)
            .connect_lazy_with(options.clone());
        let locks = PgPoolOptions::new()
            .max_connections(LOCKS)
            .acquire_timeout(Duration::from_secs(30))
            .connect_lazy_with(options.clone());
        Ok((Self { options, pool, locks, sender: rand::random(), server }, Timestamp(now)))
    }

    /// A connection to a database whose tables are up to date, for what may take longer than an operation may.
    pub(super) async fn maintenance(config: &DatabaseConfig) -> Result<PgConnection> {
        let options = options(config)?;
        let mut connection = connect(&options).await?;
        check_settings(&mut connection).await?;
        let sql = "SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0";
        sqlx::raw_sql(sql).execute(&mut connection).await?;
        MIGRATIONS.run(&mut connection).await.map_err(|e| {
            StoreError::Unavailable(format!("the tables of {} can't be brought up to date: {e}", place(&options)))
        })?;
        Ok(connection)
    }

    /// The writer's connection, made when it is first needed.
    pub(super) fn session(&self) -> Session {
        let (sender, server) = (self.sender, self.server);
        Session {
            options: self.options.clone(),
            sender,
            server,
            connection: None,
            lost: None,
            pending: "",
            behind: Behind::default(),
        }
    }

    /// A snapshot.
    pub(super) async fn read(&self) -> Result<Transaction<'static, Postgres>> {
        let mut tries = self.pool.size() + 1;
        loop {
            // a caller that goes away meanwhile must not leave a transaction open on a connection that others use after it, who
            // would see what was true then
            let pool = self.pool.clone();
            let beginning =
                tokio::spawn(async move { pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await });
            let begun = beginning.await.map_err(|error| StoreError::Unavailable(error.to_string()))?;
            // each failure takes a connection out that broke while it was not used
            match begun {
                Ok(transaction) => return Ok(transaction),
                Err(sqlx::Error::Io(_) | sqlx::Error::Database(_)) if tries > 1 => tries -= 1,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The number of this server.
    pub(super) fn server(&self) -> i64 {
        self.server
    }

    /// Connections that hold locks.
    pub(super) fn locks(&self) -> &PgPool {
        &self.locks
    }

    /// Connections for single statements.
    pub(crate) fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Bells that other servers ring are rung here too, for ever; all of them once whenever some may have been missed.
    pub(super) async fn hear(self: Arc<Self>, doorbell: Arc<Doorbell>) {
        bells::hear(self.options.clone(), self.sender, doorbell).await;
    }

    /// Other servers are told of logs that have grown, for ever.
    pub(super) async fn tell_of_logs(self: Arc<Self>, bells: Arc<LogBells>) {
        bells.run(self.pool.clone(), self.sender).await;
    }
}

/// What tells a server from the others, and is the same after its restart: made once for each data directory.
fn server_number(data: &Path) -> Result<i64> {
    let id = auth::read_or_make(&data.join(SERVER_ID)).map_err(|error| StoreError::Refused(error.to_string()))?;
    let hash = ring::digest::digest(&ring::digest::SHA256, id.expose_secret().as_bytes());
    let mut number = [0; 8];
    number.copy_from_slice(&hash.as_ref()[..8]);
    Ok(i64::from_be_bytes(number))
}

/// Who it is, and how it is spoken to.
fn options(config: &DatabaseConfig) -> Result<PgConnectOptions> {
    let wrong = |problem: String| StoreError::Unavailable(format!("`database` in segue.yaml: {problem}"));
    let url = match (&config.url, &config.url_file) {
        (Some(url), None) => url.clone(),
        (None, Some(file)) => auth::read(file).map_err(|error| wrong(error.to_string()))?.expose_secret().to_owned(),
        _ => return Err(wrong("name one of `url` and `url-file`".into())),
    };
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(wrong("the address must be postgres://USER@HOST/DATABASE".into()));
    }
    // an error names no part of the address: it may hold a password
    let mut options: PgConnectOptions = url
        .parse()
        .map_err(|_| wrong("the address is none: write postgres://USER[:PASSWORD]@HOST[:PORT]/DATABASE".into()))?;
    let host = options.get_host();
    let is_here = options.get_socket().is_some() || matches!(host, "localhost" | "127.0.0.1" | "::1" | "[::1]");
    if !is_here && !url.contains("sslmode=") && !url.contains("ssl-mode=") {
        // never a fallback to a connection that others can read or answer
        options = options.ssl_mode(PgSslMode::VerifyFull);
    }
    if let Some(file) = &config.ca_file {
        options = options.ssl_root_cert(file);
    }
    let millis = |limit: Duration| limit.as_millis().to_string();
    Ok(options
        .application_name("segue")
        .statement_cache_capacity(PREPARED)
        .options([
            ("idle_in_transaction_session_timeout", millis(IDLE_LIMIT)),
            ("lock_timeout", millis(LOCK_LIMIT)),
            ("statement_timeout", millis(STATEMENT_LIMIT)),
            // statements are seeks; to compile one takes longer than all of them, and what one is reckoned to cost says little
            ("jit", "off".into()),
            // a server whose machine is gone keeps no lock for long
            ("tcp_keepalives_idle", "5".into()),
            ("tcp_keepalives_interval", "2".into()),
            ("tcp_keepalives_count", "3".into()),
            ("tcp_user_timeout", "10000".into()),
        ])
        .disable_statement_logging())
}

/// Where it is, without the password.
fn place(options: &PgConnectOptions) -> String {
    let host = options.get_socket().map_or_else(|| options.get_host().to_owned(), |path| path.display().to_string());
    format!("the database {} at {host}:{}", options.get_database().unwrap_or("of the user"), options.get_port())
}

/// Makes a connection, in bounded time.
pub(super) async fn connect(options: &PgConnectOptions) -> Result<PgConnection> {
    let failed = |problem: String| StoreError::Unavailable(format!("{} can't be reached: {problem}", place(options)));
    match tokio::time::timeout(CONNECT_LIMIT, options.connect()).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed(format!("no answer within {} s", CONNECT_LIMIT.as_secs()))),
    }
}

/// What was answered is on the disk: verified, not assumed.
async fn check_settings(connection: &mut PgConnection) -> Result<()> {
    let sql = "SELECT current_setting('synchronous_commit') AS synchronous, current_setting('fsync') AS fsync,
        current_setting('server_encoding') AS encoding, CAST(current_setting('server_version_num') AS BIGINT) AS version,
        pg_is_in_recovery() AS standby,
        (SELECT datcollate FROM pg_database WHERE datname = current_database()) AS collation";
    let row = sqlx::query(sql).fetch_one(connection).await?;
    let refuse = |text: &str| Err(StoreError::Refused(format!("this PostgreSQL can't be used: {text}")));
    if row.try_get::<i64, _>("version")? < 140_000 {
        return refuse("it is older than version 14: upgrade it");
    }
    if row.try_get::<bool, _>("standby")? {
        return refuse("it is a standby, which can't be written to: name the primary");
    }
    if row.try_get::<String, _>("encoding")? != "UTF8" {
        return refuse(MAKE_IT);
    }
    // in the order of bytes: as this program orders them, and the same on every machine and after every upgrade of its system
    if !matches!(&*row.try_get::<String, _>("collation")?.to_uppercase(), "C" | "POSIX" | "C.UTF-8" | "C.UTF8") {
        return refuse(MAKE_IT);
    }
    if row.try_get::<String, _>("fsync")? == "off" {
        return refuse(
            "`fsync` is off, so that a power cut loses what was answered: set `fsync = on` in postgresql.conf",
        );
    }
    if row.try_get::<String, _>("synchronous")? == "off" {
        return refuse(
            "`synchronous_commit` is off, so that a crash loses what was answered: ALTER SYSTEM SET synchronous_commit = on, and reload",
        );
    }
    Ok(())
}

/// The connection of one server's writer. Where it breaks, it is made again.
pub(crate) struct Session {
    options: PgConnectOptions,
    sender: u64,
    server: i64,
    connection: Option<PgConnection>,
    /// Since when there is no connection.
    lost: Option<Instant>,
    /// What is to be said before the next statement of the transaction itself: it costs no way of its own.
    pending: &'static str,
    /// What the operation has written, and the database was not told yet.
    pub(super) behind: Behind,
}

impl Session {
    /// The connection, inside a transaction.
    pub(super) fn connection(&mut self) -> Result<&mut PgConnection> {
        self.connection.as_mut().ok_or_else(|| StoreError::Unavailable("the connection to the database is lost".into()))
    }

    pub(super) fn server(&self) -> i64 {
        self.server
    }

    pub(super) async fn begin(&mut self) -> Result<Timestamp> {
        self.pending = "";
        self.behind.clear();
        // one that broke while nobody used it is found out here, and nothing was done on it
        if self.connection.is_some() {
            match self.try_begin().await {
                Ok(now) => return Ok(now),
                Err(error) if self.connection.is_some() => return Err(error),
                Err(error) => tracing::warn!(%error, "the connection to the database is made again"),
            }
        }
        self.connect().await?;
        self.try_begin().await
    }

    async fn try_begin(&mut self) -> Result<Timestamp> {
        static SQL: LazyLock<String> = LazyLock::new(|| {
            format!("BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_advisory_xact_lock({WRITERS}); {NOW}")
        });
        let begun = sqlx::raw_sql(AssertSqlSafe(SQL.as_str())).fetch_all(self.connection()?).await;
        match begun {
            Ok(rows) => match rows.last() {
                Some(row) => Ok(Timestamp(row.try_get("now")?)),
                None => Err(StoreError::corrupt("the time", "the database says none")),
            },
            Err(error) => {
                self.look_at(&error);
                if self.connection.is_some() {
                    // the lock was not had in time: the transaction has begun, and ends
                    let _ = self.roll_back().await;
                }
                Err(error.into())
            }
        }
    }

    /// Makes the connection anew. Whoever comes while it was just lost waits a little, whoever comes later is refused at once.
    async fn connect(&mut self) -> Result<()> {
        let lost = *self.lost.get_or_insert_with(Instant::now);
        let mut pause = PAUSES.0;
        loop {
            match self.connected().await {
                Ok(connection) => {
                    (self.connection, self.lost) = (Some(connection), None);
                    return Ok(());
                }
                Err(error) if lost.elapsed() >= PATIENCE => {
                    // callers come again at once; not so often
                    tokio::time::sleep(PAUSES.1).await;
                    return Err(error);
                }
                Err(_) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSES.1);
                }
            }
        }
    }

    /// A connection that plans each statement once, not for every value again: the claim's would take longer to plan than to run.
    async fn connected(&self) -> Result<PgConnection> {
        let mut connection = connect(&self.options).await?;
        sqlx::raw_sql("SET plan_cache_mode = force_generic_plan").execute(&mut connection).await?;
        Ok(connection)
    }

    pub(super) async fn operation_begins(&mut self) -> Result<()> {
        self.say("SAVEPOINT operation").await
    }

    pub(super) fn operation_ends(&mut self, keep: bool) {
        self.pending = if keep { "RELEASE operation; " } else { "ROLLBACK TO operation; RELEASE operation; " };
    }

    /// Bells of other servers are rung by the same commit. What comes before it fails where the transaction has failed, which a
    /// COMMIT by itself would not say.
    pub(super) async fn commit(&mut self, rung: &[Bell]) -> Result<()> {
        let mut sql: String = bells::encode(self.sender, rung).iter().map(|text| bells::notify(text)).collect();
        if sql.is_empty() {
            sql.push_str("SELECT 1; ");
        }
        sql.push_str("COMMIT");
        let committed = self.say(&sql).await;
        if committed.is_err() && self.connection.is_none() {
            let text =
                "the connection to the database broke during the commit: whether it was stored is not known; ask again";
            return Err(StoreError::Unavailable(text.into()));
        }
        committed
    }

    pub(super) async fn roll_back(&mut self) -> Result<()> {
        self.pending = "";
        if self.connection.is_none() {
            return Ok(());
        }
        let done = self.say("ROLLBACK").await;
        if done.is_err() {
            self.drop_connection();
        }
        done
    }

    async fn say(&mut self, sql: &str) -> Result<()> {
        let sql = format!("{}{sql}", std::mem::take(&mut self.pending));
        match sqlx::raw_sql(AssertSqlSafe(sql)).execute(self.connection()?).await {
            Ok(_) => Ok(()),
            Err(error) => {
                self.look_at(&error);
                Err(error.into())
            }
        }
    }

    /// Lets go of a connection that an error says is of no more use.
    fn look_at(&mut self, error: &sqlx::Error) {
        if !is_of_statement(error) {
            self.drop_connection();
        }
    }

    fn drop_connection(&mut self) {
        self.connection = None;
        self.lost = Some(Instant::now());
    }
}

/// Whether an error concerns a statement, so that the connection goes on. Not so where the session is ended (class 57P: shut
/// down, terminated; 25P03: it stood still), and where the database has become one that only reads (25006), as after a change of
/// the primary.
fn is_of_statement(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            !(code.starts_with("57P") || code.starts_with("08") || matches!(&*code, "25P03" | "25P04" | "25006"))
        }
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::Tls(_) => false,
        _ => true,
    }
}
