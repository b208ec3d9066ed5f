//! One bundle for one check of one runtime: its configuration, its commands with a limit of time, and its end. Refuses to leave a container, a cgroup
//! or a file.

use std::cell::RefCell;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::Contender;
use crate::process::{Said, within};

const WITHIN: Duration = Duration::from_secs(20);

pub struct Rig<'a> {
    pub contender: &'a Contender,
    pub dir: PathBuf,
    pub id: String,
    /// Below each hierarchy's root.
    pub cgroup: String,
    /// What was created, to be deleted.
    made: RefCell<Vec<String>>,
}

impl<'a> Rig<'a> {
    /// `template` is the root file system that it copies.
    pub fn new(contender: &'a Contender, dir: &Path, template: &Path, name: &str) -> Result<Rig<'a>> {
        let dir = dir.join(name);
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let done =
            Command::new("cp").arg("-a").arg(template).arg(dir.join("rootfs")).status().context("cannot run cp")?;
        ensure!(done.success(), "cannot copy the root file system");
        let id = format!("{}-{name}", contender.tag);
        let cgroup = format!("{}conformance-{}-{id}", crate::residue::PREFIX, std::process::id());
        Ok(Rig { contender, dir, id, cgroup, made: RefCell::new(Vec::new()) })
    }

    /// Of a shell script in busybox, which everything of the default is there for.
    pub fn config(&self, script: &str) -> Value {
        let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false,
                "user": {"uid": 0, "gid": 0},
                "args": ["sh", "-c", script],
                "env": ["PATH=/bin", "TERM=xterm"],
                "cwd": "/",
                "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
                "noNewPrivileges": true
            },
            "root": {"path": "rootfs", "readonly": false},
            "hostname": "conformance",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
                {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
                {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]}
            ],
            "linux": {
                "cgroupsPath": format!("/{}/inner", self.cgroup),
                "resources": {},
                "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}],
                "maskedPaths": ["/proc/kcore"],
                "readonlyPaths": ["/proc/sys"]
            }
        })
    }

    pub fn write(&self, config: &Value) -> Result<()> {
        let file = self.dir.join("config.json");
        std::fs::write(&file, config.to_string()).with_context(|| format!("cannot write {}", file.display()))
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.contender.command();
        command.arg("--root").arg(self.dir.join("state")).args(args).current_dir(&self.dir);
        command
    }

    /// A command of the runtime's, whatever comes of it.
    pub fn said(&self, args: &[&str]) -> Result<Said> {
        within(&mut self.command(args), WITHIN)
    }

    pub fn ok(&self, args: &[&str]) -> Result<String> {
        let said = self.said(args)?;
        ensure!(said.success, "{} failed: {}", args.join(" "), said.text.trim());
        Ok(said.text)
    }

    pub fn fails(&self, args: &[&str]) -> Result<String> {
        let said = self.said(args)?;
        ensure!(!said.success, "{} did not fail", args.join(" "));
        Ok(said.text)
    }

    /// The container's output goes to a file, since a pipe would end with it.
    pub fn create(&self, config: &Value) -> Result<()> {
        self.create_with(config, &[])
    }

    pub fn create_with(&self, config: &Value, options: &[&str]) -> Result<()> {
        self.write(config)?;
        self.made.borrow_mut().push(self.id.clone());
        let (out, errors) = (self.dir.join("out"), self.dir.join("errors"));
        let file = |path: &Path| File::create(path).with_context(|| format!("cannot make {}", path.display()));
        let bundle = self.dir.display().to_string();
        let args = [&["create", "--bundle", &bundle], options, &[&self.id]].concat();
        let mut command = self.command(&args);
        let child = command.stdin(Stdio::null()).stdout(file(&out)?).stderr(file(&errors)?).spawn();
        let mut child = child.context("cannot start the runtime")?;
        let began = Instant::now();
        loop {
            if let Some(status) = child.try_wait().context("cannot wait for the runtime")? {
                let said = std::fs::read_to_string(&errors).unwrap_or_default();
                ensure!(status.success(), "create failed: {}", said.trim());
                return Ok(());
            }
            if began.elapsed() > WITHIN {
                child.kill().context("cannot kill the runtime")?;
                child.wait().context("cannot wait for the runtime")?;
                bail!("create took longer than {WITHIN:?}");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn state(&self) -> Result<Value> {
        let text = self.ok(&["state", &self.id])?;
        serde_json::from_str(&text).with_context(|| format!("state is no JSON: {text}"))
    }

    pub fn status(&self) -> Result<String> {
        Ok(self.state()?["status"].as_str().context("state has no status")?.to_owned())
    }

    pub fn pid(&self) -> Result<i64> {
        self.state()?["pid"].as_i64().filter(|pid| *pid > 0).context("state has no pid")
    }

    pub fn wait_for(&self, status: &str) -> Result<()> {
        self.until(&format!("it is {status}"), || Ok(self.status()? == status))
    }

    pub fn until(&self, what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
        let began = Instant::now();
        while !condition()? {
            ensure!(began.elapsed() < WITHIN, "{what}: not within {WITHIN:?}");
            crate::interrupt::check()?;
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// From the beginning to the end; what it printed.
    pub fn once(&self, config: &Value) -> Result<String> {
        self.create(config)?;
        self.ok(&["start", &self.id])?;
        self.wait_for("stopped")?;
        self.ok(&["delete", &self.id])?;
        self.printed()
    }

    /// So far.
    pub fn printed(&self) -> Result<String> {
        let read =
            |name: &str| std::fs::read_to_string(self.dir.join(name)).with_context(|| format!("cannot read {name}"));
        let (out, errors) = (read("out")?, read("errors")?);
        Ok(if errors.trim().is_empty() { out } else { format!("{out}{errors}") })
    }

    /// In one of the container's cgroups, by its name on v1 or on v2.
    pub fn cgroup_file(&self, pid: i64, names: &[&str]) -> Result<String> {
        let places = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).context("cannot read its cgroups")?;
        let paths: Vec<&str> = places
            .lines()
            .filter_map(|line| line.splitn(3, ':').nth(2))
            .filter(|path| path.contains("conformance-"))
            .collect();
        ensure!(!paths.is_empty(), "it is in no cgroup of its own: {places}");
        for root in cgroup_roots() {
            for (path, name) in paths.iter().flat_map(|path| names.iter().map(move |name| (path, name))) {
                if let Ok(text) = std::fs::read_to_string(root.join(path.trim_start_matches('/')).join(name)) {
                    return Ok(text.trim().to_owned());
                }
            }
        }
        bail!("none of its cgroups has {}", names.join(" or "))
    }
}

pub fn cgroup_roots() -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let of_cgroups = |line: &str| {
        let fields: Vec<&str> = line.split(' ').collect();
        fields.get(2)?.starts_with("cgroup").then(|| PathBuf::from(fields[1]))
    };
    table.lines().filter_map(of_cgroups).collect()
}

impl Drop for Rig<'_> {
    fn drop(&mut self) {
        for id in self.made.borrow().iter() {
            // It is gone already, if the check went well.
            let _ = self.said(&["delete", "--force", id]);
        }
        for root in cgroup_roots() {
            remove(&root.join(&self.cgroup));
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn remove(dir: &Path) {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).for_each(|entry| remove(&entry.path()));
    // One with a process stays, and the check after all checks tells.
    let _ = std::fs::remove_dir(dir);
}
