//! A container's log stays small whatever it writes, says what it has lost, and is read as one whole: across rotation, compressed files
//! and a full disk, which never stops the container.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use cc_tests::{Leave, World, eventually};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

const BOUND: Duration = Duration::from_secs(60);
/// The daemon looks every three seconds, for files that are three seconds old.
const PACKED_WITHIN: Duration = Duration::from_secs(20);
const MIB: u64 = 1 << 20;
/// A block or two for where a file's blocks are.
const FILE_SYSTEM_BYTES: u64 = 16 << 10;

/// A container's log, where this world's daemon keeps it.
struct LogDir(PathBuf);

impl LogDir {
    fn of(world: &World, id: &str) -> LogDir {
        LogDir(world.path("state/containers").join(id).join("log"))
    }

    fn files(&self) -> Vec<(String, std::fs::Metadata)> {
        let entries = std::fs::read_dir(&self.0).unwrap().flatten();
        // A file may be renamed while it is looked at.
        let mut files: Vec<_> =
            entries.filter_map(|e| Some((e.file_name().into_string().unwrap(), e.metadata().ok()?))).collect();
        files.sort_by(|a, b| a.0.cmp(&b.0));
        files
    }

    fn names(&self) -> Vec<String> {
        self.files().into_iter().map(|(name, _)| name).collect()
    }

    /// As `du` counts them, less what the file system keeps for itself of each.
    fn disk_bytes(&self) -> u64 {
        use std::os::unix::fs::MetadataExt as _;
        let files = self.files();
        files.iter().map(|(_, file)| (file.blocks() * 512).saturating_sub(FILE_SYSTEM_BYTES).max(file.len())).sum()
    }

    fn all_old_are_packed(&self) -> bool {
        let names = self.names();
        let old = names.iter().filter(|name| !["0.log", "0.log.1"].contains(&name.as_str()));
        names.len() > 2 && old.clone().count() > 0 && old.into_iter().all(|name| name.ends_with(".gz"))
    }
}

/// `seq` and then sleep: what it writes is known by its first and last number.
fn count_to(last: u32, then: &str) -> String {
    format!("seq 1 {last}; {then}")
}

