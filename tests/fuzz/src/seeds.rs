//! What the committed corpora consist of: inputs that get far, so that twenty seconds do. `CC_GENERATE=1 cargo test -p fuzz` writes them.
//! Refuses what a fuzzer has found: that is kept beside them, as `found-….seed`.

use cc_common::api::v1;
use cc_common::net::GATEWAY_MAC;
use cc_host::shim::protocol::{Frame, Kind, Report, Request, encode};
use etherparse::PacketBuilder;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use prost::Message as _;

use crate::host::{ENDPOINTS, HOST, HOST_V6, PUBLISHED};

/// A target, a name, and bytes.
pub type Seed = (&'static str, &'static str, Vec<u8>);

pub fn all() -> Vec<Seed> {
    let mut seeds = datapath();
    seeds.extend(nat());
    seeds.extend(texts());
    seeds.extend(policies());
    seeds.extend(bundles());
    seeds.extend(images());
    seeds.extend(messages());
    seeds.extend(dns());
    seeds.extend((1..4).map(|n| ("rules", ["", "one", "two", "three"][n], scattered(n as u32, 160))));
    seeds
}

/// Any bytes, always the same.
fn scattered(seed: u32, count: usize) -> Vec<u8> {
    let next = |state: &u32| Some(state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    std::iter::successors(Some(seed), next).skip(1).map(|state| (state >> 24) as u8).take(count).collect()
}

/// A step of the datapath's target.
fn step(kind: u8, frame: &[u8]) -> Vec<u8> {
    let length = u8::try_from(frame.len()).expect("seeds are short");
    [&[kind, length], frame].concat()
}

const DRY: u8 = 0x40;
const ANSWER: u8 = 10;

fn link() -> etherparse::PacketBuilderStep<etherparse::Ethernet2Header> {
    PacketBuilder::ethernet2(ENDPOINTS[0].mac().0, GATEWAY_MAC.0)
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = Vec::new();
    write(&mut frame);
    frame
}

fn v4(to: [u8; 4]) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    link().ipv4([10, 0, 0, 2], to, 64)
}

fn v6(to: [u8; 16]) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    link().ipv6(ENDPOINTS[0].ipv6().octets, to, 64)
}

const WRITTEN: &str = "a vector takes it";

fn syn(ip: etherparse::PacketBuilderStep<etherparse::IpHeaders>, port: u16) -> Vec<u8> {
    let options =
        [etherparse::TcpOptionElement::MaximumSegmentSize(1460), etherparse::TcpOptionElement::WindowScale(7)];
    let tcp = ip.tcp(40_000, port, 1, 4096).syn().options(&options).expect("there is room for options");
    written(|frame| tcp.write(frame, &[]).expect(WRITTEN))
}

fn udp(ip: etherparse::PacketBuilderStep<etherparse::IpHeaders>, port: u16) -> Vec<u8> {
    written(|frame| ip.udp(40_000, port).write(frame, b"hello").expect(WRITTEN))
}

