//! What is set for a process from outside, by somebody who may raise it: limits, scheduling, its score for the OOM killer. Refuses to go as far as
//! it may: a limit is as it was asked for.

use rustix::process::{Pid, prlimit};

use super::error::OciError;
use super::process::Plan;
use crate::shim::sys;

/// Last before the program, since some would be in the way of its preparation.
pub fn apply(plan: &Plan, pid: i32) -> Result<(), OciError> {
    let target = Pid::from_raw(pid);
    for (resource, limit) in &plan.rlimits {
        prlimit(target, *resource, limit.clone())
            .map_err(|e| OciError::step(format!("set process.rlimits ({resource:?})"), e))?;
    }
    if let Some(scheduling) = plan.scheduling {
        sys::set_scheduling(pid, scheduling).map_err(|e| OciError::step("set process.scheduler", e))?;
    }
    if let Some((class, priority)) = plan.io_priority {
        sys::set_io_priority(pid, class, priority).map_err(|e| OciError::step("set process.ioPriority", e))?;
    }
    Ok(())
}

pub fn set_oom_score(pid: i32, adj: i32) -> Result<(), OciError> {
    std::fs::write(format!("/proc/{pid}/oom_score_adj"), adj.to_string())
        .map_err(|e| OciError::step("set process.oomScoreAdj", e))
}
