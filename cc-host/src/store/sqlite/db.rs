//! The SQL of the store: schema, transactions, history, leases. Synchronous; refuses to know of threads and watches.

use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};

use crate::store::{Compare, Event, Kv, LeaseId, Op, StoreError, Txn};

const SCHEMA: i64 = 1;
/// How long a transaction waits for another process' to end.
const BUSY_MS: u64 = 10_000;
/// Revisions that a watch takes at a time, so that a long history does not keep other work waiting.
const CHANGES_MAX: u64 = 256;

// Keys are blobs: their order is that of bytes, and a prefix has an exact upper bound.
const TABLES: &str = "
CREATE TABLE kv (key BLOB PRIMARY KEY, value BLOB NOT NULL, created INTEGER NOT NULL, modified INTEGER NOT NULL, lease INTEGER) WITHOUT ROWID;
CREATE INDEX kv_lease ON kv (lease) WHERE lease IS NOT NULL;
CREATE TABLE history (revision INTEGER NOT NULL, seq INTEGER NOT NULL, key BLOB NOT NULL, value BLOB, created INTEGER NOT NULL,
                      PRIMARY KEY (revision, seq)) WITHOUT ROWID;
CREATE TABLE lease (id INTEGER PRIMARY KEY AUTOINCREMENT, ttl_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL);
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('revision', 0), ('oldest', 1);
";

pub(super) struct Db {
    connection: Connection,
    history_revisions_max: u64,
}

pub(super) enum Changes {
    Events { events: Vec<Event>, next: u64 },
    Compacted { oldest: u64 },
}

fn failed(operation: &'static str) -> impl FnOnce(rusqlite::Error) -> StoreError {
    move |source| StoreError::Sqlite { operation, source }
}