fn datapath() -> Vec<Seed> {
    const WORLD: [u8; 4] = [203, 0, 114, 9];
    let answers = [ANSWER, ANSWER, ANSWER];
    let peer = ENDPOINTS[1].ipv4().0;
    let tcp = [&step(DRY, &syn(v4(peer), 80))[..], &answers, &step(0, &syn(v4(peer), 0x9000))].concat();
    let tcp6 = [&step(0, &syn(v6(ENDPOINTS[1].ipv6().octets), 80))[..], &answers].concat();
    let echo = written(|frame| v4([10, 0, 0, 1]).icmpv4_echo_request(5, 1).write(frame, b"ping").expect(WRITTEN));
    let echo6 = written(|frame| {
        v6(ENDPOINTS[3].ipv6().octets).icmpv6_echo_request(5, 1).write(frame, b"ping").expect(WRITTEN);
    });
    let gateway =
        [step(DRY, &echo), step(0, &echo6), step(DRY, &udp(v4([10, 0, 0, 1]), 53)), answers.to_vec()].concat();
    let out = [&step(DRY, &syn(v4(WORLD), 443))[..], &answers, &step(0x42, &udp(v4(WORLD), 53)), &answers].concat();
    let (client, client6) = ([203, 0, 114, 5], [0x20, 1, 0xd, 0xb8, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5]);
    let published = [
        step(DRY | 4, &syn(link().ipv4(client, HOST, 64), PUBLISHED)),
        answers.to_vec(),
        step(DRY | 4, &syn(link().ipv6(client6, HOST_V6, 64), PUBLISHED)),
        answers.to_vec(),
        step(DRY | 2, &syn(v4(HOST), PUBLISHED)),
        answers.to_vec(),
        step(DRY | 6, &syn(v4(HOST), PUBLISHED)),
        answers.to_vec(),
    ];
    let mut arp = [GATEWAY_MAC.0, ENDPOINTS[0].mac().0].concat();
    arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    arp.extend(ENDPOINTS[0].mac().0);
    arp.extend([10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 10, 0, 0, 3]);
    let solicitation = [&[0u8; 4][..], &ENDPOINTS[1].ipv6().octets, &[1, 1], &ENDPOINTS[0].mac().0].concat();
    let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 3];
    let nd = link().ipv6(ENDPOINTS[0].ipv6().octets, group, 255).icmpv6_raw(135, 0, [0; 4]);
    let nd = written(|frame| nd.write(frame, &solicitation[4..]).expect(WRITTEN));
    let neighbours = [step(0x10 | DRY, &arp), step(DRY, &nd), step(0x10, &nd)].concat();
    // The first fragment and a later one, with extension headers in IPv6.
    let mut first = udp(v4(peer), 53);
    first[20] = 0x20;
    let mut later = first.clone();
    later[21] = 1;
    let extensions = [0, 0, 0, 0, 0, 0, 0, 0, 17, 0, 0, 1, 0, 0, 0, 9, 156, 64, 0, 53, 0, 13, 0, 0, b'h', b'i'];
    let mut extended = [&[0u8; 12][..], &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 26, 0, 64]].concat();
    extended.extend(ENDPOINTS[0].ipv6().octets);
    extended.extend(ENDPOINTS[1].ipv6().octets);
    extended.extend(extensions);
    extended[54] = 44;
    let fragments = [step(DRY, &first), step(DRY, &later), step(0, &extended), step(1, &later)].concat();
    // A first fragment whose header goes on in what follows the packet.
    let mut padded = syn(v4(peer), 80);
    (padded[17], padded[20]) = (28, 0x20);
    let error = written(|frame| {
        let quoted = &udp(v4(peer), 53)[14..];
        link().ipv4(peer, [10, 0, 0, 2], 64).icmpv4_raw(3, 4, [0, 0, 5, 0]).write(frame, quoted).expect(WRITTEN);
    });
    let errors = [step(0, &udp(v4(peer), 53)), step(DRY | 1, &error), step(4, &error)].concat();
    let world = [
        &step(0, &udp(v4(WORLD), 53))[..],
        &[9, 0, 200, 9, 1, 0, 9, 1, 0, 9, 2, 1, 9, 3, 0, 9, 4, 3, 9, 5, 7, 10, 10],
        &step(DRY, &udp(v4(WORLD), 53)),
        &[9, 3, 0, 9, 1, 0, 9, 1, 0],
    ];
    let mut short_lived = syn(v4(WORLD), 443);
    short_lived[22] = 1;
    let guard = [step(8, &syn(v4(HOST), 80)), step(8, &extended), step(DRY, &short_lived), step(7, &echo)].concat();
    [
        ("tcp", tcp),
        ("tcp6", tcp6),
        ("gateway", gateway),
        ("out", out),
        ("published", published.concat()),
        ("neighbours", neighbours),
        ("fragments", fragments),
        ("padded", step(0, &padded)),
        ("errors", errors),
        ("world", world.concat()),
        ("guard", guard),
    ]
    .map(|(name, bytes)| ("datapath", name, bytes))
    .into()
}

