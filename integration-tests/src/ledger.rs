//! Pushes whose jobs leave a line each in a file, so that one that did not run shows, and one that ran twice as well.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _, path::PathBuf, time::Duration};

use anyhow::{Result, ensure};
use segue_schemas::status::RunStatus;

use crate::stand::Stand;

/// The file, and what was pushed.
pub struct Ledger {
    file: PathBuf,
    pushed: Vec<(String, String)>,
}

impl Ledger {
    /// An empty one, in the folder of a stand.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn open(stand: &Stand) -> Result<Self> {
        let file = stand.folder().join("ledger");
        fs::write(&file, "")?;
        // jobs run as another user
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666))?;
        Ok(Self { file, pushed: Vec::new() })
    }

    /// Pushes some commits, one after the other.
    ///
    /// # Errors
    /// git or the webhook refuses.
    pub async fn push(&mut self, stand: &Stand, count: usize) -> Result<()> {
        for _ in 0..count {
            let number = self.pushed.len();
            let pipeline = format!(
                "on: push\njobs:\n  note:\n    runs-on: [linux]\n    steps:\n      - run: echo \"$SHA\" >> {}\n        env:\n          \
                 SHA: ${{{{ github.sha }}}}\n",
                self.file.display()
            );
            let text = number.to_string();
            let files = [(".segue/pipelines/note.yml", pipeline.as_str()), ("number", text.as_str())];
            let commit = stand.repository.commit(&format!("number {number}"), &files)?;
            self.pushed.push((stand.push("main").await?, commit));
        }
        Ok(())
    }

    /// The deliveries of what was pushed.
    #[must_use]
    pub fn deliveries(&self) -> Vec<String> {
        self.pushed.iter().map(|(guid, _)| guid.clone()).collect()
    }

    /// Waits until everything that was pushed has run, and looks whether each ran once.
    ///
    /// # Errors
    /// Something is lost, doubled or failed.
    pub async fn settle(&self, stand: &Stand, limit: Duration) -> Result<()> {
        let api = stand.api()?;
        for (guid, _) in &self.pushed {
            let view = api.run_of(guid, limit).await?;
            ensure!(view.run.status == RunStatus::Succeeded, "{view:#?}");
        }
        let noted = fs::read_to_string(&self.file)?;
        let lines: Vec<&str> = noted.lines().collect();
        let commits: BTreeSet<&str> = self.pushed.iter().map(|(_, commit)| commit.as_str()).collect();
        ensure!(
            lines.iter().copied().collect::<BTreeSet<_>>() == commits,
            "not every push ran: {lines:#?}, {commits:#?}"
        );
        ensure!(lines.len() == commits.len(), "a push ran twice: {lines:#?}");
        Ok(())
    }
}
