//! `linux.resources.memory`. Zero is the same as nothing, as with runc, since callers send it so. Refuses what the layout has no file for.

use oci_spec::runtime::LinuxMemory;

use super::OciError;
use super::place::{Place, or_max};

const LIMIT: &str = "linux.resources.memory.limit";
const SWAP: &str = "linux.resources.memory.swap";
const ONLY_V1: &str = "cgroup v2 has nothing like it";

pub fn apply(place: &Place, memory: &LinuxMemory) -> Result<(), OciError> {
    let (limit, swap) = (memory.limit().unwrap_or(0), memory.swap().unwrap_or(0));
    if memory.check_before_update() == Some(true) && limit > 0 {
        check(place, limit)?;
    }
    if place.is_v2 { unified(place, memory, limit, swap) } else { legacy(place, memory, limit, swap) }
}

/// Whether what is in use fits: the kernel itself would kill.
fn check(place: &Place, limit: i64) -> Result<(), OciError> {
    let used = place.number(if place.is_v2 { "memory.current" } else { "memory.usage_in_bytes" });
    match used {
        Some(used) if used > limit.cast_unsigned() => {
            let why = format!("{used} bytes are in use, and memory.checkBeforeUpdate asks for this to be looked at");
            Err(OciError::Invalid { field: LIMIT.to_owned(), why })
        }
        _ => Ok(()),
    }
}

fn unified(place: &Place, memory: &LinuxMemory, limit: i64, swap: i64) -> Result<(), OciError> {
    let refused =
        |field: &str| Err(OciError::Unsupported { field: format!("linux.resources.memory.{field}"), why: ONLY_V1 });
    if memory.swappiness().is_some() {
        return refused("swappiness");
    }
    if memory.disable_oom_killer() == Some(true) {
        return refused("disableOOMKiller");
    }
    if memory.use_hierarchy() == Some(false) {
        return refused("useHierarchy");
    }
    if memory.kernel_tcp().is_some_and(|limit| limit > 0) {
        return refused("kernelTCP");
    }
    if memory.kernel().is_some_and(|limit| limit > 0) {
        return refused("kernel");
    }
    // What v1 counts together v2 counts apart.
    let known =
        if limit == 0 { place.number("memory.max").and_then(|max| i64::try_from(max).ok()) } else { Some(limit) };
    if let Some(swap) = swap_alone(limit, swap, known)? {
        match place.try_set("memory.swap.max", &or_max(swap)) {
            // A kernel that does not count it does not limit it.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && swap < 0 => {}
            done => done.map_err(|error| place.refused(SWAP, "memory.swap.max", &or_max(swap), &error))?,
        }
    }
    if limit != 0 {
        place.set(LIMIT, "memory.max", or_max(limit))?;
    }
    if let Some(reservation) = memory.reservation().filter(|reservation| *reservation != 0) {
        place.set("linux.resources.memory.reservation", "memory.low", or_max(reservation))?;
    }
    Ok(())
}

/// Of memory and swap together, as the specification has it, what is swap; none where nothing is said.
fn swap_alone(limit: i64, swap: i64, known: Option<i64>) -> Result<Option<i64>, OciError> {
    let invalid = |why: &str| Err(OciError::Invalid { field: SWAP.to_owned(), why: why.to_owned() });
    match (limit, swap) {
        (-1, 0) => Ok(Some(-1)),
        (_, 0) => Ok(None),
        (_, ..0) => Ok(Some(-1)),
        _ => match known {
            Some(memory) if memory > 0 && memory <= swap => Ok(Some(swap - memory)),
            Some(memory) if memory > swap => invalid("it counts memory too, and is less than memory.limit"),
            _ => invalid("on cgroup v2 it needs memory.limit beside it"),
        },
    }
}

