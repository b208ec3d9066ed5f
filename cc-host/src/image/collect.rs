//! Removing: names, and then what no name leads to. Refuses to take what a container, a pull or a run still needs.

use std::collections::HashSet;
use std::path::Path;

use super::error::ImageError;
use super::holds::Pruning;
use super::layout::Layout;
use super::manifest::{Document, parse_document};
use super::{ImageRecord, Images, blocking, records, reference};
use crate::ids::Project;
use crate::mutation::{self, Control};

/// What a removal did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// References whose records went.
    pub removed: Vec<String>,
    /// Bytes of layers and blobs that went.
    pub freed_bytes: u64,
}

impl Images {
    /// Removes names; all are checked before the first goes. A name nobody knows is an error. With `force` a name may go
    /// although a container uses its image; the image then stays, unnamed, until the container is gone. `in_use` is asked
    /// once the removal has begun: a run that ends its hold earlier has its container counted by then.
    pub async fn remove(
        &self,
        project: &Project,
        references: &[String],
        in_use: impl Fn() -> HashSet<String>,
        force: bool,
    ) -> Result<Pruned, ImageError> {
        let (naming, pruning) = (self.0.naming.lock().await, self.0.holds.prune());
        let in_use = in_use();
        let used = |record: &ImageRecord| in_use.contains(&record.digest) || pruning.is_held(&record.digest);
        let mut found = Vec::new();
        for reference in references {
            let (kv, record) = self.find(project, reference).await?;
            let last = self.list(project).await?.iter().filter(|other| other.digest == record.digest).count() == 1;
            if used(&record) && last && !force {
                return Err(ImageError::InUse { reference: reference.clone() });
            }
            found.push((kv, record));
        }
        let mut done = Pruned::default();
        for (kv, record) in found {
            let keep = used(&record);
            if !self.unrecord(&reference::project_prefix(project), &kv, &record, keep).await? {
                return Err(ImageError::Contended);
            }
            done.removed.push(record.reference);
        }
        drop(naming);
        done.freed_bytes = self.collect(pruning).await?;
        Ok(done)
    }

    /// Removes unnamed images that no container uses, of one project or of all; with `all`, named ones as well. Then
    /// everything that no record leads to.
    pub async fn prune(
        &self,
        project: Option<&Project>,
        all: bool,
        in_use: impl Fn() -> HashSet<String>,
    ) -> Result<Pruned, ImageError> {
        let (naming, pruning) = (self.0.naming.lock().await, self.0.holds.prune());
        let in_use = in_use();
        let prefix = project.map_or_else(|| "images/".to_owned(), reference::project_prefix);
        let mut done = Pruned::default();
        for (kv, record) in records::range(&*self.0.store, &prefix).await? {
            let used = in_use.contains(&record.digest) || pruning.is_held(&record.digest);
            if used || !(all || records::is_unnamed(&record)) {
                continue;
            }
            // One that changed since it was read is not the one that nobody used.
            if self.unrecord(&prefix, &kv, &record, false).await? {
                done.removed.push(record.reference);
            }
        }
        drop(naming);
        done.freed_bytes = self.collect(pruning).await?;
        Ok(done)
    }

    /// How many images there are, how many of them containers were made from, and the names below `layers` and `blobs` of what these need.
    pub async fn needed(&self, in_use: &HashSet<String>) -> Result<([u32; 2], HashSet<String>), ImageError> {
        let records: Vec<ImageRecord> =
            records::range(&*self.0.store, "images/").await?.into_iter().map(|(_, record)| record).collect();
        let inner = self.0.clone();
        let (count, used): (usize, Vec<ImageRecord>) =
            (records.len(), records.into_iter().filter(|record| in_use.contains(&record.digest)).collect());
        blocking(move || {
            let small = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
            let blobs = used.iter().flat_map(|record| manifest_and_config(&inner.layout, &record.digest));
            let layers = used.iter().flat_map(|record| record.layers.iter().cloned());
            let name = |digest: String| digest.strip_prefix("sha256:").unwrap_or(&digest).to_owned();
            let needed = layers.chain(blobs).map(name).collect();
            Ok(([small(count), small(used.len())], needed))
        })
        .await
    }

    /// Removes blobs and layers that no record of any project leads to and that nobody holds; gives the bytes freed.
    /// `pruning` began before the records are read here: who lets go later has written its record before.
    async fn collect(&self, pruning: Pruning) -> Result<u64, ImageError> {
        let kept: Vec<ImageRecord> =
            records::range(&*self.0.store, "images/").await?.into_iter().map(|(_, record)| record).collect();
        let inner = self.0.clone();
        let (freed, gone) = blocking(move || {
            let layout = &inner.layout;
            let mut needed: HashSet<String> = kept.iter().flat_map(|record| record.layers.iter().cloned()).collect();
            let mut freed = 0;
            let mut gone = HashSet::new();
            for name in names(&layout.layers())? {
                let digest = format!("sha256:{name}");
                if needed.contains(&digest) || mutation::off(Control::LayersCollected) {
                    continue;
                }
                let size = layout.layer_size(&digest).unwrap_or(0);
                if let Some(result) = pruning.unless_held(&digest, || layout.retire(&layout.layer(&digest))) {
                    result?.close().map_err(ImageError::disk("remove", layout.layer(&digest)))?;
                    freed += size;
                    gone.insert(digest);
                }
            }
            needed.extend(kept.iter().flat_map(|record| manifest_and_config(layout, &record.digest)));
            for name in names(&layout.blobs())? {
                let digest = format!("sha256:{}", name.trim_end_matches(".partial"));
                if needed.contains(&digest) && !name.ends_with(".partial") {
                    continue;
                }
                let path = layout.blobs().join(&name);
                let size = path.metadata().map_or(0, |m| m.len());
                if let Some(result) = pruning.unless_held(&digest, || std::fs::remove_file(&path)) {
                    result.map_err(ImageError::disk("remove", &path))?;
                    freed += size;
                }
            }
            Ok::<_, ImageError>((freed, gone))
        })
        .await?;
        self.shown().retain(|(_, diff_id)| !gone.contains(diff_id));
        Ok(freed)
    }
}

fn names(dir: &Path) -> Result<Vec<String>, ImageError> {
    let read = || -> std::io::Result<Vec<String>> {
        std::fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    };
    read().map_err(ImageError::disk("list", dir))
}

fn manifest_and_config(layout: &Layout, digest: &str) -> Vec<String> {
    let mut needed = vec![digest.to_owned()];
    if let Ok(bytes) = std::fs::read(layout.blob(digest))
        && let Ok(Document::Image { config, .. }) = parse_document(digest, &bytes)
    {
        needed.push(config.digest);
    }
    needed
}
