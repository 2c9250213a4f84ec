//! Who looks at the GPUs of an engine on another machine: `nvidia-smi`, run there in a container that sees all of them. It is made when somebody
//! asks, is asked again while it is young, and goes with the next pause. A container may lose the GPUs that its machine still has, so bad news
//! is believed from a new one alone. An engine that does not answer is no fault of the GPUs': then nothing is known.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use segue_pipelines::gpu::{SmiFault, not_run, not_started};
use segue_schemas::status::FailureClass;
use tokio::time::Instant;

use super::{
    containers::{LABEL_HOST, LABEL_ROLE, ROLE_LOOKER, engine_name, engine_owner, looker_name},
    state::Store,
};
use crate::{
    engine::docker::{Answer, Docker, DockerError, LookerSpec, Say},
    gpu::{LIMIT, MOST_BYTES, Tool},
};

/// How long one is asked. What it has lost meanwhile is seen by the next.
const ASKED_FOR: Duration = Duration::from_secs(60);

/// After how long one has gone by itself, whatever became of its host: it outlives the last question.
const LIVES: Duration = Duration::from_secs(ASKED_FOR.as_secs() + 2 * LIMIT.as_secs());

/// What looks.
pub(super) struct Looker(Arc<Inner>);

struct Inner {
    docker: Arc<Docker>,
    store: Arc<Store>,
    /// By what the host is known at an engine that knows nothing of it yet.
    own: String,
    image: String,
    standing: tokio::sync::Mutex<Standing>,
    /// The names of those that are there or about to be: nobody sweeps them away.
    names: Mutex<Vec<String>>,
}

#[derive(Default)]
struct Standing {
    there: Option<One>,
    /// One that can't be removed: a process in it hangs in the driver.
    left: Option<One>,
}

/// One container.
struct One {
    name: String,
    id: String,
    until: Instant,
}

impl std::fmt::Debug for Looker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Looker").field("image", &self.0.image).finish_non_exhaustive()
    }
}

impl Looker {
    pub(super) fn new(docker: Arc<Docker>, store: Arc<Store>, own: String, image: String) -> Self {
        let (standing, names) = (tokio::sync::Mutex::default(), Mutex::default());
        Self(Arc::new(Inner { docker, store, own, image, standing, names }))
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

    /// Makes one.
    async fn begin(&self) -> Result<One, SmiFault> {
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
        let fault = match self.docker.start_looker(&spec, &ToLog).await {
            Ok(id) => return Ok(One { name, id, until: Instant::now() + ASKED_FOR }),
            Err(error) => of_engine(&error),
        };
        // what was made and not started stays without an end of its own
        let _ = self.docker.remove_instance(&name).await;
        self.names().retain(|known| *known != name);
        Err(fault)
    }

    /// Removes one. It is put down where it can't be: something in it hangs.
    async fn end(&self, one: One, standing: &mut Standing) -> Result<(), DockerError> {
        match self.docker.remove_instance(&one.id).await {
            Ok(_) => {
                self.names().retain(|known| *known != one.name);
                Ok(())
            }
            Err(error) => {
                standing.left = Some(one);
                Err(error)
            }
        }
    }

    /// Ends the one that could not be ended before. While it is there, no other is made.
    async fn clear(&self, standing: &mut Standing) -> Result<(), SmiFault> {
        if let Some(one) = standing.left.take() {
            self.end(one, standing).await.map_err(|error| match error {
                DockerError::Refused { .. } => SmiFault::Hangs { seconds: LIMIT.as_secs() },
                error => SmiFault::Unasked { said: error.to_string() },
            })?;
        }
        Ok(())
    }

    async fn ask(&self, one: &One, arguments: &[String]) -> Result<(i32, String), SmiFault> {
        let argv: Vec<&str> = ["nvidia-smi"].into_iter().chain(arguments.iter().map(String::as_str)).collect();
        match self.docker.ask_within(&one.id, &argv, LIMIT, MOST_BYTES).await {
            Ok(Answer::Ended(code, said)) => match not_run(code, &said) {
                Some(fault) => Err(fault),
                None => Ok((i32::try_from(code).unwrap_or(255), said)),
            },
            Ok(Answer::GoesOn(_)) => Err(SmiFault::Hangs { seconds: LIMIT.as_secs() }),
            Err(error) => Err(SmiFault::Unasked { said: error.to_string() }),
        }
    }

    async fn run(&self, arguments: &[String]) -> Result<(i32, String), SmiFault> {
        let mut standing = self.standing.lock().await;
        self.clear(&mut standing).await?;
        if let Some(one) = standing.there.take() {
            if one.until > Instant::now() {
                let answer = self.ask(&one, arguments).await;
                if answer.as_ref().is_ok_and(|(code, said)| *code == 0 || is_about_fields(said)) {
                    standing.there = Some(one);
                    return answer;
                }
            }
            // one that can't be removed is in the way of all others
            let _ = self.end(one, &mut standing).await;
            self.clear(&mut standing).await?;
        }
        let one = self.begin().await?;
        let answer = self.ask(&one, arguments).await;
        match &answer {
            Ok(_) => standing.there = Some(one),
            Err(_) => drop(self.end(one, &mut standing).await),
        }
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

/// In tasks: whoever asked may go away, and what was begun is known all the same.
#[async_trait]
impl Tool for Looker {
    async fn run(&self, arguments: &[String]) -> Result<(i32, String), SmiFault> {
        let (inner, arguments) = (self.0.clone(), arguments.to_vec());
        let asked = tokio::spawn(async move { inner.run(&arguments).await });
        asked.await.unwrap_or_else(|error| Err(SmiFault::Unasked { said: error.to_string() }))
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
        error if error.class() == FailureClass::Infrastructure => SmiFault::Unasked { said: error.to_string() },
        // its image, mostly
        error => SmiFault::NoToolInside { said: error.to_string() },
    }
}

/// A tool of another age asks for another question, and is well.
fn is_about_fields(said: &str) -> bool {
    said.contains("is not a valid field to query")
}

/// What is said while its image comes.
struct ToLog;

#[async_trait]
impl Say for ToLog {
    async fn say(&self, line: String) {
        tracing::info!(line, "the image in which GPUs are looked at");
    }
}
