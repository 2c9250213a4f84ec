use segue_schemas::gpu::GpuNeed;

use super::machine;
use crate::gpu::{Facts, Given, GpuProcess, Reason, SmiFault, Verdict, offered, preflight, requirement};

fn need(count: u32, memory_mib: Option<u64>) -> GpuNeed {
    GpuNeed { memory_mib, ..GpuNeed::whole(count) }
}

fn given(uuid: &str, memory_mib: Option<u64>, pids: &[u32]) -> Given {
    Given { uuid: uuid.into(), memory_mib, pids: pids.to_vec(), is_replaced: false }
}

fn process(uuid: &str, pid: u32, memory_mib: Option<u64>) -> GpuProcess {
    GpuProcess { uuid: uuid.into(), pid, memory_mib, name: "python3".into() }
}

fn told(verdict: &Verdict) -> String {
    let lines = |reasons: &[Reason]| reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    match verdict {
        Verdict::Place(uuids) => uuids.join(" "),
        Verdict::Recreate { uuids, why } => format!("recreate on {}: {}", uuids.join(" "), lines(why)),
        Verdict::Refuse(reasons) => lines(reasons),
    }
}

#[track_caller]
fn check(facts: &Facts, need: &GpuNeed, given: &[Given], wanted: &str) {
    let verdict = preflight(Ok(facts), need, &[], given);
    let found = told(&verdict);
    if wanted.split(' ').all(|word| word.starts_with("GPU-") && !word.ends_with(':')) {
        assert!(matches!(verdict, Verdict::Place(_)) && found == wanted, "wanted: {wanted}\nfound: {found}");
    } else {
        assert!(!matches!(verdict, Verdict::Place(_)) && found.contains(wanted), "wanted: {wanted}\nfound: {found}");
    }
}

#[test]
fn healthy_gpus_are_given_whole_and_once() {
    let facts = machine(&["", "", ""]);
    check(&facts, &need(2, None), &[], "GPU-h0 GPU-h1");
    check(&facts, &need(2, None), &[given("GPU-h0", None, &[])], "GPU-h1 GPU-h2");
    check(
        &facts,
        &need(3, None),
        &[given("GPU-h1", Some(10), &[])],
        "GPU-h1: it is in use by another instance (name `memory` at both",
    );
    check(&facts, &need(3, None), &[given("GPU-h1", Some(10), &[])], "3 are asked for, and 2 of 3 can be had");
    check(&facts, &need(4, None), &[], "4 are asked for, and 3 of 3 can be had");
}

#[test]
fn memory_is_given_once_whether_it_was_taken_yet_or_not() {
    let empty = machine(&[""]);
    let half = need(1, Some(40_000));
    check(&empty, &half, &[], "GPU-h0");
    check(&empty, &half, &[given("GPU-h0", Some(40_000), &[])], "GPU-h0");
    check(
        &empty,
        &half,
        &[given("GPU-h0", Some(41_000), &[])],
        "GPU-h0: 40000 MiB are asked for, and 39995 are free of 81559 (ask for less",
    );
    check(&empty, &half, &[given("GPU-h0", None, &[])], "it is in use by another instance");
    // one that has loaded holds what it asked for, and that is not counted twice
    let mut loaded = machine(&["4=40995"]);
    loaded.processes = vec![process("GPU-h0", 7, Some(40_000))];
    check(&loaded, &half, &[given("GPU-h0", Some(40_000), &[7])], "GPU-h0");
    // nor where the driver does not say what each holds
    loaded.processes = vec![process("GPU-h0", 7, None)];
    check(&loaded, &half, &[given("GPU-h0", Some(40_000), &[7])], "GPU-h0");
    // half loaded
    loaded = machine(&["4=60995"]);
    loaded.processes = vec![process("GPU-h0", 7, Some(20_000))];
    check(
        &loaded,
        &need(1, Some(41_000)),
        &[given("GPU-h0", Some(40_000), &[7])],
        "41000 MiB are asked for, and 40995 are free",
    );
    // and one that took more than it asked for
    loaded = machine(&["4=30995"]);
    loaded.processes = vec![process("GPU-h0", 7, Some(50_000))];
    check(&loaded, &half, &[given("GPU-h0", Some(40_000), &[7])], "40000 MiB are asked for, and 30995 are free");
}

