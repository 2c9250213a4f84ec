//! The session of a build: a connection on which BuildKit asks the worker, by gRPC, for secrets and credentials.
//!
//! <https://github.com/moby/buildkit/blob/master/docs/dev/request-lifecycle.md>; the calls are those of `session/secrets/secrets.proto`
//! and `session/auth/auth.proto` there, and gRPC's own for health (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).

use bytes::{Bytes, BytesMut};
use h2::{RecvStream, server::SendResponse};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::{Method, client::conn::http1};
use hyper_util::rt::TokioIo;
use segue_pipelines::image::Login;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinSet,
};

use super::{
    super::{Docker, DockerError},
    proto::{put_bytes, text},
};

/// Questions that are answered at once.
const MAX_QUESTIONS: u32 = 16;
/// Bytes of a question.
const MAX_QUESTION: usize = 64 * 1024;
/// What comes before a message of gRPC: whether it is compressed, and its length.
const PREFIX: usize = 5;
/// How the registry of Docker Hub is named where credentials are asked for.
const HUBS: [&str; 3] = ["registry-1.docker.io", "index.docker.io", "docker.io"];

const GET_SECRET: &str = "/moby.buildkit.secrets.v1.Secrets/GetSecret";
const CREDENTIALS: &str = "/moby.filesync.v1.Auth/Credentials";
const HEALTH: &str = "/grpc.health.v1.Health/Check";
const OPEN: &str = "open a session";

/// gRPC's words for how a call ended.
const OK: u8 = 0;
const INVALID: u8 = 3;
const NOT_FOUND: u8 = 5;
const UNIMPLEMENTED: u8 = 12;

/// What a build may ask for.
pub(super) struct Answers {
    pub secrets: Vec<(String, String)>,
    pub login: Option<Login>,
}

/// Opens a session, which is answered for as long as the tasks run; its id.
pub(super) async fn open(docker: &Docker, answers: Answers, tasks: &mut JoinSet<()>) -> Result<String, DockerError> {
    let id = uuid::Uuid::new_v4().simple().to_string();
    let request = Request::builder()
        .method(Method::POST)
        .uri("/session")
        .header("host", "docker")
        .header("connection", "Upgrade")
        .header("upgrade", "h2c")
        .header("x-docker-expose-session-uuid", &id)
        .header("x-docker-expose-session-name", "segue")
        .header("x-docker-expose-session-sharedkey", "")
        .header("x-docker-expose-session-grpc-method", GET_SECRET)
        .header("x-docker-expose-session-grpc-method", CREDENTIALS)
        .header("x-docker-expose-session-grpc-method", HEALTH)
        .body(Empty::<Bytes>::new())
        .map_err(|error| DockerError::Own(error.to_string()))?;
    let stream = docker.connect().await?;
    let limit = docker.config.patience.0;
    let away = |error: &dyn std::fmt::Display| DockerError::away(OPEN, error);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| away(&error))?;
    tasks.spawn(async move { drop(connection.with_upgrades().await) });
    let sent = tokio::time::timeout(limit, sender.send_request(request)).await;
    let answer = sent.map_err(|_| DockerError::Slow { doing: OPEN, limit })?.map_err(|error| away(&error))?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (status, message) = (
            answer.status().as_u16(),
            "it has no BuildKit; `worker.docker.buildkit: false` in segue.yaml has the classic builder used".into(),
        );
        return Err(DockerError::Refused { doing: OPEN, status, message });
    }
    let upgraded = hyper::upgrade::on(answer).await.map_err(|error| away(&error))?;
    tasks.spawn(async move {
        if let Err(error) = answer_all(TokioIo::new(upgraded), &answers).await {
            tracing::debug!(%error, "the session of a build has ended");
        }
    });
    Ok(id)
}

