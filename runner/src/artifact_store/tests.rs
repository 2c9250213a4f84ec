//! What holds of contents wherever they lie, and what becomes of a bucket's trouble.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, Instant},
};

use chrono::TimeDelta;
use futures_util::TryStreamExt as _;
use segue_integration_tests::s3::{Fault, Operation, S3};

use super::*;

const LIMIT: u64 = 64 << 20;
const MIB: usize = 1 << 20;

/// A store, and the bucket that it lies in.
struct Place {
    store: ArtifactStore,
    s3: Option<S3>,
    folder: tempfile::TempDir,
}

impl Place {
    async fn both() -> [Self; 2] {
        let folder = tempfile::tempdir().unwrap();
        let store = ArtifactStore::open(&StorageConfig::default(), folder.path().join("artifacts")).unwrap();
        [Self { store, s3: None, folder }, Self::bucket().await]
    }

    async fn bucket() -> Self {
        let _already_installed = rustls::crypto::ring::default_provider().install_default();
        let s3 = S3::start("contents", "key", "secret").await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let store = ArtifactStore::open(&storage(&s3, folder.path()), folder.path().join("artifacts")).unwrap();
        Self { store, s3: Some(s3), folder }
    }

    fn s3(&self) -> &S3 {
        self.s3.as_ref().unwrap()
    }

    fn name(&self) -> &str {
        if self.s3.is_some() { "bucket" } else { "directory" }
    }

    async fn upload(&self, bytes: &[u8], digest: &Digest, limit: u64) -> Result<Stored> {
        let mut upload = self.store.upload(digest, limit).await?;
        for part in bytes.chunks(100_000) {
            upload.write(Bytes::copy_from_slice(part)).await?;
        }
        upload.finish().await
    }

    async fn listed(&self) -> Vec<(Digest, u64)> {
        let listed: Vec<Listed> = self.store.list().await.unwrap().try_collect().await.unwrap();
        let mut listed: Vec<_> = listed.into_iter().map(|one| (one.digest, one.bytes)).collect();
        listed.sort_by(|one, other| one.0.as_str().cmp(other.0.as_str()));
        listed
    }

