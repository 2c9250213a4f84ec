//! `segue runs`: the list of runs, or one run in full.

use segue_schemas::{
    annotation::{Annotation, AnnotationLevel},
    api::{JobView, RunPage, RunQuery, RunSummary, RunView},
    id::RunId,
    status::{RunStatus, StepStatus},
};

use super::{
    connection::ServerArgs,
    ending::{Exit, Failure},
    out::say,
    place,
    run::repository,
    show,
};

/// List runs, or show one
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue runs\n  \
    segue runs --repository acme/shop --ref main --status failed\n  \
    segue runs 12\n  \
    segue runs --json | jq '.items[0].status'")]
pub struct Args {
    /// Show this run in full
    run: Option<RunId>,
    /// An earlier attempt of it
    #[arg(long, requires = "run")]
    attempt: Option<u32>,
    /// Only of this repository
    #[arg(long, value_name = "OWNER/NAME", value_parser = repository, conflicts_with = "run")]
    repository: Option<String>,
    /// Only of this pipeline
    #[arg(long, conflicts_with = "run")]
    pipeline: Option<String>,
    /// Only of this branch or ref
    #[arg(long = "ref", value_name = "REF", conflicts_with = "run")]
    git_ref: Option<String>,
    /// Only in this status
    #[arg(long, value_parser = status, conflicts_with = "run")]
    status: Option<RunStatus>,
    /// How many
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=200))]
    limit: u32,
    /// Only runs with a lower number
    #[arg(long, value_name = "RUN", conflicts_with = "run")]
    before: Option<RunId>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub fn run(args: Args) -> Result<Exit, Failure> {
    let client = args.server.client()?;
    let runtime = place::client_runtime()?;
    if let Some(id) = args.run {
        let query = serde_json::json!({"attempt": args.attempt});
        let view: RunView = runtime.block_on(client.get(&format!("/runs/{id}"), &query))?;
        if args.json {
            show::json(&view)?
        } else {
            print_one(&view);
            for job in view.jobs.iter().filter(|job| job.steps.iter().any(|step| step.summary_bytes > 0)) {
                let summary = runtime.block_on(client.text(&format!("/jobs/{}/summary", job.id)))?;
                say!("\nsummary of {}\n{}", job.key, summary.trim_end());
            }
        }
        return Ok(Exit::Done);
    }
    let query = RunQuery {
        repository: args.repository,
        pipeline: args.pipeline,
        r#ref: args.git_ref,
        status: args.status,
        before: args.before,
        limit: Some(args.limit),
        ..RunQuery::default()
    };
    let page: RunPage = runtime.block_on(client.get("/runs", &query))?;
    if args.json {
        show::json(&page)?
    } else {
        print_list(&page)
    }
    Ok(Exit::Done)
}

fn status(word: &str) -> Result<RunStatus, String> {
    RunStatus::parse(word).ok_or_else(|| {
        let words: Vec<&str> = RunStatus::ALL.iter().map(|status| status.as_str()).collect();
        format!("one of {}", words.join(", "))
    })
}

fn print_list(page: &RunPage) {
    let mut table = show::table(&["run", "status", "pipeline", "repository", "ref", "commit", "took", "when", "title"]);
    for run in &page.items {
        table.add_row(vec![
            run.id.to_string().into(),
            show::status_cell(&run.status),
            run.pipeline.clone().into(),
            run.repository.clone().into(),
            show::short_ref(&run.r#ref).into(),
            run.commit.short().into(),
            show::span(run.started_at, run.ended_at).into(),
            show::ago(run.created_at).into(),
            titled(run).into(),
        ]);
    }
    show::print_table(&table, "no runs");
    if let Some(next) = page.next {
        anstream::eprintln!("more: --before {next}");
    }
}

/// The title, and what is another than at the beginning.
fn titled(run: &RunSummary) -> String {
    let inputs: Vec<String> = run.terms.inputs.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let inputs = if inputs.is_empty() { String::new() } else { format!(" ({})", inputs.join(", ")) };
    let debug = if run.terms.debug { " (debug)" } else { "" };
    format!("{}{}{debug}", show::one_line(&run.title, 50), show::one_line(&inputs, 60))
}

fn print_one(view: &RunView) {
    let run = &view.run;
    say!("run {}  {}  {}", run.id, show::status_text(&run.status), run.title);
    say!("  {} {} at {}", run.repository, show::short_ref(&run.r#ref), run.commit);
    say!("  {} by {} ({}), {}", run.file, run.actor, run.event, show::ago(run.created_at));
    say!("  attempt {} of {}", view.attempt, view.attempts.len());
    if let Some(attempt) = view.attempts.iter().find(|one| one.attempt == view.attempt && one.attempt > 1) {
        say!("  asked for by {}, {}", attempt.by.as_deref().unwrap_or("nobody"), show::ago(attempt.created_at));
        for term in attempt.terms.in_words() {
            say!("  {term}");
        }
    }
    for approval in &view.approvals {
        say!("  {}, {}", approval.in_words(), show::ago(approval.at));
    }
    if let Some(reason) = &run.reason {
        say!("{reason}");
    }
    for job in &view.jobs {
        print_job(job);
    }
    for artifact in &view.artifacts {
        say!("artifact {}  {} bytes  {}", artifact.name, artifact.bytes, artifact.digest);
    }
    for rollout in &view.rollouts {
        say!("rollout {rollout}: see `segue rollout show {rollout}`");
    }
}

fn print_job(job: &JobView) {
    let environment = job.environment.as_deref().map(|name| format!(" -> {name}")).unwrap_or_default();
    let reason = job.reason.as_deref().map(|reason| format!("  {}", show::one_line(reason, 200))).unwrap_or_default();
    let took = show::span(job.started_at, job.ended_at);
    say!("job {}{environment}  {} {took}{reason}", job.key, show::job_status(job));
    if let Some(url) = &job.environment_url {
        say!("    {url}");
    }
    for step in job.steps.iter().filter(|step| step.status != StepStatus::Pending) {
        let reason =
            step.reason.as_deref().map(|reason| format!("  {}", show::one_line(reason, 200))).unwrap_or_default();
        let took = show::span(step.started_at, step.ended_at);
        say!("    {}  {} {took}{reason}", step.name, show::status_text(&step.status));
        for annotation in &step.annotations {
            print_annotation(annotation);
        }
    }
}

fn print_annotation(annotation: &Annotation) {
    let tone = match annotation.level {
        AnnotationLevel::Error => show::Tone::Bad,
        AnnotationLevel::Warning => show::Tone::Look,
        AnnotationLevel::Notice => show::Tone::Quiet,
    };
    let style = show::tone_style(tone);
    let place = match (&annotation.file, annotation.line) {
        (Some(file), Some(line)) => format!(" {file}:{line}:"),
        (Some(file), None) => format!(" {file}:"),
        (None, _) => String::new(),
    };
    let title = annotation.title.as_deref().map(|title| format!(" {title}:")).unwrap_or_default();
    let message = show::one_line(&annotation.message, 200);
    say!("        {style}{}{style:#}{place}{title} {message}", annotation.level.as_str());
}
