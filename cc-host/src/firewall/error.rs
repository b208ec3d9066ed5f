//! What can go wrong with groups, rules and prefix lists. Refuses to say it in anyone's words but this room's.

use cc_common::api::fault::Fault;
use cc_common::limits::RULE_SETS_MAX;
use tonic::Code;

use super::lists::LineError;
use super::model::{GROUPS_PER_ENDPOINT_MAX, RULES_PER_GROUP_MAX};
use crate::datapath::DatapathError;
use crate::ids::{Name, NameError, Project};
use crate::store::StoreError;

#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    #[error("cannot create {kind} {name:?}")]
    BadName { kind: &'static str, name: String, source: NameError },
    #[error("cannot create {kind} {name}: the name is taken")]
    NameTaken { kind: &'static str, name: Name },
    #[error("cannot create {kind} {name}: project {project} has {max} already")]
    TooMany { kind: &'static str, name: Name, project: Project, max: usize },
    #[error("no {kind} {wanted:?} in project {project}")]
    NotFound { kind: &'static str, wanted: String, project: Project },
    #[error("cannot delete {kind} {name}: {by}")]
    InUse { kind: &'static str, name: Name, by: String },
    #[error("cannot delete group {name}: it is the default group of a VPC")]
    IsDefault { name: Name },
    #[error("{field} {value:?} is not valid")]
    BadRule { field: &'static str, value: String, why: String },
    #[error("group {name} has {RULES_PER_GROUP_MAX} rules already")]
    TooManyRules { name: Name },
    #[error("group {name} has no rule {number}")]
    NoRule { name: Name, number: u32 },
    #[error("a container is in at most {GROUPS_PER_ENDPOINT_MAX} groups")]
    TooManyGroups,
    #[error("this host has {RULE_SETS_MAX} different sets of groups already")]
    NoRuleSet,
    #[error("line {line} of the list is not valid")]
    BadLine { line: usize, source: LineError },
    #[error("cannot {operation} the prefixes of list {name}")]
    ListFile { operation: &'static str, name: String, source: std::io::Error },
    #[error("cannot open the directory of prefix lists")]
    ListDirectory { source: std::io::Error },
    #[error("{kind} {name} changed while it was being worked on")]
    Busy { kind: &'static str, name: String },
    #[error("the store failed while working on {name}")]
    Store { name: String, source: StoreError },
    #[error("the datapath refused the rules")]
    Datapath { source: DatapathError },
}

impl From<FirewallError> for Fault {
    fn from(error: FirewallError) -> Fault {
        use FirewallError as E;
        let what = error.to_string();
        match error {
            E::BadName { source, .. } => {
                Fault::new(Code::InvalidArgument, "firewall.bad_name", what, source.to_string())
                    .next("choose a name like web-1: lower-case letters, digits and hyphens")
            }
            E::NameTaken { .. } => {
                Fault::new(Code::AlreadyExists, "firewall.name_taken", what, "names are unique within a project")
                    .next("choose another name; a VPC's default group bears the VPC's")
            }
            E::TooMany { kind, .. } => {
                Fault::new(Code::ResourceExhausted, "firewall.too_many", what, "that is the limit of a project")
                    .next(format!("delete a {kind} that is not used"))
            }
            E::NotFound { kind: "group", .. } => {
                Fault::new(Code::NotFound, "firewall.not_found", what, "there is none of that name or id")
                    .next("see cc group list, or create it: cc group create --name NAME")
            }
            E::NotFound { .. } => {
                Fault::new(Code::NotFound, "firewall.not_found", what, "there is none of that name or id")
                    .next("see cc prefixes list, or create it: cc prefixes create --name NAME")
            }
            E::InUse { .. } => Fault::new(Code::FailedPrecondition, "firewall.in_use", what, "nothing was deleted")
                .next("detach or revoke that first"),
            E::IsDefault { .. } => {
                Fault::new(Code::FailedPrecondition, "firewall.default_group", what, "it goes with its VPC")
                    .next("change its rules instead: cc group rules, cc group revoke")
            }
            E::BadRule { why, .. } => {
                Fault::new(Code::InvalidArgument, "firewall.bad_rule", what, why).next("see cc group allow --help")
            }
            E::TooManyRules { .. } => {
                let why = format!("{RULES_PER_GROUP_MAX} is the limit of a group");
                Fault::new(Code::ResourceExhausted, "firewall.too_many_rules", what, why)
                    .next("name many addresses by one prefix list, and many ports by a range; or use a second group")
            }
            E::NoRule { .. } => {
                Fault::new(Code::NotFound, "firewall.no_rule", what, "it was revoked, or is another group's")
                    .next("see cc group rules GROUP")
            }
            E::TooManyGroups => Fault::new(Code::InvalidArgument, "firewall.too_many_groups", what, "more were named")
                .next("put the rules of some of them into one group"),
            E::NoRuleSet => {
                Fault::new(Code::ResourceExhausted, "firewall.no_rule_set", what, "that is the limit of a host")
                    .next("let more containers share the same groups")
            }
            E::BadLine { source, .. } => {
                let next = match &source {
                    LineError::HostBits(network) => format!("write {network}"),
                    _ => "correct that line; # begins a comment".to_owned(),
                };
                Fault::new(Code::InvalidArgument, "firewall.bad_line", what, source.to_string()).next(next)
            }
            E::Busy { .. } => {
                Fault::new(Code::Aborted, "firewall.busy", what, "others are changing it").next("try again")
            }
            E::Datapath { source } => Fault { what, ..Fault::from(source) },
            E::ListFile { .. } | E::ListDirectory { .. } | E::Store { .. } => {
                let why = crate::error_chain(&error);
                Fault::new(Code::Internal, "firewall.internal", what, why)
                    .next("see the daemon's log; cc-host check names what is missing")
            }
        }
    }
}
