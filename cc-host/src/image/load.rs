//! Images from an archive: a tar of an OCI layout, or what docker save wrote. Refuses to believe a digest it has not computed.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use serde::Deserialize;

use super::error::ImageError;
use super::layer::{Source, decoder, digest_of};
use super::limits::{ARCHIVE_BYTES_MAX, ARCHIVE_MEMBERS_MAX, CONFIG_BYTES_MAX, LAYERS_MAX, MANIFEST_BYTES_MAX};
use super::manifest::{Config, Descriptor, Document, choose, parse_config, parse_document};
use super::{ImageRecord, Images, blocking, layer, reference};
use crate::ids::{Project, now_ms};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadFormat {
    /// A tar of a directory with `oci-layout`, `index.json` and `blobs/`.
    Oci,
    DockerArchive,
}

/// An archive on disk, and where its members lie in it.
struct Members {
    file: Arc<File>,
    at: HashMap<String, (u64, u64)>,
}

/// What an archive says of one image; nothing of its layers is verified yet.
struct Found {
    manifest: Vec<u8>,
    config_bytes: Vec<u8>,
    config: Config,
    layers: Vec<Source>,
}

fn archive(reference: &str, reason: impl std::fmt::Display) -> ImageError {
    ImageError::Archive { reference: reference.to_owned(), reason: reason.to_string() }
}

impl Images {
    /// Reads an archive to its end and records the image `tag` of it (empty: the only one) under `reference`.
    pub async fn load(
        &self,
        project: &Project,
        reference: &str,
        format: LoadFormat,
        tag: &str,
        data: impl Stream<Item = std::io::Result<Bytes>> + Send,
    ) -> Result<ImageRecord, ImageError> {
        // An archive of docker's may name its image itself.
        let given = match (reference, format) {
            ("", LoadFormat::DockerArchive) => None,
            _ => Some(reference::normal(reference)?),
        };
        let shown = given.clone().unwrap_or_else(|| "the archive".to_owned());
        let file = self.spool(&shown, data).await?;
        let (tag, tmp) = (tag.to_owned(), self.0.layout.tmp());
        let (name, found) = blocking(move || {
            let members = index(&shown, file, &tmp)?;
            match format {
                LoadFormat::Oci => from_oci(&shown, &members, &tag).map(|found| (shown, found)),
                LoadFormat::DockerArchive => {
                    let image = docker_image(&shown, &members, &tag)?;
                    let name = given.map_or_else(|| own_name(&image, &tag), Ok)?;
                    from_docker(&name, &members, &image).map(|found| (name, found))
                }
            }
        })
        .await?;
        self.settle(project, name, found).await
    }

    async fn spool(
        &self,
        name: &str,
        data: impl Stream<Item = std::io::Result<Bytes>> + Send,
    ) -> Result<File, ImageError> {
        let tmp = self.0.layout.tmp();
        // Without a name it needs no cleaning up.
        let mut file = tempfile::tempfile_in(&tmp).map_err(ImageError::disk("create a file in", &tmp))?;
        let mut total = 0u64;
        let mut data = std::pin::pin!(data);
        while let Some(chunk) = data.next().await {
            let chunk = chunk.map_err(|e| archive(name, format_args!("the upload broke off: {e}")))?;
            total += chunk.len() as u64;
            if total > ARCHIVE_BYTES_MAX {
                return Err(ImageError::Limit {
                    object: format!("the archive of {name}"),
                    limit: ARCHIVE_BYTES_MAX,
                    unit: "bytes",
                });
            }
            let (back, written) = blocking(move || {
                let written = file.write_all(&chunk);
                (file, written)
            })
            .await;
            written.map_err(ImageError::disk("write to", &tmp))?;
            file = back;
        }
        Ok(file)
    }

    async fn settle(&self, project: &Project, name: String, found: Found) -> Result<ImageRecord, ImageError> {
        let (digest, config_digest) = (digest_of(&found.manifest), digest_of(&found.config_bytes));
        let held = found.config.diff_ids.iter().cloned().chain([digest.clone(), config_digest.clone()]);
        let _hold = self.0.holds.hold(held);
        let (inner, manifest, config) = (self.0.clone(), found.manifest, found.config_bytes);
        let (manifest_name, config_name) = (digest.clone(), config_digest);
        blocking(move || {
            inner.layout.write_blob(&manifest_name, &manifest)?;
            inner.layout.write_blob(&config_name, &config)
        })
        .await?;
        for (source, diff_id) in found.layers.into_iter().zip(&found.config.diff_ids) {
            let flight = self.flight(diff_id.clone()).await;
            self.settle_layer(project, source, diff_id, flight).await?;
        }
        let record = ImageRecord {
            reference: name,
            digest,
            size_bytes: self.size_of(&found.config.diff_ids),
            layers: found.config.diff_ids,
            created_ms: now_ms(),
            os: found.config.os,
            architecture: found.config.architecture,
            config: found.config.image,
        };
        self.record(project, &record).await?;
        Ok(record)
    }
}

