//! What the datapath does with the packets of a project's containers, for people: flows and drops. Everything shown is one project's: an end
//! that is another project's container is "elsewhere", without a name or an address of its own. Refuses to change anything.

mod drops;
mod error;
mod flows;
mod own;
mod rules;
mod watch_drops;
mod watch_flows;
mod watchers;

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::container::Containers;
use crate::datapath::Datapath;
use crate::firewall::Firewall;
use watchers::Watchers;

pub use drops::ContainerDrops;
pub use error::ExplainError;
pub use flows::{End, EndKind, FLOWS_DEFAULT, FLOWS_MAX, FlowView, Listed, Translated};
pub use watch_drops::{DropNews, DropView};
pub use watch_flows::{FlowChange, FlowChanged};

/// Readers of the whole table of flows at a time: each costs a core's second for a million flows.
const READERS_MAX: usize = 4;

pub struct Explain {
    datapath: Arc<Datapath>,
    containers: Arc<Containers>,
    firewall: Arc<Firewall>,
    readers: Arc<Semaphore>,
    watchers: Arc<Watchers>,
}

impl Explain {
    /// Within the daemon's runtime: it reads the ring of drops from here on.
    pub fn new(datapath: Arc<Datapath>, containers: Arc<Containers>, firewall: Arc<Firewall>) -> Self {
        let watchers = Watchers::new(Arc::clone(&datapath), Arc::clone(&containers));
        if let Some(ring) = datapath.take_drop_ring() {
            tokio::spawn(Arc::clone(&watchers).serve(ring));
        }
        Explain { datapath, containers, firewall, readers: Arc::new(Semaphore::new(READERS_MAX)), watchers }
    }
}
