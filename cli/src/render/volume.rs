//! How a volume looks.

use std::io::{self, Write};

use cc_common::api::v1;
use serde::Serialize;

use super::{View, clean, table};
use crate::size;
use crate::time::rfc3339_ms;

#[derive(Debug, Serialize)]
pub struct VolumeView {
    pub id: String,
    pub name: String,
    pub project: String,
    pub pool: String,
    pub backend: String,
    pub size_bytes: u64,
    pub state: String,
    /// Empty but for one that needs repair.
    pub why: String,
    pub uuid: String,
    pub created: String,
    /// Names.
    pub containers: Vec<String>,
    pub mounted: bool,
    /// Of one that is mounted.
    pub used_bytes: Option<u64>,
    pub free_bytes: Option<u64>,
    pub errors: Option<u64>,
}

impl From<v1::Volume> for VolumeView {
    fn from(volume: v1::Volume) -> Self {
        let v1::Volume { id, name, project, pool, backend, size_bytes, state, why, uuid, containers, mounted, .. } =
            volume;
        let known = |value: u64| mounted.then_some(value);
        VolumeView {
            id,
            name,
            project,
            pool,
            backend,
            size_bytes,
            state,
            why,
            uuid,
            created: rfc3339_ms(volume.created_ms),
            containers,
            mounted,
            used_bytes: known(volume.used_bytes),
            free_bytes: known(volume.free_bytes),
            errors: known(volume.errors),
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Volumes(pub Vec<VolumeView>);

impl View for Volumes {
    fn print_into(&self, out: &mut impl Write) -> io::Result<()> {
        let row = |volume: &VolumeView| {
            let used = volume.used_bytes.map_or_else(|| "-".to_owned(), size::human);
            let VolumeView { id, name, size_bytes, state, containers, .. } = volume;
            vec![id.clone(), name.clone(), size::human(*size_bytes), used, state.clone(), containers.join(" ")]
        };
        let rows: Vec<_> = self.0.iter().map(row).collect();
        table::print_into(out, &["ID", "NAME", "SIZE", "USED", "STATE", "CONTAINERS"], &rows)
    }

    fn ids(&self) -> Vec<&str> {
        self.0.iter().map(|volume| volume.id.as_str()).collect()
    }
}

/// A new volume prints its id only, so that a shell can keep it.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct VolumeCreated(pub VolumeView);

impl View for VolumeCreated {
    fn print_into(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{}", self.0.id)
    }

    fn ids(&self) -> Vec<&str> {
        vec![&self.0.id]
    }
}

#[derive(Debug, Serialize)]
pub struct VolumeChecked {
    id: String,
    clean: bool,
    repaired: bool,
    state: String,
    /// e2fsck's own words.
    report: String,
}

impl From<v1::VolumeCheck> for VolumeChecked {
    fn from(checked: v1::VolumeCheck) -> Self {
        let v1::VolumeCheck { clean, repaired, report, volume } = checked;
        let v1::Volume { id, state, .. } = volume.unwrap_or_default();
        VolumeChecked { id, clean, repaired, state, report }
    }
}

impl View for VolumeChecked {
    fn print_into(&self, out: &mut impl Write) -> io::Result<()> {
        self.report.lines().try_for_each(|line| writeln!(out, "{}", clean(line)))?;
        let verdict = match (self.clean, self.repaired) {
            (true, true) => "clean now: it was repaired",
            (true, false) => "clean",
            (false, _) => "not clean",
        };
        writeln!(out, "{}: {verdict}", self.id)
    }

    fn ids(&self) -> Vec<&str> {
        vec![&self.id]
    }
}

#[derive(Debug, Serialize)]
pub struct VolumesPruned {
    pub volumes: Vec<String>,
    pub freed_bytes: u64,
}

impl View for VolumesPruned {
    fn print_into(&self, out: &mut impl Write) -> io::Result<()> {
        self.volumes.iter().try_for_each(|id| writeln!(out, "{}", clean(id)))?;
        writeln!(out, "{} volumes deleted, {} freed", self.volumes.len(), size::human(self.freed_bytes))
    }

    fn ids(&self) -> Vec<&str> {
        self.volumes.iter().map(String::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::Ui;

    #[test]
    fn table_ids_and_json() {
        let volume = |id: &str, name: &str, mounted: bool| v1::Volume {
            id: id.into(),
            name: name.into(),
            project: "default".into(),
            pool: "default".into(),
            backend: "loop-files".into(),
            size_bytes: 10 << 30,
            state: if mounted { "ready" } else { "needs-repair" }.into(),
            why: if mounted { "" } else { "e2fsck has found errors" }.into(),
            uuid: "0b1a3c5e-7c1f-4f42-9d0e-6a1b2c3d4e5f".into(),
            created_ms: 1_700_000_000_000,
            containers: if mounted { vec!["web".into(), "db".into()] } else { vec![] },
            mounted,
            used_bytes: 1 << 20,
            free_bytes: 9 << 30,
            errors: 0,
        };
        let volumes = Volumes(vec![volume("vol-1", "data", true).into(), volume("vol-22", "logs", false).into()]);
        let print = |json, quiet| {
            let mut out = Vec::new();
            Ui { json, quiet }.show_into(&mut out, &volumes).unwrap();
            String::from_utf8(out).unwrap()
        };
        insta::assert_snapshot!("volume_table", print(false, false));
        insta::assert_snapshot!("volume_json", print(true, false));
        assert_eq!(print(false, true), "vol-1\nvol-22\n");
    }
}
