//! `--security-opt` of `cc run`: what the program's system calls are filtered by. Refuses to judge a profile: the daemon compiles it.

use std::path::Path;

use cc_common::api::fault::Fault;

use crate::error::usage;

/// docker's own has 13 KiB; the daemon takes 64 KiB of what is left when the spaces are gone.
const PROFILE_BYTES_MAX: u64 = 1 << 20;
const UNCONFINED: &str = "unconfined";

/// As the daemon takes it: nothing, `unconfined`, or a profile's text.
pub fn seccomp(options: &[String]) -> Result<String, Fault> {
    let mut chosen = None;
    for option in options {
        let failed = |why: &str| usage(format!("cannot use --security-opt {option}"), why);
        match option.split_once('=') {
            // They are never there: to ask for it is no more than a wish that was granted.
            None if option == "no-new-privileges" => {}
            Some(("no-new-privileges", "true")) => {}
            Some(("no-new-privileges", _)) => return Err(failed("no program gets new privileges, ever")),
            Some(("seccomp", "")) => return Err(failed("it names neither a file nor unconfined")),
            Some(("seccomp", _)) if chosen.is_some() => return Err(failed("there is one profile at most")),
            Some(("seccomp", UNCONFINED)) => chosen = Some(UNCONFINED.to_owned()),
            Some(("seccomp", file)) => chosen = Some(profile(Path::new(file))?),
            _ => return Err(failed("there are seccomp=FILE, seccomp=unconfined and no-new-privileges")),
        }
    }
    Ok(chosen.unwrap_or_default())
}

/// Without the spaces that are there for people.
fn profile(path: &Path) -> Result<String, Fault> {
    let failed = |why: String| usage(format!("cannot read the seccomp profile {}", path.display()), why);
    let size = std::fs::metadata(path).map_err(|e| failed(e.to_string()))?.len();
    if size > PROFILE_BYTES_MAX {
        return Err(failed(format!("it is larger than {PROFILE_BYTES_MAX} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
    let value: serde_json::Value = serde_json::from_str(&text).map_err(|e| failed(format!("it is no JSON: {e}")))?;
    Ok(value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(options: &[&str]) -> Result<String, Fault> {
        seccomp(&options.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn a_file_no_filter_or_the_default() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("profile.json");
        std::fs::write(&file, "{\n\t\"defaultAction\": \"SCMP_ACT_ALLOW\"\n}").unwrap();
        let option = format!("seccomp={}", file.display());
        assert_eq!(chosen(&[]).unwrap(), "");
        assert_eq!(chosen(&["no-new-privileges", "no-new-privileges=true"]).unwrap(), "");
        assert_eq!(chosen(&["seccomp=unconfined", "no-new-privileges"]).unwrap(), "unconfined");
        assert_eq!(chosen(&[&option]).unwrap(), r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#);
        std::fs::write(&file, "defaultAction").unwrap();
        for bad in [
            option.as_str(),
            "seccomp=",
            "seccomp=/no/such/file",
            "seccomp:unconfined",
            "apparmor=x",
            "seccomp",
            "no-new-privileges=false",
        ] {
            assert!(chosen(&[bad]).is_err(), "{bad}");
        }
        assert!(chosen(&["seccomp=unconfined", "seccomp=unconfined"]).is_err());
    }
}
