//! A model of lease, fence and recovery: a server that leases one job, two workers, the processes that they run, and a host that is
//! changed. Whatever comes in whatever order (answers that lie about, workers that are stopped for as long as one likes, changes that
//! arrive late, an emergency at the host), one at most is at work, and the host takes nothing older than what it has taken. Every
//! order up to a bound is tried. The rules by which that holds are parts of the model, and without any one of them it does not: so
//! the model can fail.
//!
//! The epochs are the real ones, and what becomes of a lost job says the real `on_worker_lost`.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{HashMap, VecDeque};

use segue_pipelines::progress::{Loss, LostJob, LostStep, OnLoss, on_worker_lost};
use segue_schemas::{id::Epoch, status::StepStatus, time::Timestamp};

/// Ticks of a lease, and how many pass at most.
const LEASE: u8 = 2;
const TICKS: u8 = 4;
/// States that are looked at before the model is called too large.
const MOST_STATES: usize = 2_000_000;

/// What makes it hold.
#[derive(Debug, Clone, Copy)]
struct Rules {
    /// A host refuses a change under an epoch lower than one that it has seen.
    fence: bool,
    /// A worker counts its lease from when the server may have begun to, not from when it hears of it.
    counted_from_the_server: bool,
    /// A job's processes end with the lease, whether or not their worker can act.
    keeper: bool,
    /// A lease that has not run out is nobody else's.
    patience: bool,
    /// What may have changed the world is not run again in silence.
    recovery: bool,
}

const ALL: Rules = Rules { fence: true, counted_from_the_server: true, keeper: true, patience: true, recovery: true };

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Worker {
    stopped: bool,
    /// An answer to its claim that it has not heard: epoch, and when the lease was made.
    answer: Option<(Epoch, u8)>,
    /// The lease that it believes in: epoch, and until when.
    lease: Option<(Epoch, u8)>,
    /// Its renewal on the way to the server, and when it was sent.
    renewal: Option<(Epoch, u8)>,
    /// The server's answer to one, with the time at which that one was sent.
    renewed: Option<(Epoch, u8)>,
    /// Its process: epoch, and when it is ended from outside.
    process: Option<(Epoch, u8)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Job {
    Queued,
    Leased { to: usize, until: u8 },
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct World {
    now: u8,
    job: Job,
    epoch: Epoch,
    losses: u8,
    /// Under which epoch an environment was changed first.
    changed_under: Option<Epoch>,
    workers: [Worker; 2],
    /// Changes on the way to the host.
    changes: [Option<Epoch>; 2],
    seen: Epoch,
    taken: Epoch,
    emergency: bool,
    /// What went wrong on the way here.
    wrong: Option<&'static str>,
}

/// Of worlds that differ in which worker is which, or in the order of what is on the way, one stands for all.
fn alike(mut world: World) -> World {
    world.changes.sort_unstable();
    if world.workers[0] > world.workers[1] {
        world.workers.swap(0, 1);
        if let Job::Leased { to, .. } = &mut world.job {
            *to = 1 - *to;
        }
    }
    world
}

/// A job that may be run again, or one that changes an environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Harmless,
    Deploys,
}

fn begin() -> World {
    let worker = Worker { stopped: false, answer: None, lease: None, renewal: None, renewed: None, process: None };
    World {
        now: 0,
        job: Job::Queued,
        epoch: Epoch(0),
        losses: 0,
        changed_under: None,
        workers: [worker; 2],
        changes: [None; 2],
        seen: Epoch(0),
        taken: Epoch(0),
        emergency: false,
        wrong: None,
    }
}

/// What comes next, and to which worker or change.
type Move = (&'static str, usize);

/// Everything that may come next.
fn next(world: &World, rules: Rules, kind: Kind) -> Vec<(Move, World)> {
    let mut all = Vec::new();
    let mut may = |what: &'static str, of: usize, change: &dyn Fn(&mut World)| {
        let mut after = *world;
        change(&mut after);
        if after != *world {
            all.push(((what, of), alike(after)));
        }
    };
    if world.now < TICKS {
        may("tick", 0, &|w| {
            w.now += 1;
            let now = w.now;
            for worker in w.workers.iter_mut().filter(|_| rules.keeper) {
                worker.process = worker.process.filter(|(_, until)| *until > now);
            }
        });
    }
    may("reap", 0, &|w| reap(w, rules, kind));
    if !world.emergency {
        may("emergency", 0, &|w| {
            w.emergency = true;
            w.seen = w.seen.after_emergency();
        });
    }
    for change in 0..2 {
        may("a change arrives", change, &|w| arrive(w, change, rules));
    }
    for n in 0..2 {
        let counted = |sent: u8, heard: u8| LEASE + if rules.counted_from_the_server { sent } else { heard };
        may("is stopped, or goes on", n, &|w| w.workers[n].stopped ^= true);
        may("its process acts", n, &|w| act(w, n, kind));
        may("its renewal arrives", n, &|w| {
            let Some((epoch, sent)) = w.workers[n].renewal.take() else { return };
            if let Job::Leased { to, until } = &mut w.job
                && (*to, w.epoch) == (n, epoch)
            {
                *until = w.now + LEASE;
                w.workers[n].renewed = Some((epoch, sent));
            }
        });
        if world.workers[n].stopped {
            continue;
        }
        may("claims", n, &|w| {
            let free = w.workers[n].answer.is_none() && w.workers[n].lease.is_none();
            if w.job == Job::Queued && free {
                w.epoch = w.epoch.next();
                w.job = Job::Leased { to: n, until: w.now + LEASE };
                w.workers[n].answer = Some((w.epoch, w.now));
            }
        });
        may("hears of its lease", n, &|w| {
            let Some((epoch, made)) = w.workers[n].answer.take() else { return };
            let until = counted(made, w.now);
            // a lease that is over before it is heard of begins nothing
            if until > w.now {
                w.workers[n].lease = Some((epoch, until));
                w.workers[n].process = Some((epoch, until));
            }
        });
        may("renews", n, &|w| {
            w.workers[n].renewal = w.workers[n].lease.map(|(epoch, _)| (epoch, w.now));
        });
        may("hears that it was renewed", n, &|w| {
            let Some((epoch, sent)) = w.workers[n].renewed.take() else { return };
            let until = counted(sent, w.now);
            let later = |held: Option<(Epoch, u8)>| {
                held.map(|(of, had)| (of, if of == epoch && had > w.now { had.max(until) } else { had }))
            };
            (w.workers[n].lease, w.workers[n].process) = (later(w.workers[n].lease), later(w.workers[n].process));
        });
        may("ends with its lease", n, &|w| {
            if w.workers[n].lease.is_some_and(|(_, until)| until <= w.now) {
                (w.workers[n].lease, w.workers[n].process) = (None, None);
            }
        });
    }
    all
}

/// The server looks after a lease that has run out.
fn reap(w: &mut World, rules: Rules, kind: Kind) {
    let Job::Leased { to, until } = w.job else { return };
    if until > w.now && rules.patience {
        return;
    }
    let step = LostStep { index: 0, name: "deploy".into(), status: StepStatus::Running, is_contained: false };
    let lost = LostJob {
        loss: Loss::Unheard,
        worker: format!("w{to}").parse().unwrap(),
        last_heard: Timestamp(0),
        environment: (kind == Kind::Deploys).then(|| "production".into()),
        idempotent: !rules.recovery,
        cancelled: false,
        losses_before: u32::from(w.losses),
        rollout: None,
        steps: if w.changed_under.is_some() { vec![step] } else { Vec::new() },
    };
    w.losses += 1;
    w.job = match on_worker_lost(&lost) {
        OnLoss::Requeue { .. } => Job::Queued,
        _ => Job::Failed,
    };
}

/// A process does something: it is at work, and sends the host a change.
fn act(w: &mut World, n: usize, kind: Kind) {
    let Some((epoch, _)) = w.workers[n].process else { return };
    if kind == Kind::Deploys && *w.changed_under.get_or_insert(epoch) != epoch {
        w.wrong = Some("what may have changed the world was run again");
    }
    if let Some(free) = w.changes.iter_mut().find(|change| change.is_none()) {
        *free = Some(epoch);
    }
}

fn arrive(w: &mut World, change: usize, rules: Rules) {
    let Some(epoch) = w.changes[change].take() else { return };
    if rules.fence && epoch < w.seen {
        return;
    }
    if epoch < w.taken.max(w.seen) {
        w.wrong = Some("the host took a change that was older than what it had seen");
    }
    w.seen = w.seen.max(epoch);
    w.taken = w.taken.max(epoch);
}

fn wrong(world: &World) -> Option<&'static str> {
    let at_work = world.workers.iter().filter(|worker| worker.process.is_some()).count();
    world.wrong.or((at_work > 1).then_some("two are at work"))
}

