//! Which name servers are asked for what is not ours: those of the configuration, or those that the host itself uses, read again
//! when its list changes. Refuses to ask them.

use std::fmt;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use nix::net::if_::if_nametoindex;
use serde::Deserialize;

use super::limits::{SERVERS_FRESH, SERVERS_MAX};

/// Where a host lists its own.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";
pub(super) const PORT: u16 = 53;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameServerError {
    #[error("{0:?} is not an address or ADDRESS:PORT, as in 192.0.2.53 or [2001:db8::53]:5353")]
    Syntax(String),
    #[error("{0} is no machine's address")]
    Nobody(IpAddr),
}

/// The address of a name server, on port 53 unless it says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct NameServer(SocketAddr);

impl NameServer {
    pub fn parse(text: &str) -> Result<Self, NameServerError> {
        let with_port = || text.parse::<SocketAddr>().ok().filter(|address| address.port() != 0);
        let address = match text.parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, PORT),
            Err(_) => with_port().ok_or_else(|| NameServerError::Syntax(text.to_owned()))?,
        };
        NameServer::checked(address)
    }

    /// The system would take an unspecified address for the host's own, where nobody was meant.
    fn checked(address: SocketAddr) -> Result<Self, NameServerError> {
        let ip = address.ip();
        let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
        if ip.is_unspecified() || ip.is_multicast() || broadcast {
            return Err(NameServerError::Nobody(ip));
        }
        Ok(NameServer(address))
    }
}

impl TryFrom<String> for NameServer {
    type Error = NameServerError;
    fn try_from(text: String) -> Result<Self, NameServerError> {
        NameServer::parse(&text)
    }
}

impl fmt::Display for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whom a VPC's resolver asks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Upstreams {
    /// Whom the host asks: what its `resolv.conf` says at the time.
    #[default]
    Host,
    /// These, the first three of them.
    Servers(Vec<NameServer>),
}

/// The configuration's `dns`: none means the host's.
impl From<&[NameServer]> for Upstreams {
    fn from(servers: &[NameServer]) -> Upstreams {
        if servers.is_empty() { Upstreams::Host } else { Upstreams::Servers(servers.to_vec()) }
    }
}

/// The host's list, as it was when it was last looked at.
#[derive(Debug)]
pub(super) struct HostServers {
    path: PathBuf,
    seen: Mutex<Option<Seen>>,
}

#[derive(Debug)]
struct Seen {
    at: Instant,
    version: Option<Version>,
    servers: Arc<[SocketAddr]>,
}

/// What changes when a file does, be it written or replaced.
type Version = (u64, u64, u64, i64, i64);

impl HostServers {
    pub(super) fn of(path: &Path) -> Self {
        HostServers { path: path.to_owned(), seen: Mutex::new(None) }
    }

    /// A file that cannot be read names nobody.
    pub(super) fn now(&self) -> Arc<[SocketAddr]> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = seen.as_ref().filter(|seen| seen.at.elapsed() < SERVERS_FRESH) {
            return Arc::clone(&seen.servers);
        }
        // Before it is read: a change in between is then seen the next time.
        let version = version(&self.path);
        let servers = match seen.take() {
            Some(seen) if version.is_some() && seen.version == version => seen.servers,
            _ => parse_resolv_conf(&std::fs::read_to_string(&self.path).unwrap_or_default()).into(),
        };
        *seen = Some(Seen { at: Instant::now(), version, servers: Arc::clone(&servers) });
        servers
    }
}

fn version(path: &Path) -> Option<Version> {
    let file = std::fs::metadata(path).ok()?;
    Some((file.dev(), file.ino(), file.len(), file.mtime(), file.mtime_nsec()))
}

