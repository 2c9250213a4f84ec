//! Secrets at rest: AES-256-GCM under a key that lies in a file outside the data directory, so that a copy of the data
//! directory (a backup, a stolen disk image) opens nothing. Comes in: plaintext once, from a person. Goes out: plaintext
//! with a claim, to a trusted job that names the secret. Never here: plaintext in a log, an error or the database.

use std::{
    io::{Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::OnceLock,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom as _, SystemRandom},
};
use zeroize::{Zeroize as _, Zeroizing};

use crate::store::SecretScope;

/// Why a secret can't be sealed or opened.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SecretError {
    /// There is no place for the key.
    #[error(
        "no place is known for the key of secrets: set `secrets.key-file` in segue.yaml to a path outside the data directory"
    )]
    NoKeyFile,
    /// The key would lie beside what it protects.
    #[error("the key file {0} lies in the data directory: move it outside, and set `secrets.key-file` in segue.yaml")]
    Inside(PathBuf),
    /// Others can read the key.
    #[error("the key file {path} has mode {mode:04o}: only its owner may read it (chmod 600 {path})")]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The key file can't be used.
    #[error("the key file {path} can't be used: {problem}")]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A stored secret was not sealed with this key, or for another name.
    #[error(
        "the secret {name} can't be opened with the key in {path}: the key or the stored value has changed; set the secret again"
    )]
    Sealed {
        /// Its name.
        name: String,
        /// The key file.
        path: PathBuf,
    },
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    Random,
}

type Result<T> = std::result::Result<T, SecretError>;

/// Seals and opens. The key is read when it is first needed, and made when the first secret is sealed.
pub struct SecretBox {
    key_file: Option<PathBuf>,
    data: PathBuf,
    key: OnceLock<LessSafeKey>,
}

impl SecretBox {
    /// A box with the key in `key_file`, by default `segue/secret.key` in the user's configuration directory; it must not
    /// lie in `data`.
    #[must_use]
    pub fn new(key_file: Option<PathBuf>, data: &Path) -> Self {
        Self {
            key_file: key_file.or_else(|| configuration_file("secret.key")),
            data: data.to_owned(),
            key: OnceLock::new(),
        }
    }

    /// Seals a value for one place: it opens nowhere else.
    ///
    /// # Errors
    /// [`SecretError`] where the key can't be read or made.
    pub fn seal(&self, scope: &SecretScope, name: &str, value: &str) -> Result<String> {
        let key = self.key(true)?;
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| SecretError::Random)?;
        let mut sealed = value.as_bytes().to_vec();
        let tag = key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(place(scope, name)), &mut sealed)
            .map_err(|_| SecretError::Random)?;
        Ok(STANDARD.encode([&nonce[..], &sealed, tag.as_ref()].concat()))
    }

    /// Opens a sealed value.
    ///
    /// # Errors
    /// [`SecretError::Sealed`] where it was sealed with another key, for another place, or was changed.
    pub fn open(&self, scope: &SecretScope, name: &str, sealed: &str) -> Result<Zeroizing<String>> {
        let key = self.key(false)?;
        let wrong = || SecretError::Sealed { name: name.into(), path: self.key_file.clone().unwrap_or_default() };
        let mut bytes = Zeroizing::new(STANDARD.decode(sealed).map_err(|_| wrong())?);
        let (nonce, sealed) = bytes.split_at_mut_checked(NONCE_LEN).ok_or_else(wrong)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| wrong())?;
        let plain = key.open_in_place(nonce, Aad::from(place(scope, name)), sealed).map_err(|_| wrong())?;
        std::str::from_utf8(plain).map(|s| Zeroizing::new(s.to_owned())).map_err(|_| wrong())
    }

    fn key(&self, make: bool) -> Result<&LessSafeKey> {
        if let Some(key) = self.key.get() {
            return Ok(key);
        }
        let path = self.key_file.as_deref().ok_or(SecretError::NoKeyFile)?;
        apart_from(path, &self.data)?;
        if make && !path.exists() {
            make_key(path)?;
        }
        let mut bytes = read_key(path)?;
        let key = UnboundKey::new(&AES_256_GCM, &bytes)
            .map_err(|_| SecretError::KeyFile { path: path.into(), problem: "it holds no 32-byte key".into() })?;
        bytes.zeroize();
        Ok(self.key.get_or_init(|| LessSafeKey::new(key)))
    }
}

/// Whether a key lies outside of the directory that it protects.
pub(crate) fn apart_from(path: &Path, data: &Path) -> Result<()> {
    // a path that does not exist yet is judged by its directory
    let real = |p: &Path| p.canonicalize().or_else(|_| std::path::absolute(p)).unwrap_or_else(|_| p.into());
    let place = path.parent().map_or_else(|| real(path), real);
    if place.starts_with(real(data)) { Err(SecretError::Inside(path.into())) } else { Ok(()) }
}

