//! `cc volume`: file systems that outlive containers. Refuses to judge a size or a path: the daemon does, for every client.

use std::str::FromStr;

use cc_common::api::v1::volume_service_client::VolumeServiceClient;
use cc_common::api::v1::{
    AttachVolumeRequest, CheckVolumeRequest, CreateVolumeRequest, DetachVolumeRequest, ListVolumesRequest,
    PruneVolumesRequest, ResizeVolumeRequest, SnapshotVolumeRequest, VolumeIds, VolumeMount,
};
use clap::{Args, Subcommand};

use super::Context;
use crate::error::Failure;
use crate::render::Ids;
use crate::render::volume::{VolumeChecked, VolumeCreated, Volumes, VolumesPruned};
use crate::size;
use crate::ui::Ui;

/// `VOLUME:PATH[:ro]`, as `--volume` takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount(VolumeMount);

impl FromStr for Mount {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let form = || "it is not VOLUME:PATH[:ro], as in data:/var/lib/data".to_owned();
        let (volume, rest) = text.split_once(':').ok_or_else(form)?;
        let (path, read_only) = match rest.rsplit_once(':') {
            Some((path, "ro")) => (path, true),
            Some((path, "rw")) => (path, false),
            Some((_, other)) => return Err(format!("{other:?} is neither ro nor rw")),
            None => (rest, false),
        };
        if volume.starts_with(['/', '.']) {
            return Err(
                "directories of the host are not shown to containers: create a volume with cc volume create".into()
            );
        }
        if volume.is_empty() || !path.starts_with('/') {
            return Err(form());
        }
        Ok(Mount(VolumeMount { volume: volume.into(), path: path.into(), read_only, name: String::new() }))
    }
}

impl From<&Mount> for VolumeMount {
    fn from(mount: &Mount) -> Self {
        mount.0.clone()
    }
}

