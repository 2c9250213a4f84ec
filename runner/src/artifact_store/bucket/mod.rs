//! Contents as objects of a bucket: `PREFIX/sha256/ab/<64 digits>`, by the protocol of Amazon S3.
//!
//! An object has its name only once all its bytes were checked: small contents are sent whole, large ones as parts, which become
//! an object by a last call (`upload`). Each call has its own end: the client tries again a few times, with growing
//! pauses, and every call is given up after a limit. What is wrong is put into words in `trouble`.
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/Welcome.html>

mod trouble;
mod upload;

use std::{env, fs, future::Future, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use object_store::{
    BackoffConfig, ClientOptions, Error, GetOptions, GetRange, ObjectStore as _, ObjectStoreExt as _, PutMode,
    PutOptions, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder},
    path::Path,
};
use secrecy::{ExposeSecret as _, SecretString};
use segue_pipelines::config::{is_loopback_endpoint, storage_faults};
use segue_schemas::{config::StorageConfig, id::Digest};
use tokio::sync::Semaphore;

use super::{ArtifactError, Content, Listed, Result};
use crate::auth;

pub use self::trouble::{Trouble, TroubleKind};
pub use self::upload::BucketUpload;

/// Time limit of a call that carries no content, tries again included. Shorter than a worker waits for its answer.
const CALL_LIMIT: Duration = Duration::from_secs(12);
/// Time limit of one part of a content, tries again included.
const PART_LIMIT: Duration = Duration::from_secs(90);
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// A store that is silent for so long in the middle of an answer is taken for gone.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// Tries again of one call, and the pauses between them.
const RETRIES: usize = 5;
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// What is asked for at once of a content that is read.
const RANGE_BYTES: u64 = 64 << 20;
/// Contents that may be on their way in at a time; each holds a few parts in memory.
const UPLOADS: usize = 8;
/// How long a content waits for its turn.
const TURN_LIMIT: Duration = Duration::from_secs(60);
/// The region that stores elsewhere than at Amazon sign with by default.
const DEFAULT_REGION: &str = "us-east-1";
/// Says whose the objects are.
const OWNER: &str = "segue-store";

/// A bucket, with the part of it that is ours. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Bucket(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    s3: AmazonS3,
    prefix: Path,
    place: Arc<str>,
    turns: Arc<Semaphore>,
    records: upload::Records,
}

