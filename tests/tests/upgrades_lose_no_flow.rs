//! The daemon is killed, restarted and replaced by another, of the same layout of pinned maps and of the next one, while conversations
//! are open: none is reset, none is forgotten, nothing stands still for long, and what rules deny never passes.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use cc_tests::beyond::{Beyond, FAR, FAR6, HOST, HOST6};
use cc_tests::conversations::{Conversation, Probe, any, connect};
use cc_tests::iperf::Iperf;
use cc_tests::netns::Netns;
use cc_tests::{Build, Leave, World, dual_stack, echo, eventually};
use serde_json::Value;

const BOUND: Duration = Duration::from_secs(10);
/// How often a daemon on its way is looked at.
const LOOK: Duration = Duration::from_micros(100);
/// What a conversation may stand still.
const GAP_MAX: Duration = Duration::from_millis(200);
const SLEEP: &[&str] = &["sleep", "600"];
const STREAM: u16 = 5202;
const IPERF: u16 = 5201;
/// Of which two one after the other are more than anything may stand still.
const SILENT_TENTHS_MAX: u64 = 1;
const ECHO: u16 = 7;
const DENIED: u16 = 9;
/// With `SHUT_INSIDE`.
const DENIED_RANGE: &str = "9-10";
/// Where connections come and go.
const BRIEF: u16 = 13;
const WEB: u16 = 80;
const PUBLISHED: u16 = 8080;
/// Published, and denied all the same.
const SHUT: u16 = 8009;
const SHUT_INSIDE: u16 = 10;

/// Whom the guard denies, and where that would be heard.
const GUARDED: &str = "203.0.113.66";
const HEARD: u16 = 8010;

/// What one daemon's change costs one host's traffic: beside another test's, a processor is taken for as long as a conversation may stand still.
static ALONE: Mutex<()> = Mutex::new(());

/// Everything that is open, in both families.
struct Open {
    going: Vec<(String, Conversation)>,
    newcomers: Vec<(String, Conversation)>,
    iperf: Iperf,
    idle: Vec<(String, TcpStream)>,
    probes: Vec<(String, Probe)>,
    /// The rule's number.
    denial: String,
    ids: [String; 2],
    seen: Seen,
}

/// What may not go backwards, or change.
#[derive(Debug, Default)]
struct Seen {
    /// Of each container, by name.
    counters: BTreeMap<String, u64>,
    /// By protocol and ends: packets, and the ends as others see them.
    flows: BTreeMap<String, (u64, Value)>,
}

fn at(address: impl ToString, port: u16) -> SocketAddr {
    SocketAddr::new(address.to_string().parse().expect("an address"), port)
}

