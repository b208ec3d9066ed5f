//! What a volume is: its id, its size, and the size of its blocks, in an object beside the blocks and once more among them. Refuses to serve
//! one for the other: a volume whose blocks are gone is an error, and never an empty volume.

use std::ops::RangeInclusive;

use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, PutOptions};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::Refusal;

/// Of the layout of blocks and records.
const VERSION: u32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    pub size_bytes: u64,
    pub block_bytes: u32,
}

impl Shape {
    pub const SIZES_BYTES: RangeInclusive<u64> = (1 << 20)..=(16 << 40);
    pub const BLOCKS_BYTES: [u32; 3] = [4096, 16384, 65536];
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    version: u32,
    id: Uuid,
    pub shape: Shape,
}

impl Identity {
    pub fn new(shape: Shape) -> Self {
        Identity { version: VERSION, id: Uuid::new_v4(), shape }
    }

    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain fields become JSON")
    }

    pub fn decode(object: &str, bytes: &[u8]) -> Result<Self, Refusal> {
        let refused = |source| Refusal::Record { object: object.to_owned(), source };
        let identity: Identity = serde_json::from_slice(bytes).map_err(refused)?;
        let known = identity.version == VERSION
            && Shape::SIZES_BYTES.contains(&identity.shape.size_bytes)
            && Shape::BLOCKS_BYTES.contains(&identity.shape.block_bytes);
        if !known {
            return Err(refused(serde::de::Error::custom("it is of another version, or of no size that a volume has")));
        }
        Ok(identity)
    }
}

/// Where the blocks of the volume in that directory are.
pub fn blocks(volume: &Path) -> Path {
    volume.clone().join("blocks")
}

/// The object that says what the volume is.
pub fn record(volume: &Path) -> Path {
    volume.clone().join("volume.json")
}

/// What the object beside the blocks says. Reading it takes nothing from who serves the volume.
pub async fn find(store: &dyn ObjectStore, volume: &Path) -> Result<Option<Identity>, Refusal> {
    let at = record(volume);
    let failed = |source| Refusal::Object { operation: "read", object: at.to_string(), source };
    let bytes = match store.get(&at).await {
        Ok(got) => got.bytes().await.map_err(failed)?,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(source) => return Err(failed(source)),
    };
    Identity::decode(at.as_ref(), &bytes).map(Some)
}

/// Once. Who comes second is told so.
pub async fn write(store: &dyn ObjectStore, volume: &Path, identity: &Identity) -> Result<(), Refusal> {
    let at = record(volume);
    let options = PutOptions::from(PutMode::Create);
    store.put_opts(&at, identity.encode().into(), options).await.map(drop).map_err(|source| Refusal::Object {
        operation: "write",
        object: at.to_string(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_no_other() {
        let identity = Identity::new(Shape { size_bytes: 1 << 20, block_bytes: 4096 });
        assert_eq!(Identity::decode("x", &identity.encode()).expect("our own"), identity);
        let other = Identity { version: 2, ..identity.clone() };
        assert!(Identity::decode("x", &other.encode()).is_err());
        let other = Identity { shape: Shape { size_bytes: 0, block_bytes: 4096 }, ..identity };
        assert!(Identity::decode("x", &other.encode()).is_err());
        assert!(Identity::decode("x", b"{}").is_err());
    }
}
