//! Who makes room where there are as many previews as there may be.

use segue_schemas::time::Timestamp;

/// A preview that takes up room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occupant {
    /// Its name.
    pub name: String,
    /// Whether nothing of it runs that serves.
    pub is_idle: bool,
    /// When it was last pushed to.
    pub touched_at: Timestamp,
}

/// The previews that go, so that one more is no more than `at_most`: those that are asleep or came to nothing first, of them and then of the
/// others the one that was not pushed to or woken for longest.
#[must_use]
pub fn makes_room(mut there: Vec<Occupant>, at_most: u32) -> Vec<String> {
    let kept = usize::try_from(at_most).unwrap_or(usize::MAX).saturating_sub(1);
    there.sort_by(|a, b| (!a.is_idle, a.touched_at, a.name.as_str()).cmp(&(!b.is_idle, b.touched_at, b.name.as_str())));
    let goes = there.len().saturating_sub(kept);
    there.into_iter().take(goes).map(|one| one.name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_serve_goes_first_and_then_who_was_idle_for_longest() {
        let there = |text: &str| -> Vec<Occupant> {
            let one = |(i, word): (usize, &str)| Occupant {
                name: word.trim_end_matches('z').to_owned(),
                is_idle: word.ends_with('z'),
                touched_at: Timestamp(i64::try_from(i).unwrap()),
            };
            text.split_whitespace().enumerate().map(one).collect()
        };
        for (text, at_most, gone) in [
            ("a b c", 4, ""),
            ("a b c", 3, "a"),
            ("a b c", 1, "a b c"),
            ("a b cz", 3, "c"),
            ("a bz c dz", 3, "b d"),
            ("a bz c dz", 2, "b d a"),
            ("", 1, ""),
        ] {
            assert_eq!(makes_room(there(text), at_most).join(" "), gone, "{text} of {at_most}");
        }
    }
}
