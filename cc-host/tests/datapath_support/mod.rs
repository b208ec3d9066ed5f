//! A world of its own for a test of the datapath: mount and network namespace, BPF filesystem, cgroup. Everything is gone when
//! the test's thread ends. Refuses to run without root.
#![allow(dead_code, clippy::unwrap_used, reason = "each test uses a part of it, and fails by panicking")]

pub mod outside;
pub mod packets;
pub mod scene;

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cc_common::firewall::{
    ACTION_ALLOW, CLASS_ANY_V4, CLASS_ANY_V6, PROTOCOL_CLASS_SOME, PROTOCOL_CLASSES, RuleEntry, class_of_groups,
};
use cc_common::settings::{Settings, Timeouts};
use cc_common::verdict::Direction;
use cc_host::datapath::{
    CompiledRules, Datapath, DatapathConfig, Endpoint, Network, PrefixTable, Range, Record, RuleRow,
};
use cc_host::kernel::link::{EndpointAddress, Links, Pair, PairKind, configure_endpoint};
use cc_host::kernel::netns;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

pub const NETWORK_V6: Range<Ipv6Addr> = Range {
    network: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0),
    prefix_len: 64,
    gateway: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1),
};

/// Of every pair.
pub const MTU: u16 = 1450;
const BUSY_WITHIN: Duration = Duration::from_secs(5);

pub fn address_v6(host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host.into())
}

/// Of whoever is in group `number`, which is also its rule set's number.
pub fn default_rules(number: u32) -> CompiledRules {
    let entry = |rule| RuleEntry { rule, priority: 1000, action: ACTION_ALLOW, log: 0 };
    let some = PROTOCOL_CLASSES.map(|protocol| protocol | PROTOCOL_CLASS_SOME);
    let protocols = || PROTOCOL_CLASSES.into_iter().chain(some);
    let row = |class, direction, rule| {
        protocols().map(move |protocol| RuleRow {
            class,
            direction,
            protocol,
            port: 0,
            port_bits: 0,
            entry: entry(rule),
        })
    };
    let rows = row(CLASS_ANY_V4, Direction::Egress, 1).chain(row(CLASS_ANY_V6, Direction::Egress, 1)).chain(row(
        class_of_groups(number),
        Direction::Ingress,
        2,
    ));
    CompiledRules { rows: rows.collect(), names_prefixes: 0, names_groups: 1 << Direction::Ingress as u32 }
}

/// Of netkit where `cargo xtask test --vm --netkit` says so.
pub fn pair_kind() -> PairKind {
    match std::env::var_os("CC_TEST_INTERFACES") {
        Some(kind) if kind == "netkit" => PairKind::Netkit,
        _ => PairKind::Veth,
    }
}

pub struct World {
    // Dropped in this order: links before what they are attached to.
    pub datapath: Option<Datapath>,
    runtime: tokio::runtime::Runtime,
    cgroup: PathBuf,
    cgroups: Vec<PathBuf>,
    dir: tempfile::TempDir,
}

/// An attached endpoint, and the namespace behind it.
pub struct Container {
    pub endpoint: Endpoint,
    pub tag: String,
    pub netns: OwnedFd,
    pub cgroup: PathBuf,
}

