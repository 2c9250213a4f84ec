//! `docs/diagnostics.md`: every code has a section, whose example produces exactly that code.

use std::collections::BTreeSet;

use segue_pipelines::{
    diagnostic::{Code, Style, render},
    expr,
};

use super::{Kind, page::sections};

const PAGE: &str = "docs/diagnostics.md";

#[test]
fn every_code_has_a_section_whose_example_produces_it() {
    let sections = sections(PAGE);
    for code in Code::ALL {
        let section = sections.iter().find(|section| section.heading == code.as_str()).unwrap_or_else(|| {
            panic!("{PAGE} has no section `{code}`; add \"## `{code}`\": what it means, an example, what to do")
        });
        assert!(section.text.contains("**Instead:**"), "the section `{code}` of {PAGE} does not say what to do");
        let mut examples = 0;
        for (info, body) in &section.blocks {
            if info == "eval" {
                let error = expr::evaluate(body.trim(), &expr::Contexts::new()).unwrap_err();
                assert_eq!(Code::of_expression(error.kind), *code, "the expression of `{code}`");
                examples += 1;
            }
            let Some(kind) = Kind::of(info) else { continue };
            examples += 1;
            let text = kind.whole(&body.repeat(repetitions(info)));
            let diagnostics = kind.diagnostics(&text);
            let found: BTreeSet<&str> = diagnostics.iter().map(|diagnostic| diagnostic.code.as_str()).collect();
            if kind == Kind::Workflow {
                // of a workflow, every key is told of
                assert!(found.contains(code.as_str()), "the example of `{code}`:\n{text}\n{diagnostics:#?}");
                continue;
            }
            assert_eq!(found, BTreeSet::from([code.as_str()]), "the example of `{code}`:\n{text}\n{diagnostics:#?}");
            let shown = render(&diagnostics[0], &text, Style::Plain);
            assert!(shown.contains(&format!("[{code}]")), "what is printed does not name its section: {shown}");
        }
        assert!(examples > 0, "the section `{code}` of {PAGE} has no example");
    }
    let known: BTreeSet<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    for section in &sections {
        assert!(
            known.contains(section.heading.as_str()),
            "{PAGE} has a section `{}`, which is no code",
            section.heading
        );
    }
}

/// How often an example stands one after the other: `repeat=1001`.
fn repetitions(info: &str) -> usize {
    info.split_whitespace().find_map(|word| word.strip_prefix("repeat=")).map_or(1, |count| count.parse().unwrap())
}
