//! A conversation that crosses a network's border is told with both of its faces to whom they belong, and of another project's part in it
//! nothing is told.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use cc_tests::beyond::{Beyond, FAR, FAR6, HOST, ROUTER, ask_tcp};
use cc_tests::watch::Watch;
use cc_tests::{World, eventually, images};
use serde_json::{Value, json};

const SLEEP: &[&str] = &["sleep", "600"];

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

/// Says one line to each who says one. Ends with the test.
fn server(world: &World, id: &str, port: u16) {
    let listener = world.in_container(id, move || TcpListener::bind(("0.0.0.0", port)).unwrap());
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.set_read_timeout(Some(Duration::from_secs(20)));
            let _ = stream.read(&mut [0; 64]);
            let _ = writeln!(stream, "welcome");
        }
    });
}

fn flows(world: &World, project: &str) -> Vec<Value> {
    let listed = world.cc(&["net", "flows", "--json", "--cc-project", project]).json();
    listed["flows"].as_array().unwrap().clone()
}

fn to_port(flows: &[Value], port: u16) -> Value {
    flows.iter().find(|flow| flow["to"]["port"] == port).cloned().unwrap_or_else(|| panic!("none to {port}: {flows:?}"))
}

#[test]
fn a_way_out_and_a_way_in_have_two_faces() {
    let (world, beyond) = Beyond::world("");
    world.cc(&["vpc", "create", "--cidr", "10.0.0.0/24", "--cidr6", "fd00:1::/64", "--name", "blue"]).ok();
    let web = world.run("busybox", &["--vpc", "blue", "--name", "web", "-p", "8080:80"], SLEEP);
    let own = world.address(&web);
    let asked = [(FAR, 81), (FAR6, 82)].map(|(far, port)| {
        let answered = beyond.tcp_server(far, port, 1);
        world.in_container(&web, move || ask_tcp(at(far, port), "hello")).unwrap();
        answered
    });
    asked.into_iter().for_each(|answered| drop(answered.join().unwrap()));
    let all = flows(&world, "default");
    let out = to_port(&all, 81);
    assert_eq!((&out["from"]["container"], &out["from"]["address"]), (&json!("web"), &json!(own)), "{out}");
    assert_eq!(out["from"]["translated"]["address"], HOST);
    assert_eq!((&out["to"]["kind"], &out["to"]["address"]), (&json!("internet"), &json!(FAR)));
    assert_eq!((&out["to"]["translated"], &out["published"]), (&Value::Null, &json!(false)));
    let out6 = to_port(&all, 82);
    assert_eq!((&out6["to"]["kind"], &out6["to"]["address"]), (&json!("internet"), &json!(FAR6)));
    let table = world.cc(&["net", "flows", "web"]).ok().stdout;
    assert!(table.contains(&format!("source={HOST}:")) && table.contains(&format!("[{FAR6}]:82")), "{table}");

    server(&world, &web, 80);
    assert_eq!(beyond.ask_tcp(at(HOST, 8080), "hello").unwrap(), "welcome");
    let into = to_port(&flows(&world, "default"), 80);
    assert_eq!((&into["from"]["kind"], &into["from"]["address"]), (&json!("internet"), &json!(ROUTER)), "{into}");
    assert_eq!((&into["to"]["container"], &into["to"]["address"]), (&json!("web"), &json!(own)));
    assert_eq!(into["to"]["translated"], json!({ "address": HOST, "port": 8080 }));
    assert_eq!(into["published"], true);
}

#[test]
fn of_anothers_part_nothing_is_told() {
    let (world, _beyond) = Beyond::world("");
    world.vpc("blue", "10.0.0.0/24");
    let web = world.run("busybox", &["--vpc", "blue", "--name", "web", "-p", "8080:80"], SLEEP);
    let other = |args: &[&str]| world.cc(&[args, &["--cc-project", "other"]].concat());
    other(&["vpc", "create", "--cidr", "10.9.0.0/24", "--name", "red"]).ok();
    let (image, source) = ("localhost/busybox:latest", images::reference("busybox").unwrap());
    other(&["image", "load", &source, "--name", image]).ok();
    let run = ["run", "-d", "--image", image, "--vpc", "red", "--name", "stranger", "--cc-project", "other", "--"];
    let stranger = world.cc(&[&run[..], SLEEP].concat()).line();
    let pid = other(&["inspect", &stranger]).json()[0]["pid"].as_i64().unwrap();
    let inside = cc_tests::netns::Netns::of_pid(pid as i32).unwrap();
    server(&world, &web, 80);
    assert_eq!(inside.run(|| ask_tcp(at(HOST, 8080), "hello")).unwrap().unwrap(), "welcome");

    let (ours, theirs) = (flows(&world, "default"), flows(&world, "other"));
    let (came, went) = (to_port(&ours, 80), to_port(&theirs, 8080));
    assert_eq!((&came["to"]["container"], &came["from"]["kind"]), (&json!("web"), &json!("elsewhere")), "{came}");
    assert_eq!((&went["from"]["container"], &went["to"]["kind"]), (&json!("stranger"), &json!("elsewhere")), "{went}");
    assert_eq!(went["to"]["address"], HOST);
    for (flows, foreign) in [(&ours, ["10.9.0.", "stranger"]), (&theirs, ["10.0.0.", "web"])] {
        let text = serde_json::to_string(flows).unwrap();
        assert!(foreign.iter().all(|word| !text.contains(word)), "{text}");
    }

    // A packet that is dropped at the door of another project's container.
    let watch = Watch::new(&world, &["net", "drops", "--watch", "--json", "web"]);
    world.cc(&["group", "deny", "blue", "ingress", "--proto", "tcp"]).ok();
    let told = eventually("the drop is told", Duration::from_secs(20), || {
        let _ = inside.run(|| TcpStream::connect_timeout(&at(HOST, 8080), Duration::from_millis(300)).map(drop));
        watch.so_far().into_iter().find(|line| line["reason"] == "firewall_ingress")
    });
    assert_eq!(
        (&told["container"], &told["source"], &told["ifindex"]),
        (&json!("web"), &Value::Null, &Value::Null),
        "{told}"
    );
    assert!(!told.to_string().contains("10.9.0."), "{told}");
    other(&["rm", "-f", "stranger"]).ok();
}
