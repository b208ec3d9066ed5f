//! What can go wrong with a container, and how a person is told. Refuses to act on it.

use cc_common::api::fault::Fault;
use tonic::Code;

use super::launch::LaunchError;
use crate::datapath::DatapathError;
use crate::ids::{NameError, Project};
use crate::image::ImageError;
use crate::kernel::cgroup::CgroupError;
use crate::kernel::link::LinkError;
use crate::kernel::netns::NetnsError;
use crate::kernel::qdisc::QdiscError;
use crate::shim::protocol::{FailureKind, StartFailure};
use crate::store::StoreError;
use crate::vpc::VpcError;

#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    #[error("the firewall refused")]
    Firewall(#[from] crate::firewall::FirewallError),
    #[error("cannot run container {name:?}")]
    BadName { name: String, source: NameError },
    #[error("cannot run container {name}")]
    ReservedName { name: String },
    #[error("cannot run a container: {field} {value:?} is not valid")]
    BadField { field: &'static str, value: String, why: &'static str },
    #[error("cannot run a container: {field} is not valid")]
    BadOption { field: &'static str, why: String },
    #[error("cannot run container {name}: the name is taken by {id}")]
    NameTaken { name: String, id: String },
    #[error("cannot run container {name}: all {max} slots of this host are taken")]
    NoSlot { name: String, max: u32 },
    #[error("cannot run container {name}: VPC {vpc} ({cidr}) has no free address")]
    NoAddress { name: String, vpc: String, cidr: String },
    #[error("cannot run image {image}: it has no command")]
    NoCommand { image: String },
    #[error("no container {wanted:?} in project {project}")]
    NotFound { wanted: String, project: Project },
    #[error("cannot remove container {name}: it is running")]
    Running { name: String },
    #[error("container {name} is not running")]
    NotRunning { name: String },
    #[error("container {name} changed too often while it was being worked on")]
    Busy { name: String },
    #[error("cannot run container {name}: the daemon is stopping")]
    Closing { name: String },
    #[error("cannot start container {name}")]
    Start { name: String, source: StartFailure },
    #[error("cannot run a program in container {name}")]
    Exec { name: String, source: StartFailure },
    #[error("cannot reach the shim of container {name}")]
    Shim { name: String, source: LaunchError },
    #[error("cannot launch container {name}")]
    Launch { name: String, source: LaunchError },
    #[error("cannot {operation} for container {name}")]
    File { operation: &'static str, name: String, source: std::io::Error },
    #[error("cannot {operation} the cgroup of container {name}")]
    Cgroup { operation: &'static str, name: String, source: CgroupError },
    #[error("cannot {operation} the network interface of container {name}")]
    Link { operation: &'static str, name: String, source: LinkError },
    #[error("cannot limit the bandwidth of container {name}")]
    Bandwidth { name: String, source: QdiscError },
    #[error("cannot enter the network namespace of container {name}")]
    Netns { name: String, source: NetnsError },
    #[error("the datapath refused to {operation} container {name}")]
    Datapath { operation: &'static str, name: String, source: DatapathError },
    #[error("the store failed while working on container {name}")]
    Store { name: String, source: StoreError },
    #[error("container record {key} cannot be read")]
    Decode { key: String, source: serde_json::Error },
    #[error("cannot connect to port {port} of container {name}")]
    Connect { name: String, port: u16, source: std::io::Error },
    #[error("cannot copy files of container {name}")]
    Copy { name: String, source: super::copy::CopyFailure },
    #[error(transparent)]
    Outside(#[from] crate::outside::OutsideError),
    #[error(transparent)]
    Volume(#[from] crate::volume::VolumeError),
    #[error(transparent)]
    Disk(#[from] crate::disk::DiskError),
    #[error("cannot {operation} a volume {preposition} container {name}")]
    MoveVolume { operation: &'static str, preposition: &'static str, name: String, source: super::volumes::MoveFailure },
    #[error(transparent)]
    Vpc(#[from] VpcError),
    #[error(transparent)]
    Image(#[from] ImageError),
}

impl From<ContainerError> for Fault {
    fn from(error: ContainerError) -> Fault {
        use ContainerError as E;
        let what = error.to_string();
        let fault = |kind, code, why: String, next: &str| Fault::new(kind, code, what.clone(), why).next(next);
        match error {
            E::Vpc(inner) => inner.into(),
            E::Outside(inner) => inner.into(),
            E::Volume(inner) => inner.into(),
            E::Disk(inner) => inner.into(),
            E::MoveVolume { source, .. } => Fault { what, ..Fault::from(source) },
            E::Firewall(inner) => inner.into(),
            E::Image(inner) => inner.into(),
            E::BadName { source, .. } => fault(
                Code::InvalidArgument,
                "container.bad_name",
                source.to_string(),
                "choose a name like web-1: lower-case letters, digits and hyphens",
            ),
            E::ReservedName { .. } => fault(
                Code::InvalidArgument,
                "container.bad_name",
                "in every VPC this name means something else".into(),
                "choose another name",
            ),
            E::BadField { why, .. } => {
                fault(Code::InvalidArgument, "container.bad_option", why.into(), "see cc run --help")
            }
            E::BadOption { why, .. } => fault(Code::InvalidArgument, "container.bad_option", why, "see cc run --help"),
            E::NameTaken { .. } => fault(
                Code::AlreadyExists,
                "container.name_taken",
                "names are unique within a project".into(),
                "choose another name, or remove that one: cc rm -f NAME",
            ),
            E::NoSlot { .. } => fault(
                Code::ResourceExhausted,
                "container.no_slot",
                "stopped containers count too".into(),
                "remove stopped ones: cc ps -a, cc rm ID",
            ),
            E::NoAddress { .. } => fault(
                Code::ResourceExhausted,
                "vpc.no_address",
                "every address of its CIDR is in use".into(),
                "remove containers of it, or create a larger VPC: cc vpc create",
            ),
            E::NoCommand { .. } => fault(
                Code::InvalidArgument,
                "container.no_command",
                "neither its entrypoint nor its cmd names a program".into(),
                "give one: cc run --image IMAGE COMMAND",
            ),
            E::NotFound { .. } => fault(
                Code::NotFound,
                "container.not_found_id",
                "there is none of that name or id".into(),
                "see cc ps -a",
            ),
            E::Running { .. } => fault(
                Code::FailedPrecondition,
                "container.running",
                "removing it would stop it".into(),
                "stop it first, or use cc rm -f",
            ),
            E::NotRunning { .. } => {
                fault(Code::FailedPrecondition, "container.not_running", "it has stopped".into(), "see cc ps -a")
            }
            E::Closing { .. } => fault(
                Code::Unavailable,
                "container.closing",
                "it starts nothing more".into(),
                "try again when it is back",
            ),
            E::Busy { .. } => fault(Code::Aborted, "container.busy", "others are changing it".into(), "try again"),
            E::Shim { source, .. } => Fault { what, ..Fault::from(source) },
            E::Start { source, .. } | E::Exec { source, .. } => {
                let (code, next) = match source.kind {
                    FailureKind::NotFound => ("container.not_found", "check the command's name and the image's PATH"),
                    FailureKind::NotExecutable => {
                        ("container.not_executable", "check its mode, its format and its interpreter")
                    }
                    FailureKind::BadUser => {
                        ("container.bad_user", "use a name from the image's /etc/passwd, or uid:gid")
                    }
                    FailureKind::BadDir => ("container.bad_dir", "use an absolute directory of the image"),
                    _ => ("container.start", "see the daemon's log; cc-host check names what is missing"),
                };
                fault(Code::FailedPrecondition, code, source.to_string(), next)
            }
            E::Connect { source, .. } => fault(
                Code::Unavailable,
                "container.connect",
                source.to_string(),
                "check that the program listens on that port: cc logs ID",
            ),
            E::Copy { source, .. } => Fault { what, ..Fault::from(source) },
            E::Datapath { source, .. } => Fault { what, ..Fault::from(source) },
            other => Fault::new(Code::Internal, "container.internal", what, crate::error_chain(&other))
                .next("see the daemon's log; cc-host check names what is missing"),
        }
    }
}
