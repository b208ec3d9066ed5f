//! From root with everything to the program's user with what it was given, for good. Refuses to leave a capability that was not asked for.

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, configure_capability_in_ambient_set,
    remove_capability_from_bounding_set, set_capabilities, set_keep_capabilities, set_no_new_privs,
};

use super::process::{Plan, each_capability};
use crate::shim::filter::Filter;
use crate::shim::init::other;
use crate::shim::privileges::become_ids;
use crate::shim::protocol::StartFailure;

/// All but the last step, which `finish` is.
pub fn drop_to(plan: &Plan, filter: Option<&Filter>) -> Result<(), StartFailure> {
    let sets = &plan.capabilities;
    for one in each_capability().filter(|one| !sets.bounding.contains(*one)) {
        match remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            // One past the last that this kernel knows.
            Err(Errno::INVAL) => break,
            Err(e) => return Err(other("drop a capability", e)),
        }
    }
    clear_ambient_capability_set().map_err(|e| other("drop ambient capabilities", e))?;
    set_keep_capabilities(true).map_err(|e| other("keep capabilities", e))?;
    become_ids(plan.uid, plan.gid, &plan.groups)?;
    set_keep_capabilities(false).map_err(|e| other("keep capabilities no longer", e))?;
    // Without it the kernel takes no filter of somebody who may still gain privileges.
    let for_filter = match filter {
        Some(_) if !plan.no_new_privileges => CapabilitySet::SYS_ADMIN,
        _ => CapabilitySet::empty(),
    };
    hold(plan, for_filter)?;
    set_no_new_privs(plan.no_new_privileges).or_else(|e| match plan.no_new_privileges {
        true => Err(other("forbid new privileges", e)),
        // There is nothing to take back.
        false => Ok(()),
    })
}

/// The filter of system calls, and what only that needed.
pub fn finish(plan: &Plan, filter: Option<&Filter>) -> Result<(), StartFailure> {
    if let Some(filter) = filter.filter(|_| !plan.no_new_privileges) {
        filter.install()?;
        hold(plan, CapabilitySet::empty())?;
    }
    for one in plan.capabilities.ambient.iter() {
        configure_capability_in_ambient_set(one, true).map_err(|e| other("raise an ambient capability", e))?;
    }
    Ok(())
}

fn hold(plan: &Plan, more: CapabilitySet) -> Result<(), StartFailure> {
    let given = &plan.capabilities;
    let sets = CapabilitySets {
        effective: given.effective | more,
        permitted: given.permitted | more,
        inheritable: given.inheritable,
    };
    set_capabilities(None, sets).map_err(|e| other("set the capabilities", e))
}
