//! Rollouts, driven against a server and a host that are scripted and kept in memory.

mod real_host;
mod scripted_host;
mod scripted_server;
mod several;

use std::{sync::Arc, sync::atomic::Ordering, time::Duration};

use segue_schemas::{
    deploy::{
        CanarySpec, Health, JournalEntry, JournalKind, JudgeSpec, Release, Rollout, RolloutCommand, RolloutSpec,
        ServiceSpec, Strategy,
    },
    duration::Span,
    id::{Epoch, ReleaseId, RolloutId, RunId},
    status::RolloutStatus,
    time::Timestamp,
};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use self::{
    scripted_host::{Behaviour, ScriptedHost},
    scripted_server::{Death, ScriptedServer, lines},
};
use super::{Options, Timing, run_rollouts, tell::Ended};

const OLD: i64 = 1;
const NEW: i64 = 2;

const TIMING: Timing = Timing {
    lease: Duration::from_millis(600),
    renew: Duration::from_millis(60),
    host_patience: Duration::from_secs(1),
    begin_limit: Duration::from_millis(1),
    absent_limit: Duration::from_millis(1),
    snapshot: Duration::from_millis(50),
};

/// A server, a host that serves release 1, and a rollout of release 2.
struct World {
    _directory: TempDir,
    server: Arc<ScriptedServer>,
    host: ScriptedHost,
}

impl World {
    fn new(strategy: Strategy, behaviour: Behaviour) -> Self {
        Self::with_dead_man(strategy, behaviour, 15_000)
    }

    fn with_dead_man(strategy: Strategy, behaviour: Behaviour, dead_man_ms: u64) -> Self {
        Self::of(rollout(strategy), behaviour, dead_man_ms)
    }

    fn of(rollout: Rollout, behaviour: Behaviour, dead_man_ms: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let host = ScriptedHost::start(directory.path(), "production", "web");
        host.serve(&release(OLD), "web-1-0-1");
        host.behave(NEW, behaviour);
        let server = ScriptedServer::new(rollout, Epoch(1), host.socket(), dead_man_ms);
        Self { _directory: directory, server: Arc::new(server), host }
    }

    /// A worker. Dropping the handle is its death; cancelling the token is its end.
    fn worker(&self) -> (AbortOnDropHandle<()>, CancellationToken) {
        let shutdown = CancellationToken::new();
        let options = Options { timing: TIMING, capacity: 4 };
        let rollouts = run_rollouts(self.server.clone(), options, Ended::default(), shutdown.clone());
        (AbortOnDropHandle::new(tokio::spawn(rollouts)), shutdown)
    }

    async fn ended(&self) -> Rollout {
        self.server.until("the end", |rollout, _| rollout.status.is_final()).await;
        assert_eq!(self.server.faults(), Vec::<String>::new(), "{}", lines(&self.server.journal()));
        self.server.rollout()
    }

    #[track_caller]
    fn is_wholly(&self, release: i64) {
        let journal = lines(&self.server.journal());
        assert_eq!(self.host.serving(), [release], "{journal}");
        if release == OLD {
            assert!(self.host.instances_of(NEW).is_empty(), "the new release is left over\n{journal}");
        }
    }

    fn find(&self, kind: JournalKind) -> Option<JournalEntry> {
        self.server.journal().into_iter().find(|entry| entry.kind == kind)
    }
}

fn slow_canary() -> Strategy {
    let mut strategy = canary();
    if let Strategy::Canary(spec) = &mut strategy {
        spec.stage_duration = Span::seconds(60);
    }
    strategy
}

fn canary() -> Strategy {
    Strategy::Canary(CanarySpec {
        stages: vec![10, 50, 100],
        stage_duration: Span::millis(250),
        hold_limit: Span::seconds(20),
        judge: JudgeSpec { min_requests: 20, ..JudgeSpec::default() },
    })
}

fn release(number: i64) -> Release {
    Release {
        id: ReleaseId(number),
        repository: "acme/shop".into(),
        service: "web".into(),
        digest: format!("sha256:{number:064x}").parse().unwrap(),
        image: None,
        commit: format!("{number:040x}").parse().unwrap(),
        run: RunId(number),
        created_at: Timestamp(0),
    }
}

