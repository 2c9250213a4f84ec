//! The steps that Segue brings: checkout, artifacts, and the way to a rollout. Caches, health checks and images have files of their own.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use indexmap::IndexMap;
use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
};
use segue_pipelines::machines;
use segue_schemas::{
    artifact::{Artifact, check_name},
    id::{Digest, RolloutId},
    plan::BUILD_IMAGE,
    sync::StepSync,
    worker_api::{AttachArtifact, JobClaim, Serving, StepNotice, StepRollback},
};
use sha2::{Digest as _, Sha256};

use super::{
    cache, error::StepError, health, place::StepPlace, run::Running, state::PendingCache, workspace::Workspace,
};
use crate::{
    artifact::Packed,
    checkout::{self, CheckoutError, mirror, mirror::Mirrors},
    control_plane::ControlPlane,
    deploy,
    engine::{EngineJob, Exit, Task, UserIds, Work, docker::Docker},
    log::JobLog,
    supervisor::{client::SupervisorError, protocol::NOTHING_TO_PACK},
};

const ROLLBACK: &str = "segue/rollback";
const SYNC: &str = "segue/sync-data";
const NOTIFY: &str = "segue/notify";
/// Characters of a message to people.
const MAX_NOTICE: usize = 2000;
const CHECKOUT: &str = "segue/checkout";
const UPLOAD: &str = "segue/upload-artifact";
const DOWNLOAD: &str = "segue/download-artifact";

/// What a built-in step came to.
#[derive(Debug)]
pub enum BuiltInEnd {
    /// It is done, with these outputs.
    Done(IndexMap<String, String>),
    /// It asked for a rollout, and ends with it.
    Waits(RolloutId),
    /// It failed, and said why in the log.
    Failed(Exit),
    /// It found that something is not as it should be, and is to fail for this reason.
    Refused(String),
}

/// A built-in step within its job.
pub struct BuiltIn<'a> {
    /// The job.
    pub claim: &'a JobClaim,
    /// Which step.
    pub step: usize,
    /// The server.
    pub control_plane: &'a ControlPlane,
    /// What runs tasks.
    pub engine: &'a mut dyn EngineJob,
    /// The log.
    pub log: &'a JobLog,
    /// The job's directories.
    pub workspace: &'a Workspace,
    /// Whom tasks run as.
    pub user: Option<UserIds>,
    /// Own mirrors.
    pub mirrors: &'a Mirrors,
    /// The engine for containers, where the worker has one.
    pub docker: Option<&'a Arc<Docker>>,
    /// The caches to save at the job's end.
    pub caches: &'a mut Vec<PendingCache>,
    /// The names of the artifacts that the job has made.
    pub artifacts: &'a mut Vec<String>,
}

impl Running<'_> {
    /// What a built-in step works with, or what does its like after the last step.
    pub(super) fn built_in(&mut self, step: usize) -> BuiltIn<'_> {
        BuiltIn {
            claim: self.claim,
            step,
            control_plane: &self.runner.control_plane,
            engine: self.engine.as_mut(),
            log: &self.log,
            workspace: &self.workspace,
            user: self.user.ids,
            mirrors: &self.runner.mirrors,
            docker: self.runner.docker.as_ref(),
            caches: &mut self.state.caches,
            artifacts: &mut self.state.artifacts,
        }
    }
}