fn nat() -> Vec<Seed> {
    // Choice, remote or client, ports, flags, data.
    let conversation = |choice: u8| [&[choice, 1, 0x9c, 0x40, 0, 53, 3, 5][..], b"hello"].concat();
    let of = |choices: &[u8]| choices.iter().flat_map(|&choice| conversation(choice)).collect::<Vec<u8>>();
    [
        ("out", of(&[0x00, 0x10, 0x20, 0x30, 0x04, 0x14, 0x24, 0x34])),
        ("in", of(&[0x80, 0x90, 0x84, 0x94])),
        ("others", of(&[0x01, 0x12, 0x09, 0x3a, 0x3d])),
        ("many", of(&[0x10; 24])),
    ]
    .map(|(name, bytes)| ("nat", name, bytes))
    .into()
}

fn texts() -> Vec<Seed> {
    let list = b"\x07# bad ones\n192.0.2.0/24 # test\n  2001:db8::/32\r\n10.0.0.1\n::ffff:10.0.0.0/104\n";
    let mut seeds: Vec<Seed> = vec![("prefix_lists", "list", list.to_vec())];
    let config = "state_dir = '/x'\nlisten = '[::1]:7000'\nnat_ports = '61056-65535'\nstand_ins = '198.18.0.0/18'\n\
        dns = ['192.0.2.53']\nmetrics_listen = 'off'\nguard = true\nmtu = 1450\n";
    let pairs = [
        ("config", 0, config),
        ("cidr", 1, "10.20.0.0/16"),
        ("cidr6", 2, "fd00:1:2:3::/64"),
        ("name_server", 3, "[2001:db8::53]:5353"),
        ("name", 4, "web-1"),
        ("port", 5, "[2001:db8::1]:8080:80/udp"),
        ("size", 6, "1.5GiB"),
        ("moment", 7, "2026-01-31T12:00:00.5+01:30"),
        ("duration", 7, "1h30m"),
        ("run", 8, "run\n--image\nnginx\n-p\n8080:80\n--egress-bandwidth\n1MiB\n--memory\n64m\n--\nsleep\n1"),
        ("rule", 8, "group\nallow\nweb\ningress\n--proto\ntcp\n--port\n80-90\n--from\n10.0.0.0/8"),
        ("logs", 8, "logs\n-n\n10\n--since\n1h30m\nweb"),
        ("key", 9, "cck_00112233445566778899aabb"),
    ];
    seeds.extend(pairs.map(|(name, kind, text)| ("settings", name, [&[kind], text.as_bytes()].concat())));
    seeds
}

/// Of docker's form, and rules of any.
fn policies() -> Vec<Seed> {
    // A kernel, all capabilities but the highest, and a text follows.
    let text = |text: &str| [&[6, 1, 0x7f, 0xff, 0xff, 0xff, 0], text.as_bytes()].concat();
    let allowing = r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,
        "archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86","SCMP_ARCH_X32"]}],
        "syscalls":[{"names":["execve","exit_group","read","write"],"action":"SCMP_ACT_ALLOW"},
        {"names":["mount"],"action":"SCMP_ACT_LOG","includes":{"caps":["CAP_SYS_ADMIN"],"minKernel":"4.8"}},
        {"names":["clone"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":2114060288,"op":"SCMP_CMP_MASKED_EQ"}]},
        {"names":["clone3"],"action":"SCMP_ACT_ERRNO","errnoRet":38,"excludes":{"arches":["s390x"]}}]}"#;
    let denying = r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_LOG"],"syscalls":[
        {"name":"personality","action":"SCMP_ACT_TRAP","args":[{"index":0,"value":8,"op":"SCMP_CMP_GE"},
        {"index":0,"value":4294967296,"op":"SCMP_CMP_LT"}]},{"names":["kill"],"action":"SCMP_ACT_KILL_PROCESS",
        "args":[{"index":0,"value":1,"op":"SCMP_CMP_LE"},{"index":1,"value":9,"valueTwo":9,"op":"SCMP_CMP_NE"}]}]}"#;
    let mut seeds =
        vec![("seccomp_profiles", "allowing", text(allowing)), ("seccomp_profiles", "denying", text(denying))];
    let any = |seed| [&[6, 1, 0, 0, 0, 0, 1][..], &scattered(seed, 900)].concat();
    seeds.extend([("seccomp_profiles", "any", any(7)), ("seccomp_profiles", "other", any(8))]);
    seeds
}

