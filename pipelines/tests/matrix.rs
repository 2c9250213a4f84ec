//! Matrices: GitHub's documented examples row by row, what this language adds, and limits for any matrix at all.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Instant;

use proptest::prelude::*;
use segue_pipelines::{
    expr::Contexts,
    matrix::{MAX_COMBINATIONS, combinations},
    pipeline,
};
use segue_schemas::plan::MatrixPlan;
use serde_json::{Value, json};

fn plan(matrix: &Value) -> MatrixPlan {
    let mut vectors: indexmap::IndexMap<String, Value> =
        matrix.as_object().unwrap().iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    // a map of JSON is sorted here; the order of these is what the examples have
    let order = ["fruit", "os", "version", "animal"];
    vectors.sort_by_key(|key, _| order.iter().position(|known| known == key).unwrap_or(order.len()));
    let (include, exclude) = (vectors.shift_remove("include"), vectors.shift_remove("exclude"));
    MatrixPlan::Vectors { vectors, include, exclude }
}

/// Each combination as `label: values`.
fn found(matrix: &MatrixPlan, contexts: &Contexts) -> Result<Vec<String>, String> {
    let found = combinations(matrix, contexts).map_err(|error| error.to_string())?;
    Ok(found.iter().map(|one| format!("{}: {}", one.label, serde_json::to_string(&one.values).unwrap())).collect())
}

#[track_caller]
fn check(matrix: &Value, expected: &[&str]) {
    assert_eq!(found(&plan(matrix), &Contexts::new()).unwrap(), expected);
}

#[test]
fn the_first_variable_changes_slowest() {
    check(
        &json!({"version": [10, 12], "os": ["linux", "mac"]}),
        &[
            r#"linux, 10: {"os":"linux","version":10}"#,
            r#"linux, 12: {"os":"linux","version":12}"#,
            r#"mac, 10: {"os":"mac","version":10}"#,
            r#"mac, 12: {"os":"mac","version":12}"#,
        ],
    );
}

#[test]
fn included_values_extend_what_they_fit_and_stand_alone_where_they_fit_nothing() {
    // the example of GitHub's documentation, row by row
    let matrix = json!({
        "fruit": ["apple", "pear"],
        "animal": ["cat", "dog"],
        "include": [
            {"color": "green"},
            {"color": "pink", "animal": "cat"},
            {"fruit": "apple", "shape": "circle"},
            {"fruit": "banana"},
            {"fruit": "banana", "animal": "cat"},
        ],
    });
    check(
        &matrix,
        &[
            r#"apple, cat: {"fruit":"apple","animal":"cat","color":"pink","shape":"circle"}"#,
            r#"apple, dog: {"fruit":"apple","animal":"dog","color":"green","shape":"circle"}"#,
            r#"pear, cat: {"fruit":"pear","animal":"cat","color":"pink"}"#,
            r#"pear, dog: {"fruit":"pear","animal":"dog","color":"green"}"#,
            r#"banana: {"fruit":"banana"}"#,
            r#"cat, banana: {"animal":"cat","fruit":"banana"}"#,
        ],
    );
}

