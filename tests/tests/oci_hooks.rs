//! Hooks run in the specification's order and places, read the container's state, and what they fail for is told.

use cc_tests::oci::Oci;
use serde_json::{Value, json};

const NAMES: [&str; 6] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// Each adds its name and what it reads to a file; the one that runs in the container finds it at the same place there.
fn hooked(oci: &Oci, id: &str) -> (Value, std::path::PathBuf) {
    let mut config = oci.config(id, "echo program >> /log/calls; exec sleep 1000");
    let dir = oci.path("log");
    std::fs::create_dir_all(&dir).unwrap();
    config["mounts"].as_array_mut().unwrap().push(json!({"destination": "/log", "source": dir, "options": ["bind"]}));
    for name in NAMES {
        let at = if name == "startContainer" { "/log".to_owned() } else { dir.display().to_string() };
        let script = format!("echo {name} $WORD >> {at}/calls; cat > {at}/{name}");
        config["hooks"][name] =
            json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["WORD=set", "PATH=/bin"]}]);
    }
    (config, dir)
}

fn read(dir: &std::path::Path, name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(dir.join(name)).unwrap()).unwrap()
}

#[test]
fn hooks_run_in_their_order_with_the_state() {
    let oci = Oci::new();
    let (mut config, dir) = hooked(&oci, "c");
    config["annotations"] = json!({"org.example": "kept"});
    oci.create("c", &config, &[]).ok();
    let calls = || std::fs::read_to_string(dir.join("calls")).unwrap();
    assert_eq!(calls(), "prestart set\ncreateRuntime set\ncreateContainer set\n");
    let pid = oci.pid("c");
    for name in ["prestart", "createRuntime"] {
        let state = read(&dir, name);
        assert_eq!((state["status"].as_str(), state["pid"].as_i64()), (Some("creating"), Some(pid.into())), "{name}");
        assert_eq!((state["id"].as_str(), state["annotations"]["org.example"].as_str()), (Some("c"), Some("kept")));
    }
    assert_eq!(read(&dir, "createContainer")["pid"], 1);
    oci.run(&["start", "c"]).ok();
    cc_tests::eventually("all have run", cc_tests::oci::BOUND, || calls().contains("program").then_some(()));
    let mut lines: Vec<String> = calls().lines().skip(3).map(str::to_owned).collect();
    assert_eq!(lines[0], "startContainer set");
    // The program and the hook after its start run side by side.
    lines[1..].sort();
    assert_eq!(lines[1..], ["poststart set", "program"]);
    assert_eq!(
        (read(&dir, "startContainer")["status"].as_str(), read(&dir, "startContainer")["pid"].as_i64()),
        (Some("created"), Some(1))
    );
    assert_eq!(read(&dir, "poststart")["status"], "running");
    assert!(!dir.join("poststop").exists());
    oci.run(&["delete", "-f", "c"]).ok();
    assert_eq!(read(&dir, "poststop")["status"], "stopped");
    oci.assert_clean();
}

#[test]
fn a_container_whose_hook_fails_is_not_created() {
    let oci = Oci::new();
    for name in ["prestart", "createRuntime", "createContainer"] {
        let (mut config, dir) = hooked(&oci, "c");
        let _ = std::fs::remove_file(dir.join("calls"));
        config["hooks"][name] = json!([{"path": "/bin/sh", "args": ["sh", "-c", "echo unwilling; exit 3"]}]);
        let ran = oci.create("c", &config, &[]);
        assert_eq!(ran.code, 1, "{}", ran.stderr);
        assert!(ran.stderr.contains(&format!("{name} hook")) && ran.stderr.contains("unwilling"), "{}", ran.stderr);
        oci.run(&["state", "c"]).fails(1, "does not exist");
        assert!(std::fs::read_to_string(dir.join("calls")).unwrap().ends_with("poststop set\n"), "{name}");
        oci.assert_clean();
    }
}

