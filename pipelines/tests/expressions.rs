//! The expression language, as tables: expression, value.

use proptest::prelude::*;
use segue_pipelines::expr::{
    Contexts, ErrorKind, StatusFunctions, Value, evaluate, evaluate_condition, evaluate_template, references,
    render_template, template_references, uses_status_function,
};
use serde_json::json;

fn contexts() -> Contexts {
    Contexts::new()
        .with(
            "github",
            json!({
                "ref": "refs/heads/main", "sha": "abc", "Event_Name": "push", "run_number": 7,
                "event": {"pull_request": {"title": "It's", "labels": [{"name": "bug"}, {"name": "ui"}, {"id": 3}]}},
            }),
        )
        .with("env", json!({"EMPTY": "", "ZERO": "0", "WORD": "Straße"}))
        .with("matrix", json!({"os": ["linux", "mac"], "nested": {"a": {"v": 1}, "b": {"v": [2, 3]}, "c": 4}}))
        .with("steps", json!({}))
}

/// The value of an expression, as JSON in one line.
fn check(expression: &str, wanted: &str) {
    let found = match evaluate(expression, &contexts()) {
        Ok(value) => serde_json::to_string(&value).expect("serialises"),
        Err(error) => format!("{}: {error}", error.kind.as_str()),
    };
    assert_eq!(found, wanted, "{expression}");
}

fn check_error(expression: &str, kind: ErrorKind, marked: &str, message: &str) {
    let error = evaluate(expression, &contexts()).expect_err(expression);
    let place = &expression[error.span.clone()];
    assert_eq!((error.kind, place, error.to_string().as_str()), (kind, marked, message), "{expression}");
}

#[test]
fn literals() {
    check("null", "null");
    check("true", "true");
    check("false", "false");
    check("711", "711");
    check("-9.2", "-9.2");
    check("+3", "3");
    check(".5", "0.5");
    check("-.5", "-0.5");
    check("1.", "1");
    check("0xff", "255");
    check("0xFF", "255");
    check("0o17", "15");
    check("-2.99e-2", "-0.0299");
    check("1.2E+2", "120");
    check("NaN", "\"NaN\"");
    check("Infinity", "\"Infinity\"");
    check("-Infinity", "\"-Infinity\"");
    check("'Mona the Octocat'", "\"Mona the Octocat\"");
    check("'It''s open source!'", "\"It's open source!\"");
    check("''", "\"\"");
    check("''''", "\"'\"");
    check(" \t\n 1 \n", "1");
}

#[test]
fn numbers_as_text_have_fifteen_digits() {
    let check = |number: &str, text: &str| check(&format!("format('{{0}}', {number})"), &format!("\"{text}\""));
    check("-0", "0");
    check("1e3", "1000");
    check("123456.789", "123456.789");
    check("0.84551240822557006", "0.84551240822557");
    check("0.1", "0.1");
    check("1.2e-2", "0.012");
    check("0.00001", "1E-05");
    check("0.0001", "0.0001");
    check("123456789012345", "123456789012345");
    check("1234567890123456", "1.23456789012346E+15");
    check("1e21", "1E+21");
    check("-1.5e300", "-1.5E+300");
    check("9.999999999999999", "10");
    check("NaN", "NaN");
    check("-Infinity", "-Infinity");
}

#[test]
fn precedence_and_grouping() {
    check("true || true && false", "true");
    check("(true || true) && false", "false");
    check("false == true || true", "true");
    check("1 < 2 == true", "true");
    check("true == 1 < 2", "true");
    check("!true || true", "true");
    check("!false == true", "true");
    check("!(1 == 1)", "false");
    check("!!'x'", "true");
    check("1 == 1 == 1", "true");
    check("3 > 2 > 1", "false");
}

