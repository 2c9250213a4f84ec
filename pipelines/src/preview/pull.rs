//! Which of two words about a pull request is the newer: webhooks come late, twice and in any order.

use segue_schemas::{
    id::CommitSha,
    time::Timestamp,
    trigger::{Event, Trigger},
};

/// A pull request as it was told of once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pull {
    /// Its number.
    pub number: u64,
    /// Whether it is open.
    pub is_open: bool,
    /// Its newest commit.
    pub head: CommitSha,
    /// The commit that was its newest before, where that was told.
    pub before: Option<CommitSha>,
    /// Whether this tells that it was opened again.
    pub is_reopened: bool,
    /// When it last changed, by GitHub's clock, in whole seconds; 0: not known.
    pub updated_at: Timestamp,
}

impl Pull {
    /// What an event tells of a pull request, if it tells of one.
    #[must_use]
    pub fn of(trigger: &Trigger) -> Option<Self> {
        let Event::PullRequest { action, number, head, before, is_closed, updated_at, .. } = &trigger.event else {
            return None;
        };
        Some(Self {
            number: *number,
            is_open: action != "closed" && !is_closed,
            head: head.clone(),
            before: before.clone(),
            is_reopened: action == "reopened",
            updated_at: *updated_at,
        })
    }

    /// Whether this takes the place of what was known. Words of one second are told apart by what they say: which head follows which,
    /// and that a closed pull request is open again by being opened again, and by nothing else.
    #[must_use]
    pub fn replaces(&self, known: &Self) -> bool {
        let is_timed = self.updated_at.0 != 0 && known.updated_at.0 != 0;
        if is_timed && self.updated_at != known.updated_at {
            return self.updated_at > known.updated_at;
        }
        if self.is_open != known.is_open {
            return !self.is_open || self.is_reopened;
        }
        if self.before.as_ref() == Some(&known.head) {
            return true;
        }
        known.before.as_ref() != Some(&self.head) || self.head == known.head
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `SECONDS WORD HEAD [BEFORE]`
    fn told(text: &str) -> Pull {
        let words: Vec<&str> = text.split(' ').collect();
        let commit = |digit: &str| digit.repeat(40).parse::<CommitSha>().unwrap();
        Pull {
            number: 7,
            is_open: words[1] != "closed",
            head: commit(words[2]),
            before: words.get(3).map(|digit| commit(digit)),
            is_reopened: words[1] == "reopened",
            updated_at: Timestamp(words[0].parse::<i64>().unwrap() * 1000),
        }
    }

    #[test]
    fn the_newer_word_counts_whenever_it_comes() {
        for (known, new, replaces) in [
            ("1 opened a", "2 synchronize b a", true),
            ("2 synchronize b a", "1 opened a", false),
            ("3 closed b", "2 synchronize b a", false),
            ("3 closed b", "4 reopened b", true),
            ("4 reopened b", "3 closed b", false),
            // within one second
            ("2 synchronize b a", "2 synchronize c b", true),
            ("2 synchronize c b", "2 synchronize b a", false),
            ("2 closed b", "2 synchronize b a", false),
            ("2 synchronize b a", "2 closed b", true),
            ("2 closed b", "2 reopened b", true),
            ("2 synchronize b a", "2 synchronize b a", true),
            ("2 opened a", "2 edited a", true),
            // a time is missing: what came last counts, but for what it says itself
            ("0 opened a", "5 synchronize b a", true),
            ("5 closed a", "0 opened a", false),
            ("5 closed a", "0 reopened a", true),
            ("0 synchronize b a", "0 opened a", false),
        ] {
            assert_eq!(told(new).replaces(&told(known)), replaces, "{known} | {new}");
        }
    }

    #[test]
    fn whatever_the_order_the_same_stands_at_the_end() {
        let words = ["1 opened a", "2 synchronize b a", "2 synchronize c b", "3 closed c"];
        for rotation in 0..words.len() {
            for is_reversed in [false, true] {
                let mut order: Vec<&str> = words[rotation..].iter().chain(&words[..rotation]).copied().collect();
                if is_reversed {
                    order.reverse();
                }
                let mut known = told(order[0]);
                for word in &order[1..] {
                    let new = told(word);
                    if new.replaces(&known) {
                        known = new;
                    }
                }
                assert_eq!(known, told("3 closed c"), "{order:?}");
            }
        }
    }
}
