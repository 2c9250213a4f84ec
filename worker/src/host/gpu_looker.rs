//! Who looks at the GPUs of an engine on another machine: `nvidia-smi`, run there in a container that sees all of them. It is made when somebody
//! asks, is asked again while it is young, and goes with the next pause. A container may lose the GPUs that its machine still has, so bad news
//! is believed from a new one alone, and that there are fewer than before from a second new one: half an answer reads the same. An engine that does
//! not answer, or has not got the image yet, is no fault of the GPUs': then nothing is known.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use segue_pipelines::gpu::{SmiFault, not_run, not_started};
use segue_schemas::status::FailureClass;
use tokio::time::{Instant, sleep};

use super::{
    containers::{LABEL_HOST, LABEL_ROLE, ROLE_LOOKER, engine_name, engine_owner, looker_name},
    state::Store,
};
use crate::{
    engine::docker::{Answer, Docker, DockerError, LookerSpec, Say},
    gpu::{Asked, LIMIT, MOST_BYTES, Tool},
};

/// How long one is asked. What it has lost meanwhile is seen by the next.
const ASKED_FOR: Duration = Duration::from_secs(60);

/// After how long one has gone by itself, whatever became of its host: it outlives the last question.
const LIVES: Duration = Duration::from_secs(ASKED_FOR.as_secs() + 2 * LIMIT.as_secs());

/// One that somebody else removes has gone after so many pauses.
const GONE_AFTER: (Duration, u32) = (Duration::from_millis(100), 50);

/// What looks.
pub(super) struct Looker(Arc<Inner>, Asked);

struct Inner {
    docker: Arc<Docker>,
    store: Arc<Store>,
    /// By what the host is known at an engine that knows nothing of it yet.
    own: String,
    image: String,
    standing: tokio::sync::Mutex<Standing>,
    /// Held while the image is brought; and why it could not be, the last time.
    bringing: Arc<tokio::sync::Mutex<()>>,
    not_brought: Mutex<Option<SmiFault>>,
    /// The names of those that are there or about to be: nobody sweeps them away.
    names: Mutex<Vec<String>>,
}

#[derive(Default)]
struct Standing {
    there: Option<One>,
    /// One that could not be removed.
    left: Option<One>,
    /// How many GPUs the last answer told of.
    gpus: usize,
}

/// One container.
struct One {
    name: String,
    id: String,
    until: Instant,
    /// What of it hung: its start or a question, for how long.
    hung: Option<Duration>,
}

impl std::fmt::Debug for Looker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Looker").field("image", &self.0.image).finish_non_exhaustive()
    }
}

impl Looker {
    pub(super) fn new(docker: Arc<Docker>, store: Arc<Store>, own: String, image: String) -> Self {
        let (standing, names) = (tokio::sync::Mutex::default(), Mutex::default());
        let (bringing, not_brought) = (Arc::default(), Mutex::default());
        let inner = Inner { docker, store, own, image, standing, bringing, not_brought, names };
        Self(Arc::new(inner), Asked::default())
    }

    /// Whether one of this name is at work.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.names().iter().any(|known| known == name)
    }
}

