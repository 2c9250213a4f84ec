//! Starting a task: a program by fork and exec, packing and unpacking by fork alone; both as the job's user.

use std::{
    fs::File,
    io::{self, Write},
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::Path,
    process::{Command, Stdio},
};

use nix::{
    libc,
    sys::{
        prctl,
        signal::{SigSet, SigmaskHow, Signal, sigprocmask},
        stat::{Mode, umask},
    },
    unistd::{ForkResult, Gid, Uid, fork, setgid, setgroups, setsid, setuid},
};

use super::protocol::{BROKEN_OFF, NOTHING_TO_PACK, Task, UserIds, Work};
use crate::artifact::{self, PackEnd};

/// Starts the task and gives its process number.
pub(super) fn start(task: &Task, output: OwnedFd, archive: Option<OwnedFd>) -> io::Result<i32> {
    match &task.work {
        Work::Program { argv, env } => program(task, argv, env, output),
        Work::Pack { .. } | Work::Unpack { .. } | Work::Restore => {
            let archive = archive.ok_or_else(|| io::Error::other("the request lacks the archive's descriptor"))?;
            // SAFETY: this process has one thread, so that the child may go on as an ordinary program.
            match unsafe { fork() }? {
                ForkResult::Parent { child } => Ok(child.as_raw()),
                ForkResult::Child => {
                    let mut output = File::from(output);
                    let code = match enter(task) {
                        Ok(()) => {
                            work_on_archive(Path::new(&task.directory), &task.work, File::from(archive), &mut output)
                        }
                        Err(error) => {
                            let _ = writeln!(output, "{error}");
                            1
                        }
                    };
                    // SAFETY: always allowed. Nothing of the keeper's is to be unwound or flushed here.
                    unsafe { libc::_exit(code) }
                }
            }
        }
    }
}

fn program(task: &Task, argv: &[String], env: &[(String, String)], output: OwnedFd) -> io::Result<i32> {
    let Some((program, arguments)) = argv.split_first() else { return Err(io::Error::other("no program is named")) };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(env.iter().map(|(name, value)| (name, value)))
        .current_dir(&task.directory)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output);
    if let Some(UserIds { uid, gid }) = task.user {
        // The standard library clears the supplementary groups as well when it changes the user as root.
        command.gid(gid).uid(uid);
    }
    // SAFETY: the closure makes system calls alone.
    unsafe { command.pre_exec(|| own_session().map_err(Into::into)) };
    let child = command.spawn().map_err(|error| {
        if Path::new(&task.directory).is_dir() {
            io::Error::new(error.kind(), format!("{program}: {error}"))
        } else {
            io::Error::new(error.kind(), format!("{}: {error}", task.directory))
        }
    })?;
    i32::try_from(child.id()).map_err(io::Error::other)
}

/// Becomes the job's user, in a session of its own.
fn enter(task: &Task) -> io::Result<()> {
    if let Some(UserIds { uid, gid }) = task.user {
        setgroups(&[])?;
        setgid(Gid::from_raw(gid))?;
        setuid(Uid::from_raw(uid))?;
    }
    Ok(own_session()?)
}

/// Packs or unpacks; says what is wrong, and gives the exit code.
pub(crate) fn work_on_archive(directory: &Path, work: &Work, archive: File, output: &mut File) -> i32 {
    let done = match work {
        Work::Pack { packed } => artifact::pack_from(directory, packed, archive),
        Work::Unpack { path } => artifact::unpack_into(archive, directory, path).map(|()| done()),
        Work::Restore => artifact::restore_into(archive, directory).map(|()| done()),
        Work::Program { .. } => Ok(done()),
    };
    match done {
        Ok(PackEnd::Done(left_out)) => {
            for path in left_out {
                let _ =
                    writeln!(output, "##[warning]{path} is left out: a link out of what is packed, or no plain file");
            }
            0
        }
        Ok(PackEnd::Told(told)) => {
            let _ = writeln!(output, "{told}");
            0
        }
        Ok(PackEnd::Nothing) => NOTHING_TO_PACK,
        // whoever took it has said why not
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => BROKEN_OFF,
        Err(error) => {
            let _ = writeln!(output, "{error}");
            1
        }
    }
}

const fn done() -> PackEnd {
    PackEnd::Done(Vec::new())
}

/// A session of its own, no signal blocked, and death with the keeper. After the change of user, which would undo the
/// last (prctl(2), `PR_SET_PDEATHSIG`).
fn own_session() -> nix::Result<()> {
    setsid()?;
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    umask(Mode::from_bits_truncate(0o022));
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}
