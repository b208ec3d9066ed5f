//! Removing a container's directory, whatever it made of it: any depth, any number of entries, with a dozen descriptors. Refuses
//! to follow symbolic links. Nobody else writes to the tree any more, but another may be removing it: one that is to go at its end,
//! and is removed by force as well.

use std::io::{self, ErrorKind};
use std::path::Path;

/// Levels that are walked at once: 12 names of 255 bytes stay below the 4,096 that a path may have.
const DEPTH_MAX: usize = 12;

/// Removes `root` and all below it; one that is not there is fine.
pub(super) fn remove_tree(root: &Path) -> io::Result<()> {
    let mut moved = 0;
    loop {
        match std::fs::remove_dir(root) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => clear(root, root, 0, &mut moved)?,
            Err(error) => return Err(error),
        }
    }
}

/// What lies deeper than is walked moves up to the root, for the next round. The root itself is ours, so no name in it is the
/// container's.
fn clear(root: &Path, dir: &Path, depth: usize, moved: &mut u64) -> io::Result<()> {
    let Some(entries) = unless_gone(std::fs::read_dir(dir))? else { return Ok(()) };
    for entry in entries {
        let Some(entry) = unless_gone(entry)? else { continue };
        let path = entry.path();
        let Some(kind) = unless_gone(entry.file_type())? else { continue };
        if !kind.is_dir() {
            unless_gone(std::fs::remove_file(&path))?;
        } else if depth == DEPTH_MAX {
            move_up(root, &path, moved)?;
        } else {
            clear(root, &path, depth + 1, moved)?;
            unless_gone(std::fs::remove_dir(&path))?;
        }
    }
    Ok(())
}

/// Under a name that another removal, now or before, has not given.
fn move_up(root: &Path, path: &Path, moved: &mut u64) -> io::Result<()> {
    loop {
        *moved += 1;
        match unless_gone(std::fs::rename(path, root.join(format!(".deep-{moved}")))) {
            Err(error) if matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) => {}
            done => return done.map(drop),
        }
    }
}

fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_deeper_than_any_path_goes() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("c");
        std::fs::create_dir_all(root.join("upper")).unwrap();
        let outside = dir.path().join("outside");
        std::fs::write(&outside, "kept").unwrap();
        std::os::unix::fs::symlink(&outside, root.join("upper/link")).unwrap();
        // By descriptors, as the path would soon be too long.
        let mut at: std::os::fd::OwnedFd = std::fs::File::open(root.join("upper")).unwrap().into();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "a-name-of-some-length", 0o755.into()).unwrap();
            let flags = rustix::fs::OFlags::DIRECTORY;
            at = rustix::fs::openat(&at, "a-name-of-some-length", flags, 0.into()).unwrap();
        }
        // As a daemon that was killed while it removed one leaves it.
        std::fs::create_dir_all(root.join(".deep-1/kept")).unwrap();
        remove_tree(&root).unwrap();
        assert!(!root.exists());
        assert_eq!(std::fs::read_to_string(outside).unwrap(), "kept");
        remove_tree(&root).unwrap();
    }

    #[test]
    fn two_that_remove_one_tree_both_succeed() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..50 {
            let root = dir.path().join("c");
            for n in 0..20 {
                std::fs::create_dir_all(root.join(format!("a/b{n}/{}", "d/".repeat(DEPTH_MAX + 2)))).unwrap();
                std::fs::write(root.join(format!("a/b{n}/file")), "").unwrap();
            }
            let start = std::sync::Barrier::new(2);
            std::thread::scope(|scope| {
                let remove = || {
                    start.wait();
                    remove_tree(&root).unwrap();
                };
                scope.spawn(remove);
                scope.spawn(remove);
            });
            assert!(!root.exists());
        }
    }
}
