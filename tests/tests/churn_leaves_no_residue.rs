//! Containers come and go by the hundred, and nothing of them stays.

use cc_tests::World;

/// The soak runs more.
fn count() -> usize {
    if std::env::var_os("CC_SOAK").is_some() { 1000 } else { 200 }
}

const AT_ONCE: usize = 8;

#[test]
fn two_hundred_containers_leave_nothing() {
    let world = World::new();
    world.vpc("blue", "10.0.0.0/22");
    let image = world.image("busybox");
    let netns_before = namespaces();
    for batch in 0..count() / AT_ONCE {
        std::thread::scope(|scope| {
            for n in 0..AT_ONCE {
                let (world_command, image) = (world.command(&[]), &image);
                let mut command = world_command;
                command.args(["run", "--rm", "--vpc", "blue", "--memory", "64MiB", "--image", image, "sh", "-c"]);
                command.arg(format!("exit {}", n % 3));
                scope.spawn(move || {
                    let output = command.output().unwrap();
                    assert_eq!(output.status.code(), Some((n % 3) as i32), "batch {batch}: {output:?}");
                });
            }
        });
    }
    println!("soak: {} containers", count());
    world.assert_clean();
    // The kernel frees network namespaces on its own time.
    cc_tests::eventually("network namespaces are gone", std::time::Duration::from_secs(20), || {
        (namespaces() <= netns_before).then_some(())
    });
    assert_eq!(world.cc(&["ps", "-a", "-q"]).ok().stdout, "");
}

/// Network namespaces that some process of this machine is in.
fn namespaces() -> usize {
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let links = entries.filter_map(|e| std::fs::read_link(e.path().join("ns/net")).ok());
    links.collect::<std::collections::HashSet<_>>().len()
}
