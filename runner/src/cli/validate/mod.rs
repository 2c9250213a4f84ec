//! `segue validate`: everything that is wrong with pipelines, services and the operator's file, before a push finds out; and
//! what of a GitHub workflow would run here.

mod pages;
mod sarif;

use std::{collections::BTreeSet, io::IsTerminal as _, path::PathBuf};

use segue_pipelines::{
    config,
    diagnostic::{Code, Diagnostic, MAX_PER_FILE, Severity, Style, render},
    pipeline::{self, ActionFiles, check_action},
    service, workflow,
};

use super::{
    ending::{Exit, Failure},
    out::say,
    pipeline_files::{self, Kind, SourceFile},
    show::{self, Tone, tone_style},
};

/// Check pipelines, actions, services and segue.yaml
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue validate .\n  \
    segue validate .segue/pipelines/deploy.yml segue.yaml\n  \
    segue validate --json . | jq '.[].message'\n  \
    segue validate --sarif . > segue.sarif\n  \
    segue validate .github/workflows/ci.yml\n  \
    segue validate --explain untrusted-value\n\n\
    A folder stands for `.segue/pipelines/*.yml`, `.segue/actions/*/action.yml`, `.segue/services/*.yml` and `segue.yaml`\n\
    in it, or else for every YAML file that lies in it. Of a workflow of GitHub's it says, key by key, what would run as it is, what has another name\n\
    here, and what has no equivalent. Exit code 0: no errors (warnings may be); 1: errors; 2: usage.")]
pub struct Args {
    /// Files, or folders with a repository
    #[arg(default_value = ".", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Print an array of {file,line,column,severity,code,message,help}
    #[arg(long)]
    json: bool,
    /// Print a SARIF 2.1.0 log, for editors and code scanning
    #[arg(long, conflicts_with = "json")]
    sarif: bool,
    /// Say what a diagnostic's code means
    #[arg(long, value_name = "CODE", conflicts_with_all = ["json", "sarif", "paths"])]
    explain: Option<String>,
}

pub fn run(args: &Args) -> Result<Exit, Failure> {
    if let Some(code) = &args.explain {
        return pages::print(code);
    }
    let mut files = Vec::new();
    for path in &args.paths {
        files.extend(pipeline_files::collect(path)?);
    }
    let beside = pipeline_files::beside(&files)?;
    let actions = ActionFiles::among(beside.iter().map(|file| (file.name.as_str(), file.text.as_str())));
    let found: Vec<(&SourceFile, Vec<Diagnostic>)> = files.iter().map(|file| (file, check(file, &actions))).collect();
    let all = || found.iter().flat_map(|(_, diagnostics)| diagnostics);
    if args.json {
        show::json(&all().collect::<Vec<_>>())?;
    } else if args.sarif {
        let found: Vec<_> =
            found.iter().map(|(file, diagnostics)| (file.text.as_str(), diagnostics.as_slice())).collect();
        show::json(&sarif::log(&found))?;
    } else {
        for (file, diagnostics) in &found {
            match file.kind {
                Kind::Workflow => print_report(&file.name, diagnostics),
                _ => print(diagnostics, &file.text),
            }
        }
        summarise(files.len(), all());
        for (file, _) in found.iter().filter(|(_, diagnostics)| diagnostics.len() >= MAX_PER_FILE) {
            anstream::eprintln!("of {} only the first {MAX_PER_FILE} are told", file.name);
        }
    }
    let broken = all().any(|diagnostic| diagnostic.severity == Severity::Error);
    Ok(if broken { Exit::Failed } else { Exit::Done })
}

/// What is wrong in this very file: an action that it uses is a file of its own.
fn check(file: &SourceFile, actions: &ActionFiles) -> Vec<Diagnostic> {
    match file.kind {
        Kind::Pipeline => {
            let mut found = pipeline::parse_with(&file.name, &file.text, actions).diagnostics;
            found.retain(|diagnostic| diagnostic.file == file.name);
            found
        }
        Kind::Action => check_action(&file.name, &file.text, actions),
        Kind::Service => service::parse(&file.name, &file.text).err().unwrap_or_default(),
        Kind::Config => config::parse(&file.name, &file.text).err().unwrap_or_default(),
        Kind::Workflow => workflow::report(&file.name, &file.text),
    }
}

/// Prints diagnostics of one file, an empty line after each, in colour where that is a terminal.
pub fn print(diagnostics: &[Diagnostic], text: &str) {
    let style = if std::io::stdout().is_terminal() { Style::Coloured } else { Style::Plain };
    for diagnostic in diagnostics {
        say!("{}\n", render(diagnostic, text, style));
    }
}

/// What of a workflow would run: a line for each key, what to write below it.
fn print_report(name: &str, diagnostics: &[Diagnostic]) {
    say!("{name}");
    for Diagnostic { line, column, code, message, help, severity, .. } in diagnostics {
        let tone = match severity {
            Severity::Note => Tone::Good,
            Severity::Warning => Tone::Look,
            Severity::Error => Tone::Bad,
        };
        let style = tone_style(tone);
        let place = format!("{line}:{column}");
        say!("{place:>8}  {style}{code:<14}{style:#}  {message}");
        if let Some(help) = help {
            say!("{:26}{help}", "");
        }
    }
    say!();
}

fn summarise<'d>(files: usize, diagnostics: impl Iterator<Item = &'d Diagnostic> + Clone) {
    let (mut errors, mut warnings, mut notes) = (0, 0, 0);
    let mut codes = BTreeSet::new();
    for diagnostic in diagnostics {
        match diagnostic.severity {
            Severity::Error => errors += 1,
            Severity::Warning => warnings += 1,
            Severity::Note => notes += 1,
        }
        if diagnostic.code != Code::RunsAsIs {
            codes.insert(diagnostic.code.as_str());
        }
    }
    let count = |n: usize, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
    let more = |n: usize, word: &str| if n > 0 { format!(", {}", count(n, word)) } else { String::new() };
    let (warned, noted) = (more(warnings, "warning"), more(notes, "note"));
    anstream::eprintln!("{}: {}{warned}{noted}", count(files, "file"), count(errors, "error"));
    let codes: Vec<&str> = codes.into_iter().collect();
    match codes.as_slice() {
        [] => {}
        [code] => anstream::eprintln!("`segue validate --explain {code}` says more"),
        codes => anstream::eprintln!("`segue validate --explain CODE` says more of {}", codes.join(", ")),
    }
}
