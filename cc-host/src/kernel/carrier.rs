//! A pair's host end after its other end came up. The kernel notices that on a worker of its own, and until that has run everything that
//! is sent from this end is lost: on a busy machine, the first answers that a container waits for. Refuses to bring anything up.

use super::ethtool::{Question, ask};
use super::link::LinkError;

/// What is sent from the interface from now on arrives. Call it when both ends are up, in the interface's namespace. Whether it has a
/// carrier.
pub fn settle(name: &str) -> Result<bool, LinkError> {
    let carrier = ask(name, Question::Link).map_err(|source| LinkError::Settle { name: name.to_owned(), source })?;
    Ok(carrier != 0)
}
