//! What the user says of the program's surroundings is what the program sees.

use cc_tests::World;

#[test]
fn env_dir_hostname_and_user() {
    let world = World::new();
    let sh = |options: &[&str], command: &str| world.run_rm("busybox", options, &["sh", "-c", command]).ok().stdout;
    assert_eq!(sh(&["--env", "A=1", "--env", "B=two words"], "echo \"$A $B\""), "1 two words\n");
    assert_eq!(sh(&["--dir", "/tmp"], "pwd"), "/tmp\n");
    assert_eq!(sh(&["--hostname", "web"], "hostname; cat /etc/hostname"), "web\nweb\n");
    assert_eq!(sh(&[], "id -u; id -g"), "0\n0\n");
    assert_eq!(sh(&["--user", "app"], "id -u; id -g; echo $HOME"), "1000\n1000\n/home/app\n");
    assert_eq!(sh(&["--user", "1000"], "id -u"), "1000\n");
    assert_eq!(sh(&["--user", "1234:2345"], "id -u; id -g"), "1234\n2345\n");
    assert_eq!(sh(&["--user", "app"], "id -G"), "1000 2000\n", "supplementary groups come from the image");
    world.run_rm("busybox", &["--user", "nosuchuser"], &["true"]).fails(125, "nosuchuser");
    world.assert_clean();
}

#[test]
fn the_container_is_what_it_should_be() {
    let world = World::new();
    let sh = |command: &str| world.run_rm("busybox", &[], &["sh", "-c", command]).ok().stdout;
    assert_eq!(sh("echo $$"), "1\n", "its program is process 1");
    assert_eq!(sh("ip link show | grep -c '^[0-9]'"), "1\n", "without a VPC there is loopback only");
    sh("ping -c 1 -W 1 127.0.0.1");
    assert_eq!(sh("grep NoNewPrivs /proc/self/status"), "NoNewPrivs:\t1\n");
    assert_eq!(sh("grep CapEff /proc/self/status"), "CapEff:\t00000000a80425fb\n", "docker's default set");
    assert_eq!(sh("cat /proc/kcore | wc -c"), "0\n", "masked");
    assert_eq!(sh("echo x > /proc/sys/kernel/hostname && echo written; true"), "", "read-only");
    assert_eq!(sh("ls -A /sys/firmware | wc -l"), "0\n", "masked");
}

#[test]
fn labels_and_names_come_back() {
    let world = World::new();
    let id = world.run("busybox", &["--name", "web", "--label", "tier=front"], &["sleep", "600"]);
    let inspected = world.inspect("web");
    assert_eq!(inspected["id"], id.as_str());
    assert_eq!(inspected["spec"]["labels"]["tier"], "front");
    let image = world.image("busybox");
    world.cc(&["run", "-d", "--name", "web", "--image", &image, "true"]).fails(125, "web");
}
