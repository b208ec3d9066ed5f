//! Images: references per project, blobs and unpacked layers shared by content. Refuses to run anything but the unpacker.

mod collect;
mod download;
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod holds;
mod layer;
mod layout;
pub mod limits;
mod load;
mod manifest;
mod pull;
mod records;
mod reference;
pub mod unpack;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, Semaphore};

pub use collect::Pruned;
pub use error::ImageError;
pub use holds::Hold;
pub use load::LoadFormat;
pub use pull::Auth;
pub use reference::check_reach;

use crate::ids::Project;
use crate::store::Store;
use holds::Holds;
use layout::Layout;

/// An image that a project can run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// The normalised reference: `docker.io/library/nginx:latest`, or what `load` was told.
    pub reference: String,
    /// The manifest's digest: `sha256:…`.
    pub digest: String,
    /// Diff ids of the layers, lowest first.
    pub layers: Vec<String>,
    /// Unpacked.
    pub size_bytes: u64,
    pub created_ms: u64,
    pub os: String,
    pub architecture: String,
    pub config: ImageConfig,
}

/// What an image says of how to run it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub env: Vec<String>,
    pub user: String,
    pub working_dir: String,
    pub stop_signal: String,
    pub labels: std::collections::BTreeMap<String, String>,
    /// What lines are given to; empty: /bin/sh -c.
    #[serde(default)]
    pub shell: Vec<String>,
    #[serde(default)]
    pub health: Option<ImageHealth>,
}

/// How an image is asked whether it is well. 0 means that it does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageHealth {
    /// `NONE`, or `CMD` or `CMD-SHELL` and what follows.
    pub test: Vec<String>,
    pub interval_ms: u64,
    pub timeout_ms: u64,
    pub start_period_ms: u64,
    pub start_interval_ms: u64,
    pub retries: u32,
}

/// How far one layer has come, for a progress bar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerProgress {
    pub digest: String,
    pub done_bytes: u64,
    pub total_bytes: u64,
    pub state: LayerState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerState {
    Waiting,
    Downloading,
    Unpacking,
    Exists,
    Done,
}

/// The images of this host. Cheap to clone.
#[derive(Clone)]
pub struct Images(Arc<Inner>);

struct Inner {
    layout: Layout,
    store: Arc<dyn Store>,
    /// The program that is started as `<unpacker> unpack-layer`.
    unpacker: PathBuf,
    holds: Holds,
    /// No image begins to be held between a removal's look at what is held and the end of its names.
    naming: AsyncMutex<()>,
    /// One download of a blob and one unpacking of a layer at a time, whoever asks.
    flights: Mutex<HashMap<String, Weak<AsyncMutex<()>>>>,
    /// Layers that a project has shown to possess since we started; those of its records count as well.
    shown: Mutex<HashSet<(Project, String)>>,
    unpacks: Arc<Semaphore>,
}

impl Images {
    /// `dir` is ours alone. What an earlier process left unfinished in it is removed.
    pub fn open(dir: PathBuf, store: Arc<dyn Store>, unpacker: PathBuf) -> Result<Images, ImageError> {
        // Fails when the process has chosen its provider already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Ok(Images(Arc::new(Inner {
            layout: Layout::open(dir)?,
            store,
            unpacker,
            holds: Holds::default(),
            naming: AsyncMutex::default(),
            flights: Mutex::default(),
            shown: Mutex::default(),
            unpacks: Arc::new(Semaphore::new(limits::UNPACKS_MAX)),
        })))
    }

    /// Keeps the image and its layers from prune and remove while the guard lives; fails if one is gone already.
    pub async fn hold(&self, project: &Project, record: &ImageRecord) -> Result<Hold, ImageError> {
        let gone = || ImageError::NotFound { reference: record.reference.clone() };
        let hold = {
            let _naming = self.0.naming.lock().await;
            let digests = record.layers.iter().chain([&record.digest]);
            self.0.holds.hold(digests.cloned())
        };
        // Its record may have gone before. Layers that another image still keeps would not stay for this one.
        self.find(project, &record.digest).await.map_err(|error| match error {
            ImageError::NotFound { .. } => gone(),
            error => error,
        })?;
        match record.layers.iter().all(|layer| self.0.layout.layer_size(layer).is_some()) {
            true => Ok(hold),
            false => Err(gone()),
        }
    }

    /// The layers' directories, lowest first. A layer that occurs twice is named once, at its highest place: what lies
    /// there hides all of what the lower one shows, and overlayfs refuses the same directory twice.
    pub fn layer_dirs(&self, record: &ImageRecord) -> Vec<PathBuf> {
        let mut seen = HashSet::new();
        let mut dirs: Vec<PathBuf> = record
            .layers
            .iter()
            .rev()
            .filter(|layer| seen.insert(layer.as_str()))
            .map(|layer| self.0.layout.layer_fs(layer))
            .collect();
        dirs.reverse();
        dirs
    }

    async fn flight(&self, key: String) -> OwnedMutexGuard<()> {
        let lock = {
            let mut flights = self.0.flights.lock().unwrap_or_else(PoisonError::into_inner);
            flights.retain(|_, lock| lock.strong_count() > 0);
            let known = flights.get(&key).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let lock = Arc::new(AsyncMutex::new(()));
                flights.insert(key, Arc::downgrade(&lock));
                lock
            })
        };
        lock.lock_owned().await
    }

    /// A layer that is here may have come through another project. Only who has shown its bytes once may use it without
    /// fetching them: a diff id alone, which leaks in many ways, is no permission.
    async fn possesses(&self, project: &Project, diff_id: &str) -> Result<bool, ImageError> {
        if self.shown().contains(&(project.clone(), diff_id.to_owned())) {
            return Ok(true);
        }
        Ok(self.list(project).await?.iter().any(|record| record.layers.iter().any(|layer| layer == diff_id)))
    }

    fn shown(&self) -> std::sync::MutexGuard<'_, HashSet<(Project, String)>> {
        self.0.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the layer `diff_id` of `source`, or checks that `source` is it if it is here. `before` is kept until it is done,
    /// even if the caller goes away.
    async fn settle_layer(
        &self,
        project: &Project,
        source: layer::Source,
        diff_id: &str,
        before: impl Send + 'static,
    ) -> Result<(), ImageError> {
        let permit = self.0.unpacks.clone().acquire_owned().await.expect("the semaphore is never closed");
        let (inner, id, project) = (self.0.clone(), diff_id.to_owned(), project.clone());
        let hold = self.0.holds.hold([id.clone()]);
        blocking(move || {
            let result = match inner.layout.layer_size(&id) {
                Some(_) => layer::verify(&source, &id),
                None => layer::unpack(&inner.layout, &inner.unpacker, &source, &id).map(|_| ()),
            };
            if result.is_ok() {
                // Before the next in line goes on: it must not fetch the same bytes again.
                inner.shown.lock().unwrap_or_else(PoisonError::into_inner).insert((project, id));
            }
            drop((hold, before, permit));
            result
        })
        .await
    }

    fn size_of(&self, layers: &[String]) -> u64 {
        let distinct: HashSet<&String> = layers.iter().collect();
        distinct.iter().filter_map(|layer| self.0.layout.layer_size(layer)).sum()
    }
}

/// Runs what blocks away from the reactor; a panic there is passed on.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down, and drops whoever waits here.
            Err(_) => std::future::pending().await,
        },
    }
}
