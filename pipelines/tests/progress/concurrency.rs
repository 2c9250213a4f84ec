//! Concurrency groups: who gives way to whom, by rule and as properties.

use proptest::prelude::*;
use segue_pipelines::progress::{Claimant, Fate, Gate, enter, turn};
use segue_schemas::{id::RunId, time::Timestamp};

/// `RUN [job KEY] [deploys] [at-work] [waiting]`; runs began in the order of their numbers.
fn claimant(line: &str) -> Claimant {
    let mut words = line.split_whitespace();
    let run: i64 = words.next().unwrap().parse().unwrap();
    let mut one = Claimant {
        run: RunId(run),
        job: None,
        since: Timestamp(run * 1000),
        deploys: false,
        at_work: false,
        ready: true,
    };
    while let Some(word) = words.next() {
        match word {
            "job" => one.job = words.next().map(str::to_owned),
            "deploys" => one.deploys = true,
            "at-work" => one.at_work = true,
            "waiting" => one.ready = false,
            other => panic!("what is `{other}`?"),
        }
    }
    one
}

fn claimants(text: &str) -> Vec<Claimant> {
    text.split(';').map(str::trim).filter(|line| !line.is_empty()).map(claimant).collect()
}

fn word(fate: &Fate) -> String {
    match fate {
        Fate::Stays => "stays".into(),
        Fate::Superseded { reason } => format!("superseded: {reason}"),
        Fate::Cancelled { reason } => format!("cancelled: {reason}"),
    }
}

/// What becomes of those who are in the group, and then of the one that comes.
#[track_caller]
fn check(new: &str, cancel: bool, others: &str, expected: &[&str]) {
    let entered = enter(&claimant(new), "g", cancel, &claimants(others));
    let found: Vec<String> = entered.others.iter().chain([&entered.own]).map(word).collect();
    assert_eq!(found, expected);
}

#[test]
fn of_the_deploys_that_wait_the_newest_stays() {
    let by_3 = "superseded: superseded by run 3, the newer deploy in the concurrency group `g`";
    check("3 deploys", false, "1 deploys at-work; 2 deploys", &["stays", by_3, "stays"]);
    check("2 deploys", false, "3 deploys", &["stays", by_3]);
    // what is at work already is no reason to give way to it
    check("2 deploys", false, "3 deploys at-work", &["stays", "stays"]);
    let by_job = "superseded: superseded by `ship` of run 3, the newer deploy in the concurrency group `g`";
    check("3 job ship deploys", false, "2 job ship deploys waiting", &[by_job, "stays"]);
}

#[test]
fn all_else_waits_and_what_is_of_one_run_leaves_each_other_alone() {
    check("3", false, "1; 2 deploys", &["stays", "stays", "stays"]);
    check("3 deploys", false, "1; 2", &["stays", "stays", "stays"]);
    check("3 job a deploys", true, "3 job b deploys; 3 at-work", &["stays", "stays", "stays"]);
}

#[test]
fn who_cancels_cancels_all_that_is_older_and_nothing_newer() {
    let by_3 = "cancelled: run 3 is newer in the concurrency group `g`, and cancels what is in progress";
    check("3", true, "1 at-work; 2 waiting; 4", &[by_3, by_3, "stays", "stays"]);
}

#[test]
fn who_waits_is_told_for_whom() {
    let closed = |own: &str, others: &str| match turn(&claimant(own), "g", &claimants(others)) {
        Gate::Closed { reason } => reason,
        other => format!("{other:?}"),
    };
    assert_eq!(closed("3", "1 at-work; 2"), "run 1 has the concurrency group `g`");
    assert_eq!(closed("3", "2 job ship; 4 at-work"), "run 4 has the concurrency group `g`");
    assert_eq!(closed("3", "2 job ship"), "`ship` of run 2 comes before it in the concurrency group `g`");
    // one that waits for a person keeps nobody back
    assert_eq!(closed("3", "2 waiting; 4"), "Open");
    assert_eq!(closed("3 job a", "3 job b"), "Open");
    assert_eq!(closed("1 at-work", "2"), "Open");
}

