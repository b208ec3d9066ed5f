//! How a test says that this machine cannot run it. Refuses where every test is required, which is in CI.

/// Says why on standard error; the caller returns. With CC_NO_SKIP, as `cargo xtask test` sets it, it fails instead.
pub fn skip(why: &str) {
    assert!(std::env::var_os("CC_NO_SKIP").is_none(), "a required test was skipped: {why}");
    eprintln!("skipped: {why}");
}
