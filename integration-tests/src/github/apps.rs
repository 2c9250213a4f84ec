//! The App, its installation, and the tokens of that. <https://docs.github.com/en/rest/apps/apps>

use std::collections::BTreeSet;

use chrono::SecondsFormat;
use http::StatusCode;
use serde_json::{Value, json};

use super::{
    APP_ID, Asked, CLIENT_ID, INSTALLATION_ID, State,
    access::{Level, Permissions, Scope, Token, as_app},
    answer::{Answer, page},
};

/// `GET /app`
pub(super) fn app(state: &State, asked: &Asked) -> Result<Answer, Answer> {
    as_app(state, asked)?;
    Ok(Answer::ok(json!({
        "id": APP_ID, "slug": "segue-test", "name": "segue-test", "client_id": CLIENT_ID,
        "owner": {"login": "acme", "type": "Organization"}, "html_url": "https://github.com/apps/segue-test",
        "permissions": shown(&state.granted), "events": state.events, "installations_count": u8::from(state.is_installed),
    })))
}

/// `GET /app/hook/config`. <https://docs.github.com/en/rest/apps/webhooks>
pub(super) fn hook_config(state: &State, asked: &Asked) -> Result<Answer, Answer> {
    as_app(state, asked)?;
    let url = state.hook_url.as_deref().unwrap_or_default();
    Ok(Answer::ok(json!({"content_type": "json", "insecure_ssl": "0", "secret": "********", "url": url})))
}

/// `GET /app/installations`
pub(super) fn installations(state: &State, asked: &Asked) -> Result<Answer, Answer> {
    as_app(state, asked)?;
    let (items, link) = page(state.is_installed.then(|| installation(state)).into_iter().collect(), asked, &state.url);
    let answer = Answer::ok(Value::Array(items));
    Ok(match link {
        Some(link) => answer.with("link", link),
        None => answer,
    })
}

/// `GET /repos/{owner}/{repo}/installation`
pub(super) fn installation_of(state: &State, asked: &Asked, repository: &str) -> Result<Answer, Answer> {
    as_app(state, asked)?;
    if !state.is_installed || !state.repositories.contains_key(repository) {
        return Err(Answer::not_found());
    }
    Ok(Answer::ok(installation(state)))
}

/// `POST /app/installations/{installation_id}/access_tokens`: with no more than the installation has.
pub(super) fn access_token(state: &mut State, asked: &Asked, id: &str) -> Result<Answer, Answer> {
    as_app(state, asked)?;
    if id.parse() != Ok(INSTALLATION_ID) {
        return Err(Answer::not_found());
    }
    if state.is_suspended {
        return Err(Answer::refusal(StatusCode::FORBIDDEN, "This installation has been suspended"));
    }
    let permissions = wanted_permissions(state, &asked.body["permissions"])?;
    let repositories = wanted_repositories(state, &asked.body["repositories"])?;
    let expires_at = state.now() + state.token_life;
    let token = format!("ghs_{}", uuid::Uuid::new_v4().simple());
    let body = json!({
        "token": token, "expires_at": expires_at.to_rfc3339_opts(SecondsFormat::Secs, true),
        "permissions": shown(&permissions), "repository_selection": "selected",
    });
    let scope = Scope { expires_at, permissions, repositories };
    state.tokens.insert(token, Token { of_installation: Some(scope) });
    Ok(Answer::json(StatusCode::CREATED, body))
}

fn wanted_permissions(state: &State, wanted: &Value) -> Result<Permissions, Answer> {
    let Some(wanted) = wanted.as_object() else { return Ok(state.granted.clone()) };
    let mut permissions = Permissions::from([("metadata".to_owned(), Level::Read)]);
    for (name, level) in wanted {
        let Some(level) = level.as_str().and_then(Level::parse) else {
            return Err(Answer::invalid(&format!("{level} is not a member of [\"read\", \"write\"].")));
        };
        if state.granted.get(name).is_none_or(|granted| *granted < level) {
            let message = "The permissions requested are not granted to this installation.";
            return Err(Answer::refusal(StatusCode::UNPROCESSABLE_ENTITY, message));
        }
        permissions.insert(name.clone(), level);
    }
    Ok(permissions)
}

fn wanted_repositories(state: &State, wanted: &Value) -> Result<BTreeSet<String>, Answer> {
    let Some(wanted) = wanted.as_array() else { return Ok(state.repositories.keys().cloned().collect()) };
    let message =
        "There is at least one repository that does not exist or is not accessible to the parent installation.";
    wanted
        .iter()
        .map(|name| {
            let name = name.as_str().unwrap_or_default();
            let known =
                state.repositories.keys().find(|known| known.split_once('/').is_some_and(|(_, own)| own == name));
            known.cloned().ok_or_else(|| Answer::refusal(StatusCode::UNPROCESSABLE_ENTITY, message))
        })
        .collect()
}

fn installation(state: &State) -> Value {
    let suspended_at = state.is_suspended.then(|| state.now().to_rfc3339_opts(SecondsFormat::Secs, true));
    json!({
        "id": INSTALLATION_ID, "app_id": APP_ID, "account": {"login": "acme", "type": "Organization"},
        "repository_selection": "selected", "permissions": shown(&state.granted), "suspended_at": suspended_at,
    })
}

fn shown(permissions: &Permissions) -> Value {
    permissions
        .iter()
        .map(|(name, level)| (name.clone(), json!(level.as_str())))
        .collect::<serde_json::Map<_, _>>()
        .into()
}
