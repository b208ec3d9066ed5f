//! The end of a volume: whoever serves it loses it, and has the time to notice, for what keeps it away goes with the rest; then what the store
//! has of it goes, and last the object that says what it was. So what was interrupted is a volume whose blocks are gone, which nobody serves, and
//! can be removed again. Refuses to ask whether that is wanted.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use tracing::warn;

use crate::args::Remove;
use crate::blocks::{Blocks, MANIFEST_POLL};
use crate::error::Refusal;
use crate::{identity, store};

/// Until whoever served it has looked at the manifest once more, and been told.
const NOTICED_WITHIN: Duration = MANIFEST_POLL.saturating_mul(3);
const FENCED_WITHIN: Duration = Duration::from_secs(30);
/// Requests under way.
const AT_ONCE: usize = 16;
/// What is only fenced and closed needs none.
const CACHE_BYTES: u64 = 1 << 20;

pub async fn remove(args: &Remove) -> Result<(), Refusal> {
    let store = store::open(&args.store, args.endpoint.as_deref())?;
    let at = args.store.of_volume(&args.volume);
    let record = identity::record(&at);
    match identity::find(&*store, &at).await {
        Ok(Some(_)) => {
            fence(store.clone(), &at).await;
            tokio::time::sleep(NOTICED_WITHIN).await;
        }
        // Its making was interrupted; or it is damaged, and goes all the same.
        Ok(None) | Err(Refusal::Record { .. }) => {}
        // The store cannot be had.
        Err(refusal) => return Err(refusal),
    }
    let failed = |source| Refusal::Object { operation: "list", object: at.to_string(), source };
    // The name of another volume may begin with this one's: a prefix ends where a part of the path does.
    let objects = store.list(Some(&at)).map_ok(|object| object.location).map_err(failed);
    let others = objects.try_filter(|location| std::future::ready(*location != record));
    let gone = others.map(|location| delete(&*store, location)).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>();
    match gone.await {
        // There is not even the bucket.
        Err(Refusal::Object { source: object_store::Error::NotFound { .. }, .. }) => Ok(()),
        Err(refusal) => Err(refusal),
        Ok(_) => delete(&*store, Ok(record)).await,
    }
}

/// As far as it can be: what is damaged goes, too.
async fn fence(store: Arc<dyn ObjectStore>, at: &Path) {
    let opened = tokio::time::timeout(FENCED_WITHIN, async {
        let blocks = Blocks::open(store, identity::blocks(at), CACHE_BYTES).await?;
        blocks.close().await
    });
    match opened.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(%error, "its blocks cannot be opened, so that nobody is kept from them"),
        Err(_) => warn!("its blocks are not opened in time, so that nobody is kept from them"),
    }
}

async fn delete(store: &dyn ObjectStore, location: Result<Path, Refusal>) -> Result<(), Refusal> {
    let location = location?;
    match store.delete(&location).await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(source) => Err(Refusal::Object { operation: "delete", object: location.to_string(), source }),
    }
}
