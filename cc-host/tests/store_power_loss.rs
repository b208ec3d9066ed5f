//! Power loss: a store on a disk of its own is written to, the disk is copied as it is in the middle of that, and whatever was
//! acknowledged before the copy is in it. The control writes without syncing, and must lose: else this test could not fail.
//!
//! The disk is a file behind a loop device with ext4 on it: what the file system has not been made to write is not in the file,
//! as with a power cut.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use cc_host::store::{Op, SqliteStore, Store, Txn};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PATH_VARIABLE: &str = "CC_STORE_POWER_PATH";
const SYNCED_VARIABLE: &str = "CC_STORE_POWER_SYNCED";
/// With the first variable set, it is the child.
const CHILDS_TEST: &str = "what_was_acknowledged_is_on_the_disk";
const DISK_BYTES: u64 = 24 << 20;
const ACKS: usize = 60;
/// One at a time: a program that the other one starts has, until it is another program, this one's open files, and with them its disk.
static ALONE: Mutex<()> = Mutex::new(());

/// The child's part, in this same program: writes one number after the other and acknowledges each, until it is killed.
async fn write(path: &Path) {
    let synced = std::env::var_os(SYNCED_VARIABLE).is_some();
    let store = SqliteStore::open(path).unwrap();
    for i in 0.. {
        let put = |kind: &str| Op::Put { key: format!("{kind}/{i:08}"), value: vec![b'x'; 200], lease: None };
        // Between those that are acknowledged, one that nobody is told of.
        let _: Txn = store.txn_unsynced(vec![], vec![put("quiet")]).await.unwrap();
        let ops = vec![put("n")];
        let _: Txn = if synced { store.txn(vec![], ops).await } else { store.txn_unsynced(vec![], ops).await }.unwrap();
        rustix::io::write(rustix::stdio::stderr(), format!("ack {i}\n").as_bytes()).unwrap();
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// A disk in a file, mounted where only this thread sees it.
struct Disk {
    file: PathBuf,
    place: PathBuf,
}

impl Disk {
    fn mount(file: PathBuf, place: PathBuf) -> Disk {
        std::fs::create_dir(&place).unwrap();
        // Unmounting ends the loop device, too.
        run(Command::new("mount").args(["-t", "ext4", "-o", "loop"]).arg(&file).arg(&place));
        Disk { file, place }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = nix::mount::umount(&self.place);
        if !std::thread::panicking() {
            unmounted.unwrap();
        }
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Cuts the power in the middle of writing. Returns how many writes were acknowledged, and how many the disk has.
fn cut_while_writing(dir: &Path, synced: bool) -> (usize, usize) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    unshare(CloneFlags::CLONE_NEWNS).expect("this test needs root");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    let image = dir.join("disk");
    std::fs::File::create(&image).unwrap().set_len(DISK_BYTES).unwrap();
    run(Command::new("mkfs.ext4").arg("-q").arg(&image));
    let disk = Disk::mount(image, dir.join("mounted"));

    // The file itself is made before: what is asked here is what becomes of writes.
    drop(SqliteStore::open(&disk.place.join("s")).unwrap());
    nix::unistd::sync();
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", CHILDS_TEST, "--nocapture"]).env(PATH_VARIABLE, disk.place.join("s"));
    if synced {
        child.env(SYNCED_VARIABLE, "1");
    }
    let mut child = child.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let acknowledged = |line: String| line.strip_prefix("ack ").and_then(|number| number.parse::<usize>().ok());
    let mut last = (&mut said).filter_map(acknowledged).nth(ACKS).unwrap();

    let pid = Pid::from_raw(child.id().cast_signed());
    kill(pid, Signal::SIGSTOP).unwrap();
    std::fs::copy(&disk.file, dir.join("copy")).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    // What it said until it was stopped is still in the pipe.
    last = said.filter_map(acknowledged).last().unwrap_or(last);
    drop(disk);

    let found = Disk::mount(dir.join("copy"), dir.join("found"));
    let keys = block_on(async {
        let store = SqliteStore::open(&found.place.join("s")).unwrap();
        let (kvs, _) = store.range("n/").await.unwrap();
        kvs.into_iter().map(|kv| kv.key).collect::<Vec<_>>()
    });
    // Its thread closes the file on its own time, after the last handle.
    wait_until_closed(&found.place);
    let expected: Vec<String> = (0..keys.len()).map(|i| format!("n/{i:08}")).collect();
    assert_eq!(keys, expected, "what is there has no holes");
    (last + 1, keys.len())
}

/// Waits until nothing of this process is open below `place`.
fn wait_until_closed(place: &Path) {
    for _ in 0..200 {
        let open =
            std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        if !open.into_iter().any(|path| path.starts_with(place)) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("the store below {} stays open", place.display());
}

#[test]
fn what_was_acknowledged_is_on_the_disk() {
    if let Some(path) = std::env::var_os(PATH_VARIABLE) {
        return block_on(write(Path::new(&path)));
    }
    let dir = tempfile::tempdir().unwrap();
    let (acknowledged, found) = cut_while_writing(dir.path(), true);
    assert!(acknowledged > ACKS && found >= acknowledged, "{acknowledged} were acknowledged, {found} are there");
    assert!(found <= acknowledged + 1, "no more than the one that was on its way");
}

#[test]
fn without_syncing_this_test_sees_the_loss() {
    let dir = tempfile::tempdir().unwrap();
    let (acknowledged, found) = cut_while_writing(dir.path(), false);
    assert!(found < acknowledged, "{acknowledged} were written, and all are there: this test shows nothing");
}
