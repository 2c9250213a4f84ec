//! Releases on this machine: fetched by digest, checked, unpacked beside each other, removed when nothing names them.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures_util::StreamExt;
use segue_schemas::{
    host_api::{ArtifactSource, HostError, HostErrorCode},
    id::Digest,
    worker_api::ErrorBody,
};
use sha2::{Digest as _, Sha256};

use super::{link::Link, refusal};
use crate::artifact::unpack::{UnpackRules, unpack};

/// The largest artifact that is fetched, in bytes as stored.
const MAX_ARTIFACT_BYTES: u64 = 8 * 1024 * 1024 * 1024;

/// Bytes of a refusal that are read.
const MAX_WORDS: usize = 8 * 1024;

/// How long a server may take to answer, and to send more.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);

/// The folder of unpacked releases.
#[derive(Debug)]
pub struct Releases {
    folder: PathBuf,
    /// Held while a release is looked for, and while one that nobody names is taken away.
    names: Mutex<()>,
}

impl Releases {
    /// Releases below `folder`; what an unpacking that was cut short left there is removed.
    pub fn open(folder: PathBuf) -> io::Result<Self> {
        std::fs::create_dir_all(&folder)?;
        for entry in std::fs::read_dir(&folder)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with('.') {
                remove(&entry.path());
            }
        }
        Ok(Self { folder, names: Mutex::new(()) })
    }

    /// Where a release lies, or would.
    #[must_use]
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(digest.hex())
    }

    /// Whether it is here.
    #[must_use]
    pub fn has(&self, digest: &Digest) -> bool {
        let _names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        self.path(digest).is_dir()
    }

    /// Has the release here: fetched, its bytes checked against the digest, unpacked, and only then given its name.
    ///
    /// # Errors
    /// The artifact can't be had, is not what its digest says, or holds what is not allowed; nothing is left then.
    pub async fn prepare(&self, digest: &Digest, source: ArtifactSource, link: Option<&Link>) -> Result<(), HostError> {
        if self.has(digest) {
            return Ok(());
        }
        let failed = |reason: String| refusal(HostErrorCode::Artifact, format!("artifact {digest}: {reason}"));
        let artifact = match source {
            ArtifactSource::Image => return Err(failed("an image is no artifact".into())),
            ArtifactSource::File(path) => {
                let opened = tokio::task::spawn_blocking(move || {
                    File::open(&path).map_err(|e| format!("{path} can't be opened: {e}"))
                });
                opened.await.map_err(|e| failed(e.to_string()))?.map_err(failed)?
            }
            ArtifactSource::Url { url, token } => self.fetch(&url, &token).await.map_err(failed)?,
            ArtifactSource::Joined => {
                let link = link.ok_or_else(|| failed("this host has joined no server to fetch it from".into()))?;
                let answer =
                    link.artifact(digest).await.map_err(|e| failed(format!("the server did not give it: {e}")))?;
                self.keep(answer, "the server").await.map_err(failed)?
            }
        };
        let (folder, place, wanted) = (self.folder.clone(), self.path(digest), digest.clone());
        let unpacked = tokio::task::spawn_blocking(move || unpack_checked(artifact, &folder, &place, &wanted));
        unpacked.await.map_err(|e| failed(e.to_string()))?.map_err(failed)
    }

    /// Removes every release whose digest (in hexadecimal digits) is not named. Whoever needs a release must have named it
    /// before [`Self::prepare`] is called: then it is either not taken away, or found missing and fetched again.
    pub fn remove_unused(&self, is_named: impl Fn(&str) -> bool) {
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with('.') {
                continue;
            }
            let away = self.folder.join(format!(".unused-{name}"));
            let taken = {
                let _names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
                !is_named(&name) && std::fs::rename(entry.path(), &away).is_ok()
            };
            if taken {
                remove(&away);
            }
        }
    }

    /// Downloads from a server that a token opens.
    async fn fetch(&self, url: &str, token: &str) -> Result<File, String> {
        // Made for each fetch: they are rare, and an idle client with its certificates would lie in memory for ever.
        let client = reqwest::Client::builder()
            .no_proxy()
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(SILENCE_LIMIT)
            .build()
            .map_err(|e| format!("no HTTP client: {e}"))?;
        let answer = client.get(url).bearer_auth(token).send().await;
        let answer = answer.map_err(|e| format!("{url} did not give it: {}", e.without_url()))?;
        if !answer.status().is_success() {
            return Err(format!("{url} did not give it: {}: {}", answer.status(), words(answer).await));
        }
        self.keep(answer, url).await
    }

    /// Reads an answer into a file without a name.
    async fn keep(&self, answer: reqwest::Response, from: &str) -> Result<File, String> {
        let unkept = |e: io::Error| format!("it can't be kept in {}: {e}", self.folder.display());
        let file = tempfile::tempfile_in(&self.folder).map_err(unkept)?;
        let mut file = tokio::fs::File::from_std(file);
        let mut bytes = 0_u64;
        let mut stream = answer.bytes_stream();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|e| format!("{from} broke off after {bytes} bytes: {}", e.without_url()))?;
            bytes += chunk.len() as u64;
            if bytes > MAX_ARTIFACT_BYTES {
                return Err(format!("{from} sends more than {MAX_ARTIFACT_BYTES} bytes"));
            }
            tokio::io::AsyncWriteExt::write_all(&mut file, &chunk).await.map_err(unkept)?;
        }
        tokio::io::AsyncWriteExt::flush(&mut file).await.map_err(unkept)?;
        Ok(file.into_std().await)
    }
}

