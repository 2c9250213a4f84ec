//! GitHub: whether it takes the App's key or the token, whether that may do what Segue does there, and whether events come here.

use http::Method;
use segue_runner::github::{GitHub, GitHubError, Purpose, Speaker};
use segue_schemas::config::Config;
use serde_json::Value;

use super::Check;

const NAME: &str = "github";
/// What Segue does there as an App, and hears of, by permission and level.
pub const NEEDED: [(&str, &str); 5] = [
    ("checks", "write"),
    ("contents", "read"),
    ("deployments", "write"),
    ("metadata", "read"),
    ("pull_requests", "write"),
];
/// The events that start something.
const EVENTS: [&str; 3] = ["push", "pull_request", "issue_comment"];
/// The events that an App of Segue's is made with: also those of its checks' buttons, and of a repository that is renamed.
pub const HEARD: [&str; 6] = ["push", "pull_request", "issue_comment", "check_run", "check_suite", "repository"];
/// Where events are taken.
pub const WEBHOOK_PATH: &str = "/webhooks/github";

/// Everything that concerns GitHub; nothing where the configuration names neither an App nor a token.
pub async fn github(config: &Config) -> Vec<Check> {
    let github = match GitHub::open(&config.github) {
        Ok(Some(github)) => github,
        Ok(None) => return Vec::new(),
        Err(error) => return vec![bad(NAME, &error)],
    };
    let mut checks = Vec::new();
    if github.is_app() {
        match ask(&github, Speaker::App, "/app").await {
            Ok(app) => checks.extend(of_app(&app)),
            // nothing else would be answered either
            Err(error) => return vec![bad(NAME, &error)],
        }
        checks.push(webhook(&github).await);
    }
    for repository in config.repositories.keys() {
        checks.push(if github.is_app() {
            installation(&github, repository).await
        } else {
            of_token(&github, repository).await
        });
    }
    checks
}

/// What concerns an App that was just made, and is installed nowhere yet.
pub async fn of_new_app(config: &Config) -> Vec<Check> {
    let apart = Config { github: config.github.clone(), ..Config::default() };
    github(&apart).await
}