#[derive(Debug, Clone)]
enum Happening {
    /// A run comes; whether it deploys, and whether it cancels what is older.
    Come(bool, bool),
    /// The n-th of those who wait becomes ready, or stops being so.
    Ready(usize, bool),
    /// Whoever has the turn takes the slot.
    Take,
    /// Who is at work ends.
    End,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (any::<bool>(), proptest::bool::weighted(0.2)).prop_map(|(deploys, cancel)| Happening::Come(deploys, cancel)),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(n, ready)| Happening::Ready(n, ready)),
        3 => Just(Happening::Take),
        2 => Just(Happening::End),
    ]
}

/// A group as the store keeps it: what is superseded is gone, what is cancelled is gone once it has ended.
#[derive(Debug, Default)]
struct Group {
    members: Vec<Claimant>,
    came: i64,
}

impl Group {
    fn come(&mut self, deploys: bool, cancel: bool) {
        self.came += 1;
        let new = Claimant { deploys, ..claimant(&self.came.to_string()) };
        let entered = enter(&new, "g", cancel, &self.members);
        assert_eq!(entered.own, Fate::Stays, "the newest stays");
        let fates = entered.others.iter();
        let kept = self.members.drain(..).zip(fates).filter(|(one, fate)| match fate {
            Fate::Stays => true,
            Fate::Superseded { .. } => {
                assert!(!one.at_work && one.deploys && deploys && !cancel);
                false
            }
            Fate::Cancelled { .. } => {
                assert!(cancel);
                one.at_work
            }
        });
        self.members = kept.map(|(one, _)| one).collect();
        self.members.push(new);
    }

    /// Those who may take the slot now.
    fn open(&self) -> Vec<usize> {
        let may = |at: &usize| {
            let others: Vec<Claimant> =
                self.members.iter().enumerate().filter(|(n, _)| n != at).map(|(_, one)| one.clone()).collect();
            self.members[*at].ready && turn(&self.members[*at], "g", &others) == Gate::Open
        };
        (0..self.members.len()).filter(may).collect()
    }

    fn happen(&mut self, what: &Happening) {
        match what {
            Happening::Come(deploys, cancel) => self.come(*deploys, *cancel),
            Happening::Ready(n, ready) => {
                let waiting: Vec<&mut Claimant> = self.members.iter_mut().filter(|one| !one.at_work).collect();
                let count = waiting.len().max(1);
                if let Some(one) = waiting.into_iter().nth(n % count) {
                    one.ready = *ready;
                }
            }
            Happening::Take => {
                if let Some(at) = self.open().first() {
                    self.members[*at].at_work = true;
                }
            }
            Happening::End => self.members.retain(|one| !one.at_work),
        }
        let at_work = self.members.iter().filter(|one| one.at_work).count();
        assert!(at_work <= 1, "two are at work: {self:?}");
        let deploys = self.members.iter().filter(|one| one.deploys && !one.at_work).count();
        assert!(deploys <= 1, "two deploys wait: {self:?}");
        let ready = self.members.iter().position(|one| one.ready);
        let wanted: Vec<usize> = match self.members.iter().position(|one| one.at_work) {
            Some(holder) => vec![holder],
            None => ready.into_iter().collect(),
        };
        assert_eq!(self.open(), wanted, "the oldest that is ready has the turn, and nobody else: {self:?}");
    }
}

proptest! {
    #[test]
    fn one_is_at_work_and_everybody_gets_a_turn(happenings in proptest::collection::vec(happening(), 0..80)) {
        let mut group = Group::default();
        happenings.iter().for_each(|what| group.happen(what));
        group.members.iter_mut().for_each(|one| one.ready = true);
        for _ in 0..group.members.len() {
            group.happen(&Happening::Take);
            group.happen(&Happening::End);
        }
        prop_assert!(group.members.is_empty(), "{group:?}");
    }
}
