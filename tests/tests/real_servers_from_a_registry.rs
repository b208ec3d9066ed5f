//! A real nginx and a real redis, from images of Debian packages pushed to a real registry, serve each other and a client
//! outside.

use std::time::Duration;

use cc_tests::{World, eventually, images};

#[test]
fn a_registry_that_asks_for_a_password_gets_the_one_of_login() {
    let netns = cc_tests::netns::Netns::new().unwrap();
    let credentials = images::Credentials::TEST;
    let started = netns.run(move || {
        let registry = images::Registry::start_with(Some(credentials)).unwrap();
        let image = registry.push("busybox").unwrap();
        (registry, image)
    });
    let (registry, image) = started.unwrap();
    let world = World::in_netns(netns, "");
    let home = world.path("home");
    let cc = |args: &[&str], input: &[u8]| {
        let mut command = world.command(args);
        command.env("XDG_CONFIG_HOME", &home);
        world.run_with_stdin(command, input)
    };
    assert_ne!(cc(&["image", "pull", &image], b"").code, 0, "nobody is let in without a password");
    let address = registry.address().to_string();
    cc(&["image", "login", &address, "-u", credentials.user, "--password-stdin"], credentials.password.as_bytes()).ok();
    cc(&["image", "pull", &image], b"").ok();
    cc(&["run", "--rm", "--pull", "always", "--image", &image, "true"], b"").ok();
    let kept = walk(&home);
    assert!(!kept.is_empty());
    for file in kept {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} is for its owner only", file.display());
    }
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn nginx_and_redis_serve_each_other() {
    let netns = cc_tests::netns::Netns::new().unwrap();
    // The registry listens on loopback in the daemon's own namespace.
    let started = netns.run(|| {
        let registry = images::Registry::start().unwrap();
        let (nginx, redis) = (registry.push("nginx").unwrap(), registry.push("redis").unwrap());
        (registry, nginx, redis)
    });
    let (_registry, nginx, redis) = started.unwrap();
    let world = World::in_netns(netns, "");
    world.vpc("blue", "10.0.0.0/24");
    let run =
        |name: &str, image: &str| world.cc(&["run", "-d", "--vpc", "blue", "--name", name, "--image", image]).line();
    let web = run("web", &nginx);
    let db = run("db", &redis);
    let (web_address, db_address) = (world.address(&web), world.address(&db));
    let sh = |command: &str| world.run_rm("busybox", &["--vpc", "blue"], &["sh", "-c", command]);
    eventually("nginx answers in its VPC", Duration::from_secs(20), || {
        let ran = sh(&format!("wget -q -O - http://{web_address}/"));
        ran.stdout.contains("served by nginx").then_some(())
    });
    eventually("redis answers in its VPC", Duration::from_secs(20), || {
        let ran = sh(&format!("printf 'SET k v42\\r\\nGET k\\r\\nQUIT\\r\\n' | nc -w 2 {db_address} 6379"));
        ran.stdout.contains("v42").then_some(())
    });
    // The second pull finds everything.
    let again = world.cc(&["image", "pull", &nginx]).ok();
    assert!(!again.stderr.contains("downloading"), "{}", again.stderr);
    let listed = world.cc(&["image", "list"]).ok().stdout;
    assert!(listed.contains("nginx") && listed.contains("redis"), "{listed}");
    world.remove_all();
    world.cc(&["image", "remove", &nginx, &redis]).ok();
    world.cc(&["image", "prune", "--all"]).ok();
    world.assert_clean();
}
