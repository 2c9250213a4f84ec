//! Expressions beside another implementation of GitHub's language: what is an expression for one is one for the other, and
//! where both know a value, it is the same.

use github_actions_expressions::{Evaluation, Expr};
use proptest::prelude::*;
use segue_pipelines::expr::{Contexts, ErrorKind, Value, calls, evaluate};

const WORDS: [&str; 34] = [
    "github",
    "matrix.os",
    "env",
    ".",
    ".*",
    "[*]",
    "[0]",
    "['a']",
    "(",
    ")",
    ",",
    "'a'",
    "'it''s'",
    "1",
    "-1.5",
    "0xff",
    "1e3 ",
    "==",
    "!=",
    "<",
    ">=",
    "&&",
    "||",
    "!",
    "null",
    "true",
    "NaN",
    "contains(",
    "format(",
    "toJSON(",
    "join(",
    "success()",
    " ",
    "ä",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn what_is_an_expression_is_agreed(words in prop::collection::vec(prop::sample::select(WORDS.to_vec()), 1..12)) {
        let source = words.concat();
        let (ours, theirs) = (calls(&source), Expr::parse(&source));
        // of what is too long or too deep each has its own idea
        let has_limit = matches!(&ours, Err(error) if error.kind == ErrorKind::Limit);
        // the other takes these as well, which GitHub's runner refuses (ExpressionParser.cs, LexicalAnalyzer.cs)
        let dense = source.replace(' ', "");
        let is_lax = ours.is_err() && (dense.contains("format()") || dense.contains(",)"));
        if !has_limit && !is_lax {
            prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "{}: {:?}, {:?}", source, ours, theirs.err().map(|error| error.to_string()));
        }
    }

    #[test]
    fn what_it_is_worth_is_agreed(source in expression()) {
        let ours = evaluate(&source, &Contexts::new());
        let theirs = Expr::parse(&source).ok().and_then(|parsed| parsed.consteval());
        if let Some(theirs) = theirs {
            prop_assert_eq!(ours.as_ref().ok(), Some(&value(&theirs)), "{}: {:?}, {:?}", source, ours, theirs);
        }
    }
}

/// Expressions of literals, operators and functions.
fn expression() -> impl Strategy<Value = String> {
    let literals = [
        "null",
        "true",
        "false",
        "0",
        "1",
        "-1",
        "2.5",
        "1e3",
        "0xff",
        "0o17",
        "NaN",
        "Infinity",
        "''",
        "'0'",
        "' 1 '",
        "'a'",
        "'A'",
        "'true'",
        "'0xff'",
        "'1e3'",
        "'Straße'",
        "'{0}-{1}'",
        "fromJSON('\"x\"')",
    ];
    prop::sample::select(literals.to_vec()).prop_map(String::from).prop_recursive(4, 24, 3, |inner| {
        let operators = prop::sample::select(vec!["==", "!=", "<", "<=", ">", ">=", "&&", "||"]);
        let two = prop::sample::select(vec!["contains", "startsWith", "endsWith"]);
        // a list stands where both know it: the other takes one for the text `Array` as a separator and as what is looked for,
        // which GitHub's runner does not (Join.cs, Contains.cs, StartsWith.cs)
        const LIST: &str = "fromJSON('[1, \"b\", null]')";
        let separator = prop::sample::select(vec!["', '", "''", "1", "null", "true"]);
        prop_oneof![
            (inner.clone(), operators, inner.clone()).prop_map(|(a, operator, b)| format!("{a} {operator} {b}")),
            inner.clone().prop_map(|a| format!("({a})")),
            inner.clone().prop_map(|a| format!("!{a}")),
            (two, inner.clone(), inner.clone()).prop_map(|(function, a, b)| format!("{function}({a}, {b})")),
            separator.prop_map(|between| format!("join({LIST}, {between})")),
            inner.clone().prop_map(|item| format!("contains({LIST}, {item})")),
            inner.clone().prop_map(|other| format!("format('{{0}}', {LIST} == {other})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("format('{{0}}|{{1}}', {a}, {b})")),
            (inner.clone(), inner.clone(), inner).prop_map(|(a, b, c)| format!("case(!!({a}), {b}, {c})")),
        ]
    })
}

fn value(theirs: &Evaluation) -> Value {
    match theirs {
        Evaluation::Null => Value::Null,
        Evaluation::Boolean(value) => Value::Bool(*value),
        Evaluation::Number(number) => Value::Number(*number),
        Evaluation::String(text) => Value::string(text.as_str()),
        Evaluation::Array(items) => Value::array(items.iter().map(value).collect()),
        Evaluation::Object(entries) => Value::object(entries.iter().map(|(key, entry)| (key.clone(), value(entry)))),
    }
}
