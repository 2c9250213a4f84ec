//! What a person has promoted from one environment to another: a run of one job for each service, at the commit and the ref of the release.
//! It goes through the gates of its environment as every job does.

use segue_pipelines::{
    plan::plan,
    preview::ENVIRONMENT as PREVIEW,
    promotion::{self, FILE, Promotion},
};
use segue_schemas::{
    api::{PromotedCommit, PromotionRequest, PromotionStrategy, PromotionView},
    deploy::{CanarySpec, Release, RolloutSpec, Strategy},
    id::{RunId, is_name},
    status::RolloutStatus,
    trigger::{Event, Trigger},
};

use super::{PlanError, Planner, new_key, read::settle};
use crate::{
    mirror::{RefName, RepositoryName, Wanted},
    store::{Planning, RolloutFilter, RunRecord, StoreError},
};

/// Commits that are listed of each service.
const COMMITS: usize = 50;
/// Rollouts that are looked at for how releases come to an environment.
const LOOKED_AT: u32 = 50;

/// One service that is to be promoted.
#[derive(Debug)]
pub struct Promoted {
    /// What is promoted, and what it is put in the place of.
    pub view: PromotionView,
    /// The run that does it.
    pub run: Option<RunRecord>,
}

impl Planner {
    /// Says what serves in one environment and not in another, and starts the runs that bring it there, unless it is only to be said.
    ///
    /// # Errors
    /// [`PlanError`]: nothing serves there, or a name is none.
    pub async fn promote(&self, request: &PromotionRequest) -> Result<Vec<Promoted>, PlanError> {
        let PromotionRequest { from, to, .. } = request;
        let refused = |problem: String| Err(PlanError::NothingMatches(problem));
        for name in [Some(from), Some(to), request.service.as_ref()].into_iter().flatten() {
            if !is_name(name) {
                return refused(format!("`{name}` can't be the name of an environment or a service"));
            }
        }
        if from == to || [from, to].contains(&&PREVIEW.to_owned()) {
            return refused(format!(
                "nothing is promoted from `{from}` to `{to}`: name two environments, and not `{PREVIEW}`"
            ));
        }
        let served = self.store.served().await?;
        let current = |environment: &str, service: &str| {
            let mut of_pair = served.iter().filter(|one| one.environment == environment && one.service == service);
            of_pair.find_map(|one| one.current.clone())
        };
        let is_wanted = |service: &str| request.service.as_ref().is_none_or(|wanted| wanted == service);
        let there: Vec<Release> = served
            .iter()
            .filter(|one| one.environment == *from && is_wanted(&one.service))
            .filter_map(|one| one.current.clone())
            .collect();
        if there.is_empty() {
            let what =
                request.service.as_ref().map_or_else(|| "nothing".to_owned(), |name| format!("nothing of `{name}`"));
            return refused(format!(
                "{what} serves in `{from}`, so there is nothing to promote; deploy it there first"
            ));
        }
        let mut found = Vec::new();
        for release in there {
            let before = current(to, &release.service);
            if let Some(other) = before.as_ref().filter(|before| before.repository != release.repository) {
                return refused(format!(
                    "`{}` in `{to}` is that of {}, not of {}",
                    release.service, other.repository, release.repository
                ));
            }
            let strategy = self.strategy(request.strategy, to, &release.service).await?;
            // a commit that changes only how the service is run makes another release of the same bytes
            let is_same = before.as_ref().is_some_and(|before| before.id == release.id);
            let commits = self.commits(before.as_ref(), &release).await?;
            let service = release.service.clone();
            found.push(PromotionView { service, release, before, is_same, strategy, commits, run: None });
        }
        let mut promoted = Vec::new();
        for view in found {
            let run = if request.dry_run || view.is_same { None } else { Some(self.begin(request, &view).await?) };
            promoted.push(Promoted { view, run });
        }
        Ok(promoted)
    }

    /// How releases come to an environment: as the last one did, unless it is said.
    async fn strategy(
        &self,
        asked: Option<PromotionStrategy>,
        environment: &str,
        service: &str,
    ) -> Result<Strategy, PlanError> {
        if asked == Some(PromotionStrategy::HotSwap) {
            return Ok(Strategy::HotSwap);
        }
        let filter = RolloutFilter {
            environment: Some(environment.to_owned()),
            service: Some(service.to_owned()),
            limit: LOOKED_AT,
            ..RolloutFilter::default()
        };
        let specs = self.store.rollouts(filter).await?.into_iter().map(|record| record.rollout.spec);
        let mut known = specs.filter(|spec| !spec.is_rollback).map(|spec| spec.strategy);
        let known = known.find(|strategy| match strategy {
            Strategy::Canary(_) => true,
            Strategy::HotSwap | Strategy::Rolling(_) | Strategy::BlueGreen(_) => asked.is_none(),
            Strategy::Remove | Strategy::Restore { .. } | Strategy::Sync(_) => false,
        });
        let default = asked.map_or(Strategy::HotSwap, |_| Strategy::Canary(CanarySpec::default()));
        Ok(known.unwrap_or(default))
    }

