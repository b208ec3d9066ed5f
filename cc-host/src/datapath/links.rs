//! Attaches the programs of one endpoint. What hangs on a cgroup hangs by a pinned link: removing the pin detaches it. What hangs
//! on an interface is a filter of its clsact qdisc, and goes with the interface. A program of either is replaced in place, without a
//! moment in which none decides. Refuses to keep either in memory.
//!
//! Filters and not TCX links: the kernel ends every attachment and removal of the latter with an RCU grace period under the
//! RTNL lock, 15 ms each, so that no host could start or end more than some fifteen containers a second.

use std::io::ErrorKind;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, LinkError};
use aya::programs::tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle};
use aya::programs::{
    CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, LinkOrder, ProgramError, SchedClassifier, TcAttachType,
};
use cc_common::names;
use cc_common::port::PORT_NETKIT;
use nix::net::if_::if_indextoname;

use super::error::DatapathError;
use super::object::Programs;
use super::outside::{pinned_uplink, uplink_pin};
use super::{netkit, replace};

/// A container's tag: the 16 hexadecimal digits of its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tag(u64);

impl Tag {
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        digits.then(|| u64::from_str_radix(text, 16).ok().map(Tag)).flatten()
    }
    pub fn from_number(number: u64) -> Self {
        Tag(number)
    }
    pub fn number(self) -> u64 {
        self.0
    }
}

impl std::fmt::Display for Tag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The directory of pinned links.
pub struct PinnedLinks {
    dir: PathBuf,
}

/// Both programs of the host-side interface, ahead of other filters. What its port's flags say of it.
pub fn attach_interface(programs: &mut Programs, ifindex: u32) -> Result<u16, DatapathError> {
    let name = name_of(ifindex)?;
    tc::qdisc_add_clsact(&name).map_err(|source| DatapathError::Qdisc { interface: name.clone(), source })?;
    // First the one that keeps the host out.
    filter(&mut programs.to_endpoint, names::PROGRAM_TO_ENDPOINT, TcAttachType::Egress, &name)?;
    filter(&mut programs.from_endpoint, names::PROGRAM_FROM_ENDPOINT, TcAttachType::Ingress, &name)?;
    Ok(if put_on_netkit(&programs.from_endpoint, ifindex, &name)?.is_some() { PORT_NETKIT } else { 0 })
}

/// What a netkit pair's host's end has besides: what the other end sends is decided while it sends it. The filter then sees only what is
/// turned back to the interface, and without the program nothing leaves the other end. Whether it was there; `None` of another kind of interface.
fn put_on_netkit(classifier: &SchedClassifier, ifindex: u32, name: &str) -> Result<Option<bool>, DatapathError> {
    let program = names::PROGRAM_FROM_ENDPOINT;
    let to = format!("netkit pair {name}");
    let put = || netkit::put(classifier.fd()?.as_fd(), program, ifindex).map_err(ProgramError::IOError);
    put().map_err(|source| DatapathError::Attach { program, to, source })
}

/// What an interface's port's flags say of it.
pub fn port_flags(ifindex: u32) -> Result<u16, DatapathError> {
    let failed = |source| DatapathError::Interface { ifindex, source };
    Ok(if netkit::is_primary(ifindex).map_err(failed)? { PORT_NETKIT } else { 0 })
}

/// Both programs of an interface that has filters of ours, of an earlier daemon's programs. The kernel swaps the program behind a
/// filter's handle: there is always one of ours, and never two. A filter that is gone is an error, not made anew; a netkit pair's program that is
/// gone is put back, since nothing has passed meanwhile.
pub fn replace_on_interface(programs: &mut Programs, ifindex: u32) -> Result<(), DatapathError> {
    let name = name_of(ifindex)?;
    replace_filter(&mut programs.to_endpoint, names::PROGRAM_TO_ENDPOINT, TcAttachType::Egress, &name)?;
    replace_filter(&mut programs.from_endpoint, names::PROGRAM_FROM_ENDPOINT, TcAttachType::Ingress, &name)?;
    put_on_netkit(&programs.from_endpoint, ifindex, &name).map(drop)
}

