//! Whether a container is well, as docker has it: what it is asked and how often, and what becomes of the answers. Refuses to ask.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::image::{ImageConfig, ImageHealth};

/// As docker's.
const INTERVAL_MS_DEFAULT: u64 = 30_000;
const TIMEOUT_MS_DEFAULT: u64 = 30_000;
const START_INTERVAL_MS_DEFAULT: u64 = 5_000;
const RETRIES_DEFAULT: u32 = 3;
/// Each probe costs the host three processes.
const INTERVAL_MS_MIN: u64 = 1_000;
const TIMEOUT_MS_MIN: u64 = 100;
const TIMEOUT_MS_MAX: u64 = 3_600_000;
const DAY_MS: u64 = 86_400_000;
const RETRIES_MAX: u32 = 1_000;
/// Of one line.
const COMMAND_BYTES_MAX: usize = 16 << 10;
const SHELL: [&str; 2] = ["/bin/sh", "-c"];
/// As docker keeps them.
const PROBES_KEPT: usize = 5;
pub const OUTPUT_BYTES_MAX: usize = 4 << 10;

/// What somebody says of it; what is absent is as the image has it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HealthOptions {
    #[serde(default)]
    pub disabled: bool,
    /// A line for the shell.
    #[serde(default)]
    pub command: Option<String>,
    #[serde(default)]
    pub interval_ms: Option<u64>,
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    #[serde(default)]
    pub start_period_ms: Option<u64>,
    #[serde(default)]
    pub start_interval_ms: Option<u64>,
    #[serde(default)]
    pub retries: Option<u32>,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// Program and arguments; never empty.
    pub program: Vec<String>,
    pub interval_ms: u64,
    pub timeout_ms: u64,
    pub start_period_ms: u64,
    pub start_interval_ms: u64,
    pub retries: u32,
}

impl HealthOptions {
    /// Which flag is wrong, and why.
    pub fn check(&self) -> Result<(), (&'static str, &'static str)> {
        let outside = |value: Option<u64>, min, max| value.is_some_and(|ms| !(min..=max).contains(&ms));
        if self.disabled && *self != (HealthOptions { disabled: true, ..HealthOptions::default() }) {
            return Err(("--no-healthcheck", "it leaves nothing that the other --health flags could say"));
        }
        if self.command.as_ref().is_some_and(|line| line.len() > COMMAND_BYTES_MAX || line.contains('\0')) {
            return Err(("--health-cmd", "it is longer than 16 KiB, or holds a NUL byte"));
        }
        if outside(self.interval_ms, INTERVAL_MS_MIN, DAY_MS) {
            return Err(("--health-interval", "it goes from 1 s to 24 h"));
        }
        if outside(self.timeout_ms, TIMEOUT_MS_MIN, TIMEOUT_MS_MAX) {
            return Err(("--health-timeout", "it goes from 100 ms to 1 h"));
        }
        if outside(self.start_period_ms, 0, DAY_MS) {
            return Err(("--health-start-period", "it goes up to 24 h"));
        }
        if outside(self.start_interval_ms, INTERVAL_MS_MIN, DAY_MS) {
            return Err(("--health-start-interval", "it goes from 1 s to 24 h"));
        }
        match self.retries {
            Some(retries) if !(1..=RETRIES_MAX).contains(&retries) => {
                Err(("--health-retries", "they go from 1 to 1000"))
            }
            _ => Ok(()),
        }
    }

    /// Says something that only makes sense where there is something to ask.
    pub fn asks(&self) -> bool {
        !self.disabled && *self != HealthOptions::default()
    }