fn rollout(strategy: Strategy) -> Rollout {
    let health = Health { path: "/healthz".into(), tries: 3, interval: Span::millis(20), timeout: Span::seconds(1) };
    let service = ServiceSpec {
        name: "web".into(),
        command: vec!["./web".into()],
        container: None,
        resources: Default::default(),
        gpus: None,
        env: [].into(),
        health,
        warm_up: Vec::new(),
        drain: Span::seconds(1),
        keep_warm: Span::seconds(60),
        replicas: 1,
        routes: Vec::new(),
        rules: Vec::new(),
        sticky: None,
        sync: None,
        backup: None,
    };
    Rollout {
        id: RolloutId(9),
        spec: RolloutSpec {
            release: release(NEW),
            service,
            environment: "production".into(),
            hosts: vec!["local".into()],
            strategy,
            previous: Some(release(OLD)),
            is_rollback: false,
            variables: [].into(),
            sleep_after: None,
            data: None,
            repair: None,
        },
        status: RolloutStatus::Queued,
        run: None,
        weight: 0,
        stage: 0,
        reason: None,
        verdict: None,
        state: None,
        created_at: Timestamp(0),
        ended_at: None,
    }
}

/// Looks every millisecond, for half a minute at most: nobody tells a test what the scripted world does.
async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let begun = std::time::Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(30), "{what}: not within 30 s");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A worker's death: nothing of it is left when this returns.
async fn kill(worker: AbortOnDropHandle<()>) {
    worker.abort();
    let _ = worker.await;
}

fn kinds(journal: &[JournalEntry]) -> Vec<JournalKind> {
    journal.iter().map(|entry| entry.kind).collect()
}

#[tokio::test]
async fn a_hot_swap_reads_start_ready_shift_retire() {
    use JournalKind::{Claimed, Ended, Ready, RetireIntent, Retired, ShiftIntent, Shifted, StartIntent, Started};
    let world = World::new(Strategy::HotSwap, Behaviour::GOOD);
    let _worker = world.worker();
    let rollout = world.ended().await;
    assert_eq!(rollout.status, RolloutStatus::Succeeded);
    assert_eq!(rollout.weight, 100);
    world.is_wholly(NEW);
    assert_eq!(
        kinds(&world.server.journal()),
        [Claimed, StartIntent, Started, Ready, ShiftIntent, Shifted, RetireIntent, Retired, Ended]
    );
    let old = world.host.instances_of(OLD);
    assert!(old[0].retire_at.is_some(), "the old release stays warm, and its host stops it later");
}

#[tokio::test]
async fn a_good_canary_is_promoted_stage_by_stage() {
    let world = World::new(canary(), Behaviour::GOOD);
    let _worker = world.worker();
    let rollout = world.ended().await;
    assert_eq!(rollout.status, RolloutStatus::Succeeded, "{:?}", rollout.reason);
    world.is_wholly(NEW);
    let journal = world.server.journal();
    let weights: Vec<_> = journal
        .iter()
        .filter(|entry| entry.kind == JournalKind::Shifted)
        .map(|entry| entry.detail["weight"].as_u64().unwrap())
        .collect();
    // the last one takes the dead man's hand off
    assert_eq!(weights, [10, 50, 100, 100]);
}

#[tokio::test]
async fn a_canary_that_fails_one_request_in_five_is_rolled_back_with_its_numbers() {
    let world = World::new(canary(), Behaviour::BAD);
    let _worker = world.worker();
    let rollout = world.ended().await;
    assert_eq!(rollout.status, RolloutStatus::RolledBack);
    assert_eq!(rollout.weight, 0);
    world.is_wholly(OLD);
    let verdict = rollout.verdict.expect("a verdict");
    assert_eq!(verdict["decision"], "roll_back", "{verdict}");
    let journal = world.server.journal();
    let verdict = journal.iter().position(|entry| entry.kind == JournalKind::Verdict).unwrap();
    let kinds = kinds(&journal);
    use JournalKind::{RollBackIntent, ShiftIntent, Shifted, Verdict};
    assert_eq!(kinds[verdict..verdict + 4], [Verdict, RollBackIntent, ShiftIntent, Shifted]);
    let back_us = journal[verdict + 3].detail["numbers"]["traffic_back_us"].as_u64().unwrap();
    println!("verdict to traffic back: {:.2} ms", back_us as f64 / 1000.0);
    assert!(back_us < 100_000, "{back_us} us");
}

