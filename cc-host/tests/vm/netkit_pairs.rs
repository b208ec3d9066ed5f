//! What only netkit pairs have: a program on what the container's end sends. For kernels that have them: `cargo xtask test --vm`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../datapath_support/mod.rs"]
mod datapath_support;

use std::os::fd::AsRawFd as _;

use cc_common::names::PROGRAM_FROM_ENDPOINT;
use datapath_support::packets::{udp, with_destination_mac, with_source_mac};
use datapath_support::{Container, World, raw_socket, send_raw, send_raw_as};

const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_DETACH: libc::c_int = 9;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_NETKIT_PEER: u32 = 55;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const GATEWAY_MAC: [u8; 6] = cc_common::net::GATEWAY_MAC.0;

/// The beginning of the kernel's `bpf_attr` of these three commands, as words.
fn bpf(command: libc::c_int, words: &mut [u32; 16]) -> std::io::Result<()> {
    // SAFETY: the words live through the call, with their true length; a pointer among them is to an array of the caller's.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, words.as_mut_ptr(), size_of_val(words)) };
    if done < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

/// The numbers of the programs on what the container sends.
fn programs(container: &Container) -> Vec<u32> {
    let mut ids = [0_u32; 8];
    let mut words = [0; 16];
    (words[0], words[1]) = (container.endpoint.ifindex, BPF_NETKIT_PEER);
    let address = ids.as_mut_ptr() as u64;
    (words[4], words[5], words[6]) = (address as u32, (address >> 32) as u32, ids.len() as u32);
    bpf(BPF_PROG_QUERY, &mut words).unwrap();
    ids[..words[6] as usize].to_vec()
}

/// Of the daemon that runs.
fn pinned(world: &World) -> aya::programs::SchedClassifier {
    aya::programs::SchedClassifier::from_pin(world.datapath().pin_dir().join("programs").join(PROGRAM_FROM_ENDPOINT))
        .unwrap()
}

fn change(command: libc::c_int, world: &World, container: &Container) -> std::io::Result<()> {
    let program = pinned(world);
    let mut words = [0; 16];
    let fd = std::os::fd::AsFd::as_fd(program.fd().unwrap()).as_raw_fd();
    (words[0], words[1], words[2]) = (container.endpoint.ifindex, fd as u32, BPF_NETKIT_PEER);
    bpf(command, &mut words)
}

#[test]
fn nothing_leaves_without_the_program_and_it_is_put_back() {
    let mut world = World::new();
    world.network(1);
    let (a, b) = (world.container(0, 1, 2), world.container(1, 1, 3));
    assert!(a.pings(b.endpoint.ipv4));
    assert_eq!(programs(&a).len(), 1);
    change(BPF_PROG_DETACH, &world, &a).unwrap();
    assert!(programs(&a).is_empty());
    assert!(!a.pings(b.endpoint.ipv4), "nobody decides, so nothing passes");
    let repaired = world.datapath().repair_interface(a.endpoint.ifindex).unwrap().expect("it was missing");
    assert!(repaired.what.contains(PROGRAM_FROM_ENDPOINT), "{repaired:?}");
    assert_eq!(programs(&a), [pinned(&world).info().unwrap().id()]);
    assert!(a.pings(b.endpoint.ipv4));
    assert_eq!(world.datapath().repair_interface(a.endpoint.ifindex).unwrap(), None);
}

#[test]
fn a_later_daemon_puts_its_own_program_in_the_place_of_the_earlier_ones() {
    let mut world = World::new();
    world.network(1);
    let (a, b) = (world.container(0, 1, 2), world.container(1, 1, 3));
    let before = programs(&a);
    world.datapath = None;
    world.datapath = Some(world.open());
    for container in [&a, &b] {
        world.datapath().adopt(&container.endpoint, &container.tag, &container.cgroup).unwrap();
    }
    let own = pinned(&world).info().unwrap().id();
    assert_eq!((before.len(), programs(&a)), (1, vec![own]));
    assert_ne!(before, [own]);
    assert!(a.pings(b.endpoint.ipv4));
}

/// The container's end cannot be made to run anything else, nor nothing.
#[test]
fn the_program_is_out_of_the_containers_reach() {
    let mut world = World::new();
    world.network(1);
    let a = world.container(0, 1, 2);
    let inside = a.inside(|| nix::net::if_::if_nametoindex("eth0").unwrap());
    let program = pinned(&world);
    let fd = std::os::fd::AsFd::as_fd(program.fd().unwrap()).as_raw_fd() as u32;
    for command in [BPF_PROG_ATTACH, BPF_PROG_DETACH] {
        let mut words = [0; 16];
        (words[0], words[1], words[2]) = (inside, fd, BPF_NETKIT_PEER);
        let refused = a.inside(move || bpf(command, &mut words)).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EACCES), "{command}");
    }
    assert_eq!(programs(&a).len(), 1);
}

/// Before a veth receives it, the kernel reads from a frame what it carries; here it believes whoever sends.
#[test]
fn a_frame_that_is_said_to_be_another_goes_nowhere() {
    let mut world = World::new();
    world.network(1);
    let (a, b) = (world.container(0, 1, 2), world.container(1, 1, 3));
    let frame = with_source_mac(a.endpoint.mac, with_destination_mac(GATEWAY_MAC, udp([10, 0, 0, 2], [10, 0, 0, 3])));
    let received = || world.datapath().counters(b.endpoint.id).unwrap().received.packets;
    let before = received();
    a.inside(|| {
        let (socket, index) = (raw_socket(), nix::net::if_::if_nametoindex("eth0").unwrap());
        send_raw(&socket, index, &frame);
        send_raw_as(&socket, index, &frame, ETHERTYPE_IPV4);
        send_raw_as(&socket, index, &frame, ETHERTYPE_IPV6);
    });
    assert_eq!(received() - before, 2, "but for the last");
    let drops = world.datapath().counters(a.endpoint.id).unwrap().drops;
    assert!(drops.iter().any(|drop| (drop.reason, drop.packets) == ("ethertype", 1)), "{drops:?}");
}
