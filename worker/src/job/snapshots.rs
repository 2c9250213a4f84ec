//! What a job's directories held before its steps, so that a rerun can begin there. Packed before each step but the first where it is
//! small, or the job asks for it; told to the server at the end of a job that failed, or asked. What is left out is said in the log.
//! Whatever goes wrong here fails no job.

use std::{
    collections::VecDeque,
    fs::{self, File},
    path::PathBuf,
    time::Duration,
};

use segue_schemas::{
    status::FailureClass,
    worker_api::{KeepSnapshot, Restore, SnapshotRules},
};
use tokio::time::Instant;

use super::{
    built_in::{PrivateFile, blocking},
    context::Standing,
    error::StepError,
    run::Ended,
    state::JobState,
    steps::{Steps, at},
};
use crate::{
    artifact::{CACHED_FOLDERS, Packed},
    engine::{Exit, Work},
};

/// The most files and directories of what a job asks to be kept.
const MAX_FILES: u64 = 500_000;
/// How long keeping all of them may take at a job's end.
const KEEP_LIMIT: Duration = Duration::from_secs(300);

/// What was packed so far, the oldest first, and what was not.
#[derive(Default)]
pub(super) struct Snapshots {
    taken: VecDeque<Taken>,
    /// Why there is none before the newest step that has none.
    left_out: Option<String>,
}

struct Taken {
    step: usize,
    name: String,
    /// `None`: the directories were empty.
    packed: Option<(PrivateFile, File)>,
    state: JobState,
}

impl Steps<'_> {
    /// Packs what the job's directories hold before a step, if that is to be kept.
    pub(super) async fn take_snapshot(&mut self, step: usize) {
        let running = &mut self.running;
        let Some(rules) = running.runner.registered.snapshots else { return };
        // who runs again from a step wants those before it to have gone well
        if step == 0 || running.standing != Standing::Success {
            return;
        }
        let name = running.claim.plan.steps[step].name.clone();
        let held = match measure(running.workspace.root().to_owned(), bounds(rules, running.claim.plan.snapshots)).await
        {
            Ok(held) => held,
            Err(reason) => {
                self.snapshots.left_out = Some(format!("before step {} ({name}): {reason}", step + 1));
                return;
            }
        };
        let interrupted = self.interruption();
        let running = &mut self.running;
        let mut built_in = running.built_in(step);
        let packing = async {
            if held == 0 {
                return Ok(None);
            }
            let all = CACHED_FOLDERS.map(|folder| format!("{folder}/")).to_vec();
            built_in.pack_into("snapshot", Packed::Cache(all)).await
        };
        let packed = tokio::select! {
            biased;
            packed = packing => packed,
            _ = interrupted => {
                // the step itself meets what interrupted this
                let _ = self.running.engine.kill(Duration::ZERO).await;
                return;
            }
        };
        match packed {
            Ok(packed) => {
                let root = Some(self.running.workspace.root().to_string_lossy().into_owned());
                let state = JobState { elapsed_ms: 0, root, ..self.running.state.clone() };
                self.snapshots.taken.push_back(Taken { step, name, packed, state });
                while self.snapshots.taken.len() > rules.per_job {
                    self.snapshots.taken.pop_front();
                }
            }
            Err(error) => self.snapshots.left_out = Some(format!("before step {} ({name}): {error}", step + 1)),
        }
    }

    /// Tells the server what was packed, where the job failed or asks for it.
    pub(super) async fn keep_snapshots(&mut self) {
        let Snapshots { taken, left_out } = std::mem::take(&mut self.snapshots);
        let running = &mut self.running;
        let is_wanted = match running.standing {
            Standing::Failure => true,
            Standing::Success => running.claim.plan.snapshots,
            Standing::Cancelled => false,
        };
        if !is_wanted || (taken.is_empty() && left_out.is_none()) {
            return;
        }
        let signs = running.lease.signs.clone();
        let until = Instant::now() + KEEP_LIMIT;
        let stop = running.runner.stop_now.clone();
        let interrupted = async {
            tokio::select! {
                () = signs.lost.cancelled() => {}
                () = signs.ending.cancelled() => {}
                () = stop.cancelled() => {}
                () = at(Some(until)) => {}
            }
        };
        let mut kept = Vec::new();
        let keeping = async {
            for one in taken {
                let named = format!("{} ({})", one.step + 1, one.name);
                match running.keep(one).await {
                    Ok(()) => kept.push(named),
                    Err(error) => {
                        let text = format!("##[warning]The workspace before step {named} could not be kept: {error}");
                        running.log.line(text).await;
                    }
                }
            }
        };
        tokio::select! {
            biased;
            () = keeping => {}
            () = interrupted => {}
        }
        let running = &self.running;
        if !kept.is_empty() {
            let (run, key) = (running.claim.run, &running.claim.plan.key);
            let text =
                format!("Kept for a rerun from a step (`segue rerun {run} --from {key}/STEP`): {}", kept.join(", "));
            running.log.line(text).await;
        }
        if let Some(left_out) = left_out {
            running.log.line(format!("No snapshot of the workspace was kept {left_out}")).await;
        }
    }

    /// Puts the directories back as they were before the step that the job begins with; `Some`: that can't be.
    pub(super) async fn restore_snapshot(&mut self) -> Option<Ended> {
        let running = &mut self.running;
        let restore = running.claim.restore.as_ref()?;
        let step = running.claim.resume.as_ref().map_or(0, |resume| resume.next_step);
        let error = match running.restore(restore, step).await {
            Ok(()) => {
                let text = format!(
                    "The workspace is as it was before step {}; the steps before it are not run again.",
                    step + 1
                );
                running.log.line(text).await;
                return None;
            }
            Err(StepError::ControlPlane(error)) if error.is_stale_epoch() => return Some(Ended::Lost),
            Err(error) => error,
        };
        running.log.line(format!("##[error]The workspace could not be put back: {error}")).await;
        running.standing = Standing::Failure;
        let reason = format!("the workspace as it was before step {} could not be put back: {error}", step + 1);
        running.failure.get_or_insert((FailureClass::Infrastructure, reason));
        Some(Ended::Done)
    }
}