fn bundles() -> Vec<Seed> {
    let short = r#"{"ociVersion":"1.2.0","root":{"path":"rootfs"},"process":{"args":["sh"],"cwd":"/","user":{"uid":0,"gid":0}},
        "linux":{"namespaces":[{"type":"mount"},{"type":"pid"}]}}"#;
    let long = r#"{"ociVersion":"1.0.2","root":{"path":"/r","readonly":true},"hostname":"h","annotations":{"a":"b"},
        "process":{"terminal":true,"consoleSize":{"height":24,"width":80},"args":["/bin/a","-x"],"env":["PATH=/bin"],"cwd":"/tmp",
        "user":{"uid":1000,"gid":1000,"additionalGids":[5],"umask":18},"noNewPrivileges":true,"oomScoreAdj":10,
        "capabilities":{"bounding":["CAP_KILL"],"effective":["CAP_KILL"],"permitted":["CAP_KILL"],"ambient":[],"inheritable":[]},
        "rlimits":[{"type":"RLIMIT_NOFILE","soft":64,"hard":64}],"scheduler":{"policy":"SCHED_BATCH","nice":1},
        "ioPriority":{"class":"IOPRIO_CLASS_IDLE","priority":0}},
        "mounts":[{"destination":"/proc","type":"proc","source":"proc"},
        {"destination":"/tmp","type":"tmpfs","source":"tmpfs","options":["nosuid","nodev","mode=1777","size=64k","tmpcopyup"]},
        {"destination":"/b","type":"bind","source":"b","options":["rbind","ro","rslave"]}],
        "hooks":{"poststop":[{"path":"/bin/true","args":["true"],"timeout":3}]},
        "linux":{"namespaces":[{"type":"mount"},{"type":"uts"},{"type":"ipc"},{"type":"user"},{"type":"cgroup"}],
        "uidMappings":[{"containerID":0,"hostID":100000,"size":65536}],"gidMappings":[{"containerID":0,"hostID":100000,"size":65536}],
        "sysctl":{"kernel.msgmax":"8192"},"maskedPaths":["/proc/kcore"],"readonlyPaths":["/proc/sys"],"rootfsPropagation":"private",
        "devices":[{"path":"/dev/fuse","type":"c","major":10,"minor":229,"fileMode":438,"uid":0,"gid":0}],"cgroupsPath":"/c",
        "personality":{"domain":"LINUX32"},"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["reboot"],"action":"SCMP_ACT_ERRNO"}]},
        "resources":{"memory":{"limit":1048576},"pids":{"limit":9},"cpu":{"shares":512}}}}"#;
    [("short", short), ("long", long)].map(|(name, text)| ("oci_configs", name, text.as_bytes().to_vec())).into()
}

