//! What a container was run with, as a script reads it.

use std::collections::BTreeMap;

use cc_common::api::v1;
use serde::Serialize;

use super::health::HealthCheckView;
use crate::cmd::{publish, volume};

#[derive(Debug, Serialize)]
pub struct SpecView {
    pub image: String,
    pub vpc: String,
    pub name: String,
    pub memory_bytes: u64,
    pub cpu_shares: u32,
    pub pids_max: u32,
    pub user: String,
    pub env: Vec<String>,
    pub dir: String,
    pub hostname: String,
    pub labels: BTreeMap<String, String>,
    pub command: Vec<String>,
    pub mtu: u32,
    pub auto_remove: bool,
    pub groups: Vec<String>,
    /// As `--publish` takes them.
    pub publish: Vec<String>,
    pub egress_bandwidth: Option<RateLimitView>,
    pub ingress_bandwidth: Option<RateLimitView>,
    pub dns: Vec<String>,
    pub entrypoint: Option<String>,
    /// Empty: the image's.
    pub stop_signal: String,
    pub stop_timeout_s: Option<u32>,
    pub read_only: bool,
    pub tmpfs: Vec<String>,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub ulimits: Vec<String>,
    pub cpus: Option<f64>,
    pub restart: String,
    /// None: as the image has it.
    pub health: Option<HealthCheckView>,
    pub init: bool,
    pub devices: Vec<String>,
    /// Empty: all.
    pub cpuset: String,
    /// host, or empty: a user namespace of its own.
    pub userns: String,
    /// As `--volume` takes them.
    pub volumes: Vec<String>,
    /// Of its writable layer; 0: no limit of its own.
    pub disk_bytes: u64,
    pub log_max_bytes: u64,
    pub log_max_files: u32,
    pub log_mode: String,
}

#[derive(Debug, Serialize)]
pub struct RateLimitView {
    pub bytes_per_s: u64,
    /// None: by the rate.
    pub burst_bytes: Option<u64>,
}

impl From<v1::ContainerSpec> for SpecView {
    fn from(spec: v1::ContainerSpec) -> Self {
        SpecView {
            image: spec.image,
            vpc: spec.vpc,
            name: spec.name,
            memory_bytes: spec.memory_bytes,
            cpu_shares: spec.cpu_shares,
            pids_max: spec.pids_max,
            user: spec.user,
            env: spec.env,
            dir: spec.dir,
            hostname: spec.hostname,
            labels: spec.labels.into_iter().collect(),
            command: spec.command,
            mtu: spec.mtu,
            auto_remove: spec.auto_remove,
            groups: spec.groups,
            publish: spec.publish.iter().map(publish::text).collect(),
            egress_bandwidth: spec.egress_bandwidth.map(Into::into),
            ingress_bandwidth: spec.ingress_bandwidth.map(Into::into),
            dns: spec.dns,
            entrypoint: spec.entrypoint,
            stop_signal: spec.stop_signal,
            stop_timeout_s: spec.stop_timeout_s,
            read_only: spec.read_only,
            tmpfs: spec.tmpfs,
            cap_add: spec.cap_add,
            cap_drop: spec.cap_drop,
            ulimits: spec.ulimits,
            cpus: (spec.cpu_milli != 0).then(|| f64::from(spec.cpu_milli) / 1000.0),
            restart: spec.restart,
            health: spec.health.map(Into::into),
            init: spec.init,
            devices: spec.devices,
            cpuset: spec.cpuset,
            userns: spec.userns,
            volumes: spec.volumes.iter().map(volume::text).collect(),
            disk_bytes: spec.disk_bytes,
            log_max_bytes: spec.log_max_bytes,
            log_max_files: spec.log_max_files,
            log_mode: spec.log_mode,
        }
    }
}

impl From<v1::RateLimit> for RateLimitView {
    fn from(limit: v1::RateLimit) -> Self {
        let burst_bytes = (limit.burst_bytes != 0).then_some(limit.burst_bytes);
        RateLimitView { bytes_per_s: limit.bytes_per_s, burst_bytes }
    }
}
