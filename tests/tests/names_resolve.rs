//! Containers find each other by name in their own VPC, the moment they run and no longer; the rest of the world is asked by the
//! host, and never about what is ours.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use cc_tests::dns::{Answer, NameServer, RecordType, ask, ask_within};
use cc_tests::netns::Netns;
use cc_tests::{Leave, World, eventually};

const SLEEP: &[&str] = &["sleep", "600"];
const GATEWAY: &str = "10.0.0.1";
/// From the end of the command that starts or stops a container.
const RIGHT_WITHIN: Duration = Duration::from_millis(100);
const BOUND: Duration = Duration::from_secs(10);

fn look_up(world: &World, from: &str, name: &str, wanted: RecordType) -> Answer {
    ask(&netns(world, from), GATEWAY, name, wanted)
}

fn address(world: &World, from: &str, name: &str) -> Answer {
    look_up(world, from, name, RecordType::A)
}

fn netns(world: &World, id: &str) -> Netns {
    Netns::of_pid(world.pid(id)).unwrap()
}

/// A `cc` command as another project: names are unique within one.
fn cc_as(world: &World, project: &str, args: &[&str]) -> String {
    let mut command = world.command(args);
    let output = command.env("CC_PROJECT", project).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn equal_names_in_equal_networks_never_meet() {
    let world = World::new();
    world.vpc("prod", "10.0.0.0/24");
    let own = world.run("busybox", &["--vpc", "prod", "--name", "web"], SLEEP);
    let only_here = world.run("busybox", &["--vpc", "prod", "--name", "only-here"], SLEEP);
    // The other project's VPC has the same name and range, and a container of the same name at another address.
    let image = world.image("busybox");
    let source = cc_tests::images::reference("busybox").unwrap();
    let other = |args: &[&str]| cc_as(&world, "other", args);
    other(&["image", "load", &source, "--name", &image]);
    other(&["vpc", "create", "--cidr", "10.0.0.0/24", "--name", "prod"]);
    let run = |name: &str| other(&[&["run", "-d", "--image", &image, "--vpc", "prod", "--name", name], SLEEP].concat());
    let (filler, theirs) = (run("filler"), run("web"));
    let pid = |id: &str| {
        let status: serde_json::Value = serde_json::from_str(&other(&["inspect", id])).unwrap();
        i32::try_from(status[0]["pid"].as_i64().unwrap()).unwrap()
    };
    let (here, there) = (netns(&world, &own), Netns::of_pid(pid(&theirs)).unwrap());
    for name in ["web.", "web.prod.cc.internal.", "prod.prod.cc.internal."] {
        let found = |netns| ask(netns, GATEWAY, name, RecordType::A);
        let group = name.starts_with("prod");
        let all = Answer::of(&["10.0.0.2", "10.0.0.3"]);
        let (ours, others) = (Answer::of(&["10.0.0.2"]), Answer::of(&["10.0.0.3"]));
        assert_eq!(found(&here), if group { all.clone() } else { ours }, "{name}");
        assert_eq!(found(&there), if group { all } else { others }, "{name}");
    }
    for name in ["only-here.", "only-here.prod.cc.internal."] {
        assert_eq!(ask(&there, GATEWAY, name, RecordType::A), Answer::NoSuchName);
        assert_eq!(ask(&here, GATEWAY, name, RecordType::A), Answer::of(&["10.0.0.3"]));
    }
    assert_eq!(ask(&here, GATEWAY, "filler.", RecordType::A), Answer::NoSuchName);
    let reverse = |netns, wanted: &str| ask(netns, GATEWAY, wanted, RecordType::PTR);
    assert_eq!(reverse(&here, "3.0.0.10.in-addr.arpa."), Answer::of(&["only-here.prod.cc.internal."]));
    assert_eq!(reverse(&there, "3.0.0.10.in-addr.arpa."), Answer::of(&["web.prod.cc.internal."]));
    // What goes in one VPC stays in the other.
    world.cc(&["rm", "-f", &own, &only_here]).ok();
    assert_eq!(ask(&there, GATEWAY, "web.", RecordType::A), Answer::of(&["10.0.0.3"]));
    other(&["rm", "-f", &filler, &theirs]);
    other(&["vpc", "delete", "prod"]);
    world.assert_clean();
}

#[test]
fn every_form_of_a_name_resolves() {
    let world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    world.cc(&["group", "create", "--name", "db"]).ok();
    let ids: Vec<String> = ["a", "b", "c"]
        .map(|name| {
            let host = format!("{name}-host");
            world.run("busybox", &["--vpc", "blue", "--name", name, "--hostname", &host, "--group", "db"], SLEEP)
        })
        .into();
    let look = |name: &str, wanted| look_up(&world, &ids[0], name, wanted);
    for name in ["b.", "B.", "b.blue.cc.internal.", "b-host.", "b-host.blue.cc.internal."] {
        assert_eq!(look(name, RecordType::A), Answer::of(&["10.0.0.3"]), "{name}");
        assert_eq!(look(name, RecordType::AAAA), Answer::of(&[]), "{name}: it exists, and has no IPv6");
    }
    assert_eq!(look("gateway.", RecordType::A), Answer::of(&[GATEWAY]));
    assert_eq!(look("3.0.0.10.in-addr.arpa.", RecordType::PTR), Answer::of(&["b.blue.cc.internal."]));
    assert_eq!(look("1.0.0.10.in-addr.arpa.", RecordType::PTR), Answer::of(&["gateway.blue.cc.internal."]));
    for nobody in ["nobody.", "nobody.blue.cc.internal.", "b.red.cc.internal.", "9.0.0.10.in-addr.arpa."] {
        assert_eq!(look(nobody, RecordType::A), Answer::NoSuchName, "{nobody}");
    }
    // All members of a group, each of them first at times.
    let members = Answer::of(&["10.0.0.2", "10.0.0.3", "10.0.0.4"]);
    assert_eq!(look("db.", RecordType::A), members);
    assert_eq!(look("db.blue.cc.internal.", RecordType::A), members);
    let nslookup = || world.run_rm("busybox", &["--vpc", "blue"], &["nslookup", "-type=a", "db.blue.cc.internal"]);
    let first = |said: &str| said.lines().filter_map(|line| line.strip_prefix("Address: ")).next().map(str::to_owned);
    let mut firsts = BTreeSet::new();
    eventually("each member is first", BOUND, || {
        firsts.extend(first(&nslookup().ok().stdout));
        (firsts.len() == 3).then_some(())
    });
    // Out of the group, and into it again, while it runs.
    world.cc(&["group", "attach", "blue", &ids[2]]).ok();
    world.cc(&["group", "detach", "db", &ids[2]]).ok();
    assert_eq!(look("db.", RecordType::A), Answer::of(&["10.0.0.2", "10.0.0.3"]));
    assert_eq!(look("blue.", RecordType::A), Answer::of(&["10.0.0.4"]));
    world.cc(&["group", "attach", "db", &ids[2]]).ok();
    assert_eq!(look("db.", RecordType::A), members);
}

#[test]
fn an_answer_is_right_the_moment_a_command_returns() {
    let world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    let client = world.run("busybox", &["--vpc", "blue"], SLEEP);
    let netns = netns(&world, &client);
    let image = world.image("busybox");
    let mut slowest = Duration::ZERO;
    let mut right = |expected: &Answer, what: &str| {
        let began = Instant::now();
        let answer = ask_within(&netns, GATEWAY, "web.", RecordType::A, RIGHT_WITHIN);
        slowest = slowest.max(began.elapsed());
        assert_eq!(&answer, expected, "{what}");
        assert!(began.elapsed() < RIGHT_WITHIN, "{what}: {:?}", began.elapsed());
    };
    for round in 0..10 {
        let args = [&["run", "-d", "--image", &image, "--vpc", "blue", "--name", "web"], SLEEP].concat();
        let id = world.cc(&args).line();
        right(&Answer::of(&[&world_address(round)]), "after its start");
        if round % 2 == 0 {
            world.cc(&["kill", &id]).ok();
            world.cc(&["wait", &id]).ok();
        } else {
            world.cc(&["rm", "-f", &id]).ok();
        }
        right(&Answer::NoSuchName, "after its end");
        world.cc(&["rm", "-f", &id]);
    }
    println!("the slowest answer took {slowest:?}");
}

/// Addresses are given in turn; the client has the first.
fn world_address(round: usize) -> String {
    format!("10.0.0.{}", 3 + round)
}

#[test]
fn names_resolve_again_when_the_daemon_is_back() {
    let mut world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    world.vpc("unused", "10.0.0.0/24");
    let run = |world: &World, name: &str| world.run("busybox", &["--vpc", "blue", "--name", name], SLEEP);
    let ids = ["client", "web", "doomed"].map(|name| run(&world, name));
    let client = netns(&world, &ids[0]);
    for how in [Leave::Killed, Leave::Stopped] {
        assert_eq!(ask(&client, GATEWAY, "web.", RecordType::A), Answer::of(&["10.0.0.3"]), "{how:?}");
        world.leave(how);
        let silence = ask_within(&client, GATEWAY, "web.", RecordType::A, RIGHT_WITHIN);
        assert!(matches!(silence, Answer::Silence | Answer::Failed(_)), "{how:?}: nobody answers: {silence:?}");
        world.start();
        assert_eq!(ask(&client, GATEWAY, "web.", RecordType::A), Answer::of(&["10.0.0.3"]), "{how:?}");
        assert_eq!(ask(&client, GATEWAY, "blue.", RecordType::A), Answer::of(&["10.0.0.2", "10.0.0.3", "10.0.0.4"]));
    }
    // One that ends while nobody looks is not told of any more.
    world.leave(Leave::Killed);
    let container = std::fs::read_to_string(world.path(&format!("run/containers/{}/state.json", ids[2]))).unwrap();
    let container: serde_json::Value = serde_json::from_str(&container).unwrap();
    let pid = i32::try_from(container["init"]["pid"].as_i64().unwrap()).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    world.start();
    assert_eq!(ask(&client, GATEWAY, "doomed.", RecordType::A), Answer::NoSuchName);
    // And one that comes now is.
    let id = run(&world, "new");
    assert_eq!(ask(&client, GATEWAY, "new.", RecordType::A), Answer::of(&[&world.address(&id)]));
    let links = world.netns.links().unwrap();
    assert_eq!(links.iter().filter(|link| link.starts_with("ccg")).count(), 1, "one VPC is in use: {links:?}");
}

#[test]
fn the_rest_of_the_world_is_asked_by_the_host_and_of_nothing_that_is_ours() {
    let netns = Netns::new().unwrap();
    let upstream = NameServer::in_netns(&netns, [192, 0, 2, 80]);
    let world = World::in_netns(netns, &format!("dns = [\"{}\"]", upstream.at));
    world.vpc("blue", "10.0.0.0/24");
    let id = world.run("busybox", &["--vpc", "blue", "--name", "web"], SLEEP);
    for ours in [
        "cc.internal.",
        "web.cc.internal.",
        "web.red.cc.internal.",
        "nobody.blue.cc.internal.",
        "WEB.BLUE.CC.INTERNAL.",
        "nobody.",
        "localhost.",
        "9.0.0.10.in-addr.arpa.",
    ] {
        let answer = address(&world, &id, ours);
        assert!(matches!(answer, Answer::NoSuchName | Answer::Found(_)), "{ours}: {answer:?}");
    }
    assert_eq!(upstream.asked(), Vec::<String>::new());
    assert_eq!(address(&world, &id, "www.example.com."), Answer::of(&["192.0.2.80"]));
    let looked_up = world.run_rm("busybox", &["--vpc", "blue"], &["nslookup", "-type=a", "www.example.org"]);
    assert!(looked_up.ok().stdout.contains("192.0.2.80"));
    let asked = upstream.asked();
    assert_eq!((asked[0].as_str(), asked.last().unwrap().as_str()), ("www.example.com.", "www.example.org."));
    assert!(asked.iter().all(|name| !name.contains("internal")), "{asked:?}");
}

#[test]
fn programs_of_both_c_libraries_find_names() {
    let world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    world.run("busybox", &["--vpc", "blue", "--name", "web"], SLEEP);
    world.run("busybox", &["--vpc", "blue", "--name", "db"], SLEEP);
    let run = |image: &str, command: &[&str]| world.run_rm(image, &["--vpc", "blue"], command);
    for name in ["web", "web.blue.cc.internal"] {
        for command in [["getent", "ahosts", name].as_slice(), &["getent-musl", name]] {
            let said = run("libcs", command).ok().stdout;
            assert!(said.lines().all(|line| line.split(' ').next() == Some("10.0.0.2")), "{command:?}: {said}");
        }
        assert!(run("busybox", &["nslookup", name]).stdout.contains("Address: 10.0.0.2"), "{name}");
        run("busybox", &["ping", "-c", "1", "-W", "2", name]).ok();
    }
    let reverse = run("libcs", &["getent", "hosts", "10.0.0.3"]).ok().stdout;
    assert!(reverse.contains("db.blue.cc.internal"), "{reverse}");
    for command in [["getent", "ahosts", "nobody"].as_slice(), &["getent-musl", "nobody"]] {
        assert_eq!(run("libcs", command).code, 2, "{command:?}");
    }
    // A container finds itself, from its first line on.
    let own = world.run_rm("libcs", &["--vpc", "blue", "--name", "self"], &["getent-musl", "self.blue.cc.internal"]);
    assert!(own.ok().stdout.starts_with("10.0.0."));
}

#[test]
fn who_asks_others_says_so() {
    let world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    let conf = |options: &[&str]| world.run_rm("busybox", options, &["cat", "/etc/resolv.conf"]).ok().stdout;
    assert_eq!(conf(&["--vpc", "blue"]), "nameserver 10.0.0.1\nsearch blue.cc.internal\n");
    let own = conf(&["--vpc", "blue", "--dns", "192.0.2.53", "--dns", "2001:db8::53"]);
    assert_eq!(own, "nameserver 192.0.2.53\nnameserver 2001:db8::53\n");
    assert!(conf(&[]).starts_with('#'), "no network, no name server");
    let image = world.image("busybox");
    let run = |options: &[&str]| world.cc(&[&["run", "--image", &image], options, &["true"]].concat());
    run(&["--dns", "192.0.2.53"]).fails(125, "--vpc");
    run(&["--vpc", "blue", "--dns", "dns.example"]).fails(125, "--dns");
    run(&["--vpc", "blue", "--dns", "224.0.0.251"]).fails(125, "no machine");
    for name in ["gateway", "localhost"] {
        run(&["--vpc", "blue", "--name", name]).fails(125, "means something else");
    }
    let id = world.run("busybox", &["--vpc", "blue", "--dns", "192.0.2.53"], SLEEP);
    assert_eq!(world.inspect(&id)["spec"]["dns"], serde_json::json!(["192.0.2.53"]));
}

#[test]
fn a_vpc_that_cannot_have_a_resolver_has_everything_else() {
    let world = World::new();
    let vpc = world.vpc("blue", "10.0.0.0/24");
    // The interface's name is taken, by what is not ours to remove.
    let link = vpc.replace("vpc-", "ccg");
    let ip = |args: &[&str]| assert!(world.netns.command("ip").args(args).status().unwrap().success(), "{args:?}");
    ip(&["link", "property", "add", "dev", "lo", "altname", &link]);
    let first = world.run("busybox", &["--vpc", "blue", "--name", "first"], SLEEP);
    let events = world.events_of(&vpc);
    assert!(events.iter().any(|(kind, text)| kind == "resolver.failed" && text.contains(&link)), "{events:?}");
    assert_eq!(address(&world, &first, "first."), Answer::Silence);
    assert!(world.drops(&first, "gateway_closed") > 0);
    world.run_rm("busybox", &["--vpc", "blue"], &["ping", "-c", "1", "-W", "2", "10.0.0.2"]).ok();
    ip(&["link", "property", "del", "dev", "lo", "altname", &link]);
    world.run("busybox", &["--vpc", "blue", "--name", "second"], SLEEP);
    assert_eq!(address(&world, &first, "first."), Answer::of(&["10.0.0.2"]), "the next start has tried again");
}

#[test]
fn two_hundred_containers_and_their_vpcs_leave_nothing() {
    const VPCS: usize = 10;
    const ROUNDS: usize = 5;
    const AT_ONCE: usize = 4;
    let world = World::new();
    let image = world.image("busybox");
    // What is parked holds one each, and there are as many as were started lately.
    let held = || namespaces_held(world.daemon().pid()).checked_sub(world.parked().len());
    let before = eventually("the first is parked, to its last link", BOUND, || {
        let parked = world.parked();
        let waits = |id: &String| world.pins().join("links").join(format!("{id}-cgout")).exists();
        (parked.len() == 1 && parked.iter().all(waits)).then(held).flatten()
    });
    for batch in 0..VPCS {
        let vpc = format!("vpc{batch}");
        world.vpc(&vpc, "10.0.0.0/24");
        for round in 0..ROUNDS {
            std::thread::scope(|scope| {
                for n in 0..AT_ONCE {
                    let (mut command, own) = (world.command(&[]), format!("c{n}.{vpc}.cc.internal"));
                    command.args(["run", "--rm", "--vpc", &vpc, "--name", &format!("c{n}-{vpc}"), "--image", &image]);
                    command.args(["--hostname", &format!("c{n}"), "nslookup", "-type=a", &own]);
                    scope.spawn(move || {
                        let output = command.output().unwrap();
                        let said = String::from_utf8_lossy(&output.stdout).into_owned();
                        assert!(output.status.success() && said.contains("Address: 10.0.0."), "{round}: {output:?}");
                    });
                }
            });
        }
        let links = world.netns.links().unwrap();
        assert_eq!(links.iter().filter(|link| link.starts_with("ccg")).count(), 1, "{links:?}");
        world.cc(&["vpc", "delete", &vpc]).ok();
        eventually("its resolver's link is gone", BOUND, || {
            world.netns.links().unwrap().iter().all(|link| !link.starts_with("ccg")).then_some(())
        });
    }
    world.assert_clean();
    eventually("the daemon holds no namespace of theirs", BOUND, || (held() == Some(before)).then_some(()));
    for map in ["CC_PORTS", "CC_ROUTES"] {
        eventually(&format!("{map} is empty"), BOUND, || (rows(&world.pins().join(map)) == 0).then_some(()));
    }
}

/// Descriptors of network namespaces.
fn namespaces_held(pid: i32) -> usize {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().filter_map(Result::ok);
    let targets = entries.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("net:[")).count()
}

fn rows(map: &Path) -> usize {
    let output = Command::new("bpftool").args(["-j", "map", "dump", "pinned"]).arg(map).output().unwrap();
    let dump: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    dump.as_array().unwrap().len()
}
