//! Inside: the first program of an emulated machine makes what a host has, starts itself again for the work, reaps whoever has no parent, and
//! switches the machine off. Refuses to run anywhere else.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::{Pid, getpid};

use super::checks;
use super::told::{Check, Ended, PORT, Plan, Ran, Suite, Told, With};
use super::udev::Udev;
use crate::tally::{Tally, closing_line};

/// What a service manager gives.
const OPEN_FILES: (u64, u64) = (1024, 524_288);
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const LOOK_EVERY: Duration = Duration::from_millis(20);

#[derive(Debug, clap::Args)]
pub struct Options {
    plan: std::path::PathBuf,
}

pub fn run(options: &Options) -> Result<()> {
    let plan = std::fs::read(&options.plan).with_context(|| format!("cannot read {}", options.plan.display()))?;
    let plan: Plan = serde_json::from_slice(&plan).context("the plan is no JSON of ours")?;
    if getpid() != Pid::from_raw(1) {
        return work(&plan);
    }
    if let Err(error) = first(&plan, &options.plan) {
        eprintln!("guest: {error:#}");
    }
    let off = Command::new("busybox").args(["poweroff", "-f"]).status();
    bail!("cannot switch the machine off: {off:?}")
}

fn first(plan: &Plan, path: &Path) -> Result<()> {
    furnish(plan).context("cannot make a host of the machine")?;
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new(program);
    command.arg("guest").arg(path).env_clear();
    command.envs([("PATH", PATH), ("HOME", "/root"), ("LANG", "C.UTF-8"), ("TERM", "linux")]);
    let worker = command.current_dir(&plan.root).spawn().context("cannot start the worker")?;
    let worker = Pid::from_raw(worker.id().cast_signed());
    loop {
        match wait().context("cannot wait for processes")? {
            WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _) if pid == worker => return Ok(()),
            _ => {}
        }
    }
}

/// Mounts, modules and limits.
fn furnish(plan: &Plan) -> Result<()> {
    let release = nix::sys::utsname::uname().context("cannot ask for the kernel's release")?;
    let release = release.release().to_string_lossy().into_owned();
    filesystem("proc", "/proc", "proc", "")?;
    filesystem("sysfs", "/sys", "sys", "")?;
    filesystem("devtmpfs", "/dev", "dev", "")?;
    for dir in ["/dev/pts", "/dev/shm", "/dev/mqueue"] {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {dir}"))?;
    }
    filesystem("devpts", "/dev/pts", "pts", "mode=620,ptmxmode=666,gid=5")?;
    filesystem("tmpfs", "/dev/shm", "shm", "mode=1777")?;
    filesystem("mqueue", "/dev/mqueue", "mqueue", "")?;
    filesystem("tmpfs", "/run", "run", "mode=755")?;
    filesystem("cgroup2", "/sys/fs/cgroup", "cgroup", "")?;
    // As a service manager does.
    std::fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+cpuset +cpu +io +memory +pids")
        .context("cannot pass the controllers on")?;
    filesystem("bpf", "/sys/fs/bpf", "bpf", "mode=700")?;
    filesystem("tracefs", "/sys/kernel/tracing", "tracing", "")?;
    let modules = format!("/usr/lib/modules/{release}");
    std::fs::create_dir_all(&modules).with_context(|| format!("cannot make {modules}"))?;
    let theirs = plan.tree.join("lib/modules").join(&release);
    mount(Some(&theirs), modules.as_str(), None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("cannot mount {}", theirs.display()))?;
    for module in ["virtio_blk", "virtio_console"] {
        command("modprobe", &[module])?;
    }
    mount(Some("/dev/vda"), "/tmp", Some("ext4"), MsFlags::empty(), None::<&str>).context("cannot mount the disk")?;
    std::fs::set_permissions("/tmp", std::os::unix::fs::PermissionsExt::from_mode(0o1777))
        .context("/tmp is nobody's")?;
    for (link, target) in [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")] {
        std::os::unix::fs::symlink(target, Path::new("/dev").join(link)).context("cannot furnish /dev")?;
    }
    command("ip", &["link", "set", "lo", "up"])?;
    nix::unistd::sethostname("guest").context("cannot name the machine")?;
    setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES.0, OPEN_FILES.1).context("cannot limit open files")
}

fn filesystem(kind: &str, at: &str, source: &str, options: &str) -> Result<()> {
    mount(Some(source), at, Some(kind), MsFlags::empty(), Some(options)).with_context(|| format!("cannot mount {at}"))
}

fn command(program: &str, args: &[&str]) -> Result<()> {
    let status = Command::new(program).args(args).env("PATH", PATH).status();
    match status.with_context(|| format!("cannot start {program}"))?.success() {
        true => Ok(()),
        false => bail!("{program} {} failed", args.join(" ")),
    }
}

fn work(plan: &Plan) -> Result<()> {
    let teller = Teller::open()?;
    if let Err(error) = told(plan, &teller) {
        teller.tell(&Told::Failed(format!("{error:#}")));
        return Err(error);
    }
    teller.tell(&Told::Done);
    Ok(())
}

