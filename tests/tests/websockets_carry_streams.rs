//! Logs, attach and exec over WebSockets, as `v5.channel.k8s.io` has it: what a program writes arrives, what is sent reaches it, its end is
//! told, and only whoever may gets so far.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use cc_tests::websocket::{Answer, Headers, Refused, Socket, dial, request};
use cc_tests::{Leave, World, images};
use serde_json::Value;

/// Where the console is by itself: each world has a loopback of its own.
const CONSOLE: &str = "127.0.0.1:7480";

fn ask(world: &World, method: &str, path: &str, headers: Headers<'_>, body: &str) -> Answer {
    request(&world.netns, CONSOLE, method, path, headers, body)
}

/// What `cc console` prints behind the '#'.
fn ticket(world: &World) -> String {
    let link = world.cc(&["console"]).line();
    assert!(link.starts_with(&format!("http://{CONSOLE}/console/#ticket=cct_")), "{link}");
    link.split_once("ticket=").unwrap().1.to_owned()
}

fn open(world: &World, path: &str, headers: Headers<'_>) -> Result<Socket<std::net::TcpStream>, Refused> {
    let ticket = ticket(world);
    let mark = if path.contains('?') { '&' } else { '?' };
    Socket::open(dial(&world.netns, CONSOLE), &format!("ws://{CONSOLE}{path}{mark}ticket={ticket}"), headers)
}

#[track_caller]
fn refused<S>(outcome: Result<S, Refused>, status: u16, code: &str) {
    let Refused { status: got, body } = outcome.err().expect("it is refused");
    assert_eq!((got, body["code"].as_str().unwrap_or_default()), (status, code), "{body}");
}

fn runs(world: &World, name: &str, command: &[&str]) {
    let layout = images::reference("busybox").unwrap();
    world.cc(&[&["run", "-d", "-i", "--name", name, "--image", &layout], command].concat()).ok();
}

#[test]
fn exec_carries_both_ways_and_tells_the_end() {
    let world = World::new();
    runs(&world, "web", &["sleep", "600"]);
    let mut socket = open(
        &world,
        "/v1/containers/web/exec?command=sh&command=-c&command=cat%3b+echo+no+%3e%262%3b+exit+3&stdin=true",
        &[],
    )
    .unwrap();
    assert!(socket.answered.contains(&("sec-websocket-protocol".into(), "v5.channel.k8s.io".into())));
    socket.send(0, b"");
    socket.send(0, b"hello ");
    socket.send(0, b"there\n");
    // Half a close: the other direction goes on.
    socket.send(255, &[0]);
    let heard = socket.to_its_end();
    assert_eq!((heard.stdout.as_str(), heard.stderr.as_str()), ("hello there\n", "no\n"));
    assert_eq!(
        (heard.status["status"].as_str(), heard.status["reason"].as_str()),
        (Some("Failure"), Some("NonZeroExitCode"))
    );
    assert_eq!(heard.status["details"]["causes"][0]["message"], "3");

    // Megabytes, in order.
    let mut socket = open(&world, "/v1/containers/web/exec?command=seq&command=300000", &[]).unwrap();
    let heard = socket.to_its_end();
    assert_eq!(heard.status["status"], "Success");
    assert!(heard.stdout.lines().map(|line| line.parse::<u32>().unwrap()).eq(1..=300_000));
    world.cc(&["rm", "-f", "web"]).ok();
    world.assert_clean();
}

#[test]
fn a_terminal_has_the_clients_size_and_its_keys() {
    let world = World::new();
    runs(&world, "web", &["sleep", "600"]);
    let mut socket =
        open(&world, "/v1/containers/web/exec?command=sh&tty=true&stdin=true&rows=33&columns=99", &[]).unwrap();
    socket.send(0, b"stty size\n");
    socket.hear(|heard| heard.stdout.contains("33 99"));
    socket.send(4, b"{\"Width\":120,\"Height\":40}");
    socket.send(0, b"stty size\n");
    socket.hear(|heard| heard.stdout.contains("40 120"));
    // Ctrl-C is a key, and the shell stays.
    // It has the terminal when it can say so.
    socket.send(0, b"sh -c 'echo u\"\"p; exec sleep 600'\n");
    socket.hear(|heard| heard.stdout.contains("up\r\n"));
    socket.send(0, b"\x03");
    socket.send(0, b"echo still $((40 + 2))\nexit 7\n");
    let heard = socket.to_its_end();
    assert!(heard.stdout.contains("still 42"), "{heard:?}");
    assert_eq!(heard.status["details"]["causes"][0]["message"], "7");
    world.cc(&["rm", "-f", "web"]).ok();
    world.assert_clean();
}

