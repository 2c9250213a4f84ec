//! `segue github setup`, from the arguments to what is left to do.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use secrecy::ExposeSecret as _;
use segue_runner::auth::make_token;
use segue_schemas::{
    config::{Config, GitHubAppConfig, GitHubAppId},
    duration::Span,
};
use serde::Serialize;

use super::{
    convert::{Made, convert},
    keep::{self, Kept, Reserved},
    listen::{BACK, Listener},
    manifest::{self, Place},
    page,
};
use crate::cli::{
    configuration::ConfigArgs,
    doctor::{self, Check},
    ending::{Exit, Explain as _, Failure},
    place, show,
};

/// How long GitHub itself keeps a code.
const LONGEST_WAIT: Span = Span::seconds(3600);

/// Make a GitHub App for this server: opens a page that takes its description to GitHub, and keeps the key that comes back
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue github setup --url https://ci.example.com --config segue.yaml --write\n  \
    segue github setup --url https://ci.example.com --organization acme --api-url https://github.example.com/api/v3\n  \
    segue github setup --url https://ci.example.com --no-browser --port 4321\n\n\
    On a machine without a browser, either forward the port and open the printed address on yours:\n  \
    ssh -L 4321:127.0.0.1:4321 SERVER\n\
    or write the page to a file with --page, open a copy of it on your machine, confirm, and paste the address that the browser \
    then can't open (it begins with http://127.0.0.1) here.\n\n\
    The App may write checks, deployments and pull requests, and read contents and metadata; the key never leaves this machine.\n\n\
    Exit codes: 0 the App is made and GitHub takes its key, 1 it is not, or something is missing (it says what to do), 2 usage.")]
pub struct Args {
    /// Where GitHub reaches this server, as https://ci.example.com
    #[arg(long, value_name = "URL")]
    url: String,
    /// Whom it is to belong to [default: your own account]
    #[arg(long, value_name = "NAME", value_parser = manifest::organization)]
    organization: Option<String>,
    /// Let it read who is in the organization's teams, where those are reviewers of environments
    #[arg(long, requires = "organization")]
    teams: bool,
    /// Its name, which nobody else's App may have [default: Segue and a few letters]
    #[arg(long, value_parser = manifest::name)]
    name: Option<String>,
    /// GitHub's API [default: github.api-url of the configuration, else https://api.github.com]
    #[arg(long, value_name = "URL")]
    api_url: Option<String>,
    #[command(flatten)]
    config: ConfigArgs,
    /// Add the App to the configuration, where that says nothing of GitHub yet
    #[arg(long, requires = "config")]
    write: bool,
    /// Folder for the key and the webhook's secret [default: the configuration's, else the data directory]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    #[arg(long, env = "SEGUE_DATA", value_name = "DIR", help = place::DATA_HELP)]
    data: Option<PathBuf>,
    /// Print the page's address, and open no browser
    #[arg(long)]
    no_browser: bool,
    /// Write the page to a file too, to be opened on another machine
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
    /// The page's port on this machine; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// How long to wait for GitHub's answer, an hour at most
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = wait)]
    wait: Span,
    /// Print JSON once it is done
    #[arg(long)]
    json: bool,
}

/// What was made, for scripts.
#[derive(Serialize)]
struct Done<'d> {
    id: u64,
    client_id: &'d Option<String>,
    name: &'d str,
    /// Where it is installed for repositories.
    install_url: &'d str,
    private_key_file: &'d Path,
    webhook_secret_file: &'d Path,
    /// The lines of segue.yaml.
    configuration: &'d str,
    /// Whether they stand in it.
    is_written: bool,
    checks: &'d [Check],
}

fn wait(text: &str) -> Result<Span, String> {
    let span: Span = text.parse()?;
    if span.0.is_zero() || span > LONGEST_WAIT { Err("from 1s to 1h".into()) } else { Ok(span) }
}

