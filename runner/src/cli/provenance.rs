//! `segue provenance`: the key that vouches for images, and whether an image is what somebody vouched for. Nothing of it needs a server.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use segue_pipelines::provenance::{Wanted, read};
use segue_runner::provenance::{Signer, default_key_file, verified};
use segue_schemas::{id::CommitSha, provenance::Envelope};
use serde_json::json;

use super::{
    configuration::ConfigArgs,
    ending::{Exit, Explain as _, Failure},
    out::say,
    show,
};

/// The most bytes of an envelope or a key.
const MAX_BYTES: u64 = 8 * 1024 * 1024;

/// Say where images are from, and see whether it is true
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue provenance key create --config /etc/segue/segue.yaml\n  \
    segue provenance key show > segue.pub\n  \
    segue artifact download 12 provenance-image-2-1f2e3d4c5b6a\n  \
    segue provenance verify provenance.json --key segue.pub --image registry.example.org/shop/app@sha256:1f2e...\n  \
    segue provenance verify provenance.json --key segue.pub --source https://github.com/acme/shop --commit $(git rev-parse HEAD)\n\n\
    Exit codes of verify: 0 it is signed with that key and says what is asked for, 1 it is not or does not, 2 usage.")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// The key with which the server signs
    Key(KeyArgs),
    /// See whether a statement is signed with a key, and what it is about
    Verify(VerifyArgs),
}

#[derive(Debug, clap::Args)]
struct KeyArgs {
    #[command(subcommand)]
    what: KeyWhat,
}

#[derive(Debug, clap::Subcommand)]
enum KeyWhat {
    /// Make it, in a file that only its owner reads; show the public one
    Create(KeyPlace),
    /// Show the public one, in PEM, for those who verify
    Show(KeyPlace),
}

#[derive(Debug, clap::Args)]
struct KeyPlace {
    /// Its file [default: `provenance.key-file` of the configuration, else segue/provenance.key in the user's configuration directory]
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(Debug, clap::Args)]
struct VerifyArgs {
    /// The statement in its envelope (DSSE)
    file: PathBuf,
    /// The public key, in PEM
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The image that it must be about: NAME@sha256:..., or the digest alone
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// The repository that the image must be from; URL@refs/heads/main: and that ref of it
    #[arg(long, value_name = "URL")]
    source: Option<String>,
    /// The commit that the image must be of, in full
    #[arg(long, value_name = "SHA")]
    commit: Option<CommitSha>,
    /// Print JSON: the statement
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<Exit, Failure> {
    match &args.what {
        What::Key(KeyArgs { what: KeyWhat::Create(place) }) => create(&place.file()?),
        What::Key(KeyArgs { what: KeyWhat::Show(place) }) => {
            let signer = Signer::read(&place.file()?).map_err(Failure::new)?;
            say!("{}", signer.public().trim_end());
            Ok(Exit::Done)
        }
        What::Verify(args) => verify(args),
    }
}

impl KeyPlace {
    fn file(&self) -> Result<PathBuf, Failure> {
        if let Some(file) = &self.key_file {
            return Ok(file.clone());
        }
        let named = self.config.load()?.provenance.key_file;
        named.or_else(default_key_file).ok_or_else(|| {
            Failure::usage("no place is known for the key: neither XDG_CONFIG_HOME nor HOME is set")
                .remedy("name one with --key-file")
        })
    }
}

fn create(path: &Path) -> Result<Exit, Failure> {
    let signer = Signer::create(path).map_err(Failure::new)?;
    say!("{}", signer.public().trim_end());
    anstream::eprintln!(
        "the key is in {}: keep a copy apart, and give the public one to those who verify",
        path.display()
    );
    Ok(Exit::Done)
}

fn verify(args: &VerifyArgs) -> Result<Exit, Failure> {
    if args.image.as_ref().is_some_and(|image| !image.contains("sha256:")) {
        return Err(Failure::usage("--image names no digest: a tag may mean another image tomorrow")
            .remedy("write NAME@sha256:..., or sha256:..."));
    }
    let shown = args.file.display();
    let envelope: Envelope = serde_json::from_str(&text(&args.file)?)
        .map_err(|error| Failure::new(format_args!("{shown} is no envelope: {error}")))?;
    let wrong = |error: &dyn std::fmt::Display| Failure::new(format_args!("{shown} is not to be believed: {error}"));
    let payload = verified(&envelope, &text(&args.key)?, &args.key).map_err(|error| wrong(&error))?;
    let wanted = Wanted { image: args.image.as_deref(), source: args.source.as_deref(), commit: args.commit.as_ref() };
    let stated = read(&envelope.payload_type, &payload, wanted).map_err(|error| wrong(&error))?;
    if args.json {
        let statement: serde_json::Value = serde_json::from_slice(&payload).map_err(|error| wrong(&error))?;
        show::json(&json!({"verified": true, "statement": statement}))?;
        return Ok(Exit::Done);
    }
    for (name, digest) in &stated.images {
        say!("{name}@{digest}");
    }
    say!("  from {} at {}", stated.source, stated.commit);
    say!("  by {}, {}", stated.builder, stated.invocation);
    Ok(Exit::Done)
}

fn text(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let file = File::open(path).explain(format_args!("cannot read {}", path.display()))?;
    file.take(MAX_BYTES).read_to_string(&mut text).explain(format_args!("cannot read {}", path.display()))?;
    Ok(text)
}
