//! What the unpacking child may still reach, said to the kernel once more by Landlock: files below its layer, no network, no socket and no
//! process outside. It stands behind the namespaces and the missing capabilities, should one of them have a hole. Refuses to be taken back.

use std::os::fd::AsFd;

use ::landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, PathBeneath, RestrictionStatus, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, Scope,
};

use crate::mutation::{self, Control};

/// The newest that was tried. Of an older kernel's, what it has is used.
const TRIED: ABI = ABI::V6;

/// This thread, and whatever it starts, for good. A kernel without Landlock is not refused: `cc-host check` tells of it.
pub fn restrict_to(root: impl AsFd) -> Result<(), RulesetError> {
    if mutation::off(Control::UnpackLandlock) {
        return Ok(());
    }
    restrict(Some(root)).map(drop)
}

/// Asked of a thread that ends with the answer.
pub fn available() -> (bool, String) {
    let asked = std::thread::spawn(|| restrict(None::<std::os::fd::OwnedFd>)).join();
    match asked {
        Ok(Ok(RestrictionStatus { landlock: LandlockStatus::Available { effective_abi, .. }, .. })) => {
            (true, format!("version {}", effective_abi as i32))
        }
        Ok(Ok(status)) if status.landlock == LandlockStatus::NotEnabled => {
            (false, "in the kernel, and not enabled".to_owned())
        }
        Ok(Ok(_)) => (false, "not in the kernel".to_owned()),
        Ok(Err(error)) => (false, error.to_string()),
        Err(_) => (false, "the attempt panicked".to_owned()),
    }
}

fn restrict(root: Option<impl AsFd>) -> Result<RestrictionStatus, RulesetError> {
    let ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(TRIED))?
        .handle_access(AccessNet::from_all(TRIED))?
        .scope(Scope::from_all(TRIED))?
        .create()?;
    let ruleset = match root {
        Some(root) => ruleset.add_rule(PathBeneath::new(root, needed()))?,
        None => ruleset,
    };
    ruleset.restrict_self()
}

/// Nothing is executed, and of nodes only whiteouts (character devices to the kernel) and fifos are made.
fn needed() -> BitFlags<AccessFs> {
    let not = AccessFs::Execute | AccessFs::MakeSock | AccessFs::MakeBlock | AccessFs::IoctlDev;
    AccessFs::from_all(TRIED) & !not
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same system calls as another thread's, from one that is restricted.
    #[test]
    fn nothing_but_the_layer_can_be_reached() {
        let dir = tempfile::tempdir().unwrap();
        let (layer, outside) = (dir.path().join("layer"), dir.path().join("outside"));
        for made in [&layer, &outside] {
            std::fs::create_dir(made).unwrap();
            std::fs::write(made.join("file"), "x").unwrap();
        }
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap();
        let restricted = std::thread::spawn(move || {
            let root = std::fs::File::open(&layer).unwrap();
            // Opened before: what is open stays open, so the child opens nothing of the host's before.
            restrict_to(&root).unwrap();
            assert!(std::fs::read(layer.join("file")).is_ok() && std::fs::write(layer.join("new"), "y").is_ok());
            std::fs::create_dir(layer.join("dir")).unwrap();
            std::fs::hard_link(layer.join("file"), layer.join("dir/linked")).unwrap();
            std::fs::rename(layer.join("new"), layer.join("dir/moved")).unwrap();
            std::fs::OpenOptions::new().write(true).open(layer.join("file")).unwrap().set_len(1 << 20).unwrap();
            rustix::fs::mknodat(&root, "whiteout", rustix::fs::FileType::CharacterDevice, 0.into(), 0).unwrap();
            assert!(!is_open(&outside.join("file")) && !is_open(std::path::Path::new("/etc/passwd")));
            assert!(!is_open(&layer.join("../outside/file")));
            assert!(std::fs::write(outside.join("new"), "").is_err() && std::fs::read_dir(&outside).is_err());
            assert!(std::fs::hard_link(layer.join("file"), outside.join("linked")).is_err());
            assert!(std::fs::remove_file(outside.join("file")).is_err());
            assert!(std::net::TcpStream::connect(port).is_err() && std::net::TcpListener::bind("127.0.0.1:0").is_err());
            assert!(std::process::Command::new("/bin/true").status().is_err());
        });
        restricted.join().unwrap();
        assert!(is_open(&dir.path().join("outside/file")), "who is not restricted is not restricted");
    }

    fn is_open(path: &std::path::Path) -> bool {
        std::fs::File::open(path).is_ok()
    }
}
