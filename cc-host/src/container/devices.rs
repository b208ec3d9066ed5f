//! Devices of the host that a container is given, from what people write. Refuses to look at them: the shim does, when it makes its own
//! nodes of them.

use crate::shim::spec::DeviceSpec;

pub const DEVICES_MAX: usize = 32;
const PATH_BYTES_MAX: usize = 1024;

/// `HOST[:CONTAINER][:rwm]`, as docker takes them.
pub fn device(text: &str) -> Result<DeviceSpec, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, access) = match parts[..] {
        [source] => (source, source, "rwm"),
        [source, target] if target.starts_with('/') => (source, target, "rwm"),
        [source, access] => (source, source, access),
        [source, target, access] => (source, target, access),
        _ => return Err(format!("{text} is not HOST[:CONTAINER[:rwm]]")),
    };
    for path in [source, target] {
        let plain = path.starts_with('/') && path.split('/').all(|part| !matches!(part, "." | ".."));
        if !plain || path.len() > PATH_BYTES_MAX || path.contains('\0') || path.trim_matches('/').is_empty() {
            return Err(format!("{path} is not an absolute path without . and .."));
        }
    }
    if ["/proc", "/sys", "/dev"].iter().any(|own| target.trim_end_matches('/') == *own)
        || ["/proc/", "/sys/"].iter().any(|own| target.starts_with(own))
    {
        return Err(format!("{target} is the kernel's"));
    }
    let once = |of: char| access.matches(of).count() <= 1;
    if access.chars().any(|of| !"rwm".contains(of) || !once(of)) {
        return Err(format!("{access} is not of r, w and m"));
    }
    // Nobody in a user namespace can make nodes: m is taken, and gives nothing.
    let (read, write) = (access.contains('r'), access.contains('w'));
    if !read && !write {
        return Err(format!("{text} can be neither read nor written"));
    }
    Ok(DeviceSpec { source: source.into(), target: target.to_owned(), read, write })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_a_source_a_place_and_rights() {
        let of = |text: &str| device(text).unwrap().to_string();
        assert_eq!(of("/dev/fuse"), "/dev/fuse:/dev/fuse:rw");
        assert_eq!(of("/dev/sda:/dev/disk:r"), "/dev/sda:/dev/disk:r");
        assert_eq!((of("/dev/sda:wm"), of("/dev/a:/x/y")), ("/dev/sda:/dev/sda:w".into(), "/dev/a:/x/y:rw".into()));
        assert_eq!(device(&of("/dev/sda:wm")).unwrap(), device("/dev/sda:w").unwrap());
        for bad in [
            "",
            "dev/a",
            "/",
            "/dev/../etc",
            "/dev/a:b:rw",
            "/dev/a:/b:",
            "/dev/a:/b:m",
            "/dev/a:/b:x",
            "/dev/a:/b:rr",
            "/a:/b:r:w",
            "/dev/a:/proc/x",
            "/dev/a:/sys",
            "/dev/a:/dev/",
            "/dev/a\0",
        ] {
            assert!(device(bad).is_err(), "{bad}");
        }
    }
}
