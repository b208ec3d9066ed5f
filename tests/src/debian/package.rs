//! The Debian package of the programs under test.

use std::path::{Path, PathBuf};

use crate::daemon::bin_dir;

pub const UNIT: &str = "/usr/lib/systemd/system/cc-host.service";

/// One that whoever runs the tests has packed already, else one that is packed now, into that directory.
pub fn any(out: &Path) -> PathBuf {
    std::env::var_os("CC_PACKAGE").map_or_else(|| packed(out), PathBuf::from)
}

/// As `cargo xtask dist` packs a release, but that these are the programs under test.
pub fn packed(out: &Path) -> PathBuf {
    let mut command = super::xtask();
    command.args(["dist", "--fast", "--programs"]).arg(bin_dir()).arg("--out").arg(out);
    let packed = command.output().expect("xtask can be started");
    assert!(packed.status.success(), "{}", String::from_utf8_lossy(&packed.stderr));
    let said = String::from_utf8(packed.stdout).expect("a path is text");
    PathBuf::from(said.lines().last().expect("it says where"))
}
