//! `/metrics` says what `cc metrics` says, on loopback to everybody; documentation and dashboard speak of what it says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cc_tests::exposition::Scrape;
use cc_tests::netns::Netns;
use cc_tests::packet::{Wire, ethernet};
use cc_tests::promql::Used;
use cc_tests::{World, eventually};
use serde_json::Value;

const DEFAULT: &str = "http://127.0.0.1:9477/metrics";
const SETTLED: Duration = Duration::from_secs(10);

#[track_caller]
fn read(world: &World, args: &[&str]) -> Scrape {
    let (status, body) = world.curl(args);
    assert_eq!(status, 200, "{args:?}: {body}");
    Scrape::parse(&body).unwrap_or_else(|error| panic!("{error}\n{body}"))
}

fn docs(file: &str) -> String {
    let path = format!("{}/../docs/{file}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A world in which everything that has figures has happened: traffic, drops, an event, a refused call, a stopped container.
fn eventful() -> (World, String) {
    let world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    let options = ["--vpc", "blue", "--name", "web", "--memory", "64MiB", "--pids-limit", "77"];
    let limits = ["--egress-bandwidth", "100MiB", "--ingress-bandwidth", "100MiB"];
    let web = world.run("busybox", &[&options[..], &limits[..]].concat(), &["sleep", "600"]);
    world.run_rm("busybox", &["--vpc", "blue"], &["ping", "-c", "3", "-W", "2", &world.address(&web)]).ok();
    world.run_rm("busybox", &["--vpc", "blue", "--name", "gone"], &["true"]).ok();
    let args = ["run", "--image", &world.image("busybox"), "--name", "stopped", "true"];
    world.cc(&args).ok();
    // Seven frames with a VLAN tag, which the datapath drops and nothing else sends.
    world.in_container(&web, || {
        let wire = Wire::open("eth0").unwrap();
        for _ in 0..7 {
            wire.send(&ethernet([2, 0xcc, 0, 0, 0, 1], [2, 0, 0, 0, 0, 9], 0x8100, &[0; 60])).unwrap();
        }
    });
    eventually("the frames are counted", SETTLED, || (world.drops(&web, "vlan") == 7).then_some(()));
    (world, web)
}

#[test]
fn figures_are_those_of_cc_metrics() {
    let (world, web) = eventful();
    let metrics = || world.cc(&["metrics", &web, "--json"]).json()[0].clone();
    // Between two equal readings nothing happened, so a scrape between them has to equal both.
    let (before, scrape, after) = eventually("the container's traffic rests", SETTLED, || {
        let (before, scrape, after) = (metrics(), read(&world, &[DEFAULT]), metrics());
        let rests =
            ["received", "sent", "socket_received", "socket_sent", "drops"].iter().all(|k| before[k] == after[k]);
        rests.then_some((before, scrape, after))
    });
    let own = [("project", "default"), ("container", "web"), ("id", web.as_str()), ("vpc", "blue")];
    let value = |name: &str| scrape.value(&format!("cc_container_{name}"), &own).unwrap_or_else(|| panic!("{name}"));
    let number = |of: &Value| of.as_u64().unwrap_or_else(|| panic!("{of}")) as f64;
    for (name, at) in [
        ("network_receive_packets_total", "/received/packets"),
        ("network_receive_bytes_total", "/received/bytes"),
        ("network_transmit_packets_total", "/sent/packets"),
        ("network_transmit_bytes_total", "/sent/bytes"),
        ("socket_receive_packets_total", "/socket_received/packets"),
        ("socket_receive_bytes_total", "/socket_received/bytes"),
        ("socket_transmit_packets_total", "/socket_sent/packets"),
        ("socket_transmit_bytes_total", "/socket_sent/bytes"),
        ("memory_limit_bytes", "/memory_limit_bytes"),
        ("pids_limit", "/pids_limit"),
        ("pids", "/pids"),
        ("oom_kills_total", "/oom_kills"),
        ("io_read_bytes_total", "/io_read_bytes"),
        ("io_written_bytes_total", "/io_write_bytes"),
    ] {
        assert_eq!(value(name), number(before.pointer(at).unwrap()), "{name}");
    }
    assert!(value("network_receive_packets_total") >= 3.0 && value("network_transmit_packets_total") >= 3.0);
    assert_eq!((value("memory_limit_bytes"), value("pids_limit")), (f64::from(64 << 20), 77.0));
    for (name, at, unit) in
        [("cpu_seconds_total", "cpu_usage_us", 1e6), ("memory_peak_bytes", "memory_peak_bytes", 1.0)]
    {
        let (low, high) = (number(&before[at]) / unit, number(&after[at]) / unit);
        assert!((low..=high).contains(&value(name)) && low > 0.0, "{name}: {low} to {high}, and not {}", value(name));
    }
    assert!(value("memory_usage_bytes") > 0.0 && value("memory_usage_bytes") <= value("memory_peak_bytes"));

    let drops = before["drops"].as_array().unwrap();
    assert_eq!(scrape.series("cc_container_network_dropped_packets_total", &own).count(), drops.len());
    for drop in drops {
        let mut labels = own.to_vec();
        labels.extend(["direction", "reason"].map(|key| (key, drop[key].as_str().unwrap())));
        for what in ["packets", "bytes"] {
            let found = scrape.value(&format!("cc_container_network_dropped_{what}_total"), &labels);
            assert_eq!(found, Some(number(&drop[what])), "{drop}");
        }
    }
    let vlan = [("direction", "egress"), ("reason", "vlan"), ("container", "web")];
    assert_eq!(scrape.value("cc_container_network_dropped_packets_total", &vlan), Some(7.0));
}

#[test]
fn the_host_is_counted_and_what_has_ended_is_not_exported() {
    let (world, web) = eventful();
    // An end is told to who waits for it, and then there is an event.
    let scrape = eventually("three ends have an event each", SETTLED, || {
        let scrape = read(&world, &[DEFAULT]);
        (scrape.value("cc_events_total", &[("kind", "container.stopped")]) == Some(3.0)).then_some(scrape)
    });
    let value = |name: &str, labels: &[(&str, &str)]| scrape.value(name, labels).unwrap_or_else(|| panic!("{name}"));
    let ids: BTreeSet<&str> = scrape.samples.iter().filter_map(|s| Some(s.labels.get("id")?.as_str())).collect();
    assert_eq!(ids, BTreeSet::from([web.as_str()]));
    for (state, count) in [("created", 0.0), ("running", 1.0), ("stopped", 1.0)] {
        assert_eq!(value("cc_containers", &[("state", state)]), count, "{state}");
    }
    assert_eq!(value("cc_vpcs", &[]), 1.0);
    assert_eq!(value("cc_events_total", &[("kind", "host.started")]), 1.0);
    let version = world.cc(&["info", "--json"]).json()["version"].as_str().unwrap().to_owned();
    assert_eq!(value("cc_build_info", &[("version", &version)]), 1.0);
    for name in ["cc_scrape_truncated", "cc_scrapes_truncated_total", "cc_scrape_failures_total"] {
        assert_eq!(value(name, &[]), 0.0, "{name}");
    }

    let proc_dir = format!("/proc/{}", world.daemon().pid());
    let status = std::fs::read_to_string(format!("{proc_dir}/status")).unwrap();
    let resident: f64 =
        status.lines().find_map(|l| l.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok()).unwrap();
    let ratio = value("process_resident_memory_bytes", &[]) / (resident * 1024.0);
    assert!((0.5..2.0).contains(&ratio), "{ratio}");
    let fds = std::fs::read_dir(format!("{proc_dir}/fd")).unwrap().count() as f64;
    assert!((value("process_open_fds", &[]) - fds).abs() < 16.0 && fds <= value("process_max_fds", &[]));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let age = now - value("process_start_time_seconds", &[]);
    assert!((-2.0..600.0).contains(&age) && value("process_cpu_seconds_total", &[]) > 0.0, "{age}");

    world.cc(&["stop", "-t", "0", &web]).ok();
    let scrape = read(&world, &[DEFAULT]);
    assert_eq!(scrape.series("cc_container_pids", &[]).count(), 0);
    assert_eq!(scrape.value("cc_containers", &[("state", "stopped")]), Some(2.0));
}

/// Name → type and labels, as a row of docs/metrics.md has them.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let text = docs("metrics.md");
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let code = |cell: &str| -> BTreeSet<String> { cell.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let name = code(cells[1]).pop_first().unwrap();
        (name, (cells[2].to_owned(), code(cells[4])))
    })
    .collect()
}

