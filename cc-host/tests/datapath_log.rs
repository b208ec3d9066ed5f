//! The programs tell of each drop when the log's level is debug, and hold no log at all otherwise.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod datapath_support;

use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::time::Duration;

use datapath_support::World;
use tracing_subscriber::filter::LevelFilter;

static RECORDS: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Capture;

impl log::Log for Capture {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        RECORDS.lock().unwrap().push(format!("{} {} {}", record.level(), record.target(), record.args()));
    }
    fn flush(&self) {}
}

#[test]
fn a_drop_is_told_at_debug_level_only() {
    log::set_logger(&Capture).unwrap();
    log::set_max_level(log::LevelFilter::Debug);
    let quiet = World::new();
    assert!(quiet.datapath().take_logger().is_none(), "nobody listens");
    drop(quiet);

    let subscriber = tracing_subscriber::fmt().with_max_level(LevelFilter::DEBUG).with_test_writer().finish();
    let mut world = tracing::subscriber::with_default(subscriber, World::new);
    world.network(1);
    let a = world.container(0, 1, 2);
    assert!(!a.pings(Ipv4Addr::new(10, 0, 0, 77)));
    let logger = world.datapath().take_logger().unwrap();
    world.block_on(async {
        // It runs for as long as it is let: the records are there already.
        let forward = cc_host::datapath::forward_log(logger);
        assert!(tokio::time::timeout(Duration::from_millis(200), forward).await.is_err());
    });
    let records = RECORDS.lock().unwrap();
    let told = "DEBUG cc_ebpf";
    assert!(records.iter().any(|r| r.starts_with(told) && r.contains("dropped: endpoint 0")), "{records:?}");
}
