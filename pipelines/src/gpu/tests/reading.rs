use super::{H100, machine};
use crate::gpu::{
    Facts, Gpu, Query, Recovery, SmiFault, Throttle, Version, add_details, exported, fault, processes, requirement,
};

#[test]
fn a_healthy_gpu_is_read() {
    let facts = Query::default().read(H100).unwrap();
    assert_eq!(facts.driver, "580.126.09".parse().ok());
    let gpu = &facts.gpus[0];
    assert_eq!((gpu.uuid.as_str(), gpu.name.as_str(), gpu.index), ("GPU-h0", "NVIDIA H100 80GB HBM3", Some(0)));
    assert_eq!((gpu.memory_total_mib, gpu.memory_free_mib), (Some(81_559), Some(80_995)));
    assert_eq!(gpu.capability, "9.0".parse().ok());
    assert_eq!((gpu.uncorrected_ecc, gpu.remap_pending, gpu.remap_failed), (Some(0), Some(false), Some(false)));
    assert_eq!((gpu.recovery, gpu.pcie_width, gpu.pcie_width_max), (Some(Recovery::None), Some(16), Some(16)));
    assert!(gpu.throttled.is_empty() && gpu.errors.is_empty() && !gpu.has_mig);
}

/// A card of a desk has no ECC and no remapping of rows; `[N/A]` is what the driver 466 prints (utkuozdemir/nvidia_gpu_exporter,
/// `internal/exporter/testdata/query.txt`), `[Not Supported]` what those before it did.
#[test]
fn what_a_gpu_does_not_have_is_unknown_and_no_fault() {
    let line = "GPU-df6e7a7c-7314-46f8-abc4-b88b36dcf3aa, NVIDIA GeForce RTX 2080 SUPER, 466.63, 8192, 7617, 0, 7.5, [N/A], [N/A], \
                [N/A], [Not Supported], N/A, Not Active, Active, Not Active, 16, 16, 00000000:01:00.0";
    let facts = Query::default().read(line).unwrap();
    let gpu = &facts.gpus[0];
    assert_eq!((gpu.uncorrected_ecc, gpu.remap_pending, gpu.remap_failed, gpu.recovery), (None, None, None, None));
    assert_eq!(gpu.throttled, [Throttle::Thermal]);
    assert!(gpu.errors.is_empty(), "{:?}", gpu.errors);
}

/// A GPU that has failed still has a line: `[Unknown Error]`, `ERR!` in the place of values; `[GPU requires reset]` after an Xid
/// (nvidia-smi's manual, "GPU Reset Status"; <https://forums.developer.nvidia.com>, "Unknown Error").
#[test]
fn what_a_gpu_answers_with_an_error_is_kept() {
    let facts = machine(&["8=[Unknown_Error] 4=ERR!", "4=[GPU_requires_reset] 12=[GPU_is_lost]"]);
    assert_eq!(facts.gpus[0].errors, ["memory.free: ERR!", "ecc.errors.uncorrected.volatile.total: [Unknown Error]"]);
    assert_eq!(
        facts.gpus[1].errors,
        ["memory.free: [GPU requires reset]", "clocks_event_reasons.hw_slowdown: [GPU is lost]"]
    );
}

/// `Field "x" is not a valid field to query.`, exit code 2, one field at a time.
#[test]
fn an_older_tool_is_asked_by_older_names_and_for_less() {
    let known_to_450 = |name: &str| {
        !name.starts_with("clocks_event") && !name.starts_with("remapped") && name != "gpu_recovery_action"
    };
    let mut query = Query::default();
    let mut tries = 0;
    loop {
        tries += 1;
        assert!(tries < Query::most_tries(), "it ends");
        let arguments = query.arguments();
        let names = arguments[0].strip_prefix("--query-gpu=").unwrap();
        let Some(refused) = names.split(',').find(|name| !known_to_450(name)) else { break };
        query = query.after(&format!("Field \"{refused}\" is not a valid field to query.\n")).unwrap();
    }
    let line = "GPU-a, Tesla T4, 450.80.02, 15109, 15106, 0, 7.5, [N/A], 0, Active, Not Active, Not Active, 8, 16, 00000000:00:04.0";
    let gpu = query.read(line).unwrap().gpus.remove(0);
    assert_eq!((gpu.uncorrected_ecc, gpu.throttled, gpu.pcie_width), (Some(0), vec![Throttle::Slowdown], Some(8)));
    assert_eq!(
        query.after("Field \"memory.free\" is not a valid field to query."),
        None,
        "nothing can be said without"
    );
    assert_eq!(query.after("No devices were found"), None);
}

