//! What the container's root made in the workspace is handed to the user of the worker's own tasks for the job, which otherwise could
//! not read it. Only while nothing in the container runs: nobody puts a link into the way. A link within the container can lead to
//! no file of the machine, as each directory that is handed in is a mount of its own.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, lchown},
    path::{Path, PathBuf},
};

use crate::engine::UserIds;

/// Hands over every file below `root` that is the machine's root's.
pub(super) fn hand_over(root: &Path, user: UserIds) -> io::Result<()> {
    let mut open: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            let (path, metadata) = (entry.path(), entry.metadata()?);
            if metadata.uid() == 0 {
                lchown(&path, Some(user.uid), Some(user.gid))?;
            }
            if metadata.is_dir() {
                open.push(path);
            }
        }
    }
    Ok(())
}
