//! Images, built by the engine's own BuildKit, or by its classic builder where the operator says so.
//!
//! Comes in: what to build, and its context as a stream. Goes out: lines for the log, and the image's id. Nothing of the context is held
//! longer than it takes to send it; secrets and passwords go over the session alone, where BuildKit asks for them
//! (`session.rs`). Dropped, the connections close, and with them the engine ends the build. Never here: which files are
//! the context's, whether the code may have secrets.
//!
//! Both builders are asked by `POST /build` (<https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Image/operation/ImageBuild>).
//! `bollard` speaks to BuildKit with gRPC's whole stack; here are two calls of it, which `session.rs` answers over `h2`. The index of an image for several
//! platforms, which no engine of that age keeps, goes to its registry without it (`registry.rs`).

mod failure;
mod fixed;
mod foreign;
mod index;
mod progress;
mod proto;
mod push;
mod registry;
mod session;

use std::io;

use base64::{Engine as _, engine::general_purpose::STANDARD, engine::general_purpose::URL_SAFE};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http_body_util::{BodyExt as _, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Frame, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use segue_pipelines::image::{Build, Login, Network};
use serde::Deserialize;
use tokio::{net::UnixStream, sync::mpsc, task::JoinSet, time::timeout};

use super::{Docker, DockerError, call::call, place::Say};
pub(super) use fixed::Fixed;
use progress::Progress;

/// The longest line of an answer, in bytes.
const MAX_LINE: usize = 8 * 1024 * 1024;
/// Bytes of a refusal that are read.
const MAX_REFUSAL: usize = 64 * 1024;
/// Docker Hub, as its credentials are kept.
const HUB: &str = "https://index.docker.io/v1/";
const BUILD: &str = "build the image";

/// What the engine is told beside what the pipeline says.
#[derive(Debug, Clone)]
pub struct BuildSpec {
    /// What the pipeline says.
    pub build: Build,
    /// The one of its platforms that is built; `None`: the engine's own.
    pub platform: Option<String>,
    /// The Dockerfile within the context.
    pub dockerfile: String,
    /// The time of the commit, in seconds since 1970.
    pub time: i64,
    /// All labels.
    pub labels: Vec<(String, String)>,
    /// Whose caches its steps share: those of the same repository, and for foreign code of one pull request.
    pub cache_scope: String,
}

/// An image that was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// The digest of its configuration.
    pub id: String,
    /// Its bytes, unpacked.
    pub size: u64,
    /// The images that its Dockerfile begins with, as the engine named them while it built.
    pub bases: Vec<String>,
}

/// The tar of a context, as it comes. An error in it ends the build.
pub type ContextStream = mpsc::Receiver<io::Result<Bytes>>;

/// A line of the answer.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Event {
    id: Option<String>,
    stream: Option<String>,
    status: Option<String>,
    error: Option<String>,
    aux: Option<serde_json::Value>,
}

impl Docker {
    /// Builds an image, without a name.
    ///
    /// # Errors
    /// [`DockerError`]; [`DockerError::Failed`] where the build itself failed.
    pub async fn build(&self, spec: &BuildSpec, context: ContextStream, say: &dyn Say) -> Result<Built, DockerError> {
        let Some(platform) = &spec.platform else { return self.build_own(spec, context, say).await };
        let heard = foreign::Heard::new(say);
        let built = self.build_own(spec, context, &heard).await;
        built.map_err(|error| heard.explained(platform, error))
    }

