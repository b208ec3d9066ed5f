//! What a volume in an object store costs, beside one in a file of this host: the same ext4, the same loop device, the same programs, in one run.
//! Refuses to judge.

#[path = "../../tests/common/mod.rs"]
mod common;
mod work;

use std::time::{Duration, Instant};

use cc_vold::store::StoreUrl;
use common::{Loop, Mounted, Vold, Weed, run};
use object_store::ObjectStoreExt as _;
use serde::Serialize;
use work::{Memory, Sampler, Work};

const VOLUME_BYTES: &str = "2GiB";

#[derive(Debug, Serialize)]
struct Report {
    kernel: String,
    block_bytes: u32,
    /// What a flush cannot be faster than.
    put_4kib_ms: work::Spread,
    cc_vold: Work,
    cold_read_mb_s: f64,
    open_after_kill_s: f64,
    loop_file: Work,
    amplification: Vec<Amplification>,
    requests_at_rest_per_min: f64,
    memory: Memories,
}

#[derive(Debug, Serialize)]
struct Memories {
    mounted: Memory,
    at_most: Memory,
    at_rest_afterwards: Memory,
}

/// Of what an application wrote, how much went to the store: first what had gone by the last fsync, then what compaction had added.
#[derive(Debug, Serialize)]
struct Amplification {
    what: &'static str,
    application_bytes: u64,
    image_bytes: u64,
    put_bytes: u64,
    puts: u64,
    of_application: f64,
    of_image: f64,
}

fn main() {
    assert!(common::is_root(), "it mounts");
    let args: Vec<String> = std::env::args().skip(1).collect();
    let is_json = args.iter().any(|arg| arg == "--json");
    let block_bytes = args
        .iter()
        .skip_while(|arg| *arg != "--block-bytes")
        .nth(1)
        .map_or(4096, |text| text.parse().expect("a number"));
    let report = measure(block_bytes);
    if is_json {
        println!("{}", serde_json::to_string_pretty(&report).expect("plain fields become JSON"));
    } else {
        print(&report);
    }
}

fn measure(block_bytes: u32) -> Report {
    let kernel = run("uname", &["-r"]).trim().to_owned();
    let weed = Weed::start();
    let put_4kib_ms = puts(&weed);

    let file = tempfile::NamedTempFile::new().expect("a file");
    run("fallocate", &["-l", VOLUME_BYTES, file.path().to_str().expect("UTF-8")]);
    let device = Loop::attach(file.path());
    run("mkfs.ext4", &["-q", device.text()]);
    let mounted = Mounted::mount(device);
    let loop_file = work::all(&mounted, &mut |_, _| {});
    drop(mounted);

    let blocks = block_bytes.to_string();
    let vold = Vold::serve(&weed, "bench", &["--size", VOLUME_BYTES, "--block-bytes", &blocks]);
    let device = Loop::attach(&vold.image());
    run("mkfs.ext4", &["-q", device.text()]);
    let mounted = Mounted::mount(device);
    let at_first = work::memory(vold.pid());
    let sampler = Sampler::start(vold.pid());
    let mut amplification = Vec::new();
    let mut before = vold.stats();
    let cc_vold = work::all(&mounted, &mut |what, application_bytes| {
        let now = vold.stats();
        let put_bytes = now.store.put_bytes - before.store.put_bytes;
        let image_bytes = now.written_bytes - before.written_bytes;
        if application_bytes > 0 {
            amplification.push(Amplification {
                what,
                application_bytes,
                image_bytes,
                put_bytes,
                puts: now.store.puts - before.store.puts,
                of_application: put_bytes as f64 / application_bytes as f64,
                of_image: put_bytes as f64 / image_bytes.max(1) as f64,
            });
        }
        before = now;
    });
    let at_most = sampler.end();
    let (rest, requests) = rest(&vold);
    amplification.push(settled(&vold, amplification.iter().map(|part| part.application_bytes).sum()));
    vold.kill();
    drop(mounted);

    let began = Instant::now();
    let vold = Vold::serve(&weed, "bench", &[]);
    let open_after_kill_s = began.elapsed().as_secs_f64();
    let mounted = Mounted::mount(Loop::attach(&vold.image()));
    let cold_read_mb_s = work::read(&mounted);
    drop(mounted);
    vold.end();
    Report {
        kernel,
        block_bytes,
        put_4kib_ms,
        cc_vold,
        cold_read_mb_s,
        open_after_kill_s,
        loop_file,
        amplification,
        requests_at_rest_per_min: requests,
        memory: Memories { mounted: at_first, at_most, at_rest_afterwards: rest },
    }
}

