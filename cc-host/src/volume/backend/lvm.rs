//! What the lvm2 tools say of a thin pool, in their JSON reports. Refuses to decide anything by it.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::super::tool::{self, ToolError};

/// Of a command: LVM waits for the lock of its volume group.
const WITHIN: Duration = Duration::from_secs(60);
const COLUMNS: &str = "lv_name,lv_size,lv_tags,pool_lv,segtype,lv_path,lv_active,lv_suspended,lv_device_open,data_percent,metadata_percent";
/// Whoever makes device nodes and links where it runs.
const UDEV: &str = "/run/udev/control";
/// Where it does not, the tools make them, and neither ask it what there is nor wait for it.
const WITHOUT_UDEV: &str = "activation { udev_sync=0 udev_rules=0 } devices { obtain_device_list_from_udev=0 }";
/// The pool grows by itself when it is fuller than that; 100: never.
const AUTOEXTEND: &str = "activation/thin_pool_autoextend_threshold";

/// A logical volume of the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logical {
    pub name: String,
    pub bytes: u64,
    pub tags: Vec<String>,
    /// Empty if it is in none.
    pub pool: String,
    pub is_thin_pool: bool,
    pub path: String,
    pub is_active: bool,
    /// Whoever writes to it waits.
    pub is_suspended: bool,
    pub is_open: bool,
    /// Hundredths of what it has that are in use, of a pool that is active.
    pub data_percent: Option<u8>,
    pub metadata_percent: Option<u8>,
}

/// As the report has it: every value is text, and empty where there is none.
#[derive(Deserialize)]
struct Row {
    lv_name: String,
    lv_size: String,
    lv_tags: String,
    pool_lv: String,
    segtype: String,
    lv_path: String,
    lv_active: String,
    lv_suspended: String,
    lv_device_open: String,
    data_percent: String,
    metadata_percent: String,
}

#[derive(Deserialize)]
struct Report {
    report: Vec<Part>,
}

#[derive(Deserialize)]
struct Part {
    lv: Vec<Row>,
}

/// Runs one of lvm2's commands; `on` is its last argument.
pub fn run(args: &[&str], on: &str) -> Result<String, ToolError> {
    let config: &[&str] = if Path::new(UDEV).exists() { &[] } else { &["--config", WITHOUT_UDEV] };
    tool::report(tool::LVM, &[&args[..1], config, &args[1..]].concat(), Path::new(on), WITHIN)
}

/// All of that group, those that only LVM itself uses left out.
pub fn all(group: &str) -> Result<Vec<Logical>, ToolError> {
    let args = ["lvs", "--reportformat", "json", "--units", "b", "--nosuffix", "--options", COLUMNS];
    parse(&run(&args, group)?).map_err(|error| ToolError::Strange { tool: "lvm lvs", why: error.to_string() })
}

/// From how many hundredths on the host's dmeventd makes a pool larger; 100: never.
pub fn autoextend_percent() -> Result<u8, ToolError> {
    let said = run(&["lvmconfig", "--typeconfig", "full"], AUTOEXTEND)?;
    Ok(said.trim().rsplit('=').next().and_then(|number| number.trim().parse().ok()).unwrap_or(100))
}

fn parse(text: &str) -> serde_json::Result<Vec<Logical>> {
    let Report { report } = serde_json::from_str(text)?;
    let percent = |text: &str| text.parse::<f64>().ok().map(|value| value.ceil().clamp(0.0, 100.0) as u8);
    let logical = |row: Row| Logical {
        bytes: row.lv_size.parse().unwrap_or(0),
        tags: row.lv_tags.split(',').filter(|tag| !tag.is_empty()).map(str::to_owned).collect(),
        is_thin_pool: row.segtype == "thin-pool",
        is_active: row.lv_active == "active",
        is_suspended: row.lv_suspended == "suspended",
        is_open: row.lv_device_open == "open",
        data_percent: percent(&row.data_percent),
        metadata_percent: percent(&row.metadata_percent),
        name: row.lv_name,
        pool: row.pool_lv,
        path: row.lv_path,
    };
    Ok(report.into_iter().flat_map(|part| part.lv).map(logical).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read() {
        let text = r#"{ "report": [ { "lv": [
            {"lv_name":"pool", "lv_size":"268435456", "lv_tags":"", "pool_lv":"", "segtype":"thin-pool", "lv_path":"", "lv_active":"active", "lv_suspended":"", "lv_device_open":"open", "data_percent":"3.22", "metadata_percent":"10.94"},
            {"lv_name":"vol-1", "lv_size":"8388608", "lv_tags":"a,b", "pool_lv":"pool", "segtype":"thin", "lv_path":"/dev/g/vol-1", "lv_active":"", "lv_suspended":"suspended", "lv_device_open":"", "data_percent":"", "metadata_percent":""}
        ] } ] , "log": [] }"#;
        let all = parse(text).unwrap();
        assert_eq!((all[0].is_thin_pool, all[0].data_percent, all[0].metadata_percent), (true, Some(4), Some(11)));
        assert_eq!((all[1].data_percent, all[1].is_suspended, all[0].is_suspended), (None, true, false));
        assert_eq!((all[1].bytes, all[1].tags.len(), all[1].pool.as_str()), (8 << 20, 2, "pool"));
        assert_eq!((all[1].is_active, all[1].is_open, all[0].is_open), (false, false, true));
        assert!(parse("{}").is_err() && parse("").is_err());
    }
}
