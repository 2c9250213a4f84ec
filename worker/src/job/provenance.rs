//! Where an image is from, as the server states it and signs it: the worker says what was pushed and what it was built from, and keeps the
//! statement as an artifact. The key never comes here.

use std::{fs, io::Write as _};

use segue_pipelines::{container::with_tag, image::Build};
use segue_schemas::{
    id::Digest,
    provenance::{AskProvenance, Envelope, NamedImage},
    worker_api::AttachArtifact,
};

use super::{
    built_in::{BuiltIn, blocking},
    error::StepError,
};
use crate::{artifact::pack, control_plane::ControlPlaneError, engine::docker::Docker};

/// What the file is called in the artifact.
const FILE: &str = "provenance.json";

impl BuiltIn<'_> {
    /// The name of the artifact that holds the statement; `None` where nothing is stated.
    pub(super) async fn state_provenance(
        &mut self,
        docker: &Docker,
        build: &Build,
        pushed: &[NamedImage],
        bases: &[String],
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
        let ask = AskProvenance { epoch: self.claim.epoch, step: self.step, images: pushed.to_vec(), bases: made_of };
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
        self.keep(&envelope).await.map(Some)
    }

    async fn keep(&mut self, envelope: &Envelope) -> Result<String, StepError> {
        let name = artifact_name(&self.claim.plan.key, self.step, self.claim.epoch.0);
        let (private, file) = self.private_file("provenance")?;
        let text = serde_json::to_vec_pretty(envelope)
            .map_err(|error| StepError::Infrastructure(format!("the statement: {error}")))?;
        let archive = file.try_clone().map_err(|error| private.error(&error))?;
        let packed = blocking(move || {
            let folder = tempfile::tempdir()?;
            let path = folder.path().join(FILE);
            fs::File::create(&path)?.write_all(&text)?;
            pack::pack(&path, archive).map_err(std::io::Error::from)
        });
        packed.await?.map_err(|error| private.error(&error))?;
        let (digest, bytes) = self.upload_packed(&private, file).await?;
        let epoch = self.claim.epoch;
        let attach = AttachArtifact { epoch, name: name.clone(), digest, bytes, retention_days: None };
        self.control_plane.attach_artifact(self.claim.job, &attach).await?;
        self.artifacts.push(name.clone());
        self.log.line(format!("Where the image is from is stated, signed, in the artifact `{name}`")).await;
        Ok(name)
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

/// One for each time that a step of a job runs in an attempt.
fn artifact_name(key: &str, step: usize, epoch: i64) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let key: String = key.chars().map(plain).take(100).collect();
    let again = if epoch > 1 { format!("-{epoch}") } else { String::new() };
    format!("provenance-{key}-{}{again}", step + 1)
}

#[cfg(test)]
mod tests {
    use segue_schemas::artifact::check_name;

    use super::*;

    #[test]
    fn every_try_has_an_artifact_of_its_own() {
        assert_eq!(artifact_name("image", 1, 1), "provenance-image-2");
        assert_eq!(artifact_name("image", 1, 3), "provenance-image-2-3");
        let odd = artifact_name(&format!("build (a/b, \"c\"){}", "x".repeat(300)), 0, 1);
        assert!(odd.starts_with("provenance-build--a-b---c--x") && check_name(&odd).is_ok(), "{odd}");
    }
}