fn images() -> Vec<Seed> {
    let digest = format!("sha256:{}", "ab".repeat(32));
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"digest":"{digest}","size":9}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{digest}","size":7}}]}}"#
    );
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"digest":"{digest}","platform":{{"os":"linux","architecture":"amd64"}}}},{{"digest":"{digest}"}}]}}"#
    );
    let config = format!(
        r#"{{"os":"linux","architecture":"amd64","rootfs":{{"type":"layers","diff_ids":["{digest}"]}},"config":{{"Entrypoint":["/a"],"Cmd":null,"Env":["A=b"],"User":"1:1","WorkingDir":"/","StopSignal":"TERM","Labels":{{"a":"b"}}}}}}"#
    );
    let texts = [
        ("manifest", 0, manifest.as_str()),
        ("index", 0, &index),
        ("config", 1, &config),
        ("short", 2, "nginx"),
        (
            "long",
            2,
            "registry.example:5000/team/app:1.2@sha256:abababababababababababababababababababababababababababababababab",
        ),
    ];
    let mut seeds: Vec<Seed> =
        texts.map(|(name, kind, text)| ("image_manifests", name, [&[kind], text.as_bytes()].concat())).into();
    let mut builder = tar::Builder::new(vec![1]);
    let mut header = tar::Header::new_gnu();
    header.set_size(5);
    header.set_mode(0o644);
    builder.append_data(&mut header.clone(), "etc/hostname", &b"hello"[..]).expect(WRITTEN);
    builder.append_pax_extensions([("mtime", &b"12.5"[..]), ("SCHILY.xattr.user.a", b"b")]).expect(WRITTEN);
    builder.append_data(&mut header.clone(), "a/".repeat(60) + "b", &b"hello"[..]).expect(WRITTEN);
    header.set_size(0);
    header.set_entry_type(tar::EntryType::Symlink);
    builder.append_link(&mut header.clone(), "l", "../outside").expect(WRITTEN);
    header.set_entry_type(tar::EntryType::Link);
    builder.append_link(&mut header, "l2", "etc/hostname").expect(WRITTEN);
    seeds.push(("image_layers", "archive", builder.into_inner().expect(WRITTEN)));
    // Choice, type, data of a file, mode, time.
    let entries = [&[0, 0x0a, 3, 1, 0xed, 0][..], &[10, 4, 1, 0xff, 0], &[12, 0, 2, b'h', b'i', 1, 0xa4, 0]].concat();
    let hidden =
        [&[6, 0, 0, 1, 0xa4, 0][..], &[7, 0, 0, 1, 0xa4, 0], &[0, 6, 1, 0xed, 0], &[1, 0, 1, b'x', 1, 0xa4, 0]]
            .concat();
    seeds.push(("image_layers", "entries", entries));
    seeds.push(("image_layers", "hidden", hidden));
    seeds
}

