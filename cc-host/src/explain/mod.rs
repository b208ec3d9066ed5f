//! What the datapath does with the packets of a project's containers, for people: flows. Everything shown is one project's: an end
//! that is another project's container is "elsewhere", without a name or an address of its own. Refuses to change anything.

mod error;
mod flows;
mod own;
mod rules;
mod watch_flows;

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::container::Containers;
use crate::datapath::Datapath;
use crate::firewall::Firewall;

pub use error::ExplainError;
pub use flows::{End, EndKind, FLOWS_DEFAULT, FLOWS_MAX, FlowView, Listed, Translated};
pub use watch_flows::{FlowChange, FlowChanged};

/// Readers of the whole table of flows at a time: each costs a core's second for a million flows.
const READERS_MAX: usize = 4;

pub struct Explain {
    datapath: Arc<Datapath>,
    containers: Arc<Containers>,
    firewall: Arc<Firewall>,
    readers: Arc<Semaphore>,
}

impl Explain {
    pub fn new(datapath: Arc<Datapath>, containers: Arc<Containers>, firewall: Arc<Firewall>) -> Self {
        Explain { datapath, containers, firewall, readers: Arc::new(Semaphore::new(READERS_MAX)) }
    }
}
