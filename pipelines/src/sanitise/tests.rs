use proptest::prelude::*;
use segue_schemas::sync::{ServiceSync, SyncCount, SyncFormat};

use super::*;

fn sync(format: &str, yaml: &str) -> ServiceSync {
    serde_yaml::from_str(&format!("format: {format}\n{yaml}")).unwrap()
}

fn run(sync: &ServiceSync, text: &[u8], block: usize) -> Result<(String, Vec<SyncCount>), Problem> {
    let (mut sanitiser, mut out) = (Sanitiser::new(sync, [7; 32])?, Vec::new());
    for block in text.chunks(block.max(1)) {
        sanitiser.push(block, &mut out)?;
    }
    let counts = sanitiser.finish(&mut out)?;
    Ok((String::from_utf8_lossy(&out).into_owned(), counts))
}

#[track_caller]
fn check(format: &str, yaml: &str, text: &str, becomes: &str) -> Vec<SyncCount> {
    let (out, counts) = run(&sync(format, yaml), text.as_bytes(), 4096).unwrap();
    assert_eq!(out, becomes);
    counts
}

#[track_caller]
fn refused(format: &str, yaml: &str, text: &str, words: &[&str]) {
    let problem = run(&sync(format, yaml), text.as_bytes(), 4096).unwrap_err().to_string();
    for word in words {
        assert!(problem.contains(word), "`{word}` is not in: {problem}");
    }
    assert!(!problem.contains("ada"), "nothing of the data is told: {problem}");
}

fn dump(body: &str) -> String {
    format!(
        "--\n-- PostgreSQL database dump\n--\n\nSET client_encoding = 'UTF8';\n\n{body}\n-- PostgreSQL database dump complete\n--\n"
    )
}

const USERS: &str = "COPY public.users (id, email, full_name, phone, city) FROM stdin;\n\
    1\tada@lovelace.org\tAda Lovelace\t+44 20 7946\tLondon\n\
    2\t\\N\tTab\\there\t\tO\\\\slo\n\\.\n";

#[test]
fn columns_that_are_named_like_it_are_replaced_and_the_rest_stays() {
    let counts = check(
        "sql",
        "keep: [users.id, '*.city']",
        &dump(USERS),
        &dump(
            "COPY public.users (id, email, full_name, phone, city) FROM stdin;\n\
             1\ttest@example.com\tTest User\t555-0123\tLondon\n2\t\\N\tTest User\t\tO\\\\slo\n\\.\n",
        ),
    );
    let told: Vec<_> = counts.iter().map(|one| (one.what.as_str(), one.count)).collect();
    assert_eq!(
        told,
        [
            ("`public.users.email` (by its name)", 1),
            ("`public.users.full_name` (by its name)", 2),
            ("`public.users.phone` (by its name)", 1)
        ]
    );
    check("csv", "keep: [id]", "id,e-mail\r\n1,\"a,\"\"b@c.de\"\r\n", "id,e-mail\r\n1,test@example.com\r\n");
    check(
        "jsonl",
        "keep: [id, on]",
        "{\"id\": 12345678901234567890123, \"user\": {\"eMail\": \"a@b.de\", \"phones\": [\"1\", \"2\"]}, \"on\": true, \"x\": null}\n",
        "{\"id\": 12345678901234567890123, \"user\": {\"eMail\": \"test@example.com\", \"phones\": [\"555-0123\", \"555-0123\"]}, \
         \"on\": true, \"x\": null}\n",
    );
}

