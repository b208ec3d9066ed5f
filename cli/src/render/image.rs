//! How an image, and what was removed of them, look.

use std::io::{self, Write};

use cc_common::api::v1;
use serde::Serialize;

use super::{View, table};
use crate::size::human;
use crate::time::rfc3339_ms;

#[derive(Debug, Serialize)]
pub struct ImageView {
    pub reference: String,
    pub digest: String,
    pub size_bytes: u64,
    pub created: String,
    pub os: String,
    pub architecture: String,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub env: Vec<String>,
    pub user: String,
    pub working_dir: String,
    pub layers: Vec<String>,
}

impl From<v1::Image> for ImageView {
    fn from(i: v1::Image) -> Self {
        ImageView {
            reference: i.reference,
            digest: i.digest,
            size_bytes: i.size_bytes,
            created: rfc3339_ms(i.created_ms),
            os: i.os,
            architecture: i.architecture,
            entrypoint: i.entrypoint,
            cmd: i.cmd,
            env: i.env,
            user: i.user,
            working_dir: i.working_dir,
            layers: i.layers,
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Images(pub Vec<ImageView>);

impl View for Images {
    fn print_into(&self, out: &mut impl Write) -> io::Result<()> {
        let row = |i: &ImageView| {
            let platform = format!("{}/{}", i.os, i.architecture);
            vec![i.reference.clone(), i.digest.clone(), platform, human(i.size_bytes), i.created.clone()]
        };
        let rows: Vec<_> = self.0.iter().map(row).collect();
        table::print_into(out, &["REFERENCE", "DIGEST", "PLATFORM", "SIZE", "CREATED"], &rows)
    }

    fn ids(&self) -> Vec<&str> {
        self.0.iter().map(|i| i.digest.as_str()).collect()
    }
}

/// A pulled or loaded image.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Stored(pub ImageView);

impl View for Stored {
    fn print_into(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{}  {}", super::clean(&self.0.reference), self.0.digest)
    }

    fn ids(&self) -> Vec<&str> {
        vec![&self.0.digest]
    }
}

#[derive(Debug, Serialize)]
pub struct Pruned {
    pub removed: Vec<String>,
    pub freed_bytes: u64,
}

impl View for Pruned {
    fn print_into(&self, out: &mut impl Write) -> io::Result<()> {
        self.removed.iter().try_for_each(|name| writeln!(out, "{}", super::clean(name)))?;
        writeln!(out, "{} removed, {} freed", self.removed.len(), human(self.freed_bytes))
    }

    fn ids(&self) -> Vec<&str> {
        self.removed.iter().map(String::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_and_json() {
        let image = v1::Image {
            reference: "docker.io/library/debian:12".into(),
            digest: "sha256:00".into(),
            size_bytes: 120 << 20,
            created_ms: 1_700_000_000_000,
            os: "linux".into(),
            architecture: "amd64".into(),
            cmd: vec!["bash".into()],
            ..Default::default()
        };
        let images = Images(vec![image.into()]);
        let mut out = Vec::new();
        images.print_into(&mut out).unwrap();
        insta::assert_snapshot!("image_table", String::from_utf8(out).unwrap());
        insta::assert_snapshot!("image_json", serde_json::to_string_pretty(&images).unwrap());
    }
}
