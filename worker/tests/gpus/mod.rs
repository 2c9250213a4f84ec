//! Services with GPUs, on a machine whose `nvidia-smi` answers from tables.

#[path = "../../../integration-tests/src/gpus.rs"]
#[allow(dead_code, unreachable_pub, reason = "it is shared with the stories, which use all of it")]
mod machine;

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use machine::{Card, Machine};
use segue_schemas::{
    gpu::GpuNeed,
    gpu_health::{Blame, GpuReport, GpuXid, XidSource},
    host_api::{
        EmergencyRollback, HostErrorCode, Instance, InstanceState, RetireInstance, StartInstance, StopInstance,
    },
};
use segue_worker::host::client::HostClientError;

use crate::world::{World, get};

fn cards() -> [Card; 2] {
    [Card::new("GPU-small", "NVIDIA L40S", 46_068), Card::new("GPU-large", "NVIDIA H100", 81_559)]
}

async fn world(machine: &Machine, offered: &str) -> World {
    let program = machine.nvidia_smi().display().to_string();
    World::start_with(vec!["--gpus".into(), offered.into(), "--nvidia-smi".into(), program]).await
}

fn asking(world: &World, id: &str, release: i64, memory_mib: Option<u64>) -> StartInstance {
    let gpus = Some(GpuNeed { memory_mib, ..GpuNeed::whole(1) });
    StartInstance { gpus, ..world.start_request(id, release, 1) }
}

async fn start(
    world: &World,
    id: &str,
    release: i64,
    memory_mib: Option<u64>,
) -> Result<Instance, (HostErrorCode, String)> {
    match world.client.start_instance(&asking(world, id, release, memory_mib)).await {
        Ok(instance) => Ok(instance),
        Err(HostClientError::Host(error)) => Err((error.code, error.message)),
        Err(other) => panic!("not an answer of the host: {other}"),
    }
}

/// What its process sees, whole.
fn seen(instance: &Instance) -> String {
    let environ = std::fs::read(format!("/proc/{}/environ", instance.pid.unwrap())).unwrap();
    let text = String::from_utf8(environ).unwrap();
    let found = text.split('\0').find_map(|pair| pair.strip_prefix("CUDA_VISIBLE_DEVICES="));
    found.expect("it is told which GPUs it has, or that it has none").to_owned()
}

