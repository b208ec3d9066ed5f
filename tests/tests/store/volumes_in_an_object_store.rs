//! A persistent volume is in an object store: it is there when its process and its daemon were killed, and on another host. `cargo xtask vold test`
//! has the store and the program.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use cc_tests::netns::Netns;
use cc_tests::{Leave, World, eventually};

const BOUND: Duration = Duration::from_secs(60);
const KEY: &str = "cc-tests";
const SECRET: &str = "cc-tests-secret";
const S3: u16 = 24_630;
/// Nobody else's: the network namespace is the test's. Each has a second one, for gRPC.
const PORTS: [(&str, u16); 4] = [("master", 24_600), ("volume", 24_610), ("filer", 24_620), ("s3", S3)];

/// A SeaweedFS with an S3 door, in the network namespace of a world that is to be, gone with the guard.
struct Store {
    netns: Netns,
    child: Child,
    dir: tempfile::TempDir,
}

impl Store {
    fn start() -> Store {
        let dir = tempfile::tempdir().unwrap();
        let netns = Netns::new().unwrap();
        let identities = serde_json::json!({"identities": [{
            "name": "tests",
            "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }]});
        std::fs::write(dir.path().join("s3.json"), identities.to_string()).unwrap();
        let data = dir.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let mut command = netns.command(std::env::var_os("CC_VOLD_WEED").expect("cargo xtask vold test sets it"));
        command.args([
            "-logtostderr",
            "server",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-filer",
            "-s3",
            "-s3.iam=false",
        ]);
        command.args(["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false", "-volume.max=0"]);
        command.args(["-volume.preStopSeconds=0", "-master.volumeSizeLimitMB=1024", "-volume.minFreeSpacePercent=0"]);
        command.arg(format!("-dir={}", data.display()));
        command.arg(format!("-s3.config={}", dir.path().join("s3.json").display()));
        for (name, port) in PORTS {
            command.arg(format!("-{name}.port={port}")).arg(format!("-{name}.port.grpc={}", port + 1));
        }
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        command.current_dir(dir.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let store = Store { child: command.spawn().unwrap(), dir, netns };
        eventually("it has a bucket", BOUND, || store.make_bucket().then_some(()));
        store
    }

    fn make_bucket(&self) -> bool {
        let mut command = self.netns.command("curl");
        command.args([
            "--silent",
            "--fail",
            "--max-time",
            "10",
            "--aws-sigv4",
            "aws:amz:us-east-1:s3",
            "--request",
            "PUT",
        ]);
        command.args(["--user", &format!("{KEY}:{SECRET}"), &format!("http://127.0.0.1:{S3}/volumes")]);
        command.stdout(Stdio::null()).status().unwrap().success()
    }

    /// Of a host that has this store, or at another port none.
    fn world(&self, port: u16) -> World {
        let credentials = self.dir.path().join("credentials");
        let lines = format!("AWS_ACCESS_KEY_ID={KEY}\nAWS_SECRET_ACCESS_KEY={SECRET}\nAWS_REGION=us-east-1\n");
        std::fs::write(&credentials, lines).unwrap();
        std::fs::set_permissions(&credentials, PermissionsExt::from_mode(0o600)).unwrap();
        let config = format!(
            "volumes.object_store = {{ url = \"s3://volumes/tests\", endpoint = \"http://127.0.0.1:{port}\", \
             credentials = {credentials:?}, program = {:?}, experimental = true }}",
            program()
        );
        World::in_netns(self.netns.try_clone().unwrap(), &config)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Its sockets are not in its directory, wherever that is; they have its ports in their names.
        for entry in std::fs::read_dir("/tmp").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_its =
                |(_, port): &(&str, u16)| [*port, port + 1].iter().any(|port| name.ends_with(&format!("-{port}.sock")));
            if name.starts_with("seaweedfs-") && PORTS.iter().any(is_its) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

fn program() -> PathBuf {
    PathBuf::from(std::env::var_os("CC_VOLD").expect("cargo xtask vold test sets it"))
}

/// Of cc-vold that serve something below that world.
fn processes(world: &World) -> Vec<i32> {
    let place = world.path("run/vold").display().to_string();
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let is_its = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&place)
    };
    pids.filter(is_its).collect()
}

fn reads(world: &World, expected: &str) {
    let read = world.run_rm("busybox", &["-v", "data:/d"], &["cat", "/d/file"]);
    assert_eq!(read.ok().stdout, expected);
    world.cc(&["volume", "check", "data"]).ok();
}

#[test]
fn it_is_there_whatever_was_killed_and_goes_when_it_is_deleted() {
    let store = Store::start();
    let mut world = store.world(S3);
    world.cc(&["volume", "create", "--persistent", "--size", "32MiB", "--name", "data"]).ok();
    assert_eq!(world.cc(&["volume", "inspect", "data"]).json()[0]["backend"], "object-store");
    assert_eq!(processes(&world), [0; 0], "nobody has it");
    let write = "echo kept > /d/file; sync; exec sleep 600";
    let id = world.run("busybox", &["-v", "data:/d"], &["sh", "-c", write]);
    let wrote = |id: &str| {
        eventually("it has written", BOUND, || {
            (world.cc(&["exec", id, "cat", "/d/file"]).stdout == "kept\n").then_some(())
        });
    };
    wrote(&id);
    // Two containers have one process and one mount.
    let second = world.run("busybox", &["-v", "data:/e"], &["sleep", "600"]);
    assert_eq!(world.cc(&["exec", &second, "cat", "/e/file"]).ok().stdout, "kept\n");
    let [pid] = processes(&world)[..] else { panic!("{:?}", processes(&world)) };
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(!String::from_utf8_lossy(&line).contains(SECRET), "whoever lists processes reads it");
    world.cc(&["volume", "resize", "data", "--size", "64MiB"]).fails(1, "object store");
    world.cc(&["volume", "snapshot", "data", "--name", "copy"]).fails(1, "object store");
    world.cc(&["volume", "delete", "data"]).fails(1, "remove them first");
    // It outlives its daemon, as containers do.
    world.leave(Leave::Killed);
    world.start();
    assert_eq!(processes(&world), [pid]);
    assert_eq!(world.cc(&["exec", &second, "cat", "/e/file"]).ok().stdout, "kept\n");
    // What was synced is in the store when the process is killed, and whoever starts again has it.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    eventually("it is gone", BOUND, || processes(&world).is_empty().then_some(()));
    world.remove_all();
    reads(&world, "kept\n");
    assert_eq!(processes(&world), [0; 0], "nobody has it");
    // Another store has nothing of it: it is not looked for there, and not thought gone.
    let tell = |world: &mut World, from: &str, to: &str| {
        let config = std::fs::read_to_string(world.config()).unwrap();
        assert!(config.contains(from), "{config}");
        world.leave(Leave::Stopped);
        std::fs::write(world.config(), config.replace(from, to)).unwrap();
        world.start();
    };
    tell(&mut world, "s3://volumes/tests", "s3://volumes/others");
    let refused = world.cc(&["volume", "delete", "data"]);
    let refused = refused.fails(1, "it is in the object store s3://volumes/tests,");
    assert!(refused.stderr.contains("set volumes.object_store.url to that again"), "{}", refused.stderr);
    world.run_rm("busybox", &["-v", "data:/d"], &["true"]).fails(125, "s3://volumes/tests");
    tell(&mut world, "s3://volumes/others", "s3://volumes/tests");
    reads(&world, "kept\n");
    world.cc(&["volume", "delete", "data"]).ok();
    world.cc(&["volume", "list", "-q"]).ok();
    assert_eq!(std::fs::read_dir(world.path("run/vold")).unwrap().count(), 0);
    world.assert_clean();
}

#[test]
fn without_a_store_it_says_how_to_name_one() {
    let world = World::new();
    let refused = world.cc(&["volume", "create", "--persistent", "--size", "32MiB", "--name", "data"]);
    let refused = refused.fails(1, "the daemon knows of none");
    assert!(refused.stderr.contains("[volumes.object_store]") && refused.stderr.contains("experimental = true"));
}

#[test]
fn where_the_store_cannot_be_had_nothing_is_made_and_the_name_is_free_again() {
    let store = Store::start();
    let world = store.world(S3 + 7);
    world.cc(&["volume", "create", "--persistent", "--size", "32MiB", "--name", "data"]).fails(1, "object store");
    world.cc(&["volume", "delete", "data"]).ok();
    world.cc(&["volume", "create", "--size", "32MiB", "--name", "data"]).ok();
    world.cc(&["volume", "delete", "data"]).ok();
    assert_eq!(processes(&world), [0; 0]);
    world.assert_clean();
}
