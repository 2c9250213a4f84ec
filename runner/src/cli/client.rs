//! The client of the public API: one request, one typed answer, errors in words; and streams of events.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use reqwest::{Method, Response, StatusCode, Url};
use secrecy::{ExposeSecret as _, SecretString};
use segue_schemas::worker_api::ErrorBody;
use serde::{Serialize, de::DeserializeOwned};

use super::{
    connection::ANSWER_LIMIT,
    ending::{Failure, with_causes},
    sse,
};

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Before something that is done once is asked for again.
const PAUSES: [Duration; 3] = [Duration::from_millis(200), Duration::from_millis(500), Duration::from_secs(1)];
/// How long a stream may be silent. The server sends a comment every few seconds.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);

/// Speaks to one server.
#[derive(Clone)]
pub struct Client {
    base: Url,
    token: Option<SecretString>,
    http: reqwest::Client,
}

/// Why a request brought nothing, before it is put in words: whoever waits for a server that starts again looks at it.
#[derive(Debug)]
pub enum CallError {
    /// No server answers, or it went away.
    Unreachable(String),
    /// The server refused.
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// The word for programs.
        code: String,
        /// For people.
        message: String,
    },
    /// The answer is not what the API promises.
    Unreadable(String),
}

impl CallError {
    /// Whether the same request may bring something a little later.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::Refused { status, .. } => status.is_server_error(),
            Self::Unreadable(_) => false,
        }
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Unreachable(message) => Self::new(message)
                .remedy("start a server with `segue up`, or name the right one with --server URL or SEGUE_SERVER"),
            CallError::Refused { status: StatusCode::UNAUTHORIZED, message, .. } => Self::new(format_args!(
                "the server refused the token: {message}"
            ))
            .remedy(
                "take the admin-token of that server's data directory: --token-file FILE, SEGUE_TOKEN or --data DIR",
            ),
            CallError::Refused { message, .. } => Self::new(message),
            CallError::Unreadable(message) => {
                Self::new(message).remedy("are `segue` here and the server of the same version?")
            }
        }
    }
}

impl Client {
    /// A client of the server at `base`. Nothing is sent yet.
    ///
    /// # Errors
    /// The TLS library can't be set up.
    pub fn new(base: Url, token: Option<SecretString>) -> Result<Self, Failure> {
        let mut builder = reqwest::Client::builder().connect_timeout(CONNECT_LIMIT).read_timeout(SILENCE_LIMIT);
        if base.host_str().is_some_and(|host| matches!(host, "localhost" | "127.0.0.1" | "[::1]")) {
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|error| Failure::new(with_causes(&error)))?;
        Ok(Self { base, token, http })
    }

    /// The server's address.
    pub const fn base(&self) -> &Url {
        &self.base
    }

