//! `cc vpc`: bad CIDRs are explained, deleting is all or nothing, names and ids are interchangeable.

use cc_tests::World;

#[test]
fn bad_cidrs_are_explained() {
    let world = World::new();
    let cases = [
        ("10.0.0.7/24", "10.0.0.0/24"),
        ("10.0.0.0/31", "too small"),
        ("224.0.0.0/24", "multicast"),
        ("127.0.0.0/24", "loopback"),
        ("fd00::/64", "IPv6"),
        ("ten", "ADDRESS/LENGTH"),
    ];
    for (cidr, word) in cases {
        world.cc(&["vpc", "create", "--cidr", cidr, "--name", "bad"]).fails(1, word);
    }
    assert_eq!(world.cc(&["vpc", "list", "-q"]).ok().stdout, "");
}

#[test]
fn delete_is_all_or_nothing_and_forgives_the_unknown() {
    let world = World::new();
    let (blue, red) = (world.vpc("blue", "10.0.0.0/24"), world.vpc("red", "10.0.0.0/24"));
    world.cc(&["vpc", "create", "--cidr", "10.1.0.0/24", "--name", "blue"]).fails(1, "blue");
    let user = world.run("busybox", &["--vpc", "blue"], &["sleep", "600"]);
    world.cc(&["vpc", "delete", &red, "blue"]).fails(1, "blue");
    let listed = world.cc(&["vpc", "list", "-q"]).ok().stdout;
    assert!(listed.contains(&blue) && listed.contains(&red), "nothing was deleted: {listed}");
    world.cc(&["rm", "-f", &user]).ok();
    world.cc(&["vpc", "delete", &red, "blue", "never-was", "vpc-000000000000"]).ok();
    world.cc(&["vpc", "delete", &red]).ok();
    assert_eq!(world.cc(&["vpc", "list", "-q"]).ok().stdout, "");
}

/// A /29 has five addresses: they are given in turn, exhaustion is told, and a freed one comes back only then.
#[test]
fn addresses_are_given_in_turn() {
    let world = World::new();
    world.vpc("tiny", "10.9.0.0/29");
    let run = || world.run("busybox", &["--vpc", "tiny"], &["sleep", "600"]);
    let first = run();
    assert_eq!(world.address(&first), "10.9.0.2");
    world.cc(&["rm", "-f", &first]).ok();
    let ids: Vec<String> = (0..5).map(|_| run()).collect();
    let addresses: Vec<String> = ids.iter().map(|id| world.address(id)).collect();
    assert_eq!(addresses, ["10.9.0.3", "10.9.0.4", "10.9.0.5", "10.9.0.6", "10.9.0.2"]);
    let image = world.image("busybox");
    world.cc(&["run", "-d", "--vpc", "tiny", "--image", &image, "true"]).fails(125, "no free address");
    let eth0 = world.run_rm("busybox", &[], &["true"]);
    assert_eq!(eth0.code, 0, "the failure left the daemon well");
}

#[test]
fn a_container_sees_its_network() {
    let world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    let sh = |command: &str| {
        world.run_rm("busybox", &["--vpc", "blue", "--hostname", "web"], &["sh", "-c", command]).ok().stdout
    };
    assert!(sh("ip -4 addr show eth0").contains("10.0.0.2/24"));
    assert!(sh("ip route").contains("default via 10.0.0.1 dev eth0"));
    assert!(sh("cat /etc/hosts").contains("web"));
    assert!(sh("cat /etc/resolv.conf").contains("10.0.0.1"));
    assert_eq!(sh("cat /sys/class/net/eth0/mtu"), "1450\n", "there is no uplink here: Ethernet less VXLAN");
    let mtu =
        world.run_rm("busybox", &["--vpc", "blue", "--mtu", "1400"], &["cat", "/sys/class/net/eth0/mtu"]).ok().stdout;
    assert_eq!(mtu, "1400\n");
    world.assert_clean();
}
