//! Has another program carry what is recorded for as long as the host lives: it may be started anew, or changed by hand, and tells nobody.

use std::time::Duration;

use segue_schemas::host_api::{HostError, HostErrorCode};
use tokio::{
    sync::{Notify, watch},
    time::sleep,
};

use crate::host::refusal;

/// How often it is looked whether the router has what it should.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The first pause before a failed change is tried again without anybody's asking; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// The longest pause before what the router has refused is tried again.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Why something is not carried.
#[derive(Debug)]
pub(super) enum Failure {
    /// Nobody answers.
    Silent(String),
    /// It can't be, as things are.
    Refused(String),
}

impl Failure {
    /// What the host's caller is told.
    pub(super) fn told_of(self, router: &str) -> HostError {
        match self {
            Self::Silent(why) => {
                let message = format!("the change is recorded, but {router} does not carry it yet: {why}");
                refusal(HostErrorCode::Unavailable, message)
            }
            Self::Refused(why) => refusal(HostErrorCode::Router, format!("{router} can't carry the change: {why}")),
        }
    }
}

/// Why what is recorded is not carried, while it is not.
#[derive(Debug, Default)]
pub(super) struct Trouble(watch::Sender<Option<String>>);

impl Trouble {
    /// Word of every change.
    pub(super) fn watch(&self) -> watch::Receiver<Option<String>> {
        self.0.subscribe()
    }

    /// It is carried.
    pub(super) fn is_over(&self) {
        self.becomes(None);
    }

    /// Whether that is another reason than before.
    fn becomes(&self, why: Option<&str>) -> bool {
        self.0.send_if_modified(|known| {
            let is_new = known.as_deref().map(gist) != why.map(gist);
            if is_new {
                *known = why.map(|why| why.split_whitespace().collect::<Vec<_>>().join(" "));
            }
            is_new
        })
    }
}

/// What a program said, without the time and its process, which are others each time.
fn gist(why: &str) -> Vec<&str> {
    let is_number = |word: &&str| {
        word.contains(|c: char| c.is_ascii_digit())
            && word.chars().all(|c| c.is_ascii_digit() || "/:#()[]-,".contains(c))
    };
    why.split_whitespace().filter(|word| !is_number(word)).collect()
}

/// A router that is another program.
pub(super) trait Carrier: Send + Sync {
    /// Has it carry what is recorded now, one change after the other.
    fn carry_recorded(&self) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// Carries again and again, at once where the router is `suspected` to be another process, until `stopping`.
pub(super) async fn keep_carrying(
    router: &str,
    carrier: &impl Carrier,
    suspected: &Notify,
    trouble: &Trouble,
    stopping: &watch::Sender<bool>,
) {
    let mut stopping = stopping.subscribe();
    let mut pause = FIRST_PAUSE;
    loop {
        let next = match carrier.carry_recorded().await {
            Ok(()) => {
                if trouble.becomes(None) {
                    tracing::info!(router, "carries what is recorded");
                }
                pause = FIRST_PAUSE;
                LOOK_EVERY
            }
            Err(failure) => {
                let (why, longest) = match failure {
                    Failure::Silent(why) => (why, LOOK_EVERY),
                    Failure::Refused(why) => (why, LONGEST_PAUSE),
                };
                if trouble.becomes(Some(&why)) {
                    tracing::error!(router, why, "does not carry what is recorded");
                }
                pause = (pause * 2).min(longest);
                pause
            }
        };
        let stops = async {
            // the sender outlives this
            let _ = stopping.wait_for(|stop| *stop).await;
        };
        let suspects = async {
            suspected.notified().await;
            sleep(FIRST_PAUSE).await;
        };
        tokio::select! {
            () = sleep(next) => {}
            () = suspects => {}
            () = stops => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_reason_is_told_once_whatever_process_says_it_and_when() {
        let trouble = Trouble::default();
        let said = |time: &str, pid: u32, line: u32| {
            format!(
                "nginx's configuration is broken: {time} [emerg] {pid}#{pid}: unexpected \"}}\" in /etc/nginx/a.conf:{line}\n"
            )
        };
        assert!(trouble.becomes(Some(&said("2026/11/23 07:50:01", 311, 4))));
        assert!(!trouble.becomes(Some(&said("2026/11/23 07:50:31", 340, 4))), "only time and process differ");
        assert!(trouble.becomes(Some(&said("2026/11/23 07:51:01", 377, 9))), "another line is another reason");
        let known = trouble.watch().borrow().clone().unwrap();
        assert!(known.ends_with("a.conf:9") && known.contains("377#377"), "{known}");
        assert!(trouble.becomes(None) && !trouble.becomes(None));
        let haproxy =
            |pid: u32| format!("[ALERT] ({pid}) : config : parsing [/etc/haproxy/haproxy.cfg:3] : unknown keyword");
        assert!(trouble.becomes(Some(&haproxy(12))) && !trouble.becomes(Some(&haproxy(13))));
    }
}
