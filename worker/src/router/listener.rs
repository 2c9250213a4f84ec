//! Where the host hears what a router logs of each request: datagrams of UDP at the loopback, of which the kernel keeps a bounded number and
//! says how many it had to drop.
//!
//! UDP, because a unix socket takes ten datagrams at most (`net.unix.max_dgram_qlen`) and is out of reach for a router in a chroot. A line has
//! to begin with a mark that only the router's configuration holds; what anybody else sends is ignored.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::AsRawFd,
    path::Path,
};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt, sockopt};
use serde::{Deserialize, Serialize};
use tokio::{io::Interest, net::UdpSocket};

use crate::host::state::write_atomically;

/// What the kernel keeps while the host is busy; it takes this as far as it is allowed (`net.core.rmem_max`).
const BUFFER_BYTES: usize = 4 << 20;

/// The longest line.
const MAX_LINE: usize = 2048;

/// Lines that are read before others get their turn.
const BATCH: usize = 512;

/// Where it listens and what marks a line, kept over restarts so that the router's configuration stays true.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    address: SocketAddr,
    mark: String,
}

/// The socket.
#[derive(Debug)]
pub(super) struct Listener {
    socket: UdpSocket,
    /// Where it listens.
    pub(super) address: SocketAddr,
    /// What a line begins with.
    pub(super) mark: String,
}

/// What was heard at once.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// The lines, without their mark.
    pub(super) lines: Vec<String>,
    /// How many were dropped since the socket was made, modulo 2^32.
    pub(super) dropped: Option<u32>,
}

impl Listener {
    /// Listens at `asked`; without one, at the port kept in `data`, or a free one if that is taken.
    pub(super) async fn open(data: &Path, asked: Option<&str>) -> Result<Self, String> {
        let file = data.join("router.json");
        let kept: Option<Kept> = std::fs::read(&file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let socket = match asked {
            Some(text) => {
                let address: SocketAddr =
                    text.parse().map_err(|e| format!("`log: {text}`: {e}; write 127.0.0.1 and a port"))?;
                if !matches!(address.ip(), IpAddr::V4(ip) if ip.is_loopback()) {
                    return Err(format!("`log: {text}` is no address of the loopback; write 127.0.0.1 and a port"));
                }
                UdpSocket::bind(address).await.map_err(|e| format!("`log: {text}` can't be listened on: {e}"))?
            }
            None => {
                let before = kept.as_ref().map_or(any, |kept| kept.address);
                let bound = match UdpSocket::bind(before).await {
                    Err(_) if before != any => UdpSocket::bind(any).await,
                    bound => bound,
                };
                bound.map_err(|e| format!("no port for the router's log can be had: {e}"))?
            }
        };
        let address = socket.local_addr().map_err(|e| e.to_string())?;
        let mark = kept.map_or_else(|| format!("segue_{:016x}", rand::random::<u64>()), |kept| kept.mark);
        let kept = serde_json::to_vec(&Kept { address, mark: mark.clone() }).map_err(|e| e.to_string())?;
        write_atomically(&file, &kept).map_err(|e| format!("{}: {e}", file.display()))?;
        // A smaller buffer loses lines sooner, and says so.
        if setsockopt(&socket, sockopt::RcvBufForce, &BUFFER_BYTES).is_err() {
            let _ = setsockopt(&socket, sockopt::RcvBuf, &BUFFER_BYTES);
        }
        setsockopt(&socket, sockopt::RxqOvfl, &1)
            .map_err(|e| format!("the kernel does not count what it drops: {e}"))?;
        Ok(Self { socket, address, mark })
    }

    /// The next lines, as soon as there is one.
    pub(super) async fn next(&self) -> io::Result<Heard> {
        let mut heard = Heard::default();
        self.socket.readable().await?;
        let mut buffer = [0; MAX_LINE];
        for _ in 0..BATCH {
            match self.socket.try_io(Interest::READABLE, || receive(self.socket.as_raw_fd(), &mut buffer)) {
                Ok((length, dropped)) => {
                    heard.dropped = dropped.or(heard.dropped);
                    heard.lines.extend(self.unmarked(&buffer[..length]));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(heard)
    }

    /// What follows the mark; a router may have put the head of a syslog line before it.
    fn unmarked(&self, line: &[u8]) -> Option<String> {
        let line = String::from_utf8_lossy(line);
        let (_, rest) = line.split_once(&self.mark)?;
        Some(rest.trim().to_owned())
    }
}

fn receive(fd: i32, buffer: &mut [u8]) -> io::Result<(usize, Option<u32>)> {
    let mut control = nix::cmsg_space!(u32);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrIn>(fd, &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
    let dropped = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::RxqOvfl(dropped) => Some(dropped),
        _ => None,
    });
    Ok((message.bytes, dropped))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_marked_lines_are_heard_at_an_address_that_stays() {
        let folder = tempfile::tempdir().unwrap();
        let listener = Listener::open(folder.path(), None).await.unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        for line in ["forged 1".to_owned(), format!("<190>Nov 22 segue: {} one two\n", listener.mark)] {
            sender.send_to(line.as_bytes(), listener.address).await.unwrap();
        }
        let mut lines = Vec::new();
        while lines.is_empty() {
            lines.extend(listener.next().await.unwrap().lines);
        }
        assert_eq!(lines, ["one two"]);
        let (address, mark) = (listener.address, listener.mark.clone());
        drop(listener);
        let again = Listener::open(folder.path(), None).await.unwrap();
        assert_eq!((again.address, &again.mark), (address, &mark));
        let far = Listener::open(folder.path(), Some("0.0.0.0:5514")).await.unwrap_err();
        assert!(far.contains("loopback"), "{far}");
    }

    #[tokio::test]
    async fn what_the_kernel_drops_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let listener = Listener::open(folder.path(), None).await.unwrap();
        // of the smallest buffer that there is
        let _ = setsockopt(&listener.socket, sockopt::RcvBuf, &1);
        let sender = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let line = format!("{} x", listener.mark);
        for _ in 0..1000 {
            sender.send_to(line.as_bytes(), listener.address).await.unwrap();
        }
        let mut kept = 0;
        let read = async {
            loop {
                let heard = listener.next().await.unwrap();
                kept += heard.lines.len();
                if heard.dropped.is_none_or(|dropped| dropped == 0) {
                    // word of it comes with the next line that is kept
                    sender.send_to(line.as_bytes(), listener.address).await.unwrap();
                    continue;
                }
                return heard.dropped;
            }
        };
        let dropped = tokio::time::timeout(std::time::Duration::from_secs(20), read).await.unwrap();
        assert!(dropped.unwrap() > 0 && kept < 1000, "{dropped:?} dropped, {kept} kept");
    }
}