/// The shortest way to something wrong, among all orders; `None` where there is none.
fn explore(rules: Rules, kind: Kind) -> (Option<(&'static str, Vec<Move>)>, usize) {
    let first = begin();
    let mut from: HashMap<World, Option<(World, Move)>> = HashMap::from([(first, None)]);
    let mut queue = VecDeque::from([first]);
    while let Some(world) = queue.pop_front() {
        if let Some(wrong) = wrong(&world) {
            let (mut way, mut at) = (Vec::new(), world);
            while let Some(Some((before, name))) = from.get(&at) {
                way.push(*name);
                at = *before;
            }
            way.reverse();
            return (Some((wrong, way)), from.len());
        }
        for (name, after) in next(&world, rules, kind) {
            if let std::collections::hash_map::Entry::Vacant(new) = from.entry(after) {
                new.insert(Some((world, name)));
                queue.push_back(after);
            }
        }
        assert!(from.len() < MOST_STATES, "the model has become too large to be looked at whole");
    }
    (None, from.len())
}

#[test]
fn in_no_order_are_two_at_work_or_is_a_late_change_taken() {
    for kind in [Kind::Harmless, Kind::Deploys] {
        let (found, states) = explore(ALL, kind);
        assert_eq!(found, None, "{kind:?}");
        println!("{kind:?}: {states} states");
        assert!(states > 10_000, "{states} states are too few to tell anything");
    }
}

#[test]
fn without_any_one_of_its_rules_it_does_not_hold() {
    let cases: [(&str, Rules, Kind, &str); 5] = [
        ("no fence", Rules { fence: false, ..ALL }, Kind::Harmless, "the host took a change that was older"),
        ("counted from the answer", Rules { counted_from_the_server: false, ..ALL }, Kind::Harmless, "two are at work"),
        ("no keeper", Rules { keeper: false, ..ALL }, Kind::Harmless, "two are at work"),
        ("no patience", Rules { patience: false, ..ALL }, Kind::Harmless, "two are at work"),
        ("no recovery", Rules { recovery: false, ..ALL }, Kind::Deploys, "was run again"),
    ];
    for (name, rules, kind, expected) in cases {
        let (found, _) = explore(rules, kind);
        let (wrong, way) = found.unwrap_or_else(|| panic!("{name}: nothing was found"));
        assert!(wrong.contains(expected), "{name}: {wrong}: {way:#?}");
        println!("{name}: {wrong}, by {way:?}");
    }
}
