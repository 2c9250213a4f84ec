//! How a worker is set up.

use std::{ffi::OsString, fmt, path::PathBuf, pin::Pin, sync::Arc, time::Duration};

use secrecy::SecretString;
use segue_schemas::{
    config::{BrokerConfig, DockerConfig},
    gpu::{self, GpuOffer},
    id::JobId,
    plan::DOCKER_LABEL,
};

/// How a worker is set up. [`WorkerOptions::new`] gives every limit its default.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// The server's address, `http://HOST:PORT`.
    pub server_url: String,
    /// The worker token of that server.
    pub token: SecretString,
    /// The worker's own directory (`DIR/worker` of `segue up --data DIR`): workspaces, state, spooled logs, its name.
    pub data_dir: PathBuf,
    /// The worker's name; the one kept in the data directory, at first the machine's, where it is left out.
    pub name: Option<String>,
    /// The message queue that brings its bells; none: the server holds its requests open.
    pub broker: BrokerConfig,
    /// What it offers to `runs-on`.
    pub labels: Vec<String>,
    /// Jobs at a time, at least 1.
    pub capacity: u32,
    /// The user that jobs run as, when the worker runs as root; else `segue-job` where it exists, else `nobody`.
    pub job_user: Option<String>,
    /// Jobs run as the worker's own user, whatever they are: for a person who runs own code on the own machine, where a
    /// second user would guard nothing.
    pub as_own_user: bool,
    /// Called when a script has failed, before anything else is done; the job goes on when it returns.
    pub on_failed_script: Option<OnFailedScript>,
    /// How long after TERM what is left of a job is killed.
    pub kill_grace: Duration,
    /// How long running steps may go on when the worker stops, before their jobs are handed back.
    pub shutdown_grace: Duration,
    /// How long steps that run after a cancel or a time-out may take together.
    pub cleanup_limit: Duration,
    /// How long the end of a job is kept and offered to a server that can't be reached.
    pub report_patience: Duration,
    /// How much of one job's log is kept on disk while the server takes none.
    pub max_spool_bytes: u64,
    /// Below so much free space of `data_dir`, in MiB, no job is begun; 0: whatever there is will do.
    pub low_disk_mib: u64,
    /// The engine for jobs that ask for a container.
    pub docker: DockerConfig,
    /// Which GPUs are offered to jobs: UUIDs, or `all`.
    pub chosen_gpus: Vec<String>,
    /// The program that tells of them; `None`: `nvidia-smi` on the `PATH`.
    pub nvidia_smi: Option<PathBuf>,
    /// Those of them that are there and sound. Filled in when the worker starts.
    pub gpus: Vec<GpuOffer>,
    /// The program that is started as the step supervisor; it calls [`crate::supervisor::main`].
    pub supervisor_command: Vec<OsString>,
}

/// A script of a step that has failed, with everything that is needed to look into it at its place.
#[derive(Debug, Clone)]
pub struct FailedScript {
    /// Its job.
    pub job: JobId,
    /// Its exit code.
    pub exit_code: i32,
    /// Where it ran.
    pub directory: PathBuf,
    /// Its whole environment.
    pub env: Vec<(String, String)>,
    /// The file that holds it, rendered.
    pub script: PathBuf,
    /// How far the job's log went when it ended, in bytes.
    pub log_offset: u64,
}

/// What is done about a failed script while its workspace is still there.
#[derive(Clone)]
pub struct OnFailedScript(pub Arc<dyn Fn(FailedScript) -> Looking + Send + Sync>);

/// A look into a failed script, until it is over.
pub type Looking = Pin<Box<dyn Future<Output = ()> + Send>>;

impl fmt::Debug for OnFailedScript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnFailedScript")
    }
}

impl WorkerOptions {
    /// A worker with two slots and the label `linux`, everything else by default.
    #[must_use]
    pub fn new(server_url: impl Into<String>, token: SecretString, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            server_url: server_url.into(),
            token,
            data_dir: data_dir.into(),
            name: None,
            broker: BrokerConfig::default(),
            labels: vec!["linux".into()],
            capacity: 2,
            job_user: None,
            as_own_user: false,
            on_failed_script: None,
            kill_grace: Duration::from_secs(10),
            shutdown_grace: Duration::from_secs(30),
            cleanup_limit: Duration::from_secs(300),
            report_patience: Duration::from_secs(600),
            max_spool_bytes: 64 * 1024 * 1024,
            low_disk_mib: 0,
            docker: DockerConfig::default(),
            chosen_gpus: Vec::new(),
            nvidia_smi: None,
            gpus: Vec::new(),
            supervisor_command: vec!["/proc/self/exe".into(), "step-supervisor".into()],
        }
    }

    /// What it offers to jobs: its labels, [`DOCKER_LABEL`] where it has an engine for containers, and labels that stand for its GPUs.
    #[must_use]
    pub fn offered(&self) -> Vec<String> {
        let engine = self.docker.socket.is_some() && !self.labels.iter().any(|label| label == DOCKER_LABEL);
        let own = self.labels.iter().cloned().chain(engine.then(|| DOCKER_LABEL.to_owned()));
        own.chain(gpu::offered_labels(&self.gpus)).collect()
    }
}