#[test]
fn a_failure_before_the_program_stops_it_and_one_after_it_does_not() {
    let oci = Oci::new();
    let (mut config, dir) = hooked(&oci, "c");
    let fails = json!([{"path": "/bin/sh", "args": ["sh", "-c", "exit 3"]}]);
    config["hooks"]["startContainer"] = fails.clone();
    oci.create("c", &config, &[]).ok();
    oci.run(&["start", "c"]).fails(1, "startContainer hook");
    let calls = std::fs::read_to_string(dir.join("calls")).unwrap();
    assert!(!calls.contains("program") && calls.ends_with("createContainer set\npoststop set\n"), "{calls}");
    assert_eq!(read(&dir, "poststop")["status"], "stopped");
    oci.run(&["state", "c"]).fails(1, "does not exist");
    oci.run(&["delete", "-f", "c"]).ok();
    std::fs::remove_file(dir.join("calls")).unwrap();
    oci.once("c", &config).fails(1, "startContainer hook");
    let calls = std::fs::read_to_string(dir.join("calls")).unwrap();
    assert_eq!(calls.matches("poststop").count(), 1, "{calls}");
    oci.assert_clean();

    let (mut config, dir) = hooked(&oci, "d");
    let both = json!([fails[0], config["hooks"]["poststart"][0]]);
    config["hooks"]["poststart"] = both;
    config["hooks"]["poststop"] = fails;
    let _ = std::fs::remove_file(dir.join("calls"));
    oci.create("d", &config, &[]).ok();
    let ran = oci.run(&["start", "d"]).ok();
    assert!(ran.stderr.contains("warning") && ran.stderr.contains("poststart hook"), "{}", ran.stderr);
    assert!(std::fs::read_to_string(dir.join("calls")).unwrap().contains("poststart set"), "the next one runs");
    assert_eq!(oci.status("d"), "running");
    let ran = oci.run(&["delete", "-f", "d"]).ok();
    assert!(ran.stderr.contains("poststop hook"), "{}", ran.stderr);
    oci.assert_clean();
}

#[test]
fn a_hook_has_its_timeout() {
    let oci = Oci::new();
    let mut config = oci.config("c", "true");
    config["hooks"] = json!({"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}]});
    let began = std::time::Instant::now();
    oci.create("c", &config, &[]).fails(1, "within 1 s");
    assert!(began.elapsed() < cc_tests::oci::BOUND);
    oci.assert_clean();
}

#[test]
fn a_timeout_beyond_all_clocks_is_no_fault() {
    let oci = Oci::new();
    let mut config = oci.config("c", "echo ran");
    let hook = |timeout: i64| json!({"path": "/bin/true", "timeout": timeout});
    config["hooks"] = json!({"prestart": [hook(i64::MAX)], "poststart": [hook(i64::MAX)], "poststop": [hook(1 << 62)]});
    assert_eq!(oci.once("c", &config).ok().stdout, "ran\n");
    oci.assert_clean();
}

#[test]
fn hooks_have_no_descriptors_but_their_own() {
    let oci = Oci::new();
    let (mut config, dir) = hooked(&oci, "c");
    for name in ["createRuntime", "createContainer", "poststart"] {
        let script = format!("ls /proc/self/fd > {}/{name}", dir.display());
        config["hooks"][name] =
            json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}]);
    }
    config["process"]["args"][2] = "test -e /proc/self/fd/3".into();
    let bundle = oci.bundle("c", &config).display().to_string();
    let args = ["run", "--preserve-fds", "1", "--bundle", &bundle, "c"];
    let mut command = std::process::Command::new("sh");
    let inner = oci.command(&args);
    command.args(["-c", r#"exec 3</dev/null 4</dev/null 9</dev/null; exec "$0" "$@""#]).arg(inner.get_program());
    command.args(inner.get_args());
    oci.finish(command).ok();
    for name in ["createRuntime", "createContainer", "poststart"] {
        // Its streams, and ls' own.
        assert_eq!(std::fs::read_to_string(dir.join(name)).unwrap(), "0\n1\n2\n3\n", "{name}");
    }
    oci.assert_clean();
}

#[test]
fn what_a_hook_writes_is_not_kept_without_bound() {
    let oci = Oci::new();
    let mut config = oci.config("c", "true");
    let script = "head -c 50000000 /dev/zero; echo at last; exit 3";
    let args = json!(["sh", "-c", script]);
    config["hooks"] = json!({"createRuntime": [{"path": "/bin/sh", "args": args, "env": ["PATH=/usr/bin:/bin"]}]});
    let ran = oci.create("c", &config, &[]);
    assert!(ran.code == 1 && ran.stderr.contains("at last") && ran.stderr.len() < 20_000, "{}", ran.stderr.len());
    oci.assert_clean();
}
