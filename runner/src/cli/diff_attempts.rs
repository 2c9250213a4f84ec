//! `segue diff-attempts`: what came out otherwise when a run was run again.

use std::time::Duration;

use segue_schemas::{
    api::{AttemptView, AttemptsDiff, AttemptsQuery, Difference, JobDiff, JobOutcome, StepDiff, StepOutcome},
    id::RunId,
};

use super::{
    connection::ServerArgs,
    ending::{Exit, Failure},
    out::say,
    place, show,
};

/// Show which jobs and steps of two attempts of a run came out otherwise
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue diff-attempts 12\n  \
    segue diff-attempts 12 --attempts 1,3 --json\n\n\
    The newest attempt and the one before it, unless two are named. Jobs that came out the same are left to one line.")]
pub struct Args {
    /// The run
    run: RunId,
    /// Two attempts of it: the one before, and the one after
    #[arg(long, value_name = "A,B", value_parser = pair)]
    attempts: Option<(u32, u32)>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub fn run(args: &Args) -> Result<Exit, Failure> {
    let client = args.server.client()?;
    let query = AttemptsQuery { from: args.attempts.map(|(from, _)| from), to: args.attempts.map(|(_, to)| to) };
    let path = format!("/runs/{}/attempts/compare", args.run);
    let diff: AttemptsDiff = place::client_runtime()?.block_on(client.get(&path, &query))?;
    if args.json {
        show::json(&diff)?;
    } else {
        print(&diff);
    }
    Ok(Exit::Done)
}

fn pair(text: &str) -> Result<(u32, u32), String> {
    let number = |text: &str| text.trim().parse::<u32>().ok().filter(|number| *number > 0);
    let parts = text.split_once(',').and_then(|(a, b)| Some((number(a)?, number(b)?)));
    parts.ok_or_else(|| "two numbers of attempts are given as 1,2".into())
}

fn print(diff: &AttemptsDiff) {
    for attempt in [&diff.from, &diff.to] {
        say!("run {} attempt {}  {}", diff.run, attempt.attempt, of_attempt(attempt));
    }
    match &diff.first {
        Some(first) => say!("first difference: {first}\n"),
        None => say!("nothing came out otherwise\n"),
    }
    let headers = [format!("attempt {}", diff.from.attempt), format!("attempt {}", diff.to.attempt)];
    let mut table = show::table(&["", "job or step", &headers[0], &headers[1]]);
    for job in &diff.jobs {
        table.add_row(vec![mark(job.difference).into(), job.key.clone(), of_job(job, job.from.as_ref()), after(job)]);
        if matches!(job.difference, Difference::Same | Difference::Carried) {
            continue;
        }
        for step in &job.steps {
            table.add_row(of_step(step));
        }
        for output in &job.outputs {
            table.add_row(vec!["!".into(), format!("  output {output}"), String::new(), "another value".into()]);
        }
    }
    show::print_table(&table, "neither has a job");
}

fn of_attempt(attempt: &AttemptView) -> String {
    let by = attempt.by.as_deref().map(|by| format!(", asked for by {by}")).unwrap_or_default();
    let took = show::span(attempt.started_at, attempt.ended_at);
    format!("{} {took}{by}", show::status_text(&attempt.status))
}

const fn mark(difference: Difference) -> &'static str {
    match difference {
        Difference::Same | Difference::Carried => "",
        Difference::Differs => "!",
        Difference::OnlyBefore => "-",
        Difference::OnlyAfter => "+",
    }
}

fn after(job: &JobDiff) -> String {
    match job.difference {
        Difference::Carried => "taken over".into(),
        _ => of_job(job, job.to.as_ref()),
    }
}

fn of_job(job: &JobDiff, outcome: Option<&JobOutcome>) -> String {
    let Some(outcome) = outcome else { return String::new() };
    let reason = outcome.reason.as_deref().filter(|_| job.steps.is_empty());
    let reason = reason.map(|reason| format!(" {}", show::one_line(reason, 60))).unwrap_or_default();
    format!("{}{}{reason}", outcome.status, took(outcome.took_ms))
}

fn of_step(step: &StepDiff) -> Vec<String> {
    let told = |outcome: &Option<StepOutcome>| {
        let Some(outcome) = outcome else { return String::new() };
        let code = outcome.exit_code.filter(|code| *code != 0).map(|code| format!(" exit code {code}"));
        format!("{}{}{}", outcome.status, code.unwrap_or_default(), took(outcome.took_ms))
    };
    vec![mark(step.difference).into(), format!("  {}", step.name), told(&step.from), told(&step.to)]
}

fn took(millis: Option<u64>) -> String {
    millis.map(|millis| format!(" {}", show::length(Duration::from_millis(millis)))).unwrap_or_default()
}
