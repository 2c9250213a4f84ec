//! `segue backup FILE` and `segue restore FILE`: everything that an embedded server keeps, in one file. They work on the data directory
//! itself, since a restore has no server to ask, and a backup is to be had from a broken one. `segue backup list` and `segue backup
//! restore` are about another thing, the data of services, which hosts keep.

use std::{
    io::{BufRead as _, IsTerminal as _, Write as _},
    path::PathBuf,
};

use segue_runner::backup::{self, Summary};
use segue_schemas::{
    api::{BackupList, BackupQuery, BackupStatus, BackupView, RestoreRequest},
    deploy::Rollout,
    id::BackupId,
    status::RolloutStatus,
};

use super::{
    client::segment,
    connection::ServerArgs,
    ending::{Exit, Failure},
    out::say,
    place, rollout, show, sync,
};

/// Write everything that a server keeps to one file; list the backups of services, or bring one back
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:\n  \
    segue backup /mnt/backups/segue-2026-01-31.tar.zst\n  \
    segue backup segue.tar.zst --data /var/lib/segue --json\n  \
    segue backup list --environment production --service web\n  \
    segue backup restore production-web-20260131-101500-r7-12\n\n\
    Two things are called so. `segue backup FILE` writes what the server itself keeps to one file, while it runs or not, and `segue restore \
    FILE` reads it (a file called `list` is `./list`). `list`, `restore` and `sync` are about the data of services: backups that their hosts take \
    before a release comes, by `backup` in .segue/services/SERVICE.yml.\n\n\
    FILE holds the database, logs, artifacts, and the tokens, so only its owner can read it. The key for secrets is not in it: keep that \
    elsewhere. Nor are artifacts and caches that lie in a bucket (`storage` in segue.yaml): it says so then."
)]
pub struct BackupArgs {
    #[command(subcommand)]
    what: Option<What>,
    /// The file to write; it must not be there yet
    #[arg(required = true)]
    file: Option<PathBuf>,
    #[arg(long, env = "SEGUE_DATA", value_name = "DIR", help = place::DATA_HELP)]
    data: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// List the backups of services, newest first
    List(BackupListArgs),
    /// Bring the data of a service back to what they were
    Restore(BackupRestoreArgs),
    /// Bring the data of a service from one environment to another, without what is personal in them
    Sync(sync::SyncArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue backup list\n  \
    segue backup list --environment production --service web --json | jq -r '.items[0].id'\n\n\
    As the hosts have told it last. One that several hosts have a part of has a line for each.\n\n\
    Exit codes: 0 done, 1 the server did not answer or refused, 2 usage.")]
struct BackupListArgs {
    /// Only of this environment
    #[arg(long)]
    environment: Option<String>,
    /// Only of this service
    #[arg(long)]
    service: Option<String>,
    /// How many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=200))]
    limit: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue backup restore production-web-20260131-101500-r7-12\n  \
    segue backup restore production-web-20260131-101500-r7-12 --yes --reason 'orders were lost'\n\n\
    Runs the `restore` command of the release that serves, where the backup is kept, under the lock of rollouts: nothing else changes \
    the service meanwhile. What is there now is backed up first, so that this can be undone in the same way. The release stays.\n\n\
    Exit codes: 0 brought back, 1 refused or failed (what is in the service then stands in the rollout), 2 usage.")]
struct BackupRestoreArgs {
    /// The backup, as `segue backup list` shows it
    backup: BackupId,
    /// Don't ask
    #[arg(long)]
    yes: bool,
    /// Why, for the record
    #[arg(long)]
    reason: Option<String>,
    /// Return at once instead of waiting for the end
    #[arg(long)]
    no_wait: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
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
    let file = match (args.what, args.file) {
        (Some(What::List(args)), _) => return list(args),
        (Some(What::Restore(args)), _) => return bring_back(args),
        (Some(What::Sync(args)), _) => return sync::run(args),
        (None, Some(file)) => file,
        (None, None) => return Err(Failure::usage("no file was named").remedy("segue backup FILE")),
    };
    let data = place::data(args.data)?;
    let summary = place::client_runtime()?.block_on(backup::backup(&data, &file)).map_err(Failure::new)?;
    tell(&summary, args.json, &format!("{} holds", file.display()))
}

fn list(args: BackupListArgs) -> Result<Exit, Failure> {
    let query = BackupQuery { environment: args.environment, service: args.service, limit: Some(args.limit) };
    let client = args.server.client()?;
    let list: BackupList = place::client_runtime()?.block_on(client.get("/backups", &query))?;
    if args.json {
        show::json(&list)?;
        return Ok(Exit::Done);
    }
    let headers = ["backup", "host", "environment", "service", "release", "commit", "size", "when", "taken"];
    let mut table = show::table(&headers);
    for one in &list.items {
        table.add_row(vec![
            one.id.to_string(),
            one.host.clone(),
            one.environment.clone(),
            one.service.clone(),
            one.release.to_string(),
            one.commit.short().to_owned(),
            size(one),
            show::ago(one.begun_at),
            show::one_line(&one.why, 60),
        ]);
    }
    show::print_table(
        &table,
        "there are no backups of services; `backup` in .segue/services/SERVICE.yml has them taken",
    );
    Ok(Exit::Done)
}

fn size(one: &BackupView) -> String {
    match (one.status, one.bytes) {
        (BackupStatus::Taking, _) => "is being taken".into(),
        (BackupStatus::Kept, Some(bytes)) if bytes < 10 << 10 => format!("{bytes} B"),
        (BackupStatus::Kept, Some(bytes)) if bytes < 10 << 20 => format!("{} KiB", bytes >> 10),
        (BackupStatus::Kept, bytes) => format!("{} MiB", bytes.unwrap_or_default() >> 20),
        (BackupStatus::Failed, _) => {
            format!("failed: {}", show::one_line(one.reason.as_deref().unwrap_or_default(), 60))
        }
    }
}

fn bring_back(args: BackupRestoreArgs) -> Result<Exit, Failure> {
    let client = args.server.client()?;
    let backup = &args.backup;
    if !args.yes {
        let loss = format!("{backup} takes the place of what is there now");
        agreed(&loss, ", which is backed up first. Bring it back?")?;
    }
    place::client_runtime()?.block_on(async {
        let request = RestoreRequest { reason: args.reason, by: show::me() };
        let path = format!("/backups/{}/restore", segment(backup.as_str()));
        let started: Rollout = client.post(&path, &request).await?;
        if args.no_wait {
            if args.json {
                show::json(&started)?;
            } else {
                say!("rollout {} brings {backup} back", started.id);
            }
            return Ok(Exit::Done);
        }
        let end = rollout::watch(&client, started.id, args.json).await?;
        Ok(if end.status == RolloutStatus::Succeeded { Exit::Done } else { Exit::Failed })
    })
}

/// Asks whether data may be lost so, and goes on with a yes alone. Where nobody can be asked, the answer is no.
pub(super) fn agreed(loss: &str, question: &str) -> Result<(), Failure> {
    let remedy = "--yes does it without asking";
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(loss).remedy(remedy));
    }
    anstream::eprint!("{loss}{question} [y/N] ");
    let _unseen = std::io::stderr().flush();
    let mut answer = String::new();
    let _nothing = std::io::stdin().lock().read_line(&mut answer);
    if !matches!(answer.trim(), "y" | "Y" | "yes") {
        return Err(Failure::new("nothing was changed").remedy(remedy));
    }
    Ok(())
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