pub fn run(args: &Args) -> Result<Exit, Failure> {
    // it may be made by this very command
    let is_there = args.config.path().is_none_or(Path::exists);
    let mut config = if is_there { args.config.load()? } else { Config::default() };
    let place = Place::of(args.api_url.as_deref().unwrap_or(&config.github.api_url))?;
    let hook = manifest::hook(&args.url)?;
    if config.github.app.id.is_some() {
        return Err(Failure::new("the configuration names a GitHub App already")
            .remedy("look at it with `segue github verify`; for another one, take `github.app` out first"));
    }
    let folder = match (&args.output, args.config.path().and_then(Path::parent)) {
        (Some(folder), _) => folder.clone(),
        (None, Some(folder)) if folder.as_os_str().is_empty() => PathBuf::from("."),
        (None, Some(folder)) => folder.to_owned(),
        (None, None) => place::data(args.data.clone())?,
    };
    let reserved = Reserved::make(&folder)?;
    let (made, checks, kept) = place::client_runtime()?.block_on(async {
        let made = convert(&place, &code(args, &place, &hook).await?).await?;
        let kept = reserved.keep(&made, &place)?;
        config.github.api_url.clone_from(&place.api);
        let id = made.client_id.clone().map_or(GitHubAppId::Number(made.id), GitHubAppId::Text);
        config.github.app = GitHubAppConfig { id: Some(id), private_key_file: Some(kept.key.clone()) };
        config.github.token_file = None;
        let checks = doctor::of_new_app(&config).await;
        Ok::<_, Failure>((made, checks, kept))
    })?;
    let is_written = match args.config.path().filter(|_| args.write) {
        Some(file) => keep::add(file, &kept.lines)?,
        None => false,
    };
    report(args, &made, &kept, is_written, &checks)?;
    Ok(if checks.iter().any(Check::is_bad) { Exit::Failed } else { Exit::Done })
}

/// Shows the page, and waits for what GitHub sends back.
async fn code(args: &Args, place: &Place, hook: &str) -> Result<String, Failure> {
    let listener = Listener::open(args.port)?;
    let address = listener.address();
    let state = make_token("s").explain("cannot begin")?;
    let state = state.expose_secret();
    let name = args.name.clone().unwrap_or_else(|| {
        // names are GitHub's, and `Segue` is taken
        format!("Segue {}", state.chars().rev().filter(char::is_ascii_alphanumeric).take(6).collect::<String>())
    });
    let back = format!("http://{address}{BACK}");
    let manifest = manifest::manifest(&name, &args.url, hook, &back, args.teams);
    let first = page::manifest(&place.new_app(args.organization.as_deref(), state), &manifest);
    if let Some(file) = &args.page {
        std::fs::write(file, &first).explain(format_args!("cannot write {}", file.display()))?;
    }
    // whoever else can reach the port does not know it
    let door = make_token("p").explain("cannot begin")?;
    let url = format!("http://{address}/{}", door.expose_secret());
    let is_opened = !args.no_browser && open(&url);
    let verb = if is_opened { "A browser opens" } else { "Open" };
    // what a script reads stands on standard output, at the end
    anstream::eprintln!("{verb} {url}, where the App `{name}` goes to {} to be confirmed.", place.web);
    if !is_opened {
        anstream::eprintln!(
            "From another machine: ssh -L {0}:127.0.0.1:{0} THIS-MACHINE, then open the same address there.",
            address.port()
        );
    }
    if let Some(file) = &args.page {
        anstream::eprintln!("Or open a copy of {} there.", file.display());
    }
    anstream::eprintln!("If the browser can't come back to this machine, paste the address that it was sent to here.");
    anstream::eprintln!("Waiting {} ...", args.wait);
    listener.code(first, door.expose_secret(), state, args.wait.0).await
}

/// Whether a browser could be asked to show it.
fn open(url: &str) -> bool {
    let has_screen = ["DISPLAY", "WAYLAND_DISPLAY", "BROWSER"].iter().any(|name| env::var_os(name).is_some());
    if !cfg!(target_os = "macos") && !has_screen {
        return false;
    }
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let mut command = Command::new(program);
    command.arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().is_ok()
}

fn report(args: &Args, made: &Made, kept: &Kept, is_written: bool, checks: &[Check]) -> Result<(), Failure> {
    use crate::cli::out::say;
    let install_url = format!("{}/installations/new", made.html_url.trim_end_matches('/'));
    if args.json {
        return show::json(&Done {
            id: made.id,
            client_id: &made.client_id,
            name: &made.name,
            install_url: &install_url,
            private_key_file: &kept.key,
            webhook_secret_file: &kept.secret,
            configuration: &kept.lines,
            is_written,
            checks,
        });
    }
    let called = made.slug.as_ref().unwrap_or(&made.name);
    say!("The App `{called}` is made. Its key lies in {}.", kept.key.display());
    checks.iter().for_each(doctor::print);
    say!();
    let file = args.config.path().map_or_else(|| "segue.yaml".into(), |path| path.display().to_string());
    say!("What is left to do:");
    if is_written {
        say!("1. {file} names the App now; start the server again.");
    } else {
        say!("1. Put this into {file}, and start the server again:\n\n{}", kept.lines);
    }
    say!("2. Install the App for the repositories: {install_url}");
    say!("3. See whether all is well: segue github verify --config {file}");
    Ok(())
}
