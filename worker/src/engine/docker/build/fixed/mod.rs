//! Makes an image that was built the one that the same commit and inputs give anywhere, at any time.
//!
//! An engine's own builder writes the time at which it runs into the configuration and into the layers of its steps. BuildKit can
//! write another (`rewrite-timestamp`, since 0.13), and no engine can have it do so: what stores for an engine can't, or refuses it
//! (<https://github.com/moby/buildkit/issues/4230>). So the image is saved, written anew as it comes (`saved.rs`, `layer.rs`), and loaded.
//! Comes in: an image, and the commit's time. Goes out: another image of the same files. Of a large one no more is held than a block;
//! one layer after the other lies in a file. The same way an image's packages are read (`contents.rs`).

mod contents;
mod layer;
mod saved;

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read, Write},
    sync::{Mutex, PoisonError},
};

use bollard::query_parameters::RemoveImageOptionsBuilder;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, StreamBody, combinators::UnsyncBoxBody};
use hyper::{Method, Request, StatusCode, body::Frame};
use segue_pipelines::sbom::Inventory;
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    super::{Docker, DockerError, call::call, place::Say},
    Built, Event, MAX_REFUSAL, refusal,
};
use saved::Unfit;

/// Blocks that wait to be written anew, and as many to be loaded.
const BLOCKS: usize = 16;
/// The largest block that is loaded at once.
const BLOCK_BYTES: usize = 256 * 1024;
/// Images of which it is known what they became.
const MAX_KNOWN: usize = 256;
const SAVE: &str = "save the image";
const READ: &str = "what is in the image can't be told";
const LOAD: &str = "load the image";

/// What became of images: a build with nothing changed gives the same one again.
#[derive(Debug, Default)]
pub(in super::super) struct Fixed {
    known: Mutex<VecDeque<(String, i64, String)>>,
}

impl Fixed {
    fn of(&self, id: &str, time: i64) -> Option<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().find(|(from, then, _)| from == id && *then == time).map(|(.., to)| to.clone())
    }

    fn keep(&self, id: &str, time: i64, became: &str) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(from, then, _)| from != id || *then != time);
        known.truncate(MAX_KNOWN - 1);
        known.push_front((id.to_owned(), time, became.to_owned()));
    }
}

impl Docker {
    /// The image that this one is with no time in it that is after `time`, in seconds since 1970. `spool` takes a layer at a time. Where
    /// the engine's way to keep images does not let that be, it says so and stays as it is.
    ///
    /// # Errors
    /// [`DockerError`].
    pub async fn fix_image(&self, built: Built, time: i64, spool: File, say: &dyn Say) -> Result<Built, DockerError> {
        let turn = self.images.turn(&built.id);
        let held = turn.lock().await;
        let fixed =
            self.fix_once(&built, time, spool, say).await.map(|fixed| Built { bases: built.bases.clone(), ..fixed });
        drop(held);
        self.images.forget(&built.id);
        fixed
    }

    async fn fix_once(&self, built: &Built, time: i64, spool: File, say: &dyn Say) -> Result<Built, DockerError> {
        if let Some(known) = self.fixed.of(&built.id, time) {
            match self.seen(&known).await {
                Err(error) if error.is_not_found() => {}
                found => return found,
            }
        }
        let id = match self.rewrite(&built.id, time, spool).await? {
            Ok(id) => id,
            Err(why) => {
                let text = format!(
                    "##[warning]The image is not reproducible: {why}; `reproducible: false` says that it need not be"
                );
                say.say(text).await;
                return Ok(built.clone());
            }
        };
        let fixed = self.seen(&id).await?;
        self.fixed.keep(&built.id, time, &fixed.id);
        if fixed.id != built.id {
            self.forget_unnamed(&built.id).await;
        }
        Ok(fixed)
    }

    /// The packages of an image, from what the engine saves of it.
    ///
    /// # Errors
    /// [`DockerError`].
    pub async fn contents(&self, built: &Built) -> Result<Inventory, DockerError> {
        let mut tasks = JoinSet::new();
        let (to_read, blocks) = mpsc::channel(BLOCKS);
        let reading = tokio::task::spawn_blocking(move || contents::read(Blocks { blocks, left: Bytes::new() }));
        let (saved, read) = tokio::join!(self.save(&built.id, to_read, &mut tasks), reading);
        let read = read.unwrap_or_else(|error| Err(io::Error::other(error)));
        match (saved, read) {
            (Ok(()), Ok(inventory)) => Ok(inventory),
            // who breaks off says why
            (Err(error), _) => Err(error),
            (Ok(()), Err(error)) => Err(DockerError::Own(format!("{READ}: {error}"))),
        }
    }

    /// Saves, writes anew and loads at once, block by block; why it stays as it is, or what it is now.
    async fn rewrite(&self, id: &str, time: i64, spool: File) -> Result<Result<String, Unfit>, DockerError> {
        let mut tasks = JoinSet::new();
        let (to_read, blocks) = mpsc::channel(BLOCKS);
        let (written, to_load) = mpsc::channel(BLOCKS);
        let rewriting = tokio::task::spawn_blocking(move || {
            let from = Blocks { blocks, left: Bytes::new() };
            let to = Outlet { to: written, is_whole: false };
            saved::rewrite(from, to, time, spool)
        });
        let rewriting = async { rewriting.await.unwrap_or_else(|error| Err(io::Error::other(error).into())) };
        let saving = self.save(id, to_read, &mut tasks);
        let mut load_tasks = JoinSet::new();
        let loading = self.load(to_load, &mut load_tasks);
        let (saved, rewritten, loaded) = tokio::join!(saving, rewriting, loading);
        match rewritten {
            Err(Unfit::Packed) => Ok(Err(Unfit::Packed)),
            // whoever broke off first says why
            Err(Unfit::Io(error)) => {
                saved?;
                loaded?;
                Err(DockerError::Own(format!(
                    "the image can't be made reproducible: {error}; `reproducible: false` says that it need not be"
                )))
            }
            Ok(id) => {
                loaded?;
                Ok(Ok(id))
            }
        }
    }

