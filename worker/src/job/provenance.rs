//! Where an image is from, as the server states it and signs it: the worker says what was pushed and what it was built from, and keeps the
//! statement as an artifact. The key never comes here.

use std::{fs, io::Write as _};

use segue_pipelines::{container::with_tag, image::Build};
use segue_schemas::{
    id::{Digest, Epoch},
    provenance::{AskProvenance, Envelope, NamedImage, StatedFile},
    worker_api::AttachArtifact,
};
use sha2::{Digest as _, Sha256};

use super::{
    built_in::{BuiltIn, blocking},
    error::StepError,
};
use crate::{artifact::pack, control_plane::ControlPlaneError, engine::docker::Docker};

/// What the artifact's name begins with, and what the file in it is called.
const PREFIX: &str = "provenance";
const FILE: &str = "provenance.json";
/// Hexadecimal digits that tell artifacts apart whose readable names are the same.
const DIGITS: usize = 12;

impl BuiltIn<'_> {
    /// The name of the artifact that holds the statement; `None` where nothing is stated.
    pub(super) async fn state_provenance(
        &mut self,
        docker: &Docker,
        build: &Build,
        pushed: &[NamedImage],
        bases: &[String],
        sboms: Vec<StatedFile>,
    ) -> Result<Option<String>, StepError> {
        if pushed.is_empty() || build.provenance == Some(false) {
            return Ok(None);
        }
        let mut made_of = Vec::new();
        for base in bases {
            made_of.extend(named(docker, base).await);
        }
        made_of.sort();
        made_of.dedup();
        let images = pushed.to_vec();
        let mut sboms = sboms.into_iter();
        let ask = AskProvenance {
            epoch: self.claim.epoch,
            step: self.step,
            images,
            bases: made_of,
            sbom: sboms.next(),
            more_sboms: sboms.collect(),
        };
        let envelope = match self.control_plane.state_provenance(self.claim.job, &ask).await {
            Ok(envelope) => envelope,
            // it is asked for wherever it can be had, and said where it can't
            Err(ControlPlaneError::Refused { status: 422, message, .. }) if build.provenance.is_none() => {
                self.log.line(format!("It is not stated where the image is from: {message}")).await;
                return Ok(None);
            }
            Err(ControlPlaneError::Refused { status: 422, message, .. }) => {
                return Err(StepError::Configuration(format!("`provenance: true`: {message}")));
            }
            Err(error) => return Err(error.into()),
        };
        self.keep(&envelope, build.provenance.is_some(), pushed).await
    }

    /// The artifact's name; `None` where the server does not take it and it `must` not be there.
    async fn keep(
        &mut self,
        envelope: &Envelope,
        must: bool,
        pushed: &[NamedImage],
    ) -> Result<Option<String>, StepError> {
        let marks = pushed.iter().map(|NamedImage { name, digest }| format!("{name}@{digest}"));
        let name = artifact_name(PREFIX, &self.claim.plan.key, self.step, self.claim.epoch, marks);
        let text = serde_json::to_vec_pretty(envelope)
            .map_err(|error| StepError::Infrastructure(format!("the statement: {error}")))?;
        match self.keep_file(&name, FILE, text).await {
            Ok(()) => {}
            // the image is pushed by now
            Err(NotKept::Refused(message)) if !must => {
                let text = format!("##[warning]Where the image is from is not kept: {message}");
                self.log.line(text).await;
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        }
        self.log.line(format!("Where the image is from is stated, signed, in the artifact `{name}`")).await;
        Ok(Some(name))
    }

    /// Keeps a file of this worker's own making as an artifact of the run.
    pub(super) async fn keep_file(&mut self, name: &str, file_name: &str, text: Vec<u8>) -> Result<(), NotKept> {
        let (private, file) = self.private_file("statement")?;
        let archive = file.try_clone().map_err(|error| private.error(&error))?;
        let file_name = file_name.to_owned();
        let packed = blocking(move || {
            let folder = tempfile::tempdir()?;
            let path = folder.path().join(file_name);
            fs::File::create(&path)?.write_all(&text)?;
            pack::pack(&path, archive).map_err(std::io::Error::from)
        });
        packed.await?.map_err(|error| private.error(&error))?;
        let (digest, bytes) = self.upload_packed(&private, file).await?;
        let attach =
            AttachArtifact { epoch: self.claim.epoch, name: name.to_owned(), digest, bytes, retention_days: None };
        match self.control_plane.attach_artifact(self.claim.job, &attach).await {
            Ok(_) => self.artifacts.push(name.to_owned()),
            Err(ControlPlaneError::Refused { status: 409 | 422, message, .. }) => {
                return Err(NotKept::Refused(message));
            }
            Err(error) => return Err(NotKept::Step(error.into())),
        }
        Ok(())
    }
}

