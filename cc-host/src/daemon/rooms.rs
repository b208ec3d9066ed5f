//! Builds the rooms in the order in which they stand on each other, and their services. Refuses to serve.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use cc_common::api::fault::Fault;
use cc_common::api::v1::container_service_server::ContainerServiceServer;
use cc_common::api::v1::firewall_service_server::FirewallServiceServer;
use cc_common::api::v1::guard_service_server::GuardServiceServer;
use cc_common::api::v1::image_service_server::ImageServiceServer;
use cc_common::api::v1::net_service_server::NetServiceServer;
use cc_common::api::v1::volume_service_server::VolumeServiceServer;
use cc_common::api::v1::vpc_service_server::VpcServiceServer;
use cc_common::api::v1::why_service_server::WhyServiceServer;
use cc_common::names::ABI;
use cc_common::settings::Timeouts;
use tokio::runtime::Handle;
use tonic::Code;
use tonic::service::Routes;

use super::events::Events;
use super::{RunLock, disk};
use crate::api::host::{CountObjects, Counts};
use crate::api::{ContainerApi, FirewallApi, GuardApi, ImageApi, NetApi, VolumeApi, VpcApi, WhyApi};
use crate::auth::Tally;
use crate::config::Config;
use crate::container::{Containers, Rooms};
use crate::datapath::{Datapath, DatapathConfig, OtherPins, Upgraded, forward_log, other_pins, remove_pins};
use crate::disk::{Disks, DisksParts};
use crate::error_chain;
use crate::explain::Explain;
use crate::firewall::Firewall;
use crate::guard::{Guard, GuardFigures};
use crate::ids::Project;
use crate::image::Images;
use crate::kernel::cgroup::CgroupRoot;
use crate::kernel::link::Links;
use crate::metrics::{ContainerFigures, HostFigures, ProcessFigures, Registry};
use crate::outside::{self, Outside, OutsideConfig, closed_ranges};
use crate::resolver::{Resolvers, Upstreams};
use crate::store::Store;
use crate::volume::{Backend, BackendError, LoopFiles, LvmThin, Vold, Volumes, VolumesParts};
use crate::vpc::{Gateways, Vpcs};
use crate::why::Why;

/// Messages of ours are small but for chunks of output and of archives.
const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// At the start, and after a sweep that failed.
const SWEEP_AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

/// The rooms that the services call.
pub(super) struct House {
    vpcs: Arc<Vpcs>,
    volumes: Arc<Volumes>,
    firewall: Arc<Firewall>,
    containers: Arc<Containers>,
    images: Images,
    outside: Arc<Outside>,
    datapath: Arc<Datapath>,
    explain: Arc<Explain>,
    config: Arc<Config>,
    guard: Arc<Guard>,
    /// The kernel's directories are ours alone: boot removes from them what it does not know.
    _locks: [RunLock; 2],
}

