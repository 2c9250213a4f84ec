//! Figures that are promised of a release build: `cargo test --release -p segue-pipelines --test speed -- --ignored`.

#![expect(clippy::disallowed_methods, reason = "it is the time that is tested")]

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use segue_pipelines::{
    pipeline::parse,
    plan::{explain, plan},
};
use segue_schemas::trigger::{Event, Trigger};

const JOBS: usize = 500;

fn pipeline() -> String {
    let mut text = "on: push\nconcurrency: main\njobs:\n".to_owned();
    for n in 0..JOBS {
        let needs = if n < 10 { String::new() } else { format!("    needs: [job{}, job{}]\n", n - 10, n - 7) };
        write!(
            text,
            "  job{n}:\n{needs}    if: github.ref == 'refs/heads/main'\n    retry: 2\n    env: {{ N: \"${{{{ github.sha }}}}\" }}\n    \
             steps:\n      - uses: segue/checkout\n      - run: make test N=${{{{ github.run_id }}}}\n"
        )
        .unwrap_or_default();
    }
    text
}

fn push() -> Trigger {
    Trigger {
        repository: "octo/app".into(),
        clone_url: None,
        actor: "mona".into(),
        authors: Vec::new(),
        event: Event::Push {
            r#ref: "refs/heads/main".into(),
            before: format!("{:040x}", 1).parse().unwrap_or_else(|e| panic!("{e:?}")),
            after: format!("{:040x}", 2).parse().unwrap_or_else(|e| panic!("{e:?}")),
            message: "Change it".into(),
            forced: false,
        },
    }
}

fn best_of(times: usize, mut work: impl FnMut()) -> Duration {
    let mut best = Duration::MAX;
    for _ in 0..times {
        let begun = Instant::now();
        work();
        best = best.min(begun.elapsed());
    }
    best
}

#[test]
#[ignore = "a figure of a release build"]
fn five_hundred_jobs_are_planned_within_twenty_milliseconds() {
    let (text, trigger) = (pipeline(), push());
    let files = [(".segue/pipelines/x.yml", text.as_str())];
    assert_eq!(plan(&files, &trigger, None).runs[0].jobs.len(), JOBS);
    let planning = best_of(20, || drop(plan(&files, &trigger, None)));
    let explaining = best_of(10, || drop(explain(&files, &trigger, None)));
    println!("planning {JOBS} jobs takes {planning:?}, explaining them {explaining:?}");
    assert!(planning < Duration::from_millis(20), "{planning:?}");
}

/// Jobs that need those which `needs` says.
fn nine_hundred(needs: impl Fn(usize) -> Vec<usize>) -> String {
    let mut text = "on: push\njobs:\n".to_owned();
    for n in 0..900 {
        let needs: Vec<String> = needs(n).into_iter().map(|need| format!("job{need}")).collect();
        write!(
            text,
            "  job{n}:\n    needs: [{}]\n    if: success() && github.ref == 'refs/heads/main'\n    name: Job {n} of ${{{{ github.ref_name }}}}\n    \
             steps:\n      - uses: segue/checkout\n      - run: make test\n",
            needs.join(", ")
        )
        .unwrap_or_default();
    }
    text
}

#[test]
#[ignore = "a figure of a release build"]
fn nine_hundred_jobs_are_explained_within_a_tenth_of_a_second() {
    type Needs = fn(usize) -> Vec<usize>;
    let shapes: [(&str, Needs); 4] = [
        ("side by side", |_| Vec::new()),
        ("after the first", |n| if n == 0 { Vec::new() } else { vec![0] }),
        ("in rows of ten", |n| if n < 10 { Vec::new() } else { (n / 10 * 10 - 10..n / 10 * 10).collect() }),
        ("in rows of three", |n| if n < 3 { Vec::new() } else { vec![n / 3 * 3 - 3, n / 3 * 3 - 1] }),
    ];
    for (shape, needs) in shapes {
        let (text, trigger) = (nine_hundred(needs), push());
        let files = [(".segue/pipelines/x.yml", text.as_str())];
        let explained = explain(&files, &trigger, None);
        assert!(explained[0].jobs.len() == 900 && explained[0].jobs.iter().all(|job| job.would_run), "{shape}");
        let explaining = best_of(10, || drop(explain(&files, &trigger, None)));
        let planning = best_of(10, || drop(plan(&files, &trigger, None)));
        println!("900 jobs {shape}: explained in {explaining:?}, of which planning takes {planning:?}");
        assert!(explaining < Duration::from_millis(100), "{shape}: {explaining:?}");
    }
}

#[test]
#[ignore = "a figure of a release build"]
fn a_matrix_of_a_million_is_refused_within_a_tenth_of_a_second() {
    let values = (0..1000).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
    let matrix = format!("{{ x: [{values}], y: [{values}] }}");
    let text = format!("on: push\njobs:\n  a:\n    strategy: {{ matrix: {matrix} }}\n    steps: [{{ run: x }}]\n");
    let refusing = best_of(10, || drop(parse("x.yml", &text)));
    println!("a matrix of 10^6 combinations is refused in {refusing:?}");
    assert!(refusing < Duration::from_millis(100), "{refusing:?}");
    assert_eq!(parse("x.yml", &text).diagnostics[0].code.as_str(), "too-many");
}
