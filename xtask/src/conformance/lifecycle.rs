//! Commands, states and hooks: what runtime.md and the section on hooks of config.md ask. Refuses what only one runtime has.

use anyhow::{Result, ensure};
use serde_json::json;

use super::rig::Rig;
use super::{Check, check};

pub const CHECKS: &[Check] = &[
    check("create", create),
    check("state", state),
    check("start", start),
    check("kill", kill),
    check("kill_no_effect", kill_no_effect),
    check("killsig", killsig),
    check("delete", delete),
    check("delete_resources", delete_resources),
    check("delete_only_create_resources", delete_only_create_resources),
    check("config_updates_without_affect", config_updates_without_affect),
    check("pidfile", pidfile),
    check("misc_props", misc_props),
    check("annotations", annotations),
    check("exec", exec),
    check("pause_resume", pause_resume),
    check("list", list),
    check("features", features),
    check("run_exit_code", run_exit_code),
    check("hooks", hooks),
    check("hooks_stdin", hooks_stdin),
    check("prestart", prestart),
    check("prestart_fail", |rig| early_failure(rig, "prestart")),
    check("create_runtime_fail", |rig| early_failure(rig, "createRuntime")),
    check("create_container_fail", |rig| early_failure(rig, "createContainer")),
    check("start_container_fail", start_container_fail),
    check("poststart_fail", poststart_fail),
    check("poststop_fail", poststop_fail),
    check("hook_timeout", hook_timeout),
];

const LONG: &str = "while :; do sleep 0.1; done";

fn create(rig: &Rig<'_>) -> Result<()> {
    rig.fails(&["create"])?;
    rig.fails(&["create", "--bundle", "/no/such/bundle", &rig.id])?;
    rig.create(&rig.config("echo ran"))?;
    ensure!(rig.status()? == "created", "it is {}", rig.status()?);
    ensure!(rig.printed()?.is_empty(), "its program ran before start");
    let again = rig.dir.display().to_string();
    rig.fails(&["create", "--bundle", &again, &rig.id])?;
    ensure!(rig.status()? == "created", "the second create changed the first");
    Ok(())
}

fn state(rig: &Rig<'_>) -> Result<()> {
    rig.fails(&["state", &rig.id])?;
    rig.fails(&["state"])?;
    rig.create(&rig.config(LONG))?;
    let state = rig.state()?;
    ensure!(state["ociVersion"].is_string() && state["id"] == json!(rig.id), "{state}");
    ensure!(state["bundle"] == json!(rig.dir.display().to_string()), "{state}");
    let pid = rig.pid()?;
    ensure!(std::path::Path::new(&format!("/proc/{pid}")).exists(), "there is no process {pid}");
    rig.ok(&["start", &rig.id])?;
    ensure!(rig.status()? == "running" && rig.pid()? == pid, "{}", rig.state()?);
    rig.ok(&["kill", &rig.id, "KILL"])?;
    rig.wait_for("stopped")
}

fn start(rig: &Rig<'_>) -> Result<()> {
    rig.fails(&["start"])?;
    rig.fails(&["start", &rig.id])?;
    rig.create(&rig.config("echo ran; while :; do sleep 0.1; done"))?;
    rig.ok(&["start", &rig.id])?;
    rig.until("its program runs", || Ok(rig.printed()? == "ran\n"))?;
    rig.fails(&["start", &rig.id])?;
    ensure!(rig.status()? == "running", "the second start changed it");
    rig.ok(&["kill", &rig.id, "KILL"])?;
    rig.wait_for("stopped")?;
    rig.fails(&["start", &rig.id]).map(drop)
}

fn kill(rig: &Rig<'_>) -> Result<()> {
    rig.fails(&["kill", &rig.id, "KILL"])?;
    rig.fails(&["kill"])?;
    // One that is only created can be killed too.
    rig.create(&rig.config(LONG))?;
    rig.ok(&["kill", &rig.id, "KILL"])?;
    rig.wait_for("stopped")?;
    rig.ok(&["delete", &rig.id])?;
    rig.create(&rig.config("trap 'echo asked; exit' TERM; echo ready; while :; do sleep 0.1; done"))?;
    rig.ok(&["start", &rig.id])?;
    rig.until("it is ready", || Ok(rig.printed()? == "ready\n"))?;
    // SIGTERM is the default.
    rig.ok(&["kill", &rig.id])?;
    rig.wait_for("stopped")?;
    ensure!(rig.printed()? == "ready\nasked\n", "it printed {}", rig.printed()?);
    Ok(())
}

