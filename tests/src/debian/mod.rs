//! A clean Debian in namespaces of its own: what is written there is in the guard's directory, and everything that runs there ends with the
//! guard. Its root is made once, by `cargo xtask`. Refuses to touch this machine's packages.

pub mod job;
pub mod package;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};

use crate::eventually::{eventually, within};
use crate::residue::{cgroup_dirs, remove_cgroups};
use crate::world::Ran;

/// From the holder's start to its root's being complete.
const MADE_WITHIN: Duration = Duration::from_secs(20);
/// To all that a Debian starts by itself.
const BOOTED_WITHIN: Duration = Duration::from_secs(30);
/// In its root, when all is mounted.
const READY: &str = "/run/root-is-ready";

/// Makes the root of the arguments that follow, and waits until it is killed, for whoever ends without a parent meanwhile: what nobody waits
/// for is in `/proc` as if it still ran. Not by chroot: the kernel gives nobody a user namespace there.
const HOLD: &str = r#"set -e
root=$1 lower=$2 dir=$3
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$dir/upper,workdir=$dir/work" "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t bpf bpf "$root/sys/fs/bpf"
mkdir -p "$root/srv" "$root/var/lib/cc"
mount --bind "$dir/srv" "$root/srv"
mount --bind "$dir/state" "$root/var/lib/cc"
ip link set lo up
hostname clean
cd "$root"
pivot_root . mnt
umount -l /mnt
touch /run/root-is-ready
sleep infinity &
wait"#;

/// Likewise, but that systemd is its first process, with a tree of cgroups that it takes for all there is: below the one that is named. For
/// machines whose every controller is on cgroup v2. Only who has no parent among the processes of that tree can divide it: the holder stays
/// outside.
const BOOT: &str = r#"set -e
echo 0 > "/sys/fs/cgroup/$4/cgroup.procs"
exec unshare --cgroup sh -c '
set -e
root=$1 lower=$2 dir=$3
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$dir/upper,workdir=$dir/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t bpf -o mode=700 bpf "$root/sys/fs/bpf"
mount -t tracefs tracefs "$root/sys/kernel/tracing"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mkdir -p "$root/srv" "$root/var/lib/cc"
mount --bind "$dir/srv" "$root/srv"
mount --bind "$dir/state" "$root/var/lib/cc"
hostname clean
# Without one it takes this boot for its first, and asks for a locale.
tr -d - < /proc/sys/kernel/random/uuid > "$root/etc/machine-id"
cd "$root"
pivot_root . mnt
umount -l /mnt
exec env -i container=test PATH=/usr/sbin:/usr/bin /lib/systemd/systemd --unit=multi-user.target
' boot "$@""#;

/// Who is the first process of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    Shell,
    Systemd,
}

#[derive(Debug)]
pub struct Debian {
    holder: Child,
    dir: tempfile::TempDir,
    /// What a daemon inside is to call its directory in this machine's cgroups, which goes with the guard.
    pub cgroup: String,
}

impl Debian {
    /// Its `/srv` is `share`, and its `/var/lib/cc` a plain directory: no overlay can be over another. Nothing runs in it.
    pub fn new() -> Result<Debian> {
        let debian = Debian::held(First::Shell)?;
        eventually("a clean Debian", MADE_WITHIN, || debian.run("test", &["-e", READY]).ok_or_none());
        Ok(debian)
    }

    /// As a machine that has come up, but for its network.
    pub fn booted() -> Result<Debian> {
        let debian = Debian::held(First::Systemd)?;
        let up = || debian.run("systemctl", &["is-active", "--quiet", "multi-user.target"]).ok_or_none();
        eventually("a Debian that has booted", BOOTED_WITHIN, up);
        Ok(debian)
    }

    fn held(first: First) -> Result<Debian> {
        let lower = root()?;
        // A container's layers can be written to a disk alone.
        let temporary = std::env::temp_dir();
        let is_memory = statfs(&temporary).is_ok_and(|stat| stat.filesystem_type() == TMPFS_MAGIC);
        let place = if is_memory { lower.parent().context("a root has a directory")?.to_owned() } else { temporary };
        let dir = tempfile::Builder::new().prefix(crate::world::PREFIX).tempdir_in(place)?;
        for place in ["upper", "work", "root", "srv", "state"] {
            std::fs::create_dir(dir.path().join(place)).context("cannot make a directory")?;
        }
        let cgroup = format!("{}{:08x}", crate::world::PREFIX, rand::random::<u32>());
        let script = match first {
            First::Shell => HOLD,
            First::Systemd => {
                std::fs::create_dir(Path::new("/sys/fs/cgroup").join(&cgroup)).context("cannot make a cgroup")?;
                BOOT
            }
        };
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child"])
            .args(["sh", "-c", script, "hold"]);
        command.arg(dir.path().join("root")).arg(lower).arg(dir.path()).arg(&cgroup).stdin(Stdio::null());
        Ok(Debian { holder: command.spawn().context("cannot start unshare")?, dir, cgroup })
    }

    /// Its `/srv`.
    pub fn share(&self) -> PathBuf {
        self.dir.path().join("srv")
    }

    /// A command that will run inside, with little in its environment.
    pub fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        let first = self.first().unwrap_or_default();
        command.args(["--all", "--target", &first.to_string(), program]).args(args);
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("LC_ALL", "C.UTF-8").env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
        command
    }

    pub fn run(&self, program: &str, args: &[&str]) -> Ran {
        Ran::of(self.command(program, args).output().expect("nsenter can be run"))
    }

    /// The first process inside: unshare's child.
    fn first(&self) -> Option<u32> {
        let pid = self.holder.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }
}

impl Drop for Debian {
    fn drop(&mut self) {
        // By --kill-child its child goes with it, the first of its namespace, and with that all others.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        let clean = || {
            remove_cgroups(&self.cgroup);
            cgroup_dirs(&self.cgroup).is_empty().then_some(())
        };
        let gone = within(MADE_WITHIN, clean).is_some();
        assert!(gone || std::thread::panicking(), "cgroups stay: {:?}", cgroup_dirs(&self.cgroup));
    }
}

/// Whoever runs the tests may have made it, and says where.
fn root() -> Result<PathBuf> {
    if let Some(made) = std::env::var_os("CC_DEBIAN") {
        return Ok(PathBuf::from(made));
    }
    let out = xtask().arg("debian").output().context("cannot start xtask")?;
    ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let said = String::from_utf8(out.stdout).context("a path is no text")?;
    Ok(std::fs::canonicalize(said.lines().last().unwrap_or_default())?)
}

/// The one that runs the tests, else what makes it.
fn xtask() -> Command {
    let mut command = match std::env::var_os("CC_XTASK") {
        Some(xtask) => Command::new(xtask),
        None => {
            let mut cargo = Command::new("cargo");
            cargo.arg("xtask");
            cargo
        }
    };
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).stdin(Stdio::null());
    command
}
