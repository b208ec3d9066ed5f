//! The power of a host is cut: whatever its disk was not made to flush may be lost, and half of it is. What a container has fsynced to a volume
//! is there afterwards, and what a command has said is so. The control does not fsync, and loses: else this test could not fail.

use std::time::Duration;

use cc_tests::power::{Disk, Lost};
use cc_tests::{Leave, World, eventually};

const BOUND: Duration = Duration::from_secs(30);
const ROUNDS: usize = 5;

/// A world whose state is on such a disk.
struct Host {
    world: World,
    disk: Option<Disk>,
}

impl Host {
    fn new() -> Host {
        let mut world = World::new();
        world.leave(Leave::Stopped);
        Disk::make(&world.path("plug"), 512 << 20).unwrap();
        let disk = Some(Disk::mount(&world.path("plug"), &world.path("state")).unwrap());
        world.start();
        Host { world, disk }
    }

    /// In the middle of whatever goes on, and on again.
    fn cut(&mut self) -> Lost {
        let seed = rand::random();
        let disk = self.disk.take().unwrap();
        let lost = disk.cut(seed);
        println!("{lost:?}, seed {seed}");
        self.world.power_off();
        drop(disk);
        self.disk = Some(Disk::mount(&self.world.path("plug"), &self.world.path("state")).unwrap());
        self.world.start();
        lost
    }

    /// A container writes files, one after the other, each with a checksum that it tells when `sync` says that it is there, and past all caches
    /// what nobody asks for. The power is cut when some are told. Returns what was told before.
    fn write_until_cut(&mut self, round: usize, sync: &str) -> (Vec<String>, Lost) {
        let write = format!(
            "cd /d; {{ while :; do dd if=/dev/zero of=noise bs=64k count=16 oflag=direct conv=notrunc 2>/dev/null; done; }} & \
             i=0; while :; do f={round}-$i; \
             dd if=/dev/urandom of=$f bs=3000 count=$((i % 5 + 1)) {sync} 2>/dev/null && md5sum $f; i=$((i+1)); done"
        );
        let writer = self.world.run("busybox", &["-v", "data:/d"], &["sh", "-c", &write]);
        let enough = 3 + rand::random::<u8>() as usize % 30;
        let told = eventually("some are told", BOUND, || {
            let told = self.world.cc(&["logs", &writer]).ok().stdout;
            // Of the last line, there may be a part.
            let whole = told.rsplit_once('\n')?.0;
            (whole.lines().count() >= enough).then(|| whole.lines().map(str::to_owned).collect::<Vec<_>>())
        });
        let lost = self.cut();
        let found = self.world.inspect(&writer);
        assert_ne!(found["state"], "running", "it was told to the client that it is there: {found}");
        self.world.remove_all();
        (told, lost)
    }

    /// Those of them that are not as they were told.
    fn missing(&self, told: &[String]) -> usize {
        let look = "cd /d; for f in *-*; do [ -e $f ] && md5sum $f; done; echo all";
        let found = self.world.run_rm("busybox", &["-v", "data:/d"], &["sh", "-c", look]).ok().stdout;
        assert!(found.ends_with("all\n"), "{found}");
        told.iter().filter(|line| !found.lines().any(|there| there == *line)).count()
    }

    fn volume(&self) -> serde_json::Value {
        self.world.cc(&["volume", "inspect", "data"]).json()[0].clone()
    }

    fn end(mut self) {
        self.world.remove_all();
        let names = self.world.cc(&["volume", "list", "-q"]).ok().stdout;
        for name in names.lines() {
            assert_eq!(self.world.cc(&["volume", "check", name, "--json"]).json()["clean"], true);
            self.world.cc(&["volume", "delete", name]).ok();
        }
        self.world.leave(Leave::Stopped);
        drop(self.disk.take());
        self.world.assert_clean();
    }
}

impl Drop for Host {
    /// After a failure: its disk is in the world's directory.
    fn drop(&mut self) {
        if let Some(disk) = self.disk.take() {
            self.world.power_off();
            drop(disk);
        }
    }
}

