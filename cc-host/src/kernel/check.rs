//! What the daemon needs of the kernel and its surroundings, asked of the kernel itself, each with what its lack costs.
//! Refuses to change anything; what it probes in a child process ends with it.

use std::fs;
use std::path::Path;

use cc_common::api::fault::Fault;
use serde::Serialize;
use tonic::Code;

use crate::config::Config;
use crate::kernel::link::PairKind;

/// The oldest kernel that the tests run on; what it lacks of newer ones is in docs/kernels.md.
const KERNEL_MIN: (u32, u32) = (6, 12);
/// Open files of a daemon with 1,000 containers, a dozen each.
const NOFILE_MIN: u64 = 16_384;
/// An image or two; below it pulls fail.
const STATE_FREE_BYTES_MIN: u64 = 1 << 30;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_NET_ADMIN: u32 = 12;
const CAP_BPF: u32 = 39;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub ok: bool,
    pub required: bool,
    /// What is there.
    pub found: String,
    /// What its lack costs: "without it: …".
    pub cost: &'static str,
    pub next: &'static str,
}

/// Everything, in the order in which a person would ask.
pub fn all(config: &Config) -> Vec<Check> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let controllers = controllers();
    let required =
        |name, (ok, found): (bool, String), cost, next| Check { name, ok, required: true, found, cost, next };
    let optional =
        |name, (ok, found): (bool, String), cost, next| Check { name, ok, required: false, found, cost, next };
    vec![
        required("root", root(), "without it: no namespace, no BPF, no mount", "run it as root"),
        required(
            "capabilities",
            capabilities(),
            "without them: no namespace, no BPF, no interface",
            "give it CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_BPF",
        ),
        required(
            "kernel",
            (parse_release(&release).is_some_and(|version| version >= KERNEL_MIN), release.clone()),
            "without it: what older kernels do is not tested",
            "boot Linux 6.12 or newer",
        ),
        required(
            "bpffs",
            has_filesystem(&filesystems, "bpf"),
            "without it: no datapath",
            "use a kernel with CONFIG_BPF_SYSCALL",
        ),
        required(
            "btf",
            exists("/sys/kernel/btf/vmlinux"),
            "without it: programs and maps cannot be typed",
            "use a kernel with CONFIG_DEBUG_INFO_BTF",
        ),
        required(
            "clsact",
            clsact(),
            "without it: no program sees a container's packets",
            "use a kernel with CONFIG_NET_CLS_ACT, CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF",
        ),
        optional(
            "bpf jit",
            jit(),
            "without it: packets cost several times as much",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
        required(
            "overlayfs",
            has_filesystem(&filesystems, "overlay"),
            "without it: images cannot share layers",
            "use a kernel with CONFIG_OVERLAY_FS",
        ),
        required(
            "user namespaces",
            user_namespaces(),
            "without them: root in a container is root here",
            "sysctl -w user.max_user_namespaces=65536",
        ),
        required(
            "idmapped mounts",
            (
                parse_release(&release).is_some_and(|version| version >= (5, 19)),
                format!("on overlayfs, by version: {release}"),
            ),
            "without them: layers cannot be shared between user namespaces",
            "boot a newer kernel",
        ),
        required(
            "cgroup v2",
            cgroup2(),
            "without it: containers' sockets are not counted",
            "mount -t cgroup2 none /sys/fs/cgroup",
        ),
        required(
            "memory controller",
            controller(&controllers, "memory"),
            "without it: no memory limit",
            "boot without cgroup_disable=memory; on v2 also: echo +memory > /sys/fs/cgroup/cgroup.subtree_control",
        ),
        required(
            "cpu controller",
            controller(&controllers, "cpu"),
            "without it: no CPU shares",
            "boot without cgroup_disable=cpu; on v2 also: echo +cpu > /sys/fs/cgroup/cgroup.subtree_control",
        ),
        required(
            "pids controller",
            controller(&controllers, "pids"),
            "without it: a fork bomb hurts the host",
            "boot without cgroup_disable=pids; on v2 also: echo +pids > /sys/fs/cgroup/cgroup.subtree_control",
        ),
        optional(
            "landlock",
            crate::image::unpack::landlock::available(),
            "without it: a hole in the unpacker's other walls is a hole",
            "use a kernel with CONFIG_SECURITY_LANDLOCK, and landlock among its lsm=",
        ),
        optional(
            "token buckets",
            in_kernel("sch_tbf"),
            "without them: no container with a limit of bandwidth starts",
            "use a kernel with CONFIG_NET_SCH_TBF",
        ),
        required("veth", in_kernel("veth"), "without it: containers have no interface", "modprobe veth"),
        netkit(config.interfaces),
        optional(
            "ipv6",
            exists("/proc/sys/net/ipv6"),
            "without it: no container of a VPC with an IPv6 range starts",
            "boot without ipv6.disable=1",
        ),
        optional(
            "volumes",
            volumes(&filesystems),
            "without them: no volume can be created or used",
            "install e2fsprogs, and use a kernel with CONFIG_EXT4_FS and CONFIG_BLK_DEV_LOOP",
        ),
        optional(
            "open files",
            open_files(),
            "without it: fewer containers at a time",
            "raise the limit: LimitNOFILE=1048576",
        ),
        optional(
            "locked memory",
            locked_memory(),
            "without it: BPF maps may count against it on old kernels",
            "LimitMEMLOCK=infinity",
        ),
        lvm(config.volumes.lvm_pool.as_deref()),
        optional("space", space(&config.state_dir), "without it: pulls fail", "free space below state_dir, or move it"),
    ]
}

