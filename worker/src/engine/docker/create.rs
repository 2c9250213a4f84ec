//! From what a job asks for to what the engine is told. Pure.

use std::{collections::HashMap, net::SocketAddr};

use bollard::models::{
    ContainerCreateBody, DeviceRequest, EndpointSettings, HealthConfig, HostConfig, HostConfigLogConfig,
    Mount as EngineMount, MountType, NetworkingConfig, PortBinding, ResourcesUlimits,
};
use segue_pipelines::container::{DEFAULT_PIDS, Health, Settings};

use super::{gpus::LookerSpec, instances::InstanceSpec, lifeline, place::ContainerSpec, services::ServiceSpec};

/// The most that a container may have.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ceiling {
    pub memory_bytes: Option<u64>,
    pub cpu_millis: Option<u64>,
}

/// The container of a job: an init, and under it what waits for the lifeline's end. Scripts come into it later.
pub(super) fn job_container(
    spec: &ContainerSpec,
    image: &str,
    name: &str,
    labels: HashMap<String, String>,
    ceiling: Ceiling,
) -> ContainerCreateBody {
    let settings = &spec.settings;
    let lifeline = spec.commands.join(lifeline::NAME).display().to_string();
    let bind = |path: &std::path::Path| EngineMount {
        target: Some(path.display().to_string()),
        source: Some(path.display().to_string()),
        typ: Some(MountType::BIND),
        ..EngineMount::default()
    };
    let mounts = spec.mounts.iter().map(|mount| bind(mount)).chain(volumes(&spec.volumes, name)).collect();
    let mut body = container(spec.env.clone(), settings, image, name, labels, ceiling);
    body.user = spec.forced_user.clone().or_else(|| settings.user.clone());
    body.working_dir = Some(settings.workdir.clone().unwrap_or_else(|| spec.workdir.clone()));
    body.entrypoint = Some(["sh", "-c", lifeline::WAIT, "segue", &lifeline].map(str::to_owned).to_vec());
    body.cmd = Some(Vec::new());
    // nobody asks for the health of what only waits
    body.healthcheck = Some(HealthConfig { test: Some(vec!["NONE".into()]), ..HealthConfig::default() });
    if let Some(host) = &mut body.host_config {
        host.mounts = Some(mounts);
        host.device_requests = (!spec.gpus.is_empty()).then(|| vec![gpu_request(&spec.gpus)]);
    }
    body
}

/// Whoever looks at GPUs has a number that nobody has: it sees the names of the machine's processes, and those of `nobody` it might signal if it were that.
/// No distribution and no systemd gives this one to anybody, and an engine without root, which has 65536 of them, has it as well.
/// <https://systemd.io/UIDS-GIDS/>
const OF_NOBODY: &str = "65529:65529";

/// What a container may have that only looks.
const LOOKER: (i64, i64) = (512 << 20, 64);

