//! Bearer tokens that read metrics and nothing else: made, listed, revoked, verified. The store holds a hash of the secret,
//! which is shown once. Refuses to be a kind of access key: a token has no key to sign with, so no RPC can ever be called with
//! one, and a signed call carries no token.

use cc_common::api::signing::{from_hex, to_hex};
use rand::RngCore as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::keys::KeyError;
use crate::ids::{Project, now_ms};
use crate::store::{Op, Store, Txn, typed};

const PREFIX: &str = "metrics-tokens/";
const ID_PREFIX: &str = "ccm_";
/// Between the id, which is no secret and finds the record, and the secret. Both sides are hexadecimal.
const SEPARATOR: char = '.';

/// Whose figures are shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All projects', and the host's own.
    Host,
    Project(Project),
}

/// What the store holds of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// `None`: all of the host.
    pub project: Option<Project>,
    secret_sha256: String,
    pub created_ms: u64,
}

/// Names a token. Not a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenId(String);

impl TokenId {
    /// From an id, or from a whole token: whoever revokes one may have nothing else at hand.
    pub fn parse(text: &str) -> Option<Self> {
        let id = text.split(SEPARATOR).next()?;
        from_hex::<12>(id.strip_prefix(ID_PREFIX)?)?;
        Some(TokenId(id.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn path(&self) -> String {
        format!("{PREFIX}{}", self.0)
    }
}

/// A token at the only moment at which its secret exists here.
pub struct NewToken {
    pub id: TokenId,
    /// What goes behind `Bearer`.
    pub text: Zeroizing<String>,
}

pub async fn create(store: &dyn Store, scope: Scope) -> Result<NewToken, KeyError> {
    let failed = |source| KeyError::Create { source };
    let mut secret = Zeroizing::new([0u8; 32]);
    rand::rng().fill_bytes(&mut *secret);
    let project = match scope {
        Scope::Host => None,
        Scope::Project(project) => Some(project),
    };
    let record =
        TokenRecord { project, secret_sha256: to_hex(&Sha256::digest(secret.as_slice())), created_ms: now_ms() };
    let digits = Zeroizing::new(to_hex(&*secret));
    loop {
        let id = TokenId(format!("{ID_PREFIX}{}", to_hex(&rand::random::<[u8; 12]>())));
        if let Txn::Committed { .. } = typed::create_json(store, &id.path(), &record).await.map_err(failed)? {
            let text = Zeroizing::new(format!("{}{SEPARATOR}{}", id.0, *digits));
            return Ok(NewToken { id, text });
        }
    }
}

pub async fn list(store: &dyn Store) -> Result<Vec<(String, TokenRecord)>, KeyError> {
    let (stored, _) =
        typed::range_json::<TokenRecord>(store, PREFIX).await.map_err(|source| KeyError::List { source })?;
    Ok(stored.into_iter().map(|s| (s.key[PREFIX.len()..].to_owned(), s.value)).collect())
}

/// An unknown token is revoked already.
pub async fn revoke(store: &dyn Store, id: &TokenId) -> Result<(), KeyError> {
    let _always_commits = store
        .txn(vec![], vec![Op::Delete { key: id.path() }])
        .await
        .map_err(|source| KeyError::Revoke { key: id.0.clone(), source })?;
    Ok(())
}

/// What the bearer may see; `None` when this is no token of ours, whatever is wrong with it.
pub async fn verify(store: &dyn Store, text: &str) -> Result<Option<Scope>, KeyError> {
    let Some((id, secret)) = text.split_once(SEPARATOR) else { return Ok(None) };
    let (Some(id), Some(secret)) = (TokenId::parse(id), from_hex::<32>(secret).map(Zeroizing::new)) else {
        return Ok(None);
    };
    let found = typed::get_json::<TokenRecord>(store, &id.path()).await;
    let Some(record) = found.map_err(|source| KeyError::Lookup { source })?.map(|stored| stored.value) else {
        return Ok(None);
    };
    let stored = from_hex::<32>(&record.secret_sha256).ok_or_else(|| KeyError::Damaged { key: id.0.clone() })?;
    let given: [u8; 32] = Sha256::digest(secret.as_slice()).into();
    let right = bool::from(given.ct_eq(&stored));
    Ok(right.then(|| record.project.map_or(Scope::Host, Scope::Project)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Name;
    use crate::store::SqliteStore;

    #[tokio::test]
    async fn a_token_opens_its_scope_until_it_is_revoked() {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&dir.path().join("s")).unwrap();
        let blue = Scope::Project(Name::parse("blue").unwrap());
        let token = create(&store, blue.clone()).await.unwrap();
        let host = create(&store, Scope::Host).await.unwrap();
        assert_eq!(verify(&store, &token.text).await.unwrap(), Some(blue));
        assert_eq!(verify(&store, &host.text).await.unwrap(), Some(Scope::Host));
        assert_eq!(list(&store).await.unwrap().len(), 2);

        let (id, secret) = token.text.split_once(SEPARATOR).unwrap();
        let (_, others) = host.text.split_once(SEPARATOR).unwrap();
        let changed: String = secret.chars().map(|c| if c == '0' { '1' } else { '0' }).collect();
        let wrong = [
            String::new(),
            id.to_owned(),
            format!("{id}."),
            format!("{id}.{others}"),
            format!("{id}.{changed}"),
            format!("{id}.{}", secret.to_uppercase()),
            format!("{id}.{secret}\n"),
            format!("ccm_{}.{secret}", "0".repeat(24)),
            format!("{}.{secret}", id.replace("ccm_", "cck_")),
        ];
        for wrong in wrong {
            assert_eq!(verify(&store, &wrong).await.unwrap(), None, "{wrong}");
        }

        revoke(&store, &TokenId::parse(&token.text).unwrap()).await.unwrap();
        assert_eq!(verify(&store, &token.text).await.unwrap(), None);
        assert_eq!(verify(&store, &host.text).await.unwrap(), Some(Scope::Host), "the other one stays");
    }

    #[tokio::test]
    async fn the_secret_is_nowhere_in_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&dir.path().join("s")).unwrap();
        let token = create(&store, Scope::Host).await.unwrap();
        let (_, secret) = token.text.split_once(SEPARATOR).unwrap();
        let (kvs, _) = store.range("").await.unwrap();
        assert!(!kvs.is_empty());
        for kv in kvs {
            assert!(!String::from_utf8_lossy(&kv.value).contains(secret), "{}", kv.key);
        }
    }
}
