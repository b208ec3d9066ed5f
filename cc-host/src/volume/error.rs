//! What can go wrong with a volume, and how a person is told. Refuses to act on it.

use cc_common::api::fault::Fault;
use tonic::Code;

use super::backend::BackendError;
use super::room::{DELETE_MAX, POOL, SIZE_BYTES_MAX, SIZE_BYTES_MIN, VOLUMES_PER_PROJECT_MAX};
use super::tool::ToolError;
use crate::ids::{Name, NameError, Project, VolumeId};
use crate::store::StoreError;

#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("cannot create volume {name:?}")]
    BadName { name: String, source: NameError },
    #[error("cannot create volume {name}: the name looks like a volume's id")]
    NameLikeId { name: Name },
    #[error("cannot create volume {name} of {bytes} bytes")]
    BadSize { name: String, bytes: u64 },
    #[error("cannot create volume {name} in pool {pool:?}")]
    NoPool { name: String, pool: String },
    #[error("cannot {operation} persistent volume {name}")]
    NoObjectStore { operation: &'static str, name: String },
    #[error("cannot use persistent volume {name}")]
    OtherStore { name: Name, store: String },
    #[error("cannot use volume {name}")]
    OtherPool { name: Name, place: String },
    #[error("cannot {operation} persistent volume {name}")]
    NotYet { operation: &'static str, name: Name },
    #[error("cannot create volume {name}: the name is taken by {id}")]
    NameTaken { name: Name, id: VolumeId },
    #[error("cannot create volume {name}: project {project} has {VOLUMES_PER_PROJECT_MAX} already")]
    TooMany { name: Name, project: Project },
    #[error("cannot keep {bytes} bytes for volume {name}")]
    PoolFull { name: Name, bytes: u64, free_bytes: u64 },
    #[error("cannot delete {count} volumes at once")]
    TooManyAtOnce { count: usize },
    #[error("no volume {wanted:?} in project {project}")]
    NotFound { wanted: String, project: Project },
    #[error("cannot {operation} volume {name}: {users} containers have it")]
    InUse { operation: &'static str, name: Name, users: usize, example: String },
    #[error("cannot {operation} volume {name}: it is still in use on this host")]
    StillHeld { operation: &'static str, name: Name },
    #[error("cannot make volume {name} larger while containers use it")]
    NotWhileUsed { name: Name },
    #[error("cannot make volume {name} smaller: it has {size_bytes} bytes")]
    Smaller { name: Name, size_bytes: u64 },
    #[error("cannot {operation} volume {name}: it is {state}")]
    WrongState { operation: &'static str, name: Name, state: &'static str },
    #[error("volume {name} needs repair")]
    NeedsRepair { name: Name, why: String },
    #[error("what is in the place of volume {name} is not its file system")]
    NotIts { name: Name, why: String },
    #[error("cannot copy volume {name} while it is in use")]
    TooSlow { name: Name, within_s: u64 },
    #[error("volume {name} changed too often while it was being worked on")]
    Busy { name: String },
    #[error("cannot {operation} volume {name}")]
    Mount { operation: &'static str, name: Name, source: std::io::Error },
    #[error("cannot {operation} volume {name}")]
    Backend { operation: &'static str, name: Name, source: BackendError },
    #[error("cannot {operation} volume {name}")]
    Tool { operation: &'static str, name: Name, source: ToolError },
    #[error("cannot open the pool of volumes")]
    Pool { source: BackendError },
    #[error("the store failed while working on volume {name}")]
    Store { name: String, source: StoreError },
    #[error("volume record {key} cannot be read")]
    Decode { key: String, source: serde_json::Error },
}

impl From<VolumeError> for Fault {
    fn from(error: VolumeError) -> Fault {
        use VolumeError as E;
        let (what, chain) = (error.to_string(), crate::error_chain(&error));
        let fault = |kind, code, why: String, next: &str| Fault::new(kind, code, what.clone(), why).next(next);
        match error {
            E::BadName { source, .. } => fault(
                Code::InvalidArgument,
                "volume.bad_name",
                source.to_string(),
                "choose a name like data-1: lower-case letters, digits and hyphens",
            ),
            E::NameLikeId { .. } => fault(
                Code::InvalidArgument,
                "volume.bad_name",
                "a volume is named by either, and each names one".into(),
                "choose a name that does not begin with vol-",
            ),
            E::BadSize { .. } => fault(
                Code::InvalidArgument,
                "volume.bad_size",
                format!("a volume has from {SIZE_BYTES_MIN} (16 MiB) to {SIZE_BYTES_MAX} (16 TiB) bytes"),
                "give a size, as in --size 10GiB",
            ),
            E::NoPool { .. } => {
                fault(Code::NotFound, "volume.no_pool", format!("this host has one pool, {POOL}"), "leave --pool out")
            }
            E::NoObjectStore { .. } => fault(
                Code::FailedPrecondition,
                "volume.no_object_store",
                "a persistent volume is kept in an object store, and the daemon knows of none".into(),
                "leave --persistent out (a volume outlives its containers and the host's restarts anyhow, but not its disk), or \
                 set [volumes.object_store] with url, credentials and experimental = true in the daemon's configuration, which is \
                 an experiment: docs/design/persistent-volumes.md",
            ),
            E::OtherStore { store, .. } => fault(
                Code::FailedPrecondition,
                "volume.other_store",
                format!("it is in the object store {store}, and volumes.object_store.url names another one"),
                "set volumes.object_store.url to that again, in the daemon's configuration, to use or delete it",
            ),
            E::OtherPool { place, .. } => fault(
                Code::FailedPrecondition,
                "volume.other_pool",
                format!("it is in {place}, and the configuration names another pool"),
                "set volumes.lvm_pool to what it was, in the daemon's configuration, to use or delete it",
            ),
            E::NotYet { .. } => fault(
                Code::FailedPrecondition,
                "volume.not_yet",
                "what is in an object store cannot be made larger or copied yet".into(),
                "create another one, and copy the files",
            ),
            E::NameTaken { .. } => fault(
                Code::AlreadyExists,
                "volume.name_taken",
                "names are unique within a project".into(),
                "choose another name, or delete that volume: cc volume delete NAME",
            ),
            E::TooMany { .. } => fault(
                Code::ResourceExhausted,
                "volume.too_many",
                "that is the limit of a project".into(),
                "delete what is not used: cc volume prune",
            ),
            E::PoolFull { free_bytes, .. } => fault(
                Code::ResourceExhausted,
                "volume.pool_full",
                format!("the pool has {free_bytes} bytes left, and promises no more than it has"),
                "choose a smaller size, delete what is not used (cc volume prune), or raise volumes.pool_bytes",
            ),
            E::TooManyAtOnce { .. } => fault(
                Code::InvalidArgument,
                "volume.too_many_at_once",
                format!("{DELETE_MAX} is the limit"),
                "delete them in several calls",
            ),
            E::NotFound { .. } => fault(
                Code::NotFound,
                "volume.not_found",
                "there is none of that name or id".into(),
                "see cc volume list, or create it: cc volume create --size SIZE --name NAME",
            ),
            E::InUse { operation, ref example, .. } => {
                let why = format!("stopped containers have theirs, too; nothing was done to {operation} it");
                let next = format!("remove them first, for example: cc rm -f {example}");
                fault(Code::FailedPrecondition, "volume.in_use", why, &next)
            }
            E::StillHeld { .. } => fault(
                Code::FailedPrecondition,
                "volume.still_held",
                "a container that has ended is not gone yet, or a program of the host's has it mounted or open".into(),
                "try again in a moment; see who has it: findmnt, losetup -l",
            ),
            E::NotWhileUsed { .. } => fault(
                Code::FailedPrecondition,
                "volume.not_while_used",
                "the kernel lets nobody do that without CAP_SYS_RESOURCE, which the daemon was not given; its size is as it was".into(),
                "stop the containers that have it first, or give the daemon CAP_SYS_RESOURCE",
            ),
            E::Smaller { .. } => fault(
                Code::InvalidArgument,
                "volume.smaller",
                "a volume only grows".into(),
                "create a smaller one and copy what is in it",
            ),
            E::WrongState { .. } => {
                fault(Code::FailedPrecondition, "volume.wrong_state", "that is done first".into(), "try again")
            }
            E::NeedsRepair { why, .. } => fault(
                Code::FailedPrecondition,
                "volume.needs_repair",
                why,
                "look at it with cc volume check NAME; cc volume check --repair NAME repairs it, and may lose what is damaged",
            ),
            E::NotIts { why, .. } => fault(
                Code::DataLoss,
                "volume.wrong_file_system",
                why,
                "put its own back in its place; see the directory of volumes in the configuration",
            ),
            E::TooSlow { within_s, .. } => fault(
                Code::DeadlineExceeded,
                "volume.too_slow",
                format!("nothing can be written meanwhile, and {within_s} s were not enough"),
                "stop the containers that have it, or take the copy when it holds less",
            ),
            E::Busy { .. } => fault(Code::Aborted, "volume.busy", "others are changing it".into(), "try again"),
            E::Tool { source: ToolError::Missing(_), .. } => {
                fault(Code::FailedPrecondition, "volume.no_tools", chain, "install the package e2fsprogs on the host")
            }
            E::Backend { source: BackendError::Full { .. }, .. } => fault(
                Code::ResourceExhausted,
                "volume.pool_full",
                chain,
                "choose a smaller size, or make room where volumes are kept",
            ),
            E::Backend { source: BackendError::ObjectStore { ref why, .. }, .. } => fault(
                Code::Unavailable,
                "volume.object_store",
                why.clone(),
                "see that the store can be reached and that volumes.object_store is right, and try again",
            ),
            E::Backend { source: BackendError::Filling { .. }, .. } => fault(
                Code::ResourceExhausted,
                "volume.pool_filling",
                "a thin pool that is full stops the writes of all of its volumes".into(),
                "delete what is not used (cc volume prune), or extend the pool: lvextend, lvextend --poolmetadatasize",
            ),
            E::Backend { source: BackendError::Busy { .. }, .. } => {
                fault(Code::FailedPrecondition, "volume.still_held", chain, "see who has it: findmnt, losetup -l")
            }
            E::Mount { .. } | E::Backend { .. } | E::Tool { .. } | E::Pool { .. } => fault(
                Code::Internal,
                "volume.failed",
                chain,
                "see the daemon's log; cc-host check names what is missing",
            ),
            E::Store { .. } | E::Decode { .. } => fault(
                Code::Internal,
                "volume.internal",
                chain,
                "see the daemon's log; cc-host check names what is missing",
            ),
        }
    }
}
