//! Apps that are made from a manifest: the page that takes it and sends the browser back with a code, and the code's way back.
//! <https://docs.github.com/en/apps/sharing-github-apps/registering-a-github-app-from-a-manifest>

use axum::{body::Bytes, response::Response};
use chrono::{DateTime, TimeDelta, Utc};
use http::{StatusCode, header::LOCATION};
use reqwest::Url;
use serde_json::{Value, json};

use super::{
    APP_ID, Asked, CLIENT_ID, State,
    access::{Level, Permissions},
    answer::{Answer, query},
};

/// Characters of a name.
const NAME_CHARS: usize = 34;
/// How long a code is good.
const CODE_LIFE: TimeDelta = TimeDelta::hours(1);
/// What each event is heard by.
const EVENTS: [(&str, &[&str]); 8] = [
    ("push", &["contents"]),
    ("pull_request", &["pull_requests"]),
    ("issue_comment", &["issues", "pull_requests"]),
    ("check_run", &["checks"]),
    ("check_suite", &["checks"]),
    ("repository", &["metadata"]),
    ("deployment", &["deployments"]),
    ("status", &["statuses"]),
];
const PERMISSIONS: [&str; 8] =
    ["checks", "contents", "deployments", "issues", "members", "metadata", "pull_requests", "statuses"];

/// An App that somebody has confirmed, until its code is given back.
pub(super) struct Confirmed {
    code: String,
    at: DateTime<Utc>,
    owner: Option<String>,
    manifest: Value,
}

impl super::GitHub {
    /// Whether the App is installed anywhere; one that was just made is not.
    pub fn set_installed(&self, is_installed: bool) {
        self.state().is_installed = is_installed;
    }
}

/// `POST /settings/apps/new`, `POST /organizations/{organization}/settings/apps/new`: a page, on which the person confirms at once.
pub(super) fn confirm(state: &mut State, path: &[&str], asked: Option<&str>, body: &Bytes) -> Option<Response> {
    let owner = match path {
        ["settings", "apps", "new"] => None,
        ["organizations", owner, "settings", "apps", "new"] => Some((*owner).to_owned()),
        _ => return None,
    };
    let form = query(std::str::from_utf8(body).ok());
    let page =
        |status: StatusCode, text: String| Response::builder().status(status).body(text.into()).unwrap_or_default();
    let manifest: Value = match form.get("manifest").map(|text| serde_json::from_str(text)) {
        Some(Ok(manifest)) => manifest,
        _ => return Some(page(StatusCode::UNPROCESSABLE_ENTITY, "Manifest is not valid JSON".into())),
    };
    if let Err(problem) = check(&manifest) {
        return Some(page(StatusCode::UNPROCESSABLE_ENTITY, format!("GitHub App configuration is invalid: {problem}")));
    }
    let code = uuid::Uuid::new_v4().simple().to_string();
    let mut back = Url::parse(manifest["redirect_url"].as_str()?).ok()?;
    back.query_pairs_mut().append_pair("code", &code);
    if let Some(state) = query(asked).get("state") {
        back.query_pairs_mut().append_pair("state", state);
    }
    let at = state.now();
    state.confirmed.push(Confirmed { code, at, owner, manifest });
    let found = Response::builder().status(StatusCode::FOUND).header(LOCATION, back.as_str());
    Some(found.body("".into()).unwrap_or_default())
}

/// What GitHub would not take.
fn check(manifest: &Value) -> Result<(), String> {
    let name = manifest["name"].as_str().unwrap_or_default();
    if name.is_empty() || name.chars().count() > NAME_CHARS {
        return Err(format!("Name is too long (maximum is {NAME_CHARS} characters) or missing"));
    }
    let url = |value: &Value, what: &str| {
        let url = value.as_str().and_then(|text| Url::parse(text).ok());
        url.filter(|url| ["http", "https"].contains(&url.scheme())).ok_or_else(|| format!("{what} must be a valid URL"))
    };
    url(&manifest["url"], "Url")?;
    url(&manifest["redirect_url"], "Redirect url")?;
    let hook = url(&manifest["hook_attributes"]["url"], "Hook url")?;
    if hook.host_str().is_some_and(|host| host == "localhost" || host.starts_with("127.")) {
        return Err("Hook url is not supported because it isn't reachable over the public Internet (localhost)".into());
    }
    let Some(permissions) = manifest["default_permissions"].as_object() else { return Err("no permissions".into()) };
    for (name, level) in permissions {
        if !PERMISSIONS.contains(&name.as_str()) || level.as_str().and_then(Level::parse).is_none() {
            return Err(format!(
                "Default permission records resource `{name}` with {level} is not included in the list"
            ));
        }
    }
    for event in manifest["default_events"].as_array().into_iter().flatten() {
        let known = EVENTS.iter().find(|(name, _)| event == name);
        if !known.is_some_and(|(_, by)| by.iter().any(|name| permissions.contains_key(*name))) {
            return Err(format!("Default events are not supported by permissions: {event}"));
        }
    }
    Ok(())
}

/// `POST /app-manifests/{code}/conversions`: once, by whoever has the code.
pub(super) fn convert(state: &mut State, asked: &Asked, code: &str) -> Result<Answer, Answer> {
    if !asked.body.is_null() && asked.body.as_object().is_none_or(|body| !body.is_empty()) {
        return Err(Answer::invalid("no body is taken"));
    }
    let now = state.now();
    let position = state.confirmed.iter().position(|one| one.code == code && now < one.at + CODE_LIFE);
    let made = state.confirmed.remove(position.ok_or_else(Answer::not_found)?);
    let text = |field: &str| made.manifest[field].clone();
    let granted = made.manifest["default_permissions"].as_object().into_iter().flatten();
    state.granted = granted
        .filter_map(|(name, level)| Some((name.clone(), level.as_str().and_then(Level::parse)?)))
        .collect::<Permissions>();
    state.events = made.manifest["default_events"].clone();
    state.hook_url = made.manifest["hook_attributes"]["url"].as_str().map(str::to_owned);
    state.is_installed = false;
    let owner = made.owner.unwrap_or_else(|| "ada".into());
    let at = now.to_rfc3339();
    let mut body = json!({
        "id": APP_ID, "slug": "segue-test", "node_id": "A_1", "client_id": CLIENT_ID, "client_secret": "not needed",
        "webhook_secret": "the secret of the webhook", "pem": state.pem, "owner": {"login": owner, "id": 1, "type": "User"},
        "html_url": format!("{}/apps/segue-test", state.url), "created_at": at, "updated_at": at,
    });
    for (field, from) in [("name", "name"), ("description", "description"), ("external_url", "url")] {
        body[field] = text(from);
    }
    for (field, from) in [("permissions", "default_permissions"), ("events", "default_events")] {
        body[field] = text(from);
    }
    Ok(Answer::json(StatusCode::CREATED, body))
}
