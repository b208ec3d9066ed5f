//! What the daemon, its shims and its children may never do, given up before there is a second thread. What they need is listed in
//! docs/security.md. Refuses to fail: where it may not give up, it has no more than it was given.

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_capabilities,
};

use crate::mutation::{self, Control};

/// Of the machine and not of containers. A container in a user namespace has capabilities of that namespace, which these do not limit.
pub const NEVER: CapabilitySet = CapabilitySet::SYS_MODULE
    .union(CapabilitySet::SYS_RAWIO)
    .union(CapabilitySet::SYS_BOOT)
    .union(CapabilitySet::SYS_TIME)
    .union(CapabilitySet::SYS_PACCT)
    .union(CapabilitySet::SYS_TTY_CONFIG)
    .union(CapabilitySet::SYSLOG)
    .union(CapabilitySet::WAKE_ALARM)
    .union(CapabilitySet::BLOCK_SUSPEND)
    .union(CapabilitySet::MAC_ADMIN)
    .union(CapabilitySet::MAC_OVERRIDE)
    .union(CapabilitySet::AUDIT_CONTROL)
    .union(CapabilitySet::AUDIT_READ)
    .union(CapabilitySet::LEASE)
    .union(CapabilitySet::NET_BROADCAST);

/// Of this thread and those that it starts, and of whatever they execute.
pub fn give_up() {
    if mutation::off(Control::DaemonCapabilities) {
        return;
    }
    if let Err(error) = try_give_up() {
        tracing::warn!(%error, "cannot give up capabilities that are not needed");
    }
}

fn try_give_up() -> rustix::io::Result<()> {
    for capability in NEVER.iter() {
        remove_capability_from_bounding_set(capability)?;
    }
    clear_ambient_capability_set()?;
    let has = capabilities(None)?;
    let permitted = has.permitted.difference(NEVER);
    let effective = has.effective.difference(NEVER);
    set_capabilities(None, CapabilitySets { effective, permitted, inheritable: CapabilitySet::empty() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_gives_up_the_same() {
        let unit = include_str!("../../../packaging/cc-host.service");
        let line = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=~")).unwrap();
        let mut there: Vec<&str> = line.split(' ').map(|name| name.strip_prefix("CAP_").unwrap()).collect();
        let mut given_up: Vec<&str> = NEVER.iter_names().map(|(name, _)| name).collect();
        there.sort_unstable();
        given_up.sort_unstable();
        assert_eq!(there, given_up);
    }
}
