//! A client's connection, with a short buffer before it: head and body of an answer leave together, in one segment and one
//! system call. pingora gives its own listeners' connections such a buffer; it does not let others set it.

use std::{
    io::{self, IoSlice},
    os::fd::AsRawFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::SystemTime,
};

use async_trait::async_trait;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType, raw_connect::ProxyDigest,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};

/// Bytes that are held until the answer is flushed. What does not fit leaves at once, with what was held before it.
const HELD: usize = 4096;

/// A client's connection.
#[derive(Debug)]
pub(super) struct ClientStream {
    stream: TcpStream,
    held: Vec<u8>,
    socket: Arc<SocketDigest>,
    accepted: SystemTime,
}

impl ClientStream {
    /// The connection of a client that was accepted now.
    pub(super) fn new(stream: TcpStream, socket: SocketDigest) -> Self {
        Self { stream, held: Vec::new(), socket: Arc::new(socket), accepted: SystemTime::now() }
    }

    /// Writes what is held and then `more`; gives how much of `more` left. Nothing is held any more when it is ready.
    fn poll_release(&mut self, cx: &mut Context<'_>, more: &[u8]) -> Poll<io::Result<usize>> {
        while !self.held.is_empty() {
            let parts = [IoSlice::new(&self.held), IoSlice::new(more)];
            let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, &parts))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_held = written.min(self.held.len());
            self.held.drain(..of_held);
            if written > of_held {
                return Poll::Ready(Ok(written - of_held));
            }
        }
        if more.is_empty() { Poll::Ready(Ok(0)) } else { Pin::new(&mut self.stream).poll_write(cx, more) }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.held.len() + buf.len() <= HELD {
            self.held.extend_from_slice(buf);
            return Poll::Ready(Ok(buf.len()));
        }
        self.poll_release(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_release(cx, &[]))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_release(cx, &[]))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Drop for ClientStream {
    /// What is held when a connection is given up leaves as far as it can without waiting.
    fn drop(&mut self) {
        if !self.held.is_empty() {
            // The client may be gone; there is nobody else to tell.
            let _ = self.stream.try_write(&self.held);
        }
    }
}

#[async_trait]
impl Shutdown for ClientStream {
    async fn shutdown(&mut self) {
        // The client may have closed its end already.
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

impl UniqueID for ClientStream {
    fn id(&self) -> UniqueIDType {
        self.stream.as_raw_fd()
    }
}

impl Ssl for ClientStream {}

impl Peek for ClientStream {}

impl GetTimingDigest for ClientStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        vec![Some(TimingDigest { established_ts: self.accepted, ..TimingDigest::default() })]
    }
}

impl GetProxyDigest for ClientStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for ClientStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(self.socket.clone())
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::AsyncReadExt as _,
        net::{TcpListener, TcpStream},
    };

    use super::*;

    async fn pair() -> (ClientStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let digest = SocketDigest::from_raw_fd(accepted.as_raw_fd());
        (ClientStream::new(accepted, digest), client)
    }

    #[tokio::test]
    async fn small_writes_leave_together_with_the_flush() {
        let (mut server, mut client) = pair().await;
        server.write_all(b"head ").await.unwrap();
        server.write_all(b"body").await.unwrap();
        let mut buffer = [0; 64];
        assert_eq!(client.try_read(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        server.flush().await.unwrap();
        assert_eq!(client.read(&mut buffer).await.unwrap(), 9);
        assert_eq!(&buffer[..9], b"head body");
    }

    #[tokio::test]
    async fn what_is_larger_than_any_buffer_arrives_whole_and_in_order() {
        let (mut server, mut client) = pair().await;
        // more than the kernel takes at once, in pieces around the bound
        let pieces: Vec<Vec<u8>> = (0..4000_usize).map(|n| vec![n as u8; n % (HELD + 700)]).collect();
        let expected = pieces.concat();
        let reader = tokio::spawn(async move {
            let mut got = Vec::new();
            client.read_to_end(&mut got).await.unwrap();
            got
        });
        for piece in &pieces {
            server.write_all(piece).await.unwrap();
        }
        Shutdown::shutdown(&mut server).await;
        drop(server);
        assert!(reader.await.unwrap() == expected);
    }

    #[tokio::test]
    async fn a_connection_that_is_given_up_leaves_nothing_behind() {
        let (mut server, mut client) = pair().await;
        server.write_all(b"last words").await.unwrap();
        drop(server);
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"last words");
    }
}
