//! How a container's health looks, and how it is asked for it. Refuses to print what probes wrote but as JSON: it is the container's.

use cc_common::api::v1;
use serde::Serialize;

use crate::time::rfc3339_ms;

#[derive(Debug, Serialize)]
pub struct HealthView {
    /// starting, healthy, unhealthy
    pub status: String,
    pub failing_streak: u32,
    /// The last five, the oldest first.
    pub probes: Vec<ProbeView>,
    pub check: HealthCheckView,
}

#[derive(Debug, Serialize)]
pub struct ProbeView {
    pub started: String,
    pub ended: String,
    /// -1: it did not end in time, or could not be run.
    pub code: i32,
    pub output: String,
}

/// 0 and empty: not said.
#[derive(Debug, Serialize)]
pub struct HealthCheckView {
    pub disabled: bool,
    pub command: String,
    pub program: Vec<String>,
    pub interval_ms: u64,
    pub timeout_ms: u64,
    pub start_period_ms: u64,
    pub start_interval_ms: u64,
    pub retries: u32,
}

impl From<v1::Health> for HealthView {
    fn from(health: v1::Health) -> Self {
        HealthView {
            status: health.status,
            failing_streak: health.failing_streak,
            probes: health.probes.into_iter().map(Into::into).collect(),
            check: health.check.unwrap_or_default().into(),
        }
    }
}

impl From<v1::Probe> for ProbeView {
    fn from(probe: v1::Probe) -> Self {
        let v1::Probe { started_ms, ended_ms, code, output } = probe;
        ProbeView { started: rfc3339_ms(started_ms), ended: rfc3339_ms(ended_ms), code, output }
    }
}

impl From<v1::HealthCheck> for HealthCheckView {
    fn from(check: v1::HealthCheck) -> Self {
        HealthCheckView {
            disabled: check.disabled,
            command: check.command,
            program: check.program,
            interval_ms: check.interval_ms,
            timeout_ms: check.timeout_ms,
            start_period_ms: check.start_period_ms,
            start_interval_ms: check.start_interval_ms,
            retries: check.retries,
        }
    }
}