#[test]
fn what_the_tool_says_when_it_fails_is_told_apart() {
    let driver = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA \
                  driver is installed and running.";
    let mismatch = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.173";
    let lost = "Unable to determine the device handle for GPU0000:CB:00.0: Unknown Error";
    for (code, said, wanted) in [
        (9, driver, "the NVIDIA driver does not answer: NVIDIA-SMI has failed"),
        (
            18,
            mismatch,
            "of different versions: Failed to initialize NVML: Driver/library version mismatch NVML library version: 580.173",
        ),
        (6, "No devices were found", "the driver finds no GPU"),
        (255, lost, "a GPU can't be reached any more: Unable to determine"),
        (15, "", "a GPU can't be reached any more: nothing"),
        (12, "NVIDIA-SMI couldn't find libnvidia-ml.so library in your system.", "the NVIDIA driver does not answer"),
        (1, "Segmentation fault", "can't be read: Segmentation fault"),
    ] {
        let fault = fault(code, said);
        assert!(fault.to_string().contains(wanted), "{said}: {fault}");
        assert!(!fault.remedy().is_empty());
    }
    // said with exit code 0, in the place of lines
    assert_eq!(Query::default().read("No devices were found\n"), Err(SmiFault::NoDevices));
    assert_eq!(Query::default().read(""), Err(SmiFault::NoDevices));
    assert!(matches!(Query::default().read(lost), Err(SmiFault::Lost { .. })));
    assert!(fault(1, &"x ".repeat(5000)).to_string().len() < 500, "a message is no log");
}

/// Without rights the memory of another user's process is not told.
#[test]
fn processes_are_read_with_commas_in_their_names() {
    let said = "GPU-h0, 4021, 3021, python3 -m vllm, --model a,b\n\
                GPU-h0, 77, [Insufficient Permissions], [Not Found]\n\
                GPU-h1, 78, [N/A], /usr/bin/ollama\n\
                MIG-7, 79, 5, x\nNo running processes found\n";
    let told: Vec<_> = processes(said).into_iter().map(|p| (p.uuid, p.pid, p.memory_mib, p.name)).collect();
    let wanted = [
        ("GPU-h0", 4021, Some(3021), "python3 -m vllm, --model a,b"),
        ("GPU-h0", 77, None, "[Not Found]"),
        ("GPU-h1", 78, None, "/usr/bin/ollama"),
    ];
    assert_eq!(told, wanted.map(|(uuid, pid, mib, name)| (uuid.to_owned(), pid, mib, name.to_owned())));
}

/// Cut from influxdata/telegraf, `plugins/inputs/nvidia_smi/testdata/a100-sxm4-v12.xml`: driver 535, an A100 with MIG.
const A100_XML: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">
<nvidia_smi_log>
    <timestamp>Fri Aug  4 11:44:30 2023</timestamp>
    <driver_version>535.54.03</driver_version>
    <cuda_version>12.2</cuda_version>
    <attached_gpus>4</attached_gpus>
    <gpu id="00000000:01:00.0">
        <product_name>NVIDIA A100-SXM4-80GB</product_name>
        <product_brand>NVIDIA</product_brand>
        <uuid>GPU-513536b6-7d19-9063-b049-1e69664bb298</uuid>
        <gpu_reset_status>
            <reset_required>No</reset_required>
            <drain_and_reset_recommended>No</drain_and_reset_recommended>
        </gpu_reset_status>
        <remapped_rows>N/A</remapped_rows>
    </gpu>
</nvidia_smi_log>"#;

/// The same elements as newer drivers have them (575: `<gpu_recovery_action>`, `Requested functionality has been deprecated`).
const NEWER_XML: &str = r#"<nvidia_smi_log><driver_version>575.51.02</driver_version><cuda_version>12.9</cuda_version>
    <gpu id="0"><product_brand>Quadro RTX</product_brand><uuid>GPU-a</uuid>
    <gpu_reset_status><reset_required>Requested functionality has been deprecated</reset_required></gpu_reset_status>
    <gpu_recovery_action>Drain and Reset</gpu_recovery_action>
    <remapped_rows><remapped_row_corr>0</remapped_row_corr><remapped_row_unc>1</remapped_row_unc>
    <remapped_row_pending>Yes</remapped_row_pending><remapped_row_failure>No</remapped_row_failure></remapped_rows></gpu>
    <gpu id="1"><uuid>GPU-unknown</uuid></gpu></nvidia_smi_log>"#;

