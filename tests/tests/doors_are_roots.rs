//! CVE-2020-15257: whoever can reach a runtime's socket is the runtime. All of ours are files, below directories that only root may enter,
//! and open to root alone; none is abstract, which no mode protects and every process of a network namespace reaches.

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use cc_tests::World;

/// Of the network namespace that the daemon and its shims are in: the last field is the path, or the name behind an @.
fn listeners(pid: i32) -> Vec<String> {
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/unix")).unwrap();
    table.lines().skip(1).filter_map(|line| line.split_ascii_whitespace().nth(7)).map(str::to_owned).collect()
}

fn below(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        found.push(entry.path());
        if entry.file_type().unwrap().is_dir() {
            below(&entry.path(), found);
        }
    }
}

#[test]
fn no_socket_is_abstract_and_all_are_roots() {
    let world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    world.run("busybox", &["--name", "web", "--vpc", "blue"], &["sleep", "600"]);
    world.run("busybox", &["--name", "alone", "-i"], &["sleep", "600"]);
    world.cc(&["exec", "web", "true"]).ok();

    let names = listeners(world.daemon().pid());
    assert!(names.iter().any(|name| name.ends_with("cc.sock")), "the daemon's own is not listed: {names:?}");
    assert!(names.iter().all(|name| !name.starts_with('@')), "abstract: {names:?}");
    // Inside of containers there is none at all that is ours.
    for name in ["web", "alone"] {
        assert_eq!(listeners(world.pid(name)), Vec::<String>::new(), "{name}");
    }

    let run = world.path("run");
    let mode = |path: &Path| path.symlink_metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&run), 0o700);
    let mut found = Vec::new();
    below(&run, &mut found);
    let is_socket = |path: &&PathBuf| path.symlink_metadata().unwrap().file_type().is_socket();
    let sockets: Vec<&PathBuf> = found.iter().filter(is_socket).collect();
    assert!(sockets.len() >= 3, "the daemon's and a shim's each: {sockets:?}");
    for socket in sockets {
        assert_eq!(mode(socket), 0o600, "{}", socket.display());
        assert!(names.iter().any(|name| Path::new(name).file_name() == socket.file_name()), "{}", socket.display());
    }
    for dir in found.iter().filter(|path| path.is_dir()) {
        assert_eq!(mode(dir) & 0o077, 0, "{}", dir.display());
    }
    world.remove_all();
    world.assert_clean();
}
