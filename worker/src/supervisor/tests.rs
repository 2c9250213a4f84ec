//! Real processes under a real nursery: this test program, started as one.

use std::{
    fs,
    io::{PipeReader, Read},
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::Signal,
    unistd::{ForkResult, Pid, fork},
};

use super::{
    boot_time,
    client::{Keeper, Nursery, SupervisorError},
    protocol::{Exit, Task, UserIds, Work},
};
use crate::artifact::Packed;

/// How a test starts the nursery; see [`nursery_process`].
pub(crate) fn nursery_command() -> Vec<std::ffi::OsString> {
    let program = std::env::current_exe().unwrap();
    let test = "supervisor::tests::nursery_process";
    [program.as_os_str(), test.as_ref(), "--exact".as_ref(), "--ignored".as_ref(), "--nocapture".as_ref()]
        .map(Into::into)
        .to_vec()
}

#[test]
#[ignore = "not a test: the process that the tests of this crate start as the nursery"]
fn nursery_process() {
    // The harness has threads; what is forked has one, as the real thing.
    // SAFETY: the child does nothing but what the nursery does, and does not return.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let _ = super::main();
            unsafe { nix::libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            nix::unistd::dup2_stdin(fs::File::open("/dev/null").unwrap()).unwrap();
            let _ = nix::sys::wait::waitpid(child, None);
        }
    }
}

fn shell(script: &str) -> Task {
    Task {
        user: None,
        directory: "/".into(),
        work: Work::Program {
            argv: ["bash", "-c", script].map(Into::into).to_vec(),
            env: vec![("PATH".into(), "/usr/bin:/bin".into())],
        },
    }
}

struct Output(PipeReader);

impl Output {
    async fn all(mut self) -> String {
        tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            self.0.read_to_string(&mut text).unwrap();
            text
        })
        .await
        .unwrap()
    }

    /// Waits for a line that holds nothing but a process number.
    async fn pid(&mut self) -> i32 {
        let mut line = Vec::new();
        loop {
            let mut byte = [0];
            tokio::task::block_in_place(|| self.0.read_exact(&mut byte)).unwrap();
            match byte[0] {
                b'\n' => return String::from_utf8(line).unwrap().trim().parse().unwrap(),
                byte => line.push(byte),
            }
        }
    }
}

async fn start(keeper: &mut Keeper, task: &Task) -> Output {
    let (reader, writer) = std::io::pipe().unwrap();
    keeper.start(task, writer.as_fd(), None).await.unwrap();
    Output(reader)
}

async fn keeper() -> (Nursery, Keeper) {
    let nursery = Nursery::new(nursery_command());
    let keeper = nursery.keeper().await.unwrap();
    (nursery, keeper)
}

