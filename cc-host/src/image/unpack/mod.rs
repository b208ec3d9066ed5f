//! The child that unpacks one layer: a tar on stdin becomes files below its working directory, a report goes to stdout. It
//! gives up every power it does not need before it reads the first byte. Refuses to see the network or the host's files.

mod confine;
mod entry;
pub mod landlock;
mod path;
mod tree;

use std::io::{Read, Write};
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

/// The hidden subcommand's name.
pub const SUBCOMMAND: &str = "unpack-layer";

/// What the child tells the daemon. The daemon believes none of it beyond what it says about this one layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    Done {
        bytes: u64,
        entries: u64,
        /// Directories that hide what is below them. The attribute that says so needs CAP_SYS_ADMIN, which the child
        /// does not have: the daemon sets it.
        opaque: Vec<Vec<u8>>,
        /// Device nodes that were left out: in a user namespace nobody could open them.
        devices_skipped: u64,
    },
    /// The layer is broken or hostile.
    Refused(String),
    /// We could not do it, and the layer is not to blame.
    Failed(String),
}

/// Why a layer stops being unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("{0}")]
    Refused(String),
    #[error("cannot {operation} {path:?}")]
    Disk { operation: &'static str, path: String, source: std::io::Error },
}

/// `main` for `cc-host unpack-layer`: call it before any thread is started.
pub fn child_main(_args: impl Iterator<Item = std::ffi::OsString>) -> ExitCode {
    let report = match confine::enter() {
        Ok(root) => unpack(std::io::stdin().lock(), root),
        Err(error) => Report::Failed(format!("cannot confine the unpacker: {error}")),
    };
    let done = matches!(report, Report::Done { .. });
    let written = serde_json::to_vec(&report).is_ok_and(|bytes| std::io::stdout().lock().write_all(&bytes).is_ok());
    if done && written { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Unpacks `tar` below `root` and reads it to its end, so that the daemon can hash what follows the archive too.
pub(super) fn unpack(mut tar: impl Read, root: std::os::fd::OwnedFd) -> Report {
    let result = entry::unpack_all(&mut tar, root);
    match result {
        Ok(report) => match std::io::copy(&mut tar, &mut std::io::sink()) {
            Ok(_) => report,
            Err(e) => Report::Failed(format!("cannot read the layer: {e}")),
        },
        Err(UnpackError::Refused(reason)) => Report::Refused(reason),
        Err(error @ UnpackError::Disk { .. }) => {
            let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            Report::Failed(format!("{error}: {source}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without the child around it: the host is in sight, and the paths alone have to stay inside.
    #[test]
    fn a_link_leads_nowhere_outside_even_where_the_outside_is_in_sight() {
        let dir = tempfile::tempdir().unwrap();
        let (layer, outside) = (dir.path().join("layer"), dir.path().join("outside"));
        std::fs::create_dir(&layer).unwrap();
        std::fs::create_dir(&outside).unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        for (name, link) in [("absolute", outside.clone()), ("upward", "../outside".into())] {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mode(0o777);
            tar.append_link(&mut header, name, link).unwrap();
        }
        for name in ["absolute/file", "upward/file"] {
            let mut header = tar::Header::new_gnu();
            header.set_size(7);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, &b"escaped"[..]).unwrap();
        }
        let root = std::fs::File::open(&layer).unwrap();
        let report = unpack(&tar.into_inner().unwrap()[..], root.into());
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "{report:?}");
        assert!(matches!(report, Report::Refused(_)), "{report:?}");
    }
}
