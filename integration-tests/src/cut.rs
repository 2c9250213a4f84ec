//! A wire that can be cut: passes bytes both ways between whoever connects here and an address. Cut, it passes nothing and closes
//! nothing, as a network does that is divided.

use std::io;

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// A wire. Dropped, it is gone with everything that goes through it.
pub struct Wire {
    address: String,
    whole: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl Wire {
    /// A wire to an address.
    ///
    /// # Errors
    /// There is no free port.
    pub async fn to(target: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let (whole, state) = watch::channel(true);
        let target = target.to_owned();
        let accepting = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (target, mut state) = (target.clone(), state.clone());
                tokio::spawn(async move {
                    if state.wait_for(|whole| *whole).await.is_err() {
                        return;
                    }
                    let Ok(far) = TcpStream::connect(&target).await else { return };
                    let _ = (near.set_nodelay(true), far.set_nodelay(true));
                    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                    let back = tokio::spawn(pass(far_in, near_out, state.clone()));
                    let _ = pass(near_in, far_out, state).await;
                    let _ = back.await;
                });
            }
        });
        Ok(Self { address, whole, accepting })
    }

    /// Where it begins.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Cuts it.
    pub fn cut(&self) {
        self.whole.send_replace(false);
    }

    /// Mends it: what was on its way arrives.
    pub fn mend(&self) {
        self.whole.send_replace(true);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<bool>) -> io::Result<()> {
    let mut bytes = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut bytes).await?;
        if state.wait_for(|whole| *whole).await.is_err() || read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&bytes[..read]).await?;
    }
}
