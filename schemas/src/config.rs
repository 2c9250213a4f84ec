//! The operator's file, `segue.yaml`. Unknown keys are errors.

use std::path::PathBuf;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    duration::Span,
    engine::EngineConfig,
    price::Price,
    router::{HaproxyConfig, NginxConfig, RouterKind},
    size::Size,
};

/// Everything an operator can set. Every value has a default: an empty file is a working configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Config {
    /// Repositories by `owner/name`. Deliveries of others are stored and ignored; where none is named, every repository
    /// whose deliveries carry the right signature is served.
    pub repositories: IndexMap<String, RepositoryConfig>,
    /// Environments by name. `staging` and `production` (which requires `staging`) exist without being named.
    pub environments: IndexMap<String, EnvironmentConfig>,
    /// Hosts by name. `local`, the host that `segue up` starts, exists without being named.
    pub hosts: IndexMap<String, HostConfig>,
    /// GitHub.
    pub github: GitHubConfig,
    /// Where people reach the server: `https://ci.example.com`. Checks on GitHub then link runs and logs there. Left out: they link nothing.
    pub public_url: Option<String>,
    /// The worker that `segue up` and `segue worker` start.
    pub worker: WorkerConfig,
    /// Who is told.
    pub notifications: Vec<NotificationConfig>,
    /// Where the state is kept.
    pub database: DatabaseConfig,
    /// The message queue between servers and workers. Left out: workers ask the server, which holds their requests open.
    pub broker: BrokerConfig,
    /// Where the contents of artifacts and caches lie.
    pub storage: StorageConfig,
    /// How long things are kept, and when the disk counts as full.
    pub retention: RetentionConfig,
    /// Time limits of the machinery itself.
    pub timing: TimingConfig,
    /// The key for secrets.
    pub secrets: SecretsConfig,
    /// The key that vouches for images.
    pub provenance: ProvenanceConfig,
    /// Machines with GPUs that jobs may rent from Lambda Cloud. Left out: none may.
    pub lambda: LambdaConfig,
}

/// One repository.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RepositoryConfig {
    /// Where to fetch it from: a URL or a path. The webhook's `clone_url` where it is left out.
    pub clone_url: Option<String>,
    /// The branch whose caches every branch may read. Left out: `main`, and else `master`.
    pub default_branch: Option<String>,
    /// `vars` in expressions.
    pub variables: IndexMap<String, String>,
    /// Whether rollback points are pushed to it as tags.
    pub rollback_tags: Option<bool>,
}

/// One environment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct EnvironmentConfig {
    /// The hosts that carry it.
    pub hosts: Vec<String>,
    /// Variables of its services, and `vars` of its jobs.
    pub variables: IndexMap<String, String>,
    /// Environments in which an artifact must have been rolled out with success before it may come here. `[]`: none.
    /// Left out: `production` requires `staging`, others nothing.
    pub requires: Option<Vec<String>>,
    /// Environments whose data may come to it, without what is personal in them. Empty: none; its own data are replaced by nobody's.
    pub data_from: Vec<String>,
    /// Approvals that a job for it needs before it starts, each of another person. Left out: one where `reviewers` are named, else none.
    #[schemars(range(max = 100))]
    pub required_approvals: u32,
    /// Whose approvals count: accounts of GitHub (`ada`) and teams of it (`acme/release`). Empty: of whoever may write to the repository.
    pub reviewers: Vec<String>,
    /// Whether nobody's approval counts for what they have pushed, written or started themselves.
    pub prevent_self_review: bool,
    /// Branches that may deploy to it, as patterns (`main`, `release/*`). Empty, and `tags` too: every branch and tag may.
    pub branches: Vec<String>,
    /// Tags that may deploy to it, as patterns (`v*`).
    pub tags: Vec<String>,
    /// How long each job for it waits from when it could start, 30 days at most. Left out: not at all.
    pub wait_timer: Option<Span>,
    /// When nothing is deployed to it, but by a rollback.
    pub freeze: Vec<FreezeConfig>,
    /// Whether an administrator may let a job start all the same, with a reason that is kept (`segue approve --bypass REASON`).
    pub admin_bypass: bool,
    /// Of `preview` alone: previews are at `pr-NUMBER-SERVICE.DOMAIN`. Left out: `preview.localhost`.
    pub domain: Option<String>,
    /// Of `preview` alone: the domain of previews of forks, which must share no cookies with others. Left out: forks have none.
    pub fork_domain: Option<String>,
    /// Of `preview` alone: whether something in front of the proxy speaks HTTPS for the domain, at the usual port. Left out: no.
    pub https: Option<bool>,
    /// Of `preview` alone: how many there are at most; one more takes the place of the one that was idle for longest. Left out: 20.
    #[schemars(range(min = 1, max = 10_000))]
    pub at_most: Option<u32>,
    /// Of `preview` alone: how long one lives after the newest push. Left out: 14 days.
    pub time_to_live: Option<Span>,
    /// Of `preview` alone: after how long without a request one is stopped, until the next request starts it again; `0s`: never. Holds
    /// from a preview's next push on. Left out: 1 hour.
    pub sleep_after: Option<Span>,
    /// Of `preview` alone: whether a preview that a host carries and nothing is known of is taken away there, and one that its host does
    /// not carry any more is no longer listed. For hosts of which each has a name of its own and no other Segue uses. Left out: no, both
    /// are told in the log.
    pub remove_unknown: Option<bool>,
    /// Of `preview` alone: the most memory of a copy that runs as a container, and what those have that ask for none. Left out: what the
    /// service asks for.
    pub memory: Option<Size>,
    /// Of `preview` alone: the same of processors; `0.5` is half of one.
    pub cpus: Option<f64>,
}