    async fn build_own(&self, spec: &BuildSpec, context: ContextStream, say: &dyn Say) -> Result<Built, DockerError> {
        self.client().await?;
        // everything that is begun here ends with this
        let mut tasks = JoinSet::new();
        let session = if self.config.buildkit {
            let answers = session::Answers { secrets: spec.build.secrets.clone(), login: spec.build.login.clone() };
            Some(session::open(self, answers, &mut tasks).await?)
        } else if spec.build.secrets.is_empty() {
            None
        } else {
            let message = "input `secrets` of `segue/build-image`: the classic builder has none; have BuildKit used: `worker.docker.buildkit: true` in segue.yaml";
            return Err(DockerError::Asked(message.into()));
        };
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("/build?{}", query(spec, session.as_deref())))
            .header("host", "docker")
            .header("content-type", "application/x-tar");
        if let (None, Some(login)) = (&session, &spec.build.login) {
            request = request.header("x-registry-config", registry_config(login));
        }
        let body = StreamBody::new(stream::unfold(context, async |mut context| {
            let block = context.recv().await?;
            Some((block.map(Frame::data), context))
        }));
        let request = request.body(body.boxed_unsync()).map_err(|error| DockerError::Own(error.to_string()))?;
        let answer = self.send(BUILD, request, &mut tasks).await?;
        let status = answer.status();
        let mut body = answer.into_body();
        if status != StatusCode::OK {
            let limited = http_body_util::Limited::new(body, MAX_REFUSAL).collect();
            let said =
                timeout(self.config.patience.0, limited).await.ok().and_then(Result::ok).map(|said| said.to_bytes());
            let message = refusal(&said.unwrap_or_default());
            return Err(failure::classify(&message, Some(status.as_u16()), false));
        }
        let mut progress = Progress::default();
        let (mut line, mut id) = (Vec::new(), None);
        while let Some(frame) = self.attended(body.frame()).await? {
            let frame = frame.map_err(|error| DockerError::away(BUILD, &error))?;
            let Ok(data) = frame.into_data() else { continue };
            for part in data.split_inclusive(|byte| *byte == b'\n') {
                line.extend_from_slice(part);
                if line.len() > MAX_LINE {
                    return Err(DockerError::Away {
                        doing: BUILD,
                        message: format!("it said more than {MAX_LINE} bytes at once"),
                    });
                }
                if line.ends_with(b"\n") {
                    understand(&std::mem::take(&mut line), &mut progress, &mut id, say).await?;
                }
            }
        }
        understand(&line, &mut progress, &mut id, say).await?;
        let Some(id) = id else {
            return Err(DockerError::Away {
                doing: BUILD,
                message: "it ended without saying what it has built".into(),
            });
        };
        Ok(Built { bases: progress.bases(), ..self.seen(&id).await? })
    }

    /// The digest of an image that the engine has: the one that it was pulled by, else that of its configuration.
    ///
    /// # Errors
    /// There is no such image.
    pub async fn digest_of(&self, image: &str) -> Result<String, DockerError> {
        let seen = call("look at the image", self.config.patience.0, self.client().await?.inspect_image(image)).await?;
        let pulled = seen
            .repo_digests
            .unwrap_or_default()
            .into_iter()
            .find_map(|name| Some(name.rsplit_once('@')?.1.to_owned()));
        pulled.or(seen.id).ok_or_else(|| DockerError::Asked(format!("the image `{image}` has no digest")))
    }

    /// What the engine says of an image.
    async fn seen(&self, id: &str) -> Result<Built, DockerError> {
        let seen = call("look at the image", self.config.patience.0, self.client().await?.inspect_image(id)).await?;
        Ok(Built {
            id: seen.id.unwrap_or_else(|| id.to_owned()),
            size: seen.size.and_then(|size| size.try_into().ok()).unwrap_or_default(),
            bases: Vec::new(),
        })
    }

    /// Sends a request over a connection of its own, which lives as long as the tasks; waits for the head of the answer as long as it takes.
    async fn send(
        &self,
        doing: &'static str,
        request: Request<UnsyncBoxBody<Bytes, io::Error>>,
        tasks: &mut JoinSet<()>,
    ) -> Result<Response<Incoming>, DockerError> {
        let stream = self.connect().await?;
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| DockerError::away(doing, &error))?;
        tasks.spawn(async move { drop(connection.await) });
        let sent = self.attended(sender.send_request(request)).await?;
        sent.map_err(|error| DockerError::away(doing, &error))
    }

    /// A connection of its own.
    async fn connect(&self) -> Result<UnixStream, DockerError> {
        let Some(socket) = self.way.socket() else {
            let why = format!("images are built at an engine of the worker's machine, and {} is none", self.address());
            return Err(DockerError::Own(why));
        };
        let connected = timeout(self.config.patience.0, UnixStream::connect(socket)).await;
        match connected {
            Ok(connected) => connected.map_err(|error| DockerError::away("be connected", &error)),
            Err(_) => Err(DockerError::Slow { doing: "be connected", limit: self.config.patience.0 }),
        }
    }

    /// Waits, however long it takes, as long as the engine answers when it is asked whether it is there.
    async fn attended<T>(&self, work: impl Future<Output = T>) -> Result<T, DockerError> {
        let limit = self.config.patience.0;
        let mut work = std::pin::pin!(work);
        loop {
            if let Ok(done) = timeout(limit, &mut work).await {
                return Ok(done);
            }
            call("answer", limit, self.client().await?.ping()).await?;
        }
    }
}

