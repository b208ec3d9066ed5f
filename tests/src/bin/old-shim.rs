//! A shim of protocol version 1 as it was when that was frozen, by its bytes alone: what a later daemon has to get along with. Refuses to
//! share a line with the shim that we build: what is changed there must not change here.
//!
//! It reads of spec.json what it needs and passes over the rest. Its container has a network, mounts and a cgroup of its own, no more.

use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Pid, Uid, dup2_stderr, dup2_stdout, execve, fork, pipe, setgid, setgroups, setuid};
use serde_json::Value;

const JSON: u8 = 0;
const STDOUT: u8 = 2;
const STDERR: u8 = 3;

fn main() -> Result<()> {
    let dir = PathBuf::from(std::env::args_os().nth(1).context("usage: old-shim DIR")?);
    let spec: Value = serde_json::from_slice(&std::fs::read(dir.join("spec.json"))?)?;
    if let Some(cgroup) = spec["cgroup_shim"].as_str() {
        std::fs::write(Path::new(cgroup).join("cgroup.procs"), std::process::id().to_string())?;
    }
    let _ = nix::unistd::setsid();
    write_state(&dir, None)?;
    let listener = UnixListener::bind(dir.join("shim.sock"))?;
    let container = Container::make(&spec)?;
    write_state(&dir, Some(container.pid))?;
    std::io::stdout().write_all(b"ready\n")?;
    std::io::stdout().flush()?;
    serve(&dir, &spec, listener, container)
}

/// A child that waits for a byte before it runs the program.
struct Container {
    pid: Pid,
    go: OwnedFd,
    outputs: [OwnedFd; 2],
}

impl Container {
    fn make(spec: &Value) -> Result<Container> {
        let (go_read, go) = pipe()?;
        let (stdout, stdout_write) = pipe()?;
        let (stderr, stderr_write) = pipe()?;
        // SAFETY: this program has started no thread yet.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(Container { pid: child, go, outputs: [stdout, stderr] }),
            ForkResult::Child => {
                drop((go, stdout, stderr));
                dup2_stdout(&stdout_write)?;
                dup2_stderr(&stderr_write)?;
                drop((stdout_write, stderr_write));
                let error = become_program(spec, go_read);
                eprintln!("old-shim: {error:?}");
                std::process::exit(127)
            }
        }
    }
}

fn become_program(spec: &Value, go: OwnedFd) -> Result<std::convert::Infallible> {
    let text = |value: &Value| value.as_str().map(str::to_owned).context("the specification lacks a string");
    let list = |value: &Value| -> Result<Vec<CString>> {
        value
            .as_array()
            .context("the specification lacks a list")?
            .iter()
            .map(|v| Ok(CString::new(text(v)?)?))
            .collect()
    };
    let pid = std::process::id().to_string();
    std::fs::write(Path::new(&text(&spec["cgroup_v2"])?).join("cgroup.procs"), &pid)?;
    for tasks in list(&spec["cgroup_tasks"])? {
        std::fs::write(tasks.to_str()?, &pid)?;
    }
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC)?;
    let layers = spec["rootfs"]["layers"].as_array().context("it names no layers")?;
    std::os::unix::fs::chroot(text(layers.last().context("it has no layer")?)?)?;
    std::env::set_current_dir("/")?;
    let id = u32::try_from(spec["id_base"].as_u64().context("it has no ids")?)?;
    setgroups(&[])?;
    setgid(Gid::from_raw(id))?;
    setuid(Uid::from_raw(id))?;
    // After the change of ids, which takes it back.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    // Until somebody says start; where nobody does, there is nothing to run.
    if File::from(go).read(&mut [0])? == 0 {
        bail!("nobody started it");
    }
    let (args, mut env) = (list(&spec["args"])?, list(&spec["env"])?);
    env.push(c"PATH=/bin:/usr/bin:/sbin:/usr/sbin".to_owned());
    let program = args.first().context("it names no program")?.to_str()?.to_owned();
    let places = ["/bin", "/usr/bin", "/sbin"].map(|dir| Path::new(dir).join(&program));
    let place = places.iter().find(|place| place.exists()).context("there is no such program")?;
    Ok(execve(&CString::new(place.to_str().context("a path is text")?)?, &args, &env)?)
}

/// Whoever is connected, and who of them has the output.
#[derive(Default)]
struct Clients {
    all: Vec<UnixStream>,
    attached: Vec<UnixStream>,
}