fn puts(weed: &Weed) -> work::Spread {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let store = weed.store();
    let url = StoreUrl::parse(&weed.url()).expect("an address");
    let took = (0..200).map(|number| {
        let at = url.of_volume("puts").join(number.to_string());
        let began = Instant::now();
        runtime.block_on(store.put(&at, vec![number as u8; 4096].into())).expect("it is put");
        began.elapsed()
    });
    work::Spread::of(took.collect())
}

/// Some seconds of nothing to do, after compaction had its time.
fn rest(vold: &Vold) -> (Memory, f64) {
    std::thread::sleep(Duration::from_secs(20));
    let before = vold.stats().store;
    let began = Instant::now();
    std::thread::sleep(Duration::from_secs(20));
    let now = vold.stats().store;
    let requests =
        now.puts + now.gets + now.lists + now.deletes - before.puts - before.gets - before.lists - before.deletes;
    (work::memory(vold.pid()), requests as f64 * 60.0 / began.elapsed().as_secs_f64())
}

fn settled(vold: &Vold, application_bytes: u64) -> Amplification {
    let stats = vold.stats();
    Amplification {
        what: "everything, mkfs, tables and compaction included",
        application_bytes,
        image_bytes: stats.written_bytes,
        put_bytes: stats.store.put_bytes,
        puts: stats.store.puts,
        of_application: stats.store.put_bytes as f64 / application_bytes as f64,
        of_image: stats.store.put_bytes as f64 / stats.written_bytes as f64,
    }
}

fn print(report: &Report) {
    println!("kernel {}, blocks of {} bytes, SeaweedFS on this host", report.kernel, report.block_bytes);
    println!("a PUT of 4 KiB: {}", report.put_4kib_ms);
    println!("{:<34}{:>26}{:>26}{:>10}", "", "cc-vold", "loop file", "ratio");
    let row = |name: &str, ours: f64, peer: f64, unit: &str| {
        println!(
            "{name:<34}{:>26}{:>26}{:>10.2}",
            format!("{ours:.2} {unit}"),
            format!("{peer:.2} {unit}"),
            ours / peer
        );
    };
    let (ours, peer) = (&report.cc_vold, &report.loop_file);
    row("4 KiB write + fsync, median", ours.fsync_ms.p50, peer.fsync_ms.p50, "ms");
    row("4 KiB write + fsync, p99", ours.fsync_ms.p99, peer.fsync_ms.p99, "ms");
    row("sequential write, fsync at the end", ours.write_mb_s, peer.write_mb_s, "MB/s");
    row("sequential read", ours.read_mb_s, peer.read_mb_s, "MB/s");
    row("random 4 KiB writes, one fsync", ours.random_write_iops, peer.random_write_iops, "/s");
    row("random 4 KiB reads", ours.random_read_iops, peer.random_read_iops, "/s");
    println!("sequential read by a process that has just started: {:.1} MB/s", report.cold_read_mb_s);
    println!("from its start to serving, after kill -9: {:.2} s", report.open_after_kill_s);
    for part in &report.amplification {
        println!(
            "{}: {} bytes by the application, {} to the image, {} to the store in {} PUTs: {:.2} and {:.2} times",
            part.what,
            part.application_bytes,
            part.image_bytes,
            part.put_bytes,
            part.puts,
            part.of_application,
            part.of_image
        );
    }
    println!("at rest: {:.0} requests a minute", report.requests_at_rest_per_min);
    let Memories { mounted, at_most, at_rest_afterwards } = &report.memory;
    println!("memory: {mounted} when mounted, {at_most} at most, {at_rest_afterwards} at rest afterwards");
}