/// Attaches what of both is missing, and returns the names. What is there is put in force again.
pub fn repair_interface(programs: &mut Programs, ifindex: u32) -> Result<Vec<&'static str>, DatapathError> {
    let name = name_of(ifindex)?;
    let mut missing = Vec::new();
    let Programs { to_endpoint, from_endpoint, .. } = programs;
    // First the one that keeps the host out.
    for (classifier, program, hook) in [
        (to_endpoint, names::PROGRAM_TO_ENDPOINT, TcAttachType::Egress),
        (&mut *from_endpoint, names::PROGRAM_FROM_ENDPOINT, TcAttachType::Ingress),
    ] {
        if replace_filter(classifier, program, hook, &name).is_err() {
            ensure_clsact(&name)?;
            filter(classifier, program, hook, &name)?;
            missing.push(program);
        }
    }
    if put_on_netkit(from_endpoint, ifindex, &name)? == Some(false) && !missing.contains(&names::PROGRAM_FROM_ENDPOINT)
    {
        missing.push(names::PROGRAM_FROM_ENDPOINT);
    }
    Ok(missing)
}

fn ensure_clsact(interface: &str) -> Result<(), DatapathError> {
    match tc::qdisc_add_clsact(interface) {
        Err(tc::TcError::NetlinkError(error)) if error.raw_os_error() == Some(nix::libc::EEXIST) => Ok(()),
        done => done.map_err(|source| DatapathError::Qdisc { interface: interface.to_owned(), source }),
    }
}

/// The program that sees what the host sends to endpoints, in the place of an earlier daemon's if it is there.
pub fn attach_host_peer(programs: &mut Programs, ifindex: u32) -> Result<(), DatapathError> {
    let name = name_of(ifindex)?;
    let (classifier, program, hook) = (&mut programs.from_host, names::PROGRAM_FROM_HOST, TcAttachType::Ingress);
    if replace_filter(classifier, program, hook, &name).is_ok() {
        return Ok(());
    }
    ensure_clsact(&name)?;
    filter(classifier, program, hook, &name)
}

fn name_of(ifindex: u32) -> Result<String, DatapathError> {
    let name = if_indextoname(ifindex).map_err(|source| DatapathError::NoInterface { ifindex, source })?;
    Ok(name.to_string_lossy().into_owned())
}

fn replace_filter(
    classifier: &mut SchedClassifier,
    program: &'static str,
    hook: TcAttachType,
    interface: &str,
) -> Result<(), DatapathError> {
    let failed = |source| DatapathError::Replace { program, on: format!("interface {interface}"), source };
    let there = SchedClassifierLink::attached(interface, hook, names::FILTER_PRIORITY, filter_handle(), None)
        .map_err(|source| failed(tc::TcError::IoError(source).into()))?;
    let id = classifier.attach_to_link(there).map_err(failed)?;
    // As in `filter`.
    std::mem::forget(classifier.take_link(id).map_err(failed)?);
    Ok(())
}

fn filter_handle() -> TcHandle {
    TcHandle::new(0, names::FILTER_HANDLE)
}

fn filter(
    classifier: &mut SchedClassifier,
    program: &'static str,
    hook: TcAttachType,
    interface: &str,
) -> Result<(), DatapathError> {
    let failed = |source| DatapathError::Attach { program, to: format!("interface {interface}"), source };
    let options = NlOptions { priority: names::FILTER_PRIORITY, handle: filter_handle(), ..NlOptions::default() };
    let id = classifier.attach_with_options(interface, hook, TcAttachOptions::Netlink(options)).map_err(failed)?;
    // Dropping it would detach; it holds no descriptor, only the filter's number.
    std::mem::forget(classifier.take_link(id).map_err(failed)?);
    Ok(())
}

impl PinnedLinks {
    pub fn new(dir: PathBuf) -> Self {
        PinnedLinks { dir }
    }

    fn path(&self, tag: Tag, suffix: &str) -> PathBuf {
        self.dir.join(format!("{tag}-{suffix}"))
    }

    /// Both programs of the container's cgroup.
    pub fn attach_cgroup(&self, programs: &mut Programs, dir: &Path, tag: Tag) -> Result<(), DatapathError> {
        self.attach_cgroup_where(programs, dir, tag, |_| true).map(drop)
    }