fn messages() -> Vec<Seed> {
    let publish = v1::PortMapping { address: "192.0.2.1".into(), host_port: 8080, port: 80, protocol: "udp".into() };
    let container = v1::ContainerSpec {
        image: "nginx".into(),
        vpc: "blue".into(),
        memory_bytes: 64 << 20,
        cpu_shares: 512,
        env: vec!["A=b".into()],
        dir: "/srv".into(),
        hostname: "web".into(),
        labels: [("a".to_owned(), "b".to_owned())].into(),
        command: vec!["sleep".into(), "1".into()],
        groups: vec!["web".into()],
        dns: vec!["192.0.2.53".into()],
        mtu: 1400,
        publish: vec![publish],
        egress_bandwidth: Some(v1::RateLimit { bytes_per_s: 1 << 20, burst_bytes: 1 << 17 }),
        log_max_bytes: 1 << 20,
        log_max_files: 5,
        log_mode: "drop".into(),
        ..Default::default()
    };
    let rule = |protocol: &str, icmp_type: &str, peer: &str| v1::Rule {
        action: "allow".into(),
        direction: "ingress".into(),
        protocol: protocol.into(),
        icmp_type: icmp_type.into(),
        peer: peer.into(),
        priority: 10,
        ..Default::default()
    };
    let ports = v1::Rule { port_first: 80, port_last: 90, ..rule("tcp", "", "10.0.0.0/8") };
    let of = |kind: u8, message: Vec<u8>| [vec![kind], message].concat();
    let mut seeds: Vec<Seed> = vec![
        ("api_messages", "container", of(0, container.encode_to_vec())),
        ("api_messages", "ports", of(1, ports.encode_to_vec())),
        ("api_messages", "icmp", of(1, rule("icmp", "3/4", "web").encode_to_vec())),
        ("api_messages", "list", of(1, rule("any", "", "both").encode_to_vec())),
        ("web_requests", "stdin", of(0, b"\0ls\n".to_vec())),
        ("web_requests", "half_closed", of(0, vec![255, 0])),
        ("web_requests", "size", of(0, b"\x04{\"Width\":80,\"Height\":24}".to_vec())),
        ("web_requests", "exec", of(1, b"command=sh&command=-c&command=echo+%26&tty=1&rows=50&ticket=cct_".to_vec())),
        ("web_requests", "logs", of(1, b"follow=true&tail=10&since_ms=1".to_vec())),
        ("web_requests", "origin", of(2, b"localhost:74800http://localhost:74800".to_vec())),
    ];
    let start = Frame::message(&Request::Attach { stdin: true }).encode();
    let hello = Frame::message(&Report::Hello { version: 1 }).encode();
    let frames = [&[3][..], &start, &hello, &encode(Kind::Stdout, b"hello"), &encode(Kind::Stdin, b"")].concat();
    seeds.push(("shim_frames", "frames", frames));
    seeds
}

fn dns() -> Vec<Seed> {
    let query = |name: &str, kind, edns: bool| {
        let mut message = Message::new(9, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii(name).expect("it is a name"), kind));
        message.metadata.recursion_desired = true;
        message.edns = edns.then(Edns::new);
        message.to_vec().expect("it can be written")
    };
    let of = |tcp: u8, query: Vec<u8>| {
        let length = u16::try_from(query.len()).expect("queries are short").to_be_bytes();
        // The answer of a name server, under the id that is asked with.
        let answer = [&[0x43, 0x21, 0x80][..], &query[3..]].concat();
        [&[tcp][..], &length, &query, &answer].concat()
    };
    vec![
        ("dns", "own", of(0, query("c2.prod.cc.internal.", RecordType::A, true))),
        ("dns", "many", of(0, query("all.", RecordType::AAAA, false))),
        ("dns", "many_tcp", of(1, query("all.prod.cc.internal.", RecordType::A, true))),
        ("dns", "reverse", of(0, query("2.0.0.10.in-addr.arpa.", RecordType::PTR, true))),
        ("dns", "world", of(1, query("www.example.com.", RecordType::MX, true))),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn corpus() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
    }

    #[test]
    fn corpora_are_as_they_are_made_here() {
        let generate = std::env::var_os("CC_GENERATE").is_some();
        for (target, name, bytes) in all() {
            let file = corpus().join(target).join(format!("{name}.seed"));
            if generate {
                std::fs::create_dir_all(corpus().join(target)).expect("a directory can be made");
                std::fs::write(&file, &bytes).expect("a seed can be written");
            }
            let found = std::fs::read(&file).unwrap_or_default();
            assert!(found == bytes, "{}: CC_GENERATE=1 cargo test -p fuzz writes it anew", file.display());
        }
    }

    /// Also what a fuzzer has once found.
    #[test]
    fn every_seed_is_clean() {
        for (target, run) in crate::TARGETS {
            let files = std::fs::read_dir(corpus().join(target)).expect("each target has seeds");
            let mut count = 0;
            for file in
                files.flatten().map(|file| file.path()).filter(|file| file.extension().is_some_and(|e| e == "seed"))
            {
                eprintln!("{}", file.display());
                run(&std::fs::read(&file).expect("a seed can be read"));
                count += 1;
            }
            assert!(count > 0, "{target}");
        }
    }
}