impl Open {
    fn all(world: &World, beyond: &Beyond) -> Open {
        dual_stack::vpc(world, "blue");
        let deny = ["group", "deny", "blue", "ingress", "--proto", "udp", "--port", DENIED_RANGE];
        let publish = [format!("{PUBLISHED}:{WEB}"), format!("{SHUT}:{SHUT_INSIDE}/udp")];
        let options = ["--vpc", "blue", "--name", "web", "-p", &publish[0], "-p", &publish[1]];
        let web = world.run("busybox", &options, SLEEP);
        let client = world.run("busybox", &["--vpc", "blue", "--name", "client"], SLEEP);
        let netns = |id: &str| Netns::of_pid(world.pid(id)).expect("it runs");
        let (inside, server) = (netns(&client), netns(&web));
        for port in [ECHO, BRIEF, WEB] {
            echo::tcp(&server, at("::", port));
        }
        let (mut going, mut idle, mut probes, mut newcomers) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let addresses: [(IpAddr, &str, &str); 2] = [
            (world.address(&web).parse().expect("an address"), FAR, HOST),
            (dual_stack::ip6(world, &web).into(), FAR6, HOST6),
        ];
        let denial = world.cc(&deny).line();
        let iperf = Iperf::start(&inside, &server, at(addresses[0].0, IPERF));
        for (own, far, host) in addresses {
            let mut goes = |what: &str, conversation| going.push((format!("{what} {own}"), conversation));
            goes("a stream to", Conversation::stream(&inside, &server, at(own, STREAM)));
            goes("a talk with", Conversation::talk(&inside, at(own, ECHO)));
            for port in [ECHO, BRIEF] {
                echo::tcp(&beyond.netns, at(far, port));
            }
            echo::udp(&beyond.netns, at(far, ECHO));
            goes("beyond the network, as", Conversation::talk(&inside, at(far, ECHO)));
            goes("beyond the network by datagrams, as", Conversation::talk_udp(&inside, at(far, ECHO)));
            goes("from outside to", Conversation::talk(&beyond.netns, at(host, PUBLISHED)));
            goes("from the host to", Conversation::talk(&world.netns, at(host, PUBLISHED)));
            goes("by the host's address to", Conversation::talk(&inside, at(host, PUBLISHED)));
            for to in [at(own, BRIEF), at(far, BRIEF)] {
                newcomers.push((format!("newcomers to {to}"), Conversation::newcomers(&inside, to)));
            }
            let mut idles = |what: &str, stream| idle.push((format!("{what} {own}"), stream));
            idles("idle to", connect(&inside, at(own, ECHO)));
            idles("idle beyond the network, as", connect(&inside, at(far, ECHO)));
            idles("idle from outside to", connect(&beyond.netns, at(host, PUBLISHED)));
            let ear = at(own, DENIED);
            probes.push((format!("denied to {own}"), Probe::start((&inside, any(ear)), ear, &server, ear)));
        }
        let (shut, heard) = (at(HOST, SHUT), at(HOST, HEARD));
        let outside = Probe::start((&beyond.netns, any(shut)), shut, &server, at("0.0.0.0", SHUT_INSIDE));
        probes.push(("denied from outside".to_owned(), outside));
        let mut ip = beyond.netns.command("ip");
        assert!(ip.args(["addr", "add", GUARDED, "dev", "lo"]).status().expect("ip can be run").success());
        world.cc(&["guard", "deny", GUARDED]).ok();
        let guarded = GUARDED.parse().expect("an address");
        let guarded = Probe::start((&beyond.netns, guarded), heard, &world.netns, heard);
        probes.push(("denied by the guard".to_owned(), guarded));
        let mut open =
            Open { going, newcomers, iperf, idle, probes, denial, ids: [web, client], seen: Seen::default() };
        open.all_is_well(world, "at first");
        open
    }

    /// Nothing has ended, stood still or passed since the last time; and what is told of it goes on.
    fn all_is_well(&mut self, world: &World, when: &str) {
        self.goes_on(when);
        progress(&self.newcomers, when);
        let seen = Seen::now(world, &self.ids);
        for (name, count) in &self.seen.counters {
            assert!(seen.counters[name] >= *count, "{when}: {name} has {} after {count}", seen.counters[name]);
        }
        for (name, (packets, outer)) in &self.seen.flows {
            let Some((now, outer_now)) = seen.flows.get(name) else { panic!("{when}: {name} is forgotten") };
            assert!(now >= packets && outer_now == outer, "{when}: {name}: {now} {outer_now} after {packets} {outer}");
        }
        // Two of each conversation, and hairpins have two flows.
        assert!(seen.flows.len() >= self.going.len() + self.idle.len(), "{when}: {:?}", seen.flows.keys());
        self.seen = seen;
    }

