//! What a server, worker or host says about itself, on standard error: a line for each event, or JSON for a collector.

use std::io::IsTerminal as _;

use tracing_subscriber::{EnvFilter, fmt};

use super::ending::Failure;

/// Starts logging, as `SEGUE_LOG` (`info` where it is not set; `segue_worker=debug,info`) and `SEGUE_LOG_FORMAT` (`text`,
/// `json`) say.
///
/// # Errors
/// One of the two can't be understood.
pub fn start() -> Result<(), Failure> {
    // these tell of each broken connection by themselves; who uses them says what that means
    start_at("info,lapin=off,rustls_platform_verifier=off")
}

/// [`start`], with another level where `SEGUE_LOG` is not set.
///
/// # Errors
/// As [`start`].
pub fn start_at(level: &str) -> Result<(), Failure> {
    let wanted = std::env::var("SEGUE_LOG").unwrap_or_else(|_| level.into());
    let filter = EnvFilter::try_new(&wanted).map_err(|error| {
        Failure::usage(format_args!("SEGUE_LOG=`{wanted}`: {error}"))
            .remedy("write a level, or levels by module: info,segue_worker=debug")
    })?;
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let started = match std::env::var("SEGUE_LOG_FORMAT").as_deref() {
        Ok("json") => builder.json().try_init(),
        Ok("text") | Err(_) => builder.with_ansi(is_coloured()).try_init(),
        Ok(other) => {
            return Err(Failure::usage(format_args!("SEGUE_LOG_FORMAT=`{other}`: it is `text` or `json`")));
        }
    };
    // a second start changes nothing: whoever was first has the say
    started.or(Ok(()))
}

fn is_coloured() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}
