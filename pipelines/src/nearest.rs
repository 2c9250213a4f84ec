//! The nearest known word to one that is not known, for suggestions.

/// The candidate that was probably meant: at most a third of its letters differ, without regard to case, or else it goes on
/// where the word stops. The first of equally near ones.
pub(crate) fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    // both bound what a file can make this cost
    const LONGEST: usize = 40;
    const MOST_CANDIDATES: usize = 256;
    const SHORTEST_BEGINNING: usize = 4;
    let word: Vec<char> = word.to_lowercase().chars().take(LONGEST + 1).collect();
    if word.len() > LONGEST {
        return None;
    }
    candidates
        .into_iter()
        .take(MOST_CANDIDATES)
        .filter_map(|candidate| {
            let letters: Vec<char> = candidate.to_lowercase().chars().take(LONGEST + 1).collect();
            let allowed = (word.len().max(letters.len()) / 3).max(1);
            let begins = word.len() >= SHORTEST_BEGINNING && letters.starts_with(&word);
            if word.len().abs_diff(letters.len()) > allowed && !begins {
                return None;
            }
            let distance = distance(&word, &letters);
            (distance <= allowed || begins).then_some((distance, candidate))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `did you mean ...?`, where something is near.
pub(crate) fn did_you_mean<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<String> {
    nearest(word, candidates).map(|candidate| format!("did you mean `{candidate}`?"))
}

/// Names after one another, the first few of many.
pub(crate) fn listed<'c>(names: impl IntoIterator<Item = &'c str>) -> String {
    const SHOWN: usize = 20;
    let mut names = names.into_iter();
    let shown: Vec<&str> = names.by_ref().take(SHOWN).collect();
    let rest = names.count();
    if rest == 0 { shown.join(", ") } else { format!("{} and {rest} more", shown.join(", ")) }
}

/// Letters to insert, remove, replace or swap with their neighbour (optimal string alignment).
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replace = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn the_word_that_was_meant_is_found() {
        let known = ["needs", "runs-on", "steps", "timeout-minutes", "if", "env"];
        let check = |word: &str, wanted: Option<&str>| assert_eq!(nearest(word, known), wanted, "{word}");
        check("need", Some("needs"));
        check("run-on", Some("runs-on"));
        check("runs_on", Some("runs-on"));
        check("Steps", Some("steps"));
        check("setps", Some("steps"));
        check("timeout-minute", Some("timeout-minutes"));
        check("fi", Some("if"));
        check("timeout", Some("timeout-minutes"));
        check("entirely-else", None);
        check(&"x".repeat(100_000), None);
    }
}
