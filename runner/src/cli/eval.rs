//! `segue eval`: the value of an expression, to try one out.

use std::{io::IsTerminal as _, path::PathBuf};

use segue_pipelines::{
    diagnostic::{Code, Diagnostic, Severity, Style, render},
    expr::{self, CONTEXT_NAMES, Contexts, ExprError, StatusFunctions, Value},
};

use super::{
    ending::{Exit, Failure},
    show,
};

/// Evaluate an expression
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue eval \"1 == '1'\"\n  \
    segue eval --contexts contexts.json \"startsWith(github.ref, 'refs/tags/')\"\n  \
    segue eval \"format('{0} of {1}', 1, join(fromJSON('[2,3]')))\"\n\n\
    FILE holds one JSON object, from names of contexts to their values: {\"github\": {\"ref\": \"refs/heads/main\"}}. Contexts\n\
    that it leaves out are empty. `success()` and its like follow `job.status` there. Exit code 1: the expression is wrong.")]
pub struct Args {
    /// The contexts, as a JSON object
    #[arg(long, value_name = "FILE")]
    contexts: Option<PathBuf>,
    /// The expression, with or without `${{ }}`
    #[arg(value_name = "EXPR", allow_hyphen_values = true)]
    expression: String,
}

pub fn run(args: &Args) -> Result<Exit, Failure> {
    let contexts = contexts(args)?;
    match expr::evaluate_with_status(&args.expression, &contexts, status(&contexts)) {
        Ok(value) => {
            show::json(&value)?;
            Ok(Exit::Done)
        }
        Err(error) => {
            print(&error, &args.expression);
            Ok(Exit::Failed)
        }
    }
}

fn contexts(args: &Args) -> Result<Contexts, Failure> {
    let mut contexts = Contexts::new();
    for name in CONTEXT_NAMES {
        contexts.set(name, Value::object([]));
    }
    let Some(file) = &args.contexts else { return Ok(contexts) };
    let shown = file.display();
    let text =
        std::fs::read_to_string(file).map_err(|error| Failure::usage(format_args!("cannot read {shown}: {error}")))?;
    let given: Value = serde_json::from_str(&text)
        .map_err(|error| Failure::usage(format_args!("{shown} is not readable JSON: {error}")))?;
    let Value::Object(given) = given else {
        let failure = Failure::usage(format_args!("{shown} holds no JSON object"));
        return Err(
            failure.remedy("write names of contexts and their values: {\"github\": {\"ref\": \"refs/heads/main\"}}")
        );
    };
    for (name, value) in given.iter() {
        contexts.set(name, value.clone());
    }
    Ok(contexts)
}

fn status(contexts: &Contexts) -> StatusFunctions {
    let status = contexts.get("job").and_then(|job| job.get("status")).map(|status| status.to_text());
    match status.as_deref() {
        Some("failure") => StatusFunctions { success: false, failure: true, cancelled: false },
        Some("cancelled") => StatusFunctions { success: false, failure: false, cancelled: true },
        _ => StatusFunctions::SUCCESS,
    }
}

fn print(error: &ExprError, expression: &str) {
    let line = expression[..error.span.start].matches('\n').count() + 1;
    let line_start = expression[..error.span.start].rfind('\n').map_or(0, |newline| newline + 1);
    let diagnostic = Diagnostic {
        file: "expression".into(),
        line,
        column: expression[line_start..error.span.start].chars().count() + 1,
        severity: Severity::Error,
        code: Code::of_expression(error.kind),
        message: error.to_string(),
        help: error.help.clone(),
        span: error.span.clone(),
    };
    let style = if std::io::stderr().is_terminal() { Style::Coloured } else { Style::Plain };
    anstream::eprintln!("{}", render(&diagnostic, expression, style));
}
