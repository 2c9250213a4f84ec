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
    stopping: &watch::Sender<bool>,
) {
    let mut stopping = stopping.subscribe();
    let (mut pause, mut trouble) = (FIRST_PAUSE, String::new());
    loop {
        let next = match carrier.carry_recorded().await {
            Ok(()) => {
                if !std::mem::take(&mut trouble).is_empty() {
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
                if why != trouble {
                    tracing::error!(router, why, "does not carry what is recorded");
                    trouble = why;
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
