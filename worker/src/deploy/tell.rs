//! Tells the server what the hosts that this worker reaches have done without it: when the worker starts, when a host comes
//! back, when a rollout that was driven here has ended, and when a host has changed weights by its dead-man's switch or in an emergency, or
//! has put something to sleep or woken it; and ever again, as the server may know less than it did. Whatever the server hears twice changes
//! nothing the second time.

use std::{sync::Arc, time::Duration};

use indexmap::IndexMap;
use segue_schemas::host_api::HostState;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::server::{RolloutServer, ServerError};
use crate::host::client::HostClient;

/// How long a host holds its answer back while there is no news.
const HOLD: Duration = Duration::from_secs(60);
/// How long the server may go without a word of a host that has nothing new to say: after each held answer it gets one, so that it
/// knows that the host is there, and what it carries.
const AGAIN: Duration = Duration::from_secs(50);
/// Pauses between tries to reach a host or the server grow from the first to the second of these.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// How long a start waits for the first word about every host.
const FIRST_WORD: Duration = Duration::from_secs(2);

/// Word that a rollout that was driven here has ended: what its hosts carry is told anew.
#[derive(Debug, Clone, Default)]
pub struct Ended(Arc<watch::Sender<u64>>);

impl Ended {
    /// One has.
    pub fn tell(&self) {
        self.0.send_modify(|number| *number += 1);
    }
}

/// The hosts that are watched, until it is dropped or told to stop.
#[derive(Debug)]
pub struct Telling {
    tasks: JoinSet<()>,
    first: mpsc::Receiver<()>,
}

/// Watches each of the hosts, given by name with the path of its socket.
#[must_use]
pub fn watch_hosts(
    server: &Arc<dyn RolloutServer>,
    hosts: &IndexMap<String, String>,
    ended: &Ended,
    stop: &CancellationToken,
) -> Telling {
    let (said, first) = mpsc::channel(hosts.len().max(1));
    let mut tasks = JoinSet::new();
    for (name, socket) in hosts {
        let (server, name, socket, said) = (server.clone(), name.clone(), socket.clone(), said.clone());
        let (stop, mut ended) = (stop.clone(), ended.0.subscribe());
        tasks.spawn(async move {
            let host = HostClient::new(socket);
            tokio::select! {
                () = watch_one(&*server, &name, &host, &mut ended, said) => {}
                () = stop.cancelled() => {}
            }
        });
    }
    Telling { tasks, first }
}

impl Telling {
    /// Waits until the server has heard of every host that answers at once, so that the first rollout is claimed above what they
    /// have seen. Not longer than a moment: a later word is as good, only a claim is handed back for it.
    pub async fn first_word(&mut self) {
        let all = async { while self.first.recv().await.is_some() {} };
        if timeout(FIRST_WORD, all).await.is_err() {
            tracing::debug!("a host does not answer yet; the server hears of it when it does");
        }
    }

    /// Waits for the end of all, after the stop.
    pub async fn ended(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

/// `said` is dropped once the first try is over.
async fn watch_one(
    server: &dyn RolloutServer,
    name: &str,
    host: &HostClient,
    ended: &mut watch::Receiver<u64>,
    said: mpsc::Sender<()>,
) {
    let mut first_try = Some(said);
    // what the server has heard; none where the host was away since
    let mut told: Option<u64> = None;
    let mut told_at = Instant::now();
    let mut pause = PAUSES.0;
    loop {
        let asked_at = Instant::now();
        let (asked, is_due) = match told {
            Some(known) => tokio::select! {
                asked = host.state_after(known, HOLD) => (asked, told_at.elapsed() >= AGAIN),
                // weights that a rollout sets are no news of the host
                Ok(()) = ended.changed() => (host.state().await, true),
            },
            None => {
                ended.mark_unchanged();
                (host.state().await, true)
            }
        };
        let news = match asked {
            Ok(state) if told == Some(state.restorations) && !is_due => None,
            Ok(state) => {
                told_at = Instant::now();
                Some(tell(server, name, &state).await)
            }
            Err(error) => Some(Err(error.to_string())),
        };
        drop(first_try.take());
        match news {
            // a host of an earlier version does not wait, and is not to be asked without end
            None if asked_at.elapsed() < HOLD / 2 => sleep(PAUSES.1).await,
            None => pause = PAUSES.0,
            Some(Ok(restorations)) => (told, pause) = (Some(restorations), PAUSES.0),
            Some(Err(error)) => {
                tracing::debug!(host = name, error, "the server has no word of this host now");
                told = None;
                sleep(pause).await;
                pause = (pause * 2).min(PAUSES.1);
            }
        }
    }
}

async fn tell(server: &dyn RolloutServer, name: &str, state: &HostState) -> Result<u64, String> {
    match server.tell_host(name, state).await {
        Ok(()) => Ok(state.restorations),
        // it was heard, and the same again brings the same
        Err(ServerError::Refused(why)) => {
            tracing::warn!(host = name, why, "the server does not take the state of this host");
            Ok(state.restorations)
        }
        Err(error) => Err(error.to_string()),
    }
}
