//! An ext4 that needs repair. Refuses one that is mounted: what is written beside a mount is overwritten by it.

use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

/// A block of an ext4 as they are made here.
const BLOCK_BYTES: u64 = 4096;

/// The kernel has met errors, and the first inodes are nonsense: nothing of that can be put right without a choice.
pub fn damage(image: &Path) {
    // What is mounted is a loop device of it.
    let devices = Command::new("losetup").arg("--associated").arg(image).output().expect("util-linux is there");
    assert!(devices.status.success() && devices.stdout.is_empty(), "{} is in use: {devices:?}", image.display());
    let tool = |program: &str, args: &[&str]| {
        let out = Command::new(program).args(args).arg(image).output().expect("e2fsprogs are there");
        assert!(out.status.success(), "{out:?}");
        String::from_utf8(out.stdout).expect("text")
    };
    let groups = tool("dumpe2fs", &[]);
    let table = groups.lines().find_map(|line| line.trim().strip_prefix("Inode table at ")).expect("a group");
    let block: u64 = table.split('-').next().and_then(|first| first.parse().ok()).expect("a block's number");
    tool("debugfs", &["-w", "-R", "ssv state 2"]);
    let file = std::fs::File::options().write(true).open(image).expect("root may");
    file.write_all_at(&[0xA5; 1024], block * BLOCK_BYTES).expect("it is written");
}
