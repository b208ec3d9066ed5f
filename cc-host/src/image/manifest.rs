//! Manifests, indexes and configs, read from bytes that a stranger wrote into types that cannot be wrong. Refuses to fetch.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::error::ImageError;
use super::limits::{INDEX_ENTRIES_MAX, LAYERS_MAX, STRING_BYTES_MAX, STRINGS_BYTES_MAX, STRINGS_MAX};
use super::reference::is_digest;
use super::{ImageConfig, ImageHealth};
use crate::mutation::{self, Control};

#[derive(Debug, Clone, Deserialize)]
pub struct Descriptor {
    #[serde(rename = "mediaType", default)]
    pub media_type: String,
    pub digest: String,
    #[serde(default)]
    pub size: u64,
    #[serde(default)]
    pub platform: Option<Platform>,
    #[serde(default)]
    pub annotations: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Platform {
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub architecture: String,
}

/// A manifest, or an index of several.
pub enum Document {
    Image { config: Descriptor, layers: Vec<Descriptor> },
    Index(Vec<Descriptor>),
}

#[derive(Deserialize)]
struct RawDocument {
    #[serde(rename = "schemaVersion", default)]
    schema_version: u64,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
}

fn malformed(reference: &str, reason: impl Into<String>) -> ImageError {
    ImageError::Malformed { reference: reference.to_owned(), reason: reason.into() }
}

pub fn parse_document(reference: &str, bytes: &[u8]) -> Result<Document, ImageError> {
    let raw: RawDocument =
        serde_json::from_slice(bytes).map_err(|e| malformed(reference, format!("its manifest is not valid: {e}")))?;
    if raw.schema_version != 2 {
        return Err(malformed(reference, format!("its manifest has schema version {}, not 2", raw.schema_version)));
    }
    let check = |descriptor: &Descriptor| {
        is_digest(&descriptor.digest)
            .then_some(())
            .ok_or_else(|| malformed(reference, format!("{:?} is not a sha256 digest", descriptor.digest)))
    };
    // A document that is both could be read differently by another tool: refuse it.
    match (raw.manifests, raw.config, raw.layers) {
        (Some(manifests), None, None) => {
            if manifests.len() > INDEX_ENTRIES_MAX {
                return Err(malformed(reference, format!("its index has more than {INDEX_ENTRIES_MAX} entries")));
            }
            manifests.iter().try_for_each(check)?;
            Ok(Document::Index(manifests))
        }
        (None, Some(config), Some(layers)) => {
            if layers.len() > LAYERS_MAX {
                return Err(malformed(reference, format!("it has {} layers, more than {LAYERS_MAX}", layers.len())));
            }
            check(&config)?;
            layers.iter().try_for_each(check)?;
            for layer in &layers {
                if !(layer.media_type.contains(".tar") || layer.media_type.is_empty())
                    || layer.media_type.contains("encrypted")
                {
                    return Err(malformed(
                        reference,
                        format!("a layer is of type {:?}, which is not a tar", layer.media_type),
                    ));
                }
            }
            Ok(Document::Image { config, layers })
        }
        _ => Err(malformed(reference, "its manifest is neither an image nor an index")),
    }
}

/// The names that images use for this host.
pub fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The entry of an index that runs here.
pub fn choose(reference: &str, entries: &[Descriptor]) -> Result<Descriptor, ImageError> {
    let arch = host_architecture();
    let fits = |d: &&Descriptor| d.platform.as_ref().is_some_and(|p| p.os == "linux" && p.architecture == arch);
    if let Some(found) = entries.iter().find(fits) {
        return Ok(found.clone());
    }
    // An index of one entry without a platform is how many tools write a layout.
    if let [only] = entries
        && only.platform.is_none()
    {
        return Ok(only.clone());
    }
    let found: Vec<String> = entries
        .iter()
        .filter_map(|d| d.platform.as_ref())
        .take(8)
        .map(|p| format!("{}/{}", p.os, p.architecture).chars().take(40).collect())
        .collect();
    Err(ImageError::Platform {
        reference: reference.to_owned(),
        wanted: format!("linux/{arch}"),
        found: if found.is_empty() { "nothing".to_owned() } else { found.join(", ") },
    })
}

/// A config as we use it: valid, bounded, and for this host.
#[derive(Debug)]
pub struct Config {
    pub diff_ids: Vec<String>,
    pub os: String,
    pub architecture: String,
    pub image: ImageConfig,
}

#[derive(Deserialize)]
struct RawConfig {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    rootfs: RawRootfs,
    #[serde(default)]
    config: Option<RawRun>,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(default)]
    diff_ids: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct RawRun {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    shell: Option<Vec<String>>,
    healthcheck: Option<RawHealth>,
}

/// Durations are in nanoseconds.
#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct RawHealth {
    test: Option<Vec<String>>,
    interval: i64,
    timeout: i64,
    start_period: i64,
    start_interval: i64,
    retries: i64,
}