impl Bucket {
    /// A client for a bucket. `records` is a directory in which uploads in parts are noted, so that they can be taken back
    /// even after a crash. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ArtifactError::Configuration`] where the bucket is not described as it must be, or its access key is not to be had.
    pub fn new(storage: &StorageConfig, records: PathBuf) -> Result<Self> {
        if let Some(fault) = storage_faults(storage).into_iter().next() {
            return Err(ArtifactError::Configuration(format!("{}; {}", fault.message, fault.help)));
        }
        let prefix = storage.prefix.clone().unwrap_or_default();
        let bucket = storage.bucket.clone().unwrap_or_default();
        let region = storage.region.as_deref().unwrap_or(DEFAULT_REGION);
        let (key_id, secret) = access_key(storage)?;
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&bucket)
            .with_region(region)
            .with_access_key_id(key_id.expose_secret())
            .with_secret_access_key(secret.expose_secret())
            .with_retry(retries())
            // one call for each: not every store knows how to remove many at once
            .with_disable_bulk_delete(true);
        let session = env::var("AWS_SESSION_TOKEN").ok().filter(|_| storage.access_key_file.is_none());
        if let Some(token) = session {
            builder = builder.with_token(token);
        }
        let is_path_style = storage.path_style.unwrap_or(storage.endpoint.is_some());
        builder = builder.with_virtual_hosted_style_request(!is_path_style);
        let mut options = ClientOptions::new()
            .with_timeout_disabled()
            .with_connect_timeout(CONNECT_LIMIT)
            .with_read_timeout(SILENCE_LIMIT);
        let mut address = format!("region {region}");
        if let Some(endpoint) = &storage.endpoint {
            options = options.with_allow_http(storage.allow_http || is_loopback_endpoint(endpoint));
            builder = builder.with_endpoint(match endpoint.split_once("://") {
                Some((scheme, host)) if !is_path_style => format!("{scheme}://{bucket}.{host}"),
                _ => endpoint.clone(),
            });
            address = endpoint.clone();
        }
        let s3 = builder.with_client_options(options).build();
        let s3 = s3.map_err(|error| ArtifactError::Configuration(error.to_string()))?;
        let slash = if prefix.is_empty() { "" } else { "/" };
        Ok(Self(Arc::new(Inner {
            s3,
            prefix: Path::from(prefix.as_str()),
            place: format!("s3://{bucket}{slash}{prefix} ({address})").into(),
            turns: Arc::new(Semaphore::new(UPLOADS)),
            records: upload::Records::open(records)?,
        })))
    }

    /// What it is called, for people.
    pub fn place(&self) -> &str {
        &self.0.place
    }

    /// Writes an object, reads it and removes it.
    pub async fn check(&self) -> Result<()> {
        let name = self.0.prefix.clone().join(format!("segue-check-{}", uuid::Uuid::new_v4().simple()));
        let bytes = Bytes::from_static(b"written to see whether it can be; it may be removed\n");
        self.call("be written", self.0.s3.put(&name, bytes.clone().into())).await?;
        let read = self.call("be read", async { self.0.s3.get(&name).await?.bytes().await }).await;
        // removed in any case; what could not be read says more than what could not be removed
        let removed = self.call("remove what was written", self.0.s3.delete(&name)).await;
        if read? != bytes {
            let trouble = Trouble::new(TroubleKind::Other, "it gives other bytes than were written".into());
            return Err(self.error("be read", trouble));
        }
        removed
    }

    /// Makes the prefix this server's own, unless it is another's: two servers would take each other's contents for
    /// left-overs and remove them.
    pub async fn claim(&self, identity: &str) -> Result<()> {
        let name = self.0.prefix.clone().join(OWNER);
        let claiming = async {
            let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            match self.owner(&name).await? {
                Some(owner) => Ok(Some(owner)),
                None => match self.0.s3.put_opts(&name, identity.to_owned().into(), create).await {
                    Err(Error::AlreadyExists { .. }) => self.owner(&name).await,
                    Err(error) if trouble::is_not_implemented(&error) => {
                        self.0.s3.put(&name, identity.to_owned().into()).await.map(|_| None)
                    }
                    put => put.map(|_| None),
                },
            }
        };
        match self.call("be claimed", claiming).await? {
            Some(owner) if owner != identity => {
                let problem = format!(
                    "another server's contents are there: name another `storage.prefix`, or, where that server is gone, remove \
                     the object `{name}`"
                );
                Err(self.error("be claimed", Trouble::new(TroubleKind::Taken, problem)))
            }
            _ => Ok(()),
        }
    }

    async fn owner(&self, name: &Path) -> object_store::Result<Option<String>> {
        match self.0.s3.get(name).await {
            Ok(found) => Ok(Some(String::from_utf8_lossy(&found.bytes().await?).trim().to_owned())),
            Err(error) if trouble::is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub async fn bytes_of(&self, digest: &Digest) -> Result<Option<u64>> {
        let name = self.name(digest);
        let found = self.call("say whether it has an artifact", async {
            match self.0.s3.head(&name).await {
                Ok(found) => Ok(Some(found.size)),
                // without a body nothing tells an absent bucket from an absent object; the upload will
                Err(Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        });
        found.await
    }

    /// Begins to take a content, when it is its turn.
    pub async fn upload(&self, digest: &Digest, limit: u64) -> Result<BucketUpload> {
        let turn = tokio::time::timeout(TURN_LIMIT, self.0.turns.clone().acquire_owned()).await;
        let Ok(Ok(turn)) = turn else {
            let problem = format!("{UPLOADS} uploads were on their way for {} s: try again", TURN_LIMIT.as_secs());
            return Err(self.error("take an artifact", Trouble::new(TroubleKind::Busy, problem)));
        };
        Ok(BucketUpload::new(self.clone(), turn, digest.clone(), limit))
    }

    /// A content, read in ranges, so that one that breaks off is asked for again, and nothing else is. The first has
    /// answered when this returns.
    pub async fn read(&self, digest: &Digest) -> Result<Option<Content>> {
        let Some(bytes) = self.bytes_of(digest).await? else { return Ok(None) };
        if bytes == 0 {
            return Ok(Some(Content { bytes, stream: stream::empty().boxed() }));
        }
        let name = self.name(digest);
        let first = self.range(&name, 0, bytes).await?;
        let step = usize::try_from(RANGE_BYTES).unwrap_or(usize::MAX);
        let bucket = self.clone();
        let rest = stream::iter((0..bytes).step_by(step).skip(1)).then(move |begin| {
            let (bucket, name) = (bucket.clone(), name.clone());
            async move { bucket.range(&name, begin, bytes).await }
        });
        Ok(Some(Content { bytes, stream: first.chain(rest.try_flatten()).boxed() }))
    }

    /// [`RANGE_BYTES`] of an object, or what is left of it.
    async fn range(&self, name: &Path, begin: u64, end: u64) -> Result<BoxStream<'static, Result<Bytes>>> {
        let range = GetRange::Bounded(begin..end.min(begin + RANGE_BYTES));
        let options = GetOptions { range: Some(range), ..GetOptions::default() };
        let found = self.call("give an artifact", self.0.s3.get_opts(name, options)).await?;
        let bucket = self.clone();
        Ok(found.into_stream().map_err(move |error| bucket.error("give an artifact", Trouble::of(&error))).boxed())
    }

    pub async fn remove(&self, digest: &Digest) -> Result<()> {
        let name = self.name(digest);
        self.call("remove an artifact", async {
            match self.0.s3.delete(&name).await {
                Err(error) if trouble::is_absent(&error) => Ok(()),
                removed => removed,
            }
        })
        .await
    }

    pub fn list(&self) -> BoxStream<'static, Result<Listed>> {
        let bucket = self.clone();
        let objects = self.0.s3.list(Some(&self.0.prefix.clone().join("sha256")));
        let listed = objects.map_err(move |error| bucket.error("list its artifacts", Trouble::of(&error)));
        listed
            .try_filter_map(|object| async move {
                // what is called otherwise is none of ours
                let digest = object.location.filename().and_then(|name| format!("sha256:{name}").parse().ok());
                Ok(digest.map(|digest| Listed { digest, bytes: object.size, since: object.last_modified.into() }))
            })
            .boxed()
    }

    fn name(&self, digest: &Digest) -> Path {
        self.0.prefix.clone().join("sha256").join(&digest.hex()[..2]).join(digest.hex())
    }

    async fn call<T>(&self, action: &'static str, call: impl Future<Output = object_store::Result<T>>) -> Result<T> {
        self.within(CALL_LIMIT, action, call).await
    }

    async fn within<T>(
        &self,
        limit: Duration,
        action: &'static str,
        call: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T> {
        match tokio::time::timeout(limit, call).await {
            Ok(answer) => answer.map_err(|error| self.error(action, Trouble::of(&error))),
            Err(_) => {
                let problem =
                    format!("it did not answer within {} s: is it overloaded, or the network?", limit.as_secs());
                Err(self.error(action, Trouble::new(TroubleKind::Unreachable, problem)))
            }
        }
    }

    fn error(&self, action: &'static str, trouble: Trouble) -> ArtifactError {
        ArtifactError::Bucket { action, place: self.0.place.clone(), trouble }
    }
}

fn retries() -> RetryConfig {
    let (init_backoff, max_backoff) = PAUSES;
    let backoff = BackoffConfig { init_backoff, max_backoff, ..BackoffConfig::default() };
    RetryConfig { backoff, max_retries: RETRIES, retry_timeout: SILENCE_LIMIT }
}

/// The access key: from the files that are named, or else from the environment.
fn access_key(storage: &StorageConfig) -> Result<(SecretString, SecretString)> {
    let problem = |error: auth::AuthError| ArtifactError::Configuration(error.to_string());
    if let (Some(id), Some(secret)) = (&storage.access_key_file, &storage.secret_key_file) {
        // the id is no secret: anybody may read its file
        let id_text = fs::read_to_string(id)
            .map_err(|error| ArtifactError::Configuration(format!("{} can't be read: {error}", id.display())))?;
        if id_text.trim().is_empty() {
            return Err(ArtifactError::Configuration(format!("{} is empty", id.display())));
        }
        return Ok((id_text.trim().into(), auth::read(secret).map_err(problem)?));
    }
    let variable = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    match (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY")) {
        (Some(id), Some(secret)) => Ok((id.into(), secret.into())),
        _ => Err(ArtifactError::Configuration(
            "there is no access key: name `access-key-file` and `secret-key-file`, or set AWS_ACCESS_KEY_ID and \
             AWS_SECRET_ACCESS_KEY"
                .into(),
        )),
    }
}
