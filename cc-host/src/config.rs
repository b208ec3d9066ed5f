//! What an operator may set, with defaults that work with no file. Refuses to read anything but its own file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read configuration file {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("configuration file {path} is not valid: {message}")]
    Parse { path: PathBuf, message: String },
}

/// Many daemons run side by side on one machine when each has its own directories, bpffs directory, cgroup directory,
/// range of ids and network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What must survive a reboot: the store, images, writable layers, logs, TLS keys.
    pub state_dir: PathBuf,
    /// What must not: sockets, and one directory per container.
    pub run_dir: PathBuf,
    /// Pinned maps, programs and links go to `v<ABI>` below it. Mounted if it is not on a bpffs yet.
    pub bpffs_dir: PathBuf,
    /// Our directory below each cgroup hierarchy's root.
    pub cgroup_dir: PathBuf,
    /// The gRPC socket of root; default `<run_dir>/cc.sock`.
    pub socket: Option<PathBuf>,
    /// Also serve TLS here, for signed requests.
    pub listen: Option<SocketAddr>,
    /// Names and addresses beyond `listen`'s own that the TLS certificate is good for.
    pub tls_names: Vec<String>,
    /// The interface that leads out, whose MTU decides the containers'; default: the one with the default route.
    pub uplink: Option<String>,
    /// The containers' MTU; default: the uplink's − 50, the room of a VXLAN header.
    pub mtu: Option<u16>,
    /// First host uid and gid of the containers' ranges, 65,536 each.
    pub id_base: u32,
    /// How many such ranges.
    pub id_ranges: u32,
    /// Limit of processes of a container that names none.
    pub pids_max: u32,
    /// End the containers when the daemon stops in order; otherwise they go on, and the next daemon adopts them.
    pub stop_containers: bool,
    /// The shim; default: `cc-shim` beside this program.
    pub shim: Option<PathBuf>,
    /// Refused calls that one source may make in a minute before it is turned away unread.
    pub refusals_per_minute: u32,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            state_dir: "/var/lib/cc".into(),
            run_dir: "/run/cc".into(),
            bpffs_dir: "/sys/fs/bpf/cc".into(),
            cgroup_dir: "cc".into(),
            socket: None,
            listen: None,
            tls_names: Vec::new(),
            uplink: None,
            mtu: None,
            id_base: 0x1000_0000,
            id_ranges: 4096,
            pids_max: 4096,
            stop_containers: false,
            shim: None,
            refusals_per_minute: 60,
        }
    }
}

impl Config {
    /// Reads `path`; without one, the defaults.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let Some(path) = path else { return Ok(Config::default()) };
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        toml::from_str(&text).map_err(|e| ConfigError::Parse { path: path.to_owned(), message: e.message().to_owned() })
    }

    pub fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| self.run_dir.join("cc.sock"))
    }

    /// One directory per container below it, gone after a reboot.
    pub fn containers_run_dir(&self) -> PathBuf {
        self.run_dir.join("containers")
    }

    /// One directory per container below it: writable layer, logs.
    pub fn containers_state_dir(&self) -> PathBuf {
        self.state_dir.join("containers")
    }

    pub fn images_dir(&self) -> PathBuf {
        self.state_dir.join("images")
    }

    pub fn store_path(&self) -> PathBuf {
        self.state_dir.join("store.sqlite")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        std::fs::write(&file, "sate_dir = '/x'\n").unwrap();
        let error = Config::load(Some(&file)).unwrap_err().to_string();
        assert!(error.contains("sate_dir"), "{error}");
    }

    #[test]
    fn no_file_means_defaults() {
        assert_eq!(Config::load(None).unwrap().socket(), Path::new("/run/cc/cc.sock"));
    }
}
