//! `X-Hub-Signature-256`: HMAC-SHA256 over the raw bytes of the body, compared in constant time.
//! <https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries>

use ring::hmac;
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

/// Why a signature is refused. Says nothing about what would have been right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Neither kind of signature is there.
    #[error("the delivery is not signed: set a secret in the webhook's settings, the same as Segue's")]
    Missing,
    /// Only the SHA-1 kind is there.
    #[error("only a SHA-1 signature was sent, which is not accepted: `X-Hub-Signature-256` is needed")]
    Sha1Only,
    /// It is not `sha256=` and 64 hexadecimal digits.
    #[error("`X-Hub-Signature-256` is not `sha256=` followed by 64 hexadecimal digits")]
    Malformed,
    /// It belongs to other bytes or another secret.
    #[error("the signature does not match: the webhook's secret and Segue's must be the same")]
    Mismatch,
}

/// A signature as it was sent, not yet checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claimed([u8; 32]);

impl Claimed {
    /// Reads the two signature headers.
    ///
    /// # Errors
    /// Any but [`SignatureError::Mismatch`].
    pub fn parse(sha256: Option<&[u8]>, sha1: Option<&[u8]>) -> Result<Self, SignatureError> {
        let Some(header) = sha256 else {
            return Err(if sha1.is_some() { SignatureError::Sha1Only } else { SignatureError::Missing });
        };
        let digits = header.strip_prefix(b"sha256=").ok_or(SignatureError::Malformed)?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| SignatureError::Malformed)?;
        Ok(Self(bytes))
    }
}

/// The computation over a body that is still coming in.
pub struct Verifier(hmac::Context);

impl Verifier {
    /// Begins with the webhook's secret.
    #[must_use]
    pub fn new(secret: &SecretString) -> Self {
        Self(hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes())))
    }

    /// Takes the next bytes of the body.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Compares in constant time.
    ///
    /// # Errors
    /// [`SignatureError::Mismatch`].
    pub fn verify(self, claimed: Claimed) -> Result<(), SignatureError> {
        let is_equal: bool = self.0.sign().as_ref().ct_eq(&claimed.0).into();
        if is_equal { Ok(()) } else { Err(SignatureError::Mismatch) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // the example of GitHub's own documentation
    const SECRET: &str = "It's a Secret to Everybody";
    const BODY: &[u8] = b"Hello, World!";
    const SIGNATURE: &[u8] = b"sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

    fn check(secret: &str, body: &[u8], sha256: Option<&[u8]>, sha1: Option<&[u8]>) -> Result<(), SignatureError> {
        let claimed = Claimed::parse(sha256, sha1)?;
        let mut verifier = Verifier::new(&SecretString::from(secret));
        for part in body.chunks(3) {
            verifier.update(part);
        }
        verifier.verify(claimed)
    }

    #[test]
    fn the_documented_example_is_accepted() {
        assert_eq!(check(SECRET, BODY, Some(SIGNATURE), None), Ok(()));
        assert_eq!(check(SECRET, BODY, Some(SIGNATURE), Some(b"sha1=whatever")), Ok(()));
    }

    #[test]
    fn anything_else_is_refused_with_its_reason() {
        let upper = SIGNATURE.to_ascii_uppercase();
        let cut = &SIGNATURE[..70];
        for (secret, body, sha256, sha1, expected) in [
            (SECRET, BODY, None, None, SignatureError::Missing),
            (SECRET, BODY, None, Some(&b"sha1=8f0c"[..]), SignatureError::Sha1Only),
            (SECRET, BODY, Some(&b""[..]), None, SignatureError::Malformed),
            (SECRET, BODY, Some(&b"sha256="[..]), None, SignatureError::Malformed),
            (SECRET, BODY, Some(&upper[..]), None, SignatureError::Malformed),
            (SECRET, BODY, Some(cut), None, SignatureError::Malformed),
            (SECRET, BODY, Some(&SIGNATURE[7..]), None, SignatureError::Malformed),
            ("another", BODY, Some(SIGNATURE), None, SignatureError::Mismatch),
            ("", BODY, Some(SIGNATURE), None, SignatureError::Mismatch),
            (SECRET, b"Hello, World?", Some(SIGNATURE), None, SignatureError::Mismatch),
            (SECRET, b"", Some(SIGNATURE), None, SignatureError::Mismatch),
        ] {
            assert_eq!(check(secret, body, sha256, sha1), Err(expected), "{secret} {body:?} {sha256:?}");
        }
    }
}
