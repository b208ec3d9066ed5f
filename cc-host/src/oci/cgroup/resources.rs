//! `linux.resources` as a whole: which controllers it needs, and who sets what. A resource whose controller is nowhere is refused by its name.
//! Refuses devices, which have a file of their own.

use std::collections::BTreeSet;
use std::collections::HashMap;

use oci_spec::runtime::{LinuxHugepageLimit, LinuxNetwork, LinuxPids, LinuxRdma, LinuxResources};

use super::layout::Layout;
use super::place::{Place, or_max};
use super::{Cgroup, OciError, cpu, io, memory};

const UNIFIED: &str = "linux.resources.unified";
/// What a v2 cgroup has without any controller, and a configuration may set; everything else of that name is the runtime's own business.
const CORE: [&str; 2] = ["cgroup.max.depth", "cgroup.max.descendants"];

/// What must be there, by its names on v1 and v2.
pub fn needed(resources: &LinuxResources) -> BTreeSet<&'static str> {
    let cpu = resources.cpu().as_ref();
    let has = |network: &LinuxNetwork| [network.class_id().is_some(), network.priorities().is_some()];
    let [class, priorities] = resources.network().as_ref().map_or([false; 2], has);
    let all = [
        ("memory", resources.memory().as_ref().is_some_and(|memory| *memory != Default::default())),
        ("cpu", cpu.is_some_and(cpu::wants_time)),
        ("cpuset", cpu.is_some_and(cpu::wants_set)),
        ("pids", resources.pids().as_ref().is_some_and(|pids| pids.limit() != 0)),
        ("io", resources.block_io().as_ref().is_some_and(|io| *io != Default::default())),
        ("hugetlb", resources.hugepage_limits().as_ref().is_some_and(|limits| !limits.is_empty())),
        ("rdma", resources.rdma().as_ref().is_some_and(|limits| !limits.is_empty())),
        ("net_cls", class),
        ("net_prio", priorities),
    ];
    all.into_iter().filter_map(|(name, is_needed)| is_needed.then_some(name)).collect()
}

/// Where a controller is, by its name on v2.
pub fn find(layout: &Layout, cgroup: &Cgroup, controller: &str) -> Option<Place> {
    let legacy = layout.legacy_of(if controller == "io" { "blkio" } else { controller });
    if let Some(hierarchy) = legacy {
        let dir = cgroup.legacy.iter().find(|dir| dir.starts_with(&hierarchy.mount))?;
        return Some(Place { dir: dir.clone(), is_v2: false });
    }
    let place = Place { dir: cgroup.unified.clone()?, is_v2: true };
    let has = place.read("cgroup.controllers").ok()?.split(' ').any(|name| name == controller);
    has.then_some(place)
}

pub fn apply(layout: &Layout, cgroup: &Cgroup, resources: &LinuxResources) -> Result<(), OciError> {
    let wanted = needed(resources);
    let place = |controller: &str, field: &str| -> Result<Option<Place>, OciError> {
        if !wanted.contains(controller) {
            return Ok(None);
        }
        find(layout, cgroup, controller).map(Some).ok_or_else(|| OciError::Invalid {
            field: format!("linux.resources.{field}"),
            why: format!("no cgroup hierarchy that is mounted here has the controller {controller}"),
        })
    };
    if let (Some(limits), Some(place)) = (resources.memory(), place("memory", "memory")?) {
        memory::apply(&place, limits)?;
    }
    if let (Some(limits), Some(place)) = (resources.cpu(), place("cpu", "cpu")?) {
        cpu::apply(&place, limits)?;
    }
    if let (Some(limits), Some(place)) = (resources.cpu(), place("cpuset", "cpu.cpus")?) {
        cpu::apply_set(&place, limits)?;
    }
    if let (Some(limits), Some(place)) = (resources.pids(), place("pids", "pids")?) {
        pids(&place, limits)?;
    }
    if let (Some(limits), Some(place)) = (resources.block_io(), place("io", "blockIO")?) {
        io::apply(&place, limits)?;
    }
    if let (Some(limits), Some(place)) = (resources.hugepage_limits(), place("hugetlb", "hugepageLimits")?) {
        limits.iter().try_for_each(|limit| huge_pages(&place, limit))?;
    }
    if let (Some(limits), Some(place)) = (resources.rdma(), place("rdma", "rdma")?) {
        rdma(&place, limits)?;
    }
    if let (Some(network), Some(place)) = (resources.network(), place("net_cls", "network.classID")?) {
        class(&place, network)?;
    }
    if let (Some(network), Some(place)) = (resources.network(), place("net_prio", "network.priorities")?) {
        priorities(&place, network)?;
    }
    resources.unified().as_ref().map_or(Ok(()), |values| unified(cgroup, values))
}

