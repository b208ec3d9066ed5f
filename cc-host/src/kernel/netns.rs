//! Work inside another network namespace, on a thread that is thrown away afterwards. Refuses to move a thread that anyone
//! else uses: a pool's worker that came back in a wrong namespace would be a hole between containers.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::libc;
use nix::sched::{CloneFlags, setns, unshare};

/// `asm-generic/socket.h`, since Linux 5.14.
const SO_NETNS_COOKIE: libc::c_int = 71;

#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    #[error("cannot open network namespace {path}")]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot start a thread for a network namespace")]
    Thread { source: io::Error },
    #[error("cannot make a network namespace")]
    Create { source: nix::Error },
    #[error("cannot enter a network namespace")]
    Enter { source: nix::Error },
    #[error("the work inside a network namespace panicked")]
    Panicked,
}

/// The network namespace of a process.
pub fn of_pid(pid: u32) -> Result<OwnedFd, NetnsError> {
    open(Path::new(&format!("/proc/{pid}/ns/net")))
}

pub fn open(path: &Path) -> Result<OwnedFd, NetnsError> {
    std::fs::File::open(path).map(OwnedFd::from).map_err(|source| NetnsError::Open { path: path.to_owned(), source })
}

/// The kernel's number for the calling thread's, by which programs tell one from another. Never reused.
pub fn cookie() -> io::Result<u64> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let (mut cookie, mut length) = (0_u64, size_of::<u64>() as libc::socklen_t);
    // SAFETY: the kernel writes as many bytes as `length` says, into a number of that size.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// A new one, in which `settle` has run. It is made on a thread of its own, and lives as long as the descriptor and what is
/// opened in it. Blocks, as `in_netns` does.
pub fn create(settle: impl FnOnce() + Send) -> Result<OwnedFd, NetnsError> {
    on_fresh_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|source| NetnsError::Create { source })?;
        settle();
        open(Path::new("/proc/thread-self/ns/net"))
    })
}

/// Runs `work` on a fresh thread inside `netns` and waits for it. Sockets that it makes stay in that namespace wherever they
/// go afterwards. Blocks: from async code, call it under `spawn_blocking`.
pub fn in_netns<T: Send>(netns: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    on_fresh_thread(|| {
        setns(netns.as_fd(), CloneFlags::CLONE_NEWNET).map_err(|source| NetnsError::Enter { source })?;
        Ok(work())
    })
}

fn on_fresh_thread<T: Send>(work: impl FnOnce() -> Result<T, NetnsError> + Send) -> Result<T, NetnsError> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("cc-netns".to_owned())
            .spawn_scoped(scope, work)
            .map_err(|source| NetnsError::Thread { source })?
            .join()
            .map_err(|_| NetnsError::Panicked)?
    })
}
