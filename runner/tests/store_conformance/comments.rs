//! Commands in comments: done once, of the pull request alone, and kept until they are answered.

use std::time::Duration;

use segue_pipelines::comment::{Command, Outcome, Verdict};
use segue_runner::{
    control::PullHead,
    store::{Comment, DeliveryState, Meaning, NewDelivery, Payload},
};
use segue_schemas::{
    config::{Config, GitHubAppConfig, GitHubAppId},
    id::CommitSha,
    status::{RolloutStatus, RunStatus},
    time::Timestamp,
    trigger::{Event, Trigger},
};

use crate::world::{World, commit, job};

fn told(config: &mut Config) {
    config.github.app = GitHubAppConfig { id: Some(GitHubAppId::Number(1)), private_key_file: Some("key".into()) };
    config.github.forks_on_host = true;
}

fn comment(world: &World, id: i64, asks: Command) -> Comment {
    let written_at = world.store.now();
    Comment { repository: "o/r".into(), id, number: 7, author: "ada".into(), asks: Ok(asks), written_at }
}

async fn take(world: &World, guid: &str, comment: &Comment) {
    let delivery = NewDelivery {
        id: guid.parse().unwrap(),
        event: "issue_comment".into(),
        repository: Some(comment.repository.clone()),
        payload: Payload::Inline(String::new()),
        meaning: Meaning::Commented(comment.clone()),
    };
    world.store.accept_delivery(delivery).await.unwrap();
}

/// Takes it, does it, and gives what came of it.
async fn obeyed(world: &World, guid: &str, comment: &Comment, pull: &PullHead) -> Outcome {
    take(world, guid, comment).await;
    world.store.obey(comment, pull.clone(), Vec::new(), comment.written_at).await.unwrap();
    let kept = world.store.comment(&comment.repository, comment.id).await.unwrap().unwrap();
    kept.outcome.expect("an outcome")
}

fn head(commit: &CommitSha, is_fork: bool) -> PullHead {
    PullHead { commit: commit.clone(), branch: "topic".into(), is_fork, author: None }
}

fn pull_request(head: u64, from: &str, number: u64) -> Trigger {
    Trigger {
        repository: "o/r".into(),
        clone_url: None,
        actor: "eve".into(),
        authors: Vec::new(),
        event: Event::PullRequest {
            action: "synchronize".into(),
            number,
            title: String::new(),
            head_ref: "topic".into(),
            head: commit(head),
            head_repository: Some(from.into()),
            base_ref: "main".into(),
            base: commit(1),
            draft: false,
            message: String::new(),
            is_closed: false,
            before: None,
            updated_at: Timestamp(0),
        },
    }
}

pub async fn a_command_of_a_comment_is_done_once_and_answered_until_it_is(world: World) {
    let world = world.configured(told).await;
    let run = world.run_of(pull_request(5, "o/r", 7), vec![job("a", &[])]).await;
    let asked = comment(&world, 9_000_000_000, Command::Cancel);
    take(&world, "d1", &asked).await;
    take(&world, "d1", &asked).await;
    take(&world, "d2", &asked).await;
    let known = world.store.delivery(&"d2".parse().unwrap()).await.unwrap();
    assert_eq!(known.state, DeliveryState::Ignored, "the same comment by another delivery");
    let due = world.store.due_comments(10).await.unwrap();
    assert_eq!((due.len(), &due[0].comment, due[0].outcome.clone()), (1, &asked, None));

    let pull = head(&commit(5), false);
    for _ in 0..2 {
        world.store.obey(&asked, pull.clone(), Vec::new(), asked.written_at).await.unwrap();
    }
    assert_eq!(world.status(run).await, RunStatus::Cancelled);
    assert_eq!(world.store.run(run).await.unwrap().cancelled_by.as_deref(), Some("ada (in #7)"));
    // what came of it stays as it was
    world.store.conclude_comment(&asked, Outcome::new(Verdict::Refused, "no")).await.unwrap();
    let world = world.reopened().await;
    let until = world.store.now() + Duration::from_secs(90);
    world.store.announce_answer(&asked).await.unwrap();
    world.store.comment_put_off(&asked, until, Some("it is away".into())).await.unwrap();
    assert_eq!(world.store.due_comments(10).await.unwrap(), []);
    assert_eq!(world.store.next_comment_due().await.unwrap(), Some(until));
    world.pass(Duration::from_secs(91));
    let due = world.store.due_comments(10).await.unwrap().remove(0);
    assert_eq!((due.tries, due.is_announced), (1, true));
    assert_eq!(due.outcome.unwrap().verdict, Verdict::Done);
    let delivery = world.store.delivery(&"d1".parse().unwrap()).await.unwrap();
    assert!(delivery.reason.unwrap().starts_with("ada asked in #7 to cancel what runs: run 1"));

    world.store.comment_told(&asked, None).await.unwrap();
    assert_eq!(world.store.next_comment_due().await.unwrap(), None);
    // a week later it is forgotten, and by then GitHub delivers it no more
    world.pass(Duration::from_secs(8 * 24 * 3600));
    take(&world, "d3", &comment(&world, 2, Command::Rerun)).await;
    assert!(world.store.comment("o/r", asked.id).await.unwrap().is_none());
}

