//! What the program may do: docker's default capabilities or those that its specification names, no new ones ever, limits clamped to what is allowed. Refuses
//! exceptions.
//!
//! `setgroups` stays allowed in the container's user namespace: images need it (every server that drops to its own user),
//! and there is nothing to gain, because init starts without any group of the host and only the container's own range of
//! gids is mapped. Denying it matters where a user maps their own groups; here root maps a range that is nobody's.

use rustix::io::Errno;
use rustix::process::{Gid, Resource, Rlimit, Uid, getrlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::protocol::{FailureKind, StartFailure};
use super::spec::{RlimitKind, RlimitSpec};
use super::sys;
use super::user::User;
use crate::mutation::{self, Control};

pub const DEFAULT_CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::AUDIT_WRITE);

/// The highest number a capability can have: the kernel's sets are 64 bits wide.
const CAPABILITY_MAX: u32 = 63;

/// Root of the user namespace, and no group of the host: what the preparations run as.
pub fn become_root() -> Result<(), StartFailure> {
    become_ids(0, 0, &[])
}

/// Where ids are the host's, so are their keys: those of the container's programs are in a keyring of its own. Kernels without keys have none.
pub fn own_keys(id: &str) -> Result<(), StartFailure> {
    let name = std::ffi::CString::new(format!("_ses.{id}")).unwrap_or_default();
    match sys::join_session_keyring(&name) {
        Err(e) if e.raw_os_error() != Some(libc::ENOSYS) => {
            let why = format!("cannot make a session keyring: {e}");
            Err(StartFailure::new(FailureKind::Other, why))
        }
        _ => Ok(()),
    }
}

/// Of a specification: what it says, or docker's default.
pub fn capabilities(given: Option<u64>) -> CapabilitySet {
    given.map_or(DEFAULT_CAPABILITIES, CapabilitySet::from_bits_retain)
}

/// Of a child of the daemon's that handles what strangers made: none but these, for good, and no new ones.
pub fn confine_to(kept: CapabilitySet) -> std::io::Result<()> {
    set_no_new_privs(true)?;
    for capability in CapabilitySet::all().difference(kept).iter() {
        match remove_capability_from_bounding_set(capability) {
            // A capability that this kernel does not know yet is not held either.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(e) => return Err(e.into()),
        }
    }
    clear_ambient_capability_set()?;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    Ok(set_capabilities(None, sets)?)
}

/// For good: user, groups, capabilities.
pub fn drop_to(user: &User, capabilities: CapabilitySet) -> Result<(), StartFailure> {
    let capabilities = if mutation::off(Control::CapabilitiesDropped) { CapabilitySet::all() } else { capabilities };
    for number in 0..=CAPABILITY_MAX {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if capabilities.contains(one) {
            continue;
        }
        match remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            // One past the last that this kernel knows.
            Err(Errno::INVAL) => break,
            Err(source) => return Err(failed("drop a capability", source)),
        }
    }
    clear_ambient_capability_set().map_err(|source| failed("drop ambient capabilities", source))?;
    become_ids(user.uid, user.gid, &user.groups)?;
    // For any other user than root the kernel has cleared them with the change of ids.
    let kept = if user.uid == 0 { capabilities } else { CapabilitySet::empty() };
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).map_err(|source| failed("set the capabilities", source))?;
    set_no_new_privs(!mutation::off(Control::NoNewPrivileges)).map_err(|source| failed("forbid new privileges", source))
}

/// Never fails because a limit cannot be raised: it gets as far as it is allowed.
pub fn limit(rlimits: &[RlimitSpec]) -> Result<(), StartFailure> {
    for wanted in rlimits {
        let resource = resource(wanted.resource);
        let (soft, hard) = clamp(wanted, getrlimit(resource).maximum);
        let limits = Rlimit { current: Some(soft), maximum: Some(hard) };
        setrlimit(resource, limits).map_err(|source| failed("set a resource limit", source))?;
    }
    Ok(())
}

fn clamp(wanted: &RlimitSpec, allowed: Option<u64>) -> (u64, u64) {
    let hard = wanted.hard.min(allowed.unwrap_or(u64::MAX));
    (wanted.soft.min(hard), hard)
}

/// The kernel reads the highest number as "leave it as it is": who asked for it would stay root.
pub(crate) fn become_ids(uid: u32, gid: u32, groups: &[u32]) -> Result<(), StartFailure> {
    if [uid, gid].iter().chain(groups).any(|id| *id == u32::MAX) {
        return Err(failed(&format!("become {uid}:{gid}, since {} is nobody's id", u32::MAX), Errno::INVAL));
    }
    let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    set_thread_groups(&groups).map_err(|source| failed("set the groups", source))?;
    set_thread_res_gid(gid, gid, gid).map_err(|source| failed("set the group", source))?;
    set_thread_res_uid(uid, uid, uid).map_err(|source| failed("set the user", source))?;
    let asked = |source: nix::errno::Errno| failed("ask who this is", Errno::from_raw_os_error(source as i32));
    let (user, group) = (nix::unistd::getresuid().map_err(asked)?, nix::unistd::getresgid().map_err(asked)?);
    let users = [user.real, user.effective, user.saved].map(nix::unistd::Uid::as_raw);
    let groups = [group.real, group.effective, group.saved].map(nix::unistd::Gid::as_raw);
    match users == [uid.as_raw(); 3] && groups == [gid.as_raw(); 3] {
        true => Ok(()),
        false => Err(failed("become the user and the group that were asked for", Errno::PERM)),
    }
}

fn resource(kind: RlimitKind) -> Resource {
    match kind {
        RlimitKind::Core => Resource::Core,
        RlimitKind::Cpu => Resource::Cpu,
        RlimitKind::Data => Resource::Data,
        RlimitKind::Fsize => Resource::Fsize,
        RlimitKind::Memlock => Resource::Memlock,
        RlimitKind::Nofile => Resource::Nofile,
        RlimitKind::Nproc => Resource::Nproc,
        RlimitKind::Stack => Resource::Stack,
    }
}

fn failed(step: &str, source: Errno) -> StartFailure {
    StartFailure::new(FailureKind::Other, format!("cannot {step}: {source}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_set_is_dockers() {
        assert_eq!(DEFAULT_CAPABILITIES.bits(), 0xa804_25fb);
    }

    #[test]
    fn the_number_that_would_change_nothing_is_refused() {
        let own = nix::unistd::getresuid().unwrap();
        for (uid, gid, groups) in [(u32::MAX, 0, vec![]), (0, u32::MAX, vec![]), (0, 0, vec![1, u32::MAX])] {
            let error = become_ids(uid, gid, &groups).unwrap_err().to_string();
            assert!(error.contains("4294967295"), "{error}");
        }
        assert_eq!(nix::unistd::getresuid().unwrap(), own);
    }

    #[test]
    fn limits_are_clamped_to_what_is_allowed() {
        let wanted = RlimitSpec { resource: RlimitKind::Nofile, soft: 1024, hard: 524_288 };
        assert_eq!(clamp(&wanted, Some(20_000)), (1024, 20_000));
        assert_eq!(clamp(&wanted, Some(512)), (512, 512));
        assert_eq!(clamp(&wanted, None), (1024, 524_288));
    }
}
