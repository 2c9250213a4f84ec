//! What jobs' directories held before their steps, so that a rerun begins there. What can't be restored is refused when the rerun is
//! asked for, or ends the job that was to begin with it; nothing begins with less than it had.

use segue_schemas::{
    config::Config,
    id::JobId,
    plan::StepPlan,
    worker_api::{KeepSnapshot, Restore, SnapshotRules},
};

use crate::store::{
    Result, SecretScope, Store, StoreError, Tx,
    tables::{
        blobs, jobs,
        jobs::Job,
        snapshots::{self, Begins, Snapshot},
    },
};

/// What is small enough to be kept unasked: packing it costs a few milliseconds a step.
const SMALL_BYTES: u64 = 8 << 20;
const SMALL_FILES: u64 = 2_000;
/// What is kept where a job asks for it, and how many of a job.
const MAX_BYTES: u64 = 512 << 20;
const PER_JOB: usize = 5;
/// The state that steps leave for one another is a few texts.
const MAX_STATE_BYTES: usize = 4 << 20;
/// Reruns of a rerun, each of which has the snapshots before its own beginning from the one before.
const MAX_CHAIN: usize = 100;
/// What states are sealed under.
const SEALED_AS: &str = "snapshot";

/// What workers are to keep; `None`: nothing.
pub(super) fn rules(config: &Config) -> Option<SnapshotRules> {
    let rules = SnapshotRules {
        small_bytes: SMALL_BYTES,
        small_files: SMALL_FILES,
        max_bytes: MAX_BYTES.min(config.retention.snapshots_max_mib << 20),
        per_job: PER_JOB,
    };
    (!config.retention.snapshots.0.is_zero() && rules.max_bytes > 0).then_some(rules)
}

impl Store {
    /// Keeps an uploaded content as what a job's directories held before a step.
    ///
    /// # Errors
    /// [`StoreError::Refused`] where the content is not here, or the state is too large.
    pub async fn keep_snapshot(&self, job: JobId, keep: KeepSnapshot) -> Result<()> {
        let bytes = match &keep.digest {
            Some(digest) => self.artifact_wanted(digest).await?.ok_or_else(|| {
                StoreError::Refused(format!("the content {digest} is not here: upload it, then name it"))
            })?,
            None => 0,
        };
        let state = keep.state.to_string();
        if state.len() > MAX_STATE_BYTES {
            return Err(StoreError::Refused(format!(
                "what the steps left for others has {} bytes, and {MAX_STATE_BYTES} are kept",
                state.len()
            )));
        }
        let sealed = keep.is_secret.then(|| self.inner.secrets.seal(&SecretScope::default(), SEALED_AS, &state));
        let snapshot = Snapshot {
            begins: Begins { job, step: keep.step },
            digest: keep.digest,
            bytes,
            is_sealed: sealed.is_some(),
            state: sealed.transpose()?.unwrap_or(state),
            artifacts: keep.artifacts,
        };
        let epoch = keep.epoch;
        self.write(move |tx| {
            Box::pin(async move {
                jobs::load_held(&mut tx.conn, job, epoch).await?;
                snapshots::put(&mut tx.conn, &snapshot, tx.now).await
            })
        })
        .await
    }
}

/// The job and the step that `JOB/STEP` names: the step by its id, its name, or its number from 1.
pub(super) fn locate<'j>(jobs: &'j [Job], text: &str) -> Result<(&'j Job, usize)> {
    let mut named: Vec<(&Job, &str)> = jobs
        .iter()
        .filter_map(|job| Some((job, text.strip_prefix(job.record.plan.key.as_str())?.strip_prefix('/')?)))
        .collect();
    // of `a` and `a/b`, the longer one is meant
    named.sort_by_key(|(job, _)| std::cmp::Reverse(job.record.plan.key.len()));
    for (job, step) in &named {
        if let Some(index) = step_of(&job.record.plan.steps, step) {
            return Ok((job, index));
        }
    }
    Err(StoreError::Refused(match named.first() {
        Some((job, step)) => {
            let plan = &job.record.plan;
            let steps: Vec<String> =
                plan.steps.iter().enumerate().map(|(n, step)| format!("{} ({})", n + 1, step.name)).collect();
            format!("job `{}` has no step `{step}`; its steps are {}", plan.key, steps.join(", "))
        }
        None => {
            let keys: Vec<&str> = jobs.iter().map(|job| job.record.plan.key.as_str()).collect();
            format!("`{text}` names no step: write JOB/STEP with one of the jobs {}", keys.join(", "))
        }
    }))
}

