//! Values as JSON of serde types, for the rooms. Refuses to know which types those are.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Compare, Kv, Op, Store, StoreError, Txn};

/// A value with the revision that a later compare needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored<T> {
    pub key: String,
    pub value: T,
    pub created: u64,
    pub modified: u64,
}

pub fn decode<T: DeserializeOwned>(kv: Kv) -> Result<Stored<T>, StoreError> {
    match serde_json::from_slice(&kv.value) {
        Ok(value) => Ok(Stored { value, key: kv.key, created: kv.created, modified: kv.modified }),
        Err(source) => Err(StoreError::Decode { key: kv.key, source }),
    }
}

pub async fn get_json<T: DeserializeOwned>(store: &dyn Store, key: &str) -> Result<Option<Stored<T>>, StoreError> {
    store.get(key).await?.map(decode).transpose()
}

/// All values below `prefix`, in the order of their keys, and the revision at which that was true.
pub async fn range_json<T: DeserializeOwned>(
    store: &dyn Store,
    prefix: &str,
) -> Result<(Vec<Stored<T>>, u64), StoreError> {
    let (kvs, revision) = store.range(prefix).await?;
    Ok((kvs.into_iter().map(decode).collect::<Result<_, _>>()?, revision))
}

/// The operation that writes `value`; for transactions of more than one.
pub fn put_op<T: Serialize>(key: impl Into<String>, value: &T) -> Result<Op, StoreError> {
    let key = key.into();
    match serde_json::to_vec(value) {
        Ok(value) => Ok(Op::Put { key, value, lease: None }),
        Err(source) => Err(StoreError::Decode { key, source }),
    }
}

/// Writes `value` whatever was there.
pub async fn put_json<T: Serialize>(store: &dyn Store, key: &str, value: &T) -> Result<u64, StoreError> {
    loop {
        if let Txn::Committed { revision } = store.txn(Vec::new(), vec![put_op(key, value)?]).await? {
            return Ok(revision);
        }
    }
}

/// Writes `value` unless the key exists.
pub async fn create_json<T: Serialize>(store: &dyn Store, key: &str, value: &T) -> Result<Txn, StoreError> {
    store.txn(vec![Compare::Absent(key.to_owned())], vec![put_op(key, value)?]).await
}

/// Writes `value` over what was read at revision `modified`, unless somebody was faster.
pub async fn replace_json<T: Serialize>(
    store: &dyn Store,
    key: &str,
    modified: u64,
    value: &T,
) -> Result<Txn, StoreError> {
    store.txn(vec![Compare::Modified(key.to_owned(), modified)], vec![put_op(key, value)?]).await
}

/// Deletes the key; whether it was there does not matter.
pub async fn delete(store: &dyn Store, key: &str) -> Result<(), StoreError> {
    let _always_commits = store.txn(Vec::new(), vec![Op::Delete { key: key.to_owned() }]).await?;
    Ok(())
}
