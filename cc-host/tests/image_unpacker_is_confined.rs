//! The unpacking child has given up its powers before it reads the first byte. Needs root.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod image_support;
use image_support::*;

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn unpacker(at: &Path) -> Running {
    let program = env!("CARGO_BIN_EXE_cc-host");
    let child = Command::new(program)
        .arg("unpack-layer")
        .current_dir(at)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    Running(child.unwrap())
}

#[test]
fn powers_are_gone_before_the_first_entry() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = unpacker(dir.path());
    // It now waits for the rest of the second entry.
    let bytes = tar_of(&[file("first", b""), file("second", &[1; 2000])]);
    child.0.stdin.as_mut().unwrap().write_all(&bytes[..1200]).unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while !exists(&dir.path().join("second")) {
        assert!(Instant::now() < until, "the unpacker did not begin");
        std::thread::yield_now();
    }
    let proc = std::path::PathBuf::from(format!("/proc/{}", child.0.id()));
    let status = std::fs::read_to_string(proc.join("status")).unwrap();
    let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap().trim().to_owned();
    // CHOWN 0, DAC_OVERRIDE 1, FOWNER 3, FSETID 4, SETFCAP 31.
    let kept = format!("{:016x}", 0b11011u64 | 1 << 31);
    for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
        assert_eq!(field(set), kept, "{set}");
    }
    assert_eq!((field("CapInh:"), field("CapAmb:")), ("0".repeat(16), "0".repeat(16)));
    assert_eq!(field("NoNewPrivs:"), "1");
    for ns in ["net", "mnt", "ipc", "uts"] {
        let of = |pid: &Path| std::fs::read_link(pid.join("ns").join(ns)).unwrap();
        assert_ne!(of(&proc), of(Path::new("/proc/self")), "{ns}");
    }
    let mounts = std::fs::read_to_string(proc.join("mountinfo")).unwrap();
    assert_eq!(mounts.lines().count(), 1, "mounts of the host are left:\n{mounts}");
    assert!(!exists(&proc.join("root/etc")), "the host's files are in sight");
}

/// A name of gigabytes, which the parser would read whole, ends the child and nothing else.
#[test]
fn a_name_of_gigabytes_ends_the_child() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = unpacker(dir.path());
    let mut head = tar_of(&[Entry { size: Some(6 << 30), ..entry("././@LongLink", b'L') }]);
    head.truncate(512);
    let mut stdin = child.0.stdin.take().unwrap();
    stdin.write_all(&head).unwrap();
    let chunk = vec![b'a'; 1 << 20];
    let written = (0..3000).take_while(|_| stdin.write_all(&chunk).is_ok()).count();
    assert!(written < 1024, "it took {written} MiB");
    drop(stdin);
    assert!(!child.0.wait().unwrap().success());
}
