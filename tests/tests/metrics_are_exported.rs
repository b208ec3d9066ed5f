//! `/metrics` says what `cc metrics` says, to those who may know: everything on loopback, by TLS and a token elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cc_tests::exposition::Scrape;
use cc_tests::netns::Netns;
use cc_tests::packet::{Wire, ethernet};
use cc_tests::promql::Used;
use cc_tests::{World, eventually};
use serde_json::Value;

const DEFAULT: &str = "http://127.0.0.1:9477/metrics";
/// Of an address range for documentation: in a namespace of our own it is nobody else's.
const ADDRESS: &str = "192.0.2.1";
const SETTLED: Duration = Duration::from_secs(10);

/// Status and body; status 0 when there was no answer.
fn curl(world: &World, args: &[&str]) -> (u16, String) {
    let mut command = world.netns.command("curl");
    command.args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "10", "--write-out", "\n%{http_code}"]);
    let output = command.args(args).output().expect("curl can be run; run `cargo xtask setup`");
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), body.to_owned())
}

#[track_caller]
fn read(world: &World, args: &[&str]) -> Scrape {
    let (status, body) = curl(world, args);
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
    let web = world.run("busybox", &options, &["sleep", "600"]);
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

struct Remote {
    world: World,
    /// Where metrics are, by TLS.
    url: String,
    ca: String,
    /// Where the API is.
    endpoint: String,
}

fn remote(extra: &str) -> Remote {
    let netns = Netns::new().unwrap();
    let added = netns.command("ip").args(["address", "add", &format!("{ADDRESS}/32"), "dev", "lo"]).status().unwrap();
    assert!(added.success());
    let config = format!("metrics_listen = \"{ADDRESS}:9477\"\nlisten = \"{ADDRESS}:7443\"\n{extra}");
    let world = World::in_netns(netns, &config);
    // It listens before it serves; once it answers, it has said where.
    world.cc(&["info"]).ok();
    let log = world.daemon().log();
    let at = log.find("https://192.0.2.1:7443#sha256=").expect("the daemon prints its endpoint");
    let endpoint = log[at..].split(|c: char| c.is_whitespace() || c == '"').next().unwrap().to_owned();
    let ca = world.path("state/tls/ca.pem").display().to_string();
    Remote { world, url: format!("https://{ADDRESS}:9477/metrics"), ca, endpoint }
}

impl Remote {
    /// Id and token.
    fn token(&self, whose: &[&str]) -> (String, String) {
        let args = [&["key", "create", "--role", "metrics", "--json"], whose].concat();
        let made = self.world.host(&args).json();
        assert_eq!(made["role"], "metrics");
        let text = |key: &str| made[key].as_str().unwrap().to_owned();
        (text("access_token"), text("bearer_token"))
    }

    fn get(&self, token: &str) -> (u16, String) {
        curl(&self.world, &["--cacert", &self.ca, "--header", &format!("Authorization: Bearer {token}"), &self.url])
    }

    fn scrape(&self, token: &str) -> Scrape {
        let (status, body) = self.get(token);
        assert_eq!(status, 200, "{body}");
        Scrape::parse(&body).unwrap()
    }

    fn cc(&self, key: &str, secret: &str, args: &[&str]) -> cc_tests::Ran {
        let mut command = self.world.command(args);
        command.env("CC_ENDPOINT_URL", &self.endpoint).env("CC_ACCESS_TOKEN", key).env("CC_SECRET_KEY", secret);
        self.world.netns.enter(&mut command);
        self.world.run_with_stdin(command, b"")
    }
}

#[test]
fn strangers_need_tls_and_a_token() {
    let remote = remote("");
    let world = &remote.world;
    let (id, token) = remote.token(&["--all-projects"]);
    assert_eq!(remote.get(&token).0, 200);
    // Without TLS, without trust in the certificate, without a token, with a wrong one: nothing.
    let plain = remote.url.replace("https", "http");
    let bearer = format!("Authorization: Bearer {token}");
    assert_ne!(curl(world, &["--header", &bearer, &plain]).0, 200);
    assert_eq!(curl(world, &["--header", &bearer, &remote.url]).0, 0);
    let (status, body) = curl(world, &["--cacert", &remote.ca, &remote.url]);
    assert_eq!(status, 401, "{body}");
    assert!(body.contains("auth.no_token") && !body.contains("cc_"), "{body}");
    let last = if token.ends_with('0') { "1" } else { "0" };
    let (status, body) = remote.get(&format!("{}{last}", &token[..token.len() - 1]));
    assert_eq!(status, 401, "{body}");
    assert!(body.contains("auth.bad_token"), "{body}");
    let post = curl(world, &["--cacert", &remote.ca, "--header", &bearer, "--data", "x", &remote.url]);
    assert_eq!(post.0, 405);
    assert_eq!(curl(world, &["--cacert", &remote.ca, &remote.url.replace("metrics", "x")]).0, 404);
    // It was counted, and is where tokens are listed and revoked.
    let scrape = remote.scrape(&token);
    for code in ["auth.no_token", "auth.bad_token"] {
        assert_eq!(scrape.value("cc_api_refusals_total", &[("door", "metrics"), ("code", code)]), Some(1.0), "{code}");
    }
    let listed = world.host(&["key", "list"]).ok().stdout;
    assert!(listed.contains(&id) && !listed.contains(&token), "{listed}");
    world.host(&["key", "revoke", &id]).ok();
    assert_eq!(remote.get(&token).0, 401);
    assert!(!world.host(&["key", "list"]).ok().stdout.contains(&id));
}

#[test]
fn a_projects_token_shows_that_projects_containers() {
    let remote = remote("");
    let world = &remote.world;
    let run = |project: &str| {
        let image = cc_tests::images::reference("busybox").unwrap();
        let mut command = world.command(&["run", "-d", "--name", "web", "--image", &image, "sleep", "600"]);
        command.env("CC_PROJECT", project);
        world.run_with_stdin(command, b"").line()
    };
    let (alpha, beta) = (run("alpha"), run("beta"));
    let scrape = remote.scrape(&remote.token(&["--project", "alpha"]).1);
    assert_eq!(scrape.value("cc_container_pids", &[("id", &alpha), ("project", "alpha")]), Some(1.0));
    for sample in &scrape.samples {
        let whose = sample.labels.get("project").map(String::as_str);
        assert!(whose == Some("alpha") || sample.name == "cc_scrape_truncated", "{sample:?}");
    }
    let (_, body) = remote.get(&remote.token(&["--project", "alpha"]).1);
    assert!(!body.contains(&beta) && !body.contains("beta"), "{body}");
    let nobody = remote.scrape(&remote.token(&["--project", "gamma"]).1);
    assert_eq!(nobody.series("cc_container_pids", &[]).count(), 0);
    let all = remote.scrape(&remote.token(&["--all-projects"]).1);
    assert_eq!(all.series("cc_container_pids", &[]).count(), 2);
    for project in ["alpha", "beta"] {
        let mut command = world.command(&["rm", "-f", "web"]);
        command.env("CC_PROJECT", project);
        world.run_with_stdin(command, b"").ok();
    }
}

#[test]
fn tokens_open_metrics_only_and_keys_everything_else() {
    let remote = remote("");
    let world = &remote.world;
    let key = world.host(&["key", "create", "--role", "admin", "--project", "alpha", "--json"]).json();
    let (key, secret) = (key["access_token"].as_str().unwrap(), key["secret_key"].as_str().unwrap());
    remote.cc(key, secret, &["vpc", "list"]).ok();
    // Not even an admin's key reads metrics, however it is presented.
    for text in [key.to_owned(), secret.to_owned(), format!("{key}.{secret}")] {
        assert_eq!(remote.get(&text).0, 401);
    }
    // And no part of a token calls anything.
    let (id, token) = remote.token(&["--all-projects"]);
    let (_, token_secret) = token.split_once('.').unwrap();
    let as_key = id.replace("ccm_", "cck_");
    for (name, secret) in [(id.as_str(), secret), (&as_key, secret), (&id, token_secret), (&token, secret)] {
        for call in [&["vpc", "list"][..], &["ps"], &["info"], &["metrics", "web"]] {
            let ran = remote.cc(name, secret, call);
            assert!(ran.code != 0 && ran.stdout.is_empty(), "{name} {call:?}: {}", ran.stdout);
        }
    }
    // A refusal for want of a role is counted, too.
    let viewer = world.host(&["key", "create", "--role", "viewer", "--project", "alpha", "--json"]).json();
    let (name, secret) = (viewer["access_token"].as_str().unwrap(), viewer["secret_key"].as_str().unwrap());
    remote.cc(name, secret, &["vpc", "delete", "blue"]).fails(1, "role");
    let scrape = remote.scrape(&token);
    assert_eq!(scrape.value("cc_api_refusals_total", &[("door", "grpc"), ("code", "auth.role")]), Some(1.0));
    let unknown = scrape.value("cc_api_refusals_total", &[("door", "grpc"), ("code", "auth.unknown_key")]);
    assert!(unknown >= Some(1.0), "{unknown:?}");
    // Only metrics can be had of all projects.
    world.host(&["key", "create", "--role", "viewer", "--all-projects"]).fails(1, "key.all_projects");
    world.host(&["key", "create", "--role", "metrics"]).fails(2, "--project");
    world.host(&["key", "create", "--role", "metrics", "--all-projects", "--project", "a"]).fails(2, "--project");
}

#[test]
fn who_guesses_is_turned_away() {
    let remote = remote("refusals_per_minute = 3\n");
    let (_, token) = remote.token(&["--all-projects"]);
    for _ in 0..3 {
        assert_eq!(remote.get("x").0, 401);
    }
    let (status, body) = remote.get(&token);
    assert_eq!(status, 429, "{body}");
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
    assert_eq!(curl(&two, &["http://127.0.0.1:9478/metrics"]).0, 0);
    assert_eq!(two.daemon().log().matches("serving metrics").count(), 1, "of three starts, the second");
}
