//! The life of the daemon: start in order, serve, stop in order. Refuses to do the rooms' work.

pub mod disk;
pub mod events;
mod lock;
mod logging;
mod memory;
mod notify;
pub mod privileges;
mod rooms;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cc_common::api::fault::Fault;
use cc_common::api::v1::host_service_server::HostServiceServer;
use cc_common::names::ABI;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tonic::Code;
use tonic::service::Routes;

use crate::api::host::{ConsoleUrls, HostApi};
use crate::api::server::{Doors, serve_on};
use crate::auth::{AuthConfig, AuthLayer, BearerGate, Tickets};
use crate::config::{Config, ConfigError};
use crate::ids;
use crate::kernel::check;
use crate::metrics;
use crate::store::{SqliteStore, Store, Txn, typed};
use crate::web::{self, Web};
use events::Events;
use rooms::House;

pub use lock::{LockError, RunLock};
pub use logging::{LogFormat, init_logging};

/// For containers that are to be stopped, out of the 5 s that a stop may take.
const STOP_GRACE: Duration = Duration::from_millis(500);
/// For all of them together; one that is not down by then goes on, and the next daemon adopts it.
const STOP_WITHIN: Duration = Duration::from_secs(3);
/// Connections on their way to the console.
const WEB_ACCEPTED_MAX: usize = 64;
/// For WebSockets to tell their clients that the daemon goes.
const WEB_GRACE: Duration = Duration::from_secs(1);
const HOST_ID_KEY: &str = "host/id";

/// Serves until SIGTERM or SIGINT, or until SIGQUIT, by which the containers are stopped too.
pub async fn serve(config: Config) -> Result<(), Fault> {
    // First of all: from here on a signal stops the daemon in order, wherever it is.
    let stop = stop_signal()?;
    check::require(&config)?;
    let _lock = RunLock::take(&config.run_dir)?;
    private_dir(&config.state_dir)?;
    let _state_lock = RunLock::take(&config.state_dir)?;
    raise_nofile();
    let store = open_store(&config)?;
    let events = Events::open(store.clone()).await?;
    let host_id = host_id(&*store).await?;

    tokio::pin!(stop);
    let opening = House::open(&config, store.clone(), events.clone(), &host_id);
    let Some(house) = open_unless(stop.as_mut(), opening).await? else { return Ok(()) };
    let doors = Doors::open(&config).await?;
    let metrics_door = metrics::open(&config, doors.identity(), &events).await?;
    let auth = AuthLayer::new(AuthConfig {
        store: store.clone(),
        server: doors.server_key_hash(),
        refusals_per_minute: config.refusals_per_minute,
    });
    let registry = Arc::new(house.registry(events.clone(), auth.tally()));
    let bearers = BearerGate::new(store.clone(), config.refusals_per_minute, auth.tally());
    let (objects, flows) = (house.counter(), config.flows);
    let tickets = Tickets::new(store.clone());
    let host = HostApi {
        events: events.clone(),
        host_id,
        abi: ABI,
        objects,
        flows,
        tickets: tickets.clone(),
        console: ConsoleUrls::of(&doors),
    };
    let routes = house.add_services(Routes::new(HostServiceServer::new(host)));

    if let Some(url) = &doors.endpoint_url {
        tracing::info!(url, "serving TLS");
    }
    let mut background = tokio::task::JoinSet::new();
    if let Some(door) = metrics_door {
        tracing::info!(url = door.url(), "serving metrics");
        background.spawn(door.serve(Arc::clone(&registry), bearers));
    }
    let alive = tokio::sync::watch::Sender::new(());
    let web = Arc::new(Web { containers: house.container_api(), tickets, auth: auth.clone(), alive });
    let (to_web, asked) = mpsc::channel(WEB_ACCEPTED_MAX);
    background.spawn(web::serve(Arc::clone(&web), asked));
    tell_of_console(&doors, &events).await;
    tracing::info!(socket = %config.socket().display(), "serving");
    events.add("host.started", "", "the daemon started").await;
    notify::tell(notify::State::Ready);
    let (tell, mut told) = tokio::sync::watch::channel(false);
    let stopping = async move {
        // The sender lives until the end of this function.
        let _told = told.wait_for(|stop| *stop).await.map(|_| ());
    };
    let serving = serve_on(doors, routes, auth, Some(to_web), stopping);
    tokio::pin!(serving);
    let result = tokio::select! {
        // By itself, so by a failure.
        result = &mut serving => result,
        with = &mut stop => {
            notify::tell(notify::State::Stopping);
            tell.send_replace(true);
            // At once: whoever follows a container is told that it goes on, or how it ended.
            let closed = tokio::time::timeout(STOP_WITHIN, house.close(STOP_GRACE, with == Stop::WithContainers));
            let (_, result) = tokio::join!(closed, serving);
            result
        }
    };
    // Each has been told already; this is for the words to arrive.
    let _told_or_not = tokio::time::timeout(WEB_GRACE, web.rest()).await;
    background.shutdown().await;
    registry.rest().await;
    let text = match house.let_go() {
        0 => "the daemon stopped".to_owned(),
        1 => "the daemon stopped; one container goes on".to_owned(),
        running => format!("the daemon stopped; {running} containers go on"),
    };
    events.add("host.stopped", "", &text).await;
    let _gone_already = std::fs::remove_file(config.socket());
    result
}