#[test]
fn rules_say_what_takes_the_place_of_what() {
    let rules = "keep: [c, d]\nrules:\n- {column: a, set: empty}\n- {column: b, value: 'x, y'}\n- {column: c, matching: '[0-9]+', value: N}\n\
                 - {column: d, set: drop-row, matching: ^gone$}\n";
    check("csv", rules, "a,b,c,d\n1,2,7 of 12,stays\n1,2,3,gone\n", "a,b,c,d\n,\"x, y\",\"N of N\",stays\n");
    let everywhere = "keep: ['*']\nrules:\n- {matching: '\\d{16}', value: CARD}\n";
    check("csv", everywhere, "note\npaid with 1234567812345678\n", "note\n\"paid with CARD\"\n");
    let whole = "rules:\n- {column: address, set: empty}\n- {column: tags, value: t}\n- {column: gone, set: drop-row, optional: true}\n";
    check(
        "jsonl",
        whole,
        "{\"address\":{\"a\":[1,\"}\"]},\"tags\":[1]}\n{\"gone\":1,\"tags\":2}",
        "{\"address\":null,\"tags\":\"t\"}\n",
    );
    check(
        "jsonl",
        "keep: [meta]",
        "{\"meta\":{\"a\":\"b\",\"c\":[{\"d\":1}]}}\n",
        "{\"meta\":{\"a\":\"b\",\"c\":[{\"d\":1}]}}\n",
    );
    // what a rule names counts, whatever is kept, and what is kept is not told by its name
    check(
        "csv",
        "keep: [name, email]\nrules: [{column: email, value: e}]",
        "name,email\nada,a@b.c\n",
        "name,email\nada,e\n",
    );
    check("csv", "strict: false", "note\nask ada@b.de!\n", "note\n\"ask test@example.com!\"\n");
}

#[test]
fn equal_ones_stay_equal_and_nobody_finds_what_they_were() {
    let hash = sync("csv", "keep: [n]\nrules: [{column: token, set: hash}]\nemails: unique");
    let text = b"n,token,email\n1,s3,a@b.de\n2,s3,A@B.de\n3,s4,c@d.de\n";
    let (out, _) = run(&hash, text, 99).unwrap();
    let rows: Vec<Vec<&str>> = out.lines().map(|line| line.split(',').collect()).collect();
    assert!(rows[1][1] == rows[2][1] && rows[2][1] != rows[3][1] && rows[1][1].len() == 32, "{out}");
    assert!(rows[1][2] == rows[2][2] && rows[2][2] != rows[3][2], "{out}");
    assert!(rows[1][2].starts_with("test+") && rows[1][2].ends_with("@example.com"), "{out}");
    let mut other = Sanitiser::new(&hash, [8; 32]).unwrap();
    let mut changed = Vec::new();
    other.push(text, &mut changed).unwrap();
    other.finish(&mut changed).unwrap();
    assert_ne!(out.into_bytes(), changed, "another key makes other hashes");
}

#[test]
fn what_nobody_has_decided_is_refused() {
    refused("sql", "", &dump(USERS), &["line 7", "`public.users.id`", "`keep`"]);
    refused("csv", "", "id,ada\n", &["line 1", "column 1"]);
    refused("jsonl", "", "{\"ada@b.de\": {\"x\": 1}}\n", &["line 1", "a key in the object, at byte 2"]);
    refused("jsonl", "keep: ['a.*.y']", "{\"a\": {\"ada\": {\"x\": 1}}}\n", &["`a.?.?`, at byte 21 of the line"]);
    let keep = "keep: ['users.*']\nrules: [{column: users.fone, set: phone}]";
    refused("sql", keep, &dump(USERS), &["rule 1 (`users.fone`)", "finds no column"]);
}

#[test]
fn what_is_no_text_is_to_be_named_as_well() {
    for value in ["true", "false", "{}", "[ ]", "[[]]", "[true]", "{\"on\": true}"] {
        let line = format!("{{\"id\": 1, \"x\": {value}}}\n");
        refused("jsonl", "keep: [id]", &line, &["line 1", "`keep`"]);
        check("jsonl", "keep: [id, x]", &line, &line);
        check("jsonl", "strict: false", &line, &line);
    }
    check("jsonl", "keep: [id]", "{\"id\": null, \"x\": [null, null]}\n", "{\"id\": null, \"x\": [null, null]}\n");
}