impl From<RawHealth> for ImageHealth {
    /// What is below zero says nothing.
    fn from(raw: RawHealth) -> Self {
        let ms = |ns: i64| u64::try_from(ns).map_or(0, |ns| ns.div_ceil(1_000_000));
        ImageHealth {
            test: raw.test.unwrap_or_default(),
            interval_ms: ms(raw.interval),
            timeout_ms: ms(raw.timeout),
            start_period_ms: ms(raw.start_period),
            start_interval_ms: ms(raw.start_interval),
            retries: u32::try_from(raw.retries.max(0)).unwrap_or(u32::MAX),
        }
    }
}

pub fn parse_config(reference: &str, bytes: &[u8]) -> Result<Config, ImageError> {
    let raw: RawConfig =
        serde_json::from_slice(bytes).map_err(|e| malformed(reference, format!("its config is not valid: {e}")))?;
    let (os, arch) = (raw.os.as_str(), raw.architecture.as_str());
    if os != "linux" || arch != host_architecture() {
        return Err(ImageError::Platform {
            reference: reference.to_owned(),
            wanted: format!("linux/{}", host_architecture()),
            found: format!("{os}/{arch}").chars().take(80).collect(),
        });
    }
    if raw.rootfs.diff_ids.len() > LAYERS_MAX {
        return Err(malformed(reference, format!("its config names more than {LAYERS_MAX} layers")));
    }
    if let Some(bad) = raw.rootfs.diff_ids.iter().find(|id| !is_digest(id)) {
        return Err(malformed(
            reference,
            format!("{:?} is not a sha256 diff id", bad.chars().take(80).collect::<String>()),
        ));
    }
    let run = raw.config.unwrap_or_default();
    let image = ImageConfig {
        entrypoint: run.entrypoint.unwrap_or_default(),
        cmd: run.cmd.unwrap_or_default(),
        env: run.env.unwrap_or_default(),
        user: run.user.unwrap_or_default(),
        working_dir: run.working_dir.unwrap_or_default(),
        stop_signal: run.stop_signal.unwrap_or_default(),
        labels: run.labels.unwrap_or_default(),
        shell: run.shell.unwrap_or_default(),
        health: run.healthcheck.map(Into::into),
    };
    check_image(&image).map_err(|reason| malformed(reference, reason))?;
    Ok(Config { diff_ids: raw.rootfs.diff_ids, os: raw.os, architecture: raw.architecture, image })
}

fn check_image(image: &ImageConfig) -> Result<(), String> {
    if mutation::off(Control::ImageConfig) {
        return Ok(());
    }
    let none = Vec::new();
    let test = image.health.as_ref().map_or(&none, |health| &health.test);
    let lists = [
        ("entrypoint", &image.entrypoint),
        ("cmd", &image.cmd),
        ("env", &image.env),
        ("shell", &image.shell),
        ("health check", test),
    ];
    let singles =
        [("user", &image.user), ("working directory", &image.working_dir), ("stop signal", &image.stop_signal)];
    let mut total = 0usize;
    let mut one = |what: &str, text: &str| {
        total = total.saturating_add(text.len());
        if text.contains('\0') {
            return Err(format!("its {what} holds a NUL"));
        }
        if text.len() > STRING_BYTES_MAX || total > STRINGS_BYTES_MAX {
            return Err(format!("its {what} is larger than we take"));
        }
        Ok(())
    };
    for (what, list) in lists {
        if list.len() > STRINGS_MAX {
            return Err(format!("its {what} has more than {STRINGS_MAX} entries"));
        }
        list.iter().try_for_each(|text| one(what, text))?;
    }
    singles.iter().try_for_each(|(what, text)| one(what, text))?;
    if image.labels.len() > STRINGS_MAX {
        return Err(format!("it has more than {STRINGS_MAX} labels"));
    }
    image.labels.iter().try_for_each(|(k, v)| one("label", k).and_then(|()| one("label", v)))?;
    if let Some(bad) = image.env.iter().find(|e| !e.contains('=') || e.starts_with('=')) {
        return Err(format!("its env entry {:?} is not NAME=VALUE", bad.chars().take(40).collect::<String>()));
    }
    if !image.working_dir.is_empty() && !image.working_dir.starts_with('/') {
        return Err("its working directory is not absolute".to_owned());
    }
    if image.working_dir.split('/').any(|part| part == "..") || image.working_dir.len() > super::limits::PATH_BYTES_MAX
    {
        return Err("its working directory holds .. or is too long".to_owned());
    }
    if image.user.len() > 256 || image.user.chars().any(|c| c.is_control() || c.is_whitespace() || c == '/') {
        return Err("its user is not a name or an id".to_owned());
    }
    if image.stop_signal.len() > 16
        || !image.stop_signal.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-".contains(&b))
    {
        return Err("its stop signal is not a signal".to_owned());
    }
    Ok(())
}
