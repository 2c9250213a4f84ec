//! What memory processes take while a story runs: each is looked at several times a second, and the most is kept.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use crate::processes::{self, Memory};

/// Between two looks.
const EVERY: Duration = Duration::from_millis(250);

type Watched = Arc<Mutex<BTreeMap<String, (Option<u32>, u64)>>>;

/// Looks at processes until it is dropped.
pub(super) struct Watch {
    watched: Watched,
    end: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub fn start() -> Self {
        let watched = Watched::default();
        let (end, ended) = mpsc::channel();
        let looked_at = watched.clone();
        let thread = std::thread::spawn(move || {
            while ended.recv_timeout(EVERY) == Err(mpsc::RecvTimeoutError::Timeout) {
                look(&looked_at);
            }
        });
        Self { watched, end: Some(end), thread: Some(thread) }
    }

    /// From now on this process is the one of that name; `None`: it does not run.
    pub fn is_now(&self, name: &str, pid: Option<u32>) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.entry(name.to_owned()).or_default().0 = pid;
    }

    /// The most that each has had.
    pub fn peaks(&self, bound_mib: u64) -> Vec<Memory> {
        look(&self.watched);
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let peak = |(name, (_, kib)): (&String, &(Option<u32>, u64))| Memory {
            who: name.clone(),
            peak_mib: kib.div_ceil(1024),
            bound_mib,
        };
        watched.iter().map(peak).collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.end.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn look(watched: &Watched) {
    let mut watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
    for (pid, peak) in watched.values_mut() {
        if let Some(kib) = pid.and_then(|pid| processes::pss_kib(pid).ok()) {
            *peak = kib.max(*peak);
        }
    }
}
