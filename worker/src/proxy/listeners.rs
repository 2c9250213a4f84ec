//! Listening sockets: inherited or bound, accepted on, and handed to a host that was started again.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{SocketAddr, TcpListener},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::fs::PermissionsExt,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nix::{
    cmsg_space,
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        socket::{ControlMessage, ControlMessageOwned, MsgFlags, getsockopt, recvmsg, sendmsg, sockopt::AcceptConn},
    },
};
use pingora_core::{apps::ServerApp, protocols::SocketDigest};
use pingora_proxy::HttpProxy;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{Semaphore, watch},
};

use super::{ProxyError, ProxyOptions, client::ClientStream, traffic::Traffic};

/// Listening sockets that are handed over in one message; the system allows 253.
const MAX_LISTENERS: usize = 64;

/// After this pause another connection is accepted when the system refused one (no descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// The listening sockets that the options name, inherited ones first.
pub(super) fn open(options: &ProxyOptions) -> Result<Vec<TcpListener>, ProxyError> {
    let inherited = options.inherited.iter().map(|fd| adopt(*fd));
    let bound = options.listen.iter().map(bind);
    let listeners: Vec<TcpListener> = inherited.chain(bound).collect::<Result<_, _>>()?;
    for listener in &listeners {
        listener.set_nonblocking(true)?;
    }
    Ok(listeners)
}

fn adopt(fd: RawFd) -> Result<TcpListener, ProxyError> {
    let failed = |source| ProxyError::Listen { address: format!("descriptor {fd}"), source };
    // SAFETY: the host leaves this descriptor open for this process and names it once; nothing else here owns it.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    nix::fcntl::fcntl(&owned, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))
        .map_err(|e| failed(e.into()))?;
    match getsockopt(&owned, AcceptConn) {
        Ok(true) => Ok(TcpListener::from(owned)),
        Ok(false) => Err(failed(io::Error::other("not a listening socket"))),
        Err(error) => Err(failed(error.into())),
    }
}

fn bind(address: &SocketAddr) -> Result<TcpListener, ProxyError> {
    TcpListener::bind(address).map_err(|source| ProxyError::Listen { address: address.to_string(), source })
}

/// Every descriptor that the system lets this process have: each connection takes two.
pub(super) fn raise_descriptor_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // Refused: what there is must do, and a shortage shows as connections that wait.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// A unix socket that only this user can reach; one that an earlier process left is replaced.
pub(super) fn bind_control(path: &Path) -> Result<UnixListener, ProxyError> {
    let failed = |source| ProxyError::Control { path: path.to_owned(), source };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Accepts connections until `stopped` and serves each in a task of its own.
pub(super) async fn accept_loop(
    listener: tokio::net::TcpListener,
    proxy: Arc<HttpProxy<Traffic>>,
    permits: Arc<Semaphore>,
    mut stopped: watch::Receiver<bool>,
) {
    let watch = stopped.clone();
    loop {
        let accept = async {
            let permit = permits.clone().acquire_owned().await.ok()?;
            Some((permit, listener.accept().await))
        };
        let accepted = tokio::select! {
            biased;
            _ = stopped.wait_for(|stop| *stop) => return,
            accepted = accept => accepted,
        };
        let Some((permit, accepted)) = accepted else { return };
        let Ok((stream, peer)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // Refused only for a connection that is gone already.
        let _ = stream.set_nodelay(true);
        let digest = SocketDigest::from_raw_fd(stream.as_raw_fd());
        let _ = digest.peer_addr.set(Some(peer.into()));
        let stream = ClientStream::new(stream, digest);
        let (proxy, watch) = (proxy.clone(), watch.clone());
        tokio::spawn(async move {
            proxy.process_new(Box::new(stream), &watch).await;
            drop(permit);
        });
    }
}

/// Where the listening sockets of the proxy with this control socket are handed out.
pub(super) fn handover_path(control: &Path) -> PathBuf {
    let mut path = control.as_os_str().to_owned();
    path.push(".listeners");
    path.into()
}

/// Sends a copy of every listening socket to whoever connects: the host, when it was started again and finds this proxy.
pub(super) async fn hand_out(handovers: UnixListener, listeners: Vec<TcpListener>) {
    let descriptors: Vec<RawFd> = listeners.iter().take(MAX_LISTENERS).map(AsRawFd::as_raw_fd).collect();
    loop {
        let Ok((stream, _)) = handovers.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let rights = [ControlMessage::ScmRights(&descriptors)];
        let rights = if descriptors.is_empty() { &rights[..0] } else { &rights[..] };
        let send = || {
            sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(b"L")], rights, MsgFlags::MSG_NOSIGNAL, None)
                .map_err(io::Error::from)
        };
        // One short message always fits a fresh socket; a host that is gone again asks again.
        let _ = stream.async_io(tokio::io::Interest::WRITABLE, send).await;
    }
}

/// The listening sockets of the living proxy whose control socket is `control`.
///
/// # Errors
/// Nobody listens there, or what comes is not what a proxy sends.
pub async fn fetch_listeners(control: &Path) -> io::Result<Vec<TcpListener>> {
    let stream = UnixStream::connect(handover_path(control)).await?;
    let receive = || {
        let mut byte = [0_u8];
        let mut space = cmsg_space!([RawFd; MAX_LISTENERS]);
        let mut parts = [IoSliceMut::new(&mut byte)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
        let mut listeners = Vec::new();
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(descriptors) = control {
                for fd in descriptors {
                    // SAFETY: the kernel has just made this descriptor for this process; nothing else owns it.
                    listeners.push(TcpListener::from(unsafe { OwnedFd::from_raw_fd(fd) }));
                }
            }
        }
        Ok(listeners)
    };
    tokio::time::timeout(Duration::from_secs(2), stream.async_io(tokio::io::Interest::READABLE, receive)).await?
}
