//! What goes wrong, on standard error and in the log that the caller named: containerd and podman read the last error from there. Refuses to
//! fail because the log cannot be written.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::OnceLock;

use crate::shim::log::timestamp;

#[derive(Debug)]
pub struct Log {
    pub file: Option<PathBuf>,
    pub json: bool,
    pub debug: bool,
}

static LOG: OnceLock<Log> = OnceLock::new();

pub fn begin(log: Log) {
    // A second call would be by a test, and changes nothing.
    let _ = LOG.set(log);
}

pub fn error(text: &str) {
    eprintln!("cc-oci: {text}");
    record("error", text);
}

pub fn warn(text: &str) {
    eprintln!("cc-oci: warning: {text}");
    record("warning", text);
}

pub fn debug(text: &str) {
    if LOG.get().is_some_and(|log| log.debug) {
        record("debug", text);
    }
}

/// Now, as RFC 3339 has it.
pub fn now() -> String {
    String::from_utf8_lossy(&timestamp(std::time::SystemTime::now())).into_owned()
}

fn record(level: &str, text: &str) {
    let Some(Log { file: Some(path), json, .. }) = LOG.get() else { return };
    let line = match json {
        true => serde_json::json!({ "level": level, "msg": text, "time": now() }).to_string(),
        false => format!("time={:?} level={level} msg={text:?}", now()),
    };
    if let Ok(mut file) = std::fs::OpenOptions::new().create(true).append(true).open(path) {
        let _ = writeln!(file, "{line}");
    }
}