impl Default for EnvironmentConfig {
    fn default() -> Self {
        Self {
            hosts: vec!["local".into()],
            variables: IndexMap::new(),
            requires: None,
            data_from: Vec::new(),
            required_approvals: 0,
            reviewers: Vec::new(),
            prevent_self_review: false,
            branches: Vec::new(),
            tags: Vec::new(),
            wait_timer: None,
            freeze: Vec::new(),
            admin_bypass: true,
            domain: None,
            fork_domain: None,
            https: None,
            at_most: None,
            time_to_live: None,
            sleep_after: None,
            remove_unknown: None,
            memory: None,
            cpus: None,
        }
    }
}

/// A time in which nothing is deployed: one that comes again (`cron` and `duration`), or one between two dates (`from` and `until`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct FreezeConfig {
    /// When it begins, again and again: the five fields of `on.schedule`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    /// How long it lasts each time, a year at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<Span>,
    /// When it begins: `2026-12-20`, which is its midnight, or `2026-12-20T18:00`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// When it is over, written the same way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Whose clocks count, `Europe/Berlin`. Left out: UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    /// What is told to whoever waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What holds for previews, defaults included.
#[derive(Debug, Clone, PartialEq)]
pub struct PreviewConfig {
    /// `pr-NUMBER-SERVICE` stands before it.
    pub domain: String,
    /// The same for those of forks; `None`: they have none.
    pub fork_domain: Option<String>,
    /// Whether HTTPS is spoken in front of the proxy.
    pub https: bool,
    /// How many there are at most.
    pub at_most: u32,
    /// How long one lives after the newest push.
    pub time_to_live: Span,
    /// After how long without a request one is put to sleep; `None`: never.
    pub sleep_after: Option<Span>,
    /// Whether a host's word is enough to take away what is unknown, and to forget what it has lost.
    pub remove_unknown: bool,
    /// The most memory of one.
    pub memory: Option<Size>,
    /// The most processors of one.
    pub cpus: Option<f64>,
}

impl EnvironmentConfig {
    /// The environment's settings of previews, with the defaults of what it leaves out.
    #[must_use]
    pub fn previews(&self) -> PreviewConfig {
        PreviewConfig {
            domain: self.domain.clone().unwrap_or_else(|| "preview.localhost".into()),
            fork_domain: self.fork_domain.clone(),
            https: self.https.unwrap_or(false),
            at_most: self.at_most.unwrap_or(20),
            time_to_live: self.time_to_live.unwrap_or(Span::seconds(14 * 24 * 3600)),
            sleep_after: Some(self.sleep_after.unwrap_or(Span::seconds(3600))).filter(|after| !after.0.is_zero()),
            remove_unknown: self.remove_unknown.unwrap_or(false),
            memory: self.memory,
            cpus: self.cpus,
        }
    }
}