impl House {
    /// Opens everything, and brings what a former daemon left in line with the store.
    pub(super) async fn open(
        config: &Config,
        store: Arc<dyn Store>,
        events: Events,
        host_id: &str,
    ) -> Result<House, Fault> {
        let cgroups = CgroupRoot::find(config.cgroup_dir.as_deref(), &config.run_dir);
        let cgroups = cgroups.map_err(|e| cannot("cgroup", "open our cgroups", &e))?;
        let cgroups_level = cgroups.v2_level();
        let datapath = open_datapath(config, cgroups_level).await?;
        tell_of_versions(&datapath, config, cgroups_level, &events).await;
        let locks = [RunLock::of_directory(&cgroups.v2_dir())?, RunLock::of_directory(&datapath.pin_dir())?];
        let unpacker = std::env::current_exe().unwrap_or_else(|_| Path::new("/proc/self/exe").to_owned());
        let images = Images::open(config.images_dir(), Arc::clone(&store), unpacker)?;
        let links = Links::open().map_err(|e| cannot("link", "open netlink", &e))?;
        let lists = config.state_dir.join("prefixes");
        let surroundings = links.surroundings().await.map_err(|e| cannot("link", "see the host's addresses", &e))?;
        let outside_config = outside_config(config, &cgroups);
        let closed = closed_ranges(&surroundings, &outside_config);
        let firewall = Arc::new(Firewall::open(Arc::clone(&store), Arc::clone(&datapath), lists, closed).await?);
        let parts = outside::Parts {
            datapath: Arc::clone(&datapath),
            firewall: Arc::clone(&firewall),
            links: links.clone(),
            events: events.clone(),
            host_id: host_id.to_owned(),
        };
        let outside = Arc::new(Outside::open(parts, outside_config, surroundings).await?);
        let (kept, rules) = (Arc::clone(&store), Arc::clone(&firewall));
        let guard = Guard::open(config, kept, Arc::clone(&datapath), rules, events.clone()).await?;
        let gateways = Arc::new(Gateways::new(
            Arc::clone(&datapath),
            links.clone(),
            Resolvers::new(Arc::default(), Handle::current()),
            Upstreams::from(config.dns.as_slice()),
            events.clone(),
            host_id,
        ));
        let vpcs = Vpcs::new(Arc::clone(&store), Arc::clone(&datapath), Arc::clone(&firewall), Arc::clone(&gateways));
        let vpcs = Arc::new(vpcs);
        let backend = volumes_backend(config).map_err(|e| cannot("volume", "open the pool of volumes", &e))?;
        let volumes = Volumes::new(VolumesParts {
            store: Arc::clone(&store),
            backend,
            persistent: persistent_backend(config),
            events: events.clone(),
            mounts_dir: config.volumes_run_dir(),
            pool_bytes: config.volumes.pool_bytes,
        });
        volumes.begin().await?;
        let disks = Disks::open(DisksParts {
            volumes: Arc::clone(&volumes),
            dir: config.disks_dir(),
            mounts_dir: config.disks_run_dir(),
            ready_max: config.disks.ready_max,
        });
        let disks = disks.map_err(|e| cannot("disk", "open the place of containers' disks", &e))?;
        let containers = Containers::new(Rooms {
            config: Arc::new(config.clone()),
            store,
            datapath: Arc::clone(&datapath),
            images: images.clone(),
            vpcs: Arc::clone(&vpcs),
            gateways: Arc::clone(&gateways),
            firewall: Arc::clone(&firewall),
            outside: Arc::clone(&outside),
            volumes: Arc::clone(&volumes),
            disks,
            cgroups: Arc::new(cgroups),
            links: links.clone(),
            events,
            host_id: host_id.to_owned(),
        });
        let ((), reconciled) = tokio::join!(gateways.remove_strays(), containers.reconcile());
        reconciled?;
        volumes.finish().await?;
        firewall.boot().await?;
        outside.publish_again().await?;
        let known: HashSet<u32> = vpcs.announce_all().await?.into_iter().map(|vpc| vpc.vni).collect();
        let networks = Arc::clone(&datapath);
        tokio::task::spawn_blocking(move || networks.reconcile_networks(&known))
            .await
            .expect("a datapath call does not panic")?;
        remove_other_versions(config, cgroups_level);
        containers.open_resolvers().await;
        tokio::spawn(Arc::clone(&outside).follow());
        tokio::spawn(Arc::clone(&containers).watch_over());
        tokio::spawn(Arc::clone(&volumes).watch());
        tokio::spawn(Arc::clone(&volumes).finish_later());
        tokio::spawn(Arc::clone(&containers).pack_logs());
        containers.has_booted();
        tokio::spawn(Arc::clone(&containers).keep_pool());
        tokio::spawn(Arc::clone(&containers).keep_disks());
        tokio::spawn(super::memory::give_back());
        tokio::spawn(sweep(Arc::clone(&datapath), config.flows.settings().timeouts));
        let explain = Explain::new(Arc::clone(&datapath), Arc::clone(&containers), Arc::clone(&firewall), links);
        let explain = Arc::new(explain);
        let config = Arc::new(config.clone());
        Ok(House {
            vpcs,
            volumes,
            firewall,
            containers,
            images,
            outside,
            datapath,
            explain,
            config,
            guard,
            _locks: locks,
        })
    }

    /// Every room's figures. Containers come last: they have most of the series.
    pub(super) fn registry(&self, events: Events, refusals: Tally) -> Registry {
        let (containers, vpcs) = (Arc::clone(&self.containers), Arc::clone(&self.vpcs));
        let datapath = Arc::clone(&self.datapath);
        Registry::default()
            .with(Arc::new(ProcessFigures))
            .with(Arc::new(HostFigures { containers, vpcs, datapath, events, refusals }))
            .with(Arc::new(GuardFigures { guard: Arc::clone(&self.guard) }))
            .with(Arc::new(ContainerFigures { containers: Arc::clone(&self.containers) }))
    }

