//! `segue store copy`: from the embedded store to one that several servers share. It works on the data directory itself, which no
//! server may have meanwhile.

use std::path::PathBuf;

use segue_runner::{store, up};
use segue_schemas::config::DatabaseConfig;

use super::{
    ending::{Exit, Failure},
    out::say,
    place, show,
};

/// Move what a server keeps to a database that several servers share
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue store copy --data /var/lib/segue --to postgres://segue@db.example.com/segue\n  \
    segue store copy --data /var/lib/segue --to-file /etc/segue/database-url\n\n\
    Stop the server first. The database must have been made for it and be empty:\n  \
    createdb --template template0 --encoding UTF8 --locale C segue\n\n\
    Then set `database` and `storage` in segue.yaml and start `segue server` on the same data directory. The contents of artifacts \
    and caches stay where they are: in the bucket, or in this data directory, where this server alone finds them.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Copy the state of a data directory into an empty PostgreSQL
    Copy(CopyArgs),
}

#[derive(Debug, clap::Args)]
struct CopyArgs {
    #[arg(long, env = "SEGUE_DATA", value_name = "DIR", help = place::DATA_HELP)]
    data: Option<PathBuf>,
    /// The database; with a password, use --to-file
    #[arg(long, value_name = "URL", required_unless_present = "to_file", conflicts_with = "to_file")]
    to: Option<String>,
    /// A file that holds the database's address
    #[arg(long, value_name = "FILE")]
    to_file: Option<PathBuf>,
    /// The certificates that the database is verified with, in PEM [default: those that the system trusts]
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<Exit, Failure> {
    let Command::Copy(args) = args.command;
    let data = place::data(args.data)?;
    let to =
        DatabaseConfig { url: args.to, url_file: args.to_file, ca_file: args.ca_file, ..DatabaseConfig::default() };
    let _stopped = up::lock(&data).map_err(Failure::new)?;
    let tell = |copied: &store::Copied| match copied.bytes {
        0 => anstream::eprintln!("{}: {}", copied.what, copied.rows),
        bytes => anstream::eprintln!("{}: {}, {bytes} bytes", copied.what, copied.rows),
    };
    let copying = store::copy(&data, &to, tell);
    let copied = place::client_runtime()?.block_on(copying).map_err(Failure::new)?;
    if args.json {
        show::json(&copied)?;
    } else {
        let rows: u64 = copied.iter().map(|one| one.rows).sum();
        say!("{rows} rows are in the database, each table as many as here; {} is as it was", data.display());
    }
    Ok(Exit::Done)
}