fn pids(place: &Place, pids: &LinuxPids) -> Result<(), OciError> {
    place.set("linux.resources.pids.limit", "pids.max", or_max(pids.limit()))
}

fn huge_pages(place: &Place, limit: &LinuxHugepageLimit) -> Result<(), OciError> {
    const FIELD: &str = "linux.resources.hugepageLimits";
    let size = limit.page_size();
    if size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        let why = format!("{size:?} is no size of pages; they are named like 2MB");
        return Err(OciError::Invalid { field: format!("{FIELD}.pageSize"), why });
    }
    let (file, reserved) = if place.is_v2 { ("max", "rsvd.max") } else { ("limit_in_bytes", "rsvd.limit_in_bytes") };
    place.set(FIELD, &format!("hugetlb.{size}.{file}"), limit.limit())?;
    // What is only reserved counts too, where the kernel counts it.
    let reserved = format!("hugetlb.{size}.{reserved}");
    if place.has(&reserved) { place.set(FIELD, &reserved, limit.limit()) } else { Ok(()) }
}

fn rdma(place: &Place, limits: &HashMap<String, LinuxRdma>) -> Result<(), OciError> {
    const FIELD: &str = "linux.resources.rdma";
    for (device, limit) in limits {
        if device.is_empty() || device.contains(char::is_whitespace) {
            let why = format!("{device:?} is no device's name");
            return Err(OciError::Invalid { field: FIELD.to_owned(), why });
        }
        let parts = [("hca_handle", limit.hca_handles()), ("hca_object", limit.hca_objects())];
        let parts: Vec<String> =
            parts.into_iter().filter_map(|(name, most)| Some(format!(" {name}={}", most?))).collect();
        if !parts.is_empty() {
            place.set(FIELD, "rdma.max", format!("{device}{}", parts.concat()))?;
        }
    }
    Ok(())
}

fn class(place: &Place, network: &LinuxNetwork) -> Result<(), OciError> {
    network.class_id().map_or(Ok(()), |class| place.set("linux.resources.network.classID", "net_cls.classid", class))
}

fn priorities(place: &Place, network: &LinuxNetwork) -> Result<(), OciError> {
    const FIELD: &str = "linux.resources.network.priorities";
    network.priorities().iter().flatten().try_for_each(|one| {
        if one.name().is_empty() || one.name().contains(char::is_whitespace) {
            let why = format!("{:?} is no interface's name", one.name());
            return Err(OciError::Invalid { field: FIELD.to_owned(), why });
        }
        place.set(FIELD, "net_prio.ifpriomap", format!("{} {}", one.name(), one.priority()))
    })
}

/// Files of v2 by their names, each line by itself, since the kernel takes one at a time.
fn unified(cgroup: &Cgroup, values: &HashMap<String, String>) -> Result<(), OciError> {
    if values.is_empty() {
        return Ok(());
    }
    let Some(dir) = &cgroup.unified else {
        return Err(OciError::Unsupported { field: UNIFIED.to_owned(), why: "no cgroup v2 hierarchy is mounted here" });
    };
    let place = Place { dir: dir.clone(), is_v2: true };
    let sorted: std::collections::BTreeMap<_, _> = values.iter().collect();
    for (name, value) in sorted {
        let field = format!("{UNIFIED}.{name}");
        check_unified(name)?;
        if !place.has(name) {
            let why = format!(
                "there is no {}: its controller is not on the v2 hierarchy, or the kernel has no such file",
                place.dir.join(name).display()
            );
            return Err(OciError::Invalid { field, why });
        }
        if value.lines().all(str::is_empty) {
            let why = "it is empty, and nothing would be written".to_owned();
            return Err(OciError::Invalid { field, why });
        }
        for line in value.lines() {
            place.set(&field, name, line)?;
        }
    }
    Ok(())
}

fn check_unified(name: &str) -> Result<(), OciError> {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
    let has_controller =
        name.split_once('.').is_some_and(|(controller, file)| !controller.is_empty() && !file.is_empty());
    let is_ours = name.starts_with("cgroup.") && !CORE.contains(&name);
    if plain && has_controller && !name.contains("..") && !is_ours {
        return Ok(());
    }
    let why = if is_ours {
        "the runtime itself uses it"
    } else {
        "it is no name of a file of cgroup v2, such as memory.high"
    };
    Err(OciError::Invalid { field: format!("{UNIFIED}.{name}"), why: why.to_owned() })
}