async fn answer_all(stream: impl AsyncRead + AsyncWrite + Unpin, answers: &Answers) -> Result<(), h2::Error> {
    let mut connection =
        h2::server::Builder::new().max_concurrent_streams(MAX_QUESTIONS).handshake::<_, Bytes>(stream).await?;
    let mut asked = futures_util::stream::FuturesUnordered::new();
    loop {
        tokio::select! {
            question = connection.accept() => match question {
                Some(question) => {
                    let (request, respond) = question?;
                    asked.push(answer(request, respond, answers));
                }
                None => return Ok(()),
            },
            Some(answered) = futures_util::StreamExt::next(&mut asked), if !asked.is_empty() => answered?,
        }
    }
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    answers: &Answers,
) -> Result<(), h2::Error> {
    let path = request.uri().path().to_owned();
    let mut body = request.into_body();
    let mut question = BytesMut::new();
    while let Some(block) = body.data().await {
        let block = block?;
        let _ = body.flow_control().release_capacity(block.len());
        if question.len() + block.len() > MAX_QUESTION {
            respond.send_reset(h2::Reason::ENHANCE_YOUR_CALM);
            return Ok(());
        }
        question.extend_from_slice(&block);
    }
    let (status, message) = match question.split_at_checked(PREFIX) {
        Some((prefix, message)) if prefix[0] == 0 => answers.to(&path, message),
        _ => (INVALID, Vec::new()),
    };
    let head = Response::builder().header("content-type", "application/grpc").body(());
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", u64::from(status).into());
    let mut stream = respond.send_response(head.unwrap_or_default(), false)?;
    if status == OK {
        let mut framed = vec![0];
        framed.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
        framed.extend_from_slice(&message);
        stream.send_data(framed.into(), false)?;
    }
    stream.send_trailers(trailers)
}

impl Answers {
    /// The answer to a call: gRPC's status, and the message.
    fn to(&self, path: &str, question: &[u8]) -> (u8, Vec<u8>) {
        let mut message = Vec::new();
        match path {
            // serving
            HEALTH => message.extend([1 << 3, 1]),
            GET_SECRET => {
                let id = text(question, 1).unwrap_or_default();
                let Some((_, value)) = self.secrets.iter().find(|(known, _)| *known == id) else {
                    return (NOT_FOUND, message);
                };
                put_bytes(&mut message, 1, value.as_bytes());
            }
            CREDENTIALS => {
                let host = text(question, 1).unwrap_or_default();
                let is_for = |login: &&Login| match &login.registry {
                    Some(registry) => *registry == host,
                    None => HUBS.contains(&host.as_str()),
                };
                // nobody's are empty ones
                if let Some(login) = self.login.as_ref().filter(is_for) {
                    put_bytes(&mut message, 1, login.username.as_bytes());
                    put_bytes(&mut message, 2, login.password.as_bytes());
                }
            }
            _ => return (UNIMPLEMENTED, message),
        }
        (OK, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_build_was_given_is_answered() {
        let login = |registry: Option<&str>| Login {
            registry: registry.map(str::to_owned),
            username: "who".into(),
            password: "word".into(),
        };
        let answers = Answers { secrets: vec![("token".into(), "value".into())], login: Some(login(Some("a.io"))) };
        let ask = |answers: &Answers, path: &str, word: &str| {
            let mut question = Vec::new();
            put_bytes(&mut question, 1, word.as_bytes());
            answers.to(path, &question)
        };
        assert_eq!(ask(&answers, GET_SECRET, "token"), (OK, b"\x0a\x05value".to_vec()));
        assert_eq!(ask(&answers, GET_SECRET, "other").0, NOT_FOUND);
        assert_eq!(ask(&answers, CREDENTIALS, "a.io"), (OK, b"\x0a\x03who\x12\x04word".to_vec()));
        assert_eq!(ask(&answers, CREDENTIALS, "b.io"), (OK, Vec::new()), "a password is for one registry");
        assert_eq!(ask(&answers, CREDENTIALS, "registry-1.docker.io"), (OK, Vec::new()));
        let hub = Answers { secrets: Vec::new(), login: Some(login(None)) };
        assert_eq!(ask(&hub, CREDENTIALS, "registry-1.docker.io").1.len(), 11);
        assert_eq!(ask(&answers, "/moby.filesync.v1.FileSync/DiffCopy", "").0, UNIMPLEMENTED);
    }
}