#[test]
fn included_values_alone_are_a_matrix() {
    let include = json!({"include": [{"site": "production", "zone": "a"}, {"site": "staging", "zone": "b"}]});
    check(
        &include,
        &[r#"production, a: {"site":"production","zone":"a"}"#, r#"staging, b: {"site":"staging","zone":"b"}"#],
    );
}

#[test]
fn excluding_needs_only_a_part_of_a_combination() {
    let matrix = json!({
        "os": ["mac", "windows"], "version": [12, 14, 16], "environment": ["staging", "production"],
        "exclude": [{"os": "mac", "version": 12, "environment": "production"}, {"os": "windows", "version": 16}],
    });
    let found = found(&plan(&matrix), &Contexts::new()).unwrap();
    let labels: Vec<&str> = found.iter().filter_map(|line| line.split_once(": ")).map(|(label, _)| label).collect();
    assert_eq!(
        labels,
        [
            "mac, 12, staging",
            "mac, 14, staging",
            "mac, 14, production",
            "mac, 16, staging",
            "mac, 16, production",
            "windows, 12, staging",
            "windows, 12, production",
            "windows, 14, staging",
            "windows, 14, production",
        ]
    );
}

#[test]
fn what_is_excluded_can_be_included_again_and_mappings_are_matched_in_part() {
    check(
        &json!({
            "os": [{"name": "linux", "arch": "x64"}, {"name": "linux", "arch": "arm"}],
            "exclude": [{"os": {"arch": "ARM"}}],
            "include": [{"os": {"arch": "arm"}, "slow": true}],
        }),
        &[r#"x64, linux: {"os":{"arch":"x64","name":"linux"}}"#, r#"arm, true: {"os":{"arch":"arm"},"slow":true}"#],
    );
}

#[test]
fn labels_tell_combinations_apart() {
    check(&json!({"n": [1, "1", null]}), &[r#"1: {"n":1}"#, r#"1 #2: {"n":"1"}"#, r##"#3: {"n":null}"##]);
    let long = found(&plan(&json!({"n": ["x".repeat(500)]})), &Contexts::new()).unwrap();
    assert!(long[0].starts_with(&format!("{}...: ", "x".repeat(77))), "{}", long[0]);
}

#[test]
fn values_come_from_expressions() {
    let needs = json!({"setup": {"result": "success", "outputs": {
        "list": "[\"b\", 2]", "whole": "{\"z\": [1], \"a\": [true], \"include\": [{\"z\": 5}]}", "text": "x",
    }}});
    let contexts = Contexts::new().with("needs", needs);
    let list = plan(&json!({"n": "${{ fromJSON(needs.setup.outputs.list) }}"}));
    assert_eq!(found(&list, &contexts).unwrap(), [r#"b: {"n":"b"}"#, r#"2: {"n":2}"#]);
    let whole = MatrixPlan::Whole("${{ fromJSON(needs.setup.outputs.whole) }}".into());
    assert_eq!(found(&whole, &contexts).unwrap(), [r#"1, true: {"z":1,"a":true}"#, r#"5: {"z":5}"#]);
    let inner = plan(&json!({"n": ["v${{ needs.setup.outputs.text }}"]}));
    assert_eq!(found(&inner, &contexts).unwrap(), [r#"vx: {"n":"vx"}"#]);
    for (matrix, expected) in [
        (json!({"n": "${{ needs.setup.outputs.text }}"}), "`matrix.n` is a string, where a list is expected"),
        (json!({"n": "${{ fromJSON(needs.setup.outputs.text) }}"}), "`matrix.n`: "),
        (json!({"n": [1], "exclude": [{"m": 1}]}), "`matrix.exclude` names `m`, which is no variable of the matrix"),
        (json!({"n": [1], "include": [{}]}), "an entry of `matrix.include` names no value"),
        (json!({"n": [1], "include": [1]}), "`an entry of matrix.include` is a number, where a mapping is expected"),
    ] {
        let error = found(&plan(&matrix), &contexts).unwrap_err();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn a_list_that_is_empty_leaves_only_what_is_included() {
    check(&json!({"n": []}), &[]);
    check(&json!({"n": [], "include": [{"n": 1}]}), &[r#"1: {"n":1}"#]);
}

#[test]
fn a_matrix_of_a_million_is_an_error_at_once() {
    let values = (0..1000).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
    let text = format!(
        "on: push\njobs:\n  a:\n    strategy:\n      matrix:\n        x: [{values}]\n        y: [{values}]\n    steps:\n      - run: x\n"
    );
    #[expect(clippy::disallowed_methods, reason = "it is the time that is tested")]
    let begun = Instant::now();
    let parsed = pipeline::parse("x.yml", &text);
    // ten times what `speed.rs` promises of a release build: to expand it first would take longer still
    assert!(begun.elapsed().as_millis() < 1000, "{:?}", begun.elapsed());
    assert_eq!(parsed.diagnostics[0].code.as_str(), "too-many");
    assert!(parsed.diagnostics[0].message.contains("1000000 combinations"), "{}", parsed.diagnostics[0].message);
    let huge = json!({"a": vec![1; 4000], "b": vec![1; 4000], "c": vec![1; 4000], "exclude": [{"a": 2}]});
    assert!(found(&plan(&huge), &Contexts::new()).unwrap_err().contains("64000000000 combinations"));
    let wide = json!({"a": ["x".repeat(10_000)], "b": vec![1; 256]});
    assert!(found(&plan(&wide), &Contexts::new()).unwrap_err().contains("larger than 1024 KiB"));
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3_i64..3).prop_map(Value::from),
        "[a-c${}]{0,3}".prop_map(Value::from),
        Just(Value::from("${{ fromJSON('[1, 2]') }}")),
        Just(Value::from("${{ needs.x }}")),
    ];
    leaf.prop_recursive(3, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map("[a-c]", inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_matrix_is_bounded_and_total(
        vectors in prop::collection::btree_map("[a-e]", any_value(), 0..5),
        include in prop::option::of(any_value()),
        exclude in prop::option::of(any_value()),
    ) {
        let plan = MatrixPlan::Vectors { vectors: vectors.into_iter().collect(), include, exclude };
        let contexts = Contexts::new().with("needs", json!({}));
        if let Ok(found) = combinations(&plan, &contexts) {
            prop_assert!(found.len() <= MAX_COMBINATIONS);
            let mut labels: Vec<&str> = found.iter().map(|one| one.label.as_str()).collect();
            prop_assert!(labels.iter().all(|label| !label.is_empty() && label.chars().count() < 100));
            labels.sort_unstable();
            labels.dedup();
            prop_assert_eq!(labels.len(), found.len(), "every label is its own");
            prop_assert_eq!(combinations(&plan, &contexts).unwrap(), found);
        }
    }

    #[test]
    fn lists_of_values_give_their_product(a in 0_usize..20, b in 0_usize..20, c in 1_usize..4) {
        let list = |count: usize| Value::from((0..count).collect::<Vec<_>>());
        let plan = plan(&json!({"a": list(a), "b": list(b), "c": list(c)}));
        match combinations(&plan, &Contexts::new()) {
            Ok(found) => prop_assert_eq!(found.len(), a * b * c),
            Err(_) => prop_assert!(a * b * c > MAX_COMBINATIONS),
        }
    }
}
