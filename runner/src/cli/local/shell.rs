//! A shell where a step has failed.

use std::{env, sync::Arc};

use segue_worker::options::{FailedScript, Looking, OnFailedScript};
use tokio::process::Command;

use super::screen::Screen;

/// Opens a shell with the failed step's directory and environment, and waits until it is left.
pub fn on_failure(screen: Screen) -> OnFailedScript {
    OnFailedScript(Arc::new(move |failed| -> Looking {
        let screen = screen.clone();
        Box::pin(async move {
            screen.wait_for(failed.job, failed.log_offset).await;
            open(failed).await;
        })
    }))
}

async fn open(failed: FailedScript) {
    let shell = env::var("SHELL").unwrap_or_else(|_| "/bin/sh".into());
    anstream::eprintln!(
        "\nThe step ended with exit code {}. This is a shell at its place, with its environment; its script is {}.\n\
         The run goes on when you leave it (exit, or Ctrl-D).",
        failed.exit_code,
        failed.script.display()
    );
    let mut command = Command::new(&shell);
    command.current_dir(&failed.directory).env_clear().envs(failed.env).kill_on_drop(true);
    if let Some(term) = env::var_os("TERM") {
        command.env("TERM", term);
    }
    if let Err(error) = command.status().await {
        anstream::eprintln!("{shell} can't be started: {error}");
    }
}
