//! An image for several platforms: the index that names one image for each, which an engine can't keep and so can't push.

use segue_pipelines::image::{INDEX, Login, OfPlatform, at_registry, index, is_of};
use segue_schemas::id::Digest;
use sha2::{Digest as _, Sha256};

use super::{
    super::{Docker, DockerError, call::call, place::Say},
    Built,
    registry::Registry,
};

impl Docker {
    /// Refuses an image that is not of the platform that it was built for.
    ///
    /// # Errors
    /// [`DockerError::Asked`] where it is of another.
    pub async fn check_platform(&self, built: &Built, platform: &str) -> Result<(), DockerError> {
        let seen = self.client().await?.inspect_image(&built.id);
        let seen = call("look at the image", self.config.patience.0, seen).await?;
        let (os, architecture) = (seen.os.unwrap_or_default(), seen.architecture.unwrap_or_default());
        if is_of(platform, &os, &architecture) {
            return Ok(());
        }
        Err(DockerError::Asked(format!(
            "the image for `{platform}` came out as one of `{os}/{architecture}`: a `FROM` of the Dockerfile names another platform, or its base \
             image is at the engine for that one alone"
        )))
    }

    /// Brings the index of images that their registry has already, by these digests, to its tag; the digest of the index.
    ///
    /// # Errors
    /// [`DockerError`]: the registry refused it, or could not be reached in four tries.
    pub async fn push_index(
        &self,
        tag: &str,
        images: &[(String, Digest)],
        login: Option<&Login>,
        say: &dyn Say,
    ) -> Result<Digest, DockerError> {
        let (host, path, version) = at_registry(tag);
        let mut registry = Registry::of(&host, &path, self.is_plain(&host).await?, login)?;
        let mut entries = Vec::new();
        for (platform, digest) in images {
            let (media_type, size) = registry.manifest(digest, say).await?;
            entries.push(OfPlatform { platform: platform.clone(), media_type, digest: digest.clone(), size });
        }
        let bytes = index(&entries);
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(&bytes)));
        registry.put(&version, INDEX, bytes, &digest, say).await?;
        say.say(format!("Pushed {tag}: {digest}, an index of {} platforms", entries.len())).await;
        digest.parse().map_err(|error| DockerError::Own(format!("`{tag}`: {error}")))
    }

    /// Whether a registry is spoken to without TLS: on this machine, or where the engine was told to (`insecure-registries`).
    async fn is_plain(&self, host: &str) -> Result<bool, DockerError> {
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let is_loopback = name == "localhost"
            || name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        if is_loopback {
            return Ok(true);
        }
        let info = call("say how it is set up", self.config.patience.0, self.client().await?.info()).await?;
        let known = info.registry_config.and_then(|config| config.index_configs).unwrap_or_default();
        Ok(known.get(host).is_some_and(|index| index.secure == Some(false)))
    }
}
