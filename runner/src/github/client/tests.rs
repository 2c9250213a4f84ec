//! Against the stand-in, which refuses what GitHub would refuse.

use std::path::Path;

use chrono::TimeDelta;
use segue_integration_tests::github::{Fault, GitHub as StandIn, Level, Permissions};

use super::*;

const REPOSITORY: &str = "acme/shop";

async fn stand_in() -> StandIn {
    let _already_installed = rustls::crypto::ring::default_provider().install_default();
    StandIn::start(REPOSITORY, Path::new("/")).await.unwrap()
}

fn opened(settings: &str) -> GitHub {
    let config: segue_schemas::config::Config = serde_yaml::from_str(settings).unwrap();
    GitHub::open(&config.github).unwrap().unwrap()
}

async fn checks(github: &GitHub) -> Result<Answer, GitHubError> {
    let path = format!("/repos/{REPOSITORY}/commits/{}/check-runs", "a".repeat(40));
    github.ask(Speaker::Repository(REPOSITORY, Purpose::Checks), Method::GET, &path, None).await
}

fn minted(there: &StandIn) -> usize {
    there.requests().iter().filter(|request| request.path.ends_with("/access_tokens")).count()
}

#[tokio::test]
async fn a_token_is_made_once_renewed_before_its_end_and_again_when_it_is_refused() {
    let there = stand_in().await;
    let github = opened(&there.as_app(""));
    there.set_token_life(Duration::from_secs(3));
    checks(&github).await.unwrap();
    checks(&github).await.unwrap();
    assert_eq!(minted(&there), 1, "it is kept");
    tokio::time::sleep(Duration::from_millis(2_800)).await;
    checks(&github).await.unwrap();
    assert_eq!(minted(&there), 2, "before its end another is made");
    there.revoke_tokens();
    checks(&github).await.unwrap();
    assert_eq!(minted(&there), 3, "and once where it is refused");
    assert!(there.requests().iter().filter(|request| request.status == 401).count() == 1);
}

#[tokio::test]
async fn a_repository_that_was_renamed_is_spoken_of_by_either_name() {
    let there = stand_in().await;
    let github = opened(&there.as_app(""));
    checks(&github).await.unwrap();
    there.rename(REPOSITORY, "acme/store");
    checks(&github).await.unwrap();
    there.revoke_tokens();
    checks(&github).await.unwrap();
    // a permission that is missing is told all the same
    there.grant(Permissions::from([("metadata".into(), Level::Read)]));
    there.revoke_tokens();
    let error = checks(&github).await.unwrap_err();
    assert!(matches!(error, GitHubError::Forbidden { .. } | GitHubError::Refused { .. }), "{error}");
}

#[tokio::test]
async fn what_is_as_it_was_is_kept_and_not_sent_again() {
    use crate::github::pages::Pages;
    let there = stand_in().await;
    let github = opened(&there.as_app(""));
    for number in 1..=150 {
        there.set_pull(REPOSITORY, number, &"a".repeat(40), "topic", REPOSITORY);
    }
    let mut pages = Pages::default();
    let mut look = async || {
        let path = format!("/repos/{REPOSITORY}/pulls?state=open&per_page=100");
        let speaker = Speaker::Repository(REPOSITORY, Purpose::Comments);
        pages.look_through(&github, speaker, path, 5, |item| item["number"].as_u64(), |_| false).await.unwrap()
    };
    let statuses = || {
        let requests = there.requests();
        let of_pulls = requests.iter().filter(|one| one.path.ends_with("/pulls"));
        of_pulls.map(|one| one.status.as_u16()).collect::<Vec<_>>()
    };
    let all = look().await;
    assert_eq!((all.len(), statuses()), (150, vec![200, 200]));
    assert_eq!(look().await, all);
    assert_eq!(statuses(), [200, 200, 304, 304]);
    there.set_pull_state(REPOSITORY, 130, "closed");
    assert_eq!(look().await.len(), 149);
    assert_eq!(statuses()[4..], [304, 200], "what has changed is sent");
}

