//! Rollouts as deployments on GitHub. Comes in: the store's outbox of rollouts. Goes out: a deployment for each, and its statuses, within
//! the limits that the [`Teller`] keeps. Never here: what a deployment says.

use std::time::Duration;

use async_trait::async_trait;
use http::{Method, StatusCode};
use segue_pipelines::checks::{Deployment, DeploymentState, deployment};
use segue_schemas::{id::RolloutId, time::Timestamp};
use serde_json::{Value, json};

use super::{
    GitHubError, Purpose, Speaker, Teller, Urgency,
    settle::Due,
    teller::{GIVE_UP_AFTER, PAGES, Trouble, digest, owner_of},
};
use crate::store::{DeploymentFacts, DueDeployment, Result, Store};

type Tried<T> = std::result::Result<T, Trouble>;

/// One in the outbox, with the rollout's end.
struct Shown<'d> {
    due: &'d DueDeployment,
    ended_at: Option<Timestamp>,
}

#[async_trait]
impl Due for Shown<'_> {
    fn name(&self) -> String {
        format!("the deployment of rollout {}", self.due.rollout)
    }

    fn tries(&self) -> u32 {
        self.due.tries
    }

    fn is_last_try(&self, now: Timestamp, _: &GitHubError) -> bool {
        self.ended_at.is_some_and(|ended| now.since(ended) >= GIVE_UP_AFTER)
    }

    async fn told(&self, store: &Store, next: Timestamp) -> Result<()> {
        store.deployment_shown(self.due, next, None).await
    }

    async fn put_off(&self, store: &Store, until: Timestamp, error: Option<String>) -> Result<()> {
        store.deployment_put_off(self.due.rollout, until, error).await
    }

    async fn give_up(&self, store: &Store, error: String) -> Result<()> {
        store.deployment_shown(self.due, store.now(), Some(error)).await
    }
}

impl Teller {
    /// Tells of one rollout; `Some`: GitHub can't be reached, and is left alone for so long.
    pub(super) async fn tell_deployment(&mut self, due: &DueDeployment) -> Result<Option<Duration>> {
        let Some(facts) = self.store.deployment_facts(due.rollout).await? else { return Ok(None) };
        if facts.is_silent {
            // those that were rolled out tell of themselves
            self.store.deployment_shown(due, self.store.now(), None).await?;
            return Ok(None);
        }
        let owner = owner_of(&facts.repository);
        let one = Shown { due, ended_at: facts.ended_at };
        if self.is_held(&owner, &one).await? {
            return Ok(None);
        }
        let tried = self.show_deployment(&owner, due, &facts).await;
        self.settle(&owner, &one, tried).await
    }

    /// Brings what GitHub shows of a rollout to what holds; `Some`: the rest can be told from then on.
    async fn show_deployment(
        &mut self,
        owner: &str,
        due: &DueDeployment,
        facts: &DeploymentFacts,
    ) -> Tried<Option<Timestamp>> {
        let wanted = deployment(&facts.rollout);
        let digest = digest(&json!(wanted.status));
        if due.id.is_some() && due.told == digest {
            return Ok(None);
        }
        let is_passing = matches!(wanted.status.state, DeploymentState::Queued | DeploymentState::InProgress);
        let urgency = if is_passing { Urgency::Passing } else { Urgency::Awaited };
        let (mut id, mut may_be_there) = (due.id, due.is_announced);
        loop {
            if let Err(until) = self.take(owner, urgency) {
                return Ok(Some(until));
            }
            let known = match id {
                Some(id) => id,
                None => {
                    let found = if may_be_there { self.find_deployment(facts, due.rollout).await? } else { None };
                    let known = match found {
                        Some(found) => found,
                        None => self.make_deployment(facts, &wanted, due.rollout).await?,
                    };
                    self.store.deployment_told(due.rollout, Some(known), String::new()).await?;
                    id = Some(known);
                    // its status is a change of its own
                    continue;
                }
            };
            match self.write_status(facts, &wanted, known).await {
                Ok(()) => break,
                // it is gone there: another is made in its place
                Err(error) if error.status() == Some(StatusCode::NOT_FOUND) && due.id == Some(known) => {
                    (id, may_be_there) = (None, false);
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.store.deployment_told(due.rollout, id, digest).await?;
        Ok(None)
    }

    /// <https://docs.github.com/en/rest/deployments/deployments#create-a-deployment>. What may be deployed was decided here: GitHub
    /// merges nothing into it, and asks for no checks, of which that of the pipeline that deploys would be one.
    async fn make_deployment(&self, facts: &DeploymentFacts, wanted: &Deployment, rollout: RolloutId) -> Tried<i64> {
        self.store.announce_deployment(rollout).await?;
        let body = json!({
            "ref": facts.commit, "task": "deploy", "auto_merge": false, "required_contexts": [],
            "environment": wanted.environment, "description": wanted.description,
            "transient_environment": wanted.is_transient, "production_environment": wanted.is_production,
            "payload": {"segue_rollout": rollout},
        });
        let path = format!("/repos/{}/deployments", facts.repository);
        let answer = self.github.ask(speaker(facts), Method::POST, &path, Some(&body)).await?;
        answer.body["id"].as_i64().ok_or_else(|| {
            GitHubError::Away { place: self.github.place().into(), problem: "it named no deployment".into() }.into()
        })
    }

    /// One that was made and not noted.
    async fn find_deployment(&self, facts: &DeploymentFacts, rollout: RolloutId) -> Tried<Option<i64>> {
        let path = format!("/repos/{}/deployments?sha={}&per_page=100", facts.repository, facts.commit);
        let ours = |page: &Value| {
            let found = page.as_array()?.iter().find(|one| one["payload"]["segue_rollout"] == json!(rollout))?;
            Some(found["id"].as_i64())
        };
        Ok(self.github.look_through(speaker(facts), path, PAGES, ours).await?.flatten())
    }

    /// What served before is told of by its own status: an environment may have several services, and `auto_inactive` would end those
    /// of the others.
    async fn write_status(
        &self,
        facts: &DeploymentFacts,
        wanted: &Deployment,
        id: i64,
    ) -> std::result::Result<(), GitHubError> {
        let mut body = json!(wanted.status);
        body["auto_inactive"] = json!(false);
        body["environment"] = json!(wanted.environment);
        if let Some(check) = facts.check {
            body["log_url"] = json!(format!("{}/{}/runs/{check}", self.github.web(), facts.repository));
        }
        let path = format!("/repos/{}/deployments/{id}/statuses", facts.repository);
        self.github.ask(speaker(facts), Method::POST, &path, Some(&body)).await.map(drop)
    }
}

fn speaker(facts: &DeploymentFacts) -> Speaker<'_> {
    Speaker::Repository(&facts.repository, Purpose::Deployments)
}
