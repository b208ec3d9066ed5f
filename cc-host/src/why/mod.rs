//! Why a packet would or would not arrive: makes the packet that one end would send to the other, has the datapath run it dry, and tells
//! what it came upon in the words of containers, groups and rules. Refuses to decide anything itself, and to change anything.

mod advice;
mod ends;
mod error;
mod frame;
mod reasons;
mod room;
mod rules;
mod step;
mod story;

pub use ends::{Ask, Transport};
pub use error::WhyError;
pub use room::Why;
pub use step::{Outcome, Step, StepKind, Story};