    async fn save(
        &self,
        id: &str,
        to: mpsc::Sender<io::Result<Bytes>>,
        tasks: &mut JoinSet<()>,
    ) -> Result<(), DockerError> {
        let request = Request::builder().uri(format!("/images/{id}/get")).header("host", "docker");
        let request = request
            .body(Empty::new().map_err(|never| match never {}).boxed_unsync())
            .map_err(|error| DockerError::Own(error.to_string()))?;
        let mut body = self.answer(SAVE, request, tasks).await?;
        while let Some(frame) = self.attended(body.frame()).await? {
            let block = match frame {
                Ok(frame) => frame.into_data().ok(),
                Err(error) => {
                    let _ = to.send(Err(io::ErrorKind::UnexpectedEof.into())).await;
                    return Err(DockerError::away(SAVE, &error));
                }
            };
            let Some(block) = block.filter(|block| !block.is_empty()) else { continue };
            // who reads no further says why
            if to.send(Ok(block)).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn load(
        &self,
        mut from: mpsc::Receiver<io::Result<Bytes>>,
        tasks: &mut JoinSet<()>,
    ) -> Result<(), DockerError> {
        // nothing is asked before it is known that there is something to load
        let Some(first) = from.recv().await else { return Ok(()) };
        let blocks = futures_util::stream::unfold((Some(first), from), async |(first, mut from)| {
            let block = match first {
                Some(first) => first,
                None => from.recv().await?,
            };
            Some((block.map(Frame::data), (None, from)))
        });
        let request = Request::builder()
            .method(Method::POST)
            .uri("/images/load?quiet=1")
            .header("host", "docker")
            .header("content-type", "application/x-tar")
            .body(StreamBody::new(blocks).boxed_unsync())
            .map_err(|error| DockerError::Own(error.to_string()))?;
        let body = self.answer(LOAD, request, tasks).await?;
        let said = self.attended(http_body_util::Limited::new(body, MAX_REFUSAL).collect()).await?;
        let said = said.map_err(|error| DockerError::Away { doing: LOAD, message: error.to_string() })?.to_bytes();
        let events = serde_json::Deserializer::from_slice(&said).into_iter::<Event>();
        match events.flatten().find_map(|event| event.error) {
            Some(message) => Err(DockerError::Away { doing: LOAD, message }),
            None => Ok(()),
        }
    }

    /// The body of an answer that is none of refusal.
    async fn answer(
        &self,
        doing: &'static str,
        request: Request<UnsyncBoxBody<Bytes, io::Error>>,
        tasks: &mut JoinSet<()>,
    ) -> Result<hyper::body::Incoming, DockerError> {
        let answer = self.send(doing, request, tasks).await?;
        let status = answer.status();
        if status == StatusCode::OK {
            return Ok(answer.into_body());
        }
        let said = http_body_util::Limited::new(answer.into_body(), MAX_REFUSAL).collect();
        let said = tokio::time::timeout(self.config.patience.0, said).await;
        let said = said.ok().and_then(Result::ok).map(|said| said.to_bytes()).unwrap_or_default();
        Err(DockerError::Away { doing, message: format!("{} ({status})", refusal(&said)) })
    }

    /// Takes away an image that nothing names: what it was before it was written anew. The layers stay, for the next build.
    async fn forget_unnamed(&self, id: &str) {
        let Ok(client) = self.client().await else { return };
        let limit = self.config.patience.0;
        let Ok(seen) = call("look at the image", limit, client.inspect_image(id)).await else { return };
        let is_named = |names: Option<Vec<String>>| names.is_some_and(|names| !names.is_empty());
        if is_named(seen.repo_tags) || is_named(seen.repo_digests) {
            return;
        }
        let options = RemoveImageOptionsBuilder::default().noprune(true).build();
        let _ = call("remove the image", limit, client.remove_image(id, Some(options), None)).await;
    }
}

/// What comes over a channel, to be read by whoever may block.
struct Blocks {
    blocks: mpsc::Receiver<io::Result<Bytes>>,
    left: Bytes,
}

impl Read for Blocks {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.left.is_empty() {
            match self.blocks.blocking_recv() {
                Some(block) => self.left = block?,
                None => return Ok(0),
            }
        }
        let count = into.len().min(self.left.len());
        into[..count].copy_from_slice(&self.left.split_to(count));
        Ok(count)
    }
}

/// What is written by whoever may block, into a channel. Dropped before its end it breaks off what is loaded.
struct Outlet {
    to: mpsc::Sender<io::Result<Bytes>>,
    is_whole: bool,
}

impl Write for Outlet {
    fn write(&mut self, block: &[u8]) -> io::Result<usize> {
        let count = block.len().min(BLOCK_BYTES);
        let sent = self.to.blocking_send(Ok(Bytes::copy_from_slice(&block[..count])));
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.is_whole = true;
        Ok(())
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        if !self.is_whole {
            let _ = self.to.blocking_send(Err(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}
