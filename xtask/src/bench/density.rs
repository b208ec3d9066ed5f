//! `bench density`: many containers that run and do nothing, each in a VPC, and what they take beside their own processes: of the machine's
//! memory, of the daemon's, of its time at rest, and of whoever asks for all of them. Refuses to start them faster than a machine likes.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::report::{self, Figure};
use crate::build::{self, Profile};
use crate::host::{Host, Variety};
use crate::interrupt;
use crate::process::{output, shown};

const CONTAINERS: u32 = 1000;
/// At a time.
const AT_ONCE: u32 = 8;
/// For what was started to have settled, the pool of parked inits too.
const SETTLE: Duration = Duration::from_secs(15);
const REST: Duration = Duration::from_secs(20);
const LOOKS: usize = 7;
const METRICS_PORT: u16 = 9477;
/// Ticks of /proc/PID/stat in a second.
const TICKS: f64 = 100.0;

#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    pub(super) common: super::Common,
    /// Containers
    #[arg(long, default_value_t = CONTAINERS)]
    containers: u32,
}

pub fn run(root: &Path, options: &Options) -> Result<()> {
    let layout = build::image(root, Profile::Release, "busybox")?;
    // In a namespace of its own, where nobody else has it.
    let config = format!("metrics_listen = '127.0.0.1:{METRICS_PORT}'");
    let variety = Variety { ranges: 2048, config: &config, ..Variety::default() };
    let host = Host::start_as(root, Profile::Release, "density", variety)?;
    output(host.cc().args(["vpc", "create", "--cidr", "10.80.0.0/16", "--name", "bench"]))?;
    let image = host.load(&layout)?;
    let setup = format!("{} of cc run -d --image busybox --vpc bench sleep 100000", options.containers);
    let alone = |figure: &str, unit, value| Figure::alone(figure, unit, value, &setup);

    let (free_before, began) = (available_kib()?, Instant::now());
    start_all(&host, &image, options.containers)?;
    let rate = f64::from(options.containers) / began.elapsed().as_secs_f64();
    std::thread::sleep(SETTLE);
    let taken = free_before - available_kib()?;
    let count = f64::from(options.containers);
    let (shims, inits) = processes(&host, options.containers)?;
    let (shims, own) = (pss_kib(&shims)?, pss_kib(&inits)?);
    let mut figures = vec![
        alone("containers started in a second", "1/s", rate),
        alone("memory of a container beside its own process", "KiB", (taken - own) / count),
        alone("of that, its shim", "KiB", shims / count),
        alone("its own process, not counted", "KiB", own / count),
        alone("memory of the daemon", "MiB", resident_kib(host.pid()?)? / 1024.0),
    ];
    for (what, args) in [("cc ps", ["ps", "--json"]), ("cc stats (a second of it is its look)", ["stats", "--once"])] {
        figures.push(alone(&format!("{what} of all"), "ms", looked(|| output(host.cc().args(args)).map(drop))?));
    }
    figures.push(alone("/metrics of all", "ms", looked(|| scrape(&host))?));
    let ticks = cpu_ticks(host.pid()?)?;
    std::thread::sleep(REST);
    let used = (cpu_ticks(host.pid()?)? - ticks) / TICKS / REST.as_secs_f64() * 100.0;
    figures.push(alone("the daemon at rest", "% of a CPU", used));
    let began = Instant::now();
    remove_all(&host)?;
    figures.push(alone("removal of all", "s", began.elapsed().as_secs_f64()));
    report::print(&figures, options.common.json)
}

fn start_all(host: &Host, image: &str, count: u32) -> Result<()> {
    let start = |share: u32| -> Result<()> {
        for _ in 0..share {
            interrupt::check()?;
            output(host.cc().args(["run", "-d", "--image", image, "--vpc", "bench", "sleep", "100000"]))?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let share = |index: u32| count / AT_ONCE + u32::from(index < count % AT_ONCE);
        let workers: Vec<_> = (0..AT_ONCE).map(|index| scope.spawn(move || start(share(index)))).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().map_err(|_| anyhow::anyhow!("a worker has panicked"))?)
    })
}

fn remove_all(host: &Host) -> Result<()> {
    let all = output(host.cc().args(["ps", "-a", "-q"]))?;
    let ids: Vec<&str> = all.split_whitespace().collect();
    ids.chunks(200).try_for_each(|ids| output(host.cc().args(["rm", "-f"]).args(ids)).map(drop))
}

/// The median of some looks, in milliseconds.
fn looked(look: impl Fn() -> Result<()>) -> Result<f64> {
    let mut millis = Vec::with_capacity(LOOKS);
    for _ in 0..LOOKS {
        let began = Instant::now();
        look()?;
        millis.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(report::at(&millis, 0.5))
}

/// By `curl` in the daemon's namespace, whose loopback it listens on.
fn scrape(host: &Host) -> Result<()> {
    let url = format!("http://127.0.0.1:{METRICS_PORT}/metrics");
    let mut curl = host.netns().command("curl");
    curl.args(["--silent", "--fail", "--noproxy", "*", "--output", "/dev/null", &url]).stdin(Stdio::null());
    let status = curl.status().with_context(|| format!("cannot run {}", shown(&curl)))?;
    ensure!(status.success(), "{}: {status}", shown(&curl));
    Ok(())
}

/// The pids of all shims and of all first processes.
fn processes(host: &Host, count: u32) -> Result<(Vec<i64>, Vec<i64>)> {
    let dir = host.file("run/containers");
    let (mut shims, mut inits) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?.flatten() {
        if !entry.path().join("spec.json").exists() {
            // It is parked.
            continue;
        }
        let state = std::fs::read(entry.path().join("state.json")).context("a container has no state")?;
        let state: serde_json::Value =
            serde_json::from_slice(&state).context("a shim wrote a state that is no JSON")?;
        shims.push(state["shim"]["pid"].as_i64().context("a state names no shim")?);
        inits.push(state["init"]["pid"].as_i64().context("a state names no first process")?);
    }
    ensure!(shims.len() == count as usize, "{} containers run, not {count}", shims.len());
    Ok((shims, inits))
}

/// What each has alone, and its part of what several have.
fn pss_kib(pids: &[i64]) -> Result<f64> {
    pids.iter().try_fold(0.0, |sum, pid| Ok(sum + field_kib(&format!("/proc/{pid}/smaps_rollup"), "Pss:")?))
}

fn resident_kib(pid: u32) -> Result<f64> {
    field_kib(&format!("/proc/{pid}/status"), "VmRSS:")
}

fn available_kib() -> Result<f64> {
    field_kib("/proc/meminfo", "MemAvailable:")
}

fn field_kib(file: &str, name: &str) -> Result<f64> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
    let line =
        text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("{file} has no {name}"))?;
    line.split_whitespace().next().unwrap_or_default().parse().with_context(|| format!("{file}: {name}{line}"))
}

fn cpu_ticks(pid: u32) -> Result<f64> {
    let file = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
    // Counted from the state, which follows the name: the 14th and 15th field.
    let mut fields = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().skip(11);
    let mut next = || fields.next().and_then(|field| field.parse::<f64>().ok()).context("it has too few fields");
    Ok(next()? + next()?)
}