impl Db {
    pub(super) fn open(path: &Path, history_revisions_max: u64) -> Result<Self, StoreError> {
        let io = |source: std::io::Error| StoreError::Open {
            path: path.to_owned(),
            source: rusqlite::Error::ToSqlConversionFailure(Box::new(source)),
        };
        let sql = |source| StoreError::Open { path: path.to_owned(), source };
        // SQLite gives its -wal and -shm files the mode of this one.
        let file = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(io)?;
        file.set_permissions(std::fs::Permissions::from_mode(0o600)).map_err(io)?;
        drop(file);

        let mut connection = Connection::open(path).map_err(sql)?;
        connection.busy_timeout(Duration::from_millis(BUSY_MS)).map_err(sql)?;
        connection.pragma_update(None, "journal_mode", "WAL").map_err(sql)?;
        // FULL: a commit is on the disk before it is acknowledged.
        connection.pragma_update(None, "synchronous", "FULL").map_err(sql)?;
        let txn = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql)?;
        let found: i64 = txn.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(sql)?;
        match found {
            SCHEMA => {}
            0 => {
                txn.execute_batch(TABLES).map_err(sql)?;
                txn.pragma_update(None, "user_version", SCHEMA).map_err(sql)?;
            }
            found => return Err(StoreError::Schema { found, known: SCHEMA }),
        }
        txn.commit().map_err(sql)?;
        Ok(Db { connection, history_revisions_max })
    }

    pub(super) fn revision(&self) -> Result<u64, StoreError> {
        meta(&self.connection, "revision").map_err(failed("revision"))
    }

    pub(super) fn get(&self, key: &str) -> Result<Option<Kv>, StoreError> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT key, value, created, modified FROM kv WHERE key = ?1")
            .map_err(failed("get"))?;
        statement.query_row([key.as_bytes()], kv).optional().map_err(failed("get"))
    }

    pub(super) fn range(&mut self, prefix: &str) -> Result<(Vec<Kv>, u64), StoreError> {
        // One transaction, so that the list and its revision belong together whatever other processes commit.
        let txn = self.connection.transaction().map_err(failed("range"))?;
        let read = || -> rusqlite::Result<(Vec<Kv>, u64)> {
            let revision = meta(&txn, "revision")?;
            let mut statement = txn.prepare_cached(
                "SELECT key, value, created, modified FROM kv WHERE key >= ?1 AND (?2 IS NULL OR key < ?2) ORDER BY key",
            )?;
            let kvs = statement.query_map(params![prefix.as_bytes(), after_prefix(prefix)], kv)?;
            Ok((kvs.collect::<rusqlite::Result<_>>()?, revision))
        };
        read().map_err(failed("range"))
    }

    pub(super) fn txn(&mut self, compares: &[Compare], ops: &[Op], now_ms: u64) -> Result<Txn, StoreError> {
        self.expire_leases(now_ms)?;
        let history_revisions_max = self.history_revisions_max;
        let txn = self.begin("txn")?;
        for compare in compares {
            let holds = match compare {
                Compare::Absent(key) => modified(&txn, key)?.is_none(),
                Compare::Present(key) => modified(&txn, key)?.is_some(),
                Compare::Modified(key, revision) => modified(&txn, key)? == Some(*revision),
            };
            if !holds {
                return Ok(Txn::Conflict);
            }
        }
        for op in ops {
            if let Op::Put { lease: Some(lease), .. } = op {
                require_lease(&txn, *lease)?;
            }
        }
        let revision = apply(&txn, ops, history_revisions_max).map_err(failed("txn"))?;
        txn.commit().map_err(failed("txn"))?;
        Ok(Txn::Committed { revision })
    }

    /// Commits go to the file, but not yet to the disk: the next one that is synced takes them along, as they are before it in
    /// the same write-ahead log.
    pub(super) fn unsynced<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.connection.pragma_update(None, "synchronous", "NORMAL").map_err(failed("unsynced"))?;
        let done = work(self);
        self.connection.pragma_update(None, "synchronous", "FULL").map_err(failed("synced"))?;
        done
    }

    pub(super) fn changes(&mut self, prefix: &str, from: u64) -> Result<Changes, StoreError> {
        let txn = self.connection.transaction().map_err(failed("watch"))?;
        let read = || -> rusqlite::Result<Changes> {
            let oldest = meta(&txn, "oldest")?;
            if from < oldest {
                return Ok(Changes::Compacted { oldest });
            }
            let end = (meta(&txn, "revision")? + 1).min(from.saturating_add(CHANGES_MAX));
            let mut statement = txn.prepare_cached(
                "SELECT revision, key, value, created FROM history
                 WHERE revision >= ?1 AND revision < ?2 AND key >= ?3 AND (?4 IS NULL OR key < ?4) ORDER BY revision, seq",
            )?;
            let bounds = params![from, end, prefix.as_bytes(), after_prefix(prefix)];
            let events = statement.query_map(bounds, event)?.collect::<rusqlite::Result<_>>()?;
            Ok(Changes::Events { events, next: end })
        };
        read().map_err(failed("watch"))
    }

    pub(super) fn lease_grant(&mut self, ttl_ms: u64, now_ms: u64) -> Result<LeaseId, StoreError> {
        // A century is forever; it also keeps the sum within SQLite's integers.
        let ttl_ms = ttl_ms.min(100 * 365 * 86_400_000);
        let txn = self.begin("lease_grant")?;
        txn.execute("INSERT INTO lease (ttl_ms, expires_ms) VALUES (?1, ?2)", params![ttl_ms, now_ms + ttl_ms])
            .map_err(failed("lease_grant"))?;
        let id = txn.last_insert_rowid();
        txn.commit().map_err(failed("lease_grant"))?;
        Ok(LeaseId(id.unsigned_abs()))
    }

    pub(super) fn lease_keep_alive(&mut self, lease: LeaseId, now_ms: u64) -> Result<(), StoreError> {
        self.expire_leases(now_ms)?;
        let known = self
            .connection
            .execute("UPDATE lease SET expires_ms = ttl_ms + ?2 WHERE id = ?1", params![lease.0, now_ms])
            .map_err(failed("lease_keep_alive"))?;
        if known == 0 { Err(StoreError::NoLease(lease.0)) } else { Ok(()) }
    }

    pub(super) fn lease_revoke(&mut self, lease: LeaseId) -> Result<(), StoreError> {
        let history_revisions_max = self.history_revisions_max;
        let txn = self.begin("lease_revoke")?;
        require_lease(&txn, lease)?;
        end_lease(&txn, lease.0, history_revisions_max).map_err(failed("lease_revoke"))?;
        txn.commit().map_err(failed("lease_revoke"))
    }

    /// Ends what is overdue, each lease in a transaction of its own. Reads first: usually there is nothing to write.
    pub(super) fn expire_leases(&mut self, now_ms: u64) -> Result<(), StoreError> {
        let overdue: bool = self
            .connection
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM lease WHERE expires_ms <= ?1)")
            .and_then(|mut statement| statement.query_row([now_ms], |row| row.get(0)))
            .map_err(failed("lease_expire"))?;
        if !overdue {
            return Ok(());
        }
        let history_revisions_max = self.history_revisions_max;
        let txn = self.begin("lease_expire")?;
        let expire = || -> rusqlite::Result<()> {
            let mut statement = txn.prepare("SELECT id FROM lease WHERE expires_ms <= ?1 ORDER BY id")?;
            let ids = statement.query_map([now_ms], |row| row.get(0))?.collect::<rusqlite::Result<Vec<u64>>>()?;
            ids.into_iter().try_for_each(|id| end_lease(&txn, id, history_revisions_max))
        };
        expire().map_err(failed("lease_expire"))?;
        txn.commit().map_err(failed("lease_expire"))
    }

    fn begin(&mut self, operation: &'static str) -> Result<Transaction<'_>, StoreError> {
        self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed(operation))
    }
}

