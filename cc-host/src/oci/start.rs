//! `start`: lets a container's first process execute its program, and hears whether it did. Refuses a container that is not just created.

use rustix::net::SocketType;

use super::config;
use super::delete::destroy;
use super::describe::Description;
use super::error::OciError;
use super::hooks::{self, Hooks};
use super::report;
use super::state::{CONFIG_FILE, Entry, START_SOCKET, Status, Store};
use super::talk::{self, FromInside};
use crate::shim::channel::Channel;

pub fn start(store: &Store, id: &str) -> Result<(), OciError> {
    let mut entry = store.lock(id)?;
    let started = start_entry(&mut entry);
    // As the specification has it: stopped, destroyed, and then the hooks of that.
    if let Err(OciError::Refused(_)) = &started
        && let Err(also) = destroy(&mut entry)
    {
        report::warn(&also.chain());
    }
    started
}

pub fn start_entry(entry: &mut Entry) -> Result<(), OciError> {
    let id = entry.record.id.clone();
    let status = entry.record.status();
    if status != Status::Created {
        return Err(OciError::Status { operation: "start", id, status: status.name() });
    }
    let path = entry.dir.join(CONFIG_FILE);
    let spec = config::parse(&config::read(&path)?, &path)?;
    let hooks = Hooks::parse(spec.hooks().as_ref())?;
    if spec.process().is_none() {
        return Err(OciError::invalid("process", "it is missing, and there is nothing to start"));
    }
    execute(entry)?;
    entry.record.started = true;
    entry.save()?;
    let pid = entry.record.init.map_or(0, |init| init.pid);
    hooks::run_all(&hooks.poststart, &Description::of(&entry.record).state("running", pid));
    Ok(())
}

fn execute(entry: &Entry) -> Result<(), OciError> {
    let socket = talk::connect_to(&entry.dir.join(START_SOCKET), SocketType::SEQPACKET)
        .map_err(|e| OciError::step(format!("reach the first process of container {}", entry.record.id), e))?;
    let channel = Channel::from_fd(socket);
    talk::go(&channel)?;
    let mut executing = false;
    loop {
        match channel.receive().map_err(|e| OciError::step("hear of the first process", e))? {
            Some((FromInside::Executing, _)) => executing = true,
            Some((FromInside::Refused(failure), _)) => return Err(OciError::Refused(failure)),
            Some((FromInside::Failed(failure), _)) => return Err(failure.into()),
            Some(_) => {}
            None if executing => return Ok(()),
            None => return Err(talk::silence("the container's first process")),
        }
    }
}
