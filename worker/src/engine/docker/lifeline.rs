//! What ends a container with its job, whoever is there: a pipe that the container's own process waits at. Its other end is held by
//! a process under the engine `shell`, so that it closes when the worker dies, when the lease's deadline passes, or when the job is
//! over; the container then ends by itself, with everything in it, though neither worker nor engine be there to end it.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::AsFd as _,
        unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    },
    path::Path,
    time::Duration,
};

use nix::{libc, sys::stat::Mode, unistd::mkfifo};

use super::DockerError;
use crate::engine::{EngineJob, Task, UserIds, Work};

/// The pipe's name in the worker's directory of the workspace.
pub(super) const NAME: &str = "lifeline";
/// What the container itself runs: waits for the pipe's end, and for nothing else.
pub(super) const WAIT: &str = r#"trap '' TERM INT HUP; exec < "$1"; read -r _; exit 0"#;
/// Longer than any job.
const FOR_EVER: &str = "2147483647";

/// The holder of the pipe's other end.
pub(super) struct Lifeline {
    holder: Box<dyn EngineJob>,
}

impl Lifeline {
    pub(super) const fn new(holder: Box<dyn EngineJob>) -> Self {
        Self { holder }
    }

    pub(super) fn holder(&self) -> &dyn EngineJob {
        self.holder.as_ref()
    }

    /// Makes the pipe in `directory` and has it held.
    pub(super) async fn begin(&mut self, directory: &Path, user: Option<UserIds>) -> Result<(), DockerError> {
        let own = |error: &dyn std::fmt::Display| DockerError::Own(format!("the lifeline of the container: {error}"));
        let pipe = make(&directory.join(NAME)).map_err(|error| own(&error))?;
        let env = vec![("PATH".to_owned(), crate::job::context::PATH.to_owned())];
        let work = Work::Program { argv: vec!["sleep".into(), FOR_EVER.into()], env };
        let task = Task { user, directory: "/".into(), work };
        self.holder.start(&task, pipe.as_fd(), None).await.map_err(|error| own(&error))
    }

    /// Lets go: the container ends by itself.
    pub(super) async fn let_go(&mut self) {
        if let Err(error) = self.holder.kill(Duration::ZERO).await {
            tracing::debug!(%error, "nobody holds the lifeline any more");
        }
    }
}

/// The end to write to. Opened for reading too, as otherwise it could not be opened before somebody reads.
fn make(path: &Path) -> io::Result<File> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))?;
    let both = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    // what is handed on can only write, so that the reader sees the end when it is gone
    let writer = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    drop(both);
    Ok(writer)
}
