//! The GPUs of this machine: whether the driver answers, what is wrong with them, and whether what is to tell more of them does.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use segue_pipelines::{
    config::EngineAddress,
    gpu::{ALL, Facts, Reason, exported, offered},
};
use segue_schemas::config::{Config, HostConfig};
use segue_worker::{gpu, host::DEFAULT_DOCKER};

use super::Check;
use crate::cli::ending::with_causes;

const NAME: &str = "gpus";

/// Where the kernel's log is, in which the driver reports faults.
const KERNEL_LOG: &str = "/dev/kmsg";

/// What puts GPUs into containers; the engine looks for it when it starts.
const TOOLKIT: &str = "nvidia-container-runtime-hook";

/// How long an exporter or an engine may take.
const LIMIT: Duration = Duration::from_secs(5);

/// The most that is read of an exporter: as the host does.
const MOST_EXPORTED: usize = 4 << 20;

/// Looks where GPUs are offered by the configuration, or the driver is loaded; else there is nothing to say.
pub async fn gpus(config: &Config) -> Vec<Check> {
    // those of an engine elsewhere are not this machine's
    let is_here = |host: &&HostConfig| host.docker.as_ref().is_none_or(|engine| is_here(&engine.address));
    let local = config.hosts.get("local").filter(is_here);
    let offers = |gpus: &[String]| !gpus.is_empty();
    let is_named = offers(&config.worker.gpus) || local.is_some_and(|local| offers(&local.gpus));
    if !is_named && !Path::new("/proc/driver/nvidia/version").exists() {
        return Vec::new();
    }
    let program = local.and_then(|local| local.nvidia_smi.as_deref()).or(config.worker.nvidia_smi.as_deref());
    let mut checks = Vec::new();
    match gpu::look(program).await {
        Ok(facts) => checks.extend(of(&facts)),
        Err(fault) => checks.push(Check::bad(NAME, fault.to_string(), fault.remedy())),
    }
    if let Some(url) = local.and_then(|local| local.dcgm.as_deref()) {
        checks.push(exporter(url).await);
    }
    if local.is_some_and(|local| offers(&local.gpus)) {
        checks.extend(kernel_log(Path::new(KERNEL_LOG)));
    }
    let own = config
        .hosts
        .get("local")
        .and_then(|local| local.docker.as_ref())
        .map(|engine| EngineAddress::parse(&engine.address));
    let socket = match own {
        None => Some(config.worker.docker.socket.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_DOCKER))),
        Some(address) => address.ok().and_then(|address| address.socket().map(PathBuf::from)),
    };
    if let Some(socket) = socket.filter(|socket| socket.exists()) {
        checks.push(toolkit(&socket).await);
    }
    checks
}

fn is_here(address: &str) -> bool {
    EngineAddress::parse(address).is_ok_and(|address| address.socket().is_some())
}

/// What there is, and each thing that is wrong with it.
fn of(facts: &Facts) -> Vec<Check> {
    let (sound, reasons) = offered(facts, &[ALL.to_owned()]);
    let driver = facts.driver.as_ref().map_or_else(|| "an unknown driver".into(), |driver| format!("driver {driver}"));
    let cuda = facts.cuda.as_ref().map(|cuda| format!(", CUDA {cuda}")).unwrap_or_default();
    let each: Vec<String> =
        sound.iter().map(|gpu| format!("{} ({}, {} MiB)", gpu.uuid, gpu.name, gpu.memory_mib)).collect();
    let mut checks = Vec::new();
    if !each.is_empty() {
        checks.push(Check::good(NAME, format!("{}; {driver}{cuda}", each.join("; "))));
    }
    checks.extend(reasons.iter().map(|Reason { gpu, what }| {
        let gpu = gpu.as_deref().map(|gpu| format!("{gpu}: ")).unwrap_or_default();
        Check::bad(NAME, format!("{gpu}{what}"), what.remedy())
    }));
    checks
}

async fn exporter(url: &str) -> Check {
    const NAME: &str = "dcgm-exporter";
    const REMEDY: &str = "start it (`docker run --gpus all -p 127.0.0.1:9400:9400 nvcr.io/nvidia/k8s/dcgm-exporter`), or mend `hosts.local.dcgm`";
    let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).timeout(LIMIT);
    let said = async {
        let mut answer = client.build()?.get(url).send().await?.error_for_status()?;
        let mut said = Vec::new();
        while let Some(part) = answer.chunk().await?
            && said.len() + part.len() <= MOST_EXPORTED
        {
            said.extend_from_slice(&part);
        }
        Ok::<_, reqwest::Error>(String::from_utf8_lossy(&said).into_owned())
    };
    match said.await {
        Ok(said) => {
            let gpus = exported(&said);
            let tells_xids = gpus.values().any(|gpu| gpu.last_xid.is_some()) || said.contains("DCGM_FI_DEV_XID_ERRORS");
            match (gpus.len(), tells_xids) {
                (0, _) => Check::bad(NAME, format!("{url} tells of no GPU"), REMEDY),
                (count, true) => Check::good(NAME, format!("{url} tells of {count} GPUs")),
                (count, false) => Check::remark(
                    NAME,
                    format!("{url} tells of {count} GPUs, and of no Xid"),
                    "add DCGM_FI_DEV_XID_ERRORS to its counters; it is among its default ones",
                ),
            }
        }
        Err(error) => Check::bad(NAME, format!("{url} can't be read: {}", with_causes(&error)), REMEDY),
    }
}