#[test]
fn and_and_or_give_an_operand_back() {
    check("'a' && 'b'", "\"b\"");
    check("'' && 'b'", "\"\"");
    check("0 && 'b'", "0");
    check("'a' || 'b'", "\"a\"");
    check("'' || 0 || null", "null");
    check("'' || 'b' || 'c'", "\"b\"");
    check("NaN || 'not a number'", "\"not a number\"");
    check("github.ref == 'refs/heads/main' && 'prod' || 'dev'", "\"prod\"");
    check("false && fromJSON('broken')", "false");
    check("true || fromJSON('broken')", "true");
}

#[test]
fn equality_is_loose() {
    check("null == null", "true");
    check("null == 0", "true");
    check("null == ''", "true");
    check("null == false", "true");
    check("true == 1", "true");
    check("true == '1'", "true");
    check("true == 'true'", "false");
    check("1 == '1'", "true");
    check("1 == ' 1 '", "true");
    check("255 == '0xff'", "true");
    check("0 == ''", "true");
    check("1 == 'one'", "false");
    check("1 != 'one'", "true");
    check("NaN == NaN", "false");
    check("NaN != NaN", "true");
    check("'ABC' == 'abc'", "true");
    check("'ÄÖ' == 'äö'", "true");
    check("'ı' == 'I'", "false");
    check("'ſ' == 's'", "false");
    check("matrix.os == matrix.os", "true");
    check("matrix.os == fromJSON('[\"linux\", \"mac\"]')", "false");
    check("matrix.nested == matrix.nested", "true");
    check("matrix.os == 'Array'", "false");
    check("matrix == null", "false");
}

#[test]
fn relations_are_loose() {
    check("1 < 2", "true");
    check("'2' > 10", "false");
    check("'2' > '10'", "true");
    check("'a' < 'B'", "true");
    check("'a' >= 'A'", "true");
    check("true > false", "true");
    check("null < 1", "true");
    check("null >= null", "true");
    check("null > null", "false");
    check("NaN < 1", "false");
    check("NaN >= 1", "false");
    check("'x' < 1", "false");
    check("matrix.os < 1", "false");
    check("matrix.os >= matrix.os", "true");
    check("Infinity > 1e308", "true");
}

#[test]
fn access_is_null_safe_and_ignores_case() {
    check("github.sha", "\"abc\"");
    check("GitHub.SHA", "\"abc\"");
    check("github.event_name", "\"push\"");
    check("github['Sha']", "\"abc\"");
    check("github['sh' ]", "null");
    check("github.nothing.at.all", "null");
    check("github.sha.length", "null");
    check("github.ref.*", "[]");
    check("matrix.os[0]", "\"linux\"");
    check("matrix.os['1']", "\"mac\"");
    check("matrix.os[1.9]", "\"mac\"");
    check("matrix.os[-1]", "null");
    check("matrix.os[2]", "null");
    check("matrix.os['x']", "null");
    check("matrix.os.length", "null");
    check("github[format('s{0}', 'ha')]", "\"abc\"");
    check("github[matrix]", "null");
    check("fromJSON('{\"a\": [1, {\"b\": 2}]}').a[1].b", "2");
    check("(github).sha", "\"abc\"");
    check("fromJSON('{\"7\": true}')[7]", "true");
    check("fromJSON('{\"a\": 1, \"A\": 2}').A", "2");
}

#[test]
fn the_star_filters() {
    check("github.event.pull_request.labels.*.name", "[\"bug\",\"ui\"]");
    check("github.event.pull_request.labels[*].name", "[\"bug\",\"ui\"]");
    check("(github.event.pull_request.labels.*).name", "[\"bug\",\"ui\"]");
    check("contains(github.event.pull_request.labels.*.name, 'BUG')", "true");
    check("matrix.nested.*.v", "[1,[2,3]]");
    check("matrix.nested.*.v.*", "[2,3]");
    check("matrix.nested.*.v[1]", "[3]");
    check("matrix.os.*[0]", "[]");
    check("steps.*.outcome", "[]");
}

