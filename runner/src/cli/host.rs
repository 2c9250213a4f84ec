//! `segue host` and `segue proxy`: what keeps a machine's services, and what carries their traffic. Neither runs on a runtime
//! of ours: both have their own. And hosts on other machines: inviting, joining, revoking one, and showing what it carries.

use std::{net::SocketAddr, os::fd::RawFd, path::PathBuf, time::Duration};

use segue_pipelines::{
    config::{DCGM_HELP, dcgm_fault, engine_faults, look_faults},
    gpu::ALL,
};
use segue_schemas::{
    engine::EngineConfig,
    host_api::Shutdown,
    host_join::JoinToken,
    router::{HaproxyConfig, NginxConfig, RouterSettings},
};
use segue_worker::{
    host::{self, HostOptions, Join, JoinError, client::HostClient},
    proxy::{self, ProxyOptions},
};

use super::{
    ending::{Exit, Explain as _, Failure},
    hosts, logging,
    out::say,
    place,
};

/// Keep this machine's services and their traffic; have another machine's host join
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  \
    segue host --data /var/lib/segue/host --listen 0.0.0.0:80\n  \
    segue host --listen 0.0.0.0:80 --router '{haproxy: {admin-socket: /run/haproxy/admin.sock}}'\n  \
    segue host --listen 0.0.0.0:80 --gpus all --dcgm http://127.0.0.1:9400/metrics\n  \
    segue host --listen 0.0.0.0:80 --docker tcp://10.0.0.5:2376 --docker-ca ca.pem --docker-cert cert.pem --docker-key key.pem\n  \
    segue host --listen 0.0.0.0:80 --docker ssh://deploy@10.0.0.5 --docker-identity /etc/segue/id --docker-known-hosts /etc/segue/known\n  \
    segue host --listen 0.0.0.0:80 --docker ssh://deploy@gpu-1 --gpus all --nvidia-smi-image debian:13-slim\n  \
    segue host --data /var/lib/segue/host --stop\n  \
    segue host invite gpu-1\n  \
    segue host join https://ci.example.com --token TOKEN --name gpu-1\n  \
    segue host revoke gpu-1\n\n\
    `segue up` starts it by itself. TERM ends the host alone: services and proxy live on, and the next host finds them. \
    After a reboot it brings the last good releases and their weights back, with nothing else there."
)]
pub struct HostArgs {
    #[command(subcommand)]
    what: Option<What>,
    /// The host's own directory [default: host in the data directory]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The unix socket of its API [default: host.sock in its directory]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// An address that its router listens on; may be given several times
    #[arg(long, value_name = "IP:PORT")]
    listen: Vec<SocketAddr>,
    #[command(flatten)]
    engine: EngineArgs,
    /// A GPU that it offers to services, by UUID, or `all`; may be given several times
    #[arg(long, value_name = "UUID", value_delimiter = ',')]
    gpus: Vec<String>,
    /// The program that tells of the GPUs [default: nvidia-smi on the PATH]
    #[arg(long, value_name = "PATH")]
    nvidia_smi: Option<PathBuf>,
    /// Of an engine on another machine: the image of containers in which nvidia-smi is run there, with glibc and sleep
    #[arg(long, value_name = "IMAGE")]
    nvidia_smi_image: Option<String>,
    /// The metrics of a dcgm-exporter that tells more of them, such as http://127.0.0.1:9400/metrics
    #[arg(long, value_name = "URL")]
    dcgm: Option<String>,
    /// What carries its traffic, as YAML: `embedded`, or `haproxy` or `nginx` with their settings [default: embedded]
    #[arg(long, value_name = "YAML")]
    router: Option<String>,
    /// End the running host with everything that it carries: services and proxy
    #[arg(long, conflicts_with = "listen")]
    stop: bool,
}

