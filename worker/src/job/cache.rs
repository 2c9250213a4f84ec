//! `segue/cache`: restored where the step stands, saved once the job has succeeded.
//! <https://docs.github.com/en/actions/reference/workflows-and-actions/dependency-caching>

use std::{path::Path, time::Duration};

use indexmap::IndexMap;
use segue_schemas::worker_api::{FindCache, SaveCache};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::{
    built_in::{BuiltIn, BuiltInEnd, Inputs},
    context::Standing,
    error::StepError,
    state::PendingCache,
    steps::{Steps, at},
    workspace::Workspace,
};
use crate::{
    artifact::{CACHED_FOLDERS, Packed},
    engine::{Exit, Work},
};

pub const CACHE: &str = "segue/cache";

/// The longest key, and how many restore keys there may be. As at GitHub.
const MAX_KEY: usize = 512;
const MAX_RESTORE_KEYS: usize = 10;
/// The caches that one job saves.
const MAX_CACHES: usize = 10;
/// How long saving all of them may take; a job is not held up for longer.
const SAVE_LIMIT: Duration = Duration::from_secs(600);

impl BuiltIn<'_> {
    pub(super) async fn cache(&mut self, with: &IndexMap<String, String>) -> Result<BuiltInEnd, StepError> {
        let inputs = Inputs::of(CACHE, with, &["path", "key", "restore-keys", "lookup-only", "fail-on-cache-miss"])?;
        let paths = inputs.get("path").ok_or_else(|| inputs.missing("path", "what to keep, one path a line"))?;
        let key = inputs.get("key").ok_or_else(|| inputs.missing("key", "what tells one content from another"))?;
        let paths = paths
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .map(|path| placed(path, self.workspace).map_err(StepError::Configuration))
            .collect::<Result<Vec<_>, _>>()?;
        let restore_keys: Vec<String> = inputs.get("restore-keys").map_or_else(Vec::new, |keys| {
            keys.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
        });
        check_keys(key, &restore_keys).map_err(StepError::Configuration)?;
        let version = version(&paths);
        let (epoch, key) = (self.claim.epoch, key.to_owned());
        let find = FindCache { epoch, key: key.clone(), restore_keys, version: version.clone() };
        let found = self.control_plane.find_cache(self.claim.job, &find).await?;
        let exact = found.as_ref().is_some_and(|found| found.key == key);
        if !exact && self.caches.len() < MAX_CACHES && !self.caches.iter().any(|known| known.key == key) {
            self.caches.push(PendingCache { key: key.clone(), version, paths });
        }
        let Some(found) = found else {
            let text = format!("no cache has the key `{key}`, or begins with one of the restore keys");
            if inputs.get("fail-on-cache-miss") == Some("true") {
                return Ok(BuiltInEnd::Refused(text));
            }
            self.log.line(text).await;
            return Ok(BuiltInEnd::Done([("cache-hit".to_owned(), String::new())].into()));
        };
        let outputs = [("cache-hit", exact.to_string()), ("cache-matched-key", found.key.clone())];
        let outputs = outputs.map(|(name, value)| (name.to_owned(), value)).into();
        if inputs.get("lookup-only") == Some("true") {
            self.log.line(format!("Cache `{}` is there", found.key)).await;
            return Ok(BuiltInEnd::Done(outputs));
        }
        let (_private, file) = self.fetch(&found.digest, found.bytes).await?;
        match self.task(Work::Restore, Some(&file)).await? {
            Exit::Code(0) => {
                self.log.line(format!("Cache `{}` is restored, {} bytes", found.key, found.bytes)).await;
                Ok(BuiltInEnd::Done(outputs))
            }
            exit => Ok(BuiltInEnd::Failed(exit)),
        }
    }

    async fn save(&mut self, cache: PendingCache) -> Result<(), StepError> {
        let PendingCache { key, version, paths } = cache;
        let Some((digest, bytes)) = self.pack(Packed::Cache(paths)).await? else {
            self.log.line(format!("Cache `{key}` is not saved: there is nothing at its paths")).await;
            return Ok(());
        };
        let save = SaveCache { epoch: self.claim.epoch, key: key.clone(), version, digest };
        let saved = self.control_plane.save_cache(self.claim.job, &save).await?;
        let text = if saved.new {
            format!("Cache `{key}` is saved, {bytes} bytes")
        } else {
            format!("Cache `{key}` is there already, and stays as it is")
        };
        self.log.line(text).await;
        Ok(())
    }
}

