//! `linux.resources.cpu`. Refuses real-time limits on v2, which has none.

use oci_spec::runtime::LinuxCpu;

use super::OciError;
use super::place::Place;

const QUOTA: &str = "linux.resources.cpu.quota";
const PERIOD: &str = "linux.resources.cpu.period";
/// The kernel's, of who says nothing.
const PERIOD_DEFAULT_US: u64 = 100_000;

/// What the controller `cpu` does.
pub fn apply(place: &Place, cpu: &LinuxCpu) -> Result<(), OciError> {
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        let (file, value) = if place.is_v2 { ("cpu.weight", weight(shares)) } else { ("cpu.shares", shares) };
        place.set("linux.resources.cpu.shares", file, value)?;
    }
    // Behind the weight, which an idle one does not take.
    if let Some(idle) = cpu.idle() {
        place.set("linux.resources.cpu.idle", "cpu.idle", idle)?;
    }
    let (quota, period) = (cpu.quota().filter(|quota| *quota != 0), cpu.period().filter(|period| *period != 0));
    if place.is_v2 {
        unified(place, quota, period)?
    } else {
        legacy(place, quota, period)?
    }
    if let Some(burst) = cpu.burst() {
        let file = if place.is_v2 { "cpu.max.burst" } else { "cpu.cfs_burst_us" };
        place.set("linux.resources.cpu.burst", file, burst)?;
    }
    real_time(place, cpu)
}

/// What the controller `cpuset` does.
pub fn apply_set(place: &Place, cpu: &LinuxCpu) -> Result<(), OciError> {
    for (name, value) in [("cpus", cpu.cpus()), ("mems", cpu.mems())] {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            place.set(&format!("linux.resources.cpu.{name}"), &format!("cpuset.{name}"), value)?;
        }
    }
    Ok(())
}

pub fn wants_set(cpu: &LinuxCpu) -> bool {
    [cpu.cpus(), cpu.mems()].into_iter().flatten().any(|value| !value.is_empty())
}

pub fn wants_time(cpu: &LinuxCpu) -> bool {
    // Zero is "not said", but for these two: it takes back what was.
    if cpu.idle().is_some() || cpu.burst().is_some() {
        return true;
    }
    let numbers = [cpu.shares(), cpu.period(), cpu.realtime_period()];
    let signed = [cpu.quota(), cpu.realtime_runtime()];
    numbers.into_iter().flatten().any(|value| value != 0) || signed.into_iter().flatten().any(|value| value != 0)
}

/// From 2..=262144 to 1..=10000, in a straight line, as runc 1.2 and crun have it.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

fn unified(place: &Place, quota: Option<i64>, period: Option<u64>) -> Result<(), OciError> {
    if quota.is_none() && period.is_none() {
        return Ok(());
    }
    let now = place.read("cpu.max").unwrap_or_default();
    let mut now = now.split(' ');
    let (old_quota, old_period) = (now.next().filter(|text| !text.is_empty()), now.next());
    let quota_text = match quota {
        Some(quota) if quota > 0 => quota.to_string(),
        Some(_) => "max".to_owned(),
        None => old_quota.unwrap_or("max").to_owned(),
    };
    let period = period.or_else(|| old_period?.parse().ok()).unwrap_or(PERIOD_DEFAULT_US);
    place.set(if quota.is_some() { QUOTA } else { PERIOD }, "cpu.max", format!("{quota_text} {period}"))
}

/// The kernel refuses a part of the new that the old other part makes too much: then it is the other one first.
fn legacy(place: &Place, quota: Option<i64>, period: Option<u64>) -> Result<(), OciError> {
    let set_quota = || quota.map_or(Ok(()), |quota| place.set(QUOTA, "cpu.cfs_quota_us", quota));
    let set_period = || period.map_or(Ok(()), |period| place.set(PERIOD, "cpu.cfs_period_us", period));
    let first = set_period();
    set_quota()?;
    if first.is_err() && quota.is_some() { set_period() } else { first }
}