/// Writes the operations under the next revision, and forgets history beyond the bound.
fn apply(txn: &Transaction<'_>, ops: &[Op], history_revisions_max: u64) -> rusqlite::Result<u64> {
    let revision = meta(txn, "revision")? + 1;
    set_meta(txn, "revision", revision)?;
    let mut put = txn.prepare_cached(
        "INSERT INTO kv VALUES (?1, ?2, ?3, ?3, ?4)
         ON CONFLICT (key) DO UPDATE SET value = ?2, modified = ?3, lease = ?4 RETURNING created",
    )?;
    let mut delete = txn.prepare_cached("DELETE FROM kv WHERE key = ?1")?;
    let mut remember = txn.prepare_cached("INSERT INTO history VALUES (?1, ?2, ?3, ?4, ?5)")?;
    for (seq, op) in ops.iter().enumerate() {
        match op {
            Op::Put { key, value, lease } => {
                let row = params![key.as_bytes(), value, revision, lease.map(|lease| lease.0)];
                let created: u64 = put.query_row(row, |row| row.get(0))?;
                remember.execute(params![revision, seq, key.as_bytes(), value, created])?;
            }
            Op::Delete { key } => {
                if delete.execute([key.as_bytes()])? > 0 {
                    remember.execute(params![revision, seq, key.as_bytes(), None::<Vec<u8>>, 0])?;
                }
            }
        }
    }
    let oldest = (revision + 1).saturating_sub(history_revisions_max).max(1);
    if oldest > meta(txn, "oldest")? {
        txn.prepare_cached("DELETE FROM history WHERE revision < ?1")?.execute([oldest])?;
        set_meta(txn, "oldest", oldest)?;
    }
    Ok(revision)
}

fn end_lease(txn: &Transaction<'_>, id: u64, history_revisions_max: u64) -> rusqlite::Result<()> {
    let mut statement = txn.prepare_cached("SELECT key FROM kv WHERE lease = ?1 ORDER BY key")?;
    let keys = statement.query_map([id], |row| key_text(row, 0))?.collect::<rusqlite::Result<Vec<_>>>()?;
    txn.execute("DELETE FROM lease WHERE id = ?1", [id])?;
    if !keys.is_empty() {
        let ops: Vec<Op> = keys.into_iter().map(|key| Op::Delete { key }).collect();
        apply(txn, &ops, history_revisions_max)?;
    }
    Ok(())
}

fn require_lease(txn: &Transaction<'_>, lease: LeaseId) -> Result<(), StoreError> {
    let known: bool = txn
        .query_row("SELECT EXISTS (SELECT 1 FROM lease WHERE id = ?1)", [lease.0], |row| row.get(0))
        .map_err(failed("lease"))?;
    if known { Ok(()) } else { Err(StoreError::NoLease(lease.0)) }
}

fn modified(txn: &Transaction<'_>, key: &str) -> Result<Option<u64>, StoreError> {
    txn.prepare_cached("SELECT modified FROM kv WHERE key = ?1")
        .and_then(|mut statement| statement.query_row([key.as_bytes()], |row| row.get(0)).optional())
        .map_err(failed("compare"))
}

fn meta(connection: &Connection, name: &str) -> rusqlite::Result<u64> {
    connection.prepare_cached("SELECT value FROM meta WHERE name = ?1")?.query_row([name], |row| row.get(0))
}

fn set_meta(txn: &Transaction<'_>, name: &str, value: u64) -> rusqlite::Result<()> {
    txn.prepare_cached("UPDATE meta SET value = ?2 WHERE name = ?1")?.execute(params![name, value]).map(drop)
}

fn kv(row: &Row<'_>) -> rusqlite::Result<Kv> {
    Ok(Kv { key: key_text(row, 0)?, value: row.get(1)?, created: row.get(2)?, modified: row.get(3)? })
}

fn event(row: &Row<'_>) -> rusqlite::Result<Event> {
    let (modified, key) = (row.get(0)?, key_text(row, 1)?);
    Ok(match row.get::<_, Option<Vec<u8>>>(2)? {
        Some(value) => Event::Put(Kv { key, value, created: row.get(3)?, modified }),
        None => Event::Deleted { key, revision: modified },
    })
}

fn key_text(row: &Row<'_>, column: usize) -> rusqlite::Result<String> {
    String::from_utf8(row.get(column)?)
        .map_err(|e| rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Blob, Box::new(e)))
}

/// The least key that is greater than all that start with `prefix`; `None` when there is no such bound.
fn after_prefix(prefix: &str) -> Option<Vec<u8>> {
    let mut bytes = prefix.as_bytes().to_vec();
    // UTF-8 holds no byte 0xff, so the last one can always be increased.
    *bytes.last_mut()? += 1;
    Some(bytes)
}
