//! Puts one version's programs in the place of another's, on every hook there is. Each hook changes in one step of the kernel's: a packet
//! meets the one or the other. Refuses to attach where nothing is.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use aya::maps::{Array, HashMap, Map, MapData};
use aya::programs::ProgramError;
use cc_common::names::{self, MAP_PORTS, MAP_SETTINGS, PIN_GUARD_DIR, PIN_LINKS_DIR};
use cc_common::port::{Port, PortKey};
use cc_common::settings::Settings;
use nix::net::if_::{if_indextoname, if_nametoindex};

use super::super::error::DatapathError;
use super::super::object::Programs;
use super::super::outside::pinned_uplink;
use super::super::xdp_link::{self, Mode as GuardMode};
use super::super::{links, replace};
use crate::kernel::host_device::peer_of;

/// The links are those that `linked` has pins of, and get pins in `pin_in`, too; interfaces are known by the maps in `known`. Returns on how
/// many hooks `programs` are now.
pub fn all(
    programs: &mut Programs,
    known: &Path,
    linked: &Path,
    pin_in: Option<&Path>,
) -> Result<usize, DatapathError> {
    let (mut hooks, mut failed) = (0, Ok(()));
    // What one hook refuses keeps no other one back: whoever puts programs back has to get as far as he can.
    let mut count = |done: Result<usize, DatapathError>| match done {
        Ok(replaced) => hooks += replaced,
        Err(error) if failed.is_ok() => failed = Err(error),
        Err(error) => tracing::warn!(%error, "another hook keeps its program"),
    };
    for dir in [PIN_LINKS_DIR, PIN_GUARD_DIR] {
        let (linked, pin_in) = (linked.join(dir), pin_in.map(|to| to.join(dir)));
        for name in names_in(&linked)? {
            count(replace_link(programs, &linked, &name, pin_in.as_deref()));
        }
    }
    for ifindex in interfaces(known)? {
        // One that is gone, or whose filters are, is for whoever adopts it to end.
        match links::replace_on_interface(programs, ifindex) {
            Ok(()) => count(Ok(2)),
            Err(error) => tracing::warn!(ifindex, %error, "an interface keeps its programs for now"),
        }
    }
    if let Some(peer) = host_peer(known)? {
        count(links::attach_host_peer(programs, peer).map(|()| 1));
    }
    failed.map(|()| hooks)
}

fn names_in(dir: &Path) -> Result<Vec<String>, DatapathError> {
    let listed = |source| DatapathError::ListLinks { path: dir.to_owned(), source };
    let files = std::fs::read_dir(dir).map_err(listed)?;
    files.map(|file| Ok(file.map_err(listed)?.file_name().to_string_lossy().into_owned())).collect()
}

/// Returns how many were: none if what the link was on is gone.
fn replace_link(programs: &Programs, linked: &Path, name: &str, pin_in: Option<&Path>) -> Result<usize, DatapathError> {
    let Some(program) = program_of(name) else { return Ok(0) };
    let pin = linked.join(name);
    let failed = |source| DatapathError::Replace { program, on: format!("link {}", pin.display()), source };
    match replace::program_of_link(&pin, fd(programs, program).map_err(failed)?) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => return Ok(0),
        Err(error) => return Err(failed(ProgramError::IOError(error))),
    }
    if let Some(to) = pin_in.map(|dir| dir.join(name))
        && !to.exists()
    {
        let pinned = replace::open(&pin).and_then(|link| xdp_link::pin(link.as_fd(), &to));
        pinned.map_err(|error| failed(ProgramError::IOError(error)))?;
    }
    Ok(1)
}