#[test]
fn functions() {
    check("contains('Hello world', 'LLO')", "true");
    check("contains('Hello', '')", "true");
    check("contains(123, 2)", "true");
    check("contains(matrix.os, 'LINUX')", "true");
    check("contains(matrix.os, 'windows')", "false");
    check("contains(matrix, 'os')", "false");
    check("contains(fromJSON('[1, \"2\"]'), 2)", "true");
    check("startsWith('Hello', 'he')", "true");
    check("endsWith('Hello', 'LO')", "true");
    check("endsWith(env.WORD, 'straße')", "true");
    check("startsWith(matrix.os, 'l')", "false");
    check("format('{0} {1} {0}', 'a', 1)", "\"a 1 a\"");
    check("format('{{{0}}}', true)", "\"{true}\"");
    check("format('plain')", "\"plain\"");
    check("format('{0}', matrix.os)", "\"Array\"");
    check("format('{0}|{1}', null, matrix)", "\"|Object\"");
    check("join(matrix.os)", "\"linux,mac\"");
    check("join(matrix.os, ' + ')", "\"linux + mac\"");
    check("join('alone', '+')", "\"alone\"");
    check("join(matrix, '+')", "\"\"");
    check("join(fromJSON('[1, null, [2], true]'), '-')", "\"1--Array-true\"");
    check("toJSON('a\"b')", r#""\"a\\\"b\"""#);
    check("toJSON(1.50)", "\"1.5\"");
    check("toJSON(NaN)", "\"NaN\"");
    check("toJSON(fromJSON('{\"z\": [], \"a\": {}}'))", r#""{\n  \"z\": [],\n  \"a\": {}\n}""#);
    check("toJSON(matrix.os)", r#""[\n  \"linux\",\n  \"mac\"\n]""#);
    check("TOJSON(null)", "\"null\"");
    check("fromJSON('true')", "true");
    check("fromJSON('[1e2, \"x\"]')", "[100,\"x\"]");
    check("case(false, 1, true, 2, 3)", "2");
    check("case(false, 1, 3)", "3");
    check("case(true, 1, fromJSON('broken'))", "1");
    check("contains (matrix.os, 'mac')", "true");
}

#[test]
fn mistakes_are_told_apart_and_located() {
    use ErrorKind::{Syntax, Value};
    check_error("", Syntax, "", "the expression is empty");
    check_error("  ", Syntax, "  ", "the expression is empty");
    check_error("1 +", Syntax, "+", "`+` is no number");
    check_error("1 + 2", Syntax, "+", "`+` is no number");
    check_error("github.", Syntax, "", "the expression ends here, where a property's name or `*` is expected");
    check_error("(1 == 1", Syntax, "", "the expression ends here, where `)` is expected");
    check_error(
        "1 2",
        Syntax,
        "2",
        "`2` has no place here, where an operator, or the end of the expression is expected",
    );
    check_error("'abc", Syntax, "'abc", "this string is not closed");
    check_error("\"abc\"", Syntax, "\"", "`\"` has no place here");
    check_error("a = 1", Syntax, "=", "`=` is no operator");
    check_error("a & b", Syntax, "&", "`&` is no operator");
    check_error("x ? 1 : 2", Syntax, "?", "`?` has no place here");
    check_error("1abc", Syntax, "1abc", "`1abc` is no number");
    check_error("-github.run_number", Syntax, "-github.run_number", "`-github.run_number` is no number");
    check_error(
        "'a'.b",
        Syntax,
        ".",
        "`.` has no place here, where an operator, or the end of the expression is expected",
    );
    check_error("github..sha", Syntax, ".", "`.` has no place here, where a property's name or `*` is expected");
    check_error("github.1", Syntax, "1", "`1` has no place here, where a property's name or `*` is expected");
    check_error("${{ 1 }}", Syntax, "$", "`$` has no place here");
    check_error(
        "fromJSON('{')",
        Value,
        "fromJSON('{')",
        "`fromJSON` got `{`, which is not JSON: EOF while parsing an object at line 1 column 1",
    );
    check_error(
        "fromJSON('')",
        Value,
        "fromJSON('')",
        "`fromJSON` got an empty text, which is not JSON: EOF while parsing a value at line 1 column 0",
    );
    check_error(
        "format('{1}', 1)",
        Value,
        "format('{1}', 1)",
        "`format` cannot use the text `{1}`: there is no value for `{1}`, only 1 are given",
    );
    check_error("format('}')", Value, "format('}')", "`format` cannot use the text `}`: a `}` closes nothing");
    check_error("case(1, 2, 3)", Value, "1", "a condition of `case` must be a boolean, and this is a number");
}

#[test]
fn names_are_checked_even_where_they_are_not_reached() {
    use ErrorKind::{ArgumentCount, UnknownContext, UnknownFunction};
    check_error("true || gihub.sha", UnknownContext, "gihub", "there is no context `gihub`");
    check_error("secrets.TOKEN", UnknownContext, "secrets", "the context `secrets` is not available here");
    check_error("false && upper('x')", UnknownFunction, "upper", "there is no function `upper`");
    check_error("success()", UnknownFunction, "success()", "`success()` is only known in `if`");
    check_error(
        "hashFiles('*')",
        UnknownFunction,
        "hashFiles('*')",
        "`hashFiles` is only known in steps, where there is a workspace",
    );
    check_error("contains('x')", ArgumentCount, "contains('x')", "`contains` takes 2 arguments, but here it gets 1");
    check_error(
        "format()",
        ArgumentCount,
        "format()",
        "`format` takes at least 1 and at most 255 arguments, but here it gets 0",
    );
    check_error("join(1, 2, 3)", ArgumentCount, "join(1, 2, 3)", "`join` takes 1 to 2 arguments, but here it gets 3");
    let error = evaluate("tojsn(1)", &contexts()).unwrap_err();
    assert_eq!(error.help.as_deref(), Some("did you mean `toJSON`?"));
    let error = evaluate("gihub.sha", &contexts()).unwrap_err();
    assert_eq!(error.help.as_deref(), Some("did you mean `github`?"));
}

#[test]
fn conditions_ask_for_success_unless_they_ask_themselves() {
    let success = StatusFunctions::SUCCESS;
    let failed = StatusFunctions { success: false, failure: true, cancelled: false };
    let cancelled = StatusFunctions { success: false, failure: false, cancelled: true };
    let check = |source: Option<&str>, wanted: [bool; 3]| {
        let found = [success, failed, cancelled].map(|status| evaluate_condition(source, &contexts(), status).unwrap());
        assert_eq!(found, wanted, "{source:?}");
    };
    check(None, [true, false, false]);
    check(Some(" "), [true, false, false]);
    check(Some("github.sha == 'abc'"), [true, false, false]);
    check(Some("${{ github.sha == 'abc' }}"), [true, false, false]);
    check(Some(" ${{ 'false' }}\n"), [true, false, false]);
    check(Some("always()"), [true, true, true]);
    check(Some("failure()"), [false, true, false]);
    check(Some("${{ failure() || cancelled() }}"), [false, true, true]);
    check(Some("!cancelled()"), [true, true, false]);
    check(Some("!cancelled() && github.sha != 'abc'"), [false, false, false]);
    check(Some("'success()' == 'x'"), [false, false, false]);
    assert!(uses_status_function("x.y || (1 == FAILURE())").unwrap());
    assert!(!uses_status_function("x.success").unwrap());
}

#[test]
fn text_around_an_expression_in_a_condition_is_an_error() {
    for source in ["${{ true }} && false", "${{ true }}${{ true }}", "!${{ true }}", "${{ github.sha }} == 'abc'"] {
        let error = evaluate_condition(Some(source), &contexts(), StatusFunctions::SUCCESS).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Syntax, "{source}");
        assert!(error.to_string().contains("mixes text"), "{source}: {error}");
    }
    let source = "${{ github.sha == gihub.sha }}";
    let error = evaluate_condition(Some(source), &contexts(), StatusFunctions::SUCCESS).unwrap_err();
    assert_eq!(&source[error.span], "gihub");
}

#[test]
fn templates() {
    let check = |text: &str, wanted: &str| assert_eq!(render_template(text, &contexts()).unwrap(), wanted, "{text}");
    check("plain", "plain");
    check("", "");
    check("a ${{ github.sha }} b ${{1}}", "a abc b 1");
    check("${{ '}}' }}${{ 'it''s }}' }}", "}}it's }}");
    check("$ {{ x }} $${{ 'y' }}", "$ {{ x }} $y");
    check("[${{ github.nothing }}]", "[]");
    let check = |text: &str, wanted: Value| assert_eq!(evaluate_template(text, &contexts()).unwrap(), wanted, "{text}");
    check("${{ 1 }}", Value::Number(1.0));
    check("${{ 1 }} ", "1 ".into());
    check("${{ matrix.os }}", json!(["linux", "mac"]).into());
    let text = "a ${{ 1 }} ${{ github.sha";
    let error = render_template(text, &contexts()).unwrap_err();
    assert_eq!(&text[error.span.clone()], "${{ github.sha");
    let text = "äö ${{ 1 }} ${{ 1 = 2 }}";
    let error = render_template(text, &contexts()).unwrap_err();
    assert_eq!(&text[error.span.clone()], "=");
}

#[test]
fn hash_files_comes_from_outside() {
    let contexts = contexts().with_hash_files(|patterns| Ok(patterns.join("+")));
    assert_eq!(evaluate("hashFiles('a', '**/b')", &contexts).unwrap(), Value::from("a+**/b"));
    let contexts = contexts.with_hash_files(|_| Err("no workspace".into()));
    assert_eq!(evaluate("hashFiles('a')", &contexts).unwrap_err().kind, ErrorKind::Value);
}

#[test]
fn references_are_found_without_evaluating() {
    let show = |source: &str, found: Vec<segue_pipelines::expr::Reference>| -> Vec<String> {
        found.into_iter().map(|r| format!("{} {:?} {:?}", &source[r.span.clone()], r.context, r.path)).collect()
    };
    let source = "secrets.A && github['event'].x[steps.a] || toJSON(env) == secrets.*";
    assert_eq!(
        show(source, references(source).unwrap()),
        [
            r#"secrets.A "secrets" [Name("A")]"#,
            r#"github['event'].x[steps.a] "github" [Name("event"), Name("x"), Computed]"#,
            r#"steps.a "steps" [Name("a")]"#,
            r#"env "env" []"#,
            r#"secrets.* "secrets" [All]"#,
        ]
    );
    let text = "x ${{ vars.A }} ${{ 1 }} ${{ (vars).B }}";
    assert_eq!(
        show(text, template_references(text).unwrap()),
        [r#"vars.A "vars" [Name("A")]"#, r#"vars).B "vars" [Name("B")]"#]
    );
}

#[test]
fn limits_hold() {
    let kind = |source: &str| evaluate(source, &contexts()).unwrap_err().kind;
    assert_eq!(kind(&"x".repeat(100_000)), ErrorKind::Limit);
    assert_eq!(kind(&"(".repeat(10_000)), ErrorKind::Limit);
    assert_eq!(kind(&"!".repeat(20_000)), ErrorKind::Limit);
    assert_eq!(kind(&format!("1{}", " == 1".repeat(4_000))), ErrorKind::Limit);
    assert_eq!(kind(&format!("a{}", "[a".repeat(9_000))), ErrorKind::Limit);
    assert_eq!(kind(&"format(".repeat(3_000)), ErrorKind::Limit);
    // chains are no nesting
    assert!(evaluate(&format!("1{}", " && 1".repeat(4_000)), &contexts()).is_ok());
    assert!(evaluate(&format!("github{}", ".x".repeat(10_000)), &contexts()).is_ok());
    // a text that doubles with each level
    let mut doubling = "'0123456789'".to_owned();
    for _ in 0..40 {
        doubling = format!("format('{{0}}{{0}}', {doubling})");
    }
    assert_eq!(kind(&doubling), ErrorKind::Limit);
    // a list that is read again and again
    let long = format!("[{}]", vec!["1"; 100_000].join(","));
    let contexts = contexts().with("inputs", serde_json::from_str::<Value>(&long).unwrap());
    let source = vec!["contains(inputs, 2)"; 900].join(" || ");
    assert_eq!(evaluate(&source, &contexts).unwrap_err().kind, ErrorKind::Limit);
}

proptest! {
    #[test]
    fn any_text_is_a_value_or_an_error(source in ".{0,200}") {
        let _ = evaluate(&source, &contexts());
        let _ = render_template(&source, &contexts());
        let _ = evaluate_condition(Some(&source), &contexts(), StatusFunctions::SUCCESS);
    }

    #[test]
    fn any_pile_of_tokens_is_a_value_or_a_located_error(tokens in prop::collection::vec(prop::sample::select(vec![
        "github", "matrix", "os", ".", "*", "[", "]", "(", ")", ",", "'a'", "'", "1", "-1", "0x", "==", "!=", "<", ">=", "&&", "||",
        "!", "null", "true", "NaN", "contains(", "format(", "toJSON(", "fromJSON(", "join(", "case(", "${{", "}}", "ß", " ",
    ]), 0..40)) {
        let source = tokens.concat();
        if let Err(error) = evaluate(&source, &contexts()) {
            prop_assert!(source.get(error.span.clone()).is_some(), "{:?} is no place in {source}", error.span);
        }
        let template = format!("x${{{{ {source} }}}}y{source}");
        if let Err(error) = render_template(&template, &contexts()) {
            prop_assert!(template.get(error.span.clone()).is_some(), "{:?} is no place in {template}", error.span);
        }
    }

    #[test]
    fn a_string_literal_is_its_text(text in any::<String>().prop_filter("short enough", |t| t.len() < 10_000)) {
        let literal = format!("'{}'", text.replace('\'', "''"));
        prop_assert_eq!(evaluate(&literal, &contexts()).unwrap(), Value::from(text));
    }

    #[test]
    fn every_number_survives_its_own_text(number in any::<i32>(), exponent in -20i32..20) {
        let number = f64::from(number) * 10f64.powi(exponent);
        let text = evaluate(&format!("format('{{0}}', {number:e})"), &contexts()).unwrap().to_text();
        let back: f64 = text.parse().unwrap();
        prop_assert!((back - number).abs() <= number.abs() * 1e-14, "{number} -> {text}");
    }

    #[test]
    fn equality_is_symmetric_and_orders_exclude_each_other(a in 0usize..12, b in 0usize..12) {
        const VALUES: [&str; 12] = ["null", "true", "false", "0", "1", "NaN", "''", "'1'", "'a'", "'A'", "matrix.os", "matrix"];
        let is = |operator: &str, a: usize, b: usize| {
            evaluate(&format!("{} {operator} {}", VALUES[a], VALUES[b]), &contexts()).unwrap() == Value::Bool(true)
        };
        prop_assert_eq!(is("==", a, b), is("==", b, a));
        prop_assert_eq!(is("==", a, b), !is("!=", a, b));
        prop_assert_eq!(is("<", a, b), is(">", b, a));
        prop_assert_eq!(is("<=", a, b), is("<", a, b) || is("==", a, b));
        prop_assert!(!(is("<", a, b) && is(">", a, b)));
    }
}
