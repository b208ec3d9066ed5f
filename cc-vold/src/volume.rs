//! A volume as a disk: reads and writes of bytes, discards, and a flush that returns when the object store has everything. What is written
//! without a flush may be there after a crash or not; if it is, so is everything that was written before it. Refuses everything once a
//! flush has failed: the kernel would go on as if it had been kept.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use slatedb::{CloseReason, Error};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::blocks::{Blocks, is_fenced};
use crate::dirty::{Content, Dirty, Look, content};
use crate::error::{Failure, IoError};
use crate::identity::Shape;

/// Blocks looked for at once by a discard: their numbers are kept, and one has at most so many.
const DISCARD_BLOCKS: u64 = 1 << 16;

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long the store may take for a flush or a read before that fails.
    pub patience: Duration,
    /// Of what was written and not flushed: then it goes to the store unasked, as disks do. It bounds a batch, the memory for it, and what one
    /// request has to carry.
    pub batch_bytes: usize,
}

impl Limits {
    pub const BATCH_BYTES: usize = 8 << 20;
}

pub struct Volume {
    shape: Shape,
    blocks: Blocks,
    limits: Limits,
    dirty: Mutex<Dirty>,
    /// Held while a batch travels, so that batches arrive in the order in which they left. What `settle` is asked for.
    travel: tokio::sync::Mutex<u64>,
    is_settling: AtomicBool,
    failed: watch::Sender<Option<Failure>>,
    written_bytes: AtomicU64,
    flushes: AtomicU64,
}

impl Volume {
    pub fn new(shape: Shape, blocks: Blocks, limits: Limits) -> Arc<Self> {
        let volume = Arc::new(Volume {
            shape,
            blocks,
            limits,
            dirty: Mutex::default(),
            travel: tokio::sync::Mutex::new(0),
            is_settling: AtomicBool::new(false),
            failed: watch::Sender::new(None),
            written_bytes: AtomicU64::new(0),
            flushes: AtomicU64::new(0),
        });
        tokio::spawn(watch_over(Arc::downgrade(&volume), volume.blocks.status()));
        volume
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Changes once, if ever.
    pub fn failure(&self) -> watch::Receiver<Option<Failure>> {
        self.failed.subscribe()
    }

    /// By who uses it, since it is served.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes.load(Ordering::Relaxed)
    }

