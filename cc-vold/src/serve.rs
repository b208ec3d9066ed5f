//! One volume, from its address to its end: made if that was asked for, taken over if somebody has it, mounted, and left when it is unmounted
//! or has failed. Refuses to end while somebody uses the image, unless the volume has failed.

use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use fuser::{Config, MountOption, Session};
use nix::mount::{MntFlags, umount2};
use object_store::ObjectStore;
use object_store::path::Path;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::warn;

use crate::args::Serve;
use crate::blocks::Blocks;
use crate::counted::Counted;
use crate::error::{Failure, Refusal};
use crate::fs::{Fs, IMAGE};
use crate::identity::{self, Identity, Shape};
use crate::store;
use crate::volume::{Limits, Volume};

/// After a failure everybody who asks is told so for that long, and the process ends.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Two that read requests: one copies a large write, the other goes on.
const FUSE_THREADS: usize = 2;
const MIB: u64 = 1 << 20;

/// How it ended.
#[derive(Debug)]
pub enum End {
    /// Everything is in the store.
    Unmounted,
    /// Nothing of it is in the store.
    Removed,
    Failed(Failure),
}

pub async fn serve(args: &Serve) -> Result<End, Refusal> {
    let (store, counts) = Counted::new(store::open(&args.store, args.endpoint.as_deref())?);
    let at = args.store.of_volume(&args.volume);
    let limits = Limits { patience: args.patience(), batch_bytes: Limits::BATCH_BYTES };
    let opening = open(store, &at, &args.volume, args.shape(), args.cache_mib * MIB, limits);
    let volume = timeout(args.patience(), opening).await.map_err(|_| Refusal::Silent(args.patience()))??;
    let fs = Fs::new(volume.clone(), counts, Handle::current());
    // Before anybody is told that it is served: who reads that may end it at once.
    let mut told = [SignalKind::terminate(), SignalKind::interrupt()].map(|kind| signal(kind).ok());
    let mut unmounted = mount(fs, &args.mount, &args.volume)?;
    let shape = volume.shape();
    println!(
        "serving {} ({} bytes, blocks of {}) at {}",
        args.volume,
        shape.size_bytes,
        shape.block_bytes,
        args.mount.join(IMAGE).display()
    );

    let mut failure = volume.failure();
    let [terminate, interrupt] = &mut told;
    loop {
        tokio::select! {
            _ = &mut unmounted => return Ok(close(&volume).await),
            failed = failure.wait_for(Option::is_some) => {
                let failed = failed.ok().and_then(|failed| failed.clone()).unwrap_or(Failure::Lost("its reason is lost, too".to_owned()));
                leave(&args.mount).await;
                return Ok(End::Failed(failed));
            }
            () = next(terminate) => unmount(&volume, &args.mount).await,
            () = next(interrupt) => unmount(&volume, &args.mount).await,
        }
    }
}

/// The volume at that place. It is nobody else's afterwards.
pub async fn open(
    store: Arc<dyn ObjectStore>,
    at: &Path,
    name: &str,
    wanted: Option<Shape>,
    cache_bytes: u64,
    limits: Limits,
) -> Result<Arc<Volume>, Refusal> {
    let outside = identity::find(&*store, at).await?;
    let is_other = |identity: &Identity| wanted.is_some_and(|wanted| wanted != identity.shape);
    let other = |has: Shape| {
        let wanted = wanted.unwrap_or(has);
        let (has, block_bytes) = (has.size_bytes, has.block_bytes);
        Refusal::Shape {
            name: name.to_owned(),
            has,
            block_bytes,
            wanted: wanted.size_bytes,
            wanted_block_bytes: wanted.block_bytes,
        }
    };
    match &outside {
        None if wanted.is_none() => return Err(Refusal::Missing(name.to_owned())),
        Some(outside) if is_other(outside) => return Err(other(outside.shape)),
        _ => {}
    }
    let failed = |source| Refusal::Open { name: name.to_owned(), source };
    let blocks = Blocks::open(store.clone(), identity::blocks(at), cache_bytes).await.map_err(failed)?;
    let inside = match blocks.record().await.map_err(failed)? {
        Some(record) => Some(Identity::decode(name, &record)?),
        None => None,
    };
    let identity = match (outside, inside, wanted) {
        (Some(outside), Some(inside), _) if outside == inside => outside,
        (Some(_), _, _) => return Err(Refusal::NotIts(name.to_owned())),
        // Somebody began to make it, and did not come to write what it is.
        (None, Some(inside), _) if is_other(&inside) => return Err(other(inside.shape)),
        (None, Some(inside), _) => {
            identity::write(&*store, at, &inside).await?;
            inside
        }
        (None, None, None) => return Err(Refusal::Missing(name.to_owned())),
        (None, None, Some(shape)) => {
            let identity = Identity::new(shape);
            blocks.set_record(&identity.encode()).await.map_err(failed)?;
            identity::write(&*store, at, &identity).await?;
            identity
        }
    };
    Ok(Volume::new(identity.shape, blocks, limits))
}

/// Gives what is told when nobody has it mounted any more.
fn mount(fs: Fs, at: &FilePath, name: &str) -> Result<oneshot::Receiver<()>, Refusal> {
    let refused = |why: String| Refusal::Mount { path: at.to_owned(), why };
    let mut entries = std::fs::read_dir(at).map_err(|error| refused(error.to_string()))?;
    if entries.next().is_some() {
        return Err(refused("it is not empty, or mounted already".to_owned()));
    }
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(format!("cc-vold:{name}")),
        MountOption::Subtype("cc-vold".to_owned()),
        MountOption::DefaultPermissions,
        MountOption::NoDev,
        MountOption::NoSuid,
        MountOption::NoExec,
    ];
    config.n_threads = Some(FUSE_THREADS);
    config.clone_fd = true;
    let session = Session::new(fs, at, &config).map_err(|error| refused(error.to_string()))?;
    let (tell, told) = oneshot::channel();
    std::thread::Builder::new()
        .name("fuse".to_owned())
        .spawn(move || {
            if let Err(error) = session.run() {
                warn!(%error, "FUSE has ended");
            }
            // Nobody listens after a failure.
            let _ = tell.send(());
        })
        .map_err(|error| refused(error.to_string()))?;
    Ok(told)
}

async fn close(volume: &Volume) -> End {
    match volume.close().await {
        Ok(()) => End::Unmounted,
        Err(error) => {
            let failed = volume.failure().borrow().clone();
            End::Failed(failed.unwrap_or_else(|| Failure::Lost(error.to_string())))
        }
    }
}

/// As somebody asked for. In use, it stays: what is above would lose its disk.
async fn unmount(volume: &Volume, at: &FilePath) {
    // It fails the volume, which says why.
    let _ = volume.flush().await;
    let at = at.to_owned();
    let done = tokio::task::spawn_blocking(move || nix::mount::umount(&at)).await;
    if let Ok(Err(error)) = done {
        eprintln!("cc-vold: not ended: its image is in use ({error}); unmount what is on it, and ask again");
    }
}

/// Nobody new comes, and who is there is told that it has failed.
async fn leave(at: &FilePath) {
    let at = at.to_owned();
    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || umount2(&at, MntFlags::MNT_DETACH)).await {
        warn!(%error, "cannot unmount");
    }
    tokio::time::sleep(LAST_WORDS).await;
}

async fn next(signal: &mut Option<tokio::signal::unix::Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}