/// One host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct HostConfig {
    /// The unix socket of its `segue host`. Left out: `host/host.sock` in the data directory, and `hosts/NAME/host.sock` for one that
    /// `segue up` starts beside `local`.
    pub socket: Option<PathBuf>,
    /// Whether it joins from another machine (`segue host invite`) and has no socket here.
    pub join: bool,
    /// Where workers reach a host that joined, `HOST:PORT`, where that is not the address that it joined with.
    pub address: Option<String>,
    /// The addresses that its router listens on.
    pub listen: Vec<String>,
    /// The engine that its containers run at: the path of a socket, or a mapping with the address of one on another machine. Left out: that
    /// of `worker.docker`, else `/var/run/docker.sock`. A host other than `local` that has an engine and no `socket` is started by
    /// `segue up`.
    pub docker: Option<EngineConfig>,
    /// The GPUs that it offers to services with `gpus`: `all`, or some by UUID (`nvidia-smi -L`). Left out: none. Those that a worker offers
    /// to jobs on the same machine are to be others.
    pub gpus: Vec<String>,
    /// The program that tells of them. Left out: `nvidia-smi` on the `PATH`.
    pub nvidia_smi: Option<PathBuf>,
    /// Of an engine on another machine: the image of the containers in which `nvidia-smi` is run there. It needs glibc and `sleep`, and sees
    /// the machine's GPUs and the names of its processes, so name one that you trust.
    pub nvidia_smi_image: Option<String>,
    /// The metrics of a dcgm-exporter that tells more of them: `http://127.0.0.1:9400/metrics`. Left out: there is none.
    pub dcgm: Option<String>,
    /// What carries its traffic.
    pub router: RouterKind,
    /// The HAProxy of a host whose `router` is `haproxy`.
    pub haproxy: Option<HaproxyConfig>,
    /// The nginx of a host whose `router` is `nginx`.
    pub nginx: Option<NginxConfig>,
}

impl HostConfig {
    /// Whether it is reached by a socket of this machine, and not one that joins from another.
    #[must_use]
    pub const fn is_here(&self) -> bool {
        self.socket.is_some() || !self.join && self.address.is_none()
    }

    /// Whether `segue up` starts it under this name: `local`, and what has an engine of its own and is started by nobody else.
    #[must_use]
    pub fn is_started_here(&self, name: &str) -> bool {
        name == LOCAL_HOST || self.docker.is_some() && self.socket.is_none() && !self.join && self.address.is_none()
    }

    /// Its own directory below the data directory of the server that starts it.
    #[must_use]
    pub fn folder(&self, name: &str) -> PathBuf {
        if name != LOCAL_HOST && self.is_started_here(name) { PathBuf::from("hosts").join(name) } else { "host".into() }
    }

    /// The socket at which a host of this machine is reached, as far as nobody has named one.
    #[must_use]
    pub fn socket_in(&self, name: &str, data: &std::path::Path) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| data.join(self.folder(name)).join("host.sock"))
    }
}

/// The host of this machine that is there without being named.
pub const LOCAL_HOST: &str = "local";

/// GitHub. Named an App or a token, Segue shows there how runs stand.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct GitHubConfig {
    /// A file that holds the webhook's secret. Left out: `webhook-secret` in the data directory, made at the first start.
    pub webhook_secret_file: Option<PathBuf>,
    /// The GitHub App as which Segue speaks.
    pub app: GitHubAppConfig,
    /// A file that holds a fine-grained token, where there is no App: then commits get statuses, not checks.
    pub token_file: Option<PathBuf>,
    /// Where GitHub's API is: `https://HOST/api/v3` for GitHub Enterprise Server.
    pub api_url: String,
    /// How many changes it may be told of in a minute. GitHub takes 80.
    #[schemars(range(min = 1, max = 10_000))]
    pub writes_per_minute: u32,
    /// How many in an hour. GitHub takes 500.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub writes_per_hour: u32,
    /// How long changes of a run are gathered after one was shown.
    pub gather: Span,
    /// The first pause after a failure; it doubles.
    pub first_pause: Span,
    /// The longest pause after a failure.
    pub longest_pause: Span,
    /// How often an App looks for deliveries that did not come here, to have them sent again; also at each start.
    pub sweep_every: Span,
    /// Whether jobs of pull requests from forks, once approved, may run on a worker's host where they ask for no container. What runs
    /// there is another user, and sees what any user of the machine sees.
    pub forks_on_host: bool,
}

impl Default for GitHubConfig {
    fn default() -> Self {
        Self {
            webhook_secret_file: None,
            app: GitHubAppConfig::default(),
            token_file: None,
            api_url: "https://api.github.com".into(),
            writes_per_minute: 80,
            writes_per_hour: 500,
            gather: Span::seconds(1),
            first_pause: Span::seconds(2),
            longest_pause: Span::seconds(300),
            sweep_every: Span::seconds(3600),
            forks_on_host: false,
        }
    }
}

