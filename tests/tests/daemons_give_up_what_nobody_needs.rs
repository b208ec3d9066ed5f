//! The daemon and its shims cannot load modules, set the clock or restart the machine, not even by what they execute; containers have what
//! they were given all the same.

use cc_tests::World;

/// SYS_MODULE 16, SYS_RAWIO 17, SYS_PACCT 20, SYS_BOOT 22, SYS_TIME 25, SYS_TTY_CONFIG 26, SYSLOG 34.
const NEVER: [u32; 7] = [16, 17, 20, 22, 25, 26, 34];

fn set(pid: &str, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    u64::from_str_radix(field.trim(), 16).unwrap()
}

fn parent(pid: i32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().to_owned()
}

#[test]
fn neither_daemon_nor_shim_has_them_and_a_container_that_asks_does() {
    let world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    let options = ["--name", "clock", "--vpc", "blue", "--cap-add", "SYS_TIME"];
    world.run("busybox", &options, &["sleep", "600"]);
    let init = world.pid("clock");
    for pid in [world.daemon().pid().to_string(), parent(init)] {
        for name in ["CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb"] {
            for number in NEVER {
                assert_eq!(set(&pid, name) >> number & 1, 0, "{name} of {pid} has {number}");
            }
        }
        assert_ne!(set(&pid, "CapEff"), 0);
    }
    // Of the container's own user namespace, where it sets no clock; but it is what was asked for.
    for name in ["CapBnd", "CapPrm", "CapEff"] {
        assert_eq!(set(&init.to_string(), name), 0xa804_25fb | 1 << 25, "{name}");
    }
    world.remove_all();
    world.assert_clean();
}