#[test]
fn the_least_room_that_does_is_taken() {
    let facts = machine(&["", "4=30000", "4=50000"]);
    check(&facts, &need(1, Some(40_000)), &[], "GPU-h2");
    check(&facts, &need(1, Some(20_000)), &[], "GPU-h1");
    check(&facts, &need(2, Some(40_000)), &[], "GPU-h2 GPU-h0");
}

#[test]
fn each_fault_is_named_with_its_remedy() {
    for (change, wanted) in [
        ("8=2", "GPU-h0: its memory has had 2 errors that could not be corrected (end its processes and reset it"),
        ("9=Yes", "GPU-h0: rows of its memory wait to be remapped (end its processes"),
        ("10=Yes", "GPU-h0: a row of its memory could not be remapped (have the GPU replaced)"),
        ("11=Reset", "GPU-h0: the driver wants it to be reset"),
        ("11=Reboot", "GPU-h0: the driver wants the machine to be restarted (restart the machine)"),
        ("11=Drain_P2P", "GPU-h0: the driver wants all traffic between GPUs to end"),
        ("11=Drain_and_Reset", "GPU-h0: the driver wants it to be emptied and reset"),
        ("12=Active", "GPU-h0: it is slowed down by its hardware (hardware slowdown)"),
        ("13=Active", "GPU-h0: it is slowed down by its hardware (thermal slowdown) (look at its cooling)"),
        ("14=Active", "GPU-h0: it is slowed down by its hardware (power brake)"),
        ("15=8", "GPU-h0: 8 of 16 PCIe lanes are in use (look at how it sits in its slot"),
        ("7=Enabled", "GPU-h0: it is cut into instances (MIG)"),
        (
            "8=[Unknown_Error]",
            "GPU-h0: it answers with an error (ecc.errors.uncorrected.volatile.total: [Unknown Error])",
        ),
    ] {
        check(&machine(&[change]), &need(1, None), &[], wanted);
        check(&machine(&[change, ""]), &need(1, None), &[], "GPU-h1");
    }
    // what older tools and other cards don't tell stands in nobody's way
    check(
        &machine(&["8=[N/A] 9=[N/A] 10=[N/A] 11=[N/A] 12=[N/A] 13=[N/A] 14=[N/A] 15=[N/A]"]),
        &need(1, None),
        &[],
        "GPU-h0",
    );
}

#[test]
fn what_is_broken_is_told_from_what_does_not_fit() {
    let is_fault = |facts: &Facts, need: &GpuNeed, given: &[Given]| match preflight(Ok(facts), need, &[], given) {
        Verdict::Refuse(reasons) => reasons.iter().any(|reason| reason.what.is_fault()),
        other => panic!("{other:?}"),
    };
    assert!(is_fault(&machine(&["8=1"]), &need(1, None), &[]));
    assert!(is_fault(&machine(&["11=Reset"]), &need(1, None), &[]));
    assert!(!is_fault(&machine(&[""]), &need(2, None), &[]));
    assert!(!is_fault(&machine(&[""]), &need(1, Some(90_000)), &[]));
    assert!(!is_fault(&machine(&[""]), &need(1, None), &[given("GPU-h0", None, &[])]));
    let dead = SmiFault::Driver { said: "x".into() };
    let verdict = preflight(Err(&dead), &need(1, None), &[], &[]);
    assert!(told(&verdict).contains("the NVIDIA driver does not answer: x (load the driver"), "{verdict:?}");
    assert!(matches!(verdict, Verdict::Refuse(reasons) if reasons[0].what.is_fault()));
}