fn kill_no_effect(rig: &Rig<'_>) -> Result<()> {
    rig.create(&rig.config("true"))?;
    rig.ok(&["start", &rig.id])?;
    rig.wait_for("stopped")?;
    rig.fails(&["kill", &rig.id, "KILL"])?;
    ensure!(rig.status()? == "stopped", "kill changed it");
    rig.ok(&["delete", &rig.id]).map(drop)
}

fn killsig(rig: &Rig<'_>) -> Result<()> {
    let script = "for s in USR1 USR2 HUP WINCH; do trap \"echo $s\" $s; done; echo ready; while :; do sleep 0.05; done";
    rig.create(&rig.config(script))?;
    rig.ok(&["start", &rig.id])?;
    let mut wanted = "ready\n".to_owned();
    rig.until("it is ready", || Ok(rig.printed()? == "ready\n"))?;
    for (signal, name) in [("USR1", "USR1"), ("SIGUSR2", "USR2"), ("1", "HUP"), ("28", "WINCH")] {
        rig.ok(&["kill", &rig.id, signal])?;
        wanted += &format!("{name}\n");
        rig.until(&format!("it has got {signal}"), || Ok(rig.printed()? == wanted))?;
    }
    rig.fails(&["kill", &rig.id, "NOSUCH"])?;
    ensure!(rig.status()? == "running", "it has ended");
    Ok(())
}

fn delete(rig: &Rig<'_>) -> Result<()> {
    rig.fails(&["delete", &rig.id])?;
    rig.fails(&["delete"])?;
    rig.create(&rig.config(LONG))?;
    rig.ok(&["start", &rig.id])?;
    rig.fails(&["delete", &rig.id])?;
    ensure!(rig.status()? == "running", "delete changed it");
    rig.ok(&["kill", &rig.id, "KILL"])?;
    rig.wait_for("stopped")?;
    rig.ok(&["delete", &rig.id])?;
    rig.fails(&["state", &rig.id])?;
    // The id is free again.
    ensure!(rig.once(&rig.config("echo again"))? == "again\n", "it printed {}", rig.printed()?);
    Ok(())
}

fn cgroup_dirs(rig: &Rig<'_>, name: &str) -> Vec<std::path::PathBuf> {
    super::rig::cgroup_roots()
        .into_iter()
        .map(|root| root.join(&rig.cgroup).join(name))
        .filter(|dir| dir.is_dir())
        .collect()
}

fn delete_resources(rig: &Rig<'_>) -> Result<()> {
    rig.create(&rig.config(LONG))?;
    ensure!(!cgroup_dirs(rig, "inner").is_empty(), "it has no cgroup");
    rig.ok(&["start", &rig.id])?;
    rig.ok(&["delete", "--force", &rig.id])?;
    let left = cgroup_dirs(rig, "inner");
    ensure!(left.is_empty(), "{left:?} is left");
    rig.fails(&["state", &rig.id]).map(drop)
}

fn delete_only_create_resources(rig: &Rig<'_>) -> Result<()> {
    let beside: Vec<_> =
        super::rig::cgroup_roots().into_iter().map(|root| root.join(&rig.cgroup).join("beside")).collect();
    let made = beside.iter().filter(|dir| std::fs::create_dir_all(dir).is_ok()).count();
    ensure!(made > 0, "no cgroup can be made");
    rig.once(&rig.config("true"))?;
    ensure!(cgroup_dirs(rig, "beside").len() == made, "it removed what was there before");
    ensure!(rig.dir.join("rootfs/bin/sh").exists() && rig.dir.join("config.json").exists(), "it removed its bundle");
    Ok(())
}

fn config_updates_without_affect(rig: &Rig<'_>) -> Result<()> {
    rig.create(&rig.config("echo before"))?;
    rig.write(&rig.config("echo behind"))?;
    rig.ok(&["start", &rig.id])?;
    rig.wait_for("stopped")?;
    ensure!(rig.printed()? == "before\n", "it printed {}", rig.printed()?);
    Ok(())
}

fn pidfile(rig: &Rig<'_>) -> Result<()> {
    let file = rig.dir.join("pid");
    rig.create_with(&rig.config(LONG), &["--pid-file", &file.display().to_string()])?;
    let written = std::fs::read_to_string(&file)?;
    ensure!(written == rig.pid()?.to_string(), "{written:?} is written for {}", rig.pid()?);
    Ok(())
}