    /// Those whose pin is gone; whether any was.
    pub fn attach_cgroup_if_missing(
        &self,
        programs: &mut Programs,
        dir: &Path,
        tag: Tag,
    ) -> Result<bool, DatapathError> {
        let is_missing = |path: &Path| !path.exists();
        if names::LINKS.iter().any(|suffix| is_missing(&self.path(tag, suffix))) {
            return self.attach_cgroup_where(programs, dir, tag, is_missing);
        }
        Ok(false)
    }

    fn attach_cgroup_where(
        &self,
        programs: &mut Programs,
        dir: &Path,
        tag: Tag,
        wanted: impl Fn(&Path) -> bool,
    ) -> Result<bool, DatapathError> {
        let mut attached = false;
        let cgroup =
            std::fs::File::open(dir).map_err(|source| DatapathError::Cgroup { path: dir.to_owned(), source })?;
        for (skb, program, suffix, hook) in [
            (
                &mut programs.cgroup_ingress,
                names::PROGRAM_CGROUP_INGRESS,
                names::LINK_CGROUP_INGRESS,
                CgroupSkbAttachType::Ingress,
            ),
            (
                &mut programs.cgroup_egress,
                names::PROGRAM_CGROUP_EGRESS,
                names::LINK_CGROUP_EGRESS,
                CgroupSkbAttachType::Egress,
            ),
        ] {
            let skb: &mut CgroupSkb = skb;
            if !wanted(&self.path(tag, suffix)) {
                continue;
            }
            attached = true;
            let failed = |source| DatapathError::Attach { program, to: format!("cgroup {}", dir.display()), source };
            // No flag: a link shares its cgroup with others in any case, and the kernel refuses to be told.
            let id = skb.attach(&cgroup, hook, CgroupAttachMode::Single).map_err(failed)?;
            let link = skb.take_link(id).map_err(failed)?;
            self.pin(program, link.try_into(), self.path(tag, suffix))?;
        }
        Ok(attached)
    }

    fn pin(&self, program: &'static str, link: Result<FdLink, LinkError>, path: PathBuf) -> Result<(), DatapathError> {
        let link = link.map_err(|source| DatapathError::Link { program, source })?;
        link.pin(&path).map_err(|source| DatapathError::Pin { path, source })?;
        Ok(())
    }

    /// The program that sees what comes in by an uplink, in the place of an earlier daemon's if it is there. By a TCX link, which leaves
    /// the host's own filters alone, and goes with the pin.
    pub fn attach_uplink(&self, programs: &mut Programs, ifindex: u32) -> Result<(), DatapathError> {
        let (classifier, program) = (&mut programs.from_uplink, names::PROGRAM_FROM_UPLINK);
        let path = self.dir.join(uplink_pin(ifindex));
        let name = name_of(ifindex)?;
        let failed = |source| DatapathError::Attach { program, to: format!("interface {name}"), source };
        if path.exists() {
            let fd = classifier.fd().map_err(failed)?;
            match replace::program_of_link(&path, fd.as_fd()) {
                Ok(()) => return Ok(()),
                // Of an interface that is gone: its number is another's now.
                Err(error) => tracing::debug!(%error, interface = name, "an uplink's link is attached anew"),
            }
            self.unpin(&path)?;
        }
        let options = TcAttachOptions::TcxOrder(LinkOrder::default());
        let id = classifier.attach_with_options(&name, TcAttachType::Ingress, options).map_err(failed)?;
        let link = classifier.take_link(id).map_err(failed)?;
        self.pin(program, link.try_into(), path)
    }

    /// The programs that see the addresses of sockets, all of the machine's below `cgroup`, in the place of an earlier daemon's.
    pub fn attach_sockets_of_host(&self, programs: &mut Programs, dir: &Path) -> Result<(), DatapathError> {
        let cgroup =
            std::fs::File::open(dir).map_err(|source| DatapathError::Cgroup { path: dir.to_owned(), source })?;
        for (program, sockets) in &mut programs.sockets {
            let program = *program;
            let path = self.dir.join(format!("{}{program}", names::LINK_SOCKETS));
            let failed = |source| DatapathError::Attach { program, to: format!("cgroup {}", dir.display()), source };
            let replaced = path.exists() && {
                let fd = sockets.fd().map_err(failed)?;
                replace::program_of_link(&path, fd.as_fd()).is_ok()
            };
            if !replaced {
                self.unpin(&path)?;
                // No flag, as for a container's cgroup.
                let id = sockets.attach(&cgroup, CgroupAttachMode::Single).map_err(failed)?;
                let link = sockets.take_link(id).map_err(failed)?;
                self.pin(program, link.try_into(), path)?;
            }
        }
        Ok(())
    }