    fn goes_on(&self, when: &str) {
        progress(&self.going, when);
        let before = self.iperf.intervals();
        eventually(&format!("{when}: iperf3 goes on"), BOUND, || {
            let now = self.iperf.intervals().unwrap_or_else(|why| panic!("{when}: iperf3 has ended: {why}"));
            before.as_ref().is_ok_and(|before| now > *before).then_some(())
        });
        let silence = self.iperf.longest_silence();
        assert!(silence <= SILENT_TENTHS_MAX, "{when}: nothing of iperf3's came for {silence} tenths of a second");
        for (name, conversation) in &self.going {
            let gap = conversation.longest_gap();
            println!("{when}: {name} stood still for {gap:?} at most");
            assert!(gap < GAP_MAX, "{when}: {name} stood still for {gap:?}");
        }
        for (name, probe) in &self.probes {
            assert_eq!(probe.received(), 0, "{when}: {name} of {} arrived", probe.sent());
        }
    }

    /// Those that have said nothing until now.
    fn the_idle_speak(&mut self, when: &str) {
        for (name, stream) in &mut self.idle {
            let mut answer = [0; 5];
            let done = stream.write_all(b"hello").and_then(|()| stream.read_exact(&mut answer));
            assert!(done.is_ok() && &answer == b"hello", "{when}: {name}: {done:?}");
        }
    }

    /// What everybody has of the table is what is in it: nothing was counted twice, or given back twice.
    fn the_books_are_right(&mut self, world: &World) {
        self.newcomers.clear();
        let number = |value: &Value| value.as_u64().expect("a number");
        eventually("the books are right", BOUND, || {
            let books =
                self.ids.each_ref().map(|id| world.cc(&["net", "inspect", id, "--json"]).json()["flows"].clone());
            let listed = world.cc(&["net", "flows", "--json", "--limit", "10000"]).json();
            let held: u64 = books.iter().map(|book| number(&book["flows"])).sum();
            let half_open: u64 = books.iter().map(|book| number(&book["half_open"])).sum();
            println!("{held} flows are held, and {half_open} of them half open");
            let listed = listed["flows"].as_array().expect("flows are a list").len();
            (usize::try_from(held) == Ok(listed) && half_open == 0).then_some(())
        });
    }

    /// What was denied would have been heard.
    fn the_denied_are_heard(&self, world: &World) {
        let sent: Vec<u64> = self.probes.iter().map(|(_, probe)| probe.sent()).collect();
        world.cc(&["group", "revoke", "blue", &self.denial]).ok();
        world.cc(&["guard", "allow", &format!("{GUARDED}/32")]).ok();
        for ((name, probe), sent) in self.probes.iter().zip(sent) {
            assert!(sent > 1000, "{name}: only {sent} were sent");
            eventually(&format!("{name} is heard when it is allowed"), BOUND, || (probe.received() > 0).then_some(()));
        }
    }
}

/// Each goes on from here.
fn progress(all: &[(String, Conversation)], when: &str) {
    let counts = || all.iter().map(|(_, one)| one.count()).collect::<Vec<_>>();
    let before = counts();
    eventually(&format!("{when}: everything goes on"), BOUND, || {
        for (name, conversation) in all {
            assert_eq!(conversation.failure(), None, "{when}: {name}");
        }
        counts().iter().zip(&before).all(|(now, before)| now > before).then_some(())
    });
}

impl Seen {
    fn now(world: &World, ids: &[String]) -> Seen {
        let mut seen = Seen::default();
        for id in ids {
            let metrics = world.cc(&["metrics", id, "--json"]).json()[0].clone();
            for key in ["sent", "received", "socket_sent", "socket_received"] {
                let packets = metrics[key]["packets"].as_u64().unwrap_or_else(|| panic!("no {key} in {metrics}"));
                seen.counters.insert(format!("{id} {key}"), packets);
            }
            for drop in metrics["drops"].as_array().expect("drops are a list") {
                let name = format!("{id} {} {}", drop["direction"], drop["reason"]);
                seen.counters.insert(name, drop["packets"].as_u64().expect("a number"));
            }
        }
        let listed = world.cc(&["net", "flows", "--json", "--limit", "10000"]).json();
        for flow in listed["flows"].as_array().expect("flows are a list") {
            if flow["to"]["port"] == BRIEF {
                continue;
            }
            let end = |end: &str| format!("{} {}", flow[end]["address"], flow[end]["port"]);
            let packets = flow["sent"]["packets"].as_u64().expect("a number");
            let outer = serde_json::json!([flow["from"]["translated"], flow["to"]["translated"]]);
            seen.flows.insert(format!("{} {} {}", flow["protocol"], end("from"), end("to")), (packets, outer));
        }
        seen
    }
}

