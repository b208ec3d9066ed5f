//! Security groups, their rules, and prefix lists: kept in the store, compiled, and put in force by the datapath. Refuses to
//! look at packets, and to know containers: it knows which groups an endpoint is in.

mod compile;
mod error;
mod groups;
mod in_force;
mod lists;
mod model;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod naive;
mod prefix_lists;
mod prefixes;
mod room;
mod rule_sets;

pub use error::FirewallError;
pub use groups::new_group;
pub use in_force::Applied;
pub use lists::{LineError, Parser as PrefixParser, parse_cidr};
pub use model::{
    Action, GroupId, GroupRecord, IcmpType, PRIORITY_DEFAULT, Peer, PortRange, PrefixListId, PrefixListRecord,
    Protocol, Rule, RuleSpec,
};
pub use prefix_lists::{Edit as PrefixEdit, EditedList};
pub use room::{Firewall, Joined};
pub use rule_sets::Membership;