/// As it is written.
pub fn text(mount: &VolumeMount) -> String {
    let VolumeMount { volume, path, read_only, .. } = mount;
    format!("{volume}:{path}{}", if *read_only { ":ro" } else { "" })
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cc volume create --size 10GiB --name data\n  \
    cc run --rm --image debian:12 --volume data:/data -- touch /data/file")]
pub struct VolumeArgs {
    #[command(subcommand)]
    command: VolumeCommand,
}

#[derive(Debug, Subcommand)]
enum VolumeCommand {
    /// Create a volume and print its id
    #[command(after_help = "Example:\n  cc volume create --size 10GiB --name data\n\n\
        Its space is taken at once. Its file system is ext4.")]
    Create {
        /// 512MiB, 10GiB, or bytes; 16MiB at least
        #[arg(long, value_name = "SIZE", value_parser = size::parse)]
        size: u64,
        /// A name, unique in the project
        #[arg(long)]
        name: String,
        /// Keep it in an object store as well
        #[arg(long)]
        persistent: bool,
        /// Where it is kept
        #[arg(long, default_value = "", hide_default_value = true)]
        pool: String,
    },
    /// List volumes
    #[command(visible_alias = "ls", after_help = "Example:\n  cc volume list --json")]
    List,
    /// Show everything about volumes, as JSON
    #[command(after_help = "Example:\n  cc volume inspect data")]
    Inspect {
        /// Names or ids
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
    /// Delete volumes: all of them, or none if a container has any. Ids that do not exist are fine
    #[command(visible_alias = "rm", after_help = "Example:\n  cc volume delete data logs")]
    Delete {
        /// Names or ids
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
    /// Make a volume larger, also while containers use it
    #[command(after_help = "Example:\n  cc volume resize data --size 20GiB")]
    Resize {
        /// A name or id
        #[arg(value_name = "ID")]
        id: String,
        /// No less than it has
        #[arg(long, value_name = "SIZE", value_parser = size::parse)]
        size: u64,
    },
    /// Copy a volume as it is now into a new one, and print its id
    #[command(after_help = "Example:\n  cc volume snapshot data --name data-monday\n\n\
        Containers that use it wait with their writes until the copy is taken.")]
    Snapshot {
        /// A name or id
        #[arg(value_name = "ID")]
        id: String,
        /// The new volume's
        #[arg(long)]
        name: String,
    },
    /// Look whether a volume's file system is consistent, while no container runs with it
    #[command(after_help = "Examples:\n  cc volume check data\n  cc volume check --repair data\n\n\
        Exits with 1 if it is not.")]
    Check {
        /// A name or id
        #[arg(value_name = "ID")]
        id: String,
        /// Repair it; what is damaged may be lost
        #[arg(long)]
        repair: bool,
    },
    /// Delete all volumes that no container has
    #[command(after_help = "Example:\n  cc volume prune --force")]
    Prune {
        /// Do not ask
        #[arg(short, long)]
        force: bool,
    },
    /// Give a container a volume, whether it runs or not
    #[command(after_help = "Example:\n  cc volume attach web data:/var/lib/data")]
    Attach {
        /// A name or id
        #[arg(value_name = "CONTAINER")]
        container: String,
        /// The volume, and where it is to be
        #[arg(value_name = "VOLUME:PATH[:ro]")]
        mount: Mount,
    },
    /// Take a volume away from a container, if none of its programs uses it
    #[command(after_help = "Example:\n  cc volume detach web data")]
    Detach {
        /// A name or id
        #[arg(value_name = "CONTAINER")]
        container: String,
        /// A name or id
        #[arg(value_name = "VOLUME")]
        volume: String,
    },
}

pub async fn run(context: &Context, args: VolumeArgs) -> Result<i32, Failure> {
    if let VolumeCommand::Prune { force: false } = args.command
        && !super::prune::agreed(context, "This deletes all volumes that no container has, with what is in them.")?
    {
        return Ok(1);
    }
    let mut client = VolumeServiceClient::new(context.connection().await?);
    match args.command {
        VolumeCommand::Create { size, name, persistent, pool } => {
            let request = CreateVolumeRequest { name, size_bytes: size, persistent, pool };
            context.ui.show(&VolumeCreated(client.create(request).await?.into_inner().into()))?;
        }
        VolumeCommand::List => {
            let volumes = client.list(ListVolumesRequest {}).await?.into_inner().volumes;
            context.ui.show(&Volumes(volumes.into_iter().map(Into::into).collect()))?;
        }
        VolumeCommand::Inspect { ids } => {
            let volumes = client.get(VolumeIds { ids }).await?.into_inner().volumes;
            let ui = Ui { json: !context.ui.quiet, ..context.ui };
            ui.show(&Volumes(volumes.into_iter().map(Into::into).collect()))?;
        }
        VolumeCommand::Delete { ids } => {
            let deleted = client.delete(VolumeIds { ids }).await?.into_inner().ids;
            context.ui.show(&Ids(deleted))?;
        }
        VolumeCommand::Resize { id, size } => {
            let request = ResizeVolumeRequest { id, size_bytes: size };
            context.ui.show(&VolumeCreated(client.resize(request).await?.into_inner().into()))?;
        }
        VolumeCommand::Snapshot { id, name } => {
            let request = SnapshotVolumeRequest { id, name };
            context.ui.show(&VolumeCreated(client.snapshot(request).await?.into_inner().into()))?;
        }
        VolumeCommand::Check { id, repair } => {
            let checked = client.check(CheckVolumeRequest { id, repair }).await?.into_inner();
            let code = i32::from(!checked.clean);
            context.ui.show(&VolumeChecked::from(checked))?;
            return Ok(code);
        }
        VolumeCommand::Prune { .. } => {
            let pruned = client.prune(PruneVolumesRequest {}).await?.into_inner();
            context.ui.show(&VolumesPruned { volumes: pruned.removed, freed_bytes: pruned.freed_bytes })?;
        }
        VolumeCommand::Attach { container, mount } => {
            let request = AttachVolumeRequest { container, mount: Some((&mount).into()) };
            context.ui.show(&Ids(vec![client.attach(request).await?.into_inner().id]))?;
        }
        VolumeCommand::Detach { container, volume } => {
            let request = DetachVolumeRequest { container, volume };
            context.ui.show(&Ids(vec![client.detach(request).await?.into_inner().id]))?;
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_a_volume_a_path_and_perhaps_ro() {
        let mount = |text: &str| text.parse::<Mount>().map(|Mount(m)| (m.volume, m.path, m.read_only));
        assert_eq!(mount("data:/data"), Ok(("data".into(), "/data".into(), false)));
        assert_eq!(mount("data:/data:ro"), Ok(("data".into(), "/data".into(), true)));
        assert_eq!(mount("data:/data:rw"), Ok(("data".into(), "/data".into(), false)));
        for bad in ["", "data", ":/data", "data:data", "data:/data:rx", "data:"] {
            assert!(mount(bad).is_err(), "{bad}");
        }
        for of_host in ["/srv:/data", "./srv:/data"] {
            assert!(mount(of_host).unwrap_err().contains("cc volume create"), "{of_host}");
        }
    }
}
