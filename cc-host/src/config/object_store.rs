//! Where persistent volumes are. Refuses to be configured by accident: it is an experiment.

use std::path::PathBuf;

use serde::Deserialize;

/// An object store for volumes: an experiment, which has to be called one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "ObjectStoreRead")]
pub struct ObjectStore {
    /// `s3://BUCKET/PREFIX`.
    pub url: String,
    /// Of an S3 that is not Amazon's.
    pub endpoint: Option<String>,
    /// A file of `AWS_ACCESS_KEY_ID=…` and so on, which root alone can read.
    pub credentials: PathBuf,
    /// Default: `cc-vold` beside the daemon.
    pub program: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ObjectStoreRead {
    url: String,
    endpoint: Option<String>,
    credentials: PathBuf,
    program: Option<PathBuf>,
    #[serde(default)]
    experimental: bool,
}

impl TryFrom<ObjectStoreRead> for ObjectStore {
    type Error = String;
    fn try_from(read: ObjectStoreRead) -> Result<Self, String> {
        let ObjectStoreRead { url, endpoint, credentials, program, experimental } = read;
        if !experimental {
            return Err(
                "volumes.object_store is an experiment, and not safe yet (docs/design/persistent-volumes.md): \
                        say experimental = true beside it, or leave it out"
                    .to_owned(),
            );
        }
        if !url.starts_with("s3://") {
            return Err(format!("volumes.object_store.url is {url:?}, not an address such as \"s3://BUCKET/PREFIX\""));
        }
        Ok(ObjectStore { url, endpoint, credentials, program })
    }
}
