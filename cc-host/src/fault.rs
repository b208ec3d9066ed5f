//! Places at which a daemon can be made to die, so that a test sees what the next one makes of it. Only in builds with assertions. Refuses to
//! exist in a release: there, a place is nothing at all.

/// The daemon may die here.
#[cfg(not(debug_assertions))]
pub const fn point(_: &str) {}

/// The daemon dies here, as by the kernel's hand, if this is the place that it was told.
#[cfg(debug_assertions)]
pub fn point(name: &str) {
    if std::env::var(SWITCH).is_ok_and(|wanted| wanted == name) {
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    }
}

/// The variable that names the place.
#[cfg(debug_assertions)]
const SWITCH: &str = "CC_FAULT";