impl Inner {
    fn names(&self) -> MutexGuard<'_, Vec<String>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn not_brought(&self) -> MutexGuard<'_, Option<SmiFault>> {
        self.not_brought.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the engine has the image. Where it has not, it is brought by a task of its own, and nobody waits for that.
    async fn see_image(self: &Arc<Self>) -> Result<(), SmiFault> {
        if self.docker.has_looker_image(&self.image).await.map_err(|error| of_engine(&error))? {
            return Ok(());
        }
        let comes = || SmiFault::Unasked { said: format!("the image {} is being brought to the engine", self.image) };
        let fault = self.not_brought().clone().unwrap_or_else(comes);
        if let Ok(turn) = self.bringing.clone().try_lock_owned() {
            let inner = self.clone();
            tokio::spawn(async move {
                let brought = inner.docker.bring_looker_image(&inner.image, &ToLog).await;
                *inner.not_brought() = brought.err().map(|error| of_engine(&error));
                drop(turn);
            });
        }
        Err(fault)
    }

    /// Makes one. What was made and not started is removed, or put down.
    async fn begin(self: &Arc<Self>, standing: &mut Standing) -> Result<One, SmiFault> {
        self.see_image().await?;
        // by which whoever sweeps knows that there may be something, also after a host that dies now
        if !self.store.current().uses_engine {
            let noted = self.store.change(|recorded| {
                recorded.uses_engine = true;
                Ok(())
            });
            noted.await.map_err(|error| SmiFault::Unasked { said: error.message })?;
        }
        let owner = engine_owner(&self.store, &self.own);
        let name = looker_name(&engine_name(&owner), &hex::encode(rand::random::<[u8; 8]>()));
        let labels = [(LABEL_HOST, owner), (LABEL_ROLE, ROLE_LOOKER.to_owned())];
        let labels: HashMap<_, _> = labels.map(|(name, value)| (name.to_owned(), value)).into();
        let spec = LookerSpec { name: name.clone(), image: self.image.clone(), labels, lives: LIVES };
        self.names().push(name.clone());
        let error = match self.docker.start_looker(&spec).await {
            Ok(id) => return Ok(One { name, id, until: Instant::now() + ASKED_FOR, hung: None }),
            Err(error) => error,
        };
        let fault = of_engine(&error);
        let hung = match fault {
            SmiFault::Hangs { seconds } => Some(Duration::from_secs(seconds)),
            _ => None,
        };
        // what was made and not started stays without an end of its own
        let one = One { id: name.clone(), name, until: Instant::now(), hung };
        if let Err(error) = self.end(one, standing).await {
            tracing::debug!(%error, "a container to look at GPUs was not started, and can't be removed yet");
        }
        Err(fault)
    }

    /// Removes one. It is put down where it can't be: something in it hangs, or the engine does.
    async fn end(&self, one: One, standing: &mut Standing) -> Result<(), DockerError> {
        match self.removed(&one.id).await {
            Ok(()) => {
                self.names().retain(|known| *known != one.name);
                Ok(())
            }
            Err(error) => {
                standing.left = Some(one);
                Err(error)
            }
        }
    }

    async fn removed(&self, id: &str) -> Result<(), DockerError> {
        if self.docker.remove_instance(id).await? {
            return Ok(());
        }
        // somebody else removes it, as the engine does by itself: that may go on for as long as something in it hangs
        for _ in 0..GONE_AFTER.1 {
            if self.docker.look_at(id).await?.is_none() {
                return Ok(());
            }
            sleep(GONE_AFTER.0).await;
        }
        Err(DockerError::Own("the container that looks at GPUs is being removed, and is still there".into()))
    }

    /// Ends the one that could not be ended before. While it is there, no other is made.
    async fn clear(&self, standing: &mut Standing) -> Result<(), SmiFault> {
        let Some(one) = standing.left.take() else { return Ok(()) };
        let hung = one.hung;
        self.end(one, standing).await.map_err(|error| still_there(hung, &error))
    }

    async fn ask(&self, one: &mut One, arguments: &[String]) -> Result<(i32, String), SmiFault> {
        let argv: Vec<&str> = ["nvidia-smi"].into_iter().chain(arguments.iter().map(String::as_str)).collect();
        match self.docker.ask_within(&one.id, &argv, LIMIT, MOST_BYTES).await {
            Ok(Answer::Ended(code, said)) => match not_run(code, &said) {
                Some(fault) => Err(fault),
                None if code == 0 && asks_for_gpus(arguments) && said.trim().is_empty() => {
                    Err(SmiFault::Unasked { said: "its answer did not arrive".into() })
                }
                None => Ok((i32::try_from(code).unwrap_or(255), said)),
            },
            Ok(Answer::GoesOn(_)) => {
                one.hung = Some(LIMIT);
                Err(SmiFault::Hangs { seconds: LIMIT.as_secs() })
            }
            Ok(Answer::BrokeOff { why, .. }) => Err(SmiFault::Unasked { said: why }),
            Err(error) => Err(SmiFault::Unasked { said: error.to_string() }),
        }
    }

    /// Asks a new one, which stays if it answers.
    async fn ask_anew(
        self: &Arc<Self>,
        arguments: &[String],
        standing: &mut Standing,
    ) -> Result<(i32, String), SmiFault> {
        if let Some(one) = standing.there.take() {
            // one that can't be removed is in the way of all others
            let _ = self.end(one, standing).await;
        }
        self.clear(standing).await?;
        let mut one = self.begin(standing).await?;
        let answer = self.ask(&mut one, arguments).await;
        match &answer {
            Ok(_) => standing.there = Some(one),
            Err(_) => drop(self.end(one, standing).await),
        }
        answer
    }

    async fn run(self: &Arc<Self>, arguments: &[String]) -> Result<(i32, String), SmiFault> {
        let mut standing = self.standing.lock().await;
        if let Some(one) = standing.there.as_mut().filter(|one| one.until > Instant::now()) {
            let answer = self.ask(one, arguments).await;
            if answer.as_ref().is_ok_and(|answer| is_good_news(answer, arguments, standing.gpus)) {
                standing.note(arguments, &answer);
                return answer;
            }
        }
        let mut answer = self.ask_anew(arguments, &mut standing).await;
        let tells_of_fewer = |answer: &(i32, String)| gpus_told(arguments, answer).is_some_and(|n| n < standing.gpus);
        if answer.as_ref().is_ok_and(tells_of_fewer) {
            answer = self.ask_anew(arguments, &mut standing).await;
        }
        standing.note(arguments, &answer);
        answer
    }

    async fn rest(&self) {
        let mut standing = self.standing.lock().await;
        if let Some(one) = standing.there.take()
            && let Err(error) = self.end(one, &mut standing).await
        {
            tracing::debug!(%error, "the container that looks at GPUs can't be removed yet");
        }
    }
}

impl Standing {
    fn note(&mut self, arguments: &[String], answer: &Result<(i32, String), SmiFault>) {
        if let Some(gpus) = answer.as_ref().ok().and_then(|answer| gpus_told(arguments, answer)) {
            self.gpus = gpus;
        }
    }
}

/// In tasks: whoever asked may go away, and what was begun is known all the same.
#[async_trait]
impl Tool for Looker {
    async fn run(&self, arguments: &[String]) -> Result<(i32, String), SmiFault> {
        let (inner, arguments) = (self.0.clone(), arguments.to_vec());
        let asked = tokio::spawn(async move { inner.run(&arguments).await });
        asked.await.unwrap_or_else(|error| Err(SmiFault::Unasked { said: error.to_string() }))
    }

