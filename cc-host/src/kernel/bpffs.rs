//! Makes sure that a directory lies on a BPF filesystem, mounting one where there is none. Refuses to unmount: pins keep what
//! they name alive, and that is the point of them.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

/// Where every system keeps its BPF filesystem.
const SYSTEM_DIR: &str = "/sys/fs/bpf";

#[derive(Debug, thiserror::Error)]
pub enum BpffsError {
    #[error("cannot make directory {path}")]
    MakeDir { path: PathBuf, source: io::Error },
    #[error("cannot tell the filesystem of {path}")]
    Statfs { path: PathBuf, source: nix::Error },
    #[error("cannot mount a BPF filesystem on {path}")]
    Mount { path: PathBuf, source: nix::Error },
}

/// After this, `dir` exists and is on a BPF filesystem: the system's if `dir` is below it, otherwise one of its own.
pub fn ensure(dir: &Path) -> Result<(), BpffsError> {
    if dir.exists() && is_bpffs(dir)? {
        return Ok(());
    }
    let system = Path::new(SYSTEM_DIR);
    if dir.starts_with(system) {
        if !is_bpffs(system)? {
            mount_on(system)?;
        }
        return make_dir(dir);
    }
    make_dir(dir)?;
    mount_on(dir)
}

/// A directory that only root may enter: whoever can open a pin can change what it names.
pub fn make_dir(path: &Path) -> Result<(), BpffsError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| BpffsError::MakeDir { path: path.to_owned(), source })
}

fn is_bpffs(path: &Path) -> Result<bool, BpffsError> {
    let stat = statfs(path).map_err(|source| BpffsError::Statfs { path: path.to_owned(), source })?;
    Ok(stat.filesystem_type() == BPF_FS_MAGIC)
}

fn mount_on(path: &Path) -> Result<(), BpffsError> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpffs"), path, Some("bpf"), flags, Some("mode=0700"))
        .map_err(|source| BpffsError::Mount { path: path.to_owned(), source })
}
