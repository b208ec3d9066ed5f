//! The store: every object's desired and observed state, as keys and values under revisions. This file is the trait that
//! all of its implementations share. Refuses to know what the values mean.

mod sqlite;
pub mod typed;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod crash;

use async_trait::async_trait;
use cc_common::api::fault::Fault;
use futures::stream::BoxStream;
use tonic::Code;

pub use sqlite::SqliteStore;

/// Longest key: an object's kind, project and id with room to spare.
pub const KEY_BYTES_MAX: usize = 512;
/// Largest value: a container's record with its whole environment stays far below.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Most compares and operations of one transaction together.
pub const TXN_OPS_MAX: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kv {
    pub key: String,
    pub value: Vec<u8>,
    /// Revision of the transaction that created the key.
    pub created: u64,
    /// Revision of the transaction that last wrote it.
    pub modified: u64,
}

/// What must hold for a transaction to commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    Absent(String),
    Present(String),
    /// The key exists and was last written at this revision.
    Modified(String, u64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    Put { key: String, value: Vec<u8>, lease: Option<LeaseId> },
    Delete { key: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Txn {
    Committed {
        revision: u64,
    },
    /// A compare did not hold; nothing was written.
    Conflict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseId(pub u64);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Put(Kv),
    Deleted {
        key: String,
        revision: u64,
    },
    /// History before this revision is gone: list again and watch from there. The stream ends here.
    Compacted {
        oldest: u64,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot open the store {path}")]
    Open { path: std::path::PathBuf, source: rusqlite::Error },
    #[error("store operation {operation} failed")]
    Sqlite { operation: &'static str, source: rusqlite::Error },
    #[error("the store's thread has ended")]
    Closed,
    #[error("key of {0} bytes exceeds the limit")]
    KeyTooLong(usize),
    #[error("value of {bytes} bytes for {key} exceeds the limit")]
    ValueTooLarge { key: String, bytes: usize },
    #[error("transaction of {0} operations exceeds the limit")]
    TxnTooLarge(usize),
    #[error("lease {0} does not exist or has expired")]
    NoLease(u64),
    #[error("the store's schema is version {found}; this program knows {known}")]
    Schema { found: i64, known: i64 },
    #[error("the value of {key} cannot be read")]
    Decode { key: String, source: serde_json::Error },
}

/// An acknowledged `txn` survives SIGKILL and power loss. Revisions grow by one with every committed transaction.
#[async_trait]
pub trait Store: Send + Sync {
    async fn get(&self, key: &str) -> Result<Option<Kv>, StoreError>;
    /// All keys that start with `prefix`, in byte order, and the revision at which that was true.
    async fn range(&self, prefix: &str) -> Result<(Vec<Kv>, u64), StoreError>;
    /// All of `ops` if all of `compares` hold, else nothing.
    async fn txn(&self, compares: Vec<Compare>, ops: Vec<Op>) -> Result<Txn, StoreError>;
    /// As `txn`, for what nobody is told of: SIGKILL does not undo it, but power loss may, until a later `txn` is acknowledged.
    /// Of several, power loss undoes the last ones.
    async fn txn_unsynced(&self, compares: Vec<Compare>, ops: Vec<Op>) -> Result<Txn, StoreError>;
    /// Every change at a revision ≥ `from` to keys that start with `prefix`, in order, without gaps.
    async fn watch(&self, prefix: &str, from: u64) -> Result<BoxStream<'static, Event>, StoreError>;
    async fn lease_grant(&self, ttl_ms: u64) -> Result<LeaseId, StoreError>;
    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), StoreError>;
    /// Deletes the keys that hang on it.
    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError>;
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Fault {
        use StoreError as E;
        let (kind, code) = match &error {
            E::Open { .. } => (Code::Unavailable, "store.open"),
            E::Sqlite { .. } => (Code::Internal, "store.failed"),
            E::Closed => (Code::Unavailable, "store.closed"),
            E::KeyTooLong(_) | E::ValueTooLarge { .. } | E::TxnTooLarge(_) => (Code::InvalidArgument, "store.limit"),
            E::NoLease(_) => (Code::FailedPrecondition, "store.no_lease"),
            E::Schema { .. } => (Code::FailedPrecondition, "store.schema"),
            E::Decode { .. } => (Code::DataLoss, "store.decode"),
        };
        let mut why = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            why = format!("{why}: {cause}");
            source = cause.source();
        }
        let fault = Fault::new(kind, code, "the store did not answer as it should", why);
        match code {
            "store.open" => fault.next("see that its directory exists, is writable and has space left"),
            "store.failed" => fault.next("see that its disk is healthy and has space left: cc-host check"),
            "store.schema" => fault.next("run the version of cc-host that wrote it, or a newer one"),
            _ => fault,
        }
    }
}