fn lives(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

async fn ends_within(pid: i32, limit: Duration) -> bool {
    let end = Instant::now() + limit;
    while lives(pid) {
        if Instant::now() > end {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    true
}

/// Leaves a process behind that is in a session of its own, whose parent has ended, and that ignores TERM; prints its number.
const ESCAPEE: &str =
    r#"setsid bash -c 'bash -c "trap \"\" TERM; echo \$BASHPID; while :; do sleep 1; done" & exit' & wait"#;

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_signals_and_output_come_back() {
    let (_nursery, mut keeper) = keeper().await;
    let output = start(&mut keeper, &shell("echo out; echo err >&2; exit 7")).await;
    assert_eq!(keeper.exited().await.unwrap(), Exit::Code(7));
    assert_eq!(output.all().await, "out\nerr\n");
    start(&mut keeper, &shell("kill -9 $$")).await;
    let exit = keeper.exited().await.unwrap();
    assert_eq!((exit, exit.code()), (Exit::Signal(9), 137));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_started_is_named() {
    let (_nursery, mut keeper) = keeper().await;
    let (_reader, writer) = std::io::pipe().unwrap();
    let mut task = shell("true");
    task.work = Work::Program { argv: vec!["no-such-program".into()], env: Vec::new() };
    let error = keeper.start(&task, writer.as_fd(), None).await.unwrap_err();
    assert!(error.to_string().contains("no-such-program"), "{error}");
    task.directory = "/no/such/directory".into();
    let error = keeper.start(&task, writer.as_fd(), None).await.unwrap_err();
    assert!(error.to_string().contains("/no/such/directory"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_reaches_what_left_its_session_and_its_parent() {
    let (_nursery, mut keeper) = keeper().await;
    let mut output = start(&mut keeper, &shell(ESCAPEE)).await;
    let escapee = output.pid().await;
    keeper.exited().await.unwrap();
    assert!(lives(escapee), "a background process outlives its step");
    let asked = Instant::now();
    keeper.kill(Duration::from_millis(100)).await.unwrap();
    assert!(!lives(escapee));
    assert!(asked.elapsed() >= Duration::from_millis(100), "TERM and the grace come before KILL");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_heeds_term_ends_before_the_grace() {
    let (_nursery, mut keeper) = keeper().await;
    let mut output =
        start(&mut keeper, &shell("trap 'echo bye; exit 3' TERM; echo $$; while :; do sleep 0.02; done")).await;
    output.pid().await;
    let asked = Instant::now();
    assert_eq!(keeper.kill(Duration::from_secs(20)).await.unwrap(), Some(Exit::Code(3)));
    assert!(asked.elapsed() < Duration::from_secs(5));
    // The shell may say before that its `sleep` was terminated.
    assert!(output.all().await.ends_with("bye\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_fork_all_the_time_are_killed() {
    let (_nursery, mut keeper) = keeper().await;
    let fork = "trap '' TERM; f() { sleep 0.01; (f) & }; for i in 1 2 3 4 5; do (f) & done; echo $$; sleep 100";
    start(&mut keeper, &shell(fork)).await.pid().await;
    tokio::time::timeout(Duration::from_secs(20), keeper.kill(Duration::ZERO)).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_goes_takes_everything_with_it() {
    let (nursery, mut keeper) = keeper().await;
    let mut output = start(&mut keeper, &shell(ESCAPEE)).await;
    let escapee = output.pid().await;
    // The kernel closes a dead worker's descriptors; dropping them is the same to the other side.
    drop((nursery, keeper));
    assert!(ends_within(escapee, Duration::from_secs(10)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_that_is_killed_leaves_no_orphans() {
    let (_nursery, mut keeper) = keeper().await;
    let mut output = start(&mut keeper, &shell(&format!("echo $PPID; {ESCAPEE}; sleep 100"))).await;
    let keeper_pid = output.pid().await;
    let escapee = output.pid().await;
    nix::sys::signal::kill(Pid::from_raw(keeper_pid), Signal::SIGKILL).unwrap();
    assert!(ends_within(escapee, Duration::from_secs(10)).await);
    assert!(matches!(keeper.exited().await, Err(SupervisorError::Gone(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lease_deadline_kills_without_a_word_from_the_worker() {
    let (_nursery, mut keeper) = keeper().await;
    let mut output = start(&mut keeper, &shell(ESCAPEE)).await;
    let escapee = output.pid().await;
    keeper.exited().await.unwrap();
    let deadline = keeper.deadline();
    deadline.set(boot_time() + Duration::from_millis(200)).unwrap();
    deadline.set(boot_time() + Duration::from_millis(600)).unwrap();
    tokio::time::sleep(Duration::from_millis(350)).await;
    assert!(lives(escapee), "a deadline that was put off does not count");
    assert!(ends_within(escapee, Duration::from_secs(10)).await);
    assert!(matches!(keeper.exited().await, Err(SupervisorError::DeadlinePassed)));
}

/// A worker that stood still between two steps for longer than its lease, and does not know it yet.
#[tokio::test(flavor = "multi_thread")]
async fn after_the_lease_deadline_nothing_begins_until_it_is_put_off() {
    let (_nursery, mut keeper) = keeper().await;
    start(&mut keeper, &shell("true")).await;
    keeper.exited().await.unwrap();
    let deadline = keeper.deadline();
    deadline.set(boot_time() + Duration::from_millis(50)).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("mark");
    let task = shell(&format!("touch {}", mark.display()));
    for _ in 0..2 {
        let (_reader, writer) = std::io::pipe().unwrap();
        let refused = keeper.start(&task, writer.as_fd(), None).await;
        assert!(matches!(refused, Err(SupervisorError::DeadlinePassed)), "{refused:?}");
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!mark.exists(), "it was begun although the lease was over");
    keeper.kill(Duration::ZERO).await.unwrap();
    deadline.set(boot_time() + Duration::from_secs(60)).unwrap();
    loop {
        // what was said of the first deadline may not have been heard yet
        let (_reader, writer) = std::io::pipe().unwrap();
        if keeper.start(&task, writer.as_fd(), None).await.is_ok() {
            break;
        }
    }
    keeper.exited().await.unwrap();
    assert!(mark.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nursery_that_was_killed_is_replaced() {
    let (nursery, mut first) = keeper().await;
    let mut output = start(&mut first, &shell("ps -o ppid= -p $PPID; echo; sleep 100")).await;
    let nursery_pid = output.pid().await;
    nix::sys::signal::kill(Pid::from_raw(nursery_pid), Signal::SIGKILL).unwrap();
    assert!(ends_within(nursery_pid, Duration::from_secs(5)).await);
    let mut second = nursery.keeper().await.unwrap();
    start(&mut second, &shell("exit 4")).await;
    assert_eq!(second.exited().await.unwrap(), Exit::Code(4));
    first.kill(Duration::ZERO).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_serves_job_after_job_as_if_it_was_new() {
    let (nursery, mut first) = keeper().await;
    let keeper_of = "ps -o ppid= -p $$";
    let output = start(&mut first, &shell(keeper_of)).await;
    first.exited().await.unwrap();
    let pid = output.all().await;
    let deadline = first.deadline();
    deadline.set(boot_time() + Duration::from_millis(300)).unwrap();
    first.kill(Duration::ZERO).await.unwrap();
    first.done();

    let mut second = nursery.keeper().await.unwrap();
    // neither the deadline of the job before nor whoever still holds it has a hold on this one
    deadline.set(boot_time()).unwrap();
    let output = start(&mut second, &shell(&format!("{keeper_of}; sleep 0.6; exit 3"))).await;
    assert_eq!(second.exited().await.unwrap(), Exit::Code(3));
    assert_eq!(output.all().await, pid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_that_may_have_left_something_serves_no_other_job() {
    let (nursery, mut first) = keeper().await;
    let mut output = start(&mut first, &shell("echo $PPID; sleep 100 & echo $!; exit 0")).await;
    first.exited().await.unwrap();
    let (pid, escapee) = (output.pid().await, output.pid().await);
    first.done();
    assert!(ends_within(escapee, Duration::from_secs(5)).await, "what it left is killed");
    let mut second = nursery.keeper().await.unwrap();
    let mut output = start(&mut second, &shell("echo $PPID")).await;
    assert_ne!(output.pid().await, pid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_that_died_while_it_waited_is_replaced() {
    let (nursery, mut first) = keeper().await;
    let mut output = start(&mut first, &shell("echo $PPID")).await;
    first.exited().await.unwrap();
    let pid = output.pid().await;
    first.kill(Duration::ZERO).await.unwrap();
    first.done();
    nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    assert!(ends_within(pid, Duration::from_secs(5)).await);
    let mut second = nursery.keeper().await.unwrap();
    start(&mut second, &shell("exit 4")).await;
    assert_eq!(second.exited().await.unwrap(), Exit::Code(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_runs_as_its_user_with_no_group_besides_and_a_clean_environment() {
    let own = nix::unistd::geteuid();
    let uid = if own.is_root() { 65534 } else { own.as_raw() };
    let (_nursery, mut keeper) = keeper().await;
    let mut task = shell("id -u; id -G; grep SigBlk /proc/self/status; env | sort");
    task.user = own.is_root().then_some(UserIds { uid, gid: uid });
    let output = start(&mut keeper, &task).await;
    keeper.exited().await.unwrap();
    let text = output.all().await;
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some(uid.to_string().as_str()));
    let groups = lines.next().unwrap();
    assert!(!own.is_root() || groups == "65534", "{groups}");
    assert_eq!(lines.next(), Some("SigBlk:\t0000000000000000"));
    let names: Vec<&str> = lines.map(|line| line.split('=').next().unwrap()).collect();
    assert_eq!(names, ["PATH", "PWD", "SHLVL", "_"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_packed_and_unpacked_as_the_job_user() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("files")).unwrap();
    fs::write(root.path().join("files/a"), "content").unwrap();
    let (_nursery, mut keeper) = keeper().await;
    let archive = tempfile::tempfile().unwrap();
    let directory = root.path().to_str().unwrap().to_owned();
    let pack = |work| Task { user: None, directory: directory.clone(), work };
    let work = pack(Work::Pack { packed: Packed::Whole("files".into()) });
    assert_eq!(run_with_archive(&mut keeper, &work, &archive).await, (Exit::Code(0), String::new()));
    let work = pack(Work::Unpack { path: "again".into() });
    assert_eq!(run_with_archive(&mut keeper, &work, &archive).await, (Exit::Code(0), String::new()));
    assert_eq!(fs::read_to_string(root.path().join("again/a")).unwrap(), "content");

    // a link within leads on; one that leads out is refused, and nothing is made there
    let outside = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("again", root.path().join("within")).unwrap();
    std::os::unix::fs::symlink(outside.path(), root.path().join("out")).unwrap();
    let work = pack(Work::Unpack { path: "within/deep".into() });
    assert_eq!(run_with_archive(&mut keeper, &work, &archive).await, (Exit::Code(0), String::new()));
    assert_eq!(fs::read_to_string(root.path().join("again/deep/a")).unwrap(), "content");
    for path in ["out", "out/deep", "../beside", "/tmp"] {
        let (exit, output) = run_with_archive(&mut keeper, &pack(Work::Unpack { path: path.into() }), &archive).await;
        assert_eq!(exit, Exit::Code(1), "{path}");
        assert!(output.contains("leads out of the workspace"), "{path}: {output}");
    }
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);

    let work = pack(Work::Pack { packed: Packed::Whole("missing".into()) });
    let (exit, output) = run_with_archive(&mut keeper, &work, &archive).await;
    assert_eq!(exit, Exit::Code(1));
    assert!(output.contains("missing"), "{output}");
    assert!(Path::new("/proc/self").exists());
}

async fn run_with_archive(keeper: &mut Keeper, task: &Task, archive: &fs::File) -> (Exit, String) {
    let archive: OwnedFd = archive.try_clone().unwrap().into();
    std::io::Seek::rewind(&mut fs::File::from(archive.try_clone().unwrap())).unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    keeper.start(task, writer.as_fd(), Some(archive.as_fd())).await.unwrap();
    drop(writer);
    let exit = keeper.exited().await.unwrap();
    (exit, Output(reader).all().await)
}
