//! containerd runs its containers by `cc-oci`: its own shim starts, enters, pauses and ends them, and nothing is left of them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cc_tests::apart::Apart;
use cc_tests::daemon::bin_dir;
use cc_tests::{Ran, eventually, images};

const IMAGE: &str = "localhost/busybox:latest";
/// Of one command; most take less than one.
const WITHIN_SECONDS: &str = "60";

/// A containerd with directories, sockets and namespaces of its own, ended with its guard.
struct Containerd {
    daemon: Child,
    /// containerd's own, which is also the directory of the containers' cgroups.
    namespace: String,
    apart: Apart,
    dir: tempfile::TempDir,
}

impl Containerd {
    fn new() -> Containerd {
        let dir = tempfile::Builder::new().prefix(cc_tests::world::PREFIX).tempdir().unwrap();
        let apart = Apart::new(&dir.path().join("var")).unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n",
            path("root"),
            path("state"),
            path("socket"),
            path("ttrpc")
        );
        let config_file = path("config.toml");
        std::fs::write(&config_file, config).unwrap();
        let log = std::fs::File::create(path("log")).unwrap();
        let program = images::containerd_program().unwrap();
        // Its shims are beside it.
        let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap_or_default());
        let mut command = apart.command(&program);
        command
            .env("PATH", path)
            .args(["--config", &config_file])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let daemon = command.spawn().unwrap();
        let namespace = format!("{}containerd-{}", cc_tests::world::PREFIX, std::process::id());
        let containerd = Containerd { daemon, namespace, apart, dir };
        eventually("containerd answers", Duration::from_secs(20), || {
            (containerd.ctr(&["version"]).code == 0).then_some(())
        });
        let archive = path_of(&containerd, "image.tar");
        let layout = images::build("busybox").unwrap();
        let packed = Command::new("tar").arg("-C").arg(layout).args(["-cf", &archive, "."]).status().unwrap();
        assert!(packed.success());
        containerd.ctr(&["image", "import", "--snapshotter", "native", "--index-name", IMAGE, &archive]).ok();
        containerd
    }

    fn ctr(&self, args: &[&str]) -> Ran {
        let mut command = self.apart.command("timeout");
        let ctr = images::containerd_program().unwrap().with_file_name("ctr").display().to_string();
        command.args([WITHIN_SECONDS, &ctr, "--address", &path_of(self, "socket"), "--namespace", &self.namespace]);
        let output = command.args(args).stdin(Stdio::null()).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ran { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    fn run(&self, options: &[&str], id: &str, command: &[&str]) -> Ran {
        let runtime = bin_dir().join("cc-oci").display().to_string();
        let start = ["run", "--snapshotter", "native", "--runc-binary", &runtime];
        self.ctr(&[&start, options, &[IMAGE, id], command].concat())
    }

    fn status(&self, id: &str) -> String {
        let listed = self.ctr(&["task", "list"]).ok().stdout;
        let line = listed.lines().find(|line| line.split_whitespace().next() == Some(id)).unwrap_or_default();
        line.split_whitespace().nth(2).unwrap_or("gone").to_owned()
    }

    fn cgroups(&self) -> Vec<PathBuf> {
        let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let mounts = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let roots = mounts.filter(|of| of[2].starts_with("cgroup")).map(|of| PathBuf::from(of[1]));
        roots.map(|root| root.join(&self.namespace)).filter(|dir| dir.exists()).collect()
    }

    /// Its shims name its socket.
    fn shims(&self) -> usize {
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let lines = entries.filter_map(|entry| std::fs::read_to_string(entry.path().join("cmdline")).ok());
        lines.filter(|line| line.contains("containerd-shim") && line.contains(&path_of(self, "socket"))).count()
    }
}

fn path_of(containerd: &Containerd, name: &str) -> String {
    containerd.dir.path().join(name).display().to_string()
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // Of a test that failed; of one that did not, there is nothing.
        for id in self.ctr(&["container", "list", "-q"]).stdout.lines() {
            self.ctr(&["task", "delete", "--force", id]);
            self.ctr(&["container", "delete", id]);
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        for dir in self.cgroups() {
            remove_cgroup(&dir);
        }
    }
}

fn remove_cgroup(dir: &Path) {
    let inner = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    inner.filter(|path| path.is_dir()).for_each(|path| remove_cgroup(&path));
    let _ = std::fs::remove_dir(dir);
}

#[test]
fn containerd_starts_enters_pauses_and_ends_containers() {
    let containerd = Containerd::new();
    let once = |options: &[&str], command: &[&str]| containerd.run(&[&["--rm"], options].concat(), "once", command);
    assert_eq!(once(&[], &["echo", "hello"]).ok().stdout, "hello\n");
    assert_eq!(once(&[], &["sh", "-c", "exit 7"]).code, 7);
    let missing = once(&[], &["/no/such/program"]);
    assert!(missing.code != 0 && missing.stderr.contains("no such file"), "{}", missing.stderr);
    let read_only = once(&["--read-only"], &["touch", "/made"]);
    assert!(read_only.stderr.contains("Read-only"), "{}", read_only.stderr);
    let limit = once(
        &["--memory-limit", "67108864"],
        &["sh", "-c", "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; true"],
    );
    assert!(["", "67108864\n"].contains(&limit.ok().stdout.as_str()));

    containerd.run(&["-d"], "long", &["sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.1; done"]).ok();
    assert_eq!(containerd.status("long"), "RUNNING");
    let inside = containerd.ctr(&["task", "exec", "--exec-id", "one", "long", "sh", "-c", "echo inside; exit 5"]);
    assert_eq!((inside.code, inside.stdout.as_str()), (5, "inside\n"));
    containerd.ctr(&["task", "pause", "long"]).ok();
    assert_eq!(containerd.status("long"), "PAUSED");
    containerd.ctr(&["task", "resume", "long"]).ok();
    assert_eq!(containerd.status("long"), "RUNNING");
    let processes = containerd.ctr(&["task", "ps", "long"]).ok().stdout;
    assert!(processes.lines().count() >= 2, "{processes}");
    containerd.ctr(&["task", "kill", "-s", "TERM", "long"]).ok();
    eventually("it has ended", Duration::from_secs(20), || (containerd.status("long") == "STOPPED").then_some(()));
    let deleted = containerd.ctr(&["task", "delete", "long"]).ok();
    assert!(deleted.stderr.contains("exit code 3"), "{}", deleted.stderr);
    containerd.ctr(&["container", "delete", "long"]).ok();

    eventually("its shims have ended", Duration::from_secs(20), || (containerd.shims() == 0).then_some(()));
    let left: Vec<PathBuf> = containerd
        .cgroups()
        .iter()
        .flat_map(|dir| [dir.join("once"), dir.join("long")])
        .filter(|dir| dir.exists())
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let states = containerd.apart.prints("sh", &["-c", "ls /run/cc-oci /run/containerd/runc/* 2>/dev/null"]);
    assert!(!states.contains("long") && !states.contains("once"), "{states}");
}
