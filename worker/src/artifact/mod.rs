//! Artifacts: directories as zstd-compressed tars, named by the SHA-256 of those bytes.
//!
//! Comes in: files below a directory, or an archive. Goes out: the other of the two. Never here: who may read or write
//! there. In a job both run as the job's user, in a process of their own (`supervisor/child.rs`), so that whatever a job
//! has laid in the way can only reach what the job can reach.

pub mod pack;