#[test]
fn a_stranger_on_a_gpu_is_named() {
    let mut facts = machine(&["", ""]);
    facts.processes = vec![process("GPU-h0", 99, Some(3021))];
    check(&facts, &need(1, None), &[], "GPU-h1");
    check(
        &facts,
        &need(2, None),
        &[],
        "GPU-h0: process 99 (`python3`), which Segue did not start, holds 3021 MiB of it (end it",
    );
    check(&facts, &need(2, None), &[given("GPU-h9", None, &[99])], "GPU-h0 GPU-h1");
}

#[test]
fn what_the_service_and_its_image_ask_of_the_machine_must_be_there() {
    let facts = machine(&["", "6=8.0"]);
    let with = |cuda: Option<&str>, capability: Option<&str>, count| GpuNeed {
        cuda: cuda.map(Into::into),
        capability: capability.map(Into::into),
        ..GpuNeed::whole(count)
    };
    check(&facts, &with(Some("13.1"), None, 1), &[], "CUDA 13.1 is asked for, and the driver supports 13.0 (update");
    check(&facts, &with(Some("13.0"), None, 1), &[], "GPU-h0");
    check(&facts, &with(None, Some("9.0"), 1), &[], "GPU-h0");
    check(&facts, &with(None, Some("9.0"), 2), &[], "GPU-h1: compute capability 9.0 is asked for, and it has 8.0");
    let unknown = Facts { cuda: None, ..facts.clone() };
    check(&unknown, &with(Some("12.0"), None, 1), &[], "the driver supports an unknown one");
    let images = [requirement("cuda>=13.5").unwrap(), requirement("arch>=8.0").unwrap()];
    let found = told(&preflight(Ok(&facts), &need(1, None), &images, &[]));
    assert!(found.contains("GPU-h0: the image requires `cuda>=13.5` (update the NVIDIA driver"), "{found}");
}

#[test]
fn what_fits_only_once_the_old_has_gone_is_said_openly() {
    let mut facts = machine(&["4=20995"]);
    facts.processes = vec![process("GPU-h0", 7, Some(60_000))];
    let old = Given { is_replaced: true, ..given("GPU-h0", Some(60_000), &[7]) };
    check(
        &facts,
        &need(1, Some(60_000)),
        std::slice::from_ref(&old),
        "recreate on GPU-h0: GPU-h0: 60000 MiB are asked for, and 20995 are free",
    );
    check(&facts, &need(1, Some(20_000)), std::slice::from_ref(&old), "GPU-h0");
    check(
        &facts,
        &need(1, None),
        &[Given { memory_mib: None, ..old.clone() }],
        "recreate on GPU-h0: GPU-h0: it is in use",
    );
    // another's is not let go
    let other = given("GPU-h0", Some(10_000), &[]);
    let verdict = preflight(Ok(&facts), &need(1, Some(75_000)), &[], &[old, other]);
    assert!(matches!(verdict, Verdict::Refuse(_)), "{verdict:?}");
}

#[test]
fn a_worker_offers_what_was_chosen_and_is_sound() {
    let facts = machine(&["", "8=1", "7=Enabled", "4=0"]);
    let told = |chosen: &[&str]| {
        let chosen: Vec<String> = chosen.iter().map(|&one| one.into()).collect();
        let (gpus, reasons) = offered(&facts, &chosen);
        let uuids: Vec<String> = gpus.iter().map(|gpu| format!("{} {}", gpu.uuid, gpu.memory_mib)).collect();
        (uuids, reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    };
    let (uuids, why) = told(&["all"]);
    assert_eq!(uuids, ["GPU-h0 81559", "GPU-h3 81559"]);
    assert!(why.contains("GPU-h1: its memory has had 1 errors") && why.contains("GPU-h2: it is cut into"), "{why}");
    assert_eq!(told(&["GPU-h3"]), (vec!["GPU-h3 81559".to_owned()], String::new()));
    let (uuids, why) = told(&["GPU-h0", "GPU-h9"]);
    assert_eq!(uuids, ["GPU-h0 81559"]);
    assert!(why.contains("GPU-h9: the driver does not know it (write a UUID"), "{why}");
    assert_eq!(told(&[]), (vec![], String::new()));
}