#[tokio::test]
async fn a_release_that_never_becomes_ready_gets_no_traffic() {
    let world = World::new(canary(), Behaviour::NEVER_READY);
    let _worker = world.worker();
    let rollout = world.ended().await;
    assert_eq!(rollout.status, RolloutStatus::Failed);
    world.is_wholly(OLD);
    assert!(world.host.weights_asked_for().is_empty(), "no weight was ever asked for");
    let reason = rollout.reason.unwrap();
    assert!(reason.contains("rung `health`") && reason.contains("answered 503"), "{reason}");
    let seen = world.find(JournalKind::NotReady).unwrap().detail["seen"].clone();
    assert_eq!(seen["last_status"], 503);
}

#[tokio::test]
async fn clients_are_drawn_at_no_host_that_can_not_keep_them() {
    let asking = |strategy| {
        let mut rollout = rollout(strategy);
        rollout.spec.service.sticky = Some(serde_json::from_str(r#"{"cookie":"c"}"#).unwrap());
        World::of(rollout, Behaviour::GOOD, 15_000)
    };
    // the scripted host tells of nothing that newer ones can
    let world = asking(canary());
    let _worker = world.worker();
    let ended = world.ended().await;
    assert_eq!(ended.status, RolloutStatus::Failed);
    let reason = ended.reason.unwrap();
    assert!(
        reason.contains("host `local` (segue scripted) can't keep clients at a release, which web asks for"),
        "{reason}"
    );
    world.is_wholly(OLD);
    assert!(world.host.weights_asked_for().is_empty());
    // nor at one that says nothing while it is asked for that, and answers afterwards
    let world = asking(canary());
    world.host.keep_silent(1);
    let _worker = world.worker();
    let ended = world.ended().await;
    assert_eq!(ended.status, RolloutStatus::Failed);
    assert!(ended.reason.is_some_and(|reason| reason.contains("can't keep clients at a release")));
    world.is_wholly(OLD);
    assert!(world.host.weights_asked_for().is_empty());
    // what draws nobody needs nobody who can
    let world = asking(Strategy::HotSwap);
    let _worker = world.worker();
    assert_eq!(world.ended().await.status, RolloutStatus::Succeeded);
    world.is_wholly(NEW);
}

#[tokio::test]
async fn a_rollout_whose_host_never_answers_says_so_and_ends_having_changed_nothing() {
    let socket = "/nowhere/host.sock".to_owned();
    let server = Arc::new(ScriptedServer::new(rollout(canary()), Epoch(1), socket, 15_000));
    let options = Options { timing: TIMING, capacity: 4 };
    let _worker = AbortOnDropHandle::new(tokio::spawn(run_rollouts(
        server.clone(),
        options,
        Ended::default(),
        CancellationToken::new(),
    )));
    server.until("why it does not begin", |rollout, _| rollout.reason.is_some()).await;
    let reason = server.rollout().reason.unwrap();
    assert!(reason.contains("/nowhere/host.sock") && reason.contains("segue host"), "{reason}");
    server.until("the end", |rollout, _| rollout.status.is_final()).await;
    assert_eq!(server.faults(), Vec::<String>::new());
    let rollout = server.rollout();
    assert_eq!(rollout.status, RolloutStatus::Failed);
    let reason = rollout.reason.unwrap();
    assert!(reason.contains("nothing was changed"), "{reason}");
    assert_eq!(kinds(&server.journal()), [JournalKind::Claimed, JournalKind::Ended]);
}

#[tokio::test]
async fn a_rollout_whose_host_stays_away_ends_with_the_word_that_nobody_knows() {
    let world = World::new(canary(), Behaviour::GOOD);
    let _worker = world.worker();
    world.server.until("the first stage", |rollout, _| rollout.weight == 10).await;
    world.host.go_away();
    let rollout = world.ended().await;
    assert_eq!(rollout.status, RolloutStatus::Failed);
    let reason = rollout.reason.unwrap();
    assert!(reason.contains("what serves at host `local` is unknown") && reason.contains("segue host"), "{reason}");
    let journal = world.server.journal();
    let [.., waits, end] = journal.as_slice() else { panic!("{}", lines(&journal)) };
    assert_eq!((waits.kind, end.kind), (JournalKind::Held, JournalKind::Ended), "{}", lines(&journal));
    assert_eq!((&waits.detail["is_away"], &end.detail["serves"]), (&true.into(), &"unknown".into()));
    assert!(lines(&journal).contains("what has the traffic is not known"), "{}", lines(&journal));
}

#[tokio::test]
async fn a_router_that_refuses_the_first_weight_ends_the_rollout() {
    let world = World::new(canary(), Behaviour::GOOD);
    world.host.break_router(true);
    let _worker = world.worker();
    let rollout = world.ended().await;
    let journal = lines(&world.server.journal());
    assert_eq!((rollout.status, world.host.serving()), (RolloutStatus::RolledBack, vec![OLD]), "{journal}");
    assert!(rollout.reason.unwrap().contains("nginx can't carry the change: mend it"), "{journal}");
    assert!(!journal.contains("-back"), "nothing of the former release is started: {journal}");
}

#[tokio::test]
async fn a_router_that_refuses_the_way_back_is_asked_until_it_is_mended() {
    let strategy = slow_canary();
    let world = World::new(strategy, Behaviour::GOOD);
    let _worker = world.worker();
    world.server.until("the first stage", |rollout, _| rollout.weight == 10).await;
    world.host.break_router(true);
    world.server.command(RolloutCommand::Abort);
    let is_told = |reason: &str| reason.contains("failed 2 times") && reason.contains("nginx can't carry the change");
    world.server.until("it is tried again", |rollout, _| rollout.reason.as_deref().is_some_and(is_told)).await;
    world.host.break_router(false);
    assert_eq!(world.ended().await.status, RolloutStatus::RolledBack);
    let journal = lines(&world.server.journal());
    assert_eq!(world.host.serving(), [OLD], "{journal}");
    assert!(!journal.contains("-back"), "nothing of the former release is started: {journal}");
}

#[tokio::test]
async fn a_person_promotes_and_a_person_aborts() {
    for (command, status, serves) in [
        (RolloutCommand::Promote, RolloutStatus::Succeeded, NEW),
        (RolloutCommand::Abort, RolloutStatus::RolledBack, OLD),
    ] {
        let strategy = slow_canary();
        let world = World::new(strategy, Behaviour::GOOD);
        let _worker = world.worker();
        world.server.until("the first stage", |rollout, _| rollout.weight == 10).await;
        world.server.command(command);
        let rollout = world.ended().await;
        assert_eq!(rollout.status, status);
        world.is_wholly(serves);
        let said = world.find(JournalKind::Command).unwrap().detail["message"].as_str().unwrap().to_owned();
        assert!(said.contains("ada: enough"), "{said}");
    }
}

/// Lets the driver die once at each entry of the journal, before and after it, and another go on.
async fn check_deaths(strategy: Strategy, behaviour: Behaviour) {
    let world = World::new(strategy.clone(), behaviour);
    let worker = world.worker();
    world.ended().await;
    drop(worker);
    let entries = world.server.journal().len();
    let deaths = (1..=entries).flat_map(|entry| [Death::After(entry), Death::Before(entry)]);
    let mut cases: JoinSet<()> = JoinSet::new();
    for death in deaths {
        if cases.len() >= 8 {
            cases.join_next().await.unwrap().unwrap();
        }
        cases.spawn(check_death(strategy.clone(), behaviour, death));
    }
    while let Some(case) = cases.join_next().await {
        case.unwrap();
    }
}

async fn check_death(strategy: Strategy, behaviour: Behaviour, death: Death) {
    let world = World::new(strategy, behaviour);
    world.server.let_die(death);
    let (first, _) = world.worker();
    assert!(world.server.until_dying().await, "{death:?} did not come");
    kill(first).await;
    world.server.end_lease();
    let _second = world.worker();
    let rollout = world.ended().await;
    let journal = lines(&world.server.journal());
    let expected = match rollout.status {
        RolloutStatus::Succeeded => NEW,
        RolloutStatus::RolledBack | RolloutStatus::Failed => OLD,
        other => panic!("{death:?}: {other:?}\n{journal}"),
    };
    assert_eq!(world.host.serving(), [expected], "{death:?}\n{journal}");
    let ended = world.server.journal().pop().unwrap();
    assert_eq!(ended.kind, JournalKind::Ended, "{death:?}\n{journal}");
    assert_eq!(ended.detail["serves"], if expected == NEW { "new" } else { "former" }, "{death:?}\n{journal}");
    let must_end_with = if behaviour.error_rate > 0.0 { OLD } else { NEW };
    assert_eq!(expected, must_end_with, "{death:?}\n{journal}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_may_die_at_every_entry_of_a_hot_swap() {
    check_deaths(Strategy::HotSwap, Behaviour::GOOD).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_may_die_at_every_entry_of_a_good_canary() {
    check_deaths(canary(), Behaviour::GOOD).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_may_die_at_every_entry_of_a_bad_canary() {
    check_deaths(canary(), Behaviour::BAD).await;
}

#[tokio::test]
async fn a_worker_that_stops_hands_its_rollout_back_and_another_goes_on_at_once() {
    let world = World::new(canary(), Behaviour::GOOD);
    let (first, shutdown) = world.worker();
    world.server.until("the first stage", |rollout, _| rollout.weight == 10).await;
    shutdown.cancel();
    first.await.unwrap();
    assert_eq!(world.server.hand_backs(), ["its worker stops"]);
    let _second = world.worker();
    assert_eq!(world.ended().await.status, RolloutStatus::Succeeded);
    world.is_wholly(NEW);
    assert!(world.find(JournalKind::Recovered).is_some());
}

#[tokio::test]
async fn an_emergency_rollback_during_a_canary_ends_it_rolled_back() {
    let strategy = slow_canary();
    let world = World::with_dead_man(strategy, Behaviour::GOOD, 150);
    let _worker = world.worker();
    world.server.until("the first stage", |rollout, _| rollout.weight == 10).await;
    let emergency = world.host.emergency();
    let rollout = world.ended().await;
    assert_eq!(rollout.status, RolloutStatus::RolledBack);
    let reason = rollout.reason.unwrap();
    assert!(reason.contains("emergency"), "{reason}");
    world.is_wholly(OLD);
    assert!(world.find(JournalKind::Emergency).is_some());
    assert!(world.server.epoch() >= emergency.epoch, "the server's epoch has caught up with the host's");
}

#[tokio::test]
async fn a_late_weight_of_an_old_owner_changes_nothing() {
    let world = World::new(canary(), Behaviour::GOOD);
    let _first = world.worker();
    world.server.until("the first stage", |rollout, _| rollout.weight == 10).await;
    // the first worker still believes in its lease when the second takes over and finishes
    let old_epoch = world.server.epoch();
    world.server.end_lease();
    let _second = world.worker();
    world.server.until("a new owner", |_, journal| journal.iter().any(|entry| entry.epoch > old_epoch)).await;
    assert_eq!(world.ended().await.status, RolloutStatus::Succeeded);
    let epochs: Vec<Epoch> = world.host.weights_asked_for().into_iter().map(|(epoch, _)| epoch).collect();
    assert!(epochs.is_sorted(), "{epochs:?}");
    let before = world.host.targets();
    let late = super::hosts::Host::new("local", &world.host.socket(), None, Duration::ZERO).unwrap();
    let apply = segue_schemas::host_api::ApplyRoute {
        fence: segue_schemas::host_api::Fence {
            environment: "production".into(),
            service: "web".into(),
            epoch: old_epoch,
        },
        rules: Vec::new(),
        assignment: segue_schemas::assignment::Assignment::default(),
        targets: Vec::new(),
        fallback: Vec::new(),
        dead_man_ms: None,
        leaves: false,
        left: None,
        follows: false,
    };
    assert!(matches!(late.apply_route(&apply).await, Err(super::hosts::HostTrouble::Stale(_))));
    assert_eq!(world.host.targets(), before);
}

#[tokio::test]
async fn the_traffic_goes_back_although_the_server_is_away() {
    let world = World::new(canary(), Behaviour::BAD);
    world.server.leave_at(JournalKind::RollBackIntent);
    let _worker = world.worker();
    eventually("the server is away", || world.server.is_away.load(Ordering::SeqCst)).await;
    let left = std::time::Instant::now();
    eventually("the traffic is back", || world.host.serving() == [OLD]).await;
    println!("verdict to traffic back with the server away: {:?}", left.elapsed());
    assert!(left.elapsed() < Duration::from_millis(100), "{:?}", left.elapsed());
    assert_eq!(world.server.rollout().weight, 10, "the server knows nothing of it yet");
    world.server.come_back();
    let rollout = world.ended().await;
    assert_eq!(rollout.status, RolloutStatus::RolledBack);
    assert_eq!(rollout.verdict.unwrap()["decision"], "roll_back");
    world.is_wholly(OLD);
}

#[tokio::test]
async fn what_was_done_while_the_server_was_away_is_journaled_even_after_the_lease() {
    let world = World::new(canary(), Behaviour::BAD);
    world.server.leave_at(JournalKind::RollBackIntent);
    let _worker = world.worker();
    eventually("the server is away", || world.server.is_away.load(Ordering::SeqCst)).await;
    eventually("the traffic is back", || world.host.serving() == [OLD]).await;
    // longer than the lease: the driver gives the rollout up, and remembers what it could not say
    tokio::time::sleep(TIMING.lease * 2).await;
    let weights = world.host.weights_asked_for().len();
    world.server.end_lease();
    world.server.come_back();
    let rollout = world.ended().await;
    assert_eq!(rollout.status, RolloutStatus::RolledBack);
    assert_eq!(rollout.verdict.unwrap()["decision"], "roll_back");
    world.is_wholly(OLD);
    let after = &world.host.weights_asked_for()[weights..];
    assert!(after.iter().all(|(_, targets)| targets.len() == 1), "the bad release got traffic again: {after:?}");
}

#[tokio::test]
async fn a_verdict_that_was_acted_on_stands_although_its_judge_died_before_it_could_say_so() {
    let world = World::new(canary(), Behaviour::BAD);
    world.server.leave_at(JournalKind::RollBackIntent);
    let (first, _) = world.worker();
    eventually("the server is away", || world.server.is_away.load(Ordering::SeqCst)).await;
    eventually("the traffic is back", || world.host.serving() == [OLD]).await;
    kill(first).await;
    let weights = world.host.weights_asked_for().len();
    world.server.end_lease();
    world.server.come_back();
    let _second = world.worker();
    assert_eq!(world.ended().await.status, RolloutStatus::RolledBack);
    world.is_wholly(OLD);
    let after = &world.host.weights_asked_for()[weights..];
    assert!(after.iter().all(|(_, targets)| targets.len() == 1), "the bad release got traffic again: {after:?}");
}

#[tokio::test]
async fn a_worker_cut_off_from_its_server_lets_the_host_fall_back() {
    let strategy = slow_canary();
    let world = World::with_dead_man(strategy, Behaviour::GOOD, 300);
    let _worker = world.worker();
    world.server.until("the first stage", |rollout, _| rollout.weight == 10).await;
    world.server.is_away.store(true, Ordering::SeqCst);
    tokio::time::sleep(TIMING.lease / 2).await;
    assert_eq!(world.host.serving().len(), 2, "as long as the lease lives, the canary goes on");
    tokio::time::sleep(TIMING.lease + Duration::from_millis(600)).await;
    world.server.end_lease();
    world.server.come_back();
    let rollout = world.ended().await;
    assert_eq!(rollout.status, RolloutStatus::RolledBack);
    assert!(rollout.reason.as_deref().is_some_and(|reason| reason.contains("dead-man")), "{:?}", rollout.reason);
    world.is_wholly(OLD);
}
