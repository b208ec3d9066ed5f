//! config.json of an OCI bundle: what is taken of it is what another reading of the same text says, and can be given to the kernel. Refuses to
//! do any of it.

use cc_host::oci::fuzzing::{Process, Taken, read};
use serde_json::Value;

/// What a host's name may have, by the kernel.
const NAME_BYTES_MAX: usize = 64;

pub fn run(bytes: &[u8]) {
    let taken = match read(bytes) {
        Ok(taken) => taken,
        Err(error) => return drop(error.to_string()),
    };
    // A string of a field that nobody knows is passed over, whatever it holds.
    let Ok(text) = serde_json::from_slice::<Value>(bytes) else { return };
    for foreign in ["windows", "solaris", "zos", "vm"] {
        assert!(text[foreign].is_null(), "{foreign} is for another system, and was taken");
    }
    let Taken { process, hostname, targets, closed, settings } = taken;
    let words = targets.iter().chain(&closed);
    assert!(words.clone().all(|path| path.starts_with('/') && !path.contains('\0')), "{targets:?} {closed:?}");
    assert_eq!(targets.len(), text["mounts"].as_array().map_or(0, Vec::len));
    let listed = |name: &str| text["linux"][name].as_array().map_or(0, Vec::len);
    assert_eq!(closed.len(), listed("maskedPaths") + listed("readonlyPaths"));
    assert_eq!(settings, text["linux"]["sysctl"].as_object().map_or(0, serde_json::Map::len));
    if let Some(name) = hostname {
        assert_eq!(Some(name.as_str()), text["hostname"].as_str());
        assert!(name.len() <= NAME_BYTES_MAX);
    }
    assert_eq!(process.is_some(), !text["process"].is_null());
    let Some(Process { arguments, variables, directory, user, group, groups }) = process else { return };
    let given = &text["process"];
    let strings = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|one| Some(one.as_str()?.to_owned())).collect()
    };
    assert_eq!(arguments, strings(&given["args"]));
    assert_eq!(variables, strings(&given["env"]));
    assert_eq!(Some(directory.as_str()), given["cwd"].as_str());
    let all = [&arguments[..], &variables[..], std::slice::from_ref(&directory)].concat();
    assert!(directory.starts_with('/') && all.iter().all(|word| !word.contains('\0')));
    assert!(!arguments[0].is_empty() && variables.iter().all(|variable| variable.find('=') > Some(0)));
    let number = |id: u32, name: &str| assert_eq!(u64::from(id), given["user"][name].as_u64().unwrap_or(0), "{name}");
    number(user, "uid");
    number(group, "gid");
    // The kernel would read the highest as "as it is", which is root.
    assert!([user, group].iter().chain(&groups).all(|id| *id != u32::MAX));
}
