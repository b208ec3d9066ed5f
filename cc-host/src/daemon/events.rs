//! What happened on this host, for people: a bounded ring in the store, and how often each kind happened since the daemon
//! started. Refuses to be a log; a few words per event.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::ids::{Project, now_ms};
use crate::store::{Op, Store, StoreError, Txn, typed};

const PREFIX: &str = "events/";
/// Events kept; the oldest goes when another comes.
pub const EVENTS_MAX: u64 = 1000;
/// Longest text; more is cut.
const TEXT_BYTES_MAX: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    pub at_ms: u64,
    /// `container.stopped`
    pub kind: String,
    /// An id.
    pub object: String,
    pub text: String,
    /// Whose object it is; `None`: the host's, which only admins see.
    pub project: Option<Project>,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Events {
    store: Arc<dyn Store>,
    next: Arc<Mutex<u64>>,
    /// Kinds are words of our own code, so they are few.
    counts: Arc<std::sync::Mutex<BTreeMap<String, u64>>>,
}

impl Events {
    pub async fn open(store: Arc<dyn Store>) -> Result<Self, StoreError> {
        let (kvs, _) = store.range(PREFIX).await?;
        let last = kvs.last().and_then(|kv| kv.key[PREFIX.len()..].parse::<u64>().ok());
        Ok(Events { store, next: Arc::new(Mutex::new(last.map_or(0, |last| last + 1))), counts: Arc::default() })
    }

    /// Adds an event of the host itself. An event that cannot be kept is logged: it must not fail what it tells of.
    pub async fn add(&self, kind: &str, object: &str, text: &str) {
        self.add_for(None, kind, object, text).await;
    }

    /// Adds an event that `project` may see.
    pub async fn add_for(&self, project: Option<&Project>, kind: &str, object: &str, text: &str) {
        tracing::info!(kind, object, "{text}");
        *self.lock_counts().entry(kind.to_owned()).or_insert(0) += 1;
        let end = (0..=TEXT_BYTES_MAX.min(text.len())).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        let record = EventRecord {
            at_ms: now_ms(),
            kind: kind.to_owned(),
            object: object.to_owned(),
            text: text[..end].to_owned(),
            project: project.cloned(),
        };
        if let Err(error) = self.keep(&record).await {
            tracing::warn!(%error, "cannot keep an event");
        }
    }

    /// Since the daemon started.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.lock_counts().clone()
    }

    fn lock_counts(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, u64>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn keep(&self, record: &EventRecord) -> Result<(), StoreError> {
        let mut next = self.next.lock().await;
        let mut ops = vec![typed::put_op(key(*next), record)?];
        if let Some(oldest) = next.checked_sub(EVENTS_MAX) {
            ops.push(Op::Delete { key: key(oldest) });
        }
        // No event is worth a wait for the disk.
        if let Txn::Committed { .. } = self.store.txn_unsynced(vec![], ops).await? {
            *next += 1;
        }
        Ok(())
    }

    /// Oldest first.
    pub async fn list(&self, since_ms: u64) -> Result<Vec<EventRecord>, StoreError> {
        let (stored, _) = typed::range_json::<EventRecord>(&*self.store, PREFIX).await?;
        Ok(stored.into_iter().map(|s| s.value).filter(|event| event.at_ms >= since_ms).collect())
    }
}

fn key(seq: u64) -> String {
    format!("{PREFIX}{seq:016}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::SqliteStore;

    #[tokio::test]
    async fn the_ring_is_bounded_and_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&dir.path().join("s")).unwrap());
        let events = Events::open(store.clone()).await.unwrap();
        events.add("host.started", "", &"é".repeat(TEXT_BYTES_MAX)).await;
        *events.next.lock().await = EVENTS_MAX;
        events.add("host.stopped", "x", "b").await;
        assert_eq!(events.counts(), BTreeMap::from([("host.started".to_owned(), 1), ("host.stopped".to_owned(), 1)]));
        let kept = Events::open(store).await.unwrap();
        assert!(kept.counts().is_empty(), "a new daemon has counted nothing");
        kept.add("host.started", "", "c").await;
        let texts: Vec<_> = kept.list(0).await.unwrap().into_iter().map(|event| event.text).collect();
        assert_eq!(texts, ["b", "c"], "the first was the one that is {EVENTS_MAX} before the second");
        assert!(kept.list(u64::MAX).await.unwrap().is_empty());
    }
}
