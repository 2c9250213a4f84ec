use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use segue_schemas::time::Timestamp;

/// The one source of time for everything that is stored. A store on one machine reads its clock; servers that share a database
/// go by the database's, so that a machine whose clock is wrong is right all the same; tests set it.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System(Arc<Machine>),
    Database(Arc<DatabaseTime>),
    Given(Arc<dyn Fn() -> Timestamp + Send + Sync>),
}

/// How far a machine's clock may run away from one that nobody sets before it counts as set.
const JUMP_MS: i64 = 2000;

/// A machine's clock, which somebody may set at any moment, and one beside it that nobody sets.
struct Machine {
    wall: Box<dyn Fn() -> Timestamp + Send + Sync>,
    steady: Box<dyn Fn() -> Duration + Send + Sync>,
    /// What the first is ahead of the second, in milliseconds, as far as it has been taken into account.
    ahead: AtomicI64,
}

impl Machine {
    fn ahead(&self) -> i64 {
        (self.wall)().0 - i64::try_from((self.steady)().as_millis()).unwrap_or(i64::MAX)
    }
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
        let origin = Instant::now();
        Self::of_machine(|| Timestamp(chrono::Utc::now().timestamp_millis()), move || origin.elapsed())
    }

    /// A machine's clock, with one beside it that nobody sets.
    fn of_machine(
        wall: impl Fn() -> Timestamp + Send + Sync + 'static,
        steady: impl Fn() -> Duration + Send + Sync + 'static,
    ) -> Self {
        let machine = Machine { wall: Box::new(wall), steady: Box::new(steady), ahead: AtomicI64::new(0) };
        machine.ahead.store(machine.ahead(), Ordering::Relaxed);
        Self(Source::System(Arc::new(machine)))
    }

    /// By how many milliseconds the clock was set since that was last taken into account. What ends at a time of this clock then ends
    /// too early or too late.
    pub(crate) fn was_set_by(&self) -> Option<i64> {
        let Source::System(machine) = &self.0 else { return None };
        let (now, before) = (machine.ahead(), machine.ahead.load(Ordering::Relaxed));
        if (now - before).abs() > JUMP_MS {
            return Some(now - before);
        }
        // a clock that is put right little by little is followed
        machine.ahead.store(now, Ordering::Relaxed);
        None
    }

    /// That it was set by so much is taken into account.
    pub(crate) fn accept(&self, set_by: i64) {
        if let Source::System(machine) = &self.0 {
            machine.ahead.fetch_add(set_by, Ordering::Relaxed);
        }
    }

    /// A clock that reads what the function says.
    #[must_use]
    pub fn new(read: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Source::Given(Arc::new(read)))
    }

    /// The same for a database that several servers share, whose time is `now`.
    pub(super) fn of_database(self, now: Timestamp) -> Self {
        match self.0 {
            Source::System(_) => {
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
            Source::System(machine) => (machine.wall)(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_is_told_from_one_that_runs() {
        let (wall, steady) = (Arc::new(AtomicI64::new(1_000_000)), Arc::new(AtomicI64::new(0)));
        let (of_wall, of_steady) = (wall.clone(), steady.clone());
        let clock = Clock::of_machine(
            move || Timestamp(of_wall.load(Ordering::Relaxed)),
            move || Duration::from_millis(of_steady.load(Ordering::Relaxed).unsigned_abs()),
        );
        let pass = |of_wall: i64, of_steady: i64| {
            wall.fetch_add(of_wall, Ordering::Relaxed);
            steady.fetch_add(of_steady, Ordering::Relaxed);
        };
        for _ in 0..100 {
            pass(1_001, 1_000);
            assert_eq!(clock.was_set_by(), None, "it runs a little fast, and is followed");
        }
        pass(3_600_000 + 50, 50);
        assert_eq!(clock.was_set_by(), Some(3_600_000));
        assert_eq!(clock.was_set_by(), Some(3_600_000), "until it is taken into account");
        clock.accept(3_600_000);
        assert_eq!(clock.was_set_by(), None);
        pass(-3_600_000, 0);
        assert_eq!(clock.was_set_by(), Some(-3_600_000));
    }
}
