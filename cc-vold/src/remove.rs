//! The end of a volume: whoever serves it loses it, then what the store has of it goes, and last the object that says what it was, so that what was
//! interrupted is a volume whose blocks are gone, which nobody serves, and can be removed again. Refuses to ask whether that is wanted.

use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use tracing::warn;

use crate::args::Remove;
use crate::blocks::Blocks;
use crate::error::Refusal;
use crate::{identity, store};

/// Requests under way.
const AT_ONCE: usize = 16;
/// What is only fenced and closed needs none.
const CACHE_BYTES: u64 = 1 << 20;

pub async fn remove(args: &Remove) -> Result<(), Refusal> {
    let store = store::open(&args.store, args.endpoint.as_deref())?;
    let at = args.store.of_volume(&args.volume);
    let record = identity::record(&at);
    // What is damaged goes, too: only what is not there at all needs no fence.
    if !matches!(identity::find(&*store, &at).await, Ok(None)) {
        match Blocks::open(store.clone(), identity::blocks(&at), CACHE_BYTES).await {
            Ok(blocks) => drop(blocks.close().await),
            Err(error) => warn!(%error, "its blocks cannot be opened, so that nobody is kept from them"),
        }
    }
    let failed = |source| Refusal::Object { operation: "list", object: at.to_string(), source };
    // The name of another volume may begin with this one's: a prefix ends where a part of the path does.
    let objects = store.list(Some(&at)).map_ok(|object| object.location).map_err(failed);
    let others = objects.try_filter(|location| std::future::ready(*location != record));
    others.map(|location| delete(&*store, location)).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
    delete(&*store, Ok(record)).await
}

async fn delete(store: &dyn ObjectStore, location: Result<Path, Refusal>) -> Result<(), Refusal> {
    let location = location?;
    match store.delete(&location).await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(source) => Err(Refusal::Object { operation: "delete", object: location.to_string(), source }),
    }
}
