//! Rollouts over two hosts, each of which calls what served before by a name of its own.

use segue_schemas::{
    gpu::{GpuNeed, ServiceGpus, WhenFull},
    strategy::{BlueGreenSpec, RollingSpec},
};

use super::*;

/// `local` and `b`, both with release 1, and a rollout of release 2 to both.
struct Pair {
    _directory: TempDir,
    server: Arc<ScriptedServer>,
    hosts: [ScriptedHost; 2],
}

impl Pair {
    fn new(strategy: Strategy) -> Self {
        Self::with_dead_man(strategy, 15_000)
    }

    fn with_dead_man(strategy: Strategy, dead_man_ms: u64) -> Self {
        let pair = Self::bare(strategy, dead_man_ms);
        pair.hosts[0].serve(&release(OLD), "web-1-0-1");
        pair.hosts[1].serve(&release(OLD), "web-1-0-7");
        pair
    }

    /// One instance has room at the first, and so many at the second; the service is to be stopped for the next release where that is so.
    fn tight(strategy: Strategy, room_at_second: usize) -> Self {
        let pair = Self::of(strategy, 15_000, |spec| {
            spec.service.replicas = 1;
            spec.service.gpus = Some(ServiceGpus { need: GpuNeed::whole(1), when_full: WhenFull::Recreate });
        });
        for ((host, name), room) in pair.hosts.iter().zip(["web-1-0-1", "web-1-0-7"]).zip([1, room_at_second]) {
            host.serve(&release(OLD), name);
            host.has_room_for(room);
        }
        pair
    }

    fn bare(strategy: Strategy, dead_man_ms: u64) -> Self {
        Self::of(strategy, dead_man_ms, |spec| spec.service.replicas = 3)
    }

    fn of(strategy: Strategy, dead_man_ms: u64, change: impl FnOnce(&mut RolloutSpec)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let hosts = ["a", "b"].map(|name| {
            std::fs::create_dir(directory.path().join(name)).unwrap();
            ScriptedHost::start(&directory.path().join(name), "production", "web")
        });
        let mut rollout = rollout(strategy);
        rollout.spec.hosts.push("b".into());
        change(&mut rollout.spec);
        let mut server = ScriptedServer::new(rollout, Epoch(1), hosts[0].socket(), dead_man_ms);
        server.others.push(("b".into(), hosts[1].socket()));
        Self { _directory: directory, server: Arc::new(server), hosts }
    }

    fn worker(&self) -> AbortOnDropHandle<()> {
        let options = Options { timing: TIMING, capacity: 4 };
        AbortOnDropHandle::new(tokio::spawn(run_rollouts(
            self.server.clone(),
            options,
            Ended::default(),
            CancellationToken::new(),
        )))
    }

    async fn ended(&self) -> Rollout {
        self.server.until("the end", |rollout, _| rollout.status.is_final()).await;
        assert_eq!(self.server.faults(), Vec::<String>::new(), "{}", lines(&self.server.journal()));
        self.server.rollout()
    }

    #[track_caller]
    fn serve(&self, releases: [i64; 2]) {
        let journal = lines(&self.server.journal());
        for (host, release) in self.hosts.iter().zip(releases) {
            assert_eq!(host.serving(), [release], "{journal}");
            if release == OLD {
                assert!(host.instances_of(NEW).is_empty(), "the new release is left over\n{journal}");
            }
        }
    }

    fn left_out(&self) -> Vec<(Option<String>, String)> {
        let journal = self.server.journal();
        let of = journal.iter().filter(|entry| entry.kind == JournalKind::Quarantined);
        of.map(|entry| (entry.host.clone(), entry.detail["message"].as_str().unwrap_or_default().to_owned())).collect()
    }
}

#[tokio::test]
async fn a_hot_swap_goes_the_same_way_on_both() {
    let pair = Pair::new(Strategy::HotSwap);
    let _worker = pair.worker();
    assert_eq!(pair.ended().await.status, RolloutStatus::Succeeded);
    pair.serve([NEW, NEW]);
    for host in &pair.hosts {
        assert_eq!(host.instances_of(NEW).len(), 2, "its share of three, rounded up");
        assert!(host.instances_of(OLD)[0].retire_at.is_some(), "what served before stays warm, by whatever name");
    }
    assert_eq!(pair.left_out(), []);
}

#[tokio::test]
async fn the_first_release_comes_to_both() {
    let pair = Pair::bare(canary(), 15_000);
    let _worker = pair.worker();
    assert_eq!(pair.ended().await.status, RolloutStatus::Succeeded);
    pair.serve([NEW, NEW]);
}