/// Refuses, in the words of `cc-host check`, where the daemon cannot work.
pub fn require(config: &Config) -> Result<(), Fault> {
    let failed: Vec<Check> = all(config).into_iter().filter(|check| check.required && !check.ok).collect();
    let Some(first) = failed.first() else { return Ok(()) };
    let why: Vec<String> = failed.iter().map(|c| format!("{}: {} ({})", c.name, c.found, c.cost)).collect();
    Err(Fault::new(Code::FailedPrecondition, "host.unfit", "cannot start on this host", why.join("; "))
        .next(format!("{}; cc-host check shows everything", first.next)))
}

/// A table for people.
pub fn print_into(out: &mut dyn std::io::Write, checks: &[Check]) -> std::io::Result<()> {
    for check in checks {
        let mark = match (check.ok, check.required) {
            (true, _) => "ok",
            (false, true) => "MISSING",
            (false, false) => "warning",
        };
        writeln!(out, "{mark:<8} {:<18} {}", check.name, check.found)?;
        if !check.ok {
            writeln!(out, "{:<27} {}; {}", "", check.cost, check.next)?;
        }
    }
    Ok(())
}

fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn root() -> (bool, String) {
    let uid = rustix::process::geteuid().as_raw();
    (uid == 0, format!("uid {uid}"))
}

fn capabilities() -> (bool, String) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:")).map_or("", str::trim);
    let bits = u64::from_str_radix(set, 16).unwrap_or(0);
    let names = [("CAP_SYS_ADMIN", CAP_SYS_ADMIN), ("CAP_NET_ADMIN", CAP_NET_ADMIN), ("CAP_BPF", CAP_BPF)];
    let missing: Vec<_> = names.iter().filter(|(_, bit)| bits & (1 << bit) == 0).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        (true, "all that are needed".to_owned())
    } else {
        (false, format!("no {}", missing.join(", ")))
    }
}

fn has_filesystem(filesystems: &str, name: &str) -> (bool, String) {
    let known = filesystems.lines().any(|line| line.split_whitespace().next_back() == Some(name));
    (known, if known { "known" } else { "not in /proc/filesystems" }.to_owned())
}

