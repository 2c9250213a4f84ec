//! What a forge shows of a rollout: a deployment to an environment, and how it stands.
//! <https://docs.github.com/en/rest/deployments/statuses>

use segue_schemas::{
    id::{ReleaseId, RolloutId},
    status::RolloutStatus,
};
use serde::{Deserialize, Serialize};

/// Characters of a description.
const DESCRIPTION_CHARS: usize = 140;
/// Bytes of an address.
const URL_BYTES: usize = 1_024;

/// A rollout as the store has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutFacts {
    /// Its number.
    pub rollout: RolloutId,
    /// What is rolled out.
    pub release: ReleaseId,
    /// Of which service.
    pub service: String,
    /// Where to.
    pub environment: String,
    /// Where it stands.
    pub status: RolloutStatus,
    /// Whether what it rolled out serves.
    pub is_current: bool,
    /// Whether it goes back to an earlier release.
    pub is_rollback: bool,
    /// Why it stands where it stands.
    pub reason: Option<String>,
    /// The address that its job gave for the environment, or a preview's own.
    pub environment_url: Option<String>,
    /// Of a preview: whether anything of it is left, or comes.
    pub preview: Option<bool>,
}

/// A deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Deployment {
    /// Where to.
    pub environment: String,
    /// What.
    pub description: String,
    /// Whether that is what users have.
    pub is_production: bool,
    /// Whether it goes again, and its environment with it.
    pub is_transient: bool,
    /// How it stands.
    pub status: DeploymentStatus,
}

/// How a deployment stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeploymentStatus {
    /// In the forge's words.
    pub state: DeploymentState,
    /// One line.
    pub description: String,
    /// Where what was deployed can be reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment_url: Option<String>,
}

/// How it stands, in GitHub's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeploymentState {
    /// Not begun.
    Queued,
    /// On its way.
    InProgress,
    /// It serves.
    Success,
    /// It did not come to serve.
    Failure,
    /// It served, and something else does now.
    Inactive,
}

/// What is shown of a rollout.
#[must_use]
pub fn deployment(facts: &RolloutFacts) -> Deployment {
    let RolloutFacts { rollout, release, service, environment, .. } = facts;
    let (state, how) = match facts.status {
        RolloutStatus::Queued => (DeploymentState::Queued, "waits for its turn"),
        RolloutStatus::Running => (DeploymentState::InProgress, "is on its way"),
        RolloutStatus::Held => (DeploymentState::InProgress, "is held"),
        RolloutStatus::RollingBack => (DeploymentState::InProgress, "goes back"),
        RolloutStatus::Succeeded if facts.is_current => (DeploymentState::Success, "serves"),
        RolloutStatus::Succeeded if facts.preview == Some(false) => (DeploymentState::Inactive, "was taken away"),
        RolloutStatus::Succeeded => (DeploymentState::Inactive, "served, and another release does now"),
        // what ended it is no fault of its own
        RolloutStatus::Failed if facts.preview == Some(false) => (DeploymentState::Inactive, "was taken away"),
        RolloutStatus::RolledBack => (DeploymentState::Failure, "was rolled back"),
        RolloutStatus::Failed => (DeploymentState::Failure, "did not become ready"),
    };
    // what is said on the way may change often
    let reason = facts.reason.as_ref().filter(|_| state == DeploymentState::Failure);
    let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
    let kind = if facts.is_rollback { "rollback to release" } else { "release" };
    Deployment {
        // each has an environment of its own there, which goes with it
        environment: if facts.preview.is_some() { format!("{environment}/{service}") } else { environment.clone() },
        description: one_line(&format!("{service}, {kind} {release} (rollout {rollout})")),
        is_production: environment == "production",
        is_transient: facts.preview.is_some(),
        status: DeploymentStatus {
            state,
            description: one_line(&format!("{service} {release} {how}{reason}")),
            environment_url: facts.environment_url.clone().filter(|url| is_address(url)),
        },
    }
}

fn one_line(text: &str) -> String {
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    if text.chars().count() <= DESCRIPTION_CHARS {
        return plain.collect();
    }
    plain.take(DESCRIPTION_CHARS - 1).chain(['…']).collect()
}

