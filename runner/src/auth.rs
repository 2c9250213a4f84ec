//! Bearer tokens and the webhook's secret: made at the first start, kept in files that only their owner reads, held in
//! memory as hashes (tokens) or behind `secrecy` (the secret).

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    digest::{SHA256, digest},
    rand::{SecureRandom as _, SystemRandom},
};
use secrecy::{ExposeSecret as _, SecretString};
use segue_schemas::id::JobId;
use subtle::ConstantTimeEq as _;

/// The longest token or secret that is read from a file, in bytes.
const LARGEST: u64 = 4096;

/// Why a token or secret is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The file can't be read or written.
    #[error("{path} can't be {action}: {source}", path = path.display())]
    File {
        /// `read`, `written`.
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Others can read it.
    #[error("{path} has mode {mode:04o}: only its owner may read it (chmod 600 {path})", path = path.display())]
    Mode {
        /// Which.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// There is nothing in it.
    #[error("{path} holds no token: put one line into it, or remove it to have one made", path = path.display())]
    Empty {
        /// Which.
        path: PathBuf,
    },
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    Random,
}

/// A token as it is compared: by its SHA-256, so that neither time nor a memory dump gives the token away.
#[derive(Debug, Clone, Copy)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// The hash of a token.
    #[must_use]
    pub fn of(token: &str) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        Self(hash)
    }

    /// Whether this is the token, in constant time.
    #[must_use]
    pub fn is(&self, token: &str) -> bool {
        self.0.ct_eq(&Self::of(token).0).into()
    }
}

/// A new token: the prefix, `_`, and 32 random bytes.
///
/// # Errors
/// [`AuthError::Random`]
pub fn make_token(prefix: &str) -> Result<SecretString, AuthError> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|_| AuthError::Random)?;
    Ok(format!("{prefix}_{}", URL_SAFE_NO_PAD.encode(bytes)).into())
}

/// A token as it is stored: its SHA-256 in hexadecimal digits. (It is random and long, so nothing slower is needed.)
#[must_use]
pub fn hash_of(token: &str) -> String {
    hex::encode(digest(&SHA256, token.as_bytes()))
}

/// How the token of a job's lease begins.
pub const JOB_TOKEN: &str = "sj";

/// The beginning of the tokens of a job's leases.
#[must_use]
pub fn job_prefix(job: JobId) -> String {
    format!("{JOB_TOKEN}_{job}")
}

/// Which job a lease's token says that it is for.
#[must_use]
pub fn job_of_token(token: &str) -> Option<JobId> {
    token.strip_prefix(JOB_TOKEN)?.strip_prefix('_')?.split_once('_')?.0.parse().ok()
}

/// The tokens that open the API.
#[derive(Debug, Clone, Copy)]
pub struct Tokens {
    /// Opens the public API.
    pub admin: TokenHash,
    /// Opens the worker's API.
    pub worker: TokenHash,
}

/// The token of an `Authorization: Bearer` header.
#[must_use]
pub fn bearer(headers: &http::HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Puts a secret's file in the place of one that is there, or of none.
///
/// # Errors
/// [`AuthError::File`]
pub fn replace(path: &Path, value: &SecretString) -> Result<(), AuthError> {
    let made = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    let mut file = made.map_err(file_error("written", path))?;
    let written = file.write_all(value.expose_secret().as_bytes()).and_then(|()| file.write_all(b"\n"));
    written.and_then(|()| file.sync_all()).map_err(file_error("written", path))
}

/// Reads a secret's file; makes one with a random value (mode 0600) where there is none.
///
/// # Errors
/// [`AuthError`].
pub fn read_or_make(path: &Path) -> Result<SecretString, AuthError> {
    match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(mut file) => {
            let mut bytes = [0; 32];
            SystemRandom::new().fill(&mut bytes).map_err(|_| AuthError::Random)?;
            let token = URL_SAFE_NO_PAD.encode(bytes);
            let written = file.write_all(token.as_bytes()).and_then(|()| file.write_all(b"\n"));
            written.and_then(|()| file.sync_all()).map_err(file_error("written", path))?;
            Ok(token.into())
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => read(path),
        Err(error) => Err(file_error("written", path)(error)),
    }
}

/// Reads a secret's file, without the white space around the value.
///
/// # Errors
/// [`AuthError`] where it can't be read, others may read it, or it is empty.
pub fn read(path: &Path) -> Result<SecretString, AuthError> {
    let file = fs::File::open(path).map_err(file_error("read", path))?;
    let mode = file.metadata().map_err(file_error("read", path))?.mode() & 0o777;
    if mode & 0o007 != 0 {
        return Err(AuthError::Mode { path: path.into(), mode });
    }
    let mut text = String::new();
    file.take(LARGEST).read_to_string(&mut text).map_err(file_error("read", path))?;
    match text.trim() {
        "" => Err(AuthError::Empty { path: path.into() }),
        value => Ok(value.into()),
    }
}

fn file_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AuthError {
    let path = path.to_owned();
    move |source| AuthError::File { action, path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_token_is_made_once_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin-token");
        let first = read_or_make(&path).unwrap();
        assert_eq!(first.expose_secret().len(), 43);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(read_or_make(&path).unwrap().expose_secret(), first.expose_secret());

        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(read_or_make(&path), Err(AuthError::Mode { mode: 0o644, .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "\n").unwrap();
        assert!(matches!(read_or_make(&path), Err(AuthError::Empty { .. })));
    }

    #[test]
    fn only_the_very_token_is_taken() {
        let hash = TokenHash::of("abc");
        assert!(hash.is("abc"));
        for other in ["", "ab", "abcd", "ABC"] {
            assert!(!hash.is(other), "{other}");
        }
    }

    #[test]
    fn a_bearer_header_is_read_whatever_its_case() {
        let header = |value: &str| {
            let mut headers = http::HeaderMap::new();
            headers.insert("authorization", value.parse().unwrap());
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(header("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(header("bearer  abc").as_deref(), Some("abc"));
        assert_eq!(header("Basic abc"), None);
        assert_eq!(header("abc"), None);
    }
}
