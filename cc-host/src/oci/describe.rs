//! A container's state as the specification has it, for hooks and for `state`. Refuses to look at any process.

use std::collections::HashMap;
use std::path::PathBuf;

use serde::Serialize;

use super::config::{Config, SPEC_VERSION};
use super::state::{Record, Status};

/// What of it stays the same.
#[derive(Debug, Clone)]
pub struct Description {
    id: String,
    bundle: PathBuf,
    annotations: HashMap<String, String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct State<'a> {
    oci_version: &'a str,
    id: &'a str,
    status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    bundle: &'a PathBuf,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    annotations: &'a HashMap<String, String>,
}

/// The same with what runc adds to it, which go-runc reads.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Shown<'a> {
    oci_version: &'a str,
    id: &'a str,
    /// 0 without a process.
    pid: i32,
    status: &'static str,
    bundle: &'a PathBuf,
    rootfs: &'a PathBuf,
    created: &'a str,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    annotations: &'a HashMap<String, String>,
    owner: &'static str,
}

impl Description {
    pub fn new(id: &str, config: &Config) -> Description {
        Description { id: id.to_owned(), bundle: config.bundle.clone(), annotations: config.annotations.clone() }
    }

    pub fn of(record: &Record) -> Description {
        let Record { id, bundle, annotations, .. } = record.clone();
        Description { id, bundle, annotations }
    }

    pub fn state(&self, status: &str, pid: i32) -> String {
        let Description { id, bundle, annotations } = self;
        let pid = (pid != 0).then_some(pid);
        let state = State { oci_version: SPEC_VERSION, id, status, pid, bundle, annotations };
        serde_json::to_string(&state).expect("text and numbers are always JSON")
    }
}

pub fn shown(record: &Record) -> Shown<'_> {
    let status = record.status();
    let pid = match status {
        Status::Stopped => 0,
        _ => record.init.map_or(0, |init| init.pid),
    };
    Shown {
        oci_version: SPEC_VERSION,
        id: &record.id,
        pid,
        status: status.name(),
        bundle: &record.bundle,
        rootfs: &record.rootfs,
        created: &record.created,
        annotations: &record.annotations,
        owner: "root",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_has_the_specifications_names() {
        let annotations = HashMap::from([("a".to_owned(), "b".to_owned())]);
        let one = Description { id: "i".into(), bundle: "/b".into(), annotations };
        assert_eq!(
            one.state("created", 7),
            r#"{"ociVersion":"1.2.0","id":"i","status":"created","pid":7,"bundle":"/b","annotations":{"a":"b"}}"#
        );
        assert!(!one.state("stopped", 0).contains("pid"));
    }
}
