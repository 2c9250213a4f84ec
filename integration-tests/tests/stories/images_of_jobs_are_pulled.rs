use anyhow::Result;
use segue_integration_tests::{
    docker::Docker,
    registry::{PASSWORD, Registry, USER},
    stand::Stand,
};
use segue_schemas::status::RunStatus;

use crate::a_push_runs_a_job_in_a_container::push;

const SECRET: &str = "REGISTRY_PASSWORD";

#[tokio::test]
async fn once_for_all_who_wait_and_again_only_where_that_is_asked_for() -> Result<()> {
    let (docker, registry) = (Docker::shared().await?, Registry::start().await?);
    let stand = Stand::start(&docker.settings("capacity: 3")).await?;
    stand.set_secret(SECRET, PASSWORD)?;
    stand.set_secret("WRONG", "not-the-password")?;
    for version in ["first", "second"] {
        docker.image(&format!("segue-{version}:1"), &format!("ENV VERSION={version}")).await?;
    }
    let repository = format!("{}/shop/tools", registry.address);
    let image = format!("{repository}:1");
    let job = |name: &str, image: &str, options: &str, password: &str| {
        format!(
            "  {name}:\n    container: {{ image: '{image}', credentials: {{ username: {USER}, password: '{password}' }}{options} }}\n    \
             steps: [{{ run: 'echo it-is-$VERSION at $PATH' }}]\n"
        )
    };
    let right = format!("${{{{ secrets.{SECRET} }}}}");

    // three jobs at once need what is not there: one of them has it pulled, and says how that goes on
    docker.give("segue-first:1", &registry, "shop/tools:1").await?;
    let three: String = ["one", "two", "three"].iter().map(|name| job(name, &image, "", &right)).collect();
    let (status, logs) = ran(&stand, &three).await?;
    assert_eq!(status, RunStatus::Succeeded, "{logs:#?}");
    assert_eq!(logs.iter().filter(|log| log.contains(&format!("Pulling {image}"))).count(), 1, "{logs:#?}");
    assert!(logs.iter().any(|log| log.contains("Status: Downloaded newer image")), "{logs:#?}");
    assert!(logs.iter().all(|log| log.contains("it-is-first at /bin:/opt/tools")), "{logs:#?}");
    assert!(!logs.iter().any(|log| log.contains(PASSWORD)), "{logs:#?}");

    // what the tag stands for has changed since: who does not ask has what is there
    docker.give("segue-second:1", &registry, "shop/tools:1").await?;
    docker.tag("segue-first:1", &repository, "1").await?;
    let fresh =
        job("fresh", &image, ", options: --pull always", &right).replace("    steps", "    needs: kept\n    steps");
    let (status, logs) = ran(&stand, &(job("kept", &image, "", &right) + &fresh)).await?;
    assert_eq!(status, RunStatus::Succeeded, "{logs:#?}");
    assert!(logs[0].contains("it-is-first") && !logs[0].contains("Pulling"), "{logs:#?}");
    assert!(logs[1].contains("it-is-second") && logs[1].contains("Pulling"), "{logs:#?}");

    // who may not have it is told which image it is, and runs nothing
    let (status, logs) = ran(&stand, &job("denied", &format!("{repository}:2"), "", "${{ secrets.WRONG }}")).await?;
    assert_eq!(status, RunStatus::Failed, "{logs:#?}");
    assert!(logs[0].contains(&format!("`{repository}:2`")) && !logs[0].contains("it-is"), "{logs:#?}");
    Ok(())
}

/// Pushes a pipeline of these jobs: how its run ended, and the logs of the jobs in their order.
async fn ran(stand: &Stand, jobs: &str) -> Result<(RunStatus, Vec<String>)> {
    let view = push(stand, &format!("on: [push]\njobs:\n{jobs}")).await?;
    let api = stand.api()?;
    let mut logs = Vec::new();
    for job in &view.jobs {
        logs.push(api.log(&job.id).await?);
    }
    Ok((view.run.status, logs))
}
