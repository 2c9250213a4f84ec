//! Any lines are patterns or not; the last line is the name that they are asked about.

#![no_main]

use libfuzzer_sys::fuzz_target;
use segue_pipelines::filter::{Pattern, Patterns};

fuzz_target!(|text: &str| {
    let lines: Vec<&str> = text.split('\n').collect();
    let Some((name, patterns)) = lines.split_last() else { return };
    if let Ok(parsed) = Patterns::parse(patterns) {
        let deciding = parsed.deciding_text(name);
        assert_eq!(parsed.matches(name), deciding.is_some_and(|text| !text.starts_with('!')));
        assert_eq!(parsed.texts().collect::<Vec<_>>(), *patterns);
        // the last that matches decides
        let last = patterns.iter().rev().find(|text| Pattern::parse(text).is_ok_and(|pattern| pattern.matches(name)));
        assert_eq!(deciding, last.copied());
    }
    // a name with every character taken literally matches itself, and nothing that is longer
    if !name.is_empty() && name.len() <= 100 {
        let literal: String = name.chars().flat_map(|c| ['\\', c]).collect();
        let pattern = Pattern::parse(&literal).expect("a literal name is a pattern");
        assert!(pattern.matches(name), "{literal:?} does not match {name:?}");
        assert!(!pattern.matches(&format!("{name}x")));
    }
});
