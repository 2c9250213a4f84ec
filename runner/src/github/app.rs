//! The App's own word: a JSON web token, signed with its key by ring, as
//! <https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app/generating-a-json-web-token-jwt-for-a-github-app>
//! has it.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    signature::{RSA_PKCS1_SHA256, RsaKeyPair},
};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject as _};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;

use super::GitHubError;

/// How far back it says to have been made, in seconds: GitHub's clock may be behind ours.
const BACK_SECONDS: i64 = 60;
/// How long it lives from then on; GitHub takes 600 at most.
const LIFE_SECONDS: i64 = 540;

/// Who the App is.
pub(super) struct App {
    id: String,
    key: RsaKeyPair,
}

impl App {
    /// An App by its id and the text of its private key.
    ///
    /// # Errors
    /// [`GitHubError::Configuration`]: the key is none.
    pub(super) fn new(id: String, pem: &SecretString) -> Result<Self, GitHubError> {
        let wrong = |problem: String| GitHubError::Configuration {
            key: "app.private-key-file",
            problem,
            remedy: "name the file as GitHub gave it out: in the App's settings, \"Generate a private key\"".into(),
        };
        let der = PrivateKeyDer::from_pem_slice(pem.expose_secret().as_bytes())
            .map_err(|_| wrong("the file holds no private key in PEM form".into()))?;
        let key = match &der {
            PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
            other => RsaKeyPair::from_pkcs8(other.secret_der()),
        };
        let key =
            key.map_err(|error| wrong(format!("the key can't be used ({error}); GitHub's are RSA, of 2048 bits")))?;
        Ok(Self { id, key })
    }

    /// Its number or client ID, as the configuration has it.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// A token; `now` in seconds since 1970 by GitHub's clock.
    pub(super) fn token(&self, now: i64) -> Result<SecretString, GitHubError> {
        let issued = now - BACK_SECONDS;
        let claims = json!({"iat": issued, "exp": issued + LIFE_SECONDS, "iss": self.id});
        let encode = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(json!({"alg": "RS256", "typ": "JWT"})), encode(claims));
        let mut signature = vec![0; self.key.public().modulus_len()];
        self.key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).map_err(|_| {
            GitHubError::Configuration {
                key: "app.private-key-file",
                problem: "nothing can be signed with the key".into(),
                remedy: "have GitHub make another one".into(),
            }
        })?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)).into())
    }
}
