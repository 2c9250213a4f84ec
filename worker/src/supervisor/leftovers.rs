//! Processes of jobs whose keeper is gone. A job's keeper ends all that the job started, but one that was killed itself could
//! not; what is left is known by the workspace that stands in its environment.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use nix::sys::signal::Signal;

use super::descendants::{Process, all, send};

/// The variable that names a job's workspace in the environment of its steps.
const WORKSPACE: &str = "SEGUE_WORKSPACE=";
/// Rounds of looking, against processes that fork while they are killed.
const MAX_ROUNDS: usize = 32;

/// Kills every process of one of these users whose environment names a workspace below `workspaces`. Gives their numbers, with
/// the names of the jobs' directories.
pub fn kill(workspaces: &Path, uids: &[u32]) -> Vec<(i32, String)> {
    let mut killed = Vec::new();
    for _ in 0..MAX_ROUNDS {
        let found: Vec<(Process, String)> =
            all().filter_map(|process| Some((process, job_of(process.pid, workspaces, uids)?))).collect();
        if found.is_empty() {
            break;
        }
        for (process, job) in found {
            send(process, Signal::SIGKILL);
            if !killed.contains(&(process.pid, job.clone())) {
                killed.push((process.pid, job));
            }
        }
    }
    killed
}

/// The job's directory that a process of one of the users names as its workspace. A zombie has no environment.
fn job_of(pid: i32, workspaces: &Path, uids: &[u32]) -> Option<String> {
    let proc = Path::new("/proc").join(pid.to_string());
    let owner = fs::metadata(&proc).ok()?.uid();
    let environment = fs::read(proc.join("environ")).ok().filter(|_| uids.contains(&owner))?;
    let named = environment.split(|byte| *byte == 0).find_map(|one| one.strip_prefix(WORKSPACE.as_bytes()))?;
    let below = Path::new(std::str::from_utf8(named).ok()?).strip_prefix(workspaces).ok()?;
    Some(below.components().next()?.as_os_str().to_string_lossy().into_owned())
}
