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
    /// By how much it was set since that was last taken into account, in milliseconds: by somebody, or as another machine has become
    /// the database.
    set_by: AtomicI64,
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
        let machine = match &self.0 {
            Source::System(machine) => machine,
            Source::Database(time) => {
                let set_by = time.set_by.load(Ordering::Relaxed);
                return (set_by.abs() > JUMP_MS).then_some(set_by);
            }
            Source::Given(_) => return None,
        };
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
        match &self.0 {
            Source::System(machine) => drop(machine.ahead.fetch_add(set_by, Ordering::Relaxed)),
            Source::Database(time) => drop(time.set_by.fetch_sub(set_by, Ordering::Relaxed)),
            Source::Given(_) => {}
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
                let (at_origin, set_by) = (AtomicI64::new(now.0), AtomicI64::new(0));
                let time = DatabaseTime { origin: Instant::now(), at_origin, set_by };
                Self(Source::Database(Arc::new(time)))
            }
            other => Self(other),
        }
    }

    /// The database has said its time.
    pub(super) fn set(&self, now: Timestamp) {
        if let Source::Database(time) = &self.0 {
            let at_origin = now.0 - time.passed();
            let jump = at_origin - time.at_origin.swap(at_origin, Ordering::Relaxed);
            // one that is put right little by little is followed, as is one that is a little slower in answering
            if jump.abs() > JUMP_MS {
                time.set_by.fetch_add(jump, Ordering::Relaxed);
            }
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
    fn a_databases_clock_that_is_set_is_told_as_well() {
        let clock = Clock::system().of_database(Timestamp(1_000_000));
        for told in [1_000_001, 1_001_000, 1_000_500] {
            clock.set(Timestamp(told));
            assert_eq!(clock.was_set_by(), None);
        }
        clock.set(Timestamp(1_000_000 + 3_600_000));
        let set_by = clock.was_set_by().unwrap();
        assert!((3_599_000..3_601_000).contains(&set_by), "{set_by}");
        assert!(clock.now() >= Timestamp(4_600_000), "it is followed at once");
        clock.accept(set_by);
        assert_eq!(clock.was_set_by(), None);
        // an answer that was heard late is put right by the next one
        clock.set(Timestamp(4_590_000));
        clock.set(Timestamp(4_600_000));
        assert_eq!(clock.was_set_by(), None);
        clock.set(Timestamp(1_000_000));
        assert!(clock.was_set_by().unwrap() < -3_599_000);
    }

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
