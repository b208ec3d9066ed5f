//! The host's way out, and its MTU. Refuses netlink: every start asks, and must not wait for whoever holds the RTNL lock.

use std::io;
use std::os::fd::AsRawFd;

use super::ifreq;

/// Of the calling thread's network namespace.
const ROUTES: &str = "/proc/thread-self/net/route";

/// MTU of the named interface, or of the one with the default route; `None` when there is no such interface.
pub fn mtu(name: Option<&str>) -> io::Result<Option<u32>> {
    let name = match name {
        Some(name) => Some(name.to_owned()),
        None => default_interface(&std::fs::read_to_string(ROUTES)?),
    };
    name.map_or(Ok(None), |name| mtu_of(&name))
}

/// The columns are: interface, destination, gateway, flags, use counts, metric, mask. The least metric wins.
fn default_interface(table: &str) -> Option<String> {
    let rows = table.lines().skip(1).filter_map(|line| {
        let columns: Vec<&str> = line.split_ascii_whitespace().collect();
        let (destination, mask) = (*columns.get(1)?, *columns.get(7)?);
        let metric: u32 = columns.get(6)?.parse().ok()?;
        (destination == "00000000" && mask == "00000000").then(|| (metric, columns[0].to_owned()))
    });
    rows.min().map(|(_, name)| name)
}

fn mtu_of(name: &str) -> io::Result<Option<u32>> {
    let Some(mut request) = ifreq::of(name) else { return Ok(None) };
    let socket = ifreq::any_socket()?;
    // SAFETY: the kernel reads the name, which ends with a zero, and writes one number into the same structure.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU, &raw mut request) } != 0 {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::ENODEV) { Ok(None) } else { Err(error) };
    }
    // SAFETY: that number is what the call has written.
    Ok(u32::try_from(unsafe { request.ifr_ifru.ifru_mtu }).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_route_of_the_least_metric_is_the_uplink() {
        let table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
                     wlan0\t00000000\t0100A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
                     eth1\t0000000A\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0\n\
                     eth0\t00000000\t0100A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n";
        assert_eq!(default_interface(table).as_deref(), Some("eth0"));
        assert_eq!(default_interface("Iface\tDestination\n\nshort\n"), None);
    }

    #[test]
    fn the_loopback_has_an_mtu_and_nothing_else_is_made_up() {
        assert!(mtu(Some("lo")).unwrap().is_some_and(|mtu| mtu >= 1500));
        assert_eq!(mtu(Some("not-here")).unwrap(), None);
        assert_eq!(mtu(Some("a-name-longer-than-any")).unwrap(), None);
    }
}
