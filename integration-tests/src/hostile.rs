//! Pipeline files that are made to cost more than they are worth.

use std::fmt::Write as _;

/// The files: what each is, and its text.
pub fn files() -> Vec<(&'static str, String)> {
    let step = "jobs:\n  a:\n    steps:\n      - run: make\n";
    vec![
        ("a document of 1 MiB", large()),
        ("a document of more than 1 MiB", format!("on: push\n# {}\n{step}", "x".repeat(1 << 20))),
        ("10,000 nested lists", format!("on: {}\n", "[".repeat(10_000))),
        ("10,000 nested mappings", format!("on: {}\n", "{a: ".repeat(10_000))),
        ("an alias bomb", aliases()),
        ("a matrix of 1,000,000", matrix()),
        (
            "an expression of 100 kB",
            format!("on: push\njobs:\n  a:\n    if: {}\n    steps:\n      - run: make\n", "(".repeat(100_000)),
        ),
    ]
}

/// As many jobs with a mistake each as fit into the largest file that is read.
fn large() -> String {
    let mut text = "on: push\njobs:\n".to_owned();
    let mut number = 0;
    loop {
        let job = format!(
            "  job-{number}:\n    needs: [job-{number}x]\n    steps: [{{ runn: make }}, {{ if: 'a b', run: x }}]\n"
        );
        if text.len() + job.len() > 1 << 20 {
            return text;
        }
        text.push_str(&job);
        number += 1;
    }
}

/// Ten values, ten times those, and so on: 10^9.
fn aliases() -> String {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..9 {
        let ten = vec![format!("*a{}", level - 1); 10].join(", ");
        // writing into a text cannot fail
        let _written = writeln!(text, "a{level}: &a{level} [{ten}]");
    }
    text
}

/// Six lists of ten values.
fn matrix() -> String {
    let mut text = "on: push\njobs:\n  a:\n    strategy:\n      matrix:\n".to_owned();
    for name in ["u", "v", "w", "x", "y", "z"] {
        let _written = writeln!(text, "        {name}: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]");
    }
    text + "    steps:\n      - run: make\n"
}

/// A pipeline of a hundred lines without a mistake.
pub fn hundred_lines(number: usize) -> String {
    let mut text = format!("name: pipeline {number}\non:\n  push:\n    branches: [main, 'releases/**']\njobs:\n");
    for job in 0..5 {
        let _written = writeln!(text, "  job-{job}:\n    env:\n      NUMBER: ${{{{ github.run_number }}}}\n    steps:");
        for step in 0..5 {
            let _written = writeln!(
                text,
                "      - name: Step {step}\n        if: github.ref == 'refs/heads/main' && !cancelled()\n        run: make step-{step}"
            );
        }
    }
    text
}