    pub(super) fn add_services(&self, routes: Routes) -> Routes {
        let (vpcs, containers, images) = (Arc::clone(&self.vpcs), Arc::clone(&self.containers), self.images.clone());
        let vpc = VpcServiceServer::new(VpcApi { vpcs, containers: Arc::clone(&containers) });
        let volume = VolumeApi { volumes: Arc::clone(&self.volumes), containers: self.container_api() };
        let firewall = FirewallApi {
            firewall: Arc::clone(&self.firewall),
            containers: Arc::clone(&self.containers),
            guard: Arc::clone(&self.guard),
        };
        let guard = GuardApi { guard: Arc::clone(&self.guard) };
        let container = self.container_api();
        let net = NetApi {
            explain: Arc::clone(&self.explain),
            containers: Arc::clone(&containers),
            config: Arc::clone(&self.config),
        };
        let image = ImageApi { images, containers: Arc::clone(&containers) };
        let (firewall_room, outside) = (Arc::clone(&self.firewall), Arc::clone(&self.outside));
        let why = Why { containers, firewall: firewall_room, outside, datapath: Arc::clone(&self.datapath) };
        routes
            .add_service(vpc.max_decoding_message_size(MESSAGE_BYTES_MAX))
            .add_service(VolumeServiceServer::new(volume).max_decoding_message_size(MESSAGE_BYTES_MAX))
            .add_service(FirewallServiceServer::new(firewall).max_decoding_message_size(MESSAGE_BYTES_MAX))
            .add_service(WhyServiceServer::new(WhyApi { why }).max_decoding_message_size(MESSAGE_BYTES_MAX))
            .add_service(ContainerServiceServer::from_arc(container).max_decoding_message_size(MESSAGE_BYTES_MAX))
            .add_service(ImageServiceServer::new(image).max_decoding_message_size(MESSAGE_BYTES_MAX))
            .add_service(GuardServiceServer::new(guard).max_decoding_message_size(MESSAGE_BYTES_MAX))
            .add_service(NetServiceServer::new(net).max_decoding_message_size(MESSAGE_BYTES_MAX))
    }

    pub(super) fn container_api(&self) -> Arc<ContainerApi> {
        Arc::new(ContainerApi { containers: Arc::clone(&self.containers), images: self.images.clone() })
    }

    pub(super) fn counter(&self) -> Arc<dyn CountObjects> {
        let (vpcs, containers) = (Arc::clone(&self.vpcs), Arc::clone(&self.containers));
        let (volumes, images) = (Arc::clone(&self.volumes), self.images.clone());
        Arc::new(Counter { vpcs, volumes, containers, images, state_dir: self.config.state_dir.clone() })
    }

    /// Starts nothing more, and stops the containers if the configuration says so.
    pub(super) async fn close(&self, grace: std::time::Duration, with_containers: bool) {
        self.containers.close(grace, with_containers).await;
    }

    /// When nothing is served any more; returns how many containers go on.
    pub(super) fn let_go(&self) -> usize {
        self.containers.let_go()
    }
}

async fn open_datapath(config: &Config, cgroup_level: u32) -> Result<Arc<Datapath>, Fault> {
    let wanted = datapath_config(config, cgroup_level);
    let opened = tokio::task::spawn_blocking(move || Datapath::open(&wanted)).await;
    let datapath = Arc::new(opened.expect("opening the datapath does not panic")?);
    if let Some(logger) = datapath.take_logger() {
        tokio::spawn(async move {
            if let Err(error) = forward_log(logger).await {
                tracing::warn!(%error, "the programs' log ended");
            }
        });
    }
    Ok(datapath)
}

/// Before anything is ended by it: what was taken over, and what cannot be.
async fn tell_of_versions(datapath: &Datapath, config: &Config, cgroup_level: u32, events: &Events) {
    if let Some(Upgraded { from, rows, hooks }) = datapath.upgraded() {
        let text =
            format!("went on from version {from} of the pins to {ABI}, with {rows} conversations on {hooks} hooks");
        events.add("datapath.upgraded", "host", &text).await;
    }
    for OtherPins { version, path, .. } in other_pins(&datapath_config(config, cgroup_level)) {
        let which = if version > ABI { "a newer" } else { "another" };
        let text = format!(
            "{} is of {which} cc-host, and this one (version {ABI}) cannot go on from it: what that alone attached ends",
            path.display()
        );
        events.add("datapath.foreign_pins", "host", &text).await;
    }
}

fn volumes_backend(config: &Config) -> Result<Arc<dyn Backend>, BackendError> {
    Ok(match &config.volumes.lvm_pool {
        Some(pool) => Arc::new(LvmThin::open(pool, config.volumes.lvm_promised_percent.0)?),
        None => Arc::new(LoopFiles::open(config.volumes_dir())?),
    })
}

