//! The resolvers of all VPCs: what they share, and how one comes and goes. Refuses to know how a VPC's packets reach one: whoever
//! opens it puts an interface into its namespace.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::counters::{Counting, ResolverCounters};
use super::directory::Directory;
use super::error::ResolverError;
use super::forward::{Asked, Forwarder};
use super::limits::{Limits, OUTSTANDING_MAX};
use super::listen::{serve_tcp, serve_udp};
use super::namespace::{ServiceNamespace, Sockets};
use super::server::Server;
use super::servers::{HostServers, RESOLV_CONF, Upstreams};
use super::zone::{VpcNames, Zone};

/// Makes resolvers. One per daemon.
#[derive(Debug)]
pub struct Resolvers {
    directory: Arc<Directory>,
    host: Arc<HostServers>,
    asked: Asked,
    room: Arc<Semaphore>,
    runtime: Handle,
    limits: Limits,
}

/// A resolver that does not listen yet. Its namespace is empty: put an interface with the gateway's addresses into it, up, and
/// then start it. Give an IPv6 address with `IFA_F_NODAD`: until the kernel has looked for duplicates, of which there are none,
/// nobody can listen on it. Dropping it gives the namespace up, and what was put into it goes, too.
#[derive(Debug)]
pub struct OpenResolver {
    namespace: ServiceNamespace,
    server: Arc<Server>,
    runtime: Handle,
}

/// A resolver that answers. Dropping it ends its tasks, closes its sockets and gives its namespace up; the kernel then removes the
/// namespace with the interface in it, a moment later and by itself.
#[derive(Debug)]
pub struct ResolverHandle {
    // Dropped in this order: what uses the namespace before the namespace.
    _tasks: JoinSet<()>,
    namespace: ServiceNamespace,
    server: Arc<Server>,
}

impl Resolvers {
    /// Tasks run on `runtime`, whose threads must be in the network namespace from which name servers are asked.
    pub fn new(directory: Arc<Directory>, runtime: Handle) -> Self {
        Resolvers::with(directory, runtime, Path::new(RESOLV_CONF), Limits::default())
    }

    /// With another list of the host's name servers, and other limits.
    pub fn with(directory: Arc<Directory>, runtime: Handle, resolv_conf: &Path, limits: Limits) -> Self {
        Resolvers {
            directory,
            host: Arc::new(HostServers::of(resolv_conf)),
            asked: Asked::default(),
            room: Arc::new(Semaphore::new(OUTSTANDING_MAX)),
            runtime,
            limits,
        }
    }

    /// Where containers are published. Entries may be there before their VPC's resolver is.
    pub fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    /// A resolver for the VPC with this number, and its namespace. Blocks for about a millisecond: from async code, call it under
    /// `spawn_blocking`.
    pub fn open(&self, vni: u32, names: VpcNames, upstreams: Upstreams) -> Result<OpenResolver, ResolverError> {
        let namespace = ServiceNamespace::create()
            .map_err(|source| ResolverError::Namespace { vpc: names.name.clone(), source })?;
        let forwarder = Forwarder {
            upstreams,
            host: Arc::clone(&self.host),
            asked: self.asked.clone(),
            limits: self.limits,
            first: AtomicUsize::new(0),
        };
        let server = Server {
            zone: Zone { vni, names, directory: Arc::clone(&self.directory) },
            forwarder,
            counting: Counting::default(),
            own_room: Arc::new(Semaphore::new(self.limits.outstanding)),
            room: Arc::clone(&self.room),
        };
        Ok(OpenResolver { namespace, server: Arc::new(server), runtime: self.runtime.clone() })
    }
}

impl OpenResolver {
    /// Where the interface belongs that has the gateway's addresses.
    pub fn namespace(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }

    /// Listens on port 53 of the gateway's addresses, which must be there. On return, queries are answered. Blocks for less than
    /// a millisecond, and may be called from any thread, in the runtime or not.
    pub fn start(self) -> Result<ResolverHandle, ResolverError> {
        let OpenResolver { namespace, server, runtime } = self;
        let vpc = || server.zone.names.name.clone();
        let addresses: Vec<_> = server.zone.names.subnets.iter().map(|subnet| subnet.gateway).collect();
        let Sockets { udp, tcp } = namespace
            .bind(&addresses)
            .map_err(|source| ResolverError::Enter { vpc: vpc(), source })?
            .map_err(|failure| ResolverError::Listen {
                vpc: vpc(),
                protocol: failure.protocol,
                address: failure.address,
                source: failure.source,
            })?;
        let _within = runtime.enter();
        let failed = |source| ResolverError::Register { vpc: vpc(), source };
        let mut tasks = JoinSet::new();
        for socket in udp {
            let socket = tokio::net::UdpSocket::from_std(socket).map_err(failed)?;
            tasks.spawn_on(serve_udp(Arc::clone(&server), socket), &runtime);
        }
        for listener in tcp {
            let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
            tasks.spawn_on(serve_tcp(Arc::clone(&server), listener), &runtime);
        }
        Ok(ResolverHandle { _tasks: tasks, namespace, server })
    }
}

impl ResolverHandle {
    /// For as long as the handle lives.
    pub fn namespace(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }

    pub fn counters(&self) -> ResolverCounters {
        self.server.counting.now()
    }
}
