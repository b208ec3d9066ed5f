//! Blocks in SlateDB: a key for each that is not zeros, its number in big endian. One batch is one object of the write-ahead log, so that it is
//! there whole or not at all. Refuses to decide what is written when, and to go on after SlateDB says that it is closed.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::ObjectStore;
use object_store::path::Path;
use slatedb::config::{
    CompactionWorkerOptions, CompactorOptions, GarbageCollectorDirectoryOptions, GarbageCollectorOptions, ScanOptions,
    Settings,
};
use slatedb::db_cache::SplitCache;
use slatedb::db_cache::moka::{MokaCache, MokaCacheOptions};
use slatedb::{CloseReason, Db, DbStatus, Error, ErrorKind, WriteBatch};
use tokio::sync::watch;

use crate::dirty::{Batch, Content};

const MIB: usize = 1 << 20;
/// What is in memory before it becomes a table of its own, and what is read again from the log after a crash.
const TABLE_BYTES: usize = 16 * MIB;
/// Writers wait beyond it.
const UNFLUSHED_BYTES: usize = 48 * MIB;
/// Where tables' indexes and filters are: 1 MiB for some 170 MiB of blocks.
const INDEX_CACHE_BYTES: u64 = 16 << 20;
/// Of tables that compaction writes.
const COMPACTED_BYTES: usize = 32 * MIB;
/// In one request, where blocks are read in a row.
const AHEAD_BYTES: usize = MIB;
/// Within that, who was fenced and has nothing to flush notices it.
pub const MANIFEST_POLL: Duration = Duration::from_secs(1);
/// What nobody refers to stays for that: a reader may have begun with it.
const GARBAGE_AGE: Duration = Duration::from_secs(15 * 60);
const GARBAGE_EVERY: Duration = Duration::from_secs(5 * 60);

const BLOCK_PREFIX: u8 = b'b';
const RECORD: &[u8] = b"record";

pub struct Blocks {
    db: Db,
}

impl Blocks {
    /// Takes the volume over from whoever has it: SlateDB raises the writer's epoch, and fences the other's log.
    pub async fn open(store: Arc<dyn ObjectStore>, at: Path, cache_bytes: u64) -> Result<Self, Error> {
        let cache = |max_capacity| {
            let options = MokaCacheOptions { max_capacity, ..MokaCacheOptions::default() };
            Some(Arc::new(MokaCache::new_with_opts(options)) as Arc<dyn slatedb::db_cache::DbCache>)
        };
        let caches = SplitCache::new().with_block_cache(cache(cache_bytes)).with_meta_cache(cache(INDEX_CACHE_BYTES));
        let db =
            Db::builder(at, store).with_settings(settings()).with_db_cache(Arc::new(caches.build()), 0).build().await?;
        Ok(Blocks { db })
    }

    pub async fn get(&self, block: u64) -> Result<Content, Error> {
        self.db.get(key(block)).await
    }

    /// Those that are there, in order.
    pub async fn visit(&self, range: Range<u64>, each: &mut (dyn FnMut(u64, Bytes) + Send)) -> Result<(), Error> {
        // Not cached: what is read in a row is in the file system's own cache then.
        let options = ScanOptions { read_ahead_bytes: AHEAD_BYTES, cache_blocks: false, ..ScanOptions::default() };
        let mut found = self.db.scan_with_options(key(range.start)..key(range.end), &options).await?;
        while let Some(entry) = found.next().await? {
            if let Some(block) = number(&entry.key) {
                each(block, entry.value);
            }
        }
        Ok(())
    }

    /// All of it or none, after all that was applied before. Not in the store yet; what it returns is for `settle`.
    pub async fn apply(&self, batch: &Batch) -> Result<u64, Error> {
        let mut write = WriteBatch::new();
        for (block, content) in batch {
            match content {
                Some(data) => write.put_bytes(Bytes::copy_from_slice(&key(*block)), data.clone()),
                None => write.delete(key(*block)),
            }
        }
        Ok(self.db.write(write).await?.seqnum())
    }

    /// Returns when everything up to that is in the store, and whoever opens the volume from now on finds it.
    pub async fn settle(&self, applied: u64) -> Result<(), Settle> {
        self.db.flush().await.map_err(Settle::Store)?;
        // A flush that returns without an error has done this; it costs nothing to see.
        let durable = self.db.status().durable_seq;
        if durable < applied { Err(Settle::Short { durable, applied }) } else { Ok(()) }
    }

    pub async fn record(&self) -> Result<Option<Bytes>, Error> {
        self.db.get(RECORD).await
    }

    pub async fn set_record(&self, record: &[u8]) -> Result<(), Error> {
        self.db.put(RECORD, record).await?;
        self.db.flush().await
    }

    pub fn status(&self) -> watch::Receiver<DbStatus> {
        self.db.subscribe()
    }

    pub async fn close(&self) -> Result<(), Error> {
        self.db.close().await
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Settle {
    #[error(transparent)]
    Store(Error),
    #[error("the store has {durable} of {applied}")]
    Short { durable: u64, applied: u64 },
}

/// Somebody else has the volume.
pub fn is_fenced(error: &Error) -> bool {
    error.kind() == ErrorKind::Closed(CloseReason::Fenced)
}

fn key(block: u64) -> [u8; 9] {
    let mut key = [BLOCK_PREFIX; 9];
    key[1..].copy_from_slice(&block.to_be_bytes());
    key
}

fn number(key: &[u8]) -> Option<u64> {
    let (prefix, number) = key.split_first()?;
    (*prefix == BLOCK_PREFIX).then(|| number.try_into().ok().map(u64::from_be_bytes)).flatten()
}

fn settings() -> Settings {
    let garbage = || {
        Some(GarbageCollectorDirectoryOptions {
            interval: Some(GARBAGE_EVERY),
            min_age: GARBAGE_AGE,
            ..Default::default()
        })
    };
    Settings {
        // A flush is asked for when somebody waits for it, or when a batch is full.
        flush_interval: None,
        manifest_poll_interval: MANIFEST_POLL,
        l0_sst_size_bytes: TABLE_BYTES,
        max_unflushed_bytes: UNFLUSHED_BYTES,
        l0_flush_parallelism: 2,
        compactor_options: Some(CompactorOptions {
            max_concurrent_compactions: 1,
            worker: Some(CompactionWorkerOptions {
                max_concurrent_compactions: 1,
                max_subcompactions: 1,
                max_sst_size: COMPACTED_BYTES,
                max_fetch_tasks: 2,
                bytes_to_fetch: AHEAD_BYTES,
                ..Default::default()
            }),
            ..Default::default()
        }),
        garbage_collector_options: Some(GarbageCollectorOptions {
            manifest_options: garbage(),
            wal_options: garbage(),
            compacted_options: garbage(),
            compactions_options: garbage(),
            // Fences are never removed. A writer that was stopped for longer than any age would find its place in the log free again, and be
            // told that its flush is kept, where nobody looks for it any more (slatedb/slatedb#352).
            wal_fence_options: None,
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_in_the_order_of_blocks() {
        let numbers = [0, 1, 255, 256, 65_536, u64::MAX];
        let keys: Vec<_> = numbers.iter().map(|block| key(*block)).collect();
        assert!(keys.is_sorted());
        assert_eq!(keys.iter().map(|key| number(key).expect("a block")).collect::<Vec<_>>(), numbers);
        assert_eq!(number(RECORD), None);
    }

    #[test]
    fn settings_are_sound_and_keep_fences() {
        let settings = settings();
        settings.validate().expect("they fit together");
        assert!(settings.garbage_collector_options.expect("there is one").wal_fence_options.is_none());
    }
}
