//! The one writer. Operations queue up; those that wait together run one after the other in one transaction, each behind
//! a savepoint once there is something to keep, are made durable by one commit, and are answered after it. A failed operation takes
//! back its own changes alone; a failed commit fails all of them, and none has happened.

use std::{future::Future, panic::AssertUnwindSafe, pin::Pin, sync::Arc};

use futures_util::FutureExt as _;
use segue_schemas::{
    id::{RolloutId, RunId},
    time::Timestamp,
};
use tokio::sync::{Notify, mpsc, oneshot};

use super::{Bell, Clock, Doorbell, Result, StoreError, sql::Conn};

/// Operations that may wait for the writer; more wait outside, in their callers.
const QUEUE: usize = 1024;

/// Operations, or pairs of them, that share a commit. Bounds how long the first of them waits for the last.
const GROUP: usize = 128;

/// What an operation works with: the transaction, its time, and the bells to ring once it is durable.
pub(crate) struct Tx {
    pub(crate) conn: Conn,
    /// When the operation began, by the store's clock. One operation has one time.
    pub(crate) now: Timestamp,
    bells: Vec<Bell>,
}

impl Tx {
    /// Rings after the commit.
    pub(crate) fn ring(&mut self, bell: Bell) {
        if !self.bells.contains(&bell) {
            self.bells.push(bell);
        }
    }

    /// How many bells will be rung.
    pub(crate) fn bells(&self) -> usize {
        self.bells.len()
    }

    /// The runs whose bells were added to the first so many.
    pub(crate) fn runs_rung_since(&self, bells: usize) -> Vec<RunId> {
        let run = |bell: &Bell| if let Bell::Run(id) = bell { Some(*id) } else { None };
        self.bells.iter().skip(bells).filter_map(run).collect()
    }

    /// The same of rollouts.
    pub(crate) fn rollouts_rung_since(&self, bells: usize) -> Vec<RolloutId> {
        let rollout = |bell: &Bell| if let Bell::Rollout(id) = bell { Some(*id) } else { None };
        self.bells.iter().skip(bells).filter_map(rollout).collect()
    }
}

/// The future of an operation, which borrows its transaction.
pub(crate) type Work<'t, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 't>>;

/// An operation in the queue, whatever its result's type is.
trait Operation: Send {
    /// Does it; whether it is to be kept.
    fn run<'t>(&'t mut self, tx: &'t mut Tx) -> Pin<Box<dyn Future<Output = bool> + Send + 't>>;
    /// Tells the caller, once it is known whether the group's commit is on the disk.
    fn answer(self: Box<Self>, committed: Result<()>);
}

struct Queued<T, F> {
    work: Option<F>,
    result: Option<Result<T>>,
    caller: oneshot::Sender<Result<T>>,
}

impl<T, F> Operation for Queued<T, F>
where
    T: Send + 'static,
    F: for<'t> FnOnce(&'t mut Tx) -> Work<'t, T> + Send + 'static,
{
    fn run<'t>(&'t mut self, tx: &'t mut Tx) -> Pin<Box<dyn Future<Output = bool> + Send + 't>> {
        Box::pin(async move {
            let Some(work) = self.work.take().filter(|_| !self.caller.is_closed()) else { return false };
            let result = match AssertUnwindSafe(work(tx)).catch_unwind().await {
                Ok(Ok(done)) => tx.conn.write_out().await.map(|()| done),
                Ok(Err(error)) => Err(error),
                Err(_) => Err(StoreError::Unavailable("the operation broke off; the log says where".into())),
            };
            let keep = result.is_ok();
            if !keep {
                tx.conn.forget_unwritten();
            }
            self.result = Some(result);
            keep
        })
    }

    fn answer(self: Box<Self>, committed: Result<()>) {
        let result = match (committed, self.result) {
            (Ok(()), Some(result)) => result,
            (Ok(()), None) => return,
            (Err(error), _) => Err(error),
        };
        // an error here: the caller has gone away
        let _ = self.caller.send(result);
    }
}

/// Operations that come together and share a commit.
type Together = Vec<Box<dyn Operation>>;

/// The way to the writer.
#[derive(Clone)]
pub(crate) struct Writer(mpsc::Sender<Together>);