impl GitHubConfig {
    /// Whether anything is shown there.
    #[must_use]
    pub const fn is_told(&self) -> bool {
        self.app.id.is_some() || self.token_file.is_some()
    }
}

/// A GitHub App.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct GitHubAppConfig {
    /// Its client ID or its App ID, as its settings on GitHub show them.
    pub id: Option<GitHubAppId>,
    /// A file that holds its private key in PEM form, as GitHub gives it out.
    pub private_key_file: Option<PathBuf>,
}

/// The name of a GitHub App: a client ID, or a number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum GitHubAppId {
    /// The App ID.
    Number(u64),
    /// The client ID; or the App ID, as a text.
    Text(String),
}

impl std::fmt::Display for GitHubAppId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}

/// A worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct WorkerConfig {
    /// Its name; the machine's where it is left out.
    pub name: Option<String>,
    /// What it offers to `runs-on`.
    pub labels: Vec<String>,
    /// Jobs at a time.
    #[schemars(range(min = 1, max = 1024))]
    pub capacity: u32,
    /// The user that jobs run as, if the runner is root. Left out: `segue-job` where that user exists, else `nobody`. Where there are
    /// also `NAME-1`, `NAME-2` and so on, each job has one of those to itself while there is a free one.
    pub job_user: Option<String>,
    /// How long running steps may go on after SIGTERM.
    pub shutdown_grace: Span,
    /// Time between TERM and KILL when a step is cancelled.
    pub kill_grace: Span,
    /// The engine for jobs that ask for a container.
    pub docker: DockerConfig,
    /// The GPUs that it offers to jobs with `resources: { gpus: ... }`: `all`, or some by UUID (`nvidia-smi -L`). Left out: none. A job
    /// has those that it asked for to itself, and on such a worker no other sees one.
    pub gpus: Vec<String>,
    /// The program that tells of them. Left out: `nvidia-smi` on the `PATH`.
    pub nvidia_smi: Option<PathBuf>,
}

/// A worker's engine for containers: Docker, from 20.10 on. Whoever may use its socket has the machine: jobs get it in no case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct DockerConfig {
    /// Its socket, mostly `/var/run/docker.sock`. Left out: jobs that ask for a container are left to other workers. Named, the worker
    /// offers the label `docker`.
    pub socket: Option<PathBuf>,
    /// When images are pulled, where the job does not say.
    pub pull: PullPolicy,
    /// How long the engine may take to answer, and how long it may be away while a step runs.
    pub patience: Span,
    /// The most memory of a container, in MiB, and what those have that ask for none. Left out: the machine's.
    pub memory_mib: Option<u64>,
    /// The most processors of a container, and what those have that ask for none. Left out: the machine's.
    pub cpus: Option<u32>,
    /// Whether images are built by the engine's BuildKit, and not by its classic builder.
    pub buildkit: bool,
}

/// When an image is pulled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PullPolicy {
    /// Where the engine does not have it.
    #[default]
    IfNotPresent,
    /// For each job: a tag may have moved.
    Always,
    /// Never: the operator brings images.
    Never,
}

impl Default for DockerConfig {
    fn default() -> Self {
        Self {
            socket: None,
            pull: PullPolicy::default(),
            patience: Span::seconds(20),
            memory_mib: None,
            cpus: None,
            buildkit: true,
        }
    }
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            name: None,
            labels: vec!["linux".into(), "default".into()],
            capacity: 2,
            job_user: None,
            shutdown_grace: Span::seconds(30),
            kill_grace: Span::seconds(10),
            docker: DockerConfig::default(),
            gpus: Vec::new(),
            nvidia_smi: None,
        }
    }
}

/// Somebody to tell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct NotificationConfig {
    /// The form of the message.
    pub kind: NotificationKind,
    /// A file that holds the address: it is a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url_file: Option<PathBuf>,
    /// The address, where it is no secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// What is told; empty: everything.
    #[serde(default)]
    pub events: Vec<NotificationEvent>,
}

impl NotificationConfig {
    /// Whether it is told of such an event.
    #[must_use]
    pub fn wants(&self, event: NotificationEvent) -> bool {
        self.events.is_empty() || self.events.contains(&event)
    }
}

/// The form of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NotificationKind {
    /// `{"text": ...}`, as Slack's incoming webhooks take it.
    Slack,
    /// One JSON object with the facts.
    Webhook,
}