#[tokio::test]
async fn what_is_bad_on_one_host_goes_back_on_both() {
    let pair = Pair::new(canary());
    pair.hosts[1].behave(NEW, Behaviour { error_rate: 0.5, is_ready: true });
    let _worker = pair.worker();
    let rollout = pair.ended().await;
    assert_eq!(rollout.status, RolloutStatus::RolledBack, "{}", lines(&pair.server.journal()));
    pair.serve([OLD, OLD]);
}

#[tokio::test]
async fn what_is_not_ready_on_one_host_comes_to_none() {
    let pair = Pair::new(Strategy::HotSwap);
    pair.hosts[1].behave(NEW, Behaviour::NEVER_READY);
    let _worker = pair.worker();
    let rollout = pair.ended().await;
    assert_eq!(rollout.status, RolloutStatus::Failed);
    assert!(rollout.reason.is_some_and(|reason| reason.contains("host `b`")));
    pair.serve([OLD, OLD]);
}

#[tokio::test]
async fn a_good_canary_is_judged_by_the_requests_of_both() {
    let pair = Pair::new(canary());
    let _worker = pair.worker();
    assert_eq!(pair.ended().await.status, RolloutStatus::Succeeded, "{}", lines(&pair.server.journal()));
    pair.serve([NEW, NEW]);
    for host in &pair.hosts {
        let weights: Vec<Vec<u32>> =
            host.weights_asked_for().into_iter().map(|(_, t)| t.into_iter().map(|t| t.weight).collect()).collect();
        // the former release's one copy, and the two new ones
        assert_eq!(weights, [vec![18, 1, 1], vec![2, 1, 1], vec![1, 1], vec![1, 1]], "a tenth, a half, all, on each");
    }
}

#[tokio::test]
async fn a_host_that_is_lost_is_left_out_and_the_other_ends_whole() {
    let mut strategy = canary();
    if let Strategy::Canary(spec) = &mut strategy {
        spec.stage_duration = Span::millis(500);
    }
    let pair = Pair::new(strategy);
    let _worker = pair.worker();
    pair.server.until("the first stage", |rollout, _| rollout.weight == 10).await;
    pair.hosts[1].go_away();
    let rollout = pair.ended().await;
    assert_eq!(rollout.status, RolloutStatus::Succeeded, "{}", lines(&pair.server.journal()));
    assert_eq!(pair.hosts[0].serving(), [NEW]);
    let left_out = pair.left_out();
    assert_eq!(left_out.len(), 1, "{left_out:?}");
    assert_eq!(left_out[0].0.as_deref(), Some("b"));
    // by whichever call found it out
    assert!(left_out[0].1.contains("can't be reached"), "{left_out:?}");
}

#[tokio::test]
async fn a_host_that_is_away_from_the_beginning_keeps_nobody_back() {
    let pair = Pair::new(Strategy::HotSwap);
    pair.hosts[0].go_away();
    let _worker = pair.worker();
    assert_eq!(pair.ended().await.status, RolloutStatus::Succeeded);
    assert_eq!(pair.hosts[1].serving(), [NEW]);
    assert_eq!(pair.left_out()[0].0.as_deref(), Some("local"));
}

#[tokio::test]
async fn a_host_that_serves_something_else_is_not_touched() {
    let pair = Pair::bare(Strategy::HotSwap, 15_000);
    pair.hosts[0].serve(&release(OLD), "web-1-0-1");
    pair.hosts[1].serve(&release(7), "web-7-0-1");
    let _worker = pair.worker();
    assert_eq!(pair.ended().await.status, RolloutStatus::Succeeded);
    pair.serve([NEW, 7]);
    assert!(pair.hosts[1].instances_of(NEW).is_empty());
    let left_out = pair.left_out();
    assert!(left_out[0].1.contains("it serves release 7, the others release 1"), "{left_out:?}");
}

#[tokio::test]
async fn an_emergency_at_one_host_is_followed_by_the_other() {
    let strategy = slow_canary();
    let pair = Pair::new(strategy);
    let _worker = pair.worker();
    pair.server.until("the first stage", |rollout, _| rollout.weight == 10).await;
    pair.hosts[1].emergency();
    let rollout = pair.ended().await;
    assert_eq!(rollout.status, RolloutStatus::RolledBack, "{}", lines(&pair.server.journal()));
    assert!(rollout.reason.is_some_and(|reason| reason.contains("emergency")));
    println!("{} {:?}", lines(&pair.server.journal()), pair.server.hand_backs());
    pair.serve([OLD, OLD]);
}