impl World {
    pub fn new() -> Self {
        // The calling thread only: each test runs on its own.
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).expect("these tests need root");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let name = format!("cc-test-{}-{}", std::process::id(), dir.path().file_name().unwrap().to_string_lossy());
        let cgroup = cgroup_v2_root().join(name);
        fs::create_dir(&cgroup).unwrap();
        let mut world = World { datapath: None, runtime, cgroup, cgroups: Vec::new(), dir };
        world.datapath = Some(world.open());
        world
    }

    pub fn config(&self) -> DatapathConfig {
        // Short: a machine that has just started has no older flows.
        let timeouts = Timeouts { tcp_established_ns: 60_000_000_000, ..Timeouts::DEFAULT };
        let settings = Settings { timeouts, ..Settings::DEFAULT };
        DatapathConfig { bpffs_dir: self.dir.path().join("bpf"), cgroup_level: 2, settings }
    }

    /// Opens the datapath, as a daemon that starts does.
    pub fn open(&self) -> Datapath {
        Datapath::open(&self.config()).unwrap_or_else(|error| panic!("{error:?}"))
    }

    pub fn datapath(&self) -> &Datapath {
        self.datapath.as_ref().unwrap()
    }

    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    pub fn network(&self, vni: u32) {
        let ipv4 = Range { network: Ipv4Addr::new(10, 0, 0, 0), prefix_len: 24, gateway: GATEWAY };
        let network = Network { vni, ipv4, ipv6: Some(NETWORK_V6), internet: false, resolver: None };
        self.datapath().add_network(&network).unwrap();
    }

    /// Puts the rules of a default group in force: members reach each other, and reach out.
    pub fn default_rules(&self, number: u32) {
        self.datapath().load_rules(number, &default_rules(number), PrefixTable::EMPTY).unwrap();
    }

    /// The host's end of a new veth pair, and the namespace that holds the other.
    pub fn veth(&self, id: u32, mac: [u8; 6]) -> (u32, OwnedFd) {
        self.pair(PairKind::Veth, id, mac)
    }

    fn pair(&self, kind: PairKind, id: u32, mac: [u8; 6]) -> (u32, OwnedFd) {
        let netns = new_netns();
        let host_name = format!("cct{id}");
        let alias = format!("cc:{id:016x}");
        let pair = Pair { kind, host_name: &host_name, netns: netns.as_fd(), mac, mtu: MTU, alias: &alias };
        let ifindex = self.block_on(async { Links::open().unwrap().create_pair(&pair).await }).unwrap();
        (ifindex, netns)
    }

    /// A container without processes: 10.0.0.`host` in network `vni`, group = VNI.
    pub fn container(&mut self, id: u32, vni: u32, host: u8) -> Container {
        self.container_in_group(id, vni, host, vni)
    }

    /// In the group of that number, which has a default group's rules.
    pub fn container_in_group(&mut self, id: u32, vni: u32, host: u8, group: u32) -> Container {
        self.container_with(id, vni, host, group, Some(address_v6(host)))
    }

    pub fn container_with(&mut self, id: u32, vni: u32, host: u8, group: u32, ipv6: Option<Ipv6Addr>) -> Container {
        self.default_rules(group);
        let mac = [2, 0, 0, 0, vni as u8, host];
        let (ifindex, netns) = self.pair(pair_kind(), id, mac);
        let ipv4 = Ipv4Addr::new(10, 0, 0, host);
        let endpoint =
            Endpoint { id, vni, rule_set: group, ifindex, mac, ipv4, ipv6, queued: false, egress_rate: None };
        let tag = format!("{id:016x}");
        let cgroup = self.cgroup.join(&tag);
        if !cgroup.exists() {
            fs::create_dir(&cgroup).unwrap();
            self.cgroups.push(cgroup.clone());
        }
        self.datapath().attach(&endpoint, &tag, &cgroup).unwrap_or_else(|error| panic!("{error:?}"));
        let address = EndpointAddress { address: ipv4.into(), prefix_len: 24, gateway: Some(GATEWAY.into()) };
        self.block_on(configure_endpoint(netns.try_clone().unwrap(), vec![address])).unwrap();
        assert!(self.block_on(async { Links::open().unwrap().settle(ifindex).await }).unwrap());
        Container { endpoint, tag, netns, cgroup }
    }

    /// Deletes a container's interface, twice; nothing of it can be found afterwards.
    pub fn delete_link(&self, container: &Container) {
        self.block_on(async {
            let links = Links::open().unwrap();
            let alias = format!("cc:{}", container.tag);
            let found = links.with_alias_prefix(&alias).await.unwrap();
            assert_eq!(found.iter().map(|link| link.ifindex).collect::<Vec<_>>(), [container.endpoint.ifindex]);
            links.delete(container.endpoint.ifindex).await.unwrap();
            links.delete(container.endpoint.ifindex).await.unwrap();
            assert_eq!(links.with_alias_prefix(&alias).await.unwrap(), []);
        });
    }

    /// Names of the pinned links.
    pub fn pinned_links(&self) -> Vec<String> {
        let dir = self.datapath().pin_dir().join("links");
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.datapath = None;
        for cgroup in self.cgroups.iter().chain([&self.cgroup]) {
            if let Err(error) = remove_cgroup(cgroup) {
                eprintln!("{} stays: {error}", cgroup.display());
            }
        }
        let _ = nix::mount::umount2(&self.dir.path().join("bpf"), nix::mount::MntFlags::MNT_DETACH);
    }
}