fn with_gpu(uuid: &str) -> Facts {
    Facts { gpus: vec![Gpu { uuid: uuid.into(), ..Gpu::default() }], ..Facts::default() }
}

#[test]
fn what_stands_in_the_long_answer_alone_is_added() {
    let mut facts = with_gpu("GPU-513536b6-7d19-9063-b049-1e69664bb298");
    add_details(&mut facts, A100_XML);
    assert_eq!((facts.cuda.clone(), facts.driver.clone()), ("12.2".parse().ok(), "535.54.03".parse().ok()));
    assert_eq!((facts.gpus[0].brand.as_deref(), facts.gpus[0].recovery), (Some("nvidia"), None));

    let mut facts = with_gpu("GPU-a");
    add_details(&mut facts, NEWER_XML);
    let gpu = &facts.gpus[0];
    assert_eq!((gpu.brand.as_deref(), gpu.recovery), (Some("quadrortx"), Some(Recovery::DrainAndReset)));
    assert_eq!((gpu.remap_pending, gpu.remap_failed), (Some(true), Some(false)));
    assert_eq!(facts.gpus.len(), 1);

    let mut facts = with_gpu("GPU-a");
    let older =
        NEWER_XML.replace("Requested functionality has been deprecated", "Yes").replace("gpu_recovery_action", "x");
    add_details(&mut facts, &older);
    assert_eq!(facts.gpus[0].recovery, Some(Recovery::Reset), "before 565 it was said so");
}

#[test]
fn what_is_no_answer_adds_nothing() {
    for said in [
        "",
        "<",
        "No devices were found",
        &"<a>".repeat(10_000),
        "<nvidia_smi_log><gpu><uuid>GPU-a</uuid>",
        "\u{0}<x/>",
    ] {
        let mut facts = with_gpu("GPU-a");
        add_details(&mut facts, said);
        assert_eq!(facts, with_gpu("GPU-a"), "{said}");
    }
}