fn real_time(place: &Place, cpu: &LinuxCpu) -> Result<(), OciError> {
    let period = cpu.realtime_period().filter(|period| *period != 0);
    let runtime = cpu.realtime_runtime().filter(|runtime| *runtime != 0);
    const PERIOD: &str = "linux.resources.cpu.realtimePeriod";
    const RUNTIME: &str = "linux.resources.cpu.realtimeRuntime";
    if place.is_v2 && (period.is_some() || runtime.is_some()) {
        let field = if period.is_some() { PERIOD } else { RUNTIME };
        return Err(OciError::Unsupported { field: field.to_owned(), why: "cgroup v2 has nothing like it" });
    }
    let set_period = || period.map_or(Ok(()), |period| place.set(PERIOD, "cpu.rt_period_us", period));
    let first = set_period();
    if let Some(runtime) = runtime {
        place.set(RUNTIME, "cpu.rt_runtime_us", runtime)?;
    }
    if first.is_err() && runtime.is_some() { set_period() } else { first }
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::LinuxCpuBuilder;

    use super::super::tests::place;
    use super::*;

    #[test]
    fn shares_become_a_weight_as_elsewhere() {
        for (shares, wanted) in [(1, 1), (2, 1), (1024, 39), (512, 20), (262_144, 10_000), (u64::MAX, 10_000)] {
            assert_eq!(weight(shares), wanted, "{shares}");
        }
    }

    #[test]
    fn v2() {
        let (_dir, place) =
            place(true, &["cpu.max", "cpu.weight", "cpu.max.burst", "cpu.idle", "cpuset.cpus", "cpuset.mems"]);
        let builder = LinuxCpuBuilder::default;
        let max = |cpu: LinuxCpuBuilder| {
            apply(&place, &cpu.build().unwrap()).unwrap();
            place.read("cpu.max").unwrap()
        };
        assert_eq!(max(builder().quota(5000)), "5000 100000");
        assert_eq!(max(builder().period(20_000u64)), "5000 20000");
        assert_eq!(max(builder().quota(-1)), "max 20000");
        assert_eq!(max(builder().quota(1).period(2u64).shares(1024u64).burst(1u64).idle(1)), "1 2");
        assert_eq!(
            (place.read("cpu.weight").unwrap(), place.read("cpu.max.burst").unwrap()),
            ("39".into(), "1".into())
        );
        let error = apply(&place, &builder().realtime_runtime(5).build().unwrap()).unwrap_err().to_string();
        assert!(error.contains("realtimeRuntime"), "{error}");
        apply_set(&place, &builder().cpus("0-1").mems("0").build().unwrap()).unwrap();
        assert_eq!(
            (place.read("cpuset.cpus").unwrap(), place.read("cpuset.mems").unwrap()),
            ("0-1".into(), "0".into())
        );
    }

    #[test]
    fn v1() {
        let files = ["cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.rt_runtime_us", "cpu.rt_period_us"];
        let (_dir, place) = place(false, &files);
        let cpu =
            LinuxCpuBuilder::default().shares(7u64).quota(-1).period(9u64).realtime_runtime(3).realtime_period(4u64);
        apply(&place, &cpu.build().unwrap()).unwrap();
        let all: Vec<String> = files.iter().map(|file| place.read(file).unwrap()).collect();
        assert_eq!(all, ["7", "-1", "9", "3", "4"]);
        let burst = LinuxCpuBuilder::default().burst(1u64).build().unwrap();
        assert!(apply(&place, &burst).unwrap_err().to_string().contains("cpu.burst"));
        let zero = |text: &str| wants_time(&serde_json::from_str(text).unwrap());
        assert!(zero(r#"{"idle":0}"#) && zero(r#"{"burst":0}"#) && !zero(r#"{"shares":0,"quota":0}"#));
        assert!(!wants_time(&LinuxCpuBuilder::default().cpus("0").build().unwrap()) && wants_time(&burst));
    }
}
