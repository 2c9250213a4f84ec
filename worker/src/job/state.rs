//! What a job that goes on later needs and the server does not keep, in `DIR/state/<job>.json`.
//!
//! It holds masks, which are secrets, and is readable by the worker alone.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

/// What steps left for the steps after them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobState {
    /// Set through `$SEGUE_ENV`.
    pub env: IndexMap<String, String>,
    /// Put before `PATH` through `$SEGUE_PATH`, the last first.
    pub path: Vec<String>,
    /// Asked for by `::add-mask::`.
    pub masks: Vec<String>,
    /// Caches that are saved at the job's end.
    #[serde(default)]
    pub caches: Vec<PendingCache>,
    /// The names of the artifacts that the job has made.
    #[serde(default)]
    pub artifacts: Vec<String>,
    /// Summaries of steps that were kept.
    #[serde(default)]
    pub summaries: usize,
    /// How long the job has run, waiting not counted.
    pub elapsed_ms: u64,
    /// Where the job's directories lay, in what goes on elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
}

/// A cache that a step asked for, to be saved if the job succeeds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingCache {
    /// Its key.
    pub key: String,
    /// The digest of its paths.
    pub version: String,
    /// What it holds, from the job's directory.
    pub paths: Vec<String>,
}

impl JobState {
    /// For directories that lie elsewhere now: what names the former place names the new one.
    #[must_use]
    pub fn moved_to(mut self, root: &Path) -> Self {
        let Some(former) = self.root.take().filter(|former| !former.is_empty()) else { return self };
        let root = root.to_string_lossy();
        for value in self.env.values_mut().chain(&mut self.path) {
            *value = value.replace(&former, &root);
        }
        self
    }

    /// Writes it whole or not at all.
    ///
    /// # Errors
    /// Where it can't be written.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let temporary = path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    }

    /// Reads it; `None` where there is none that can be read.
    #[must_use]
    pub fn load(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }
}
