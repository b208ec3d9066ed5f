//! The binary `cc`: decides whether it was meant at all, then runs one command and exits with its code. Refuses to hold
//! any logic that the library could hold.

use std::process::exit;

use cc_cli::{cmd, name};

fn main() {
    let args: Vec<_> = std::env::args_os().collect();
    if name::decide(&args, cmd::NAMES) == name::Meaning::Compiler {
        // Returns only when there is nothing to become.
        let fault = name::become_compiler(&args);
        eprintln!("error: {}: {}\nnext: {}", fault.what, fault.why, fault.next);
        exit(127);
    }
    // exit, not return: a thread may sit in a read of stdin for ever.
    exit(cmd::main(args));
}
