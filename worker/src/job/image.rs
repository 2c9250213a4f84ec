//! `segue/build-image`: packs the context as the job's user, has the engine build it as it comes, names and pushes what was built.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use bytes::{Bytes, BytesMut};
use indexmap::IndexMap;
use nix::{fcntl::OFlag, unistd::pipe2};
use segue_pipelines::{
    actions,
    image::{Build, WrongInput, repository, rfc3339, source},
};
use segue_schemas::{
    plan::BUILD_IMAGE,
    provenance::{NamedImage, StatedFile},
};
use tokio::{
    io::AsyncReadExt as _,
    net::unix::pipe,
    sync::{mpsc, oneshot},
};

use super::{
    built_in::{BuiltIn, BuiltInEnd, Inputs, checkout_error, inside},
    error::StepError,
};
use crate::{
    artifact::{Packed, context::Context},
    checkout::mirror,
    engine::{
        Exit, SupervisorError, Task, Work,
        docker::{BuildSpec, Built, Docker, DockerError},
    },
    supervisor::protocol::BROKEN_OFF,
};

/// Bytes of the context that are read at once, and how many of such blocks wait for the engine.
const BLOCK_BYTES: usize = 64 * 1024;
const BLOCKS: usize = 4;

/// What was built for one platform.
pub(super) struct OfPlatform {
    /// Which; `None`: the engine's own.
    pub(super) platform: Option<String>,
    pub(super) built: Built,
    /// The list of its packages: the artifact, and the file in it.
    listed: Option<(String, StatedFile)>,
}

/// What was built, and where it is.
struct Made {
    images: Vec<OfPlatform>,
    /// What it is called at registries: the names with their tags, and the digests there.
    pushed: Vec<NamedImage>,
}

