//! What GitHub says of people: what they may do in a repository, and in which teams they are.

use http::{Method, StatusCode};
use segue_pipelines::protection::Rules;

use super::{GitHubError, Purpose, Speaker, Teller};

/// Teams that are asked about for one approval.
const MOST_TEAMS: usize = 20;

/// What somebody may do in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Right {
    /// To look at it, at most.
    None,
    /// To change it.
    Write,
    /// To administer it.
    Admin,
}

impl Teller {
    /// <https://docs.github.com/en/rest/collaborators/collaborators#get-repository-permissions-for-a-user>: `maintain` is told as `write`.
    pub(super) async fn right_of(&self, repository: &str, person: &str) -> Result<Right, GitHubError> {
        let path = format!("/repos/{repository}/collaborators/{person}/permission");
        match self.github.ask(Speaker::Repository(repository, Purpose::Comments), Method::GET, &path, None).await {
            Ok(answer) => Ok(match answer.body["permission"].as_str() {
                Some("admin") => Right::Admin,
                Some("write") => Right::Write,
                _ => Right::None,
            }),
            // nobody that it knows
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => Ok(Right::None),
            Err(error) => Err(error),
        }
    }

    /// Those teams among the reviewers of the environments that somebody is in. Where GitHub does not tell, they are in none.
    /// <https://docs.github.com/en/rest/teams/members#get-team-membership-for-a-user>
    pub(super) async fn teams_of(&self, repository: &str, person: &str) -> Result<Vec<String>, GitHubError> {
        let mut asked: Vec<String> = Vec::new();
        for (name, settings) in &self.store.config().environments {
            let Ok(rules) = Rules::of(name, settings) else { continue };
            asked.extend(rules.teams().map(str::to_lowercase));
        }
        asked.sort_unstable();
        asked.dedup();
        if asked.len() > MOST_TEAMS {
            tracing::warn!(
                teams = asked.len(),
                "only the first {MOST_TEAMS} teams that are named as reviewers are asked about"
            );
        }
        let mut found = Vec::new();
        for team in asked.into_iter().take(MOST_TEAMS) {
            let Some((organization, slug)) = team.split_once('/') else { continue };
            let path = format!("/orgs/{organization}/teams/{slug}/memberships/{person}");
            match self.github.ask(Speaker::Repository(repository, Purpose::Teams), Method::GET, &path, None).await {
                Ok(answer) if answer.body["state"] == "active" => found.push(team),
                // invited, and not in it yet
                Ok(_) => {}
                Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => {}
                Err(error @ (GitHubError::Forbidden { .. } | GitHubError::Refused { .. })) => {
                    tracing::warn!(team, %error, "GitHub does not say who is in this team, so its members' approvals do not count");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}
