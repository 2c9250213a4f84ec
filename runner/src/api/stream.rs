//! Server-sent events. A stream holds a position (what it has shown, or an offset), never a queue: it listens to a bell,
//! looks, and sends the difference. A reader that is slow sees the newest state later and costs nothing meanwhile.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};

use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::{
    future::select_all,
    stream::{Stream, unfold},
};
use segue_schemas::{
    api::{JobView, LogChunk, LogEnd, RolloutEvent, RunEvent, RunSummary},
    deploy::Rollout,
    id::{JobId, RolloutId, RunId},
};
use serde::Serialize;

use super::{App, error::Result, jobs, views};
use crate::{
    log_store::Follower,
    store::{Bell, JobRecord, Listener, LogRecord},
};

/// Bytes of log in one event.
const CHUNK_BYTES: usize = 64 * 1024;
/// Silence after which a comment is sent, so that nothing in between takes the connection for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

type Events<S> = Sse<axum::response::sse::KeepAliveStream<S>>;

/// A run's changes.
pub async fn run_events(
    app: Arc<App>,
    id: RunId,
) -> Result<Events<impl Stream<Item = std::result::Result<Event, Infallible>>>> {
    let mut follower = RunFollower {
        bell: app.store.doorbell().listen(Bell::Run(id)),
        app,
        id,
        run: None,
        jobs: HashMap::new(),
        rollouts: Vec::new(),
        ready: VecDeque::new(),
        ended: false,
    };
    // one that is not there is answered as such, not by a stream
    follower.look().await?;
    Ok(sse(unfold(follower, async |mut follower| follower.next().await.map(|event| (event, follower)))))
}

struct RunFollower {
    app: Arc<App>,
    id: RunId,
    bell: Listener,
    run: Option<RunSummary>,
    jobs: HashMap<JobId, JobView>,
    rollouts: Vec<(Listener, Rollout)>,
    /// What the last look found, at most the state of one attempt.
    ready: VecDeque<RunEvent>,
    ended: bool,
}

impl RunFollower {
    async fn next(&mut self) -> Option<Sent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                let kind = match &event {
                    RunEvent::Run(_) => "run",
                    RunEvent::Job(_) => "job",
                    RunEvent::Gone(_) => "gone",
                    RunEvent::Rollout(_) => "rollout",
                    RunEvent::End(_) => "end",
                };
                return Some(sent(kind, &event));
            }
            if self.ended {
                return None;
            }
            tokio::select! {
                () = rung(&mut self.bell, &mut self.rollouts) => {}
                () = self.app.stopping.cancelled() => return None,
            }
            if let Err(error) = self.look().await {
                tracing::debug!(run = %self.id, ?error, "a stream ends");
                return None;
            }
        }
    }

    /// Compares the run with what was shown of it.
    async fn look(&mut self) -> Result<()> {
        let detail = self.app.store.run_detail(self.id, None).await?;
        let run = views::run(detail.run.clone());
        let rollouts = detail.rollouts.clone();
        if self.run.as_ref() != Some(&run) {
            self.ready.push_back(RunEvent::Run(run.clone()));
        }
        let jobs = views::jobs(detail);
        // the jobs of an earlier attempt are shown no more, and nobody is told
        self.jobs.retain(|_, job| job.attempt == run.attempt);
        let there: HashSet<JobId> = jobs.iter().map(|job| job.id).collect();
        let gone = self.jobs.extract_if(|id, _| !there.contains(id));
        self.ready.extend(gone.map(|(id, _)| RunEvent::Gone(id)));
        for job in jobs {
            if self.jobs.get(&job.id) != Some(&job) {
                self.ready.push_back(RunEvent::Job(Box::new(job.clone())));
                self.jobs.insert(job.id, job);
            }
        }
        self.look_at_rollouts(&rollouts).await?;
        if run.status.is_final() {
            self.ended = true;
            self.ready.push_back(RunEvent::End(run.clone()));
        }
        self.run = Some(run);
        Ok(())
    }

    async fn look_at_rollouts(&mut self, ids: &[RolloutId]) -> Result<()> {
        for &id in ids {
            let known = self.rollouts.iter().position(|(_, rollout)| rollout.id == id);
            // listened to before it is looked at
            let bell = known.is_none().then(|| self.app.store.doorbell().listen(Bell::Rollout(id)));
            let rollout = views::rollout(self.app.store.rollout(id).await?.rollout);
            match (known, bell) {
                (Some(at), _) if self.rollouts[at].1 == rollout => continue,
                (Some(at), _) => self.rollouts[at].1 = rollout.clone(),
                (None, Some(bell)) => self.rollouts.push((bell, rollout.clone())),
                (None, None) => continue,
            }
            self.ready.push_back(RunEvent::Rollout(Box::new(rollout)));
        }
        Ok(())
    }
}