/// Names of the directories for pins; the kernel's own files beside them have dots.
fn versions(world: &World) -> Vec<String> {
    let entries = std::fs::read_dir(world.path("bpf")).expect("it is there");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| !name.contains('.'));
    names.sort();
    names
}

#[test]
fn whatever_becomes_of_the_daemon() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut world, beyond) = Beyond::world("");
    let mut open = Open::all(&world, &beyond);
    for (when, how, build) in [
        ("killed and restarted", Leave::Killed, Build::Own),
        ("stopped and restarted", Leave::Stopped, Build::Own),
        ("replaced by one with other programs", Leave::Stopped, Build::Logging),
        ("replaced by one of the next version", Leave::Killed, Build::Next),
        ("killed and restarted in the next version", Leave::Killed, Build::Next),
    ] {
        world.leave(how);
        world.start_build(build);
        open.all_is_well(&world, when);
        assert_eq!(versions(&world), [build.pins()], "{when}");
    }
    open.the_idle_speak("in the end");
    open.the_books_are_right(&world);
    let events = world.events_of("host");
    let upgraded = events.iter().filter(|(kind, _)| kind == "datapath.upgraded").count();
    assert_eq!(upgraded, 1, "{events:?}");
    assert!(!events.iter().any(|(kind, _)| kind == "datapath.foreign_pins"), "{events:?}");
    open.the_denied_are_heard(&world);
    drop(open);
    world.remove_all();
    world.assert_clean();
}

/// At every moment of it: whoever comes next, of either version, finds everything as it needs it. From when everything is copied on, who
/// comes new waits for that next daemon.
#[test]
fn an_upgrade_that_is_killed_is_finished_or_begun_again() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut world, beyond) = Beyond::world("");
    let mut open = Open::all(&world, &beyond);
    let (own, next) = (world.path("bpf").join(Build::Own.pins()), world.path("bpf").join(Build::Next.pins()));
    let coming = world.path("bpf").join(format!("{}-coming", Build::Next.pins()));
    world.leave(Leave::Stopped);
    let mut begins_again = |what: &str, is_there: &dyn Fn() -> bool| {
        let daemon = world.spawn_build(Build::Next);
        let start = Instant::now();
        while !is_there() {
            assert!(start.elapsed() < BOUND, "{what}: never seen");
            std::thread::sleep(LOOK);
        }
        daemon.kill();
        println!("{what}: killed after {:?}, with {:?}", start.elapsed(), versions(&world));
        assert!(own.exists(), "{what}: what went on by it does");
        open.goes_on(what);
        world.start_build(Build::Own);
        open.all_is_well(&world, what);
        assert_eq!(versions(&world), [Build::Own.pins()], "{what}");
        world.leave(Leave::Stopped);
    };
    begins_again("killed before anything was copied", &|| coming.exists());
    begins_again("killed when maps were shared", &|| coming.join("CC_TOLD").exists());
    begins_again("killed when programs were loaded", &|| coming.join("programs/cc_cg_out").exists());
    begins_again("killed when everything was copied", &|| next.exists());
    begins_again("killed among the hooks", &|| next.join("links").read_dir().is_ok_and(|links| links.count() > 3));

    let daemon = world.spawn_build(Build::Next);
    eventually("everything is copied", BOUND, || next.exists().then_some(()));
    daemon.kill();
    open.goes_on("killed once more");
    world.start_build(Build::Next);
    open.all_is_well(&world, "finished by the next one");
    assert_eq!(versions(&world), [Build::Next.pins()]);
    open.the_idle_speak("in the end");
    open.the_books_are_right(&world);
    open.the_denied_are_heard(&world);
    drop(open);
    world.remove_all();
    world.assert_clean();
}