    /// `GET` below `/api/v1`, with a query made of the set fields of `query`.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str, query: &impl Serialize) -> Result<T, CallError> {
        read(self.request(Method::GET, &api(path), query, None::<&()>).await?).await
    }

    /// `POST` below `/api/v1`.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, CallError> {
        read(self.request(Method::POST, &api(path), &(), Some(body)).await?).await
    }

    /// `POST` below `/api/v1` of what is to be done once: where no answer comes it is asked for again, three times at most, by the same key.
    ///
    /// # Errors
    /// See [`CallError`]. Where no answer came to any of them it may have been done.
    pub async fn post_once<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, CallError> {
        let key = uuid::Uuid::new_v4().to_string();
        let mut pauses = PAUSES.into_iter();
        loop {
            let asked = self.request_by(Method::POST, &api(path), &(), Some(body), Some(&key)).await;
            let answer = match asked {
                Ok(answer) => read(answer).await,
                Err(error) => Err(error),
            };
            match (answer, pauses.next()) {
                (Err(error), Some(pause)) if error.may_pass() => tokio::time::sleep(pause).await,
                (answer, _) => return answer,
            }
        }
    }

    /// `PUT` below `/api/v1` that is answered without a body.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn put(&self, path: &str, query: &impl Serialize, body: &impl Serialize) -> Result<(), CallError> {
        self.request(Method::PUT, &api(path), query, Some(body)).await.map(drop)
    }

    /// `DELETE` below `/api/v1`.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn delete(&self, path: &str, query: &impl Serialize) -> Result<(), CallError> {
        self.request(Method::DELETE, &api(path), query, None::<&()>).await.map(drop)
    }

    /// `DELETE` below `/api/v1` that is answered with a body.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn delete_for<T: DeserializeOwned>(&self, path: &str) -> Result<T, CallError> {
        read(self.request(Method::DELETE, &api(path), &(), None::<&()>).await?).await
    }

    /// `GET` outside the API, for what is said to everybody: `/readyz`.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn plain(&self, path: &str) -> Result<String, CallError> {
        let response = self.request(Method::GET, path, &(), None::<&()>).await?;
        response.text().await.map_err(|error| CallError::Unreachable(with_causes(&error)))
    }

    /// GETs a text of the API.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn text(&self, path: &str) -> Result<String, CallError> {
        self.plain(&api(path)).await
    }

    /// The bytes of an answer as they come.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn bytes(&self, path: &str, query: &impl Serialize) -> Result<Response, CallError> {
        self.request(Method::GET, &api(path), query, None::<&()>).await
    }

    /// A stream of events.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn events(&self, path: &str, query: &impl Serialize) -> Result<Events, CallError> {
        let response = self.request(Method::GET, &api(path), query, None::<&()>).await?;
        Ok(Events { response, parser: sse::Parser::default(), ready: VecDeque::new() })
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        query: &impl Serialize,
        body: Option<&impl Serialize>,
    ) -> Result<Response, CallError> {
        self.request_by(method, path, query, body, None).await
    }

    async fn request_by(
        &self,
        method: Method,
        path: &str,
        query: &impl Serialize,
        body: Option<&impl Serialize>,
        key: Option<&str>,
    ) -> Result<Response, CallError> {
        let mut request = self.http.request(method, self.address(path, query)?);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose_secret());
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = tokio::time::timeout(ANSWER_LIMIT, request.send())
            .await
            .map_err(|_| CallError::Unreachable(format!("{} did not answer within {ANSWER_LIMIT:?}", self.base)))?
            .map_err(|error| CallError::Unreachable(format!("cannot reach {}: {}", self.base, cause_of(&error))))?;
        if answer.status().is_success() { Ok(answer) } else { Err(refusal(answer).await) }
    }

    fn address(&self, path: &str, query: &impl Serialize) -> Result<Url, CallError> {
        let mut url = self.base.join(path).map_err(|error| CallError::Unreadable(format!("{path}: {error}")))?;
        let fields = serde_json::to_value(query).map_err(|error| CallError::Unreadable(error.to_string()))?;
        for (name, value) in fields.as_object().into_iter().flatten() {
            match value {
                serde_json::Value::Null => {}
                serde_json::Value::String(text) => drop(url.query_pairs_mut().append_pair(name, text)),
                other => drop(url.query_pairs_mut().append_pair(name, &other.to_string())),
            }
        }
        Ok(url)
    }
}

/// One path segment of user's text, so that a `/` or `?` in it stays in it.
pub fn segment(text: &str) -> String {
    let mut url = Url::parse("http://x/").unwrap_or_else(|_| unreachable!("a constant address"));
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.clear().push(text);
    }
    url.path().trim_start_matches('/').to_owned()
}

fn api(path: &str) -> String {
    format!("/api/v1{path}")
}

async fn read<T: DeserializeOwned>(response: Response) -> Result<T, CallError> {
    let address = response.url().clone();
    let body = response.bytes().await.map_err(|error| CallError::Unreachable(with_causes(&error)))?;
    serde_json::from_slice(&body).map_err(|error| CallError::Unreadable(format!("the answer of {address}: {error}")))
}

