//! What an operator may set, with defaults that work with no file. Refuses to read anything but its own file.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use cc_common::nat::STAND_IN_PREFIX_LEN_MAX;
use ipnet::{Ipv4Net, Ipv6Net};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::kernel::link::PairKind;
use crate::resolver::NameServer;

mod flows;
mod object_store;
#[cfg(test)]
mod packaged;

pub use flows::Flows;
pub use object_store::ObjectStore;

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read configuration file {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("configuration file {path} is not valid: {message}")]
    Parse { path: PathBuf, message: String },
}

/// Where something is served, and whether the daemon may do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Listen {
    /// At the default address, if nobody else is: of many daemons on a machine one is found where people look.
    #[default]
    Default,
    Off,
    /// Nowhere else.
    At(SocketAddr),
}

/// Loopback, and a port among those that exporters use.
pub const METRICS_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9477);
/// Loopback, near the port of TLS.
pub const CONSOLE_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7480);

impl Listen {
    pub fn address(self, default: SocketAddr) -> Option<SocketAddr> {
        match self {
            Listen::Default => Some(default),
            Listen::Off => None,
            Listen::At(address) => Some(address),
        }
    }
}

fn listen<'de, D: Deserializer<'de>>(text: D, key: &str) -> Result<Listen, D::Error> {
    match String::deserialize(text)?.as_str() {
        "" | "off" => Ok(Listen::Off),
        address => address.parse().map(Listen::At).map_err(|_| {
            let like = "neither an address and port such as \"127.0.0.1:9477\" nor \"off\"";
            D::Error::custom(format!("{key} is {address:?}, {like}"))
        }),
    }
}

fn metrics_listen<'de, D: Deserializer<'de>>(text: D) -> Result<Listen, D::Error> {
    listen(text, "metrics_listen")
}

fn console_listen<'de, D: Deserializer<'de>>(text: D) -> Result<Listen, D::Error> {
    listen(text, "console_listen")
}

/// Both ends belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