fn persistent_backend(config: &Config) -> Option<Arc<dyn Backend>> {
    let store = config.volumes.object_store.clone()?;
    let beside = || std::env::current_exe().map_or_else(|_| "cc-vold".into(), |exe| exe.with_file_name("cc-vold"));
    let program = store.program.clone().unwrap_or_else(beside);
    Some(Arc::new(Vold::new(config.vold_run_dir(), program, store)))
}

/// When everything that goes on is this version's: what an earlier one has pinned goes, and with the pins its links and maps. Unless its
/// daemon runs.
fn remove_other_versions(config: &Config, cgroup_level: u32) {
    for OtherPins { path, .. } in other_pins(&datapath_config(config, cgroup_level)) {
        let removed = match RunLock::of_directory(&path) {
            Ok(_lock) => remove_pins(&path),
            Err(error) => {
                tracing::warn!(dir = %path.display(), error = error_chain(&error), "another version's daemon runs");
                continue;
            }
        };
        match removed {
            Ok(()) => tracing::info!(dir = %path.display(), "removed what another version has pinned"),
            Err(error) => {
                let error = error_chain(&error);
                tracing::error!(dir = %path.display(), error, "cannot remove what another version has pinned");
            }
        }
    }
}

fn datapath_config(config: &Config, cgroup_level: u32) -> DatapathConfig {
    DatapathConfig { bpffs_dir: config.bpffs_dir.clone(), cgroup_level, settings: config.flows.settings() }
}

/// Forgets flows that have had their time, as long as the daemon runs; while it does not, they wait.
async fn sweep(datapath: Arc<Datapath>, timeouts: Timeouts) {
    let mut rest = SWEEP_AGAIN;
    loop {
        tokio::time::sleep(rest).await;
        rest = SWEEP_AGAIN;
        let datapath = Arc::clone(&datapath);
        match tokio::task::spawn_blocking(move || datapath.sweep_flows()).await {
            Ok(Ok(swept)) => {
                rest = swept.rest(&timeouts);
                if swept.forgotten > 0 {
                    tracing::debug!(swept.forgotten, "swept flows");
                }
            }
            Ok(Err(error)) => tracing::error!(error = error_chain(&error), "cannot sweep flows"),
            Err(_) => tracing::error!("sweeping flows panicked"),
        }
    }
}

fn outside_config(config: &Config, cgroups: &CgroupRoot) -> OutsideConfig {
    OutsideConfig {
        uplinks: config.uplinks.clone(),
        nat_ports: (config.nat_ports.first, config.nat_ports.last),
        stand_ins: config.stand_ins,
        stand_ins_v6: config.stand_ins_v6,
        cgroup_v2_root: cgroups.v2_root(),
    }
}

fn cannot(room: &str, what: &str, error: &dyn std::error::Error) -> Fault {
    let why = format!("cannot {what}: {error}: {}", error_chain(error));
    Fault::new(Code::FailedPrecondition, format!("{room}.open"), "cannot start", why)
        .next("cc-host check names what this host lacks")
}

struct Counter {
    vpcs: Arc<Vpcs>,
    volumes: Arc<Volumes>,
    containers: Arc<Containers>,
    images: Images,
    state_dir: std::path::PathBuf,
}

#[async_trait]
impl CountObjects for Counter {
    async fn count(&self, project: &Project) -> Result<Counts, Fault> {
        let records = self.containers.list(project);
        let running = records.iter().filter(|r| r.state.name() == "running").count();
        let vpcs = self.vpcs.list(project).await?.len();
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Ok(Counts { containers_running: small(running), containers_total: small(records.len()), vpcs: small(vpcs) })
    }

    async fn disk(&self) -> Result<disk::Usage, Fault> {
        let (images, needed) = self.images.needed(&self.containers.images_in_use()).await?;
        let containers = self.containers.all_that_run_or_not();
        let volumes = self.volumes.all().await?;
        let used = volumes.iter().filter(|volume| !self.containers.users_of_volume(&volume.id).is_empty()).count();
        let volumes = [volumes.len(), used].map(|count| u32::try_from(count).unwrap_or(u32::MAX));
        let disks = self.containers.disk_files();
        let known = disk::Known { state_dir: self.state_dir.clone(), needed, images, containers, disks, volumes };
        let measured = tokio::task::spawn_blocking(move || disk::usage(&known)).await.expect("reading does not panic");
        measured.map_err(|e| cannot("host", "measure the state directory", &e))
    }
}
