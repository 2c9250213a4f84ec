//! Answers, with the bodies and headers that GitHub's have.

use std::collections::BTreeMap;

use axum::{body::Body, response::Response};
use futures_util::stream;
use http::{HeaderMap, Method, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::limits::Limits;

/// An answer before the headers that all have.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: Vec<(&'static str, String)>,
    /// JSON, or a page where there is none.
    body: Result<Value, String>,
}

impl Answer {
    pub(super) fn json(status: StatusCode, body: Value) -> Self {
        Self { status, headers: Vec::new(), body: Ok(body) }
    }

    pub(super) fn ok(body: Value) -> Self {
        Self::json(StatusCode::OK, body)
    }

    /// What a load balancer says.
    pub(super) fn page(status: StatusCode) -> Self {
        Self { status, headers: Vec::new(), body: Err(format!("<html><body>{status}</body></html>")) }
    }

    /// A refusal as most are. <https://docs.github.com/en/rest/using-the-rest-api/troubleshooting-the-rest-api>
    pub(super) fn refusal(status: StatusCode, message: &str) -> Self {
        let url = "https://docs.github.com/rest";
        Self::json(status, json!({"message": message, "documentation_url": url, "status": status.as_str()}))
    }

    /// Also for what somebody may not know of.
    pub(super) fn not_found() -> Self {
        Self::refusal(StatusCode::NOT_FOUND, "Not Found")
    }

    /// A body of the wrong shape.
    pub(super) fn invalid(problem: &str) -> Self {
        Self::refusal(StatusCode::UNPROCESSABLE_ENTITY, &format!("Invalid request.\n\n{problem}"))
    }

    /// One entry of a body that can't be.
    pub(super) fn validation(resource: &str, field: &str, code: &str) -> Self {
        let errors = json!([{"resource": resource, "field": field, "code": code}]);
        let url = "https://docs.github.com/rest";
        let body = json!({"message": "Validation Failed", "errors": errors, "documentation_url": url, "status": "422"});
        Self::json(StatusCode::UNPROCESSABLE_ENTITY, body)
    }

    pub(super) fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }

    /// What it says, if that is JSON.
    pub(super) fn body(&self) -> Option<&Value> {
        self.body.as_ref().ok()
    }

    /// Itself with its tag, or 304 without a body (`Err`) where the asker has it already.
    pub(super) fn unless_same(self, method: &Method, headers: &HeaderMap) -> Result<Self, Self> {
        let (&Method::GET, StatusCode::OK, Ok(body)) = (method, self.status, &self.body) else { return Ok(self) };
        let etag = format!("W/\"{}\"", hex::encode(Sha256::digest(body.to_string().as_bytes())));
        let is_same = headers.get("if-none-match").is_some_and(|had| had.as_bytes() == etag.as_bytes());
        if is_same {
            Err(Self::json(StatusCode::NOT_MODIFIED, Value::Null).with("etag", etag))
        } else {
            Ok(self.with("etag", etag))
        }
    }

    pub(super) fn into_response(self, limits: &Limits) -> Response {
        let mut response =
            Response::builder().status(self.status).header("x-github-media-type", "github.v3; format=json");
        for (name, value) in limits.headers().into_iter().chain(self.headers) {
            response = response.header(name, value);
        }
        if self.status == StatusCode::NOT_MODIFIED {
            return response.body(Body::empty()).unwrap_or_default();
        }
        let (kind, body) = match self.body {
            Ok(json) => ("application/json; charset=utf-8", json.to_string()),
            Err(page) => ("text/html; charset=utf-8", page),
        };
        response.header("content-type", kind).body(Body::from(body)).unwrap_or_default()
    }
}

/// An answer that breaks off before anything of it has come.
pub(super) fn broken() -> Response {
    let nothing =
        stream::once(async { Err::<axum::body::Bytes, _>(std::io::Error::from(std::io::ErrorKind::ConnectionReset)) });
    Response::builder().header("content-length", "10").body(Body::from_stream(nothing)).unwrap_or_default()
}

/// The query's entries; what is sent here has nothing that would be encoded but spaces, slashes and percent signs.
pub(super) fn query(text: Option<&str>) -> BTreeMap<String, String> {
    let text = text.unwrap_or_default();
    reqwest::Url::parse(&format!("http://localhost/?{text}"))
        .map(|url| url.query_pairs().into_owned().collect())
        .unwrap_or_default()
}

/// One page of a list, and the `link` to the others.
/// <https://docs.github.com/en/rest/using-the-rest-api/using-pagination-in-the-rest-api>
pub(super) fn page(all: Vec<Value>, asked: &super::Asked, base: &str) -> (Vec<Value>, Option<String>) {
    let number =
        |name: &str, otherwise: usize| asked.query.get(name).and_then(|text| text.parse().ok()).unwrap_or(otherwise);
    let (size, page) = (number("per_page", 30).clamp(1, 100), number("page", 1).max(1));
    let last = all.len().div_ceil(size).max(1);
    let path = asked.path.join("/");
    let link = |page: usize, rel: &str| format!("<{base}/{path}?per_page={size}&page={page}>; rel=\"{rel}\"");
    let mut links = Vec::new();
    if page > 1 {
        links.push(link(page - 1, "prev"));
    }
    if page < last {
        links.push(link(page + 1, "next"));
        links.push(link(last, "last"));
    }
    let items = all.into_iter().skip((page - 1) * size).take(size).collect();
    (items, (!links.is_empty()).then(|| links.join(", ")))
}
