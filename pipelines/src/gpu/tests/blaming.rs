use std::collections::BTreeMap;

use super::machine;
use crate::gpu::{Blame, Exported, Facts, SmiFault, findings, of_log_line, xid};

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
    let read = |line: &str| of_log_line(line).map(|(address, xid)| (address, xid.code, xid.blame));
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

fn told(exported: &[(&str, u32)]) -> BTreeMap<String, Exported> {
    let one = |xid| Exported { last_xid: Some(xid), ..Exported::default() };
    exported.iter().map(|(uuid, xid)| ((*uuid).to_owned(), one(*xid))).collect()
}

#[test]
fn what_changed_while_a_release_was_watched_is_found() {
    let used = ["GPU-h0".to_owned()];
    let nothing = BTreeMap::new();
    for (before, now, wanted) in [
        ("8=1", "8=3", "errors of its memory that could not be corrected rose from 1 to 3"),
        ("", "10=Yes", "a row of its memory could not be remapped"),
        ("11=None", "11=Reboot", "the driver wants the machine to be restarted"),
        ("", "13=Active", "it is slowed down by its hardware (thermal slowdown)"),
        ("", "4=[GPU_requires_reset]", "it answers with an error (memory.free: [GPU requires reset])"),
    ] {
        let (before, now) = (machine(&[before, ""]), machine(&[now, ""]));
        let found = findings(&before, Ok(&now), (&nothing, &nothing), &used);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].what.as_str(), found[0].blame), (wanted, Blame::Host));
        assert!(findings(&now, Ok(&now), (&nothing, &nothing), &used).is_empty(), "what was before is no news");
        assert!(findings(&before, Ok(&now), (&nothing, &nothing), &["GPU-h1".into()]).is_empty(), "another's GPU");
    }
    let gone = findings(&machine(&[""]), Ok(&Facts::default()), (&nothing, &nothing), &used);
    assert!(gone[0].what.contains("does not see it any more") && gone[0].blame == Blame::Host);
    let dead = SmiFault::Lost { said: "x".into() };
    let found = findings(&machine(&[""]), Err(&dead), (&nothing, &nothing), &used);
    assert!(found[0].gpu.is_none() && found[0].blame == Blame::Host);
}

#[test]
fn a_new_xid_is_blamed_by_its_number_and_an_old_one_on_nobody() {
    let (used, facts) = (["GPU-h0".to_owned()], machine(&[""]));
    let found = |before: &[(&str, u32)], now: &[(&str, u32)]| {
        let found = findings(&facts, Ok(&facts), (&told(before), &told(now)), &used);
        found.into_iter().map(|found| (found.what, found.blame)).collect::<Vec<_>>()
    };
    let page_fault = "the driver reported Xid 31 (GPU memory page fault)".to_owned();
    assert_eq!(found(&[], &[("GPU-h0", 31)]), [(page_fault, Blame::Release)]);
    assert_eq!(found(&[("GPU-h0", 31)], &[("GPU-h0", 79)])[0].1, Blame::Host);
    assert!(found(&[("GPU-h0", 31)], &[("GPU-h0", 31)]).is_empty());
    assert!(found(&[], &[("GPU-h1", 79)]).is_empty());
}
