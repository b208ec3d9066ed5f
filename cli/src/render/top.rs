//! How processes look.

use std::io::{self, Write};

use cc_common::api::v1;
use serde::Serialize;

use super::{View, table};
use crate::size::human;

#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Top(pub Vec<ContainerTop>);

#[derive(Debug, Serialize)]
pub struct ContainerTop {
    pub id: String,
    pub name: String,
    pub processes: Vec<Process>,
}

#[derive(Debug, Serialize)]
pub struct Process {
    /// In the container.
    pub pid: i32,
    pub host_pid: i32,
    /// In the container; none for an id that it does not have.
    pub uid: Option<u32>,
    pub state: String,
    pub cpu_ms: u64,
    pub resident_bytes: u64,
    pub command: String,
}

impl From<v1::ContainerProcesses> for ContainerTop {
    fn from(of: v1::ContainerProcesses) -> Self {
        ContainerTop { id: of.id, name: of.name, processes: of.processes.into_iter().map(Into::into).collect() }
    }
}

impl From<v1::Process> for Process {
    fn from(p: v1::Process) -> Self {
        let v1::Process { pid, host_pid, uid, state, cpu_ms, resident_bytes, command } = p;
        Process { pid, host_pid, uid, state, cpu_ms, resident_bytes, command }
    }
}

impl View for Top {
    fn print_into(&self, out: &mut impl Write) -> io::Result<()> {
        let several = self.0.len() > 1;
        let rows = self.0.iter().flat_map(|of| {
            of.processes.iter().map(move |p| {
                let uid = p.uid.map(|uid| uid.to_string()).unwrap_or_default();
                let seconds = format!("{}.{:02}s", p.cpu_ms / 1000, p.cpu_ms % 1000 / 10);
                let own = [p.pid.to_string(), p.host_pid.to_string(), uid, p.state.clone(), seconds];
                let rest = [human(p.resident_bytes), p.command.clone()];
                several.then(|| of.name.clone()).into_iter().chain(own).chain(rest).collect::<Vec<_>>()
            })
        });
        let rows: Vec<_> = rows.collect();
        let header = ["CONTAINER", "PID", "HOST PID", "UID", "STATE", "CPU", "MEMORY", "COMMAND"];
        table::print_into(out, &header[usize::from(!several)..], &rows)
    }

    fn ids(&self) -> Vec<&str> {
        self.0.iter().map(|of| of.id.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_container_needs_no_name() {
        let process = |pid, uid| Process {
            pid,
            host_pid: 4000 + pid,
            uid,
            state: "S".into(),
            cpu_ms: 1230,
            resident_bytes: 3 << 20,
            command: "nginx -g daemon off;".into(),
        };
        let of = |name: &str| ContainerTop {
            id: "c".into(),
            name: name.into(),
            processes: vec![process(1, Some(0)), process(7, None)],
        };
        let text = |top: &Top| {
            let mut out = Vec::new();
            top.print_into(&mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        insta::assert_snapshot!("top_one", text(&Top(vec![of("web")])));
        insta::assert_snapshot!("top_two", text(&Top(vec![of("web"), of("db")])));
    }
}