/// The programs of all interfaces and pinned links, by their numbers.
fn attached(world: &World) -> Vec<String> {
    let bpftool = |args: &[&str]| {
        let output = world.netns.command("bpftool").arg("-j").args(args).output().expect("bpftool can be run");
        String::from_utf8(output.stdout).expect("text")
    };
    let links = std::fs::read_dir(world.pins().join("links")).expect("it is there");
    let mut pins: Vec<_> = links.map(|link| link.expect("readable").path().display().to_string()).collect();
    pins.sort();
    let mut all: Vec<String> = pins.iter().map(|pin| bpftool(&["link", "show", "pinned", pin])).collect();
    all.push(bpftool(&["net", "show"]));
    assert!(all.iter().any(|one| one.contains("cc_cg_in") || one.contains("prog_id")), "{all:?}");
    all
}

#[test]
fn an_upgrade_that_fails_leaves_everything_as_it_was() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut world, beyond) = Beyond::world("");
    let mut open = Open::all(&world, &beyond);
    world.leave(Leave::Stopped);
    // Where a link should be, there is something else.
    let own = world.path("bpf").join(Build::Own.pins());
    let no_link = own.join("links/uplink-4000000");
    let mut bpftool = std::process::Command::new("bpftool");
    bpftool.args(["map", "pin", "pinned"]).arg(own.join("CC_WATCH")).arg(&no_link);
    assert!(bpftool.status().expect("bpftool can be run").success());
    let before = attached(&world);
    let mut daemon = world.spawn_build(Build::Next);
    let status = eventually("it gives up", BOUND, || daemon.ended());
    assert!(!status.success());
    let log = std::fs::read_to_string(world.path("daemon.log")).expect("it has a log");
    assert!(log.contains("cannot take over what version 3") && log.contains("uplink-4000000"), "{log}");
    assert_eq!(versions(&world), [Build::Own.pins()]);
    assert_eq!(attached(&world), before, "each hook has its former program");
    open.goes_on("without a daemon");
    // Also what begins now.
    let late = connect(&beyond.netns, at(HOST, PUBLISHED));
    open.idle.push(("begun without a daemon".to_owned(), late));
    world.start_build(Build::Own);
    open.all_is_well(&world, "after the failure");
    world.leave(Leave::Stopped);
    let _gone_by_now = std::fs::remove_file(&no_link);
    world.start_build(Build::Next);
    open.all_is_well(&world, "when the obstacle is gone");
    open.the_idle_speak("in the end");
    open.the_books_are_right(&world);
    drop(open);
    world.remove_all();
    world.assert_clean();
}

/// What is not promised is defined: an earlier daemon knows nothing of a later one's pins.
#[test]
fn going_back_ends_containers_and_says_so() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut world, _beyond) = Beyond::world("");
    world.leave(Leave::Stopped);
    world.start_build(Build::Next);
    world.vpc("blue", "10.0.0.0/24");
    let id = world.run("busybox", &["--vpc", "blue"], SLEEP);
    world.leave(Leave::Stopped);
    world.start_build(Build::Own);
    let events = world.events_of("host");
    let told = events.iter().find(|(kind, _)| kind == "datapath.foreign_pins").map(|(_, text)| text.as_str());
    assert!(told.is_some_and(|text| text.contains("newer") && text.contains(&Build::Next.pins())), "{events:?}");
    assert_ne!(world.inspect(&id)["state"], "running");
    assert!(!world.events_of(&id).is_empty(), "its end is told");
    assert_eq!(versions(&world), [Build::Own.pins()]);
    // And it works.
    world.run_rm("busybox", &["--vpc", "blue"], &["true"]).ok();
    world.remove_all();
    world.assert_clean();
}
