//! Remembers which clients have been counted.

mod packed;

use serde::{Deserialize, Serialize};

/// Words of 64 bits: 8 KiB, of which a few per cent are taken after 2,000 clients.
const WORDS: usize = 1024;

/// Clients after which it begins anew. By then one in seven that are new is taken for known; without an end all would be, and whoever throws its
/// cookies away, as programs do, would leave nobody to judge by.
const MOST: u32 = 16_384;

/// Where the sixteen bits of a mixed key begin by which clients are left out: none of those that tell a client's place.
const SPARE_BITS: u32 = 16;

/// A set of clients that may take a new one for known (then it is not counted, whichever release it got), but of the newest never
/// the other way round (Bloom, 1970). Takes no memory before the first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Units {
    #[serde(with = "packed")]
    words: Vec<u64>,
    /// How many were put in.
    #[serde(default)]
    count: u32,
    /// How often it has begun anew.
    #[serde(default)]
    rounds: u32,
}

impl Units {
    /// Whether no client was put in yet.
    pub(super) const fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// The same for what is bet on: each time that it has begun anew, every second client is left out from then on, by its key, whatever its
    /// release. Who stays might be bet on again although it was drawn once; in the mean over all clients that comes to one bet more each, at
    /// most, however many come.
    pub(super) fn is_drawn(&mut self, unit: Option<u64>) -> bool {
        let left_out = |unit: u64| mix(unit) >> SPARE_BITS & ((1 << self.rounds.min(16)) - 1) != 0;
        !unit.is_some_and(left_out) && self.is_new(unit)
    }

    /// Whether a client was put in, or is taken for one that was.
    pub(super) fn has(&self, unit: Option<u64>) -> bool {
        let place =
            |unit| places(mix(unit)).iter().all(|(word, bit)| self.words.get(*word).is_some_and(|w| w & bit != 0));
        unit.is_some_and(place)
    }

    /// Puts a client in; whether it is new. A request without a client is a unit of its own.
    pub(super) fn is_new(&mut self, unit: Option<u64>) -> bool {
        let Some(unit) = unit else { return true };
        if self.count >= MOST {
            *self = Self { rounds: self.rounds + 1, ..Self::default() };
        }
        self.words.resize(WORDS, 0);
        let mut is_new = false;
        for (word, bit) in places(mix(unit)) {
            is_new |= self.words[word] & bit == 0;
            self.words[word] |= bit;
        }
        self.count += u32::from(is_new);
        is_new
    }
}

/// The words and bits of a mixed key: by its sixteen lowest bits, and by as many of its upper half.
fn places(mixed: u64) -> [(usize, u64); 2] {
    [mixed, mixed >> 32].map(|hash| (hash as usize >> 6 & (WORDS - 1), 1 << (hash & 63)))
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): spreads keys that are not random.
fn mix(mut key: u64) -> u64 {
    key = (key ^ key >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    key = (key ^ key >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    key ^ key >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_new_once_and_few_are_mistaken() {
        let mut units = Units::default();
        assert!(units.is_new(None) && units.is_new(None));
        let taken = (0..2_000).filter(|unit| units.is_new(Some(*unit))).count();
        assert!(taken >= 1_950, "{taken}");
        assert!((0..2_000).all(|unit| !units.is_new(Some(unit))));
    }

    /// As it was stored by the versions before: of the clients 1, 2 and 3.
    fn stored_before() -> serde_json::Value {
        let mut words = vec![0_u64; WORDS];
        for (place, word) in [
            (23, 137_438_953_472),
            (82, 1024),
            (88, 536_870_912),
            (163, 281_474_976_710_656),
            (226, 8_388_608),
            (379, 35_184_372_088_832),
        ] {
            words[place] = word;
        }
        serde_json::json!({ "words": words, "count": 3, "rounds": 0 })
    }

    #[test]
    fn what_is_stored_is_short_and_what_was_stored_before_is_read() {
        let mut units = Units::default();
        for (clients, most) in [(0, 40), (3, 60), (500, 3_000), (4_000, 11_000), (16_000, 11_000)] {
            (1..=clients).for_each(|unit| {
                units.is_new(Some(unit));
            });
            let text = serde_json::to_string(&units).unwrap();
            assert!(text.len() < most, "{clients}: {}", text.len());
            assert_eq!(serde_json::from_str::<Units>(&text).unwrap(), units, "{clients}");
            if clients == 3 {
                assert_eq!(serde_json::from_value::<Units>(stored_before()).unwrap(), units);
            }
        }
        let none = serde_json::json!({ "words": [], "count": 0, "rounds": 0 });
        assert_eq!(serde_json::from_value::<Units>(none).unwrap(), Units::default());
        for wrong in ["#AA", "#A", "=AAAA", "*", "#\u{e4}"] {
            let stored = serde_json::json!({ "words": wrong, "count": 1, "rounds": 0 });
            assert!(serde_json::from_value::<Units>(stored).is_err(), "{wrong}");
        }
    }

    #[test]
    fn however_many_come_most_are_counted_and_one_among_them_hardly_ever() {
        let mut units = Units::default();
        let (mut taken, mut same) = (0, 0);
        for unit in 1..=200_000 {
            taken += u32::from(units.is_new(Some(unit)));
            same += u32::from(units.is_new(Some(0)));
        }
        assert!(taken > 170_000, "{taken}");
        assert!(same <= taken / MOST + 1, "{same}");
    }

    #[test]
    fn clients_that_come_again_and_again_are_bet_on_about_twice() {
        let mut units = Units::default();
        let clients = 40_000;
        let bets: usize = (0..20).map(|_| (0..clients).filter(|unit| units.is_drawn(Some(*unit))).count()).sum();
        assert!(bets < 2 * clients as usize, "{bets}");
        assert!(bets > clients as usize / 2, "{bets}");
        assert!(units.is_drawn(None) && !units.has(None));
    }
}