fn of_app(app: &Value) -> Vec<Check> {
    let slug = app["slug"].as_str().unwrap_or("without a name");
    let mut checks = Vec::new();
    let missing = missing(&app["permissions"]);
    checks.push(if missing.is_empty() {
        Check::good(NAME, format!("speaks as the App `{slug}`"))
    } else {
        let found = format!("the App `{slug}` does not ask for {}", missing.join(", "));
        Check::bad(
            NAME,
            found,
            "add it in the App's settings under \"Permissions & events\", and accept it where the App is installed",
        )
    });
    let events: Vec<&str> = app["events"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let unheard: Vec<&str> = EVENTS.into_iter().filter(|event| !events.contains(event)).collect();
    if !unheard.is_empty() {
        let found = format!("the App `{slug}` does not hear of {}", unheard.join(", "));
        checks.push(Check::bad(
            "github events",
            found,
            "subscribe to it in the App's settings under \"Permissions & events\"",
        ));
    }
    checks
}

async fn webhook(github: &GitHub) -> Check {
    const TITLE: &str = "github webhook";
    const REMEDY: &str = "in the App's settings, under \"Webhook\", set `https://<this server>/webhooks/github`, active, with the secret \
                          of this server (`webhook-secret` in the data directory, or `github.webhook-secret-file`)";
    let hook = match ask(github, Speaker::App, "/app/hook/config").await {
        Ok(hook) => hook,
        Err(GitHubError::Refused { status, .. }) if status.as_u16() == 404 => {
            return Check::bad(TITLE, "the App has none: no event comes here", REMEDY);
        }
        Err(error) => return bad(TITLE, &error),
    };
    let url = hook["url"].as_str().unwrap_or_default();
    if url.is_empty() {
        return Check::bad(TITLE, "the App has no address to send events to", REMEDY);
    }
    if !url.trim_end_matches('/').ends_with(WEBHOOK_PATH) {
        return Check::bad(TITLE, format!("events go to {url}, and are taken at {WEBHOOK_PATH}"), REMEDY);
    }
    if hook["content_type"].as_str().is_some_and(|kind| kind != "json") {
        let remedy = "set the content type `application/json` in the App's settings, under \"Webhook\"";
        return Check::bad(TITLE, format!("events come to {url} as a form"), remedy);
    }
    if hook["secret"].as_str().is_none_or(str::is_empty) {
        return Check::bad(TITLE, format!("events come to {url} without a signature, and are refused"), REMEDY);
    }
    if hook["insecure_ssl"].as_str() == Some("1") || url.starts_with("http://") {
        let remedy = "use https, and have GitHub verify the certificate";
        return Check::remark(TITLE, format!("events come to {url}, and nobody verifies the way"), remedy);
    }
    Check::good(TITLE, format!("events go to {url}"))
}

async fn installation(github: &GitHub, repository: &str) -> Check {
    let title = format!("github {repository}");
    let installation = match ask(github, Speaker::App, &format!("/repos/{repository}/installation")).await {
        Ok(installation) => installation,
        Err(GitHubError::Refused { status, .. }) if status.as_u16() == 404 => {
            return bad(&title, &GitHubError::NotInstalled { repository: repository.into() });
        }
        Err(error) => return bad(&title, &error),
    };
    if !installation["suspended_at"].is_null() {
        return Check::bad(
            &title,
            "the App's installation is suspended",
            "unsuspend it in the owner's settings, under \"GitHub Apps\"",
        );
    }
    let missing = missing(&installation["permissions"]);
    if !missing.is_empty() {
        let found = format!("the App may not {}", missing.join(", "));
        let remedy = "accept the App's new permissions: its owner was sent a mail, and finds them in the settings under \"GitHub Apps\"";
        return Check::bad(&title, found, remedy);
    }
    Check::good(&title, "the App is installed, and may do what it needs to")
}

async fn of_token(github: &GitHub, repository: &str) -> Check {
    let title = format!("github {repository}");
    let speaker = Speaker::Repository(repository, Purpose::Metadata);
    match ask(github, speaker, &format!("/repos/{repository}")).await {
        Ok(found) if found["permissions"]["push"].as_bool() == Some(false) => {
            let remedy =
                "use a token of somebody who may write there, with the permission \"Commit statuses: read and write\"";
            Check::bad(&title, "the token's owner may only read it", remedy)
        }
        Ok(_) => Check::good(&title, "can be read with the token; commits get statuses (checks need an App)"),
        Err(GitHubError::Refused { status, .. }) if status.as_u16() == 404 => {
            let remedy = "choose the repository in the token's settings, with the permission \"Commit statuses: read and write\"";
            Check::bad(&title, "the token does not open it", remedy)
        }
        Err(error) => bad(&title, &error),
    }
}

/// What is needed and not there.
fn missing(had: &Value) -> Vec<String> {
    let is_there = |(name, level): &(&str, &str)| match had[*name].as_str() {
        Some("admin" | "write") => true,
        Some("read") => *level == "read",
        _ => false,
    };
    let missing = NEEDED.iter().filter(|needed| !is_there(needed));
    missing.map(|(name, level)| format!("{name}: {level}")).collect()
}

async fn ask(github: &GitHub, speaker: Speaker<'_>, path: &str) -> Result<Value, GitHubError> {
    Ok(github.ask(speaker, Method::GET, path, None).await?.body)
}

/// What is wrong ends in what to do.
fn bad(title: &str, error: &GitHubError) -> Check {
    let told = error.to_string();
    let (found, remedy) = match error {
        GitHubError::Configuration { .. } | GitHubError::Forbidden { .. } => told.split_once("; "),
        GitHubError::Unauthorized { .. } | GitHubError::NotInstalled { .. } => told.rsplit_once(": "),
        _ => None,
    }
    .unwrap_or((&told, "look at `github` in segue.yaml, and whether this machine reaches `api-url`"));
    Check::bad(title, found, remedy)
}

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Duration};

    use segue_integration_tests::github::{GitHub as StandIn, Level, Permissions};

    use super::{super::State, *};

    async fn looked(settings: &str) -> Vec<Check> {
        let config: Config = serde_yaml::from_str(&format!("repositories: {{acme/shop: {{}}}}\n{settings}")).unwrap();
        github(&config).await
    }

    fn states(checks: &[Check]) -> Vec<(&str, State)> {
        checks.iter().map(|check| (check.name.as_str(), check.state)).collect()
    }

    #[tokio::test]
    async fn what_is_missing_at_github_is_named_with_its_remedy() {
        let _already_installed = rustls::crypto::ring::default_provider().install_default();
        let there = StandIn::start("acme/shop", Path::new("/")).await.unwrap();
        assert!(looked("").await.is_empty());

        let checks = looked(&there.as_app("")).await;
        let wanted = [("github", State::Good), ("github webhook", State::Bad), ("github acme/shop", State::Good)];
        assert_eq!(states(&checks), wanted);
        assert!(checks[1].remedy.as_ref().unwrap().contains("/webhooks/github"));
        there.set_hook("https://segue.example.com/hooks");
        assert_eq!(states(&looked(&there.as_app("")).await)[1].1, State::Bad);
        there.set_hook("https://segue.example.com/webhooks/github");
        assert_eq!(states(&looked(&there.as_app("")).await)[1].1, State::Good);

        there.grant(Permissions::from([("metadata".into(), Level::Read), ("checks".into(), Level::Read)]));
        let checks = looked(&there.as_app("")).await;
        assert_eq!((checks[0].state, checks[2].state), (State::Bad, State::Bad));
        assert!(
            checks[0]
                .found
                .ends_with("does not ask for checks: write, contents: read, deployments: write, pull_requests: write"),
            "{}",
            checks[0].found
        );

        let elsewhere = there.as_app("").replace("app.pem", "token");
        let checks = looked(&elsewhere).await;
        assert_eq!(states(&checks), [("github", State::Bad)]);
        assert!(checks[0].remedy.as_ref().unwrap().contains("Generate a private key"), "{checks:?}");

        let checks = looked(&there.as_person("")).await;
        assert_eq!(states(&checks), [("github acme/shop", State::Good)]);
        there.set_remaining(0, Duration::from_secs(60));
        assert_eq!(looked(&there.as_app("")).await[0].state, State::Bad);
        there.set_down(true);
        let checks = looked(&there.as_app("")).await;
        assert!(checks[0].found.contains("127.0.0.1"), "{}", checks[0].found);
    }
}
