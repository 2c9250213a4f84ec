//! A container that is run once for what goes through its streams: its standard input comes from a file, its output and its errors go
//! to files, and the engine keeps none of it.

use std::fs::File;

use bollard::{container::LogOutput, query_parameters::AttachContainerOptionsBuilder};
use futures_util::StreamExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinHandle,
};

use super::{Docker, DockerError, InstanceSpec, call::call, create};

/// Bytes that are carried at once.
const BLOCK_BYTES: usize = 256 * 1024;

/// What a container reads, and where it writes.
#[derive(Debug)]
pub struct Streams {
    /// Its standard input; without one it has none.
    pub input: Option<File>,
    /// Its standard output.
    pub output: File,
    /// Its standard error.
    pub errors: File,
}

/// One that was started.
#[derive(Debug)]
pub struct Piped {
    /// Its number at the engine.
    pub id: String,
    carried: JoinHandle<Result<(), String>>,
}

impl Docker {
    /// Makes a container with streams, and starts it. The image must be there. What was made has its labels, whatever comes of it.
    ///
    /// # Errors
    /// [`DockerError`].
    pub async fn start_piped(&self, spec: &InstanceSpec, streams: Streams) -> Result<Piped, DockerError> {
        let (client, limit) = (self.client().await?, self.patience());
        let reads = streams.input.is_some();
        let id = self.make_instance(spec, create::piped_container(spec, reads)).await?;
        // before it starts: what it says first is heard as well
        let how = AttachContainerOptionsBuilder::default().stream(true).stdin(reads).stdout(true).stderr(true).build();
        let attached = call("attach to the container", limit, client.attach_container(&id, Some(how))).await?;
        call("start the container", limit, client.start_container(&id, None)).await?;
        let Streams { input, output, errors } = streams;
        let (mut said, mut heard) = (attached.output, attached.input);
        let carried = tokio::spawn(async move {
            let feed = async {
                let Some(input) = input else { return Ok::<(), String>(()) };
                let mut input = tokio::fs::File::from_std(input);
                let mut block = vec![0; BLOCK_BYTES];
                loop {
                    let unreadable = |error| format!("what it is to read can't be read: {error}");
                    let read = input.read(&mut block).await.map_err(unreadable)?;
                    // who does not want all of it says by its end whether that is well
                    if read == 0 || heard.write_all(&block[..read]).await.is_err() {
                        let _ = heard.shutdown().await;
                        return Ok(());
                    }
                }
            };
            let (mut output, mut errors) = (tokio::fs::File::from_std(output), tokio::fs::File::from_std(errors));
            let listen = async {
                let failed = |error: std::io::Error| format!("what it wrote can't be kept: {error}");
                while let Some(part) = said.next().await {
                    match part.map_err(|error| format!("the container engine broke off: {error}"))? {
                        LogOutput::StdOut { message } => output.write_all(&message).await.map_err(failed)?,
                        LogOutput::StdErr { message } => errors.write_all(&message).await.map_err(failed)?,
                        LogOutput::StdIn { .. } => {}
                        LogOutput::Console { .. } => return Err("the container engine broke off within a block".into()),
                    }
                }
                output.flush().await.map_err(failed)?;
                errors.flush().await.map_err(failed)
            };
            tokio::pin!(feed, listen);
            // its output ends with it, whether it has read everything or not
            tokio::select! {
                fed = &mut feed => {
                    fed?;
                    listen.await
                }
                listened = &mut listen => listened,
            }
        });
        Ok(Piped { id, carried })
    }
}

impl Piped {
    /// Waits until all that it wrote lies in the files, as far as the engine has told. Asked once.
    ///
    /// # Errors
    /// What went wrong on the way.
    pub async fn carried(&mut self) -> Result<(), String> {
        (&mut self.carried).await.unwrap_or_else(|error| Err(error.to_string()))
    }
}

impl Drop for Piped {
    fn drop(&mut self) {
        self.carried.abort();
    }
}