impl BuiltIn<'_> {
    /// Does what `uses` names, with these evaluated inputs.
    ///
    /// # Errors
    /// [`StepError`].
    pub async fn run(&mut self, uses: &str, with: &IndexMap<String, String>) -> Result<BuiltInEnd, StepError> {
        let name = uses.split('@').next().unwrap_or(uses);
        match name {
            CHECKOUT => self.checkout(with).await,
            UPLOAD => self.upload(with).await,
            DOWNLOAD => self.download(with).await,
            cache::CACHE => self.cache(with).await,
            health::HEALTH_CHECK => self.health_check(with).await,
            ROLLBACK => self.roll_back(with).await,
            SYNC => self.sync_data(with).await,
            BUILD_IMAGE => self.build_image(with).await,
            NOTIFY => self.notify(with).await,
            machines::ACTION => self.provision_gpu(with).await,
            machines::RELEASE => self.terminate_gpu(with).await,
            deploy::inputs::DEPLOY | deploy::inputs::PREVIEW | deploy::inputs::CANARY | deploy::inputs::PROMOTE => {
                let create = deploy::step::prepare_rollout(self, name, with).await?;
                let created = self.control_plane.create_rollout(self.claim.job, &create).await?;
                self.log
                    .line(format!(
                        "Rollout {} of `{}` to `{}` is asked for; this job waits for it without holding a slot.",
                        created.rollout, create.service.name, create.environment
                    ))
                    .await;
                if let Some(url) = &created.url {
                    self.log.line(format!("The preview is going to be at {url}")).await;
                }
                Ok(BuiltInEnd::Waits(created.rollout))
            }
            _ => {
                let names: Vec<&str> = segue_pipelines::actions::names().collect();
                Err(StepError::Configuration(format!("there is no action `{uses}`; there are {}", names.join(", "))))
            }
        }
    }

    async fn checkout(&mut self, with: &IndexMap<String, String>) -> Result<BuiltInEnd, StepError> {
        let inputs = Inputs::of(CHECKOUT, with, &["path", "ref"])?;
        let path = inputs.path("path")?.unwrap_or_else(|| ".".into());
        let mirror = self.mirror().await?;
        let (commit, branch) = match inputs.get("ref") {
            Some(name) => (mirror::resolve(&mirror, name).await.map_err(checkout_error)?, None),
            None => (self.claim.commit.clone(), self.branch()),
        };
        let git_dir = self.workspace.private(&format!("git-{}", self.step));
        let layout = {
            let (mirror, git_dir, commit) = (mirror, git_dir.clone(), commit.clone());
            let (workspace, origin) = (self.workspace.clone(), self.claim.clone_url.clone());
            let copied = self.claim.plan.asks_for_container();
            move || {
                let (branch, origin) = (branch.as_deref(), origin.as_str());
                let source = checkout::Source { mirror: &mirror, commit: &commit, branch, origin, copied };
                checkout::lay_out(&source, &git_dir, |path| workspace.own(path))
            }
        };
        blocking(layout).await?.map_err(checkout_error)?;
        // From here on the job's user may have it: the rest is done in its name.
        let handed = self.workspace.temp().join(format!("checkout-{}", self.step));
        std::fs::rename(&git_dir, &handed)
            .map_err(|error| StepError::Infrastructure(format!("{}: {error}", handed.display())))?;
        let argv = ["sh", "-ec", checkout::FINISH, "sh", &path, &handed.to_string_lossy()];
        let home = self.workspace.home().to_string_lossy().into_owned();
        // a job's own settings may name programs, and this runs outside of its container
        let no_settings = self.claim.plan.container.is_some().then_some(("GIT_CONFIG_GLOBAL", "/dev/null"));
        let work = Work::Program {
            argv: argv.map(str::to_owned).to_vec(),
            env: [
                ("PATH", super::context::PATH),
                ("HOME", &home),
                ("GIT_CONFIG_NOSYSTEM", "1"),
                ("GIT_TERMINAL_PROMPT", "0"),
                ("LANG", "C.UTF-8"),
            ]
            .into_iter()
            .chain(no_settings)
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        };
        match self.task(work, None).await? {
            Exit::Code(0) => {
                self.log.line(format!("{} is at {commit}", self.claim.repository)).await;
                Ok(BuiltInEnd::Done([("commit".to_owned(), commit.to_string())].into()))
            }
            exit => Ok(BuiltInEnd::Failed(exit)),
        }
    }

    async fn upload(&mut self, with: &IndexMap<String, String>) -> Result<BuiltInEnd, StepError> {
        let inputs = Inputs::of(UPLOAD, with, &["name", "path", "if-no-files-found", "retention-days"])?;
        let name = inputs.get("name").unwrap_or("artifact").to_owned();
        check_name(&name).map_err(|wrong| {
            StepError::Configuration(format!("input `name` of `{UPLOAD}`: `{}` {wrong}", name.escape_debug()))
        })?;
        let paths = inputs.get("path").ok_or_else(|| inputs.missing("path", "the directory or file to keep"))?;
        let patterns: Vec<String> = paths.lines().map(|line| line.trim().to_owned()).collect();
        let retention_days = inputs.get("retention-days").and_then(|days| days.parse().ok());
        let Some((digest, bytes)) = self.pack(Packed::Matching(patterns)).await? else {
            let shown = paths.lines().collect::<Vec<_>>().join(", ");
            let text = format!("no file was found with {shown}; no artifact `{name}` is made");
            return match inputs.get("if-no-files-found").unwrap_or("warn") {
                "ignore" => Ok(BuiltInEnd::Done(IndexMap::new())),
                "error" => Ok(BuiltInEnd::Refused(text)),
                _ => {
                    self.log.line(format!("##[warning]{text}")).await;
                    Ok(BuiltInEnd::Done(IndexMap::new()))
                }
            };
        };
        let epoch = self.claim.epoch;
        let attach = AttachArtifact { epoch, name: name.clone(), digest: digest.clone(), bytes, retention_days };
        self.control_plane.attach_artifact(self.claim.job, &attach).await?;
        self.artifacts.push(name.clone());
        self.log.line(format!("Artifact `{name}` is {digest}, {bytes} bytes")).await;
        let outputs = [("digest", digest.to_string()), ("bytes", bytes.to_string())];
        Ok(BuiltInEnd::Done(outputs.map(|(name, value)| (name.to_owned(), value)).into()))
    }

    /// One artifact by its name; without one all of the attempt, each in a directory of its name.
    async fn download(&mut self, with: &IndexMap<String, String>) -> Result<BuiltInEnd, StepError> {
        let inputs = Inputs::of(DOWNLOAD, with, &["name", "path"])?;
        let path = inputs.path("path")?.unwrap_or_else(|| ".".into());
        let Some(name) = inputs.get("name") else {
            for artifact in self.control_plane.artifacts(self.claim.job).await? {
                // the server takes no other name; a place outside of `path` must not hang on that alone
                check_name(&artifact.name).map_err(|wrong| {
                    StepError::Configuration(format!("the artifact `{}` {wrong}", artifact.name.escape_debug()))
                })?;
                let exit = self.unpack(&artifact, &format!("{path}/{}", artifact.name)).await?;
                if exit != Exit::Code(0) {
                    return Ok(BuiltInEnd::Failed(exit));
                }
            }
            return Ok(BuiltInEnd::Done(IndexMap::new()));
        };
        let Some(artifact) = self.control_plane.artifact(self.claim.job, name).await? else {
            return Err(StepError::Configuration(format!(
                "input `name` of `{DOWNLOAD}`: this run has no artifact `{name}`; make it with `{UPLOAD}` in a job that this one `needs`"
            )));
        };
        match self.unpack(&artifact, &path).await? {
            Exit::Code(0) => Ok(BuiltInEnd::Done([("digest".to_owned(), artifact.digest.to_string())].into())),
            exit => Ok(BuiltInEnd::Failed(exit)),
        }
    }

    async fn unpack(&mut self, artifact: &Artifact, path: &str) -> Result<Exit, StepError> {
        let (_private, file) = self.fetch(&artifact.digest, artifact.bytes).await?;
        let exit = self.task(Work::Unpack { path: path.to_owned() }, Some(&file)).await?;
        if exit == Exit::Code(0) {
            self.log.line(format!("Artifact `{}` ({}) is unpacked at {path}", artifact.name, artifact.digest)).await;
        }
        Ok(exit)
    }

    /// A content of the server's in a file of the worker's own, ready to be read.
    pub(super) async fn fetch(&mut self, digest: &Digest, bytes: u64) -> Result<(PrivateFile, File), StepError> {
        let (private, file) = self.private_file("download")?;
        let mut into = tokio::fs::File::from_std(file.try_clone().map_err(|e| private.error(&e))?);
        self.control_plane.download_artifact(digest, bytes, &mut into).await?;
        drop(into);
        io::Seek::rewind(&mut &file).map_err(|e| private.error(&e))?;
        Ok((private, file))
    }

    async fn roll_back(&mut self, with: &IndexMap<String, String>) -> Result<BuiltInEnd, StepError> {
        let inputs = Inputs::of(ROLLBACK, with, &["service", "to"])?;
        let service = inputs.get("service").ok_or_else(|| inputs.missing("service", "what to roll back"))?.to_owned();
        let to = inputs.get("to").map(str::to_owned);
        let ask = StepRollback { epoch: self.claim.epoch, step: self.step, service, to };
        let created = self.control_plane.step_rollback(self.claim.job, &ask).await?;
        let text = format!(
            "Rollout {} goes back to release {} (commit {}); this job waits for it without holding a slot.",
            created.rollout,
            created.release.id,
            created.release.commit.short()
        );
        self.log.line(text).await;
        Ok(BuiltInEnd::Waits(created.rollout))
    }

    async fn sync_data(&mut self, with: &IndexMap<String, String>) -> Result<BuiltInEnd, StepError> {
        let inputs = Inputs::of(SYNC, with, &["service", "from", "to", "backup"])?;
        let service = inputs.get("service").ok_or_else(|| inputs.missing("service", "whose data come"))?.to_owned();
        let from = inputs.get("from").ok_or_else(|| inputs.missing("from", "the environment that they are from"))?;
        let environment = self.claim.plan.environment.as_deref();
        if let Some(to) = inputs.get("to").filter(|to| Some(*to) != environment) {
            return Err(StepError::Configuration(format!(
                "input `to` of `{SYNC}`: data come to the environment of the job, by its rules: write `environment: {to}` at the job `{}`",
                self.claim.plan.key
            )));
        }
        let data = inputs.get("backup").unwrap_or("fresh").parse();
        let data = data.map_err(|error| {
            StepError::Configuration(format!("input `backup` of `{SYNC}` is `fresh`, `latest` or a backup: {error}"))
        })?;
        let (epoch, step, from) = (self.claim.epoch, self.step, from.to_owned());
        let ask = StepSync { epoch, step, from, service, data };
        let created = self.control_plane.step_sync(self.claim.job, &ask).await?;
        let text = format!(
            "Rollout {} brings the data of `{}` in `{}`, without what is personal in them; this job waits for it without holding a slot.",
            created.rollout, ask.service, ask.from
        );
        self.log.line(text).await;
        Ok(BuiltInEnd::Waits(created.rollout))
    }

    async fn notify(&mut self, with: &IndexMap<String, String>) -> Result<BuiltInEnd, StepError> {
        let inputs = Inputs::of(NOTIFY, with, &["text"])?;
        let text = inputs.get("text").ok_or_else(|| inputs.missing("text", "what to tell"))?;
        let mark = self.log.mark().await;
        let text = mark.masker.mask(&super::steps::short(text, MAX_NOTICE));
        let notice = StepNotice { epoch: self.claim.epoch, step: self.step, text };
        self.control_plane.notify(self.claim.job, &notice).await?;
        Ok(BuiltInEnd::Done(IndexMap::new()))
    }

    /// Packs files of the workspace (of the job's directory, for a cache) and uploads them; `None` where there are none.
    pub(super) async fn pack(&mut self, packed: Packed) -> Result<Option<(Digest, u64)>, StepError> {
        match self.pack_into("pack", packed).await? {
            Some((private, file)) => self.upload_packed(&private, file).await.map(Some),
            None => Ok(None),
        }
    }

    /// Packs them into a file of the worker's own that is called so; `None` where there are none.
    pub(super) async fn pack_into(
        &mut self,
        name: &str,
        packed: Packed,
    ) -> Result<Option<(PrivateFile, File)>, StepError> {
        let (private, file) = self.private_file(name)?;
        match self.task(Work::Pack { packed }, Some(&file)).await? {
            Exit::Code(0) => Ok(Some((private, file))),
            Exit::Code(NOTHING_TO_PACK) => Ok(None),
            _ => Err(StepError::Configuration("it can't be packed; the log says why".into())),
        }
    }

    /// Uploads what was packed, unless the server has it already; its digest and bytes.
    pub(super) async fn upload_packed(
        &mut self,
        private: &PrivateFile,
        file: File,
    ) -> Result<(Digest, u64), StepError> {
        let (digest, bytes) = blocking(move || digest_of(&file)).await?.map_err(|e| private.error(&e))?;
        // an answer without a body can't say what is wrong: that of the upload does
        if !self.control_plane.has_artifact(&digest).await.unwrap_or(false) {
            self.control_plane.upload_artifact(&digest, &private.0, bytes).await?;
        }
        Ok((digest, bytes))
    }

    pub(super) async fn task(&mut self, work: Work, archive: Option<&File>) -> Result<Exit, StepError> {
        let of_cache = matches!(work, Work::Restore | Work::Pack { packed: Packed::Cache(_) });
        let directory = if of_cache { self.workspace.root().to_owned() } else { self.workspace.work() };
        let directory = directory.to_string_lossy().into_owned();
        let task = Task { user: self.user, directory, work };
        self.engine.start(&task, self.log.writer(), archive.map(AsFd::as_fd)).await?;
        Ok(self.engine.exited().await?)
    }

    pub(super) async fn mirror(&self) -> Result<PathBuf, StepError> {
        let servers = self.claim.mirror.as_deref().map(Path::new);
        self.mirrors
            .with_commit(servers, &self.claim.repository, &self.claim.clone_url, &self.claim.commit)
            .await
            .map_err(checkout_error)
    }

    /// The branch that the run is of.
    fn branch(&self) -> Option<String> {
        let git_ref = self.claim.contexts.get("github")?.get("ref")?.as_str()?;
        let branch = git_ref.strip_prefix("refs/heads/")?;
        // It becomes part of a file of git's.
        (!branch.is_empty() && !branch.contains(|c: char| c.is_ascii_control() || c == ' ')).then(|| branch.to_owned())
    }

    /// A file that the job's user can't reach but through the descriptor that it is given.
    pub(super) fn private_file(&self, name: &str) -> Result<(PrivateFile, File), StepError> {
        let private = PrivateFile(self.workspace.private(&format!("{name}-{}", self.step)));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        let file = options.open(&private.0).map_err(|e| private.error(&e))?;
        Ok((private, file))
    }
}

