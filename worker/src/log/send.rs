//! The sender: chunks -> server, in order, each until it was taken.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::{Buf, Bytes};

use super::{LogSink, Progress, outbox::Outbox};
use crate::control_plane::ControlPlaneError;

/// Pauses between tries grow from the first to the second of these. Tries go on until the job gives its log up.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Sends until the outbox is empty and ended, or the server will take no more.
pub(super) async fn run(sink: impl LogSink, outbox: Arc<Outbox>, progress: Arc<Progress>, mut offset: u64) {
    while let Some(chunk) = outbox.take().await {
        if let Err(error) = send(&sink, &chunk, &mut offset, &progress).await {
            tracing::warn!(%error, "a job's log ends here");
            progress.lease_lost.store(error.is_stale_epoch(), Ordering::Release);
            outbox.discard();
            return;
        }
        outbox.recycle(chunk);
    }
}

/// Sends one chunk; fails only where nothing more can be sent.
async fn send(
    sink: &impl LogSink,
    chunk: &Bytes,
    offset: &mut u64,
    progress: &Progress,
) -> Result<(), ControlPlaneError> {
    let mut rest = chunk.clone();
    let mut pause = PAUSES.0;
    while !rest.is_empty() {
        match sink.append(*offset, rest.clone()).await {
            Ok(ack) if ack.offset > *offset => {
                let taken = usize::try_from(ack.offset - *offset).unwrap_or(usize::MAX).min(rest.len());
                rest.advance(taken);
                *offset = ack.offset;
                progress.acknowledged.store(*offset, Ordering::Release);
                pause = PAUSES.0;
                continue;
            }
            Ok(ack) if ack.offset < *offset => {
                // The server has lost what it had acknowledged, as after a restored backup. It is gone here as well.
                let missing = *offset - ack.offset;
                tracing::warn!(missing, "the server has lost a part of a log that it had acknowledged");
                let gap =
                    format!("\n[segue: {missing} bytes of this log are missing: the server had them and lost them]\n");
                rest = [gap.as_bytes(), &rest].concat().into();
                *offset = ack.offset;
            }
            Ok(_) => {}
            // Neither gets better: the lease is another's, or this log is none that the server keeps.
            Err(error @ (ControlPlaneError::StaleEpoch { .. } | ControlPlaneError::Refused { .. })) => {
                return Err(error);
            }
            Err(error) => tracing::debug!(%error, "a chunk of a log is sent again"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
    Ok(())
}
