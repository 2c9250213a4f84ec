//! The `segue` binary: the command line, and the one place that knows the worker as well as the server.
//!
//! What must not share a process with a tokio runtime is dispatched first (`step-supervisor`, which forks, and `proxy`,
//! whose library owns its runtime); every other command builds the runtime that it needs.

mod cli;
mod demo;
mod sample_service;

use std::process::ExitCode;

fn main() -> ExitCode {
    // one for each job slot, kept ready: it has to be small, and to start before any thread does
    if std::env::args_os().nth(1).is_some_and(|command| command == "step-supervisor") {
        return segue_worker::supervisor::main();
    }
    install_crypto();
    cli::main()
}

/// One TLS implementation for the whole process: rustls on ring. Whoever comes second (a library that installed it
/// already) changes nothing.
fn install_crypto() {
    let _already_installed = rustls::crypto::ring::default_provider().install_default();
}
