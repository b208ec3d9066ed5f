//! A thin pool of LVM's on a file, for machines with a device mapper. Refuses to touch any other.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Gone with the guard.
pub struct Pool {
    dir: PathBuf,
    group: String,
}

impl Pool {
    pub fn new() -> Pool {
        let group = format!("cct{:08x}", rand::random::<u32>());
        let pool = Pool { dir: std::env::temp_dir().join(&group), group };
        pool.script("make");
        pool
    }

    fn script(&self, what: &str) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("vm/thin-pool");
        let status = Command::new(script).arg(what).arg(&self.dir).arg(&self.group).status();
        assert!(status.expect("the script can be run").success(), "thin-pool {what}");
    }

    /// Of a daemon whose volumes are in it.
    pub fn config(&self) -> String {
        format!("volumes.lvm_pool = \"{}/pool\"", self.group)
    }

    /// As volumes in it are told to be.
    pub fn place(&self) -> String {
        format!("lvm-thin {}/pool", self.group)
    }

    pub fn device(&self, volume: &str) -> PathBuf {
        Path::new("/dev").join(&self.group).join(volume)
    }

    /// Devices of the group: the pool's own have names with a dash.
    pub fn devices(&self) -> Vec<String> {
        let all = std::fs::read_dir(self.device("")).into_iter().flatten().flatten();
        all.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name != "pool").collect()
    }
}

impl Default for Pool {
    fn default() -> Self {
        Pool::new()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.script("remove");
    }
}
