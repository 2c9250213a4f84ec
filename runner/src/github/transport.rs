//! What carries octocrab's requests: the HTTP client that the rest of Segue uses, with its TLS and its time limits. Of octocrab's own
//! client, retries, cache and signing nothing is built in: a second TLS stack would come with them, and what follows from a refusal
//! is decided here by its status and headers.

use std::{convert::Infallible, error::Error as _, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, combinators::BoxBody};
use octocrab::{AuthState, OctoBody, Octocrab, OctocrabBuilder};
use tower::{BoxError, service_fn};

use crate::outgoing;

/// How long an answer may take; GitHub itself gives up after 10 s.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
/// How long a connection may take to be made.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// An answer's body, as it comes.
pub(super) type AnswerBody = BoxBody<Bytes, octocrab::Error>;

/// One that sends requests as they are built: whoever asks brings the token.
pub(super) fn octocrab() -> Result<Octocrab, reqwest::Error> {
    let client = reqwest::Client::builder()
        .user_agent(concat!("segue/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_LIMIT)
        .timeout(ANSWER_LIMIT)
        .redirect(reqwest::redirect::Policy::limited(3))
        .build()?;
    let service = service_fn(move |request: http::Request<OctoBody>| {
        let client = client.clone();
        async move {
            let (head, body) = request.into_parts();
            // whole, so that it can be sent again to where a renamed repository's redirect points
            let body = body.collect().await?.to_bytes();
            let request = reqwest::Request::try_from(http::Request::from_parts(head, body))?;
            let response = client.execute(request).await.map_err(reqwest::Error::without_url)?;
            Ok::<_, BoxError>(http::Response::<reqwest::Body>::from(response))
        }
    });
    let built: Result<Octocrab, Infallible> =
        OctocrabBuilder::new_empty().with_service(service).with_auth(AuthState::None).build();
    Ok(built.unwrap_or_else(|never| match never {}))
}

/// A failure with all that caused it, in one line, without the names of the layers that it passed.
pub(super) fn cause(error: &octocrab::Error) -> String {
    match error.source() {
        Some(source) => outgoing::cause(source),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, http::HeaderMap, response::Redirect, routing::post};
    use http::{Request, StatusCode};
    use serde_json::json;

    use super::*;

    async fn start(router: Router) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        url
    }

    /// A renamed repository's paths answer 307, <https://docs.github.com/en/rest/using-the-rest-api/best-practices-for-using-the-rest-api#follow-redirects>.
    #[tokio::test]
    async fn a_body_and_its_headers_follow_a_redirect_and_a_refusal_keeps_its_own() {
        let _already_installed = rustls::crypto::ring::default_provider().install_default();
        let new = |headers: HeaderMap, body: String| async move {
            let sent = ["authorization", "x-github-api-version", "user-agent"];
            let sent: Vec<_> = sent.map(|name| headers[name].to_str().unwrap().to_owned()).into();
            (StatusCode::FORBIDDEN, [("retry-after", "7")], format!("{} {body}", sent.join(" ")))
        };
        let router =
            Router::new().route("/old", post(|| async { Redirect::temporary("/new") })).route("/new", post(new));
        let url = start(router).await;
        let client = octocrab().unwrap();
        let request = Request::post(format!("{url}/old")).header("authorization", "Bearer secret");
        let request = client.build_request(request, Some(&json!({"a": 1}))).unwrap();
        let response = client.execute(request).await.unwrap();
        assert_eq!(
            (response.status(), response.headers()["retry-after"].to_str().unwrap()),
            (StatusCode::FORBIDDEN, "7")
        );
        let body = client.body_to_string(response).await.unwrap();
        assert_eq!(body, concat!("Bearer secret 2022-11-28 segue/", env!("CARGO_PKG_VERSION"), " {\"a\":1}"));
    }

    #[tokio::test]
    async fn why_nobody_answers_is_told_without_the_layers_between() {
        let _already_installed = rustls::crypto::ring::default_provider().install_default();
        let client = octocrab().unwrap();
        // bound and closed again: nobody listens there
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let request = Request::post(format!("http://127.0.0.1:{port}/secret-path"));
        let request = client.build_request(request, None::<&()>).unwrap();
        let told = cause(&client.execute(request).await.unwrap_err());
        assert!(told.contains("Connection refused") && !told.contains("Service Error"), "{told}");
        assert!(!told.contains("secret-path"), "{told}");
    }
}