/// Controllers that `unified` names.
pub fn needed_by_unified(resources: &LinuxResources) -> BTreeSet<String> {
    let names = resources.unified().iter().flat_map(HashMap::keys).filter_map(|name| name.split_once('.'));
    names.map(|(controller, _)| controller.to_owned()).filter(|controller| controller != "cgroup").collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{hybrid, place, pure};
    use super::*;

    fn resources(text: &str) -> LinuxResources {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_controller_is_where_the_layout_has_it() {
        let (_dir, layout, cgroup) = hybrid(&["memory", "blkio"], "hugetlb pids");
        let is_v2 = |name: &str| find(&layout, &cgroup, name).map(|place| place.is_v2);
        assert_eq!(
            ["memory", "io", "pids", "hugetlb", "cpu"].map(is_v2),
            [Some(false), Some(false), Some(true), Some(true), None]
        );
        for (text, word) in [
            (r#"{"cpu":{"shares":5}}"#, "linux.resources.cpu"),
            (r#"{"cpu":{"cpus":"0"}}"#, "cpuset"),
            (r#"{"network":{"classID":5}}"#, "network.classID"),
            (r#"{"network":{"priorities":[{"name":"a","priority":1}]}}"#, "network.priorities"),
            (r#"{"rdma":{"mlx5_1":{"hcaHandles":1}}}"#, "rdma"),
            (r#"{"unified":{"memory.high":"5"}}"#, "unified.memory.high"),
        ] {
            let error = apply(&layout, &cgroup, &resources(text)).unwrap_err().to_string();
            assert!(error.contains(word), "{word}: {error}");
        }
        // What says nothing needs nothing.
        apply(&layout, &cgroup, &resources(r#"{"cpu":{"shares":0},"memory":{},"network":{},"unified":{}}"#)).unwrap();
    }

    #[test]
    fn small_ones_are_written_as_each_version_has_them() {
        let (_dir, v2) = place(true, &["hugetlb.2MB.max", "hugetlb.2MB.rsvd.max", "pids.max", "rdma.max"]);
        let given = resources(
            r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4096}],"pids":{"limit":-1},"rdma":{"mlx5_1":{"hcaHandles":3,"hcaObjects":4}}}"#,
        );
        given.hugepage_limits().iter().flatten().for_each(|limit| huge_pages(&v2, limit).unwrap());
        pids(&v2, &given.pids().unwrap()).unwrap();
        rdma(&v2, given.rdma().as_ref().unwrap()).unwrap();
        let read = |file: &str| v2.read(file).unwrap();
        assert_eq!([read("hugetlb.2MB.max"), read("hugetlb.2MB.rsvd.max"), read("pids.max")], ["4096", "4096", "max"]);
        assert_eq!(read("rdma.max"), "mlx5_1 hca_handle=3 hca_object=4");
        let (_dir, v1) = place(false, &["hugetlb.2MB.limit_in_bytes", "net_cls.classid", "net_prio.ifpriomap"]);
        given.hugepage_limits().iter().flatten().for_each(|limit| huge_pages(&v1, limit).unwrap());
        let network = resources(r#"{"network":{"classID":9,"priorities":[{"name":"eth0","priority":2}]}}"#);
        class(&v1, network.network().as_ref().unwrap()).unwrap();
        priorities(&v1, network.network().as_ref().unwrap()).unwrap();
        let read = |file: &str| v1.read(file).unwrap();
        assert_eq!(
            [read("hugetlb.2MB.limit_in_bytes"), read("net_cls.classid"), read("net_prio.ifpriomap")],
            ["4096", "9", "eth0 2"]
        );
        let bad = resources(r#"{"hugepageLimits":[{"pageSize":"../2MB","limit":1}]}"#);
        assert!(huge_pages(&v1, &bad.hugepage_limits().as_ref().unwrap()[0]).is_err());
    }

    #[test]
    fn unified_files_cannot_lead_elsewhere() {
        let (_dir, layout, cgroup) = pure("memory io");
        let dir = cgroup.unified.clone().unwrap();
        std::fs::write(dir.join("memory.high"), "").unwrap();
        apply(&layout, &cgroup, &resources(r#"{"unified":{"memory.high":"5"}}"#)).unwrap();
        assert_eq!(std::fs::read_to_string(dir.join("memory.high")).unwrap(), "5");
        for bad in [
            "../memory.high",
            "memory..high",
            "memory",
            ".x",
            "memory.",
            "a/b.c",
            "cgroup.procs",
            "cgroup.subtree_control",
            "memory.nothing",
        ] {
            let text = format!(r#"{{"unified":{{"{bad}":"1"}}}}"#);
            assert!(apply(&layout, &cgroup, &resources(&text)).is_err(), "{bad}");
        }
        for empty in ["", "\\n"] {
            let text = format!(r#"{{"unified":{{"memory.high":"{empty}"}}}}"#);
            let error = apply(&layout, &cgroup, &resources(&text)).unwrap_err().to_string();
            assert!(error.contains("unified.memory.high") && error.contains("empty"), "{error}");
        }
        let wanted =
            needed_by_unified(&resources(r#"{"unified":{"memory.high":"1","io.max":"","cgroup.max.depth":"1"}}"#));
        assert_eq!(wanted.into_iter().collect::<Vec<_>>(), ["io", "memory"]);
    }
}