/// The program that runs by the link of that name.
fn program_of(name: &str) -> Option<&'static str> {
    if pinned_uplink(name).is_some() {
        return Some(names::PROGRAM_FROM_UPLINK);
    }
    if let Some(program) = name.strip_prefix(names::LINK_SOCKETS) {
        return names::SOCKET_PROGRAMS.into_iter().find(|known| *known == program);
    }
    match name.split_once('-')?.1 {
        names::LINK_CGROUP_INGRESS => Some(names::PROGRAM_CGROUP_INGRESS),
        names::LINK_CGROUP_EGRESS => Some(names::PROGRAM_CGROUP_EGRESS),
        mode => GuardMode::ALL.iter().any(|known| known.name() == mode).then_some(names::PROGRAM_GUARD),
    }
}

/// Of the programs that run by links.
fn fd<'a>(programs: &'a Programs, name: &str) -> Result<BorrowedFd<'a>, ProgramError> {
    let program = match name {
        names::PROGRAM_FROM_UPLINK => programs.from_uplink.fd()?,
        names::PROGRAM_CGROUP_INGRESS => programs.cgroup_ingress.fd()?,
        names::PROGRAM_CGROUP_EGRESS => programs.cgroup_egress.fd()?,
        names::PROGRAM_GUARD => return Ok(programs.guard.as_fd()),
        _ => {
            let found = programs.sockets.iter().find(|(known, _)| *known == name);
            found.ok_or(ProgramError::NotLoaded)?.1.fd()?
        }
    };
    Ok(program.as_fd())
}

/// Interfaces that have an endpoint.
fn interfaces(known: &Path) -> Result<Vec<u32>, DatapathError> {
    let failed = |source| DatapathError::Map { operation: "list", name: MAP_PORTS, source };
    let map = Map::HashMap(map(known, MAP_PORTS)?);
    let ports: HashMap<_, PortKey, Port> = HashMap::try_from(map).map_err(failed)?;
    ports.keys().map(|key| key.map(|key| key.ifindex)).collect::<Result<_, _>>().map_err(failed)
}

/// The interface by which the host's own packets come, if there is one.
fn host_peer(known: &Path) -> Result<Option<u32>, DatapathError> {
    let failed = |source| DatapathError::Map { operation: "read", name: MAP_SETTINGS, source };
    let settings: Array<_, Settings> = Array::try_from(Map::Array(map(known, MAP_SETTINGS)?)).map_err(failed)?;
    let host = if_indextoname(settings.get(&0, 0).map_err(failed)?.host_ifindex).ok();
    let peer = host.and_then(|name| peer_of(&name.to_string_lossy()));
    Ok(peer.and_then(|name| if_nametoindex(name.as_str()).ok()))
}

fn map(dir: &Path, name: &str) -> Result<MapData, DatapathError> {
    let path = dir.join(name);
    MapData::from_pin(&path).map_err(|source| DatapathError::OpenMap { path, source })
}

/// Whoever has begun to run a replaced program has ended when this returns.
pub fn settle() {
    const GLOBAL: libc::c_int = 1;
    // SAFETY: takes numbers alone. It waits for what the kernel waits for before it frees a program (RCU).
    let done = unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) };
    if done != 0 {
        // A kernel that keeps CPUs free of its clock does not lend it. Programs take microseconds.
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::outside::uplink_pin;

    #[test]
    fn a_links_name_tells_its_program() {
        for (name, program) in [
            (uplink_pin(7).as_str(), Some(names::PROGRAM_FROM_UPLINK)),
            ("00ab34567890cdef-cgin", Some(names::PROGRAM_CGROUP_INGRESS)),
            ("00ab34567890cdef-cgout", Some(names::PROGRAM_CGROUP_EGRESS)),
            ("sockets-cc_connect6", Some(names::PROGRAM_CONNECT6)),
            ("7-native", Some(names::PROGRAM_GUARD)),
            ("7-generic", Some(names::PROGRAM_GUARD)),
            ("sockets-cc_other", None),
            ("7-other", None),
            ("other", None),
        ] {
            assert_eq!(program_of(name), program, "{name}");
        }
    }
}
