//! What a release has pinned is taken over by this build: the object of each layout of maps is kept as it was released. One whose layout
//! has our number decides packets by the rows that we write, and we by its rows.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod datapath_support;

use std::fs;
use std::path::{Path, PathBuf};

use aya::programs::tc::{SchedClassifierLink, TcHandle};
use aya::programs::{SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfLoader};
use cc_common::names::{
    ABI, FILTER_HANDLE, FILTER_PRIORITY, GLOBAL_CGROUP_LEVEL, MAPS, PROGRAM_FROM_ENDPOINT, PROGRAM_TO_ENDPOINT,
};
use cc_host::datapath::Datapath;
use datapath_support::World;

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/released")
}

fn object_of(version: u32) -> PathBuf {
    dir().join(format!("v{version}/cc-ebpf.o.zst"))
}

/// Those that are kept, in order.
fn versions() -> Vec<u32> {
    let names = fs::read_dir(dir()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut versions: Vec<u32> = names.filter_map(|name| name.strip_prefix('v')?.parse().ok()).collect();
    versions.sort_unstable();
    versions
}

/// Over the maps that are pinned in `pins`, and with pins for those that are not.
fn load(version: u32, pins: &Path) -> Ebpf {
    let object = zstd::decode_all(fs::File::open(object_of(version)).unwrap()).unwrap();
    let mut loader = EbpfLoader::new();
    for name in MAPS {
        loader.map_pin_path(name, pins.join(name));
    }
    loader.override_global(GLOBAL_CGROUP_LEVEL, &2_u32, true);
    loader.load(&object).unwrap()
}

/// Puts its programs in the place of ours on an interface.
fn put_in_force(ebpf: &mut Ebpf, interface: &str) {
    for (name, hook) in [(PROGRAM_TO_ENDPOINT, TcAttachType::Egress), (PROGRAM_FROM_ENDPOINT, TcAttachType::Ingress)] {
        let program: &mut SchedClassifier = ebpf.program_mut(name).unwrap().try_into().unwrap();
        if program.fd().is_err() {
            program.load().unwrap();
        }
        let handle = TcHandle::new(0, FILTER_HANDLE);
        let there = SchedClassifierLink::attached(interface, hook, FILTER_PRIORITY, handle, None).unwrap();
        let id = program.attach_to_link(there).unwrap();
        // Dropping it would detach.
        std::mem::forget(program.take_link(id).unwrap());
    }
}

#[test]
fn the_present_layout_is_kept() {
    let present = object_of(ABI);
    if std::env::var_os("CC_GENERATE").is_some() && !present.exists() {
        let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/ebpf/cc-ebpf.o");
        fs::create_dir_all(present.parent().unwrap()).unwrap();
        let packed = zstd::encode_all(fs::File::open(built).unwrap(), 19).unwrap();
        fs::write(&present, packed).unwrap();
    }
    assert!(versions().contains(&ABI), "layout {ABI} is not kept: see {}", dir().join("README.md").display());
}

#[test]
fn programs_of_a_release_and_ours_go_by_each_others_rows() {
    for version in versions().into_iter().filter(|&version| version == ABI) {
        let mut world = World::new();
        world.network(1);
        let (a, b) = (world.container(0, 1, 2), world.container(1, 1, 3));
        assert!(a.pings(b.endpoint.ipv4), "by our programs");
        let pins = world.datapath().pin_dir();
        let sent = |datapath: &Datapath| datapath.counters(a.endpoint.id).unwrap().sent.packets;

        let mut theirs = load(version, &pins);
        for id in [a.endpoint.id, b.endpoint.id] {
            put_in_force(&mut theirs, &format!("cct{id}"));
        }
        let before = sent(world.datapath());
        assert!(a.pings(b.endpoint.ipv4), "by those of the release");
        assert!(sent(world.datapath()) > before, "they count where we do");
        // Neither knows an address that is nobody's, and both say so in the same row.
        let unreachable = || {
            assert!(!a.pings("10.0.0.77".parse().unwrap()));
            world.datapath().counters(a.endpoint.id).unwrap().drops
        };
        let (dropped, expected): (Vec<_>, _) = (unreachable(), sent(world.datapath()));
        assert!(!dropped.is_empty() && expected > before, "{dropped:?}");

        world.datapath = None;
        world.datapath = Some(world.open());
        assert_eq!(sent(world.datapath()), expected);
        for container in [&a, &b] {
            world.datapath().adopt(&container.endpoint, &container.tag, &container.cgroup).unwrap();
        }
        assert!(a.pings(b.endpoint.ipv4) && b.pings(a.endpoint.ipv4), "by ours again");
        assert!(sent(world.datapath()) > expected);
    }
}

/// As a host is after an upgrade: nothing is there but what the release has pinned.
#[test]
fn what_a_release_pinned_is_taken_over() {
    for version in versions() {
        let mut world = World::new();
        let ours = world.datapath().pin_dir();
        world.datapath = None;
        let theirs = ours.with_file_name(format!("v{version}"));
        fs::remove_dir_all(&ours).unwrap();
        fs::create_dir_all(&theirs).unwrap();
        let mut ebpf = load(version, &theirs);
        // By which one release tells another's directory.
        let programs = theirs.join("programs");
        fs::create_dir(&programs).unwrap();
        for (name, program) in ebpf.programs_mut() {
            if let Ok(program) = <&mut SchedClassifier>::try_from(program) {
                program.load().unwrap();
                program.pin(programs.join(name)).unwrap();
            }
        }
        drop(ebpf);
        world.datapath = Some(world.open());
        assert_eq!(world.datapath().upgraded().map(|upgraded| upgraded.from), (version != ABI).then_some(version));
        world.network(1);
        let (a, b) = (world.container(0, 1, 2), world.container(1, 1, 3));
        assert!(a.pings(b.endpoint.ipv4) && b.pings(a.endpoint.ipv4));
    }
}