#[tokio::test]
async fn an_instance_keeps_its_gpu_over_restarts_of_its_own_and_of_the_host() {
    let machine = Machine::with(&cards()).unwrap();
    let mut world = world(&machine, "all").await;
    start(&world, "web-1", 1, Some(40_000)).await.unwrap();
    let first = world.wait_until_well("web-1").await;
    assert_eq!(
        (first.gpus.clone(), seen(&first)),
        (vec!["GPU-small".to_owned()], "GPU-small".to_owned()),
        "the smallest that does"
    );
    // as it takes its memory, it is no stranger there, and the next one finds no room beside it
    let pid = first.pid.unwrap();
    machine.set(&[Card { free_mib: 6_000, ..cards()[0].clone() }, cards()[1].clone()]).unwrap();
    machine.set_processes(&[("GPU-small", pid, 40_064, "./web")]).unwrap();
    start(&world, "web-2", 2, Some(40_000)).await.unwrap();
    let second = world.wait_until_well("web-2").await;
    assert_eq!(seen(&second), "GPU-large");
    assert_eq!(world.client.state().await.unwrap().gpus.len(), 2, "what is offered is shown");

    world.kill_host();
    // the driver's word counts for what is chosen, not for what was
    machine.fail(Some((9, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."))).unwrap();
    world.start_host().await;
    let found = world.client.instance(&first.id, Duration::ZERO).await.unwrap();
    assert_eq!((found.pid, found.gpus), (Some(pid), vec!["GPU-small".to_owned()]));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), nix::sys::signal::Signal::SIGKILL).unwrap();
    let again = world.until(&first.id, |one| one.restarts == 1 && one.pid.is_some()).await;
    assert_eq!(seen(&again), "GPU-small");
    machine.fail(None).unwrap();
    // one without is told that it has none, where others have some
    let without = world.run("web-3", 3, 1).await;
    assert_eq!((seen(&without), without.gpus.len()), (String::new(), 0));
    world.end().await;
}

#[tokio::test]
async fn what_is_in_the_way_is_told_with_its_gpu_and_what_to_do_and_nothing_is_left() {
    let machine = Machine::with(&cards()).unwrap();
    let world = world(&machine, "GPU-small").await;
    for (cards, processes, fault, code, wanted) in [
        (
            [Card { uncorrected: 3, ..cards()[0].clone() }, cards()[1].clone()],
            None,
            None,
            HostErrorCode::Faulty,
            "GPU-small: its memory has had 3 errors that could not be corrected (end its processes and reset it",
        ),
        (
            cards(),
            Some(("GPU-small", 1, 900, "python3")),
            None,
            HostErrorCode::BadRequest,
            "process 1 (`python3`), which Segue did not start, holds 900 MiB",
        ),
        (
            [Card { free_mib: 1_000, ..cards()[0].clone() }, cards()[1].clone()],
            None,
            None,
            HostErrorCode::BadRequest,
            "GPU-small: 40000 MiB are asked for, and 1000 are free of 46068",
        ),
        (
            cards(),
            None,
            Some((9, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.")),
            HostErrorCode::Faulty,
            "the NVIDIA driver does not answer",
        ),
        (
            [cards()[1].clone(), cards()[1].clone()],
            None,
            None,
            HostErrorCode::BadRequest,
            "GPU-small: the driver does not know it",
        ),
    ] {
        machine.set(&cards).unwrap();
        machine.set_processes(&Vec::from_iter(processes)).unwrap();
        if fault.is_some() {
            machine.fail(fault).unwrap();
        }
        let (found, message) = start(&world, "web-1", 1, Some(40_000)).await.unwrap_err();
        assert!(found == code && message.contains(wanted), "{wanted}: {found:?}, {message}");
        assert!(world.client.state().await.unwrap().instances.is_empty());
        if fault.is_some() {
            machine.fail(None).unwrap();
        }
    }
    machine.set(&cards()).unwrap();
    let many = StartInstance { gpus: Some(GpuNeed::whole(2)), ..asking(&world, "web-1", 1, None) };
    let error = world.client.start_instance(&many).await.unwrap_err().to_string();
    assert!(error.contains("2 are asked for, and 1 of 1 can be had"), "{error}");
    world.end().await;

    let world = World::start().await;
    let (code, message) = start(&world, "web-1", 1, None).await.unwrap_err();
    assert!(code == HostErrorCode::BadRequest && message.contains("`hosts.NAME.gpus`"), "{message}");
    world.end().await;
}

#[tokio::test]
async fn what_waits_for_its_end_gives_way_and_what_serves_does_not() {
    let machine = Machine::with(&cards()[..1]).unwrap();
    let world = world(&machine, "all").await;
    start(&world, "web-1", 1, None).await.unwrap();
    world.wait_until_well("web-1").await;
    world.route(1, &[("web-1", 1)], &[]).await;
    let (code, message) = start(&world, "web-2", 2, None).await.unwrap_err();
    assert_eq!(code, HostErrorCode::Full, "{message}");
    assert!(
        message.contains("GPU-small: it is in use by another instance")
            && message.contains("It fits on GPU-small once"),
        "{message}"
    );
    // one that waits for its end as well, and has no GPU
    let idle = world.run("web-0", 3, 1).await.id;
    // nobody new is served by it, it answers somebody still, and is kept for a while
    let stream = tokio::spawn(get(world.address, world.host(), "/stream?lines=20"));
    world.until_in_flight("web-1", 1).await;
    // as a rollout leaves it: what was before can be gone back to, and nothing does so by itself
    world.route(1, &[], &[("web-1", 1)]).await;
    let retire = RetireInstance { fence: world.fence(1), after_ms: 600_000, drain_ms: 30_000 };
    let id = "web-1".parse().unwrap();
    for id in [&id, &idle] {
        world.client.retire(id, &retire).await.unwrap();
    }
    start(&world, "web-2", 2, None).await.unwrap();
    let (status, streamed) = stream.await.unwrap().unwrap();
    assert_eq!((status, streamed.lines().count()), (200, 20), "it was not cut");
    assert_eq!(world.client.instance(&idle, Duration::ZERO).await.unwrap().state, InstanceState::Running);
    assert_eq!(world.client.instance(&id, Duration::ZERO).await.unwrap().state, InstanceState::Stopped);
    assert_eq!(world.wait_until_well("web-2").await.gpus, ["GPU-small"]);
    let stop = StopInstance { fence: world.fence(1) };
    world.client.stop(&"web-2".parse().unwrap(), &stop).await.unwrap();

    // what is brought back runs as it did, whatever the new release says of itself
    let other = StartInstance {
        as_before: true,
        command: vec!["./another".into()],
        gpus: None,
        ..world.start_request("web-1b", 1, 1)
    };
    world.client.start_instance(&other).await.unwrap();
    let back = world.wait_until_well("web-1b").await;
    assert_eq!((back.gpus.clone(), seen(&back)), (vec!["GPU-small".to_owned()], "GPU-small".to_owned()));
    world.end().await;
}

#[tokio::test]
async fn what_a_service_used_before_it_asked_is_no_strangers() {
    let machine = Machine::with(&cards()[..1]).unwrap();
    let world = world(&machine, "all").await;
    let before = world.run("web-1", 1, 1).await;
    world.route(1, &[("web-1", 1)], &[]).await;
    machine.set(&[Card { free_mib: 6_000, ..cards()[0].clone() }]).unwrap();
    machine.set_processes(&[("GPU-small", before.pid.unwrap(), 40_064, "./web")]).unwrap();
    for memory_mib in [Some(40_000), None] {
        let (code, message) = start(&world, "web-2", 2, memory_mib).await.unwrap_err();
        assert_eq!(code, HostErrorCode::Full, "{message}");
        assert!(message.contains("It fits on GPU-small once"), "{message}");
    }
    // it is kept for a while, and then it is ended for the place that it has
    world.route(1, &[], &[]).await;
    let retire = RetireInstance { fence: world.fence(1), after_ms: 600_000, drain_ms: 0 };
    world.client.retire(&before.id, &retire).await.unwrap();
    // as the driver tells it, who goes holds its memory for a moment longer
    let (code, message) = start(&world, "web-2", 2, Some(40_000)).await.unwrap_err();
    assert!(code == HostErrorCode::BadRequest && message.contains("which Segue did not start"), "{message}");
    assert_eq!(world.client.instance(&before.id, Duration::ZERO).await.unwrap().state, InstanceState::Stopped);
    world.end().await;
}

#[tokio::test]
async fn an_emergency_rollback_says_of_what_it_starts_why_it_can_not_be() {
    let machine = Machine::with(&cards()[..1]).unwrap();
    let world = world(&machine, "all").await;
    for release in [1, 2] {
        let id = format!("web-{release}");
        start(&world, &id, release, None).await.unwrap();
        world.wait_until_well(&id).await;
        world.route(release, &[(&id, 100)], &[]).await;
        if release == 1 {
            world.route(release, &[], &[]).await;
            world.client.stop(&id.parse().unwrap(), &StopInstance { fence: world.fence(release) }).await.unwrap();
        }
    }
    let rollback = EmergencyRollback { to: None, reason: "it is on fire".into() };
    let error = world.client.emergency_rollback("production", "web", &rollback).await.unwrap_err().to_string();
    assert!(
        error.contains("release 1 can't be started") && error.contains("GPU-small: it is in use by another instance"),
        "{error}"
    );
    assert_eq!(get(world.address, world.host(), "/").await.unwrap().1, "v2", "it serves on");
    world.end().await;
}

/// The kernel's log as a pipe, which `/dev/kmsg` is to its reader: one record with each read.
struct KernelLog {
    pipe: std::fs::File,
    number: u64,
}

impl KernelLog {
    fn at(path: &Path) -> Self {
        nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // it never ends, whoever reads it
        let pipe = std::fs::File::options().read(true).write(true).open(path).unwrap();
        Self { pipe, number: 0 }
    }

    /// Writes a record of this priority, and waits until it was read.
    async fn say(&mut self, priority: u32, message: &str) {
        self.number += 1;
        self.say_again(priority, self.number, message).await;
    }

    async fn say_again(&mut self, priority: u32, number: u64, message: &str) {
        let up = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
        let micros = Duration::from(up).as_micros();
        self.pipe.write_all(format!("{priority},{number},{micros},-;{message}\n").as_bytes()).unwrap();
        loop {
            let mut waiting =
                [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(&self.pipe), nix::poll::PollFlags::POLLIN)];
            if nix::poll::poll(&mut waiting, nix::poll::PollTimeout::ZERO).unwrap() == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// A dcgm-exporter: what it says from now on can be changed.
fn exporter() -> (String, Arc<Mutex<String>>) {
    let said = Arc::new(Mutex::new(String::new()));
    let (listener, answers) = (TcpListener::bind("127.0.0.1:0").unwrap(), said.clone());
    let url = format!("http://{}/metrics", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let (mut connection, mut asked) = (connection.unwrap(), [0; 4096]);
            let _ = connection.read(&mut asked);
            let body = answers.lock().unwrap().clone();
            let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
            let _ = connection.write_all((head + &body).as_bytes());
        }
    });
    (url, said)
}

/// The report, once there is something in it.
async fn until_told(world: &World, is: impl Fn(&GpuReport) -> bool) -> GpuReport {
    let mut report = world.client.gpus_now(Duration::from_secs(30)).await.unwrap();
    for _ in 0..20 {
        if is(&report) {
            return report;
        }
        report = world.client.gpus_after(report.revision, Duration::from_secs(5)).await.unwrap();
    }
    panic!("it is not told: {report:#?}");
}

fn short(xids: &[GpuXid]) -> Vec<(u64, &str, u32, XidSource, Vec<String>)> {
    let one = |xid: &GpuXid| xid.instances.iter().map(ToString::to_string).collect::<Vec<_>>();
    xids.iter().map(|xid| (xid.number, xid.gpu.as_str(), xid.code, xid.source, one(xid))).collect()
}

#[tokio::test]
async fn what_the_driver_reports_is_told_with_whom_it_struck_and_a_gpu_that_broke_is_not_given_out() {
    let machine = Machine::with(&cards()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kmsg");
    let mut log = KernelLog::at(&path);
    let (url, exported) = exporter();
    let program = machine.nvidia_smi().display().to_string();
    let more = ["--gpus", "all", "--nvidia-smi", &program, "--kernel-log", path.to_str().unwrap(), "--dcgm", &url];
    let mut world = World::start_with(more.map(str::to_owned).into()).await;
    start(&world, "web-1", 1, Some(40_000)).await.unwrap();
    let pid = world.wait_until_well("web-1").await.pid.unwrap();
    until_told(&world, |report| report.looked_at.is_some()).await;

    // a program may write there as well, and only the kernel is believed
    log.say(12, "NVRM: Xid (PCI:0000:01:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.").await;
    log.say(6, "nvidia: module license 'NVIDIA' taints kernel.").await;
    log.say(3, &format!("NVRM: Xid (PCI:0000:01:00): 31, pid={pid}, name=web, Ch 00000008, MMU Fault")).await;
    log.say(3, "NVRM: Xid (PCI:0000:01:00): 43, pid='<unknown>', name=<unknown>, Ch 00000008").await;
    // this test is a process that Segue did not start
    log.say(3, &format!("NVRM: Xid (PCI:0000:01:00): 13, pid={}, name=other", std::process::id())).await;
    log.say(3, "NVRM: Xid (PCI:0000:02:00): 48, pid='<unknown>', name=<unknown>, DBE (double bit error)").await;
    let report = until_told(&world, |report| report.xids.len() == 4).await;
    let struck = || vec!["web-1".to_owned()];
    let told = [
        (1, "GPU-small", 31, XidSource::Kernel, struck()),
        (2, "GPU-small", 43, XidSource::Kernel, struck()),
        (3, "GPU-small", 13, XidSource::Kernel, vec![]),
        (4, "GPU-large", 48, XidSource::Kernel, vec![]),
    ];
    assert_eq!(short(&report.xids), told);
    assert_eq!((report.xids[3].blame, report.faults.len()), (Blame::Host, 0));
    assert_eq!(report.given, [("web-1".parse().unwrap(), vec!["GPU-small".to_owned()])]);
    // `nvidia-smi` knows nothing of it
    let (code, message) = start(&world, "web-2", 2, Some(40_000)).await.unwrap_err();
    assert!(
        code == HostErrorCode::Full && message.contains("GPU-large: it answers with an error (Xid 48"),
        "{message}"
    );

    // the exporter tells the last one for ever; that it tells again what the log told is no news
    let of = |xid: u32| format!("DCGM_FI_DEV_XID_ERRORS{{gpu=\"0\",UUID=\"GPU-small\",device=\"nvidia0\"}} {xid}\n");
    for (xid, count) in [(0, 4), (43, 4), (69, 5), (69, 5)] {
        *exported.lock().unwrap() = of(xid);
        let report = world.client.gpus_now(Duration::from_secs(30)).await.unwrap();
        assert_eq!(report.xids.len(), count, "{xid}: {:?}", short(&report.xids));
    }
    machine.set(&[Card { uncorrected: 2, ..cards()[0].clone() }, cards()[1].clone()]).unwrap();
    let report = until_told(&world, |report| !report.faults.is_empty()).await;
    assert_eq!((report.faults[0].kind.as_str(), report.faults[0].count), ("ecc", 2));
    assert_eq!(short(&report.xids)[4], (5, "GPU-small", 69, XidSource::Dcgm, struck()));

    // what was told stays told, and is not told again; after a start the GPU counts as repaired
    world.kill_host();
    *exported.lock().unwrap() = of(32);
    world.start_host().await;
    log.say_again(3, 6, "NVRM: Xid (PCI:0000:02:00): 48, pid='<unknown>', name=<unknown>, DBE").await;
    log.say(3, "NVRM: Xid (PCI:0000:02:00): 63, pid='<unknown>', name=<unknown>, Row Remapper").await;
    let report = until_told(&world, |report| report.xids.len() >= 7).await;
    let codes: Vec<u32> = report.xids.iter().map(|xid| xid.code).collect();
    assert_eq!(codes, [31, 43, 13, 48, 69, 32, 63], "what happened without a host is found");
    start(&world, "web-2", 2, Some(40_000)).await.unwrap();
    assert_eq!(world.wait_until_well("web-2").await.gpus, ["GPU-large"]);
    world.end().await;
}

#[tokio::test]
async fn what_can_not_be_looked_at_is_told() {
    let machine = Machine::with(&cards()).unwrap();
    let program = machine.nvidia_smi().display().to_string();
    let more =
        ["--gpus", "all", "--nvidia-smi", &program, "--kernel-log", "/nowhere/kmsg", "--dcgm", "http://127.0.0.1:9/"];
    let world = World::start_with(more.map(str::to_owned).into()).await;
    let report = until_told(&world, |report| report.blind.len() == 2).await;
    assert!(report.blind[0].contains("the dcgm-exporter at http://127.0.0.1:9/ tells nothing"), "{:?}", report.blind);
    assert!(report.blind[1].contains("/nowhere/kmsg can't be read"), "{:?}", report.blind);
    machine.fail(Some((9, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."))).unwrap();
    let report = until_told(&world, |report| !report.faults.is_empty()).await;
    assert!(report.faults[0].gpu.is_none() && report.faults[0].blame == Blame::Host, "{:?}", report.faults);
    machine.fail(None).unwrap();
    until_told(&world, |report| report.faults.is_empty()).await;
    world.end().await;

    let without = World::start().await;
    let error = without.client.gpus_after(0, Duration::from_secs(60)).await.unwrap_err().to_string();
    assert!(error.contains("this host offers no GPUs"), "{error}");
    without.end().await;
}
