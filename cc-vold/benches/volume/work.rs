//! What is done to a mounted file system, and how long it took; and what a process has of memory. Refuses to know what is below.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::common::Mounted;

const MIB: usize = 1 << 20;
const BLOCK: usize = 4096;
const SEQUENTIAL_BYTES: usize = 256 * MIB;
const FSYNCS: u64 = 300;
const RANDOM_WRITES: u64 = 8192;
const RANDOM_READS: u64 = 4000;

#[derive(Debug, Serialize)]
pub struct Work {
    pub fsync_ms: Spread,
    pub write_mb_s: f64,
    pub read_mb_s: f64,
    pub random_write_iops: f64,
    pub random_read_iops: f64,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub struct Spread {
    pub p50: f64,
    pub p99: f64,
}

impl Spread {
    pub fn of(mut took: Vec<Duration>) -> Spread {
        took.sort_unstable();
        let at = |part: f64| took[((took.len() - 1) as f64 * part) as usize].as_secs_f64() * 1000.0;
        Spread { p50: at(0.5), p99: at(0.99) }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "median {:.2} ms, p99 {:.2} ms", self.p50, self.p99)
    }
}

/// After each part `done` hears its name, and how many bytes it wrote.
pub fn all(mounted: &Mounted, done: &mut dyn FnMut(&'static str, u64)) -> Work {
    done("before", 0);
    let fsync_ms = fsyncs(&mounted.path("fsyncs"));
    done("4 KiB writes, each with fsync", FSYNCS * BLOCK as u64);
    let write_mb_s = write(&mounted.path("sequential"));
    done("sequential, fsync at the end", SEQUENTIAL_BYTES as u64);
    let read_mb_s = read(mounted);
    let random_write_iops = random_writes(&mounted.path("sequential"));
    done("random 4 KiB, fsync at the end", RANDOM_WRITES * BLOCK as u64);
    let random_read_iops = random_reads(&mounted.path("sequential"));
    Work { fsync_ms, write_mb_s, read_mb_s, random_write_iops, random_read_iops }
}

fn fsyncs(at: &Path) -> Spread {
    let file = File::create(at).expect("it is made");
    let took = (0..FSYNCS).map(|number| {
        let data = noise(number, BLOCK);
        let began = Instant::now();
        file.write_all_at(&data, number * BLOCK as u64).expect("it is written");
        file.sync_all().expect("it is synced");
        began.elapsed()
    });
    Spread::of(took.collect())
}

fn write(at: &Path) -> f64 {
    let file = File::create(at).expect("it is made");
    let parts: Vec<Vec<u8>> = (0..8).map(|number| noise(number, MIB)).collect();
    let began = Instant::now();
    for (number, part) in (0..SEQUENTIAL_BYTES / MIB).zip(parts.iter().cycle()) {
        file.write_all_at(part, (number * MIB) as u64).expect("it is written");
    }
    file.sync_all().expect("it is synced");
    rate(began)
}

/// Past the file system's cache: what is measured is what is below it.
pub fn read(mounted: &Mounted) -> f64 {
    let file = direct(&mounted.path("sequential"), false);
    let mut buffer = Aligned::new(MIB);
    let began = Instant::now();
    for number in 0..SEQUENTIAL_BYTES / MIB {
        file.read_exact_at(buffer.bytes(), (number * MIB) as u64).expect("it is read");
    }
    rate(began)
}

fn random_writes(at: &Path) -> f64 {
    let file = direct(at, true);
    let mut buffer = Aligned::new(BLOCK);
    let began = Instant::now();
    for number in 0..RANDOM_WRITES {
        buffer.bytes().copy_from_slice(&noise(number, BLOCK));
        file.write_all_at(buffer.bytes(), place(number)).expect("it is written");
    }
    file.sync_all().expect("it is synced");
    RANDOM_WRITES as f64 / began.elapsed().as_secs_f64()
}

fn random_reads(at: &Path) -> f64 {
    let file = direct(at, false);
    let mut buffer = Aligned::new(BLOCK);
    let began = Instant::now();
    for number in 0..RANDOM_READS {
        file.read_exact_at(buffer.bytes(), place(number + 7919)).expect("it is read");
    }
    RANDOM_READS as f64 / began.elapsed().as_secs_f64()
}

fn direct(at: &Path, is_written: bool) -> File {
    OpenOptions::new().read(true).write(is_written).custom_flags(libc::O_DIRECT).open(at).expect("it opens")
}

fn rate(began: Instant) -> f64 {
    SEQUENTIAL_BYTES as f64 / 1e6 / began.elapsed().as_secs_f64()
}

/// The same in every run.
fn mixed(number: u64) -> u64 {
    let mixed = (number ^ 0x9E37_79B9_7F4A_7C15).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB)
}

fn place(number: u64) -> u64 {
    mixed(number) % (SEQUENTIAL_BYTES / BLOCK) as u64 * BLOCK as u64
}

/// What does not compress.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    (0..bytes as u64 / 8).flat_map(|at| mixed(seed.wrapping_mul(1 << 20) + at).to_le_bytes()).collect()
}

/// A buffer that begins where direct I/O wants it to.
struct Aligned {
    memory: Vec<u8>,
    from: usize,
    bytes: usize,
}

impl Aligned {
    fn new(bytes: usize) -> Aligned {
        let memory = vec![0; bytes + BLOCK];
        let from = memory.as_ptr().align_offset(BLOCK);
        Aligned { memory, from, bytes }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.from..self.from + self.bytes]
    }
}

#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Memory {
    pub rss_mib: f64,
    pub pss_mib: f64,
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RSS {:.0} MiB, PSS {:.0} MiB", self.rss_mib, self.pss_mib)
    }
}

pub fn memory(pid: u32) -> Memory {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let of = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or_default() / 1024.0
    };
    Memory { rss_mib: of("Rss:"), pss_mib: of("Pss:") }
}

/// Looks now and then what a process has, and keeps the most.
pub struct Sampler {
    is_over: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Memory>,
}

impl Sampler {
    pub fn start(pid: u32) -> Sampler {
        let is_over = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let is_over = is_over.clone();
            move || {
                let mut most = Memory::default();
                while !is_over.load(Ordering::Relaxed) {
                    let now = memory(pid);
                    most = Memory { rss_mib: most.rss_mib.max(now.rss_mib), pss_mib: most.pss_mib.max(now.pss_mib) };
                    std::thread::sleep(Duration::from_millis(50));
                }
                most
            }
        });
        Sampler { is_over, thread }
    }

    pub fn end(self) -> Memory {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().expect("it only reads")
    }
}
