//! What a step says of how a release comes to its traffic: the names, and which inputs belong to which.
//!
//! Comes in: the inputs that a step gives. Goes out: what does not go together. Never here: what their values mean.

/// The input that names a strategy.
pub const INPUT: &str = "strategy";

/// All traffic at once; what a step means that says nothing.
pub const HOT_SWAP: &str = "hot-swap";

/// Host after host.
pub const ROLLING: &str = "rolling";

/// Ready beside what serves, then at once.
pub const BLUE_GREEN: &str = "blue-green";

/// What `strategy` may say.
pub const NAMES: [&str; 3] = [HOT_SWAP, ROLLING, BLUE_GREEN];

/// What a step is by its `stages`, whatever its name is.
const STAGES: &str = "stages";

/// Inputs, and the strategies that know them.
const BELONG: [(&str, &[&str]); 6] = [
    ("batch", &[ROLLING]),
    ("pause", &[ROLLING]),
    ("hold", &[BLUE_GREEN]),
    ("soak", &[BLUE_GREEN]),
    (STAGES, &[]),
    ("stage-duration", &[]),
];

/// The inputs that say how a release is watched.
pub const WATCHED: [&str; 8] = [
    "hold-limit",
    "min-requests",
    "false-alarm",
    "error-margin",
    "latency-ratio",
    "latency-floor",
    "max-error-rate",
    "max-p95",
];

/// What an action says that does not go with its strategy: the input, what is wrong and what to write. `strategy` is what it says itself;
/// `gives` whether it gives an input.
#[must_use]
pub fn misplaced(action: &str, strategy: Option<&str>, gives: impl Fn(&str) -> bool) -> Option<(&'static str, String)> {
    let is_staged = action != "segue/deploy" && gives(STAGES);
    if let (true, Some(strategy)) = (is_staged, strategy) {
        let problem =
            format!("`stages` make it a canary, and `strategy: {strategy}` is another: leave one of the two out");
        return Some((STAGES, problem));
    }
    // these were taken before there were strategies, and mean nothing without stages
    if action == "segue/promote" && strategy.is_none() {
        let found = BELONG.iter().find(|(input, of)| !of.is_empty() && gives(input));
        return found.map(|(input, of)| (*input, belongs(input, of)));
    }
    let strategy = strategy.unwrap_or(HOT_SWAP);
    if let Some((input, of)) = BELONG.iter().find(|(input, of)| gives(input) && !of.contains(&strategy)) {
        return Some((input, belongs(input, of)));
    }
    let watched = WATCHED.iter().find(|input| strategy == HOT_SWAP && gives(input))?;
    Some((watched, belongs(watched, &[ROLLING, BLUE_GREEN])))
}

fn belongs(input: &str, of: &[&str]) -> String {
    if of.is_empty() {
        return format!("`{input}` belongs to a canary: leave `strategy` out, or leave it out");
    }
    let of: Vec<String> = of.iter().map(|strategy| format!("`strategy: {strategy}`")).collect();
    format!("`{input}` belongs to {}: write that as well, or leave it out", of.join(" or "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_input_goes_with_its_strategy() {
        let check = |action: &str, strategy: Option<&str>, given: &[&str]| {
            misplaced(action, strategy, |input| given.contains(&input)).map(|(input, _)| input)
        };
        assert_eq!(check("segue/deploy", None, &["service"]), None);
        assert_eq!(check("segue/deploy", None, &["pause"]), Some("pause"));
        assert_eq!(check("segue/deploy", Some(HOT_SWAP), &["max-p95"]), Some("max-p95"));
        assert_eq!(check("segue/deploy", Some(ROLLING), &["pause", "batch", "max-p95", "hold-limit"]), None);
        assert_eq!(check("segue/deploy", Some(ROLLING), &["soak"]), Some("soak"));
        assert_eq!(check("segue/deploy", Some(BLUE_GREEN), &["soak", "hold", "min-requests"]), None);
        assert_eq!(check("segue/deploy", Some(BLUE_GREEN), &["batch"]), Some("batch"));
        assert_eq!(check("segue/promote", None, &["stages", "min-requests"]), None);
        assert_eq!(check("segue/promote", None, &["min-requests"]), None);
        assert_eq!(check("segue/promote", None, &["hold"]), Some("hold"));
        assert_eq!(check("segue/promote", Some(ROLLING), &["stages"]), Some("stages"));
        assert_eq!(check("segue/promote", Some(ROLLING), &["stage-duration"]), Some("stage-duration"));
        assert_eq!(check("segue/promote", Some(ROLLING), &["pause", "min-requests"]), None);
    }
}
