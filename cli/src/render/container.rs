//! How a container and its end look.

use std::io::{self, Write};

use cc_common::api::v1;
use serde::Serialize;

use super::health::HealthView;
use super::spec::SpecView;
use super::{View, table};
use crate::time::{age, now_ms, rfc3339_ms};

#[derive(Debug, Serialize)]
pub struct ContainerView {
    pub id: String,
    pub name: String,
    pub image: String,
    pub image_digest: String,
    pub state: String,
    pub vpc: String,
    pub vpc_name: String,
    pub ipv4: String,
    /// Empty where its VPC has none.
    pub ipv6: String,
    pub mac: String,
    pub pid: i32,
    pub created: String,
    pub started: String,
    pub exit: Option<ExitView>,
    /// By its policy, since somebody started it or it ran well.
    pub restarts: u32,
    /// What filters its system calls: default, unconfined, profile.
    pub seccomp: String,
    /// None of one that is not asked, or does not run.
    pub health: Option<HealthView>,
    pub endpoint: u32,
    pub interface: String,
    pub project: String,
    pub groups: Vec<String>,
    /// Those that it has now.
    pub volumes: Vec<VolumeMountView>,
    pub spec: Option<SpecView>,
    #[serde(skip)]
    created_ms: u64,
}

#[derive(Debug, Serialize)]
pub struct VolumeMountView {
    pub id: String,
    pub name: String,
    pub path: String,
    pub read_only: bool,
}

impl From<v1::VolumeMount> for VolumeMountView {
    fn from(mount: v1::VolumeMount) -> Self {
        let v1::VolumeMount { volume, path, read_only, name } = mount;
        VolumeMountView { id: volume, name, path, read_only }
    }
}

#[derive(Debug, Serialize)]
pub struct ExitView {
    pub id: String,
    pub code: i32,
    pub signal: Option<i32>,
    pub oom_killed: bool,
    pub finished: String,
    pub reason: String,
}

impl From<v1::Exit> for ExitView {
    fn from(exit: v1::Exit) -> Self {
        ExitView {
            id: exit.id,
            code: exit.code,
            signal: (exit.signal != 0).then_some(exit.signal),
            oom_killed: exit.oom_killed,
            finished: rfc3339_ms(exit.finished_ms),
            reason: exit.reason,
        }
    }
}

impl From<v1::Container> for ContainerView {
    fn from(c: v1::Container) -> Self {
        ContainerView {
            id: c.id,
            name: c.name,
            image: c.image,
            image_digest: c.image_digest,
            state: c.state,
            vpc: c.vpc,
            vpc_name: c.vpc_name,
            ipv4: c.ipv4,
            ipv6: c.ipv6,
            mac: c.mac,
            pid: c.pid,
            created: rfc3339_ms(c.created_ms),
            started: rfc3339_ms(c.started_ms),
            exit: c.exit.map(Into::into),
            restarts: c.restarts,
            seccomp: c.seccomp,
            health: c.health.map(Into::into),
            endpoint: c.endpoint,
            interface: c.interface,
            project: c.project,
            groups: c.groups,
            volumes: c.volumes.into_iter().map(Into::into).collect(),
            spec: c.spec.map(Into::into),
            created_ms: c.created_ms,
        }
    }
}

impl ContainerView {
    fn state_text(&self) -> String {
        match &self.exit {
            Some(exit) if exit.oom_killed => format!("{} (out of memory)", self.state),
            Some(exit) => format!("{} ({})", self.state, exit.code),
            None => match &self.health {
                Some(health) => format!("{} ({})", self.state, health.status),
                None => self.state.clone(),
            },
        }
    }

    fn ports(&self) -> String {
        self.spec.as_ref().map(|spec| spec.publish.join(", ")).unwrap_or_default()
    }

    fn vpc_text(&self) -> &str {
        if self.vpc_name.is_empty() { &self.vpc } else { &self.vpc_name }
    }
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Containers(pub Vec<ContainerView>);

impl Containers {
    fn print_at(&self, out: &mut impl Write, now_ms: u64) -> io::Result<()> {
        let row = |c: &ContainerView| {
            let bare = |address: &str| address.split('/').next().unwrap_or_default().to_owned();
            let address = table::both(&bare(&c.ipv4), &bare(&c.ipv6));
            let (vpc, age) = (c.vpc_text().to_owned(), age(c.created_ms, now_ms));
            vec![c.id.clone(), c.name.clone(), c.image.clone(), c.state_text(), vpc, address, c.ports(), age]
        };
        let rows: Vec<_> = self.0.iter().map(row).collect();
        table::print_into(out, &["ID", "NAME", "IMAGE", "STATE", "VPC", "ADDRESS", "PORTS", "AGE"], &rows)
    }
}

impl View for Containers {
    fn print_into(&self, out: &mut impl Write) -> io::Result<()> {
        self.print_at(out, now_ms())
    }

