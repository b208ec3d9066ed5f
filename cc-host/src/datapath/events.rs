//! The ring of records, of drops and of what rules decide: drops switched on and off, read, and asked what was lost. Refuses to know who
//! reads the records.

use std::io;
use std::sync::{Mutex, PoisonError};

use aya::Ebpf;
use aya::maps::{Array, MapData, RingBuf};
use cc_common::event::{DropRecord, RuleRecord, Told, Watch, told_row};
use cc_common::names::{MAP_EVENTS, MAP_WATCH};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::Datapath;
use super::error::DatapathError;
use super::object::take_map;

/// Records that are taken in one turn.
const BATCH_MAX: usize = 1_024;

/// What a program has told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    Dropped(DropRecord),
    Decided(RuleRecord),
}

/// The reader's end. There is one.
pub struct EventRing(RingBuf<MapData>);

impl EventRing {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        let failed = |source| DatapathError::Map { operation: "open", name: MAP_EVENTS, source };
        Ok(EventRing(RingBuf::try_from(take_map(ebpf, MAP_EVENTS)?).map_err(failed)?))
    }

    /// Hands over what comes, in batches, until the task is dropped.
    pub async fn read(self, mut hand_over: impl FnMut(&[Record])) -> io::Result<()> {
        // SAFETY: the ring owns its map's descriptor, always names the same one, and moves into the registration, which outlives
        // every use of it here.
        let mut ring = unsafe { AsyncFd::register_with_interest(self.0, Interest::READABLE) }?;
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            let mut guard = ring.readable_mut().await?;
            while batch.len() < BATCH_MAX
                && let Some(item) = guard.get_inner_mut().next()
            {
                batch.extend(parse(&item));
            }
            if batch.len() < BATCH_MAX {
                guard.clear_ready();
            }
            drop(guard);
            hand_over(&batch);
            batch.clear();
            // A flood leaves others their turn.
            tokio::task::yield_now().await;
        }
    }
}

/// The switch. It has a lock of its own: whoever comes to watch waits for nobody who loads rules.
pub(super) struct DropWatch(Mutex<Array<MapData, Watch>>);

impl DropWatch {
    /// An earlier daemon's watchers are gone with it.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        let failed = |source| DatapathError::Map { operation: "open", name: MAP_WATCH, source };
        let watch = DropWatch(Mutex::new(Array::try_from(take_map(ebpf, MAP_WATCH)?).map_err(failed)?));
        watch.set(Watch::default())?;
        Ok(watch)
    }

    fn set(&self, watch: Watch) -> Result<(), DatapathError> {
        let failed = |source| DatapathError::Map { operation: "write", name: MAP_WATCH, source };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).set(0, watch, 0).map_err(failed)
    }
}

/// Their lengths tell the kinds apart. What a newer program wrote may be longer than a drop; another length is none of ours.
fn parse(bytes: &[u8]) -> Option<Record> {
    if bytes.len() == size_of::<RuleRecord>() {
        return read(bytes).map(Record::Decided);
    }
    read(bytes).map(Record::Dropped)
}

fn read<T: aya::Pod>(bytes: &[u8]) -> Option<T> {
    let bytes = bytes.get(..size_of::<T>())?;
    // SAFETY: as many bytes as the struct has, and any bytes are one: it is plain old data (`cc_common::pod`).
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

impl Datapath {
    /// The ring, once.
    pub fn take_event_ring(&self) -> Option<EventRing> {
        self.inner().event_ring.take()
    }

    /// From here on, drops are recorded, or cost nothing again. Waits for nothing.
    pub fn watch_drops(&self, watched: bool) -> Result<(), DatapathError> {
        self.drop_watch.set(Watch { drops: u32::from(watched) })
    }

    /// How many records an endpoint has caused, and how many of them were lost, since it was attached; of what is no endpoint, all
    /// together.
    pub fn told(&self, endpoint: u32) -> Result<Told, DatapathError> {
        self.inner().tables.told(told_row(endpoint))
    }

    /// Likewise, of what an endpoint's rules have decided that was to be told.
    pub fn logged(&self, endpoint: u32) -> Result<Told, DatapathError> {
        self.inner().tables.logged(endpoint)
    }
}
