//! `segue completions`: what a shell needs to complete Segue's commands.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{
    Cli,
    ending::{Exit, Failure},
};

/// Print the completion script of a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue completions bash > /etc/bash_completion.d/segue\n  \
    segue completions zsh > ~/.zfunc/_segue")]
pub struct Args {
    /// The shell
    shell: Shell,
}

pub fn run(args: &Args) -> Result<Exit, Failure> {
    clap_complete::generate(args.shell, &mut Cli::command(), "segue", &mut std::io::stdout());
    Ok(Exit::Done)
}
