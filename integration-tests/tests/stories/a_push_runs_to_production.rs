use anyhow::Result;
use segue_integration_tests::{load::Load, stand::Stand};
use segue_schemas::{
    deploy::{JournalKind, Strategy},
    status::{JobStatus, RolloutStatus, RunStatus},
};

use crate::{good_release, nothing_was_dropped, version_in};

#[tokio::test]
async fn test_build_staging_canary_production_and_no_request_is_dropped() -> Result<()> {
    let stand = Stand::start("").await?;
    good_release(&stand, "1").await?;
    assert_eq!(version_in(&stand, "production").await?, "1");

    let (staging, production) =
        (Load::to(&stand.proxy, "staging").start(), Load::to(&stand.proxy, "production").start());
    let view = good_release(&stand, "2").await?;
    let (staging, production) = (staging.stop().await, production.stop().await);

    nothing_was_dropped(&staging);
    nothing_was_dropped(&production);
    assert_eq!(version_in(&stand, "staging").await?, "2");
    assert_eq!(version_in(&stand, "production").await?, "2");
    assert!(production.of("1") > 0 && production.of("2") > 0, "both served: {:?}", production.answers);
    assert!(production.streams > 0, "streams went through");

    assert_eq!(view.run.status, RunStatus::Succeeded);
    let keys: Vec<_> = view.jobs.iter().map(|job| (job.key.as_str(), job.status)).collect();
    assert_eq!(keys, ["test", "build", "staging", "production"].map(|key| (key, JobStatus::Succeeded)));

    let rollouts = stand.api()?.rollouts("production").await?;
    assert_eq!(rollouts[0].status, RolloutStatus::Succeeded);
    assert!(matches!(rollouts[0].spec.strategy, Strategy::Canary(_)));
    let mut weights: Vec<_> = shifted_weights(&stand, rollouts[0].id).await?;
    // at the end 100 % is confirmed once more, without the dead-man's switch
    weights.dedup();
    assert_eq!(weights, [10, 50, 100], "the weights that the host confirmed, in order");

    let tags = stand.repository.tags()?;
    assert!(tags.iter().any(|tag| tag.starts_with("rollback-")), "a rollback point is a git tag: {tags:?}");
    Ok(())
}

async fn shifted_weights(stand: &Stand, id: segue_schemas::id::RolloutId) -> Result<Vec<u64>> {
    let view = stand.api()?.rollout(id).await?;
    Ok(view
        .journal
        .iter()
        .filter(|entry| entry.kind == JournalKind::Shifted)
        .filter_map(|entry| entry.detail["weight"].as_u64())
        .collect())
}
