//! A first process of ours (`--init`), as tini: it reaps whoever is left to it, passes signals on to the program, and ends as that does. It
//! is a copy of the shim's process that executes nothing, so it costs next to no memory; it cannot be looked into, and has no descriptor.
//! Refuses to be asked anything.

use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use super::init::other;
use super::protocol::{FailureKind, StartFailure};
use super::sys;

/// What `ps` shows of it.
const NAME: &std::ffi::CStr = c"cc-init";

/// Returns in a process of the program's own, in a process group of its own, which has the terminal. Whoever called this becomes the
/// container's first process, and never returns.
pub fn split(has_terminal: bool) -> Result<(), StartFailure> {
    let failed = |step: &str, e: std::io::Error| StartFailure::new(FailureKind::Other, format!("cannot {step}: {e}"));
    // Its file is the host's: nobody in the container may follow a link to it, nor read what it remembers.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|e| other("hide from the container", e))?;
    // From here on they wait: none comes between the two processes. The program gets its own way of taking them before it runs.
    sys::block_all_signals().map_err(|e| failed("block signals", e))?;
    // SAFETY: this process is a copy of the shim's one thread.
    match unsafe { sys::fork() }.map_err(|e| failed("clone the program's process", e))? {
        sys::Forked::Child => in_front(has_terminal),
        sys::Forked::Parent(program) => serve(program),
    }
}

/// What is typed is the program's: Ctrl-C must not come twice.
fn in_front(has_terminal: bool) -> Result<(), StartFailure> {
    rustix::process::setpgid(None, None).map_err(|e| other("make a process group", e))?;
    if has_terminal {
        // The signal that would stop whoever does this from behind is blocked.
        let own = rustix::process::getpid();
        rustix::termios::tcsetpgrp(rustix::stdio::stdin(), own).map_err(|e| other("take the terminal", e))?;
    }
    Ok(())
}

fn serve(program: i32) -> ! {
    let _ = rustix::thread::set_name(NAME);
    sys::show_as(NAME.to_bytes());
    // SAFETY: this process uses nothing that it inherited from here on, and never returns to where it would be dropped.
    if unsafe { sys::close_from(0) }.is_err() {
        sys::exit_now(125);
    }
    loop {
        match sys::wait_for_signal() {
            libc::SIGCHLD => {
                if let Some(code) = reap(program) {
                    sys::exit_now(code);
                }
            }
            // It is not reaped yet, so that the number is nobody else's.
            signal => sys::kill(program, signal),
        }
    }
}

/// Everybody who has ended; the program's code, as a shell would say it, if it is among them.
fn reap(program: i32) -> Option<i32> {
    use rustix::process::{WaitOptions, wait};
    let mut code = None;
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid.as_raw_pid() == program => {
                code = status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal)).or(code);
            }
            Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
            Ok(None) | Err(_) => return code,
        }
    }
}