    fn ids(&self) -> Vec<&str> {
        self.0.iter().map(|c| c.id.as_str()).collect()
    }
}

/// One block per container, with a blank line between.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Statuses(pub Vec<ContainerView>);

impl View for Statuses {
    fn print_into(&self, out: &mut impl Write) -> io::Result<()> {
        for (at, c) in self.0.iter().enumerate() {
            if at > 0 {
                writeln!(out)?;
            }
            let mut pairs = vec![
                ("Container", c.id.clone()),
                ("Name", c.name.clone()),
                ("Image", c.image.clone()),
                ("State", c.state_text()),
                ("VPC", c.vpc_text().to_owned()),
                ("Address", table::both(&c.ipv4, &c.ipv6)),
                ("Ports", c.ports()),
                ("MAC", c.mac.clone()),
                ("Groups", c.groups.join(", ")),
                ("Process", if c.pid == 0 { String::new() } else { c.pid.to_string() }),
                ("Created", c.created.clone()),
                ("Started", c.started.clone()),
            ];
            if let Some(health) = &c.health {
                pairs
                    .push(("Failed probes", format!("{} of {} in a row", health.failing_streak, health.check.retries)));
            }
            if let Some(exit) = &c.exit {
                pairs.push(("Finished", exit.finished.clone()));
                pairs.push(("Exit code", exit.code.to_string()));
                pairs.push(("Reason", exit.reason.clone()));
            }
            table::print_pairs_into(out, &pairs)?;
        }
        Ok(())
    }

    fn ids(&self) -> Vec<&str> {
        self.0.iter().map(|c| c.id.as_str()).collect()
    }
}

/// A detached run prints the new container's id.
#[derive(Debug, Serialize)]
pub struct Created {
    pub id: String,
}

impl View for Created {
    fn print_into(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{}", self.id)
    }

    fn ids(&self) -> Vec<&str> {
        vec![&self.id]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(name: &str, ipv6: &str, exit: Option<v1::Exit>) -> ContainerView {
        let state = if exit.is_some() { "stopped" } else { "running" };
        let spec = v1::ContainerSpec {
            image: "debian:12".into(),
            memory_bytes: 512 << 20,
            egress_bandwidth: Some(v1::RateLimit { bytes_per_s: 10 << 20, burst_bytes: 0 }),
            log_max_bytes: 10 << 20,
            log_max_files: 3,
            log_mode: "block".into(),
            disk_bytes: 1 << 30,
            ..Default::default()
        };
        let probe = v1::Probe { started_ms: 1_700_000_030_100, ended_ms: 1_700_000_030_150, ..Default::default() };
        let check = v1::HealthCheck {
            program: vec!["/bin/sh".into(), "-c".into(), "wget -q localhost".into()],
            interval_ms: 30_000,
            timeout_ms: 1_500,
            start_interval_ms: 5_000,
            retries: 3,
            ..Default::default()
        };
        let health = exit.is_none().then(|| v1::Health {
            status: "healthy".into(),
            probes: vec![v1::Probe { output: "fine\n".into(), ..probe }],
            check: Some(check),
            ..Default::default()
        });
        ContainerView::from(v1::Container {
            id: format!("c-{name}"),
            name: name.into(),
            image: "debian:12".into(),
            image_digest: "sha256:00".into(),
            state: state.into(),
            vpc: "vpc-1".into(),
            vpc_name: "blue".into(),
            ipv4: "10.0.0.2/24".into(),
            mac: "02:00:0a:00:00:02".into(),
            pid: 42,
            created_ms: 1_700_000_000_000,
            started_ms: 1_700_000_000_100,
            exit,
            spec: Some(spec),
            endpoint: 1,
            interface: "cc1".into(),
            restarts: 0,
            seccomp: "default".into(),
            health,
            project: "default".into(),
            groups: vec!["blue".into()],
            ipv6: ipv6.into(),
            volumes: vec![v1::VolumeMount {
                volume: "vol-1".into(),
                path: "/data".into(),
                read_only: true,
                name: "data".into(),
            }],
        })
    }

    fn both() -> Vec<ContainerView> {
        let exit = v1::Exit { id: "c-db".into(), code: 137, signal: 9, oom_killed: true, ..Default::default() };
        vec![container("web", "", None), container("db", "fd00:1::2/64", Some(exit))]
    }

    #[test]
    fn table_status_and_json() {
        let mut out = Vec::new();
        Containers(both()).print_at(&mut out, 1_700_000_360_000).unwrap();
        insta::assert_snapshot!("container_table", String::from_utf8(out).unwrap());
        let mut out = Vec::new();
        Statuses(both()).print_into(&mut out).unwrap();
        insta::assert_snapshot!("container_status", String::from_utf8(out).unwrap());
        insta::assert_snapshot!("container_json", serde_json::to_string_pretty(&Containers(both())).unwrap());
    }
}