/// The engine that runs services which are containers.
#[derive(Debug, clap::Args)]
struct EngineArgs {
    /// The engine that runs services which are containers: its socket, tcp://HOST:PORT or ssh://USER@HOST[:PORT]
    #[arg(long, env = "SEGUE_DOCKER", value_name = "ADDRESS", default_value = host::DEFAULT_DOCKER)]
    docker: String,
    /// Of tcp: a file with the certificate of whoever signed the engine's
    #[arg(long, env = "SEGUE_DOCKER_CA", value_name = "FILE")]
    docker_ca: Option<PathBuf>,
    /// Of tcp: a file with the certificate that the engine is shown
    #[arg(long, env = "SEGUE_DOCKER_CERT", value_name = "FILE")]
    docker_cert: Option<PathBuf>,
    /// Of tcp: a file with its key, which nobody else may read
    #[arg(long, env = "SEGUE_DOCKER_KEY", value_name = "FILE")]
    docker_key: Option<PathBuf>,
    /// Of ssh: a file with a private key without passphrase [default: what ssh uses]
    #[arg(long, env = "SEGUE_DOCKER_IDENTITY", value_name = "FILE")]
    docker_identity: Option<PathBuf>,
    /// Of ssh: a file with the keys of machines [default: what ssh uses, mostly ~/.ssh/known_hosts]
    #[arg(long, env = "SEGUE_DOCKER_KNOWN_HOSTS", value_name = "FILE")]
    docker_known_hosts: Option<PathBuf>,
    /// The address of the engine's machine at which services listen there [default: the engine's]
    #[arg(long, env = "SEGUE_DOCKER_PUBLISH", value_name = "IP")]
    docker_publish: Option<String>,
    /// The number of an engine that was set up anew: what services kept at the one before is lost
    #[arg(long, env = "SEGUE_DOCKER_ANEW", value_name = "ID")]
    docker_anew: Option<String>,
}

