//! What there is of each, and whether that is enough: asked of the kernel, and in words. Refuses to say what a lack costs.

use std::fs;
use std::path::Path;

/// Open files of a daemon with 1,000 containers, a dozen each.
const NOFILE_MIN: u64 = 16_384;
/// An image or two; below it pulls fail.
const STATE_FREE_BYTES_MIN: u64 = 1 << 30;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_NET_ADMIN: u32 = 12;
const CAP_BPF: u32 = 39;

pub(super) fn root() -> (bool, String) {
    let uid = rustix::process::geteuid().as_raw();
    (uid == 0, format!("uid {uid}"))
}

pub(super) fn capabilities() -> (bool, String) {
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

pub(super) fn has_filesystem(filesystems: &str, name: &str) -> (bool, String) {
    let known = filesystems.lines().any(|line| line.split_whitespace().next_back() == Some(name));
    (known, if known { "known" } else { "not in /proc/filesystems" }.to_owned())
}

pub(super) fn volumes(filesystems: &str) -> (bool, String) {
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

pub(super) fn exists(path: &str) -> (bool, String) {
    let there = Path::new(path).exists();
    (there, if there { path.to_owned() } else { format!("no {path}") })
}

pub(super) fn jit() -> (bool, String) {
    // Where the file is missing the kernel is built with the JIT always on, or without it; the first is common.
    let value = fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").unwrap_or_else(|_| "1".to_owned());
    (value.trim() != "0", format!("bpf_jit_enable = {}", value.trim()))
}

pub(super) fn user_namespaces() -> (bool, String) {
    let max = fs::read_to_string("/proc/sys/user/max_user_namespaces").ok().and_then(|t| t.trim().parse::<u64>().ok());
    match max {
        Some(0) => (false, "max_user_namespaces = 0".to_owned()),
        Some(max) => (Path::new("/proc/self/ns/user").exists(), format!("at most {max}")),
        None => (false, "the kernel has none".to_owned()),
    }
}

pub(super) fn cgroup2() -> (bool, String) {
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
pub(super) fn controllers() -> Vec<(String, String)> {
    let table = fs::read_to_string("/proc/cgroups").unwrap_or_default();
    let rows =
        table.lines().filter(|line| !line.starts_with('#')).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let of_v1 = rows.filter(|row| row.get(3) == Some(&"1") && row[1] != "0");
    let mut all: Vec<_> = of_v1.map(|row| (row[0].to_owned(), row[1].to_owned())).collect();
    let of_v2 = cgroup2_mount().and_then(|at| fs::read_to_string(format!("{at}/cgroup.subtree_control")).ok());
    all.extend(of_v2.unwrap_or_default().split_whitespace().map(|name| (name.to_owned(), "0".to_owned())));
    all
}

pub(super) fn controller(controllers: &[(String, String)], name: &str) -> (bool, String) {
    match controllers.iter().find(|(known, _)| known == name) {
        Some((_, hierarchy)) => (true, if hierarchy == "0" { "v2" } else { "v1" }.to_owned()),
        None => (false, "not enabled".to_owned()),
    }
}

pub(super) fn in_kernel(module: &str) -> (bool, String) {
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
pub(super) fn clsact() -> (bool, String) {
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

pub(super) fn open_files() -> (bool, String) {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    (limit.is_none_or(|max| max >= NOFILE_MIN), limit.map_or("no limit".to_owned(), |max| format!("at most {max}")))
}

pub(super) fn locked_memory() -> (bool, String) {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).maximum;
    // Since 5.11 maps count against the memory cgroup, so any limit does.
    (
        true,
        limit.map_or("no limit".to_owned(), |max| format!("at most {} KiB; maps do not count against it", max >> 10)),
    )
}

pub(super) fn space(state_dir: &Path) -> (bool, String) {
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
    fn filesystems_are_whole_words() {
        assert!(has_filesystem("nodev\toverlay\n\text4\n", "overlay").0);
        assert!(!has_filesystem("nodev\toverlayx\n", "overlay").0);
    }
}