#[test]
fn what_a_container_has_fsynced_is_there() {
    let mut host = Host::new();
    host.world.cc(&["volume", "create", "--size", "32MiB", "--name", "data"]).ok();
    let (mut told, mut lost) = (Vec::new(), 0);
    for round in 0..ROUNDS {
        let (more, cut) = host.write_until_cut(round, "conv=fsync");
        told.extend(more);
        lost += cut.lost;
        assert_eq!(host.missing(&told), 0, "in round {round} of what was told: {told:?}");
        assert_eq!(host.volume()["state"], "ready");
    }
    assert!(lost > 0, "the cuts took nothing that the test could have missed");
    host.end();
}

#[test]
fn what_nobody_has_synced_may_be_lost() {
    let mut host = Host::new();
    host.world.cc(&["volume", "create", "--size", "32MiB", "--name", "data"]).ok();
    let missing = (0..ROUNDS).find_map(|round| {
        let (told, _) = host.write_until_cut(round, "");
        Some(host.missing(&told)).filter(|missing| *missing > 0)
    });
    assert!(missing.is_some(), "without a sync, {ROUNDS} cuts lost nothing: this disk does not forget");
    assert_eq!(host.volume()["state"], "ready", "its file system is whole all the same");
    host.end();
}

/// What a container writes to its own disk nobody makes last but its end; but whatever the moment, the file system is whole, and the container starts again.
#[test]
fn a_containers_disk_is_whole_and_has_what_it_was_stopped_with() {
    let mut host = Host::new();
    let write = "[ -e /kept ] || echo kept > /kept; i=0; \
                 while :; do dd if=/dev/urandom of=/$((i % 99)) bs=3000 count=$((i % 5 + 1)) 2>/dev/null; i=$((i+1)); echo $i > /count; done";
    let id = host.world.run("busybox", &["--disk", "32MiB"], &["sh", "-c", write]);
    let writes = |world: &World| {
        eventually("it writes", BOUND, || {
            let count = world.cc(&["exec", &id, "cat", "/count"]).stdout;
            count.trim().parse().ok().filter(|count: &u32| *count > 20)
        })
    };
    writes(&host.world);
    host.world.cc(&["stop", "-t", "0", &id]).ok();
    let mut lost = 0;
    for round in 0..ROUNDS {
        host.world.cc(&["start", &id]).ok();
        writes(&host.world);
        lost += host.cut().lost;
        assert_ne!(host.world.inspect(&id)["state"], "running", "round {round}");
        host.world.cc(&["start", &id]).ok();
        let read = host.world.cc(&["exec", &id, "sh", "-c", "cat /[0-9]* | wc -c && cat /kept"]).ok().stdout;
        assert!(read.ends_with("\nkept\n"), "round {round}: {read}");
        host.world.cc(&["stop", "-t", "0", &id]).ok();
    }
    assert!(lost > 0, "the cuts took nothing that the test could have missed");
    host.end();
}

#[test]
fn what_a_command_has_said_is_so() {
    let mut host = Host::new();
    host.world.image("busybox");
    let id = host.world.cc(&["volume", "create", "--size", "16MiB", "--name", "data"]).line();
    host.cut();
    assert_eq!((&host.volume()["id"], &host.volume()["state"]), (&id.into(), &"ready".into()));
    host.world.run_rm("busybox", &["-v", "data:/d"], &["sh", "-c", "echo kept > /d/file; sync"]).ok();
    let read = |host: &Host, name: &str| {
        let mount = format!("{name}:/d");
        let look = "cat /d/file; df -m /d | tail -1 | awk '{print ($2 > 40)}'";
        host.world.run_rm("busybox", &["-v", &mount], &["sh", "-c", look]).ok().stdout
    };
    host.cut();
    assert_eq!(read(&host, "data"), "kept\n0\n");
    host.world.cc(&["volume", "resize", "data", "--size", "64MiB"]).ok();
    host.cut();
    assert_eq!(read(&host, "data"), "kept\n1\n");
    host.world.cc(&["volume", "snapshot", "data", "--name", "copy"]).ok();
    host.cut();
    assert_eq!((read(&host, "copy"), read(&host, "data")), ("kept\n1\n".to_owned(), "kept\n1\n".to_owned()));
    host.world.cc(&["volume", "delete", "data"]).ok();
    host.cut();
    assert_eq!(host.world.cc(&["volume", "list", "-q"]).ok().stdout.lines().count(), 1);
    assert_eq!(read(&host, "copy"), "kept\n1\n");
    let files = std::fs::read_dir(host.world.path("state/volumes")).unwrap().count();
    assert_eq!(files, 1, "what was deleted takes no room");
    host.end();
}
