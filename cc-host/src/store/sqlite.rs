//! The store in one SQLite file. One thread owns the connection; everybody else sends it work. Refuses to interpret values.
//!
//! Several processes may have the file open: each transaction takes SQLite's write lock, reads see what others committed,
//! and watches learn of it within `POLL_MS`. Leases end by the wall clock, which the processes share; a lease whose time
//! passes while nobody has the file open ends when somebody opens it.

mod db;

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::{mpsc, oneshot, watch};

use super::{Compare, Event, KEY_BYTES_MAX, Kv, LeaseId, Op, Store, StoreError, TXN_OPS_MAX, Txn, VALUE_BYTES_MAX};
use crate::ids::now_ms;
use db::{Changes, Db};

/// How late a watch may learn of another process' commit, and a lease may end.
const POLL_MS: u64 = 100;
/// Requests that wait for the thread before senders wait too.
const QUEUE_MAX: usize = 256;
/// Revisions kept for watches. A watch that falls behind further must list again; at one write per millisecond that is 8 s.
const HISTORY_REVISIONS_MAX: u64 = 8192;

type Work = Box<dyn FnOnce(&mut Db) + Send>;

/// Cheap to clone; the thread ends with the last clone and the last of its watches.
#[derive(Clone)]
pub struct SqliteStore {
    work: mpsc::Sender<Work>,
    revision: watch::Receiver<u64>,
}

impl SqliteStore {
    /// Opens the file, or makes it with mode 0600. Blocks for as long as another process is making it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_with(path, HISTORY_REVISIONS_MAX)
    }

    /// As `open`, with another bound of the history: for tests of what happens beyond it.
    pub(crate) fn open_with(path: &Path, history_revisions_max: u64) -> Result<Self, StoreError> {
        let db = Db::open(path, history_revisions_max)?;
        let (work, receiver) = mpsc::channel(QUEUE_MAX);
        let (announce, revision) = watch::channel(0);
        let thread_error = |source: std::io::Error| StoreError::Open {
            path: path.to_owned(),
            source: rusqlite::Error::ToSqlConversionFailure(Box::new(source)),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(thread_error)?;
        std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || runtime.block_on(serve(db, receiver, announce)))
            .map_err(thread_error)?;
        Ok(SqliteStore { work, revision })
    }

    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Db) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let work: Work = Box::new(move |db| drop(reply.send(work(db))));
        self.work.send(work).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

/// The thread's loop: work as it comes, and in between what time and other processes did.
async fn serve(mut db: Db, mut receiver: mpsc::Receiver<Work>, announce: watch::Sender<u64>) {
    let mut tick = tokio::time::interval(Duration::from_millis(POLL_MS));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            work = receiver.recv() => match work {
                Some(work) => work(&mut db),
                None => return,
            },
            _ = tick.tick() => {
                if let Err(error) = db.expire_leases(now_ms()) {
                    tracing::error!(%error, "the store cannot end leases");
                }
            }
        }
        match db.revision() {
            Ok(revision) => announce.send_if_modified(|known| std::mem::replace(known, revision) != revision),
            Err(error) => {
                tracing::error!(%error, "the store cannot read its revision");
                false
            }
        };
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn get(&self, key: &str) -> Result<Option<Kv>, StoreError> {
        let key = key.to_owned();
        self.call(move |db| db.get(&key)).await
    }

    async fn range(&self, prefix: &str) -> Result<(Vec<Kv>, u64), StoreError> {
        let prefix = prefix.to_owned();
        self.call(move |db| db.range(&prefix)).await
    }

    async fn txn(&self, compares: Vec<Compare>, ops: Vec<Op>) -> Result<Txn, StoreError> {
        check_limits(&compares, &ops)?;
        self.call(move |db| db.txn(&compares, &ops, now_ms())).await
    }

    async fn txn_unsynced(&self, compares: Vec<Compare>, ops: Vec<Op>) -> Result<Txn, StoreError> {
        check_limits(&compares, &ops)?;
        self.call(move |db| db.unsynced(|db| db.txn(&compares, &ops, now_ms()))).await
    }

    async fn watch(&self, prefix: &str, from: u64) -> Result<BoxStream<'static, Event>, StoreError> {
        let watch = Watch { store: self.clone(), prefix: prefix.to_owned(), next: from.max(1), ended: false };
        Ok(stream::unfold(watch, Watch::step).flat_map(stream::iter).boxed())
    }

    async fn lease_grant(&self, ttl_ms: u64) -> Result<LeaseId, StoreError> {
        self.call(move |db| db.lease_grant(ttl_ms, now_ms())).await
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.call(move |db| db.lease_keep_alive(lease, now_ms())).await
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.call(move |db| db.lease_revoke(lease)).await
    }
}

/// A watch pulls: a slow reader holds nothing in memory, and learns that it was too slow by `Compacted`.
struct Watch {
    store: SqliteStore,
    prefix: String,
    next: u64,
    ended: bool,
}

impl Watch {
    async fn step(mut self) -> Option<(Vec<Event>, Self)> {
        if self.ended {
            return None;
        }
        loop {
            self.store.revision.borrow_and_update();
            let (prefix, from) = (self.prefix.clone(), self.next);
            match self.store.call(move |db| db.changes(&prefix, from)).await {
                Ok(Changes::Compacted { oldest }) => {
                    self.ended = true;
                    return Some((vec![Event::Compacted { oldest }], self));
                }
                Ok(Changes::Events { events, next }) => {
                    let more = next > self.next;
                    self.next = self.next.max(next);
                    if !events.is_empty() {
                        return Some((events, self));
                    }
                    if more {
                        continue;
                    }
                }
                Err(error) => {
                    tracing::error!(%error, prefix = %self.prefix, "a watch of the store ended");
                    return None;
                }
            }
            self.store.revision.changed().await.ok()?;
        }
    }
}

fn check_limits(compares: &[Compare], ops: &[Op]) -> Result<(), StoreError> {
    if compares.len() + ops.len() > TXN_OPS_MAX {
        return Err(StoreError::TxnTooLarge(compares.len() + ops.len()));
    }
    for op in ops {
        let (Op::Put { key, .. } | Op::Delete { key }) = op;
        if key.len() > KEY_BYTES_MAX {
            return Err(StoreError::KeyTooLong(key.len()));
        }
        if let Op::Put { key, value, .. } = op
            && value.len() > VALUE_BYTES_MAX
        {
            return Err(StoreError::ValueTooLarge { key: key.clone(), bytes: value.len() });
        }
    }
    Ok(())
}