fn legacy(place: &Place, memory: &LinuxMemory, limit: i64, swap: i64) -> Result<(), OciError> {
    const BOTH: &str = "memory.memsw.limit_in_bytes";
    if let Some(hierarchy) = memory.use_hierarchy() {
        let file = "memory.use_hierarchy";
        if place.has(file) || !hierarchy {
            place.set("linux.resources.memory.useHierarchy", file, u8::from(hierarchy))?;
        }
    }
    // Whoever takes the one limit away takes the other, which may not be below it.
    let swap = if limit == -1 && swap == 0 && place.has(BOTH) { -1 } else { swap };
    let set_limit = || if limit == 0 { Ok(()) } else { place.set(LIMIT, "memory.limit_in_bytes", limit) };
    let set_swap = || if swap == 0 { Ok(()) } else { place.set(SWAP, BOTH, swap) };
    // At no moment may the limit of both be below that of memory alone.
    let grows = place.number("memory.limit_in_bytes").is_some_and(|now| swap < 0 || swap.cast_unsigned() > now);
    if grows {
        set_swap()?;
        set_limit()?;
    } else {
        set_limit()?;
        set_swap()?;
    }
    if let Some(reservation) = memory.reservation().filter(|reservation| *reservation != 0) {
        place.set("linux.resources.memory.reservation", "memory.soft_limit_in_bytes", reservation)?;
    }
    if let Some(kernel) = memory.kernel().filter(|limit| *limit > 0) {
        place.set("linux.resources.memory.kernel", "memory.kmem.limit_in_bytes", kernel)?;
    }
    if let Some(tcp) = memory.kernel_tcp().filter(|limit| *limit != 0) {
        place.set("linux.resources.memory.kernelTCP", "memory.kmem.tcp.limit_in_bytes", tcp)?;
    }
    if let Some(swappiness) = memory.swappiness() {
        place.set("linux.resources.memory.swappiness", "memory.swappiness", swappiness)?;
    }
    if let Some(disable) = memory.disable_oom_killer() {
        place.set("linux.resources.memory.disableOOMKiller", "memory.oom_control", u8::from(disable))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::LinuxMemoryBuilder;

    use super::super::tests::place;
    use super::*;

    #[test]
    fn v2_counts_swap_apart() {
        let (_dir, place) = place(true, &["memory.max", "memory.low", "memory.swap.max"]);
        let memory = LinuxMemoryBuilder::default().limit(1000).swap(3000).reservation(500).build().unwrap();
        apply(&place, &memory).unwrap();
        let read = |file: &str| place.read(file).unwrap();
        assert_eq!(
            (read("memory.max"), read("memory.swap.max"), read("memory.low")),
            ("1000".into(), "2000".into(), "500".into())
        );
        for (limit, swap, known, wanted) in [
            (0, 0, None, None),
            (-1, 0, Some(-1), Some(-1)),
            (5, 0, Some(5), None),
            (5, -1, Some(5), Some(-1)),
            (5, 5, Some(5), Some(0)),
            (0, 9, Some(5), Some(4)),
        ] {
            assert_eq!(swap_alone(limit, swap, known).unwrap(), wanted, "{limit} {swap}");
        }
        assert!(
            swap_alone(5, 4, Some(5)).is_err()
                && swap_alone(0, 4, None).is_err()
                && swap_alone(-1, 4, Some(-1)).is_err()
        );
    }

    #[test]
    fn v2_refuses_by_name_what_v1_alone_has() {
        let (_dir, place) = place(true, &["memory.max", "memory.current"]);
        let builder = LinuxMemoryBuilder::default;
        let kernel = builder().kernel(1).build();
        for (memory, name) in [
            (builder().swappiness(1u64).build(), "swappiness"),
            (builder().disable_oom_killer(true).build(), "disableOOMKiller"),
            (builder().use_hierarchy(false).build(), "useHierarchy"),
            (builder().kernel_tcp(1).build(), "kernelTCP"),
            (kernel, "kernel"),
            (builder().limit(1).swap(2).build(), "memory.swap"),
        ] {
            let error = apply(&place, &memory.unwrap()).unwrap_err().to_string();
            assert!(error.contains(name), "{name}: {error}");
        }
        std::fs::write(place.dir.join("memory.current"), "4096\n").unwrap();
        let memory = builder().limit(4095).check_before_update(true).build().unwrap();
        assert!(apply(&place, &memory).unwrap_err().to_string().contains("4096 bytes"));
        apply(&place, &builder().limit(4096).check_before_update(true).build().unwrap()).unwrap();
    }

    #[test]
    fn v1_takes_them_as_they_are() {
        let files = [
            "memory.limit_in_bytes",
            "memory.memsw.limit_in_bytes",
            "memory.soft_limit_in_bytes",
            "memory.swappiness",
            "memory.oom_control",
        ];
        let (_dir, place) = place(false, &files);
        let memory = LinuxMemoryBuilder::default()
            .limit(1000)
            .swap(-1)
            .reservation(500)
            .swappiness(7u64)
            .disable_oom_killer(true);
        apply(&place, &memory.use_hierarchy(true).build().unwrap()).unwrap();
        let all: Vec<String> = files.iter().map(|file| place.read(file).unwrap()).collect();
        assert_eq!(all, ["1000", "-1", "500", "7", "1"]);
        let kernel = LinuxMemoryBuilder::default().kernel(5).build().unwrap();
        assert!(apply(&place, &kernel).unwrap_err().to_string().contains("memory.kernel"));
    }
}
