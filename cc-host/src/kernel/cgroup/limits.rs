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

/// What a container is limited by; `cgroups-rs` behind it, or a test.
trait Controls {
    fn memory(&self, bytes: u64) -> Result<(), String>;
    fn cpu(&self, shares: u32) -> Result<(), String>;
    fn cpu_quota(&self, milli: u32) -> Result<(), String>;
    fn pids(&self, max: u32) -> Result<(), String>;
    fn cpus(&self, cpus: &CpuSet) -> Result<(), String>;
}

pub fn apply(hierarchies: &Hierarchies, dir: &Path, limits: &Limits) -> Result<(), CgroupError> {
    set(&Kernel { hierarchies, dir }, limits).map_err(|(limit, reason)| {
        let controller = match limit {
            "process" => "pids",
            "CPU set" => "cpuset",
            limit => limit,
        };
        CgroupError::Limit { limit, dir: hierarchies.controller(controller, dir).0, reason }
    })
}

fn set(controls: &dyn Controls, limits: &Limits) -> Result<(), (&'static str, String)> {
    let named = |name| move |reason| (name, reason);
    limits.memory_bytes.map_or(Ok(()), |bytes| controls.memory(bytes)).map_err(named("memory"))?;
    limits.cpu_shares.map_or(Ok(()), |shares| controls.cpu(shares)).map_err(named("cpu"))?;
    limits.cpu_milli.map_or(Ok(()), |milli| controls.cpu_quota(milli)).map_err(named("cpu"))?;
    limits.pids_max.map_or(Ok(()), |max| controls.pids(max)).map_err(named("process"))?;
    limits.cpuset.as_ref().map_or(Ok(()), |cpus| controls.cpus(cpus)).map_err(named("CPU set"))
}

struct Kernel<'a> {
    hierarchies: &'a Hierarchies,
    dir: &'a Path,
}

impl Controls for Kernel<'_> {
    fn memory(&self, bytes: u64) -> Result<(), String> {
        let (dir, v2) = self.hierarchies.controller("memory", self.dir);
        let bytes = i64::try_from(bytes).map_err(|_| "it is larger than any memory".to_owned())?;
        // On v1 the second file limits the sum of memory and swap, on v2 swap alone. A kernel without swap has neither.
        let (swap_file, swap) = if v2 { ("memory.swap.max", 0) } else { ("memory.memsw.limit_in_bytes", bytes) };
        let has_swap = dir.join(swap_file).exists();
        let controller = MemController::new(dir, v2);
        controller.set_limit(bytes).map_err(reason)?;
        if has_swap { controller.set_memswap_limit(swap).map_err(reason) } else { Ok(()) }
    }

    fn cpu(&self, shares: u32) -> Result<(), String> {
        let (dir, v2) = self.hierarchies.controller("cpu", self.dir);
        let value = if v2 { weight(shares) } else { u64::from(shares) };
        CpuController::new(dir, v2).set_shares(value).map_err(reason)
    }

    fn cpu_quota(&self, milli: u32) -> Result<(), String> {
        let (dir, v2) = self.hierarchies.controller("cpu", self.dir);
        let quota_us = i64::from(milli) * (PERIOD_US / 1000) as i64;
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
        fn memory(&self, bytes: u64) -> Result<(), String> {
            self.0.borrow_mut().push(format!("memory {bytes}"));
            Ok(())
        }
        fn cpu(&self, shares: u32) -> Result<(), String> {
            self.0.borrow_mut().push(format!("cpu {shares}"));
            Ok(())
        }
        fn cpu_quota(&self, milli: u32) -> Result<(), String> {
            self.0.borrow_mut().push(format!("quota {milli}"));
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
        assert_eq!(*recorder.0.borrow(), ["memory 1", "cpu 512", "quota 1500"]);
    }

    #[test]
    fn shares_keep_their_ratio_as_weights() {
        assert_eq!((weight(1024), weight(2048), weight(512)), (100, 200, 50));
        assert_eq!((weight(0), weight(u32::MAX)), (1, 10_000));
    }
}