/// Lines of dcgm-exporter 3.x and 4.x as others recorded them (an L40S with driver 595, an A800 cut into instances with driver 535;
/// the labels `err_code` and `err_msg` are those of 4.x).
const EXPORTED: &str = r#"# HELP DCGM_FI_DEV_XID_ERRORS Value of the last XID error encountered.
# TYPE DCGM_FI_DEV_XID_ERRORS gauge
DCGM_FI_DEV_XID_ERRORS{gpu="0",UUID="GPU-5b4e07f6",pci_bus_id="00000000:00:07.0",device="nvidia0",modelName="NVIDIA L40S",Hostname="gpu1-wl8sg",DCGM_FI_DRIVER_VERSION="595.58.03",err_code="79",err_msg="GPU has fallen, \"off\" the bus} {"} 79
DCGM_FI_DEV_XID_ERRORS{gpu="1",UUID="GPU-two",err_code="0",err_msg="No Error"} 0
DCGM_FI_DEV_XID_ERRORS{gpu="0",UUID="GPU-1f027ee8",modelName="NVIDIA A800-SXM4-80GB",GPU_I_PROFILE="2g.20gb",GPU_I_ID="3"} 31
DCGM_FI_DEV_ROW_REMAP_FAILURE{gpu="0",UUID="GPU-5b4e07f6"} 1
DCGM_FI_DEV_ROW_REMAP_PENDING{gpu="0",UUID="GPU-5b4e07f6"} 0 1700000000000
DCGM_FI_DEV_ECC_DBE_VOL_TOTAL{gpu="0", UUID="GPU-5b4e07f6",container="",namespace="",pod=""} 2
DCGM_FI_DEV_FB_FREE{gpu="0",UUID="GPU-5b4e07f6"} 45000
DCGM_FI_DEV_CLOCKS_EVENT_REASONS{gpu="0",UUID="GPU-5b4e07f6"} 196
DCGM_FI_DEV_MEMORY_TEMP{gpu="1",UUID="GPU-two"} 9.223372036854776e+18
DCGM_FI_DEV_ECC_DBE_VOL_TOTAL{gpu="1",UUID="GPU-two"} 9.223372036854776e+18
DCGM_FI_DEV_FB_FREE{gpu="1",UUID="GPU-two"} NaN
broken{ 5
up 1
"#;

#[test]
fn an_exporter_is_read() {
    let told = exported(EXPORTED);
    assert_eq!(told.keys().collect::<Vec<_>>(), ["GPU-5b4e07f6", "GPU-two"], "an instance is not its GPU");
    let first = &told["GPU-5b4e07f6"];
    assert_eq!((first.last_xid, first.uncorrected_ecc, first.memory_free_mib), (Some(79), Some(2), Some(45_000)));
    assert_eq!((first.remap_failed, first.remap_pending), (Some(true), Some(false)));
    assert_eq!(first.throttled, [Throttle::Thermal, Throttle::PowerBrake], "196 = 0x80 + 0x40 + a software power cap");
    let second = &told["GPU-two"];
    assert_eq!(
        (second.last_xid, second.uncorrected_ecc, second.memory_free_mib),
        (Some(0), None, None),
        "blank is unknown, and none is none"
    );

    let mut facts = with_gpu("GPU-5b4e07f6");
    first.add_to(&mut facts, "GPU-5b4e07f6");
    assert_eq!((facts.gpus[0].uncorrected_ecc, facts.gpus[0].remap_failed), (Some(2), Some(true)));
}

/// The variable of the image `nvidia/cuda:12.1.1-base`, shortened.
const CUDA_12_1: &str = "cuda>=12.1 brand=tesla,driver>=470,driver<471 brand=geforce,driver>=470,driver<471 brand=tesla,driver>=525,driver<526";

#[test]
fn an_images_requirement_is_alternatives_of_what_must_hold_together() {
    for (text, cuda, driver, brand, wanted) in [
        (CUDA_12_1, "12.2", "535.54.03", "nvidia", true),
        (CUDA_12_1, "12.1", "530.30.02", "nvidia", true),
        (CUDA_12_1, "12.0", "525.60.13", "nvidia", false),
        (CUDA_12_1, "12.0", "525.60.13", "tesla", true),
        (CUDA_12_1, "11.4", "470.82.01", "geforce", true),
        (CUDA_12_1, "11.4", "471.11", "tesla", false),
        ("cuda>=11.0,arch>=8.0", "12.0", "525.60.13", "tesla", true),
        ("cuda>=11.0,arch>=9.0", "12.0", "525.60.13", "tesla", false),
        ("cuda>=11.0,cuda<12", "12.0", "525.60.13", "tesla", false),
        ("brand!=geforce", "12.0", "525", "geforce", false),
        ("driver>470 , ", "12.0", "470", "tesla", false),
        ("", "10.0", "400", "tesla", true),
        ("host=any", "10.0", "400", "tesla", true),
        ("host=any,cuda>=11", "10.0", "400", "tesla", false),
    ] {
        let brand = Some(brand.to_owned());
        let gpu = Gpu { brand, capability: "8.0".parse().ok(), ..Gpu::default() };
        let facts = Facts { cuda: cuda.parse().ok(), driver: driver.parse().ok(), ..Facts::default() };
        let read = requirement(text).unwrap();
        assert_eq!(read.holds(&facts, &gpu), wanted, "{text} on CUDA {cuda}, driver {driver}");
    }
    let unknown = requirement("driver<471").unwrap();
    assert!(!unknown.holds(&Facts::default(), &Gpu::default()), "what is not known does not hold");
    assert_eq!(requirement(CUDA_12_1).unwrap().least_cuda(), "12.1".parse().ok().as_ref());
    for text in ["cuda", "cuda>=new", "cuda>=12.1 driver", "cuda>=1.2.3.4.5"] {
        assert!(requirement(text).unwrap_err().contains("is no requirement"), "{text}");
    }
}

#[test]
fn versions_are_numbers() {
    let version = |text: &str| text.parse::<Version>().unwrap();
    assert!(
        version("12.10") > version("12.9")
            && version("12") == version("12.0")
            && version("v12.1") < version("535.54.03")
    );
    assert_eq!(version("535.54.03").to_string(), "535.54.03");
    assert_eq!(version("580.126.09").to_string(), "580.126.09");
    assert!(["", "a", "1..2", "-1", "1.2.3.4.5"].iter().all(|text| text.parse::<Version>().is_err()));
}