#[test]
fn keys_may_be_data_themselves() {
    let by_address = "{\"id\":1,\"subscribers\":{\"ada@lovelace.org\":true}}\n";
    refused("jsonl", "keep: [id]", by_address, &["line 1", "a key in `?`, at byte 24"]);
    refused("jsonl", "keep: [id, 'subscribers.*']", by_address, &["a key in `subscribers`"]);
    refused("jsonl", "", "{\"emails\":{\"ada@lovelace.org\":1}}\n", &["a key in `?`"]);
    for key in ["+44 20 7946", "20 7946", "Lovelace, ada", "", "\\u0061da@b.de"] {
        refused("jsonl", "keep: ['a.*']", &format!("{{\"a\":{{\"{key}\":1}}}}\n"), &["a key in `a`"]);
    }
    check("jsonl", "keep: [id, subscribers]", by_address, by_address);
    let whole = "keep: [id]\nrules: [{column: subscribers, set: empty}]";
    check("jsonl", whole, by_address, "{\"id\":1,\"subscribers\":null}\n");
    let replaced = "{\"id\":1,\"subscribers\":{\"test@example.com\":true}}\n";
    let counts = check("jsonl", "strict: false", by_address, replaced);
    assert_eq!(counts.iter().map(|one| one.count).sum::<u64>(), 1, "{counts:?}");
    // what a rule looks for everywhere, it looks for in keys
    let cards = "keep: [a]\nrules: [{matching: '[0-9]{4}', value: N}, {matching: gone, set: drop-row}]";
    check("jsonl", cards, "{\"a\":{\"x1234\":\"1234\"}}\n{\"a\":{\"gone\":1}}\n", "{\"a\":{\"xN\":\"N\"}}\n");
    // what somebody has written down is no data
    check("jsonl", "keep: [1st of all]", "{\"1st of all\":1}\n", "{\"1st of all\":1}\n");
}

#[test]
fn keys_that_nobody_has_written_down_are_not_told() {
    let line = "{\"accounts\":{\"ada_lovelace\":{\"email\":\"a@b.de\",\"ada_email\":\"a@b.de\",\"phone\":\"1\"}}}\n";
    let counts = run(&sync("jsonl", "keep: ['accounts.*.x']"), line.as_bytes(), 99).unwrap().1;
    let told: Vec<_> = counts.iter().filter(|one| one.count > 0).map(|one| (one.what.as_str(), one.count)).collect();
    assert_eq!(told, [("`email` (by its name)", 2), ("`phone` (by its name)", 1)]);
    assert!(!format!("{counts:?}").contains("ada"), "{counts:?}");
}

#[test]
fn values_lie_no_deeper_than_can_be_followed() {
    for n in [101, 100_000] {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let line = format!("{{\"a\":1}}\n{{\"a\":{}1{}}}\n", open.repeat(n), close.repeat(n));
            refused("jsonl", "keep: [a]", &line, &["line 2", "deeper than 100"]);
            check("jsonl", "rules: [{column: a, set: empty}]", &line, "{\"a\":null}\n{\"a\":null}\n");
        }
    }
    let line = format!("{{\"a\":{}1{}}}\n", "[".repeat(99), "]".repeat(99));
    check("jsonl", "keep: [a]", &line, &line);
}

#[test]
fn a_rule_for_parts_decides_nothing_of_the_rest() {
    let ours = "rules: [{column: email, matching: '@ourcorp\\.com$', set: drop-row}]";
    check("csv", ours, "email\na@b.de\na@ourcorp.com\n", "email\ntest@example.com\n");
    check(
        "jsonl",
        ours,
        "{\"email\":\"a@b.de\"}\n{\"email\":\"a@ourcorp.com\"}\n",
        "{\"email\":\"test@example.com\"}\n",
    );
    let ours = ours.replace("column: email", "column: users.email");
    let rows = |rows: &str| dump(&format!("COPY public.users (email) FROM stdin;\n{rows}\\.\n"));
    check("sql", &ours, &rows("a@b.de\na@ourcorp.com\n"), &rows("test@example.com\n"));
    let every = "rules: [{column: '*', matching: '[0-9]{16}', value: CARD}]";
    for (format, text) in [("csv", "note\nada\n"), ("jsonl", "{\"note\":\"ada\"}\n"), ("jsonl", "{\"note\":true}\n")] {
        refused(format, every, text, &["line 1", "`matching` alone"]);
    }
    let loose = format!("strict: false\n{every}");
    check("csv", &loose, "note\nof a@b.de by 1234567812345678\n", "note\n\"of test@example.com by CARD\"\n");
    // what holds others is looked through with them
    let within = "keep: [meta]\nrules: [{column: meta, matching: x, value: y}, {column: meta.b, value: z}]";
    check("jsonl", within, "{\"meta\":{\"a\":[\"x\"],\"b\":1}}\n", "{\"meta\":{\"a\":[\"y\"],\"b\":\"z\"}}\n");
}

