use std::time::Duration;

use crate::gpu::{Next, Sight, Told, pause_after_remake, told};

const GIVEN: &str = "GPU-edb26e28-1a4b-7a1c-9b1e-3b1e3c6f0a11";

/// What the real tool prints: `-L` on machines as in NVIDIA's own documents (MIG user guide, "nvidia-smi -L"), and what containers print that lost
/// theirs (<https://github.com/NVIDIA/nvidia-container-toolkit/issues/48>); what engines answer where there is no such program.
#[test]
fn what_a_container_says_is_that_it_sees_them_or_not_or_nothing() {
    let listed = format!("GPU 0: NVIDIA A100-SXM4-40GB (UUID: {GIVEN})\n");
    let cut = format!("{listed}  MIG 3g.20gb     Device  0: (UUID: MIG-c7384736-a75d-5afc-978f-d2f1294409fd)\n");
    let other = "GPU 0: Tesla T4 (UUID: GPU-0beba7f0-2d5f-4c5f-a5a5-ef5b1b6e1c11)\n";
    let lost = |said: &str| Told::Lost(said.to_owned());
    for (code, said, means) in [
        (0, listed.as_str(), Told::Sees),
        (0, &cut, Told::Sees),
        (0, &format!("{other}{listed}"), Told::Sees),
        (0, other, lost(&format!("it does not list {GIVEN}"))),
        (255, "Failed to initialize NVML: Unknown Error\n", lost("Failed to initialize NVML: Unknown Error")),
        // some versions end well all the same
        (0, "No devices found.\n", lost("No devices found.")),
        (6, "No devices were found\n", lost("No devices were found")),
        (9, "Failed to initialize NVML: Driver Not Loaded\n", lost("Failed to initialize NVML: Driver Not Loaded")),
        (
            18,
            "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.95\n",
            lost("Failed to initialize NVML: Driver/library version mismatch NVML library version: 580.95"),
        ),
        (
            12,
            "NVIDIA-SMI couldn't find libnvidia-ml.so library in your system. Please make sure that the NVIDIA Display Driver is properly installed and present in your system.\n",
            Told::Nothing,
        ),
        (
            126,
            "OCI runtime exec failed: exec failed: unable to start container process: exec: \"nvidia-smi\": executable file not found in $PATH: unknown\r\n",
            Told::Nothing,
        ),
        (127, "", Told::Nothing),
        (137, "", Told::Nothing),
        (0, "", Told::Nothing),
        (0, "hello\n", Told::Nothing),
    ] {
        assert_eq!(told(code, said, &[GIVEN.to_owned()]), means, "{code} {said}");
    }
    assert_eq!(told(255, "Failed to initialize NVML: Unknown Error", &[]), Told::Nothing, "it was given none");
}

#[test]
fn a_container_is_made_anew_that_has_lost_twice_what_it_saw_and_its_machine_sees() {
    let lost = || Told::Lost("gone".into());
    let remake = || Next::Remake("gone".into());
    let never = || Next::Never("gone".into());
    for (name, had_seen, looks) in [
        ("it sees them", false, vec![(Told::Sees, true, Next::Wait), (Told::Sees, true, Next::Wait)]),
        (
            "lost for good",
            true,
            vec![(lost(), true, Next::LookAgain), (lost(), true, remake()), (lost(), true, remake())],
        ),
        (
            "lost for a moment",
            true,
            vec![(lost(), true, Next::LookAgain), (Told::Sees, true, Next::Wait), (lost(), true, Next::LookAgain)],
        ),
        (
            "the machine's fault, then its own",
            true,
            vec![(lost(), true, Next::LookAgain), (lost(), false, Next::Wait), (lost(), true, Next::LookAgain)],
        ),
        (
            "it never saw them: a new one would not either",
            false,
            vec![(lost(), true, Next::LookAgain), (lost(), true, never()), (lost(), true, Next::Wait)],
        ),
        (
            "seen at last, then lost",
            false,
            vec![
                (lost(), true, Next::LookAgain),
                (Told::Sees, true, Next::Wait),
                (lost(), true, Next::LookAgain),
                (lost(), true, remake()),
            ],
        ),
        ("nobody says anything", false, vec![(Told::Nothing, true, Next::Wait), (Told::Nothing, true, Next::Wait)]),
    ] {
        let mut sight = Sight::of(had_seen);
        for (number, (told, on_host, next)) in looks.into_iter().enumerate() {
            assert_eq!(sight.look(told, on_host), next, "{name}: look {number}");
        }
    }
}

#[test]
fn the_same_one_is_made_anew_less_and_less_often() {
    for (times, minutes) in [(0, 0), (1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (u32::MAX, 60)] {
        assert_eq!(pause_after_remake(times), Duration::from_secs(minutes * 60), "{times} times");
    }
}
