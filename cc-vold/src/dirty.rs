//! Blocks that were written and are not in SlateDB yet, in two generations: what is written now, and what is on its way. Pure. Refuses to
//! wait, and to know where they go.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

/// A block's content; `None` are zeros, which are not kept.
pub type Content = Option<Bytes>;
pub type Batch = BTreeMap<u64, Content>;

/// What a batch counts for a block without content: its key, twice, as a tombstone.
const ZEROS_BYTES: usize = 32;

/// What is known of a block here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// Ask further down.
    Unknown,
    Zeros,
    Data(Bytes),
}

#[derive(Debug, Default)]
pub struct Dirty {
    now: Batch,
    now_bytes: usize,
    leaving: Option<Arc<Batch>>,
    departures: u64,
}

impl Dirty {
    pub fn look(&self, block: u64) -> Look {
        let found = self.now.get(&block).or_else(|| self.leaving.as_ref().and_then(|batch| batch.get(&block)));
        match found {
            None => Look::Unknown,
            Some(None) => Look::Zeros,
            Some(Some(data)) => Look::Data(data.clone()),
        }
    }

    pub fn put(&mut self, block: u64, content: Content) {
        self.now_bytes += weight(&content);
        if let Some(before) = self.now.insert(block, content) {
            self.now_bytes -= weight(&before);
        }
    }

    /// Whether something was written to it since the last departure.
    pub fn is_written_now(&self, block: u64) -> bool {
        self.now.contains_key(&block)
    }

    /// Those of both generations.
    pub fn known(&self, range: Range<u64>) -> Vec<u64> {
        let mut known: Vec<u64> = self.now.range(range.clone()).map(|(block, _)| *block).collect();
        if let Some(leaving) = &self.leaving {
            known.extend(leaving.range(range).map(|(block, _)| *block));
        }
        known
    }

    /// What is written now, on its way: all of it, as it is at this moment. One batch travels at a time.
    pub fn depart(&mut self) -> Option<Arc<Batch>> {
        debug_assert!(self.leaving.is_none(), "one batch travels at a time");
        if self.now.is_empty() {
            return None;
        }
        self.now_bytes = 0;
        let batch = Arc::new(std::mem::take(&mut self.now));
        self.leaving = Some(batch.clone());
        Some(batch)
    }

    /// Who looks further down finds it there.
    pub fn arrived(&mut self) {
        self.leaving = None;
        self.departures += 1;
    }

    /// Changes whenever what is further down does. Who looked there before may have old content.
    pub fn departures(&self) -> u64 {
        self.departures
    }

    /// Of what is written now.
    pub fn bytes(&self) -> usize {
        self.now_bytes
    }

    pub fn is_empty(&self) -> bool {
        self.now.is_empty() && self.leaving.is_none()
    }
}

/// Zeros are not kept.
pub fn content(data: Bytes) -> Content {
    data.iter().any(|byte| *byte != 0).then_some(data)
}

fn weight(content: &Content) -> usize {
    ZEROS_BYTES + content.as_ref().map_or(0, Bytes::len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(byte: u8) -> Content {
        content(Bytes::from(vec![byte; 8]))
    }

    #[test]
    fn the_latest_is_seen_through_both_generations() {
        let mut dirty = Dirty::default();
        assert_eq!(dirty.look(1), Look::Unknown);
        dirty.put(1, block(1));
        dirty.put(2, block(2));
        let batch = dirty.depart().expect("two blocks");
        assert_eq!(batch.len(), 2);
        assert_eq!(dirty.look(1), Look::Data(Bytes::from_static(&[1; 8])));
        dirty.put(1, block(0));
        assert_eq!(dirty.look(1), Look::Zeros);
        assert_eq!(dirty.look(2), Look::Data(Bytes::from_static(&[2; 8])));
        dirty.arrived();
        assert_eq!(dirty.look(1), Look::Zeros);
        assert_eq!(dirty.look(2), Look::Unknown);
        assert_eq!(dirty.departures(), 1);
    }

    #[test]
    fn bytes_are_of_what_is_written_now() {
        let mut dirty = Dirty::default();
        dirty.put(1, block(1));
        dirty.put(1, block(2));
        assert_eq!(dirty.bytes(), ZEROS_BYTES + 8);
        dirty.put(1, block(0));
        assert_eq!(dirty.bytes(), ZEROS_BYTES);
        dirty.depart();
        assert_eq!(dirty.bytes(), 0);
        assert!(!dirty.is_empty());
        dirty.arrived();
        assert!(dirty.is_empty());
        assert!(dirty.depart().is_none());
    }

    #[test]
    fn both_generations_are_known() {
        let mut dirty = Dirty::default();
        dirty.put(3, block(1));
        dirty.depart();
        dirty.put(5, block(1));
        assert_eq!(dirty.known(0..10), [5, 3]);
        assert!(dirty.known(4..5).is_empty());
    }
}