impl Writer {
    /// Starts the writer's task; it ends when the last `Writer` is dropped, after what was queued.
    pub(crate) fn start(conn: Conn, clock: Clock, doorbell: Arc<Doorbell>, committed: Arc<Notify>) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let tx = Tx { conn, now: Timestamp(0), bells: Vec::new() };
        tokio::spawn(write(tx, receiver, clock, doorbell, committed));
        Self(sender)
    }

    /// Runs an operation in a transaction; returns when it is durable, or with the error that undid it. If the caller
    /// goes away before the operation has begun it is left out; after that it is done all the same.
    pub(crate) async fn run<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'t> FnOnce(&'t mut Tx) -> Work<'t, T> + Send + 'static,
    {
        let (operation, answer) = queued(work);
        // where that fails there is no answer either
        let _ = self.0.send(vec![operation]).await;
        answered(answer).await
    }

    /// Runs two operations, the second after the first, under one commit. Each fails alone.
    pub(crate) async fn run_both<T, U, F, G>(&self, first: F, second: G) -> (Result<T>, Result<U>)
    where
        T: Send + 'static,
        U: Send + 'static,
        F: for<'t> FnOnce(&'t mut Tx) -> Work<'t, T> + Send + 'static,
        G: for<'t> FnOnce(&'t mut Tx) -> Work<'t, U> + Send + 'static,
    {
        let ((first, of_first), (second, of_second)) = (queued(first), queued(second));
        let _ = self.0.send(vec![first, second]).await;
        (answered(of_first).await, answered(of_second).await)
    }
}

fn queued<T, F>(work: F) -> (Box<dyn Operation>, oneshot::Receiver<Result<T>>)
where
    T: Send + 'static,
    F: for<'t> FnOnce(&'t mut Tx) -> Work<'t, T> + Send + 'static,
{
    let (caller, answer) = oneshot::channel();
    (Box::new(Queued { work: Some(work), result: None, caller }), answer)
}

async fn answered<T>(answer: oneshot::Receiver<Result<T>>) -> Result<T> {
    answer.await.map_err(|_| StoreError::Unavailable("the store is closed".into()))?
}

async fn write(
    mut tx: Tx,
    mut queue: mpsc::Receiver<Together>,
    clock: Clock,
    doorbell: Arc<Doorbell>,
    committed: Arc<Notify>,
) {
    let mut waiting = Vec::with_capacity(GROUP);
    while queue.recv_many(&mut waiting, GROUP).await > 0 {
        let mut group: Vec<_> = waiting.drain(..).flatten().collect();
        let outcome = commit(&mut tx, &mut group, &clock).await;
        let bells = std::mem::take(&mut tx.bells);
        match &outcome {
            Ok(()) => bells.into_iter().for_each(|bell| doorbell.ring(bell)),
            Err(error) => tracing::error!(%error, operations = group.len(), "nothing could be committed"),
        }
        group.into_iter().for_each(|operation| operation.answer(outcome.clone()));
        committed.notify_one();
    }
}

/// Runs a group in one transaction and commits it.
async fn commit(tx: &mut Tx, group: &mut [Box<dyn Operation>], clock: &Clock) -> Result<()> {
    if let Some(now) = tx.conn.begin().await? {
        clock.set(now);
    }
    let done = if let [operation] = group {
        tx.now = clock.now();
        Ok(operation.run(tx).await)
    } else {
        run_group(tx, group, clock).await
    };
    let outcome = match done {
        Ok(true) => tx.conn.commit(&tx.bells).await,
        Ok(false) => {
            tx.bells.clear();
            tx.conn.roll_back().await
        }
        Err(error) => Err(error),
    };
    if outcome.is_err() {
        // fails in its turn where the database has rolled back by itself, which is what is wanted
        let _ = tx.conn.roll_back().await;
    }
    outcome
}

/// Runs each operation so that it can be undone alone. Whether there is something to commit; an error where the transaction
/// itself is lost, as a full disk makes it.
async fn run_group(tx: &mut Tx, group: &mut [Box<dyn Operation>], clock: &Clock) -> Result<bool> {
    let mut any = false;
    for operation in group {
        let bells = tx.bells.len();
        tx.now = clock.now();
        // while nothing is to be kept, the transaction itself is what can be taken back
        let behind_savepoint = any;
        if behind_savepoint {
            tx.conn.operation_begins().await?;
        }
        let keep = operation.run(tx).await;
        if keep {
            any = true;
        } else {
            tx.bells.truncate(bells);
        }
        if behind_savepoint {
            tx.conn.operation_ends(keep).await?;
        } else if !keep {
            tx.conn.roll_back().await?;
            if let Some(now) = tx.conn.begin().await? {
                clock.set(now);
            }
        }
    }
    Ok(any)
}
