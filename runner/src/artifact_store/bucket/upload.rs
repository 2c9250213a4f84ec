//! A content on its way into a bucket. Up to one part it is sent whole; a longer one in parts of the same size, two at a time,
//! under the name that it will have, which it gets by the last call. Before that call the digest is checked. Where it comes to
//! nothing, the parts are taken back; so that a crash leaves none, they are noted in a file until then.
//! <https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html>

use std::{
    collections::HashSet,
    fs,
    io::Write as _,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use object_store::{
    MultipartId, ObjectStoreExt as _, PutPayload,
    multipart::{MultipartStore as _, PartId},
    path::Path,
};
use ring::digest::{Context, SHA256};
use segue_schemas::id::Digest;
use serde::{Deserialize, Serialize};
use tokio::{sync::OwnedSemaphorePermit, task::JoinSet};

use super::{
    super::{ArtifactError, Result, Stored, checked, io},
    Bucket, PART_LIMIT, trouble,
};

/// The size of a part but the last. A content has at most 10,000 of them.
const PART_BYTES: usize = 8 << 20;
/// Parts of one content that are sent at a time.
const AT_ONCE: usize = 2;

/// What the name of a note begins with until it is whole.
const HALF: &str = ".half-";

/// A content on its way.
pub struct BucketUpload {
    bucket: Bucket,
    digest: Digest,
    limit: u64,
    sha256: Context,
    bytes: u64,
    gathered: Vec<Bytes>,
    gathered_bytes: usize,
    parts: Option<Parts>,
    _turn: OwnedSemaphorePermit,
}

impl BucketUpload {
    pub(super) fn new(bucket: Bucket, turn: OwnedSemaphorePermit, digest: Digest, limit: u64) -> Self {
        Self {
            bucket,
            digest,
            limit,
            sha256: Context::new(&SHA256),
            bytes: 0,
            gathered: Vec::new(),
            gathered_bytes: 0,
            parts: None,
            _turn: turn,
        }
    }

    pub async fn write(&mut self, mut bytes: Bytes) -> Result<()> {
        self.bytes += bytes.len() as u64;
        if self.bytes > self.limit {
            return Err(ArtifactError::TooLarge { limit: self.limit });
        }
        self.sha256.update(&bytes);
        while !bytes.is_empty() {
            // a part goes once something follows it, so that there is always a last one
            if self.gathered_bytes == PART_BYTES {
                self.send_part().await?;
            }
            let taken = bytes.split_to(bytes.len().min(PART_BYTES - self.gathered_bytes));
            self.gathered_bytes += taken.len();
            self.gathered.push(taken);
        }
        Ok(())
    }

    pub async fn finish(mut self) -> Result<Stored> {
        checked(&self.digest, std::mem::replace(&mut self.sha256, Context::new(&SHA256)))?;
        if self.parts.is_some() {
            self.send_part().await?;
        }
        let stored = Stored { bytes: self.bytes, new: true };
        let Some(parts) = &mut self.parts else {
            let payload: PutPayload = self.gathered.drain(..).collect();
            let name = self.bucket.name(&self.digest);
            let put = self.bucket.0.s3.put(&name, payload);
            self.bucket.within(PART_LIMIT, "take an artifact", put).await?;
            return Ok(stored);
        };
        match parts.complete(&self.bucket).await {
            Ok(()) => {}
            // an answer that was lost: asked again, the store no longer knows the parts
            Err(_) if self.bucket.bytes_of(&self.digest).await.is_ok_and(|found| found == Some(self.bytes)) => {}
            Err(error) => return Err(error),
        }
        parts.settle();
        Ok(stored)
    }

    async fn send_part(&mut self) -> Result<()> {
        if self.parts.is_none() {
            self.parts = Some(Parts::begin(&self.bucket, self.bucket.name(&self.digest)).await?);
        }
        let Some(parts) = &mut self.parts else { return Ok(()) };
        let payload: PutPayload = self.gathered.drain(..).collect();
        self.gathered_bytes = 0;
        parts.send(&self.bucket, payload).await
    }
}

/// The parts of a content. Dropped before they are settled, they are taken back.
struct Parts {
    bucket: Bucket,
    note: Note,
    sending: JoinSet<Result<(usize, PartId)>>,
    sent: Vec<(usize, PartId)>,
    begun: usize,
    settled: bool,
}

impl Parts {
    async fn begin(bucket: &Bucket, name: Path) -> Result<Self> {
        let id = bucket.call("take an artifact", bucket.0.s3.create_multipart(&name)).await?;
        let note = bucket.0.records.begin(&name, &id);
        let (sending, sent) = (JoinSet::new(), Vec::new());
        let parts = Self { bucket: bucket.clone(), note, sending, sent, begun: 0, settled: false };
        bucket.0.records.write(&parts.note)?;
        Ok(parts)
    }

    /// Sends a part; waits while as many as may be are on their way.
    async fn send(&mut self, bucket: &Bucket, payload: PutPayload) -> Result<()> {
        while self.sending.len() >= AT_ONCE {
            self.one_sent(bucket).await?;
        }
        let index = self.begun;
        self.begun += 1;
        let (bucket, name, id) = (bucket.clone(), self.note.name(), self.note.id.clone());
        self.sending.spawn(async move {
            let put = bucket.0.s3.put_part(&name, &id, index, payload);
            Ok((index, bucket.within(PART_LIMIT, "take an artifact", put).await?))
        });
        Ok(())
    }

    async fn one_sent(&mut self, bucket: &Bucket) -> Result<bool> {
        let Some(ended) = self.sending.join_next().await else { return Ok(false) };
        let broke_off = |error: tokio::task::JoinError| {
            bucket.error("take an artifact", trouble::Trouble::new(trouble::TroubleKind::Other, error.to_string()))
        };
        self.sent.push(ended.map_err(broke_off)??);
        Ok(true)
    }

    async fn complete(&mut self, bucket: &Bucket) -> Result<()> {
        while self.one_sent(bucket).await? {}
        self.sent.sort_unstable_by_key(|(index, _)| *index);
        let parts = self.sent.drain(..).map(|(_, part)| part).collect();
        let name = self.note.name();
        let completing = bucket.0.s3.complete_multipart(&name, &self.note.id, parts);
        bucket.within(PART_LIMIT, "take an artifact", completing).await.map(drop)
    }

    /// They are an object now.
    fn settle(&mut self) {
        self.settled = true;
        self.bucket.0.records.forget(&self.note);
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        self.sending.abort_all();
        let (bucket, note) = (self.bucket.clone(), self.note.clone());
        // where there is no runtime any more, the next start takes them back
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = bucket.abort(&note).await {
                    tracing::warn!(%error, "parts of an upload that broke off are still there; tried again within an hour");
                }
                bucket.0.records.let_go(&note);
            });
        }
    }
}

