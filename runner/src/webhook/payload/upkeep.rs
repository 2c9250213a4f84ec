//! What is told of repositories and installations themselves: renamed, moved, taken from the App, given back. It starts nothing,
//! and says what is to be done about it where the configuration names what it is about.
//! <https://docs.github.com/en/webhooks/webhook-events-and-payloads#repository>, `#installation`, `#installation_repositories`,
//! `#installation_target`

use serde::Deserialize;

use super::{Account, Meaning, Payload, Repository, is_login};
use crate::{
    mirror::RepositoryName,
    webhook::field::{Field, List, Object},
};

/// Something that may concern what the configuration names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Upkeep {
    /// The repository as it is called now; `owner/name`.
    pub repository: Option<String>,
    /// What it is about: repositories, as they were and are called.
    pub repositories: Vec<String>,
    /// The account of which every repository is concerned.
    pub owner: Option<String>,
    /// What happened.
    pub reason: String,
    /// What to do about it, if it concerns what the configuration names.
    pub remedy: Option<&'static str>,
}

impl Upkeep {
    /// Whether it is about a repository.
    #[must_use]
    pub fn concerns(&self, repository: &str) -> bool {
        let owner = repository.split_once('/').map_or(repository, |(owner, _)| owner);
        let is_same = |name: &String| name.eq_ignore_ascii_case(repository);
        self.repositories.iter().any(is_same)
            || self.owner.as_ref().is_some_and(|theirs| theirs.eq_ignore_ascii_case(owner))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Installation {
    account: Field<Object<Account>>,
}

/// What something was before.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Changes {
    repository: Field<Object<Renamed>>,
    owner: Field<Object<Moved>>,
    login: Field<Object<Was>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Renamed {
    name: Field<Object<Was>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Moved {
    from: Field<Object<Owner>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Owner {
    user: Field<Object<Account>>,
    organization: Field<Object<Account>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Was {
    from: Field<String>,
}

const RENAME: &str = "give it its new name under `repositories` in segue.yaml, and start the server again";
const INSTALL: &str = "install the App there again if its checks are still wanted, or take it out of segue.yaml";

/// `repository`
pub(super) fn repository(payload: Payload) -> Meaning {
    let action = action(payload.action);
    let name = payload.repository.get().and_then(|repository| name(repository.0));
    let shown = name.as_deref().unwrap_or("a repository").to_owned();
    let before = payload.changes.get().and_then(|changes| before(changes.0, name.as_deref()?));
    let (reason, remedy) = match (action.as_str(), &before) {
        ("renamed", Some(before)) => (format!("{before} is called {shown} now"), Some(RENAME)),
        ("transferred", Some(before)) => (format!("{before} has moved, and is {shown} now"), Some(RENAME)),
        ("renamed" | "transferred", None) => (format!("a repository is called {shown} now"), Some(RENAME)),
        ("deleted", _) => (format!("{shown} was deleted"), Some("take it out of segue.yaml")),
        ("archived", _) => (format!("{shown} was archived: it takes no pushes and no checks"), None),
        (other, _) => (format!("{shown} was `{other}`, which asks for nothing"), None),
    };
    let repositories = name.iter().chain(&before).cloned().collect();
    Meaning::Upkeep(Upkeep { repository: name, repositories, owner: None, reason, remedy })
}

/// `installation`
pub(super) fn installation(payload: Payload) -> Meaning {
    let action = action(payload.action);
    let owner = payload.installation.get().and_then(|installation| login(installation.0.account));
    let place = owner.as_ref().map_or_else(String::new, |owner| format!(" for {owner}"));
    let (reason, remedy) = match action.as_str() {
        "deleted" => (format!("the App was uninstalled{place}"), Some(INSTALL)),
        "suspend" => (format!("the App's installation{place} was suspended"), Some(INSTALL)),
        "unsuspend" => (format!("the App's installation{place} is no longer suspended"), None),
        "created" => (format!("the App was installed{place}"), None),
        "new_permissions_accepted" => (format!("the App's new permissions{place} were accepted"), None),
        other => (format!("the App's installation{place} was `{other}`, which asks for nothing"), None),
    };
    Meaning::Upkeep(Upkeep { owner, reason, remedy, ..Upkeep::default() })
}

/// `installation_repositories`
pub(super) fn installation_repositories(payload: Payload) -> Meaning {
    let action = action(payload.action);
    let names = |list: Field<List<Repository>>| -> Vec<String> {
        list.get().into_iter().flat_map(|list| list.0).filter_map(name).collect()
    };
    let (added, removed) = (names(payload.repositories_added), names(payload.repositories_removed));
    let shown = |names: &[String]| if names.is_empty() { "repositories".to_owned() } else { names.join(", ") };
    let (reason, remedy, repositories) = match action.as_str() {
        "removed" => (format!("the App is no longer installed for {}", shown(&removed)), Some(INSTALL), removed),
        "added" => (format!("the App is installed for {}", shown(&added)), None, added),
        other => (format!("the App's repositories were `{other}`, which asks for nothing"), None, Vec::new()),
    };
    Meaning::Upkeep(Upkeep { reason, remedy, repositories, ..Upkeep::default() })
}

/// `installation_target`: the account that has the App has another name.
pub(super) fn installation_target(payload: Payload) -> Meaning {
    let now = login(payload.account);
    let before = payload.changes.get().and_then(|changes| changes.0.login.get()?.0.from.get());
    let before = before.filter(|login| is_login(login));
    let word = |login: &Option<String>| login.clone().unwrap_or_else(|| "an account".into());
    let reason = format!("{} is called {} now, and so are its repositories", word(&before), word(&now));
    Meaning::Upkeep(Upkeep { owner: before.or(now), reason, remedy: Some(RENAME), ..Upkeep::default() })
}

fn action(field: Field<String>) -> String {
    field.get().unwrap_or_else(|| "changed".into()).chars().take(64).collect()
}

fn name(repository: Repository) -> Option<String> {
    repository.full_name.get().filter(|name| RepositoryName::parse(name).is_ok())
}

fn login(account: Field<Object<Account>>) -> Option<String> {
    account.get().and_then(|account| account.0.login.get()).filter(|login| is_login(login))
}

/// What a repository was called that is `now` called so.
fn before(changes: Changes, now: &str) -> Option<String> {
    let (owner, name) = now.split_once('/')?;
    let renamed = changes.repository.get().and_then(|renamed| renamed.0.name.get()?.0.from.get());
    let moved = changes.owner.get().and_then(|moved| {
        let from = moved.0.from.get()?.0;
        login(from.user).or_else(|| login(from.organization))
    });
    if renamed.is_none() && moved.is_none() {
        return None;
    }
    let before = format!("{}/{}", moved.as_deref().unwrap_or(owner), renamed.as_deref().unwrap_or(name));
    RepositoryName::parse(&before).ok()?;
    Some(before)
}