    /// With what the image says; `None`: nobody is asked anything.
    pub fn with(&self, image: &ImageConfig) -> Option<HealthCheck> {
        if self.disabled {
            return None;
        }
        let silent = ImageHealth::default();
        let theirs = image.health.as_ref().unwrap_or(&silent);
        let shell = |line: &str| {
            let own = SHELL.map(str::to_owned).to_vec();
            let shell = if image.shell.is_empty() { own } else { image.shell.clone() };
            [shell, vec![line.to_owned()]].concat()
        };
        let program = match &self.command {
            Some(line) => shell(line),
            None => match theirs.test.split_first() {
                Some((kind, [line])) if kind == "CMD-SHELL" => shell(line),
                Some((kind, program)) if kind == "CMD" => program.to_vec(),
                // NONE, and what docker does not know either.
                _ => return None,
            },
        };
        if program.first().is_none_or(String::is_empty) {
            return None;
        }
        // An image that asks for nonsense is asked all the same.
        let of = |own: Option<u64>, theirs: u64, default: u64, [min, max]: [u64; 2]| {
            own.unwrap_or(if theirs == 0 { default } else { theirs }).clamp(min, max)
        };
        let retries = if theirs.retries == 0 { RETRIES_DEFAULT } else { theirs.retries };
        let every = [INTERVAL_MS_MIN, DAY_MS];
        Some(HealthCheck {
            program,
            interval_ms: of(self.interval_ms, theirs.interval_ms, INTERVAL_MS_DEFAULT, every),
            timeout_ms: of(self.timeout_ms, theirs.timeout_ms, TIMEOUT_MS_DEFAULT, [TIMEOUT_MS_MIN, TIMEOUT_MS_MAX]),
            start_period_ms: of(self.start_period_ms, theirs.start_period_ms, 0, [0, DAY_MS]),
            start_interval_ms: of(self.start_interval_ms, theirs.start_interval_ms, START_INTERVAL_MS_DEFAULT, every),
            retries: self.retries.unwrap_or(retries).clamp(1, RETRIES_MAX),
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    #[default]
    Starting,
    Healthy,
    Unhealthy,
}

impl Status {
    pub fn name(self) -> &'static str {
        match self {
            Status::Starting => "starting",
            Status::Healthy => "healthy",
            Status::Unhealthy => "unhealthy",
        }
    }
}

/// One that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    pub started_ms: u64,
    pub ended_ms: u64,
    /// -1 where it did not end in time or could not be run.
    pub code: i32,
    pub output: String,
}

/// Of a container that runs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Health {
    pub status: Status,
    pub failing_streak: u32,
    /// The last ones, the oldest first.
    pub probes: VecDeque<Probe>,
}

impl Health {
    /// Its new status, if it has changed. `since_ms` is when the container was started.
    pub fn take(&mut self, check: &HealthCheck, since_ms: u64, probe: Probe) -> Option<Status> {
        let before = self.status;
        if probe.code == 0 {
            (self.status, self.failing_streak) = (Status::Healthy, 0);
        } else if !(before == Status::Starting && check.is_starting(since_ms, probe.started_ms)) {
            self.failing_streak = self.failing_streak.saturating_add(1);
            if self.failing_streak >= check.retries {
                self.status = Status::Unhealthy;
            }
        }
        self.probes.push_back(probe);
        while self.probes.len() > PROBES_KEPT {
            self.probes.pop_front();
        }
        (self.status != before).then_some(self.status)
    }

    /// From now to the next probe.
    pub fn pause(&self, check: &HealthCheck, since_ms: u64, now_ms: u64) -> Duration {
        match self.status == Status::Starting && check.is_starting(since_ms, now_ms) {
            true => Duration::from_millis(check.start_interval_ms),
            false => Duration::from_millis(check.interval_ms),
        }
    }
}

