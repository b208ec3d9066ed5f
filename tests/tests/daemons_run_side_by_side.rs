//! Many daemons on one machine: neither sees, uses or removes anything of another's.

use cc_tests::{Leave, World};

#[test]
fn two_daemons_in_one_namespace_leave_each_other_alone() {
    let netns = cc_tests::netns::Netns::new().unwrap();
    let twin = netns.try_clone().unwrap();
    let (one, mut two) = (World::in_netns(netns, ""), World::in_netns(twin, ""));
    for world in [&one, &two] {
        world.vpc("blue", "10.0.0.0/24");
        world.run("busybox", &["--vpc", "blue", "--name", "web"], &["sleep", "600"]);
    }
    // The second one's boot removes what it left itself and no record explains, and adopts its own; of the first one's, it touches
    // nothing.
    two.leave(Leave::Killed);
    two.start();
    let ping = ["ping", "-c", "1", "-W", "2", "10.0.0.2"];
    for world in [&one, &two] {
        assert_eq!(world.inspect("web")["state"], "running");
        world.run_rm("busybox", &["--vpc", "blue"], &ping).ok();
    }
    two.cc(&["rm", "-f", "web"]).ok();
    one.run_rm("busybox", &["--vpc", "blue"], &ping).ok();
    assert_ne!(two.run_rm("busybox", &["--vpc", "blue"], &ping).code, 0);
}

#[test]
fn a_second_daemon_on_the_same_directories_is_refused() {
    let world = World::new();
    let ran = world.host(&["serve"]);
    assert_ne!(ran.code, 0);
    assert!(ran.stderr.contains("run"), "{}", ran.stderr);
    world.cc(&["vpc", "list"]).ok();
}

#[test]
fn check_names_what_is_there() {
    let world = World::new();
    let ran = world.host(&["check"]);
    for word in ["kernel", "bpf", "cgroup", "overlay"] {
        assert!(ran.stdout.to_lowercase().contains(word), "{word}: {}{}", ran.stdout, ran.stderr);
    }
}