fn parse_resolv_conf(text: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let address = words.next().filter(|&keyword| keyword == "nameserver").and(words.next())?;
        let address = match address.split_once('%') {
            Some((ip, interface)) => {
                let scope = interface.parse().ok().or_else(|| if_nametoindex(interface).ok())?;
                SocketAddrV6::new(ip.parse().ok()?, PORT, 0, scope).into()
            }
            None => SocketAddr::new(address.parse().ok()?, PORT),
        };
        Some(NameServer::checked(address).ok()?.0)
    };
    text.lines().filter_map(server).take(SERVERS_MAX).collect()
}

impl Upstreams {
    pub(super) fn now(&self, host: &HostServers) -> Arc<[SocketAddr]> {
        match self {
            Upstreams::Host => host.now(),
            Upstreams::Servers(servers) => servers.iter().map(|server| server.0).take(SERVERS_MAX).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> Vec<String> {
        parse_resolv_conf(text).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn name_servers_are_parsed_at_the_door() {
        let text = |text: &str| NameServer::parse(text).map(|server| server.to_string());
        assert_eq!(text("192.0.2.53").unwrap(), "192.0.2.53:53");
        assert_eq!(text("192.0.2.53:5353").unwrap(), "192.0.2.53:5353");
        assert_eq!(text("2001:db8::53").unwrap(), "[2001:db8::53]:53");
        assert_eq!(text("[2001:db8::53]:5353").unwrap(), "[2001:db8::53]:5353");
        for bad in ["", "dns.example", "192.0.2.53:0", "192.0.2.53:", "192.0.2"] {
            assert!(matches!(text(bad), Err(NameServerError::Syntax(_))), "{bad}");
        }
        for nobody in ["0.0.0.0", "::", "224.0.0.251:5353", "255.255.255.255", "ff02::fb"] {
            assert!(matches!(text(nobody), Err(NameServerError::Nobody(_))), "{nobody}");
        }
    }

    #[test]
    fn the_hosts_list() {
        let text = "# nameserver 192.0.2.1\n;nameserver 192.0.2.2\nsearch example.com\nnameserver 127.0.0.53\n\
                    nameserver\t2001:db8::1 # comment\nnameserver not-an-address\nnameserver 0.0.0.0\n\
                    nameserverx 192.0.2.3\nnameserver\nnameserver fe80::1%lo\nnameserver 192.0.2.4\n";
        assert_eq!(parsed(text), ["127.0.0.53:53", "[2001:db8::1]:53", "[fe80::1%1]:53"]);
        assert_eq!(parsed("nameserver fe80::1%no-such\noptions edns0"), Vec::<String>::new());
    }

    #[test]
    fn a_list_that_changes_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        let host = HostServers::of(&path);
        let later = || host.seen.lock().unwrap().as_mut().unwrap().at -= SERVERS_FRESH;
        assert!(host.now().is_empty());
        std::fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
        assert!(host.now().is_empty(), "it was looked at just now");
        later();
        assert_eq!(host.now()[0].to_string(), "192.0.2.1:53");
        std::fs::write(dir.path().join("new"), "nameserver 192.0.2.2\n").unwrap();
        std::fs::rename(dir.path().join("new"), &path).unwrap();
        later();
        assert_eq!(host.now()[0].to_string(), "192.0.2.2:53");
        std::fs::remove_file(&path).unwrap();
        later();
        assert!(host.now().is_empty());
    }

    #[test]
    fn what_is_configured_rules() {
        let host = HostServers::of(Path::new("/nonexistent"));
        let servers: Vec<_> = (1..=4).map(|n| NameServer::parse(&format!("192.0.2.{n}")).unwrap()).collect();
        assert_eq!(Upstreams::from(servers.as_slice()).now(&host).len(), SERVERS_MAX);
        assert_eq!(Upstreams::from([].as_slice()), Upstreams::Host);
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "(nameserver [0-9a-f.:%lo]{0,20}\n|\\PC{0,20}\n){0,5}") {
            prop_assert!(parse_resolv_conf(&text).len() <= SERVERS_MAX);
            let _ = NameServer::parse(&text);
        }
    }
}