/// Whether a text can be an address: what is none would be refused with all the rest.
pub(crate) fn is_address(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let is_plain =
        |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}');
    text.len() <= URL_BYTES
        && rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '['))
        && text.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(status: RolloutStatus, is_current: bool) -> RolloutFacts {
        RolloutFacts {
            rollout: RolloutId(3),
            release: ReleaseId(7),
            service: "api".into(),
            environment: "staging".into(),
            status,
            is_current,
            is_rollback: false,
            reason: Some("5 of 10\nfailed".into()),
            environment_url: Some("https://api.example.com/".into()),
            preview: None,
        }
    }

    #[test]
    fn a_preview_has_an_environment_of_its_own_that_goes_with_it() {
        for (status, is_there, state, words) in [
            (RolloutStatus::Running, true, DeploymentState::InProgress, "api 7 is on its way"),
            (RolloutStatus::Succeeded, true, DeploymentState::Success, "api 7 serves"),
            (RolloutStatus::Failed, true, DeploymentState::Failure, "api 7 did not become ready: 5 of 10 failed"),
            (RolloutStatus::Succeeded, false, DeploymentState::Inactive, "api 7 was taken away"),
            (RolloutStatus::Failed, false, DeploymentState::Inactive, "api 7 was taken away"),
        ] {
            let is_current = is_there && status == RolloutStatus::Succeeded;
            let one =
                RolloutFacts { environment: "preview".into(), preview: Some(is_there), ..facts(status, is_current) };
            let shown = deployment(&one);
            assert_eq!((shown.environment.as_str(), shown.is_transient), ("preview/api", true));
            assert_eq!((shown.status.state, shown.status.description.as_str()), (state, words));
        }
        assert!(!deployment(&facts(RolloutStatus::Running, false)).is_transient);
    }

    #[test]
    fn a_rollout_is_a_deployment_that_comes_to_serve_or_does_not() {
        for (status, is_current, state, words) in [
            (RolloutStatus::Queued, false, DeploymentState::Queued, "api 7 waits for its turn"),
            (RolloutStatus::Running, false, DeploymentState::InProgress, "api 7 is on its way"),
            (RolloutStatus::Held, false, DeploymentState::InProgress, "api 7 is held"),
            (RolloutStatus::RollingBack, false, DeploymentState::InProgress, "api 7 goes back"),
            (RolloutStatus::Succeeded, true, DeploymentState::Success, "api 7 serves"),
            (RolloutStatus::Succeeded, false, DeploymentState::Inactive, "api 7 served, and another release does now"),
            (RolloutStatus::RolledBack, false, DeploymentState::Failure, "api 7 was rolled back: 5 of 10 failed"),
            (RolloutStatus::Failed, false, DeploymentState::Failure, "api 7 did not become ready: 5 of 10 failed"),
        ] {
            let shown = deployment(&facts(status, is_current));
            assert_eq!((shown.status.state, shown.status.description.as_str()), (state, words));
        }
        let mut production = facts(RolloutStatus::Queued, false);
        (production.environment, production.is_rollback) = ("production".into(), true);
        let shown = deployment(&production);
        assert!(shown.is_production);
        assert_eq!(shown.description, "api, rollback to release 7 (rollout 3)");
    }

    #[test]
    fn what_github_would_refuse_is_left_out_or_cut() {
        for (url, is_kept) in [
            ("http://localhost:8080/a?b=c#d", true),
            ("https://[::1]/", true),
            ("javascript:alert(1)", false),
            ("https://", false),
            ("https:// a", false),
            ("https://a/<b>", false),
            ("staging.example.com", false),
        ] {
            let one = RolloutFacts { environment_url: Some(url.into()), ..facts(RolloutStatus::Succeeded, true) };
            assert_eq!(deployment(&one).status.environment_url.is_some(), is_kept, "{url}");
        }
        let long = RolloutFacts { reason: Some("ä".repeat(500)), ..facts(RolloutStatus::Failed, false) };
        assert_eq!(deployment(&long).status.description.chars().count(), 140);
    }
}
