//! `segue artifact`: what the jobs of a run have kept, listed and brought here.

use std::{
    fs::{self, File},
    io::{Seek as _, SeekFrom, Write as _},
    path::PathBuf,
};

use segue_schemas::{api::RunView, id::RunId};
use segue_worker::artifact::unpack::{UnpackRules, unpack};
use sha2::{Digest as _, Sha256};

use super::{
    client::{Client, segment},
    connection::ServerArgs,
    ending::{Exit, Explain as _, Failure},
    out::say,
    place, show,
};

/// List and download what the jobs of a run have kept
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue artifact list 12\n  \
    segue artifact download 12 dist\n  \
    segue artifact download 12 dist --to /tmp/dist --attempt 1\n\n\
    What is downloaded is checked against its digest. Files that are there already are left alone: name another directory.")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// List them
    List(ListArgs),
    /// Download one, and unpack it
    Download(DownloadArgs),
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// The run
    run: RunId,
    /// An earlier attempt
    #[arg(long)]
    attempt: Option<u32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, clap::Args)]
struct DownloadArgs {
    /// The run
    run: RunId,
    /// The artifact's name
    name: String,
    /// An earlier attempt
    #[arg(long)]
    attempt: Option<u32>,
    /// The directory that it is unpacked into; made where it is not there
    #[arg(long, value_name = "DIR", default_value = ".")]
    to: PathBuf,
    #[command(flatten)]
    server: ServerArgs,
}

pub fn run(args: &Args) -> Result<Exit, Failure> {
    match &args.what {
        What::List(args) => list(args),
        What::Download(args) => place::client_runtime()?.block_on(download(&args.server.client()?, args)),
    }
}

fn list(args: &ListArgs) -> Result<Exit, Failure> {
    let client = args.server.client()?;
    let query = serde_json::json!({"attempt": args.attempt});
    let view: RunView = place::client_runtime()?.block_on(client.get(&format!("/runs/{}", args.run), &query))?;
    if args.json {
        show::json(&view.artifacts)?;
        return Ok(Exit::Done);
    }
    let mut table = show::table(&["name", "bytes", "digest"]);
    for artifact in &view.artifacts {
        table.add_row(vec![artifact.name.clone(), artifact.bytes.to_string(), artifact.digest.to_string()]);
    }
    show::print_table(&table, "no artifacts");
    Ok(Exit::Done)
}

async fn download(client: &Client, args: &DownloadArgs) -> Result<Exit, Failure> {
    let query = serde_json::json!({"attempt": args.attempt});
    let view: RunView = client.get(&format!("/runs/{}", args.run), &query).await?;
    let Some(artifact) = view.artifacts.iter().find(|artifact| artifact.name == args.name) else {
        let names: Vec<&str> = view.artifacts.iter().map(|artifact| artifact.name.as_str()).collect();
        let failure =
            Failure::new(format_args!("attempt {} of run {} has no artifact `{}`", view.attempt, args.run, args.name));
        return Err(if names.is_empty() {
            failure.remedy("it has none; `segue/upload-artifact` makes them")
        } else {
            failure.remedy(format_args!("there are {}", names.join(", ")))
        });
    };
    let query = serde_json::json!({"attempt": view.attempt});
    let mut answer = client.bytes(&format!("/runs/{}/artifacts/{}", args.run, segment(&args.name)), &query).await?;
    let mut file = tempfile::tempfile().explain("cannot make a file for the download")?;
    let mut hash = Sha256::new();
    while let Some(piece) = answer.chunk().await.explain("the download broke off")? {
        hash.update(&piece);
        file.write_all(&piece).explain("cannot write the download")?;
    }
    let found = hex::encode(hash.finalize());
    if found != artifact.digest.hex() {
        return Err(Failure::new(format_args!("what came is sha256:{found}, and not {}", artifact.digest))
            .remedy("download it again; if it stays so, what the server keeps was changed"));
    }
    fs::create_dir_all(&args.to).explain(format_args!("cannot make {}", args.to.display()))?;
    file.seek(SeekFrom::Start(0)).explain("cannot read the download")?;
    unpacked(file, args)?;
    say!("{} is in {}", args.name, args.to.display());
    Ok(Exit::Done)
}

fn unpacked(file: File, args: &DownloadArgs) -> Result<(), Failure> {
    unpack(file, &args.to, UnpackRules::default()).explain(format_args!("cannot unpack it into {}", args.to.display()))
}