fn step_of(steps: &[StepPlan], text: &str) -> Option<usize> {
    let by_id = || steps.iter().position(|step| step.id.as_deref() == Some(text));
    let by_name = || steps.iter().position(|step| step.name == text);
    let by_number = || text.parse::<usize>().ok()?.checked_sub(1).filter(|index| *index < steps.len());
    by_id().or_else(by_name).or_else(by_number)
}

/// What a job begins with that is run again from a step; `None`: with nothing, as from its first.
pub(super) async fn before(tx: &mut Tx, job: &Job, step: usize) -> Result<Option<Snapshot>> {
    if step == 0 {
        return Ok(None);
    }
    let mut of = job.record.carried_from.unwrap_or(job.record.id);
    for _ in 0..MAX_CHAIN {
        if let Some(found) = snapshots::find(&mut tx.conn, Begins { job: of, step }).await? {
            if is_here(tx, &found).await? {
                return Ok(Some(found));
            }
            break;
        }
        // one that began with a snapshot itself has those before it from where that was taken
        match jobs::load(&mut tx.conn, of).await?.begins {
            Some(begins) => of = begins.job,
            None => break,
        }
    }
    Err(StoreError::Refused(format!(
        "what the directories of job `{}` held before its step {} is not kept: only the newest of a failed job are, for \
         `retention.snapshots`, and only small ones unless the job says `snapshots: true`; the end of its log says what was kept. \
         Run it again as a whole",
        job.record.plan.key,
        step + 1
    )))
}

async fn is_here(tx: &mut Tx, snapshot: &Snapshot) -> Result<bool> {
    match &snapshot.digest {
        Some(digest) => blobs::is_here(&mut tx.conn, digest).await,
        None => Ok(true),
    }
}

/// What a claim brings of the snapshot that its job begins with. Its content is kept until it is fetched.
///
/// # Errors
/// [`StoreError::Refused`] where it is gone.
pub(super) async fn restore(store: &Store, tx: &mut Tx, job: &Job) -> Result<Option<Restore>> {
    let Some(begins) = job.begins.filter(|_| job.record.next_step.is_none()) else { return Ok(None) };
    let gone = || StoreError::Refused("what its directories held before that step is not kept any more".into());
    let found = snapshots::find(&mut tx.conn, begins).await?.ok_or_else(gone)?;
    if !is_here(tx, &found).await? {
        return Err(gone());
    }
    if let Some(digest) = &found.digest {
        blobs::touch(&mut tx.conn, digest, found.bytes, tx.now).await?;
    }
    let corrupt =
        |error: serde_json::Error| StoreError::Corrupt { what: "snapshots.state".into(), problem: error.to_string() };
    let state = if found.is_sealed {
        let opened = store.inner.secrets.open(&SecretScope::default(), SEALED_AS, &found.state)?;
        serde_json::from_str(&opened).map_err(corrupt)?
    } else {
        serde_json::from_str(&found.state).map_err(corrupt)?
    };
    Ok(Some(Restore { digest: found.digest, bytes: found.bytes, state }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_named_by_its_id_its_name_or_its_number() {
        let step = |id: Option<&str>, name: &str| -> StepPlan {
            let run = serde_json::json!({"run": {"script": "true", "shell": "sh"}});
            serde_json::from_value(serde_json::json!({"id": id, "name": name, "action": run, "line": 1})).unwrap()
        };
        let steps = [step(Some("get"), "Get it"), step(None, "1"), step(Some("2"), "unit tests")];
        for (text, expected) in [
            ("get", Some(0)),
            ("Get it", Some(0)),
            ("1", Some(1)),
            ("2", Some(2)),
            ("3", Some(2)),
            ("unit tests", Some(2)),
            ("0", None),
            ("4", None),
            ("unit", None),
        ] {
            assert_eq!(step_of(&steps, text), expected, "{text}");
        }
    }
}