fn follow(world: &World, id: &str) -> Child {
    world.command(&["logs", "-f", id]).stdout(Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_gibibyte_of_output_stays_within_thirty_mebibytes() {
    // The same proportion in less time, but where time is there.
    let soak = std::env::var_os("CC_SOAK").is_some();
    let (output, options, limit): (u64, &[&str], u64) = match soak {
        true => (1024 * MIB, &[], 30 * MIB),
        false => (128 * MIB, &["--log-max-size", "1MiB"], 3 * MIB),
    };
    let world = World::new();
    let line = "a line of output as programs write them, neither very long nor very short: 0123456789";
    let script = format!("yes '{line}' | head -c {output}; echo; echo last >&2; exit 3");
    let began = Instant::now();
    let id = world.run("busybox", options, &["sh", "-c", &script]);
    let log = LogDir::of(&world, &id);
    let mut most = 0;
    let waiting = world.command(&["wait", &id]).stdout(Stdio::piped()).spawn().unwrap();
    eventually("it has written all", BOUND, || {
        most = most.max(log.disk_bytes());
        (world.inspect(&id)["state"] == "stopped").then_some(())
    });
    let took = began.elapsed();
    assert_eq!(waiting.wait_with_output().unwrap().stdout, b"3\n");
    let left = log.disk_bytes();
    println!(
        "soak: {} MiB of output in {:.1} s ({:.0} MB/s): at most {:.1} MiB of log, {:.1} MiB at the end",
        output / MIB,
        took.as_secs_f64(),
        output as f64 / 1e6 / took.as_secs_f64(),
        most as f64 / MIB as f64,
        left as f64 / MIB as f64
    );
    assert!(most <= limit && left <= limit && left > limit / 2, "{most} and {left} bytes, of {limit}");
    // The two streams are two pipes: what was written last to one may be read before the rest of the other, a pipe's worth of lines.
    let tail = world.cc(&["logs", "--tail", "3000", &id]).ok();
    assert!(tail.stdout.lines().all(|text| line.starts_with(text)), "{tail:?}");
    assert_eq!((tail.stdout.lines().count(), tail.stderr.as_str()), (2999, "last\n"));
    // What is left is read as a whole, and becomes smaller by and by.
    eventually("its old file is compressed", PACKED_WITHIN, || log.all_old_are_packed().then_some(()));
    assert!(log.disk_bytes() < left * 3 / 4, "{} of {left} bytes", log.disk_bytes());
    let lines = world.cc(&["logs", &id]).ok().stdout.lines().filter(|&text| text == line).count() as u64;
    assert!(lines * (line.len() as u64 + 41) > left * 9 / 10, "{lines} lines of {left} bytes");
    world.cc(&["rm", &id]).ok();
    world.assert_clean();
}

#[test]
fn who_follows_across_rotation_misses_nothing_and_doubles_nothing() {
    const LAST: u32 = 60_000;
    let world = World::new();
    // Some forty files; ten of them are there at a time.
    let script = format!("i=0; while [ $i -lt {LAST} ]; do seq $((i+1)) $((i+500)); i=$((i+500)); sleep 0.05; done");
    let options = ["--log-max-size", "64KiB", "--log-max-files", "10"];
    let id = world.run("busybox", &options, &["sh", "-c", &script]);
    let mut child = follow(&world, &id);
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(|line| line.unwrap().parse::<u32>().unwrap());
    let seen: Vec<u32> = lines.collect();
    assert!(child.wait().unwrap().success());
    let wrong = seen.iter().zip(1..).find(|(seen, expected)| *seen != expected);
    assert_eq!((seen.len(), wrong), (LAST as usize, None));
    assert_eq!(LogDir::of(&world, &id).names().iter().filter(|name| name.starts_with("0.log")).count(), 10);
}

#[test]
fn compressed_files_come_back_as_they_were() {
    let world = World::new();
    let options = ["--log-max-size", "64KiB", "--log-max-files", "6"];
    let id = world.run("busybox", &options, &["sh", "-c", &count_to(5_000, "sleep 1000")]);
    let log = LogDir::of(&world, &id);
    eventually("all is written", BOUND, || {
        world.cc(&["logs", "--tail", "1", &id]).ok().stdout.starts_with("5000").then_some(())
    });
    let before = world.cc(&["logs", "--timestamps", &id]).ok().stdout;
    assert_eq!(before.lines().count(), 5_000);
    eventually("old files are compressed", PACKED_WITHIN, || log.all_old_are_packed().then_some(()));
    assert_eq!(log.names(), ["0.log", "0.log.1", "0.log.2.gz", "0.log.3.gz"]);
    assert_eq!(world.cc(&["logs", "--timestamps", &id]).ok().stdout, before);
    for tail in [1, 1_500, 4_000, 5_000] {
        let tail_lines: Vec<&str> = before.lines().skip(5_000 - tail).collect();
        let said = world.cc(&["logs", "--timestamps", "--tail", &tail.to_string(), &id]).ok().stdout;
        assert_eq!(said.lines().collect::<Vec<_>>(), tail_lines, "the last {tail}");
    }
    // A line in the middle of a compressed file: from its time on.
    let time = before.lines().nth(1_000).unwrap().split(' ').next().unwrap();
    let since = world.cc(&["logs", "--since", time, &id]).ok().stdout;
    let first: u32 = since.lines().next().unwrap().parse().unwrap();
    assert!(first <= 1_001 && since.lines().count() == 5_001 - first as usize, "{first}");
    let mut child = follow(&world, &id);
    let followed = BufReader::new(child.stdout.take().unwrap()).lines().take(5_000).map(Result::unwrap);
    assert!(followed.zip(1..).all(|(line, number)| line == number.to_string()));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_daemon_that_dies_while_it_compresses_leaves_nothing_and_loses_nothing() {
    const LAST: u32 = 250_000;
    let mut world = World::new();
    let options = ["--log-max-size", "2MiB", "--log-max-files", "10"];
    let id = world.run("busybox", &options, &["sh", "-c", &count_to(LAST, "exit 0")]);
    world.cc(&["wait", &id]).ok();
    let log = LogDir::of(&world, &id);
    let mut kills = 0;
    while kills < 3 {
        if !seen_packing(&log) {
            break;
        }
        world.leave(Leave::Killed);
        kills += 1;
        world.start();
    }
    println!("the daemon was killed {kills} times while it compressed");
    assert!(kills > 0, "a file of 2 MiB is compressed too fast to be seen");
    // As if it had died between giving the name and removing the file.
    world.leave(Leave::Killed);
    if !log.0.join("0.log.2.gz").exists() {
        std::fs::copy(log.0.join("0.log.1"), log.0.join("0.log.2.gz")).unwrap();
    }
    std::fs::write(log.0.join("0.log.packing"), "half of one").unwrap();
    world.start();
    eventually("all is compressed, and nothing else is there", PACKED_WITHIN * 2, || {
        let names = log.names();
        (log.all_old_are_packed() && !names.iter().any(|name| name.ends_with("packing"))).then_some(())
    });
    let said = world.cc(&["logs", &id]).ok().stdout;
    let wrong = said.lines().zip(1..=LAST).find(|(line, number)| *line != number.to_string());
    assert_eq!((said.lines().count(), wrong), (LAST as usize, None));
}

/// Looked for without a pause: it takes some ten milliseconds. False when all is done.
fn seen_packing(log: &LogDir) -> bool {
    let (began, fresh) = (Instant::now(), log.0.join("0.log.packing"));
    while began.elapsed() < PACKED_WITHIN {
        if (0..1_000).any(|_| fresh.exists()) {
            return true;
        }
        if log.all_old_are_packed() {
            return false;
        }
    }
    panic!("nothing is compressed within {PACKED_WITHIN:?}");
}

/// Something mounted over a log's directory, as long as this lives.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn over(dir: &Path, size: &str) -> Tmpfs {
        let options = format!("size={size},mode=700");
        mount(Some("cct"), dir, Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).expect("a tmpfs is mounted");
        Tmpfs(dir.to_owned())
    }

    fn grow(&self, size: &str) {
        let none: Option<&str> = None;
        let options = format!("size={size}");
        mount(none, &self.0, none, MsFlags::MS_REMOUNT, Some(options.as_str())).expect("a tmpfs grows");
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_full_disk_drops_and_counts_and_stops_nobody() {
    for mode in ["block", "drop"] {
        let world = World::new();
        let script = "n=0; trap 'n=$((n+1))' USR1; wait_for() { while [ $n -lt $1 ]; do sleep 0.02; done; }; echo ready; \
                      wait_for 1; seq 1 20000; echo through > /tmp/through; wait_for 2; echo after; exit 7";
        let options = ["--name", "web", "--log-max-size", "64KiB", "--log-mode", mode];
        let id = world.run("busybox", &options, &["sh", "-c", script]);
        let says = |word: &str| {
            let said = || world.cc(&["logs", &id]).ok().stdout.lines().any(|line| line == word).then_some(());
            eventually(&format!("it says {word}"), BOUND, said);
        };
        let dropped = || world.cc(&["metrics", &id, "--json"]).json()[0]["log_dropped_records"].as_u64().unwrap();
        says("ready");
        assert_eq!(dropped(), 0);
        // Its next file is in there, and has no room for what it may hold.
        let disk = Tmpfs::over(&LogDir::of(&world, &id).0, "32k");
        world.cc(&["kill", "--signal", "USR1", &id]).ok();
        let through = world.path("state/containers").join(&id).join("upper/tmp/through");
        eventually("the container goes on", BOUND, || through.exists().then_some(()));
        let lost = eventually("the losses are told while it runs", BOUND, || Some(dropped()).filter(|&n| n > 15_000));
        let (_, scrape) = world.curl(&["http://127.0.0.1:9477/metrics"]);
        assert!(
            scrape.contains("cc_container_log_dropped_records_total{project=\"default\",container=\"web\""),
            "{scrape}"
        );
        assert!(world.cc(&["metrics", &id]).ok().stdout.contains("records of its output were dropped"));
        disk.grow("1m");
        world.cc(&["kill", "--signal", "USR1", &id]).ok();
        assert_eq!(world.cc(&["wait", &id]).line(), "7", "{mode}");
        says("after");
        drop(disk);
        let (_, text) = eventually("an event tells of the losses", BOUND, || {
            world.events_of(&id).into_iter().find(|(kind, _)| kind == "container.log_dropped")
        });
        let total: u64 = text.split(' ').find_map(|word| word.parse().ok()).expect("it says how many");
        assert!(total >= lost && total < 20_000, "{mode}: {lost}, then {text}");
        println!("{mode}: {total} of 20,000 lines had no room on a full disk");
        world.cc(&["rm", &id]).ok();
        world.assert_clean();
    }
}

#[test]
fn what_no_log_can_be_is_refused() {
    let world = World::new();
    let image = world.image("busybox");
    let run = |flags: [&str; 2]| world.cc(&[&["run", "--rm", "--image", &image], &flags[..], &["true"]].concat());
    run(["--log-max-size", "1KiB"]).fails(125, "64 KiB to 10 GiB");
    run(["--log-max-files", "11"]).fails(125, "1..=10");
    run(["--log-mode", "wait"]).fails(125, "block, drop");
    let id = world.run("busybox", &["--log-max-size", "1MiB", "--log-max-files", "1", "--log-mode", "drop"], &["true"]);
    let spec = world.inspect(&id)["spec"].clone();
    assert_eq!([&spec["log_max_bytes"], &spec["log_max_files"]].map(|n| n.as_u64()), [Some(1 << 20), Some(1)]);
    assert_eq!(spec["log_mode"], "drop");
}