#[test]
fn a_row_goes_by_what_stood_in_it() {
    for first in ["{column: a, set: hash}", "{column: a, matching: secret, value: x}", "{matching: secret, value: x}"] {
        let rules = format!("keep: [a]\nrules:\n- {first}\n- {{column: a, matching: secret, set: drop-row}}\n");
        check("csv", &rules, "a\nsecret 1\n", "a\n");
        check("jsonl", &rules, "{\"a\":\"secret\"}\n{\"a\":null}\n", "{\"a\":null}\n");
    }
}

#[test]
fn what_says_how_others_are_reached_is_refused() {
    let all = "keep: ['*.*']\n";
    let wrong = [
        ("CREATE USER MAPPING FOR ada SERVER s OPTIONS (password 'ada');", "--schema"),
        ("CREATE SERVER s FOREIGN DATA WRAPPER f OPTIONS (host 'ada');", "--schema"),
        ("ALTER SERVER s OPTIONS (SET host 'ada');", "--schema"),
        ("CREATE FOREIGN TABLE t (a text) SERVER s OPTIONS (password 'ada');", "--schema"),
        ("CREATE SUBSCRIPTION s CONNECTION 'host=ada' PUBLICATION p;", "--no-subscriptions"),
        ("ALTER SUBSCRIPTION s CONNECTION 'host=ada';", "--no-subscriptions"),
        ("CREATE ROLE ada PASSWORD 'ada';", "no roles"),
        ("ALTER USER ada PASSWORD 'ada';", "no roles"),
        ("CREATE DATABASE ada;", "--create"),
        ("ALTER LARGE OBJECT 1 OWNER TO ada;", "--no-large-objects"),
        ("CREATE\n  OR REPLACE\n  ada x;", "nobody can say"),
        ("CREATE \"table\" ada;", "nobody can say"),
        ("COMMENT ON TABLE t IS 'ask\nada@b.de';", "--no-comments"),
        ("  comment ON TABLE t IS E'ask ada@b.de';", "--no-comments"),
        ("SECURITY LABEL FOR x ON TABLE t IS 'ada@b.de';", "--no-security-labels"),
    ];
    for (statement, word) in wrong {
        refused("sql", all, &dump(statement), &["line ", word]);
    }
    let right = "CREATE UNIQUE INDEX i ON t (a);\nCREATE OR REPLACE VIEW v AS SELECT 1;\nCREATE MATERIALIZED VIEW m AS SELECT 1 WITH NO DATA;\n\
        CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION f();\nALTER DEFAULT PRIVILEGES FOR ROLE o GRANT ALL ON TABLES TO o;\n\
        CREATE TEXT SEARCH CONFIGURATION c (PARSER = d);\nDROP TABLE IF EXISTS t;\nCREATE OR REPLACE PROCEDURAL LANGUAGE l;\n\
        COMMENT ON TABLE t IS 'what is sold';\nALTER TABLE ONLY t ALTER COLUMN a SET DEFAULT 'shop@example.org';\n\
        CREATE EXTENSION IF NOT EXISTS x WITH SCHEMA public;\nALTER TABLE IF EXISTS ONLY t ADD CONSTRAINT k PRIMARY KEY (a);\n";
    check("sql", all, &dump(right), &dump(right));
}

#[test]
fn statements_within_a_statement_do_not_end_it() {
    let body = "CREATE RULE r AS ON DELETE TO t DO INSTEAD (UPDATE t SET a = 1;\n DELETE FROM u;);\n\
        CREATE FUNCTION f() RETURNS int LANGUAGE sql\n BEGIN ATOMIC\n SELECT CASE WHEN (a > 1) THEN 2 ELSE 3 END;\n SELECT 4;\nEND;\n\
        COPY public.t (email) FROM stdin;\nada@b.de\n\\.\n";
    check("sql", "", &dump(body), &dump(&body.replace("ada@b.de", "test@example.com")));
    for open in ["CREATE TABLE t (a text;", "CREATE FUNCTION f() BEGIN ATOMIC SELECT 1;"] {
        let body = format!("{open}\nCOPY public.t (email) FROM stdin;\nada@b.de\n\\.\n");
        refused("sql", "", &dump(&body), &["line 8", "before the statement ahead"]);
    }
}

#[test]
fn a_header_is_no_data() {
    for (text, column) in [("id,ada@b.de\n", "column 2"), ("a\rada\r", "column 1"), ("a,b\r1,ada\r", "column 2")] {
        refused("csv", "keep: ['*']", text, &["line 1", column, "header"]);
    }
}

