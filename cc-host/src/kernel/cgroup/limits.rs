//! Resource limits of a cgroup, set through `cgroups-rs`, which knows both versions' file names. Refuses limits that could
//! be evaded: memory that swaps out counts.

use std::path::Path;

use cgroups_rs::MaxValue;
use cgroups_rs::cpu::CpuController;
use cgroups_rs::memory::MemController;
use cgroups_rs::pid::PidController;

use super::CgroupError;
use super::cpuset::{self, CpuSet};
use super::hierarchy::Hierarchies;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Limits {
    pub memory_bytes: Option<u64>,
    /// As in v1: 1024 is one share like everybody's, 2 the least.
    pub cpu_shares: Option<u32>,
    /// Of a CPU, in thousandths: what it may use though nobody else wants it.
    pub cpu_milli: Option<u32>,
    pub pids_max: Option<u32>,
    /// Which CPUs.
    pub cpuset: Option<CpuSet>,
}

/// The kernel's default, and docker's.
const PERIOD_US: u64 = 100_000;
const SHARES_DEFAULT: u32 = 1024;
const UNLIMITED: i64 = -1;

/// What a container is limited by; `cgroups-rs` behind it, or a test.
trait Controls {
    /// None: as much as there is.
    fn memory(&self, bytes: Option<u64>) -> Result<(), String>;
    fn cpu(&self, shares: u32) -> Result<(), String>;
    fn cpu_quota(&self, milli: Option<u32>) -> Result<(), String>;
    fn pids(&self, max: u32) -> Result<(), String>;
    fn cpus(&self, cpus: &CpuSet) -> Result<(), String>;
}

/// Of a cgroup that is new: what is not limited is as the kernel made it.
pub fn apply(hierarchies: &Hierarchies, dir: &Path, limits: &Limits) -> Result<(), CgroupError> {
    set(&Kernel { hierarchies, dir }, limits).map_err(|failed| named_error(hierarchies, dir, failed))
}

/// Of one that was limited otherwise.
pub fn change(hierarchies: &Hierarchies, dir: &Path, old: &Limits, new: &Limits) -> Result<(), CgroupError> {
    reset(&Kernel { hierarchies, dir }, old, new).map_err(|failed| named_error(hierarchies, dir, failed))
}

fn named_error(hierarchies: &Hierarchies, dir: &Path, (limit, reason): (&'static str, String)) -> CgroupError {
    let controller = match limit {
        "process" => "pids",
        "CPU set" => "cpuset",
        limit => limit,
    };
    CgroupError::Limit { limit, dir: hierarchies.controller(controller, dir).0, reason }
}

fn set(controls: &dyn Controls, limits: &Limits) -> Result<(), (&'static str, String)> {
    let named = |name| move |reason| (name, reason);
    limits.memory_bytes.map_or(Ok(()), |bytes| controls.memory(Some(bytes))).map_err(named("memory"))?;
    limits.cpu_shares.map_or(Ok(()), |shares| controls.cpu(shares)).map_err(named("cpu"))?;
    limits.cpu_milli.map_or(Ok(()), |milli| controls.cpu_quota(Some(milli))).map_err(named("cpu"))?;
    limits.pids_max.map_or(Ok(()), |max| controls.pids(max)).map_err(named("process"))?;
    limits.cpuset.as_ref().map_or(Ok(()), |cpus| controls.cpus(cpus)).map_err(named("CPU set"))
}

/// What is the same is not touched.
fn reset(controls: &dyn Controls, old: &Limits, new: &Limits) -> Result<(), (&'static str, String)> {
    let named = |name| move |reason| (name, reason);
    if new.memory_bytes != old.memory_bytes {
        controls.memory(new.memory_bytes).map_err(named("memory"))?;
    }
    if new.cpu_shares != old.cpu_shares {
        controls.cpu(new.cpu_shares.unwrap_or(SHARES_DEFAULT)).map_err(named("cpu"))?;
    }
    if new.cpu_milli != old.cpu_milli {
        controls.cpu_quota(new.cpu_milli).map_err(named("cpu"))?;
    }
    match new.pids_max.filter(|_| new.pids_max != old.pids_max) {
        Some(max) => controls.pids(max).map_err(named("process")),
        None => Ok(()),
    }
}

struct Kernel<'a> {
    hierarchies: &'a Hierarchies,
    dir: &'a Path,
}

