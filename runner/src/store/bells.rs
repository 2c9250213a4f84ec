//! Bells between servers that share a PostgreSQL: rung by the commit that gives cause to them, heard by one connection of each
//! server. What is missed while that connection is lost is made good by ringing everything once.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use segue_schemas::id::{JobId, RolloutId, RunId};
use sqlx::{
    Executor as _, PgPool,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use tokio::sync::Notify;

use super::{Bell, Doorbell};

/// The channel that they are rung on.
const CHANNEL: &str = "segue_bells";
/// Bytes of one message; PostgreSQL takes 8000.
const MESSAGE: usize = 7000;
/// How long it may be quiet before it is asked whether the connection is still there, and how long that may take.
const QUIET: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(5));
/// The pauses before the connection is made again: the first, which doubles, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// How long the growth of logs is gathered before the other servers are told. It has no transaction of a writer to go with.
const GATHERED: Duration = Duration::from_millis(20);

/// Tells other servers of logs that have grown.
#[derive(Debug, Default)]
pub(crate) struct LogBells {
    /// What is still to be told; as many as there are jobs that run.
    grown: Mutex<BTreeSet<JobId>>,
    wake: Notify,
}

impl LogBells {
    /// A log has grown.
    pub(crate) fn ring(&self, job: JobId) {
        self.grown.lock().unwrap_or_else(PoisonError::into_inner).insert(job);
        self.wake.notify_one();
    }

    /// Tells them, for ever.
    pub(super) async fn run(self: Arc<Self>, pool: PgPool, sender: u64) {
        loop {
            self.wake.notified().await;
            tokio::time::sleep(GATHERED).await;
            let grown = std::mem::take(&mut *self.grown.lock().unwrap_or_else(PoisonError::into_inner));
            let bells: Vec<Bell> = grown.into_iter().map(Bell::Log).collect();
            for message in encode(sender, &bells) {
                let told = sqlx::query("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(message).execute(&pool).await;
                if let Err(error) = told {
                    // who follows is told by the next chunk, or by the run's bell at its end
                    tracing::debug!(%error, "other servers could not be told of a log");
                }
            }
        }
    }
}

/// Bells as messages: who rings, then each bell by a letter and its number.
pub(super) fn encode(sender: u64, rung: &[Bell]) -> Vec<String> {
    let mut messages: Vec<String> = Vec::new();
    for bell in rung {
        let word = word(*bell);
        match messages.last_mut().filter(|message| message.len() + word.len() < MESSAGE) {
            Some(message) => {
                message.push(' ');
                message.push_str(&word);
            }
            None => messages.push(format!("{sender:016x} {word}")),
        }
    }
    messages
}

/// The statement that sends a message with the transaction. A message is made of letters, digits, spaces and dashes alone.
pub(super) fn notify(message: &str) -> String {
    debug_assert!(message.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, ' ' | '-')));
    format!("NOTIFY {CHANNEL}, '{message}'; ")
}

/// Who rings, and what. A bell that a newer version rings and this one does not know is left out.
fn decode(message: &str) -> Option<(u64, Vec<Bell>)> {
    let mut words = message.split(' ');
    let sender = u64::from_str_radix(words.next()?, 16).ok()?;
    Some((sender, words.filter_map(bell).collect()))
}

fn word(bell: Bell) -> String {
    match bell {
        Bell::Jobs => "J".into(),
        Bell::Rollouts => "O".into(),
        Bell::Deliveries => "D".into(),
        Bell::Notifications => "N".into(),
        Bell::Tags => "T".into(),
        Bell::Schedules => "S".into(),
        Bell::Shows => "H".into(),
        Bell::Leases => "L".into(),
        Bell::PutOff => "P".into(),
        Bell::Hosts => "C".into(),
        Bell::Machines => "M".into(),
        Bell::Run(id) => format!("r{}", id.0),
        Bell::Job(id) => format!("j{id}"),
        Bell::Rollout(id) => format!("o{}", id.0),
        Bell::Log(id) => format!("g{id}"),
    }
}

fn bell(word: &str) -> Option<Bell> {
    Some(match word {
        "J" => Bell::Jobs,
        "O" => Bell::Rollouts,
        "D" => Bell::Deliveries,
        "N" => Bell::Notifications,
        "T" => Bell::Tags,
        "S" => Bell::Schedules,
        "H" => Bell::Shows,
        "L" => Bell::Leases,
        "P" => Bell::PutOff,
        "C" => Bell::Hosts,
        "M" => Bell::Machines,
        _ => match word.split_at_checked(1)? {
            ("r", id) => Bell::Run(RunId(id.parse().ok()?)),
            ("j", id) => Bell::Job(id.parse::<JobId>().ok()?),
            ("g", id) => Bell::Log(id.parse::<JobId>().ok()?),
            ("o", id) => Bell::Rollout(RolloutId(id.parse().ok()?)),
            _ => return None,
        },
    })
}

/// Rings here what other servers ring, for ever.
pub(super) async fn hear(options: PgConnectOptions, sender: u64, doorbell: Arc<Doorbell>) {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(Duration::from_secs(5))
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_lazy_with(options);
    let mut pause = PAUSES.0;
    loop {
        let heard_from = Instant::now();
        let problem = match listen(&pool, sender, &doorbell).await {
            Ok(()) => "the connection was closed".to_owned(),
            Err(error) => error.to_string(),
        };
        // said once for each loss
        if heard_from.elapsed() > PAUSES.1 {
            tracing::warn!(problem, "bells of other servers are not heard; all are rung when the connection is back");
            pause = PAUSES.0;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Listens until the connection is lost.
async fn listen(pool: &PgPool, sender: u64, doorbell: &Doorbell) -> sqlx::Result<()> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.eager_reconnect(false);
    listener.listen(CHANNEL).await?;
    // what was rung before this moment was perhaps not heard
    doorbell.ring_all();
    loop {
        match tokio::time::timeout(QUIET.0, listener.try_recv()).await {
            Ok(Ok(Some(message))) => {
                if let Some((from, bells)) = decode(message.payload())
                    && from != sender
                {
                    bells.into_iter().for_each(|bell| doorbell.ring(bell));
                }
            }
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_quiet) => {
                let asked = tokio::time::timeout(QUIET.1, listener.execute("SELECT 1")).await;
                asked.map_err(|_| sqlx::Error::PoolTimedOut)??;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bells_come_back_as_they_were_sent_in_messages_that_fit() {
        let job = JobId(uuid::Uuid::now_v7());
        let mut rung = vec![
            Bell::Jobs,
            Bell::Rollouts,
            Bell::Deliveries,
            Bell::Notifications,
            Bell::Tags,
            Bell::Schedules,
            Bell::Leases,
            Bell::PutOff,
            Bell::Hosts,
            Bell::Machines,
            Bell::Job(job),
            Bell::Rollout(RolloutId(7)),
            Bell::Log(job),
        ];
        rung.extend((1..5000).map(|n| Bell::Run(RunId(n))));
        let messages = encode(u64::MAX, &rung);
        assert!(messages.len() > 1 && messages.iter().all(|message| message.len() < 8000));
        let heard: Vec<Bell> = messages.iter().flat_map(|message| decode(message).unwrap().1).collect();
        assert_eq!(heard, rung);
        assert!(messages.iter().all(|message| decode(message).unwrap().0 == u64::MAX));
        assert!(encode(1, &[]).is_empty());
        assert_eq!(decode("0000000000000001 J Z9 rx r4").unwrap().1, [Bell::Jobs, Bell::Run(RunId(4))]);
        assert!(decode("").is_none());
    }
}
