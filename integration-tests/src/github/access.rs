//! Who asks, and what the token may do.

use std::collections::{BTreeMap, BTreeSet};

use axum::{body::Bytes, http::HeaderMap};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use http::StatusCode;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use serde_json::Value;

use super::{APP_ID, Asked, CLIENT_ID, State, answer::Answer};

/// How long an App's own token may live at most, in seconds.
const LONGEST: i64 = 600;

/// How much of a permission is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// `read`
    Read,
    /// `write`
    Write,
}

/// What may be done, by the name of what it is done to.
pub type Permissions = BTreeMap<String, Level>;

/// The permissions that Segue's documentation asks for.
pub(super) fn all_that_segue_asks_for() -> Permissions {
    let write =
        ["checks", "statuses", "deployments", "issues", "pull_requests"].map(|name| (name.to_owned(), Level::Write));
    let read = ["contents", "members", "metadata"].map(|name| (name.to_owned(), Level::Read));
    write.into_iter().chain(read).collect()
}

impl Level {
    pub(super) fn parse(word: &str) -> Option<Self> {
        match word {
            "read" => Some(Self::Read),
            "write" => Some(Self::Write),
            _ => None,
        }
    }

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// What a token opens.
#[derive(Debug, Clone)]
pub(super) struct Token {
    /// `None`: a person's, with all that the person may do.
    pub(super) of_installation: Option<Scope>,
}

/// What a token of an installation opens, and until when.
#[derive(Debug, Clone)]
pub(super) struct Scope {
    pub(super) expires_at: DateTime<Utc>,
    pub(super) permissions: Permissions,
    /// `owner/name`
    pub(super) repositories: BTreeSet<String>,
}

impl Token {
    pub(super) const fn personal() -> Self {
        Self { of_installation: None }
    }

