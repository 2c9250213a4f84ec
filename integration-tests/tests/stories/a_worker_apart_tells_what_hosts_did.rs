use std::time::Duration;

use anyhow::{Context as _, Result};
use segue_integration_tests::stand::Stand;
use segue_schemas::{api::EnvironmentList, status::RolloutStatus};

use crate::{QUICK, good_release, version_in};

#[tokio::test]
async fn an_emergency_while_the_server_is_down_is_on_record_although_the_worker_was_never_restarted() -> Result<()> {
    let mut stand = Stand::start_apart(QUICK).await?;
    good_release(&stand, "1").await?;
    good_release(&stand, "2").await?;
    stand.kill_server()?;
    let output = stand.segue(&["rollback", "production", "api", "--emergency", "--reason", "it burns"])?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(version_in(&stand, "production").await?, "1");

    stand.start_server().await?;
    let api = stand.api()?;
    let is_recorded = |view: &segue_schemas::api::RolloutView| {
        view.rollout.run.is_none() && view.rollout.status == RolloutStatus::Succeeded
    };
    let view = api.journaled("production", 0, Duration::from_secs(60), is_recorded).await?;
    assert!(view.rollout.reason.as_deref().unwrap_or_default().contains("it burns"), "{view:#?}");
    let list: EnvironmentList = api.get("/environments").await?;
    let production = list.items.iter().find(|item| item.name == "production").context("no production")?;
    let current = production.services[0].current.as_ref().context("nothing serves")?;
    assert_eq!(current.id, view.rollout.spec.release.id, "what serves is what the record says");

    // and the next release goes its way, above the emergency's epoch
    good_release(&stand, "3").await?;
    assert_eq!(version_in(&stand, "production").await?, "3");
    Ok(())
}
