use std::time::Duration;

use bytes::Bytes;
use segue_runner::store::RollbackTarget;
use segue_schemas::{duration::Span, status::Conclusion, worker_api::AttachArtifact};

use crate::world::{World, finish, job};

const DAY: Duration = Duration::from_secs(24 * 3600);

pub async fn old_logs_artifacts_and_runs_go_and_what_is_needed_stays(world: World) {
    let worker = world.worker("w", "1").await;
    let served = world.deployed(&worker, "staging", b"served").await.release.digest;
    let run = world.run(vec![job("test", &[])]).await;
    let claim = world.claim(&worker).await;
    world.store.append_log(claim.job, claim.epoch, 0, Bytes::from_static(b"a line\n")).await.unwrap();
    let scratch = world.artifact(b"scratch").await;
    let attach = AttachArtifact {
        epoch: claim.epoch,
        name: "scratch".into(),
        digest: scratch.clone(),
        bytes: 7,
        retention_days: None,
    };
    world.store.attach_artifact(claim.job, attach).await.unwrap();
    let mut end = finish(&claim, Conclusion::Success);
    end.log_bytes = 7;
    world.pass(40 * DAY);
    world.store.clean_up().await.unwrap();
    assert!(world.has(&scratch).await, "its run goes on");
    world.store.finish_job(claim.job, end).await.unwrap();
    let path = world.store.job_log(claim.job).await.unwrap().unwrap().path;

    let removed = world.store.clean_up().await.unwrap();
    assert_eq!((removed.artifacts, removed.logs), (1, 0));
    assert!(!world.has(&scratch).await);
    assert!(world.has(&served).await, "it serves");

    world.pass(91 * DAY);
    assert_eq!(world.store.clean_up().await.unwrap().logs, 2, "of the test and of the deploy");
    let log = world.store.job_log(claim.job).await.unwrap().unwrap();
    assert!(log.removed && world.store.logs().bytes(log.job, &path).await.unwrap() == 0);
    assert!(world.store.run(run).await.is_ok(), "its record stays longer");

    world.pass(400 * DAY);
    assert_eq!(world.store.clean_up().await.unwrap().runs, 2);
    assert!(world.store.run(run).await.is_err());
    assert!(world.store.deliveries(None, 10).await.unwrap().is_empty());
    assert!(world.has(&served).await, "it serves still");
    assert_eq!(world.store.rollback_points(None, None).await.unwrap().len(), 1);
    assert_eq!(world.store.clean_up().await.unwrap(), Default::default(), "nothing is left to do");
}

pub async fn too_much_goes_the_oldest_first_and_points_are_counted(world: World) {
    let world = world
        .configured(|config| {
            config.retention.artifacts_max_mib = 0;
            config.retention.releases = 2;
            config.retention.runs = Span::seconds(1);
        })
        .await;
    let worker = world.worker("w", "1").await;
    let mut deployed = Vec::new();
    for bytes in [b"v1", b"v2", b"v3", b"v4"] {
        deployed.push(world.deployed(&worker, "staging", bytes).await);
        world.pass(Duration::from_secs(3601));
    }
    let first = RollbackTarget::Release(deployed[0].release.id);
    let id = world.store.create_rollback("staging", "web", first, "ada".into()).await.unwrap();
    let removed = world.store.clean_up().await.unwrap();
    assert_eq!(
        (removed.points, removed.artifacts),
        (2, 1),
        "the fourth and third are the newest; the first is on its way back"
    );
    for (n, is_here) in [true, false, true, true].into_iter().enumerate() {
        assert_eq!(world.has(&deployed[n].release.digest).await, is_here, "{n}");
    }
    let back = world.claim_rollout(&worker).await;
    assert_eq!(back.rollout.id, id);
    // who asks for a content keeps it for a while
    let fresh = world.artifact(b"fresh").await;
    assert_eq!(world.store.artifact_wanted(&fresh).await.unwrap(), Some(5));
    world.store.clean_up().await.unwrap();
    assert!(world.has(&fresh).await);
    world.pass(Duration::from_secs(3601));
    world.store.clean_up().await.unwrap();
    assert_eq!(world.store.artifact_wanted(&fresh).await.unwrap(), None);
}
