//! An image for several platforms: each is built and pushed by itself, then the index that names them all.

use segue_pipelines::image::{platform_tag, repository};
use segue_schemas::{id::Digest, provenance::NamedImage};

use super::{built_in::BuiltIn, image::OfPlatform};
use crate::engine::docker::{Docker, DockerError};

impl BuiltIn<'_> {
    /// Pushes the image of each platform to each repository, and the index to each tag. The indexes by their tags; then the images, each under
    /// the tag of whose index it is a part.
    pub(super) async fn bring_index(
        &self,
        docker: &Docker,
        build: &segue_pipelines::image::Build,
        images: &[OfPlatform],
    ) -> Result<Vec<NamedImage>, DockerError> {
        let login = build.login.as_ref();
        let mut there: Vec<(&str, Vec<(String, Digest)>)> = Vec::new();
        let (mut indexes, mut parts) = (Vec::new(), Vec::new());
        for tag in &build.tags {
            // a registry has what it has for all tags of a name
            let known = there.iter().position(|(name, _)| *name == repository(tag));
            let place = match known {
                Some(place) => place,
                None => {
                    let mut digests = Vec::new();
                    for OfPlatform { platform, built, .. } in images {
                        let platform = platform.clone().unwrap_or_default();
                        let name = platform_tag(tag, &platform);
                        let digest = docker.push_image(built, &name, login, self.log).await?;
                        let digest: Digest =
                            digest.parse().map_err(|error| DockerError::Own(format!("`{name}`: {error}")))?;
                        parts.push(NamedImage { name: tag.clone(), digest: digest.clone() });
                        digests.push((platform, digest));
                    }
                    there.push((repository(tag), digests));
                    there.len() - 1
                }
            };
            let digest = docker.push_index(tag, &there[place].1, login, self.log).await?;
            indexes.push(NamedImage { name: tag.clone(), digest });
        }
        indexes.append(&mut parts);
        Ok(indexes)
    }
}
