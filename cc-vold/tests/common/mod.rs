//! What the tests and the benchmark stand on: a SeaweedFS of their own, the program as it is run, loop devices and mounts, each ended with its
//! guard. Refuses to touch what it did not make.
#![allow(dead_code, reason = "each file uses a part of it")]

pub mod weed;

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub use weed::Weed;

/// For what takes as long as it takes, on a busy machine.
pub const SOON: Duration = Duration::from_secs(120);

/// Asks until it is so, and says what was waited for when it does not come.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(began.elapsed() < SOON, "{what}: not within {SOON:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A program of the host, which has to succeed.
pub fn run(program: &str, args: &[&str]) -> String {
    let out = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = [out.stdout, out.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(out.status.success(), "{program} {args:?}: {}: {said}", out.status);
    said
}

/// The program, serving a volume.
pub struct Vold {
    child: Child,
    at: tempfile::TempDir,
    said: std::sync::Arc<std::sync::Mutex<String>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Vold {
    pub fn command(weed: &Weed) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cc-vold"));
        command.envs(weed.environment()).stdin(Stdio::null());
        command
    }

    pub fn serve(weed: &Weed, volume: &str, args: &[&str]) -> Vold {
        Vold::try_serve(weed, volume, args).unwrap_or_else(|said| panic!("cc-vold did not serve: {said}"))
    }

    /// What it said, when it does not come to serve.
    pub fn try_serve(weed: &Weed, volume: &str, args: &[&str]) -> Result<Vold, String> {
        let at = tempfile::tempdir().expect("a directory");
        let mut command = Vold::command(weed);
        command
            .args(["--experimental", "serve", "--store", &weed.url(), "--volume", volume, "--mount"])
            .arg(at.path())
            .args(args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("cc-vold starts");
        let said = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
        let stderr = child.stderr.take().expect("it is piped");
        let into = said.clone();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut said = into.lock().expect("nobody panics with it");
                said.push_str(&line);
                said.push('\n');
            }
        });
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut line).expect("its first line");
        let mut vold = Vold { child, at, said, reader: Some(reader) };
        if line.starts_with("serving") {
            return Ok(vold);
        }
        vold.wait();
        Err(vold.said())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn image(&self) -> PathBuf {
        self.at.path().join("image")
    }

    pub fn open(&self) -> File {
        File::options().read(true).write(true).open(self.image()).expect("the image opens")
    }

    pub fn stats(&self) -> cc_vold::fs::Stats {
        let mut text = String::new();
        File::open(self.at.path().join("stats")).expect("it is there").read_to_string(&mut text).expect("it is read");
        serde_json::from_str(&text).expect("it is JSON")
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("it runs");
    }

    /// As if the host had gone: nothing of it has a last word.
    pub fn kill(mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it is gone");
    }

    /// Asks it to end, and has it end well.
    pub fn end(mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.wait();
        assert!(status.success(), "{status}: {}", self.said());
    }

    pub fn wait(&mut self) -> ExitStatus {
        let status = eventually("the end of cc-vold", || self.child.try_wait().expect("it is our child"));
        if let Some(reader) = self.reader.take() {
            reader.join().expect("it reads to the end");
        }
        status
    }

    pub fn said(&self) -> String {
        self.said.lock().expect("nobody panics with it").clone()
    }
}

impl Drop for Vold {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // One that was killed leaves its mount.
        let _ = umount2(self.at.path(), MntFlags::MNT_DETACH);
    }
}

/// A loop device over an image, with direct I/O and blocks of 4 KiB.
pub struct Loop(PathBuf);

impl Loop {
    pub fn attach(image: &Path) -> Loop {
        let image = image.to_str().expect("a path in UTF-8");
        let said = run("losetup", &["--find", "--show", "--direct-io=on", "--sector-size=4096", image]);
        Loop(PathBuf::from(said.trim()))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn text(&self) -> &str {
        self.0.to_str().expect("a path in UTF-8")
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

/// An ext4 file system, mounted.
pub struct Mounted {
    at: tempfile::TempDir,
    // After the mount.
    _device: Option<Loop>,
}

impl Mounted {
    pub fn mount(device: Loop) -> Mounted {
        let at = tempfile::tempdir().expect("a directory");
        run(
            "mount",
            &["-t", "ext4", "-o", "errors=remount-ro,nosuid,nodev", device.text(), at.path().to_str().expect("UTF-8")],
        );
        Mounted { at, _device: Some(device) }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.at.path().join(name)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Its disk may be gone, and what it cannot write is lost.
        if umount2(self.at.path(), MntFlags::empty()).is_err() {
            let _ = umount2(self.at.path(), MntFlags::MNT_DETACH);
        }
    }
}

/// A block that says which it is, and who wrote it.
pub fn block(number: u64, by: u8) -> Vec<u8> {
    let mut block = vec![by; 4096];
    block[..8].copy_from_slice(&number.to_be_bytes());
    block
}

/// The block of that number in an image, which is read past every cache.
pub fn read_block(image: &File, number: u64) -> Vec<u8> {
    let mut block = vec![0; 4096];
    image.read_exact_at(&mut block, number * 4096).expect("the image is read");
    block
}