/// Returns when the run's bell or one of its rollouts' rings.
async fn rung(run: &mut Listener, rollouts: &mut [(Listener, Rollout)]) {
    let all = rollouts.iter_mut().map(|(bell, _)| bell).chain([run]).map(|bell| Box::pin(bell.rung()));
    select_all(all).await;
}

/// A rollout's changes and its journal.
pub async fn rollout_events(
    app: Arc<App>,
    id: RolloutId,
) -> Result<Events<impl Stream<Item = std::result::Result<Event, Infallible>>>> {
    let bell = app.store.doorbell().listen(Bell::Rollout(id));
    let mut follower =
        RolloutFollower { bell, app, id, shown: None, sequence: 0, ready: VecDeque::new(), ended: false };
    follower.look().await?;
    Ok(sse(unfold(follower, async |mut follower| follower.next().await.map(|event| (event, follower)))))
}

struct RolloutFollower {
    app: Arc<App>,
    id: RolloutId,
    bell: Listener,
    shown: Option<Rollout>,
    /// The last journal entry that was shown.
    sequence: i64,
    ready: VecDeque<RolloutEvent>,
    ended: bool,
}

impl RolloutFollower {
    async fn next(&mut self) -> Option<Sent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                let kind = match &event {
                    RolloutEvent::Rollout(_) => "rollout",
                    RolloutEvent::Journal(_) => "journal",
                    RolloutEvent::End(_) => "end",
                };
                return Some(sent(kind, &event));
            }
            if self.ended {
                return None;
            }
            tokio::select! {
                () = self.bell.rung() => {}
                () = self.app.stopping.cancelled() => return None,
            }
            if let Err(error) = self.look().await {
                tracing::debug!(rollout = %self.id, ?error, "a stream ends");
                return None;
            }
        }
    }

    async fn look(&mut self) -> Result<()> {
        // the rollout first: a journal that is read later holds all that led to it
        let rollout = views::rollout(self.app.store.rollout(self.id).await?.rollout);
        for entry in self.app.store.journal(self.id, self.sequence).await? {
            self.sequence = self.sequence.max(entry.sequence);
            self.ready.push_back(RolloutEvent::Journal(entry));
        }
        if self.shown.as_ref() != Some(&rollout) {
            self.ready.push_back(RolloutEvent::Rollout(Box::new(rollout.clone())));
        }
        if rollout.status.is_final() {
            self.ended = true;
            self.ready.push_back(RolloutEvent::End(Box::new(rollout.clone())));
        }
        self.shown = Some(rollout);
        Ok(())
    }
}

/// A job's log from an offset on, until the job has ended and all of it was sent.
pub fn log_events(
    app: Arc<App>,
    job: JobRecord,
    offset: u64,
) -> Events<impl Stream<Item = std::result::Result<Event, Infallible>>> {
    let bell = app.store.doorbell().listen(Bell::Run(job.run));
    let follower = LogFollower { app, id: job.id, bell, offset, log: None, ended: false };
    sse(unfold(follower, async |mut follower| match follower.next().await {
        Ok(event) => event.map(|event| (event, follower)),
        Err(error) => {
            tracing::debug!(job = %follower.id, ?error, "a stream ends");
            None
        }
    }))
}

