//! What a container engine, and a container made to look at all GPUs of its machine, say where `nvidia-smi` is not run on the machine itself.

use super::smi::{SmiFault, shortened};

/// Why an engine started no container with GPUs, by its words: its own, and those of NVIDIA's Container Toolkit, which it hands on. What speaks of
/// neither says nothing of GPUs. What the toolkit can't bring into a container is the image's doing, and none of the driver's.
/// <https://github.com/moby/moby/blob/master/daemon/devices.go>, <https://github.com/NVIDIA/libnvidia-container/blob/main/src/nvc.c>
#[must_use]
pub fn not_started(said: &str) -> SmiFault {
    let kept = from_the_cause(said);
    let has = |parts: &[&str]| parts.iter().any(|part| said.to_ascii_lowercase().contains(part));
    if has(&[
        "could not select device driver",
        "unresolvable cdi devices",
        "nvidia-container-runtime-hook\": executable",
    ]) {
        SmiFault::NoToolkit { said: kept }
    } else if has(&["driver/library version mismatch"]) {
        SmiFault::Mismatch { said: kept }
    } else if has(&["gpu is lost"]) {
        SmiFault::Lost { said: kept }
    } else if has(&["nvidia-container-cli: mount error", "nvidia-container-cli: ldcache error"]) {
        SmiFault::NoToolInside { said: kept }
    } else if has(&["nvidia-container-cli", "nvidia-container-runtime", "nvidia-cdi-hook", "nvml", "libnvidia-ml"]) {
        SmiFault::Driver { said: kept }
    } else if has(&["executable file not found", "no such file or directory", "exec format error"]) {
        SmiFault::NoToolInside { said: kept }
    } else {
        SmiFault::Unasked { said: kept }
    }
}

/// Why the tool could not be run in a container that looks, by its exit code and what was said; `None`: it was, and what it said is its own.
#[must_use]
pub fn not_run(code: i64, said: &str) -> Option<SmiFault> {
    let says = |part: &str| said.to_ascii_lowercase().contains(part);
    // engines and shells answer so where there is no program, or nothing that loads it
    let is_absent = matches!(code, 126 | 127) || says("oci runtime exec failed");
    let is_without_library = says("couldn't find libnvidia-ml") || says("could not find libnvidia");
    (is_absent || is_without_library).then(|| SmiFault::NoToolInside { said: from_the_cause(said) })
}

/// The end of what was said, which begins with who called whom.
fn from_the_cause(said: &str) -> String {
    let begins = ["could not select device driver", "nvidia-container-cli:", "unresolvable CDI devices", "exec:"];
    let cause = begins.iter().find_map(|begin| said.find(begin)).and_then(|at| said.get(at..)).unwrap_or(said);
    shortened(cause.trim_end_matches(['\n', '\r', ' ']).trim_end_matches(": unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Docker and NVIDIA's toolkit say, as people have reported it: moby/moby#41136, NVIDIA/nvidia-docker#1629 and #1252,
    /// NVIDIA/nvidia-container-toolkit#230, NVIDIA/k8s-device-plugin#1002.
    #[test]
    fn why_an_engine_starts_nothing_with_gpus_is_told_apart() {
        let hook = "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: unable to \
                    start container process: error during container init: error running hook #0: error running hook: exit status 1, stdout: , \
                    stderr: Auto-detected mode as 'legacy'\n";
        let hooked = |said: &str| format!("{hook}nvidia-container-cli: {said}: unknown");
        for (said, fault) in [
            (
                "could not select device driver \"nvidia\" with capabilities: [[gpu utility]]".to_owned(),
                SmiFault::NoToolkit {
                    said: "could not select device driver \"nvidia\" with capabilities: [[gpu utility]]".into(),
                },
            ),
            (
                "failed to inject CDI devices: unresolvable CDI devices nvidia.com/gpu=all".into(),
                SmiFault::NoToolkit { said: "unresolvable CDI devices nvidia.com/gpu=all".into() },
            ),
            (
                hooked("initialization error: nvml error: driver not loaded"),
                SmiFault::Driver {
                    said: "nvidia-container-cli: initialization error: nvml error: driver not loaded".into(),
                },
            ),
            (
                hooked("initialization error: driver rpc error: failed to process request"),
                SmiFault::Driver {
                    said: "nvidia-container-cli: initialization error: driver rpc error: failed to process request"
                        .into(),
                },
            ),
            (
                hooked("initialization error: nvml error: driver/library version mismatch"),
                SmiFault::Mismatch {
                    said: "nvidia-container-cli: initialization error: nvml error: driver/library version mismatch"
                        .into(),
                },
            ),
            (
                hooked("detection error: nvml error: gpu is lost"),
                SmiFault::Lost { said: "nvidia-container-cli: detection error: nvml error: gpu is lost".into() },
            ),
            (
                hooked("mount error: file creation failed: /var/lib/docker/overlay2/x/merged/usr/bin/nvidia-smi: read-only file system"),
                SmiFault::NoToolInside {
                    said: "nvidia-container-cli: mount error: file creation failed: /var/lib/docker/overlay2/x/merged/usr/bin/nvidia-smi: \
                           read-only file system"
                        .into(),
                },
            ),
            (
                hooked("ldcache error: process /sbin/ldconfig failed with error code: 127"),
                SmiFault::NoToolInside {
                    said: "nvidia-container-cli: ldcache error: process /sbin/ldconfig failed with error code: 127".into(),
                },
            ),
            (
                "OCI runtime create failed: runc create failed: unable to start container process: exec: \"sleep\": executable file not \
                 found in $PATH: unknown"
                    .into(),
                SmiFault::NoToolInside { said: "exec: \"sleep\": executable file not found in $PATH".into() },
            ),
            (
                "mkdir /var/lib/docker/overlay2/x: no space left on device".into(),
                SmiFault::Unasked { said: "mkdir /var/lib/docker/overlay2/x: no space left on device".into() },
            ),
        ] {
            assert_eq!(not_started(&said), fault, "{said}");
        }
    }

    #[test]
    fn a_tool_that_could_not_be_run_is_told_from_one_that_has_bad_news() {
        for (code, said, is_absent) in [
            (
                127,
                "OCI runtime exec failed: exec failed: unable to start container process: exec: \"nvidia-smi\": executable file not found in \
                 $PATH: unknown\r\n",
                true,
            ),
            (126, "", true),
            (12, "NVIDIA-SMI couldn't find libnvidia-ml.so library in your system.", true),
            (9, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", false),
            (255, "Failed to initialize NVML: Unknown Error", false),
            (2, "Field \"x\" is not a valid field to query.", false),
            (0, "", false),
        ] {
            assert_eq!(not_run(code, said).is_some(), is_absent, "{code} {said}");
        }
    }
}
