//! What is set for a process from outside, by somebody who may raise it: limits, scheduling, its score for the OOM killer. Refuses to go as far as
//! it may: a limit is as it was asked for.

use rustix::io::Errno;
use rustix::process::{Pid, getrlimit, prlimit, setrlimit};

use super::error::OciError;
use super::process::Plan;
use crate::shim::init::other;
use crate::shim::protocol::StartFailure;
use crate::shim::sys;

/// Late, since some would be in the way of the preparation.
pub fn apply(plan: &Plan, pid: i32) -> Result<(), OciError> {
    let target = Pid::from_raw(pid);
    for (resource, limit) in &plan.rlimits {
        match prlimit(target, *resource, *limit) {
            // Without CAP_SYS_RESOURCE nobody sets another user's: the process will try.
            Ok(_) | Err(Errno::PERM) => {}
            Err(e) => return Err(OciError::step(format!("set process.rlimits ({resource:?})"), e)),
        }
    }
    if let Some(scheduling) = plan.scheduling {
        sys::set_scheduling(pid, scheduling).map_err(|e| OciError::step("set process.scheduler", e))?;
    }
    if let Some((class, priority)) = plan.io_priority {
        sys::set_io_priority(pid, class, priority).map_err(|e| OciError::step("set process.ioPriority", e))?;
    }
    Ok(())
}

/// By the process itself: what is not as it was asked for is set, or is an error.
pub fn check(plan: &Plan) -> Result<(), StartFailure> {
    for (resource, limit) in &plan.rlimits {
        if getrlimit(*resource) != *limit {
            setrlimit(*resource, *limit).map_err(|e| other(&format!("set process.rlimits ({resource:?})"), e))?;
        }
    }
    Ok(())
}

pub fn set_oom_score(pid: i32, adj: i32) -> Result<(), OciError> {
    std::fs::write(format!("/proc/{pid}/oom_score_adj"), adj.to_string())
        .map_err(|e| OciError::step("set process.oomScoreAdj", e))
}