impl Bucket {
    /// Takes the parts back that uploads have left of which nobody knows any more.
    pub async fn abort_left(&self) -> Result<usize> {
        let left = self.0.records.left()?;
        for note in &left {
            self.abort(note).await?;
        }
        Ok(left.len())
    }

    async fn abort(&self, note: &Note) -> Result<()> {
        let name = note.name();
        self.call("take an upload back", async {
            match self.0.s3.abort_multipart(&name, &note.id).await {
                Err(error) if trouble::is_absent(&error) => Ok(()),
                aborted => aborted,
            }
        })
        .await?;
        self.0.records.forget(note);
        Ok(())
    }
}

/// An upload in parts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Note {
    object: String,
    id: MultipartId,
    #[serde(skip)]
    file: PathBuf,
}

impl Note {
    fn name(&self) -> Path {
        Path::from(self.object.as_str())
    }
}

/// The notes of uploads: a file for each.
#[derive(Debug)]
pub struct Records {
    directory: PathBuf,
    /// Those that are on their way now.
    current: Arc<Mutex<HashSet<PathBuf>>>,
}

impl Records {
    pub fn open(directory: PathBuf) -> Result<Self> {
        fs::create_dir_all(&directory).map_err(io("make", &directory))?;
        for entry in fs::read_dir(&directory).map_err(io("read", &directory))?.flatten() {
            // half a note, of a crash
            if is_half(&entry.file_name()) {
                fs::remove_file(entry.path()).map_err(io("remove", &entry.path()))?;
            }
        }
        Ok(Self { directory, current: Arc::default() })
    }

    /// A note that is not written yet, and looked after from now on.
    fn begin(&self, name: &Path, id: &MultipartId) -> Note {
        let file = self.directory.join(uuid::Uuid::new_v4().simple().to_string());
        self.current.lock().unwrap_or_else(PoisonError::into_inner).insert(file.clone());
        Note { object: name.to_string(), id: id.clone(), file }
    }

    fn write(&self, note: &Note) -> Result<()> {
        let text = serde_json::to_vec(note).map_err(|error| io("write", &note.file)(error.into()))?;
        let half = tempfile::Builder::new().prefix(HALF).tempfile_in(&self.directory);
        let written = half.and_then(|mut file| {
            file.write_all(&text)?;
            file.as_file().sync_all()?;
            file.persist(&note.file).map_err(|error| error.error)
        });
        written.map_err(io("write", &note.file)).map(drop)
    }

    /// Nothing of it is left in the bucket.
    fn forget(&self, note: &Note) {
        // what stays is found and forgotten by the next sweep
        let _ = fs::remove_file(&note.file);
        self.let_go(note);
    }

    /// Nobody looks after it any more.
    fn let_go(&self, note: &Note) {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).remove(&note.file);
    }

    /// Those that nobody looks after.
    fn left(&self) -> Result<Vec<Note>> {
        let mut left = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(io("read", &self.directory))?.flatten() {
            let file = entry.path();
            let is_current = self.current.lock().unwrap_or_else(PoisonError::into_inner).contains(&file);
            if is_current || is_half(&entry.file_name()) {
                continue;
            }
            let text = fs::read(&file).map_err(io("read", &file))?;
            let note: Note = serde_json::from_slice(&text).map_err(|error| io("read", &file)(error.into()))?;
            left.push(Note { file, ..note });
        }
        Ok(left)
    }
}

fn is_half(name: &std::ffi::OsStr) -> bool {
    name.to_string_lossy().starts_with(HALF)
}