#[test]
fn a_long_record_is_read_once() {
    // one that was looked through anew at each of its lines would take hours
    let text = format!("a\n\"{}\"\n\"\"\"\n\"\n", "\n".repeat(4 << 20));
    check("csv", "keep: [a]", &text, &text);
}

#[test]
fn what_can_not_be_read_whole_is_refused() {
    let all = "keep: ['*.*']\n";
    refused("sql", all, &dump(USERS).replace("complete", ""), &["cut off"]);
    refused("sql", all, &dump("COPY public.t (a) FROM stdin;\nada\n"), &["cut off"]);
    refused("sql", all, &dump("COPY public.t (a) FROM stdin;\nada\tada\n\\.\n"), &["line 8", "2 values"]);
    refused("sql", all, &dump("INSERT INTO public.t VALUES ('ada');"), &["line 7", "--inserts"]);
    refused("sql", all, &dump("SELECT pg_catalog.lowrite(0, 'ada');"), &["--no-large-objects"]);
    refused("sql", all, &dump("\\connect shop"), &["--create"]);
    refused("sql", all, &dump("DO $$ ada $$;"), &["otherwise"]);
    refused("sql", all, &dump("COPY public.t FROM stdin;\nada\n\\.\n"), &["name its columns"]);
    refused("sql", all, "PGDMP\u{1}ada", &["custom-format", "--format plain", "sync.run"]);
    refused("csv", "", "\u{1f}ada\0", &["no text"]);
    refused("csv", "keep: ['*']", "a,b\n\"ada\n", &["cut off"]);
    refused("csv", "keep: ['*']", "a,b\nada\n", &["line 2", "1 values"]);
    refused("csv", "keep: ['*']", "a,b\nad\"a,\"b\n", &["line 2", "a quote"]);
    refused("csv", "keep: ['*']", "", &["header"]);
    refused("jsonl", "keep: [a]", "{\"a\": \"ada\"}\n{\"a\": \"ad", &["line 2", "whole JSON object"]);
    refused("jsonl", "keep: [a]", "[1]\n", &["line 1"]);
    let long = format!("a\n{}\n", "x".repeat(MAX_RECORD + 1));
    refused("csv", "keep: [a]", &long, &["line 2", "16 MiB"]);
}

#[test]
fn statements_are_told_from_what_is_quoted_in_them() {
    let body = "CREATE FUNCTION public.f() RETURNS void LANGUAGE sql AS $_$\nINSERT INTO t VALUES (';');\nCOPY t (a) FROM stdin;\n$_$;\n\
        COMMENT ON TABLE public.t IS 'it''s; \nCOPY x (a) FROM stdin;';\nALTER TABLE t ALTER b SET DEFAULT E'\\';';\n/* ; /* ; */ DO */\n\
        CREATE TABLE public.\"a\"\"; DO b\" (a text); -- INSERT INTO x;\n\
        COPY public.\"A.b\" (\"e Mail\", \"x\"\"y\") FROM stdin;\nada@b.de\tx\n\\.\nSELECT pg_catalog.setval('public.s', 7, true);\n";
    check("sql", "keep: ['*.x\"y']", &dump(body), &dump(&body.replace("ada@b.de", "test@example.com")));
}

#[test]
fn rules_that_can_not_be_used_are_told() {
    let wrong = |yaml: &str, list: &str, key: &str, word: &str| {
        let found = mistakes(&sync("sql", yaml));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!((found[0].list, found[0].key) == (list, key) && found[0].to_string().contains(word), "{found:?}");
    };
    wrong("rules: [{column: email, set: email}]", "rules", "column", "of a table");
    wrong("rules: [{column: a.b}]", "rules", "set", "what takes the place");
    wrong("rules: [{column: a.b, set: email, value: x}]", "rules", "value", "both");
    wrong("rules: [{set: email}]", "rules", "column", "neither");
    wrong("rules: [{matching: '(', set: email}]", "rules", "matching", "no regular expression");
    wrong("rules: [{matching: 'a*', set: email}]", "rules", "matching", "nothing at all");
    wrong("keep: [a..b]", "keep", "", "no column");
    assert!(mistakes(&sync("csv", "rules: [{column: E.Mail, set: empty}]\nkeep: [a]")).is_empty());
}

