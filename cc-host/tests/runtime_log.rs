//! What a log that takes nothing does to its container: the two modes beside each other. A FIFO that nobody reads is the slowest disk.
#![cfg(feature = "daemon")]

mod runtime_world;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use cc_host::shim::record::{EXIT_FILE, ExitRecord, LOG_FILE, LogRecord, read};
use cc_host::shim::spec::{LogMode, LogSpec, Spec};
use runtime_world::World;

const LINES: u64 = 100_000;
const BOUND: Duration = Duration::from_secs(30);

/// Open for both, so that nobody waits for the other side to come.
fn fifo(world: &World) -> (PathBuf, File) {
    let path = world.dir.path().join("slow.log");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO is made");
    let file = File::options().read(true).write(true).open(&path).expect("it opens");
    (path, file)
}

fn writes_there(path: PathBuf, mode: LogMode) -> impl FnOnce(&mut Spec) {
    // Never rotated: it has no length.
    move |spec| {
        spec.log = Some(LogSpec { path, bytes_max: 1 << 40, files_max: 1, mode });
        spec.stdin = true;
    }
}

/// Counts the records that come out of the FIFO until the last one does.
struct Drain {
    count: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Drain {
    fn of(fifo: File) -> Drain {
        let count = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&count);
        let thread = std::thread::spawn(move || {
            let lines = BufReader::new(fifo).lines().map(Result::unwrap);
            for line in lines.take_while(|line| !line.ends_with(" last")) {
                assert!(line.ends_with(" stdout F 0123456789"), "{line}");
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Drain { count, thread }
    }

    /// Until nothing comes any more.
    async fn rests(&self) {
        let mut before = 0;
        eventually("what waited is written", || {
            std::thread::sleep(Duration::from_millis(200));
            let now = self.count.load(Ordering::Relaxed);
            (std::mem::replace(&mut before, now) == now && now > 0).then_some(())
        })
        .await;
    }

    fn end(self) -> u64 {
        self.thread.join().expect("it ends");
        self.count.load(Ordering::Relaxed)
    }
}

async fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let look = async {
        loop {
            if let Some(value) = condition() {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(BOUND, look).await.unwrap_or_else(|_| panic!("{what}: not within {BOUND:?}"))
}

fn script() -> String {
    format!("yes 0123456789 | head -n {LINES}; echo through > /tmp/through; read x; echo last; exit 3")
}

#[tokio::test]
async fn with_block_the_container_waits_and_nothing_is_lost() {
    let world = World::new();
    let (path, fifo) = fifo(&world);
    let (shim, made) = world.spawn(&["sh", "-c", &script()], writes_there(path, LogMode::Block)).await;
    shim.start().await.unwrap();
    // The FIFO is full, and the shim stands there. How much that is depends on the pieces that it was filled with.
    let (mut before, mut same) = (0, 0);
    eventually("the log takes nothing more", || {
        let waiting = rustix::io::ioctl_fionread(&fifo).unwrap();
        same = if waiting == before && waiting >= 16 << 10 { same + 1 } else { 0 };
        before = waiting;
        (same >= 25).then_some(())
    })
    .await;
    assert!(!made.spec.rootfs.upper.join("tmp/through").exists() && !made.dir.join(EXIT_FILE).exists());
    let drain = Drain::of(fifo);
    drain.rests().await;
    let (mut stdin, _output) = shim.attach(true).await.unwrap();
    stdin.send(b"\n").await.unwrap();
    let record = shim.wait().await;
    assert_eq!((record.code, record.log_dropped, drain.end()), (3, 0, LINES));
    assert_eq!(read::<LogRecord>(&made.dir, LOG_FILE).unwrap(), None);
    made.cgroup.remove().unwrap();
    world.end();
}

#[tokio::test]
async fn with_drop_it_goes_on_and_what_is_lost_is_counted() {
    let world = World::new();
    let (path, fifo) = fifo(&world);
    let (shim, made) = world.spawn(&["sh", "-c", &script()], writes_there(path, LogMode::Drop)).await;
    let (mut stdin, mut output) = shim.attach(true).await.unwrap();
    shim.start().await.unwrap();
    // Whoever is attached has all of it, and signals arrive, while the log takes nothing.
    let mut bytes = 0;
    while bytes < LINES as usize * 11 {
        bytes += output.recv().await.expect("the container runs").bytes.len();
    }
    let told = eventually("losses are told while it runs", || {
        read::<LogRecord>(&made.dir, LOG_FILE).unwrap_or_default().filter(|log| log.dropped > 0)
    })
    .await;
    let drain = Drain::of(fifo);
    drain.rests().await;
    stdin.send(b"\n").await.unwrap();
    let record = shim.wait().await;
    assert_eq!(record.code, 3);
    assert!(record.log_dropped >= told.dropped, "{record:?} after {told:?}");
    assert_eq!(drain.end() + record.log_dropped, LINES, "each line is in the log or counted");
    assert_eq!(read::<ExitRecord>(&made.dir, EXIT_FILE).unwrap(), Some(record));
    made.cgroup.remove().unwrap();
    world.end();
}
