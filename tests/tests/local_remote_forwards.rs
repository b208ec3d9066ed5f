//! `cc local-remote serve`: a port of a container on a local address, by VPC, with half-close and refusals intact.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, Stdio};
use std::time::Duration;

use cc_tests::World;

struct Forward {
    child: Child,
    address: String,
}

impl Forward {
    fn to(world: &World, id: &str, port: &str) -> Forward {
        let args = ["local-remote", "serve", "--container-id", id, "--container-port", port, "--bind", "127.0.0.1:0"];
        let mut child = world.command(&args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().rsplit(' ').next().unwrap().to_owned();
        assert!(address.starts_with("127.0.0.1:"), "{line}");
        Forward { child, address }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    }

    /// Sends, half-closes, reads to the end.
    fn ask(&self, request: &[u8]) -> Vec<u8> {
        let mut stream = self.connect();
        stream.write_all(request).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn overlapping_vpcs_are_told_apart_and_half_close_is_kept() {
    let world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    world.vpc("red", "10.0.0.0/24");
    // Answers only after its input has ended: without half-close it would wait for ever.
    let serve = |name: &str| format!("while :; do nc -l -p 7000 -e sh -c 'n=$(cat | wc -c); echo {name} $n'; done");
    let blue = world.run("busybox", &["--vpc", "blue"], &["sh", "-c", &serve("blue")]);
    let red = world.run("busybox", &["--vpc", "red"], &["sh", "-c", &serve("red")]);
    for (id, name) in [(&blue, "blue"), (&red, "red")] {
        let forward = Forward::to(&world, id, "7000");
        wait_until_listening(&world, id);
        let answer = forward.ask(&vec![b'x'; 300_000]);
        assert_eq!(String::from_utf8(answer).unwrap().trim(), format!("{name} 300000"));
    }
}

#[test]
fn a_refused_connection_closes_at_once() {
    let world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    let id = world.run("busybox", &["--vpc", "blue"], &["sleep", "600"]);
    let forward = Forward::to(&world, &id, "81");
    let start = std::time::Instant::now();
    let mut answer = Vec::new();
    // A reset is as good an end as an orderly one.
    let _ = forward.connect().read_to_end(&mut answer);
    assert!(answer.is_empty() && start.elapsed() < Duration::from_secs(3), "it took {:?}", start.elapsed());
}

/// A slow reader holds the sender back: what is in flight stays bounded, and every byte arrives.
#[test]
fn back_pressure_is_kept() {
    let world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    let id = world.run(
        "busybox",
        &["--vpc", "blue"],
        &["sh", "-c", "while :; do head -c 33554432 /dev/zero | nc -l -p 7000; done"],
    );
    wait_until_listening(&world, &id);
    let forward = Forward::to(&world, &id, "7000");
    let mut stream = forward.connect();
    let mut total = 0;
    let mut buffer = vec![0; 65_536];
    loop {
        match stream.read(&mut buffer).unwrap() {
            0 => break,
            n => total += n,
        }
        if total < 1 << 20 {
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }
    assert_eq!(total, 33_554_432);
}

fn wait_until_listening(world: &World, id: &str) {
    let table = format!("/proc/{}/net/tcp", world.pid(id));
    let table6 = format!("{table}6");
    cc_tests::eventually("the container listens", Duration::from_secs(10), || {
        let listens =
            |path: &str| std::fs::read_to_string(path).is_ok_and(|t| t.contains(":1B58 ") && t.contains(" 0A "));
        (listens(&table) || listens(&table6)).then_some(())
    });
}
