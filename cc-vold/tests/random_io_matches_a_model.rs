//! A volume is a disk: whatever is written, discarded, flushed and read, in whichever order, it says what an array of bytes would say. After a crash
//! it is what that array was at one moment since the last flush.

use std::sync::Arc;
use std::time::Duration;

use cc_vold::identity::Shape;
use cc_vold::serve::open;
use cc_vold::volume::{Limits, Volume};
use futures::TryStreamExt as _;
use object_store::ObjectStore;
use object_store::ObjectStoreExt as _;
use object_store::memory::InMemory;
use object_store::path::Path;
use proptest::prelude::*;

const SIZE_BYTES: usize = 1 << 20;
/// Some writes fill it, so that batches leave without a flush.
const LIMITS: Limits = Limits { patience: Duration::from_secs(20), batch_bytes: 96 << 10 };

#[derive(Debug, Clone)]
enum Step {
    Write {
        offset: usize,
        bytes: usize,
        by: u8,
    },
    Discard {
        offset: usize,
        bytes: usize,
    },
    Read {
        offset: usize,
        bytes: usize,
    },
    Flush,
    /// In order, or by another that takes it over.
    Reopen {
        in_order: bool,
    },
}

/// Whole blocks as well as odd places, near each other so that they meet.
fn extent() -> impl Strategy<Value = (usize, usize)> {
    let whole = (0..60_usize, 1..24_usize).prop_map(|(at, blocks)| (at * 4096, blocks * 4096));
    let odd = (0..250_000_usize, 1..70_000_usize);
    let anywhere = (0..SIZE_BYTES - 1, 1..SIZE_BYTES);
    prop_oneof![4 => whole, 4 => odd, 1 => anywhere]
        .prop_map(|(offset, bytes)| (offset, bytes.min(SIZE_BYTES - offset)))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (extent(), 0..4_u8).prop_map(|((offset, bytes), by)| Step::Write { offset, bytes, by }),
        2 => extent().prop_map(|(offset, bytes)| Step::Discard { offset, bytes }),
        6 => extent().prop_map(|(offset, bytes)| Step::Read { offset, bytes }),
        2 => Just(Step::Flush),
        1 => any::<bool>().prop_map(|in_order| Step::Reopen { in_order }),
    ]
}

/// What it may be after a crash: the moments since the last flush, the latest last.
struct Model(Vec<Vec<u8>>);

impl Model {
    fn now(&self) -> &[u8] {
        self.0.last().expect("there is always one")
    }

    fn change(&mut self, offset: usize, bytes: usize, by: u8) {
        let mut next = self.now().to_vec();
        next[offset..offset + bytes].fill(by);
        self.0.push(next);
    }

    fn settle(&mut self) {
        self.0.drain(..self.0.len() - 1);
    }
}

async fn opened(store: &Arc<dyn ObjectStore>, block_bytes: u32) -> Arc<Volume> {
    let shape = Shape { size_bytes: SIZE_BYTES as u64, block_bytes };
    open(store.clone(), &Path::from("v"), "v", Some(shape), 1 << 20, LIMITS).await.expect("it opens")
}

async fn check(steps: &[Step], block_bytes: u32) {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let mut volume = opened(&store, block_bytes).await;
    let mut model = Model(vec![vec![0; SIZE_BYTES]]);
    for step in steps {
        match *step {
            Step::Write { offset, bytes, by } => {
                let data = vec![by; bytes];
                if let Some(done) = volume.write_now(offset as u64, &data) {
                    done.expect("it is written");
                } else {
                    volume.write(offset as u64, &data).await.expect("it is written");
                }
                model.change(offset, bytes, by);
            }
            Step::Discard { offset, bytes } => {
                volume.discard(offset as u64, bytes as u64).await.expect("it is discarded");
                model.change(offset, bytes, 0);
            }
            Step::Read { offset, bytes } => {
                let found = volume.read(offset as u64, bytes).await.expect("it is read");
                assert!(found == model.now()[offset..offset + bytes], "{offset}+{bytes} is another");
            }
            Step::Flush => {
                volume.flush().await.expect("it is flushed");
                model.settle();
            }
            Step::Reopen { in_order: true } => {
                volume.close().await.expect("it closes");
                model.settle();
                volume = opened(&store, block_bytes).await;
            }
            Step::Reopen { in_order: false } => {
                let before = std::mem::replace(&mut volume, opened(&store, block_bytes).await);
                let found = volume.read(0, SIZE_BYTES).await.expect("it is read");
                // A write of several batches may be there in part, so that only the flushed state and those after it are compared by block.
                assert!(is_a_moment(&model, &found, block_bytes as usize), "it is no moment since the last flush");
                model = Model(vec![found]);
                before.write(0, &[9; 4096]).await.ok();
                before.flush().await.expect_err("who was taken over promises nothing");
            }
        }
    }
    let found = volume.read(0, SIZE_BYTES).await.expect("it is read");
    assert!(found == model.now(), "the end is another");
    volume.close().await.expect("it closes");
}

