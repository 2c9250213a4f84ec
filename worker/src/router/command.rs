//! The commands by which a router is told to look at its configuration, or to read it again.

use std::{process::Stdio, time::Duration};

/// How long one may take.
const LIMIT: Duration = Duration::from_secs(10);

/// How much of what it said a failure shows.
const TAIL_BYTES: usize = 1500;

/// Runs a command. A failure is told with what the command said.
pub(super) async fn run(command: &[String]) -> Result<(), String> {
    let words = command.join(" ");
    let Some((program, arguments)) = command.split_first() else {
        return Err("the command is empty; write its program and arguments".into());
    };
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).env_remove("NOTIFY_SOCKET").stdin(Stdio::null()).kill_on_drop(true);
    let output = match tokio::time::timeout(LIMIT, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(format!("`{words}` can't be run: {error}")),
        Err(_) => return Err(format!("`{words}` did not end within {LIMIT:?}")),
    };
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stderr, output.stdout].concat();
    let tail = String::from_utf8_lossy(&said[said.len().saturating_sub(TAIL_BYTES)..]).trim().to_owned();
    Err(format!("`{words}` failed ({}): {tail}", output.status))
}
