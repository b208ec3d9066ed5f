//! Health checks and their answers, between the contract's messages and the room's types. Refuses to decide anything but whether a field
//! is well formed.

use cc_common::api::v1;

use super::convert::bad;
use crate::container::ContainerError;
use crate::container::health::{Health, HealthCheck, HealthOptions, Probe};

pub(super) fn health_options(wanted: v1::HealthCheck) -> Result<HealthOptions, ContainerError> {
    let said = |value: u64| (value != 0).then_some(value);
    let v1::HealthCheck { disabled, command, retries, .. } = wanted;
    let options = HealthOptions {
        disabled,
        command: (!command.is_empty()).then_some(command),
        interval_ms: said(wanted.interval_ms),
        timeout_ms: said(wanted.timeout_ms),
        start_period_ms: said(wanted.start_period_ms),
        start_interval_ms: said(wanted.start_interval_ms),
        retries: (retries != 0).then_some(retries),
    };
    options.check().map(|()| options).map_err(|(flag, why)| bad(flag, "", why))
}

pub(super) fn health_options_view(options: &HealthOptions) -> v1::HealthCheck {
    v1::HealthCheck {
        disabled: options.disabled,
        command: options.command.clone().unwrap_or_default(),
        interval_ms: options.interval_ms.unwrap_or_default(),
        timeout_ms: options.timeout_ms.unwrap_or_default(),
        start_period_ms: options.start_period_ms.unwrap_or_default(),
        start_interval_ms: options.start_interval_ms.unwrap_or_default(),
        retries: options.retries.unwrap_or_default(),
        program: Vec::new(),
    }
}

pub(super) fn health_view(check: &HealthCheck, health: Health) -> v1::Health {
    let HealthCheck { program, interval_ms, timeout_ms, start_period_ms, start_interval_ms, retries } = check.clone();
    let probe = |Probe { started_ms, ended_ms, code, output }| v1::Probe { started_ms, ended_ms, code, output };
    v1::Health {
        status: health.status.name().to_owned(),
        failing_streak: health.failing_streak,
        probes: health.probes.into_iter().map(probe).collect(),
        check: Some(v1::HealthCheck {
            disabled: false,
            command: String::new(),
            interval_ms,
            timeout_ms,
            start_period_ms,
            start_interval_ms,
            retries,
            program,
        }),
    }
}
