//! A server inside a container that says again what it is told. Refuses to run in the container's own process tree: it is a thread of
//! the test's, in the container's network namespace.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use crate::world::World;

/// Listens on `port`, and echoes what each connection says until it ends.
pub fn echo_server(world: &World, id: &str, port: u16) {
    echo_server_at(world, id, "0.0.0.0", port);
}

/// The same for both families.
pub fn dual_stack_echo_server(world: &World, id: &str, port: u16) {
    echo_server_at(world, id, "::", port);
}

fn echo_server_at(world: &World, id: &str, address: &'static str, port: u16) {
    world.in_container(id, move || {
        let listener = TcpListener::bind((address, port)).expect("the port is free");
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                std::thread::spawn(move || {
                    let mut buffer = [0; 1024];
                    while let Ok(length @ 1..) = stream.read(&mut buffer) {
                        if stream.write_all(&buffer[..length]).is_err() {
                            return;
                        }
                    }
                });
            }
        });
    });
}
