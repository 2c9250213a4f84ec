//! Keeps a host running for as long as its keeper lives: `segue up` is one. A keeper that ends leaves the host alone.

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

use tokio::io::{Interest, unix::AsyncFd};
use tokio_util::sync::CancellationToken;

use super::{EnsureError, HostOptions, client::HostClient, ensure_running};

/// Pauses before a host that ends again and again is started again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A host that lived so long is no host that ends again and again.
const STEADY: Duration = Duration::from_secs(60);

/// Has a host running until `shutdown`, and starts another whenever it has ended.
///
/// # Errors
/// The first one could not be started. A later one is tried again for ever, with pauses: traffic does not need it.
pub async fn keep_running(options: &HostOptions, shutdown: CancellationToken) -> Result<(), EnsureError> {
    ensure_running(options).await?;
    keep(options, &shutdown).await;
    Ok(())
}

/// The same of a host that is tried again for ever from the first on: what it lacks, an address or an engine's key, is no reason to keep all else of
/// its machine from running.
pub async fn keep_trying(options: &HostOptions, shutdown: CancellationToken) {
    if let Err(error) = ensure_running(options).await {
        tracing::error!(%error, data = %options.data.display(), "the host can't be started; that is tried again");
    }
    keep(options, &shutdown).await;
}

async fn keep(options: &HostOptions, shutdown: &CancellationToken) {
    let mut pause = FIRST_PAUSE;
    loop {
        let since = Instant::now();
        tokio::select! {
            () = ended(options) => {}
            () = shutdown.cancelled() => return,
        }
        if since.elapsed() > STEADY {
            pause = FIRST_PAUSE;
        }
        tracing::warn!(pause_ms = pause.as_millis(), data = %options.data.display(), "no host answers; one is started");
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
        if let Err(error) = ensure_running(options).await {
            tracing::error!(%error, data = %options.data.display(), "the host can't be started");
        }
    }
}

/// Returns when the host that answers has ended; at once where none answers.
async fn ended(options: &HostOptions) {
    let Ok(state) = HostClient::new(&options.socket).state().await else { return };
    let fd = i32::try_from(state.pid).map_err(io::Error::other).and_then(pidfd);
    // SAFETY: the descriptor is owned, open for as long as the registration lives, and always the same.
    let watched =
        fd.and_then(|fd| unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(Into::into));
    match watched {
        // a pidfd is readable once its process has ended (pidfd_open(2))
        Ok(fd) => drop(fd.readable().await),
        Err(error) => tracing::debug!(%error, pid = state.pid, "the host's process can't be watched"),
    }
}

fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: a plain system call on numbers; the descriptor returned belongs to nobody else.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    match i32::try_from(fd) {
        // SAFETY: see above.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