#[test]
fn names_tell_what_is_in_a_column() {
    use segue_schemas::sync::SetTo::{Email, Name, Phone};
    let check =
        |names: &[&str], what| names.iter().for_each(|name| assert_eq!(rules::looks_like(name), what, "{name}"));
    check(&["email", "E-Mail", "userEmail", "contact_email_address", "mail"], Some(Email));
    check(&["phone", "mobilePhone", "phone_number", "fax", "Tel."], Some(Phone));
    check(&["name", "first_name", "lastName", "surname", "fullname", "customer_name", "USERNAME"], Some(Name));
    check(&["id", "file_name", "hostname", "product_name", "emailed_at_x", "cellar", "", "headphones_x"], None);
}

/// What somebody may have in a column.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        "[^\0\n]{0,12}",
        "[\\\\\\t\\n\\r\",'; a]{0,10}",
        Just("ada@lovelace.org".to_owned()),
        Just("\\N".to_owned())
    ]
}

fn rows() -> impl Strategy<Value = Vec<Vec<String>>> {
    proptest::collection::vec(proptest::collection::vec(value(), 3), 0..8)
}

fn written(format: SyncFormat, rows: &[Vec<String>]) -> String {
    let columns = ["id", "email", "note"];
    match format {
        SyncFormat::Csv => {
            let quoted = |row: &Vec<String>| {
                row.iter().map(|v| format!("\"{}\"", v.replace('"', "\"\""))).collect::<Vec<_>>().join(",")
            };
            rows.iter().fold(format!("{}\n", columns.join(",")), |text, row| text + &quoted(row) + "\n")
        }
        SyncFormat::Jsonl => rows.iter().fold(String::new(), |text, row| {
            let object: serde_json::Map<_, _> =
                columns.iter().map(|c| (*c).to_owned()).zip(row.iter().cloned().map(Into::into)).collect();
            text + &serde_json::to_string(&object).unwrap() + "\n"
        }),
        SyncFormat::Sql => {
            let escaped =
                |v: &String| v.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n").replace('\r', "\\r");
            let line = |row: &Vec<String>| row.iter().map(escaped).collect::<Vec<_>>().join("\t") + "\n";
            let rows: String = rows.iter().map(line).collect();
            dump(&format!("COPY public.t (id, email, note) FROM stdin;\n{rows}\\.\n"))
        }
    }
}

proptest! {
    /// Each value is replaced or stays as it was, whatever it is and however the bytes come.
    #[test]
    fn values_are_replaced_whatever_they_are(rows in rows(), block in 1..200_usize) {
        for (format, word, keep) in [(SyncFormat::Csv, "csv", "[id, note]"), (SyncFormat::Jsonl, "jsonl", "[id, note]"), (SyncFormat::Sql, "sql", "['*.id', '*.note']")] {
            let rules = sync(word, &format!("keep: {keep}"));
            let expected: Vec<Vec<String>> = rows
                .iter()
                .map(|row| {
                    let email = if row[1].is_empty() { String::new() } else { "test@example.com".into() };
                    vec![row[0].clone(), email, row[2].clone()]
                })
                .collect();
            let text = written(format, &rows);
            let (out, counts) = run(&rules, text.as_bytes(), block).unwrap();
            // a value that needs no quotes any more has none
            let expected = written(format, &expected).replace("\"test@example.com\"", if format == SyncFormat::Csv { "test@example.com" } else { "\"test@example.com\"" });
            prop_assert_eq!(out, expected);
            let replaced = rows.iter().filter(|row| !row[1].is_empty()).count() as u64;
            prop_assert_eq!(counts.iter().map(|one| one.count).sum::<u64>(), replaced);
        }
    }

    /// Whatever comes, it is read or refused, and the same in blocks of any size.
    #[test]
    fn hostile_bytes_do_no_harm(bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'"'), Just(b'\n'), Just(b'{'), Just(b'\\'), Just(b'$'), Just(b'\'')], 0..300), block in 1..50_usize) {
        for word in ["csv", "jsonl", "sql"] {
            let rules = sync(word, "strict: false");
            let whole = run(&rules, &bytes, usize::MAX).map(|(out, _)| out);
            let pieces = run(&rules, &bytes, block).map(|(out, _)| out);
            prop_assert_eq!(whole, pieces);
        }
    }
}