/// Where each member lies. A compressed archive is decompressed first.
fn index(name: &str, mut file: File, tmp: &std::path::Path) -> Result<Members, ImageError> {
    let broken = |e: std::io::Error| archive(name, e);
    let bytes = file.metadata().map_err(broken)?.len();
    file.rewind().map_err(broken)?;
    let source = Source { file: Arc::new(file.try_clone().map_err(broken)?), offset: 0, bytes, digest: None };
    let mut magic = [0u8; 4];
    let n = source.file.read_at(&mut magic, 0).map_err(broken)?;
    if matches!(&magic[..n], [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd]) {
        let mut plain = tempfile::tempfile_in(tmp).map_err(ImageError::disk("create a file in", tmp))?;
        let decoded = decoder(&source, &file).map_err(broken)?;
        let written = std::io::copy(&mut decoded.take(ARCHIVE_BYTES_MAX + 1), &mut plain).map_err(broken)?;
        if written > ARCHIVE_BYTES_MAX {
            return Err(ImageError::Limit {
                object: format!("the archive of {name}"),
                limit: ARCHIVE_BYTES_MAX,
                unit: "bytes",
            });
        }
        plain.rewind().map_err(broken)?;
        file = plain;
    }
    let mut at = HashMap::new();
    let mut links = Vec::new();
    let mut archive_reader = tar::Archive::new(&file);
    for (count, entry) in archive_reader.entries_with_seek().map_err(broken)?.enumerate() {
        if count >= ARCHIVE_MEMBERS_MAX {
            return Err(archive(name, format_args!("it has more than {ARCHIVE_MEMBERS_MAX} members")));
        }
        let entry = entry.map_err(broken)?;
        let path = clean(&String::from_utf8_lossy(&entry.path_bytes()));
        let target = || entry.link_name_bytes().map(|t| String::from_utf8_lossy(&t).into_owned()).unwrap_or_default();
        match entry.header().entry_type() {
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                at.insert(path, (entry.raw_file_position(), entry.size()));
            }
            // Old docker save writes a layer that occurs twice as a link: `../<id>/layer.tar`.
            tar::EntryType::Symlink => links.push((path.clone(), beside(&path, &target()))),
            tar::EntryType::Link => links.push((path, clean(&target()))),
            _ => {}
        }
    }
    for (path, target) in links {
        if let Some(place) = at.get(&target).copied() {
            at.entry(path).or_insert(place);
        }
    }
    Ok(Members { file: Arc::new(file), at })
}

fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn beside(path: &str, target: &str) -> String {
    clean(&format!("{}/{target}", path.rsplit_once('/').map_or("", |(dir, _)| dir)))
}

impl Members {
    fn source(&self, name: &str, path: &str, digest: Option<String>) -> Result<Source, ImageError> {
        let (offset, bytes) =
            self.at.get(&clean(path)).copied().ok_or_else(|| archive(name, format_args!("it has no {path}")))?;
        Ok(Source { file: self.file.clone(), offset, bytes, digest })
    }

    fn read(&self, name: &str, path: &str, limit: u64) -> Result<Vec<u8>, ImageError> {
        let source = self.source(name, path, None)?;
        if source.bytes > limit {
            return Err(ImageError::Limit { object: format!("{path} of {name}"), limit, unit: "bytes" });
        }
        let mut bytes = vec![0; source.bytes as usize];
        source.file.read_exact_at(&mut bytes, source.offset).map_err(|e| archive(name, e))?;
        Ok(bytes)
    }