/// What a server says about its refusal, up to a bound.
async fn words(answer: reqwest::Response) -> String {
    let mut body = Vec::new();
    let mut stream = answer.bytes_stream();
    while let Some(Ok(chunk)) = stream.next().await {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_WORDS {
            break;
        }
    }
    match serde_json::from_slice::<ErrorBody>(&body) {
        Ok(told) => told.error.message,
        Err(_) => "without a reason".into(),
    }
}

/// Checks the bytes first, so that nothing is unpacked that was not meant.
fn unpack_checked(mut artifact: File, folder: &Path, place: &Path, wanted: &Digest) -> Result<(), String> {
    let unreadable = |e: io::Error| format!("it can't be read: {e}");
    artifact.seek(SeekFrom::Start(0)).map_err(unreadable)?;
    let mut hash = HashWriter(Sha256::new());
    io::copy(&mut (&artifact).take(MAX_ARTIFACT_BYTES + 1), &mut hash).map_err(unreadable)?;
    let found = hex::encode(hash.0.finalize());
    if found != wanted.hex() {
        return Err(format!("its bytes have the digest sha256:{found}; it was changed or cut short on its way"));
    }
    artifact.seek(SeekFrom::Start(0)).map_err(unreadable)?;
    let unplaced = |e: io::Error| format!("it can't be unpacked in {}: {e}", folder.display());
    let temporary = tempfile::Builder::new().prefix(".unpack-").tempdir_in(folder).map_err(unplaced)?;
    unpack(&artifact, temporary.path(), UnpackRules::default()).map_err(|e| e.to_string())?;
    // The name is given only to what would outlive a power cut.
    File::open(temporary.path()).and_then(|f| Ok(nix::unistd::syncfs(&f)?)).map_err(unplaced)?;
    match std::fs::rename(temporary.path(), place) {
        Ok(()) => {
            // It has its name; there is nothing left to clean up.
            let _ = temporary.keep();
            Ok(())
        }
        // Another call was faster; what lies there has the same digest.
        Err(_) if place.is_dir() => Ok(()),
        Err(error) => Err(unplaced(error)),
    }
}

struct HashWriter(Sha256);

