//! Images from a registry. Refuses plain HTTP unless it was asked for or never leaves this machine.

use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use tokio::sync::mpsc::Sender;

use super::download::{self, Meter, registry};
use super::error::ImageError;
use super::limits::{CONFIG_BYTES_MAX, DOWNLOADS_MAX, MANIFEST_BYTES_MAX};
use super::manifest::{Config, Descriptor, Document, choose, parse_config, parse_document};
use super::{ImageRecord, Images, LayerProgress, LayerState, layer, reference};
use crate::ids::{Project, now_ms};

/// A user's account at a registry.
#[derive(Clone)]
pub struct Auth {
    pub username: String,
    pub password: String,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth").field("username", &self.username).finish_non_exhaustive()
    }
}

const MANIFEST_TYPES: &[&str] = &[
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// How long a registry may say nothing.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// An image as its manifest and its config describe it, both verified.
struct Plan {
    digest: String,
    manifest: Vec<u8>,
    config_descriptor: Descriptor,
    config_bytes: Vec<u8>,
    config: Config,
    layers: Vec<Descriptor>,
}

fn client(at: &Reference, plain_http: bool) -> Client {
    let plain = plain_http || reference::is_loopback(at.resolve_registry());
    Client::new(ClientConfig {
        protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
        connect_timeout: Some(Duration::from_secs(15)),
        read_timeout: Some(SILENCE_MAX),
        user_agent: concat!("cc-host/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    })
}

impl Images {
    /// Fetches what is not here yet, and records the image under its full reference.
    pub async fn pull(
        &self,
        project: &Project,
        reference: &str,
        auth: Option<Auth>,
        plain_http: bool,
        progress: Sender<LayerProgress>,
    ) -> Result<ImageRecord, ImageError> {
        let from = reference::parse(reference)?;
        let auth = auth.map_or(RegistryAuth::Anonymous, |a| RegistryAuth::Basic(a.username, a.password));
        let client = client(&from, plain_http);
        let plan = plan(&client, &from, &auth).await?;
        let blobs = plan.layers.iter().map(|layer| layer.digest.clone());
        let ours = [plan.digest.clone(), plan.config_descriptor.digest.clone()];
        let _hold = self.0.holds.hold(blobs.chain(plan.config.diff_ids.iter().cloned()).chain(ours));
        let (inner, manifest, config) = (self.0.clone(), plan.manifest, plan.config_bytes);
        let (digest, config_digest) = (plan.digest.clone(), plan.config_descriptor.digest);
        super::blocking(move || {
            inner.layout.write_blob(&digest, &manifest)?;
            inner.layout.write_blob(&config_digest, &config)
        })
        .await?;
        let layers = plan.layers.iter().zip(&plan.config.diff_ids);
        futures::stream::iter(layers.map(Ok::<_, ImageError>))
            .try_for_each_concurrent(DOWNLOADS_MAX, |(blob, diff_id)| {
                let meter = Meter { to: progress.clone(), digest: blob.digest.clone(), total_bytes: blob.size };
                self.pull_layer(project, &client, &from, blob, diff_id, meter)
            })
            .await?;
        let record = ImageRecord {
            reference: from.whole(),
            digest: plan.digest,
            size_bytes: self.size_of(&plan.config.diff_ids),
            layers: plan.config.diff_ids,
            created_ms: now_ms(),
            os: plan.config.os,
            architecture: plan.config.architecture,
            config: plan.config.image,
        };
        self.record(project, &record).await?;
        Ok(record)
    }

    async fn pull_layer(
        &self,
        project: &Project,
        client: &Client,
        from: &Reference,
        blob: &Descriptor,
        diff_id: &str,
        meter: Meter,
    ) -> Result<(), ImageError> {
        meter.state(0, LayerState::Waiting).await;
        // The layer first and the blob second, in every task: no two can wait for each other.
        let layer_flight = self.flight(diff_id.to_owned()).await;
        if self.0.layout.layer_size(diff_id).is_some() && self.possesses(project, diff_id).await? {
            meter.state(blob.size, LayerState::Exists).await;
            return Ok(());
        }
        let blob_flight = self.flight(blob.digest.clone()).await;
        let source = download::fetch(client, from, blob, &self.0.layout, &meter).await?;
        meter.state(blob.size, LayerState::Unpacking).await;
        let partial = RemoveLater(Arc::new(self.0.layout.partial(&blob.digest)));
        self.settle_layer(project, source, diff_id, (partial, blob_flight, layer_flight)).await?;
        meter.state(blob.size, LayerState::Done).await;
        Ok(())
    }
}

/// A partial blob, of no use once it was unpacked, and of none if it could not be.
struct RemoveLater(Arc<std::path::PathBuf>);

impl Drop for RemoveLater {
    fn drop(&mut self) {
        // If it stays, prune finds it.
        let _ = std::fs::remove_file(&*self.0);
    }
}

async fn plan(client: &Client, from: &Reference, auth: &RegistryAuth) -> Result<Plan, ImageError> {
    let name = from.whole();
    let (mut manifest, mut digest) = fetch_manifest(client, from, auth).await?;
    let mut document = parse_document(&name, &manifest)?;
    if let Document::Index(entries) = &document {
        let chosen = choose(&name, entries)?;
        let one = from.clone_with_digest(chosen.digest);
        (manifest, digest) = fetch_manifest(client, &one, auth).await?;
        document = parse_document(&name, &manifest)?;
    }
    let Document::Image { config: config_descriptor, layers } = document else {
        return Err(ImageError::Malformed { reference: name, reason: "its index leads to an index".to_owned() });
    };
    let config_bytes = download::small(client, from, &config_descriptor, CONFIG_BYTES_MAX).await?;
    let config = parse_config(&name, &config_bytes)?;
    if config.diff_ids.len() != layers.len() {
        let reason = format!("its manifest has {} layers and its config {}", layers.len(), config.diff_ids.len());
        return Err(ImageError::Malformed { reference: name, reason });
    }
    Ok(Plan { digest, manifest, config_descriptor, config_bytes, config, layers })
}

async fn fetch_manifest(
    client: &Client,
    from: &Reference,
    auth: &RegistryAuth,
) -> Result<(Vec<u8>, String), ImageError> {
    let (bytes, _) = client.pull_manifest_raw(from, auth, MANIFEST_TYPES).await.map_err(|e| registry(from, e))?;
    if bytes.len() as u64 > MANIFEST_BYTES_MAX {
        return Err(ImageError::Limit {
            object: format!("the manifest of {from}"),
            limit: MANIFEST_BYTES_MAX,
            unit: "bytes",
        });
    }
    let actual = layer::digest_of(&bytes);
    match from.digest() {
        Some(expected) if expected != actual => {
            let object = format!("the manifest of {from}");
            Err(ImageError::Digest { object, expected: expected.to_owned(), actual })
        }
        _ => Ok((bytes.to_vec(), actual)),
    }
}
