//! What the daemon needs of the kernel and its surroundings, asked of the kernel itself, each with what its lack costs.
//! Refuses to change anything; what it probes in a child process ends with it.

mod asked;

use cc_common::api::fault::Fault;
use serde::Serialize;
use tonic::Code;

use self::asked::{
    capabilities, cgroup2, clsact, controller, controllers, exists, has_filesystem, in_kernel, jit, locked_memory,
    open_files, root, space, user_namespaces, volumes,
};
use crate::config::Config;
use crate::kernel::link::PairKind;

/// The oldest kernel that the tests run on; what it lacks of newer ones is in docs/kernels.md.
const KERNEL_MIN: (u32, u32) = (6, 12);

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
    let filesystems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
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

/// It is there from 6.7 on, where it was chosen.
fn netkit(interfaces: PairKind) -> Check {
    let required = interfaces == PairKind::Netkit;
    let (ok, found) = if required { in_kernel("netkit") } else { (true, "not used".to_owned()) };
    let next = "use a kernel with CONFIG_NETKIT, or interfaces = \"veth\" in the configuration";
    Check { name: "netkit", ok, required, found, cost: "without it: containers have no interface", next }
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
}