impl TryFrom<String> for PortRange {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let parsed = text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
        match parsed {
            Some((first, last)) if first <= last => Ok(PortRange { first, last }),
            _ => Err(format!("nat_ports is {text:?}, not a range of ports such as \"61056-65535\"")),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VolumesConfig {
    /// Default: `<state_dir>/volumes`.
    pub dir: Option<PathBuf>,
    /// Of all volumes and disks together, at most; 0: what its file system has but for a twentieth, or what the thin pool has.
    pub pool_bytes: u64,
    /// A thin pool of LVM's, as `GROUP/POOL`, in which volumes are logical volumes instead of files.
    pub lvm_pool: Option<String>,
    /// What may be promised of the thin pool, in hundredths of what it has: beyond 100, its volumes may meet its end.
    pub lvm_promised_percent: LvmPromised,
    /// Where `--persistent` volumes are; without it there are none.
    pub object_store: Option<ObjectStore>,
}

/// From all that the pool has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u32")]
pub struct LvmPromised(pub u32);

impl Default for LvmPromised {
    fn default() -> Self {
        LvmPromised(100)
    }
}

impl TryFrom<u32> for LvmPromised {
    type Error = String;
    fn try_from(percent: u32) -> Result<Self, String> {
        match percent {
            100..=10_000 => Ok(LvmPromised(percent)),
            _ => Err(format!("lvm_promised_percent is {percent}, not from 100 (what the pool has) to 10000")),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DisksConfig {
    /// Disks of containers that are made before anybody asks, at most. None if it is 0.
    pub ready_max: u32,
}

impl Default for DisksConfig {
    fn default() -> Self {
        DisksConfig { ready_max: 4 }
    }
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
    /// Our directory below each cgroup hierarchy's root; default: in what systemd delegated to the daemon's unit, else `cc`.
    pub cgroup_dir: Option<PathBuf>,
    /// The gRPC socket of root; default `<run_dir>/cc.sock`.
    pub socket: Option<PathBuf>,
    /// Also serve TLS here, for signed requests.
    pub listen: Option<SocketAddr>,
    /// Where `/metrics` is served: to anybody on a loopback address, by TLS and a token elsewhere.
    #[serde(deserialize_with = "metrics_listen")]
    pub metrics_listen: Listen,
    /// Where the web console is served to browsers of this host: a loopback address. By `listen` it is served anyhow.
    #[serde(deserialize_with = "console_listen")]
    pub console_listen: Listen,
    /// Names and addresses beyond `listen`'s own that the TLS certificate is good for.
    pub tls_names: Vec<String>,
    /// The interface that leads out, whose MTU decides the containers'; default: the one with the default route.
    pub uplink: Option<String>,
    /// Drop malformed packets at the uplink though nobody is denied there.
    pub guard: bool,
    /// The interfaces by which containers reach out and published ports are reached; default: all Ethernet ones with a default route.
    pub uplinks: Vec<String>,
    /// Projects whose operators may publish ports; admins may anyhow.
    pub publish_projects: Vec<String>,
    /// Projects whose operators may run containers with more than everybody's have: added capabilities, another filter of system calls.
    pub privileged_projects: Vec<String>,
    /// The host's ports from which conversations that leave get theirs, by whole blocks of 64.
    pub nat_ports: PortRange,
    /// Addresses by which the host's own sockets reach containers, of 18 bits or fewer. Nobody else may have them.
    pub stand_ins: Ipv4Net,
    pub stand_ins_v6: Ipv6Net,
    /// Whom the VPCs' resolvers ask for what is not theirs; default: the host's name servers.
    pub dns: Vec<NameServer>,
    /// The containers' MTU; default: the uplink's − 50, the room of a VXLAN header.
    pub mtu: Option<u16>,
    /// What containers' interfaces are.
    pub interfaces: PairKind,
    /// First host uid and gid of the containers' ranges, 65,536 each.
    pub id_base: u32,
    /// How many such ranges.
    pub id_ranges: u32,
    /// Limit of processes of a container that names none.
    pub pids_max: u32,
    /// Inits that wait for containers to be, at most: as many as were started lately. None if it is 0.
    pub parked_max: u32,
    /// End the containers when the daemon stops in order; otherwise they go on, and the next daemon adopts them.
    pub stop_containers: bool,
    /// The shim; default: `cc-shim` beside this program.
    pub shim: Option<PathBuf>,
    /// Refused calls that one source may make in a minute before it is turned away unread.
    pub refusals_per_minute: u32,
    /// How long conversations are remembered, and how many of a container.
    pub flows: Flows,
    /// Where volumes are kept, and how much of it they may have.
    pub volumes: VolumesConfig,
    /// Of containers whose writable layer is limited.
    pub disks: DisksConfig,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            state_dir: "/var/lib/cc".into(),
            run_dir: "/run/cc".into(),
            bpffs_dir: "/sys/fs/bpf/cc".into(),
            cgroup_dir: None,
            socket: None,
            listen: None,
            metrics_listen: Listen::Default,
            console_listen: Listen::Default,
            tls_names: Vec::new(),
            uplink: None,
            guard: false,
            uplinks: Vec::new(),
            publish_projects: Vec::new(),
            privileged_projects: Vec::new(),
            nat_ports: PortRange { first: 61_056, last: 65_535 },
            stand_ins: Ipv4Net::new_assert(Ipv4Addr::new(198, 18, 0, 0), STAND_IN_PREFIX_LEN_MAX),
            stand_ins_v6: Ipv6Net::new_assert(Ipv6Addr::new(0xfd63, 0x6c6f, 0x7564, 0, 0, 0, 0, 0), 112),
            dns: Vec::new(),
            mtu: None,
            interfaces: PairKind::default(),
            id_base: 0x1000_0000,
            id_ranges: 4096,
            pids_max: 4096,
            parked_max: 16,
            stop_containers: false,
            shim: None,
            refusals_per_minute: 60,
            flows: Flows::default(),
            volumes: VolumesConfig::default(),
            disks: DisksConfig::default(),
        }
    }
}

impl Config {
    /// Reads `path`; without one, the defaults.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let Some(path) = path else { return Ok(Config::default()) };
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let bad = |message: String| ConfigError::Parse { path: path.to_owned(), message };
        let config: Config = toml::from_str(&text).map_err(|e| bad(e.message().to_owned()))?;
        let (v4, v6) = (config.stand_ins, config.stand_ins_v6);
        if v4.prefix_len() > STAND_IN_PREFIX_LEN_MAX || v4.trunc() != v4 {
            return Err(bad(format!(
                "stand_ins is {v4}, not a network such as \"198.18.0.0/18\" with room for all containers"
            )));
        }
        if v6.prefix_len() > 112 || v6.trunc() != v6 {
            return Err(bad(format!("stand_ins_v6 is {v6}, not a network such as \"fd63:6c6f:7564::/112\"")));
        }
        Ok(config)
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

    /// One file per volume.
    pub fn volumes_dir(&self) -> PathBuf {
        self.volumes.dir.clone().unwrap_or_else(|| self.state_dir.join("volumes"))
    }

    /// Each volume that is in use is mounted below it.
    pub fn volumes_run_dir(&self) -> PathBuf {
        self.run_dir.join("volumes")
    }

    /// Each persistent volume that is in use is shown as a file below it.
    pub fn vold_run_dir(&self) -> PathBuf {
        self.run_dir.join("vold")
    }

    /// One file per container that has a disk: where the pool is.
    pub fn disks_dir(&self) -> PathBuf {
        self.volumes.dir.as_ref().unwrap_or(&self.state_dir).join("disks")
    }

    /// Each disk that is in use is mounted below it.
    pub fn disks_run_dir(&self) -> PathBuf {
        self.run_dir.join("disks")
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
    fn metrics_are_on_off_or_elsewhere() {
        let read = |text: &str| toml::from_str::<Config>(text).map(|config| config.metrics_listen);
        assert_eq!(read(""), Ok(Listen::Default));
        assert_eq!(read("metrics_listen = ''"), Ok(Listen::Off));
        assert_eq!(read("metrics_listen = 'off'"), Ok(Listen::Off));
        // As the default has it, but meant: then it must not be elsewhere or nowhere.
        assert_eq!(read("metrics_listen = '127.0.0.1:9477'"), Ok(Listen::At(METRICS_DEFAULT)));
        for bad in ["metrics_listen = 'localhost:1'", "metrics_listen = '9477'", "metrics_listen = 9477"] {
            assert!(read(bad).unwrap_err().to_string().contains("metrics_listen"), "{bad}");
        }
    }

    #[test]
    fn name_servers_are_addresses() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        std::fs::write(&file, "dns = ['192.0.2.53', '[2001:db8::53]:5353']\n").unwrap();
        let servers: Vec<String> = Config::load(Some(&file)).unwrap().dns.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["192.0.2.53:53", "[2001:db8::53]:5353"]);
        std::fs::write(&file, "dns = ['dns.example']\n").unwrap();
        let error = Config::load(Some(&file)).unwrap_err().to_string();
        assert!(error.contains("dns.example") && error.contains("ADDRESS:PORT"), "{error}");
    }

    #[test]
    fn ranges_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        let read = |text: &str| {
            std::fs::write(&file, text).unwrap();
            Config::load(Some(&file)).map_err(|error| error.to_string())
        };
        assert_eq!(read("nat_ports = '50000-50127'").unwrap().nat_ports, PortRange { first: 50_000, last: 50_127 });
        for (bad, named) in [
            ("nat_ports = '2-1'", "nat_ports"),
            ("nat_ports = 'many'", "nat_ports"),
            ("stand_ins = '198.18.0.0/24'", "stand_ins"),
            ("stand_ins = '198.18.0.1/18'", "stand_ins"),
            ("stand_ins_v6 = 'fd00::/120'", "stand_ins_v6"),
        ] {
            let error = read(bad).unwrap_err();
            assert!(error.contains(named), "{bad}: {error}");
        }
    }

    #[test]
    fn no_file_means_defaults() {
        assert_eq!(Config::load(None).unwrap().socket(), Path::new("/run/cc/cc.sock"));
    }
}