fn told(plan: &Plan, teller: &Teller) -> Result<()> {
    if let Some((program, args)) = &plan.instead {
        let mut command = Command::new(program);
        command.args(args).env("CC_TEST_PATIENCE", plan.patience.to_string());
        let (ended, _) = heard(plan, &mut command, "the program", teller)?;
        teller.tell(&Told::Check(Check { name: args.join(" "), ok: ended == Ended::Well, found: "ended".into() }));
        return Ok(());
    }
    if plan.refused {
        teller.tell(&Told::Check(checks::refusal(plan)?));
        return Ok(());
    }
    for check in checks::all(plan) {
        teller.tell(&Told::Check(check));
    }
    let (loaded, programs) = checks::loaded(plan);
    teller.tell(&Told::Check(loaded));
    programs.into_iter().for_each(|program| teller.tell(&Told::Program(program)));
    for suite in &plan.suites {
        let ran = one(plan, suite, teller)?;
        teller.tell(&Told::Ran(ran));
    }
    Ok(())
}

fn one(plan: &Plan, suite: &Suite, teller: &Teller) -> Result<Ran> {
    let mut command = Command::new(&suite.program);
    if !suite.tests.is_empty() {
        command.arg("--exact").args(&suite.tests);
    }
    command.current_dir(&suite.package_dir).env("CARGO_MANIFEST_DIR", &suite.package_dir);
    command.env("CC_BIN_DIR", &plan.bin_dir).env("CC_NO_SKIP", "1").env("CC_TEST_SEED", plan.seed.to_string());
    command.env("CC_TEST_PATIENCE", plan.patience.to_string()).env("PROPTEST_RNG_SEED", plan.seed.to_string());
    if let Some(with) = suite.with {
        command.env(with.variable(), with.name());
    }
    if let Some(clean) = &plan.clean {
        command.env("CC_DEBIAN", &clean.debian).env("CC_PACKAGE", &clean.package);
    }
    let udev = (suite.with == Some(With::Udev)).then(|| Udev::start(plan)).transpose()?;
    let began = Instant::now();
    let (ended, Tally { passed, failed, skipped }) = heard(plan, &mut command, &suite.name, teller)?;
    drop(udev);
    Ok(Ran { suite: suite.title(), passed, failed, skipped, seconds: began.elapsed().as_secs(), ended })
}

/// Runs it to its end, and tells what it says.
fn heard(plan: &Plan, command: &mut Command, name: &str, teller: &Teller) -> Result<(Ended, Tally)> {
    let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    command.stdin(Stdio::null()).stdout(writer.try_clone().context("cannot copy a pipe")?).stderr(writer);
    let began = Instant::now();
    let mut child = command.process_group(0).spawn().with_context(|| format!("cannot start {name}"))?;
    // The ends of the pipe that are the child's are here too.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let tally = Arc::new(Mutex::new(Tally::default()));
    let reading = {
        let (teller, tally) = (teller.clone(), Arc::clone(&tally));
        std::thread::spawn(move || {
            for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                if let Some(one) = closing_line(&line) {
                    *tally.lock().unwrap_or_else(PoisonError::into_inner) += one;
                }
                teller.tell(&Told::Output(line));
            }
        })
    };
    let limit = Duration::from_secs(plan.suite_limit_seconds);
    let ended = loop {
        match child.try_wait().context("cannot wait for a test")? {
            Some(status) if status.success() => break Ended::Well,
            Some(_) => break Ended::Badly,
            None if began.elapsed() > limit => {
                killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL).context("cannot end a test")?;
                child.wait().context("cannot wait for a test")?;
                break Ended::TooLate;
            }
            None => std::thread::sleep(LOOK_EVERY),
        }
    };
    // What a test left behind may hold the pipe: its words are not waited for.
    let patience = Instant::now();
    while !reading.is_finished() && patience.elapsed() < Duration::from_secs(2) {
        std::thread::sleep(LOOK_EVERY);
    }
    let tally = *tally.lock().unwrap_or_else(PoisonError::into_inner);
    Ok((ended, tally))
}

#[derive(Clone)]
struct Teller(Arc<Mutex<File>>);

impl Teller {
    fn open() -> Result<Teller> {
        let ports = std::fs::read_dir("/sys/class/virtio-ports").context("the machine has no ports")?;
        let is_ours = |dir: &Path| std::fs::read_to_string(dir.join("name")).is_ok_and(|name| name.trim() == PORT);
        let port = ports.flatten().map(|entry| entry.path()).find(|dir| is_ours(dir));
        let port = port.with_context(|| format!("the machine has no port {PORT}"))?;
        let device = Path::new("/dev").join(port.file_name().context("a port has no name")?);
        let file = File::options().write(true).open(&device);
        Ok(Teller(Arc::new(Mutex::new(file.with_context(|| format!("cannot open {}", device.display()))?))))
    }

    fn tell(&self, told: &Told) {
        let mut line = serde_json::to_vec(told).unwrap_or_default();
        line.push(b'\n');
        if let Err(error) = self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line) {
            // The console is what is left.
            eprintln!("guest: cannot tell: {error}");
        }
    }
}
