//! What the datapath does with the packets of a project's containers, for people: flows, drops, what rules have decided, and what is attached. Everything shown is one project's: an end
//! that is another project's container is "elsewhere", without a name or an address of its own. Refuses to change anything, but for what
//! `doctor` is told to.

mod doctor;
mod drops;
mod error;
mod flows;
mod inspect;
mod journal;
mod log;
mod own;
mod rules;
mod watch;
mod watch_drops;
mod watch_flows;
mod watchers;

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::container::Containers;
use crate::datapath::Datapath;
use crate::firewall::Firewall;
use crate::kernel::link::Links;
use watchers::Watchers;

pub use doctor::Finding;
pub use drops::ContainerDrops;
pub use error::ExplainError;
pub use flows::{End, EndKind, FLOWS_DEFAULT, FLOWS_MAX, FlowView, Listed, Translated};
pub use inspect::Inspected;
pub use log::{DecisionView, Logged};
pub use watch::News;
pub use watch_drops::DropView;
pub use watch_flows::{FlowChange, FlowChanged};

/// Readers of the whole table of flows at a time: each costs a core's second for a million flows.
const READERS_MAX: usize = 4;

pub struct Explain {
    datapath: Arc<Datapath>,
    containers: Arc<Containers>,
    firewall: Arc<Firewall>,
    links: Links,
    readers: Arc<Semaphore>,
    watchers: Arc<Watchers>,
}

impl Explain {
    /// Within the daemon's runtime: it reads the ring of records from here on.
    pub fn new(datapath: Arc<Datapath>, containers: Arc<Containers>, firewall: Arc<Firewall>, links: Links) -> Self {
        let watchers = Watchers::new(Arc::clone(&datapath), Arc::clone(&containers));
        if let Some(ring) = datapath.take_event_ring() {
            tokio::spawn(Arc::clone(&watchers).serve(ring));
        }
        let readers = Arc::new(Semaphore::new(READERS_MAX));
        Explain { datapath, containers, firewall, links, readers, watchers }
    }
}
