//! The records of images in the store, one per project and reference. Refuses to touch blobs or layers.

use super::error::ImageError;
use super::{ImageRecord, Images, reference};
use crate::ids::Project;
use crate::store::{Compare, Kv, Op, Store, StoreError, Txn};

/// Tries of a transaction before we say that too many write at once.
const TRIES: usize = 16;

fn store(source: StoreError) -> ImageError {
    ImageError::Store { source }
}

pub fn decode(kv: &Kv) -> Result<ImageRecord, ImageError> {
    serde_json::from_slice(&kv.value).map_err(|source| store(StoreError::Decode { key: kv.key.clone(), source }))
}

fn encode(key: &str, record: &ImageRecord) -> Result<Vec<u8>, ImageError> {
    serde_json::to_vec(record).map_err(|source| store(StoreError::Decode { key: key.to_owned(), source }))
}

/// The record of every project below `prefix`, with its key.
pub async fn range(from: &dyn Store, prefix: &str) -> Result<Vec<(Kv, ImageRecord)>, ImageError> {
    let (kvs, _) = from.range(prefix).await.map_err(store)?;
    kvs.into_iter().map(|kv| decode(&kv).map(|record| (kv, record))).collect()
}

/// What a record becomes whose name is taken by another image or forced away: a container may still run it.
pub fn unnamed(record: &ImageRecord) -> ImageRecord {
    ImageRecord { reference: record.digest.clone(), ..record.clone() }
}

pub fn is_unnamed(record: &ImageRecord) -> bool {
    record.reference == record.digest
}

impl Images {
    /// By any form of its reference, or by digest.
    pub async fn get(&self, project: &Project, reference: &str) -> Result<ImageRecord, ImageError> {
        Ok(self.find(project, reference).await?.1)
    }

    pub(super) async fn find(&self, project: &Project, reference: &str) -> Result<(Kv, ImageRecord), ImageError> {
        let normal = reference::normal(reference)?;
        for name in [normal.as_str(), reference] {
            if let Some(kv) = self.0.store.get(&reference::key(project, name)).await.map_err(store)? {
                let record = decode(&kv)?;
                return Ok((kv, record));
            }
        }
        if reference::is_digest(reference) {
            let all = range(&*self.0.store, &reference::project_prefix(project)).await?;
            if let Some(found) = all.into_iter().find(|(_, record)| record.digest == reference) {
                return Ok(found);
            }
        }
        Err(ImageError::NotFound { reference: reference.to_owned() })
    }

    /// In the order of their references.
    pub async fn list(&self, project: &Project) -> Result<Vec<ImageRecord>, ImageError> {
        let all = range(&*self.0.store, &reference::project_prefix(project)).await?;
        let mut records: Vec<ImageRecord> = all.into_iter().map(|(_, record)| record).collect();
        records.sort_by(|a, b| a.reference.cmp(&b.reference));
        Ok(records)
    }

    /// Writes the record. Another image that had the name stays without one until prune.
    pub(super) async fn record(&self, project: &Project, record: &ImageRecord) -> Result<(), ImageError> {
        let key = reference::key(project, &record.reference);
        for _ in 0..TRIES {
            let mut ops = vec![Op::Put { key: key.clone(), value: encode(&key, record)?, lease: None }];
            let compare = match self.0.store.get(&key).await.map_err(store)? {
                None => Compare::Absent(key.clone()),
                Some(kv) => {
                    let old = decode(&kv)?;
                    if old.digest != record.digest {
                        let old_key = reference::key(project, &old.digest);
                        let value = encode(&old_key, &unnamed(&old))?;
                        ops.push(Op::Put { key: old_key, value, lease: None });
                    }
                    Compare::Modified(key.clone(), kv.modified)
                }
            };
            if let Txn::Committed { .. } = self.0.store.txn(vec![compare], ops).await.map_err(store)? {
                return Ok(());
            }
        }
        Err(ImageError::Contended)
    }

    /// Deletes the record, if it is still as read; `keep`: its image stays without a name. False: it changed meanwhile.
    pub(super) async fn unrecord(
        &self,
        project_prefix: &str,
        kv: &Kv,
        record: &ImageRecord,
        keep: bool,
    ) -> Result<bool, ImageError> {
        let mut ops = vec![Op::Delete { key: kv.key.clone() }];
        if keep && !is_unnamed(record) {
            let key = format!("{project_prefix}{}", record.digest);
            let value = encode(&key, &unnamed(record))?;
            ops.push(Op::Put { key, value, lease: None });
        }
        let compares = vec![Compare::Modified(kv.key.clone(), kv.modified)];
        Ok(matches!(self.0.store.txn(compares, ops).await.map_err(store)?, Txn::Committed { .. }))
    }
}