/// As somebody else than root it mostly can't be read; a host that runs as this user learns of an Xid by the exporter, or never.
fn kernel_log(path: &Path) -> Option<Check> {
    let error = std::fs::File::open(path).err()?;
    let remedy = "run the host as root, or as a user that may read it (`kernel.dmesg_restrict`); or name a dcgm-exporter (`hosts.local.dcgm`)";
    Some(Check::remark(
        "kernel log",
        format!("{} can't be read: {error}; that is where Xids are told", path.display()),
        remedy,
    ))
}

/// Whether the engine can give a container a GPU.
async fn toolkit(socket: &Path) -> Check {
    const NAME: &str = "gpus in containers";
    let on_path = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(TOOLKIT).exists()));
    let asked = async {
        let client = reqwest::Client::builder().unix_socket(socket.to_owned()).timeout(LIMIT).build()?;
        client.get("http://docker/info").send().await?.error_for_status()?.json::<serde_json::Value>().await
    };
    let known = asked.await.ok().is_some_and(|info| knows_nvidia(&info));
    if on_path || known {
        return Check::good(NAME, format!("the engine at {} has the NVIDIA Container Toolkit", socket.display()));
    }
    Check::remark(
        NAME,
        format!("the engine at {} shows no NVIDIA Container Toolkit: containers get no GPUs from it", socket.display()),
        "install nvidia-container-toolkit, run `nvidia-ctk runtime configure --runtime=docker`, and start the engine again",
    )
}

/// Whether an engine has NVIDIA's runtime, or devices of its (CDI).
fn knows_nvidia(info: &serde_json::Value) -> bool {
    let is_gpu = |device: &serde_json::Value| device["ID"].as_str().is_some_and(|id| id.starts_with("nvidia.com/gpu"));
    info["Runtimes"].get("nvidia").is_some()
        || info["DiscoveredDevices"].as_array().is_some_and(|devices| devices.iter().any(is_gpu))
}

#[cfg(test)]
mod tests {
    use segue_pipelines::gpu::Gpu;

    use super::*;

    #[test]
    fn each_fault_is_a_check_with_its_remedy() {
        let gpu = |uuid: &str| Gpu { uuid: uuid.into(), name: "NVIDIA L40S".into(), ..Gpu::default() };
        let broken = Gpu { uncorrected_ecc: Some(2), remap_failed: Some(true), ..gpu("GPU-b") };
        let checks = of(&Facts { gpus: vec![gpu("GPU-a"), broken], ..Facts::default() });
        assert_eq!(checks.iter().map(Check::is_bad).collect::<Vec<_>>(), [false, true, true]);
        assert!(checks[0].found.starts_with("GPU-a (NVIDIA L40S") && !checks[0].found.contains("GPU-b"));
        assert!(checks[1].found.contains("GPU-b: its memory has had 2 errors"), "{}", checks[1].found);
        assert!(checks[1].remedy.as_deref().is_some_and(|remedy| remedy.contains("--gpu-reset")));
    }

    #[test]
    fn an_engine_with_the_toolkit_is_told_from_one_without() {
        for (info, wanted) in [
            (serde_json::json!({ "Runtimes": { "nvidia": { "path": "nvidia-container-runtime" }, "runc": {} } }), true),
            (
                serde_json::json!({ "Runtimes": { "runc": {} }, "DiscoveredDevices": [{ "Source": "cdi", "ID": "nvidia.com/gpu=0" }] }),
                true,
            ),
            (serde_json::json!({ "Runtimes": { "runc": {} } }), false),
            (serde_json::Value::Null, false),
        ] {
            assert_eq!(knows_nvidia(&info), wanted, "{info}");
        }
    }

    #[tokio::test]
    async fn an_exporter_that_is_not_there_is_told() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let check = exporter("http://127.0.0.1:9/metrics").await;
        assert!(check.is_bad() && check.found.contains("http://127.0.0.1:9/metrics can't be read"), "{}", check.found);
        assert!(kernel_log(Path::new("/nowhere/kmsg")).is_some_and(|check| check.found.contains("can't be read")));
    }
}