async fn understand(
    line: &[u8],
    progress: &mut Progress,
    id: &mut Option<String>,
    say: &dyn Say,
) -> Result<(), DockerError> {
    if line.trim_ascii().is_empty() {
        return Ok(());
    }
    let event: Event = serde_json::from_slice(line).map_err(|error| DockerError::Away {
        doing: BUILD,
        message: format!("it said what nobody understands: {error}"),
    })?;
    let lines = match (event.id.as_deref(), &event.aux) {
        (Some("moby.buildkit.trace"), Some(serde_json::Value::String(trace))) => {
            progress.trace(&STANDARD.decode(trace).unwrap_or_default())
        }
        (_, Some(aux)) => {
            if let Some(found) = aux.get("ID").and_then(serde_json::Value::as_str) {
                *id = Some(found.to_owned());
            }
            Vec::new()
        }
        (_, None) => progress.words(event.stream.as_deref().or(event.status.as_deref()).unwrap_or_default()),
    };
    stream::iter(lines).for_each(|line| say.say(line)).await;
    match event.error {
        Some(error) => Err(failure::classify(&error, None, progress.disk_was_full())),
        None => Ok(()),
    }
}

/// What the engine is asked for. A secret is in none of it.
fn query(spec: &BuildSpec, session: Option<&str>) -> String {
    let build = &spec.build;
    let mut args: serde_json::Map<String, serde_json::Value> =
        build.args.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
    // <https://reproducible-builds.org/specs/source-date-epoch/>
    args.entry("SOURCE_DATE_EPOCH").or_insert_with(|| spec.time.to_string().into());
    if session.is_some() {
        // `RUN --mount=type=cache` of one repository is not another's
        args.insert("BUILDKIT_CACHE_MOUNT_NS".into(), spec.cache_scope.clone().into());
        if build.cache_inline {
            args.insert("BUILDKIT_INLINE_CACHE".into(), "1".into());
        }
    }
    let labels: serde_json::Map<String, serde_json::Value> =
        spec.labels.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
    let mut query = form();
    query.append_pair("dockerfile", &spec.dockerfile).append_pair("rm", "1").append_pair("forcerm", "1");
    query.append_pair("buildargs", &serde_json::Value::Object(args).to_string());
    query.append_pair("labels", &serde_json::Value::Object(labels).to_string());
    if let Some(session) = session {
        query.append_pair("version", "2").append_pair("session", session).append_pair("buildid", session);
    }
    if let Some(target) = &build.target {
        query.append_pair("target", target);
    }
    if let Some(platform) = &spec.platform {
        query.append_pair("platform", platform);
    }
    if build.network == Network::None {
        query.append_pair("networkmode", "none");
    }
    if !build.cache_from.is_empty() {
        query.append_pair("cachefrom", &serde_json::json!(build.cache_from).to_string());
    }
    query.finish()
}

fn form() -> Form {
    Form(String::new())
}

/// A query (<https://url.spec.whatwg.org/#urlencoded-serializing>).
struct Form(String);

impl Form {
    fn append_pair(&mut self, name: &str, value: &str) -> &mut Self {
        if !self.0.is_empty() {
            self.0.push('&');
        }
        self.0.push_str(name);
        self.0.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
                self.0.push(char::from(byte));
            } else {
                self.0.push_str(&format!("%{byte:02X}"));
            }
        }
        self
    }

    fn finish(self) -> String {
        self.0
    }
}

/// The classic builder's way to pull with credentials.
fn registry_config(login: &Login) -> String {
    let registry = login.registry.as_deref().unwrap_or(HUB);
    let config = serde_json::json!({ registry: { "username": login.username, "password": login.password } });
    URL_SAFE.encode(config.to_string())
}

fn refusal(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Refusal {
        message: String,
    }
    match serde_json::from_slice::<Refusal>(body) {
        Ok(refusal) => refusal.message,
        Err(_) => String::from_utf8_lossy(body).trim().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_a_part_of_what_is_asked_for() {
        let with = [
            ("secrets", "token=hidden-secret"),
            ("username", "who"),
            ("password", "hidden-password"),
            ("tags", "a.io/b"),
            ("build-args", "SOURCE_DATE_EPOCH=7\nA=&b"),
            ("network", "none"),
        ];
        let build = Build::of(&with.map(|(name, value)| (name.to_owned(), value.to_owned())).into()).unwrap();
        let labels = vec![("x".to_owned(), "y z".to_owned())];
        let (dockerfile, cache_scope) = ("Dockerfile".into(), "a/b".into());
        let spec = BuildSpec { build, platform: None, dockerfile, time: 5, labels, cache_scope };
        let query = query(&spec, Some("abc"));
        assert!(!query.contains("hidden"), "{query}");
        assert!(query.contains("SOURCE_DATE_EPOCH%22%3A%227%22") && query.contains("%22%26b%22"), "{query}");
        assert!(query.contains("labels=%7B%22x%22%3A%22y%20z%22%7D") && query.contains("networkmode=none"), "{query}");
        assert!(!format!("{:?}", spec.build.login).contains("hidden"));
    }
}
