//! nginx's processes: the master by its file, and which of its workers are on their way out.

use std::{collections::HashSet, path::Path};

/// The master's process, if it lives.
pub(super) fn master(file: &Path) -> Option<u32> {
    let pid = std::fs::read_to_string(file).ok()?.trim().parse().ok()?;
    parent_of(pid).map(|_| pid)
}

/// The processes whose parent is `master`.
pub(super) fn workers(master: u32) -> HashSet<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| parent_of(*pid) == Some(master)).collect()
}

/// Whether a worker takes no connection any more and ends with the last of those that it has; one that is gone does so as well.
pub(super) fn is_leaving(worker: u32) -> bool {
    match std::fs::read(format!("/proc/{worker}/cmdline")) {
        Ok(title) => says_leaving(&title),
        Err(_) => true,
    }
}

/// nginx writes it into its title: `nginx: worker process is shutting down`.
fn says_leaving(title: &[u8]) -> bool {
    title.is_empty() || String::from_utf8_lossy(title).contains("is shutting down")
}

/// The fourth field of `/proc/PID/stat`, proc(5); `None` for one that is gone or only not yet fetched by its parent.
fn parent_of(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut words = rest.split(' ');
    let state = words.next()?;
    if state == "Z" { None } else { words.next()?.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_found_by_its_parent_and_a_title_tells_who_leaves() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(workers(std::process::id()).contains(&child.id()));
        // it has no title for the moment in which it becomes another program
        let begun = std::time::Instant::now();
        while is_leaving(child.id()) {
            assert!(begun.elapsed() < std::time::Duration::from_secs(10), "it runs, and has a title");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        assert_eq!(master(&file), None);
        std::fs::write(&file, format!("{}\n", child.id())).unwrap();
        assert_eq!(master(&file), Some(child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_leaving(child.id()) && master(&file).is_none());
        for (title, leaves) in
            [(&b"nginx: worker process\0"[..], false), (b"nginx: worker process is shutting down\0", true), (b"", true)]
        {
            assert_eq!(says_leaving(title), leaves);
        }
    }
}
