//! `docs/pipelines.md`: every key has a section with an example that is read as it says.

use std::collections::BTreeSet;

use super::{
    Kind,
    page::sections,
    schema::{assert_valid, pipeline_schema, validator},
};

const PAGE: &str = "docs/pipelines.md";

#[test]
fn every_key_has_a_section_with_an_example() {
    let schema = pipeline_schema();
    let mut keys = BTreeSet::new();
    for definition in schema["definitions"].as_object().unwrap().values() {
        let place = definition["title"].as_str().unwrap();
        for key in definition["properties"].as_object().unwrap().keys() {
            keys.insert(if place.is_empty() { key.clone() } else { format!("{place}.{key}") });
        }
    }
    let sections = sections(PAGE);
    for key in &keys {
        let section = sections.iter().find(|section| section.heading.split("`, `").any(|heading| heading == key));
        let section = section.unwrap_or_else(|| {
            panic!(
                "{PAGE} has no section for `{key}`; add \"### `{key}`\" with a sentence and a fenced ```yaml example"
            )
        });
        let name = key.rsplit('.').next().unwrap();
        let shown = section
            .blocks
            .iter()
            .any(|(info, body)| Kind::of(info).is_some() && !info.contains("error=") && body.contains(name));
        assert!(shown, "the section `{key}` of {PAGE} has no example that uses `{name}`");
        assert!(
            section.text.split_whitespace().count() >= 4,
            "the section `{key}` of {PAGE} does not say what it does"
        );
    }
    for heading in sections.iter().flat_map(|section| section.heading.split("`, `")) {
        let names_a_key = heading.starts_with("jobs.") || heading.starts_with("on.") || heading.starts_with("defaults");
        assert!(
            !names_a_key || keys.contains(heading),
            "{PAGE} has a section for `{heading}`, which the schema does not know"
        );
    }
}

#[test]
fn every_example_is_read_as_it_says() {
    let mut examples = 0;
    for section in sections(PAGE) {
        for (info, body) in &section.blocks {
            let Some(kind) = Kind::of(info) else { continue };
            let text = kind.whole(body);
            let diagnostics = kind.diagnostics(&text);
            let found: Vec<&str> = diagnostics.iter().map(|diagnostic| diagnostic.code.as_str()).collect();
            let said = |word: &'static str| info.split_whitespace().filter_map(move |one| one.strip_prefix(word));
            let words = info.split_whitespace();
            let wanted: Vec<&str> = words
                .filter_map(|word| word.strip_prefix("error=").or_else(|| word.strip_prefix("warning=")))
                .collect();
            assert_eq!(found, wanted, "{PAGE}, `{}`:\n{text}\n{diagnostics:#?}", section.heading);
            if said("error=").next().is_none() {
                assert_valid(
                    &validator(kind.schema()),
                    &text,
                    &format!("an example of `{}` in {PAGE}", section.heading),
                );
            }
            examples += 1;
        }
    }
    assert!(examples >= 30, "{PAGE} has only {examples} examples");
}
