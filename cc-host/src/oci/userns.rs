//! A user namespace that is only there for its mappings, as an idmapped mount wants one. Refuses to run anything in it.

use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, WaitOptions, waitpid};

use super::error::OciError;
use super::namespaces::write_maps;
use super::options::Mappings;
use crate::shim::sys;

pub fn of(mappings: &Mappings) -> Result<OwnedFd, OciError> {
    let failed = |e: std::io::Error| OciError::step("make a user namespace for an idmapped mount", e);
    let (mut own, mut other) = UnixStream::pair().map_err(failed)?;
    // SAFETY: cc-oci starts no thread, ever.
    let child = match unsafe { sys::clone3(libc::CLONE_NEWUSER as u64, None) }.map_err(failed)? {
        sys::Side::Child => {
            drop(own);
            // Until the other end has its descriptor, or is gone.
            let _ = other.read(&mut [0]);
            sys::exit_now(0);
        }
        sys::Side::Parent(child) => child,
    };
    drop(other);
    let namespace = write_maps(mappings, child.pid).and_then(|()| {
        let path = format!("/proc/{}/ns/user", child.pid);
        rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(|e| failed(e.into()))
    });
    let _ = own.write(&[0]);
    drop(own);
    let _ = waitpid(Pid::from_raw(child.pid), WaitOptions::empty());
    namespace
}

/// Those of one that is there already, as this process sees them.
pub fn mappings(namespace: &OwnedFd) -> Result<Mappings, OciError> {
    let failed = |e: std::io::Error| OciError::step("read the mappings of the user namespace to join", e);
    let (mut own, mut other) = UnixStream::pair().map_err(failed)?;
    // SAFETY: cc-oci starts no thread, ever.
    let child = match unsafe { sys::clone3(0, None) }.map_err(failed)? {
        sys::Side::Child => {
            drop(own);
            if nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWUSER).is_ok() {
                let _ = other.write(&[0]);
                let _ = other.read(&mut [0]);
            }
            sys::exit_now(0);
        }
        sys::Side::Parent(child) => child,
    };
    drop(other);
    let joined = own.read(&mut [0]).is_ok_and(|count| count == 1);
    let read = |name| {
        let text = if joined {
            std::fs::read_to_string(format!("/proc/{}/{name}", child.pid))
        } else {
            Err(std::io::ErrorKind::PermissionDenied.into())
        };
        text.map(|text| parse(&text))
    };
    let found = read("uid_map").and_then(|uids| Ok(Mappings { uids, gids: read("gid_map")? }));
    drop(own);
    let _ = waitpid(Pid::from_raw(child.pid), WaitOptions::empty());
    found.map_err(failed)
}

fn parse(text: &str) -> Vec<LinuxIdMapping> {
    let line = |line: &str| {
        let mut numbers = line.split_ascii_whitespace().map(|number| number.parse::<u32>().ok());
        let mut next = || numbers.next().flatten();
        let one = LinuxIdMappingBuilder::default().container_id(next()?).host_id(next()?).size(next()?);
        one.build().ok()
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_read_as_it_is_written() {
        let text = "         0     100000      65536\n     65536          7          1\n";
        let all = parse(text);
        assert_eq!(super::super::namespaces::map_text(&all), "0 100000 65536\n65536 7 1\n");
    }
}