#[test]
fn every_family_is_documented_and_named_by_the_conventions() {
    let (world, _web) = eventful();
    let scrape = read(&world, &[DEFAULT]);
    let documented = documented();
    let exported: BTreeSet<&String> = scrape.families.keys().collect();
    assert_eq!(exported, documented.keys().collect(), "docs/metrics.md and a scrape differ");
    for (name, family) in &scrape.families {
        let (kind, _) = &documented[name];
        assert_eq!(*kind, family.kind, "{name}");
        assert_eq!(name.ends_with("_total"), family.kind == "counter", "{name}");
        assert!(name.starts_with("cc_") || name.starts_with("process_"), "{name}");
        assert!(family.help.ends_with('.') && family.help.len() > 10, "{name}: {}", family.help);
        let words: Vec<&str> = name.trim_end_matches("_total").split('_').collect();
        for unit in ["bytes", "seconds"] {
            assert!(!words[..words.len() - 1].contains(&unit), "{name}: the unit comes last");
        }
        for scaled in ["ms", "us", "milliseconds", "microseconds", "kb", "mb", "percent"] {
            assert!(!words.contains(&scaled), "{name} is not in a base unit");
        }
    }
    for sample in &scrape.samples {
        let (_, labels) = &documented[&sample.name];
        assert_eq!(&sample.labels.keys().cloned().collect::<BTreeSet<_>>(), labels, "{}", sample.name);
    }
}