struct LogFollower {
    app: Arc<App>,
    id: JobId,
    bell: Listener,
    offset: u64,
    /// Where the log lies and who tells of more, once there is one.
    log: Option<(LogRecord, Follower)>,
    ended: bool,
}

impl LogFollower {
    async fn next(&mut self) -> Result<Option<Sent>> {
        if self.ended {
            return Ok(None);
        }
        loop {
            // the status first: what is read of the log later is all of it
            let job = self.app.store.job(self.id).await?;
            let is_final = job.status.is_final();
            if let Some(event) = self.chunk(is_final).await? {
                return Ok(Some(event));
            }
            if is_final {
                self.ended = true;
                return Ok(Some(sent("end", &LogEnd { offset: self.offset, status: job.status })));
            }
            if !self.more().await {
                return Ok(None);
            }
        }
    }

    /// The next chunk, if there are bytes past the offset.
    async fn chunk(&mut self, is_whole: bool) -> Result<Option<Sent>> {
        if self.log.is_none() {
            let Some(log) = self.app.store.job_log(self.id).await? else { return Ok(None) };
            jobs::still_there(&log)?;
            let follower = self.app.store.logs().follow(self.id, &log.path)?;
            self.log = Some((log, follower));
        }
        let Some((log, follower)) = &mut self.log else { return Ok(None) };
        follower.looks();
        let bytes = self.app.store.logs().read(log.job, &log.path, self.offset, CHUNK_BYTES).await?;
        let is_end = is_whole && bytes.len() < CHUNK_BYTES;
        let whole = &bytes[..whole_characters(&bytes, is_end)];
        if whole.is_empty() {
            return Ok(None);
        }
        let chunk = LogChunk { offset: self.offset, text: String::from_utf8_lossy(whole).into_owned() };
        self.offset += whole.len() as u64;
        Ok(Some(sent("log", &chunk).map(|event| event.id(self.offset.to_string()))))
    }

    /// Waits for more; `false` when the server stops.
    async fn more(&mut self) -> bool {
        let grown = async {
            match &mut self.log {
                Some((_, follower)) => follower.grown().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = grown => true,
            () = self.bell.rung() => true,
            () = self.app.stopping.cancelled() => false,
        }
    }
}

/// How many of the bytes end with a whole character; all of them where nothing follows.
fn whole_characters(bytes: &[u8], is_end: bool) -> usize {
    if is_end {
        return bytes.len();
    }
    // a character that began within the last three bytes and needs more than there are
    for back in 1..=bytes.len().min(3) {
        let byte = bytes[bytes.len() - back];
        let needs = match byte {
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf7 => 4,
            0x80..=0xbf => continue,
            _ => return bytes.len(),
        };
        return if needs > back { bytes.len() - back } else { bytes.len() };
    }
    bytes.len()
}

type Sent = std::result::Result<Event, Infallible>;

fn sent(kind: &'static str, data: &impl Serialize) -> Sent {
    let event = Event::default().event(kind);
    Ok(match serde_json::to_string(data) {
        Ok(text) => event.data(text),
        Err(error) => event.comment(format!("this can't be shown: {error}")),
    })
}

fn sse<S: Stream<Item = Sent> + Send + 'static>(stream: S) -> Events<S> {
    Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}

#[cfg(test)]
mod tests {
    use super::whole_characters;

    #[test]
    fn a_chunk_ends_with_a_whole_character() {
        let text = "aä€🦀".as_bytes();
        for (bytes, whole) in [(1, 1), (2, 1), (3, 3), (4, 3), (5, 3), (6, 6), (7, 6), (8, 6), (9, 6), (10, 10)] {
            assert_eq!(whole_characters(&text[..bytes], false), whole, "{bytes}");
            assert_eq!(whole_characters(&text[..bytes], true), bytes);
        }
        // what is no character is not waited for
        assert_eq!(whole_characters(&[b'a', 0x80, 0x80, 0x80, 0x80], false), 5);
        assert_eq!(whole_characters(&[0xff], false), 1);
        assert_eq!(whole_characters(&[], false), 0);
    }
}
