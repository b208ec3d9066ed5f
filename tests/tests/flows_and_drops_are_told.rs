//! What the datapath does with a container's packets can be asked: its conversations with their rules, its drops with their reasons,
//! and nothing of another project's.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use cc_tests::echo::echo_server;
use cc_tests::watch::Watch;
use cc_tests::{World, eventually};
use serde_json::Value;

const SLEEP: &[&str] = &["sleep", "600"];
const TIMEOUT: Duration = Duration::from_millis(500);
const SOON: Duration = Duration::from_secs(10);

fn connect(world: &World, from: &str, address: &str, port: u16) -> Option<TcpStream> {
    let to: SocketAddr = format!("{address}:{port}").parse().unwrap();
    let mut stream = world.in_container(from, move || TcpStream::connect_timeout(&to, TIMEOUT).ok())?;
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.write_all(b"hello").ok()?;
    stream.read_exact(&mut [0; 5]).ok()?;
    Some(stream)
}

#[test]
fn flows_are_listed_with_ends_state_traffic_and_rules() {
    let world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    let run = |name: &str| world.run("busybox", &["--vpc", "blue", "--name", name], SLEEP);
    let (web, db) = (run("web"), run("db"));
    let address = world.address(&db);
    echo_server(&world, &db, 5432);
    let watch = Watch::new(&world, &["net", "flows", "--watch", "--json", "web"]);
    let flow = |args: &[&str]| {
        let listed = world.cc(&[&["net", "flows", "--json"], args].concat()).json();
        assert_eq!(listed["more"], false);
        let flows = listed["flows"].as_array().unwrap().clone();
        flows.into_iter().find(|flow| flow["to"]["port"] == 5432)
    };
    // The watch tells of what begins after its first look: once it tells anything, it has looked.
    let is_to = |port: u16, change: &str, line: &Value| line["change"] == change && line["flow"]["to"]["port"] == port;
    echo_server(&world, &db, 80);
    eventually("the watch tells", SOON, || {
        let _short = connect(&world, &web, &address, 80)?;
        watch.tells_within(Duration::from_millis(1_500)).then_some(())
    });
    let stream = connect(&world, &web, &address, 5432).expect("members of a VPC's group reach each other");
    let found = flow(&["web"]).expect("it has a flow");
    let (from, to) = (&found["from"], &found["to"]);
    assert_eq!(
        (&from["container"], &from["id"], &to["container"]),
        (&"web".into(), &web.as_str().into(), &"db".into())
    );
    assert_eq!(
        (&to["address"], &to["port"], &to["translated"]),
        (&address.as_str().into(), &5432.into(), &Value::Null)
    );
    assert_eq!(found["state"], "established");
    assert!(
        found["sent"]["packets"].as_u64().unwrap() >= 3 && found["received"]["bytes"].as_u64().unwrap() > 100,
        "{found}"
    );
    let rules = found["allowed_by"].as_array().unwrap();
    assert!(!rules.is_empty() && rules.iter().all(|rule| rule.as_str().unwrap().starts_with("blue#")), "{found}");
    let table = world.cc(&["net", "flows"]).ok().stdout;
    assert!(table.starts_with("PROTO") && table.contains(&format!("{address}:5432")), "{table}");
    assert_eq!(world.cc(&["net", "flows", "--limit", "1", "--json"]).json()["flows"].as_array().unwrap().len(), 1);
    // Another project has neither the flow nor the container.
    let foreign = world.cc(&["net", "flows", "--json", "--cc-project", "other"]).json();
    assert_eq!(foreign["flows"], serde_json::json!([]));
    world.cc(&["net", "flows", "--cc-project", "other", "web"]).fails(1, "no container");

    watch.until(|line| is_to(5432, "began", line));
    drop(stream);
    let ended = watch.until(|line| is_to(5432, "ended", line));
    assert!(ended["flow"]["sent"]["packets"].as_u64().unwrap() >= 4, "{ended}");
    eventually("the flow is gone", SOON, || flow(&["db"]).is_none().then_some(()));
}

#[test]
fn drops_are_counted_told_and_kept_apart() {
    let world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    world.cc(&["group", "create", "--name", "shut"]).ok();
    let web = world.run("busybox", &["--vpc", "blue", "--name", "web"], SLEEP);
    let shut = world.run("busybox", &["--vpc", "blue", "--name", "shut", "--group", "shut"], SLEEP);
    let (own, address) = (world.address(&web), world.address(&shut));
    let written = || bpf_array(&world, "CC_WATCH");
    assert_eq!(written(), 0, "nobody watches");
    let watch = Watch::new(&world, &["net", "drops", "--watch", "--json", "shut"]);
    let foreign = Watch::new(&world, &["net", "drops", "--watch", "--json", "--cc-project", "other"]);
    eventually("it is watched", SOON, || (written() == 1).then_some(()));
    assert!(connect(&world, &web, &address, 81).is_none());
    let told = watch.until(|line| line["reason"] == "firewall_ingress");
    let text = |field: &str| told[field].as_str().unwrap_or_default().to_owned();
    assert_eq!(
        (text("container"), text("id"), text("direction")),
        ("shut".to_owned(), shut.clone(), "ingress".to_owned())
    );
    assert_eq!((text("protocol"), text("source"), text("destination")), ("tcp".to_owned(), own, address.clone()));
    assert_eq!(told["destination_port"], 81);
    assert!(told["at"].as_str().unwrap().starts_with("20"), "{told}");

    // A flood: what is not told is counted.
    let to: SocketAddr = format!("{address}:9").parse().unwrap();
    world.in_container(&web, move || {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        for _ in 0..2_000 {
            let _ = socket.send_to(b"flood", to);
        }
    });
    let lost = watch.until(|line| line["lost"].is_u64());
    assert!(lost["unwritten"].as_u64().unwrap() > 0, "{lost}");

    let counted = world.cc(&["net", "drops", "--json"]).json();
    let of = counted.as_array().unwrap().iter().find(|of| of["name"] == "shut").expect("it has drops");
    let drops = of["drops"].as_array().unwrap();
    assert!(
        drops.iter().any(|drop| drop["reason"] == "firewall_ingress" && drop["packets"].as_u64() > Some(1_000)),
        "{of}"
    );
    assert!(of["lost_records"].as_u64().unwrap() > 0, "{of}");
    let table = world.cc(&["net", "drops", "shut"]).ok().stdout;
    assert!(table.starts_with("CONTAINER") && table.contains("firewall_ingress"), "{table}");
    // Whoever sees the host's sees what is nobody's, and nothing of this.
    let others = world.cc(&["net", "drops", "--json", "--cc-project", "other"]).json();
    assert!(others.as_array().unwrap().iter().all(|of| of["id"] == ""), "{others}");
    assert!(foreign.so_far().iter().all(|line| line["id"].is_null()), "another project's drops");
    drop((watch, foreign));
    eventually("nobody watches any more", SOON, || (written() == 0).then_some(()));
}

/// The first word of the first row of a pinned array.
fn bpf_array(world: &World, map: &str) -> u64 {
    let pin = world.pins().join(map).display().to_string();
    let mut bpftool = std::process::Command::new("bpftool");
    bpftool.args(["-j", "map", "lookup", "pinned", &pin, "key", "0", "0", "0", "0"]);
    let output = bpftool.output().expect("bpftool can be run; run `cargo xtask setup`");
    let row: Value = serde_json::from_slice(&output.stdout).expect("bpftool prints JSON");
    let byte = row["value"][0].as_str().expect("a value of bytes");
    u64::from_str_radix(byte.trim_start_matches("0x"), 16).expect("a byte")
}
