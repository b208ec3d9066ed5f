//! Figures for Prometheus: what rooms hand in, the text that a scrape is, and the door at which it is served. Refuses to keep
//! figures of its own (each scrape reads what is true then), and to compute rates: whoever scrapes does.
//!
//! A room adds figures with a `Collect` in a file of this room or of its own, handed to the registry in `daemon/rooms`.

mod answer;
mod container;
mod door;
mod encoder;
mod error;
mod family;
mod host;
pub mod limits;
mod process;
mod registry;
#[cfg(test)]
mod tests;

pub use container::ContainerFigures;
pub use door::{Door, open};
pub use encoder::Encoder;
pub use error::MetricsError;
pub use family::{Family, Kind};
pub use host::HostFigures;
pub use process::ProcessFigures;
pub use registry::{Collect, Registry};