#[test]
fn logs_and_attach_are_followed_to_the_end() {
    let world = World::new();
    runs(&world, "web", &["sh", "-c", "echo first; echo err >&2; read line; echo got $line; exit 5"]);
    let mut log = open(&world, "/v1/containers/web/logs?follow=true&timestamps=true", &[]).unwrap();
    log.hear(|heard| heard.stdout.contains("first\n") && heard.stderr.contains("err\n"));
    let mut attached = open(&world, "/v1/containers/web/attach?stdin=true", &[]).unwrap();
    attached.send(0, b"a word\n");
    let heard = attached.to_its_end();
    assert!(heard.stdout.contains("got a word\n"), "{heard:?}");
    assert_eq!(heard.status["details"]["causes"][0]["message"], "5");
    let heard = log.to_its_end();
    assert_eq!(heard.status["status"], "Success");
    let line = heard.stdout.lines().last().unwrap();
    assert!(line.ends_with("Z got a word") && line.starts_with("20"), "{line}");
    // Of one that has ended, all that there is.
    let heard = open(&world, "/v1/containers/web/logs?tail=1", &[]).unwrap().to_its_end();
    assert_eq!(heard.stdout, "got a word\n");
    world.cc(&["rm", "-f", "web"]).ok();
    world.assert_clean();
}

#[test]
fn who_goes_away_ends_nobody_and_who_breaks_the_rules_is_told() {
    let world = World::new();
    runs(&world, "web", &["sleep", "600"]);
    let socket = open(&world, "/v1/containers/web/attach", &[]).unwrap();
    drop(socket);
    assert_eq!(world.cc(&["status", "web", "--json"]).json()[0]["state"], "running");
    for broken in [&[1, b'x'][..], &[255, 2], &[9], &[4, b'x']] {
        let mut socket = open(&world, "/v1/containers/web/exec?command=cat&stdin=true", &[]).unwrap();
        socket.send(broken[0], &broken[1..]);
        assert_eq!(socket.closed(), 1008, "{broken:?}");
    }
    let mut socket = open(&world, "/v1/containers/web/exec?command=cat&stdin=true", &[]).unwrap();
    socket.send_text("bytes, please");
    assert_eq!(socket.closed(), 1008);
    let mut socket = open(&world, "/v1/containers/web/exec?command=sleep&command=9&stdin=true", &[]).unwrap();
    socket.send(0, &vec![0; (1 << 20) + 1]);
    assert_eq!(socket.closed(), 1009);
    // A client's own close is answered.
    let mut socket = open(&world, "/v1/containers/web/attach", &[]).unwrap();
    socket.close();
    assert_eq!(socket.closed(), 1000);
    world.cc(&["rm", "-f", "web"]).ok();
    world.assert_clean();
}

/// Browsers do not show a page why there was no handshake: whoever comes with a ticket is told in the socket.
#[test]
fn what_cannot_be_done_is_told() {
    let mut world = World::new();
    runs(&world, "web", &["sleep", "600"]);
    let told = |path: &str| {
        let heard = open(&world, path, &[]).unwrap().to_its_end();
        assert_eq!(heard.status["status"], "Failure", "{path}");
        heard.status["details"]["causes"][0]["message"].as_str().unwrap().to_owned()
    };
    assert_eq!(told("/v1/containers/nobody/logs"), "container.not_found_id");
    assert_eq!(told("/v1/containers/nobody/exec?command=true"), "container.not_found_id");
    assert_eq!(told("/v1/containers/web/exec?command=/no/such"), "container.not_found");
    assert_eq!(told("/v1/containers/web/exec"), "container.bad_option");
    assert_eq!(told("/v1/containers/web/exec?command=true&shell=1"), "web.bad_query");
    let other = [("sec-websocket-protocol", "v4.channel.k8s.io")];
    refused(open(&world, "/v1/containers/web/logs", &other), 400, "web.no_websocket");
    assert_eq!(ask(&world, "GET", "/v1/containers/web/logs", &[], "").status, 400, "no handshake");

    // The daemon goes, and says so; the container goes on.
    let mut log = open(&world, "/v1/containers/web/logs?follow=true", &[]).unwrap();
    let mut program = open(&world, "/v1/containers/web/exec?command=sleep&command=600", &[]).unwrap();
    world.leave(Leave::Stopped);
    for socket in [&mut log, &mut program] {
        assert_eq!(socket.to_its_end().status["details"]["causes"][0]["message"], "server.stopping");
    }
    world.start();
    world.cc(&["stop", "--time", "0", "web"]).ok();
    let heard = open(&world, "/v1/containers/web/attach", &[]).unwrap().to_its_end();
    assert_eq!(heard.status["details"]["causes"][0]["message"], "container.not_running");
    world.cc(&["rm", "-f", "web"]).ok();
    world.assert_clean();
}

