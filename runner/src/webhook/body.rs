//! A body on its way in: small ones stay in memory, large ones go to a file, and the signature is computed over the bytes
//! as they pass. Nothing is looked at before the signature is known to be right.

use std::{fs::File, io, path::Path};

use axum::body::{Body, BodyDataStream};
use futures_util::StreamExt as _;
use tempfile::NamedTempFile;
use tokio::io::AsyncWriteExt as _;

use super::signature::Verifier;

/// The largest body, in bytes: GitHub's own limit.
pub const LIMIT: u64 = 25 * 1024 * 1024;
/// Up to this many bytes a body stays in memory (and is stored in the database).
pub const IN_MEMORY: usize = 256 * 1024;
/// Unfinished files begin with this; those that a killed process left are removed at the next start.
pub const UNFINISHED: &str = ".incoming-";

/// A whole body.
#[derive(Debug)]
pub enum Received {
    /// In memory.
    Memory(Vec<u8>),
    /// In a file, removed when this is dropped.
    File {
        /// The file.
        file: NamedTempFile,
        /// Its length.
        bytes: u64,
    },
}

/// Why a body was not received whole.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// It has more bytes than [`LIMIT`].
    #[error("the payload has more than {LIMIT} bytes")]
    TooLarge,
    /// The sender broke off.
    #[error("the payload broke off: {0}")]
    BrokenOff(String),
    /// It can't be kept.
    #[error("the payload can't be kept on disk: {0}")]
    Disk(#[from] io::Error),
}

/// Receives a body; `folder` takes the file of a large one.
///
/// # Errors
/// [`BodyError`]; nothing is left behind.
pub async fn receive(body: Body, verifier: &mut Verifier, folder: &Path) -> Result<Received, BodyError> {
    let mut stream = body.into_data_stream();
    let mut memory = Vec::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| BodyError::BrokenOff(error.to_string()))?;
        verifier.update(&chunk);
        memory.extend_from_slice(&chunk);
        if memory.len() > IN_MEMORY {
            return receive_to_file(stream, verifier, folder, memory).await;
        }
    }
    Ok(Received::Memory(memory))
}

async fn receive_to_file(
    mut stream: BodyDataStream,
    verifier: &mut Verifier,
    folder: &Path,
    begun: Vec<u8>,
) -> Result<Received, BodyError> {
    let folder = folder.to_owned();
    let make = move || tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(folder);
    let file = blocking(make).await?;
    let mut writer = tokio::fs::File::from_std(file.reopen()?);
    writer.write_all(&begun).await?;
    let mut bytes = begun.len() as u64;
    drop(begun);
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| BodyError::BrokenOff(error.to_string()))?;
        bytes += chunk.len() as u64;
        if bytes > LIMIT {
            discard(&mut stream).await;
            return Err(BodyError::TooLarge);
        }
        verifier.update(&chunk);
        writer.write_all(&chunk).await?;
    }
    writer.flush().await?;
    Ok(Received::File { file, bytes })
}

/// Reads what a refused sender still has to say, so that it gets to the answer instead of a broken connection. Bounded in
/// bytes; the caller bounds the time.
pub async fn drain(body: Body) {
    discard(&mut body.into_data_stream()).await;
}

async fn discard(stream: &mut BodyDataStream) {
    let mut bytes = 0;
    while let Some(Ok(chunk)) = stream.next().await {
        bytes += chunk.len() as u64;
        if bytes > 2 * LIMIT {
            return;
        }
    }
}

/// Syncs a received file and gives it its name.
///
/// # Errors
/// Those of the file system.
pub async fn keep(file: NamedTempFile, folder: &Path, name: &str) -> io::Result<()> {
    let (folder, target) = (folder.to_owned(), folder.join(name));
    blocking(move || {
        file.as_file().sync_all()?;
        file.persist(&target).map_err(|error| error.error)?;
        File::open(&folder)?.sync_all()
    })
    .await
}

/// Runs what blocks where that is allowed.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}