impl Write for HashWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_dir_all(path) {
        tracing::warn!(path = %path.display(), %error, "an unused release can't be removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::unpack::tests::{Item, artifact};

    fn digest_of(bytes: &[u8]) -> Digest {
        format!("sha256:{}", hex::encode(Sha256::digest(bytes))).parse().unwrap()
    }

    #[tokio::test]
    async fn only_what_its_digest_names_is_unpacked() {
        let folder = tempfile::tempdir().unwrap();
        let releases = Releases::open(folder.path().join("releases")).unwrap();
        let bytes = artifact(&[Item::File("hello", 0o644, b"world")]);
        let file = folder.path().join("artifact");
        std::fs::write(&file, &bytes).unwrap();
        let source = || ArtifactSource::File(file.display().to_string());

        let other = digest_of(b"other");
        let error = releases.prepare(&other, source(), None).await.unwrap_err();
        assert_eq!(error.code, HostErrorCode::Artifact);
        assert!(error.message.contains("its bytes have the digest"), "{error}");
        assert!(!releases.has(&other));

        let digest = digest_of(&bytes);
        releases.prepare(&digest, source(), None).await.unwrap();
        assert_eq!(std::fs::read(releases.path(&digest).join("hello")).unwrap(), b"world");
        std::fs::remove_file(&file).unwrap();
        releases.prepare(&digest, source(), None).await.unwrap();
        assert_eq!(std::fs::read_dir(folder.path().join("releases")).unwrap().count(), 1, "nothing is left behind");
        releases.remove_unused(|named| named == digest.hex());
        assert!(releases.has(&digest));
        releases.remove_unused(|_| false);
        assert!(!releases.has(&digest));
    }

    #[tokio::test]
    async fn an_unsafe_artifact_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let releases = Releases::open(folder.path().join("releases")).unwrap();
        let bytes = artifact(&[Item::File("ok", 0o644, b"1"), Item::File("../evil", 0o644, b"2")]);
        let file = folder.path().join("artifact");
        std::fs::write(&file, &bytes).unwrap();
        let source = ArtifactSource::File(file.display().to_string());
        let error = releases.prepare(&digest_of(&bytes), source, None).await.unwrap_err();
        assert!(error.message.contains("leads out of its folder"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path().join("releases")).unwrap().count(), 0);
        assert!(!folder.path().join("evil").exists() && !folder.path().join("releases/evil").exists());
    }

    /// A server that answers every connection the same, whatever it is asked, and says what it was asked.
    fn answering(head: &'static str, body: Vec<u8>) -> (String, std::thread::JoinHandle<String>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/artifact", listener.local_addr().unwrap());
        let served = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            let mut buffer = [0; 1024];
            while !asked.ends_with(b"\r\n\r\n") {
                let n = stream.read(&mut buffer).unwrap();
                asked.extend_from_slice(&buffer[..n]);
            }
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(&body).unwrap();
            String::from_utf8(asked).unwrap().to_ascii_lowercase()
        });
        (url, served)
    }

    #[tokio::test]
    async fn an_artifact_is_fetched_with_its_token_and_a_cut_one_is_not_taken() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let releases = Releases::open(folder.path().to_owned()).unwrap();
        let bytes = artifact(&[Item::File("hello", 0o644, b"world")]);
        let digest = digest_of(&bytes);
        let url_of = |url: String| ArtifactSource::Url { url, token: "s3cret".into() };

        let (url, _) = answering("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", Vec::new());
        let error = releases.prepare(&digest, url_of(url), None).await.unwrap_err();
        assert!(error.message.contains("403"), "{error}");
        let (url, _) = answering("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n", bytes[..bytes.len() - 1].to_vec());
        let error = releases.prepare(&digest, url_of(url), None).await.unwrap_err();
        assert!(error.message.contains("cut short"), "{error}");
        assert!(!releases.has(&digest));

        let (url, asked) = answering("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n", bytes);
        releases.prepare(&digest, url_of(url), None).await.unwrap();
        assert!(asked.join().unwrap().contains("authorization: bearer s3cret"));
        assert_eq!(std::fs::read(releases.path(&digest).join("hello")).unwrap(), b"world");
    }
}