/// Up to a step all is there, of the next step some blocks, and of those after it nothing.
fn is_a_moment(model: &Model, found: &[u8], block_bytes: usize) -> bool {
    let blocks = |state: &[u8]| state.chunks(block_bytes).map(<[u8]>::to_vec).collect::<Vec<_>>();
    let found = blocks(found);
    let moments: Vec<_> = model.0.iter().map(|state| blocks(state)).collect();
    let after = moments.iter().skip(1).chain(moments.last());
    moments.iter().zip(after).any(|(before, after)| {
        found.iter().zip(before.iter().zip(after)).all(|(found, (before, after))| found == before || found == after)
    })
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_volume_says_what_an_array_says(
        steps in proptest::collection::vec(step(), 1..60),
        block_bytes in proptest::sample::select(vec![4096_u32, 16384, 65536]),
    ) {
        runtime().block_on(check(&steps, block_bytes));
    }
}

/// Several write parts of the same blocks while batches leave: each part is there.
#[test]
fn parts_of_a_block_that_are_written_at_once_are_all_there() {
    const PART: usize = 512;
    runtime().block_on(async {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let volume = opened(&store, 4096).await;
        for round in 1..=20_u8 {
            let writers = (0..8_usize).map(|part| {
                let volume = volume.clone();
                tokio::spawn(async move {
                    for block in 0..32 {
                        let at = (block * 4096 + part * PART) as u64;
                        volume.write(at, &[round * 8 + part as u8; PART]).await.expect("it is written");
                        if block % 8 == part {
                            volume.flush().await.expect("it is flushed");
                        }
                    }
                })
            });
            for writer in writers.collect::<Vec<_>>() {
                writer.await.expect("it ends well");
            }
            let found = volume.read(0, 32 * 4096).await.expect("it is read");
            for (at, part) in found.chunks_exact(PART).enumerate() {
                assert!(part.iter().all(|byte| *byte == round * 8 + (at % 8) as u8), "part {at} in round {round}");
            }
        }
        volume.close().await.expect("it closes");
    });
}

/// A store that takes nothing any more: no flush is promised, and none after it.
#[test]
fn a_flush_that_failed_is_never_followed_by_one_that_works() {
    runtime().block_on(async {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let volume = opened(&store, 4096).await;
        volume.write(0, &[1; 4096]).await.expect("it is written");
        volume.flush().await.expect("it is flushed");
        let second = opened(&store, 4096).await;
        volume.write(0, &[2; 4096]).await.ok();
        volume.flush().await.expect_err("it was taken over");
        volume.flush().await.expect_err("it stays so");
        volume.read(0, 4096).await.expect_err("what it would read may be old");
        volume.write(0, &[3; 4096]).await.expect_err("it stays so");
        volume.discard(0, 4096).await.expect_err("it stays so");
        assert_eq!(second.read(0, 4096).await.expect("it is read"), [1; 4096]);
        second.close().await.expect("it closes");
    });
}

/// One that was stopped for so long that its place in the log would be free again, had the fence been collected with the rest.
#[test]
fn a_fence_outlives_the_log_that_it_fenced() {
    runtime().block_on(async {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let first = opened(&store, 4096).await;
        first.write(0, &[1; 4096]).await.expect("it is written");
        let second = opened(&store, 4096).await;
        second.write(0, &[2; 4096]).await.expect("it is written");
        // What it wrote is in a table then, and the log before is needed no more.
        second.close().await.expect("it closes");
        let log: Vec<_> = store.list(Some(&Path::from("v/blocks/wal"))).try_collect().await.expect("a list");
        let (fences, collected): (Vec<_>, Vec<_>) = log.into_iter().partition(|object| object.size == 0);
        assert!(!fences.is_empty() && !collected.is_empty(), "{fences:?} {collected:?}");
        for object in collected {
            store.delete(&object.location).await.expect("it is removed");
        }
        first.flush().await.expect_err("its place is taken");
        let third = opened(&store, 4096).await;
        assert_eq!(third.read(0, 4096).await.expect("it is read"), [2; 4096]);
        third.close().await.expect("it closes");
    });
}
