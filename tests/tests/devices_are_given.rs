//! `cc run --device`: a device of the host's, at a place of its own in the container, with no more than the rights that were given.

use cc_tests::World;

/// 10:237, 0600 on the host: only what is given makes it open to anybody inside.
const CLOSED: &str = "/dev/loop-control";

fn says(world: &World, options: &[&str], script: &str) -> String {
    world.run_rm("busybox", options, &["sh", "-c", script]).ok().stdout
}

#[test]
fn it_is_there_with_its_rights_and_number() {
    let world = World::new();
    let options = ["--device", "/dev/zero:/dev/a/zero:r", "--device", "/dev/full:/full:w", "--device", CLOSED];
    let script = "stat -c '%t:%T %a' /dev/a/zero /full /dev/loop-control; head -c 3 /dev/a/zero | wc -c; \
        (echo x > /dev/a/zero) 2>/dev/null || echo not written; cat /full 2>/dev/null || echo not read; \
        (echo x > /full) 2>&1 | grep -o 'No space'; \
        chmod 666 /dev/a/zero 2>/dev/null || echo not changed; \
        exec 3<>/dev/loop-control && echo opened; ls -a /dev | grep -c nodes; true";
    let said = says(&world, &options, script);
    let numbers = "1:5 44\n1:7 22\na:ed 60\n";
    assert_eq!(said, format!("{numbers}3\nnot written\nnot read\nNo space\nnot changed\nopened\n0\n"));
    // Without it there is none, and another user than root has what the host gives everybody.
    assert_eq!(says(&world, &[], "ls /dev/loop-control 2>/dev/null || echo none"), "none\n");
    let other = ["-u", "app", "--device", CLOSED, "--device", "/dev/zero:/dev/z"];
    let said = says(&world, &other, "head -c 1 /dev/z | wc -c; (exec 3</dev/loop-control) 2>/dev/null || echo closed");
    assert_eq!(said, "1\nclosed\n");
    world.assert_clean();
}

#[test]
fn it_stays_when_the_container_is_started_again_and_is_shown() {
    let world = World::new();
    let options = ["--name", "web", "--read-only", "--device", "/dev/zero:/dev/z:rm"];
    world.run("busybox", &options, &["sleep", "600"]);
    world.cc(&["restart", "-t", "0", "web"]).ok();
    assert_eq!(world.cc(&["exec", "web", "sh", "-c", "head -c 2 /dev/z | wc -c"]).line(), "2");
    assert_eq!(world.inspect("web")["spec"]["devices"][0], "/dev/zero:/dev/z:r");
    world.remove_all();
    world.assert_clean();
}

#[test]
fn what_is_no_device_is_refused() {
    let world = World::new();
    let run = |device: &str| world.run_rm("busybox", &["--device", device], &["true"]);
    run("/etc/passwd").fails(125, "it is no device");
    run("/dev/no-such-device").fails(125, "/dev/no-such-device");
    run("/dev/../etc/passwd").fails(125, "--device");
    run("/dev/zero:/proc/x").fails(125, "the kernel's");
    run("/dev/zero:/dev/z:q").fails(125, "r, w and m");
    world.assert_clean();
}