impl super::run::Running<'_> {
    async fn keep(&mut self, taken: Taken) -> Result<(), StepError> {
        let Taken { step, packed, state, .. } = taken;
        let digest = match packed {
            Some((private, file)) => Some(self.built_in(step).upload_packed(&private, file).await?.0),
            None => None,
        };
        let is_secret = !(state.masks.is_empty() && state.env.is_empty() && state.path.is_empty());
        let artifacts = state.artifacts.clone();
        let state = serde_json::to_value(&state).map_err(|error| StepError::Infrastructure(error.to_string()))?;
        let keep = KeepSnapshot { epoch: self.claim.epoch, step, digest, state, is_secret, artifacts };
        Ok(self.runner.control_plane.keep_snapshot(self.claim.job, &keep).await?)
    }

    async fn restore(&mut self, restore: &Restore, step: usize) -> Result<(), StepError> {
        let Some(digest) = &restore.digest else { return Ok(()) };
        let mut built_in = self.built_in(step);
        let (_private, file) = built_in.fetch(digest, restore.bytes).await?;
        match built_in.task(Work::Restore, Some(&file)).await? {
            Exit::Code(0) => Ok(()),
            _ => Err(StepError::Infrastructure("it can't be unpacked; the log says why".into())),
        }
    }
}

/// The most bytes and the most files that are kept.
const fn bounds(rules: SnapshotRules, is_asked: bool) -> (u64, u64) {
    if is_asked { (rules.max_bytes, MAX_FILES) } else { (rules.small_bytes, rules.small_files) }
}

/// How many files and directories the job's directories hold; why they are not kept where that, or their bytes, is too much.
async fn measure(root: PathBuf, (max_bytes, max_files): (u64, u64)) -> Result<u64, String> {
    let look = move || {
        let (mut files, mut bytes) = (0_u64, 0_u64);
        let mut open: Vec<PathBuf> = CACHED_FOLDERS.iter().map(|folder| root.join(folder)).collect();
        while let Some(directory) = open.pop() {
            let entries = fs::read_dir(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
            for entry in entries.flatten() {
                files += 1;
                // neither follows a link; what is gone meanwhile is no matter
                let Ok(metadata) = entry.metadata() else { continue };
                if metadata.is_dir() {
                    open.push(entry.path());
                } else {
                    bytes = bytes.saturating_add(metadata.len());
                }
                if files > max_files || bytes > max_bytes {
                    return Err(format!(
                        "it holds more than {} MiB or {max_files} files{}",
                        max_bytes >> 20,
                        if max_files < MAX_FILES { " (`snapshots: true` in the job keeps more)" } else { "" }
                    ));
                }
            }
        }
        Ok(files)
    };
    blocking(look).await.unwrap_or_else(|error| Err(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steps_left_names_the_place_where_the_directories_lie_now() {
        let state = JobState {
            env: [("HERE".to_owned(), "/w/1/home/x:/w/1/work".to_owned()), ("OTHER".into(), "/w".into())].into(),
            path: vec!["/w/1/home/tools".into(), "/usr/games".into()],
            root: Some("/w/1".into()),
            ..JobState::default()
        };
        let moved = state.moved_to(std::path::Path::new("/v/2"));
        assert_eq!(moved.env["HERE"], "/v/2/home/x:/v/2/work");
        assert_eq!((moved.env["OTHER"].as_str(), moved.root), ("/w", None));
        assert_eq!(moved.path, ["/v/2/home/tools", "/usr/games"]);
    }

    #[tokio::test]
    async fn what_is_too_large_is_told_and_a_link_leads_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        for name in CACHED_FOLDERS {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let root = || folder.path().to_owned();
        assert_eq!(measure(root(), (10, 10)).await, Ok(0));
        std::os::unix::fs::symlink("/", folder.path().join("work/everything")).unwrap();
        fs::create_dir_all(folder.path().join("work/a/b")).unwrap();
        fs::write(folder.path().join("work/a/b/c"), "1234").unwrap();
        assert_eq!(measure(root(), (10, 10)).await, Ok(4));
        assert!(measure(root(), (4, 10)).await.unwrap_err().contains("more than 0 MiB or 10 files"));
        assert!(measure(root(), (10, 3)).await.unwrap_err().contains("or 3 files (`snapshots: true`"));
    }
}