/// Why a file is no artifact.
pub(super) enum NotKept {
    /// The server does not take it.
    Refused(String),
    /// Something else.
    Step(StepError),
}

impl From<StepError> for NotKept {
    fn from(error: StepError) -> Self {
        Self::Step(error)
    }
}

impl From<NotKept> for StepError {
    fn from(why: NotKept) -> Self {
        match why {
            NotKept::Refused(message) => Self::Configuration(message),
            NotKept::Step(error) => error,
        }
    }
}

/// A base by its name and its digest: the one that the builder resolved, or that of the image at the engine.
async fn named(docker: &Docker, base: &str) -> Option<NamedImage> {
    let (name, digest) = match base.rsplit_once('@') {
        Some((name, digest)) => (name, digest.to_owned()),
        None => (base, docker.digest_of(base).await.ok()?),
    };
    Some(NamedImage { name: with_tag(name), digest: digest.parse::<Digest>().ok()? })
}

/// One for each time that a step of a job runs in an attempt, and for each build of an action that holds several. What the job's key
/// loses for people to read it is in the digits at the end.
pub(super) fn artifact_name(
    prefix: &str,
    key: &str,
    step: usize,
    epoch: Epoch,
    marks: impl IntoIterator<Item = String>,
) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let readable: String = key.chars().map(plain).take(100).collect();
    let mut hash = Sha256::new();
    hash.update(format!("{}\n{key}\n{step}\n", key.len()));
    for mark in marks {
        hash.update(format!("{mark}\n"));
    }
    let digits = hex::encode(&hash.finalize()[..DIGITS / 2]);
    let again = if epoch.0 > 1 { format!("-{}", epoch.0) } else { String::new() };
    format!("{prefix}-{readable}-{}-{digits}{again}", step + 1)
}

#[cfg(test)]
mod tests {
    use segue_schemas::artifact::check_name;

    use super::*;

    fn image(name: &str, digit: &str) -> NamedImage {
        NamedImage { name: name.into(), digest: format!("sha256:{}", digit.repeat(64)).parse().unwrap() }
    }

    #[test]
    fn every_try_has_an_artifact_of_its_own() {
        let name = |key: &str, step, epoch| artifact_name(PREFIX, key, step, Epoch(epoch), ["a.io/app:1@a".to_owned()]);
        let first = name("image", 1, 1);
        let digits = first.strip_prefix("provenance-image-2-").unwrap();
        assert!(digits.len() == DIGITS && digits.chars().all(|c| c.is_ascii_hexdigit()), "{first}");
        assert_eq!(name("image", 1, 1), first);
        assert_eq!(name("image", 1, 3), format!("{first}-3"));
        let odd = name(&format!("build (a/b, \"c\"){}", "x".repeat(300)), 0, 1);
        assert!(odd.starts_with("provenance-build--a-b---c--x") && check_name(&odd).is_ok(), "{odd}");
    }

    #[test]
    fn no_two_builds_share_an_artifact() {
        let long = "x".repeat(100);
        let one = [image("a.io/app:1", "a")];
        let named = |key: &str, pushed: &[NamedImage]| {
            let marks = pushed.iter().map(|NamedImage { name, digest }| format!("{name}@{digest}"));
            artifact_name(PREFIX, key, 1, Epoch(1), marks)
        };
        let names = [
            // what differs in the key is not in the readable part
            named("build (a/b)", &one),
            named("build (a b)", &one),
            named(&format!("{long}1"), &one),
            named(&format!("{long}2"), &one),
            // two steps of one action
            named("image", &one),
            named("image", &[image("a.io/other:1", "a")]),
            named("image", &[image("a.io/app:1", "b")]),
            named("image", &[image("a.io/app:1", "a"), image("a.io/app:2", "a")]),
        ];
        let different: std::collections::BTreeSet<&String> = names.iter().collect();
        assert_eq!(different.len(), names.len(), "{names:?}");
    }
}