    fn blob(&self, name: &str, digest: &str, limit: u64) -> Result<Vec<u8>, ImageError> {
        let bytes = self.read(name, &blob_path(digest), limit)?;
        match digest_of(&bytes) {
            actual if actual == digest => Ok(bytes),
            actual => {
                Err(ImageError::Digest { object: format!("a blob of {name}"), expected: digest.to_owned(), actual })
            }
        }
    }
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

const REF_NAME: &str = "org.opencontainers.image.ref.name";

fn from_oci(name: &str, members: &Members, tag: &str) -> Result<Found, ImageError> {
    let Document::Index(entries) = parse_document(name, &members.read(name, "index.json", MANIFEST_BYTES_MAX)?)? else {
        return Err(archive(name, "its index.json is not an index"));
    };
    let tag_of = |d: &Descriptor| d.annotations.as_ref().and_then(|a| a.get(REF_NAME)).cloned();
    let mut wanted: Vec<Descriptor> = if tag.is_empty() {
        entries.clone()
    } else {
        entries.iter().filter(|d| tag_of(d).as_deref() == Some(tag)).cloned().collect()
    };
    if wanted.is_empty() || (tag.is_empty() && wanted.len() > 1 && wanted.iter().any(|d| d.platform.is_none())) {
        let tags: Vec<String> = entries.iter().filter_map(tag_of).take(16).collect();
        return Err(archive(name, format_args!("it has no single image for tag {tag:?}; its tags are {tags:?}")));
    }
    // An index may lead to indexes; two steps are more than any tool writes.
    for _ in 0..3 {
        let chosen = match &wanted[..] {
            [only] => only.clone(),
            several => choose(name, several)?,
        };
        let manifest = members.blob(name, &chosen.digest, MANIFEST_BYTES_MAX)?;
        match parse_document(name, &manifest)? {
            Document::Index(entries) => wanted = entries,
            Document::Image { config, layers } => {
                let config_bytes = members.blob(name, &config.digest, CONFIG_BYTES_MAX)?;
                let config = parse_config(name, &config_bytes)?;
                let layers = layers
                    .iter()
                    .map(|layer| members.source(name, &blob_path(&layer.digest), Some(layer.digest.clone())))
                    .collect::<Result<Vec<_>, _>>()?;
                return matched(name, Found { manifest, config_bytes, config, layers });
            }
        }
    }
    Err(archive(name, "its indexes lead to indexes"))
}

fn matched(name: &str, found: Found) -> Result<Found, ImageError> {
    let (layers, diff_ids) = (found.layers.len(), found.config.diff_ids.len());
    if layers != diff_ids {
        return Err(archive(name, format_args!("it has {layers} layers and its config names {diff_ids}")));
    }
    Ok(found)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// The name that the archive gives its image.
fn own_name(image: &DockerImage, tag: &str) -> Result<String, ImageError> {
    let tags = image.repo_tags.as_deref().unwrap_or_default();
    let wanted = |has: &&String| reference::normal(has).ok() == reference::normal(tag).ok();
    match tags.iter().find(wanted).or(tags.first()) {
        Some(name) => reference::normal(name),
        None => Err(archive("the archive", "it does not name its image; give a name: --name REFERENCE")),
    }
}

/// The image that is meant: the one with the tag, or the only one.
fn docker_image(name: &str, members: &Members, tag: &str) -> Result<DockerImage, ImageError> {
    let list = members.read(name, "manifest.json", MANIFEST_BYTES_MAX)?;
    let mut images: Vec<DockerImage> = serde_json::from_slice(&list)
        .map_err(|e| archive(name, format_args!("its manifest.json is not valid: {e}")))?;
    let tags = |image: &DockerImage| image.repo_tags.clone().unwrap_or_default();
    let is_tag = |has: &String| {
        has == tag
            || reference::normal(has).ok() == reference::normal(tag).ok()
            || has.rsplit_once(':').is_some_and(|(_, t)| t == tag)
    };
    let at = match &images[..] {
        [_] if tag.is_empty() => 0,
        all => all.iter().position(|image| !tag.is_empty() && tags(image).iter().any(is_tag)).ok_or_else(|| {
            let known: Vec<String> = all.iter().flat_map(tags).take(16).collect();
            archive(name, format_args!("it has no single image for tag {tag:?}; its tags are {known:?}"))
        })?,
    };
    Ok(images.swap_remove(at))
}

fn from_docker(name: &str, members: &Members, image: &DockerImage) -> Result<Found, ImageError> {
    if image.layers.len() > LAYERS_MAX {
        return Err(archive(name, format_args!("it has more than {LAYERS_MAX} layers")));
    }
    let config_bytes = members.read(name, &image.config, CONFIG_BYTES_MAX)?;
    let config = parse_config(name, &config_bytes)?;
    let layers = image.layers.iter().map(|path| members.source(name, path, None)).collect::<Result<Vec<_>, _>>()?;
    // Such an archive has no manifest: this one names the same image the same way each time it is loaded.
    let descriptor = |media: &str, digest: &str, size: u64| serde_json::json!({ "mediaType": media, "digest": digest, "size": size });
    let layer_type = "application/vnd.oci.image.layer.v1.tar";
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &layer::digest_of(&config_bytes), config_bytes.len() as u64),
        "layers": config.diff_ids.iter().map(|id| descriptor(layer_type, id, 0)).collect::<Vec<_>>(),
    });
    let manifest = manifest.to_string().into_bytes();
    matched(name, Found { manifest, config_bytes, config, layers })
}
