//! What jobs left here to go on with, and the word that one of them has ended without this worker: cancelled while it waited,
//! or ended by its rollout. Then nothing of it is needed any more.

use std::time::Duration;

use segue_schemas::worker_api::MAX_KEPT;
use tokio::time::sleep;

use crate::job::JobRunner;

/// How long the server holds its answer back while no job has ended.
const WAIT: Duration = Duration::from_secs(25);
/// Pause after an answer that brings nothing to do, or none.
const PAUSE: Duration = Duration::from_secs(5);

/// Asks for as long as something is kept; without, waits until something is.
pub(super) async fn forget_what_ended(runner: &JobRunner) {
    loop {
        let put_aside = runner.put_aside.notified();
        let kept = runner.kept();
        if kept.is_empty() {
            put_aside.await;
            continue;
        }
        // more than the server looks at: the oldest first, the others when those are gone
        let asked = &kept[..kept.len().min(MAX_KEPT)];
        let answer = tokio::select! {
            answer = runner.control_plane.ended_jobs(asked, WAIT) => answer,
            () = put_aside => continue,
        };
        match answer {
            Ok(ended) if !ended.jobs.is_empty() => {
                for job in ended.jobs {
                    tracing::info!(%job, "a job that was to go on here has ended; what it left is removed");
                    runner.forget_kept(job);
                }
            }
            Ok(_) => sleep(PAUSE).await,
            Err(error) => {
                tracing::debug!(%error, "whether kept jobs have ended is not known");
                sleep(PAUSE).await;
            }
        }
    }
}
