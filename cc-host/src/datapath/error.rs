//! What can go wrong in the datapath, by operation and object. Refuses to say it in anyone's words but this room's.

use std::path::PathBuf;

use cc_common::api::fault::Fault;
use cc_common::limits::{ENDPOINTS_MAX, FORWARDS_MAX, RULE_SETS_MAX, UPLINKS_MAX};
use tonic::Code;

use crate::kernel::bpffs::BpffsError;
use crate::kernel::link::chain;

#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    #[error("cannot prepare the directory for pins")]
    Bpffs { source: BpffsError },
    #[error("cannot load the eBPF object")]
    Load { source: aya::EbpfError },
    #[error("the eBPF object has no {what} {name}")]
    Missing { what: &'static str, name: &'static str },
    #[error("cannot load program {name}")]
    Program { name: &'static str, source: aya::programs::ProgramError },
    #[error("cannot pin {path}")]
    Pin { path: PathBuf, source: aya::pin::PinError },
    #[error("cannot replace pin {path}")]
    ReplacePin { path: PathBuf, source: std::io::Error },
    #[error("cannot {operation} the directory of pins {path}")]
    PinDirectory { operation: &'static str, path: PathBuf, source: std::io::Error },
    #[error("cannot take over what version {from} of the datapath has pinned, whose programs go on")]
    Upgrade { from: u32, source: Box<DatapathError> },
    #[error("cannot open pinned map {path}")]
    OpenMap { path: PathBuf, source: aya::maps::MapError },
    #[error("pinned map {path} has {found}, not {expected}")]
    MapShape { path: PathBuf, found: String, expected: String },
    #[error("cannot {operation} map {name}")]
    Map { operation: &'static str, name: &'static str, source: aya::maps::MapError },
    #[error("map {name} is full")]
    Full { name: &'static str, source: aya::maps::MapError },
    #[error("cannot {operation} rows of map {name}")]
    Rows { operation: &'static str, name: &'static str, source: std::io::Error },
    #[error("cannot run program {name}")]
    Run { name: &'static str, source: aya::programs::ProgramError },
    #[error("program {name}, loaded once more, is not the one that packets run")]
    NotATwin { name: &'static str },
    #[error("{path} is pinned no more")]
    NotPinned { path: PathBuf },
    #[error("program {name} has left no notes")]
    NoTrace { name: &'static str },
    #[error("a program has decided {verdict}, which this version does not know")]
    NoVerdict { verdict: u32 },
    #[error("no interface of the host leads out")]
    NoUplink,
    #[error("rule set {number} is not below {RULE_SETS_MAX}")]
    RuleSetOutOfRange { number: u32 },
    #[error("endpoint {id} is not below {ENDPOINTS_MAX}")]
    EndpointOutOfRange { id: u32 },
    #[error("endpoint {id} is in use")]
    EndpointInUse { id: u32 },
    #[error("interface {ifindex} is not used: {UPLINKS_MAX} lead out already")]
    TooManyUplinks { ifindex: u32 },
    #[error("the range of stand-ins has to begin with an IPv4 address")]
    StandIns,
    #[error("{count} published ports, at all addresses together, are more than {FORWARDS_MAX}")]
    TooManyPublished { count: usize },
    #[error("container tag {tag:?} is not 16 hexadecimal digits")]
    Tag { tag: String },
    #[error("there is no interface {ifindex}")]
    NoInterface { ifindex: u32, source: nix::Error },
    #[error("cannot tell what interface {ifindex} is")]
    Interface { ifindex: u32, source: std::io::Error },
    #[error("cannot prepare interface {interface} for programs")]
    Qdisc { interface: String, source: aya::programs::tc::TcError },
    #[error("cannot attach program {program} to {to}")]
    Attach { program: &'static str, to: String, source: aya::programs::ProgramError },
    #[error("cannot replace program {program} on {on}")]
    Replace { program: &'static str, on: String, source: aya::programs::ProgramError },
    #[error("endpoint {id} is not what an earlier daemon attached: {what}")]
    NotWhole { id: u32, what: &'static str },
    #[error("the link of program {program} cannot be pinned")]
    Link { program: &'static str, source: aya::programs::links::LinkError },
    #[error("cannot look at the link pinned at {path}")]
    InspectLink { path: PathBuf, source: aya::programs::links::LinkError },
    #[error("cannot filter the devices of a cgroup")]
    Devices { source: std::io::Error },
    #[error("cannot open cgroup {path}")]
    Cgroup { path: PathBuf, source: std::io::Error },
    #[error("cannot remove pinned link {path}")]
    Unpin { path: PathBuf, source: std::io::Error },
    #[error("cannot list pinned links in {path}")]
    ListLinks { path: PathBuf, source: std::io::Error },
    #[error("cannot tell the number of CPUs")]
    Cpus { source: std::io::Error },
    #[error("cannot read the eBPF programs' log")]
    Log { source: aya_log::Error },
}

impl From<DatapathError> for Fault {
    fn from(error: DatapathError) -> Fault {
        use DatapathError as E;
        let why = chain(&error);
        let (kind, code, next) = match &error {
            E::MapShape { path, .. } => (
                Code::FailedPrecondition,
                "datapath.pins",
                format!("stop every cc-host that uses {0}, then remove the directory of {0}", path.display()),
            ),
            E::Upgrade { .. } => (
                Code::FailedPrecondition,
                "datapath.upgrade",
                "start the earlier cc-host again: everything is as it was; or stop its containers, and start this one"
                    .to_owned(),
            ),
            E::EndpointOutOfRange { .. } | E::EndpointInUse { .. } => {
                (Code::ResourceExhausted, "datapath.endpoints", "remove containers that are not needed".to_owned())
            }
            E::Full { .. } => (
                Code::ResourceExhausted,
                "datapath.full",
                "remove containers and VPCs that are not needed: cc rm, cc vpc delete".to_owned(),
            ),
            E::TooManyPublished { .. } => (
                Code::ResourceExhausted,
                "datapath.published",
                "publish fewer ports, or publish them at one address: cc net unpublish".to_owned(),
            ),
            E::TooManyUplinks { .. } => (
                Code::ResourceExhausted,
                "datapath.uplinks",
                "name the interfaces that are to lead out in `uplinks`".to_owned(),
            ),
            E::NoUplink => (
                Code::FailedPrecondition,
                "datapath.uplink",
                "give the host a default route, or name its interfaces in `uplinks`".to_owned(),
            ),
            E::Rows { .. } => (
                Code::ResourceExhausted,
                "datapath.rules",
                "use fewer rules, or fewer and shorter prefix lists".to_owned(),
            ),
            E::Attach { .. }
            | E::Devices { .. }
            | E::Qdisc { .. }
            | E::NoInterface { .. }
            | E::Interface { .. }
            | E::Cgroup { .. } => {
                (Code::Internal, "datapath.attach", "run `cc-host check`, and look at the daemon's log".to_owned())
            }
            _ => (Code::Internal, "datapath.failed", "run `cc-host check`, and look at the daemon's log".to_owned()),
        };
        Fault::new(kind, code, "the datapath failed", why).next(next)
    }
}
