//! What the daemon itself costs, under the names that every Prometheus client uses. Refuses other processes: shims and
//! containers are not in it.

use std::io;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use rustix::process::{Resource, getrlimit};

use super::encoder::Encoder;
use super::family::{Family, Kind};
use super::registry::Collect;
use crate::auth::Scope;

static CPU: Family = Family::of_host(Kind::Counter, "process_cpu_seconds_total", "CPU time that the daemon used.", &[]);
static RESIDENT: Family =
    Family::of_host(Kind::Gauge, "process_resident_memory_bytes", "Resident memory of the daemon.", &[]);
static OPEN_FDS: Family = Family::of_host(Kind::Gauge, "process_open_fds", "The daemon's open descriptors.", &[]);
static MAX_FDS: Family = Family::of_host(Kind::Gauge, "process_max_fds", "Limit of the daemon's descriptors.", &[]);
static START: Family =
    Family::of_host(Kind::Gauge, "process_start_time_seconds", "When the daemon's process started, in Unix time.", &[]);
static FAMILIES: &[&Family] = &[&CPU, &RESIDENT, &OPEN_FDS, &MAX_FDS, &START];

pub struct ProcessFigures;

impl Collect for ProcessFigures {
    fn families(&self) -> &'static [&'static Family] {
        FAMILIES
    }

    fn collect(&self, out: &mut Encoder) {
        if *out.scope() != Scope::Host {
            return;
        }
        let figures = [
            (&CPU, cpu_seconds()),
            (&RESIDENT, resident_bytes()),
            (&OPEN_FDS, open_fds()),
            (&MAX_FDS, Ok(getrlimit(Resource::Nofile).current.map_or(0.0, |limit| limit as f64))),
            (&START, start_time_seconds()),
        ];
        for (family, value) in figures {
            match value {
                Ok(value) => out.add(family, &[], value),
                Err(error) => out.failed(family.name, &error),
            }
        }
    }
}

fn cpu_seconds() -> io::Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let used_us = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(used_us as f64 / 1e6)
}

fn resident_bytes() -> io::Result<f64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = field(&statm, 1)?;
    Ok((pages * rustix::param::page_size() as u64) as f64)
}

fn open_fds() -> io::Result<f64> {
    // One of them is this directory.
    Ok(std::fs::read_dir("/proc/self/fd")?.count().saturating_sub(1) as f64)
}

/// The kernel tells it in ticks since the machine started, and that as a time of the wall clock.
fn start_time_seconds() -> io::Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The name is in parentheses, may hold anything, and has fields 1 and 2 before its end.
    let behind_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = field(behind_name, 22 - 3)?;
    let kernel = std::fs::read_to_string("/proc/stat")?;
    let booted: u64 = field(kernel.lines().find(|line| line.starts_with("btime ")).unwrap_or_default(), 1)?;
    Ok(booted as f64 + ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

fn field(text: &str, at: usize) -> io::Result<u64> {
    let word = text.split_ascii_whitespace().nth(at).and_then(|word| word.parse().ok());
    word.ok_or_else(|| io::Error::other(format!("field {at} is not there")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_keep_the_conventions() {
        for family in FAMILIES {
            assert_eq!(family.fault(), None, "{}", family.name);
        }
    }

    #[test]
    fn our_own_process_is_measured() {
        let now = crate::ids::now_ms() as f64 / 1e3;
        let age = now - start_time_seconds().unwrap();
        assert!((-2.0..24.0 * 3600.0).contains(&age), "this test runs for {age} s");
        let resident = resident_bytes().unwrap();
        assert!((1e6..1e10).contains(&resident), "{resident}");
        let held = std::fs::File::open("/dev/null").unwrap();
        assert!(open_fds().unwrap() >= 4.0);
        drop(held);
        let start = cpu_seconds().unwrap();
        while cpu_seconds().unwrap() <= start {}
    }
}