async fn refusal(response: Response) -> CallError {
    let (status, address) = (response.status(), response.url().clone());
    let body = response.bytes().await.unwrap_or_default();
    match serde_json::from_slice::<ErrorBody>(&body) {
        Ok(ErrorBody { error }) => CallError::Refused { status, code: error.code, message: error.message },
        Err(_) => {
            let message = format!("{address} answered {status}, not in the words of a Segue server");
            CallError::Refused { status, code: String::new(), message }
        }
    }
}

/// The innermost cause: "connection refused" says more than "error sending request".
fn cause_of(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// A stream of server-sent events.
pub struct Events {
    response: Response,
    parser: sse::Parser,
    ready: VecDeque<sse::Event>,
}

impl Events {
    /// The next event; `None` when the server has ended the stream.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn next(&mut self) -> Result<Option<sse::Event>, CallError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            let piece: Option<Bytes> =
                self.response.chunk().await.map_err(|error| CallError::Unreachable(with_causes(&error)))?;
            let Some(piece) = piece else { return Ok(None) };
            let ready = &mut self.ready;
            self.parser
                .feed(&piece, |event| ready.push_back(event))
                .map_err(|e| CallError::Unreadable(e.to_string()))?;
        }
    }

    /// The next event's data, read as what the API promises.
    ///
    /// # Errors
    /// The connection broke, or the data is something else.
    pub async fn next_as<T: DeserializeOwned>(&mut self) -> Result<Option<T>, CallError> {
        let Some(event) = self.next().await? else { return Ok(None) };
        serde_json::from_str(&event.data)
            .map(Some)
            .map_err(|error| CallError::Unreadable(format!("event `{}`: {error}", event.name)))
    }
}

#[cfg(test)]
mod tests {
    use segue_schemas::api::RunQuery;

    use super::*;

    #[test]
    fn a_query_holds_the_set_fields_and_nothing_else() {
        crate::install_crypto();
        let client = Client::new(Url::parse("http://127.0.0.1:1").unwrap(), None).unwrap();
        let query = RunQuery { r#ref: Some("a/b c".into()), limit: Some(3), ..RunQuery::default() };
        let url = client.address("/api/v1/runs", &query).unwrap();
        assert_eq!(url.as_str(), "http://127.0.0.1:1/api/v1/runs?limit=3&ref=a%2Fb+c");
        assert_eq!(client.address("/readyz", &()).unwrap().as_str(), "http://127.0.0.1:1/readyz");
    }

    #[tokio::test]
    async fn what_is_done_once_is_asked_for_again_by_the_same_key_where_the_answer_is_lost() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

        crate::install_crypto();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let server = async {
            let mut keys = Vec::new();
            for answer in
                ["", "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n", "HTTP/1.1 200 Ok\r\ncontent-length: 1\r\n\r\n7"]
            {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (mut request, mut part) = (String::new(), [0; 1024]);
                while !request.ends_with("\"once\"") {
                    let read = stream.read(&mut part).await.unwrap();
                    assert!(read > 0, "{request}");
                    request += std::str::from_utf8(&part[..read]).unwrap();
                }
                let key = request.lines().find_map(|line| line.strip_prefix("idempotency-key: "));
                keys.push(key.expect("it has a key").to_owned());
                stream.write_all(answer.as_bytes()).await.unwrap();
                // the next one comes by a connection of its own
                stream.shutdown().await.unwrap();
            }
            keys
        };
        let client = Client::new(base, None).unwrap();
        let (keys, answer) = tokio::join!(server, client.post_once::<u32>("/rollouts/7/abort", &"once"));
        assert_eq!(answer.unwrap(), 7);
        assert!(keys.iter().all(|key| *key == keys[0]) && keys[0].len() == 36, "{keys:?}");
    }

    #[test]
    fn a_name_in_a_path_stays_one_segment() {
        assert_eq!(segment("a/b?c"), "a%2Fb%3Fc");
        assert_eq!(segment("production"), "production");
    }
}