impl HealthCheck {
    fn is_starting(&self, since_ms: u64, now_ms: u64) -> bool {
        now_ms.saturating_sub(since_ms) < self.start_period_ms
    }

    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

/// The beginning of what a probe wrote, as text.
pub fn text(bytes: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(&bytes[..bytes.len().min(OUTPUT_BYTES_MAX)]).into_owned();
    let end = (0..=OUTPUT_BYTES_MAX.min(text.len())).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(test: &[&str], interval_ms: u64) -> ImageConfig {
        let test = test.iter().map(ToString::to_string).collect();
        let health = ImageHealth { test, interval_ms, retries: 5, ..ImageHealth::default() };
        ImageConfig { health: Some(health), ..ImageConfig::default() }
    }

    fn probe(code: i32, started_ms: u64) -> Probe {
        Probe { started_ms, ended_ms: started_ms + 1, code, output: String::new() }
    }

    fn check(start_period_ms: u64) -> HealthCheck {
        let options = HealthOptions {
            command: Some("true".into()),
            start_period_ms: Some(start_period_ms),
            ..Default::default()
        };
        options.with(&ImageConfig::default()).unwrap()
    }

    #[test]
    fn what_is_said_goes_before_the_image_and_that_before_the_defaults() {
        let none = HealthOptions::default();
        assert_eq!(none.with(&ImageConfig::default()), None);
        let of_image = none.with(&image(&["CMD", "ask", "-x"], 0)).unwrap();
        assert_eq!(of_image.program, ["ask", "-x"]);
        assert_eq!((of_image.interval_ms, of_image.timeout_ms, of_image.retries), (30_000, 30_000, 5));
        assert_eq!((of_image.start_period_ms, of_image.start_interval_ms), (0, 5_000));
        let own = HealthOptions { retries: Some(1), command: Some("a b".into()), ..Default::default() };
        let both = own.with(&image(&["CMD-SHELL", "ask"], 7_000)).unwrap();
        assert_eq!((both.program.join("|").as_str(), both.interval_ms, both.retries), ("/bin/sh|-c|a b", 7_000, 1));
        let bash = ImageConfig { shell: vec!["bash".into(), "-ec".into()], ..image(&["CMD-SHELL", "ask"], 1) };
        let bash = none.with(&bash).unwrap();
        assert_eq!((bash.program.join("|").as_str(), bash.interval_ms), ("bash|-ec|ask", 1_000), "never so often");
        for nothing in [&["NONE"][..], &[], &["CMD"], &["CMD", ""], &["CMD-SHELL"], &["OTHER", "x"]] {
            assert_eq!(none.with(&image(nothing, 0)), None, "{nothing:?}");
        }
        let disabled = HealthOptions { disabled: true, ..Default::default() };
        assert_eq!(disabled.with(&image(&["CMD", "ask"], 0)), None);
        assert!(HealthOptions { retries: Some(2), ..disabled }.check().is_err() && own.check().is_ok());
    }

    #[test]
    fn bounds_are_told_by_flag() {
        let with = |options: HealthOptions| options.check().unwrap_err().0;
        assert_eq!(with(HealthOptions { interval_ms: Some(999), ..Default::default() }), "--health-interval");
        assert_eq!(with(HealthOptions { timeout_ms: Some(0), ..Default::default() }), "--health-timeout");
        assert_eq!(
            with(HealthOptions { start_period_ms: Some(u64::MAX), ..Default::default() }),
            "--health-start-period"
        );
        assert_eq!(with(HealthOptions { start_interval_ms: Some(1), ..Default::default() }), "--health-start-interval");
        assert_eq!(with(HealthOptions { retries: Some(0), ..Default::default() }), "--health-retries");
        let long = Some("x".repeat(COMMAND_BYTES_MAX + 1));
        assert_eq!(with(HealthOptions { command: long, ..Default::default() }), "--health-cmd");
    }

    #[test]
    fn three_failures_in_a_row_make_it_unhealthy_and_one_success_well() {
        let (check, mut health) = (check(0), Health::default());
        let mut told = Vec::new();
        for (at, code) in [1, 1, 0, 1, 1, -1, 1, 0].into_iter().enumerate() {
            told.push(health.take(&check, 0, probe(code, at as u64)));
        }
        let (well, ill) = (Some(Status::Healthy), Some(Status::Unhealthy));
        assert_eq!(told, [None, None, well, None, None, ill, None, well]);
        assert_eq!((health.failing_streak, health.probes.len(), health.probes[0].started_ms), (0, PROBES_KEPT, 3));
    }

    #[test]
    fn failures_of_its_start_do_not_count_until_it_was_well() {
        let (check, mut health) = (check(1_000), Health::default());
        let ms = |health: &Health, now_ms| health.pause(&check, 100, now_ms).as_millis();
        for at in 0..10 {
            assert_eq!(health.take(&check, 100, probe(1, 100 + at)), None);
        }
        assert_eq!((health.failing_streak, ms(&health, 1_099), ms(&health, 1_100)), (0, 5_000, 30_000));
        assert_eq!(health.take(&check, 100, probe(0, 200)), Some(Status::Healthy));
        assert_eq!(ms(&health, 201), 30_000);
        for at in 0..2 {
            assert_eq!(health.take(&check, 100, probe(1, 300 + at)), None);
        }
        assert_eq!(health.take(&check, 100, probe(1, 400)), Some(Status::Unhealthy), "it had begun well");
    }

    #[test]
    fn output_is_text_of_so_many_bytes() {
        assert_eq!(text(b"fine\n"), "fine\n");
        assert!(text(&[0xff; 10_000]).len() <= OUTPUT_BYTES_MAX);
        assert_eq!(text("é".repeat(5_000).as_bytes()).len(), OUTPUT_BYTES_MAX);
    }
}
