//! Each page that tells people what to type is executed as it stands, in a world of its own: every command, in order, its exit code and what
//! is written of its output. What the blocks of a page mean is in tests/src/page.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use cc_tests::beyond::Beyond;
use cc_tests::daemon::bin_dir;
use cc_tests::netns::Netns;
use cc_tests::page::{Names, Page, Shell, play};
use cc_tests::promql::Used;
use cc_tests::{World, allowed, images};

/// What one command may take.
const BOUND: Duration = Duration::from_secs(30);
/// Those that a page names as anybody's, and that the test's own registry has.
const PUBLIC: [&str; 3] = ["busybox", "nginx", "redis"];
/// Of one page: beyond it, a page is read and not executed.
const NOT_RUN_MAX: usize = 4;

#[test]
fn the_tour_of_the_readme() {
    execute("README.md");
}

#[test]
fn the_quick_start() {
    execute("docs/quick-start.md");
}

#[test]
fn the_operators_guide() {
    execute("docs/operators-guide.md");
}

#[test]
fn alerts_are_about_metrics_that_there_are() {
    let guide = read("docs/operators-guide.md");
    let known = std::fs::read_to_string(root().join("docs/metrics.md")).expect("the list of metrics");
    let rules = guide.not_run.iter().filter(|block| block.kind == "yaml").flat_map(|block| block.text.lines());
    let expressions: Vec<&str> = rules.filter_map(|line| line.trim().strip_prefix("expr: ")).collect();
    assert!(!expressions.is_empty());
    for expression in expressions {
        // Of Prometheus' own, there is `up`.
        for metric in Used::in_expression(expression).metrics.iter().filter(|metric| *metric != "up") {
            assert!(known.contains(&format!("\n| `{metric}` |")), "{metric} of {expression} is not in metrics.md");
        }
    }
}

#[test]
fn the_security_model() {
    execute("docs/security-model.md");
}

#[test]
fn troubleshooting() {
    execute("docs/troubleshooting.md");
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(name: &str) -> Page {
    let text = std::fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let page = Page::read(name, &text).unwrap_or_else(|complaint| panic!("{complaint}"));
    for block in &page.not_run {
        println!("{name}:{}: not executed: {}", block.line, block.reason);
    }
    assert!(page.not_run.len() <= NOT_RUN_MAX, "{name}: {} blocks are not executed", page.not_run.len());
    page
}

fn execute(name: &str) {
    let page = read(name);
    let stage = Stage::new();
    let (began, mut shell) = (Instant::now(), stage.shell());
    let played = play(&page, &stage.names, &mut shell).unwrap_or_else(|complaint| {
        // Where each page has the daemon write it.
        let log = std::fs::read_to_string(stage.world.path("home/cc-host.log")).unwrap_or_default();
        panic!("{complaint}\n--- the daemon's log\n{log}")
    });
    let (slowest, took) = &played.slowest;
    println!("{name}: {} commands in {:.1?}, the slowest {took:.1?}: {slowest}", played.commands, began.elapsed());
    let jobs = shell.run("jobs -r").expect("the shell is there");
    assert_eq!(jobs.text, "", "{name} leaves programs in the background");
    stage.world.assert_clean();
}

/// A host as a page's reader has it: with a way out, a registry, and nothing running; at hand are an image in a directory and a password in
/// a file.
struct Stage {
    names: Names,
    // Before what it was started in.
    _registry: images::Registry,
    world: World,
    _beyond: Beyond,
}

impl Stage {
    fn new() -> Stage {
        let netns = Netns::new().expect("root can make a network namespace");
        let beyond = Beyond::of(&netns);
        // It listens on loopback of the daemon's own namespace.
        let started = netns.run(|| {
            let registry = images::Registry::start().expect("a registry");
            for image in PUBLIC {
                let layout = images::build(image).expect("the image can be made");
                registry.push_layout(&layout, &format!("library/{image}:{}", images::TAG)).expect("it is pushed");
            }
            registry
        });
        let registry = started.expect("the code inside ends");
        let world = World::without_daemon(netns, "");
        let real = |name: &str| world.path(name).display().to_string();
        let names = Names::default()
            .path("/var/lib/cc", &real("state"))
            .path("/run/cc", &real("run"))
            .path("/sys/fs/bpf/cc", &real("bpf"))
            .path("/etc/cc", &real("etc"))
            .path("/sys/fs/cgroup/cc", &world.cgroup().display().to_string())
            .registry(&registry.address().to_string(), &PUBLIC);
        let stage = Stage { names, _registry: registry, world, _beyond: beyond };
        stage.put_daemon_in_path();
        stage.put_files_at_hand();
        stage
    }

    fn put_files_at_hand(&self) {
        let (home, layout) = (self.world.path("home"), images::build("busybox").expect("the image can be made"));
        std::fs::create_dir(&home).expect("a directory");
        let copied = Command::new("cp").arg("-r").arg(layout).arg(home.join("my-image")).status();
        assert!(copied.is_ok_and(|status| status.success()), "the image is copied");
        std::fs::write(home.join("password"), "secret\n").expect("a file");
    }

    /// `cc-host` with what makes it this world's beside what a page configures.
    fn put_daemon_in_path(&self) {
        let (bin, program) = (self.world.path("bin"), bin_dir().join("cc-host"));
        let text = format!(
            "#!/bin/bash\n\
             set -eu\n\
             own={own:?} merged={merged:?} arguments=()\n\
             cp \"$own\" \"$merged\"\n\
             while [ $# -gt 0 ]; do\n\
             case $1 in\n\
             --config) {{ grep -v '^volumes[.]' \"$own\"; cat -- \"$2\"; }} > \"$merged\"; shift 2;;\n\
             *) arguments+=(\"$1\"); shift;;\n\
             esac\n\
             done\n\
             exec {program:?} \"${{arguments[@]}}\" --config \"$merged\"\n",
            own = self.world.config(),
            merged = self.world.path("merged.toml"),
        );
        std::fs::create_dir(&bin).expect("a directory");
        std::fs::write(bin.join("cc-host"), text).expect("a script");
        std::fs::set_permissions(bin.join("cc-host"), PermissionsExt::from_mode(0o755)).expect("its mode");
    }

    fn shell(&self) -> Shell {
        let mut bash: Command = self.world.netns.command("bash");
        let home = self.world.path("home");
        let path =
            std::env::join_paths([self.world.path("bin"), bin_dir()].into_iter().chain(
                ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from),
            ));
        bash.env_clear().env("PATH", path.expect("a path")).env("HOME", &home).env("LC_ALL", "C.UTF-8");
        bash.env("CC_ENDPOINT_URL", self.world.endpoint()).current_dir(&home);
        Shell::start(bash, self.world.path("step"), allowed(BOUND))
    }
}