/// What is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NotificationEvent {
    /// A run failed.
    RunFailed,
    /// A run succeeded after the one before on the same branch and pipeline had failed.
    RunRecovered,
    /// A rollout was rolled back.
    RolledBack,
    /// A rollout is held.
    Held,
    /// A step says something, by `segue/notify`.
    Message,
}

/// Where the state is kept: in the data directory (SQLite), or in a PostgreSQL that several servers share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct DatabaseConfig {
    /// `postgres://USER@HOST/DATABASE`, where it holds no password. Left out, and `url-file` too: `segue.db` in the data directory.
    pub url: Option<String>,
    /// A file that holds the address: with a password in it, it is a secret.
    pub url_file: Option<PathBuf>,
    /// Connections that one server holds at most.
    #[schemars(range(min = 5, max = 1000))]
    pub max_connections: u32,
    /// The certificates that a database elsewhere is verified with, in PEM. Left out: those that the system trusts.
    pub ca_file: Option<PathBuf>,
}

impl Default for DatabaseConfig {
    fn default() -> Self {
        Self { url: None, url_file: None, max_connections: 10, ca_file: None }
    }
}

impl DatabaseConfig {
    /// Whether it is one that several servers may share.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.url.is_some() || self.url_file.is_some()
    }
}

/// The message queue: RabbitMQ, from 3.10 on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct BrokerConfig {
    /// Where it is and as whom to speak to it: `amqps://USER:PASSWORD@HOST[:PORT]/VHOST`. Better in a file: it is a secret.
    pub url: Option<String>,
    /// A file that holds the address.
    pub url_file: Option<PathBuf>,
    /// A file with the certificates (PEM) of whoever signs the broker's, besides those that the system trusts.
    pub ca_file: Option<PathBuf>,
    /// Whether a broker elsewhere than on this machine may be spoken to without encryption.
    pub allow_plain: bool,
    /// How often an idle worker asks and a server looks whether a bell was lost: what a broker that is away costs at most.
    pub look_every: Span,
}

impl BrokerConfig {
    /// Whether there is one.
    #[must_use]
    pub const fn is_named(&self) -> bool {
        self.url.is_some() || self.url_file.is_some()
    }
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self { url: None, url_file: None, ca_file: None, allow_plain: false, look_every: Span::seconds(30) }
    }
}

/// Where the contents of artifacts and caches lie.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct StorageConfig {
    /// In the data directory, or in a bucket.
    pub kind: StorageKind,
    /// The bucket, which must be there.
    pub bucket: Option<String>,
    /// The bucket's region.
    pub region: Option<String>,
    /// Where the store is: `https://HOST[:PORT]`. Left out: Amazon's own address for the region.
    pub endpoint: Option<String>,
    /// What the names of all objects begin with, without a slash at either end. One server alone may use it.
    pub prefix: Option<String>,
    /// A file that holds the id of the access key. Left out: the variable `AWS_ACCESS_KEY_ID`.
    pub access_key_file: Option<PathBuf>,
    /// A file that holds the secret of the access key. Left out: the variable `AWS_SECRET_ACCESS_KEY`.
    pub secret_key_file: Option<PathBuf>,
    /// Whether the bucket stands in the path and not in the host's name. Left out: where an `endpoint` is named.
    pub path_style: Option<bool>,
    /// Whether an endpoint elsewhere than on this machine may be spoken to without encryption.
    pub allow_http: bool,
}

/// A place for contents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StorageKind {
    /// `artifacts` in the data directory.
    #[default]
    Directory,
    /// A bucket of Amazon S3, or of a store that speaks its protocol.
    S3,
}

/// How long things are kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RetentionConfig {
    /// Logs of ended runs.
    pub logs: Span,
    /// All logs together, in MiB; the oldest go first.
    pub logs_max_mib: u64,
    /// Artifacts that no kept release needs.
    pub artifacts: Span,
    /// All artifacts together, in MiB; the oldest that no kept release needs go first.
    pub artifacts_max_mib: u64,
    /// Caches since they were last used.
    pub caches: Span,
    /// The caches of a repository together, in MiB; those that were not used for longest go first.
    pub caches_max_mib: u64,
    /// The caches of a repository.
    pub caches_max_count: u32,
    /// What jobs' directories held before their steps, for reruns from a step; 0 keeps none.
    pub snapshots: Span,
    /// All of those together, in MiB; the oldest go first.
    pub snapshots_max_mib: u64,
    /// Releases kept per environment and service, as rollback points.
    pub releases: u32,
    /// Records of deliveries and runs.
    pub runs: Span,
    /// Below this much free disk, in MiB, deliveries are still taken but no job starts.
    pub low_disk_mib: u64,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self {
            logs: Span::seconds(90 * 86_400),
            logs_max_mib: 10 * 1024,
            artifacts: Span::seconds(30 * 86_400),
            artifacts_max_mib: 20 * 1024,
            caches: Span::seconds(7 * 86_400),
            caches_max_mib: 10 * 1024,
            caches_max_count: 1_000,
            snapshots: Span::seconds(3 * 86_400),
            snapshots_max_mib: 4 * 1024,
            releases: 10,
            runs: Span::seconds(400 * 86_400),
            low_disk_mib: 512,
        }
    }
}

