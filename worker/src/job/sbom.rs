//! The list of the packages that are in an image, as an artifact of the run.

use segue_pipelines::{
    image::{Build, repository, rfc3339},
    sbom::Document,
};
use segue_schemas::provenance::StatedFile;
use sha2::{Digest as _, Sha256};

use super::{built_in::BuiltIn, error::StepError, provenance::artifact_name};
use crate::engine::{
    SupervisorError,
    docker::{Built, Docker},
};

impl BuiltIn<'_> {
    /// Lists what is in an image, where that is asked for: before it is pushed, so that none is without its list. The artifact's name, and
    /// the file in it.
    pub(super) async fn list_packages(
        &mut self,
        docker: &Docker,
        build: &Build,
        built: &Built,
        time: i64,
    ) -> Result<Option<(String, StatedFile)>, StepError> {
        let Some(form) = build.sbom else { return Ok(None) };
        let inventory = docker.contents(built).await.map_err(SupervisorError::from)?;
        let at = rfc3339(time).unwrap_or_default();
        let hash = Sha256::digest(format!("{}\n{}\n{at}\n", form.file(), built.id));
        let mut serial = [0; 16];
        serial.copy_from_slice(&hash[..16]);
        let name = build.tags.first().map_or(self.claim.repository.as_str(), |tag| repository(tag));
        let document = Document { image: &built.id, name, time: &at, version: env!("CARGO_PKG_VERSION"), serial };
        let text = document.write(form, &inventory);
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(text.as_bytes())));
        let digest = digest.parse().map_err(|error| StepError::Infrastructure(format!("the list: {error}")))?;
        let marks = std::iter::once(built.id.clone()).chain(build.tags.iter().cloned());
        let artifact = artifact_name("sbom", &self.claim.plan.key, self.step, self.claim.epoch, marks);
        // two builds of one action may make the very same image
        if !self.artifacts.contains(&artifact) {
            self.keep_file(&artifact, form.file(), text.into_bytes()).await?;
        }
        let of = match &inventory.distribution {
            Some(distribution) => format!(", on {} {}", distribution.id, distribution.version),
            None => String::new(),
        };
        let count = inventory.packages.len();
        self.log
            .line(format!("What is in the image ({count} packages{of}) is listed in the artifact `{artifact}`"))
            .await;
        let file = StatedFile { name: format!("{artifact}/{}", form.file()), digest };
        Ok(Some((artifact, file)))
    }
}
