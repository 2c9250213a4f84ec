//! Disks that are small, and full.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

/// A file system in memory of so many MiB; gone with this.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one.
    ///
    /// # Errors
    /// Without the right to mount.
    pub fn mount(at: &Path, mebibytes: u32) -> Result<Self> {
        fs::create_dir_all(at)?;
        let options = format!("size={mebibytes}m,mode=0711");
        run(&["mount", "-t", "tmpfs", "-o", &options, "tmpfs", &at.display().to_string()])?;
        Ok(Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = run(&["umount", "--lazy", &self.0.display().to_string()]);
    }
}

/// As root, or by `sudo` where that asks for nothing.
fn run(command: &[&str]) -> Result<()> {
    let is_root = nix::unistd::geteuid().is_root();
    let (program, arguments) = if is_root { (command[0], &command[1..]) } else { ("sudo", command) };
    let status = Command::new(program).args(arguments).status().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}; this story needs the right to mount");
    Ok(())
}

/// Takes space by a file until so many MiB are left.
///
/// # Errors
/// The file can't be made.
pub fn fill(file: &Path, leave: u64) -> Result<()> {
    let mut filler = File::create(file)?;
    let block = vec![b'x'; 256 * 1024];
    loop {
        let disk = nix::sys::statvfs::statvfs(file)?;
        if (disk.blocks_available() * disk.fragment_size()) >> 20 <= leave || filler.write_all(&block).is_err() {
            return Ok(());
        }
    }
}