#[test]
fn a_ticket_is_good_once_and_only_for_our_own_pages() {
    let world = World::new();
    runs(&world, "web", &["sleep", "600"]);
    let path = "/v1/containers/web/logs";
    let spent = ticket(&world);
    let url = format!("ws://{CONSOLE}{path}?ticket={spent}");
    let again = |headers: Headers<'_>| Socket::open(dial(&world.netns, CONSOLE), &url, headers);
    assert!(again(&[]).is_ok());
    refused(again(&[]), 401, "auth.bad_ticket");
    // A page of somebody else's, and a name whose address somebody changed to ours.
    refused(open(&world, path, &[("origin", "https://evil.example")]), 403, "web.other_origin");
    refused(open(&world, path, &[("host", "evil.example:7480")]), 403, "web.other_host");
    assert!(open(&world, path, &[("origin", "http://127.0.0.1:7480")]).is_ok());
    refused(Socket::open(dial(&world.netns, CONSOLE), &format!("ws://{CONSOLE}{path}"), &[]), 401, "auth.no_ticket");

    // A session buys tickets, and ends when it is left.
    let bought = ask(&world, "POST", "/v1/session", &[], &format!("{{\"ticket\":\"{}\"}}", ticket(&world))).json();
    let bearer = format!("Bearer {}", bought["session"].as_str().unwrap());
    let with_session: Headers<'_> = &[("authorization", &bearer)];
    let ticket = ask(&world, "POST", "/v1/ticket", with_session, "").json()["ticket"].as_str().unwrap().to_owned();
    assert!(Socket::open(dial(&world.netns, CONSOLE), &format!("ws://{CONSOLE}{path}?ticket={ticket}"), &[]).is_ok());
    let renewed = format!(
        "{{\"ticket\":\"{}\"}}",
        ask(&world, "POST", "/v1/ticket", with_session, "").json()["ticket"].as_str().unwrap()
    );
    assert_eq!(ask(&world, "POST", "/v1/session", &[], &renewed).status, 401, "no session makes itself another");
    let listed = ask(&world, "GET", "/v1/containers", with_session, "").json();
    assert_eq!(listed["containers"][0]["name"], "web");
    assert_eq!(ask(&world, "GET", "/v1/containers", &[("authorization", "Bearer ccw_x")], "").status, 401);
    assert_eq!(ask(&world, "DELETE", "/v1/session", with_session, "").status, 200);
    assert_eq!(ask(&world, "GET", "/v1/containers", with_session, "").status, 401);

    let page = ask(&world, "GET", "/console/", &[], "");
    assert!(page.status == 200 && page.head.contains("content-security-policy: default-src 'none'"), "{}", page.head);
    for path in ["/console/../Cargo.toml", "/console/vendor/LICENSE", "/etc/passwd", "/v1/nothing", "/console/%2e%2e"] {
        assert_eq!(ask(&world, "GET", path, &[], "").status, 404, "{path}");
    }
    assert_eq!(ask(&world, "POST", "/v1/session", &[], &"x".repeat(5000)).status, 400, "too long");
    world.cc(&["rm", "-f", "web"]).ok();
    world.assert_clean();
}

/// A program that is no browser: TLS and Ed25519 by openssl, put together as docs/http.md says.
struct Program<'a> {
    world: &'a World,
    key: Value,
    pin: String,
}

