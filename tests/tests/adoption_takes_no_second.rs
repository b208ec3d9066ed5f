//! A daemon that starts where twenty containers run answers within a second, and knows them all. In a file of its own: what is promised of a
//! machine's time is measured while nothing else is.

use std::time::{Duration, Instant};

use cc_tests::{Leave, World};

/// From the daemon's start to its first answer.
const ADOPTED_WITHIN: Duration = Duration::from_secs(1);
const MANY: usize = 20;

#[test]
fn twenty_are_adopted_within_a_second() {
    let mut world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    let mut ids: Vec<String> = (0..MANY).map(|_| world.run("busybox", &["--vpc", "blue"], &["sleep", "600"])).collect();
    ids.sort();
    for how in [Leave::Killed, Leave::Stopped] {
        world.leave(how);
        let began = Instant::now();
        world.start();
        let shown = world.cc(&["ps", "-q"]).ok().stdout;
        let took = began.elapsed();
        let mut shown: Vec<&str> = shown.lines().collect();
        shown.sort_unstable();
        assert_eq!(shown, ids, "{how:?}");
        println!("{MANY} containers were adopted {took:?} after the daemon's start");
        assert!(took < cc_tests::allowed(ADOPTED_WITHIN), "{how:?}: {took:?}");
        assert!(ids.iter().all(|id| world.events_of(id).iter().any(|(kind, _)| kind == "container.adopted")));
    }
    // And they can be ended as one.
    world.remove_all();
    world.assert_clean();
}