/// What a ciphertext is bound to.
fn place(scope: &SecretScope, name: &str) -> Vec<u8> {
    let repository = scope.repository.as_deref().unwrap_or_default();
    let environment = scope.environment.as_deref().unwrap_or_default();
    format!("segue secret 1\0{repository}\0{environment}\0{name}").into_bytes()
}

/// A file of the user's configuration directory.
pub(crate) fn configuration_file(name: &str) -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let configuration = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")))?;
    Some(configuration.join("segue").join(name))
}

fn make_key(path: &Path) -> Result<()> {
    let mut key = Zeroizing::new([0_u8; 32]);
    SystemRandom::new().fill(&mut *key).map_err(|_| SecretError::Random)?;
    let mut text = Zeroizing::new(hex::encode(*key));
    text.push('\n');
    // one that another process has just made is as good
    write_private(path, &text).map(drop)
}

/// Writes a key to a file that only its owner reads, with the directories to it; `false`: there is one already, and it stays.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<bool> {
    let failed = |e: std::io::Error| SecretError::KeyFile { path: path.into(), problem: e.to_string() };
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    // written beside and renamed: a crash leaves no half key, and a key that is there is never replaced
    let written = tempfile::Builder::new().prefix(".secret").tempfile_in(directory).map_err(failed)?;
    let mut file = std::fs::OpenOptions::new().write(true).mode(0o600).open(written.path()).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    match written.persist_noclobber(path) {
        Ok(_) => Ok(true),
        Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(failed(error.error)),
    }
}

fn read_key(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let wrong = || SecretError::KeyFile { path: path.into(), problem: "it must hold 64 hexadecimal digits".into() };
    hex::decode(read_private(path)?.trim()).map(Zeroizing::new).map_err(|_| wrong())
}

/// What a key's file holds, if only its owner may read it.
pub(crate) fn read_private(path: &Path) -> Result<Zeroizing<String>> {
    let wrong = |e: std::io::Error| SecretError::KeyFile { path: path.into(), problem: e.to_string() };
    let file = std::fs::File::open(path).map_err(wrong)?;
    let mode = file.metadata().map_err(wrong)?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(SecretError::Mode { path: path.into(), mode });
    }
    let mut text = Zeroizing::new(String::new());
    file.take(1024).read_to_string(&mut text).map_err(wrong)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn scope(repository: &str, environment: Option<&str>) -> SecretScope {
        SecretScope { repository: Some(repository.into()), environment: environment.map(Into::into) }
    }

    #[test]
    fn a_secret_opens_only_at_its_own_place() {
        let (data, keys) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let secrets = SecretBox::new(Some(keys.path().join("a/key")), data.path());
        let sealed = secrets.seal(&scope("o/r", Some("production")), "TOKEN", "hunter2").unwrap();
        assert!(!sealed.contains("hunter2"));
        assert_eq!(*secrets.open(&scope("o/r", Some("production")), "TOKEN", &sealed).unwrap(), "hunter2");
        for (scope, name) in [
            (scope("o/r", Some("staging")), "TOKEN"),
            (scope("o/r", None), "TOKEN"),
            (scope("o/r", Some("production")), "OTHER"),
        ] {
            assert!(matches!(secrets.open(&scope, name, &sealed), Err(SecretError::Sealed { .. })));
        }
        let reopened = SecretBox::new(Some(keys.path().join("a/key")), data.path());
        assert_eq!(*reopened.open(&scope("o/r", Some("production")), "TOKEN", &sealed).unwrap(), "hunter2");
    }

    #[test]
    fn a_key_that_others_can_read_or_that_lies_in_the_data_directory_is_refused() {
        let (data, keys) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let inside = SecretBox::new(Some(data.path().join("key")), data.path());
        assert!(matches!(inside.seal(&scope("o/r", None), "A", "b"), Err(SecretError::Inside(_))));
        let path = keys.path().join("key");
        let secrets = SecretBox::new(Some(path.clone()), data.path());
        secrets.seal(&scope("o/r", None), "A", "b").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = SecretBox::new(Some(path), data.path()).seal(&scope("o/r", None), "A", "b").unwrap_err();
        assert!(error.to_string().contains("mode 0640"), "{error}");
    }

    #[test]
    fn without_a_key_nothing_is_opened_and_none_is_made() {
        let (data, keys) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = keys.path().join("key");
        let secrets = SecretBox::new(Some(path.clone()), data.path());
        assert!(secrets.open(&scope("o/r", None), "A", "AAAA").is_err());
        assert!(!path.exists());
    }
}
