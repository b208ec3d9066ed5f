//! Access keys: made, listed, revoked, looked up. The store holds public keys only; the secret is shown once. Refuses to
//! cache: a key that `cc-host key revoke` took away is refused at the next call.

use rand::RngCore as _;
use serde::{Deserialize, Serialize};
use tonic::Code;
use zeroize::Zeroizing;

use cc_common::api::fault::Fault;
use cc_common::api::signing::{KeyId, PublicKey, SecretKey};

use super::Role;
use crate::ids::{Project, now_ms};
use crate::store::{Op, Store, StoreError, Txn, typed};

const PREFIX: &str = "keys/";

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("cannot make an access key")]
    Create { source: StoreError },
    #[error("cannot list the access keys")]
    List { source: StoreError },
    #[error("cannot revoke access key {key}")]
    Revoke { key: String, source: StoreError },
    #[error("cannot look up an access key")]
    Lookup { source: StoreError },
    #[error("the stored public key of {key} is damaged")]
    Damaged { key: String },
}

/// What the store holds of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    pub project: Project,
    pub role: Role,
    pub public_key: String,
    pub created_ms: u64,
}

/// A key at the only moment at which its secret exists here.
pub struct NewKey {
    pub id: KeyId,
    pub secret: Zeroizing<String>,
}

/// A key as a lookup finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub project: Project,
    pub role: Role,
    pub public: PublicKey,
}

fn path(id: &KeyId) -> String {
    format!("{PREFIX}{id}")
}

pub async fn create(store: &dyn Store, project: Project, role: Role) -> Result<NewKey, KeyError> {
    let failed = |source| KeyError::Create { source };
    let mut seed = Zeroizing::new([0u8; 32]);
    rand::rng().fill_bytes(&mut *seed);
    let secret = SecretKey::from_seed(&seed);
    let record = KeyRecord { project, role, public_key: secret.public().to_text(), created_ms: now_ms() };
    loop {
        let id = KeyId::from_random(rand::random());
        if let Txn::Committed { .. } = typed::create_json(store, &path(&id), &record).await.map_err(failed)? {
            return Ok(NewKey { id, secret: secret.to_text() });
        }
    }
}

pub async fn list(store: &dyn Store) -> Result<Vec<(String, KeyRecord)>, KeyError> {
    let (stored, _) =
        typed::range_json::<KeyRecord>(store, PREFIX).await.map_err(|source| KeyError::List { source })?;
    Ok(stored.into_iter().map(|s| (s.key[PREFIX.len()..].to_owned(), s.value)).collect())
}

/// An unknown key is revoked already.
pub async fn revoke(store: &dyn Store, id: &KeyId) -> Result<(), KeyError> {
    let _always_commits = store
        .txn(vec![], vec![Op::Delete { key: path(id) }])
        .await
        .map_err(|source| KeyError::Revoke { key: id.to_string(), source })?;
    Ok(())
}

pub async fn lookup(store: &dyn Store, id: &KeyId) -> Result<Option<Key>, KeyError> {
    let found = typed::get_json::<KeyRecord>(store, &path(id)).await.map_err(|source| KeyError::Lookup { source })?;
    let Some(KeyRecord { project, role, public_key, .. }) = found.map(|stored| stored.value) else { return Ok(None) };
    let public = PublicKey::parse(&public_key).map_err(|_| KeyError::Damaged { key: id.to_string() })?;
    Ok(Some(Key { project, role, public }))
}

impl From<KeyError> for Fault {
    fn from(error: KeyError) -> Fault {
        let what = error.to_string();
        match error {
            KeyError::Create { source }
            | KeyError::List { source }
            | KeyError::Revoke { source, .. }
            | KeyError::Lookup { source } => Fault { what, ..Fault::from(source) },
            KeyError::Damaged { key } => {
                Fault::new(Code::DataLoss, "auth.damaged_key", "cannot use the access key", what)
                    .next(format!("revoke it and make another: cc-host key revoke {key}"))
            }
        }
    }
}