impl EngineArgs {
    fn engine(self) -> Result<EngineConfig, Failure> {
        let engine = EngineConfig {
            address: self.docker,
            ca: self.docker_ca,
            cert: self.docker_cert,
            key: self.docker_key,
            identity: self.docker_identity,
            known_hosts: self.docker_known_hosts,
            publish: self.docker_publish,
            anew: self.docker_anew,
        };
        match engine_faults(&engine).into_iter().next() {
            Some(fault) => Err(Failure::usage(format_args!("`--docker`: {}", fault.message)).remedy(fault.help)),
            None => Ok(engine),
        }
    }
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Make a token by which another machine may join as a host, once
    Invite(hosts::InviteArgs),
    /// Join a server as one of its hosts, from another machine
    Join(JoinArgs),
    /// Take a host's certificate back, at once
    Revoke(hosts::RevokeArgs),
    /// Show a host and what it carries
    Show(hosts::ShowArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue host join https://ci.example.com --token TOKEN --name gpu-1\n  \
    segue host join http://10.0.0.1:8321 --token TOKEN --name gpu-1 --listen 10.0.0.7:8323 --data /var/lib/segue/host\n\n\
    `segue host invite NAME`, where the server's admin is, prints the token. The key is made here and stays here. A running host \
    takes it up when it is started again; its services live on meanwhile.\n\n\
    Exit codes: 0 joined, 1 refused or not reached, 2 usage.")]
struct JoinArgs {
    /// The server's address, as this machine reaches it
    #[arg(value_name = "SERVER")]
    server: String,
    /// What `segue host invite` printed
    #[arg(long, env = "SEGUE_JOIN_TOKEN", hide_env_values = true)]
    token: String,
    /// The name that it was made for
    #[arg(long)]
    name: String,
    /// Where workers reach this host
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:8323")]
    listen: SocketAddr,
    /// What workers are told [default: the listening address; where that is 0.0.0.0, the one that the server is reached from]
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,
    /// The host's own directory [default: host in the data directory]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

pub fn run_host(args: HostArgs) -> Result<Exit, Failure> {
    match args.what {
        None => {}
        Some(What::Invite(args)) => return hosts::invite(&args),
        Some(What::Join(args)) => return join(args),
        Some(What::Revoke(args)) => return hosts::revoke(&args),
        Some(What::Show(args)) => return hosts::show(&args),
    }
    let data = host_data(args.data)?;
    let mut options = HostOptions::new(data).explain("cannot find this program's own path")?;
    if let Some(socket) = args.socket {
        options.socket = socket;
    }
    if args.stop {
        return stop(options);
    }
    options.listen = args.listen;
    options.docker = args.engine.engine()?;
    let (has_program, image) = (args.nvidia_smi.is_some(), args.nvidia_smi_image.as_deref());
    if let Some(fault) = look_faults(Some(&options.docker), &args.gpus, has_program, image).into_iter().next() {
        return Err(Failure::usage(format_args!("`--{}`: {}", fault.key, fault.message)).remedy(fault.help));
    }
    if let Some(gpu) = args.gpus.iter().find(|gpu| *gpu != ALL && !gpu.starts_with("GPU-")) {
        return Err(Failure::usage(format_args!("`--gpus {gpu}` names no GPU"))
            .remedy("write `all`, or a UUID as `nvidia-smi -L` prints it"));
    }
    if let Some(fault) = args.dcgm.as_deref().and_then(dcgm_fault) {
        return Err(Failure::usage(format_args!("`--dcgm`: {fault}")).remedy(DCGM_HELP));
    }
    (options.gpus, options.nvidia_smi, options.dcgm) = (args.gpus, args.nvidia_smi, args.dcgm);
    options.nvidia_smi_image = args.nvidia_smi_image;
    if let Some(text) = &args.router {
        options.router = router(text)?;
    }
    logging::start()?;
    host::run_blocking(options).map_err(Failure::new)?;
    Ok(Exit::Done)
}

fn host_data(named: Option<PathBuf>) -> Result<PathBuf, Failure> {
    Ok(match named {
        Some(data) => data,
        None => place::default_data()?.join("host"),
    })
}

fn join(args: JoinArgs) -> Result<Exit, Failure> {
    let token = JoinToken::parse(&args.token).ok_or_else(|| {
        Failure::usage("--token is not what `segue host invite` prints")
            .remedy("copy it whole, or have another one made")
    })?;
    let data = host_data(args.data)?;
    let join = Join { server: args.server, token, name: args.name, listen: args.listen, address: args.address };
    let identity = place::client_runtime()?.block_on(host::join(&data, join)).map_err(|error| match error {
        JoinError::Usage(_) => Failure::usage(error),
        error => Failure::new(error),
    })?;
    say!("{} is a host of {}", identity.name(), identity.server());
    anstream::eprintln!("start it, or start it again: segue host --data {}", data.display());
    Ok(Exit::Done)
}

/// `haproxy` is HAProxy with the settings that it has by itself, `{haproxy: {admin-socket: ...}}` with others.
fn router(text: &str) -> Result<RouterSettings, Failure> {
    match text {
        "haproxy" => Ok(RouterSettings::Haproxy(HaproxyConfig::default())),
        "nginx" => Ok(RouterSettings::Nginx(NginxConfig::default())),
        "embedded" => Ok(RouterSettings::Embedded),
        // a mapping of one key is read as JSON's: YAML's enums have tags
        _ => serde_yaml::from_str::<serde_json::Value>(text)
            .map_err(|error| error.to_string())
            .and_then(|value| serde_json::from_value(value).map_err(|error| error.to_string()))
            .map_err(|error| Failure::new(format_args!("`--router {text}`: {error}"))),
    }
}

fn stop(options: HostOptions) -> Result<Exit, Failure> {
    let client = HostClient::new(options.socket);
    place::client_runtime()?.block_on(client.shutdown(Shutdown { services: true })).map_err(Failure::new)?;
    say!("the host and what it carried have ended");
    anstream::eprintln!(
        "a `segue up` that keeps it starts it anew, with what served: to have it stay down, end that first"
    );
    Ok(Exit::Done)
}

/// Carry traffic to services; started by `segue host`
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue proxy --control /run/segue/proxy.sock --listen 127.0.0.1:8080 --routes routes.json\n\n\
    The host starts and replaces it without dropping a request. By hand it serves a fixed table of routes.")]
pub struct ProxyArgs {
    /// The socket by which routes are set and observations fetched
    #[arg(long, value_name = "PATH")]
    control: PathBuf,
    /// The routes to begin with (JSON)
    #[arg(long, value_name = "FILE")]
    routes: Option<PathBuf>,
    /// Which of its host's proxies this is
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    generation: u64,
    /// Listening sockets that were inherited, by number
    #[arg(long, value_delimiter = ',', value_name = "FD,...")]
    listen_fds: Vec<RawFd>,
    /// An address to listen on; may be given several times
    #[arg(long, value_name = "IP:PORT")]
    listen: Vec<SocketAddr>,
    /// How long requests in flight may go on after TERM
    #[arg(long, default_value_t = 30_000, value_name = "MILLISECONDS")]
    drain_ms: u64,
    /// Threads that carry traffic
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    threads: usize,
}

pub fn run_proxy(args: ProxyArgs) -> Result<Exit, Failure> {
    let options = ProxyOptions {
        control: args.control,
        routes: args.routes,
        generation: args.generation,
        inherited: args.listen_fds,
        listen: args.listen,
        drain: Duration::from_millis(args.drain_ms),
        threads: args.threads,
    };
    proxy::run(options).map_err(Failure::new)?;
    Ok(Exit::Done)
}
