//! An image for several platforms: the index that names one image for each, which an engine can't keep and so can't push.

use std::net::IpAddr;

use ipnet::IpNet;
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
        let mut registry = Registry::of(&host, &path, self.is_insecure(&host).await?, login)?;
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

    /// Whether a registry may be spoken to without TLS, or with any certificate: on this machine, or where the engine was told to
    /// (`insecure-registries`), by its name or by a network that its address is in.
    async fn is_insecure(&self, host: &str) -> Result<bool, DockerError> {
        if address(host).is_some_and(|address| address.is_loopback()) || name(host) == "localhost" {
            return Ok(true);
        }
        let info = call("say how it is set up", self.config.patience.0, self.client().await?.info()).await?;
        let Some(config) = info.registry_config else { return Ok(false) };
        let known = config.index_configs.unwrap_or_default();
        let is_named = known.get(host).is_some_and(|index| index.secure == Some(false));
        Ok(is_named || is_within(host, &config.insecure_registry_cidrs.unwrap_or_default()))
    }
}

/// The host of `HOST[:PORT]`.
fn name(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

fn address(host: &str) -> Option<IpAddr> {
    name(host).trim_matches(['[', ']']).parse().ok()
}

fn is_within(host: &str, networks: &[String]) -> bool {
    let Some(address) = address(host) else { return false };
    networks.iter().filter_map(|network| network.parse::<IpNet>().ok()).any(|network| network.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_insecure_by_the_network_that_its_address_is_in() {
        let networks = ["10.0.0.0/8", "fd00::/8", "nonsense"].map(str::to_owned);
        for (host, is_in) in [
            ("10.1.2.3:5000", true),
            ("10.1.2.3", true),
            ("11.1.2.3:5000", false),
            ("[fd00::1]:5000", true),
            ("[fe80::1]", false),
            ("registry.example.com:5000", false),
        ] {
            assert_eq!(is_within(host, &networks), is_in, "{host}");
        }
    }
}
