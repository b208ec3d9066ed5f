//! Limits are enforced, and what they did is told.
#![cfg(feature = "daemon")]

mod runtime_world;

use cc_host::kernel::cgroup::Limits;
use runtime_world::World;

#[tokio::test]
async fn the_memory_limit_kills_and_says_so() {
    let mut world = World::new();
    world.limits.memory_bytes = Some(32 << 20);
    let outcome = world.sh("x=x; while true; do x=$x$x; done").await;
    assert_eq!((outcome.record.code, outcome.record.signal), (137, Some(9)));
    assert!(outcome.oom_kills > 0);
    world.limits.memory_bytes = Some(64 << 20);
    assert_eq!(world.sh("exit 4").await.record.code, 4);
    world.end();
}

#[tokio::test]
async fn the_process_limit_holds() {
    let mut world = World::new();
    world.limits.pids_max = Some(6);
    let outcome = world.sh("for i in 1 2 3 4 5 6 7 8; do sleep 60 & done; echo started").await;
    assert!(outcome.stderr.contains("can't fork"), "{outcome:?}");
    world.end();
}

#[tokio::test]
async fn what_a_container_uses_is_measured() {
    let world = World::new();
    let (shim, made) = world
        .spawn(&["sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo done; read x"], |s| s.stdin = true)
        .await;
    let (stdin, mut output) = shim.attach(true).await.unwrap();
    shim.start().await.unwrap();
    output.recv().await.unwrap();
    let stats = made.cgroup.stats();
    assert!(stats.cpu_usage_us > 0 && stats.memory_bytes > 0 && stats.memory_peak > 0, "{stats:?}");
    assert_eq!((stats.pids, stats.pids_limit, stats.memory_limit), (1, Some(64), None));
    drop(stdin);
    shim.wait().await;
    made.cgroup.remove().unwrap();
    world.end();
}

#[tokio::test]
async fn removing_a_cgroup_kills_what_is_in_it() {
    let world = World::new();
    let (shim, made) = world.spawn(&["sleep", "1000"], |_| ()).await;
    shim.start().await.unwrap();
    assert_eq!(world.cgroups.list().unwrap(), std::slice::from_ref(&made.spec.id));
    made.cgroup.remove().unwrap();
    made.cgroup.remove().unwrap();
    assert_eq!(shim.wait().await.signal, Some(9));
    world.end();
}

#[test]
fn a_cgroup_that_could_not_be_limited_is_not_left() {
    let world = World::new();
    let limits = Limits { memory_bytes: Some(u64::MAX), ..Limits::default() };
    assert!(world.cgroups.create("greedy", &limits).is_err());
    world.end();
}