fn misc_props(rig: &Rig<'_>) -> Result<()> {
    let mut config = rig.config("echo ran");
    config["unknown"] = json!("unknown");
    config["process"]["unknown"] = json!({"of": 1});
    ensure!(rig.once(&config)? == "ran\n", "it printed {}", rig.printed()?);
    // A version that is none.
    config["ociVersion"] = json!("invalid");
    ensure!(rig.create(&config).is_err(), "a version that is none was taken");
    Ok(())
}

fn annotations(rig: &Rig<'_>) -> Result<()> {
    let mut config = rig.config(LONG);
    config["annotations"] = json!({"org.example.key": "value", "org.example.empty": ""});
    rig.create(&config)?;
    let state = rig.state()?;
    ensure!(state["annotations"]["org.example.key"] == "value", "{state}");
    Ok(())
}

fn exec(rig: &Rig<'_>) -> Result<()> {
    rig.create(&rig.config("echo > /mark; while :; do sleep 0.1; done"))?;
    rig.ok(&["start", &rig.id])?;
    rig.until("it runs", || Ok(rig.dir.join("rootfs/mark").exists()))?;
    let text = rig.ok(&["exec", &rig.id, "sh", "-c", "ls /mark; hostname; grep CapEff /proc/self/status"])?;
    ensure!(text.contains("/mark\nconformance\n") && text.contains("0000000020000420"), "it printed {text}");
    rig.fails(&["exec", &rig.id, "sh", "-c", "exit 3"])?;
    let process = json!({"user": {"uid": 7, "gid": 8}, "args": ["id", "-u"], "cwd": "/", "env": ["PATH=/bin"]});
    let file = rig.dir.join("process.json");
    std::fs::write(&file, process.to_string())?;
    let text = rig.ok(&["exec", "--process", &file.display().to_string(), &rig.id])?;
    ensure!(text.trim() == "7", "it printed {text}");
    Ok(())
}

fn pause_resume(rig: &Rig<'_>) -> Result<()> {
    rig.create(&rig.config(LONG))?;
    rig.ok(&["start", &rig.id])?;
    rig.ok(&["pause", &rig.id])?;
    ensure!(rig.status()? == "paused", "it is {}", rig.status()?);
    rig.ok(&["resume", &rig.id])?;
    ensure!(rig.status()? == "running", "it is {}", rig.status()?);
    Ok(())
}

fn list(rig: &Rig<'_>) -> Result<()> {
    rig.create(&rig.config(LONG))?;
    let text = rig.ok(&["list", "--format", "json"])?;
    let all: serde_json::Value = serde_json::from_str(&text)?;
    let one = all.as_array().and_then(|all| all.iter().find(|one| one["id"] == json!(rig.id)));
    ensure!(one.is_some_and(|one| one["status"] == "created"), "{all}");
    Ok(())
}

fn features(rig: &Rig<'_>) -> Result<()> {
    let text = rig.ok(&["features"])?;
    let all: serde_json::Value = serde_json::from_str(&text)?;
    ensure!(all["ociVersionMin"].is_string() && all["ociVersionMax"].is_string(), "{all}");
    ensure!(all["linux"]["namespaces"].as_array().is_some_and(|names| names.contains(&json!("pid"))), "{all}");
    Ok(())
}

fn run_exit_code(rig: &Rig<'_>) -> Result<()> {
    rig.write(&rig.config("exit 9"))?;
    let text = rig.fails(&["run", &rig.id])?;
    ensure!(text.trim().is_empty(), "it said {text}");
    rig.fails(&["state", &rig.id]).map(drop)
}

/// A hook that adds a line to a file of the bundle; with `then`.
fn hook(rig: &Rig<'_>, name: &str, then: &str) -> serde_json::Value {
    let script = format!("echo {name} >> {}/log; {then}", rig.dir.display());
    json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])
}

fn log(rig: &Rig<'_>) -> String {
    std::fs::read_to_string(rig.dir.join("log")).unwrap_or_default().replace('\n', " ")
}

fn hooks(rig: &Rig<'_>) -> Result<()> {
    let mut config = rig.config("echo program");
    for name in ["createRuntime", "createContainer", "poststart", "poststop"] {
        config["hooks"][name] = hook(rig, name, "true");
    }
    config["hooks"]["startContainer"] =
        json!([{"path": "/bin/sh", "args": ["sh", "-c", "echo startContainer > /made"]}]);
    rig.create(&config)?;
    ensure!(log(rig) == "createRuntime createContainer ", "at create: {}", log(rig));
    ensure!(!rig.dir.join("rootfs/made").exists(), "startContainer ran at create");
    rig.ok(&["start", &rig.id])?;
    rig.wait_for("stopped")?;
    ensure!(rig.dir.join("rootfs/made").exists(), "startContainer did not run in the container");
    rig.until("poststart has run", || Ok(log(rig) == "createRuntime createContainer poststart "))?;
    rig.ok(&["delete", &rig.id])?;
    ensure!(log(rig) == "createRuntime createContainer poststart poststop ", "at delete: {}", log(rig));
    Ok(())
}

