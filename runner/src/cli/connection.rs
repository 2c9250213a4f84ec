//! Which server a client command speaks to, and with which token.

use std::{env, path::PathBuf, time::Duration};

use reqwest::Url;
use secrecy::SecretString;

use super::{
    client::Client,
    ending::{Explain as _, Failure},
    place,
};

/// Where the server is, as typed.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Server")]
pub struct ServerArgs {
    /// The server's address
    #[arg(long, env = "SEGUE_SERVER", value_name = "URL", default_value = "http://127.0.0.1:8321")]
    server: String,
    /// File that holds the token [default: $SEGUE_TOKEN itself, else admin-token in the data directory]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[arg(long, env = "SEGUE_DATA", value_name = "DIR", help = place::DATA_HELP)]
    data: Option<PathBuf>,
}

/// What a command takes that lists all there is.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub server: ServerArgs,
}

impl ServerArgs {
    /// The client that these arguments mean.
    ///
    /// # Errors
    /// The address is none, or there is no token to be found.
    pub fn client(&self) -> Result<Client, Failure> {
        let url = self.url()?;
        let token = self.token()?;
        Client::new(url, Some(token))
    }

    /// The client without a token, for what the server says to everybody.
    ///
    /// # Errors
    /// The address is none.
    pub fn anonymous(&self) -> Result<Client, Failure> {
        Client::new(self.url()?, None)
    }

    /// The data directory, where one was named.
    pub fn data(&self) -> Option<PathBuf> {
        self.data.clone()
    }

    fn url(&self) -> Result<Url, Failure> {
        let remedy = "an address reads like http://127.0.0.1:8321";
        let url = Url::parse(&self.server)
            .map_err(|error| Failure::usage(format_args!("--server `{}`: {error}", self.server)).remedy(remedy))?;
        if matches!(url.scheme(), "http" | "https") && url.has_host() {
            return Ok(url);
        }
        Err(Failure::usage(format_args!("--server `{}` is no http or https address", self.server)).remedy(remedy))
    }

    /// `--token-file`, else `SEGUE_TOKEN`, else the data directory's admin token.
    fn token(&self) -> Result<SecretString, Failure> {
        if let Some(file) = &self.token_file {
            return read_token(file);
        }
        if let Ok(token) = env::var("SEGUE_TOKEN") {
            return Ok(token.trim().to_owned().into());
        }
        read_token(&place::data(self.data.clone())?.join("admin-token")).map_err(|failure| {
            failure.remedy(
                "name the data directory of `segue up` with --data, or a token with --token-file or SEGUE_TOKEN",
            )
        })
    }
}

/// A token that lies in a file.
///
/// # Errors
/// It can't be read, or is empty.
pub fn read_token(file: &std::path::Path) -> Result<SecretString, Failure> {
    let text = std::fs::read_to_string(file).explain(format_args!("cannot read the token in {}", file.display()))?;
    let token = text.trim();
    if token.is_empty() {
        return Err(Failure::new(format_args!("{} holds no token", file.display())));
    }
    Ok(token.to_owned().into())
}

/// How long a request may take until its answer begins.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(30);
