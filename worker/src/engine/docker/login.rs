//! Who pulls where no pipeline says it: what `docker login` has written for the user that this program runs as
//! (`auths` in `config.json`, <https://docs.docker.com/reference/cli/docker/login/>). Programs that keep passwords are not asked.

use std::{collections::HashMap, path::PathBuf};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use segue_pipelines::container::registry;
use serde::Deserialize;

use super::place::Credentials;

/// Docker Hub, as its credentials are kept.
const HUB: &str = "https://index.docker.io/v1/";

#[derive(Debug, Default, Deserialize)]
struct Config {
    #[serde(default)]
    auths: HashMap<String, Auth>,
}

#[derive(Debug, Deserialize)]
struct Auth {
    #[serde(default)]
    auth: String,
}

/// The credentials for an image's registry, if there are any. Read anew each time: passwords change.
pub(super) fn for_image(image: &str) -> Option<Credentials> {
    let folder = std::env::var_os("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker")))?;
    let text = std::fs::read(folder.join("config.json")).ok()?;
    of(&text, image)
}

fn of(config: &[u8], image: &str) -> Option<Credentials> {
    let config: Config = serde_json::from_slice(config)
        .inspect_err(|error| tracing::warn!(%error, "Docker's config.json can't be read; images are pulled without it"))
        .ok()?;
    let auth = config.auths.get(registry(image).unwrap_or(HUB))?;
    let text = String::from_utf8(STANDARD.decode(&auth.auth).ok()?).ok()?;
    let (username, password) = text.split_once(':')?;
    Some(Credentials { username: username.to_owned(), password: password.trim_end_matches('\0').to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_registry_has_its_own_credentials() {
        let config = br#"{"auths": {"registry.example:5000": {"auth": "YWRhOnM6ZWNyZXQ="},
            "https://index.docker.io/v1/": {"auth": "aHViOmh1Yg=="}, "helped.example": {}}, "credsStore": "pass"}"#;
        let found = |image: &str| of(config, image).map(|found| (found.username, found.password));
        let pair = |name: &str, password: &str| Some((name.to_owned(), password.to_owned()));
        assert_eq!(found("registry.example:5000/a/b@sha256:1"), pair("ada", "s:ecret"));
        assert_eq!(found("debian:13"), pair("hub", "hub"));
        assert_eq!(found("helped.example/x"), None);
        assert_eq!(found("other.example/x"), None);
        assert_eq!(of(b"no json", "debian").map(|found| found.username), None);
    }
}
