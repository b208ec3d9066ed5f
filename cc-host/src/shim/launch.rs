//! From a specification to an init that waits for "go": pipes, clone3, id maps, v1 cgroups, mounts. Refuses to run anything
//! of the image.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Gid, Uid};

use super::channel::{Channel, ToInit};
use super::init::{self, Stdio};
use super::place::Place;
use super::protocol::{FailureKind, StartFailure};
use super::spec::Spec;
use super::streams::Streams;
use super::{mounts, sys};
use crate::mutation::{self, Control};

/// All at once, with the user namespace, which then owns the others. The cgroup namespace follows in init.
const NAMESPACES: i32 =
    libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;

/// The shim's side of a container.
pub struct Launched {
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub channel: Channel,
    pub streams: Streams,
}

/// Clones init, which waits: for `furnish`, or, without a specification yet, for `park`. Then it has a pipe for every stream, as one may
/// be asked for.
pub fn clone_init(place: &Place, spec: Option<&Spec>) -> Result<Launched, StartFailure> {
    let (channel, init_channel) = Channel::pair().map_err(|e| failed("make the channel to init", e))?;
    let (stdio, streams) = pipes(place.id_base, spec.is_none_or(|spec| spec.stdin))?;
    let (cgroup, cgroups) = open_cgroups(place)?;
    let namespaces = NAMESPACES | if place.host_users { 0 } else { libc::CLONE_NEWUSER };
    // SAFETY: the shim starts no thread, ever.
    match unsafe { sys::clone3(namespaces as u64, Some(cgroup.as_fd())) } {
        Ok(sys::Side::Child) => init::run(spec, stdio, cgroups, init_channel),
        Ok(sys::Side::Parent(cloned)) => Ok(Launched { pid: cloned.pid, pidfd: cloned.pidfd, channel, streams }),
        Err(source) => Err(failed("clone the container's first process", source)),
    }
}

/// Both ends of a process's streams.
pub fn pipes(id_base: u32, has_stdin: bool) -> Result<(Stdio, Streams), StartFailure> {
    let (stdin, input) = if has_stdin { pipe(id_base).map(|(r, w)| (Some(r), Some(w)))? } else { (None, None) };
    let (out, stdout) = pipe(id_base)?;
    let (err, stderr) = pipe(id_base)?;
    Ok((Stdio { stdin, stdout, stderr }, Streams::pipes(input, out, err)))
}

/// The cgroup that a process is born in, and the files by which it enters others.
pub fn open_cgroups(place: &Place) -> Result<(OwnedFd, Vec<OwnedFd>), StartFailure> {
    let cgroup = rustix::fs::open(&place.cgroup_v2, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| failed(&format!("open cgroup {}", place.cgroup_v2.display()), e.into()))?;
    // Opened here: the kernel asks whether whoever opened the file may move a task, not whoever writes to it.
    let mut tasks = Vec::with_capacity(place.cgroup_tasks.len());
    for file in &place.cgroup_tasks {
        let opened = rustix::fs::open(file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
        tasks.push(opened.map_err(|e| failed(&format!("open {}", file.display()), e.into()))?);
    }
    Ok((cgroup, tasks))
}

/// Gives the waiting init its ids, where it has not the host's.
pub fn map_ids(place: &Place, pid: i32) -> Result<(), StartFailure> {
    if place.host_users {
        return Ok(());
    }
    let base = if mutation::off(Control::IdsMapped) { 0 } else { place.id_base };
    map_range(base, place.id_count, pid)
}

/// Of users and of groups: the ids from 0 are these of the host.
pub fn map_range(base: u32, count: u32, pid: i32) -> Result<(), StartFailure> {
    let map = format!("0 {base} {count}\n");
    for name in ["uid_map", "gid_map"] {
        write_once(Path::new(&format!("/proc/{pid}/{name}")), &map).map_err(|e| failed(&format!("write {name}"), e))?;
    }
    Ok(())
}

/// Lets it do what needs no specification. After `map_ids`.
pub fn park(channel: &Channel) -> Result<(), StartFailure> {
    channel.send(&ToInit::Park, &[]).map_err(|e| failed("have init wait", e))
}

/// What a parked init is to run; `furnish` follows. A file of its own: who shares one shares its position.
pub fn tell(spec: &Path, channel: &Channel) -> Result<(), StartFailure> {
    let file = std::fs::File::open(spec).map_err(|e| failed("open the specification", e))?;
    channel.send(&ToInit::Spec, &[file.as_fd()]).map_err(|e| failed("send the specification to init", e))
}

/// Makes its mounts and lets it go on as far as the last step before the program.
pub fn furnish(spec: &Spec, pid: i32, channel: &Channel) -> Result<(), StartFailure> {
    let open = || {
        rustix::fs::open(format!("/proc/{pid}/ns/user"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| failed("open the container's user namespace", e.into()))
    };
    let userns = if spec.host_users { None } else { Some(open()?) };
    let prepared = mounts::prepare(spec, userns.as_ref().map(AsFd::as_fd))?;
    channel.send(&ToInit::Mounts, &prepared.descriptors()).map_err(|e| failed("send the mounts to init", e))
}

/// Both ends belong to the container's root, so that init can give its own to the program's user.
fn pipe(id_base: u32) -> Result<(OwnedFd, OwnedFd), StartFailure> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed("make a pipe", e.into()))?;
    rustix::fs::fchown(&read, Some(Uid::from_raw(id_base)), Some(Gid::from_raw(id_base)))
        .map_err(|e| failed("give a pipe to the container", e.into()))?;
    Ok((read, write))
}

/// The kernel takes these files in one write or not at all.
pub fn write_once(path: &Path, text: &str) -> io::Result<()> {
    let written = std::fs::OpenOptions::new().write(true).open(path)?.write(text.as_bytes())?;
    if written == text.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

pub fn failed(step: &str, source: io::Error) -> StartFailure {
    StartFailure::new(FailureKind::Other, format!("cannot {step}: {source}"))
}