impl Controls for Kernel<'_> {
    fn memory(&self, bytes: Option<u64>) -> Result<(), String> {
        let (dir, v2) = self.hierarchies.controller("memory", self.dir);
        let limit =
            bytes.map_or(Ok(UNLIMITED), i64::try_from).map_err(|_| "it is larger than any memory".to_owned())?;
        // On v1 the second file limits the sum of memory and swap, on v2 swap alone. A kernel without swap has neither.
        let (swap_file, swap) = match (v2, bytes) {
            (true, Some(_)) => ("memory.swap.max", 0),
            (true, None) => ("memory.swap.max", UNLIMITED),
            (false, _) => ("memory.memsw.limit_in_bytes", limit),
        };
        let has_swap = dir.join(swap_file).exists();
        let controller = MemController::new(dir, v2);
        let set_swap = || if has_swap { controller.set_memswap_limit(swap).map_err(reason) } else { Ok(()) };
        // The sum is never below the memory alone, so that what grows does so in the other order.
        match controller.set_limit(limit) {
            Ok(()) => set_swap(),
            Err(_) if has_swap && !v2 => set_swap().and_then(|()| controller.set_limit(limit).map_err(reason)),
            Err(error) => Err(reason(error)),
        }
    }

    fn cpu(&self, shares: u32) -> Result<(), String> {
        let (dir, v2) = self.hierarchies.controller("cpu", self.dir);
        let value = if v2 { weight(shares) } else { u64::from(shares) };
        CpuController::new(dir, v2).set_shares(value).map_err(reason)
    }

    fn cpu_quota(&self, milli: Option<u32>) -> Result<(), String> {
        let (dir, v2) = self.hierarchies.controller("cpu", self.dir);
        let quota_us = milli.map_or(UNLIMITED, |milli| i64::from(milli) * (PERIOD_US / 1000) as i64);
        CpuController::new(dir, v2).set_cfs_quota_and_period(Some(quota_us), Some(PERIOD_US)).map_err(reason)
    }

    fn pids(&self, max: u32) -> Result<(), String> {
        let (dir, v2) = self.hierarchies.controller("pids", self.dir);
        PidController::new(dir, v2).set_pid_max(MaxValue::Value(i64::from(max))).map_err(reason)
    }

    fn cpus(&self, cpus: &CpuSet) -> Result<(), String> {
        cpuset::set(self.hierarchies, self.dir, cpus)
    }
}

/// Shares (2 to 262144, 1024 by default) as a v2 weight (1 to 10000, 100 by default), so that the two defaults meet and the
/// ratio of two containers is kept.
fn weight(shares: u32) -> u64 {
    (u64::from(shares.clamp(2, 262_144)) * 100 / 1024).clamp(1, 10_000)
}

fn reason(error: cgroups_rs::error::Error) -> String {
    use std::error::Error;
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[derive(Default)]
    struct Recorder(RefCell<Vec<String>>);

    impl Controls for Recorder {
        fn memory(&self, bytes: Option<u64>) -> Result<(), String> {
            self.0.borrow_mut().push(format!("memory {bytes:?}"));
            Ok(())
        }
        fn cpu(&self, shares: u32) -> Result<(), String> {
            self.0.borrow_mut().push(format!("cpu {shares}"));
            Ok(())
        }
        fn cpu_quota(&self, milli: Option<u32>) -> Result<(), String> {
            self.0.borrow_mut().push(format!("quota {milli:?}"));
            Ok(())
        }
        fn pids(&self, _: u32) -> Result<(), String> {
            Err("full".into())
        }
        fn cpus(&self, cpus: &CpuSet) -> Result<(), String> {
            self.0.borrow_mut().push(format!("CPUs {cpus}"));
            Ok(())
        }
    }

    #[test]
    fn only_what_is_asked_for_is_set_and_failures_name_the_limit() {
        let recorder = Recorder::default();
        set(&recorder, &Limits { memory_bytes: Some(1), ..Limits::default() }).unwrap();
        let failed = set(
            &recorder,
            &Limits { cpu_shares: Some(512), cpu_milli: Some(1500), pids_max: Some(1), ..Limits::default() },
        );
        assert_eq!(failed, Err(("process", "full".to_owned())));
        assert_eq!(*recorder.0.borrow(), ["memory Some(1)", "cpu 512", "quota Some(1500)"]);
    }

    #[test]
    fn of_changed_limits_only_those_are_set() {
        let recorder = Recorder::default();
        let old = Limits { memory_bytes: Some(1), cpu_shares: Some(512), pids_max: Some(9), ..Limits::default() };
        reset(&recorder, &old, &old).unwrap();
        assert!(recorder.0.borrow().is_empty());
        reset(&recorder, &old, &Limits { cpu_milli: Some(100), pids_max: Some(9), ..Limits::default() }).unwrap();
        assert_eq!(*recorder.0.borrow(), ["memory None", "cpu 1024", "quota Some(100)"]);
        assert!(
            reset(&recorder, &old, &Limits { pids_max: Some(8), ..old.clone() }).is_err(),
            "the processes' number, too"
        );
    }

    #[test]
    fn shares_keep_their_ratio_as_weights() {
        assert_eq!((weight(1024), weight(2048), weight(512)), (100, 200, 50));
        assert_eq!((weight(0), weight(u32::MAX)), (1, 10_000));
    }
}