impl Program<'_> {
    fn signature(&self, path: &str, query: &str) -> Vec<(&'static str, String)> {
        let now_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
        let nonce: [u8; 16] = rand::random();
        let message = unhex(&sha256(query.as_bytes()));
        let token = self.key["access_token"].as_str().unwrap();
        let mut signed = b"cc.v1 request signature\0".to_vec();
        for text in ["1", token, path] {
            signed.extend_from_slice(&(text.len() as u16).to_be_bytes());
            signed.extend_from_slice(text.as_bytes());
        }
        for part in [&now_ms.to_be_bytes()[..], &nonce, &unhex(&self.pin), &message] {
            signed.extend_from_slice(part);
        }
        // PKCS #8 of a seed: RFC 8410.
        let seed = unbase64url(self.key["secret_key"].as_str().unwrap().trim_start_matches("ccs_"));
        let key = [&unhex("302e020100300506032b657004220420")[..], &seed].concat();
        std::fs::write(self.world.path("key.der"), key).unwrap();
        std::fs::write(self.world.path("signed"), signed).unwrap();
        let out = Command::new("openssl")
            .args(["pkeyutl", "-sign", "-rawin", "-keyform", "DER", "-inkey"])
            .arg(self.world.path("key.der"))
            .arg("-in")
            .arg(self.world.path("signed"))
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        vec![
            ("cc-signature-version", "1".to_owned()),
            ("cc-key-id", token.to_owned()),
            ("cc-time-ms", now_ms.to_string()),
            ("cc-nonce", hex(&nonce)),
            ("cc-message-sha256", hex(&message)),
            ("cc-signature", base64url(&out.stdout)),
        ]
    }

    fn open(&self, path: &str, query: &str, signature: &[(&'static str, String)]) -> Result<Socket<Pipe>, Refused> {
        let headers: Vec<_> = signature.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let mark = if query.is_empty() { "" } else { "?" };
        Socket::open(Pipe::open(self.world), &format!("wss://127.0.0.1:7443{path}{mark}{query}"), &headers)
    }
}

#[test]
fn programs_sign_and_need_no_ticket() {
    let world = World::with_config("listen = \"127.0.0.1:7443\"");
    let layout = images::reference("busybox").unwrap();
    world.cc(&["--cc-project", "blue", "run", "-d", "--name", "web", "--image", &layout, "sleep", "600"]).ok();
    let log = world.daemon().log();
    let pin = log.split("#sha256=").nth(1).unwrap()[..64].to_owned();
    let key = |role: &str, project: &str| {
        world.host(&["key", "create", "--role", role, "--project", project, "--json"]).json()
    };
    let program = |key: Value| Program { world: &world, key, pin: pin.clone() };
    let (path, query) = ("/v1/containers/web/exec", "command=echo&command=signed%20for");

    let operator = program(key("operator", "blue"));
    let signature = operator.signature(path, query);
    let heard = operator.open(path, query, &signature).unwrap().to_its_end();
    assert_eq!((heard.stdout.as_str(), &heard.status["status"]), ("signed for\n", &Value::from("Success")));
    refused(operator.open(path, query, &signature), 401, "auth.replayed");
    let signature = operator.signature(path, query);
    refused(operator.open(path, "command=rm&command=-rf", &signature), 401, "auth.bad_message");
    refused(operator.open("/v1/containers/web/attach", query, &signature), 401, "auth.bad_signature");
    refused(operator.open(path, query, &[]), 401, "auth.unsigned");

    let viewer = program(key("viewer", "blue"));
    refused(viewer.open(path, query, &viewer.signature(path, query)), 403, "auth.role");
    assert!(viewer.open("/v1/containers/web/logs", "", &viewer.signature("/v1/containers/web/logs", "")).is_ok());
    let other = program(key("admin", "red"));
    refused(other.open(path, query, &other.signature(path, query)), 404, "container.not_found_id");
    world.cc(&["--cc-project", "blue", "rm", "-f", "web"]).ok();
    world.assert_clean();
}

/// TLS to the daemon's port, by openssl: bytes in, bytes out.
struct Pipe(Child);

impl Pipe {
    fn open(world: &World) -> Pipe {
        let mut command = world.netns.command("openssl");
        command.args(["s_client", "-quiet", "-connect", "127.0.0.1:7443", "-alpn", "http/1.1", "-CAfile"]);
        command.arg(world.path("state/tls/ca.pem")).arg("-verify_return_error");
        Pipe(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Read for Pipe {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        self.0.stdout.as_mut().unwrap().read(bytes)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.stdin.as_mut().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.0.stdin.as_mut().unwrap().flush()
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    hex(&sha2::Sha256::digest(bytes))
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn base64url(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let number = chunk.iter().fold(0u32, |number, byte| number << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        let digit = |at: usize| char::from(ALPHABET[(number >> (18 - 6 * at) & 63) as usize]);
        text.extend((0..=chunk.len()).map(digit));
    }
    text
}

fn unbase64url(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for chunk in text.as_bytes().chunks(4) {
        let digit = |byte: &u8| ALPHABET.iter().position(|digit| digit == byte).unwrap() as u32;
        let number = chunk.iter().fold(0, |number, byte| number << 6 | digit(byte)) << (6 * (4 - chunk.len()));
        bytes.extend(number.to_be_bytes()[1..chunk.len()].iter());
    }
    bytes
}