/// Time limits of the machinery itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct TimingConfig {
    /// How long a lease lives without renewal.
    pub lease: Span,
    /// How often a lease is renewed.
    pub renew: Span,
    /// How long a canary's weights outlive whoever watches it.
    pub dead_man: Span,
    /// How long a rollout that has changed something waits for a host that does not answer, before it ends as failed.
    pub absent_host: Span,
    /// How long a token of `segue host invite` may be used.
    pub host_invitation: Span,
    /// How long the certificate of a host that joined holds. It is renewed when a third of that is left.
    pub host_certificate: Span,
    /// How long a worker's certificate for the joined hosts of a rollout holds. It is renewed as a host's is.
    pub worker_certificate: Span,
}

impl Default for TimingConfig {
    fn default() -> Self {
        Self {
            lease: Span::seconds(30),
            renew: Span::seconds(5),
            dead_man: Span::seconds(15),
            absent_host: Span::seconds(86_400),
            host_invitation: Span::seconds(900),
            host_certificate: Span::seconds(30 * 86_400),
            worker_certificate: Span::seconds(3600),
        }
    }
}

/// The key with which statements of where images are from are signed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ProvenanceConfig {
    /// The file that holds it, outside the data directory; `segue provenance key create` makes it. Left out: `segue/provenance.key` in the
    /// user's configuration directory. Where there is no such file, nothing is signed.
    pub key_file: Option<PathBuf>,
}

/// The key for secrets at rest.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct SecretsConfig {
    /// The file that holds it, outside the data directory. Left out: `segue/secret.key` in the user's configuration directory,
    /// made when the first secret is set.
    pub key_file: Option<PathBuf>,
}

/// Lambda Cloud: who may rent machines with GPUs there, which, and what they may cost. The key is the server's alone: jobs and workers
/// never have it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct LambdaConfig {
    /// A file that holds the API key. Left out: the variable `LAMBDA_API_KEY`.
    pub key_file: Option<PathBuf>,
    /// Where the API is.
    pub url: String,
    /// The repositories whose jobs may rent, `owner/name`. Empty: none may. Code of forks never may.
    pub repositories: Vec<String>,
    /// The types that may be rented, `gpu_1x_a10`. Empty: every type that costs no more than `max-price`.
    pub types: Vec<String>,
    /// The names of the SSH keys at Lambda that may log in; a job that names none gets the first.
    pub ssh_keys: Vec<String>,
    /// What an hour of a machine may cost, in US dollars. Needed where `repositories` names one.
    pub max_price: Option<Price>,
    /// How many there may be at a time.
    #[schemars(range(min = 1, max = 1000))]
    pub max_machines: u32,
    /// How long one may live, 30 days at most.
    pub max_lifetime: Span,
    /// How often machines that are there are looked at; those that start or are to go, at least every 10 s.
    pub look_every: Span,
    /// The time between two requests. Lambda takes one each second.
    pub request_every: Span,
    /// The time between two launches. Lambda takes one in 12 s.
    pub launch_every: Span,
    /// How long a launch whose answer was lost is looked for before it counts as not made.
    pub settle: Span,
}

impl LambdaConfig {
    /// Whether anybody may rent.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        !self.repositories.is_empty()
    }
}

impl Default for LambdaConfig {
    fn default() -> Self {
        Self {
            key_file: None,
            url: "https://cloud.lambda.ai/api/v1".into(),
            repositories: Vec::new(),
            types: Vec::new(),
            ssh_keys: Vec::new(),
            max_price: None,
            max_machines: 1,
            max_lifetime: Span::seconds(24 * 3600),
            look_every: Span::seconds(30),
            request_every: Span::seconds(1),
            launch_every: Span::seconds(12),
            settle: Span::seconds(120),
        }
    }
}