    /// Nothing lies there, and nothing is on its way there.
    async fn is_empty(&self) {
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            let multipart = fs::read_dir(self.folder.path().join("artifacts/multipart")).map_or(0, Iterator::count);
            let uploads = fs::read_dir(self.folder.path().join("artifacts/uploads")).unwrap().count();
            let open = self.s3.as_ref().map_or(0, S3::open_uploads);
            if (multipart, uploads, open) == (0, 0, 0) && self.listed().await.is_empty() {
                return;
            }
            assert!(Instant::now() < until, "{}: {multipart} notes, {uploads} files, {open} uploads", self.name());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn storage(s3: &S3, folder: &Path) -> StorageConfig {
    let secret = folder.join("secret");
    fs::write(folder.join("id"), "key\n").unwrap();
    fs::write(&secret, "secret\n").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    StorageConfig {
        kind: StorageKind::S3,
        bucket: Some("contents".into()),
        endpoint: Some(s3.endpoint()),
        prefix: Some("segue/test".into()),
        access_key_file: Some(folder.join("id")),
        secret_key_file: Some(secret),
        ..StorageConfig::default()
    }
}

/// Bytes that differ from one place to the next.
fn bytes(length: usize) -> Vec<u8> {
    (0..length as u64 / 8 + 1).flat_map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()).take(length).collect()
}

fn digest_of(bytes: &[u8]) -> Digest {
    let hash = hex::encode(ring::digest::digest(&ring::digest::SHA256, bytes));
    format!("sha256:{hash}").parse().unwrap()
}

async fn read(store: &ArtifactStore, digest: &Digest) -> Result<Option<Vec<u8>>> {
    let Some(content) = store.read(digest).await? else { return Ok(None) };
    let bytes: Vec<Bytes> = content.stream.try_collect().await?;
    let bytes = bytes.concat();
    assert_eq!(bytes.len() as u64, content.bytes);
    Ok(Some(bytes))
}

fn trouble(error: ArtifactError) -> TroubleKind {
    match error {
        ArtifactError::Bucket { trouble, .. } => trouble.kind,
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contents_of_every_length_come_back_as_they_went() {
    for place in Place::both().await {
        let lengths = [0, 1, 8 * MIB - 1, 8 * MIB, 8 * MIB + 1, 16 * MIB, 21 * MIB];
        let mut digests = Vec::new();
        for length in lengths {
            let bytes = bytes(length);
            let digest = digest_of(&bytes);
            assert_eq!(read(&place.store, &digest).await.unwrap(), None, "{} {length}", place.name());
            let stored = place.upload(&bytes, &digest, LIMIT).await.unwrap();
            assert_eq!(stored, Stored { bytes: length as u64, new: true }, "{} {length}", place.name());
            assert_eq!(place.store.bytes_of(&digest).await.unwrap(), Some(length as u64));
            assert!(read(&place.store, &digest).await.unwrap().unwrap() == bytes, "{} {length}", place.name());
            // once more changes nothing
            assert_eq!(place.upload(&bytes, &digest, LIMIT).await.unwrap().bytes, length as u64);
            digests.push((digest, length as u64));
        }
        digests.sort_by(|one, other| one.0.as_str().cmp(other.0.as_str()));
        if let Some(s3) = &place.s3 {
            s3.set_page(3);
        }
        assert_eq!(place.listed().await, digests, "{}", place.name());
        for (digest, _) in &digests {
            place.store.remove(digest).await.unwrap();
            assert_eq!(place.store.bytes_of(digest).await.unwrap(), None);
            // what is gone can be removed
            place.store.remove(digest).await.unwrap();
        }
        place.is_empty().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_bytes_too_many_bytes_and_half_an_upload_leave_nothing() {
    for place in Place::both().await {
        for length in [5, 20 * MIB] {
            let (right, other) = (bytes(length), bytes(length + 1));
            let digest = digest_of(&right);
            let refused = place.upload(&other, &digest, LIMIT).await.unwrap_err();
            assert!(matches!(refused, ArtifactError::Digest { .. }), "{}: {refused}", place.name());
            let limit = length as u64 - 1;
            let refused = place.upload(&right, &digest, limit).await.unwrap_err();
            assert!(matches!(refused, ArtifactError::TooLarge { .. }), "{}: {refused}", place.name());
            let mut half = place.store.upload(&digest, LIMIT).await.unwrap();
            half.write(right.clone().into()).await.unwrap();
            drop(half);
            place.is_empty().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_there_before_the_bucket_is_still_found() {
    let place = Place::bucket().await;
    let artifacts = place.folder.path().join("artifacts");
    let before = ArtifactStore::open(&StorageConfig::default(), artifacts.clone()).unwrap();
    let digest = digest_of(b"old");
    let mut upload = before.upload(&digest, LIMIT).await.unwrap();
    upload.write(Bytes::from_static(b"old")).await.unwrap();
    upload.finish().await.unwrap();
    assert_eq!(read(&place.store, &digest).await.unwrap().unwrap(), b"old");
    assert!(place.store.path(&digest).is_some() && place.store.path(&digest_of(b"new")).is_none());
    assert_eq!(place.listed().await, [(digest.clone(), 3)]);
    assert_eq!(place.store.remove(&digest).await.unwrap(), 3, "it frees this disk");
    assert_eq!(read(&place.store, &digest).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_wrong_for_a_moment_is_not_noticed() {
    let place = Place::bucket().await;
    let (small, large) = (bytes(10_000), bytes(20 * MIB));
    use Operation::{Complete, Create, Delete, Get, Head, Part, Put};
    for operation in [Put, Get, Head, Delete, Create, Part, Complete] {
        for fault in [Fault::SlowDown, Fault::Reset] {
            // a removal whose answer is lost is repeated by the next sweep; an upload whose beginning is lost would be begun
            // twice, so that is told
            if fault == Fault::Reset && matches!(operation, Delete | Create) {
                continue;
            }
            place.s3().fail(operation, fault, 2);
            for bytes in [&small, &large] {
                let digest = digest_of(bytes);
                let told = format!("{operation:?} {fault:?} {}", bytes.len());
                let stored =
                    place.upload(bytes, &digest, LIMIT).await.unwrap_or_else(|error| panic!("{told}: {error}"));
                assert_eq!(stored.bytes, bytes.len() as u64);
                assert!(read(&place.store, &digest).await.unwrap().as_ref() == Some(bytes), "{told}");
                place.store.remove(&digest).await.unwrap();
            }
            place.s3().mend();
        }
    }
    place.is_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_told_in_time_and_over_when_it_is_over() {
    let place = Place::bucket().await;
    let bytes = bytes(20 * MIB);
    let digest = digest_of(&bytes);
    // in the middle of an upload, whose parts can't be taken back now
    let mut upload = place.store.upload(&digest, LIMIT).await.unwrap();
    upload.write(bytes[..17 * MIB].to_vec().into()).await.unwrap();
    place.s3().set_down(true);
    let begun = Instant::now();
    let failed = async {
        upload.write(bytes[17 * MIB..].to_vec().into()).await?;
        upload.finish().await
    };
    assert_eq!(trouble(failed.await.unwrap_err()), TroubleKind::Unreachable);
    assert_eq!(trouble(place.store.bytes_of(&digest).await.unwrap_err()), TroubleKind::Unreachable);
    assert_eq!(trouble(place.store.remove(&digest).await.unwrap_err()), TroubleKind::Unreachable);
    assert_eq!(trouble(place.store.check(None).await.unwrap_err()), TroubleKind::Unreachable);
    assert!(place.store.list().await.unwrap().try_collect::<Vec<_>>().await.is_err());
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    place.s3().set_down(false);
    assert_eq!(place.s3().open_uploads(), 1, "it was begun before the outage");
    // the upload's own try to take it back may still go on
    let until = Instant::now() + Duration::from_secs(20);
    while place.s3().open_uploads() > 0 {
        place.store.remove_broken_uploads().await.unwrap();
        assert!(Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    place.is_empty().await;
    place.upload(&bytes, &digest, LIMIT).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_does_not_answer_is_given_up() {
    let place = Place::bucket().await;
    let digest = digest_of(b"x");
    place.s3().fail(Operation::Head, Fault::Stall, 10);
    let begun = Instant::now();
    let error = place.store.bytes_of(&digest).await.unwrap_err();
    assert!(error.to_string().contains("did not answer within 12 s"), "{error}");
    assert_eq!(trouble(error), TroubleKind::Unreachable);
    assert!(begun.elapsed() < Duration::from_secs(15));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_that_a_crash_has_left_are_taken_back() {
    let place = Place::bucket().await;
    let bytes = bytes(20 * MIB);
    let mut upload = place.store.upload(&digest_of(&bytes), LIMIT).await.unwrap();
    upload.write(bytes.into()).await.unwrap();
    // nothing is taken back while it is on its way
    assert_eq!(place.store.remove_broken_uploads().await.unwrap(), 0);
    std::mem::forget(upload);
    assert_eq!(place.s3().open_uploads(), 1);
    let storage = storage(place.s3(), place.folder.path());
    let next = ArtifactStore::open(&storage, place.folder.path().join("artifacts")).unwrap();
    assert_eq!(next.remove_broken_uploads().await.unwrap(), 1);
    place.is_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_check_says_what_is_wrong() {
    let place = Place::bucket().await;
    let right = storage(place.s3(), place.folder.path());
    let artifacts = place.folder.path().join("artifacts");
    let check = async |storage: &StorageConfig| {
        let error = ArtifactStore::open(storage, artifacts.clone()).unwrap().check(None).await.unwrap_err();
        let words = error.to_string();
        (trouble(error), words)
    };
    place.store.check(None).await.unwrap();
    assert_eq!(place.s3().objects("contents"), ["segue/test/segue-store"], "only the claim stays");

    let (kind, words) = check(&StorageConfig { bucket: Some("nobodys".into()), ..right.clone() }).await;
    assert_eq!(kind, TroubleKind::NoBucket, "{words}");
    assert!(words.contains("s3://nobodys/segue/test") && words.contains("`storage.bucket`"), "{words}");

    let wrong = place.folder.path().join("wrong");
    fs::write(&wrong, "wrong").unwrap();
    fs::set_permissions(&wrong, fs::Permissions::from_mode(0o600)).unwrap();
    let (kind, words) = check(&StorageConfig { secret_key_file: Some(wrong.clone()), ..right.clone() }).await;
    assert!(kind == TroubleKind::Refused && words.contains("(SignatureDoesNotMatch)"), "{words}");
    assert!(words.contains("`storage.secret-key-file`"), "{words}");
    let (kind, words) = check(&StorageConfig { access_key_file: Some(wrong), ..right.clone() }).await;
    assert!(kind == TroubleKind::Refused && words.contains("(InvalidAccessKeyId)"), "{words}");

    place.s3().fail(Operation::Put, Fault::Denied, 1);
    let (kind, words) = check(&right).await;
    assert!(kind == TroubleKind::Refused && words.contains("s3:PutObject"), "{words}");

    place.s3().set_clock(TimeDelta::minutes(20));
    let (kind, words) = check(&right).await;
    assert!(kind == TroubleKind::Clock && words.contains("set the time"), "{words}");
    place.s3().set_clock(TimeDelta::zero());

    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (kind, words) = check(&StorageConfig { endpoint: Some(format!("http://{free}")), ..right.clone() }).await;
    assert!(kind == TroubleKind::Unreachable && words.contains("`storage.endpoint`"), "{words}");

    // another server's, which would be taken for left-overs
    let other = tempfile::tempdir().unwrap();
    let error = ArtifactStore::open(&right, other.path().into()).unwrap().check(None).await.unwrap_err();
    assert!(error.to_string().contains("segue/test/segue-store"), "{error}");
    assert_eq!(trouble(error), TroubleKind::Taken);
}

#[test]
fn an_access_key_that_is_not_to_be_had_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let (id, secret) = (folder.path().join("id"), folder.path().join("secret"));
    let storage = StorageConfig {
        kind: StorageKind::S3,
        bucket: Some("contents".into()),
        region: Some("eu-central-1".into()),
        access_key_file: Some(id.clone()),
        secret_key_file: Some(secret.clone()),
        ..StorageConfig::default()
    };
    let open = || ArtifactStore::open(&storage, folder.path().join("artifacts")).unwrap_err().to_string();
    assert!(open().contains("id can't be read"), "{}", open());
    fs::write(&id, "key").unwrap();
    fs::write(&secret, "secret").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(open().contains("chmod 600"), "{}", open());
}