/// None if it is to stop before it has begun.
async fn open_unless(
    stop: impl Future<Output = Stop>,
    opening: impl Future<Output = Result<House, Fault>>,
) -> Result<Option<House>, Fault> {
    tokio::pin!(opening);
    tokio::select! {
        house = &mut opening => house.map(Some),
        with = stop => {
            // What it leaves half done, the next boot does. But they have to be found to be stopped.
            if with == Stop::WithContainers {
                close_with_containers(opening.await?).await?;
            }
            Ok(None)
        }
    }
}

/// Before anybody could ask anything.
async fn close_with_containers(house: House) -> Result<(), Fault> {
    let closed = tokio::time::timeout(STOP_WITHIN, house.close(STOP_GRACE, true)).await;
    if closed.is_err() {
        tracing::warn!("not every container ended within {STOP_WITHIN:?}");
    }
    house.let_go();
    Ok(())
}

async fn tell_of_console(doors: &Doors, events: &Events) {
    if let Some(address) = doors.console_address {
        tracing::info!(%address, "serving the console");
    }
    if let Some(error) = &doors.console_missing {
        let error = format!("{error}: {}", crate::error_chain(error));
        tracing::warn!(error, "the console is not served at its usual address");
        let text = format!("the console is not served at its usual address: {error}; set console_listen");
        events.add("console.off", "", &text).await;
    }
}

/// The store, its directory made if it is missing.
pub fn open_store(config: &Config) -> Result<Arc<dyn Store>, Fault> {
    private_dir(&config.state_dir)?;
    Ok(Arc::new(SqliteStore::open(&config.store_path())?))
}

/// A container costs a dozen descriptors, and a login's 1,024 are soon used up.
fn raise_nofile() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum }) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

async fn host_id(store: &dyn Store) -> Result<String, Fault> {
    loop {
        if let Some(stored) = typed::get_json::<String>(store, HOST_ID_KEY).await? {
            return Ok(stored.value);
        }
        let id = format!("host-{:012x}", rand::random::<u64>() & 0xffff_ffff_ffff);
        if let Txn::Committed { .. } = typed::create_json(store, HOST_ID_KEY, &id).await? {
            tracing::info!(id, "this host is new, at {} ms", ids::now_ms());
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// They go on, unless the configuration says otherwise.
    Alone,
    /// Nobody is to come after us, as when the package is removed.
    WithContainers,
}

fn stop_signal() -> Result<impl Future<Output = Stop> + Send + 'static, Fault> {
    let failed = |error: std::io::Error| {
        Fault::new(Code::Internal, "server.signals", "cannot start", format!("cannot wait for signals: {error}"))
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut quit = signal(SignalKind::quit()).map_err(failed)?;
    Ok(async move {
        let (name, stop) = tokio::select! {
            // Whoever removes the package says both, one right after the other.
            biased;
            _ = quit.recv() => ("SIGQUIT", Stop::WithContainers),
            _ = terminate.recv() => ("SIGTERM", Stop::Alone),
            _ = interrupt.recv() => ("SIGINT", Stop::Alone),
        };
        tracing::info!("{name}: stopping");
        stop
    })
}

fn private_dir(path: &Path) -> Result<(), Fault> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| {
        let why = format!("cannot make the directory {}: {error}", path.display());
        Fault::new(Code::FailedPrecondition, "server.state_dir", "cannot start", why)
            .next("run as root, or set state_dir in the configuration file")
    })
}

impl From<ConfigError> for Fault {
    fn from(error: ConfigError) -> Fault {
        let mut why = error.to_string();
        if let Some(source) = std::error::Error::source(&error) {
            why = format!("{why}: {source}");
        }
        Fault::new(Code::InvalidArgument, "config.invalid", "cannot start", why).next("correct the configuration file")
    }
}
