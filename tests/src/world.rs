//! One test's world: a private daemon, the `cc` command pointed at it, and a clean-up that checks that nothing is left.
//! Refuses to share anything with another world.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::daemon::{Build, Daemon, Leave, bin_dir};
use crate::eventually::{eventually, within};
use crate::images;
use crate::netns::Netns;
use crate::residue::{cgroup_dirs, kill_cgroups, remove_cgroups};

/// Every directory, cgroup and name that a test makes outside its own directory starts so.
pub const PREFIX: &str = "cct-";

/// Whether containers' interfaces are netkit pairs, as `cargo xtask test --vm --netkit` has it.
pub fn on_netkit() -> bool {
    std::env::var_os("CC_TEST_INTERFACES").is_some_and(|kind| kind == "netkit")
}

#[derive(Debug)]
pub struct World {
    pub(crate) dir: tempfile::TempDir,
    pub netns: Netns,
    pub(crate) daemon: Option<Daemon>,
    /// The one that was started last.
    build: Build,
    pub(crate) cgroup: String,
    /// Set when a test stops being about a clean end: then the clean-up does not assert.
    loaded: std::cell::RefCell<Vec<String>>,
}

/// What a `cc` command printed and how it ended.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn of(output: Output) -> Ran {
        ran(output)
    }

    /// For what is asked again until it goes well.
    pub fn ok_or_none(self) -> Option<Ran> {
        (self.code == 0).then_some(self)
    }

    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub fn fails(self, code: i32, word: &str) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        assert!(self.stderr.contains(word), "{word:?} is not in: {}", self.stderr);
        self
    }

    /// The first line of standard output: an id, mostly.
    #[track_caller]
    pub fn line(self) -> String {
        let text = self.ok().stdout;
        text.lines().next().unwrap_or_default().to_owned()
    }

    #[track_caller]
    pub fn json(self) -> Value {
        let text = self.ok().stdout;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in: {text}"))
    }
}

impl World {
    pub fn new() -> World {
        World::with_config("")
    }

    /// `extra` are lines of the daemon's configuration.
    pub fn with_config(extra: &str) -> World {
        let netns = Netns::new().expect("root can make a network namespace");
        World::in_netns(netns, extra)
    }

    pub fn in_netns(netns: Netns, extra: &str) -> World {
        let mut world = World::without_daemon(netns, extra);
        world.start();
        world
    }

    /// Whose daemon is somebody else's to start and to end, with this world's configuration.
    pub fn without_daemon(netns: Netns, extra: &str) -> World {
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir().expect("a temporary directory");
        let tag = format!("{PREFIX}{:08x}", rand::random::<u32>());
        let path = |name: &str| dir.path().join(name).display().to_string();
        // Worlds of one test share a kernel: each gets its own range of ids.
        let id_base = 0x2000_0000_u32 + (rand::random::<u32>() % 8) * 0x1000_0000;
        // However full the disk is that the tests run on: what their volumes take, they make sure of.
        let pool = if extra.contains("volumes.") { "" } else { "volumes.pool_bytes = 2147483648" };
        let interfaces = if on_netkit() { "interfaces = \"netkit\"" } else { "" };
        let config = format!(
            "state_dir = {:?}\nrun_dir = {:?}\nbpffs_dir = {:?}\ncgroup_dir = {tag:?}\nid_base = {id_base}\n{pool}\n{interfaces}\n{extra}\n",
            path("state"),
            path("run"),
            path("bpf"),
        );
        std::fs::write(dir.path().join("config.toml"), config).expect("the configuration can be written");
        World { dir, netns, daemon: None, build: Build::Own, cgroup: tag, loaded: Default::default() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn config(&self) -> PathBuf {
        self.path("config.toml")
    }

    /// Where the daemon's version of maps, programs and links is pinned.
    pub fn pins(&self) -> PathBuf {
        self.path("bpf").join(self.build.pins())
    }

    /// The daemon's directory on the v2 tree, once there is one.
    pub fn cgroup(&self) -> PathBuf {
        let hybrid = Path::new("/sys/fs/cgroup/unified");
        let tree = if hybrid.is_dir() { hybrid } else { Path::new("/sys/fs/cgroup") };
        tree.join(&self.cgroup)
    }

    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    fn socket(&self) -> PathBuf {
        self.path("run/cc.sock")
    }

    pub fn start(&mut self) {
        self.start_build(Build::Own);
    }

    pub fn start_build(&mut self, build: Build) {
        let daemon = Daemon::start(build, &self.config(), &self.netns, &self.socket(), &self.path("daemon.log"));
        self.daemon = Some(daemon.expect("cc-host starts"));
        self.build = build;
    }

    /// Without waiting for it, and none of the world's: whoever asked for it ends it.
    pub fn spawn_build(&self, build: Build) -> Daemon {
        Daemon::spawn(build, &self.config(), &self.netns, &self.path("daemon.log")).expect("cc-host can be run")
    }

    /// The daemon, for killing or stopping it.
    pub fn take_daemon(&mut self) -> Daemon {
        self.daemon.take().expect("the daemon runs")
    }

    /// Without a daemon from here on, until `start`.
    pub fn leave(&mut self, how: Leave) {
        self.take_daemon().leave(how);
    }

    pub fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("the daemon runs")
    }

    /// A `cc` command against this world's daemon.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(bin_dir().join("cc"));
        command.args(args).env("CC_ENDPOINT_URL", self.endpoint()).stdin(Stdio::null());
        command.env_remove("CC_ACCESS_TOKEN").env_remove("CC_SECRET_KEY").env_remove("CC_PROJECT");
        command
    }