    pub fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::Relaxed)
    }

    pub async fn read(&self, offset: u64, bytes: usize) -> Result<Vec<u8>, IoError> {
        self.admit(offset, bytes as u64)?;
        let mut out = vec![0; bytes];
        let mut unknown: Vec<Range<u64>> = Vec::new();
        {
            let dirty = self.dirty.lock();
            for block in self.touched(offset, bytes as u64) {
                match dirty.look(block) {
                    Look::Zeros => {}
                    Look::Data(data) => self.place(&mut out, offset, block, &data),
                    Look::Unknown => match unknown.last_mut() {
                        Some(run) if run.end == block => run.end += 1,
                        _ => unknown.push(block..block + 1),
                    },
                }
            }
        }
        for run in unknown {
            if run.end - run.start == 1 {
                if let Some(data) = self.below(self.blocks.get(run.start)).await? {
                    self.place(&mut out, offset, run.start, self.whole(&data)?);
                }
                continue;
            }
            let mut found = Vec::new();
            self.below(self.blocks.visit(run, &mut |block, data| found.push((block, data)))).await?;
            for (block, data) in found {
                self.place(&mut out, offset, block, self.whole(&data)?);
            }
        }
        // Who was fenced meanwhile may have read what another has changed since.
        self.admit(offset, bytes as u64)?;
        Ok(out)
    }

    /// Without waiting, if that is possible: whole blocks, and room for them.
    pub fn write_now(&self, offset: u64, data: &[u8]) -> Option<Result<(), IoError>> {
        if let Err(error) = self.admit(offset, data.len() as u64) {
            return Some(Err(error));
        }
        let block_bytes = self.block_bytes();
        if !offset.is_multiple_of(block_bytes) || !(data.len() as u64).is_multiple_of(block_bytes) {
            return None;
        }
        let contents: Vec<Content> =
            data.chunks_exact(block_bytes as usize).map(|chunk| content(Bytes::copy_from_slice(chunk))).collect();
        let mut dirty = self.dirty.lock();
        if dirty.bytes() + data.len() > self.limits.batch_bytes {
            return None;
        }
        for (block, content) in (offset / block_bytes..).zip(contents) {
            dirty.put(block, content);
        }
        self.written_bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
        Some(Ok(()))
    }

    pub async fn write(self: &Arc<Self>, offset: u64, data: &[u8]) -> Result<(), IoError> {
        self.admit(offset, data.len() as u64)?;
        for block in self.touched(offset, data.len() as u64) {
            let begin = block * self.block_bytes();
            let from = begin.max(offset);
            let to = (begin + self.block_bytes()).min(offset + data.len() as u64);
            let piece = &data[(from - offset) as usize..(to - offset) as usize];
            if piece.len() as u64 == self.block_bytes() {
                self.dirty.lock().put(block, content(Bytes::copy_from_slice(piece)));
            } else {
                self.merge(block, (from - begin) as usize, piece).await?;
            }
        }
        self.written_bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
        self.make_room().await
    }

    /// Zeros, which take no room.
    pub async fn discard(self: &Arc<Self>, offset: u64, bytes: u64) -> Result<(), IoError> {
        self.admit(offset, bytes)?;
        let (end, block_bytes) = (offset + bytes, self.block_bytes());
        let mut whole = offset.div_ceil(block_bytes)..end / block_bytes;
        if whole.is_empty() {
            let zeros = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX)];
            return self.write(offset, &zeros).await;
        }
        let edge = |from: u64, to: u64| vec![0; (to - from) as usize];
        if offset < whole.start * block_bytes {
            self.write(offset, &edge(offset, whole.start * block_bytes)).await?;
        }
        if whole.end * block_bytes < end {
            self.write(whole.end * block_bytes, &edge(whole.end * block_bytes, end)).await?;
        }
        while !whole.is_empty() {
            let part = whole.start..whole.end.min(whole.start + DISCARD_BLOCKS);
            whole.start = part.end;
            self.discard_blocks(part).await?;
        }
        Ok(())
    }

    /// Returns when all that was written before is in the object store.
    pub async fn flush(&self) -> Result<(), IoError> {
        let applied = self.commit().await?;
        self.settle(applied).await?;
        self.flushes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// After the last flush: what is left, and the books of SlateDB, so that the next one opens it quickly.
    pub async fn close(&self) -> Result<(), IoError> {
        self.flush().await?;
        match timeout(self.limits.patience, self.blocks.close()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.fail_by(&error).into()),
            Err(_) => Err(self.fail(Failure::Late(self.limits.patience)).into()),
        }
    }

    async fn discard_blocks(self: &Arc<Self>, range: Range<u64>) -> Result<(), IoError> {
        {
            let mut dirty = self.dirty.lock();
            for block in dirty.known(range.clone()) {
                dirty.put(block, None);
            }
        }
        // A block that is not there needs no tombstone: the first discard of a new volume is of all of it.
        let mut found = Vec::new();
        self.below(self.blocks.visit(range, &mut |block, _| found.push(block))).await?;
        {
            let mut dirty = self.dirty.lock();
            for block in found {
                // Written since: it was asked for after the discard.
                if !dirty.is_written_now(block) {
                    dirty.put(block, None);
                }
            }
        }
        self.make_room().await
    }

    /// A part of a block into the rest of it.
    async fn merge(&self, block: u64, at: usize, piece: &[u8]) -> Result<(), IoError> {
        loop {
            let (look, departures) = {
                let dirty = self.dirty.lock();
                (dirty.look(block), dirty.departures())
            };
            let below = match look {
                Look::Unknown => self.below(self.blocks.get(block)).await?,
                Look::Zeros | Look::Data(_) => None,
            };
            let mut dirty = self.dirty.lock();
            let base = match dirty.look(block) {
                // It has been written and has left while we looked below.
                Look::Unknown if dirty.departures() != departures => continue,
                Look::Unknown => below,
                Look::Zeros => None,
                Look::Data(data) => Some(data),
            };
            let mut merged = vec![0; self.block_bytes() as usize];
            if let Some(base) = base {
                merged.copy_from_slice(self.whole(&base)?);
            }
            merged[at..at + piece.len()].copy_from_slice(piece);
            dirty.put(block, content(merged.into()));
            return Ok(());
        }
    }

    /// What is written goes on its way when it is a batch, and nobody waits for its arrival but who flushes.
    async fn make_room(self: &Arc<Self>) -> Result<(), IoError> {
        if self.dirty.lock().bytes() < self.limits.batch_bytes {
            return Ok(());
        }
        let applied = self.commit().await?;
        if !self.is_settling.swap(true, Ordering::AcqRel) {
            let volume = self.clone();
            tokio::spawn(async move {
                // It has failed the volume, then, which says why.
                let _ = volume.settle(applied).await;
                volume.is_settling.store(false, Ordering::Release);
            });
        }
        Ok(())
    }

    /// Gives SlateDB all that is written now, as one batch after the ones before.
    async fn commit(&self) -> Result<u64, Failure> {
        let mut applied = self.travel.lock().await;
        self.alive()?;
        let Some(batch) = self.dirty.lock().depart() else { return Ok(*applied) };
        match timeout(self.limits.patience, self.blocks.apply(&batch)).await {
            Ok(Ok(seq)) => {
                *applied = seq;
                self.dirty.lock().arrived();
                Ok(seq)
            }
            Ok(Err(error)) => Err(self.fail_by(&error)),
            Err(_) => Err(self.fail(Failure::Late(self.limits.patience))),
        }
    }

    async fn settle(&self, applied: u64) -> Result<(), Failure> {
        use crate::blocks::Settle;
        match timeout(self.limits.patience, self.blocks.settle(applied)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Settle::Store(error))) => Err(self.fail_by(&error)),
            Ok(Err(short)) => Err(self.fail(Failure::Lost(short.to_string()))),
            Err(_) => Err(self.fail(Failure::Late(self.limits.patience))),
        }
    }

    /// A read further down. Not to have one is no loss, so that it fails alone; but who was fenced reads no more.
    async fn below<T>(&self, read: impl Future<Output = Result<T, Error>>) -> Result<T, IoError> {
        match timeout(self.limits.patience, read).await {
            Ok(Ok(got)) => Ok(got),
            Ok(Err(error)) if is_fenced(&error) => Err(self.fail_by(&error).into()),
            Ok(Err(error)) => Err(IoError::Read(chain(&error))),
            Err(_) => Err(IoError::Read(format!("the object store did not answer within {:?}", self.limits.patience))),
        }
    }

    fn admit(&self, offset: u64, bytes: u64) -> Result<(), IoError> {
        self.alive()?;
        let within = offset.checked_add(bytes).is_some_and(|end| end <= self.shape.size_bytes);
        if within { Ok(()) } else { Err(IoError::Outside { offset, bytes }) }
    }

    fn alive(&self) -> Result<(), Failure> {
        self.failed.borrow().clone().map_or(Ok(()), Err)
    }

    fn fail_by(&self, error: &Error) -> Failure {
        self.fail(if is_fenced(error) { Failure::Fenced } else { Failure::Lost(chain(error)) })
    }

    /// The first failure stays.
    fn fail(&self, failure: Failure) -> Failure {
        self.failed.send_if_modified(|failed| {
            let first = failed.is_none();
            failed.get_or_insert(failure.clone());
            first
        });
        self.failed.borrow().clone().unwrap_or(failure)
    }

    fn block_bytes(&self) -> u64 {
        u64::from(self.shape.block_bytes)
    }

    fn touched(&self, offset: u64, bytes: u64) -> Range<u64> {
        offset / self.block_bytes()..(offset + bytes).div_ceil(self.block_bytes())
    }

    fn whole<'data>(&self, data: &'data [u8]) -> Result<&'data [u8], IoError> {
        if data.len() as u64 == self.block_bytes() {
            Ok(data)
        } else {
            Err(IoError::Read(format!("a block has {} bytes, and should have {}", data.len(), self.block_bytes())))
        }
    }

    /// What of a block is in `out`, which begins at `offset`.
    fn place(&self, out: &mut [u8], offset: u64, block: u64, data: &[u8]) {
        let begin = block * self.block_bytes();
        let from = begin.max(offset);
        let to = (begin + self.block_bytes()).min(offset + out.len() as u64);
        out[(from - offset) as usize..(to - offset) as usize]
            .copy_from_slice(&data[(from - begin) as usize..(to - begin) as usize]);
    }
}

/// Who is fenced notices it although nobody flushes: what it has in memory is another's old content.
async fn watch_over(volume: std::sync::Weak<Volume>, mut status: watch::Receiver<slatedb::DbStatus>) {
    while status.changed().await.is_ok() {
        let reason = status.borrow().close_reason;
        let Some(volume) = volume.upgrade() else { return };
        match reason {
            Some(CloseReason::Fenced) => volume.fail(Failure::Fenced),
            Some(CloseReason::Clean) => return,
            Some(_) => volume.fail(Failure::Lost("SlateDB has stopped".to_owned())),
            None => continue,
        };
        return;
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}