fn volumes(filesystems: &str) -> (bool, String) {
    let tools = ["mke2fs", "e2fsck", "resize2fs", "tune2fs"].into_iter().filter(|tool| !crate::volume::has_tool(tool));
    let kernel =
        [("ext4", has_filesystem(filesystems, "ext4").0), ("/dev/loop-control", exists("/dev/loop-control").0)];
    let lacking = kernel.into_iter().filter(|(_, there)| !there).map(|(name, _)| name);
    let missing: Vec<&str> = tools.chain(lacking).collect();
    match missing.is_empty() {
        true => (true, "ext4, loop devices and e2fsprogs".to_owned()),
        false => (false, format!("no {}", missing.join(", no "))),
    }
}

/// Required where it is asked for: the daemon does not start without its volumes.
fn lvm(pool: Option<&str>) -> Check {
    let (ok, found) = match (pool, crate::volume::has_tool("lvm")) {
        (Some(pool), true) => (true, format!("lvm, for the pool {pool}")),
        (Some(pool), false) => (false, format!("no lvm, and volumes.lvm_pool is {pool}")),
        (None, _) => (true, "not asked for: volumes are files".to_owned()),
    };
    let next = "install lvm2, or remove volumes.lvm_pool from the configuration";
    Check { name: "lvm", ok, required: pool.is_some(), found, cost: "without it: the daemon does not start", next }
}

fn exists(path: &str) -> (bool, String) {
    let there = Path::new(path).exists();
    (there, if there { path.to_owned() } else { format!("no {path}") })
}

fn jit() -> (bool, String) {
    // Where the file is missing the kernel is built with the JIT always on, or without it; the first is common.
    let value = fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").unwrap_or_else(|_| "1".to_owned());
    (value.trim() != "0", format!("bpf_jit_enable = {}", value.trim()))
}

fn user_namespaces() -> (bool, String) {
    let max = fs::read_to_string("/proc/sys/user/max_user_namespaces").ok().and_then(|t| t.trim().parse::<u64>().ok());
    match max {
        Some(0) => (false, "max_user_namespaces = 0".to_owned()),
        Some(max) => (Path::new("/proc/self/ns/user").exists(), format!("at most {max}")),
        None => (false, "the kernel has none".to_owned()),
    }
}

fn cgroup2() -> (bool, String) {
    match cgroup2_mount() {
        Some(at) => (true, format!("at {at}")),
        None => (false, "not mounted".to_owned()),
    }
}

fn cgroup2_mount() -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut mounted = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    mounted.find(|fields| fields.get(2) == Some(&"cgroup2")).map(|fields| fields[1].to_owned())
}

/// Names and hierarchies of the controllers that a cgroup of ours would have; hierarchy 0 is v2's. Of v2's controllers, /proc/cgroups of newer
/// kernels says nothing, and that of older ones not whether the root passes them on.
fn controllers() -> Vec<(String, String)> {
    let table = fs::read_to_string("/proc/cgroups").unwrap_or_default();
    let rows =
        table.lines().filter(|line| !line.starts_with('#')).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let of_v1 = rows.filter(|row| row.get(3) == Some(&"1") && row[1] != "0");
    let mut all: Vec<_> = of_v1.map(|row| (row[0].to_owned(), row[1].to_owned())).collect();
    let of_v2 = cgroup2_mount().and_then(|at| fs::read_to_string(format!("{at}/cgroup.subtree_control")).ok());
    all.extend(of_v2.unwrap_or_default().split_whitespace().map(|name| (name.to_owned(), "0".to_owned())));
    all
}

fn controller(controllers: &[(String, String)], name: &str) -> (bool, String) {
    match controllers.iter().find(|(known, _)| known == name) {
        Some((_, hierarchy)) => (true, if hierarchy == "0" { "v2" } else { "v1" }.to_owned()),
        None => (false, "not enabled".to_owned()),
    }
}

/// It is there from 6.7 on, where it was chosen.
fn netkit(interfaces: PairKind) -> Check {
    let required = interfaces == PairKind::Netkit;
    let (ok, found) = if required { in_kernel("netkit") } else { (true, "not used".to_owned()) };
    let next = "use a kernel with CONFIG_NETKIT, or interfaces = \"veth\" in the configuration";
    Check { name: "netkit", ok, required, found, cost: "without it: containers have no interface", next }
}

