use std::collections::BTreeSet;

use segue_schemas::{
    gpu_health::{GpuReport, GpuXid, XidSource},
    id::InstanceId,
    time::Timestamp,
};

use super::machine;
use crate::gpu::{
    Baseline, Blame, Facts, Finding, SmiFault, faults, findings, in_common, kernel_record, of_log_line, pci_address,
    xid,
};

/// DESIGN: a fault of a host quarantines it, one of the canary alone counts against the release.
#[test]
fn faults_are_blamed_by_their_number() {
    for (codes, wanted) in [
        (&[46, 48, 62, 64, 74, 79, 95, 109, 119, 120, 136, 140, 143, 158][..], Blame::Host),
        (&[8, 13, 31, 43, 69], Blame::Release),
        (&[32, 45, 63, 92, 94, 137, 154, 1, 999], Blame::Look),
    ] {
        for code in codes {
            assert_eq!(xid(*code).blame, wanted, "Xid {code}");
        }
    }
    assert_eq!(xid(79).meaning, "GPU has fallen off the bus");
}

/// Lines as the kernel's log has them (NVIDIA's "Xid Errors", and as others recorded them).
#[test]
fn lines_of_the_kernels_log_are_read() {
    let read = |line: &str| of_log_line(line).map(|logged| (logged.address, logged.xid.code, logged.xid.blame));
    for (line, wanted) in [
        (
            "[  966.503025] NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
            Some(("0000:3b:00", 79, Blame::Host)),
        ),
        (
            "NVRM: Xid (0000:01:00): 31, Ch 0000000b, engmask 00000120, intr 10000000",
            Some(("0000:01:00", 31, Blame::Release)),
        ),
        (
            "NVRM: Xid (PCI:0000:10:1c): 63, pid=1896, Row Remapper: New row marked for remapping, reset gpu to activate.",
            Some(("0000:10:1c", 63, Blame::Look)),
        ),
        (
            "NVRM: Xid (PCI:0000:10:1c): 154, GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)",
            Some(("0000:10:1c", 154, Blame::Host)),
        ),
        (
            "NVRM: Xid (PCI:0000:10:1c): 154, GPU recovery action changed from 0x2 (Node Reboot Required) to 0x0 (None)",
            Some(("0000:10:1c", 154, Blame::Look)),
        ),
        ("NVRM: GPU at PCI:0000:01:00: GPU-bc0fa0b9-cac2-f507-b715-9bebdb69c71e", None),
        ("NVRM: Xid (PCI:0000:01:00): , x", None),
        ("NVRM: Xid (PCI:0000:01:00): 99999999999, x", None),
    ] {
        let wanted = wanted.map(|(address, code, blame)| (address.to_owned(), code, blame));
        assert_eq!(read(line), wanted, "{line}");
    }
}

#[test]
fn the_process_of_an_xid_is_read_where_the_driver_names_one() {
    for (line, wanted) in [
        ("NVRM: Xid (PCI:0000:3b:00): 31, pid=1896, name=python3, Ch 00000008, intr 00000000. MMU Fault", Some(1896)),
        ("NVRM: Xid (PCI:0000:3b:00): 13, pid='1896', name=python3, Graphics Exception", Some(1896)),
        ("NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.", None),
        ("NVRM: Xid (0000:01:00): 31, Ch 0000000b, engmask 00000120, intr 10000000", None),
    ] {
        assert_eq!(of_log_line(line).unwrap().pid, wanted, "{line}");
    }
}

#[test]
fn only_what_the_kernel_wrote_itself_is_read() {
    let xid = "NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>'";
    assert_eq!(kernel_record(&format!("3,812,9035,-;{xid}\n SUBSYSTEM=pci\n")), Some((812, 9035, xid)));
    assert_eq!(kernel_record(&format!("4,812,9035,c,caller=T1;{xid}")), Some((812, 9035, xid)));
    assert_eq!(kernel_record(&format!("12,812,9035,-;{xid}")), None, "facility 1: a program wrote it");
    assert_eq!(kernel_record(xid), None);
    assert_eq!(pci_address("PCI:0000:3b:00"), Some((0, 0x3b, 0)));
    assert_eq!(pci_address("00000000:3B:00.0"), pci_address("0000:3b:00"));
    assert_eq!(pci_address("<unknown>"), None);
}

#[test]
fn what_is_wrong_now_is_told_with_whom_it_is_blamed_on() {
    let all = ["all".to_owned()];
    let known: BTreeSet<String> = ["GPU-h0".to_owned()].into();
    for (now, wanted, blame) in [
        ("8=3", "its memory has had 3 errors that could not be corrected", Blame::Host),
        ("10=Yes", "a row of its memory could not be remapped", Blame::Host),
        ("9=Yes", "rows of its memory wait to be remapped", Blame::Look),
        ("11=Reboot", "the driver wants the machine to be restarted", Blame::Host),
        ("13=Active", "it is slowed down by its hardware (thermal slowdown)", Blame::Look),
        ("4=[GPU_requires_reset]", "it answers with an error (memory.free: [GPU requires reset])", Blame::Host),
    ] {
        let found = faults(Ok(&machine(&[now])), &all, &known);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].what.as_str(), found[0].blame), (wanted, blame));
        assert!(faults(Ok(&machine(&[now])), &["GPU-h1".into()], &known).is_empty(), "it is not offered");
    }
    assert!(faults(Ok(&machine(&[""])), &all, &known).is_empty());
    let gone = faults(Ok(&Facts::default()), &all, &known);
    assert!(gone[0].what.contains("does not see it any more") && gone[0].blame == Blame::Host);
    for (fault, blame) in [
        (SmiFault::Lost { said: "x".into() }, Blame::Host),
        (SmiFault::Hangs { seconds: 30 }, Blame::Host),
        (SmiFault::NoTool { program: "x".into() }, Blame::Look),
    ] {
        let found = faults(Err(&fault), &all, &known);
        assert!(found[0].gpu.is_none() && found[0].blame == blame, "{found:?}");
    }
}