fn serve(dir: &Path, spec: &Value, listener: UnixListener, container: Container) -> Result<()> {
    let clients = Arc::new(Mutex::new(Clients::default()));
    let pid = container.pid;
    let go = Arc::new(Mutex::new(Some(File::from(container.go))));
    let accepting = Arc::clone(&clients);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (clients, go) = (Arc::clone(&accepting), Arc::clone(&go));
            // One that breaks the protocol, or goes, is let go.
            std::thread::spawn(move || converse(stream, pid, &clients, &go));
        }
    });
    let log = Arc::new(Mutex::new(
        File::options()
            .create(true)
            .append(true)
            .open(spec["log"]["path"].as_str().context("the specification names no log")?)?,
    ));
    let [stdout, stderr] = container.outputs;
    let pumps = [(stdout, STDOUT, "stdout"), (stderr, STDERR, "stderr")].map(|(output, kind, name)| {
        let (clients, log) = (Arc::clone(&clients), Arc::clone(&log));
        std::thread::spawn(move || pump(output.into(), kind, name, &clients, &log))
    });
    let (code, signal) = match waitpid(pid, None)? {
        WaitStatus::Exited(_, code) => (code, Value::Null),
        WaitStatus::Signaled(_, signal, _) => (128 + signal as i32, (signal as i32).into()),
        other => bail!("the container's end is {other:?}"),
    };
    pumps.into_iter().for_each(|pump| pump.join().expect("a pump does not panic"));
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    let record = format!(r#"{{"code":{code},"signal":{signal},"finished_ms":{now_ms},"log_dropped":0}}"#);
    std::fs::write(dir.join("exit.json.new"), &record)?;
    std::fs::rename(dir.join("exit.json.new"), dir.join("exit.json"))?;
    let clients = clients.lock().expect("nobody panics while holding it");
    for mut client in &clients.all {
        // Some may have gone.
        let _ = client.write_all(&frame(JSON, format!(r#"{{"type":"exited","record":{record}}}"#).as_bytes()));
        let _ = client.shutdown(Shutdown::Write);
    }
    Ok(())
}

/// As version 1 has it, until the client goes.
fn converse(mut stream: UnixStream, pid: Pid, clients: &Mutex<Clients>, go: &Mutex<Option<File>>) -> Result<()> {
    let say = |mut stream: &UnixStream, text: &str| stream.write_all(&frame(JSON, text.as_bytes()));
    say(&stream, r#"{"type":"hello","version":1}"#)?;
    say(&stream, &format!(r#"{{"type":"created","pid":{pid}}}"#))?;
    if read_frame(&mut stream)? != (JSON, br#"{"type":"hello","version":1}"#.to_vec()) {
        bail!("it does not speak version 1");
    }
    let locked = || clients.lock().expect("nobody panics while holding it");
    locked().all.push(stream.try_clone()?);
    loop {
        let (kind, body) = read_frame(&mut stream)?;
        match (kind, body.as_slice()) {
            (JSON, br#"{"type":"start"}"#) => {
                if let Some(mut go) = go.lock().expect("nobody panics while holding it").take() {
                    go.write_all(b"g")?;
                }
                say(&stream, r#"{"type":"started"}"#)?;
            }
            (JSON, br#"{"type":"attach","stdin":false}"# | br#"{"type":"attach","stdin":true}"#) => {
                let mut clients = locked();
                say(&stream, r#"{"type":"attached"}"#)?;
                clients.attached.push(stream.try_clone()?);
            }
            (JSON, br#"{"type":"stdin_eof"}"#) | (1, _) => {}
            (JSON, br#"{"type":"state"}"#) => say(&stream, r#"{"type":"state","state":"running"}"#)?,
            (JSON, text) if text.starts_with(br#"{"type":"signal","signal":"#) => {
                let number = &text[br#"{"type":"signal","signal":"#.len()..text.len() - 1];
                let signal = Signal::try_from(std::str::from_utf8(number)?.parse::<i32>()?)?;
                let delivered = kill(pid, signal).is_ok();
                say(&stream, &format!(r#"{{"type":"signalled","delivered":{delivered}}}"#))?;
            }
            (kind, body) => bail!("version 1 has no {kind} {:?}", String::from_utf8_lossy(body)),
        }
    }
}

fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 1).expect("frames are small");
    [&length.to_le_bytes()[..], &[kind], body].concat()
}

fn read_frame(stream: &mut UnixStream) -> Result<(u8, Vec<u8>)> {
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    let length = u32::from_le_bytes(head) as usize;
    if !(1..=65_536).contains(&length) {
        bail!("a frame has no {length} bytes");
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes)?;
    Ok((bytes[0], bytes.split_off(1)))
}

/// Each line to the log, and what comes as it comes to whoever is attached.
fn pump(mut output: File, kind: u8, name: &str, clients: &Mutex<Clients>, log: &Mutex<File>) {
    let mut pending = Vec::new();
    let mut bytes = vec![0; 32 << 10];
    while let Ok(count @ 1..) = output.read(&mut bytes) {
        for mut client in &clients.lock().expect("nobody panics while holding it").attached {
            let _ = client.write_all(&frame(kind, &bytes[..count]));
        }
        pending.extend_from_slice(&bytes[..count]);
        while let Some(end) = pending.iter().position(|&b| b == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let record = [b"2026-01-02T03:04:05.000000006Z ", name.as_bytes(), b" F ", &line].concat();
            let _ = log.lock().expect("nobody panics while holding it").write_all(&record);
        }
    }
}

fn write_state(dir: &Path, init: Option<Pid>) -> Result<()> {
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let process = |pid: i32| -> Result<String> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields = stat.rsplit_once(')').context("a stat has a name")?.1;
        let ticks = fields.split_ascii_whitespace().nth(19).context("a stat has a start time")?;
        Ok(format!(r#"{{"pid":{pid},"start_ticks":{ticks}}}"#))
    };
    let shim = process(std::process::id().cast_signed())?;
    let init = init.map_or_else(|| Ok("null".to_owned()), |pid| process(pid.as_raw()))?;
    let state = format!(r#"{{"boot_id":"{}","shim":{shim},"init":{init}}}"#, boot_id.trim());
    std::fs::write(dir.join("state.json.new"), state)?;
    Ok(std::fs::rename(dir.join("state.json.new"), dir.join("state.json"))?)
}
