//! What the services do with a message before any room sees it, for the fuzz target. Refuses to be in the daemon.

use cc_common::api::fault::Fault;
use cc_common::api::v1;

use super::{convert, rules, view};
use crate::container::RunSpec;
use crate::firewall::{FirewallError, GroupId, PrefixListId, RuleSpec, naive};
use crate::ids::default_project;

/// The names that rules may use: a group, a list, and a name that both have.
pub const GROUP: &str = "web";
pub const LIST: &str = "bad";
pub const BOTH: &str = "both";

pub fn run_spec(spec: v1::ContainerSpec, stdin: bool) -> Result<RunSpec, Fault> {
    convert::run_spec(spec, stdin, None).map_err(Fault::from)
}

/// As a client is shown it.
pub fn spec_view(spec: &RunSpec) -> v1::ContainerSpec {
    view::spec_view(spec)
}

pub fn rule_spec(rule: v1::Rule) -> Result<RuleSpec, Fault> {
    rules::rule_spec(&Few, rule).map_err(Fault::from)
}

struct Few;

impl Few {
    fn none<T>(kind: &'static str, wanted: &str) -> Result<T, FirewallError> {
        Err(FirewallError::NotFound { kind, wanted: wanted.to_owned(), project: default_project() })
    }
}

impl rules::Known for Few {
    fn group(&self, name: &str) -> Result<GroupId, FirewallError> {
        if matches!(name, GROUP | BOTH) { Ok(naive::group(1)) } else { Few::none("group", name) }
    }
    fn list(&self, name: &str) -> Result<PrefixListId, FirewallError> {
        if matches!(name, LIST | BOTH) { Ok(naive::list(1)) } else { Few::none("prefix list", name) }
    }
}
