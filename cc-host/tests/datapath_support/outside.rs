//! A way out of a test's host: an uplink with addresses of the documentation ranges, and the device that the host itself is behind.
//! Refuses to lead anywhere: nobody is at the far ends.
#![allow(dead_code, clippy::unwrap_used, reason = "each test uses a part of it, and fails by panicking")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::process::Command;

use cc_host::datapath::{Host, NatPorts, Network, Range};

use super::{GATEWAY, NETWORK_V6, World};

pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
/// The far ends of the host's and the uplink's pairs have these, above all containers' numbers.
const UPLINK: u32 = 100;
const DEVICE: u32 = 101;

pub struct Outside {
    pub uplink: u32,
    pub host: u32,
    _others: [OwnedFd; 2],
}

pub fn sh(script: &str) {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Outside {
    /// What leaves gets its port from among `nat_ports`.
    pub fn of(world: &World, nat_ports: NatPorts) -> Outside {
        let (uplink, far) = world.veth(UPLINK, [2, 0, 0, 0, 9, 1]);
        let (host, peer) = world.veth(DEVICE, [2, 0, 0, 0, 9, 2]);
        sh(&format!(
            "for one in cct100 cct101; do echo 0 > /proc/sys/net/ipv6/conf/$one/disable_ipv6; ip link set $one up; done
             ip addr add {HOST}/24 dev cct100
             ip -6 addr add {HOST6}/64 dev cct100 nodad; ip addr add 100.64.0.1/16 dev cct101
             ip route add default via 192.0.2.254; ip -6 route add default via 2001:db8:1::fe dev cct100
             for try in $(seq 1000); do ip -6 route get {HOST6} | grep -q '^local ' && break; sleep 0.02; done
             ip -6 route get {HOST6} | grep -q '^local '
             echo 1 > /proc/sys/net/ipv4/conf/cct101/forwarding; echo 1 > /proc/sys/net/ipv6/conf/cct101/forwarding"
        ));
        let datapath = world.datapath();
        let stand_ins = (IpAddr::from([100, 64, 0, 0]), Some("fd64::".parse().unwrap()));
        datapath.set_host(&Host { ifindex: host, stand_ins, nat_ports }).unwrap();
        datapath.set_uplinks(&[uplink]).unwrap();
        Outside { uplink, host, _others: [far, peer] }
    }
}

/// Of both families, that reaches out or does not.
pub fn network(world: &World, vni: u32, internet: bool) {
    let ipv4 = Range { network: Ipv4Addr::new(10, 0, 0, 0), prefix_len: 24, gateway: GATEWAY };
    let network = Network { vni, ipv4, ipv6: Some(NETWORK_V6), internet, resolver: None };
    world.datapath().add_network(&network).unwrap();
}