#[tokio::test]
async fn a_token_may_do_what_it_is_for_and_nothing_else() {
    let there = stand_in().await;
    let github = opened(&there.as_app(""));
    let path = format!("/repos/{REPOSITORY}/statuses/{}", "a".repeat(40));
    let body = json!({"state": "success"});
    let speaker = Speaker::Repository(REPOSITORY, Purpose::Checks);
    let error = github.ask(speaker, Method::POST, &path, Some(&body)).await.unwrap_err();
    let GitHubError::Forbidden { needed, .. } = &error else { panic!("{error}") };
    assert_eq!(needed, "statuses: write");
    assert!(error.to_string().contains("accept it where the App is installed"), "{error}");
}

#[tokio::test]
async fn a_clock_that_is_wrong_is_made_up_for() {
    let there = stand_in().await;
    let github = opened(&there.as_app(""));
    // GitHub's tokens end by its own clock
    there.set_clock(TimeDelta::zero());
    github.inner.ahead.store(3_600, Ordering::Relaxed);
    checks(&github).await.unwrap();
    assert!(github.inner.ahead.load(Ordering::Relaxed).abs() <= 1);
}

#[tokio::test]
async fn what_is_missing_is_named_with_what_to_do() {
    let there = stand_in().await;
    let github = opened(&there.as_app(""));
    let elsewhere = Speaker::Repository("acme/other", Purpose::Checks);
    let error = github.ask(elsewhere, Method::GET, "/repos/acme/other", None).await.unwrap_err();
    assert!(matches!(error, GitHubError::NotInstalled { .. }), "{error}");

    there.grant(Permissions::from([("metadata".into(), Level::Read)]));
    let error = checks(&github).await.unwrap_err();
    assert!(error.to_string().contains("it needs the permission checks: write; grant it"), "{error}");

    let other_key = there.key_file().with_file_name("other.pem");
    let made = std::process::Command::new("openssl").args(["genrsa", "-out"]).arg(&other_key).arg("2048").output();
    assert!(made.unwrap().status.success());
    let settings = there.as_app("").replace("app.pem", "other.pem");
    let error = checks(&opened(&settings)).await.unwrap_err();
    assert!(error.to_string().starts_with("GitHub does not take the App's key"), "{error}");
    assert!(!error.may_pass());
}

#[tokio::test]
async fn what_passes_is_told_from_what_does_not() {
    let there = stand_in().await;
    let github = opened(&there.as_person(""));
    assert!(!github.is_app());
    there.fail(Fault::BadGateway, 1);
    assert!(matches!(checks(&github).await, Err(GitHubError::Away { .. })));
    there.fail(Fault::SecondaryLimit(7), 1);
    let error = checks(&github).await.unwrap_err();
    assert!(matches!(error, GitHubError::Limited { wait, is_told: true, .. } if wait.as_secs() == 7), "{error}");
    there.fail(Fault::TooMany, 1);
    let error = checks(&github).await.unwrap_err();
    assert!(matches!(error, GitHubError::Limited { wait, is_told: false, .. } if wait.as_secs() == 60), "{error}");
    there.set_remaining(0, Duration::from_secs(100));
    let error = checks(&github).await.unwrap_err();
    assert!(matches!(error, GitHubError::Limited { wait, .. } if (90..=102).contains(&wait.as_secs())), "{error}");
    there.set_remaining(10, Duration::from_secs(100));
    there.set_down(true);
    let error = checks(&github).await.unwrap_err();
    assert!(error.may_pass() && error.to_string().contains("127.0.0.1"), "{error}");
    there.set_down(false);
    checks(&github).await.unwrap();
    // checks are for Apps alone
    let path = format!("/repos/{REPOSITORY}/check-runs");
    let speaker = Speaker::Repository(REPOSITORY, Purpose::Checks);
    let error = github.ask(speaker, Method::POST, &path, Some(&json!({"name": "a"}))).await.unwrap_err();
    assert!(error.to_string().contains("You must authenticate via a GitHub App."), "{error}");
}
