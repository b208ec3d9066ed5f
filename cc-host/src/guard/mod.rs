//! The guard of the host: who is denied at its uplinks, kept in the store, compiled, and put in force by the datapath. For the whole
//! host, containers or not, and so for its admins only. Refuses to look at packets.

mod compile;
mod error;
mod figures;
mod model;
mod room;
mod tend;

pub use error::GuardError;
pub use figures::GuardFigures;
pub use model::{Line, Source};
pub use room::{Guard, GuardState, UplinkState};
