//! A daemon of this build starts on the state directory of every release that is kept (`cc-host/tests/released`), knows all that was known then,
//! and goes on with it.

use std::path::{Path, PathBuf};
use std::process::Command;

use cc_tests::{Build, Leave, World};
use serde_json::{Map, Value};

/// Of which the answers are kept. What a later release says besides is its own.
const ASKED: [&[&str]; 8] = [
    &["vpc", "list"],
    &["group", "list"],
    &["group", "rules", "web"],
    &["prefixes", "list"],
    &["volume", "list"],
    &["image", "list"],
    &["guard", "list"],
    &["ps", "-a"],
];
const SAID: &str = "said.json";
const STATE: &str = "state.tar.gz";

fn kept() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../cc-host/tests/released")
}

fn said(world: &World) -> Map<String, Value> {
    ASKED.map(|words| (words.join(" "), world.cc(&[words, &["--json"]].concat()).json())).into_iter().collect()
}

/// Something of what a state directory can hold, but for disks and keys.
fn fill(world: &World) {
    let image = world.image("busybox");
    world.cc(&["vpc", "create", "--cidr", "10.0.0.0/24", "--cidr6", "fd00:1::/64", "--name", "blue"]).ok();
    world.cc(&["group", "create", "--name", "web"]).ok();
    world.cc(&["prefixes", "create", "--name", "offices"]).ok();
    world.cc(&["prefixes", "add", "offices", "192.0.2.0/24", "2001:db8::/32"]).ok();
    world.cc(&["group", "allow", "web", "ingress", "--proto", "tcp", "--port", "80", "--from", "blue"]).ok();
    let denied =
        ["group", "deny", "web", "egress", "--proto", "udp", "--port", "8000-8099", "--to", "offices", "--log"];
    world.cc(&[&denied[..], &["--priority", "7"]].concat()).ok();
    world.cc(&["guard", "deny", "198.51.100.0/24"]).ok();
    world.cc(&["volume", "create", "--size", "16MiB", "--name", "data"]).ok();
    let options = ["--name", "one", "--vpc", "blue", "--group", "web", "--volume", "data:/data", "--memory", "64MiB"];
    let more = ["--publish", "8080:80", "--env", "A=1", "--user", "1000", "--egress-bandwidth", "1000000"];
    let run = [&["run", "-d"], &options[..], &more, &["--image", &image, "--", "sh", "-c"]].concat();
    // The second time it finds what the first one has left.
    world.cc(&[&run[..], &["echo begun; cat /tmp/mine 2>&1; echo $A > /tmp/mine; exit 3"]].concat()).ok();
    world.cc(&["wait", "one"]).ok();
    world.run_rm("busybox", &["--volume", "data:/data"], &["sh", "-c", "echo kept > /data/file; sync"]).ok();
}

fn id_base(config: &str) -> &str {
    config.lines().find(|line| line.starts_with("id_base = ")).expect("a world has its ids")
}

fn tar(world: &World, args: &[&str]) {
    let mut command = Command::new("tar");
    command.args(["--numeric-owner", "--xattrs", "--xattrs-include=*", "--sparse", "-C"]).arg(world.path("."));
    assert!(command.args(args).status().expect("tar is there").success(), "{args:?}");
}

/// Where there is none of the present release.
fn keep(dir: &Path) {
    let mut world = World::new();
    fill(&world);
    let mut said = said(&world);
    world.leave(Leave::Stopped);
    let config = std::fs::read_to_string(world.config()).unwrap();
    said.insert("id_base".to_owned(), id_base(&config).into());
    tar(&world, &["-czf", &dir.join(STATE).display().to_string(), "state"]);
    std::fs::write(dir.join(SAID), serde_json::to_string_pretty(&said).unwrap() + "\n").unwrap();
    world.start();
    world.remove_all();
}

/// What was said is said again; more may be.
fn assert_says(path: &str, now: &Value, then: &Value) {
    match (now, then) {
        (Value::Object(now), Value::Object(then)) => {
            for (name, then) in then {
                let path = format!("{path}.{name}");
                assert_says(&path, now.get(name).unwrap_or_else(|| panic!("{path} is gone")), then);
            }
        }
        (Value::Array(now), Value::Array(then)) => {
            assert_eq!(now.len(), then.len(), "{path}");
            for (at, (now, then)) in now.iter().zip(then).enumerate() {
                assert_says(&format!("{path}[{at}]"), now, then);
            }
        }
        _ => assert_eq!(now, then, "{path}"),
    }
}

#[test]
fn all_that_was_known_is_known_and_goes_on() {
    let present = kept().join(Build::Own.pins());
    if std::env::var_os("CC_GENERATE").is_some() && !present.join(STATE).exists() {
        keep(&present);
    }
    assert!(present.join(STATE).exists(), "none is kept of the present layout: see {}/README.md", kept().display());
    let mut releases: Vec<PathBuf> = std::fs::read_dir(kept()).unwrap().map(|entry| entry.unwrap().path()).collect();
    releases.retain(|path| path.is_dir());
    for release in releases {
        println!("{}", release.display());
        let then: Value = serde_json::from_slice(&std::fs::read(release.join(SAID)).unwrap()).unwrap();
        let mut world = World::new();
        world.leave(Leave::Stopped);
        std::fs::remove_dir_all(world.path("state")).unwrap();
        tar(&world, &["-xpzf", &release.join(STATE).display().to_string()]);
        // A container's files belong to the ids that it had.
        let config = std::fs::read_to_string(world.config()).unwrap();
        let config = config.replace(id_base(&config), then["id_base"].as_str().unwrap());
        std::fs::write(world.config(), config).unwrap();
        world.start();
        for (words, now) in said(&world) {
            assert_says(&words, &now, &then[&words]);
        }
        // It starts again, with what it had written.
        world.cc(&["start", "one"]).ok();
        assert_eq!(world.cc(&["wait", "one"]).ok().line(), "3");
        assert!(world.cc(&["logs", "one"]).ok().stdout.ends_with("begun\n1\n"));
        let image = then["image list"][0]["reference"].as_str().unwrap().to_owned();
        let read = ["run", "--rm", "--image", &image, "--volume", "data:/data:ro", "--", "cat", "/data/file"];
        assert_eq!(world.cc(&read).ok().stdout, "kept\n");
        world.remove_all();
        world.assert_clean();
    }
}
