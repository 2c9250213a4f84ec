//! The command line. In: what was typed, and the environment. Out: a result on standard output, errors with their remedy
//! on standard error, and an exit code (0 done, 1 the thing asked about failed, 2 usage). Each command is a file with its
//! `Args` (what was typed) and a `run` that first resolves them (what it means) and then acts. Client commands speak to
//! a server through its public API alone; none opens its database.

mod approve;
mod artifact;
mod backup;
mod cancel;
pub mod client;
mod completions;
pub mod configuration;
pub mod connection;
mod diff_attempts;
mod doctor;
pub mod ending;
mod eval;
mod explain;
pub mod follow;
mod github;
mod gpus;
mod host;
mod hosts;
mod local;
pub mod logging;
mod logs;
pub mod out;
mod pipeline_files;
pub mod place;
mod previews;
mod promote;
mod provenance;
mod queue;
mod queues;
mod releases;
mod rerun;
mod rollback;
mod rollout;
mod run;
mod runs;
mod secret;
pub mod serve;
mod services;
pub mod show;
mod sse;
mod store;
mod sync;
mod validate;
mod worker;
mod workers;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::ending::{Exit, Failure};

/// From push to production without a pause.
#[derive(Debug, Parser)]
#[command(
    name = "segue",
    version,
    about = "From push to production without a pause: an event-driven CI/CD runner",
    after_help = "Exit codes: 0 done, 1 the thing asked about failed, 2 usage.\n\n\
                  Try it: `segue demo` shows the whole way of a commit to production, and back, in under a minute.",
    max_term_width = 110,
    disable_help_subcommand = true
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(serve::UpArgs),
    Server(serve::ServerArgs),
    Worker(worker::Args),
    Workers(workers::Args),
    Previews(previews::Args),
    Queues(queues::Args),
    Host(host::HostArgs),
    Hosts(hosts::Args),
    Gpus(gpus::Args),
    Services(services::Args),
    Proxy(host::ProxyArgs),
    Demo(crate::demo::Args),
    Validate(validate::Args),
    Explain(explain::Args),
    Eval(eval::Args),
    Run(run::Args),
    Runs(runs::Args),
    Logs(logs::Args),
    Rerun(rerun::Args),
    DiffAttempts(diff_attempts::Args),
    Cancel(cancel::Args),
    Approve(approve::Args),
    Rollout(rollout::Args),
    Releases(releases::Args),
    Rollback(rollback::Args),
    Artifact(artifact::Args),
    Provenance(provenance::Args),
    Promote(promote::Args),
    Secret(secret::Args),
    Queue(queue::Args),
    Store(store::Args),
    Backup(backup::BackupArgs),
    Restore(backup::RestoreArgs),
    Doctor(doctor::Args),
    #[command(name = "github")]
    GitHub(github::Args),
    Completions(completions::Args),
    #[command(hide = true)]
    SampleService(crate::sample_service::Args),
}

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| error.exit());
    match dispatch(cli.command) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            failure.print();
            failure.exit().into()
        }
    }
}

fn dispatch(command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Up(args) => serve::run_up(args),
        Command::Server(args) => serve::run_server(args),
        Command::Worker(args) => worker::run(args),
        Command::Workers(args) => workers::run(&args),
        Command::Previews(args) => previews::run(&args),
        Command::Queues(args) => queues::run(&args),
        Command::Demo(args) => crate::demo::run(&args),
        Command::Host(args) => host::run_host(args),
        Command::Hosts(args) => hosts::run(&args),
        Command::Gpus(args) => gpus::run(&args),
        Command::Services(args) => services::run(&args),
        Command::Proxy(args) => host::run_proxy(args),
        Command::Validate(args) => validate::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Run(args) => run::run(args),
        Command::Runs(args) => runs::run(args),
        Command::Logs(args) => logs::run(&args),
        Command::Rerun(args) => rerun::run(&args),
        Command::DiffAttempts(args) => diff_attempts::run(&args),
        Command::Cancel(args) => cancel::run(args),
        Command::Approve(args) => approve::run(args),
        Command::Rollout(args) => rollout::run(args),
        Command::Releases(args) => releases::run(args),
        Command::Rollback(args) => rollback::run(&args),
        Command::Artifact(args) => artifact::run(&args),
        Command::Provenance(args) => provenance::run(&args),
        Command::Promote(args) => promote::run(args),
        Command::Secret(args) => secret::run(args),
        Command::Queue(args) => queue::run(args),
        Command::Store(args) => store::run(args),
        Command::Backup(args) => backup::run_backup(args),
        Command::Restore(args) => backup::run_restore(args),
        Command::Doctor(args) => doctor::run(&args),
        Command::GitHub(args) => github::run(args),
        Command::Completions(args) => completions::run(&args),
        Command::SampleService(args) => crate::sample_service::run(&args),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Who reads a command's help wants to see it used.
    #[test]
    fn every_listed_command_shows_an_example() {
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:"), "`segue {} --help` shows no example", command.get_name());
            assert!(help.contains("segue "), "`segue {} --help` shows no example", command.get_name());
            assert!(command.get_about().is_some(), "`segue {}` says nothing about itself", command.get_name());
        }
    }
}