#[test]
fn the_dashboard_asks_for_nothing_that_is_not_exported() {
    let (world, _web) = eventful();
    let scrape = read(&world, &[DEFAULT]);
    let documented = documented();
    let dashboard: Value = serde_json::from_str(&docs("grafana-dashboard.json")).unwrap();
    let mut asked = BTreeSet::new();
    let mut check = |expression: &str| {
        let used = Used::in_expression(expression);
        assert!(!used.metrics.is_empty(), "{expression}");
        // What a scraper adds.
        let mut labels = BTreeSet::from(["job".to_owned(), "instance".to_owned()]);
        for metric in &used.metrics {
            assert!(scrape.families.contains_key(metric), "{metric} is not exported: {expression}");
            labels.extend(documented[metric].1.iter().cloned());
        }
        assert!(used.labels.is_subset(&labels), "{:?} are no labels: {expression}", used.labels.difference(&labels));
        asked.extend(used.metrics);
    };
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            check(target["expr"].as_str().unwrap());
        }
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap().iter().filter(|v| v["type"] == "query");
    for variable in variables {
        let query = variable["query"]["query"].as_str().unwrap();
        let (series, label) =
            query.strip_prefix("label_values(").unwrap().trim_end_matches(')').rsplit_once(", ").unwrap();
        check(&format!("sum by ({label}) ({series})"));
    }
    let exported: BTreeSet<String> = scrape.families.keys().cloned().collect();
    assert_eq!(asked, exported, "the dashboard shows everything that there is");
}

#[test]
fn daemons_side_by_side_share_no_port_and_none_fails_for_it() {
    let netns = Netns::new().unwrap();
    let twin = netns.try_clone().unwrap();
    let one = World::in_netns(netns, "");
    let mut two = World::in_netns(twin, "");
    let only = one.run("busybox", &[], &["sleep", "600"]);
    two.run("busybox", &[], &["sleep", "600"]);
    let scrape = read(&two, &[DEFAULT]);
    assert_eq!(scrape.series("cc_container_pids", &[]).count(), 1, "one answers, for itself");
    assert!(scrape.series("cc_container_pids", &[("id", &only)]).count() == 1);
    let events = two.cc(&["events", "--json"]).ok().stdout;
    assert!(events.contains("metrics.off") && events.contains("metrics_listen"), "{events}");
    assert!(!one.cc(&["events", "--json"]).ok().stdout.contains("metrics.off"));

    // The same address, but asked for: then it is that or nothing.
    two.remove_all();
    let (status, _) = two.take_daemon().stop();
    assert!(status.success());
    let config = std::fs::read_to_string(two.config()).unwrap();
    let file = two.config();
    let with = |listen: &str| std::fs::write(&file, format!("{config}metrics_listen = {listen:?}\n")).unwrap();
    with("127.0.0.1:9477");
    let ran = two.host(&["serve"]).fails(1, "metrics.listen");
    assert!(ran.stderr.contains("metrics_listen") && ran.stderr.contains("127.0.0.1:9477"), "{}", ran.stderr);
    with("127.0.0.1:9478");
    two.start();
    two.cc(&["info"]).ok();
    let elsewhere = read(&two, &["http://127.0.0.1:9478/metrics"]);
    assert_eq!(elsewhere.value("cc_containers", &[("state", "running")]), Some(0.0));
    let (status, _) = two.take_daemon().stop();
    assert!(status.success());
    with("off");
    two.start();
    two.cc(&["info"]).ok();
    assert_eq!(two.curl(&["http://127.0.0.1:9478/metrics"]).0, 0);
    assert_eq!(two.daemon().log().matches("serving metrics").count(), 1, "of three starts, the second");
}