    /// Whether it was.
    pub fn attach_uplink_if_missing(&self, programs: &mut Programs, ifindex: u32) -> Result<bool, DatapathError> {
        let is_missing = !self.dir.join(uplink_pin(ifindex)).exists();
        if is_missing {
            self.attach_uplink(programs, ifindex)?;
        }
        Ok(is_missing)
    }

    pub fn sockets_of_host_missing(&self) -> bool {
        names::SOCKET_PROGRAMS.iter().any(|name| !self.dir.join(format!("{}{name}", names::LINK_SOCKETS)).exists())
    }

    /// Detaches from interfaces that are no uplinks any more.
    pub fn sweep_uplinks(&self, wanted: &[u32]) -> Result<(), DatapathError> {
        for name in self.names()? {
            if pinned_uplink(&name).is_some_and(|ifindex| !wanted.contains(&ifindex)) {
                self.unpin(&self.dir.join(name))?;
            }
        }
        Ok(())
    }

    fn names(&self) -> Result<Vec<String>, DatapathError> {
        let failed = |source| DatapathError::ListLinks { path: self.dir.clone(), source };
        let names = std::fs::read_dir(&self.dir).map_err(failed)?;
        names.map(|file| Ok(file.map_err(failed)?.file_name().to_string_lossy().into_owned())).collect()
    }

    /// Both programs of a cgroup whose links an earlier daemon pinned.
    pub fn replace_on_cgroup(&self, programs: &Programs, tag: Tag) -> Result<(), DatapathError> {
        for (skb, program, suffix) in [
            (&programs.cgroup_ingress, names::PROGRAM_CGROUP_INGRESS, names::LINK_CGROUP_INGRESS),
            (&programs.cgroup_egress, names::PROGRAM_CGROUP_EGRESS, names::LINK_CGROUP_EGRESS),
        ] {
            let path = self.path(tag, suffix);
            let failed = |source| DatapathError::Replace { program, on: format!("link {}", path.display()), source };
            let fd = skb.fd().map_err(failed)?;
            replace::program_of_link(&path, fd.as_fd()).map_err(|source| failed(ProgramError::IOError(source)))?;
        }
        Ok(())
    }

    /// Detaches whatever of the container's is attached. Returns the names of the pins that were there.
    pub fn detach(&self, tag: Tag) -> Result<Vec<String>, DatapathError> {
        let mut gone = Vec::new();
        for suffix in names::LINKS {
            if self.unpin(&self.path(tag, suffix))? {
                gone.push(format!("{tag}-{suffix}"));
            }
        }
        Ok(gone)
    }

    /// Detaches what belongs to no container that `keep` knows.
    pub fn sweep(&self, keep: impl Fn(Tag) -> bool) -> Result<Vec<String>, DatapathError> {
        let mut gone = Vec::new();
        for name in self.names()? {
            let kept = name.split_once('-').and_then(|(tag, _)| Tag::parse(tag)).is_some_and(&keep);
            if !kept
                && pinned_uplink(&name).is_none()
                && !name.starts_with(names::LINK_SOCKETS)
                && self.unpin(&self.dir.join(&name))?
            {
                gone.push(name);
            }
        }
        Ok(gone)
    }

    fn unpin(&self, path: &Path) -> Result<bool, DatapathError> {
        match std::fs::remove_file(path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(source) => Err(DatapathError::Unpin { path: path.to_owned(), source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_a_containers_id() {
        let tag = Tag::parse("00ab34567890cdef").unwrap();
        assert_eq!(tag.to_string(), "00ab34567890cdef");
        assert_eq!(Tag::from_number(tag.number()), tag);
        for bad in ["", "00AB34567890CDEF", "0ab", "../../etc/passwd", "+0ab34567890cdef"] {
            assert_eq!(Tag::parse(bad), None, "{bad}");
        }
    }
}
