//! `segue backup` and `segue restore`: everything that an embedded server keeps, in one file. They work on the data directory
//! itself, since a restore has no server to ask, and a backup is to be had from a broken one.

use std::path::PathBuf;

use segue_runner::backup::{self, Summary};

use super::{
    ending::{Exit, Failure},
    out::say,
    place, show,
};

/// Write everything that a server keeps to one file, while it runs or not
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue backup /mnt/backups/segue-2026-01-31.tar.zst\n  \
    segue backup segue.tar.zst --data /var/lib/segue --json\n\n\
    Holds the database, logs, artifacts, and the tokens, so only its owner can read it. The key for secrets is not in it: keep that \
    elsewhere. Nor are artifacts and caches that lie in a bucket (`storage` in segue.yaml): it says so then.")]
pub struct BackupArgs {
    /// The file to write; it must not be there yet
    file: PathBuf,
    #[arg(long, env = "SEGUE_DATA", value_name = "DIR", help = place::DATA_HELP)]
    data: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Restore a backup into a data directory that is empty or not there
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue restore /mnt/backups/segue-2026-01-31.tar.zst --data /var/lib/segue\n\n\
    Then start `segue up` there as before. Repositories are mirrored anew; secrets open with the key that they were set with.")]
pub struct RestoreArgs {
    /// The backup
    file: PathBuf,
    #[arg(long, env = "SEGUE_DATA", value_name = "DIR", help = place::DATA_HELP)]
    data: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run_backup(args: BackupArgs) -> Result<Exit, Failure> {
    let data = place::data(args.data)?;
    let summary = place::client_runtime()?.block_on(backup::backup(&data, &args.file)).map_err(Failure::new)?;
    tell(&summary, args.json, &format!("{} holds", args.file.display()))
}

pub fn run_restore(args: RestoreArgs) -> Result<Exit, Failure> {
    let data = place::data(args.data)?;
    let summary = place::client_runtime()?.block_on(backup::restore(&args.file, &data)).map_err(Failure::new)?;
    tell(&summary, args.json, &format!("{} is restored:", data.display()))
}

fn tell(summary: &Summary, is_json: bool, what: &str) -> Result<Exit, Failure> {
    if is_json {
        show::json(summary)?;
    } else {
        let mib = summary.bytes / (1024 * 1024);
        say!("{what} {} files, {mib} MiB, of {} (version {})", summary.files, summary.created_at, summary.version);
        if let Some(place) = &summary.contents_elsewhere {
            say!(
                "The contents of artifacts and caches are not among them: they lie in {place}. Keep that bucket as long as this \
                 backup; its own versions or replicas protect it"
            );
        }
    }
    Ok(Exit::Done)
}