impl BuiltIn<'_> {
    pub(super) async fn build_image(&mut self, with: &IndexMap<String, String>) -> Result<BuiltInEnd, StepError> {
        let known: Vec<&str> =
            actions::find(BUILD_IMAGE).map_or(&[][..], |action| action.inputs).iter().map(|input| input.name).collect();
        Inputs::of(BUILD_IMAGE, with, &known)?;
        let wrong = |wrong: WrongInput| StepError::Configuration(format!("`{BUILD_IMAGE}`: {wrong}"));
        let mut build = Build::of(with).map_err(wrong)?;
        for (input, path) in [("context", Some(&build.context)), ("file", build.file.as_ref())] {
            if let Some(Err(reason)) = path.map(|path| inside(path)) {
                return Err(wrong(WrongInput {
                    input,
                    problem: format!("`{}` {reason}", path.map_or("", String::as_str)),
                }));
            }
        }
        let docker = self.docker.cloned().ok_or_else(|| {
            StepError::Configuration(format!(
                "`{BUILD_IMAGE}` needs an engine for containers; name its socket: `worker.docker.socket` in segue.yaml"
            ))
        })?;
        if !self.claim.trusted {
            self.restrict(&mut build).await;
        }
        let mirror = self.mirror().await?;
        let time = mirror::commit_time(&mirror, &self.claim.commit).await.map_err(checkout_error)?;
        let (dockerfile, beside) = build.dockerfile();
        let context = Context {
            directory: build.context.clone(),
            dockerfile: dockerfile.clone(),
            from_beside: build.file.clone().filter(|_| beside),
            time: time.try_into().unwrap_or_default(),
        };
        let platforms = build.platforms.clone();
        let mut spec = BuildSpec {
            labels: self.labels(&build, time),
            cache_scope: self.cache_scope(),
            build,
            platform: None,
            dockerfile,
            time,
        };
        let mut images = Vec::new();
        let several = if platforms.is_empty() { vec![None] } else { platforms.into_iter().map(Some).collect() };
        for platform in several {
            spec.platform = platform;
            images.push(self.build_one(&docker, &spec, context.clone()).await?);
        }
        let made = self.bring(&docker, &spec.build, images).await.map_err(SupervisorError::from)?;
        let mut outputs = outputs(&made);
        let (artifacts, sboms): (Vec<String>, Vec<StatedFile>) =
            made.images.iter().filter_map(|image| image.listed.clone()).unzip();
        if !artifacts.is_empty() {
            outputs.insert("sbom".into(), artifacts.join(","));
        }
        let bases: Vec<String> = made.images.iter().flat_map(|image| image.built.bases.iter().cloned()).collect();
        if let Some(artifact) = self.state_provenance(&docker, &spec.build, &made.pushed, &bases, sboms).await? {
            outputs.insert("provenance".into(), artifact);
        }
        Ok(BuiltInEnd::Done(outputs))
    }

    /// Builds the image of one platform, and lists what is in it.
    async fn build_one(
        &mut self,
        docker: &Docker,
        spec: &BuildSpec,
        context: Context,
    ) -> Result<OfPlatform, StepError> {
        let of_several = spec.platform.as_deref().filter(|_| spec.build.platforms.len() > 1);
        if let Some(platform) = of_several {
            self.log.line(format!("Platform {platform}")).await;
        }
        let mut built = self.send_and_build(docker, spec, context).await?;
        if spec.build.reproducible {
            let (_private, spool) = self.private_file("layer")?;
            built = docker.fix_image(built, spec.time, spool, self.log).await.map_err(SupervisorError::from)?;
        }
        if let Some(platform) = of_several {
            docker.check_platform(&built, platform).await.map_err(SupervisorError::from)?;
        }
        let listed = self.list_packages(docker, &spec.build, &built, spec.time).await?;
        Ok(OfPlatform { platform: spec.platform.clone(), built, listed })
    }

    /// Foreign code has no secrets, and what it builds has no name: one could pass for the repository's own.
    async fn restrict(&self, build: &mut Build) {
        let asked = build.push || !build.tags.is_empty() || !build.secrets.is_empty();
        if asked {
            let text = "##[warning]The code is of a fork: its image is built without secrets, and is neither named nor pushed.";
            self.log.line(text).await;
        }
        build.push = false;
        build.provenance = Some(false);
        build.tags.clear();
        build.secrets.clear();
        build.login = None;
    }

    /// <https://github.com/opencontainers/image-spec/blob/main/annotations.md>, and over them what the pipeline says.
    fn labels(&self, build: &Build, time: i64) -> Vec<(String, String)> {
        let source = source(&self.claim.clone_url);
        let mut labels: IndexMap<String, String> =
            [("revision", Some(self.claim.commit.to_string())), ("source", source), ("created", rfc3339(time))]
                .into_iter()
                .filter_map(|(name, value)| Some((format!("org.opencontainers.image.{name}"), value?)))
                .collect();
        labels.extend(build.labels.iter().cloned());
        labels.into_iter().collect()
    }

    fn cache_scope(&self) -> String {
        let repository = &self.claim.repository;
        if self.claim.trusted {
            return repository.clone();
        }
        let of = self.claim.contexts.get("github").and_then(|github| github.get("ref")?.as_str());
        format!("{repository}#{}", of.unwrap_or("foreign"))
    }

    /// Sends the context as it is packed, and waits for the image.
    async fn send_and_build(
        &mut self,
        docker: &Docker,
        spec: &BuildSpec,
        context: Context,
    ) -> Result<Built, StepError> {
        let own =
            |error: &dyn std::fmt::Display| StepError::Infrastructure(format!("the pipe of the context: {error}"));
        let (reader, writer): (OwnedFd, OwnedFd) = pipe2(OFlag::O_CLOEXEC).map_err(|error| own(&error))?;
        let reader = pipe::Receiver::from_owned_fd(reader).map_err(|error| own(&error))?;
        let directory = self.workspace.work().to_string_lossy().into_owned();
        let task = Task { user: self.user, directory, work: Work::Pack { packed: Packed::Context(context) } };
        self.engine.start(&task, self.log.writer(), Some(writer.as_fd())).await?;
        // the end of the context is when nobody can write to it any more
        drop(writer);
        let (blocks, received) = mpsc::channel(BLOCKS);
        let (ended, is_whole) = oneshot::channel();
        let packed = async {
            let exit = self.engine.exited().await;
            let _ = ended.send(matches!(exit, Ok(Exit::Code(0))));
            exit
        };
        let (exit, (), built) =
            tokio::join!(packed, carry(reader, blocks, is_whole), docker.build(spec, received, self.log));
        match (exit?, built) {
            (_, Ok(built)) => Ok(built),
            // what broke the context off is told by who packs it; that it was broken off, by the engine
            (Exit::Code(code), Err(error)) if code == 0 || code == BROKEN_OFF => {
                Err(SupervisorError::from(error).into())
            }
            (_, Err(_)) => Err(StepError::Configuration("the context can't be sent; the log says why".into())),
        }
    }

    /// Names the image, and pushes it where that is asked for.
    async fn bring(&self, docker: &Docker, build: &Build, images: Vec<OfPlatform>) -> Result<Made, DockerError> {
        let [OfPlatform { built, .. }] = images.as_slice() else {
            let pushed = self.bring_index(docker, build, &images).await?;
            return Ok(Made { images, pushed });
        };
        let mut pushed = Vec::new();
        for tag in &build.tags {
            if build.push {
                let digest = docker.push_image(built, tag, build.login.as_ref(), self.log).await?;
                let digest = digest.parse().map_err(|error| DockerError::Own(format!("`{tag}`: {error}")))?;
                pushed.push(NamedImage { name: tag.clone(), digest });
            } else {
                docker.name_image(built, tag).await?;
                self.log.line(format!("Named {tag} at this worker's engine")).await;
            }
        }
        self.log.line(format!("Image {}, {} bytes", built.id, built.size)).await;
        Ok(Made { images, pushed })
    }
}

/// Carries the context on, block by block. It has ended well only if who packed it did.
async fn carry(
    mut reader: pipe::Receiver,
    blocks: mpsc::Sender<io::Result<Bytes>>,
    mut is_whole: oneshot::Receiver<bool>,
) {
    loop {
        let mut block = BytesMut::with_capacity(BLOCK_BYTES);
        let read = tokio::select! {
            read = reader.read_buf(&mut block) => read,
            // the engine takes no more of it
            () = blocks.closed() => return,
        };
        let sent = match read {
            Ok(0) if (&mut is_whole).await == Ok(true) => return,
            Ok(0) => return drop(blocks.send(Err(io::Error::other("the context is not whole"))).await),
            Ok(_) => blocks.send(Ok(block.freeze())).await,
            Err(error) => return drop(blocks.send(Err(error)).await),
        };
        if sent.is_err() {
            return;
        }
    }
}

/// `digest` is the registry's where it was pushed, else that of its configuration. Of several platforms it is the index's, else each one's.
fn outputs(made: &Made) -> IndexMap<String, String> {
    let ids: Vec<&str> = made.images.iter().map(|image| image.built.id.as_str()).collect();
    let (id, size) = (ids.join(","), made.images.iter().map(|image| image.built.size).sum::<u64>());
    let (digest, image) = match made.pushed.first() {
        Some(NamedImage { name, digest }) => (digest.to_string(), format!("{}@{digest}", repository(name))),
        None => (id.clone(), id.clone()),
    };
    let outputs = [("digest", digest), ("image", image), ("id", id), ("size", size.to_string())];
    outputs.map(|(name, value)| (name.to_owned(), value)).into()
}
