//! What a worker and its step supervisor say to each other: one JSON value a packet, over a seqpacket socket.
//!
//! To the nursery goes [`NewKeeper`], with the keeper's end of a new socket pair as descriptor. To a keeper go
//! [`Request`]s, of which `Start` carries descriptors: a memory file with the [`Task`] (an environment may be larger
//! than a packet), the output, and for packing and unpacking the archive. Back come [`Event`]s, in order.

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use nix::{
    cmsg_space,
    errno::Errno,
    sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::artifact::Packed;

/// Largest packet, in bytes.
const MAX_PACKET: usize = 4096;
/// Most descriptors that a packet carries.
const MAX_DESCRIPTORS: usize = 3;

/// To the nursery: fork a keeper that serves the socket sent along.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct NewKeeper {}

/// From a worker to a keeper.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// Serve another job: what was agreed for the one before is void. Only after `Empty`; answered by `Ready`.
    Anew,
    /// Start the task sent along. One at a time; what an earlier one left running does not matter.
    Start,
    /// End everything: TERM, and KILL after the grace.
    Kill {
        /// Milliseconds between the two.
        grace_ms: u64,
    },
    /// Kill everything when `CLOCK_BOOTTIME` passes this; replaces the deadline before.
    Deadline {
        /// On that clock, in milliseconds.
        boot_time_ms: u64,
    },
}

/// From a keeper to its worker.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Event {
    /// The keeper serves a job from its beginning: the first of all, and the answer to `Anew`.
    Ready,
    /// The task runs.
    Started {
        /// Its process.
        pid: i32,
    },
    /// The task could not be started.
    NotStarted {
        /// Why.
        reason: String,
    },
    /// The task's own process has ended; others that it started may live on.
    Exited(Exit),
    /// Nothing is left. Answers every `Kill`.
    Empty,
    /// The deadline passed, and everything was killed.
    DeadlinePassed,
}

/// Something to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Whom to run it as; the supervisor's own user where it is left out.
    pub user: Option<UserIds>,
    /// The directory it runs in, which must be absolute.
    pub directory: String,
    /// What to run.
    pub work: Work,
}

/// A user and its group, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserIds {
    /// The user.
    pub uid: u32,
    /// The group, the only one.
    pub gid: u32,
}

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// A program, with nothing else in its environment.
    Program {
        /// Program and arguments; the program is looked for in the given `PATH`.
        argv: Vec<String>,
        /// The whole environment.
        env: Vec<(String, String)>,
    },
    /// Packs files below the directory into an archive.
    Pack {
        /// Which, from the task's directory.
        packed: Packed,
    },
    /// Unpacks an archive below the directory.
    Unpack {
        /// Where to, from the task's directory; made if it is not there.
        path: String,
    },
    /// Unpacks a cache, into [`crate::artifact::CACHED_FOLDERS`] of the directory.
    Restore,
}

/// The exit code of packing where there was nothing to pack.
pub const NOTHING_TO_PACK: i32 = 66;

/// The exit code of packing where nobody takes what is packed any more.
pub const BROKEN_OFF: i32 = 141;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// By itself.
    Code(i32),
    /// By a signal.
    Signal(i32),
}

impl Exit {
    /// As a shell shows it in `$?`: signals are 128 and their number.
    #[must_use]
    pub const fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// Sends one packet. A peer that has gone is [`io::ErrorKind::BrokenPipe`].
pub(super) fn send(socket: impl AsFd, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let packet = serde_json::to_vec(message)?;
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    loop {
        let sent =
            sendmsg::<()>(socket.as_fd().as_raw_fd(), &[IoSlice::new(&packet)], control, MsgFlags::MSG_NOSIGNAL, None);
        match sent {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Receives one packet with its descriptors; `None` when the peer has gone.
pub(super) fn receive<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut packet = [0_u8; MAX_PACKET];
    let mut control = cmsg_space!([RawFd; MAX_DESCRIPTORS]);
    let mut blocks = [IoSliceMut::new(&mut packet)];
    let (bytes, descriptors) = loop {
        match recvmsg::<()>(socket.as_fd().as_raw_fd(), &mut blocks, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC) {
            Ok(message) => {
                let mut descriptors = Vec::new();
                for part in message.cmsgs()? {
                    if let ControlMessageOwned::ScmRights(raw) = part {
                        // SAFETY: the kernel made these descriptors for this process with this message.
                        descriptors.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
                    }
                }
                break (message.bytes, descriptors);
            }
            Err(Errno::EINTR) => {}
            Err(Errno::ECONNRESET) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
    };
    if bytes == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&packet[..bytes])?, descriptors)))
}
