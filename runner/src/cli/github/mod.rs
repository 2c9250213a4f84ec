//! `segue github`: makes the GitHub App as which Segue speaks, by GitHub's manifest flow, and looks whether all is as it needs to be.
//! <https://docs.github.com/en/apps/sharing-github-apps/registering-a-github-app-from-a-manifest>
//!
//! In: where people and webhooks reach the server, and who the App is to belong to. Out: a key and a secret in files that only their
//! owner reads, the lines of segue.yaml that name them, and what is left to do. `manifest` says what the App may do, `page` is what
//! the browser opens, `listen` waits for GitHub's code, `convert` gives it back for the key, `keep` writes it down.

mod convert;
mod keep;
mod listen;
mod manifest;
mod page;
mod setup;

use super::{
    configuration::ConfigArgs,
    doctor,
    ending::{Exit, Failure},
    place, show,
};

/// Make the GitHub App as which Segue speaks, and look whether it can do what it needs to
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue github setup --url https://ci.example.com --organization acme --config segue.yaml --write\n  \
    segue github setup --url https://ci.example.com --no-browser\n  \
    segue github verify --config segue.yaml")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    Setup(Box<setup::Args>),
    Verify(VerifyArgs),
}

/// Look whether GitHub takes the App's key, whether it may do what Segue does there, and whether events come here
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue github verify --config /etc/segue/segue.yaml\n  \
    segue github verify --config segue.yaml --json | jq '.[] | select(.state == \"bad\")'\n\n\
    Exit codes: 0 all is well, 1 something is missing (each line says what to do), 2 usage.")]
struct VerifyArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<Exit, Failure> {
    match args.what {
        What::Setup(args) => setup::run(&args),
        What::Verify(args) => verify(&args),
    }
}

fn verify(args: &VerifyArgs) -> Result<Exit, Failure> {
    let config = args.config.load()?;
    if !config.github.is_told() {
        let remedy = "make an App with `segue github setup`, or name a token under `github.token-file`";
        return Err(Failure::new("the configuration names no GitHub App and no token").remedy(remedy));
    }
    let checks = place::client_runtime()?.block_on(doctor::of_github(&config));
    if args.json {
        show::json(&checks)?;
    } else {
        checks.iter().for_each(doctor::print);
    }
    Ok(if checks.iter().any(doctor::Check::is_bad) { Exit::Failed } else { Exit::Done })
}
