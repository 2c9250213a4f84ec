use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Instant,
};

use segue_schemas::time::Timestamp;

/// The one source of time for everything that is stored. A store on one machine reads its clock; servers that share a database
/// go by the database's, so that a machine whose clock is wrong is right all the same; tests set it.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System,
    Database(Arc<DatabaseTime>),
    Given(Arc<dyn Fn() -> Timestamp + Send + Sync>),
}

/// The database's time as it was last told, and what has passed since by a clock that nobody sets.
struct DatabaseTime {
    origin: Instant,
    /// What the database's time was at the origin, in milliseconds since 1970.
    at_origin: AtomicI64,
}

impl Clock {
    /// The machine's clock; the database's where servers share one.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that reads what the function says.
    #[must_use]
    pub fn new(read: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Source::Given(Arc::new(read)))
    }

    /// The same for a database that several servers share, whose time is `now`.
    pub(super) fn of_database(self, now: Timestamp) -> Self {
        match self.0 {
            Source::System => {
                let time = DatabaseTime { origin: Instant::now(), at_origin: AtomicI64::new(now.0) };
                Self(Source::Database(Arc::new(time)))
            }
            other => Self(other),
        }
    }

    /// The database has said its time.
    pub(super) fn set(&self, now: Timestamp) {
        if let Source::Database(time) = &self.0 {
            time.at_origin.store(now.0 - time.passed(), Ordering::Relaxed);
        }
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => Timestamp(chrono::Utc::now().timestamp_millis()),
            Source::Database(time) => Timestamp(time.at_origin.load(Ordering::Relaxed) + time.passed()),
            Source::Given(read) => read(),
        }
    }
}

impl DatabaseTime {
    fn passed(&self) -> i64 {
        i64::try_from(self.origin.elapsed().as_millis()).unwrap_or(i64::MAX)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}