#[async_trait]
impl StepPlace for BuiltIn<'_> {
    fn claim(&self) -> &JobClaim {
        self.claim
    }

    fn step(&self) -> usize {
        self.step
    }

    async fn read_file(&mut self, path: &str, max_bytes: u64) -> Result<Option<Vec<u8>>, StepError> {
        let inside = inside(path).map_err(|reason| StepError::Configuration(format!("`{path}` {reason}")))?;
        let work = self.workspace.work();
        if let Some(content) = read_beneath(&work, &inside, max_bytes)? {
            return Ok(Some(content));
        }
        if work.join(".git").exists() {
            return Ok(None);
        }
        let mirror = self.mirror().await?;
        mirror::read_file(&mirror, &self.claim.commit, &inside, max_bytes).await.map_err(checkout_error)
    }

    async fn pack_and_upload(&mut self, path: &str) -> Result<Digest, StepError> {
        let inside = inside(path).map_err(|reason| StepError::Configuration(format!("`path: {path}` {reason}")))?;
        let packed = self.pack(Packed::Whole(inside)).await?;
        packed
            .map(|(digest, _)| digest)
            .ok_or_else(|| StepError::Configuration(format!("`path: {path}` holds nothing")))
    }

    async fn resolve_image(&mut self, image: &str) -> Result<String, StepError> {
        let docker = self.docker.ok_or_else(|| {
            StepError::Configuration(format!(
                "`{image}` can come to mean another image, and this worker has no engine to ask what it means now: give the image by its \
                 digest, as the output `image` of `segue/build-image` does, or name the engine's socket: `worker.docker.socket` in segue.yaml"
            ))
        })?;
        let (found, why_local) = docker.resolve_image(image).await.map_err(SupervisorError::from)?;
        self.log.line(format!("{image} is {found} now")).await;
        if let Some(why) = why_local {
            let text = format!(
                "##[warning]Only this worker's engine has {image}: {why}. A host with another engine can't run it."
            );
            self.log.line(text).await;
        }
        Ok(found)
    }

    async fn serving(&mut self, environment: &str, service: &str) -> Result<Option<Serving>, StepError> {
        Ok(self.control_plane.serving(self.claim.job, environment, service).await?)
    }

    async fn artifact(&mut self, name: &str) -> Result<Option<Artifact>, StepError> {
        Ok(self.control_plane.artifact(self.claim.job, name).await?)
    }
}

