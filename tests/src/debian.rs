//! A clean Debian in namespaces of its own: what is written there is in the guard's directory, and everything that runs there ends with the
//! guard. Made once by debootstrap and kept in target/debian. Refuses to touch this machine's packages.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::fcntl::{Flock, FlockArg};

use crate::eventually::{eventually, within};
use crate::residue::{cgroup_dirs, remove_cgroups};
use crate::world::Ran;

/// The release that has the kernel and the systemd that we name.
const SUITE: &str = "trixie";
const MIRROR: &str = "http://deb.debian.org/debian";
/// What the package depends on, and systemd to look at its unit: nothing is fetched while it is installed.
const INCLUDED: &str = "e2fsprogs,systemd";

/// From the holder's start to its root's being complete.
const MADE_WITHIN: Duration = Duration::from_secs(20);
/// In its root, when all is mounted.
const READY: &str = "/run/root-is-ready";

/// Makes the root of the arguments that follow, and waits until it is killed. Not by chroot: the kernel gives nobody a user namespace there.
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
exec sleep infinity"#;

#[derive(Debug)]
pub struct Debian {
    holder: Child,
    dir: tempfile::TempDir,
    /// What a daemon inside is to call its directory in this machine's cgroups, which goes with the guard.
    pub cgroup: String,
}

impl Debian {
    /// Its `/srv` is `share`, and its `/var/lib/cc` a plain directory: no overlay can be over another.
    pub fn new() -> Result<Debian> {
        let lower = bootstrapped()?;
        // Not /tmp, which may be memory.
        let dir = tempfile::Builder::new().prefix(crate::world::PREFIX).tempdir_in(target().join("debian"))?;
        for place in ["upper", "work", "root", "srv", "state"] {
            std::fs::create_dir(dir.path().join(place)).context("cannot make a directory")?;
        }
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "--pid",
            "--net",
            "--uts",
            "--ipc",
            "--fork",
            "--kill-child",
            "sh",
            "-c",
            HOLD,
            "hold",
        ]);
        command.arg(dir.path().join("root")).arg(lower).arg(dir.path()).stdin(Stdio::null());
        let cgroup = format!("{}{:08x}", crate::world::PREFIX, rand::random::<u32>());
        let debian = Debian { holder: command.spawn().context("cannot start unshare")?, dir, cgroup };
        eventually("a clean Debian", MADE_WITHIN, || debian.run("test", &["-e", READY]).ok_or_none());
        Ok(debian)
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

    /// The first process inside: unshare's child, which is in the new namespaces when it has become `sleep`.
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

fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target")
}

/// By rename, so that one that was interrupted is not taken for one that is complete.
fn bootstrapped() -> Result<PathBuf> {
    let dir = target().join("debian");
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let file = std::fs::File::create(dir.join("lock")).context("cannot open the lock")?;
    let _lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno).context("cannot lock")?;
    let (made, fresh) = (dir.join(SUITE), dir.join(format!("{SUITE}.new")));
    if !made.is_dir() {
        if fresh.exists() {
            std::fs::remove_dir_all(&fresh).context("cannot remove what was interrupted")?;
        }
        let mut command = Command::new("debootstrap");
        command.args(["--variant=minbase", &format!("--include={INCLUDED}"), SUITE]).arg(&fresh).arg(MIRROR);
        let out = command
            .stdin(Stdio::null())
            .output()
            .context("cannot start debootstrap; run `cargo xtask setup --tests`")?;
        let said = [out.stdout, out.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
        ensure!(
            out.status.success(),
            "debootstrap: {}",
            said.map(|text| text.lines().last().unwrap_or_default().to_owned()).join("; ")
        );
        // Nothing is installed from there again.
        let _ = std::fs::remove_dir_all(fresh.join("var/cache/apt/archives"));
        std::fs::rename(&fresh, &made).context("cannot rename")?;
    }
    Ok(std::fs::canonicalize(made)?)
}