    pub fn cc(&self, args: &[&str]) -> Ran {
        ran(self.command(args).output().expect("cc can be run; run `cargo xtask build`"))
    }

    pub fn cc_with_stdin(&self, args: &[&str], input: &[u8]) -> Ran {
        self.run_with_stdin(self.command(args), input)
    }

    pub fn run_with_stdin(&self, mut command: Command, input: &[u8]) -> Ran {
        use std::io::Write as _;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("cc can be run; run `cargo xtask build`");
        let mut stdin = child.stdin.take().expect("it is piped");
        let input = input.to_vec();
        let feeder = std::thread::spawn(move || {
            // The command may end without reading all of it.
            let _ = stdin.write_all(&input);
        });
        let output = child.wait_with_output().expect("its output can be read");
        feeder.join().expect("the feeder does not panic");
        ran(output)
    }

    /// `cc-host` with this world's configuration.
    pub fn host(&self, args: &[&str]) -> Ran {
        let mut command = self.netns.command(bin_dir().join("cc-host"));
        ran(command.args(args).arg("--config").arg(self.config()).output().expect("cc-host can be run"))
    }

    /// A test image, loaded once, under the reference that `--image` takes.
    pub fn image(&self, name: &str) -> String {
        let reference = format!("localhost/{name}:latest");
        if !self.loaded.borrow().iter().any(|known| known == name) {
            let source = images::reference(name).expect("the image can be made");
            self.cc(&["image", "load", &source, "--name", &reference]).ok();
            self.loaded.borrow_mut().push(name.to_owned());
        }
        reference
    }

    pub fn vpc(&self, name: &str, cidr: &str) -> String {
        self.cc(&["vpc", "create", "--cidr", cidr, "--name", name, "-q"]).line()
    }

    /// A detached container; returns its id.
    pub fn run(&self, image: &str, options: &[&str], command: &[&str]) -> String {
        let image = self.image(image);
        let args = [&["run", "-d", "--image", &image], options, command].concat();
        self.cc(&args).line()
    }

    /// A foreground container that is removed at its end.
    pub fn run_rm(&self, image: &str, options: &[&str], command: &[&str]) -> Ran {
        let image = self.image(image);
        let args = [&["run", "--rm", "--image", &image], options, command].concat();
        self.cc(&args)
    }

    pub fn inspect(&self, id: &str) -> Value {
        let value = self.cc(&["inspect", id]).json();
        value.get(0).cloned().unwrap_or(value)
    }

    /// What happened to an object, the oldest first: kinds and texts.
    pub fn events_of(&self, id: &str) -> Vec<(String, String)> {
        let events = self.cc(&["events", "--json"]).json();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let of_it = events.as_array().expect("events are a list").iter().filter(|event| event["object"] == id);
        of_it.map(|event| (text(&event["kind"]), text(&event["text"]))).collect()
    }

    pub fn pid(&self, id: &str) -> i32 {
        i32::try_from(self.inspect(id)["pid"].as_i64().expect("it has a pid")).expect("a pid fits")
    }

    /// Without the prefix length.
    pub fn address(&self, id: &str) -> String {
        let address = self.inspect(id)["ipv4"].as_str().expect("it has an address").to_owned();
        address.split('/').next().unwrap_or_default().to_owned()
    }

