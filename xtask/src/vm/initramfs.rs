//! What the kernel unpacks to begin with: busybox, the modules without which it sees no file system, and a script that makes this machine's
//! root, read-only and under a layer of memory, the guest's. Refuses to do anything of a test.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::kernel::Kernel;
use crate::process::{output, which};

/// The tag of the shared file system.
pub const TAG: &str = "host";
/// Before there is a root to load others from.
const EARLY: [&str; 2] = ["virtio_pci", "virtiofs"];

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CONSOLE: u32 = 0o020_600;

/// The first program is `guest`, with an argument.
pub fn make(kernel: &Kernel, guest: &Path, argument: &Path) -> Result<Vec<u8>> {
    let busybox = which("busybox").context("there is no busybox; run: cargo xtask setup --tests")?;
    let mut archive = Archive::default();
    for dir in ["proc", "sys", "dev", "host", "above", "root", "modules"] {
        archive.entry(dir, DIRECTORY, &[], (0, 0));
    }
    archive.entry("dev/console", CONSOLE, &[], (5, 1));
    archive.entry("busybox", PROGRAM, &read(&busybox)?, (0, 0));
    let mut insert = String::new();
    for (index, module) in early(kernel)?.iter().enumerate() {
        archive.entry(&format!("modules/{index}"), PROGRAM, &read(module)?, (0, 0));
        writeln!(insert, "b insmod /modules/{index}").context("cannot write a script")?;
    }
    archive.entry("init", PROGRAM, script(kernel, guest, argument, &insert).as_bytes(), (0, 0));
    Ok(archive.finish())
}

/// In the order in which they are inserted.
fn early(kernel: &Kernel) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = Vec::new();
    for name in EARLY {
        let mut modprobe = Command::new("/sbin/modprobe");
        modprobe.arg("-d").arg(&kernel.tree).args(["-S", &kernel.release, "--show-depends", name]);
        let shown = output(&mut modprobe)?;
        for file in shown.lines().filter_map(|line| line.trim().strip_prefix("insmod ")).map(PathBuf::from) {
            if file.extension().is_none_or(|extension| extension != "ko") {
                bail!("{} is compressed, and is needed before there is anything to unpack it", file.display());
            }
            if !files.contains(&file) {
                files.push(file);
            }
        }
    }
    Ok(files)
}

fn script(kernel: &Kernel, guest: &Path, argument: &Path, insert: &str) -> String {
    let (tree, guest, argument) = (kernel.tree.display(), guest.display(), argument.display());
    format!(
        "#!/busybox sh
b() {{ /busybox \"$@\"; }}
b mount -t proc proc /proc
b mount -t devtmpfs dev /dev
{insert}b mount -t virtiofs -o ro {TAG} /host
b mount -t proc proc /host/proc
b mount -t sysfs sys /host/sys
b chroot /host /sbin/modprobe -d {tree} overlay
b mount -t tmpfs above /above
b mkdir /above/upper /above/work
b mount -t overlay -o lowerdir=/host,upperdir=/above/upper,workdir=/above/work root /root
exec /busybox switch_root -c /dev/console /root {guest} guest {argument}
"
    )
}

fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

/// In cpio's form "newc", as the kernel takes it.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    count: u32,
}

impl Archive {
    fn entry(&mut self, name: &str, mode: u32, content: &[u8], device: (u32, u32)) {
        self.count += 1;
        let fields =
            [self.count, mode, 0, 0, 1, 0, content.len() as u32, 0, 0, device.0, device.1, name.len() as u32 + 1, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[], (0, 0));
        self.bytes
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_as_cpio_reads_them() {
        let mut archive = Archive::default();
        archive.entry("init", PROGRAM, b"hello", (0, 0));
        let bytes = archive.finish();
        assert!(bytes.starts_with(b"07070100000001000081ed"));
        assert_eq!(bytes.len() % 4, 0);
        // 110 bytes of header, and "init" with its zero, to the next multiple of four.
        assert_eq!(&bytes[116..121], b"hello");
    }
}
