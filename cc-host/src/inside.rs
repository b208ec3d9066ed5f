//! `openat2` for paths that must not lead out of a directory. Refuses to give up because something was renamed elsewhere.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::path::Arg;

/// Where a path has `..` in it (its links count), the kernel says EAGAIN if anything on the whole host was renamed or mounted meanwhile: it
/// cannot tell that `..` stayed inside (openat2(2)). That is for the caller to do again. The bound is for what would never end: a lease on a
/// file that is opened without waiting is told by the same number.
const ATTEMPTS: usize = 10_000;

pub fn open<P: Arg + Copy>(
    dir: impl AsFd,
    path: P,
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    let dir = dir.as_fd();
    for _ in 1..ATTEMPTS {
        match openat2(dir, path, flags | OFlags::CLOEXEC, mode, resolve) {
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
    openat2(dir, path, flags | OFlags::CLOEXEC, mode, resolve)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// How many of 20,000 opens through `..` fail while others rename.
    fn failures(open: impl Fn(&OwnedFd) -> rustix::io::Result<OwnedFd>) -> usize {
        let dir = tempfile::tempdir().unwrap();
        let (root, busy) = (dir.path().join("root"), dir.path().join("busy"));
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::create_dir(&busy).unwrap();
        std::fs::write(root.join("file"), "").unwrap();
        std::os::unix::fs::symlink("../../../../file", root.join("a/b/link")).unwrap();
        let root = rustix::fs::open(&root, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let (over, one, two) = (&over, busy.join(format!("{thread}-one")), busy.join(format!("{thread}-two")));
                scope.spawn(move || {
                    std::fs::write(&one, "").unwrap();
                    while !over.load(Ordering::Relaxed) {
                        std::fs::rename(&one, &two).unwrap();
                        std::fs::rename(&two, &one).unwrap();
                    }
                });
            }
            let failed = (0..20_000).filter(|_| open(&root).is_err()).count();
            over.store(true, Ordering::Relaxed);
            failed
        })
    }

    #[test]
    fn renames_elsewhere_keep_nobody_from_opening() {
        let (path, flags, resolve) = ("a/b/link", OFlags::PATH, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS);
        // Two processors at least have to meet for it.
        let bound = std::time::Instant::now() + std::time::Duration::from_secs(30);
        let control = || failures(|root| openat2(root, path, flags, Mode::empty(), resolve));
        while control() == 0 {
            assert!(std::time::Instant::now() < bound, "the control never fails");
        }
        assert_eq!(failures(|root| open(root, path, flags, Mode::empty(), resolve)), 0);
    }
}