    /// Runs a program of the host's in the container's network namespace, as the host's root: for frames that no well-behaved
    /// program sends.
    pub fn in_container<T: Send + 'static>(&self, id: &str, f: impl FnOnce() -> T + Send + 'static) -> T {
        let netns = Netns::of_pid(self.pid(id)).expect("the container runs");
        netns.run(f).expect("the code inside ends")
    }

    /// Until something inside the container accepts TCP connections on `port`.
    pub fn wait_for_listener(&self, id: &str, port: u16) {
        let pid = self.pid(id);
        let listens = |family: &str| {
            let sockets = std::fs::read_to_string(format!("/proc/{pid}/net/{family}")).unwrap_or_default();
            // Local address, remote address, and 0A for "listens".
            let mut fields = sockets.lines().map(|line| line.split_ascii_whitespace().skip(1));
            fields.any(|mut of| {
                let local = of.next().is_some_and(|local| local.ends_with(&format!(":{port:04X}")));
                local && of.nth(1) == Some("0A")
            })
        };
        eventually(&format!("{id} listens on port {port}"), Duration::from_secs(10), || {
            (listens("tcp") || listens("tcp6")).then_some(())
        });
    }

    /// Packets that were dropped for `reason`, in either direction, as `cc metrics` counts them.
    pub fn drops(&self, id: &str, reason: &str) -> u64 {
        let metrics = self.cc(&["metrics", id, "--json"]).json();
        let metrics = metrics.get(0).cloned().unwrap_or(metrics);
        let drops = metrics["drops"].as_array().cloned().unwrap_or_default();
        drops.iter().filter(|d| d["reason"] == reason).filter_map(|d| d["packets"].as_u64()).sum()
    }

    /// `curl` in this world's network namespace: the status, 0 when there was no answer, and the body.
    pub fn curl(&self, args: &[&str]) -> (u16, String) {
        let mut command = self.netns.command("curl");
        command.args(["--silent", "--noproxy", "*", "--max-time", "10", "--write-out", "\n%{http_code}"]).args(args);
        let text = ran(command.output().expect("curl can be run; run `cargo xtask setup`")).stdout;
        let (body, status) = text.rsplit_once('\n').expect("the status has a line of its own");
        (status.parse().expect("a status is a number"), body.to_owned())
    }

    /// As when the host's power is cut: nothing of it runs, and what is not on a disk is gone. Its disks are the caller's.
    pub fn power_off(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.kill();
        }
        kill_cgroups(&self.cgroup);
        eventually("what ran has ended", Duration::from_secs(10), || {
            remove_cgroups(&self.cgroup);
            cgroup_dirs(&self.cgroup).is_empty().then_some(())
        });
        let run = self.path("run");
        assert_eq!(unmount_below(&run), [], "what cannot be unmounted");
        std::fs::remove_dir_all(run).expect("nothing of it is in use");
        let _ = nix::mount::umount2(&self.path("bpf"), nix::mount::MntFlags::MNT_DETACH);
    }

    pub fn remove_all(&self) {
        let ids = self.cc(&["ps", "-a", "-q"]).ok().stdout;
        let ids: Vec<&str> = ids.lines().collect();
        if !ids.is_empty() {
            self.cc(&[&["rm", "-f"], ids.as_slice()].concat()).ok();
        }
    }
}

impl Default for World {
    fn default() -> Self {
        World::new()
    }
}

/// All that is mounted there, and what could not be unmounted.
fn unmount_below(dir: &Path) -> Vec<(String, nix::errno::Errno)> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let places =
        mounts.lines().filter_map(|line| line.split(' ').nth(4)).filter(|place| Path::new(place).starts_with(dir));
    let failed = places.filter_map(|place| match nix::mount::umount2(place, nix::mount::MntFlags::MNT_DETACH) {
        // What is mounted below another goes with it.
        Ok(()) | Err(nix::errno::Errno::EINVAL) => None,
        Err(error) => Some((place.to_owned(), error)),
    });
    failed.collect()
}

fn ran(output: Output) -> Ran {
    use std::os::unix::process::ExitStatusExt as _;
    let code = output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or_default());
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ran { code, stdout: text(output.stdout), stderr: text(output.stderr) }
}

impl Drop for World {
    /// Clean also after a failed test: by force, and only what this world made.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the daemon's log\n{}", std::fs::read_to_string(self.path("daemon.log")).unwrap_or_default());
        }
        if self.daemon.is_some() {
            let ids = self.cc(&["ps", "-a", "-q"]).stdout;
            let ids: Vec<&str> = ids.lines().collect();
            if !ids.is_empty() {
                self.cc(&[&["rm", "-f"], ids.as_slice()].concat());
            }
        }
        if let Some(daemon) = self.daemon.take() {
            let (_, _) = daemon.stop();
        }
        // Containers outlive their daemon: those of other projects, and all if it is gone already.
        kill_cgroups(&self.cgroup);
        for (place, error) in unmount_below(self.dir.path()) {
            eprintln!("cannot unmount {place}: {error}");
        }
        let clean = || {
            remove_cgroups(&self.cgroup);
            cgroup_dirs(&self.cgroup).is_empty().then_some(())
        };
        let gone = within(Duration::from_secs(10), clean).is_some();
        assert!(gone || std::thread::panicking(), "the world's cgroups stay: {:?}", cgroup_dirs(&self.cgroup));
    }
}