    fn asked(&self) -> &Asked {
        &self.1
    }

    async fn rest(&self) {
        let inner = self.0.clone();
        let _ = tokio::spawn(async move { inner.rest().await }).await;
    }
}

/// What it means that the engine did not do what it was asked.
fn of_engine(error: &DockerError) -> SmiFault {
    match error {
        DockerError::Refused { doing: "make the container" | "start the container", message, .. } => {
            not_started(message)
        }
        // nothing else of a start waits for long: the toolkit asks the driver there, before there is anything that could be asked
        DockerError::Slow { doing: "start the container", limit } => SmiFault::Hangs { seconds: limit.as_secs() },
        error if error.class() == FailureClass::Infrastructure => SmiFault::Unasked { said: error.to_string() },
        // its image, mostly
        error => SmiFault::NoToolInside { said: error.to_string() },
    }
}

/// What it means that one is still there which was to be removed: that something in it `hung` for so long, or nothing of the GPUs.
fn still_there(hung: Option<Duration>, error: &DockerError) -> SmiFault {
    match (hung, error) {
        (Some(hung), DockerError::Refused { .. } | DockerError::Slow { .. } | DockerError::Own(_)) => {
            SmiFault::Hangs { seconds: hung.as_secs() }
        }
        _ => SmiFault::Unasked { said: error.to_string() },
    }
}

/// Whether one that was asked before is believed. A tool of another age asks for another question, and is well.
fn is_good_news(answer: &(i32, String), arguments: &[String], known: usize) -> bool {
    let is_well = answer.0 == 0 && gpus_told(arguments, answer).is_none_or(|told| told >= known);
    is_well || answer.1.contains("is not a valid field to query")
}

fn asks_for_gpus(arguments: &[String]) -> bool {
    arguments.first().is_some_and(|first| first.starts_with("--query-gpu="))
}

/// How many GPUs an answer tells of, each on a line of its own; `None`: it is none to that.
fn gpus_told(arguments: &[String], (code, said): &(i32, String)) -> Option<usize> {
    let is_answer = *code == 0 && asks_for_gpus(arguments);
    is_answer.then(|| said.lines().filter(|line| !line.trim().is_empty()).count())
}

/// What is said while its image comes.
struct ToLog;

#[async_trait]
impl Say for ToLog {
    async fn say(&self, line: String) {
        tracing::info!(line, "the image in which GPUs are looked at");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(doing: &'static str, message: &str) -> DockerError {
        DockerError::Refused { doing, status: 500, message: message.into() }
    }

    fn slow(doing: &'static str, seconds: u64) -> DockerError {
        DockerError::Slow { doing, limit: Duration::from_secs(seconds) }
    }

    fn away(doing: &'static str) -> DockerError {
        DockerError::Away { doing, message: "connection reset".into() }
    }

    #[test]
    fn what_hangs_is_told_from_an_engine_that_is_away() {
        for (error, hangs) in [
            (slow("start the container", 60), Some(60)),
            (slow("make the container", 20), None),
            (away("start the container"), None),
            (refused("start the container", "no space left on device"), None),
        ] {
            let seconds = match of_engine(&error) {
                SmiFault::Hangs { seconds } => Some(seconds),
                SmiFault::Unasked { .. } => None,
                other => panic!("{error}: {other:?}"),
            };
            assert_eq!(seconds, hangs, "{error}");
        }
    }

    #[test]
    fn one_that_can_not_be_removed_tells_of_gpus_only_where_something_in_it_hung() {
        let could_not_kill = || refused("remove the container", "could not kill: did not receive an exit event");
        let hung = Some(Duration::from_secs(30));
        for (hung, error, is_fault) in [
            (hung, could_not_kill(), true),
            (hung, slow("remove the container", 20), true),
            (hung, away("remove the container"), false),
            (None, could_not_kill(), false),
            (None, slow("remove the container", 20), false),
        ] {
            assert_eq!(matches!(still_there(hung, &error), SmiFault::Hangs { seconds: 30 }), is_fault, "{error}");
        }
    }

    #[test]
    fn an_answer_with_fewer_gpus_than_before_is_no_good_news() {
        let all = ["--query-gpu=uuid,name".to_owned(), "--format=csv,noheader,nounits".to_owned()];
        let long = ["-q".to_owned(), "-x".to_owned()];
        let two = "GPU-a, NVIDIA L40S\nGPU-b, NVIDIA L40S\n";
        for (arguments, code, said, known, is_good) in [
            (&all, 0, two, 0, true),
            (&all, 0, two, 2, true),
            (&all, 0, "GPU-a, NVIDIA L40S\n\n", 2, false),
            (&all, 9, "the driver does not answer", 0, false),
            (&all, 2, "Field \"x\" is not a valid field to query.", 2, true),
            (&long, 0, "<nvidia_smi_log>", 2, true),
        ] {
            assert_eq!(is_good_news(&(code, said.to_owned()), arguments, known), is_good, "{said}");
        }
    }
}
