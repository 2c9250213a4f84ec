//! What a rollout means at a host: by which right it is changed, how an instance is started, which requests are the
//! service's. A function of the claim alone, so that a new owner comes to the same.

use indexmap::IndexMap;
use segue_schemas::{
    assignment::Assignment,
    deploy::{Release, RolloutSpec, RouteRule},
    duration::Span,
    host_api::{ArtifactSource, ContainerRun, Fence, StartInstance},
    id::InstanceId,
    worker_api::RolloutClaim,
};

/// How long after TERM an instance is killed; its requests were drained before.
const STOP_TIMEOUT_MS: u64 = 10_000;

/// The right to change the rollout's service in its environment.
pub(super) fn fence(claim: &RolloutClaim) -> Fence {
    let spec = &claim.rollout.spec;
    Fence { environment: spec.environment.clone(), service: spec.service.name.clone(), epoch: claim.epoch }
}

/// How one instance of a release, the new one or the one before it, is started.
///
/// # Errors
/// In words, where the claim does not say where the release's artifact is.
pub(super) fn start(claim: &RolloutClaim, instance: InstanceId, release: Release) -> Result<StartInstance, String> {
    let spec = &claim.rollout.spec;
    let artifact = match (&release.image, claim.artifacts.get(&release.digest)) {
        (Some(_), _) => ArtifactSource::Image,
        (None, Some(artifact)) => artifact.clone(),
        (None, None) => {
            let (digest, id) = (&release.digest, release.id);
            return Err(format!("the server does not say where the artifact {digest} of release {id} is"));
        }
    };
    let run = |container| ContainerRun { container, resources: spec.service.resources.clone() };
    let container = release.image.is_some().then(|| run(spec.service.container.clone().unwrap_or_default()));
    Ok(StartInstance {
        fence: fence(claim),
        env: environment(spec, &release),
        // the service is described as the new release has it
        as_before: release.id != spec.release.id,
        instance,
        release,
        artifact,
        command: spec.service.command.clone(),
        container,
        gpus: spec.service.gpus.as_ref().map(|gpus| gpus.need.clone()),
        stop_timeout_ms: STOP_TIMEOUT_MS,
        health: spec.service.health.clone(),
        sleep_after_ms: spec.sleep_after.map(Span::as_millis),
        data: spec.data.clone(),
    })
}

/// The environment's variables, over them the service's, over them what says what it is. `PORT` is the host's to set.
fn environment(spec: &RolloutSpec, release: &Release) -> IndexMap<String, String> {
    let mut env = spec.variables.clone();
    env.extend(spec.service.env.clone());
    env.insert("SEGUE_SERVICE".into(), spec.service.name.clone());
    env.insert("SEGUE_RELEASE".into(), release.id.to_string());
    env.insert("SEGUE_ENVIRONMENT".into(), spec.environment.clone());
    env
}

/// How the service's requests are assigned to the new release and the one before it, while both have weight.
pub(super) fn assignment(spec: &RolloutSpec) -> Assignment {
    Assignment { canary: Some(spec.release.id), rules: spec.service.rules.clone(), sticky: spec.service.sticky.clone() }
}

/// Which requests the service gets in this environment.
pub(super) fn rules(spec: &RolloutSpec) -> Vec<RouteRule> {
    let here = |rule: &&RouteRule| rule.environment.as_ref().is_none_or(|environment| *environment == spec.environment);
    let rules: Vec<RouteRule> = spec.service.routes.iter().filter(here).cloned().collect();
    if !rules.is_empty() {
        return rules;
    }
    let host = Some(format!("{}.{}.localhost", spec.service.name, spec.environment));
    vec![RouteRule { environment: None, host, path: "/".into() }]
}