fn rolling() -> Strategy {
    Strategy::Rolling(RollingSpec { pause: Span::millis(300), ..RollingSpec::default() })
}

#[tokio::test]
async fn one_host_goes_over_after_the_other() {
    let pair = Pair::new(rolling());
    let _worker = pair.worker();
    assert_eq!(pair.ended().await.status, RolloutStatus::Succeeded, "{}", lines(&pair.server.journal()));
    pair.serve([NEW, NEW]);
    let asked_for = |host: &ScriptedHost| -> Vec<Vec<u32>> {
        host.weights_asked_for().into_iter().map(|(_, t)| t.into_iter().map(|t| t.weight).collect()).collect()
    };
    let weights = pair.hosts.each_ref().map(asked_for);
    // the former release's one copy on the second stays alone for a step; then two new ones, once watched and once not
    let expected: [Vec<Vec<u32>>; 2] = [vec![vec![1, 1]; 3], vec![vec![1], vec![1, 1], vec![1, 1]]];
    assert_eq!(weights, expected, "{}", lines(&pair.server.journal()));
}

#[tokio::test]
async fn what_is_bad_at_the_host_that_went_over_first_never_comes_to_the_other() {
    let pair = Pair::new(rolling());
    pair.hosts[0].behave(NEW, Behaviour { error_rate: 0.5, is_ready: true });
    let _worker = pair.worker();
    assert_eq!(pair.ended().await.status, RolloutStatus::RolledBack, "{}", lines(&pair.server.journal()));
    pair.serve([OLD, OLD]);
    let has_new = pair.hosts[1].weights_asked_for().into_iter().any(|(_, targets)| targets.len() > 1);
    assert!(!has_new, "{}", lines(&pair.server.journal()));
}

#[tokio::test]
async fn the_next_host_goes_over_where_the_first_is_lost() {
    let Strategy::Rolling(spec) = rolling() else { unreachable!() };
    let pair = Pair::new(Strategy::Rolling(RollingSpec { pause: Span::seconds(2), ..spec }));
    let _worker = pair.worker();
    pair.server.until("the first host", |rollout, _| rollout.weight == 50).await;
    pair.hosts[0].go_away();
    let rollout = pair.ended().await;
    assert_eq!(rollout.status, RolloutStatus::Succeeded, "{}", lines(&pair.server.journal()));
    assert_eq!(pair.hosts[1].serving(), [NEW]);
    assert_eq!(pair.left_out()[0].0.as_deref(), Some("local"));
}

