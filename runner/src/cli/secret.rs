//! `segue secret`: set, list and delete secrets. A value never stands on a command line, where others could read it.

use std::{
    io::{IsTerminal as _, Read as _},
    path::{Path, PathBuf},
};

use segue_schemas::api::{SecretList, SecretScope, SecretValue};
use zeroize::Zeroizing;

use super::{
    client::segment,
    connection::{ListArgs, ServerArgs},
    ending::{Exit, Explain as _, Failure},
    out::say,
    place,
    run::repository,
    show,
};

/// Longest value, in bytes; the server refuses longer ones as well.
const MAX_VALUE_BYTES: u64 = 64 * 1024;

/// Set, list and delete secrets
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue secret set API_TOKEN < token.txt\n  \
    segue secret set DEPLOY_KEY --from-file ~/.ssh/deploy --repository acme/shop --environment production\n  \
    segue secret list\n  \
    segue secret delete API_TOKEN\n\n\
    Values are encrypted at rest and can't be read back. The narrowest scope wins.")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Set a secret; the value comes from standard input
    Set(SetArgs),
    /// List the names of secrets
    List(ListArgs),
    /// Delete a secret
    Delete(DeleteArgs),
}

#[derive(Debug, Clone, clap::Args)]
struct ScopeArgs {
    /// Only for this repository
    #[arg(long, value_name = "OWNER/NAME", value_parser = repository)]
    repository: Option<String>,
    /// Only for jobs with this environment
    #[arg(long)]
    environment: Option<String>,
}

impl From<ScopeArgs> for SecretScope {
    fn from(args: ScopeArgs) -> Self {
        Self { repository: args.repository, environment: args.environment }
    }
}

#[derive(Debug, clap::Args)]
struct SetArgs {
    /// Its name: letters, digits, `_`
    name: String,
    /// Take the bytes of this file as they are. From standard input, one newline at the end is dropped
    #[arg(long, value_name = "FILE")]
    from_file: Option<PathBuf>,
    #[command(flatten)]
    scope: ScopeArgs,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, clap::Args)]
struct DeleteArgs {
    /// Its name
    name: String,
    #[command(flatten)]
    scope: ScopeArgs,
    #[command(flatten)]
    server: ServerArgs,
}

pub fn run(args: Args) -> Result<Exit, Failure> {
    match args.what {
        What::Set(args) => set(args),
        What::List(args) => list(&args),
        What::Delete(args) => delete(args),
    }
}

fn set(args: SetArgs) -> Result<Exit, Failure> {
    let client = args.server.client()?;
    let value = match &args.from_file {
        Some(file) => from_file(file)?,
        None => from_stdin()?,
    };
    let body = SecretValue { value: value.to_string() };
    let path = format!("/secrets/{}", segment(&args.name));
    place::client_runtime()?.block_on(client.put(&path, &SecretScope::from(args.scope), &body))?;
    say!("{} is set", args.name);
    Ok(Exit::Done)
}

fn from_file(file: &Path) -> Result<Zeroizing<String>, Failure> {
    let opened = std::fs::File::open(file).explain(format_args!("cannot read {}", file.display()))?;
    read_value(opened, &file.display().to_string())
}

fn from_stdin() -> Result<Zeroizing<String>, Failure> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return Err(Failure::usage("the value is read from standard input, which is the terminal: it would be seen")
            .remedy("pipe it in (`segue secret set NAME < FILE`), or use --from-file FILE"));
    }
    let mut value = read_value(stdin.lock(), "standard input")?;
    if value.ends_with('\n') {
        value.pop();
    }
    Ok(value)
}

fn read_value(from: impl std::io::Read, source: &str) -> Result<Zeroizing<String>, Failure> {
    let mut value = Zeroizing::new(String::new());
    from.take(MAX_VALUE_BYTES + 1).read_to_string(&mut value).map_err(|error| {
        Failure::new(format_args!("cannot read the value from {source}: {error}"))
            .remedy("a secret is UTF-8 text; encode other bytes, as base64 for instance")
    })?;
    if value.len() as u64 > MAX_VALUE_BYTES {
        return Err(Failure::new(format_args!("{source} holds more than {MAX_VALUE_BYTES} bytes")));
    }
    Ok(value)
}

fn list(args: &ListArgs) -> Result<Exit, Failure> {
    let client = args.server.client()?;
    let list: SecretList = place::client_runtime()?.block_on(client.get("/secrets", &()))?;
    if args.json {
        show::json(&list)?;
        return Ok(Exit::Done);
    }
    let mut table = show::table(&["name", "repository", "environment", "set"]);
    for secret in &list.items {
        table.add_row(vec![
            secret.name.clone(),
            secret.scope.repository.clone().unwrap_or_else(|| "all".into()),
            secret.scope.environment.clone().unwrap_or_else(|| "all".into()),
            show::ago(secret.updated_at),
        ]);
    }
    show::print_table(&table, "no secrets");
    Ok(Exit::Done)
}

fn delete(args: DeleteArgs) -> Result<Exit, Failure> {
    let client = args.server.client()?;
    let path = format!("/secrets/{}", segment(&args.name));
    place::client_runtime()?.block_on(client.delete(&path, &SecretScope::from(args.scope)))?;
    say!("{} is deleted", args.name);
    Ok(Exit::Done)
}