impl Steps<'_> {
    /// Saves what the job's caches hold now, if it succeeded. What can't be saved is said in the log, and no failure.
    pub(super) async fn save_caches(&mut self) {
        let running = &mut self.running;
        let caches = std::mem::take(&mut running.state.caches);
        if caches.is_empty() || running.standing != Standing::Success {
            return;
        }
        let signs = running.lease.signs.clone();
        let until = running.deadline.min(Instant::now() + SAVE_LIMIT);
        let stop = running.runner.stop_now.clone();
        let interrupted = async {
            tokio::select! {
                () = signs.lost.cancelled() => {}
                () = signs.cancel.cancelled() => {}
                () = signs.ending.cancelled() => {}
                () = stop.cancelled() => {}
                () = at(Some(until)) => {}
            }
        };
        running.log.line("##[group]Save caches").await;
        let whole = tokio::select! {
            biased;
            () = async {
                for cache in caches {
                    let key = cache.key.clone();
                    let step = running.claim.plan.steps.len();
                    if let Err(error) = running.built_in(step).save(cache).await {
                        running.log.line(format!("##[warning]Cache `{key}` is not saved: {error}")).await;
                    }
                }
            } => true,
            () = interrupted => false,
        };
        if !whole {
            let _ = running.engine.kill(Duration::ZERO).await;
            running.log.line("##[warning]Saving was ended, because the job is, or its time").await;
        }
        running.log.line("##[endgroup]").await;
    }
}

/// A path of a cache, from the job's directory: `~/x` is below its home, anything else below its workspace.
fn placed(path: &str, workspace: &Workspace) -> Result<String, String> {
    let (sign, plain) = path.strip_prefix('!').map_or(("", path), |rest| ("!", rest.trim_start()));
    let [work, home] = CACHED_FOLDERS;
    let below =
        |root: &Path| Path::new(plain).strip_prefix(root).ok().map(|inside| inside.to_string_lossy().into_owned());
    let (folder, inside) = if plain == "~" {
        (home, String::new())
    } else if let Some(inside) = plain.strip_prefix("~/") {
        (home, inside.to_owned())
    } else if let Some(inside) = below(&workspace.work()) {
        (work, inside)
    } else if let Some(inside) = below(&workspace.home()) {
        (home, inside)
    } else if plain.starts_with('/') || plain.starts_with('~') {
        return Err(format!("input `path` of `{CACHE}`: `{path}` is neither in the workspace nor below `~/`"));
    } else {
        (work, plain.to_owned())
    };
    if inside.split('/').any(|part| part == "..") {
        return Err(format!("input `path` of `{CACHE}`: `{path}` leads out; write it without `..`"));
    }
    Ok(format!("{sign}{folder}/{inside}"))
}

/// Which caches fit: those of the same paths.
fn version(paths: &[String]) -> String {
    hex::encode(Sha256::digest(format!("1\n{}", paths.join("\n"))))
}

fn check_keys(key: &str, restore_keys: &[String]) -> Result<(), String> {
    if restore_keys.len() > MAX_RESTORE_KEYS {
        return Err(format!(
            "input `restore-keys` of `{CACHE}`: {} keys, and {MAX_RESTORE_KEYS} are the limit",
            restore_keys.len()
        ));
    }
    for key in restore_keys.iter().map(String::as_str).chain([key]) {
        if key.len() > MAX_KEY || key.contains(',') || key.chars().any(char::is_control) {
            return Err(format!(
                "the key `{}` of `{CACHE}` can't be used; write at most {MAX_KEY} bytes on one line, without a comma",
                super::steps::short(key, 80)
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lie_in_the_workspace_or_at_home() {
        let workspace = Workspace::at("/jobs/1".into(), None);
        for (path, expected) in [
            ("target", "work/target"),
            ("~/.cargo/registry", "home/.cargo/registry"),
            ("~", "home/"),
            ("!target/tmp", "!work/target/tmp"),
            ("/jobs/1/work/target", "work/target"),
            ("/jobs/1/home/.npm", "home/.npm"),
        ] {
            assert_eq!(placed(path, &workspace).unwrap(), expected);
        }
        for path in ["/etc", "~root", "../x", "~/../commands", "/jobs/1/commands", "a/../../b"] {
            placed(path, &workspace).unwrap_err();
        }
    }

    #[test]
    fn keys_are_short_and_plain() {
        assert!(check_keys("linux-abc", &["linux-".into()]).is_ok());
        assert!(check_keys(&"x".repeat(513), &[]).is_err());
        assert!(check_keys("a,b", &[]).is_err());
        assert!(check_keys("a", &vec!["b".into(); 11]).is_err());
    }
}
