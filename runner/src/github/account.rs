//! By whom a comment was written: us, or somebody else.

use http::Method;
use serde_json::Value;

use super::{GitHub, GitHubError, Speaker, client::Identity};

/// As whom Segue writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Account {
    /// An App, by its number or client ID.
    App(String),
    /// A person, by number.
    Person(i64),
}

impl GitHub {
    /// As whom it writes. A person's token is asked for its person.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub async fn account(&self, speaker: Speaker<'_>) -> Result<Account, GitHubError> {
        if let Identity::App(app) = self.identity() {
            return Ok(Account::App(app.id().to_owned()));
        }
        // <https://docs.github.com/en/rest/users/users#get-the-authenticated-user>
        let answer = self.ask(speaker, Method::GET, "/user", None).await?;
        answer.body["id"].as_i64().map(Account::Person).ok_or_else(|| GitHubError::Away {
            place: self.place().into(),
            problem: "it does not say whose token this is".into(),
        })
    }
}

impl Account {
    /// Whether a comment, as GitHub shows it, was written by this account.
    #[must_use]
    pub fn wrote(&self, comment: &Value) -> bool {
        match self {
            Self::App(own) => {
                let app = &comment["performed_via_github_app"];
                app["client_id"].as_str() == Some(own) || app["id"].as_i64().is_some_and(|id| id.to_string() == *own)
            }
            Self::Person(own) => comment["user"]["id"].as_i64() == Some(*own),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_comment_is_ours_by_its_author_alone() {
        let by_app = json!({"user": {"id": 9, "login": "segue[bot]"}, "performed_via_github_app": {"id": 7, "client_id": "Iv1"}});
        let by_person = json!({"user": {"id": 9, "login": "ada"}, "performed_via_github_app": null});
        for (account, comment, is_ours) in [
            (Account::App("7".into()), &by_app, true),
            (Account::App("Iv1".into()), &by_app, true),
            (Account::App("8".into()), &by_app, false),
            (Account::App("7".into()), &by_person, false),
            (Account::Person(9), &by_person, true),
            (Account::Person(8), &by_person, false),
        ] {
            assert_eq!(account.wrote(comment), is_ours, "{account:?}: {comment}");
        }
    }
}