/// A file that goes with its value.
pub(super) struct PrivateFile(PathBuf);

impl PrivateFile {
    pub(super) fn error(&self, error: &io::Error) -> StepError {
        StepError::Infrastructure(format!("{}: {error}", self.0.display()))
    }
}

impl Drop for PrivateFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The inputs of a step, all of them known.
pub(super) struct Inputs<'a> {
    action: &'static str,
    with: &'a IndexMap<String, String>,
}

impl<'a> Inputs<'a> {
    pub(super) fn of(
        action: &'static str,
        with: &'a IndexMap<String, String>,
        known: &[&str],
    ) -> Result<Self, StepError> {
        match with.keys().find(|name| !known.contains(&name.as_str())) {
            None => Ok(Self { action, with }),
            Some(name) => Err(StepError::Configuration(format!(
                "`{action}` has no input `{name}`; it has {}",
                known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" and ")
            ))),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&'a str> {
        self.with.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// A path within the workspace.
    fn path(&self, name: &str) -> Result<Option<String>, StepError> {
        self.get(name)
            .map(|path| {
                inside(path).map_err(|reason| {
                    StepError::Configuration(format!("input `{name}` of `{}`: `{path}` {reason}", self.action))
                })
            })
            .transpose()
    }

    pub(super) fn missing(&self, name: &str, what: &str) -> StepError {
        StepError::Configuration(format!("`{}` needs `with: {name}`: {what}", self.action))
    }
}

/// The path, if it is relative and does not lead upwards.
pub(super) fn inside(path: &str) -> Result<String, &'static str> {
    let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if plain && !path.is_empty() {
        // Never taken for an option.
        Ok(if path.starts_with('-') { format!("./{path}") } else { path.to_owned() })
    } else {
        Err("is not within the workspace; write a path relative to it, without `..`")
    }
}

