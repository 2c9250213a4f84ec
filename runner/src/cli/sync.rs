//! `segue backup sync`: data of one environment come to another, without what is personal in them.

use segue_schemas::{
    deploy::Rollout,
    status::RolloutStatus,
    sync::{SyncFrom, SyncRequest},
};

use super::{
    backup,
    connection::ServerArgs,
    ending::{Exit, Failure},
    out::say,
    place, rollout, show,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue backup sync --from production --to staging --service shop\n  \
    segue backup sync --from production --to staging --service shop --backup latest --yes --reason 'a bug of real data'\n\n\
    The host that has the data replaces what is personal in them, by the rules under `sync` in .segue/services/SERVICE.yml of the release \
    that serves there; only then do they leave it. What is in the other environment is backed up first, so that this can be undone with \
    `segue backup restore`. That environment must say that it takes them: `environments.TO.data-from` in segue.yaml. \
    `segue rollout show N` has the rest, with how often each rule has replaced something.\n\n\
    Exit codes: 0 brought, 1 refused or failed (what is in the service then stands in the rollout), 2 usage.")]
pub(super) struct SyncArgs {
    /// The environment that the data are from
    #[arg(long)]
    from: String,
    /// The environment that they come to
    #[arg(long)]
    to: String,
    /// The service whose data they are
    #[arg(long)]
    service: String,
    /// `fresh`: as they are now; `latest`: the newest backup; or the name of one, as `segue backup list` shows it
    #[arg(long, default_value = "fresh")]
    backup: SyncFrom,
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

pub(super) fn run(args: SyncArgs) -> Result<Exit, Failure> {
    let client = args.server.client()?;
    let SyncArgs { from, to, service, .. } = args;
    if !args.yes {
        let loss = format!("the data of `{service}` in `{to}` give way to those of `{from}`");
        let question = ", without what is personal in them. What is there now is backed up first. Bring them?";
        backup::agreed(&loss, question)?;
    }
    place::client_runtime()?.block_on(async {
        let data = Some(args.backup.to_string());
        let request =
            SyncRequest { from: from.clone(), to: to.clone(), service, data, reason: args.reason, by: show::me() };
        let started: Rollout = client.post("/backups/sync", &request).await?;
        if args.no_wait {
            if args.json {
                show::json(&started)?;
            } else {
                say!("rollout {} brings data of {from} to {to}", started.id);
            }
            return Ok(Exit::Done);
        }
        let end = rollout::watch(&client, started.id, args.json).await?;
        Ok(if end.status == RolloutStatus::Succeeded { Exit::Done } else { Exit::Failed })
    })
}