    /// The commits that a release brings; none where the mirror does not know.
    async fn commits(
        &self,
        before: Option<&Release>,
        release: &Release,
    ) -> Result<Option<Vec<PromotedCommit>>, PlanError> {
        let Some(before) = before else { return Ok(None) };
        let name = RepositoryName::parse(&release.repository)?;
        match self.mirrors.commits_between(&name, &before.commit, &release.commit, COMMITS).await {
            Ok(commits) => {
                Ok(commits.map(|all| all.into_iter().map(|(commit, title)| PromotedCommit { commit, title }).collect()))
            }
            Err(error) => {
                // it is for people to look at, and no reason not to promote
                tracing::warn!(%error, "the commits that a promotion brings can't be listed");
                Ok(None)
            }
        }
    }

    /// The ref that a release came to an environment of, by which the branches of the next one's protection are judged.
    async fn came_of(&self, release: &Release, environment: &str) -> Result<String, PlanError> {
        let filter = RolloutFilter {
            release: Some(release.id),
            environment: Some(environment.to_owned()),
            service: Some(release.service.clone()),
            limit: LOOKED_AT,
            ..RolloutFilter::default()
        };
        let brought = self.store.rollouts(filter).await?.into_iter().map(|record| record.rollout);
        // who goes back to a release, or brings its data back, may be at any ref
        let brought = brought.filter(|rollout| {
            let RolloutSpec { is_rollback, strategy, .. } = &rollout.spec;
            rollout.status == RolloutStatus::Succeeded
                && !is_rollback
                && !matches!(strategy, Strategy::Remove | Strategy::Restore { .. } | Strategy::Sync(_))
        });
        let mut runs: Vec<RunId> = brought.filter_map(|rollout| rollout.run).chain([release.run]).collect();
        runs.dedup();
        for id in runs {
            match self.store.run(id).await {
                // a step may bring a release of another commit than its own
                Ok(run) if run.commit == release.commit => return Ok(run.git_ref),
                Ok(_) | Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(PlanError::NothingMatches(format!(
            "it is not known any more of which ref release {} of `{}` came to `{environment}`: its runs are older than \
             `retention.runs` keeps them. Deploy {} to `{environment}` once more, then promote it",
            release.id,
            release.service,
            release.commit.short(),
        )))
    }

    async fn begin(&self, request: &PromotionRequest, view: &PromotionView) -> Result<RunRecord, PlanError> {
        let PromotionView { service, release, strategy, .. } = view;
        let promotion = Promotion { service, from: &request.from, to: &request.to, release: release.id, strategy };
        let git_ref = self.came_of(release, &request.from).await?;
        let trigger = Trigger {
            repository: release.repository.clone(),
            clone_url: None,
            actor: request.by.clone().unwrap_or_else(|| "admin".into()),
            authors: Vec::new(),
            event: Event::WorkflowDispatch {
                r#ref: git_ref.clone(),
                commit: release.commit.clone(),
                pipeline: Some(promotion::name(&promotion)),
                inputs: [].into(),
            },
        };
        let name = RepositoryName::parse(&release.repository)?;
        let wanted = Wanted { commit: release.commit.clone(), git_ref: RefName::parse(&git_ref)? };
        self.mirrors.ensure(&name, &self.source(&trigger)?, &[wanted]).await?;
        let text = promotion::pipeline(&promotion);
        let texts = [(FILE, text.as_str())];
        let runs = match settle(plan(&texts, &trigger, None), &trigger, &texts, Vec::new()) {
            Planning::Runs(runs) | Planning::Located(_, runs) => runs,
            Planning::Ignored(reason) | Planning::Failed(reason) => return Err(PlanError::NothingMatches(reason)),
        };
        let outcome = self.store.create_dispatch_run(new_key()?, trigger, runs).await?;
        let made = outcome.runs.into_iter().next();
        made.ok_or_else(|| PlanError::Store(StoreError::not_found("run", promotion::name(&promotion))))
    }
}