#[tokio::test]
async fn what_is_held_stands_beside_what_serves_on_both() {
    let held = BlueGreenSpec { hold: true, soak: Span::millis(300), ..BlueGreenSpec::default() };
    let pair = Pair::new(Strategy::BlueGreen(held));
    let _worker = pair.worker();
    pair.server.until("it is held", |rollout, _| rollout.status == RolloutStatus::Held).await;
    for host in &pair.hosts {
        let asked = host.weights_asked_for();
        let (_, targets) = asked.last().unwrap();
        let weights: Vec<u32> = targets.iter().map(|target| target.weight).collect();
        assert_eq!((weights, host.serving()), (vec![1, 0, 0], vec![OLD]), "{asked:?}");
    }
    pair.server.command(RolloutCommand::Promote);
    assert_eq!(pair.ended().await.status, RolloutStatus::Succeeded, "{}", lines(&pair.server.journal()));
    pair.serve([NEW, NEW]);
    let journal = pair.server.journal();
    let words = journal.iter().filter(|entry| entry.kind == JournalKind::Command).count();
    assert_eq!(words, 1, "told twice, it is one word: a second one would end the watch\n{}", lines(&journal));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_may_die_at_every_entry_of_other_strategies_too() {
    let Strategy::Rolling(spec) = rolling() else { unreachable!() };
    let quick = Strategy::Rolling(RollingSpec { pause: Span::millis(100), ..spec });
    check_deaths(|| Pair::new(quick.clone()), Behaviour::GOOD, NEW).await;
    let swap = Strategy::BlueGreen(BlueGreenSpec { soak: Span::millis(100), ..BlueGreenSpec::default() });
    check_deaths(|| Pair::new(swap.clone()), Behaviour::GOOD, NEW).await;
}

#[tokio::test]
async fn hosts_without_room_for_both_change_one_after_the_other() {
    let pair = Pair::tight(Strategy::HotSwap, 1);
    let _worker = pair.worker();
    assert_eq!(pair.ended().await.status, RolloutStatus::Succeeded, "{}", lines(&pair.server.journal()));
    pair.serve([NEW, NEW]);
    assert!(pair.hosts.iter().all(|host| host.instances_of(OLD).is_empty()), "what served was stopped");
    let journal = pair.server.journal();
    let at = |kind, host| journal.iter().position(|e| e.kind == kind && e.host.as_deref() == Some(host));
    assert!(at(JournalKind::Shifted, "local") < at(JournalKind::GapIntent, "b"), "{}", lines(&journal));
    assert_eq!(pair.left_out(), []);
}

#[tokio::test]
async fn a_host_that_is_lost_in_its_gap_is_left_out_and_the_last_one_goes_on_serving() {
    let pair = Pair::tight(Strategy::HotSwap, 1);
    let _worker = pair.worker();
    let is_in_gap =
        |entry: &JournalEntry| entry.kind == JournalKind::GapIntent && entry.host.as_deref() == Some("local");
    pair.server.until("the gap", |_, journal| journal.iter().any(is_in_gap)).await;
    pair.hosts[0].go_away();
    let rollout = pair.ended().await;
    let journal = lines(&pair.server.journal());
    assert_eq!((rollout.status, pair.hosts[1].serving()), (RolloutStatus::Failed, vec![OLD]), "{journal}");
    assert!(journal.contains("ready nowhere"), "{journal}");
    assert_eq!(pair.left_out()[0].0.as_deref(), Some("local"), "{journal}");
}

#[tokio::test]
async fn a_host_that_is_left_at_the_end_is_on_record_before_the_word_of_the_end() {
    let pair = Pair::tight(Strategy::HotSwap, 1);
    for release in [NEW, OLD] {
        pair.hosts[1].behave(release, Behaviour::NEVER_READY);
    }
    let _worker = pair.worker();
    let is_in_vain = |entry: &JournalEntry| {
        let reason = entry.detail["reason"].as_str().unwrap_or_default();
        entry.kind == JournalKind::NotReady && reason.contains("the former release did not become ready")
    };
    pair.server.until("a try in vain", |_, journal| journal.iter().any(is_in_vain)).await;
    pair.server.command(RolloutCommand::Abort);
    let rollout = pair.ended().await;
    let journal = pair.server.journal();
    assert_eq!((rollout.status, pair.hosts[0].serving()), (RolloutStatus::Succeeded, vec![NEW]), "{}", lines(&journal));
    assert_eq!(pair.left_out().first().and_then(|(host, _)| host.clone()).as_deref(), Some("b"), "{}", lines(&journal));
    assert_eq!(journal.last().map(|entry| entry.kind), Some(JournalKind::Ended), "{}", lines(&journal));
    assert_eq!(pair.server.faults(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_may_die_at_every_entry_while_hosts_change_in_turn() {
    check_deaths(|| Pair::tight(Strategy::HotSwap, 1), Behaviour::GOOD, NEW).await;
    check_deaths(|| Pair::tight(Strategy::HotSwap, 2), Behaviour::NEVER_READY, OLD).await;
    check_deaths(|| Pair::tight(Strategy::HotSwap, 1), Behaviour::NEVER_READY, OLD).await;
}

/// A worker dies when an entry is or would be written, and the next one goes on, at every entry there is.
async fn check_deaths(make: impl Fn() -> Pair, behaviour: Behaviour, ends: i64) {
    let mut at = 1;
    loop {
        let pair = make();
        pair.hosts[1].behave(NEW, behaviour);
        let death = if at % 2 == 0 { Death::After(at / 2) } else { Death::Before(at.div_ceil(2)) };
        pair.server.let_die(death);
        let first = pair.worker();
        let died = pair.server.until_dying().await;
        kill(first).await;
        if died {
            pair.server.end_lease();
            let _second = pair.worker();
            pair.ended().await;
        }
        pair.serve([ends, ends]);
        if !died {
            return;
        }
        at += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_may_die_at_every_entry_and_both_hosts_are_whole() {
    check_deaths(|| Pair::new(Strategy::HotSwap), Behaviour::GOOD, NEW).await;
    check_deaths(|| Pair::new(canary()), Behaviour { error_rate: 0.5, is_ready: true }, OLD).await;
}