pub async fn a_comment_cancels_and_approves_what_is_its_pull_requests_alone(world: World) {
    let world = world.configured(told).await;
    let others = world.run_of(pull_request(5, "o/r", 8), vec![job("a", &[])]).await;
    let push = world.run_of(world.push("o/r"), vec![job("a", &[])]).await;
    let pushed = world.store.run(push).await.unwrap().commit;
    // a fork's branch has the name and the commit of one of ours
    let fork = PullHead { commit: pushed, branch: "main".into(), is_fork: true, author: None };
    let outcome = obeyed(&world, "d1", &comment(&world, 1, Command::Cancel), &fork).await;
    assert_eq!((outcome.verdict, outcome.text.as_str()), (Verdict::Refused, "nothing of #7 runs"));
    assert_eq!((world.status(others).await, world.status(push).await), (RunStatus::Queued, RunStatus::Queued));

    world.run_of(pull_request(6, "eve/r", 7), vec![job("a", &[])]).await;
    let worker = world.worker("w", "1").await;
    // whoever looks for work puts aside what waits for a person
    while world.store.claim_job(&worker).await.unwrap().is_some() {}
    world.pass(Duration::from_secs(1));
    let wrote = comment(&world, 2, Command::Approve { commit: None });
    let late = Comment { written_at: Timestamp(0), ..wrote.clone() };
    let outcome = obeyed(&world, "d2", &Comment { id: 3, ..late }, &head(&commit(6), true)).await;
    assert!(outcome.text.contains("may have come after the comment"), "{}", outcome.text);
    let elsewhere = obeyed(&world, "d4", &Comment { id: 4, ..wrote.clone() }, &head(&commit(7), true)).await;
    assert_eq!(elsewhere.verdict, Verdict::Refused, "the head has moved on: {}", elsewhere.text);
    let outcome = obeyed(&world, "d5", &wrote, &head(&commit(6), true)).await;
    assert_eq!(outcome.verdict, Verdict::Done, "{}", outcome.text);
    assert!(outcome.text.contains(commit(6).as_str()));
    // one person counts once, and there is nothing more to say yes to
    let again = comment(&world, 5, Command::Approve { commit: Some(commit(6).as_str()[..40].into()) });
    assert_eq!(obeyed(&world, "d6", &again, &head(&commit(6), true)).await.verdict, Verdict::Refused);
}

pub async fn a_comment_brings_a_service_of_its_repository_back(world: World) {
    let world = world.configured(told).await;
    let worker = world.worker("w", "1").await;
    let pull = head(&commit(6), false);
    let rollback = |service: Option<&str>| Command::Rollback {
        environment: "staging".into(),
        service: service.map(str::to_owned),
    };
    let outcome = obeyed(&world, "d1", &comment(&world, 1, rollback(None)), &pull).await;
    assert_eq!(outcome.text, "nothing of o/r serves `staging`");
    world.deployed(&worker, "staging", b"one").await;
    let outcome = obeyed(&world, "d2", &comment(&world, 2, rollback(None)), &pull).await;
    assert_eq!(outcome.verdict, Verdict::Refused, "there is none before it: {}", outcome.text);
    world.deployed(&worker, "staging", b"two").await;
    let outcome = obeyed(&world, "d3", &comment(&world, 3, rollback(Some("other"))), &pull).await;
    assert_eq!(outcome.text, "no `other` of o/r serves `staging`");
    let foreign = Comment { repository: "o/other".into(), ..comment(&world, 4, rollback(None)) };
    let outcome = obeyed(&world, "d4", &foreign, &pull).await;
    assert_eq!(outcome.text, "nothing of o/other serves `staging`", "what another repository deployed is not touched");
    let outcome = obeyed(&world, "d5", &comment(&world, 5, rollback(None)), &pull).await;
    assert_eq!(outcome.verdict, Verdict::Done, "{}", outcome.text);
    let claim = world.claim_rollout(&worker).await;
    assert!(claim.rollout.spec.is_rollback);
    world.end_rollout(&claim, RolloutStatus::Succeeded).await;
}