fn hooks_stdin(rig: &Rig<'_>) -> Result<()> {
    let mut config = rig.config("true");
    let names = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];
    for name in names {
        let script = format!("cat > {}/stdin-{name}", rig.dir.display());
        config["hooks"][name] =
            json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}]);
    }
    config["annotations"] = json!({"org.example.key": "value"});
    rig.once(&config)?;
    for name in names {
        let text = std::fs::read_to_string(rig.dir.join(format!("stdin-{name}")))?;
        let state: serde_json::Value = serde_json::from_str(&text)?;
        let status = match name {
            "poststart" => &["running", "stopped"][..],
            "poststop" => &["stopped"],
            _ => &["creating", "created"],
        };
        ensure!(
            state["id"] == json!(rig.id) && state["bundle"] == json!(rig.dir.display().to_string()),
            "{name}: {state}"
        );
        ensure!(status.iter().any(|status| state["status"] == *status), "{name}: {state}");
        ensure!(state["annotations"]["org.example.key"] == "value", "{name}: {state}");
    }
    Ok(())
}

fn prestart(rig: &Rig<'_>) -> Result<()> {
    let mut config = rig.config("true");
    config["hooks"]["prestart"] = hook(rig, "prestart", "true");
    rig.once(&config)?;
    ensure!(log(rig) == "prestart ", "{}", log(rig));
    Ok(())
}

fn early_failure(rig: &Rig<'_>, name: &str) -> Result<()> {
    let mut config = rig.config("echo ran");
    config["hooks"][name] = hook(rig, name, "exit 1");
    ensure!(
        rig.create(&config).is_err() || rig.said(&["start", &rig.id]).is_ok_and(|said| !said.success),
        "it came to be"
    );
    ensure!(log(rig) == format!("{name} "), "{}", log(rig));
    ensure!(!rig.printed()?.contains("ran"), "its program ran");
    Ok(())
}

fn start_container_fail(rig: &Rig<'_>) -> Result<()> {
    let mut config = rig.config("echo ran");
    config["hooks"]["startContainer"] = json!([{"path": "/bin/sh", "args": ["sh", "-c", "exit 1"]}]);
    rig.create(&config)?;
    // Whether start itself knows is not the same with all; that nothing runs is.
    let _ = rig.said(&["start", &rig.id])?;
    rig.until("it has ended", || {
        Ok(rig.said(&["state", &rig.id]).is_ok_and(|said| !said.success || said.text.contains("stopped")))
    })?;
    ensure!(!rig.printed()?.contains("ran"), "its program ran");
    Ok(())
}

/// Only warned of, from 1.1 on; before, it could end the container. What it may not do is to be passed over.
fn poststart_fail(rig: &Rig<'_>) -> Result<()> {
    let mut config = rig.config("while :; do sleep 0.1; done");
    config["hooks"]["poststart"] = hook(rig, "poststart", "exit 1");
    let created = rig.create(&config);
    let started = rig.said(&["start", &rig.id]);
    ensure!(log(rig) == "poststart ", "{}", log(rig));
    let is_told = created.is_err() || started.as_ref().is_ok_and(|said| !said.success || !said.text.trim().is_empty());
    ensure!(is_told, "nobody is told of its failure");
    Ok(())
}

fn poststop_fail(rig: &Rig<'_>) -> Result<()> {
    let mut config = rig.config("true");
    config["hooks"]["poststop"] = json!([hook(rig, "first", "exit 1")[0], hook(rig, "second", "true")[0]]);
    rig.create(&config)?;
    rig.ok(&["start", &rig.id])?;
    rig.wait_for("stopped")?;
    rig.ok(&["delete", &rig.id])?;
    ensure!(log(rig) == "first second ", "{}", log(rig));
    rig.fails(&["state", &rig.id]).map(drop)
}

fn hook_timeout(rig: &Rig<'_>) -> Result<()> {
    let mut config = rig.config("echo ran");
    config["hooks"]["createRuntime"] = json!([{"path": "/bin/sleep", "args": ["sleep", "15"], "timeout": 1}]);
    let began = std::time::Instant::now();
    ensure!(rig.create(&config).is_err(), "it came to be");
    ensure!(began.elapsed().as_secs() < 10, "it took {:?}", began.elapsed());
    Ok(())
}
