//! One emulated machine: qemu without KVM, this machine's root shared with it read-only, a disk for what is written, and a port by which the
//! guest tells. Ended with its guard. Refuses to wait for a guest that has fallen silent.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::initramfs::TAG;
use super::kernel::Kernel;
use super::told::{PORT, Told};
use crate::interrupt;
use crate::process::{nicely, shown};

const CPUS: u32 = 2;
const MEMORY: &str = "3G";
/// Sparse: what tests write to /tmp, layers and logs above all.
const DISK: &str = "8G";
const LOOK_EVERY: Duration = Duration::from_millis(100);
const SHARED_WITHIN: Duration = Duration::from_secs(10);
/// Until it tells something; it takes ten seconds on a machine that does nothing else.
const BOOTED_WITHIN: Duration = Duration::from_secs(180);
const CONSOLE_LINES_SHOWN: usize = 30;
/// Relative to the directory of the run: the path of a socket is short.
const SOCKET: &str = "shared.sock";

/// Debian's qemu had its own until it became a package.
const VIRTIOFSD: [&str; 2] = ["/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd"];

/// Of the host's, for the machine's processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    /// In which no processor meets code that another is just patching: some guests of those with one each end by that (docs/kernels.md).
    /// It gives way to others: what runs beside it may ask how fast something is.
    One,
    Each,
}

pub struct Machine {
    dir: PathBuf,
    qemu: Child,
    _shared: Shared,
    told: Lines,
}

/// The server of the shared file system.
struct Shared(Child);

/// A file that grows, by its whole lines.
struct Lines {
    file: File,
    rest: Vec<u8>,
}

pub fn virtiofsd() -> Option<PathBuf> {
    VIRTIOFSD.into_iter().map(PathBuf::from).find(|program| program.is_file())
}

impl Machine {
    /// `dir` is for this run alone: disk, console and what is told.
    pub fn start(dir: &Path, kernel: &Kernel, initramfs: &[u8], threads: Threads) -> Result<Machine> {
        let write = |name: &str, bytes: &[u8]| {
            std::fs::write(dir.join(name), bytes).with_context(|| format!("cannot write {name} in {}", dir.display()))
        };
        write("initramfs", initramfs)?;
        write("console", &[])?;
        write("told", &[])?;
        let mut disk = Command::new("/sbin/mke2fs");
        disk.args(["-q", "-F", "-t", "ext4", "disk", DISK]).current_dir(dir);
        crate::process::run(&mut disk)?;
        let shared = Shared::start(dir)?;
        let qemu = qemu(kernel, threads).current_dir(dir).spawn().context("cannot start qemu-system-x86_64")?;
        let file = File::open(dir.join("told")).context("cannot open what the guest tells")?;
        Ok(Machine { dir: dir.to_owned(), qemu, _shared: shared, told: Lines { file, rest: Vec::new() } })
    }

    /// Gives `hear` each thing that is told, until the guest says that it is done.
    pub fn listen(&mut self, silence_max: Duration, mut hear: impl FnMut(Told)) -> Result<()> {
        let (mut heard, mut silence_now_max) = (Instant::now(), BOOTED_WITHIN);
        loop {
            interrupt::check()?;
            let ended = self.qemu.try_wait().context("cannot wait for qemu")?;
            for line in self.told.fresh()? {
                (heard, silence_now_max) = (Instant::now(), silence_max);
                match serde_json::from_str(&line).with_context(|| format!("the guest told no JSON: {line}"))? {
                    Told::Done => return Ok(()),
                    Told::Failed(why) => bail!("the guest cannot go on: {why}\n{}", self.console()),
                    told => hear(told),
                }
            }
            if let Some(status) = ended {
                bail!("the guest ended before it was done ({status}); its last words:\n{}", self.console());
            }
            if heard.elapsed() > silence_now_max {
                bail!("the guest has told nothing for {silence_now_max:?}; its last words:\n{}", self.console());
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn console(&self) -> String {
        let bytes = std::fs::read(self.dir.join("console")).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(CONSOLE_LINES_SHOWN)..].join("\n")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have powered itself off.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        for name in ["disk", SOCKET] {
            let _ = std::fs::remove_file(self.dir.join(name));
        }
    }
}

fn qemu(kernel: &Kernel, threads: Threads) -> Command {
    let accelerator = match threads {
        Threads::One => "tcg,thread=single",
        Threads::Each => "tcg,thread=multi",
    };
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-accel", accelerator, "-cpu", "max", "-smp", &CPUS.to_string(), "-m", MEMORY]);
    // The server of the file system reads and writes the guest's memory.
    qemu.args(["-object", &format!("memory-backend-memfd,id=memory,size={MEMORY},share=on")]);
    qemu.args(["-numa", "node,memdev=memory", "-chardev", &format!("socket,id=shared,path={SOCKET}")]);
    qemu.args(["-device", &format!("vhost-user-fs-pci,chardev=shared,tag={TAG}")]);
    qemu.args(["-drive", "file=disk,format=raw,if=virtio,cache=unsafe", "-device", "virtio-serial-pci"]);
    qemu.args(["-chardev", "file,id=told,path=told", "-device", &format!("virtserialport,chardev=told,name={PORT}")]);
    qemu.args(["-display", "none", "-monitor", "none", "-serial", "file:console", "-nic", "none", "-no-reboot"]);
    qemu.arg("-kernel").arg(&kernel.image).args(["-initrd", "initramfs", "-append"]);
    qemu.arg("console=ttyS0 earlyprintk=serial panic=-1 oops=panic");
    let mut qemu = match threads {
        Threads::One => nicely(&qemu),
        Threads::Each => qemu,
    };
    qemu.stdin(Stdio::null()).stdout(Stdio::null());
    qemu
}

impl Shared {
    fn start(dir: &Path) -> Result<Shared> {
        let program = virtiofsd().context("there is no virtiofsd; run: cargo xtask setup --tests")?;
        let log = File::create(dir.join("shared.log")).context("cannot make a log")?;
        let socket = dir.join(SOCKET);
        let _ = std::fs::remove_file(&socket);
        let mut command = Command::new(program);
        command.arg(format!("--socket-path={SOCKET}")).args([
            "-o",
            "source=/",
            "-o",
            "cache=always",
            "-o",
            "sandbox=chroot",
        ]);
        // A descriptor is kept for each file that the guest knows of: not for each that is in a directory it lists.
        command.args(["-o", "no_readdirplus"]).current_dir(dir);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().with_context(|| format!("cannot start {}", shown(&command)))?;
        let mut shared = Shared(child);
        let began = Instant::now();
        while !socket.exists() {
            let ended = shared.0.try_wait().context("cannot wait for virtiofsd")?.is_some();
            if ended || began.elapsed() > SHARED_WITHIN {
                bail!(
                    "virtiofsd does not serve: {}",
                    std::fs::read_to_string(dir.join("shared.log")).unwrap_or_default()
                );
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(shared)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // It ends by itself with the guest.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Lines {
    fn fresh(&mut self) -> Result<Vec<String>> {
        self.file.read_to_end(&mut self.rest).context("cannot read what the guest tells")?;
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else { return Ok(Vec::new()) };
        let whole: Vec<u8> = self.rest.drain(..=end).collect();
        Ok(String::from_utf8_lossy(&whole).lines().map(str::to_owned).collect())
    }
}