/// A host whose instance `new` has GPU-h0 and `old` GPU-h1; `shared` is given both releases.
fn report(cells: &[&str], xids: &[(u32, &[&str])]) -> GpuReport {
    let instance = |name: &&str| name.parse::<InstanceId>().unwrap();
    let told = |(at, (code, names)): (usize, &(u32, &[&str]))| GpuXid {
        number: at as u64 + 1,
        at: Timestamp(0),
        gpu: "GPU-h0".into(),
        code: *code,
        meaning: xid(*code).meaning.into(),
        blame: xid(*code).blame,
        source: XidSource::Kernel,
        pid: None,
        instances: names.iter().map(instance).collect(),
    };
    GpuReport {
        faults: faults(Ok(&machine(cells)), &["all".into()], &BTreeSet::new()),
        xids: xids.iter().enumerate().map(told).collect(),
        given: [("new", "GPU-h0"), ("old", "GPU-h1"), ("another", "GPU-h2")]
            .map(|(name, gpu)| (instance(&name), vec![gpu.to_owned()]))
            .into(),
        ..GpuReport::default()
    }
}

fn found(before: &GpuReport, now: &GpuReport) -> Vec<Finding> {
    let one = |name: &str| BTreeSet::from([name.parse::<InstanceId>().unwrap()]);
    let (new, former) = (one("new"), one("old"));
    findings(&Baseline::of(before), now, (&new, &former), &in_common(now, &former))
}

#[test]
fn what_was_wrong_before_is_no_news_and_what_grew_is() {
    let sound = report(&["", "", ""], &[]);
    let one = |before: &[&str], now: &[&str]| {
        let found = found(&report(before, &[]), &report(now, &[]));
        found.first().map(|found| (found.blame, found.count))
    };
    assert_eq!(one(&["8=1", "", ""], &["8=3", "", ""]), Some((Blame::Host, Some((1, 3)))));
    assert_eq!(one(&["8=3", "", ""], &["8=3", "", ""]), None, "it was so before");
    assert_eq!(one(&["", "", ""], &["", "8=1", ""]), Some((Blame::Host, Some((0, 1)))), "under the former release");
    assert_eq!(one(&["", "", ""], &["", "", "8=1"]), None, "nobody of this rollout has that GPU");
    assert_eq!(one(&["13=Active", "", ""], &["11=Reset", "", ""]), Some((Blame::Host, Some((0, 1)))));
    let dead = GpuReport {
        faults: faults(Err(&SmiFault::Lost { said: "x".into() }), &["all".into()], &BTreeSet::new()),
        ..report(&["", "", ""], &[])
    };
    assert_eq!(found(&sound, &dead)[0].blame, Blame::Host, "all of them");

    let mut known = Baseline::of(&report(&["8=1", "", ""], &[(31, &["new"])]));
    known.go_on_to(&report(&["", "13=Active", ""], &[]));
    assert_eq!((known.last_xid, known.faults.len()), (1, 2), "what has been is not forgotten");
}

#[test]
fn an_xid_is_blamed_on_the_release_only_where_it_alone_has_it() {
    let sound = report(&["", "", ""], &[]);
    let one = |before: &[(u32, &[&str])], now: &[(u32, &[&str])]| {
        let before = report(&["", "", ""], before);
        let found = found(&before, &report(&["", "", ""], now));
        found.last().map(|found| (found.blame, found.why_not.clone().unwrap_or_default()))
    };
    let blamed = |blame| Some((blame, String::new()));
    assert_eq!(one(&[], &[(31, &["new"])]), blamed(Blame::Release));
    assert_eq!(one(&[(31, &["new"])], &[(31, &["new"])]), None, "from before");
    assert_eq!(one(&[(31, &["new"])], &[(31, &["new"]), (31, &["new"])]), blamed(Blame::Release), "once more");
    assert_eq!(one(&[], &[(79, &["new"])]), blamed(Blame::Host));
    assert_eq!(one(&[], &[(79, &["old"])]), blamed(Blame::Host));
    assert_eq!(one(&[], &[(45, &["new"])]), blamed(Blame::Look));
    assert_eq!(one(&[], &[(31, &[])]), None, "nobody's");
    assert_eq!(one(&[], &[(31, &["another"])]), None);
    for (before, now, wanted) in [
        (&[][..], &[(31, &["old"][..])][..], "it struck the former release"),
        (&[], &[(31, &["new", "old"])], "both releases have that GPU"),
        (&[], &[(31, &["old"]), (31, &["new"])], "the former release has had it as well"),
        (&[(31, &["old"][..])], &[(31, &["old"][..]), (31, &["new"])], "the former release has had it as well"),
    ] {
        let (blame, why) = one(before, now).unwrap();
        assert!(blame == Blame::Look && why.contains(wanted), "{blame:?}: {why}");
    }
    let words = found(&sound, &report(&["", "", ""], &[(31, &["new"])]))[0].in_words();
    assert_eq!(words, "GPU-h0: the driver reported Xid 31 (GPU memory page fault) under instance new");
}
