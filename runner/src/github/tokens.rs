//! Tokens of installations: each for one repository and one purpose, with no more permissions than that needs, kept until a tenth of
//! its life is left. <https://docs.github.com/en/rest/apps/apps#create-an-installation-access-token-for-an-app>

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use secrecy::SecretString;
use serde_json::{Value, json};

/// Tokens that are kept; past that, those that are over are forgotten, and then all.
const KEPT: usize = 4_096;

/// What a token of an installation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Writing check runs.
    Checks,
    /// Writing commit statuses.
    Statuses,
    /// Reading who may do what, and answering below pull requests.
    Comments,
    /// Making deployments.
    Deployments,
    /// Reading who is in which team.
    Teams,
    /// Reading what the repository is.
    Metadata,
    /// Reading its branches.
    Contents,
}

impl Purpose {
    /// The permissions that it needs, as GitHub names them.
    #[must_use]
    pub fn permissions(self) -> Value {
        match self {
            Self::Checks => json!({"checks": "write"}),
            Self::Statuses => json!({"statuses": "write"}),
            Self::Comments => json!({"metadata": "read", "pull_requests": "write"}),
            Self::Deployments => json!({"deployments": "write"}),
            Self::Teams => json!({"members": "read"}),
            Self::Metadata => json!({"metadata": "read"}),
            Self::Contents => json!({"contents": "read"}),
        }
    }

    /// The same for people.
    #[must_use]
    pub const fn in_words(self) -> &'static str {
        match self {
            Self::Checks => "checks: write",
            Self::Statuses => "statuses: write",
            Self::Comments => "pull_requests: write",
            Self::Deployments => "deployments: write",
            Self::Teams => "members: read (of the organization)",
            Self::Metadata => "metadata: read",
            Self::Contents => "contents: read",
        }
    }
}

#[derive(Default)]
pub(super) struct Tokens {
    known: HashMap<(String, Purpose), Kept>,
    /// The number of the installation that has a repository.
    installations: HashMap<String, u64>,
}

struct Kept {
    token: SecretString,
    until: Instant,
}

impl Tokens {
    pub(super) fn get(&self, repository: &str, purpose: Purpose) -> Option<SecretString> {
        let kept = self.known.get(&(repository.to_owned(), purpose))?;
        (Instant::now() < kept.until).then(|| kept.token.clone())
    }

    pub(super) fn put(&mut self, repository: &str, purpose: Purpose, token: SecretString, life: Duration) {
        if self.known.len() >= KEPT {
            let now = Instant::now();
            self.known.retain(|_, kept| now < kept.until);
            if self.known.len() >= KEPT {
                self.known.clear();
            }
        }
        let until = Instant::now() + life.mul_f64(0.9);
        self.known.insert((repository.to_owned(), purpose), Kept { token, until });
    }

    pub(super) fn forget(&mut self, repository: &str, purpose: Purpose) {
        self.known.remove(&(repository.to_owned(), purpose));
    }

    pub(super) fn installation(&self, repository: &str) -> Option<u64> {
        self.installations.get(repository).copied()
    }

    pub(super) fn put_installation(&mut self, repository: &str, id: Option<u64>) {
        if self.installations.len() >= KEPT {
            self.installations.clear();
        }
        match id {
            Some(id) => self.installations.insert(repository.to_owned(), id),
            None => self.installations.remove(repository),
        };
    }
}