/// A container that sees every GPU of the engine's machine, and waits until somebody runs `nvidia-smi` in it. In the machine's own numbers of
/// processes: the driver knows no others, and has no names of those that a container does not see
/// (<https://github.com/NVIDIA/nvidia-docker/issues/179>).
pub(super) fn looker_container(spec: &LookerSpec, image: String) -> ContainerCreateBody {
    let env = ["LC_ALL=C", "NVIDIA_DISABLE_REQUIRE=1"].map(str::to_owned).to_vec();
    let (memory, pids) = LOOKER;
    ContainerCreateBody {
        image: Some(image),
        env: Some(env),
        labels: Some(spec.labels.clone()),
        user: Some(OF_NOBODY.into()),
        working_dir: Some("/".into()),
        entrypoint: Some(vec!["sleep".into()]),
        cmd: Some(vec![spec.lives.as_secs().to_string()]),
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".into()]), ..HealthConfig::default() }),
        host_config: Some(HostConfig {
            // should nobody be there any more who would remove it
            auto_remove: Some(true),
            init: Some(false),
            privileged: Some(false),
            pid_mode: Some("host".into()),
            network_mode: Some("none".into()),
            ipc_mode: Some("private".into()),
            cap_drop: Some(vec!["ALL".into()]),
            security_opt: Some(vec!["no-new-privileges".into()]),
            memory: Some(memory),
            memory_swap: Some(memory),
            pids_limit: Some(pids),
            log_config: Some(HostConfigLogConfig { typ: Some("none".into()), config: None }),
            device_requests: Some(vec![DeviceRequest {
                driver: Some("nvidia".into()),
                count: Some(-1),
                device_ids: None,
                // `utility` is what brings the tool
                capabilities: Some(vec![["gpu", "utility"].map(str::to_owned).to_vec()]),
                options: Some(HashMap::new()),
            }]),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}

/// Those GPUs and no other, as `docker run --gpus device=UUID,...` asks for them.
/// <https://docs.docker.com/reference/api/engine/version/v1.40/>, `DeviceRequest`
fn gpu_request(uuids: &[String]) -> DeviceRequest {
    DeviceRequest {
        driver: Some(String::new()),
        count: Some(0),
        device_ids: Some(uuids.to_vec()),
        capabilities: Some(vec![vec!["gpu".into()]]),
        options: Some(HashMap::new()),
    }
}

/// A container beside it, which runs what its image says.
pub(super) fn service_container(
    service: &ServiceSpec,
    image: &str,
    network: &str,
    labels: HashMap<String, String>,
    ceiling: Ceiling,
) -> ContainerCreateBody {
    let mut settings = service.settings.clone();
    settings.aliases.push(service.name.clone());
    let mut body = container(service.env.clone(), &settings, image, network, labels, ceiling);
    body.user.clone_from(&settings.user);
    body.working_dir.clone_from(&settings.workdir);
    if let Some(host) = &mut body.host_config {
        host.mounts = Some(volumes(&service.volumes, network));
    }
    body
}

/// The container of a service's instance, which runs what its image or its service says.
pub(super) fn instance_container(spec: &InstanceSpec) -> ContainerCreateBody {
    let labels = spec.labels.clone();
    let mut body = container(spec.env.clone(), &spec.settings, &spec.image, &spec.place, labels, Ceiling::default());
    body.user.clone_from(&spec.settings.user);
    body.working_dir.clone_from(&spec.settings.workdir);
    body.cmd = (!spec.command.is_empty()).then(|| spec.command.clone());
    body.entrypoint.clone_from(&spec.entrypoint);
    // its health is asked for over HTTP by whoever gives it traffic
    body.healthcheck = Some(HealthConfig { test: Some(vec!["NONE".into()]), ..HealthConfig::default() });
    if let Some(host) = &mut body.host_config {
        host.mounts = Some(volumes(&spec.volumes, &spec.place));
        host.device_requests = (!spec.gpus.is_empty()).then(|| vec![gpu_request(&spec.gpus)]);
    }
    body
}

/// Has the engine's machine take connections for a port at one of its addresses. Its port there is the caller's choice and never the engine's:
/// what the engine gives out again after its restart may have been another container's before, whose requests would go there.
pub(super) fn publish(body: &mut ContainerCreateBody, port: u16, at: SocketAddr) {
    let port = format!("{port}/tcp");
    let bound = PortBinding { host_ip: Some(at.ip().to_string()), host_port: Some(at.port().to_string()) };
    body.exposed_ports = Some(vec![port.clone()]);
    if let Some(host) = &mut body.host_config {
        host.port_bindings = Some(HashMap::from([(port, Some(vec![bound]))]));
    }
}

/// The same with streams of its own in the place of a log: what goes through them is kept nowhere else.
pub(super) fn piped_container(spec: &InstanceSpec, reads: bool) -> ContainerCreateBody {
    let mut body = instance_container(spec);
    body.open_stdin = Some(reads);
    body.stdin_once = Some(reads);
    body.attach_stdin = Some(reads);
    body.attach_stdout = Some(true);
    body.attach_stderr = Some(true);
    if let Some(host) = &mut body.host_config {
        host.log_config = Some(HostConfigLogConfig { typ: Some("none".into()), config: None });
    }
    body
}

fn container(
    env: Vec<String>,
    settings: &Settings,
    image: &str,
    network: &str,
    labels: HashMap<String, String>,
    ceiling: Ceiling,
) -> ContainerCreateBody {
    let endpoint = EndpointSettings {
        aliases: (!settings.aliases.is_empty()).then(|| settings.aliases.clone()),
        ..EndpointSettings::default()
    };
    // its own labels can't pass for the runner's
    let asked = settings.labels.iter().filter(|(name, _)| !name.starts_with("segue.")).cloned();
    ContainerCreateBody {
        image: Some(image.to_owned()),
        hostname: settings.hostname.clone(),
        env: Some(env.into_iter().chain(settings.env.iter().cloned()).collect()),
        labels: Some(asked.chain(labels).collect()),
        stop_signal: settings.stop_signal.clone(),
        stop_timeout: settings.stop_seconds,
        healthcheck: health(&settings.health),
        host_config: Some(host_config(settings, network, ceiling)),
        networking_config: Some(NetworkingConfig {
            endpoints_config: Some(HashMap::from([(network.to_owned(), endpoint)])),
        }),
        ..ContainerCreateBody::default()
    }
}

fn host_config(settings: &Settings, network: &str, ceiling: Ceiling) -> HostConfig {
    let memory = at_most(settings.memory, ceiling.memory_bytes);
    let cpu_millis = at_most(settings.cpu_millis, ceiling.cpu_millis);
    let list = |values: &Vec<String>| (!values.is_empty()).then(|| values.clone());
    HostConfig {
        init: Some(true),
        privileged: Some(false),
        cap_drop: Some(vec!["ALL".into()]),
        cap_add: Some(settings.capabilities().into_iter().map(str::to_owned).collect()),
        security_opt: Some(vec!["no-new-privileges".into()]),
        network_mode: Some(network.to_owned()),
        ipc_mode: Some("private".into()),
        memory: memory.and_then(signed),
        // without more than that: swap is memory that others wait for
        memory_swap: settings
            .memory_swap
            .filter(|_| ceiling.memory_bytes.is_none())
            .or_else(|| memory.and_then(signed)),
        memory_reservation: settings.memory_reservation.and_then(signed),
        nano_cpus: cpu_millis.and_then(|millis| signed(millis.saturating_mul(1_000_000))),
        cpu_shares: settings.cpu_shares,
        pids_limit: Some(settings.pids.unwrap_or(DEFAULT_PIDS)),
        shm_size: settings.shm.and_then(signed),
        readonly_rootfs: Some(settings.read_only),
        ulimits: (!settings.ulimits.is_empty()).then(|| settings.ulimits.iter().map(ulimit).collect()),
        tmpfs: (!settings.tmpfs.is_empty()).then(|| settings.tmpfs.iter().cloned().collect()),
        dns: list(&settings.dns),
        dns_search: list(&settings.dns_search),
        extra_hosts: list(&settings.hosts),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".into()),
            config: Some([("max-size".to_owned(), "8m".to_owned()), ("max-file".to_owned(), "1".to_owned())].into()),
        }),
        ..HostConfig::default()
    }
}

/// The name of a volume that has one.
pub(super) fn volume_of(volume: &str) -> Option<&str> {
    volume.split_once(':').map(|(name, _)| name)
}

/// A volume's name at the engine: what one job keeps there, no other meets.
pub(super) fn volume_name(place: &str, volume: &str) -> String {
    format!("{place}-{volume}")
}

/// The value of a variable in a list of `NAME=VALUE`.
pub(super) fn value_of(env: &[String], name: &str) -> Option<String> {
    env.iter().rev().find_map(|one| one.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
}

fn volumes(volumes: &[String], place: &str) -> Vec<EngineMount> {
    let mount = |volume: &String| {
        let mut parts = volume.split(':');
        let (first, second, third) = (parts.next()?, parts.next(), parts.next());
        let (source, target) = match second {
            Some(target) => (Some(volume_name(place, first)), target),
            None => (None, first),
        };
        Some(EngineMount {
            source,
            target: Some(target.to_owned()),
            typ: Some(MountType::VOLUME),
            read_only: Some(third == Some("ro")),
            ..EngineMount::default()
        })
    };
    volumes.iter().filter_map(mount).collect()
}

fn health(health: &Health) -> Option<HealthConfig> {
    let nanos = |span: Option<std::time::Duration>| span.and_then(|span| i64::try_from(span.as_nanos()).ok());
    if health.off {
        return Some(HealthConfig { test: Some(vec!["NONE".into()]), ..HealthConfig::default() });
    }
    (*health != Health::default()).then(|| HealthConfig {
        test: health.command.as_ref().map(|command| vec!["CMD-SHELL".into(), command.clone()]),
        interval: nanos(health.interval),
        timeout: nanos(health.timeout),
        retries: health.retries,
        start_period: nanos(health.start_period),
        start_interval: None,
    })
}

fn ulimit((name, soft, hard): &(String, i64, i64)) -> ResourcesUlimits {
    ResourcesUlimits { name: Some(name.clone()), soft: Some(*soft), hard: Some(*hard) }
}

/// What is asked for, within what may be had.
fn at_most(asked: Option<u64>, most: Option<u64>) -> Option<u64> {
    match (asked, most) {
        (Some(asked), Some(most)) => Some(asked.min(most)),
        (asked, most) => asked.or(most),
    }
}

fn signed(value: u64) -> Option<i64> {
    i64::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use segue_pipelines::container::of_options;

    use super::*;

    fn made(options: &str, ceiling: Ceiling) -> ContainerCreateBody {
        let options: Vec<String> = options.split_whitespace().map(str::to_owned).collect();
        let spec = ContainerSpec {
            image: "debian:13".into(),
            env: vec!["A=1".into()],
            settings: of_options(&options).unwrap(),
            volumes: vec!["kept:/kept:ro".into(), "/scratch".into()],
            credentials: None,
            mounts: vec!["/jobs/1/work".into()],
            workdir: "/jobs/1/work".into(),
            commands: "/jobs/1/commands".into(),
            host_user: None,
            forced_user: None,
            gpus: vec!["GPU-a".into(), "GPU-b".into()],
            services: Vec::new(),
        };
        let labels = HashMap::from([("segue.job".to_owned(), "1".to_owned())]);
        job_container(&spec, "debian:13", "segue-1-1", labels, ceiling)
    }

    #[test]
    fn a_container_has_no_more_than_it_needs() {
        let body = made("--cap-drop CAP_SETUID --label segue.job=another --label a=b", Ceiling::default());
        let host = body.host_config.unwrap();
        assert_eq!((host.privileged, host.init), (Some(false), Some(true)));
        assert_eq!(host.cap_drop.unwrap(), ["ALL"]);
        assert!(!host.cap_add.unwrap().iter().any(|name| name == "SETUID" || name == "MKNOD"));
        assert_eq!(host.security_opt.unwrap(), ["no-new-privileges"]);
        assert_eq!(host.network_mode.as_deref(), Some("segue-1-1"));
        let request = &host.device_requests.unwrap()[0];
        assert_eq!(request.device_ids.as_ref().unwrap(), &["GPU-a", "GPU-b"]);
        assert_eq!((request.count, request.capabilities.as_ref().unwrap()), (Some(0), &vec![vec!["gpu".to_owned()]]));
        assert_eq!(host.pids_limit, Some(DEFAULT_PIDS));
        assert!(host.binds.is_none() && host.devices.is_none() && host.pid_mode.is_none());
        let mounts = host.mounts.unwrap();
        let sources: Vec<Option<&str>> = mounts.iter().map(|mount| mount.source.as_deref()).collect();
        assert_eq!(sources, [Some("/jobs/1/work"), Some("segue-1-1-kept"), None]);
        assert_eq!(mounts[1].read_only, Some(true));
        let labels = body.labels.unwrap();
        assert_eq!((labels["segue.job"].as_str(), labels["a"].as_str()), ("1", "b"), "a job can't pass for another");
    }

    #[test]
    fn who_looks_at_gpus_sees_all_of_them_and_may_do_nothing() {
        let labels = HashMap::from([("segue.host".to_owned(), "/data".to_owned())]);
        let spec = LookerSpec { name: "looks".into(), image: "x".into(), labels, lives: Duration::from_secs(90) };
        let body = looker_container(&spec, "debian:13-slim".into());
        assert_eq!((body.user.as_deref(), body.image.as_deref()), (Some("65529:65529"), Some("debian:13-slim")));
        assert_eq!((body.entrypoint.unwrap(), body.cmd.unwrap()), (vec!["sleep".to_owned()], vec!["90".to_owned()]));
        let host = body.host_config.unwrap();
        assert_eq!((host.auto_remove, host.privileged), (Some(true), Some(false)));
        assert_eq!((host.network_mode.as_deref(), host.pid_mode.as_deref()), (Some("none"), Some("host")));
        assert_eq!((host.cap_drop.unwrap(), host.cap_add), (vec!["ALL".to_owned()], None));
        assert!(host.mounts.is_none() && host.binds.is_none() && host.port_bindings.is_none());
        let request = &host.device_requests.unwrap()[0];
        assert_eq!((request.driver.as_deref(), request.count), (Some("nvidia"), Some(-1)));
        assert_eq!(request.capabilities.as_ref().unwrap()[0], ["gpu", "utility"]);
    }

    #[test]
    fn a_service_elsewhere_is_reached_at_the_port_that_it_was_given() {
        let mut body = made("", Ceiling::default());
        publish(&mut body, 8080, "10.0.0.5:20001".parse().unwrap());
        let bound = body.host_config.unwrap().port_bindings.unwrap()["8080/tcp"].clone().unwrap();
        let bound: Vec<_> = bound.iter().map(|one| (one.host_ip.as_deref(), one.host_port.as_deref())).collect();
        assert_eq!(bound, [(Some("10.0.0.5"), Some("20001"))]);
    }

    #[test]
    fn limits_are_kept_within_the_workers() {
        let ceiling = Ceiling { memory_bytes: Some(1 << 30), cpu_millis: Some(2000) };
        for (options, memory, nano_cpus) in [
            ("", 1 << 30, 2_000_000_000),
            ("--memory 512m --cpus 0.5", 512 << 20, 500_000_000),
            ("--memory 64g --cpus 64", 1 << 30, 2_000_000_000),
            ("--memory 64g --memory-swap -1", 1 << 30, 2_000_000_000),
        ] {
            let host = made(options, ceiling).host_config.unwrap();
            assert_eq!((host.memory, host.nano_cpus), (Some(memory), Some(nano_cpus)), "{options}");
            assert_eq!(host.memory_swap, Some(memory), "no swap beyond it: {options}");
        }
        let host = made("", Ceiling::default()).host_config.unwrap();
        assert_eq!((host.memory, host.memory_swap, host.nano_cpus), (None, None, None));
    }
}