fn in_kernel(module: &str) -> (bool, String) {
    // Built in or a module: both name it; a loaded module is listed under /sys/module.
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let named = |file: &str| {
        fs::read_to_string(format!("/lib/modules/{release}/{file}"))
            .is_ok_and(|text| text.contains(&format!("/{module}.ko")))
    };
    if Path::new("/sys/module").join(module).exists() || named("modules.builtin") {
        (true, "in the kernel".to_owned())
    } else if named("modules.dep") {
        (true, "a module".to_owned())
    } else if !Path::new(&format!("/lib/modules/{release}")).exists() {
        // A kernel without modules says nothing about it; the first container would.
        (true, "not listed; assumed".to_owned())
    } else {
        (false, "neither built in nor a module".to_owned())
    }
}

/// Tried, in a network namespace that ends with its thread.
fn clsact() -> (bool, String) {
    let attempt = || -> Result<(), String> {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).map_err(|error| error.to_string())?;
        aya::programs::tc::qdisc_add_clsact("lo").map_err(|error| error.to_string())
    };
    match std::thread::spawn(attempt).join() {
        Ok(Ok(())) => (true, "tried".to_owned()),
        Ok(Err(error)) => (false, error),
        Err(_) => (false, "the attempt panicked".to_owned()),
    }
}

fn open_files() -> (bool, String) {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    (limit.is_none_or(|max| max >= NOFILE_MIN), limit.map_or("no limit".to_owned(), |max| format!("at most {max}")))
}

fn locked_memory() -> (bool, String) {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).maximum;
    // Since 5.11 maps count against the memory cgroup, so any limit does.
    (
        true,
        limit.map_or("no limit".to_owned(), |max| format!("at most {} KiB; maps do not count against it", max >> 10)),
    )
}

fn space(state_dir: &Path) -> (bool, String) {
    let existing = state_dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    match rustix::fs::statvfs(existing) {
        Ok(stat) => {
            let free_bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
            (free_bytes >= STATE_FREE_BYTES_MIN, format!("{} MiB free for {}", free_bytes >> 20, state_dir.display()))
        }
        Err(error) => (false, format!("cannot ask: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_as_numbers() {
        assert_eq!(parse_release("6.12.3-cloud-amd64"), Some((6, 12)));
        assert_eq!(parse_release("6.6-rc1"), Some((6, 6)));
        assert!(parse_release("6.6.1").unwrap() < KERNEL_MIN && parse_release("10.0").unwrap() > KERNEL_MIN);
        assert_eq!(parse_release("nonsense"), None);
    }

    #[test]
    fn names_are_unique_and_every_lack_has_words() {
        let checks = all(&Config::default());
        let names: std::collections::HashSet<_> = checks.iter().map(|check| check.name).collect();
        assert_eq!(names.len(), checks.len());
        assert!(checks.iter().all(|c| c.cost.starts_with("without ") && !c.next.is_empty() && !c.found.is_empty()));
    }

    #[test]
    fn a_lack_is_shown_with_its_cost_and_what_to_do() {
        let check =
            Check { name: "x", ok: false, required: true, found: "none".into(), cost: "without it: y", next: "do z" };
        let mut out = Vec::new();
        print_into(&mut out, &[check]).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("MISSING") && text.contains("without it: y; do z"), "{text}");
    }

    #[test]
    fn lvm_is_asked_for_where_volumes_are_in_a_pool() {
        let none = lvm(None);
        assert!(none.ok && !none.required);
        let some = lvm(Some("group/pool"));
        assert!(some.required && some.found.contains("group/pool"));
        assert_eq!(some.ok, crate::volume::has_tool("lvm"));
    }

    #[test]
    fn filesystems_are_whole_words() {
        assert!(has_filesystem("nodev\toverlay\n\text4\n", "overlay").0);
        assert!(!has_filesystem("nodev\toverlayx\n", "overlay").0);
    }
}
