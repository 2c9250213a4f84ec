//! `segue validate`: everything that is wrong with pipelines, services and the operator's file, before a push finds out.

use std::{
    io::{IsTerminal as _, Write as _},
    path::PathBuf,
};

use segue_pipelines::{
    config,
    diagnostic::{Diagnostic, Severity, Style, render},
    pipeline::{self, ActionFiles, check_action},
    service,
};

use super::{
    ending::{Exit, Explain as _, Failure},
    pipeline_files::{self, Kind, SourceFile},
    show,
};

/// Check pipelines, actions, services and segue.yaml
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue validate .\n  \
    segue validate .segue/pipelines/deploy.yml segue.yaml\n  \
    segue validate --json . | jq '.[].message'\n\n\
    A folder stands for `.segue/pipelines/*.yml`, `.segue/actions/*/action.yml`, `.segue/services/*.yml` and `segue.yaml`\n\
    in it, or else for every YAML file that lies in it. Exit code 0: no errors (warnings may be); 1: errors; 2: usage.")]
pub struct Args {
    /// Files, or folders with a repository
    #[arg(default_value = ".", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Print an array of {file,line,column,severity,code,message,help}
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<Exit, Failure> {
    let mut files = Vec::new();
    for path in &args.paths {
        files.extend(pipeline_files::collect(path)?);
    }
    let beside = pipeline_files::actions_for(&files)?;
    let actions = ActionFiles::among(beside.iter().map(|file| (file.name.as_str(), file.text.as_str())));
    let found: Vec<(&SourceFile, Vec<Diagnostic>)> = files.iter().map(|file| (file, check(file, &actions))).collect();
    let all = || found.iter().flat_map(|(_, diagnostics)| diagnostics);
    if args.json {
        show::json(&all().collect::<Vec<_>>())?;
    } else {
        for (file, diagnostics) in &found {
            print(diagnostics, &file.text)?;
        }
        summarise(files.len(), all());
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
    }
}

/// Prints diagnostics of one file, an empty line after each, in colour where that is a terminal.
///
/// # Errors
/// Standard output is closed.
pub fn print(diagnostics: &[Diagnostic], text: &str) -> Result<(), Failure> {
    let style = if std::io::stdout().is_terminal() { Style::Coloured } else { Style::Plain };
    let mut out = anstream::stdout().lock();
    for diagnostic in diagnostics {
        writeln!(out, "{}\n", render(diagnostic, text, style)).explain("cannot write")?;
    }
    Ok(())
}

fn summarise<'d>(files: usize, diagnostics: impl Iterator<Item = &'d Diagnostic>) {
    let (mut errors, mut warnings) = (0, 0);
    for diagnostic in diagnostics {
        match diagnostic.severity {
            Severity::Error => errors += 1,
            Severity::Warning => warnings += 1,
        }
    }
    let count = |n: usize, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
    let warned = if warnings > 0 { format!(", {}", count(warnings, "warning")) } else { String::new() };
    anstream::eprintln!("{}: {}{warned}", count(files, "file"), count(errors, "error"));
}