    pub(super) const fn is_personal(&self) -> bool {
        self.of_installation.is_none()
    }
}

/// What holds for each request whoever asks; its body.
pub(super) fn well_formed(headers: &HeaderMap, body: &Bytes) -> Result<Value, Answer> {
    if headers.get("user-agent").is_none() {
        let message =
            "Request forbidden by administrative rules. Please make sure your request has a User-Agent header.";
        return Err(Answer::refusal(StatusCode::FORBIDDEN, message));
    }
    let version = headers.get("x-github-api-version").and_then(|version| version.to_str().ok());
    if let Some(version) = version.filter(|version| !["2022-11-28", "2026-03-10"].contains(version)) {
        return Err(Answer::refusal(StatusCode::BAD_REQUEST, &format!("{version} is not a supported version")));
    }
    if body.is_empty() {
        return Ok(Value::Null);
    }
    match serde_json::from_slice(body) {
        Ok(body @ Value::Object(_)) => Ok(body),
        Ok(_) => Err(Answer::refusal(StatusCode::BAD_REQUEST, "Body should be a JSON object")),
        Err(_) => Err(Answer::refusal(StatusCode::BAD_REQUEST, "Problems parsing JSON")),
    }
}

/// The App itself asks.
/// <https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app/generating-a-json-web-token-jwt-for-a-github-app>
pub(super) fn as_app(state: &State, asked: &Asked) -> Result<(), Answer> {
    let refuse = |message: &str| Err(Answer::refusal(StatusCode::UNAUTHORIZED, message));
    let Some(claims) = bearer(asked).and_then(|token| claims(token, &state.key)) else {
        return refuse("A JSON web token could not be decoded");
    };
    let now = state.now().timestamp();
    let issuer = &claims["iss"];
    let is_name = |text: &str| text == APP_ID.to_string() || text == CLIENT_ID;
    if issuer.as_u64() != Some(APP_ID) && !issuer.as_str().is_some_and(is_name) {
        return refuse("'Issuer' claim ('iss') must be an Integer");
    }
    let (Some(issued), Some(expires)) = (claims["iat"].as_i64(), claims["exp"].as_i64()) else {
        return refuse("Missing 'issued at' claim ('iat') in assertion");
    };
    if issued > now {
        return refuse(
            "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued",
        );
    }
    if expires <= now {
        return refuse(
            "'Expiration time' claim ('exp') must be a numeric value representing the future time at which the assertion expires",
        );
    }
    if expires > now + LONGEST || expires > issued + LONGEST {
        return refuse("'Expiration time' claim ('exp') is too far in the future");
    }
    Ok(())
}

/// Somebody asks for something of a repository, who needs a permission for it.
pub(super) fn may(
    state: &State,
    asked: &Asked,
    repository: &str,
    permission: &str,
    level: Level,
) -> Result<(), Answer> {
    let scope = match token(state, asked)? {
        Token { of_installation: Some(scope) } => scope,
        _ if state.repositories.contains_key(repository) => return Ok(()),
        _ => return Err(Answer::not_found()),
    };
    if !scope.repositories.contains(repository) {
        return Err(Answer::not_found());
    }
    if scope.permissions.get(permission).is_none_or(|had| *had < level) {
        let needed = format!("{permission}={}", level.as_str());
        let refusal = Answer::refusal(StatusCode::FORBIDDEN, "Resource not accessible by integration");
        return Err(refusal.with("x-accepted-github-permissions", needed));
    }
    Ok(())
}

/// Somebody asks for something of the organization, who needs a permission for it.
pub(super) fn may_of_organization(state: &State, asked: &Asked, permission: &str, level: Level) -> Result<(), Answer> {
    let Token { of_installation: Some(scope) } = token(state, asked)? else { return Ok(()) };
    if scope.permissions.get(permission).is_some_and(|had| *had >= level) {
        return Ok(());
    }
    let needed = format!("{permission}={}", level.as_str());
    let refusal = Answer::refusal(StatusCode::FORBIDDEN, "Resource not accessible by integration");
    Err(refusal.with("x-accepted-github-permissions", needed))
}

/// Somebody asks for what Apps alone may do.
pub(super) fn is_integration(state: &State, asked: &Asked) -> Result<(), Answer> {
    match token(state, asked)? {
        Token { of_installation: Some(_) } => Ok(()),
        _ => Err(Answer::refusal(StatusCode::FORBIDDEN, "You must authenticate via a GitHub App.")),
    }
}

/// Whether a person asks, and no App.
pub(super) fn is_person(state: &State, asked: &Asked) -> Result<bool, Answer> {
    token(state, asked).map(Token::is_personal)
}

fn token<'s>(state: &'s State, asked: &Asked) -> Result<&'s Token, Answer> {
    let bad = || Answer::refusal(StatusCode::UNAUTHORIZED, "Bad credentials");
    let Some(token) = bearer(asked) else {
        return Err(Answer::refusal(StatusCode::UNAUTHORIZED, "Requires authentication"));
    };
    let token = state.tokens.get(token).ok_or_else(bad)?;
    match &token.of_installation {
        Some(scope) if scope.expires_at <= state.now() => Err(bad()),
        Some(_) if state.is_suspended => {
            Err(Answer::refusal(StatusCode::FORBIDDEN, "This installation has been suspended"))
        }
        _ => Ok(token),
    }
}

fn bearer<'r>(asked: &'r Asked) -> Option<&'r str> {
    let (scheme, token) = asked.headers.get("authorization")?.to_str().ok()?.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") || scheme.eq_ignore_ascii_case("token")).then_some(token)
}

/// The claims of a JSON web token, if the App signed it.
fn claims(token: &str, key: &[u8]) -> Option<Value> {
    let (signed, signature) = token.rsplit_once('.')?;
    let (header, claims) = signed.split_once('.')?;
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
    let header: Value = serde_json::from_slice(&decode(header)?).ok()?;
    if header["alg"] != "RS256" {
        return None;
    }
    let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key);
    key.verify(signed.as_bytes(), &decode(signature)?).ok()?;
    serde_json::from_slice(&decode(claims)?).ok()
}