/// Reads a plain file below `directory`; no link leads out of it.
fn read_beneath(directory: &Path, path: &str, max_bytes: u64) -> Result<Option<Vec<u8>>, StepError> {
    let failed = |reason: String| StepError::Configuration(format!("`{path}`: {reason}"));
    let root = File::open(directory).map_err(|error| failed(error.to_string()))?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = match openat2(&root, path, how) {
        Ok(file) => File::from(file),
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
        Err(Errno::EXDEV) => return Err(failed("it is a link out of the workspace".into())),
        Err(errno) => return Err(failed(errno.desc().into())),
    };
    let metadata = file.metadata().map_err(|error| failed(error.to_string()))?;
    if !metadata.is_file() {
        return Err(failed("it is no plain file".into()));
    }
    let mut content = Vec::new();
    file.take(max_bytes + 1).read_to_end(&mut content).map_err(|error| failed(error.to_string()))?;
    if content.len() as u64 > max_bytes {
        return Err(failed(format!("it is larger than {max_bytes} bytes")));
    }
    Ok(Some(content))
}

fn digest_of(file: &File) -> io::Result<(Digest, u64)> {
    let mut file = file;
    io::Seek::rewind(&mut file)?;
    let mut hash = Sha256::new();
    let mut block = vec![0; 256 * 1024];
    let mut bytes = 0;
    loop {
        let count = file.read(&mut block)?;
        if count == 0 {
            break;
        }
        hash.update(&block[..count]);
        bytes += count as u64;
    }
    let digest = format!("sha256:{}", hex::encode(hash.finalize())).parse().map_err(io::Error::other)?;
    Ok((digest, bytes))
}

pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, StepError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| StepError::Infrastructure(error.to_string()))
}

pub(super) fn checkout_error(error: CheckoutError) -> StepError {
    match error {
        CheckoutError::File { .. } => StepError::Infrastructure(error.to_string()),
        CheckoutError::Name(_) => StepError::Configuration(error.to_string()),
        CheckoutError::Git { ref command, .. } if command == "rev-parse" => StepError::Configuration(error.to_string()),
        CheckoutError::Git { .. } => StepError::Infrastructure(error.to_string()),
    }
}