/// A process that has been waited for keeps its cgroup busy until it is off its CPU for good.
fn remove_cgroup(cgroup: &Path) -> std::io::Result<()> {
    let began = Instant::now();
    loop {
        match fs::remove_dir(cgroup) {
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy && began.elapsed() < BUSY_WITHIN => {
                std::thread::sleep(Duration::from_millis(1));
            }
            done => return done,
        }
    }
}

impl Container {
    /// Runs `work` as if inside the container's network.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::in_netns(self.netns.as_fd(), work).unwrap()
    }

    /// Runs a command inside, in the container's cgroup too; whether it succeeded.
    pub fn run(&self, command: &str) -> bool {
        let procs = self.cgroup.join("cgroup.procs");
        let script = format!("echo $$ > {} && exec {command}", procs.display());
        self.inside(|| {
            let mut sh = std::process::Command::new("sh");
            let output = sh.args(["-c", &script]).output().unwrap();
            print!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            output.status.success()
        })
    }

    pub fn pings(&self, address: Ipv4Addr) -> bool {
        self.run(&format!("busybox ping -c 1 -W 1 {address}"))
    }
}

/// All records that are in the ring; once.
pub fn drain(world: &World) -> Vec<Record> {
    let (ring, records) = (world.datapath().take_event_ring().unwrap(), Arc::new(Mutex::new(Vec::new())));
    let into = Arc::clone(&records);
    world.block_on(async move {
        let reading = ring.read(move |batch| into.lock().unwrap().extend_from_slice(batch));
        assert!(tokio::time::timeout(Duration::from_millis(200), reading).await.is_err(), "it goes on");
    });
    records.lock().unwrap().clone()
}

pub fn new_netns() -> OwnedFd {
    let make = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        netns::open(Path::new("/proc/thread-self/ns/net")).unwrap()
    };
    std::thread::spawn(make).join().unwrap()
}

/// For frames of any form, in the calling thread's namespace.
pub fn raw_socket() -> OwnedFd {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).unwrap()
}

/// Out of the host's end of an interface.
pub fn send_raw(socket: &OwnedFd, ifindex: u32, frame: &[u8]) {
    send_raw_as(socket, ifindex, frame, 0);
}

/// The same, of a frame that is said to carry that; 0: what it says itself.
pub fn send_raw_as(socket: &OwnedFd, ifindex: u32, frame: &[u8], protocol: u16) {
    use std::os::fd::AsRawFd;
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol.to_be(),
        sll_ifindex: ifindex as i32,
        sll_halen: 6,
        // SAFETY: plain numbers, for which zeros are a value.
        ..unsafe { std::mem::zeroed() }
    };
    // SAFETY: the buffer and the address live through the call, with their true lengths.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const address).cast(),
            size_of_val(&address) as u32,
        )
    };
    // A drop in the egress hook may be told to the sender: that it was counted is asserted.
    assert!(sent == frame.len() as isize || std::io::Error::last_os_error().raw_os_error() == Some(libc::ENOBUFS));
}

fn cgroup_v2_root() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 ")).expect("a cgroup v2 tree");
    line.split(' ').nth(4).unwrap().into()
}
